"""`stylegan2-cat32`: a small StyleGAN2 of the embedded world's cats at 32 px, for papers that need a generator.

Not a published network: it stands in for the published ones where a run must work anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.features.stream import stream_features
from gengauge.benchmarks.machine import device_name, exact_float32, utc_now, versions
from gengauge.benchmarks.metrics.frechet import fit, frechet_distance
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.datasets import world
from gengauge.datasets.sets import InMemory
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.diffaugment.stylegan2 import Recipe, Training
from gengauge.reference.nets.stylegan2.generator import Generator

NAME = "stylegan2-cat32"
FOLDER = Path(__file__).parent / "weights"
RESOLUTION = 32
SPECIES = "cat"
PICTURES = 30_000
SEED = 0
FRESH_SEED = 1_000_000  # of the pictures that the network is measured against
BATCH = 16
KIMG = 240

GENERATOR = {
    "z_dim": 64,
    "w_dim": 128,
    "img_resolution": RESOLUTION,
    "mapping_kwargs": {"num_layers": 4},
    "synthesis_kwargs": {"channel_base": 1024, "channel_max": 128},
}
RECIPE = Recipe(
    code="pytorch",
    batch=BATCH,
    lr=0.0025,
    r1_gamma=0.1,
    r1_of="raw",
    r1_interval=16,
    mixing_per="batch",
    ema_kimg=10.0,
    ema_rampup=0.05,
    ema_start_kimg=0.0,
    generator=GENERATOR,
    discriminator={"img_resolution": RESOLUTION, "channel_base": 1024, "channel_max": 128},
)


def load(folder: Path = FOLDER) -> Generator:
    """The trained generator, in eval mode: latents (N, 64) to cats (N, 3, 32, 32) in about [-1, 1].

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    file = folder / f"{NAME}.safetensors"
    if hashlib.sha256(file.read_bytes()).hexdigest() != card(folder)["sha256"]:
        raise ValueError(f"{file} is not the file of its card; install the package again")
    network = Generator(**GENERATOR)  # type: ignore[arg-type]
    network.load_state_dict({name: value.float() for name, value in load_file(file).items()})
    return network.eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network: data, steps, time, machine, distances."""
    return json.loads((folder / f"{NAME}.json").read_text())


def batches() -> Batches:
    """The training pictures: cats of the world, everything else about them drawn."""
    pixels = world.pictures(SEED, range(PICTURES), RESOLUTION, species=SPECIES)
    return Batches(InMemory(pixels, None, 0, NAME), epoch_orders, SEED, BATCH, mirror=False)


def make(
    folder: Path, work: Path, device: str, kimg: float = KIMG, samples: int = 2000, tell: Tell | None = None
) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    tell = tell or (lambda done, total, doing: None)
    schedule = Schedule(round(kimg * 1000 / BATCH), snapshot_every=1000, save_every=1000, log_every=50)
    trained = train(
        lambda: Training(RECIPE, device),
        batches(),
        work,
        schedule,
        {"name": NAME, "recipe": repr(RECIPE), "pictures": PICTURES},
        seed=SEED,
        device=device,
        tell=tell,
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{NAME}.safetensors"
    hidden = file.with_suffix(f".{os.getpid()}.tmp")
    save_file({name: value.half().contiguous() for name, value in trained.last.items()}, hidden)
    content = {
        "name": NAME,
        "what": "StyleGAN2 generator of this project, EMA weights in float16; not a published network",
        "pictures": f"{PICTURES} of the embedded world at {RESOLUTION} px, species {SPECIES}, seed {SEED}",
        "kimg": schedule.iterations * BATCH / 1000,
        "iterations": schedule.iterations,
        "batch": BATCH,
        "parameters": sum(parameter.numel() for parameter in RECIPE.networks()[0].parameters()),
        "seconds": round(trained.seconds),
        "device": device_name(device),
        "threads": trained.about["threads"],
        "begun": trained.about["begun"],
        "ended": utc_now(),
        "versions": versions(),
        "sha256": hashlib.sha256(hidden.read_bytes()).hexdigest(),
        "bytes": hidden.stat().st_size,
    }
    hidden.chmod(0o644)
    hidden.replace(file)
    _write_card(folder, content)
    _write_card(folder, {**content, **distances(load(folder), samples, device)})


@torch.no_grad()
def distances(network: Generator, samples: int, device: str) -> dict[str, Any]:
    """FID and KID (clean resizing) of samples against as many fresh cats, and of fresh cats against others of them."""
    inception = load_network("inception")
    fresh = [
        features(world.pictures(FRESH_SEED + i, range(samples), RESOLUTION, species=SPECIES), inception, device=device)
        for i in range(2)
    ]
    generator = torch.Generator(device).manual_seed(SEED)
    network = network.to(device)
    made = (
        to_uint8(network(torch.randn(100, network.z_dim, generator=generator, device=device), generator=generator))
        for _ in range(-(-samples // 100))
    )
    mine = stream_features(made, inception, "clean", device)[:samples]
    return {
        "samples": samples,
        "fid": round(frechet_distance(fit(fresh[0]), fit(mine)), 2),
        "fid_of_fresh_pictures": round(frechet_distance(fit(fresh[0]), fit(fresh[1])), 2),
        "kid": round(float(kid(fresh[0], mine).value), 5),
    }


def _write_card(folder: Path, content: dict[str, Any]) -> None:
    hidden = folder / f".{NAME}.{os.getpid()}.tmp"
    hidden.write_text(json.dumps(content, indent=1) + "\n")
    hidden.replace(folder / f"{NAME}.json")
