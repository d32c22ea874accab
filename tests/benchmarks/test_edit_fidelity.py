"""The fidelity of edits by hand: equal pictures, moved squares, masks of all kinds, both conventions, refusals."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve
from skimage.metrics import structural_similarity

from gengauge.benchmarks.metrics.chamfer import distances, symmetric_chamfer
from gengauge.benchmarks.metrics.edges import canny_edges
from gengauge.benchmarks.metrics.edit_fidelity import (
    COLUMNS,
    Fidelity,
    aggregate,
    chamfer_columns,
    edit_fidelity,
    mse,
    psnr,
)
from gengauge.benchmarks.metrics.ssim import ssim, ssim_map
from gengauge.reference.nets.lpips import LPIPS

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)
CHANNELS_DB = 10 * math.log10(3)  # 4.771


def picture(*size: int) -> Array:
    return RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)


def square(left: int, side: int = 12, size: int = 40, filled: bool = False) -> Array:
    """An edge picture of a square's outline, 20 px from the top."""
    out = np.full((size, size), 255, np.uint8)
    out[20 : 20 + side, left : left + side] = 0
    if not filled:
        out[21 : 19 + side, left + 1 : left + side - 1] = 255
    return out


A, B = picture(32, 32), picture(32, 32)
HARD = np.zeros((32, 32), np.float32)
HARD[4:20, 6:30] = 1


@functools.cache
def lpips() -> LPIPS:
    torch.manual_seed(0)
    network = LPIPS("alex").eval().requires_grad_(False)
    for name, value in network.named_parameters():
        if name.startswith("lin"):
            value.abs_()  # a distance is not negative
    return network


# ----------------------------------------------------------------------------------------------------------------------
# Equal pictures, and masks


def test_equal_pictures() -> None:
    shaded = np.zeros((40, 40, 3), np.uint8)
    shaded[10:30, 10:30] = 200
    mask = np.zeros((40, 40))
    mask[8:20, 8:32] = 1
    found = edit_fidelity(shaded, shaded, mask, lpips(), canny_edges)
    assert tuple(found.corrected) == tuple(found.published) == COLUMNS
    assert not found.reasons
    for values in (found.corrected, found.published):
        for column, value in values.items():
            expected = {"psnr": math.inf, "ssim": 1.0, "lpips": 0.0, "chamfer": 0.0}[column.partition("_")[0]]
            assert value == pytest.approx(expected, abs=1e-12), column


def test_columns_without_their_networks_are_left_out() -> None:
    assert list(edit_fidelity(A, B, HARD).corrected) == list(COLUMNS[:6])
    assert list(edit_fidelity(A, B, HARD, edges=canny_edges).corrected) == [*COLUMNS[:6], *COLUMNS[9:]]


def test_a_hard_mask_measures_its_own_pixels() -> None:
    found = edit_fidelity(A, B, HARD, lpips())
    inside = HARD.astype(bool)
    squares = np.square(A.astype(float) - B)
    for region, chosen in (("_changed", inside), ("_unchanged", ~inside)):
        expected = 10 * math.log10(255**2 / squares[chosen].mean())
        assert found.corrected["psnr" + region] == pytest.approx(expected, abs=1e-9)
        assert found.published["psnr" + region] == pytest.approx(expected - CHANNELS_DB, abs=1e-6)
        assert found.corrected["ssim" + region] == pytest.approx(ssim_map(A, B)[chosen].mean(), abs=1e-9)
    for metric in ("psnr", "ssim", "lpips"):
        assert found.corrected[metric] == found.published[metric]
    assert found.corrected["lpips_changed"] > 0


def test_a_soft_mask_weighs_and_is_not_squared() -> None:
    half = np.full((32, 32), 0.5, np.float32)
    found = edit_fidelity(A, B, half, lpips())
    for metric in ("psnr", "ssim"):
        for region in ("_changed", "_unchanged"):
            assert found.corrected[metric + region] == pytest.approx(found.corrected[metric], abs=1e-9)
    # The published numerator has a quarter of each square, three channels long; its denominator a half of each pixel.
    assert found.published["psnr_changed"] == pytest.approx(found.published["psnr"] - 10 * math.log10(1.5), abs=1e-6)
    assert mse(A, B, half, "published") == pytest.approx(1.5 * mse(A, B), rel=1e-6)
    soft = RANDOM.random((32, 32))
    expected = (soft[..., None] * np.square(A.astype(float) - B)).sum() / (3 * soft.sum())
    assert psnr(A, B, soft) == pytest.approx(10 * math.log10(255**2 / expected), abs=1e-9)


def test_changed_and_unchanged_make_the_whole() -> None:
    soft = RANDOM.random((32, 32)).astype(np.float32)
    share = soft.mean(dtype=np.float64)
    found = edit_fidelity(A, B, soft).corrected
    parts = share * found["ssim_changed"] + (1 - share) * found["ssim_unchanged"]
    assert parts == pytest.approx(found["ssim"], abs=1e-7)
    assert share * mse(A, B, soft) + (1 - share) * mse(A, B, 1 - soft) == pytest.approx(mse(A, B), rel=1e-6)


