"""Training of an unpaired translation from folders of pictures, by CUT's recipes or CycleGAN's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from gengauge.benchmarks.training.loop import Schedule, Snapshot, Tell, Trainable, Trained, train
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.unpaired import CROPS, Preprocess, Transform, UnpairedBatches, UnpairedFolders
from gengauge.reference.cut import contrastive, cyclegan

Recipe = contrastive.Recipe | cyclegan.Recipe


def training_of(
    recipe: Recipe, device: str, processes: int = 1, iterations_per_epoch: int | None = None
) -> contrastive.Training | cyclegan.Training:
    """The networks of a recipe in training."""
    if isinstance(recipe, cyclegan.Recipe):
        return cyclegan.Training(recipe, device, None, processes, iterations_per_epoch)
    return contrastive.Training(recipe, device, None, processes, iterations_per_epoch)


def transform_of(recipe: Recipe) -> Transform:
    """How a recipe's pictures are made ready for training."""
    single = recipe.preprocess == "zoom_and_patch"
    return Transform(
        cast(Preprocess, recipe.preprocess),
        recipe.load_size,
        recipe.crop_size,
        resample="bilinear" if single else "bicubic",
    )


def translator_of(recipe: Recipe) -> str:
    """What the network that translates A to B is called in the recipe's training."""
    return "G_A" if isinstance(recipe, cyclegan.Recipe) else "G"


def build_translator(recipe: Recipe) -> nn.Module:
    """That network, with the recipe's initial weights, from torch's global generator."""
    return recipe.build()["G_A"] if isinstance(recipe, cyclegan.Recipe) else recipe.build()[0]


def train_unpaired(
    recipe: Recipe,
    folders: UnpairedFolders,
    work: Path,
    config: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    iterations: int | None = None,
    every: int = 1000,
    snapshot: Callable[[Trainable], Snapshot] | None = None,
    processes: Processes | None = None,
    tell: Tell = lambda done, total, doing: None,
    code: str = "",
) -> Trained:
    """Trains to the end of the recipe's schedule or for `iterations`, with states in `work` every so many.

    Pictures lose their random size while the rate falls, as in CUT's code, unless the recipe says
    otherwise. The trained network is the one that translates A to B.

    Raises what `train` raises, and ValueError naming a damaged picture, or for several processes where each would have
    a pool or a bank of its own.
    """
    group = processes or Processes()
    epoch = CROPS if recipe.preprocess == "zoom_and_patch" else None
    throughout = isinstance(recipe, cyclegan.Recipe) and recipe.jitter_throughout
    jitter = None if throughout else recipe.schedule.n_epochs
    if group.count > 1:
        _check_shared(recipe)
    batches = UnpairedBatches(
        folders, transform_of(recipe), seed, recipe.batch, jitter, epoch, group.index, group.count
    )
    length = batches.iterations_per_epoch
    schedule = Schedule(iterations or recipe.schedule.epochs * length, every, every, max(1, every // 20))
    return train(
        lambda: training_of(recipe, device, group.count, length),
        batches,
        work,
        schedule,
        {**config, "recipe": repr(recipe), "pictures": [len(folders.a), len(folders.b)]},
        seed=seed,
        device=device,
        snapshot=snapshot,
        keep=translator_of(recipe),
        processes=group,
        tell=tell,
        code=code,
    )


def _check_shared(recipe: Recipe) -> None:
    """Refuses what a state saved by one process does not hold of the others."""
    pool = isinstance(recipe, cyclegan.Recipe) and recipe.pool_size > 0
    bank = isinstance(recipe, contrastive.Recipe) and recipe.negatives != "internal"
    if pool or bank:
        what = "pool of earlier fakes" if pool else "bank of features"
        raise ValueError(f"each process would have a {what} of its own, and only one is saved; start one process")
