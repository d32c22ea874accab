"""Leakage: how many pictures carry the marks of translation or cutout, set between untouched and augmented reals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.12
CONTRAST = 0.2


def marked(pictures: Tensor) -> Tensor:
    """Which pictures (N, 3, H, W) in [-1, 1] show fill, that is zeros: (N,) bool.

    A quarter-by-quarter window, the least that cutout leaves inside a corner, or a whole line of pixels at the border,
    which a translation empties, counts as fill where its mean distance from 0 (of the largest channel) is at most
    0.12 and at most a fifth of the whole picture's. The second condition keeps pictures of low contrast, blurred ones
    and the mean of all pictures from counting as marked.
    """
    size = pictures.shape[2] // 4, pictures.shape[3] // 4
    distance = pictures.abs().amax(1)
    whole = distance.mean((1, 2))
    windows = F.avg_pool2d(distance[:, None], size, stride=1).flatten(1).amin(1)
    lines = torch.stack(
        [line.mean(1) for line in (distance[:, 0], distance[:, -1], distance[:, :, 0], distance[:, :, -1])]
    )
    least = torch.minimum(windows, lines.amin(0))
    return (least < TOLERANCE) & (least < CONTRAST * whole)


def leakage(samples: Tensor, reals: Tensor, augmented: Tensor) -> float:
    """The share of marked samples on a scale where `reals` are at 0 and their augmented versions at 1.

    Near 0: samples look like untouched pictures; near 1: like augmented ones; below 0: fewer marks than reals have.
    Raises ValueError where the marks do not tell augmented pictures from untouched ones.
    """
    share, low, high = (float(marked(p).float().mean()) for p in (samples, reals, augmented))
    if high - low < 0.5:
        raise ValueError(
            f"marks are on {low:.0%} of untouched and {high:.0%} of augmented pictures: they tell nothing here"
        )
    return (share - low) / (high - low)
