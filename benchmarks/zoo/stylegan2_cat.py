"""`stylegan2-cat32`: a small StyleGAN2 of the embedded world's cats at 32 px, for papers that need a generator.

Not a published network: it stands in for the published ones where a run must work anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.benchmarks.zoo import entries
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.reference.diffaugment.stylegan2 import Recipe, Training
from gengauge.reference.nets.stylegan2.generator import Generator

NAME = "stylegan2-cat32"
RESOLUTION = 32
SPECIES = "cat"
PICTURES = 30_000
SEED = 0
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
    network = Generator(**GENERATOR)  # type: ignore[arg-type]
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


def make(
    folder: Path, work: Path, device: str, kimg: float = KIMG, samples: int = 2000, tell: Tell | None = None
) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(round(kimg * 1000 / BATCH), snapshot_every=1000, save_every=1000, log_every=50)
    trained = train(
        lambda: Training(RECIPE, device),
        entries.world_batches(NAME, SPECIES, PICTURES, RESOLUTION, SEED, BATCH),
        work,
        schedule,
        {"name": NAME, "recipe": repr(RECIPE), "pictures": PICTURES},
        seed=SEED,
        device=device,
        tell=tell or (lambda done, total, doing: None),
    )
    content = {
        "name": NAME,
        "what": "StyleGAN2 generator of this project, EMA weights in float16; not a published network",
        "pictures": f"{PICTURES} of the embedded world at {RESOLUTION} px, species {SPECIES}, seed {SEED}",
        **entries.about_training(trained, schedule, BATCH, device),
        "parameters": sum(parameter.numel() for parameter in RECIPE.networks()[0].parameters()),
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    found = entries.distances(sample(load(folder), samples, device), samples, SPECIES, RESOLUTION, device)
    entries.write_card(NAME, folder, {**content, **found})


def sample(network: Generator, samples: int, device: str) -> Iterator[Tensor]:
    """Batches of at least `samples` cats, uint8 (N, 3, R, R), N up to 100, of a generator of the zoo."""
    generator = torch.Generator(device).manual_seed(SEED)
    network = network.to(device)
    for _ in range(-(-samples // 100)):
        latents = torch.randn(min(100, samples), network.z_dim, generator=generator, device=device)
        yield to_uint8(network(latents, generator=generator))