@pytest.mark.parametrize(("value", "left", "lost"), [(0.0, "_unchanged", "_changed"), (1.0, "_changed", "_unchanged")])
def test_a_mask_of_nothing_or_of_all(value: float, left: str, lost: str) -> None:
    edges = square(10)
    found = edit_fidelity(A, B, np.full((32, 32), value), lpips(), lambda x: np.stack([edges[:32, :32]] * 2))
    for metric in ("psnr", "ssim", "lpips", "chamfer"):
        for values in (found.corrected, found.published):
            assert math.isnan(values[metric + lost])
            assert not math.isnan(values[metric + left])
        assert found.counts[metric + lost] == 0
        assert found.counts[metric + left] == 1
    assert found.corrected["psnr" + left] == pytest.approx(found.corrected["psnr"], abs=1e-9)
    assert {column.partition("_")[2] for column in found.reasons} == {lost[1:]}
    assert found.reasons["ssim" + lost] == "the mask leaves no pixel"
    assert "no edge" in found.reasons["chamfer" + lost]
    assert math.isnan(mse(A, B, np.zeros((32, 32))))


def test_bools_are_masks() -> None:
    assert edit_fidelity(A, B, HARD > 0).corrected == edit_fidelity(A, B, HARD).corrected


@pytest.mark.parametrize(
    ("edited", "target", "mask", "words"),
    [
        (A / 255, B, HARD, "the edited picture is uint8 .H, W, 3., not float64"),
        (A, B[..., :1], HARD, r"the target is uint8 \(H, W, 3\), not uint8 \(32, 32, 1\)"),
        (A, B[:16], HARD, r"edited picture is \(32, 32, 3\) and its target \(16, 32, 3\)"),
        (A, B, HARD[:16], r"mask is floats \(32, 32\) in \[0, 1\], not float32 \(16, 32\)"),
        (A, B, (HARD * 255).astype(np.uint8), "not uint8"),
        (A, B, HARD * 255, "values from 0 to 255; bring them"),
        (A, B, -HARD, "values from -1 to"),
        (A, B, np.full((32, 32), np.nan), "values from nan to nan"),
        (A[:0], B[:0], HARD[:0], r"\(0, 32, 3\)"),
    ],
)
def test_other_arrays_are_refused(edited: Array, target: Array, mask: Array, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        edit_fidelity(edited, target, mask)


# ----------------------------------------------------------------------------------------------------------------------
# SSIM


def test_inside_ssim_is_that_of_scikit_image() -> None:
    a = picture(40, 33)
    b = (a * 0.7 + picture(40, 33) * 0.3).astype(np.uint8)
    _, theirs = structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True, data_range=255
    )
    ours = ssim_map(a, b)
    assert ours[5:-5, 5:-5] == pytest.approx(theirs[5:-5, 5:-5], abs=1e-9)
    assert np.abs(ours - theirs)[0].max() > 1e-3  # at the border they mirror, and this takes zeros
    assert ssim(a, b) == ours.mean()


@pytest.mark.parametrize("size", [(8, 14), (7, 30), (1, 4), (11, 11)])
def test_the_window_of_small_pictures(size: tuple[int, int]) -> None:
    """The published operations: convolution by FFT with a window of two dimensions."""
    a, b = (picture(*size).astype(float) for _ in range(2))
    side = min(11, *size)
    places = np.arange(side) - (side - 1) / 2
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * (1.5 * side / 11) ** 2))
    window = (window / window.sum())[..., None]

    def mean(x: Array) -> Array:
        return fftconvolve(x, window, mode="same")

    ma, mb = mean(a), mean(b)
    c1, c2 = 2.55**2, 7.65**2
    top = (2 * ma * mb + c1) * (2 * (mean(a * b) - ma * mb) + c2)
    bottom = (ma**2 + mb**2 + c1) * (mean(a * a) - ma**2 + mean(b * b) - mb**2 + c2)
    assert ssim_map(a, b) == pytest.approx(top / bottom, abs=1e-8)


def test_what_ssim_refuses() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        ssim(A, B[:16])
    with pytest.raises(ValueError, match="not finite"):
        ssim(A, np.full(B.shape, np.nan))
    for mask in (np.zeros((32, 32)), -HARD, HARD[:3], np.full((32, 32), np.nan)):
        with pytest.raises(ValueError, match=r"SSIM's weights are \(32, 32\)"):
            ssim(A, B, mask)
    assert ssim(A, B, HARD) == pytest.approx(edit_fidelity(A, B, HARD).corrected["ssim_changed"], abs=1e-9)


# ----------------------------------------------------------------------------------------------------------------------
# Chamfer


@pytest.mark.parametrize("shift", [1, 3, 5])
def test_a_moved_square(shift: int) -> None:
    side = 12
    inner = np.arange(1, side - 1)
    upright = np.minimum(inner, side - 1 - inner)  # to the horizontal sides, whose rows are those of the other square
    # Corners and horizontal sides are as far off as they stick out; one upright side sees only that of the other
    # square, and one has the horizontal sides nearer.
    total = 2 * sum(range(1, shift + 1)) + shift * len(inner) + np.minimum(shift, upright).sum()
    expected = total / (4 * side - 4)
    found = symmetric_chamfer(square(5), square(5 + shift))
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert not found.reason


