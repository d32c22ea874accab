"""Peak signal-to-noise ratio of 8-bit pictures, of the whole or of an edit's pixels."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

Array = np.ndarray[Any, Any]
MASK_THRESHOLD = 0.3


def psnr(
    a: Array,
    b: Array,
    mask: Array | None = None,
    *,
    selection: Literal["pixels", "transposed"] = "pixels",
    identical: Literal["infinite", "one-level"] = "infinite",
) -> float:
    """10 log10(255^2 / mean squared difference), in dB, of pictures (H, W, 3) uint8; with a mask of its pixels only.

    Pictures of different sizes are both reduced to the smaller height and width, and the mask bool (h, w) of any size
    to theirs, by nearest neighbours. Identical pictures have the ratio infinity, or with "one-level" that of pictures
    that differ by one grey level in one value, which is how SIGE's GauGAN script keeps a mean finite.

    `selection` "transposed" is what SIGE's scripts do with a mask: they resample it to (W, H) and lay it row by row on
    the (H, W) pixels. In a square picture nothing changes; in another the pixels measured are not the edited ones.

    Raises ValueError for other arrays, and for a mask that selects nothing.
    """
    a, b = to_common_size(a, b)
    if mask is not None:
        height, width = a.shape[:2]
        chosen = _resampled(mask, (height, width) if selection == "pixels" else (width, height)).reshape(-1)
        if not chosen.any():
            raise ValueError("the mask selects no pixel, so there is nothing to compare")
        a, b = a.reshape(-1, 3)[chosen], b.reshape(-1, 3)[chosen]
    error = float(np.square(a.astype(np.float64) - b).mean())
    if error == 0 and identical == "infinite":
        return math.inf
    return 10 * math.log10(255**2 / (error or 1 / a.size))


def to_common_size(a: Array, b: Array) -> tuple[Array, Array]:
    """Two pictures (H, W, 3) uint8, both taken to the smaller height and width by nearest neighbours. ValueError."""
    for picture in (a, b):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"a picture is uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    return _nearest(a, height, width), _nearest(b, height, width)


def _nearest(picture: Array, height: int, width: int) -> Array:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))


def _resampled(mask: Array, size: tuple[int, int]) -> Array:
    if mask.dtype.kind not in "biuf" or mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask is (H, W) of bool or numbers, not {mask.dtype} {mask.shape}")
    resampled = F.interpolate(torch.from_numpy(np.array(mask, np.float32))[None, None], size)
    return (resampled[0, 0] > MASK_THRESHOLD).numpy()
