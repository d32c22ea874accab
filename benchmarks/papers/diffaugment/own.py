"""A method of the user's own in DiffAugment's tables: another augmentation, or another training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Experiment, Result, Unavailable
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.methods import callable_of, missing, returned, work_of
from gengauge.benchmarks.papers.diffaugment import study
from gengauge.benchmarks.papers.diffaugment.measure import (
    SAMPLING,
    Replaced,
    averaged,
    fill,
    judges_of,
    training_pictures,
)
from gengauge.benchmarks.papers.diffaugment.rows import FRACTIONS, LOW_SHOT_SETS, Run
from gengauge.benchmarks.papers.diffaugment.scoring import score_pictures
from gengauge.benchmarks.training.loop import step_seed
from gengauge.reference.diffaugment import biggan
from gengauge.reference.diffaugment.placement import DIFFAUGMENT

PART = 500  # pictures that are sampled at once
NO_DISCRIMINATOR = "a training of one's own shows no discriminator and no augmentation"
ONE_SNAPSHOT = "a training of one's own is measured at its end only"


def in_study(context: Context, own: Own) -> Iterator[Result]:
    """The row of the small GAN at quick scale."""
    data = study.Data.of(context)
    if not trains(own):
        yield from study.augmented(context, data, own.row, DIFFAUGMENT, augmentation(own), own.row)
        return
    count = context.settings.samples
    sampler = trained(context, own, data.train, None)
    samples = sampled(own, sampler, count, context.seed, data.train.shape[1:])
    yield from study.scored(context, data, own.row, samples, own.row)
    measured = {"fid", "kid"}
    yield from missing(own, (c.key for c in study.COLUMNS if c.key not in measured), NO_DISCRIMINATOR)


def in_tables(columns: tuple[str, ...], context: Context, own: Own) -> Iterator[Result]:
    """A row of the paper's tables, by their protocol. Raises Unavailable for an augmentation where StyleGAN2 trains."""
    run: Run = context.settings
    if not trains(own):
        if not isinstance(run.recipe, biggan.Recipe):
            raise Unavailable(
                "the rows of StyleGAN2 take a training, and no augmentation alone", "give the method a `train`"
            )
        yield from fill(own.row, columns, context, Replaced(f"{own.spec} {own.digest}", augmentation(own)))
        return
    pictures = training_pictures(run, context)
    inception, reference = judges_of(
        run, context, lambda done, total: context.progress(0, 1, f"reference features {done} of {total}")
    )
    whole = pictures.pictures(np.arange(len(pictures)))
    labels = None if pictures.labels is None else torch.from_numpy(pictures.labels)
    sampler = trained(context, own, whole, labels)
    scores = []
    for repeat in range(run.protocol.repeats):
        seed, left = step_seed(context.seed, SAMPLING + 1, repeat), run.protocol.samples
        made = (
            sampled(own, sampler, min(PART, left - start), seed + start, whole.shape[1:])
            for start in range(0, left, PART)
        )
        scores.append(score_pictures(made, run, inception, reference, context.device))
        context.progress(repeat + 1, run.protocol.repeats, "evaluations")
    yield from averaged(own.row, columns, run, scores, "")
    yield from missing(own, [c for c in columns if c.startswith("d_accuracy")], NO_DISCRIMINATOR)
    yield from missing(own, [c for c in columns if c in ("fid_last", "best_iteration")], ONE_SNAPSHOT)


def trains(own: Own) -> bool:
    """Whether it is a training that is measured, and not an augmentation."""
    return getattr(own.method, "train", None) is not None


def augmentation(own: Own) -> Callable[[Tensor, torch.Generator | None], Tensor]:
    """The method's augmentation, whose results are looked at. It raises ValueError naming the method."""

    def augment(x: Tensor, generator: torch.Generator | None) -> Tensor:
        found = own.method.augment(x, generator)
        if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
            what = (
                f"a tensor {tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            )
            raise ValueError(
                f"`augment` of {own.spec} returned {what}; expected a tensor {tuple(x.shape)} of {x.dtype}"
            )
        if x.requires_grad and not found.requires_grad:
            raise ValueError(
                f"`augment` of {own.spec} is not differentiable: no gradient comes from it to its pictures"
            )
        if not bool(found.isfinite().all()):
            raise ValueError(f"`augment` of {own.spec} returned values that are not finite")
        return found

    return augment


def trained(
    context: Context, own: Own, pictures: Tensor, labels: Tensor | None
) -> Callable[[int, torch.Generator], Tensor]:
    """What samples after the method's training."""
    return callable_of(own, "train", own.method.train(pictures, labels, work_of(context, own)))


def sampled(
    own: Own,
    sampler: Callable[[int, torch.Generator], Tensor],
    count: int,
    seed: int,
    shape: tuple[int, ...],
) -> Tensor:
    """Pictures (count, 3, H, W) uint8. Raises ValueError naming the method for anything else."""
    with torch.no_grad():
        made = sampler(count, torch.Generator().manual_seed(seed))
    return returned(own, "train", made, (count, *shape), "uint8")


# What a table takes, by the row whose training and protocol it has.
_ROWS = {
    **{
        ("placements", "diffaugment-reals-fakes-g@translation-cutout"): "",
        **{(data, f"biggan-diffaugment@{part}"): part for data in ("cifar10", "cifar100") for part in FRACTIONS},
    },
    **{("low-shot", f"stylegan2-no-pre-training-diffaugment@{setting}"): setting for setting in LOW_SHOT_SETS},
}


def openings(experiments: tuple[Experiment, ...]) -> tuple[Opening, ...]:
    """At quick scale the study, beyond it rows of the paper."""
    by_row = {(e.table, row): e for e in experiments for row in e.rows}
    out = [Opening("diffaugment", in_study)]
    for place, setting in _ROWS.items():
        e = by_row[place]
        out.append(Opening(e.key, partial(in_tables, tuple(column.key for column in e.columns)), (setting,)))
    return tuple(out)


CLOSED = {
    "checks": "it checks the paper's own networks",
    **dict.fromkeys(
        ("few-images", "ffhq-full", "imagenet"), "its sets are not handed over whole, since they hardly fit into memory"
    ),
    "low-shot-earlier": "it differs from low-shot, which takes one, by the recipe of its StyleGAN2 only",
    "slides": "its rows are those of cifar10, which takes one",
}
