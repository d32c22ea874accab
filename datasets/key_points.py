"""Sets of pictures with key points, in pairs or not, as GANgealing is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gengauge.datasets.pictures_set import decode_all
from gengauge.datasets.sets import Array, Indices, checked


@dataclass(frozen=True, eq=False)
class KeyPointSet:
    """N pictures of `size` px that are decoded on access, and what is known of them.

    `key_points` (N, P, 3) float32: x, y in px of the fitted picture, and visibility. `pairs` (n, 2) int64 are fixed,
    None where they are drawn. `permutation` (Q,) int64 says which label a point has in the mirrored picture, None where
    that is not known; Q counts all points that the category can have, and P those that occur.
    `lengths` (N,) float32 are the longer sides of the objects' boxes in px of the originals, None where the whole
    picture is what counts; `inverse_coordinates` (N, 3) float32 are the fitting's offsets x and y and its scale.
    """

    name: str
    size: int
    key_points: Tensor
    pairs: Tensor | None = None
    permutation: Tensor | None = None
    lengths: Tensor | None = None
    inverse_coordinates: Tensor | None = None
    files: Sequence[Path] = ()
    read: Callable[[int], Array] | None = field(default=None, repr=False)

    labels = None
    num_classes = 0

    @property
    def resolution(self) -> int:
        return self.size

    def __len__(self) -> int:
        return len(self.key_points)

    def pictures(self, indices: Indices) -> Tensor:
        """The pictures as uint8 (n, 3, size, size). Raises IndexError, ValueError naming an unreadable picture."""
        chosen = checked(indices, len(self))
        read = self.read
        if read is None:
            raise ValueError(f"{self.name} has no pictures")

        def decode_one(i: int) -> Array:
            return read(int(chosen[i])).transpose(2, 0, 1)

        return decode_all(len(chosen), decode_one, self.size)

    def thresholds(self, indices: Indices) -> Tensor:
        """What a distance between key points is set against, (n,) float32 px of fitted pictures: object or picture."""
        chosen = torch.from_numpy(checked(indices, len(self)))
        if self.lengths is None or self.inverse_coordinates is None:
            return torch.full((len(chosen),), float(self.size))
        return self.lengths[chosen] * self.inverse_coordinates[chosen, 2]

    def usable_permutation(self) -> Tensor | None:
        """The permutation where it fits the points that occur, as the published code needs it.

        Raises ValueError where it does not: labels that never occur were dropped, and the permutation was not told.
        """
        if self.permutation is None:
            return None
        if len(self.permutation) != self.key_points.shape[1]:
            raise ValueError(
                f"{self.name} has {self.key_points.shape[1]} key points that occur and a permutation of "
                f"{len(self.permutation)}; some never occur in this part of the set"
            )
        return self.permutation
