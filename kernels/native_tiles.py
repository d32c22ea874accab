"""Gather and scatter of tiles by the C++ of `kernels/native/tiles.cpp`; arguments as in `kernels/definition.py`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from gengauge.kernels import native
from gengauge.kernels.definition import ACTIVATIONS, Pair, Pointwise, memory_format

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PUT, _PUT_SUM, _ADD_DIFFERENCE = range(3)


class _Strided(ctypes.Structure):
    """A tensor (N, C, H, W) as the C++ sees it; strides count elements."""

    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 4))


def gather(x: Tensor, indices: Tensor, block: Pair, then: Pointwise) -> Tensor:
    return _gather(x, indices, block, then, None, None)


def scatter_gather(
    tiles: Tensor, base: Tensor, tile_map: Tensor, indices: Tensor, block: Pair, then: Pointwise
) -> Tensor:
    return _gather(base, indices, block, then, tiles, tile_map.to(torch.int32).contiguous())


def scatter(tiles: Tensor, out: Tensor, indices: Tensor, offset: Pair, stride: Pair, residual: Tensor | None) -> None:
    _scatter(_PUT if residual is None else _PUT_SUM, tiles, out, indices, offset, stride, residual)


def add_difference(tiles: Tensor, base: Tensor, out: Tensor, indices: Tensor) -> None:
    _scatter(_ADD_DIFFERENCE, tiles, out, indices, (0, 0), (1, 1), base)


def _gather(
    x: Tensor, indices: Tensor, block: Pair, then: Pointwise, tiles: Tensor | None, tile_map: Tensor | None
) -> Tensor:
    shape = (len(x) * len(indices), x.shape[1], *block)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    scale, shift = (None if t is None else t.float() for t in (then.scale, then.shift))
    if shift is not None and scale is None:
        scale = torch.ones(1, 1, 1, 1)
    if scale is not None and shift is None:
        shift = torch.zeros(1, 1, 1, 1)
    corners = _corners(indices)
    grid = (0, 0, 0) if tiles is None else (len(tiles) // len(x), *tiles.shape[2:])
    unknown = _library().gengauge_gather(
        _TYPES[x.dtype],
        _strided(x),
        _numbers(x.shape),
        _address(corners),
        len(corners),
        _numbers(block),
        _strided(tiles),
        _numbers(grid),
        _address(tile_map),
        _strided(scale),
        _strided(shift),
        ACTIVATIONS.index(then.activation),
        then.negative_slope,
        int(then.activation_first),
        _strided(out),
        torch.get_num_threads(),
    )
    if unknown:
        raise IndexError(f"tile_map names a pixel that is in none of the {grid[0]} tiles of {grid[1]} x {grid[2]}")
    return out


def _scatter(
    operation: int, tiles: Tensor, out: Tensor, indices: Tensor, offset: Pair, stride: Pair, other: Tensor | None
) -> None:
    corners = _corners(indices)
    _library().gengauge_scatter(
        _TYPES[out.dtype],
        operation,
        _strided(tiles),
        _numbers((len(corners), *tiles.shape[2:])),
        _address(corners),
        _numbers(offset),
        _numbers(stride),
        _strided(other),
        _strided(out),
        _numbers(out.shape),
        torch.get_num_threads(),
    )


@cache
def _library() -> ctypes.CDLL:
    found = native.library()
    assert found is not None  # the way was chosen because it is there
    number, pointer = ctypes.c_int, ctypes.c_void_p
    numbers, tensor = ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(_Strided)
    found.gengauge_gather.argtypes = (
        *(number, tensor, numbers, pointer, ctypes.c_int64, numbers, tensor, numbers, pointer, tensor, tensor),
        *(number, ctypes.c_float, number, tensor, number),
    )
    found.gengauge_scatter.argtypes = (
        *(number, number, tensor, numbers, pointer, numbers, numbers, tensor, tensor, numbers, number),
    )
    found.gengauge_scatter.restype = None
    return found


def _corners(indices: Tensor) -> Tensor:
    return indices.to(torch.int32).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _strided(tensor: Tensor | None) -> _Strided:
    """Null where absent; the stride along a broadcast axis is 0."""
    if tensor is None:
        return _Strided(None)
    strides = [step if n > 1 else 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True)]
    return _Strided(tensor.data_ptr(), tuple(strides))
