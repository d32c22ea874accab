"""Warping pictures: sampling grids, mipmaps against aliasing, halving with a tent filter.

A grid (N, H, W, 2) holds for each output pixel the place (x, y) in the source, [-1, 1] from edge to edge of the picture
(`align_corners=False`). Source: Peebles et al., CVPR 2022, section 3 and appendix; mipmaps after Williams, 1983.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2.layers import FIR
from gengauge.reference.nets.stylegan2.ops import setup_filter

Padding = Literal["zeros", "border", "reflection"]
MAX_NUM_LEVELS = 3.5  # so that no pixel is read from beyond level 2.5
OUTSIDE = 0.025  # the share of samples beyond the picture from which on a warp counts as leaving it


def affine_grid(matrix: Tensor, size: int) -> Tensor:
    """The grid (N, size, size, 2) of matrices (N, 2, 3) that map output places to source places."""
    return F.affine_grid(matrix, [len(matrix), 1, size, size], align_corners=False)


def identity_grid(size: int, like: Tensor | None = None) -> Tensor:
    """The grid (1, size, size, 2) that leaves a picture as it is, in the type and on the device of `like`."""
    matrix = torch.eye(2, 3) if like is None else torch.eye(2, 3, device=like.device, dtype=like.dtype)
    return affine_grid(matrix[None], size)


def resize_grid(grid: Tensor, size: int) -> Tensor:
    """A grid (N, H, H, 2) at another resolution, bilinearly."""
    if grid.shape[1] == size:
        return grid
    moved = F.interpolate(grid.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def warp(source: Tensor, grid: Tensor, padding_mode: Padding = "border") -> Tensor:
    """A picture (N, C, H, W) at the places of a grid (N, h, w, 2): (N, C, h, w), bilinearly, with aliasing."""
    return F.grid_sample(source, grid, "bilinear", padding_mode, align_corners=False)


def mip_levels(grid: Tensor, size: int, max_num_levels: float = MAX_NUM_LEVELS, min_level: float = 0.0) -> Tensor:
    """The fractional mip level (N, h, w) of each place: log2 of the largest distance, in px, to its four neighbours.

    Places are counted as with aligned corners; distances below one pixel count as one.
    """
    places = (grid + 1) * ((size - 1) / 2)
    down = (places[:, 1:] - places[:, :-1]).norm(dim=-1)
    right = (places[:, :, 1:] - places[:, :, :-1]).norm(dim=-1)
    # At the edges a neighbour is the pixel itself, at distance 0.
    around = (F.pad(down, (0, 0, 0, 1)), F.pad(down, (0, 0, 1, 0)), F.pad(right, (0, 1)), F.pad(right, (1, 0)))
    furthest = torch.stack(around).clamp(min=1).amax(0)
    return furthest.log2().clamp(min_level, max_num_levels - 1)


def mipmap(image: Tensor, num_levels: int, blur_filter: Tensor) -> Tensor:
    """(N, C, S, S) to (N, C, num_levels, S, S): the picture, and each halving of it at the size of the picture.

    A side that is no power of two is filled up by reflection first. Raises ValueError for pictures that are not square.
    """
    channels, height, width = image.shape[1:]
    if height != width:
        raise ValueError(f"mipmaps are made of square pictures, not {height} x {width} px")
    full = 1 << (width - 1).bit_length()
    before = (full - width) // 2
    if full > width:
        image = F.pad(image, (before, full - width - before) * 2, mode="reflect")
    levels, level = [image], image
    for i in range(1, num_levels):
        if level.shape[-1] < 2:
            raise ValueError(f"a picture of {width} px has no {num_levels} mip levels")
        weight = blur_filter.expand(channels, 1, -1, -1)
        level = F.conv2d(F.pad(level, (1, 1, 1, 1), mode="reflect"), weight, stride=2, groups=channels)
        levels.append(F.interpolate(level, scale_factor=2**i, mode="bilinear", align_corners=False))
    inside = slice(before, before + width)
    return torch.stack(levels, 2)[..., inside, inside]


class MipmapWarp(nn.Module):
    """A picture (N, C, S, S) at the places of a grid (N, h, w, 2), without aliasing: (N, C, h, w).

    Where the grid shrinks, pixels are mixed of the two mip levels about their own. The gradient flows through the level
    as well.
    """

    blur_filter: Tensor

    def __init__(self, max_num_levels: float = MAX_NUM_LEVELS, min_level: float = 0.0) -> None:
        super().__init__()
        self.max_num_levels, self.min_level = max_num_levels, min_level
        self.register_buffer("blur_filter", setup_filter(FIR)[None, None])

    def forward(self, source: Tensor, grid: Tensor, padding_mode: Padding = "border") -> Tensor:
        if len(source) != len(grid):
            raise ValueError(f"{len(source)} pictures cannot be warped by {len(grid)} grids")
        if source.shape[2] != source.shape[3]:
            raise ValueError(f"pictures to warp are square, not {source.shape[2]} x {source.shape[3]} px")
        levels = mip_levels(grid, source.shape[-1], self.max_num_levels, self.min_level)
        count = math.ceil(levels.detach().max().item()) + 1
        if count == 1:
            return warp(source, grid, padding_mode)
        n, channels = source.shape[:2]
        stack = mipmap(source, count, self.blur_filter).flatten(1, 2)
        sampled = warp(stack, grid, padding_mode).view(n, channels, count, *grid.shape[1:3])
        lower = levels.detach().floor()
        share = (levels - lower)[:, None]
        return torch.lerp(_taken(sampled, lower), _taken(sampled, lower + (share[:, 0] > 0)), share)


def _taken(sampled: Tensor, levels: Tensor) -> Tensor:
    """Of (N, C, L, h, w) the level (N, h, w) of each pixel: (N, C, h, w)."""
    index = levels.long()[:, None, None].expand(-1, sampled.shape[1], 1, -1, -1)
    return sampled.gather(2, index)[:, :, 0]


class BilinearDownsample(nn.Module):
    """(N, C, H, W) to (N, C, H / stride, W / stride) with a tent of 2 stride taps, edges reflected.

    `stride` is even; the sides are multiples of it.
    """

    kernel_horz: Tensor
    kernel_vert: Tensor

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        if stride < 2 or stride % 2:
            raise ValueError(f"a tent makes pictures smaller by 2, 4, 6, ..., not by {stride}")
        self.stride, self.channels = stride, channels
        rising = torch.arange(1, 2 * stride, 2, dtype=torch.float32)
        taps = torch.cat([rising, rising.flip(0)])
        taps = (taps / taps.sum()).expand(channels, 1, 1, -1)
        self.register_buffer("kernel_horz", taps.clone())
        self.register_buffer("kernel_vert", taps.transpose(2, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        if any(side % self.stride for side in x.shape[2:]):
            raise ValueError(f"sides of {x.shape[2]} x {x.shape[3]} px are no multiples of {self.stride}")
        edge = self.stride // 2
        x = F.pad(x, (edge,) * 4, mode="reflect")
        x = F.conv2d(x, self.kernel_horz, stride=(1, self.stride), groups=self.channels)
        return F.conv2d(x, self.kernel_vert, stride=(self.stride, 1), groups=self.channels)


def out_of_bounds(grid: Tensor, size: int, bounds: Tensor | None = None, share: float = OUTSIDE) -> Tensor:
    """Whether more than a share of a grid's samples (N, h, w, 2), on either axis, lies beyond the picture: (N,) bool.

    `bounds` (N, 2) are the width and height in px of the true picture in the middle of a padded square of `size` px.
    """
    if bounds is None:
        bounds = grid.new_full((len(grid), 2), size)
    edge = (bounds.to(grid.dtype) - 1) / size
    return ((grid.abs() > edge[:, None, None]).float().mean((1, 2)) > share).any(1)