def test_lines_at_a_distance() -> None:
    a, b = np.full((2, 20, 30), 255, np.uint8)
    a[:, 4], b[:, 11] = 0, 0
    assert symmetric_chamfer(a, b).value == 7
    b[:, 20] = 0  # from there to the one line of the other picture it is 16
    assert symmetric_chamfer(a, b).value == pytest.approx((7 + (7 + 16) / 2) / 2)
    left = np.zeros((20, 30), bool)
    left[:, :15] = True
    assert symmetric_chamfer(a, b, left).value == 7
    assert symmetric_chamfer(a, a).value == 0


def test_steps_of_the_distance() -> None:
    point = np.full((7, 7), 255, np.uint8)
    point[3, 3] = 0
    found = distances(point)
    assert [found[3, 4], found[4, 4], found[4, 5]] == pytest.approx([1, 1.4, 2.1969], abs=1e-3)


def test_pictures_without_edges_have_no_distance_and_a_reason() -> None:
    a, none = square(5), np.full((40, 40), 255, np.uint8)
    for first, second, words in (
        (none, a, "the first picture has no edge"),
        (a, none, "the second picture has no edge"),
        (none, none, "the first and the second picture has no edge"),
    ):
        found = symmetric_chamfer(first, second)
        assert math.isnan(found.value)
        assert words in found.reason
    top = np.zeros((40, 40), bool)
    top[:10] = True
    assert "region has no edge" in symmetric_chamfer(a, a, top).reason


def test_the_changed_region_is_wherever_the_mask_is_not_zero() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[:, :9] = 0.004
    found = chamfer_columns(square(5), square(8), mask)
    inside = mask > 0
    assert found.corrected["chamfer_changed"] == symmetric_chamfer(square(5), square(8), inside).value
    assert found.corrected["chamfer_unchanged"] == symmetric_chamfer(square(5), square(8), ~inside).value
    assert len(set(found.corrected.values())) == 3


def test_what_chamfer_refuses() -> None:
    a = square(5)
    for wrong, words in ((a[:20], "of one shape"), (a.astype(float), "uint8 of 0 on edges"), (a // 2, "uint8 of 0")):
        with pytest.raises(ValueError, match=words):
            symmetric_chamfer(a, wrong)
    with pytest.raises(ValueError, match=r"is bool \(40, 40\), not float64"):
        symmetric_chamfer(a, a, np.ones((40, 40)))


# ----------------------------------------------------------------------------------------------------------------------
# Many pictures


def test_chamfer_of_many_pictures_is_the_last_or_the_mean() -> None:
    mask = np.zeros((40, 40))
    mask[15:35, 2:15] = 1
    pictures = [chamfer_columns(square(5), square(5 + shift), mask) for shift in (1, 5, 2)]
    of_all = aggregate(pictures)
    assert of_all.values() is of_all.corrected
    assert of_all.values("published") is of_all.published
    for column in of_all.corrected:
        each = [p.corrected[column] for p in pictures]
        assert of_all.corrected[column] == pytest.approx(np.mean(each))
        assert of_all.published[column] == each[-1] != of_all.corrected[column]
    assert set(of_all.counts.values()) == {3}


def test_pictures_without_a_value_are_left_out_of_the_mean_and_told() -> None:
    none = np.full((40, 40), 255, np.uint8)
    mask = np.ones((40, 40))
    pictures = [chamfer_columns(square(5), other, mask) for other in (square(6), none)]
    of_all = aggregate(pictures)
    assert of_all.corrected["chamfer"] == pictures[0].corrected["chamfer"]
    assert of_all.counts["chamfer"] == 1
    assert math.isnan(of_all.published["chamfer"])
    assert of_all.reasons["chamfer"].startswith("1 of 2 pictures have no value: the second picture")
    assert math.isnan(of_all.corrected["chamfer_unchanged"])
    assert of_all.reasons["chamfer_unchanged"].startswith("2 of 2")


def test_means_of_the_other_metrics() -> None:
    pictures = [edit_fidelity(picture(32, 32), B, HARD) for _ in range(3)]
    of_all = aggregate(pictures)
    for column in COLUMNS[:6]:
        assert of_all.corrected[column] == pytest.approx(np.mean([p.corrected[column] for p in pictures]))
        assert of_all.published[column] == pytest.approx(np.mean([p.published[column] for p in pictures]))
    assert of_all.corrected["psnr_changed"] - of_all.published["psnr_changed"] == pytest.approx(CHANNELS_DB, abs=1e-6)
    assert aggregate([edit_fidelity(A, A, HARD)]).corrected["psnr"] == math.inf


def test_what_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        aggregate([])
    with pytest.raises(ValueError, match="different columns"):
        aggregate([edit_fidelity(A, B, HARD), Fidelity({}, {})])
