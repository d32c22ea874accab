"""`stylegan2-cat32`: a small StyleGAN2 of the embedded world's cats at 32 px, for papers that need a generator.

Not a published network: it stands in for the published ones where a run must work anywhere.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.loop import Schedule
from gengauge.datasets import world
from gengauge.datasets.sets import InMemory
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.diffaugment.stylegan2 import Recipe
from gengauge.reference.nets.stylegan2.generator import Generator

NAME = "stylegan2-cat32"
WEIGHTS = Path(__file__).parent / "weights" / f"{NAME}.safetensors"
RESOLUTION = 32
SPECIES = "cat"
PICTURES = 30_000
SEED = 0
BATCH = 16

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


def batches() -> Batches:
    """The training pictures: cats of the world, everything else about them drawn."""
    pixels = world.pictures(SEED, range(PICTURES), RESOLUTION, species=SPECIES)
    return Batches(InMemory(pixels, None, 0, NAME), epoch_orders, SEED, BATCH, mirror=False)


def schedule(kimg: float) -> Schedule:
    """`kimg` thousands of pictures, with a snapshot and a state every 16,000."""
    iterations = round(kimg * 1000 / BATCH)
    return Schedule(iterations, snapshot_every=1000, save_every=1000, log_every=50)


def load() -> Generator:
    """The trained generator, in eval mode: latents (N, 64) to cats (N, 3, 32, 32) in about [-1, 1]."""
    network = Generator(**GENERATOR)  # type: ignore[arg-type]
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval().requires_grad_(False)
