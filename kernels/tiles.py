"""Gather and scatter of tiles of feature maps: the moves around a tile-sparse convolution (SIGE, NeurIPS 2022).

Every function takes `way`: "torch" is the definition (`kernels/definition.py`), "native" C++ on the CPU, "triton" for
CUDA; "auto" takes the fastest that can serve the tensors given. All agree to rounding. A number stands for a pair
(height, width). Maps are (N, C, H, W); tiles are (N * tiles, C, h, w), image by image, and `indices` (tiles, 2) are the
integer (h, w) of their top left corners in every image, which may be negative or let tiles run past the border.
Results are channels_last where the map given is.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.kernels import definition
from gengauge.kernels.definition import ACTIVATIONS, Activation, Pair, Pointwise
from gengauge.kernels.ways import Way, choose


def gather(
    x: Tensor,
    indices: Tensor,
    block: int | Pair,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "identity",
    negative_slope: float = 0.01,
    activation_first: bool = False,
    way: Way = "auto",
) -> Tensor:
    """Tiles (N * tiles, C, *block) of the map `x` (N, C, H, W), normalised and activated on the way.

    Inside the map `activation(scale * x + shift)`, or `scale * activation(x) + shift` with `activation_first`; outside
    exactly 0, after both. `scale` and `shift` have four axes, each of x's size or 1. `negative_slope` is leaky_relu's.
    """
    _check_map("x", x)
    _check_indices(indices, x)
    then = _pointwise(x, scale, shift, activation, negative_slope, activation_first)
    sides = _pair("block", block, 1)
    return _functions(choose(way, x, scale, shift)).gather(x, indices, sides, then)


def scatter_gather(
    tiles: Tensor,
    base: Tensor,
    tile_map: Tensor,
    indices: Tensor,
    block: int | Pair,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "identity",
    negative_slope: float = 0.01,
    activation_first: bool = False,
    way: Way = "auto",
) -> Tensor:
    """`gather` from the map that `scatter` would make of `tiles` and `base` (N, C, H, W), without making it.

    `tile_map` (H, W, 3) is that of `scatter_map`: where it names a tile, its pixel is taken, elsewhere `base`.
    """
    _check_map("base", base)
    _check_indices(indices, base)
    if tuple(tile_map.shape) != (*base.shape[2:], 3) or not _is_integer(tile_map):
        raise ValueError(
            f"tile_map must be integers of shape (H, W, 3) = {(*base.shape[2:], 3)}, as scatter_map makes it; "
            f"got {tile_map.dtype} {tuple(tile_map.shape)}"
        )
    _check_device("tile_map", tile_map, base)
    _check_tiles("tiles", tiles, base, None)
    then = _pointwise(base, scale, shift, activation, negative_slope, activation_first)
    sides = _pair("block", block, 1)
    return _functions(choose(way, base, tiles, scale, shift)).scatter_gather(
        tiles, base, tile_map, indices, sides, then
    )


def scatter(
    tiles: Tensor,
    base: Tensor,
    indices: Tensor,
    *,
    offset: int | Pair = 0,
    stride: int | Pair = 1,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    way: Way = "auto",
) -> Tensor:
    """A copy of `base` (N, C, H, W) with `tiles` written over it at floor((offset + index) / stride).

    `indices` are those that the tiles' inputs were gathered at, `offset` and `stride` the padding and stride of the
    convolution between. `residual`, a map or what broadcasts to one, is added at the same pixel. Pixels outside the map
    are dropped. Tiles must not overlap: where they do, any of them may stand. `out` is written to instead of a new
    map; `out=base` changes `base` in place, without copying it.
    """
    _check_map("base", base)
    _check_indices(indices, base)
    _check_tiles("tiles", tiles, base, len(indices))
    if residual is not None:
        _check_broadcast("residual", residual, base)
        residual = residual.to(base.dtype)
    shift, step = _pair("offset", offset, None), _pair("stride", stride, 1)
    chosen = choose(way, base, tiles, residual)
    out = _start(base, out)
    _functions(chosen).scatter(tiles, out, indices, shift, step, residual)
    return out


def scatter_with_block_residual(
    tiles: Tensor,
    base: Tensor,
    indices: Tensor,
    shortcut_tiles: Tensor,
    shortcut_base: Tensor,
    shortcut_indices: Tensor,
    *,
    offset: int | Pair = 0,
    stride: int | Pair = 1,
    out: Tensor | None = None,
    way: Way = "auto",
) -> Tensor:
    """`scatter` with the residual `shortcut_base` (N, C, H, W), of which tiles at `shortcut_indices` are new.

    Where a shortcut tile lies, its difference to `shortcut_base` is added to what stands there; a pixel in a main tile
    alone keeps the residual of the original, as published.
    """
    _check_broadcast("shortcut_base", shortcut_base, base)
    _check_indices(shortcut_indices, base, "shortcut_indices")
    _check_tiles("shortcut_tiles", shortcut_tiles, base, len(shortcut_indices))
    chosen = choose(way, base, tiles, shortcut_tiles, shortcut_base)
    shortcut_base = shortcut_base.to(base.dtype)
    out = scatter(tiles, base, indices, offset=offset, stride=stride, residual=shortcut_base, out=out, way=chosen)
    _functions(chosen).add_difference(shortcut_tiles, shortcut_base, out, shortcut_indices)
    return out


def scatter_map(
    indices: Tensor, size: Pair, tile: int | Pair, *, offset: int | Pair = 0, stride: int | Pair = 1
) -> Tensor:
    """Which tile each pixel of a map of `size` comes from: (H, W, 3) int32 of tile number, row, column; -1 for none.

    `tile` is the size of the scattered tiles. Made once a mask, on the device of `indices`, so it knows no ways.
    """
    _check_indices(indices, None)
    out = torch.full((*_pair("size", size, 1), 3), -1, dtype=torch.int32, device=indices.device)
    definition.scatter_map(
        indices, out, _pair("tile", tile, 1), _pair("offset", offset, None), _pair("stride", stride, 1)
    )
    return out


def tile_indices(mask: Tensor, block: int | Pair, stride: int | Pair, padding: int | Pair = 0) -> Tensor:
    """The tiles of a grid that a mask (H, W) touches: (tiles, 2) int32 of their top left corners (h, w), row by row.

    `block` is the size of the tiles, `stride` of the grid, which starts at -`padding`; a tile counts where any of its
    pixels is above 0.5. Made once a mask; as their number depends on the mask, it knows no ways.
    """
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"mask must be a map (H, W), not {tuple(mask.shape)}")
    (block_h, block_w), step, pad = _pair("block", block, 1), _pair("stride", stride, 1), _pair("padding", padding, 0)
    padded = F.pad(mask.float()[None], (pad[1], block_w, pad[0], block_h))
    active = F.max_pool2d(padded, (block_h, block_w), step)[0] > 0.5
    corners = active.nonzero() * torch.tensor(step, device=mask.device) - torch.tensor(pad, device=mask.device)
    return corners.to(torch.int32)


class _Functions(Protocol):
    """What each way's module offers; see kernels/definition.py."""

    def gather(self, x: Tensor, indices: Tensor, block: Pair, then: Pointwise) -> Tensor: ...

    def scatter_gather(
        self, tiles: Tensor, base: Tensor, tile_map: Tensor, indices: Tensor, block: Pair, then: Pointwise
    ) -> Tensor: ...

    def scatter(
        self, tiles: Tensor, out: Tensor, indices: Tensor, offset: Pair, stride: Pair, residual: Tensor | None
    ) -> None: ...

    def add_difference(self, tiles: Tensor, base: Tensor, out: Tensor, indices: Tensor) -> None: ...


