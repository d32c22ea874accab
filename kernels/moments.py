"""Mean and variance of the channels of a map, for normalisation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from gengauge.kernels.native import library
from gengauge.kernels.tile_conv import EditedMap

Moments = tuple[Tensor, Tensor]  # mean and biased variance, (N, C) float64


def channel_moments(x: Tensor) -> Moments:
    """Mean and biased variance of each channel of a map (N, C, H, W) over its pixels: (N, C) float64 each."""
    native = _native(x)
    if native is None:
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, (2, 3), correction=0)
        return mean.double(), variance.double()
    images, channels = x.shape[:2]
    moments = torch.empty(images, channels, 2, dtype=torch.float64)
    _function(native, "gg_channel_moments", x)(
        *_pointers(x), *_integers(images, x[0, 0].numel(), channels), *_pointers(moments), _threads()
    )
    mean, variance = moments.unbind(2)
    return mean, variance


def edited_moments(edited: EditedMap, before: Moments) -> Moments:
    """Those of an edited map, from those of its base: only the touched pixels are read."""
    base, news, touched = edited.base, edited.news, edited.touched
    native = _native(base)
    if native is None:
        return channel_moments(edited.whole())
    images, channels = base.shape[:2]
    pixels = base[0, 0].numel()
    change = torch.empty(images, channels, 2, dtype=torch.float64)
    _function(native, "gg_moments_change", base)(
        *_pointers(base, news, touched.pixels, touched.numbers),
        *_integers(len(touched.pixels), images, pixels, touched.count, channels),
        *_pointers(change),
        _threads(),
    )
    first = base[:, :, 0, 0].double()
    mean, variance = before
    total = (mean - first) * pixels + change[:, :, 0]
    squares = (variance + (mean - first) ** 2) * pixels + change[:, :, 1]
    offset = total / pixels
    return first + offset, (squares / pixels - offset**2).clamp(min=0)


def _native(x: Tensor) -> ctypes.CDLL | None:
    fits = x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"
    fits = fits and x.is_contiguous(memory_format=torch.channels_last)
    return library() if fits else None


def _function(native: ctypes.CDLL, name: str, x: Tensor) -> Any:
    return getattr(native, name if x.dtype == torch.float32 else f"{name}_bf16")


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _integers(*numbers: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(number) for number in numbers]


def _threads() -> ctypes.c_int32:
    return ctypes.c_int32(torch.get_num_threads())
