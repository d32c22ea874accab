"""The symmetric chamfer distance of two edge pictures, as GAN Warping's evaluation computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gengauge.benchmarks.metrics.edges import EDGE, ELSEWHERE

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Chamfer:
    """A distance in px, or NaN with the reason why there is none."""

    value: float
    reason: str = ""


def symmetric_chamfer(a: Array, b: Array, region: Array | None = None) -> Chamfer:
    """The mean of both mean distances from the edges of one picture to the nearest edge of the other, in px.

    Pictures are (H, W) uint8, 0 on edges and 255 elsewhere; with a region, bool (H, W), only edges inside count, in the
    distances too. 0 for equal edges. Where a picture has no edge there is no distance: NaN, with the reason. (The
    published code gives NaN or 3.4e38 there, which no mean survives.)

    Raises ValueError for other arrays.
    """
    _check(a, b)
    if region is not None:
        if region.dtype != bool or region.shape != a.shape:
            raise ValueError(f"a region of these edges is bool {a.shape}, not {region.dtype} {region.shape}")
        a, b = (np.where(region, edges, np.uint8(ELSEWHERE)) for edges in (a, b))
    empty = [name for name, edges in (("first", a), ("second", b)) if not (edges == EDGE).any()]
    if empty:
        where = "picture" if region is None else "picture's region"
        return Chamfer(float("nan"), f"the {' and the '.join(empty)} {where} has no edge to measure from")
    both = (distances(y)[x == EDGE].mean() for x, y in ((a, b), (b, a)))
    return Chamfer(float(sum(both)) / 2)


def distances(edges: Array) -> Array:
    """The distance of each pixel to the nearest edge of an edge picture (H, W) uint8, in px: (H, W) float32.

    OpenCV's, of steps 1, 1.4 and 2.1969 in a mask of 5 px, up to 2 % off the Euclidean one. Without any edge the values
    mean nothing.
    """
    import cv2

    return np.asarray(cv2.distanceTransform(edges, cv2.DIST_L2, 5))


def _check(a: Array, b: Array) -> None:
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"chamfer compares two edge pictures (H, W) of one shape, not {a.shape} and {b.shape}")
    for edges in (a, b):
        if edges.dtype != np.uint8 or not np.isin(edges, (EDGE, ELSEWHERE)).all():
            raise ValueError(f"an edge picture is uint8 of {EDGE} on edges and {ELSEWHERE} elsewhere")
