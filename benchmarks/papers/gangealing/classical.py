"""Points between two pictures without any learning: a similarity by matched SIFT features, or by the true points."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ZOOM = 4  # SIFT finds little in pictures of 64 px
RATIO = 0.8  # of the nearest to the second nearest feature, Lowe 2004
_REACH = 3.0  # px of the zoomed pictures that a match may be off


def without_opencv() -> str:
    """Why OpenCV cannot be used, with what to do; nothing where it can."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        return f"OpenCV cannot be loaded ({error}); pip install opencv-python-headless"
    return ""


def sift_similarity(a: Array, b: Array) -> Array | None:
    """The similarity (2, 3) from points of picture a to those of b, both (H, W, 3) uint8, in px; None where none fits.

    Features are matched by Lowe's ratio, the similarity by RANSAC, both as OpenCV has them.
    """
    import cv2

    sift = cv2.SIFT.create()
    found = []
    for picture in (a, b):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        size = (grey.shape[1] * ZOOM, grey.shape[0] * ZOOM)
        found.append(sift.detectAndCompute(cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC), None))
    (points_a, of_a), (points_b, of_b) = found
    if of_a is None or of_b is None or len(of_b) < 2:
        return None
    matches = [pair for pair in cv2.BFMatcher().knnMatch(of_a, of_b, k=2) if len(pair) == 2]
    good = [first for first, second in matches if first.distance < RATIO * second.distance]
    if len(good) < 2:
        return None
    start = np.array([points_a[m.queryIdx].pt for m in good])
    end = np.array([points_b[m.trainIdx].pt for m in good])
    cv2.setRNGSeed(0)
    found_matrix: Any = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=_REACH)[0]
    if found_matrix is None:
        return None
    matrix = np.asarray(found_matrix)
    # The middle of pixel p of a picture lies at ZOOM p + (ZOOM - 1) / 2 of the zoomed one.
    shift = (ZOOM - 1) / 2
    middle = np.full(2, shift)
    return np.concatenate([matrix[:, :2], ((matrix[:, :2] @ middle + matrix[:, 2] - middle) / ZOOM)[:, None]], 1)


def best_similarity(start: Array, end: Array) -> Array:
    """The similarity (2, 3) that takes points (P, 2) nearest to others, by least squares.

    Raises ValueError for fewer than two points.
    """
    if start.shape != end.shape or len(start) < 2:
        raise ValueError(f"a similarity is fitted to two points or more, not {start.shape} and {end.shape}")
    x, y = ((p - p.mean(0)) @ np.array([1, 1j]) for p in (start, end))
    factor = np.vdot(x, y) / max(np.vdot(x, x).real, np.finfo(float).tiny)
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.concatenate([linear, (end.mean(0) - linear @ start.mean(0))[:, None]], 1)


def moved(points: Array, matrix: Array) -> Array:
    """Points (P, 2) by a matrix (2, 3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]
