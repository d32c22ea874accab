"""Gaussian spots added into pictures: the hot loop of splatting (GANgealing, Peebles et al. 2022, section 4).

`way`: "torch" is the definition, "native" C++ on the CPU, "triton" for CUDA; "auto" takes the fastest that can serve
the tensors given. All agree to rounding; on a GPU the order of a pixel's sum, and so its last digit, is left open.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from gengauge.kernels import native
from gengauge.kernels.ways import Way, choose

RADIUS = 2.0  # of a spot's window, in sigmas
_MOST_VALUES = 2**24  # of a chunk of points at a time
Size = tuple[int, int]  # height, width


def spots(coords: Tensor, values: Tensor, sigmas: Tensor, size: Size, *, way: Way = "auto") -> Tensor:
    """Sums of weighted values, and of weights as the last channel: (N, C + 1, H, W) of `size` (H, W).

    A point of coords (N, P, 2) adds its values (N, P, C) times exp(-d^2 / 2 sigma^2) to the pixels from
    floor(x - 2 sigma) to ceil(x + 2 sigma), and likewise in y; points outside [0, W) x [0, H), and NaN, add nothing.
    `sigmas` (N,) in px. Differentiable by values; by the others "torch" alone is, and "auto" takes it.

    Raises ValueError for other shapes and for several types, RuntimeError where the named way cannot serve.
    """
    count, points = coords.shape[:2] if coords.ndim == 3 else (-1, -1)
    if coords.shape != (count, points, 2) or values.ndim != 3 or values.shape[:2] != coords.shape[:2]:
        raise ValueError(
            f"points are (N, P, 2) and values (N, P, C), not {tuple(coords.shape)} and {tuple(values.shape)}"
        )
    if not coords.dtype == values.dtype == sigmas.dtype:
        raise ValueError(f"points, values and sigmas have one type, not {coords.dtype}, {values.dtype}, {sigmas.dtype}")
    if not coords.device == values.device == sigmas.device:
        raise ValueError(
            f"points, values and sigmas are on one device, not {coords.device}, {values.device}, {sigmas.device}"
        )
    if sigmas.shape != (count,):
        raise ValueError(f"{count} pictures have as many sigmas, not {tuple(sigmas.shape)}")
    chosen = choose(way, coords, values.detach(), sigmas)
    if chosen != "torch" and coords.dtype != torch.float32:
        if way != "auto":
            raise RuntimeError(f"way={way!r} cannot serve: it takes float32; way='auto' takes one that can")
        chosen = "torch"
    if chosen == "torch":
        return _definition(coords, values, sigmas, size)
    return cast(Tensor, _Spots.apply(coords, values, sigmas, size, chosen))


def _definition(coords: Tensor, values: Tensor, sigmas: Tensor, size: Size) -> Tensor:
    (count, points, channels), (height, width) = values.shape, size
    total = values.new_zeros(count * height * width, channels + 1)
    with_weight = torch.cat([values, values.new_ones(count, points, 1)], 2)
    # A window begins within the picture, so that it need not be wider than that.
    widest = int(torch.ceil(2 * RADIUS * sigmas.max())) + 3 if count else 1
    tall, wide = (min(widest, side) for side in size)
    chunk = max(1, _MOST_VALUES // max(1, count * tall * wide * (channels + 1)))
    for start in range(0, points, chunk):
        part = coords[:, start : start + chunk]
        inside = (part >= 0).all(2) & (part[..., 0] < width) & (part[..., 1] < height)  # (N, p)
        part = torch.where(inside[..., None], part, 0)
        columns, across, in_columns = _spot(part[..., 0], sigmas, wide, width)
        rows, down, in_rows = _spot(part[..., 1], sigmas, tall, height)
        weights = down[..., :, None] * across[..., None, :]  # (N, p, tall, wide)
        # Chosen, not multiplied: a value that is not finite must not leave its window.
        counts = in_rows[..., :, None] & in_columns[..., None, :] & inside[..., None, None]
        first = torch.arange(count, device=coords.device).view(-1, 1, 1, 1) * height
        places = ((first + rows[..., :, None]) * width + columns[..., None, :]).flatten()
        added = torch.where(
            counts[..., None], weights[..., None] * with_weight[:, start : start + chunk, None, None], 0
        )
        total = total.index_add(0, places, added.reshape(-1, channels + 1))
    return total.view(count, height, width, -1).permute(0, 3, 1, 2)


def _spot(centres: Tensor, sigmas: Tensor, span: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis the places (N, p, span) of each point's window, their weights, and which lie in the picture."""
    reach = RADIUS * sigmas[:, None]
    places = (centres - reach).floor().clamp(min=0)[..., None] + torch.arange(span, device=centres.device)
    counts = (places <= (centres + reach).ceil()[..., None]) & (places < side)
    exponent = -(places - centres[..., None]).square() / (2 * sigmas.square())[:, None, None]
    return places.clamp(0, side - 1).long(), exponent.exp(), counts


class _Spots(torch.autograd.Function):
    """The native and the Triton way: both passes by the same windows."""

    @staticmethod
    def forward(ctx: Any, coords: Tensor, values: Tensor, sigmas: Tensor, size: Size, way: str) -> Tensor:
        coords, sigmas = coords.contiguous(), sigmas.contiguous()
        ctx.save_for_backward(coords, sigmas)
        ctx.way = way
        total = torch.zeros(len(values), *size, values.shape[2] + 1, device=values.device)
        if values.shape[1] and total.numel():
            _run(way, "splat", coords, sigmas, values.contiguous(), total)
        return total.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None, None]:
        (gradient,) = gradients
        coords, sigmas = ctx.saved_tensors
        wanted = gradient.permute(0, 2, 3, 1).contiguous()
        out = torch.zeros(*coords.shape[:2], wanted.shape[3] - 1, device=wanted.device)
        if out.numel() and wanted.numel():
            _run(ctx.way, "splat_gradient", coords, sigmas, out, wanted)
        return None, out, None, None, None


def _run(way: str, name: str, coords: Tensor, sigmas: Tensor, values: Tensor, total: Tensor) -> None:
    """One pass over contiguous values (N, P, C) and sums (N, H, W, C + 1), of which one is written."""
    if way == "triton":
        from gengauge.kernels import triton_splatting

        getattr(triton_splatting, name)(coords, sigmas, values, total)
        return
    count, points, channels = values.shape
    addresses = [tensor.data_ptr() for tensor in (coords, sigmas, values, total)]
    _function(f"gengauge_{name}")(*addresses, count, points, channels, *total.shape[1:3], torch.get_num_threads())


@cache
def _function(name: str) -> Any:
    library = native.library()
    assert library is not None  # the way was chosen because it is there
    found = getattr(library, name)
    found.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 5 + [ctypes.c_int]
    found.restype = None
    return found
