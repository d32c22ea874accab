"""Pictures of the report: rows of base, wanted and edited samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from gengauge.benchmarks.pictures import grid

Array = np.ndarray[Any, Any]
SMALLEST = 128  # px of a picture in the report, which others are zoomed to


def sheet(rows: Array) -> Array:
    """Rows of pictures (rows, N, R, R, 3) uint8 as one (H, W, 3) uint8."""
    count, columns, side = rows.shape[:3]
    flat = rows.reshape(count * columns, *rows.shape[2:]).transpose(0, 3, 1, 2)
    return grid(flat, columns, max(1, SMALLEST // side))
