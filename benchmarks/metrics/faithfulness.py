"""How near an edited picture stays to its guide, or to its original outside of the edit (Meng et al. 2022, tables 1-4).

Pictures are (N, 3, H, W) floats in [0, 1], and a result is one number a picture, (N,); the tables print the means.
A region is bool (H, W), (N, 1, H, W) or (N, 3, H, W).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gengauge.reference.nets.lpips import LPIPS


def squared_l2(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """The squared differences summed over all channels and pixels, or those of a region; (N,) float64.

    Section 3.3 of the paper speaks of this one, and the tables can only hold its root: see `l2_norm`. Raises ValueError
    for pictures or a region of other shapes, kinds or ranges.
    """
    _check(a, b)
    squares = (a.double() - b.double()).square()
    if region is not None:
        squares = squares * _region(region, a)
    return squares.sum((1, 2, 3))


def l2_norm(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """The Euclidean norm of the difference over all channels and pixels, or those of a region; (N,) float64.

    This is taken for the "L2" of the tables, which is an inference: as sums of squares their numbers, 21 to 105 at
    256 px, would be peak signal-to-noise ratios of 33 dB and more, also for GAN projections; as norms they are 13 to
    26 dB. It grows with the root of the number of pixels. Raises ValueError as `squared_l2` does.
    """
    return squared_l2(a, b, region).sqrt()


@torch.no_grad()
def masked_lpips(
    network: LPIPS,
    original: Tensor,
    output: Tensor,
    editable: Tensor,
    masking: Literal["map", "composite"] = "map",
) -> Tensor:
    """LPIPS of original and output outside of the editable region, bool (H, W) or (N, 1, H, W); (N,) float32.

    The paper's table 3 says no more than that it follows Bau et al. 2020; that their code is meant is an inference.
    "map" is what it does (on VGG16): the distance of every place, brought bilinearly to the pictures' size, and its
    mean over the pixels outside. Near the region, a place has still seen changes inside. "composite" puts the original
    into the region before the distance of the whole pictures: nothing inside counts, and where nothing outside has
    changed it is exactly 0. The network must be in eval mode on the pictures' device.

    Raises ValueError for pictures or a region of other shapes, kinds or ranges, and where a region leaves no pixel.
    """
    _check(original, output)
    inside = _region(editable, original)
    if inside.shape[1] != 1:
        raise ValueError(f"the editable region is (H, W) or (N, 1, H, W), not {tuple(editable.shape)}")
    if inside.flatten(1).all(1).any():
        raise ValueError("the editable region is the whole picture, so that nothing is left to compare")
    if masking == "composite":
        output = torch.where(inside, original, output)
        return network(*_scaled(original, output))
    distances = network.spatial(*_scaled(original, output))[:, None]
    outside = (~inside).to(distances).expand(len(distances), -1, -1, -1)
    return (distances * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3))


def _scaled(*pictures: Tensor) -> list[Tensor]:
    return [2 * x.float() - 1 for x in pictures]


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or not a.numel():
        raise ValueError(f"pictures are two of (N, 3, H, W) alike, not {tuple(a.shape)} and {tuple(b.shape)}")
    for x in (a, b):
        if not x.is_floating_point():
            raise ValueError(f"pictures are floats in [0, 1], not {x.dtype}; divide grey levels by 255")
        low, high = x.min().item(), x.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"pictures have values from {low:.3g} to {high:.3g}; bring them to [0, 1] and clamp them")


def _region(region: Tensor, pictures: Tensor) -> Tensor:
    """A region as (1 or N, 1 or 3, H, W)."""
    n, channels, *size = pictures.shape
    if region.dtype != torch.bool or region.shape not in ((*size,), (n, 1, *size), (n, channels, *size)):
        raise ValueError(
            f"a region of these pictures is bool {tuple(size)}, {(n, 1, *size)} or {tuple(pictures.shape)}, "
            f"not {region.dtype} {tuple(region.shape)}"
        )
    return region[None, None] if region.ndim == 2 else region
