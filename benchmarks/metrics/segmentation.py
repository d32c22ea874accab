"""Scores of a segmentation: the confusion matrix of labels and predictions, and what the papers read from it.

The rules of DRN's `segment.py`, which SIGE and CUT measure with. Scores are in percent; a class that neither labels nor
predictions have takes no part in their means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def confusion(predictions: Array, labels: Array, classes: int, mask: Array | None = None) -> Array:
    """How often label i was predicted as j: int64 (classes, classes). Matrices of several pictures add up.

    `predictions` and `labels`: integers of one shape. Labels outside 0..classes - 1 (255 and -1, by custom) are
    ignored, and so is what lies outside `mask`, bool of that shape. Raises ValueError for other arrays and for a
    prediction outside the classes at a pixel that counts.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    counts = np.ones(labels.shape, bool) if mask is None else np.asarray(mask)
    if not predictions.shape == labels.shape == counts.shape:
        shapes = f"{predictions.shape}, {labels.shape} and {counts.shape}"
        raise ValueError(f"predictions, labels and mask have the shapes {shapes}, which must be one")
    if predictions.dtype.kind not in "iu" or labels.dtype.kind not in "iu" or counts.dtype != bool:
        kinds = f"{predictions.dtype}, {labels.dtype} and {counts.dtype}"
        raise ValueError(f"predictions and labels are integers and the mask is bool, not {kinds}")
    counts = counts & (labels >= 0) & (labels < classes)
    rows, columns = labels[counts].astype(np.int64), predictions[counts].astype(np.int64)
    bad = columns[(columns < 0) | (columns >= classes)]
    if bad.size:
        raise ValueError(f"the prediction {bad[0]} lies outside 0..{classes - 1}")
    return np.bincount(classes * rows + columns, minlength=classes**2).reshape(classes, classes)


def class_ious(matrix: Array) -> Array:
    """Intersection over union of every class in percent: float64 (classes,), NaN for one that occurs nowhere."""
    hits = _square(matrix).diagonal()
    return 100 * _divided(hits, matrix.sum(0) + matrix.sum(1) - hits)


def mean_iou(matrix: Array) -> float:
    """The mean of `class_ious`: mIoU in percent, "mAP" in CUT's tables. Raises ValueError where nothing counts."""
    return _mean(class_ious(matrix))


def class_accuracies(matrix: Array) -> Array:
    """The share of each label's pixels predicted as it, in percent: float64 (classes,), NaN for a label not there."""
    return 100 * _divided(_square(matrix).diagonal(), matrix.sum(1))


def class_accuracy(matrix: Array) -> float:
    """The mean of `class_accuracies`. Raises ValueError where nothing counts."""
    return _mean(class_accuracies(matrix))


def pixel_accuracy(matrix: Array) -> float:
    """The share of pixels predicted as their label, in percent. Raises ValueError where nothing counts."""
    return _mean(100 * _divided(np.array([np.trace(_square(matrix))]), matrix.sum()))


def _square(matrix: Array) -> Array:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix is (classes, classes), not {matrix.shape}")
    return matrix


def _divided(hits: Array, total: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(hits, np.float64) / total


def _mean(values: Array) -> float:
    if np.isnan(values).all():
        raise ValueError("no pixel with a label counts, so there is no score")
    return float(np.nanmean(values))
