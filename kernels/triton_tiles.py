"""Gather and scatter of tiles in Triton, for CUDA; arguments as in `kernels/definition.py`.

A program takes a block of pixels, counted through all tiles, by a block of channels. Strides count elements.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gengauge.kernels.definition import ACTIVATIONS, Pair, Pointwise, memory_format

_PUT, _PUT_SUM, _ADD_DIFFERENCE = range(3)


@triton.jit
def _activate(x, slope, ACTIVATION: tl.constexpr):
    """By number in ACTIVATIONS."""
    if ACTIVATION == 1:
        x = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == 2:
        x = tl.where(x < 0.0, 0.0, x)
    elif ACTIVATION == 3:
        x = tl.where(x < 0.0, x * slope, x)
    elif ACTIVATION == 4:
        x = 1.0 / (1.0 + tl.exp(-x))
    elif ACTIVATION == 5:
        # By the smaller of e^2x and e^-2x, which cannot overflow.
        small = tl.exp(-2.0 * tl.abs(x))
        x = tl.where(x < 0.0, small - 1.0, 1.0 - small) / (1.0 + small)
    return x


@triton.jit
def _gather_kernel(
    x,
    x_n,
    x_c,
    x_h,
    x_w,
    indices,
    count,
    tiles,
    tiles_n,
    tiles_c,
    tiles_h,
    tiles_w,
    grid_count,
    grid_h,
    grid_w,
    tile_map,
    scale,
    scale_n,
    scale_c,
    scale_h,
    scale_w,
    shift,
    shift_n,
    shift_c,
    shift_h,
    shift_w,
    out,
    out_n,
    out_c,
    out_h,
    out_w,
    pixels,
    channels,
    height,
    width,
    block_h,
    block_w,
    slope,
    MAPPED: tl.constexpr,
    AFFINE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACTIVATION_FIRST: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    there = pixel < pixels
    item = (pixel // (block_h * block_w)).to(tl.int64)
    row, column = pixel // block_w % block_h, pixel % block_w
    n, corner = item // count, indices + item % count * 2
    h = tl.load(corner, mask=there, other=0) + row
    w = tl.load(corner + 1, mask=there, other=0) + column
    inside = there & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    known = inside & (c < channels)
    source = x + n * x_n + h * x_h + w * x_w + c * x_c
    if MAPPED:
        mapped = tile_map + (h * width + w) * 3
        tile = tl.load(mapped, mask=inside, other=-1)
        r = tl.load(mapped + 1, mask=inside, other=0)
        s = tl.load(mapped + 2, mask=inside, other=0)
        # What no tile has is left to the base: an error cannot be raised here, and nothing strange may be read.
        has = (tile >= 0) & (tile < grid_count) & (r >= 0) & (r < grid_h) & (s >= 0) & (s < grid_w)
        moved = tiles + (n * grid_count + tile) * tiles_n + r * tiles_h + s * tiles_w + c * tiles_c
        value = tl.load(moved, mask=known & has, other=0.0).to(tl.float32)
        value += tl.load(source, mask=known & (has == 0), other=0.0).to(tl.float32)
    else:
        value = tl.load(source, mask=known, other=0.0).to(tl.float32)
    if ACTIVATION_FIRST:
        value = _activate(value, slope, ACTIVATION)
    if AFFINE:
        factor = tl.load(scale + n * scale_n + h * scale_h + w * scale_w + c * scale_c, mask=known, other=0.0)
        term = tl.load(shift + n * shift_n + h * shift_h + w * shift_w + c * shift_c, mask=known, other=0.0)
        value = value * factor + term
    if not ACTIVATION_FIRST:
        value = _activate(value, slope, ACTIVATION)
    target = out + item * out_n + row * out_h + column * out_w + c * out_c
    tl.store(target, tl.where(known, value, 0.0).to(out.dtype.element_ty), mask=there & (c < channels))


@triton.jit
def _scatter_kernel(
    tiles,
    tiles_n,
    tiles_c,
    tiles_h,
    tiles_w,
    indices,
    count,
    other,
    other_n,
    other_c,
    other_h,
    other_w,
    out,
    out_n,
    out_c,
    out_h,
    out_w,
    pixels,
    channels,
    height,
    width,
    tile_h,
    tile_w,
    offset_h,
    offset_w,
    stride_h,
    stride_w,
    OPERATION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    there = pixel < pixels
    item = (pixel // (tile_h * tile_w)).to(tl.int64)
    row, column = pixel // tile_w % tile_h, pixel % tile_w
    n, corner = item // count, indices + item % count * 2
    # Division rounds towards 0 on a GPU; this rounds down.
    h = tl.load(corner, mask=there, other=0) + offset_h
    w = tl.load(corner + 1, mask=there, other=0) + offset_w
    h = tl.where(h < 0, -((stride_h - 1 - h) // stride_h), h // stride_h) + row
    w = tl.where(w < 0, -((stride_w - 1 - w) // stride_w), w // stride_w) + column
    known = there & (h >= 0) & (h < height) & (w >= 0) & (w < width) & (c < channels)
    target = out + n * out_n + h * out_h + w * out_w + c * out_c
    value = tl.load(tiles + item * tiles_n + row * tiles_h + column * tiles_w + c * tiles_c, mask=known, other=0.0)
    if OPERATION > 0:
        third = tl.load(other + n * other_n + h * other_h + w * other_w + c * other_c, mask=known, other=0.0)
        if OPERATION == 1:
            value = value.to(tl.float32) + third.to(tl.float32)
        else:
            standing = tl.load(target, mask=known, other=0.0)
            value = standing.to(tl.float32) + (value.to(tl.float32) - third.to(tl.float32))
    tl.store(target, value.to(out.dtype.element_ty), mask=known)


def gather(x: Tensor, indices: Tensor, block: Pair, then: Pointwise) -> Tensor:
    return _gather(x, indices, block, then, None, None)


def scatter_gather(
    tiles: Tensor, base: Tensor, tile_map: Tensor, indices: Tensor, block: Pair, then: Pointwise
) -> Tensor:
    return _gather(base, indices, block, then, tiles, tile_map.contiguous())


def scatter(tiles: Tensor, out: Tensor, indices: Tensor, offset: Pair, stride: Pair, residual: Tensor | None) -> None:
    _scatter(_PUT if residual is None else _PUT_SUM, tiles, out, indices, offset, stride, residual)


def add_difference(tiles: Tensor, base: Tensor, out: Tensor, indices: Tensor) -> None:
    _scatter(_ADD_DIFFERENCE, tiles, out, indices, (0, 0), (1, 1), base)


def _gather(
    x: Tensor, indices: Tensor, block: Pair, then: Pointwise, tiles: Tensor | None, tile_map: Tensor | None
) -> Tensor:
    shape = (len(x) * len(indices), x.shape[1], *block)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    if not out.numel():
        return out
    affine = then.scale is not None or then.shift is not None
    scale = then.scale if then.scale is not None else x.new_ones(1, 1, 1, 1)
    shift = then.shift if then.shift is not None else x.new_zeros(1, 1, 1, 1)
    grid = (0, 0, 0) if tiles is None else (len(tiles) // len(x), *tiles.shape[2:])
    programs, taken = _programs(out)
    _gather_kernel[programs](
        *_strided(x),
        indices.contiguous(),
        len(indices),
        *_strided(x if tiles is None else tiles),
        *grid,
        indices if tile_map is None else tile_map,
        *_strided(scale.float()),
        *_strided(shift.float()),
        *_strided(out),
        out.numel() // out.shape[1],
        *x.shape[1:],
        *block,
        then.negative_slope,
        MAPPED=tile_map is not None,
        AFFINE=affine,
        ACTIVATION=ACTIVATIONS.index(then.activation),
        ACTIVATION_FIRST=then.activation_first,
        PIXELS=taken[0],
        CHANNELS=taken[1],
    )
    return out


def _scatter(
    operation: int, tiles: Tensor, out: Tensor, indices: Tensor, offset: Pair, stride: Pair, other: Tensor | None
) -> None:
    if not tiles.numel():
        return
    programs, taken = _programs(tiles)
    _scatter_kernel[programs](
        *_strided(tiles),
        indices.contiguous(),
        len(indices),
        *_strided(out if other is None else other),
        *_strided(out),
        tiles.numel() // tiles.shape[1],
        *out.shape[1:],
        *tiles.shape[2:],
        *offset,
        *stride,
        OPERATION=operation,
        PIXELS=taken[0],
        CHANNELS=taken[1],
    )


def _programs(tiles: Tensor) -> tuple[Pair, Pair]:
    """The grid of programs for tiles (N, C, h, w), and the pixels and channels that one takes."""
    count, channels, height, width = tiles.shape
    by_channel = min(128, triton.next_power_of_2(channels))
    by_pixel = 1024 // by_channel
    return (triton.cdiv(count * height * width, by_pixel), triton.cdiv(channels, by_channel)), (by_pixel, by_channel)


def _strided(tensor: Tensor) -> tuple[Tensor, int, int, int, int]:
    """A tensor (N, C, H, W) and its strides, 0 along broadcast axes."""
    n, c, h, w = (step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor, n, c, h, w
