"""Regressions: what moved between two frames of records, metric by metric, beyond the noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from gengauge.benchmarks.core.changes import (
    MIN_RANKED,
    Array,
    Shift,
    holm,
    off_zero,
    paired,
    paired_blocks,
    typical,
    unpaired,
)
from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import Column, Direction
from gengauge.benchmarks.core.thresholds import Kind, Threshold, Thresholds

Verdict = Literal["worse", "better", "unclear", "incomparable", "same"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

# Of any false `worse` in all that is compared, and of any false `better`: below 5 %, so that what is counted is, too.
ALPHA = 0.04
SPEED_SHARE = 0.8  # of it for times, where both kinds are compared: few seeds gain little by a larger share
TIMES = frozenset({"s", "ms", "us", "µs", "ns", "min", "h"})
RATES = frozenset({"1/s", "it/s", "img/s", "samples/s", "Hz", "fps", "FLOP/s", "GFLOP/s", "MB/s", "GB/s"})

METHOD = (
    "Speed: log ratios of paired repetitions (of seeds, from six on), Hodges-Lehmann estimate with a signed-rank "
    "interval, from six pairs on; verdicts by a sign-flip permutation test of all times at once. Quality: differences "
    "of paired seeds, Student's t (Welch's where seeds differ), corrected by Holm. Exact numbers: any change. Worse or "
    f"better: beyond the noise, with any false alarm in at most {ALPHA:.0%} of comparisons, and beyond the threshold. "
    "Same: the 95 % interval lies within the threshold."
)


@dataclass(frozen=True)
class Change:
    """One metric compared, `metric` being PAPER/TABLE/ROW/COLUMN.

    `baseline` and `candidate` are means over seeds in the metric's unit, of times medians. `change` with its 95 %
    interval is a fraction of the baseline where `relative`, else in the unit. `p` is the smaller one of the adjusted p
    that it is worse or better. `pairs` are the differences that it rests on. `reason` explains the verdict.
    """

    metric: str
    where: str
    kind: Kind
    unit: str
    direction: Direction
    threshold: Threshold
    baseline: float | None = None
    candidate: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    relative: bool = True
    p: float | None = None
    pairs: int = 0
    method: str = ""
    verdict: Verdict = "incomparable"
    reason: str = ""

    @property
    def badness(self) -> float:
        """How far it went the wrong way, in thresholds; to sort by."""
        if self.change is None:
            return 0.0
        sign = {"lower": 1, "higher": -1, "none": 0}[self.direction]
        return sign * self.change / (self.threshold.size or 1e-9)


@dataclass(frozen=True)
class Context:
    """What must be equal of two numbers before they are compared; of an exact one scale, unit and experiment are."""

    scale: str
    data: str = ""
    device: str = ""
    threads: int = 0
    dtype: str = ""
    unit: str = ""
    experiment: str = ""
    settings: str = ""

    def differences(self, other: Context) -> str:
        """What differs, as `device cpu against cuda`."""
        return "; ".join(
            f"{name} {mine} against {theirs}"
            for name, mine in vars(self).items()
            if mine != (theirs := getattr(other, name))
        )


@dataclass
class Values:
    """A metric's values in one context, by seed."""

    value: dict[int, float] = field(default_factory=dict)
    repetitions: dict[int, tuple[float, ...]] = field(default_factory=dict)
    samples: dict[int, int] = field(default_factory=dict)
    bounds: dict[int, tuple[float, float]] = field(default_factory=dict)


@dataclass
class _Open:
    """A change that waits for the others, with its oriented differences (worse is positive) or its two p."""

    change: Change
    differences: Array | None = None
    p_worse: float = 1.0
    p_better: float = 1.0


Metric = tuple[str, str, str, str]


@dataclass(frozen=True)
class Declared:
    """What a paper says of a metric."""

    column: Column
    timed: bool


def compare(
    baseline: pd.DataFrame, candidate: pd.DataFrame, papers: Sequence[Paper] = (), thresholds: Thresholds | None = None
) -> tuple[Change, ...]:
    """Every metric of two frames of records (final values, no curves), worst first.

    `papers` tell a metric's direction, whether it is exact, and whether its experiment is timed. Speed is what has a
    unit of time or of rate, and whatever has a direction in a timed experiment; of a metric that no paper declares,
    time is better low and a rate high. Repetitions of one run tell nothing of how runs differ: from six seeds on, a
    seed counts once. A number that failed in the candidate alone is worse.
    """
    declared = declarations(papers)
    first, second = gather(baseline, declared), gather(candidate, declared)
    lost, gained = _failures(candidate), _failures(baseline)
    waiting: list[_Open] = []
    for metric in sorted({*first, *second}):
        waiting += _metric(metric, first, second, lost, gained, declared, thresholds or Thresholds())
    return tuple(sorted(_decide(waiting), key=lambda c: (VERDICTS.index(c.verdict), -c.badness, c.metric)))


