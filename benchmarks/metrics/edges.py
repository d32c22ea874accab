"""Thin edges of pictures: of a network's edge probabilities as GAN Warping's evaluation thins them, or Canny's.

An edge picture is (H, W) uint8: 0 on edges, 255 elsewhere, as distance transforms take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Propagation = Literal["published", "full"]
Detector = Callable[[Array], Array]

EDGE, ELSEWHERE = 0, 255
LOW, HIGH = 100.0, 150.0  # of the thinned probabilities, whose largest is 255
# Pixels of the smallest component that is kept. The published code asks scikit-image for it by `min_size=5`; version
# 0.26.0 of that takes the number for the largest component that goes (its issue 8001), so that 6 is the smallest there.
SMALLEST = 5
CANNY = (100, 200)  # the lower and the upper threshold, of gradients in grey levels


def edge_picture(probability: Array, propagation: Propagation = "published", smallest: int = SMALLEST) -> Array:
    """The edge picture of edge probabilities (H, W): thinned across the edges, by two thresholds, without crumbs.

    The thresholds are relative to the largest probability, and a map of one value is an edge all over. `propagation` as
    in `hysteresis`, `smallest` as in `without_crumbs`. Raises ValueError for values that are not finite or negative,
    and for other shapes.
    """
    if probability.ndim != 2 or not probability.size or probability.dtype.kind != "f":
        raise ValueError(f"edge probabilities are floats (H, W), not {probability.dtype} {probability.shape}")
    probability = probability.astype(np.float64)
    if not (np.isfinite(probability).all() and probability.min() >= 0):
        raise ValueError("edge probabilities are finite and not negative; these are not")
    thin = non_maximum_suppression(probability, orientations(*second_derivatives(probability)))
    return _as_picture(without_crumbs(hysteresis(thin, propagation=propagation), smallest))


def second_derivatives(image: Array) -> tuple[Array, Array]:
    """The second derivatives of an image (H, W) float64 along x and along y, each by two Sobel filters of 5 px."""
    import cv2

    xx, yy = image, image
    for _ in range(2):
        xx = np.asarray(cv2.Sobel(xx, cv2.CV_64F, 1, 0, ksize=5))
        yy = np.asarray(cv2.Sobel(yy, cv2.CV_64F, 0, 1, ksize=5))
    return xx, yy


def orientations(xx: Array, yy: Array) -> Array:
    """atan2(yy, xx) in degrees, folded into [0, 180]."""
    angles = np.rad2deg(np.arctan2(yy, xx))
    angles[angles < 0] += 180
    return angles


def non_maximum_suppression(image: Array, angles: Array) -> Array:
    """An image (H, W), not negative, where it is no less than both neighbours along its orientation, else 0; float64.

    Angles are of [0, 180] degrees, rounded to steps of 45. The border of 1 px is 0, and the rest is scaled to a largest
    value of 255. What is 0 everywhere stays so (the published code divides by it and finds no edges either).
    """
    middle = image[1:-1, 1:-1]
    if not middle.size:
        return np.zeros(image.shape)
    step = np.select([angles < 22.5, angles < 67.5, angles < 112.5, angles < 157.5], [0, 1, 2, 3], 0)[1:-1, 1:-1]
    kept = np.zeros(middle.shape, bool)
    # Of each step one of the two neighbours, as (row, column); the other lies opposite.
    for number, (row, column) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        largest = np.maximum(_moved(image, row, column), _moved(image, -row, -column))
        kept |= (step == number) & (middle >= largest)
    out = np.zeros(image.shape)
    out[1:-1, 1:-1] = np.where(kept, middle, 0)
    return out * (255.0 / out.max()) if out.any() else out


def hysteresis(image: Array, low: float = LOW, high: float = HIGH, propagation: Propagation = "published") -> Array:
    """Strong pixels of an image (H, W), and weak ones that touch them; bool (H, W).

    "full" is Canny's: of the pixels above `low`, every 8-connected component that reaches `high`.

    "published" is what GAN Warping's code does. Weak pixels, (low, high], become strong where one of their 8 neighbours
    is at `high` or above; what touches only those does not, for the code drops the list that it appends them to. A
    pixel of exactly `high` makes its neighbours strong and is itself weak.

    Raises ValueError for thresholds in the wrong order.
    """
    import cv2

    if not low <= high:
        raise ValueError(f"the lower threshold {low} is above the higher one {high}")
    above, seeds = image > low, image >= high
    if propagation == "full":
        _, labels = cv2.connectedComponents((above | seeds).astype(np.uint8), connectivity=8)
        found = np.zeros(int(np.max(labels)) + 1, bool)
        found[np.unique(labels[seeds])] = True
        return found[labels]
    around = np.ones((3, 3), np.uint8)
    around[1, 1] = 0
    touched = np.asarray(cv2.dilate(seeds.astype(np.uint8), around)).astype(bool)
    return (seeds & (image > high)) | (above & (image <= high) & touched)


def without_crumbs(edges: Array, smallest: int = SMALLEST) -> Array:
    """Edges, bool (H, W), without 8-connected components of fewer pixels than `smallest`."""
    import cv2

    _, labels, statistics, _ = cv2.connectedComponentsWithStats(edges.astype(np.uint8), connectivity=8)
    large = np.asarray(statistics)[:, cv2.CC_STAT_AREA] >= smallest
    large[0] = False  # what is no edge
    return large[np.asarray(labels)]


def canny_edges(pictures: Array, thresholds: tuple[float, float] = CANNY) -> Array:
    """Edge pictures (N, H, W) of pictures (N, H, W, 3) uint8 RGB by OpenCV's Canny on their luma.

    It needs no weights. Its edges are not DexiNed's, so distances between them are no stand-in for published numbers
    and are to be told by this name. Raises ValueError for other arrays.
    """
    import cv2

    _check_pictures(pictures)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    return np.stack([_as_picture(np.asarray(cv2.Canny(g, *thresholds, L2gradient=True)) > 0) for g in grey])


def thinned(
    probabilities: Callable[[Array], Array], propagation: Propagation = "published", smallest: int = SMALLEST
) -> Detector:
    """An edge detector, pictures (N, H, W, 3) uint8 to edge pictures (N, H, W), of a function to probabilities.

    The other arguments are those of `edge_picture`. The detector raises ValueError for other arrays.
    """

    def detect(pictures: Array) -> Array:
        _check_pictures(pictures)
        return np.stack([edge_picture(p, propagation, smallest) for p in probabilities(pictures)])

    return detect


def _moved(image: Array, row: int, column: int) -> Array:
    """The neighbour in a direction, of each pixel but those of the border."""
    height, width = image.shape
    return image[1 + row : height - 1 + row, 1 + column : width - 1 + column]


def _as_picture(edges: Array) -> Array:
    return np.where(edges, np.uint8(EDGE), np.uint8(ELSEWHERE))


def _check_pictures(pictures: Array) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or not pictures.size:
        raise ValueError(f"pictures are uint8 (N, H, W, 3), not {pictures.dtype} {pictures.shape}")
