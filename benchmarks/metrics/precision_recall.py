"""Improved precision and recall: do pictures of one set lie on the other's k-nearest-neighbour manifold?"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CHUNK = 2048


def precision_recall(real: Array, fake: Array, k: int = 3) -> tuple[float, float]:
    """Precision (share of fake within real's manifold) and recall (of real within fake's), Kynkaanniemi et al. 2019.

    Features (N, D) and (M, D); a manifold is the union of balls around its features that reach to their k-th
    neighbour. Raises ValueError for k or fewer features on a side.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"neighbour {k} needs more than {k} features on a side, not {len(real)} and {len(fake)}")
    real, fake = real.astype(np.float64), fake.astype(np.float64)
    return _share_inside(fake, real, _radii(real, k)), _share_inside(real, fake, _radii(fake, k))


def _radii(x: Array, k: int) -> Array:
    """Squared distance of each feature to its k-th neighbour, itself not counted."""
    return np.concatenate(
        [np.partition(_squared_distances(x[i : i + CHUNK], x), k, axis=1)[:, k] for i in range(0, len(x), CHUNK)]
    )


def _share_inside(queries: Array, centres: Array, radii: Array) -> float:
    inside = [
        (_squared_distances(queries[i : i + CHUNK], centres) <= radii).any(1) for i in range(0, len(queries), CHUNK)
    ]
    return float(np.concatenate(inside).mean())


def _squared_distances(x: Array, y: Array) -> Array:
    return ((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * (x @ y.T)).clip(0)
