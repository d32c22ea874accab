"""Splatting: coloured points drawn into a picture as Gaussian spots, to carry an edit from a template to pictures.

Coordinates are in px, (x, y), pixel centres being whole numbers. Source: Peebles et al. 2022, section 4 ("edit
propagation"); the sums over points are `kernels/splatting.py`, for a CPU as for a GPU.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gengauge.kernels.splatting import spots
from gengauge.kernels.ways import Way

_EPS = 1e-8


def splat(
    coords: Tensor,
    values: Tensor,
    sigma: Tensor | float,
    size: tuple[int, int],
    normalise: Literal["mean", "soft"] = "mean",
    way: Way = "auto",
) -> Tensor:
    """Points (N, P, 2) with values (N, P, C) as pictures (N, C, H, W) of `size` (H, W).

    Every point adds its values times exp(-d^2 / 2 sigma^2) to the pixels from floor(x - 2 sigma) to ceil(x + 2 sigma),
    and likewise in y. `sigma` in px, one or (N,). Points outside [0, W) x [0, H) are ignored. A pixel is divided by the
    sum of its weights ("mean") or by that or 1, whichever is larger ("soft": masks fade out). Differentiable by values.

    Raises ValueError for other shapes and for a sigma that is not finite and above 0.
    """
    sigmas = torch.as_tensor(sigma, dtype=coords.dtype, device=coords.device).expand(len(coords))
    if not ((sigmas > 0) & sigmas.isfinite()).all():
        raise ValueError("sigma is a finite number of px above 0")
    summed, weight = spots(coords, values, sigmas, size, way=way).split([values.shape[-1], 1], 1)
    return summed / (weight + _EPS if normalise == "mean" else weight.clamp(min=1))
