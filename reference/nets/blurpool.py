"""Antialiased resampling: blurred strides and their transposed form (Zhang, ICML 2019), under CUT's buffer names.

Filters are binomial, one copy a channel in the buffer `filt` (C, 1, k, k), which published checkpoints hold.

A grouped convolution is slow on a CPU, most of all backwards. The filter is a product of a row with a column and so is
the edges' padding, hence up to `DENSE` px the same numbers, up to rounding, are two matrix products: R x C^T.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["reflect", "replicate", "constant"]
STRIDE = 2
DENSE = 160  # px; the products' work grows with the side


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
    published = False  # whether this is a grouped convolution wherever it runs

    def __init__(self, channels: int, size: int = 3, padding: Padding = "reflect") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.edges = ((size - 1) // 2, size // 2) * 2
        self.register_buffer("filt", binomial_filter(size).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.published and _is_dense(x):
            return _resampled(x, *(_down(side, self.filt.shape[2], self.padding) for side in x.shape[2:]))
        return F.conv2d(F.pad(x, self.edges, mode=self.padding), self.filt, stride=STRIDE, groups=x.shape[1])


class Upsample(nn.Module):
    """Spreads each pixel by the filter, whose sum is 4, two pixels apart: (N, C, H, W) to (N, C, 2 H, 2 W)."""

    filt: Tensor
    published = False

    def __init__(self, channels: int, size: int = 4, padding: Padding = "replicate") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.cropped = 1 + (size - 1) // 2
        self.register_buffer("filt", binomial_filter(size).repeat(channels, 1, 1, 1) * STRIDE**2)

    def forward(self, x: Tensor) -> Tensor:
        if not self.published and _is_dense(x):
            return _resampled(x, *(_up(side, self.filt.shape[2], self.padding) for side in x.shape[2:]))
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1), mode=self.padding)
        y = F.conv_transpose2d(padded, self.filt, stride=STRIDE, padding=self.cropped, groups=x.shape[1])
        return y[:, :, 1 : 1 + STRIDE * height, 1 : 1 + STRIDE * width]


def _is_dense(x: Tensor) -> bool:
    """Whether the products are worth it; a compiler would keep the matrices that it traces with."""
    return x.is_cpu and x.dtype == torch.float32 and max(x.shape[2:]) <= DENSE and not torch.compiler.is_compiling()


def _resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (N, C, H, W) by matrices (h, H) and (w, W) to (N, C, h, w)."""
    return rows @ (x @ columns.T)


def _row(size: int) -> Tensor:
    """The filter along one side (1, 1, size), of sum 1."""
    return binomial_filter(size).sum(0).view(1, 1, size)


@lru_cache(maxsize=64)
def _down(side: int, size: int, padding: Padding) -> Tensor:
    """What `Downsample` does along a side, as a matrix (ceil(side / 2), side)."""
    with torch.inference_mode(False), torch.no_grad():
        pixels = F.pad(torch.eye(side)[:, None], ((size - 1) // 2, size // 2), mode=padding)
        return F.conv1d(pixels, _row(size), stride=STRIDE)[:, 0].T.contiguous()


@lru_cache(maxsize=64)
def _up(side: int, size: int, padding: Padding) -> Tensor:
    """What `Upsample` does along a side, as a matrix (2 side, side)."""
    with torch.inference_mode(False), torch.no_grad():
        pixels = F.pad(torch.eye(side)[:, None], (1, 1), mode=padding)
        spread = F.conv_transpose1d(pixels, _row(size) * STRIDE, stride=STRIDE, padding=1 + (size - 1) // 2)
        return spread[:, 0, 1 : 1 + STRIDE * side].T.contiguous()
