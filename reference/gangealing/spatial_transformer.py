"""GANgealing's spatial transformer: a similarity, a flow, and both, each regressed from a small picture.

Warps map places of the output to places of the source. Composed warps sample the source once. Source: Peebles et al.,
CVPR 2022, section 3.2 and appendix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gengauge.reference.gangealing.heads import FlowHead, SimilarityHead
from gengauge.reference.gangealing.trunk import SMALLEST, Trunk
from gengauge.reference.gangealing.warps import Padding, affine_grid
from gengauge.reference.nets.stylegan2.layers import FullyConnectedLayer
from gengauge.reference.nets.stylegan2.rosinality import WIDEST

Transform = Literal["similarity", "flow"]


@dataclass(frozen=True)
class Warped:
    """What a transformer makes of N pictures; with K heads and no policy it makes N K, picture by picture."""

    image: Tensor  # (N, 3, R, R)
    grid: Tensor  # (N, R, R, 2): the places of the source that were sampled
    matrix: Tensor | None = None  # (N, 2, 3): the whole similarity
    delta: Tensor | None = None  # (N, F, F, 2): the residual flow, to which the regularisers apply
    iterates: tuple[Tensor, ...] = ()  # (N, 2, 3): the whole similarity after each iteration


class SpatialTransformer(Trunk):
    """One transform. 22,424,644 parameters as a similarity, 20,629,634 as a flow."""

    def __init__(
        self,
        transform: Transform = "similarity",
        flow_size: int = 128,
        supersize: int | None = None,
        channel_multiplier: float = 0.5,
        num_heads: int = 1,
        base_channels: int = WIDEST,
        flow_downsample: int = 8,
    ) -> None:
        flows = transform == "flow"
        super().__init__(flow_size, supersize, channel_multiplier, base_channels, flow_downsample if flows else None)
        self.transform, self.num_heads = transform, num_heads
        if flows:
            self.warp_head: SimilarityHead | FlowHead = FlowHead(self.channels, num_heads, flow_downsample)
        else:
            self.final_linear = FullyConnectedLayer(self.channels * SMALLEST**2, base_channels, "lrelu")
            self.warp_head = SimilarityHead(base_channels, num_heads)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None = None,
        iters: int = 1,
        policy: Tensor | None = None,
        base: Tensor | None = None,
        alpha: Tensor | None = None,
        padding_mode: Padding = "border",
        output_resolution: int | None = None,
    ) -> Warped:
        """Pictures (N, 3, S, S) in [-1, 1], S `flow_size` or `supersize`, warped to `output_resolution`.

        `source` (N, 3, T, T) is sampled instead of x. A similarity is regressed `iters` times, each time of the source
        warped so far, and refines the warp before it. `base` (N, 2, 3) follows all. `policy` (N, K) chooses a head,
        else all are used. `alpha` (N,) makes a partial warp: 0 the identity, 1 the whole.
        """
        source = x if source is None else source
        if len(source) != len(x):
            raise ValueError(f"{len(x)} pictures have as many sources, not {len(source)}")
        resolution = output_resolution or self.flow_size
        if isinstance(self.warp_head, FlowHead):
            if iters != 1:
                raise ValueError(f"a flow is regressed once, not {iters} times")
            source, base, alpha = self._a_head(policy, source, base, alpha)
            grid, delta = self.warp_head(self.features(x), policy, base, alpha, resolution)
            return Warped(self._sampled(source, grid, padding_mode), grid, delta=delta)
        if iters < 1:
            raise ValueError(f"a similarity is regressed at least once, not {iters} times")
        given, (source, base, alpha) = policy, self._a_head(policy, source, base, alpha)
        matrix, iterates = base, []
        for i in range(iters):
            # A partial warp is one of the whole, not of each step.
            last = i == iters - 1
            features = self.final_linear(self.features(x).flatten(1))
            matrix = self.warp_head(features, given, matrix, alpha if last else None)
            iterates.append(matrix)
            if not last:
                x = self._sampled(source, affine_grid(matrix, self.flow_size), padding_mode)
                if given is None and self.num_heads > 1:
                    given = self.each_head(len(x) // self.num_heads, x)
        grid = affine_grid(cast(Tensor, matrix), resolution)
        return Warped(self._sampled(source, grid, padding_mode), grid, matrix, iterates=tuple(iterates))

    def each_head(self, n: int, like: Tensor) -> Tensor:
        """The policy (n K, K) by which copies of pictures, K of each, take one head after the other."""
        return torch.eye(self.num_heads, device=like.device, dtype=like.dtype).repeat(n, 1)

    def _a_head(
        self, policy: Tensor | None, source: Tensor, base: Tensor | None, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What goes with a result: one each head where all heads are used."""
        if policy is not None or self.num_heads == 1:
            return source, base, alpha
        k = self.num_heads
        return (
            source.repeat_interleave(k, 0),
            None if base is None else base.repeat_interleave(k, 0),
            None if alpha is None else alpha.repeat_interleave(k, 0),
        )

    def _sampled(self, source: Tensor, grid: Tensor, padding_mode: Padding) -> Tensor:
        return self.warp_head.warper(source, grid, padding_mode)


class ComposedSTN(nn.Module):
    """A similarity and then a flow, regressed of what the similarity makes. 43,054,278 parameters.

    K heads add up: 51,052,440 parameters for four.
    """

    def __init__(
        self,
        flow_size: int = 128,
        supersize: int | None = None,
        channel_multiplier: float = 0.5,
        num_heads: int = 1,
        base_channels: int = WIDEST,
        flow_downsample: int = 8,
    ) -> None:
        super().__init__()
        shared = (flow_size, supersize, channel_multiplier, num_heads, base_channels, flow_downsample)
        self.flow_size, self.num_heads = flow_size, num_heads
        self.stns = nn.ModuleList([SpatialTransformer("similarity", *shared), SpatialTransformer("flow", *shared)])

    @property
    def similarity(self) -> SpatialTransformer:
        return cast(SpatialTransformer, self.stns[0])

    @property
    def flow(self) -> SpatialTransformer:
        return cast(SpatialTransformer, self.stns[1])

    def forward(
        self,
        x: Tensor,
        source: Tensor | None = None,
        iters: int = 1,
        policy: Tensor | None = None,
        alpha: Tensor | None = None,
        padding_mode: Padding = "border",
        output_resolution: int | None = None,
    ) -> Warped:
        """As a `SpatialTransformer`; `iters` are the similarity's. The source is sampled once, by the composed grid."""
        source = x if source is None else source
        first = self.similarity(x, source, iters, policy, padding_mode=padding_mode)
        if policy is None and self.num_heads > 1:
            policy = self.flow.each_head(len(x), x)
            source = source.repeat_interleave(self.num_heads, 0)
            alpha = None if alpha is None else alpha.repeat_interleave(self.num_heads, 0)
        second = self.flow(first.image, source, 1, policy, first.matrix, alpha, padding_mode, output_resolution)
        return Warped(second.image, second.grid, first.matrix, second.delta, first.iterates)


def published_state(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict for a network of any `supersize`: the filters that make pictures smaller are its own."""
    part = "input_downsample."
    own = {name: value for name, value in network.state_dict().items() if part in name}
    return {name: value for name, value in state.items() if part not in name} | own
