"""Frechet distance between Gaussians fitted to features: FID where the features are the 2015 Inception network's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D), float64, of `count` features.

    `deviations` (N, D) are the centred features divided by sqrt(N - ddof), so that their Gram matrix is the covariance;
    None where only statistics were saved. With fewer features than dimensions they make the distance cheap.
    """

    mean: Array
    covariance: Array
    count: int | None = None
    deviations: Array | None = None


def fit(features: Array, ddof: int = 1) -> Gaussian:
    """Fits a Gaussian to features (N, D).

    `ddof` 1 divides the covariance by N - 1 (clean-fid, pytorch-fid, the BigGAN and TensorFlow StyleGAN2 code), 0 by
    N (stylegan2-ada-pytorch). Raises ValueError for fewer than two features, another shape, or values not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a Gaussian needs features of shape (N >= 2, D), not {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{int((~np.isfinite(features)).any(1).sum())} of {len(features)} features are not finite")
    features = features.astype(np.float64)
    mean = features.mean(0)
    deviations = (features - mean) / np.sqrt(len(features) - ddof)
    return Gaussian(mean, deviations.T @ deviations, len(features), deviations)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 sqrt(C_a C_b)), Heusel et al. 2017, equation 6.

    The trace of the square root is taken without forming it: with A and B the deviations, it is the nuclear norm of
    A B^T; without them, the sum of the square roots of the eigenvalues of R C_b R^T, where R^T R = C_a. Both are exact
    for singular covariances, where an iterative square root of the product is only near (it differs by 1e-7 to 1e-6).
    Raises ValueError where the dimensions differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the features have {a.mean.shape[0]} and {b.mean.shape[0]} dimensions; extract both alike")
    difference = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(difference @ difference + traces - 2 * _trace_of_root(a, b))


def _trace_of_root(a: Gaussian, b: Gaussian) -> float:
    dimensions = len(a.mean)
    small_a = a.deviations if a.deviations is not None and len(a.deviations) <= dimensions else None
    small_b = b.deviations if b.deviations is not None and len(b.deviations) <= dimensions else None
    if small_a is not None and small_b is not None:
        return float(linalg.svdvals(small_a @ small_b.T).sum())
    if small_b is not None:
        return _trace_of_root(b, a)
    root = small_a if small_a is not None else _root(a.covariance)
    eigenvalues = linalg.eigvalsh(root @ b.covariance @ root.T)
    return float(np.sqrt(eigenvalues.clip(0)).sum())


def _root(covariance: Array) -> Array:
    """R with R^T R = covariance."""
    eigenvalues, vectors = linalg.eigh(covariance)
    return np.sqrt(eigenvalues.clip(0))[:, None] * vectors.T
