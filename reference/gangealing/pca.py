"""Principal directions of W by incremental PCA, whose batches decide what few directions come out.

It is no stand-in for exact PCA: with one direction, all that a batch has beside it is forgotten. Source: Ross et al.,
"Incremental learning for robust visual tracking", IJCV 2008, in the arrangement of scikit-learn's `IncrementalPCA`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLES = 1_000_000  # of W, as published
ROWS_PER_FEATURE = 5  # of a batch


@dataclass(frozen=True)
class PrincipalDirections:
    """Directions (n, D) of length 1, the mean (1, D) and the variance along each direction (n,), float64.

    `singular_values` (n,) and `samples` are what a next batch needs. A direction's largest entry is positive.
    """

    components: Tensor
    mean: Tensor
    explained_variance: Tensor
    singular_values: Tensor
    samples: int

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates (M, n) of rows (M, D), in their type."""
        return ((x.to(self.mean) - self.mean) @ self.components.T).to(x)


def incremental_pca(x: Tensor, n_components: int, batch: int | None = None) -> PrincipalDirections:
    """The principal directions of rows (M, D), in batches of `batch` rows, 5 D by default.

    A last batch with fewer rows than components goes with the one before. Raises ValueError for more components than
    features or rows.
    """
    if x.ndim != 2 or not 1 <= n_components <= min(x.shape):
        raise ValueError(f"{n_components} components cannot be had from rows of shape {tuple(x.shape)}")
    size = batch or ROWS_PER_FEATURE * x.shape[1]
    if size < n_components:
        raise ValueError(f"a batch of {size} rows has no {n_components} components")
    found: PrincipalDirections | None = None
    for rows in _batches(len(x), size, n_components):
        found = update(found, x[rows], n_components)
    assert found is not None
    return found


def update(before: PrincipalDirections | None, x: Tensor, n_components: int) -> PrincipalDirections:
    """The directions after another batch (M, D)."""
    x = x.double()
    rows = len(x)
    batch_mean = x.mean(0, keepdim=True)
    seen = rows
    mean, stacked = batch_mean, x - batch_mean
    if before is not None:
        seen += before.samples
        shift = before.mean - batch_mean
        mean = batch_mean + shift * (before.samples / seen)
        # The spread of all rows is that of both parts around their own means and that of the means.
        weight = math.sqrt(before.samples / seen * rows)
        stacked = torch.cat([before.singular_values[:, None] * before.components, stacked, weight * shift])
    _, values, directions = torch.linalg.svd(stacked, full_matrices=False)
    values, directions = values[:n_components], directions[:n_components]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    variance = values.square() / max(1, seen - 1)
    return PrincipalDirections(directions * largest.sign(), mean, variance, values, seen)


def _batches(rows: int, size: int, smallest: int) -> Iterator[slice]:
    start = 0
    for _ in range(rows // size):
        if start + size + smallest <= rows:
            yield slice(start, start + size)
            start += size
    if start < rows:
        yield slice(start, rows)
