"""The tiles of a convolution, and which of them an edit touches (the released code's Gather, `sige/nn/gather.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.kernels.tiles import tile_indices


@dataclass(frozen=True)
class Tiling:
    """A grid of tiles before a convolution of that kernel, stride and padding; `block` is the edge that was asked for.

    A tile gives `tile` outputs along an edge; its input window is `window` wide; windows begin every `step` pixels.
    """

    block: int
    kernel: int
    stride: int
    padding: int

    @property
    def tile(self) -> int:
        """Outputs of a tile, along an edge."""
        return max(self.block - self.kernel, 0) // self.stride + 1

    @property
    def window(self) -> int:
        """Inputs of a tile, along an edge: what its outputs need, at most `block` where that fits."""
        return (self.tile - 1) * self.stride + self.kernel

    @property
    def step(self) -> int:
        """Distance between windows: they overlap, their outputs do not."""
        return self.tile * self.stride

    def corners(self, mask: Tensor) -> Tensor:
        """Top left outputs (n, 2) int32 of the tiles whose windows hold a pixel of the mask (H, W) of the input."""
        windows = tile_indices(mask, self.window, self.step, self.padding)
        return ((windows + self.padding) // self.stride).contiguous()


def grid(size: tuple[int, int], tile: int, device: torch.device) -> Tensor:
    """Top left corners (n, 2) int32 of all tiles of a map (H, W)."""
    rows, columns = (torch.arange(0, n, tile, dtype=torch.int32, device=device) for n in size)
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)
