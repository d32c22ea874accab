"""Rows of the paper's own tables, from the user's model and pictures to the numbers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from gengauge.benchmarks.concept_samples import SAMPLES
from gengauge.benchmarks.core.experiments import Context, Measurement, Picture, Plan, PlannedNetwork, Result
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.needs import data_need, weights_need
from gengauge.benchmarks.papers.custom_diffusion import loading
from gengauge.benchmarks.papers.custom_diffusion.counts import UNETS
from gengauge.benchmarks.papers.custom_diffusion.evaluation import BASE, Evaluation, Value, coco, subjects_of
from gengauge.benchmarks.papers.custom_diffusion.methods import Settings
from gengauge.benchmarks.pictures import grid
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.concept_sets import ConceptSet
from gengauge.datasets.folder import list_pictures, load_square
from gengauge.datasets.sets import DataNotFound

SHOWN, SIDE = 6, 256  # pictures in the report, px
COCO = 5000  # captions of COCO


def row(context: Context) -> Iterator[Result]:
    """A row: the mean over its subjects of each column. What its columns lack is told, and the others measured."""
    s: Settings = context.settings
    made = Evaluation(context)
    found: dict[str, dict[str, Value]] = {}
    for number, subject in enumerate(made.subjects):
        if asked := made.asked_of(subject):
            context.progress(number, len(made.subjects), f"{s.method.name}: {subject.name}")
            found[subject.name] = made.values(subject, asked)
    sources = [made.sources[each.name] for each in made.taught()]
    for column in made.columns:
        values = [found[each.name][column] for each in made.scored(column)]
        yield replace(measured(s.row, column, values), note=_note(sources, len(values)))
    for column, why in made.missing.items():
        yield Measurement(s.row, column, math.nan, missing=why)
    if context.seed == 0 and len(made.subjects) == 1 and made.columns != ["kid"]:
        (subject,) = made.subjects
        pictures = list_pictures(made.samples(subject) / SAMPLES)
        texts = subject.plain_prompts()[:SHOWN]
        chosen = pictures[:: s.drawing.each][:SHOWN]
        shown = grid(load_square(chosen, SIDE).numpy(), min(3, len(chosen)))
        yield Picture(s.row, "samples", shown, f"{s.method.name}, {subject.name}: {'; '.join(texts)}")


def measured(row: str, column: str, values: Sequence[Value]) -> Measurement:
    """The unweighted mean of subjects' values; of one its own interval, of more Student's t over them."""
    count = sum(each.samples for each in values)
    if len(values) == 1:
        (one,) = values
        if math.isnan(one.low):
            return Measurement(row, column, one.value, samples=count)
        return Measurement(row, column, one.value, one.low, one.high, one.interval, count)
    over = t_interval([each.value for each in values])
    return Measurement(row, column, over.mean, over.low, over.high, f"95 % t over {len(values)} means", count)


def _note(sources: Sequence[str], count: int) -> str:
    return "; ".join([*([f"mean of {count}"] if count > 1 else []), *counted(sources)])


def counted(told: Sequence[str]) -> list[str]:
    """What is told of subjects, with the number of those that it is told of where that is not all."""
    each = [words for words in dict.fromkeys(told) if words]
    return each if len(set(told)) == 1 else [f"{told.count(words)} of {len(told)}: {words}" for words in each]


def train(context: Context) -> None:
    """What a row trains, alone: `row` finds it done."""
    made = Evaluation(context)
    for subject in made.taught():
        made.learnt(subject)


def check(s: Settings, data: Path | None) -> None:
    """Refuses concepts and prompts that are not as published; what is missing is told by the job."""
    with contextlib.suppress(DataNotFound):
        subjects_of(s, loading.read_set(s.subjects, data))


def reads(s: Settings, data: Path) -> Path | None:
    """The checkout of the published code that a row reads: pictures, prompts and deltas lie in it."""
    place = data_set(loading.DATA[s.subjects.set][0]).find(data)
    if place is None:
        return None
    return next((each for each in place.parents if each.parent == data), place)


def _example() -> tuple[torch.Tensor, ...]:
    """Latents, a time and a text."""
    return torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768)


# One object for all rows, so that it has to be counted once.
NETWORK = PlannedNetwork("U-Net of Stable Diffusion 1", UNETS["Stable Diffusion 1"], _example)


def plan(s: Settings) -> Plan:
    """What a row needs."""
    return Plan((NETWORK,), lambda data: loading.needs(s, data))


class Learning(Protocol):
    """Settings that hold what is learnt."""

    @property
    def of(self) -> Settings: ...


# -- COCO --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CocoSettings:
    """A row of FID on COCO: a model after a customisation, and how many captions it draws."""

    of: Settings
    captions: int = COCO


def coco_row(context: Context) -> Iterator[Result]:
    """FID of samples of COCO's captions by the model that has learnt one concept."""
    s: CocoSettings = context.settings
    captions, pictures = coco(context.data, s.captions)
    loading.open_inception()  # what is missing is told before a training
    if s.of.method.recipe is None:
        made = Evaluation(replace(context, settings=s.of), ConceptSet("none", ()))
        name, learnt = "base", BASE
    else:
        made = Evaluation(replace(context, settings=s.of))
        (subject,) = made.subjects
        name, learnt = subject.name, made.learnt(subject)
    value = made.fid(learnt, name, captions, pictures)
    yield Measurement(s.of.row, "fid", value, samples=len(captions), note=learnt.origin)


def check_of(s: Learning, data: Path | None) -> None:
    """As `check`, of settings that hold what is learnt."""
    if s.of.method.recipe is not None:
        check(s.of, data)


def reads_of(s: Learning, data: Path) -> Path | None:
    """As `reads`, of settings that hold what is learnt."""
    return reads(s.of, data)


def coco_train(context: Context) -> None:
    """As `train`."""
    if context.settings.of.method.recipe is not None:
        train(replace(context, settings=context.settings.of))


def coco_plan(s: CocoSettings) -> Plan:
    """What a row of FID needs."""
    sets = loading.DATA[s.of.subjects.set] if s.of.method.recipe is not None else ()
    keys = (loading.MODEL, *sets, "coco-captions", "coco-val")
    return Plan((NETWORK,), lambda data: (*(data_need(key, data) for key in keys), weights_need("inception")))
