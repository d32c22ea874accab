"""Antialiased resampling: blurred strides and their transposed form (Zhang, ICML 2019), under CUT's buffer names.

Filters are binomial, one copy a channel in the buffer `filt` (C, 1, k, k), which published checkpoints hold.
"""

from __future__ import annotations

from math import comb
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["reflect", "replicate", "constant"]
STRIDE = 2


def binomial_filter(size: int) -> Tensor:
    """The outer product of a row of Pascal's triangle with itself, of sum 1: (size, size) float32.

    Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a filter has at least one tap, not {size}")
    taps = torch.tensor([comb(size - 1, i) for i in range(size)], dtype=torch.float32)
    f = taps.outer(taps)
    return f / f.sum()


class Downsample(nn.Module):
    """Blurs and keeps every second pixel: (N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2))."""

    filt: Tensor

    def __init__(self, channels: int, size: int = 3, padding: Padding = "reflect") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.edges = ((size - 1) // 2, size // 2) * 2
        self.register_buffer("filt", binomial_filter(size).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, self.edges, mode=self.padding), self.filt, stride=STRIDE, groups=x.shape[1])


class Upsample(nn.Module):
    """Spreads each pixel by the filter, whose sum is 4, two pixels apart: (N, C, H, W) to (N, C, 2 H, 2 W)."""

    filt: Tensor

    def __init__(self, channels: int, size: int = 4, padding: Padding = "replicate") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.cropped = 1 + (size - 1) // 2
        self.register_buffer("filt", binomial_filter(size).repeat(channels, 1, 1, 1) * STRIDE**2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1), mode=self.padding)
        y = F.conv_transpose2d(padded, self.filt, stride=STRIDE, padding=self.cropped, groups=x.shape[1])
        return y[:, :, 1 : 1 + STRIDE * height, 1 : 1 + STRIDE * width]
