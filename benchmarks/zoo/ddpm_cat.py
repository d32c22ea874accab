"""`ddpm-cat32`: a small DDPM U-Net of the embedded world's cats at 32 px, for papers that need a diffusion prior.

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
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sdedit.editing import Behaviour, edit, from_noise
from gengauge.reference.sdedit.schedule import DDPM
from gengauge.reference.sdedit.training import Recipe, Training

NAME = "ddpm-cat32"
RESOLUTION = 32
SPECIES = "cat"
PICTURES = 30_000
SEED = 0
BATCH = 32
KIMG = 336
CONFIG = UNetConfig(RESOLUTION, 32, (1, 2, 4), 1, (8,), temb_ch=128, num_groups=16)
RECIPE = Recipe(CONFIG, batch=BATCH, lr=4e-4, clip=1.0, ema=0.999, bfloat16=True)
STEPS = 50  # of the samples that the card's distances are of


def load(folder: Path = FOLDER) -> DDPMUNet:
    """The trained network, in eval mode: noisy cats (N, 3, 32, 32) at steps (N,) of 1,000 to their noise.

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = DDPMUNet(CONFIG)
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


def make(
    folder: Path, work: Path, device: str, kimg: float = KIMG, samples: int = 1000, tell: Tell | None = None
) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=500, log_every=50)
    trained = train(
        lambda: Training(RECIPE, device),
        entries.world_batches(NAME, SPECIES, PICTURES, RESOLUTION, SEED, BATCH),
        work,
        schedule,
        {"name": NAME, "recipe": repr(RECIPE), "pictures": PICTURES},
        seed=SEED,
        device=device,
        keep="ema",
        tell=tell or (lambda done, total, doing: None),
    )
    content = {
        "name": NAME,
        "what": "DDPM U-Net of this project, EMA weights in float16; not a published network",
        "pictures": f"{PICTURES} of the embedded world at {RESOLUTION} px, species {SPECIES}, seed {SEED}",
        **entries.about_training(trained, schedule, BATCH, device),
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    found = entries.distances(sample(load(folder), samples, device), samples, SPECIES, RESOLUTION, device)
    entries.write_card(NAME, folder, {**content, "sampling_steps": STEPS, **found})


def sample(network: DDPMUNet, samples: int, device: str, steps: int = STEPS) -> Iterator[Tensor]:
    """Batches of at least `samples` cats, uint8 (N, 3, 32, 32), N up to 100: SDEdit of nothing, from pure noise."""
    generator = torch.Generator(device).manual_seed(SEED)
    levels = DDPM.levels(steps=steps)
    # As in DDPM's own sampler: from pure noise a small network's errors would add up to another colour.
    reverse = from_noise(network.to(device), levels, Behaviour(clamp=True))
    nothing = torch.zeros(min(100, samples), 3, RESOLUTION, RESOLUTION, device=device)
    for _ in range(-(-samples // 100)):
        yield to_uint8(edit(reverse, nothing, levels, generator=generator))
