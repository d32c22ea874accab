"""Change points of a short series of runs: where its level moved, told from noise of any shape.

Circular binary segmentation (Olshen, Venkatraman, Lucito and Wigler, Biostatistics 2004) for few runs. Of all ways to
split a series in two the one whose sides differ most is taken, then of all stretches inside it the one that differs
most from the rest. Each is judged by permutations: without a change every order of the runs is equally likely,
whatever the noise, so that a change is seen in at most `ALPHA` of series that have none. Values far off are drawn in,
since one spoilt run must neither make a change nor hide one. What lies between two changes is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.02  # of series without a change, those in which one is seen; a suite has hundreds of series
OF_SPLITS = 0.7  # of it for changes that stay, the rest for stretches that end: so few runs are judged by the first
SHORTEST = 2  # runs of a stretch: one alone cannot be told from a spoilt run
CLIP = 1.5
PERMUTATIONS = 1999
METHOD = (
    "Change points: circular binary segmentation, judged by permutations; without a change one is seen in at "
    f"most {ALPHA:.0%} of series. Exact numbers: any change."
)

Array = NDArray[np.float64]
Places = NDArray[np.intp]


def change_points(values: Sequence[float], alpha: float = ALPHA) -> tuple[int, ...]:
    """The places of the first value after each change, in order.

    Runs are taken as equally far apart and as independent: a machine that drifts makes changes, too. Fewer than
    `fewest()` values never show a change. The draws are fixed by the number of values: the same series, the same
    answer. Raises ValueError for values that are not finite.
    """
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"change points need finite values, not {list(values)}")
    found: list[int] = []
    _split(array, 0, alpha, found)
    return _kept(array, sorted(found), alpha)


def exact_changes(values: Sequence[float]) -> tuple[int, ...]:
    """The places where a number that has no noise differs from the one before."""
    return tuple(i for i, (before, after) in enumerate(pairwise(values), 1) if before != after)


@cache
def fewest(alpha: float = ALPHA) -> int:
    """The number of values from which on a change in the middle of a series can be told."""
    count = 2 * SHORTEST
    while not change_points([0.0] * (count // 2) + [1.0] * (count - count // 2), alpha):
        count += 1
    return count


def _split(values: Array, start: int, alpha: float, found: list[int]) -> None:
    """Adds the changes of a stretch that begins at `start` to `found`.

    Its parts share its alpha by their length, so that all of them together raise a false one with that probability.
    """
    count = len(values)
    if count < 2 * SHORTEST or (values == values[0]).all():
        return
    levels = _clipped(values)
    orders = np.random.default_rng(count).permuted(np.tile(levels, (PERMUTATIONS, 1)), axis=1)
    for stretches, share in ((_splits(count), OF_SPLITS), (_arcs(count), 1 - OF_SPLITS)):
        if not len(stretches):
            return
        size, best = _largest(levels[None], stretches)
        reached = _largest(orders, stretches)[0] >= size * (1 - 1e-9)
        if (reached.sum() + 1) / (PERMUTATIONS + 1) <= alpha * share:
            break
    else:
        return
    left, right = stretches[best[0]]
    cuts = [0, *(int(cut) for cut in (left, right) if 0 < cut < count), count]
    found += [start + cut for cut in cuts[1:-1]]
    for begin, end in pairwise(cuts):
        _split(values[begin:end], start + begin, alpha * (end - begin) / count, found)


def _kept(values: Array, cuts: list[int], alpha: float) -> tuple[int, ...]:
    """The cuts whose two sides differ by themselves; the least certain goes first, as its neighbours then grow.

    A stretch has two ends, of which one may be an accident.
    """
    while cuts:
        edges = [0, *cuts, len(values)]
        p = [_p_of_sides(values[a:b], values[b:c]) for a, b, c in zip(edges, edges[1:], edges[2:], strict=False)]
        worst = int(np.argmax(p))
        if p[worst] <= alpha:
            break
        cuts = cuts[:worst] + cuts[worst + 1 :]
    return tuple(cuts)


def _p_of_sides(before: Array, after: Array) -> float:
    """The p of a rank-sum test by permutations that two stretches have one level."""
    levels = _clipped(np.concatenate([before, after]))
    levels = levels - levels.mean()
    orders = np.random.default_rng(len(levels)).permuted(np.tile(levels, (PERMUTATIONS, 1)), axis=1)
    reached = np.abs(orders[:, : len(before)].sum(1)) >= abs(levels[: len(before)].sum()) * (1 - 1e-9)
    return float((reached.sum() + 1) / (PERMUTATIONS + 1))


def _largest(series: Array, stretches: Places) -> tuple[Array, Places]:
    """Of series (N, count) the largest standardised difference between a stretch and the rest, and which stretch.

    The difference is that of the sum from what is expected, over its standard deviation up to a factor that all orders
    of a series share.
    """
    left, right = stretches.T
    sums = np.cumsum(series - series.mean(1, keepdims=True), axis=1)
    sums = np.concatenate([np.zeros((len(series), 1)), sums], axis=1)
    inside = right - left
    sizes = np.abs(sums[:, right] - sums[:, left]) / np.sqrt(inside * (series.shape[1] - inside))
    best = sizes.argmax(1)
    return sizes[np.arange(len(series)), best], best


@cache
def _splits(count: int) -> Places:
    """The beginnings of a series of `count`, as (begin, end)."""
    return np.array([(0, j) for j in range(SHORTEST, count - SHORTEST + 1)]).reshape(-1, 2)


@cache
def _arcs(count: int) -> Places:
    """The stretches inside a series of `count`, as (begin, end)."""
    inside = range(SHORTEST, count - SHORTEST + 1)
    return np.array([(i, j) for i in inside for j in inside if j - i >= SHORTEST]).reshape(-1, 2)


def _clipped(values: Array) -> Array:
    """Values drawn in to `CLIP` times that distance from their median which three quarters of them keep.

    It does not depend on their order, so that the permutations stay fair. Of two levels half the values each lie as far
    off, which keeps both; a quarter may be spoilt. Where three quarters are equal nothing is drawn in.
    """
    middle = np.median(values)
    limit = CLIP * float(np.quantile(np.abs(values - middle), 0.75))
    return np.clip(values, middle - limit, middle + limit) if limit else values
