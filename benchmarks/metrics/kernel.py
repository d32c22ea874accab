"""Kernel distance (KID where the features are Inception's): unbiased squared MMD with a cubic polynomial kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Z95 = 1.959964
JACKKNIFE_LIMIT = 5000


@dataclass(frozen=True)
class KernelDistance:
    """The distance with a 95 % interval from the jackknife over pictures (normal approximation)."""

    value: float
    low: float
    high: float


def mmd2(real: Array, fake: Array, paired: bool = False) -> float:
    """The unbiased estimate of squared MMD over all pairs of features (N, D) and (M, D); it can be below 0.

    Binkowski et al. 2018, equation 4. Where fake picture i was made from real picture i, that estimate is too low, for
    a picture is nearer to its source than to others; `paired` leaves these N terms out (Gretton et al. 2012, equation
    4). Raises ValueError for fewer than two features on a side, differing dimensions, values not finite, or pairs that
    do not match.
    """
    _check(real, fake, paired)
    x, y = real.astype(np.float64, copy=False), fake.astype(np.float64, copy=False)
    n, m = len(x), len(y)
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    between = (xy.sum() - np.trace(xy)) / (n * (n - 1)) if paired else xy.mean()
    return float(within - 2 * between)


def kernel_distance(real: Array, fake: Array, indices: Sequence[tuple[Array, Array]]) -> float:
    """Mean of the unbiased estimates over subsets, each given as (indices into real, indices into fake).

    Features (N, D) and (M, D); Binkowski et al. 2018, equation 4. Both indices of a subset must be of one length.
    """
    return float(np.mean([mmd2(real[r], fake[f]) for r, f in indices]))


def draw_subsets(
    real: int, fake: int, generator: np.random.Generator, subsets: int = 100, size: int = 1000
) -> list[tuple[Array, Array]]:
    """clean-fid's protocol: `subsets` pairs of min(real, fake, size) indices, without replacement inside a subset."""
    size = min(real, fake, size)
    return [
        (generator.choice(real, size, replace=False), generator.choice(fake, size, replace=False))
        for _ in range(subsets)
    ]


def kid(real: Array, fake: Array, seed: int = 0, paired: bool = False) -> KernelDistance:
    """Kernel distance with a 95 % interval.

    Where neither side has more than 1,000 pictures all are used at once; else it is clean-fid's protocol, the mean of
    100 random subsets of at most 1,000, and the interval has their scatter in it. `paired` says that fake picture i was
    made from real picture i, as strokes are from a validation set: value and interval then take the two together, as
    `mmd2` does. The interval is NaN for fewer than three features on a side. Raises ValueError for fewer than two,
    differing dimensions, values not finite, or pairs that do not match.
    """
    _check(real, fake, paired)
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    generator = np.random.default_rng(seed)
    error = jackknife_error(real, fake, generator, paired)
    if len(real) <= 1000 and len(fake) <= 1000:
        value = mmd2(real, fake, paired)
    else:
        subsets = draw_subsets(len(real), len(fake), generator)
        estimates = [mmd2(real[r], fake[r if paired else f], paired) for r, f in subsets]
        value = float(np.mean(estimates))
        error = float(np.hypot(error, np.std(estimates, ddof=1) / np.sqrt(len(estimates))))
    return KernelDistance(value, value - Z95 * error, value + Z95 * error)


def jackknife_error(
    real: Array, fake: Array, generator: np.random.Generator | None = None, paired: bool = False
) -> float:
    """Standard error of the unbiased estimate: leave out each picture of either side in turn, or each pair.

    Takes at most 5,000 pictures of a side, drawn at random (their kernel matrix must fit in memory), and scales the
    error down for the rest. Each leave-one-out estimate follows from the row sums of the kernel matrices. Raises
    ValueError as `mmd2`.
    """
    _check(real, fake, paired)
    scale = np.sqrt([min(1.0, JACKKNIFE_LIMIT / len(x)) for x in (real, fake)])
    generator = generator or np.random.default_rng(0)
    first = generator.permutation(len(real))[:JACKKNIFE_LIMIT]
    second = first if paired else generator.permutation(len(fake))[:JACKKNIFE_LIMIT]
    x, y = real[first], fake[second]
    n, m = len(x), len(y)
    if min(n, m) < 3:
        return float("nan")
    xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)
    xx_left = (xx.sum() - 2 * xx.sum(1)) / ((n - 1) * (n - 2))
    yy_left = (yy.sum() - 2 * yy.sum(1)) / ((m - 1) * (m - 2))
    if paired:
        np.fill_diagonal(xy, 0)
        between = (xy.sum() - xy.sum(1) - xy.sum(0)) / ((n - 1) * (n - 2))
        return float(np.sqrt(_spread(xx_left + yy_left - 2 * between)) * scale[0])
    without_x = xx_left - 2 * (xy.sum() - xy.sum(1)) / ((n - 1) * m)
    without_y = yy_left - 2 * (xy.sum() - xy.sum(0)) / (n * (m - 1))
    return float(np.hypot(*np.sqrt([_spread(without_x), _spread(without_y)]) * scale))


def _spread(left: Array) -> float:
    """The jackknife's variance, from the estimates without each part."""
    return float((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())


def _check(real: Array, fake: Array, paired: bool = False) -> None:
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise ValueError(f"KID needs finite {name} features of shape (N >= 2, D), not {features.shape}")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"the features have {real.shape[1]} and {fake.shape[1]} dimensions; extract both alike")
    if paired and len(real) != len(fake):
        raise ValueError(f"{len(real)} and {len(fake)} pictures are no pairs")


def _kernel(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + 1) ** 3
