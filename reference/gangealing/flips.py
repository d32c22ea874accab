"""Mirror images: which of a picture and its mirror image leaves the smoother flow, and so is the upright one.

Source: Peebles et al., CVPR 2022, section 4 (flips at test time). Ties keep the picture as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.reference.gangealing.losses import total_variation
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, Warped
from gengauge.reference.gangealing.warps import Padding


def mirror(x: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Pictures (N, C, H, W) with left and right exchanged, all or those of a mask (N,)."""
    return x.flip(3) if mirrored is None else torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)


@dataclass(frozen=True)
class Turned:
    """Pictures warped as they are or mirrored, whichever leaves the smoother flow."""

    warped: Warped  # its grid samples the pictures as they are, its delta is that of the chosen ones
    mirrored: Tensor  # (N,) bool
    smoothness: Tensor  # (N, 2): the total variation of pictures as they are and mirrored


def forward_with_flip(
    network: ComposedSTN,
    x: Tensor,
    source: Tensor | None = None,
    iters: int = 1,
    policy: Tensor | None = None,
    alpha: Tensor | None = None,
    padding_mode: Padding = "border",
    output_resolution: int | None = None,
) -> Turned:
    """As the transformer's `forward`, of pictures or of their mirror images where those leave the smoother flow."""
    source = x if source is None else source
    how = (iters, policy, alpha, padding_mode, output_resolution)
    plain, turned = network(x, source, *how), network(mirror(x), mirror(source), *how)
    smoothness = torch.stack([total_variation(plain.delta), total_variation(turned.delta)], 1)
    mirrored = smoothness[:, 1] < smoothness[:, 0]

    def picked(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mirrored.view(-1, *[1] * (a.ndim - 1)), b, a)

    seen = turned.grid * turned.grid.new_tensor([-1.0, 1.0])
    warped = Warped(
        picked(plain.image, turned.image),
        picked(plain.grid, seen),
        picked(plain.matrix, turned.matrix),
        picked(plain.delta, turned.delta),
        tuple(picked(a, b) for a, b in zip(plain.iterates, turned.iterates, strict=True)),
    )
    return Turned(warped, mirrored, smoothness)
