"""Simulated strokes: a picture as one might paint it with a coarse brush and few colours.

Source: Meng et al. 2022, appendix D.2: a median filter of size 23 at 256 px, then six colours of an adaptive palette.
No code was published; read literally these are Pillow's filter and its median cut without dithering. The filter comes
first. Its result is exact everywhere; the palette's may differ between versions of Pillow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

Array = np.ndarray[Any, Any]
COLOURS = 6  # of tables 1 and 2; table 4 has 3, 6, 16, 30 and 50
# Size of the filter and width of the picture, as published.
PUBLISHED_SIZE, PUBLISHED_WIDTH = 23, 256


def filter_size(width: int) -> int:
    """The filter's size in pixels at a picture's width: the odd number nearest to 23/256 of it, at least 3.

    Raises ValueError for a width below 1.
    """
    if width < 1:
        raise ValueError(f"a picture is at least one pixel wide, not {width}")
    return max(3, 2 * (width * PUBLISHED_SIZE // (2 * PUBLISHED_WIDTH)) + 1)


def median(picture: Array, size: int) -> Array:
    """A picture (H, W, 3) uint8 whose every channel is the median of the size x size pixels around; borders repeat.

    Raises ValueError for another array, and for a size that is even or whose half reaches over a whole side.
    """
    _check_picture(picture)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the filter's size is odd and at least 1, not {size}")
    height, width = picture.shape[:2]
    if size // 2 >= min(height, width):
        raise ValueError(f"a filter of size {size} reaches over the whole of a picture of {height} x {width} pixels")
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).filter(ImageFilter.MedianFilter(size)))


def reduce_colours(picture: Array, colours: int) -> Array:
    """A picture (H, W, 3) uint8 in at most `colours` colours of its own, each pixel in the nearest; no dithering.

    Raises ValueError for another array, and for less than 1 or more than 256 colours.
    """
    _check_picture(picture)
    if not 1 <= colours <= 256:
        raise ValueError(f"a palette has 1 to 256 colours, not {colours}")
    whole = Image.fromarray(np.ascontiguousarray(picture))
    return np.array(whole.convert("P", palette=Image.Palette.ADAPTIVE, colors=colours).convert("RGB"))


def stroke(picture: Array, colours: int = COLOURS, size: int | None = None) -> Array:
    """The simulated stroke painting of a picture, both (H, W, 3) uint8.

    Without `size` the filter has that of the picture's width. Raises ValueError as `median` and `reduce_colours` do.
    """
    _check_picture(picture)
    return reduce_colours(median(picture, filter_size(picture.shape[1]) if size is None else size), colours)


def strokes(pictures: Tensor, colours: int = COLOURS, size: int | None = None) -> Tensor:
    """As `stroke`, of every picture of (N, 3, H, W) uint8, each with a palette of its own; on the same device.

    Raises ValueError for another tensor, and as `stroke` does.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"pictures are (N, 3, H, W) uint8, not {pictures.dtype} {tuple(pictures.shape)}")
    out = torch.empty_like(pictures, device="cpu")
    for painted, picture in zip(out, pictures.cpu(), strict=True):
        painted.copy_(torch.from_numpy(stroke(picture.permute(1, 2, 0).numpy(), colours, size)).permute(2, 0, 1))
    return out.to(pictures.device)


def _check_picture(picture: Array) -> None:
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ValueError(f"a picture is an array (H, W, 3) uint8, not {kind}")
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"a picture is (H, W, 3) uint8, not of shape {picture.shape}")
