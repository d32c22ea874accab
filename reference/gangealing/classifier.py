"""GANgealing's classifier of pictures by cluster and by flip.

Source: Peebles et al., CVPR 2022, section 3.3 and appendix. Class c of 2 K is cluster c modulo K, mirrored from K on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.reference.gangealing.flips import mirror
from gengauge.reference.gangealing.trunk import SMALLEST, Trunk
from gengauge.reference.nets.stylegan2.layers import FullyConnectedLayer
from gengauge.reference.nets.stylegan2.rosinality import WIDEST


@dataclass(frozen=True)
class Cluster:
    """The pictures of one cluster, upright."""

    images: Tensor  # (n, 3, S, S), mirrored where `mirrored` says so
    index: Tensor  # (n,) int64: which of the given pictures they are
    mirrored: Tensor  # (n,) bool


class ResnetClassifier(Trunk):
    """Pictures (N, 3, S, S) in [-1, 1], S `size` or `supersize`, to logits (N, num_heads), num_heads = 2 K with flips.

    Logits pass a leaky ReLU times sqrt(2), as published. 18,293,320 parameters for eight.
    """

    def __init__(
        self,
        size: int = 128,
        channel_multiplier: float = 0.5,
        num_heads: int = 8,
        supersize: int | None = None,
        base_channels: int = WIDEST,
    ) -> None:
        super().__init__(size, supersize, channel_multiplier, base_channels)
        self.num_heads = num_heads
        self.to_logits = FullyConnectedLayer(self.channels * SMALLEST**2, num_heads, "lrelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.to_logits(self.features(x).flatten(1))

    @torch.no_grad()
    def assign(self, x: Tensor, ignore_flips: bool = False) -> Tensor:
        """The class of each picture (N,), or with `ignore_flips` its cluster."""
        found = self(x).argmax(1)
        return found % self.clusters if ignore_flips else found

    @property
    def clusters(self) -> int:
        """K, where the logits tell of flips. Raises ValueError where they cannot."""
        if self.num_heads % 2:
            raise ValueError(f"{self.num_heads} logits are no pairs of upright and mirrored clusters")
        return self.num_heads // 2

    def select(self, x: Tensor, cluster: int) -> Cluster:
        """The pictures of a cluster."""
        found = self.assign(x)
        index = (found % self.clusters == cluster).nonzero()[:, 0]
        mirrored = found[index] >= self.clusters
        return Cluster(mirror(x[index], mirrored), index, mirrored)

    def upright(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures mirrored where their class says so (N, 3, S, S), their clusters (N,), which were mirrored (N,)."""
        found = self.assign(x)
        mirrored = found >= self.clusters
        return mirror(x, mirrored), found % self.clusters, mirrored

    @torch.no_grad()
    def upright_as(self, x: Tensor, cluster: int) -> tuple[Tensor, Tensor]:
        """Pictures mirrored where a given cluster is likelier of the mirror image, and which were (N,)."""
        logits = self(x)
        mirrored = logits[:, cluster + self.clusters] > logits[:, cluster]
        return mirror(x, mirrored), mirrored

    @torch.no_grad()
    def upright_as_each(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each picture as it is upright in every cluster (N K, 3, S, S), the clusters' policy (N K, K), flips (N, K).

        A flip tells that the picture was mirrored for a cluster.
        """
        k = self.clusters
        logits = self(x)
        mirrored = logits[:, k:] > logits[:, :k]
        policy = torch.eye(k, device=x.device, dtype=x.dtype).repeat(len(x), 1)
        return mirror(x.repeat_interleave(k, 0), mirrored.flatten()), policy, mirrored


def trunk_of(classifier: ResnetClassifier, transformer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state that a classifier starts from: its own, with what a similarity's state has under the same names."""
    return {name: transformer.get(name, value) for name, value in classifier.state_dict().items()}
