"""What regresses a warp from features: a similarity by four numbers, a flow by convex upsampling.

Source: Peebles et al., CVPR 2022, section 3.2 and appendix; convex upsampling after RAFT (Teed and Deng, ECCV 2020).
The two published heads order their outputs differently: parameter by parameter, and head by head.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.gangealing.warps import MipmapWarp, identity_grid, resize_grid
from gengauge.reference.nets.stylegan2.rosinality import EqualConv2d

NEIGHBOURS = 9  # of 3x3


def similarity_matrices(raw: Tensor) -> Tensor:
    """Rotation, log scale and shift (..., 4), not bounded, to matrices (..., 2, 3) from output to source places."""
    rotation, scale, x, y = raw.unbind(-1)
    angle, scale = math.pi * torch.tanh(rotation), torch.exp(scale)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin, x], -1), torch.stack([sin, cos, y], -1)], -2)


def squared(matrix: Tensor) -> Tensor:
    """(N, 2, 3) to (N, 3, 3), with the row that makes affine maps multiply."""
    row = matrix.new_tensor([0.0, 0.0, 1.0]).expand(len(matrix), 1, 3)
    return torch.cat([matrix, row], 1)


def chosen(values: Tensor, policy: Tensor | None) -> Tensor:
    """Of values (N, K, ...) a head: (N, ...), the policy's; or all of them (N K, ...), picture by picture.

    A policy (N, K') has its largest entry at the head, modulo K.
    """
    if policy is None:
        return values.flatten(0, 1)
    if len(policy) != len(values) or policy.ndim != 2:
        raise ValueError(f"a policy for {len(values)} pictures is ({len(values)}, K), not {tuple(policy.shape)}")
    head = policy.argmax(1) % values.shape[1]
    return values[torch.arange(len(values), device=values.device), head]


class SimilarityHead(nn.Module):
    """Features (N, inputs) to matrices (N K, 2, 3), or with a policy (N, 2, 3), from output to source places."""

    one_hot: Tensor

    def __init__(self, inputs: int, num_heads: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = nn.Linear(inputs, 4 * num_heads)
        nn.init.zeros_(self.linear.weight)  # the identity
        nn.init.zeros_(self.linear.bias)
        self.warper = MipmapWarp()
        self.register_buffer("one_hot", torch.tensor([0.0, 0.0, 1.0]).view(1, 1, 1, 3))  # only for checkpoints' sake

    def forward(
        self, features: Tensor, policy: Tensor | None = None, base: Tensor | None = None, alpha: Tensor | None = None
    ) -> Tensor:
        """`base` (N, 2, 3) is a warp that follows this one, `alpha` (N,) the share of the result against the identity.

        Both have the result's length.
        """
        raw = self.linear(features).unflatten(1, (4, self.num_heads)).transpose(1, 2)
        matrix = chosen(similarity_matrices(raw), policy)
        if base is not None:
            matrix = base @ squared(matrix)
        if alpha is not None:
            identity = torch.eye(2, 3, device=matrix.device, dtype=matrix.dtype)
            matrix = torch.lerp(identity.expand_as(matrix), matrix, alpha.view(-1, 1, 1))
        return matrix


class FlowHead(nn.Module):
    """Features (N, C, h, w) to grids and residual flows (N K, F, F, 2), with F = h `flow_downsample`."""

    def __init__(self, channels: int, num_heads: int = 1, flow_downsample: int = 8) -> None:
        super().__init__()
        self.num_heads, self.factor = num_heads, flow_downsample
        masks = NEIGHBOURS * flow_downsample**2 * num_heads
        self.flow_out = _two_layers(channels, 2 * num_heads)
        self.mask_out = _two_layers(channels, masks)
        nn.init.zeros_(cast(EqualConv2d, self.flow_out[2]).weight)  # no flow
        self.warper = MipmapWarp()

    def coarse_flow(self, features: Tensor) -> Tensor:
        """The flow (N, K, h, w, 2) before upsampling."""
        return self.flow_out(features).unflatten(1, (self.num_heads, 2)).movedim(2, -1)

    def residual(self, features: Tensor) -> Tensor:
        """The flow (N, K, F, F, 2): each value a convex combination of nine coarse ones, times the factor."""
        n, (h, w), f = len(features), features.shape[2:], self.factor
        coarse = self.flow_out(features).view(n * self.num_heads, 2, h, w)
        mask = self.mask_out(features).view(n * self.num_heads, 1, NEIGHBOURS, f, f, h, w).softmax(2)
        around = F.unfold(f * coarse, 3, padding=1).view(n * self.num_heads, 2, NEIGHBOURS, 1, 1, h, w)
        fine = (mask * around).sum(2)  # (N K, 2, f, f, h, w)
        return fine.permute(0, 4, 2, 5, 3, 1).reshape(n, self.num_heads, h * f, w * f, 2)

    def forward(
        self,
        features: Tensor,
        policy: Tensor | None = None,
        base: Tensor | None = None,
        alpha: Tensor | None = None,
        output_resolution: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The grid (N, R, R, 2), R = F by default, and the residual flow (N, F, F, 2).

        `base` (N, 2, 3) is a similarity that follows the flow, `alpha` (N,) the share of the result against the
        identity. Both have the result's length.
        """
        delta = chosen(self.residual(features), policy)
        identity = identity_grid(delta.shape[1], delta)
        grid = identity + delta
        if base is not None:
            grid = grid @ base[:, None, :, :2].mT + base[:, None, None, :, 2]
        if alpha is not None:
            grid = torch.lerp(identity.expand_as(grid), grid, alpha.view(-1, 1, 1, 1))
        return grid if output_resolution is None else resize_grid(grid, output_resolution), delta


def _two_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        EqualConv2d(inputs, inputs, 3, padding=1), nn.ReLU(), EqualConv2d(inputs, outputs, 3, padding=1)
    )
