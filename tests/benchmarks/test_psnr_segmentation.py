"""PSNR and segmentation scores beyond the goldens: against their definitions, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from gengauge.benchmarks.metrics import segmentation
from gengauge.benchmarks.metrics.psnr import psnr, to_common_size

RANDOM = np.random.RandomState(0)


def picture(*size: int) -> np.ndarray[Any, Any]:
    return RANDOM.randint(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(8, 8), (16, 32), (5, 3)])
def test_psnr_is_the_published_librarys(size: tuple[int, int]) -> None:
    a, b = picture(*size), picture(*size)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-12)
    mask = RANDOM.rand(*size) < 0.5
    assert psnr(a, b, mask) == pytest.approx(peak_signal_noise_ratio(a[mask][None], b[mask][None]), abs=1e-12)


def test_only_the_pixels_of_the_mask_count() -> None:
    a = picture(6, 10)
    b, mask = a.copy(), np.zeros((6, 10), bool)
    mask[1:3, 4:9] = True
    b[~mask] = picture(6, 10)[~mask]
    assert psnr(a, b, mask) == math.inf
    b[2, 5] ^= 1
    assert psnr(a, b, mask) == pytest.approx(10 * math.log10(255**2 * 10))


def published_masked(a: Any, b: Any, mask: Any) -> float:
    """Line by line what the published script does, with its exchange of height and width."""
    first, second = Image.fromarray(a), Image.fromarray(b)
    h, w = (min(sides) for sides in zip(first.size, second.size, strict=True))
    chosen = (F.interpolate(torch.from_numpy(mask)[None, None].float(), (h, w)) > 0.3).numpy().reshape(-1)
    x, y = (np.array(p.resize((h, w), Image.Resampling.NEAREST)).reshape(-1, 3)[chosen] for p in (first, second))
    return float(peak_signal_noise_ratio(x[None], y[None]))


@pytest.mark.parametrize("sizes", [((16, 32), (16, 32), (16, 32)), ((16, 32), (20, 24), (32, 64)), ((9, 7),) * 3])
def test_the_transposed_selection_is_the_published_one(sizes: tuple[tuple[int, int], ...]) -> None:
    a, b = picture(*sizes[0]), picture(*sizes[1])
    mask = np.zeros(sizes[2], bool)
    mask[: sizes[2][0] // 2, : sizes[2][1] // 3] = True
    assert psnr(a, b, mask, selection="transposed") == pytest.approx(published_masked(a, b, mask), abs=1e-12)
    assert psnr(a, b, mask, selection="transposed") != psnr(a, b, mask)


def test_in_a_square_picture_both_selections_are_one() -> None:
    a, b, mask = picture(12, 12), picture(12, 12), RANDOM.rand(12, 12) < 0.4
    assert psnr(a, b, mask, selection="transposed") == psnr(a, b, mask)


def test_pictures_of_different_sizes_meet_at_the_smaller() -> None:
    a, b = to_common_size(picture(8, 20), picture(16, 10))
    assert a.shape == b.shape == (8, 10, 3)
    small = picture(4, 6)
    large = small.repeat(2, 0).repeat(2, 1)
    mask = np.zeros((8, 12), bool)
    mask[:2, :2] = True
    assert psnr(small, large) == math.inf
    assert psnr(small, large, mask) == math.inf


def test_identical_pictures() -> None:
    a, mask = picture(8, 8), np.eye(8, dtype=bool)
    assert psnr(a, a) == math.inf
    changed = a.copy()
    changed[0, 0, 0] ^= 1
    assert psnr(a, a, identical="one-level") == pytest.approx(peak_signal_noise_ratio(a, changed))
    assert psnr(a, a, mask, identical="one-level") == pytest.approx(10 * math.log10(255**2 * 24))
    assert psnr(a, changed, identical="one-level") == psnr(a, changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((picture(4, 4).astype(np.float32), picture(4, 4)), "uint8"),
        ((picture(4, 4)[..., 0], picture(4, 4)), r"\(H, W, 3\)"),
        ((picture(4, 4), picture(0, 4)), r"\(0, 4, 3\)"),
        ((picture(4, 4), picture(4, 4), np.zeros((4, 4), bool)), "selects no pixel"),
        ((picture(4, 4), picture(4, 4), np.ones(4, bool)), "a mask is"),
        ((picture(4, 4), picture(4, 4), np.full((4, 4), "x")), "a mask is"),
    ],
)
def test_psnr_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        psnr(*arguments)


# segmentation


def test_scores_of_a_matrix_counted_by_hand() -> None:
    labels = np.array([[0, 0, 0, 1], [1, 2, 255, -1]])
    predictions = np.array([[0, 0, 1, 1], [1, 0, 3, 0]])
    matrix = segmentation.confusion(predictions, labels, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    ious = segmentation.class_ious(matrix)
    assert ious[:3] == pytest.approx([50, 200 / 3, 0])
    assert math.isnan(ious[3])
    assert segmentation.mean_iou(matrix) == pytest.approx((50 + 200 / 3) / 3)
    accuracies = segmentation.class_accuracies(matrix)
    assert accuracies[:3] == pytest.approx([200 / 3, 100, 0])
    assert math.isnan(accuracies[3])
    assert segmentation.class_accuracy(matrix) == pytest.approx((200 / 3 + 100) / 3)
    assert segmentation.pixel_accuracy(matrix) == pytest.approx(400 / 6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_matrices_add_up_over_pictures_and_parts(dtype: type) -> None:
    labels, predictions = RANDOM.randint(0, 20, (2, 3, 9, 11)).astype(dtype)
    labels[labels == 19] = 255 if dtype == np.uint8 else -1
    predictions = predictions % 19
    whole = segmentation.confusion(predictions, labels, 19)
    mask = RANDOM.rand(3, 9, 11) < 0.3
    parts = [segmentation.confusion(predictions, labels, 19, part) for part in (mask, ~mask)]
    pictures = [segmentation.confusion(p, label, 19) for p, label in zip(predictions, labels, strict=True)]
    assert np.array_equal(sum(parts), whole)
    assert np.array_equal(sum(pictures), whole)
    assert whole.sum() == (labels < 19).sum() - (labels.astype(int) < 0).sum()


def test_a_perfect_segmentation_scores_100() -> None:
    labels = RANDOM.randint(0, 5, (6, 6))
    matrix = segmentation.confusion(labels, labels, 19)
    scores = (segmentation.mean_iou, segmentation.class_accuracy, segmentation.pixel_accuracy)
    assert [score(matrix) for score in scores] == [100, 100, 100]


def test_a_class_that_is_only_predicted_counts_in_iou_and_not_in_accuracy() -> None:
    matrix = segmentation.confusion(np.array([0, 1]), np.array([0, 0]), 3)
    assert segmentation.mean_iou(matrix) == 25
    assert segmentation.class_accuracy(matrix) == 50


def test_predictions_where_nothing_counts_may_be_anything() -> None:
    assert segmentation.confusion(np.array([99, 0]), np.array([255, 0]), 2).sum() == 1
    mask = np.array([False, True])
    assert segmentation.confusion(np.array([99, 0]), np.array([1, 0]), 2, mask).sum() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segmentation.confusion(np.zeros(3, int), np.zeros(4, int), 2), r"\(3,\), \(4,\)"),
        (lambda: segmentation.confusion(np.zeros(3, int), np.zeros(3, int), 2, np.ones(2, bool)), r"\(2,\), which"),
        (lambda: segmentation.confusion(np.zeros(3), np.zeros(3, int), 2), "integers.*float64"),
        (lambda: segmentation.confusion(np.zeros(3, int), np.zeros(3, int), 2, np.ones(3)), "mask is bool"),
        (lambda: segmentation.confusion(np.full(3, 7), np.zeros(3, int), 2), "prediction 7 lies outside"),
        (lambda: segmentation.confusion(np.full(3, -1), np.zeros(3, int), 2), "prediction -1 lies outside"),
        (lambda: segmentation.mean_iou(np.zeros((3, 3), int)), "no pixel"),
        (lambda: segmentation.pixel_accuracy(np.zeros((3, 3), int)), "no pixel"),
        (lambda: segmentation.class_ious(np.zeros((3, 4), int)), r"\(classes, classes\)"),
    ],
)
def test_segmentation_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
