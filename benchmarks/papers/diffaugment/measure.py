"""Trains the network of a row and measures its snapshots as the table's code base does."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gengauge.benchmarks.core.experiments import Context, Measurement, Picture, Progress, Result
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.features.stream import fingerprint, set_moments
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.metrics.frechet import Gaussian
from gengauge.benchmarks.papers.diffaugment.checkpoints import read_generator
from gengauge.benchmarks.papers.diffaugment.imagenet import ImageNetSet
from gengauge.benchmarks.papers.diffaugment.rows import Run
from gengauge.benchmarks.papers.diffaugment.scoring import MODE, d_accuracy, generator_of, samples, score
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.launch import together
from gengauge.benchmarks.training.loop import Schedule, Snapshot, Trainable, Trained, history, step_seed, train
from gengauge.benchmarks.training.processes import Processes, join
from gengauge.datasets import weights
from gengauge.datasets.published import open_set
from gengauge.datasets.sets import PictureSet, Subset
from gengauge.datasets.subsets import cifar_subset, epoch_orders, first
from gengauge.reference.diffaugment import biggan, stylegan2

PUBLISHED_SIZES = {
    ("cifar10", "train"): 50_000,
    ("cifar10", "test"): 10_000,
    ("cifar100", "train"): 50_000,
    ("cifar100", "test"): 10_000,
    ("imagenet", "train"): 1_281_167,
    ("imagenet", "test"): 50_000,
    ("100-shot-obama", "train"): 100,
    ("100-shot-grumpy_cat", "train"): 100,
    ("100-shot-panda", "train"): 100,
    ("AnimalFace-cat", "train"): 160,
    ("AnimalFace-dog", "train"): 389,
    ("ffhq", "train"): 70_000,
}
SHOWN = 64  # samples in the report
SAMPLING = 1_000_003  # sets the sampling's seeds apart from those of any process in training


@dataclass(frozen=True)
class Replaced:
    """Another augmentation in the place of a recipe's policy, and what tells it from others."""

    digest: str
    augment: biggan.Augment


def fill(row: str, columns: tuple[str, ...], context: Context, own: Replaced | None = None) -> Iterator[Result]:
    """Trains (or goes on, or finds it done), then reports the curve, the best snapshot and the last.

    `own` takes the place of the recipe's augmentation.
    """
    run: Run = context.settings
    trained = train_row(context, own)
    assert trained is not None
    measured = [c for c in ("fid", "is", "d_accuracy_train", "d_accuracy_test") if c in columns]
    for point in trained.curve:
        for column in measured:
            if column in point:
                yield Measurement(row, column, point[column], step=int(point["iteration"]))
    best = min((point for point in trained.curve if math.isfinite(point["fid"])), key=lambda point: point["fid"])
    last = trained.curve[-1]
    told = history(trained.about, code_version())
    for found in _final(row, columns, context, trained, best):
        yield found.noted(told)
    yield Measurement(row, "fid_last", last["fid"], samples=run.protocol.samples, note="the last snapshot").noted(told)
    yield Measurement(row, "best_iteration", best["iteration"], note=told)
    for column in ("d_accuracy_train", "d_accuracy_test"):
        if column in columns:
            yield Measurement(row, column, last[column], note="the last snapshot").noted(told)
    if context.seed == 0:
        g = generator_of(run, trained.best, context.device)
        batches = range(math.ceil(SHOWN / run.protocol.batch))
        seed = step_seed(context.seed, SAMPLING, 0)
        pictures = torch.cat(list(samples(g, run, batches, seed, context.device)))[:SHOWN]
        grey = pictures if pictures.dtype == torch.uint8 else pictures.round().to(torch.uint8)
        yield Picture(
            row, "samples", grid(grey.cpu().numpy(), 16, zoom=2), f"{SHOWN} samples of the best snapshot of {row}"
        )


def _final(
    row: str, columns: tuple[str, ...], context: Context, trained: Trained, best: Mapping[str, float]
) -> Iterator[Measurement]:
    """FID and Inception Score of the best snapshot, measured anew where the protocol repeats them."""
    run: Run = context.settings
    note = f"best of {len(trained.curve)} snapshots by FID, at iteration {int(best['iteration'])}"
    scores: Sequence[Mapping[str, float]] = [best]
    if run.protocol.repeats > 1:
        doing = "measuring the best snapshot again"
        g = generator_of(run, trained.best, "cpu")
        scores = _evaluations(run, context, g, _before_training(run, context), doing)
    yield from averaged(row, columns, run, scores, note)


