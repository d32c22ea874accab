"""Fitting pictures into squares as GANgealing prepares its data: scaled, padded or cropped, key points with them.

Sizes are in px, (width, height); a place is (x, y). Scaling is Lanczos. Source: the published preparation script.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from gengauge.datasets.sets import Array

Fit = Literal["center", "border", "zero", "small_side", "none"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """How a picture gets its place: `crop` (left, upper, side) of it, scaled to `scaled`, put at offsets into `out`.

    `scale` times a place in the original plus the offsets is its place in the result. For a crop, offsets are negative.
    """

    scaled: Size
    out: Size
    offset_x: float = 0.0
    offset_y: float = 0.0
    scale: float = 1.0
    crop: tuple[int, int, int] | None = None

    def moved(self, points: Array) -> Array:
        """Key points (P, 3), x, y and visibility, in the result, float32; invisible ones are put to (0, 0)."""
        points = np.asarray(points, np.float32)
        found = points.copy()
        found[:, :2] = points[:, :2] * np.float32(self.scale) + np.array([self.offset_x, self.offset_y], np.float32)
        found[points[:, 2] == 0, :2] = 0
        return found


def frame(size: Size, target: int | None, fit: Fit) -> Frame:
    """How a picture of `size` becomes a square of `target` px.

    - center: its largest central square, scaled
    - border, zero: its longer side scaled to `target` (None: not scaled), padded with its own edges or with black
    - small_side: its shorter side scaled to `target`; no square
    - none: as it is

    Raises ValueError for another way, and for a target that is missing or below 1.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"pictures are fitted by {', '.join(get_args(Fit))}, not {fit!r}")
    width, height = size
    longer, shorter = max(size), min(size)
    if fit == "none":
        return Frame(size, size)
    if target is None and fit in ("center", "small_side"):
        raise ValueError(f"pictures cannot be fitted by {fit!r} without a size")
    side = longer if target is None else target
    if side < 1:
        raise ValueError(f"a size is a number of px above 0, not {side}")
    if fit == "center":
        left, top, scale = (width - shorter) // 2, (height - shorter) // 2, side / shorter
        return Frame((side, side), (side, side), -left * scale, -top * scale, scale, (left, top, shorter))
    if fit == "small_side":  # whole px by cutting off, unlike below
        scaled = width * side // shorter, height * side // shorter
        return Frame(scaled, scaled, scale=side / shorter)
    scale = side / longer
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    return Frame((wide, high), (side, side), (side - wide) // 2, (side - high) // 2, scale)


def fitted(picture: Image.Image, target: int | None, fit: Fit) -> Array:
    """The picture, in the way that `frame` tells of, as uint8 (H, W, 3). Raises ValueError as `frame` does."""
    how = frame(picture.size, target, fit)
    picture = picture.convert("RGB")
    if how.crop is not None:
        left, top, side = how.crop
        picture = picture.crop((left, top, left + side, top + side))
    if picture.size != how.scaled:
        picture = picture.resize(how.scaled, Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    if how.scaled == how.out:
        return pixels
    left, top = int(how.offset_x), int(how.offset_y)
    room = ((top, how.out[1] - how.scaled[1] - top), (left, how.out[0] - how.scaled[0] - left), (0, 0))
    return np.pad(pixels, room, mode="edge" if fit == "border" else "constant")
