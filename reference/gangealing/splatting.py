"""Splatting: coloured points drawn into a picture as Gaussian spots, to carry an edit from a template to pictures.

The published kernel is CUDA; this is the definition in plain torch. Coordinates are in px, (x, y), pixel centres being
whole numbers. Source: Peebles et al. 2022, section 4 ("edit propagation").
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

RADIUS = 2.0  # of a spot's window, in sigmas
_EPS = 1e-8
_MOST_VALUES = 2**24  # of a chunk of points at a time


def splat(
    coords: Tensor,
    values: Tensor,
    sigma: Tensor | float,
    size: tuple[int, int],
    normalise: Literal["mean", "soft"] = "mean",
) -> Tensor:
    """Points (N, P, 2) with values (N, P, C) as pictures (N, C, H, W) of `size` (H, W).

    Every point adds its values times exp(-d^2 / 2 sigma^2) to the pixels from floor(x - 2 sigma) to ceil(x + 2 sigma),
    and likewise in y. `sigma` in px, one or (N,). Points outside [0, W) x [0, H) are ignored. A pixel is divided by the
    sum of its weights ("mean") or by that or 1, whichever is larger ("soft": masks fade out). Differentiable by values.

    Raises ValueError for other shapes and for a sigma that is not above 0.
    """
    count, points, channels = _check(coords, values)
    height, width = size
    sigmas = torch.as_tensor(sigma, dtype=coords.dtype, device=coords.device).expand(count)
    if not (sigmas > 0).all():
        raise ValueError("sigma is a number of px above 0")
    total = values.new_zeros(count * height * width, channels + 1)
    with_weight = torch.cat([values, torch.ones_like(values[..., :1])], 2)
    span = int(torch.ceil(2 * RADIUS * sigmas.max())) + 3
    chunk = max(1, _MOST_VALUES // (count * span**2 * (channels + 1)))
    for start in range(0, points, chunk):
        part = coords[:, start : start + chunk]
        inside = (part >= 0).all(2) & (part[..., 0] < width) & (part[..., 1] < height)  # (N, p)
        columns, across = _spot(part[..., 0], sigmas, span, width)
        rows, down = _spot(part[..., 1], sigmas, span, height)
        weights = down[..., :, None] * across[..., None, :] * inside[..., None, None]  # (N, p, span, span)
        first = torch.arange(count, device=coords.device).view(-1, 1, 1, 1) * height
        places = ((first + rows[..., :, None]) * width + columns[..., None, :]).flatten()
        spots = weights[..., None] * with_weight[:, start : start + chunk, None, None]
        total = total.index_add(0, places, spots.reshape(-1, channels + 1))
    summed, weight = total.view(count, height, width, -1).permute(0, 3, 1, 2).split([channels, 1], 1)
    return summed / (weight + _EPS if normalise == "mean" else weight.clamp(min=1))


def _spot(centres: Tensor, sigmas: Tensor, span: int, side: int) -> tuple[Tensor, Tensor]:
    """Along one axis the places (N, p, span) of each point's window and their weights, 0 outside window and picture."""
    reach = RADIUS * sigmas[:, None]
    places = (centres - reach).floor()[..., None] + torch.arange(span, device=centres.device)
    counts = (places <= (centres + reach).ceil()[..., None]) & (places >= 0) & (places < side)
    exponent = -(places - centres[..., None]).square() / (2 * sigmas.square())[:, None, None]
    return places.clamp(0, side - 1).long(), exponent.exp() * counts


def _check(coords: Tensor, values: Tensor) -> tuple[int, int, int]:
    if coords.ndim != 3 or coords.shape[2] != 2 or values.ndim != 3 or values.shape[:2] != coords.shape[:2]:
        raise ValueError(
            f"points are (N, P, 2) and values (N, P, C), not {tuple(coords.shape)} and {tuple(values.shape)}"
        )
    return values.shape[0], values.shape[1], values.shape[2]