def _evaluations(
    run: Run, context: Context, g: nn.Module, tell: Callable[[int, int], None], doing: str
) -> list[dict[str, float]]:
    """The protocol's repeated evaluations of a generator on the CPU, by as many processes as the context has."""
    _, reference = judges_of(run, context, tell)
    arguments = (run, g, reference, context.seed, context.device, doing)
    return together(_repeated, arguments, context.processes, context.progress)


def _repeated(
    run: Run, g: nn.Module, reference: Gaussian, seed: int, device: str, doing: str, tell: Progress
) -> list[dict[str, float]]:
    group, device = join(device)
    inception = load_network("inception")
    g.to(device)
    out = []
    for repeat in range(run.protocol.repeats):
        known = reference if group.main else None
        out.append(score(g, run, inception, known, step_seed(seed, SAMPLING + 1, repeat), device, group))
        tell(repeat + 1, run.protocol.repeats, doing)
    return out


def averaged(
    row: str, columns: tuple[str, ...], run: Run, scores: Sequence[Mapping[str, float]], note: str
) -> Iterator[Measurement]:
    """FID and Inception Score, those that the row has, over repeated evaluations."""
    for column in ("fid", "is"):
        if column not in columns:
            continue
        values = [s[column] for s in scores if column in s]
        if not values:
            yield Measurement(row, column, math.nan, missing=f"no classifier: {weights.remedy('inception-logits')}")
            continue
        mean, spread = float(np.mean(values)), float(np.std(values))
        many = len(values) > 1
        yield Measurement(
            row,
            column,
            mean,
            mean - spread if many else None,
            mean + spread if many else None,
            f"standard deviation over {len(values)} evaluations" if many else "",
            run.protocol.samples,
            note=note,
        )


