"""Statistics of a change: how far two sets of measurements lie apart, how surely, and what holds of many at once."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gengauge.benchmarks.core.statistics import t_interval

Array = NDArray[np.float64]

MAX_BLOCKS = 20  # of repetitions; medians of longer stretches of a run depend less on each other
MIN_RANKED = 6  # differences from which a signed-rank interval of 95 % exists
MIN_POOLED = 5  # metrics from which the spread of their noise can be told
CLIP = 2.5  # robust standard deviations
FLIPS = 999


@dataclass(frozen=True)
class Shift:
    """A typical difference with its two-sided 95 % interval, NaN where there is none, and the interval's method."""

    middle: float
    low: float
    high: float
    method: str


def paired_blocks(before: Sequence[float], after: Sequence[float]) -> tuple[Array, Array]:
    """Repetitions of two runs as equally many values, to be paired by their place.

    Both are cut into the same number of consecutive blocks, as many as the shorter has values and at most 20, and each
    block gives its median. So runs of different length can be paired, what both runs go through (warming up) cancels,
    and repetitions so short that one is like the next do not count as independent ones.
    """
    count = min(len(before), len(after), MAX_BLOCKS)
    first, second = (
        np.array([np.median(block) for block in np.array_split(np.asarray(v, np.float64), count)])
        for v in (before, after)
    )
    return first, second


def typical(differences: Array) -> Shift:
    """The typical value of independent differences.

    From six on the Hodges-Lehmann estimate (median of the means of all pairs) with the exact interval of Wilcoxon's
    signed-rank test: a few spoilt repetitions do not move it, and it holds for every symmetric noise. Fewer have no
    such interval, so that their mean and Student's t serve; one has none.
    """
    count = len(differences)
    if count < MIN_RANKED:
        found = t_interval(differences.tolist())
        return Shift(found.mean, found.low, found.high, f"Student's t of {count} differences" if count > 1 else "")
    left, right = np.triu_indices(count)
    means = np.sort((differences[left] + differences[right]) / 2)
    cut = _signed_rank_cut(count)
    return Shift(
        float(np.median(means)), float(means[cut]), float(means[-1 - cut]), f"signed ranks of {count} differences"
    )


def unpaired(before: Sequence[float], after: Sequence[float]) -> tuple[Shift, float]:
    """Mean of `after` minus mean of `before` with Welch's interval, and the one-sided p that it is not above zero.

    Both need two values.
    """
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    terms = [v.var(ddof=1) / len(v) for v in (a, b)]
    middle, error = float(b.mean() - a.mean()), math.sqrt(sum(terms))
    if error == 0:
        return Shift(middle, middle, middle, "no spread"), _of_ties(middle, min(len(a), len(b)))
    freedom = sum(terms) ** 2 / sum(t**2 / (len(v) - 1) for t, v in zip(terms, (a, b), strict=True))
    half = float(special.stdtrit(freedom, 0.975)) * error
    name = f"Welch's t, {len(a)} and {len(b)} seeds"
    return Shift(middle, middle - half, middle + half, name), float(special.stdtr(freedom, -middle / error))


def paired(differences: Array) -> tuple[Shift, float]:
    """Mean of differences, one a seed, with Student's interval, and the one-sided p that it is not above zero.

    Student's t and no bootstrap: of two to five values there are too few resamples, and percentile intervals of 95 %
    hold the mean in 50 % (two) to 84 % (five) of cases. Without any spread, as of counts, the sign test's p counts.
    """
    found = t_interval(differences.tolist())
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    shift = Shift(found.mean, found.low, found.high, f"paired Student's t, {count} seeds")
    if error == 0:
        return shift, _of_ties(found.mean, count)
    return shift, float(special.stdtr(count - 1, -found.mean / error))


