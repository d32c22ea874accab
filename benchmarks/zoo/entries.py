"""What the zoo's networks share: weights in float16 beside a card that tells what they are, and distances to the world.

Files are `weights/NAME.safetensors` and `weights/NAME.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.features.stream import stream_features
from gengauge.benchmarks.machine import device_name, utc_now, versions
from gengauge.benchmarks.metrics.frechet import fit, frechet_distance
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.loop import Schedule, Trained
from gengauge.datasets import world
from gengauge.datasets.sets import InMemory
from gengauge.datasets.subsets import epoch_orders

FOLDER = Path(__file__).parent / "weights"
FRESH_SEED = 1_000_000  # of the pictures that networks are measured against


def world_batches(name: str, species: str, pictures: int, resolution: int, seed: int, batch: int) -> Batches:
    """Training pictures: one species of the world, everything else about them drawn."""
    pixels = world.pictures(seed, range(pictures), resolution, species=species)
    return Batches(InMemory(pixels, None, 0, name), epoch_orders, seed, batch, mirror=False)


def read_card(name: str, folder: Path) -> dict[str, Any]:
    """What is known of a trained network: data, steps, time, machine, distances."""
    return json.loads((folder / f"{name}.json").read_text())


def read_weights(name: str, folder: Path) -> dict[str, Tensor]:
    """A network's weights in float32. Raises FileNotFoundError, or ValueError where they are not those of the card."""
    file = folder / f"{name}.safetensors"
    if hashlib.sha256(file.read_bytes()).hexdigest() != read_card(name, folder)["sha256"]:
        raise ValueError(f"{file} is not the file of its card; install the package again")
    return {key: value.float() for key, value in load_file(file).items()}


def write_weights(name: str, folder: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Writes weights in float16, whole or not at all; returns what the card says of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    hidden = file.with_suffix(f".{os.getpid()}.tmp")
    save_file({key: value.half().contiguous() for key, value in weights.items()}, hidden)
    about = {"sha256": hashlib.sha256(hidden.read_bytes()).hexdigest(), "bytes": hidden.stat().st_size}
    hidden.chmod(0o644)
    hidden.replace(file)
    return about


def write_card(name: str, folder: Path, content: Mapping[str, Any]) -> None:
    """Writes a card, whole or not at all."""
    hidden = folder / f".{name}.{os.getpid()}.tmp"
    hidden.write_text(json.dumps(content, indent=1) + "\n")
    hidden.replace(folder / f"{name}.json")


def about_training(trained: Trained, schedule: Schedule, batch: int, device: str) -> dict[str, Any]:
    """What a card says of a training."""
    return {
        "kimg": schedule.iterations * batch / 1000,
        "iterations": schedule.iterations,
        "batch": batch,
        "parameters": sum(value.numel() for value in trained.last.values()),
        "seconds": round(trained.seconds),
        "device": device_name(device),
        "threads": trained.about["threads"],
        "begun": trained.about["begun"],
        "ended": utc_now(),
        "versions": versions(),
    }


def distances(made: Iterable[Tensor], samples: int, species: str, resolution: int, device: str) -> dict[str, Any]:
    """FID and KID (clean resizing) of samples, uint8 (N, 3, R, R) a batch, against as many fresh pictures.

    Beside them those of fresh pictures against others.
    """
    fresh = [world.pictures(FRESH_SEED + i, range(samples), resolution, species=species) for i in range(2)]
    return distances_to(fresh[0], fresh[1], made, samples, device)


@torch.no_grad()
def distances_to(one: Tensor, other: Tensor, made: Iterable[Tensor], samples: int, device: str) -> dict[str, Any]:
    """FID and KID of samples against given fresh pictures, uint8 (N, 3, R, R), and those of others beside them."""
    inception = load_network("inception")
    fresh = [features(pictures, inception, device=device) for pictures in (one, other)]
    mine = stream_features(iter(made), inception, "clean", device)[:samples]
    return {
        "samples": samples,
        "fid": round(frechet_distance(fit(fresh[0]), fit(mine)), 2),
        "fid_of_fresh_pictures": round(frechet_distance(fit(fresh[0]), fit(fresh[1])), 2),
        "kid": round(float(kid(fresh[0], mine).value), 5),
    }
