"""A check of the full networks at small width: each recipe trains a few steps, stops, resumes and must do the same."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Measurement, Plan, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.papers.diffaugment.plans import planned_networks
from gengauge.benchmarks.papers.diffaugment.rows import ALL_PARTS, Recipe
from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.checkpoint import load_newest
from gengauge.benchmarks.training.loop import Schedule, Trainable, read_log, train
from gengauge.datasets import world
from gengauge.datasets.sets import InMemory
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.diffaugment import biggan, recipes, stylegan2

RESOLUTION = 32
COLUMNS = (
    Column(
        "resume_difference",
        "Largest difference of a loss or of any tensor of the state after a stop and a resumption",
        "1",
        "none",
    ),
    Column(
        "iteration_seconds", "Mean time of one iteration at this small width and batch, states included", "s", "none"
    ),
)


@dataclass(frozen=True)
class Settings:
    """A recipe at small width, and after how many of how many iterations it is stopped."""

    recipe: Recipe
    pictures: int = 128
    stop: int = 3
    iterations: int = 6


def _narrow(recipe: stylegan2.Recipe) -> stylegan2.Recipe:
    width = {"channel_base": 512, "channel_max": 32, "num_fp16_res": 0}
    generator = {
        **recipe.generator,
        "z_dim": 32,
        "w_dim": 32,
        "synthesis_kwargs": {**recipe.generator["synthesis_kwargs"], **width},
    }
    return replace(
        recipe, batch=8, policy=ALL_PARTS, generator=generator, discriminator={**recipe.discriminator, **width}
    )


RECIPES: dict[str, tuple[Row, Recipe]] = {
    "check-biggan": (
        Row("BigGAN, consistency and DiffAugment"),
        replace(recipes.biggan_cifar(len(world.SPECIES), ch=8), batch=8, policy="translation,cutout", consistency=10.0),
    ),
    "check-stylegan2-tf": (Row("StyleGAN2, tf recipe"), _narrow(recipes.stylegan2_tf("cifar"))),
    "check-stylegan2-pytorch": (
        Row("StyleGAN2, pytorch recipe"),
        _narrow(recipes.stylegan2_pytorch("low-shot", RESOLUTION)),
    ),
}
TABLE = Table(
    "checks",
    "Checks of the published networks at small width (this project's own, no table of the paper)",
    COLUMNS,
    tuple(row for row, _ in RECIPES.values()),
    (),
)


def check(row: str, context: Context) -> Iterator[Result]:
    """Trains without a stop and with one, and compares every logged loss."""
    s: Settings = context.settings
    scenes = world.scenes(context.seed, range(s.pictures))
    pixels = world.pictures(context.seed, range(s.pictures), RESOLUTION)
    labels = np.array([world.SPECIES.index(scene.species) for scene in scenes], np.int64)
    pictures = InMemory(pixels, labels, len(world.SPECIES), "world")
    reals = s.recipe.batch * (s.recipe.d_steps if isinstance(s.recipe, biggan.Recipe) else 1)

    def to(iterations: int, folder: Path) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        schedule = Schedule(iterations, snapshot_every=iterations, save_every=s.stop, log_every=1)
        batches = Batches(pictures, epoch_orders, context.seed, reals, mirror=True)
        train(
            partial(_build, s.recipe, context.device),
            batches,
            folder,
            schedule,
            {"recipe": repr(s.recipe)},
            seed=context.seed,
            device=context.device,
            tell=context.progress,
        )
        state = load_newest(folder)
        assert state is not None
        return read_log(folder), state.tensors

    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        whole = to(s.iterations, Path(scratch) / "whole")
        seconds = time.perf_counter() - started
        to(s.stop, Path(scratch) / "stopped")
        resumed = to(s.iterations, Path(scratch) / "stopped")
    (lines, state), (lines_resumed, state_resumed) = whole, resumed
    logged = [[line.keys() for line in each] for each in (lines, lines_resumed)]
    if logged[0] != logged[1] or state.keys() != state_resumed.keys():
        raise ValueError("the resumed training has other losses or other tensors than the one without a stop")
    losses = max(abs(a[k] - b[k]) for a, b in zip(lines, lines_resumed, strict=True) for k in a)
    tensors = max(float((state[k] - state_resumed[k]).abs().max()) for k in state)
    yield Measurement(row, "resume_difference", max(losses, tensors), samples=len(lines))
    yield Measurement(row, "iteration_seconds", seconds / s.iterations, samples=s.iterations)


def _build(recipe: Recipe, device: str) -> Trainable:
    if isinstance(recipe, biggan.Recipe):
        return biggan.Training(recipe, device)
    return stylegan2.Training(recipe, device)


EXPERIMENTS = tuple(
    Experiment(
        key=key,
        table=TABLE.key,
        rows=(row.key,),
        columns=COLUMNS,
        scales={
            "quick": AtScale(
                Settings(recipe), 1, Limits(seconds=900, gibibytes=6), plan=Plan(planned_networks(recipe, RESOLUTION))
            )
        },
        run=partial(check, row.key),
    )
    for key, (row, recipe) in RECIPES.items()
)
