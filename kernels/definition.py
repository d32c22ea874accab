"""Gather and scatter of tiles in plain torch: what the other ways must equal (SIGE, NeurIPS 2022).

Any device, floating type and strides. Arguments are as `kernels/tiles.py` has checked them: pairs are (height, width),
`indices` are the (h, w) of the tiles' top left corners, which may lie outside the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]
Activation = Literal["identity", "swish", "relu", "leaky_relu", "sigmoid", "tanh"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


@dataclass(frozen=True)
class Pointwise:
    """What is done to a gathered pixel: `activation(scale x + shift)`, or `scale activation(x) + shift`."""

    scale: Tensor | None  # both (N or 1, C or 1, H or 1, W or 1), for the map; None: 1
    shift: Tensor | None  # None: 0
    activation: Activation
    negative_slope: float  # of leaky_relu
    activation_first: bool


def gather(x: Tensor, indices: Tensor, block: Pair, then: Pointwise) -> Tensor:
    """Tiles (N * tiles, C, *block) of `x` (N, C, H, W), image by image; exactly 0 outside the map."""
    height, width = x.shape[2:]
    rows, columns, inside = _pixels(indices, block, (height, width))
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)

    def take(of: Tensor) -> Tensor:
        """(N or 1, C or 1, tiles, *block) or what broadcasts to it, in the type that is computed with."""
        at_h = rows if of.shape[2] > 1 else torch.zeros_like(rows)
        at_w = columns if of.shape[3] > 1 else torch.zeros_like(columns)
        return of[:, :, at_h, at_w].to(compute_type(x.dtype))

    out = take(x)
    if then.activation_first:
        out = activate(out, then.activation, then.negative_slope)
    if then.scale is not None:
        out = take(then.scale) * out
    if then.shift is not None:
        out = out + take(then.shift)
    if not then.activation_first:
        out = activate(out, then.activation, then.negative_slope)
    out = torch.where(inside, out, 0).transpose(1, 2).flatten(0, 1)
    return out.to(x.dtype).contiguous(memory_format=memory_format(x))


def scatter_gather(
    tiles: Tensor, base: Tensor, tile_map: Tensor, indices: Tensor, block: Pair, then: Pointwise
) -> Tensor:
    """`gather` of `base` (N, C, H, W), in it the pixels of `tiles` (N * tiles, C, h, w) that `tile_map` names."""
    moved = base
    if len(tiles):
        tile, row, column = tile_map.long().clamp(min=0).unbind(-1)
        images = tiles.unflatten(0, (len(base), -1))
        moved = torch.where(tile_map[..., 0] >= 0, images[:, tile, :, row, column].permute(2, 3, 0, 1), base)
    return gather(moved.contiguous(memory_format=memory_format(base)), indices, block, then)


def scatter(tiles: Tensor, out: Tensor, indices: Tensor, offset: Pair, stride: Pair, residual: Tensor | None) -> None:
    """Writes `tiles` (N * tiles, C, h, w), plus `residual` at the same pixel, into `out` (N, C, H, W)."""
    values, rows, columns = _landing(tiles, out, _corners(indices, offset, stride))
    if residual is not None:
        values = values.to(compute_type(out.dtype)) + residual.expand_as(out)[:, :, rows, columns]
    out[:, :, rows, columns] = values.to(out.dtype)


def add_difference(tiles: Tensor, base: Tensor, out: Tensor, indices: Tensor) -> None:
    """Adds `tiles` - `base` (N, C, H, W) to `out` (N, C, H, W) where the tiles lie."""
    values, rows, columns = _landing(tiles, out, indices)
    kind = compute_type(out.dtype)
    total = out[:, :, rows, columns].to(kind) + (values.to(kind) - base.expand_as(out)[:, :, rows, columns])
    out[:, :, rows, columns] = total.to(out.dtype)


def scatter_map(indices: Tensor, out: Tensor, tile: Pair, offset: Pair, stride: Pair) -> None:
    """Writes tile number, row and column of the pixels of tiles into `out` (H, W, 3), which holds -1."""
    rows, columns, inside = _pixels(_corners(indices, offset, stride), tile, (out.shape[0], out.shape[1]))
    numbers = torch.meshgrid(
        *(torch.arange(n, dtype=out.dtype, device=out.device) for n in (len(indices), *tile)), indexing="ij"
    )
    rows, columns = rows.expand_as(inside), columns.expand_as(inside)
    out[rows[inside], columns[inside]] = torch.stack(numbers, dim=-1)[inside]


def activate(x: Tensor, activation: Activation, negative_slope: float) -> Tensor:
    """The activation by its name."""
    match activation:
        case "identity":
            return x
        case "swish":
            return F.silu(x)
        case "relu":
            return F.relu(x)
        case "leaky_relu":
            return F.leaky_relu(x, negative_slope)
        case "sigmoid":
            return torch.sigmoid(x)
        case "tanh":
            return torch.tanh(x)


def compute_type(stored: torch.dtype) -> torch.dtype:
    """What is computed with: float32 at least, rounded once at the end."""
    return torch.promote_types(stored, torch.float32)


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where neighbouring channels are neighbours in memory; results follow it."""
    if x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def _corners(indices: Tensor, offset: Pair, stride: Pair) -> Tensor:
    """Where a tile of outputs lands, from where its tile of inputs lay."""
    return torch.div(indices + indices.new_tensor(offset), indices.new_tensor(stride), rounding_mode="floor")


def _pixels(corners: Tensor, tile: Pair, size: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (tiles, h, 1) and columns (tiles, 1, w) of tiles' pixels, and which lie inside a map (tiles, h, w)."""
    corners = corners.long()
    rows = corners[:, 0, None, None] + torch.arange(tile[0], device=corners.device)[:, None]
    columns = corners[:, 1, None, None] + torch.arange(tile[1], device=corners.device)
    return rows, columns, (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])


def _landing(tiles: Tensor, out: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels of tiles inside `out` (N, C, H, W): their values (N, C, pixels), rows and columns (pixels,)."""
    height, width = tiles.shape[2:]
    rows, columns, inside = _pixels(corners, (height, width), (out.shape[2], out.shape[3]))
    images = tiles.reshape(len(out), len(corners), out.shape[1], height, width)
    values = images.permute(0, 2, 1, 3, 4)[:, :, inside]
    return values, rows.expand_as(inside)[inside], columns.expand_as(inside)[inside]
