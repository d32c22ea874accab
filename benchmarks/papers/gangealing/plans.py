"""A transformer as a network of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import PlannedNetwork
from gengauge.reference.gangealing.heads import FlowHead
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.training import Transformer


class _Regressors(nn.Module):
    """A transformer without its sampling, whose work depends on the warps and cannot be told without pictures."""

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The similarity's matrix, and the residual flow where there is one, of pictures (N, 3, S, S)."""
        network = self.network
        similarity = network.similarity if isinstance(network, ComposedSTN) else network
        matrix = similarity.warp_head(similarity.final_linear(similarity.features(x).flatten(1)))
        if not isinstance(network, ComposedSTN):
            return (matrix,)
        return matrix, cast(FlowHead, network.flow.warp_head).residual(network.flow.features(x))


def planned(build: Callable[[], Transformer], size: int) -> PlannedNetwork:
    """A transformer for pictures of `size` px."""
    return PlannedNetwork(
        "spatial transformer, each part once",
        lambda: _Regressors(build()),
        lambda: (torch.empty(1, 3, size, size),),
    )
