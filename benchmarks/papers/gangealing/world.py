"""Cats in all poses with their exact landmarks: pairs to transfer points between, and what other ways make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.tables import Column
from gengauge.benchmarks.metrics.pck import Average, Hits, box_lengths, hits
from gengauge.benchmarks.papers.gangealing.evaluation import Batch
from gengauge.benchmarks.zoo import posed_cats
from gengauge.datasets import world

Array = np.ndarray[Any, Any]

TEST_SEED = 1_000_000  # far from what any network was trained on
ALPHAS = {"pck_20": 0.2, "pck_10": 0.1, "pck_05": 0.05}
_OF = "of the longer side of the box around the target's landmarks"
SCORED: dict[str, tuple[Average, int]] = {
    **{key: ("points", i) for i, key in enumerate(ALPHAS)},
    "pck_10_pairs": ("pairs", list(ALPHAS).index("pck_10")),
}
COLUMNS = (
    *(Column(key, f"PCK-Transfer at {alpha:g} {_OF}", "%", "higher") for key, alpha in ALPHAS.items()),
    Column("pck_10_pairs", f"PCK-Transfer at 0.1 {_OF}, mean over pairs", "%", "higher"),
)
_BATCH = 50


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures of `size` px that no network was trained on; other ones for each seed."""

    count: int = 200
    size: int = posed_cats.RESOLUTION

    def drawn(self, seed: int) -> Drawn:
        """The pairs of a seed."""
        made = world.render(posed_cats.scenes(TEST_SEED + seed, range(2 * self.count)), self.size)
        points = torch.cat([made.landmarks - 0.5, made.visible[..., None].float()], 2)  # from the first pixel's centre
        return Drawn(made.images, points)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pictures (2 n, 3, S, S) in [-1, 1], neighbours being pairs, and their landmarks (2 n, P, 3): x, y, visible."""

    pictures: Tensor
    points: Tensor

    @cached_property
    def lengths(self) -> Array:
        """What distances on each picture are set against, (2 n,) in px."""
        places = self.points[..., :2].numpy()
        return box_lengths(np.concatenate([places.min(1), places.max(1)], 1))

    def batches(self) -> Iterator[Batch]:
        lengths = torch.from_numpy(self.lengths.copy())
        for start in range(0, len(self.pictures), 2 * _BATCH):
            a, b = (slice(start + side, start + 2 * _BATCH, 2) for side in (0, 1))
            yield Batch(self.pictures[a], self.pictures[b], self.points[a], self.points[b], lengths[a], lengths[b])

    def hits(self, estimated: Array) -> Hits:
        """How many points (n, P, 2), estimated on the second picture of each pair, came near."""
        truth, visible = self.points[1::2].numpy(), (self.points[0::2, :, 2] * self.points[1::2, :, 2]).numpy()
        return hits(estimated, truth[..., :2], visible, self.lengths[1::2], tuple(ALPHAS.values()))
