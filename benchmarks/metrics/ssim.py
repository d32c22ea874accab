"""Structural similarity (Wang et al., TIP 2004) as GAN Warping's evaluation computes it: its map and its mean.

A Gaussian window of 11 px and deviation 1.5, float64, each colour channel on its own. Beyond the borders there are
zeros, which count; scikit-image and torchmetrics mirror or crop there, and their values differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import correlate1d

Array = np.ndarray[Any, Any]

WINDOW, SIGMA = 11, 1.5  # px
K1, K2, GREY_LEVELS = 0.01, 0.03, 255.0


def ssim_map(a: Array, b: Array) -> Array:
    """The similarity at each place of two pictures (H, W, C) of one shape, in grey levels: (H, W, C) float64, <= 1.

    In pictures whose smaller side is below 11 px the window shrinks to that side, and its deviation with it.
    Raises ValueError for other shapes, and for values that are not finite.
    """
    if a.shape != b.shape or a.ndim != 3 or not a.size:
        raise ValueError(f"SSIM compares two pictures (H, W, C) of one shape, not {a.shape} and {b.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("SSIM: the pictures hold values that are not finite")
    window = _window(min(WINDOW, *a.shape[:2]))
    mean_x, mean_y, xx, yy, xy = (_blurred(z, window) for z in (x, y, x * x, y * y, x * y))
    variances = xx - mean_x**2 + yy - mean_y**2
    covariance = xy - mean_x * mean_y
    c1, c2 = (K1 * GREY_LEVELS) ** 2, (K2 * GREY_LEVELS) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def ssim(a: Array, b: Array, mask: Array | None = None) -> float:
    """The mean similarity of two pictures (H, W, C); with weights (H, W), not negative, the weighed mean of its map.

    1 for equal pictures. Raises ValueError as `ssim_map`, for weights of another shape and for weights that sum to 0.
    """
    similarity = ssim_map(a, b)
    if mask is None:
        return float(similarity.mean())
    if mask.shape != a.shape[:2] or not mask.min() >= 0 or not 0 < mask.sum(dtype=np.float64) < np.inf:
        raise ValueError(
            f"SSIM's weights are {a.shape[:2]}, not negative and somewhere above 0; these are {mask.shape}"
        )
    weights = mask.astype(np.float64)[..., None]
    return float((weights * similarity).sum() / (weights.sum() * a.shape[2]))


def _window(size: int) -> Array:
    """The factor (size,) of the separable window; an even one has its middle between two pixels."""
    places = np.arange(size) - (size - 1) / 2
    sigma = SIGMA * size / WINDOW
    window = np.exp(-(places**2) / (2 * sigma**2))
    return window / window.sum()


def _blurred(x: Array, window: Array) -> Array:
    for axis in (0, 1):
        x = correlate1d(x, window, axis, mode="constant")
    return x
