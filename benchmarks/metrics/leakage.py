"""Leakage: how many pictures carry the marks of translation or cutout, set between untouched and augmented reals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.12


def marked(pictures: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Which pictures (N, 3, H, W) in [-1, 1] show fill: (N,) bool.

    A quarter-by-quarter window, the least that cutout leaves inside a corner, or a whole line of pixels at the border,
    which a translation empties, counts as fill where it lies within `tolerance` of 0 on average (largest channel).
    """
    size = pictures.shape[2] // 4, pictures.shape[3] // 4
    distance = pictures.abs().amax(1, keepdim=True)
    windows = F.avg_pool2d(distance, size, stride=1).flatten(1).amin(1)
    distance = distance[:, 0]
    lines = torch.stack(
        [distance[:, 0].mean(1), distance[:, -1].mean(1), distance[:, :, 0].mean(1), distance[:, :, -1].mean(1)]
    )
    return (windows < tolerance) | (lines.amin(0) < tolerance)


def leakage(samples: Tensor, reals: Tensor, augmented: Tensor) -> float:
    """The share of marked samples on a scale where `reals` are at 0 and their augmented versions at 1.

    Near 0: samples look like untouched pictures; near 1: like augmented ones; below 0: fewer marks than reals have.
    Raises ValueError where the marks do not tell augmented pictures from untouched ones.
    """
    low, high = marked(reals).double().mean(), marked(augmented).double().mean()
    if high - low < 0.5:
        raise ValueError(
            f"marks are on {low:.0%} of untouched and {high:.0%} of augmented pictures: they tell nothing here"
        )
    return float((marked(samples).double().mean() - low) / (high - low))