def _functions(way: Literal["torch", "native", "triton"]) -> _Functions:
    """The module of a way; Triton is imported only where it is wanted."""
    if way == "native":
        from gengauge.kernels import native_tiles

        return native_tiles
    if way == "triton":
        from gengauge.kernels import triton_tiles

        return triton_tiles
    return definition


def _start(base: Tensor, out: Tensor | None) -> Tensor:
    """The map that a scatter starts from."""
    if out is None:
        return base.clone(memory_format=definition.memory_format(base))
    if out.shape != base.shape or out.dtype != base.dtype or out.device != base.device:
        raise ValueError(
            f"out must be as base, {base.dtype} {tuple(base.shape)} on {base.device}; "
            f"got {out.dtype} {tuple(out.shape)} on {out.device}"
        )
    return out if out is base else out.copy_(base)


def _pair(name: str, value: int | Pair, least: int | None) -> Pair:
    """(height, width) of a number or two; ValueError where they are no integers or below `least`."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in pair):
        raise ValueError(f"{name} must be an integer or two (height, width), not {value!r}")
    if least is not None and min(pair) < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return pair[0], pair[1]


def _is_integer(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.int32, torch.int64)


def _check_map(name: str, x: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape:
        raise ValueError(f"{name} must be a floating map (N, C, H, W), not {x.dtype} {tuple(x.shape)}")


def _check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, the map on {like.device}")


def _check_indices(indices: Tensor, like: Tensor | None, name: str = "indices") -> None:
    if indices.ndim != 2 or indices.shape[1] != 2 or not _is_integer(indices):
        raise ValueError(
            f"{name} must be int32 or int64 of shape (tiles, 2), not {indices.dtype} {tuple(indices.shape)}"
        )
    if like is not None:
        _check_device(name, indices, like)


def _check_tiles(name: str, tiles: Tensor, base: Tensor, count: int | None) -> None:
    """Tiles of a map; `count` an image, or any number."""
    if tiles.ndim != 4 or tiles.shape[1] != base.shape[1] or tiles.dtype != base.dtype:
        raise ValueError(
            f"{name} must be {base.dtype} of shape (N * tiles, {base.shape[1]}, h, w) as the map has it, "
            f"not {tiles.dtype} {tuple(tiles.shape)}"
        )
    images = base.shape[0]
    if (len(tiles) != images * count) if count is not None else (len(tiles) % images != 0):
        wanted = f"{images} * {count}" if count is not None else f"a multiple of {images}"
        raise ValueError(f"{name} must hold {wanted} tiles, for {images} images; got {len(tiles)}")
    _check_device(name, tiles, base)


def _check_broadcast(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.ndim != 4 or any(n not in (1, of) for n, of in zip(tensor.shape, x.shape, strict=True)):
        raise ValueError(f"{name} must have four axes, each 1 or as {tuple(x.shape)}; got {tuple(tensor.shape)}")
    _check_device(name, tensor, x)


def _pointwise(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: Activation,
    negative_slope: float,
    activation_first: bool,
) -> Pointwise:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: one of {', '.join(ACTIVATIONS)}")
    for name, tensor in (("scale", scale), ("shift", shift)):
        if tensor is not None:
            _check_broadcast(name, tensor, x)
    return Pointwise(scale, shift, activation, negative_slope, activation_first)
