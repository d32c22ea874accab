"""A generator as a network of a plan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import PlannedNetwork
from gengauge.reference.gan_warping.low_rank import StyleGenerator


class _FromLatents(nn.Module):
    """A generator as a module that takes latents z."""

    def __init__(self, g: StyleGenerator) -> None:
        super().__init__()
        self.mapping, self.synthesis = g.mapping, g.synthesis

    def forward(self, z: Tensor) -> Tensor:
        """Pictures of z (N, z_dim)."""
        return self.synthesis(self.mapping(z, None))


def planned(build: Callable[[], StyleGenerator], z_dim: int, name: str = "generator") -> PlannedNetwork:
    """A generator and latents for one picture."""
    return PlannedNetwork(name, lambda: _FromLatents(build()), lambda: (torch.empty(1, z_dim),))
