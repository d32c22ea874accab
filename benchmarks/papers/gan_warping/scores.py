"""Edited pictures against their ground truth, as measurements of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gengauge.benchmarks.core.experiments import Measurement
from gengauge.benchmarks.core.tables import Column
from gengauge.benchmarks.metrics.edges import Detector
from gengauge.benchmarks.metrics.edit_fidelity import Convention, Fidelity, aggregate, edit_fidelity
from gengauge.reference.nets.lpips import LPIPS

Array = np.ndarray[Any, Any]
_WHERE = {"": "", "_changed": ", in the region that the edit changes", "_unchanged": ", in the region it must leave"}
_WHAT = {
    "psnr": ("PSNR of held-out pictures against their warped base", "dB", "higher"),
    "ssim": ("SSIM of held-out pictures against their warped base", "1", "higher"),
    "lpips": ("LPIPS (AlexNet) of held-out pictures against their warped base", "1", "lower"),
    "chamfer": ("Chamfer distance of edges (Canny) of held-out pictures to those of their warped base", "px", "lower"),
}


def columns(edges: str = "Canny") -> tuple[Column, ...]:
    """The twelve columns of the evaluation, by edges of a named detector."""
    return tuple(
        Column(metric + region, what.replace("(Canny)", f"({edges})") + where, unit, direction)  # type: ignore[arg-type]
        for metric, (what, unit, direction) in _WHAT.items()
        for region, where in _WHERE.items()
    )


def fidelities(
    edited: Array, targets: Array, masks: Array, lpips: LPIPS | None, edges: Detector | None
) -> list[Fidelity]:
    """Of each picture (N, H, W, 3) uint8 against its target, by masks (N, H, W) of [0, 1]."""
    return [edit_fidelity(a, b, mask, lpips, edges) for a, b, mask in zip(edited, targets, masks, strict=True)]


def measurements(
    row: str,
    found: Sequence[Fidelity],
    convention: Convention = "corrected",
    missing: Mapping[str, str] | None = None,
) -> Iterator[Measurement]:
    """A row's values, over pictures as the convention says; pictures without an edge are left out and counted.

    `missing` tells of columns that were not measured why.
    """
    told = aggregate(found)
    for column, value in told.values(convention).items():
        reason = told.reasons.get(column, "")
        if math.isfinite(value):
            last = convention == "published" and column.startswith("chamfer")
            note = "of the last picture, as the released evaluator reports it" if last else reason
            yield Measurement(row, column, value, samples=1 if last else told.counts[column], note=note)
        else:
            why = reason or f"it is {value}: some pictures are equal to their targets"
            yield Measurement(row, column, math.nan, missing=why)
    for column, why in (missing or {}).items():
        yield Measurement(row, column, math.nan, missing=why)
