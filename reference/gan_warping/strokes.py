"""Strokes of colour on a generator's picture: what a painted layer asks for (the published colour interface).

Fully opaque pixels are drawn. Those of the grey #808080 say what must stay as it is; all other drawn ones want their
colour, and what is not drawn is free.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

GREY = 128
_SIDE = 5  # px of the square that the edges of strokes are cleaned with


class Strokes(NamedTuple):
    """`color` (H, W, 3) uint8, 0 where none is wanted; `color_mask` and `background_mask` (H, W) uint8, 0 or 1."""

    color: np.ndarray[Any, Any]
    color_mask: np.ndarray[Any, Any]
    background_mask: np.ndarray[Any, Any]


def read_strokes(rgba: np.ndarray[Any, Any]) -> Strokes:
    """What a painted layer (H, W, 4) uint8, RGBA, asks for.

    The grey counts whether it is opaque or not, and holes in it of less than 5 x 5 px are filled; of the colours what
    is narrower than 5 px is left out, for it comes from the blended edges between two strokes. Raises ValueError for
    another shape or kind.
    """
    if rgba.dtype != np.uint8 or rgba.ndim != 3 or rgba.shape[2] != 4 or not rgba.size:
        raise ValueError(f"strokes are uint8 (H, W, 4), red, green, blue and opacity, not {rgba.dtype} {rgba.shape}")
    square = np.ones((_SIDE, _SIDE), np.uint8)
    drawn = (rgba[..., 3] == 255).astype(np.uint8)
    grey = (rgba[..., :3] == GREY).all(2).astype(np.uint8)
    # Outside of the picture is neither: it does not shrink what it borders on, nor does it grow into it.
    background = np.asarray(cv2.erode(cv2.dilate(grey, square), square))
    coloured = np.asarray(cv2.dilate(cv2.erode(drawn ^ (background & drawn), square), square))
    wanted = drawn & coloured
    return Strokes(rgba[..., :3] * wanted[..., None], wanted, background)