def declarations(papers: Sequence[Paper]) -> dict[tuple[str, str, str], Declared]:
    """What papers say of their metrics, by keys of paper, experiment and column."""
    return {
        (paper.key, e.key, column.key): Declared(column, e.timed)
        for paper in papers
        for e in paper.experiments
        for column in e.columns
    }


def gather(frame: pd.DataFrame, declared: Mapping[Any, Declared]) -> dict[Metric, dict[Context, Values]]:
    """The final values of a frame by metric (paper, table, row, column) and by what must be equal to compare them."""
    out: dict[Metric, dict[Context, Values]] = {}
    final = frame[frame["step"].isna() & (frame["status"] == "ok") & (frame["column"] != "")]
    for r in final.to_dict("records"):
        known = declared.get((r["paper"], r["experiment"], r["column"]))
        if known is not None and known.column.exact:
            context = Context(r["scale"], unit=r["unit"], experiment=r["experiment"])
        else:
            names = ("scale", "data", "device", "threads", "dtype", "unit", "experiment", "settings")
            context = Context(*(r[name] for name in names))
        metric = (str(r["paper"]), str(r["table"]), str(r["row"]), str(r["column"]))
        values, seed = out.setdefault(metric, {}).setdefault(context, Values()), int(r["seed"])
        values.value[seed] = float(r["value"])
        values.repetitions[seed] = tuple(r["repetitions"])
        values.bounds[seed] = float(r["low"]), float(r["high"])
        if not pd.isna(r["samples"]):
            values.samples[seed] = int(r["samples"])
    return out