def _of_ties(middle: float, count: int) -> float:
    return 0.5**count if middle > 0 else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of many tests: rejecting those at most alpha makes any error with probability alpha at most,
    however the tests depend on each other and whichever of them are true."""
    order = np.argsort(p)
    raised = np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p))))
    out = np.empty(len(p))
    out[order] = np.minimum(raised, 1)
    return [float(v) for v in out]


def off_zero(differences: Sequence[Array], flips: int = FLIPS) -> list[tuple[float, float]]:
    """Adjusted p, metric by metric, that its differences (at least two) are typically above zero, and below it.

    A permutation test of the whole suite (Westfall and Young's min-p): without a change each difference is as likely
    as its negative, whatever the noise, so the least p of all metrics is set against the least p after random flips of
    signs. Calling a change what is at most alpha raises any false alarm with probability alpha at most, on either
    side. A metric alone is judged by Student's t; in a suite its variance is drawn towards that of the others
    (empirical Bayes, Smyth 2004) by as much as they resemble each other, since ten repetitions alone tell it badly;
    the flips make up for whatever is wrong with that. Differences are clipped at 2.5 robust standard deviations about
    zero. The flips are drawn by the sizes of the differences: the same data, the same p.
    """
    counts = np.array([len(d) for d in differences], np.float64)
    values = [_clipped(d) for d in differences]
    squares = np.array([float((v**2).sum()) for v in values])
    t, freedom = _student(np.array([v.sum() for v in values]), squares, counts)
    # By what flips leave as it is, and anew for each suite: a fixed draw would be wrong a little more or less for all.
    random = np.random.default_rng(zlib.crc32(np.abs(np.concatenate(values)).tobytes()))
    sums = np.stack([(random.integers(0, 2, (flips, len(v))) * 2.0 - 1) @ v for v in values], axis=1)
    t_flipped, freedom_flipped = _student(sums, squares, counts)

    def adjusted(sign: int) -> list[float]:
        least = np.sort(_least(sign * t_flipped, freedom_flipped, counts))
        # What a flip reaches too counts, also where the last bit differs.
        reached = np.searchsorted(least, special.stdtr(freedom, -sign * t) * (1 + 1e-9), side="right")
        return [float(r + 1) / (flips + 1) for r in reached]

    return list(zip(adjusted(1), adjusted(-1), strict=True))


def _clipped(differences: Array) -> Array:
    # About zero: a flip of signs must not change what is clipped. Where most are zero the scale says nothing.
    limit = CLIP * 1.4826 * float(np.median(np.abs(differences)))
    return np.clip(differences, -limit, limit) if limit else differences


def _student(sums: Array, squares: Array, counts: Array) -> tuple[Array, Array]:
    """Student's t of metrics (..., M) and its degrees of freedom, with variances drawn together where there are five.

    Moments of the log variances give the prior: its degrees of freedom and its variance.
    """
    freedom = counts - 1
    means = sums / counts
    variances = np.maximum(squares - sums * means, 1e-12 * squares) / freedom
    total = np.broadcast_to(freedom, variances.shape)
    if len(counts) >= MIN_POOLED:
        logs = np.log(variances) - special.digamma(freedom / 2) + np.log(freedom / 2)
        beyond = logs.var(-1, ddof=1) - special.polygamma(1, freedom / 2).mean()
        prior = 2 * _trigamma_inverse(np.maximum(beyond, 1e-3))
        centre = np.exp(logs.mean(-1) + special.digamma(prior / 2) - np.log(prior / 2))
        prior, centre = prior[..., None], centre[..., None]
        variances = (prior * centre + freedom * variances) / (prior + freedom)
        total = np.minimum(prior + freedom, freedom.sum())
    return means / np.sqrt(variances / counts), total


def _least(t: Array, freedom: Array, counts: Array) -> Any:
    """The least p of each flip; among metrics of as many differences it is that of the largest t."""
    parts = []
    for count in np.unique(counts):
        mine = counts == count
        parts.append(special.stdtr(freedom[:, mine][:, 0], -t[:, mine].max(1)))
    return np.min(parts, axis=0)


def _trigamma_inverse(x: Any) -> Any:
    y = 0.5 + 1 / x
    for _ in range(6):  # Newton's steps on 1 / trigamma, which is nearly straight
        value = special.polygamma(1, y)
        y = y + value * (1 - value / x) / special.polygamma(2, y)
    return y


@cache
def _signed_rank_cut(count: int) -> int:
    """The place, from 0, of that of the sorted means of pairs at which a 95 % interval begins."""
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1
    for rank in range(1, count + 1):
        ways[rank:] = ways[rank:] + ways[:-rank]
    tail = np.cumsum(ways / 2.0**count)
    return int(np.searchsorted(tail, 0.025, side="right")) - 1
