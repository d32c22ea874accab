"""From which edit size on the sparse engine no longer pays: between which measured edits the times cross."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Crossing:
    """Edited shares of the pixels, in percent, measured or bounds.

    `pays_at` is the largest measured edit up to which the engine is quicker at all of them, 0 where it is at none;
    `lost_at` the next one, 100 where there is none. `at` lies between, on the straight line through their times.
    """

    at: float
    pays_at: float
    lost_at: float


def crossing(sparse: Mapping[float, float], dense: float) -> Crossing:
    """Where times of edits, {edited percent: seconds}, cross a dense time. Raises ValueError without times."""
    if not sparse:
        raise ValueError("no edit was measured")
    points = sorted(sparse.items())
    lost = next((i for i, (_, seconds) in enumerate(points) if seconds >= dense), None)
    if lost is None:
        return Crossing(100.0, points[-1][0], 100.0)
    if lost == 0:
        return Crossing(0.0, 0.0, points[0][0])
    (left, quick), (right, slow) = points[lost - 1], points[lost]
    at = left if slow == quick else left + (right - left) * (dense - quick) / (slow - quick)
    return Crossing(at, left, right)