def _failures(frame: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """Status and reason by (paper, table, row, column, scale, seed), the column empty for a whole job."""
    names = ["paper", "table", "row", "column", "scale", "seed", "status", "reason"]
    bad = frame.loc[frame["step"].isna() & (frame["status"] != "ok"), names]
    return {
        tuple(map(str, key)): ": ".join([str(status), *str(reason).splitlines()[:1]])
        for *key, status, reason in bad.itertuples(index=False)
    }


def _metric(
    metric: Metric,
    first: Mapping[Metric, Mapping[Context, Values]],
    second: Mapping[Metric, Mapping[Context, Values]],
    lost: Mapping[tuple[str, ...], str],
    gained: Mapping[tuple[str, ...], str],
    declared: Mapping[Any, Declared],
    thresholds: Thresholds,
) -> list[_Open]:
    before, after = first.get(metric, {}), second.get(metric, {})
    if not all(context.settings for context in (*before, *after)):  # records from before there were settings in them
        before, after = (
            {replace(context, settings=""): values for context, values in side.items()} for side in (before, after)
        )
    name, out = "/".join(metric), []
    several = len({*before, *after}) > 1

    def start(context: Context) -> Change:
        known = declared.get((metric[0], context.experiment, metric[3]))
        kind, direction = kind_of(context.unit, known)
        where = f"{context.scale}, {context.data}, {context.device}" if several and context.device else context.scale
        return Change(name, where, kind, context.unit, direction, thresholds.of(name, kind))

    def failed(context: Context, seeds: Iterable[int], where: Mapping[tuple[str, ...], str]) -> str:
        keys = [(*metric[:3], c, context.scale, str(seed)) for seed in seeds for c in (metric[3], "")]
        return next((where[key] for key in keys if key in where), "")

    shared = [context for context in before if context in after]
    for context in shared:
        a, b = before[context], after[context]
        change = start(context)
        if (why := failed(context, a.value.keys() - b.value.keys(), lost)) and not why.startswith("unavailable"):
            out.append(_Open(_ended(change, "worse", f"a seed failed in the candidate: {why}")))
        else:
            out.append(_compared(change, a, b))
    if shared:
        for side, contexts in (("candidate", before), ("baseline", after)):
            alone = [context for context in contexts if context not in shared]
            out += [_Open(_ended(start(context), "incomparable", f"not in the {side}")) for context in alone]
        return out
    if before and after:
        mine, theirs = next(iter(before)), next(iter(after))
        return [_Open(_ended(start(mine), "incomparable", mine.differences(theirs)))]
    (context, values), there = next(iter((before or after).items())), bool(before)
    why = failed(context, values.value, lost if there else gained)
    side = "candidate" if there else "baseline"
    if why and not why.startswith("unavailable"):
        return [_Open(_ended(start(context), "worse" if there else "better", f"{side}: {why}"))]
    return [_Open(_ended(start(context), "incomparable", f"{side}: {why}" if why else f"not in the {side}"))]


def kind_of(unit: str, known: Declared | None) -> tuple[Kind, Direction]:
    """Whether a metric is speed, quality or exact, and which way it is better."""
    in_time = unit in TIMES or unit in RATES
    if known is None:
        return "speed" if in_time else "quality", "lower" if unit in TIMES else "higher" if unit in RATES else "none"
    column = known.column
    if column.exact:
        return "exact", column.direction
    return "speed" if in_time or (known.timed and column.direction != "none") else "quality", column.direction


def _ended(change: Change, verdict: Verdict, reason: str) -> Change:
    return replace(change, verdict=verdict, reason=reason)


def _compared(change: Change, a: Values, b: Values) -> _Open:
    if change.kind == "exact":
        return _Open(_exact(change, a, b))
    every = [v for s in (a, b) for seed, one in s.value.items() for v in (one, *s.repetitions[seed])]
    if change.kind == "speed" and min(every) > 0:
        return _speed(change, a, b)
    return _quality(change, a, b)  # no logarithm of page faults that were none


def _exact(change: Change, a: Values, b: Values) -> Change:
    x, y = (float(np.mean(list(s.value.values()))) for s in (a, b))
    seeds = a.value.keys() & b.value.keys()
    equal = all(a.value[s] == b.value[s] for s in seeds) if seeds else x == y
    moved = (y - x) / abs(x) if x else y - x
    change = replace(change, baseline=x, candidate=y, change=moved, low=moved, high=moved, relative=bool(x))
    if equal:
        return _ended(change, "same", "equal")
    if change.direction == "none":
        return _ended(change, "worse", "an exact number changed")
    better = (y > x) == (change.direction == "higher")
    return _ended(change, "better" if better else "worse", "an exact number changed")


def _speed(change: Change, a: Values, b: Values) -> _Open:
    seeds = sorted(a.value.keys() & b.value.keys())

    def blocks(mine: Sequence[int], theirs: Sequence[int]) -> tuple[Array, Array]:
        """Repetitions where both have them, else values."""
        x, y = ([v for seed in which for v in s.repetitions[seed]] for s, which in ((a, mine), (b, theirs)))
        if not x or not y:
            x, y = ([s.value[seed] for seed in which] for s, which in ((a, mine), (b, theirs)))
        return paired_blocks(x, y)

    if len(seeds) >= MIN_RANKED:  # runs differ by more than repetitions within one do
        x, y = (np.array([s.value[seed] for seed in seeds]) for s in (a, b))
    else:  # times do not depend on the seed as quality does: without a common one all are taken together
        parts = [blocks([s], [s]) for s in seeds] or [blocks(sorted(a.value), sorted(b.value))]
        x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    logs = np.log(y / x)
    base = float(np.median(list(a.value.values())))
    scale = 1.0 if change.threshold.relative else base
    shift = typical(logs)
    change = replace(
        change,
        baseline=base,
        candidate=float(np.median(list(b.value.values()))),
        change=math.expm1(shift.middle) * scale,
        low=None if math.isnan(shift.low) else math.expm1(shift.low) * scale,
        high=None if math.isnan(shift.high) else math.expm1(shift.high) * scale,
        relative=change.threshold.relative,
        pairs=len(logs),
        method=shift.method,
    )
    if not logs.any():
        return _Open(_ended(change, "same", f"equal in {len(logs)} pairs"))
    sign = -1.0 if change.direction == "higher" else 1.0
    return _Open(change, sign * logs if len(logs) > 1 and change.direction != "none" else None)


def _quality(change: Change, a: Values, b: Values) -> _Open:
    change = replace(
        change, baseline=float(np.mean(list(a.value.values()))), candidate=float(np.mean(list(b.value.values())))
    )
    seeds = sorted(a.value.keys() & b.value.keys())
    counts = [tuple(sorted({s.samples.get(seed, 0) for seed in seeds or s.value})) for s in (a, b)]
    if counts[0] != counts[1] and len(counts[0]) == len(counts[1]) == 1 and all(counts[0] + counts[1]):
        return _Open(_ended(change, "incomparable", f"settings: {counts[0][0]} samples against {counts[1][0]}"))
    x, y = ([s.value[seed] for seed in seeds] for s in (a, b))
    if len(seeds) < 2 and min(len(a.value), len(b.value)) > 1:
        shift, up = unpaired(list(a.value.values()), list(b.value.values()))
        down, pairs = unpaired(list(b.value.values()), list(a.value.values()))[1], min(len(a.value), len(b.value))
    elif not seeds:
        reason = f"seeds {_list(a.value)} against {_list(b.value)}"
        return _Open(_ended(change, "incomparable", f"no seed in common, and too few for a comparison: {reason}"))
    else:
        differences = np.subtract(y, x)
        pairs = len(differences)
        if not differences.any():
            change = replace(change, change=0.0, low=0.0, high=0.0, pairs=pairs)
            return _Open(_ended(change, "same", f"equal at {pairs} seed{'s' * (pairs > 1)}"))
        if pairs == 1:
            shift, up, down = Shift(float(differences[0]), math.nan, math.nan, ""), 1.0, 1.0
        else:
            (shift, up), down = paired(differences), paired(-differences)[1]
    base = abs(float(np.mean(x or list(a.value.values()))))
    relative = change.threshold.relative and base > 0
    scale = 1 / base if relative else 1.0
    change = replace(
        change,
        change=shift.middle * scale,
        low=None if math.isnan(shift.low) else shift.low * scale,
        high=None if math.isnan(shift.high) else shift.high * scale,
        relative=relative,
        pairs=pairs,
        method=shift.method,
    )
    if change.direction == "higher":
        up, down = down, up
    return _Open(change, None, up, down)


def _list(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def _decide(waiting: Sequence[_Open]) -> list[Change]:
    """Verdicts of all changes, those that wait for the correction and those that do not."""
    tested = [w for w in waiting if w.change.verdict == "incomparable" and not w.change.reason]
    judged = [w for w in tested if w.change.pairs > 1 and w.change.direction != "none"]
    speed = [w for w in judged if w.differences is not None]
    quality = [w for w in judged if w.differences is None]
    share = {"speed": SPEED_SHARE, "quality": 1 - SPEED_SHARE} if speed and quality else {"speed": 1.0, "quality": 1.0}
    p: dict[int, tuple[float, float]] = {}
    if speed:
        found = off_zero([w.differences for w in speed if w.differences is not None])
        p |= {id(w): (u / share["speed"], v / share["speed"]) for w, (u, v) in zip(speed, found, strict=True)}
    if quality:
        ups, downs = holm([w.p_worse for w in quality]), holm([w.p_better for w in quality])
        p |= {id(w): (u / share["quality"], v / share["quality"]) for w, u, v in zip(quality, ups, downs, strict=True)}
    waits = {id(w) for w in tested}
    return [_verdict(w.change, p.get(id(w))) if id(w) in waits else w.change for w in waiting]


def _verdict(change: Change, p: tuple[float, float] | None) -> Change:
    moved = change.change
    assert moved is not None
    size = change.threshold.size if change.relative == change.threshold.relative else 0.0
    worse, better = p or (1.0, 1.0)
    change = replace(change, p=p and min(*p, 1.0))
    if worse <= ALPHA and change.badness > 0 and abs(moved) > size:
        return _ended(change, "worse", "beyond the noise")
    if better <= ALPHA and change.badness < 0 and abs(moved) > size:
        return _ended(change, "better", "beyond the noise")
    if change.low is None or change.high is None:
        return _ended(change, "unclear", "one value a side")
    if -size <= change.low and change.high <= size:
        return _ended(change, "same", f"the interval lies within {change.threshold}")
    if change.direction == "none":
        return _ended(change, "unclear", "moved; neither direction is better")
    if change.low > 0 or change.high < 0:
        beyond = abs(moved) > size
        return _ended(change, "unclear", "moved, but not surely among so many" if beyond else "moved by little")
    return _ended(change, "unclear", "more repetitions or seeds would tell")
