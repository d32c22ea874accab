"""Gaussian spots in Triton, for CUDA; arguments as `kernels/splatting.py` has checked them.

A program takes one point, a block of its window at a time.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_SIDE = 16  # of a block: the usual window, of a sigma up to 3.25 px, is one


@triton.jit
def _spot_kernel(
    coords,
    sigmas,
    values,
    total,
    points,
    height,
    width,
    CHANNELS: tl.constexpr,
    GRADIENT: tl.constexpr,
    ACROSS: tl.constexpr,
    DOWN: tl.constexpr,
    SIDE: tl.constexpr,
):
    p = tl.program_id(0).to(tl.int64)
    n = p // points
    x, y, sigma = tl.load(coords + p * 2), tl.load(coords + p * 2 + 1), tl.load(sigmas + n)
    inside = (x >= 0.0) & (y >= 0.0) & (x < width) & (y < height)
    # What is outside, NaN too, must not be made an integer.
    x, y = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0)
    left, right = tl.floor(x - 2.0 * sigma), tl.ceil(x + 2.0 * sigma)
    top, bottom = tl.floor(y - 2.0 * sigma), tl.where(inside, tl.ceil(y + 2.0 * sigma), -1.0)  # else no row
    scale = -1.0 / (2.0 * sigma * sigma)
    picture = total + n * height * width * (CHANNELS + 1)
    for c in tl.static_range(CHANNELS + (0 if GRADIENT else 1)):
        value = 1.0
        if not GRADIENT and c < CHANNELS:
            value = tl.load(values + p * CHANNELS + c)
        gathered = 0.0
        for i in range(DOWN):
            h = tl.maximum(top, 0.0) + i * SIDE + tl.arange(0, SIDE)[:, None]
            in_rows = (h <= bottom) & (h < height)
            rows = tl.exp((h - y) * (h - y) * scale)
            for j in range(ACROSS):
                w = tl.maximum(left, 0.0) + j * SIDE + tl.arange(0, SIDE)[None, :]
                known = in_rows & (w <= right) & (w < width)
                weight = rows * tl.exp((w - x) * (w - x) * scale)
                place = picture + (h.to(tl.int64) * width + w.to(tl.int64)) * (CHANNELS + 1) + c
                if GRADIENT:
                    # Chosen, not multiplied: what is beside the window may not be finite.
                    found = tl.load(place, mask=known, other=0.0)
                    gathered += tl.sum(tl.where(known, weight * found, 0.0))
                else:
                    tl.atomic_add(place, weight * value, mask=known)
        if GRADIENT:
            tl.store(values + p * CHANNELS + c, gathered)


def splat(coords: Tensor, sigmas: Tensor, values: Tensor, total: Tensor) -> None:
    """Adds to `total` (N, H, W, C + 1)."""
    _run(coords, sigmas, values, total, gradient=False)


def splat_gradient(coords: Tensor, sigmas: Tensor, values: Tensor, total: Tensor) -> None:
    """Writes the gradient by values (N, P, C) of that by the sums (N, H, W, C + 1)."""
    _run(coords, sigmas, values, total, gradient=True)


def _run(coords: Tensor, sigmas: Tensor, values: Tensor, total: Tensor, gradient: bool) -> None:
    count, points, channels = values.shape
    height, width = total.shape[1:3]
    widest = int(torch.ceil(4 * sigmas.max())) + 3
    _spot_kernel[(count * points,)](
        coords,
        sigmas,
        values,
        total,
        points,
        height,
        width,
        CHANNELS=channels,
        GRADIENT=gradient,
        ACROSS=triton.cdiv(min(widest, width), _SIDE),
        DOWN=triton.cdiv(min(widest, height), _SIDE),
        SIDE=_SIDE,
    )