def measure_file(columns: tuple[str, ...], context: Context, path: Path) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation, over the protocol's repetitions, of the columns that a generator in a file gives.

    Raises as `read_generator` does, and DataNotFound or WeightsNotFound for what the protocol needs.
    """
    run: Run = context.settings
    g = read_generator(path, run)  # before the reference's features, which may take hours
    scores = _evaluations(
        run, context, g, lambda done, total: context.progress(done, total, "reference features"), "evaluations"
    )
    found = {column: [s[column] for s in scores if column in s] for column in ("fid", "is") if column in columns}
    return {column: (float(np.mean(v)), float(np.std(v))) for column, v in found.items() if v}


def train_row(context: Context, own: Replaced | None = None) -> Trained | None:
    """Trains the row of a context to its end in `context.work`; with several processes, in all of them.

    Trainings are kept by configuration, data and seed, so that rows of several tables share one. Returns None but in
    the main process.
    """
    run: Run = context.settings
    group, device = join(context.device)
    check_processes(run, group.count)
    pictures = training_pictures(run, context)
    config = {"run": {k: v for k, v in asdict(run).items() if k != "iterations"}, "data": fingerprint(pictures)}
    if own is not None:
        config["augment"] = own.digest
    augment = None if own is None else own.augment
    name = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]
    folder = context.work / f"{run.data}-{name}-seed{context.seed}"
    reals = run.reals_per_iteration
    batches = Batches(
        pictures, epoch_orders, context.seed, reals, run.mirror, run.value_range, group.index, group.count, run.zoom
    )
    schedule = Schedule(run.iterations, run.snapshot_every, min(1000, run.snapshot_every), run.log_every)
    # All processes sample and the main one scores; weights or data that it lacks are told before hours of training.
    told = _before_training(run, context)
    judges = judges_of(run, context, told) if group.main else (load_network("inception"), None)
    trained = train(
        lambda: build(run, device, group, augment),
        batches,
        folder,
        schedule,
        config,
        seed=context.seed,
        device=device,
        snapshot=partial(_snapshot, run, context, pictures, device, judges, augment, group),
        all_measure=True,
        processes=group,
        tell=context.progress,
        code=code_version(),
    )
    return trained if group.main else None


def training_pictures(run: Run, context: Context) -> PictureSet:
    """The pictures that a row trains on. Raises DataNotFound, and ValueError for a set that is not whole."""
    everything = open_pictures(run, context.data, "train")
    if context.scale == "paper":
        check_size(run, everything, "train")
    return training_set(run, everything)


def check_processes(run: Run, count: int) -> None:
    """Refuses a number of processes that cannot share a batch; StyleGAN2's deviation needs its group of 4 in each."""
    least = 1 if isinstance(run.recipe, biggan.Recipe) else 4
    good = [n for n in range(1, run.recipe.batch + 1) if run.recipe.batch % n == 0 and run.recipe.batch // n >= least]
    if count not in good:
        raise ValueError(
            f"a batch of {run.recipe.batch} cannot be shared by {count} processes; launch {', '.join(map(str, good))}"
        )


def open_pictures(run: Run, root: Path | None, split: str) -> PictureSet:
    """A split of a row's data set, prepared as its code base does. Raises DataNotFound."""
    opened = open_set(run.data, root, run.resolution, split)
    return ImageNetSet(opened, run.resolution) if run.data == "imagenet" else opened  # type: ignore[arg-type]


def check_size(run: Run, pictures: PictureSet, split: str) -> None:
    """Refuses a set that is not whole: its numbers would stand beside the published ones."""
    expected = PUBLISHED_SIZES.get((run.data, "test" if split == "test" else "train"))
    if expected is not None and len(pictures) != expected:
        raise ValueError(
            f"{pictures.name} holds {len(pictures)} pictures, the published set {expected}; fetch it again, or run at "
            "scale small"
        )


def training_set(run: Run, everything: PictureSet) -> PictureSet:
    """The pictures that a row trains on, by its code base's rule. Raises ValueError where the set is too small."""
    count = run.count or int(len(everything) * run.fraction)
    if not 0 < count <= len(everything):
        raise ValueError(f"{everything.name} holds {len(everything)} pictures; this row trains on {count}")
    if count == len(everything):
        return everything
    if isinstance(everything, ImageNetSet):
        return ImageNetSet(everything.files, run.resolution, count)
    chosen = cifar_subset(count, len(everything)) if run.subset == "random" else first(count, len(everything))
    return Subset(everything, chosen)


def reference_set(run: Run, root: Path | None) -> PictureSet:
    """The pictures that FID compares with."""
    if run.protocol.reference == "test":
        return open_pictures(run, root, "test")
    everything = open_pictures(run, root, "train")
    return everything if run.protocol.reference == "all" else training_set(run, everything)


def build(run: Run, device: str, group: Processes, augment: biggan.Augment | None = None) -> Trainable:
    """The training of a row's recipe at its start; BigGAN takes another augmentation."""
    if isinstance(run.recipe, biggan.Recipe):
        return biggan.Training(run.recipe, device, processes=group.count, augment=augment)
    assert augment is None
    return stylegan2.Training(run.recipe, device, processes=group.count)


def judges_of(run: Run, context: Context, tell: Callable[[int, int], None]) -> tuple[FeatureNetwork, Gaussian]:
    """The feature network and the moments of the reference set, which `tell` hears of while they are computed."""
    inception = load_network("inception")
    reference = reference_set(run, context.data)
    if context.scale == "paper":
        check_size(run, reference, run.protocol.reference)
    return inception, set_moments(reference, inception, MODE, context.device, run.protocol.ddof, tell)


def _before_training(run: Run, context: Context) -> Callable[[int, int], None]:
    return lambda done, total: context.progress(0, run.iterations, f"reference features {done} of {total}")


def _snapshot(
    run: Run,
    context: Context,
    pictures: PictureSet,
    device: str,
    judges: tuple[FeatureNetwork, Gaussian | None],
    augment: biggan.Augment | None,
    group: Processes,
    training: Trainable,
) -> Snapshot:
    held_out = reference_set(run, context.data) if run.protocol.d_accuracy and group.main else None

    def measure(iteration: int) -> dict[str, float]:
        seed = step_seed(context.seed, SAMPLING, iteration)
        found = score(training.networks["G_ema"], run, *judges, seed, device, group)
        if held_out is not None:
            for name, these in (("train", pictures), ("test", held_out)):
                found[f"d_accuracy_{name}"] = d_accuracy(training.networks["D"], run, these, seed, device, augment)
        return found

    return measure
