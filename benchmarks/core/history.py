"""Histories: a metric over many runs, in the order of time, with the places where its level changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import pandas as pd

from gengauge.benchmarks.core.change_points import change_points, exact_changes
from gengauge.benchmarks.core.changes import paired_blocks, typical
from gengauge.benchmarks.core.comparison import Context, Metric, Values, declarations, gather, kind_of
from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.core.store import newest_attempts
from gengauge.benchmarks.core.tables import Direction
from gengauge.benchmarks.core.thresholds import Kind

Order = Literal["time", "given"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Run:
    """What one code measured: `name` as it was given, `time` of the last record in UTC, and the records."""

    name: str
    code: str
    time: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Point:
    """A metric in one run, the `run`-th of the history.

    `value` is the mean over `seeds` seeds with Student's interval, of times the median. Of one seed `low` and `high`
    are the record's, or where it has none those of its repetitions (signed ranks), or NaN.
    """

    run: int
    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Change:
    """A change of level: the first point after it, and the medians of the points before and after, up to the next
    change on either side."""

    place: int
    before: float
    after: float

    @property
    def share(self) -> float:
        """By how much it moved, as a share of what was before; NaN where that was zero."""
        return (self.after - self.before) / abs(self.before) if self.before else math.nan


@dataclass(frozen=True)
class Series:
    """A metric (paper, table, row, column) over the runs that measured it under one context."""

    metric: Metric
    context: Context
    kind: Kind
    direction: Direction
    points: tuple[Point, ...]
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        """PAPER/TABLE/ROW/COLUMN."""
        return "/".join(self.metric)


@dataclass(frozen=True)
class History:
    """Runs in their order, and every metric that at least one of them measured."""

    runs: tuple[Run, ...]
    series: tuple[Series, ...]


def runs_of(name: str, frame: pd.DataFrame) -> tuple[Run, ...]:
    """The runs in a frame of all attempts: one for each code and its libraries, since numbers of two programs are not
    averaged.

    Raises ValueError for a frame without records.
    """
    if frame.empty:
        raise ValueError(f"{name} holds no records; `gengauge run` makes them")
    return tuple(
        Run(name, str(code), str(part["time"].max()), newest_attempts(part))
        for (code, _), part in frame.groupby(["code", "versions"])
    )


def history(runs: Sequence[Run], papers: Sequence[Paper] = (), order: Order = "time") -> History:
    """Every metric of runs (final values, no curves) over time, or in the order in which they were given.

    One run that is given twice counts once. Values of other scales, data, devices, threads and types are series of
    their own, as `compare` has it. Raises ValueError without runs.
    """
    once = list({(run.code, run.time, len(run.frame)): run for run in reversed(runs)}.values())[::-1]
    if not once:
        raise ValueError("a history needs runs")
    ordered = sorted(once, key=lambda run: run.time) if order == "time" else once
    declared = declarations(papers)
    found: dict[tuple[Metric, Context], list[Point]] = {}
    for number, run in enumerate(ordered):
        for metric, contexts in gather(run.frame, declared).items():
            for context, values in contexts.items():
                kind, _ = kind_of(context.unit, declared.get((metric[0], context.experiment, metric[3])))
                found.setdefault((metric, context), []).append(_point(number, values, kind))
    series = []
    for (metric, context), points in found.items():
        kind, direction = kind_of(context.unit, declared.get((metric[0], context.experiment, metric[3])))
        series.append(Series(metric, context, kind, direction, tuple(points), _changes(points, kind)))
    return History(tuple(ordered), tuple(sorted(series, key=lambda s: (s.metric, str(s.context)))))


def _point(run: int, values: Values, kind: Kind) -> Point:
    found = [values.value[seed] for seed in sorted(values.value)]
    interval = t_interval(found)
    middle = float(np.median(found)) if kind == "speed" else interval.mean
    low, high = interval.low, interval.high
    if len(found) == 1:
        (seed,) = values.value
        low, high = values.bounds[seed]
        if math.isnan(low) and len(values.repetitions[seed]) > 1:
            blocks, _ = paired_blocks(values.repetitions[seed], values.repetitions[seed])
            shift = typical(blocks)
            low, high = shift.low, shift.high
    return Point(run, middle, low, high, len(found))


def _changes(points: Sequence[Point], kind: Kind) -> tuple[Change, ...]:
    values = [point.value for point in points]
    places = exact_changes(values) if kind == "exact" else change_points(values)
    levels = [float(np.median(values[a:b])) for a, b in pairwise((0, *places, len(values)))]
    return tuple(Change(place, before, after) for place, (before, after) in zip(places, pairwise(levels), strict=True))
