"""PCK: the share of key points that a transfer from one picture to another puts near their truth, in percent.

Every rule that the tables need is a choice of the caller: the length that a distance is set against (the longer side of
the object's box as SPair-71k has it, or of the picture as CUB has it), one way or both, the mean over points as in
GANgealing (Peebles et al. 2022) or over pairs of pictures as in other papers. How points are transferred, and whether a
picture is mirrored for it, is not decided here. Coordinates are in px, (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Array = np.ndarray[Any, Any]
Average = Literal["points", "pairs"]
Labels = Literal["published", "corrected"]
ALPHAS = (0.1, 0.05, 0.01)


@dataclass(frozen=True, eq=False)
class Hits:
    """Of n pairs of pictures: `correct` int64 (n, A), the points put right for each alpha; `counted` int64 (n,)."""

    correct: Array
    counted: Array

    def __post_init__(self) -> None:
        if self.correct.ndim != 2 or self.counted.shape != self.correct.shape[:1]:
            raise ValueError(f"hits are (n, A) of (n,), not {self.correct.shape} of {self.counted.shape}")

    def __add__(self, other: Hits) -> Hits:
        """The same pairs transferred both ways. Raises ValueError for other pairs or alphas."""
        if self.correct.shape != other.correct.shape:
            raise ValueError(f"hits of {self.correct.shape} and {other.correct.shape} are of other pairs or alphas")
        return Hits(self.correct + other.correct, self.counted + other.counted)

    def __len__(self) -> int:
        return len(self.counted)

    def of(self, pairs: Array | slice) -> Hits:
        """Some of the pairs."""
        return Hits(self.correct[pairs], self.counted[pairs])


def hits(
    estimated: Array, truth: Array, visible: Array, lengths: Array | float, alphas: tuple[float, ...] = ALPHAS
) -> Hits:
    """How many points lie at most alpha times a length from their truth.

    `estimated`, `truth`: (n, P, 2); `visible`: (n, P), not 0 where a point is in both pictures; `lengths` in px: one,
    or one a pair (n,). Raises ValueError for other shapes, for lengths or alphas that are not above 0, for a point
    that counts and is nowhere (NaN), and where no pair has a point.
    """
    estimated, truth = np.asarray(estimated, np.float32), np.asarray(truth, np.float32)
    counts = np.asarray(visible) != 0
    if estimated.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 2 or counts.shape != truth.shape[:2]:
        shapes = f"{estimated.shape}, {truth.shape} and {counts.shape}"
        raise ValueError(f"points are two of (n, P, 2) and their visibility (n, P), not {shapes}")
    limits = np.multiply.outer(_lengths(lengths, len(truth)), np.asarray(alphas, np.float32))  # (n, A)
    if not limits.size or not (limits > 0).all():
        raise ValueError(f"alphas are numbers above 0, not {alphas}")
    distances = np.sqrt(np.square(estimated - truth).sum(2))
    if not np.isfinite(distances[counts]).all():
        raise ValueError("a point that counts has no place; were its coordinates NaN?")
    if not counts.any():
        raise ValueError("no pair of pictures has a key point in common, so that there is nothing to measure")
    near = (distances[:, :, None] <= limits[:, None]) & counts[:, :, None]
    return Hits(near.sum(1, dtype=np.int64), counts.sum(1, dtype=np.int64))


def pck(found: Hits, average: Average = "points") -> Array:
    """PCK in percent for each alpha, float64 (A,).

    "points": all points of all pairs alike, as published. "pairs": the mean of each pair's own PCK over the pairs that
    have a point. Raises ValueError where there is no point.
    """
    _check_average(average)
    if not found.counted.sum():
        raise ValueError("no pair of pictures has a key point in common, so that there is nothing to measure")
    if average == "points":
        return 100 * found.correct.sum(0) / found.counted.sum()
    some = found.counted > 0
    return 100 * (found.correct[some] / found.counted[some, None]).mean(0)


def box_lengths(boxes: Array, scales: Array | float = 1.0) -> Array:
    """SPair's lengths (n,): the longer sides of boxes (n, 4), corners x, y, x, y, in px of pictures scaled by `scales`.

    Raises ValueError for boxes of another shape or without a size.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are (n, 4), not {boxes.shape}")
    return _lengths((boxes[:, 2:] - boxes[:, :2]).max(1) * np.asarray(scales), len(boxes))


def relabelled(
    points: Array,
    visible: Array,
    permutation: Array | None,
    mirrored_source: Array,
    mirrored_target: Array,
    labels: Labels = "published",
) -> tuple[Array, Array]:
    """The source's points (n, P, 2) and their visibility (n, P) where a picture of a pair is mirrored, bool (n,) each.

    What was the left ear then is the right one: labels are permuted, once for each mirrored picture. The published
    code leaves the visibility as it was, so that a point counts that the source does not have, at (0, 0), and another
    does not count. "corrected" permutes both. Without a permutation nothing changes. Coordinates are not mirrored here.

    Raises ValueError for a permutation of another length.
    """
    if labels not in get_args(Labels):
        raise ValueError(f"labels are {' or '.join(get_args(Labels))}, not {labels!r}")
    points, visible = np.array(points), np.array(visible)
    if permutation is None:
        return points, visible
    order = np.asarray(permutation)
    if sorted(order.tolist()) != list(range(points.shape[1])):
        raise ValueError(f"{order.tolist()} is no permutation of {points.shape[1]} key points")
    for mirrored in (np.asarray(mirrored_source, bool), np.asarray(mirrored_target, bool)):
        points[mirrored] = points[mirrored][:, order]
        if labels == "corrected":
            visible[mirrored] = visible[mirrored][:, order]
    return points, visible


@dataclass(frozen=True, eq=False)
class Spread:
    """What re-sampling the pairs does to PCK in percent: standard deviation and interval for each alpha, (A,) each."""

    deviation: Array
    low: Array
    high: Array
    resamples: int


def bootstrap(
    found: Hits,
    random: np.random.Generator,
    resamples: int = 1000,
    confidence: float = 0.95,
    average: Average = "points",
) -> Spread:
    """The spread of PCK over re-samplings of the pairs with replacement; the deviation is the one that is published.

    The interval is that of the percentiles. A re-sampling without any point is left out. Raises ValueError for fewer
    than 2 re-samplings, for a confidence outside 0 to 1 and where there is no point.
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"a spread needs 2 re-samplings and a confidence within 0 and 1, not {resamples}, {confidence}"
        )
    pck(found, average)
    values = []
    for _ in range(resamples):
        sample = found.of(random.integers(len(found), size=len(found)))
        if sample.counted.any():
            values.append(pck(sample, average))
    if len(values) < 2:
        raise ValueError("too few re-samplings have a point; give more pairs")
    low, high = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)], axis=0)
    return Spread(np.std(values, axis=0, ddof=1), low, high, len(values))


def _lengths(lengths: Array | float, count: int) -> Array:
    """One length a pair, float32 (n,)."""
    found = np.asarray(lengths, np.float32)
    if found.shape not in ((), (count,)) or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"lengths are numbers of px above 0, one or {count}, not {found}")
    return np.broadcast_to(found, (count,))


def _check_average(average: str) -> None:
    if average not in get_args(Average):
        raise ValueError(f"the mean is over {' or '.join(get_args(Average))}, not {average!r}")
