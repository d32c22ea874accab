"""Metrics and feature networks that `bench_evaluation` leaves out, each result checked.

The tests run them at a tiny size; `make bench` at the sizes of the papers' tables, or some of their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.spatial import KDTree
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gengauge.benchmarks.features.clip import picture_features, text_features
from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.features.resize import MODES, Mode, resizer
from gengauge.benchmarks.metrics.alignment import image_alignment, text_alignment
from gengauge.benchmarks.metrics.chamfer import symmetric_chamfer
from gengauge.benchmarks.metrics.edges import canny_edges
from gengauge.benchmarks.metrics.edit_fidelity import COLUMNS, Fidelity, edit_fidelity
from gengauge.benchmarks.metrics.faithfulness import l2_norm, masked_lpips
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.kernel import draw_subsets, kernel_distance
from gengauge.benchmarks.metrics.leakage import leakage
from gengauge.benchmarks.metrics.pck import ALPHAS, bootstrap, hits, pck
from gengauge.benchmarks.metrics.precision_recall import precision_recall
from gengauge.benchmarks.metrics.psnr import psnr
from gengauge.benchmarks.metrics.quantise import to_uint8, to_uint8_truncated
from gengauge.benchmarks.metrics.segmentation import confusion, mean_iou
from gengauge.benchmarks.metrics.ssim import ssim, ssim_map
from gengauge.benchmarks.zoo import world_open_clip
from gengauge.datasets import world
from gengauge.kernels.moments import channel_moments
from gengauge.reference.diffaugment.augment import diff_augment
from gengauge.reference.nets.lpips import LPIPS, Trunk

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.usefixtures("one_thread")


def features(count: int, dimensions: int, seed: int) -> Array:
    return np.random.default_rng(seed).gamma(1.0, 0.4, (count, dimensions)).astype(np.float32)


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return world.pictures(seed, range(count), size)


def test_precision_and_recall(benchmark: BenchmarkFixture, full_size: bool) -> None:
    count, dimensions = (2000, 2048) if full_size else (20, 16)
    real, fake = features(count, dimensions, 0), features(count, dimensions, 1)
    found = benchmark(precision_recall, real, fake)
    known, asked = (torch.from_numpy(x).double() for x in (real, fake[:20]))
    radii = torch.cdist(known, known).sort(1).values[:, 3]
    inside = (torch.cdist(asked, known) <= radii).any(1).double().mean()
    assert precision_recall(real, fake[:20])[0] == pytest.approx(float(inside))
    assert all(0 <= share <= 1 for share in found)


def test_kid_of_subsets(benchmark: BenchmarkFixture, full_size: bool) -> None:
    count, dimensions, subsets, size = (5000, 2048, 10, 1000) if full_size else (30, 16, 3, 10)
    real, fake = features(count, dimensions, 0), features(count, dimensions, 1)
    drawn = draw_subsets(count, count, np.random.default_rng(0), subsets, size)
    found = benchmark(kernel_distance, real, fake, drawn)
    one, other = (x[i].astype(np.float64) for x, i in zip((real, fake), drawn[0], strict=True))
    within = [((x @ x.T / dimensions + 1) ** 3)[~np.eye(len(x), dtype=bool)].mean() for x in (one, other)]
    expected = sum(within) - 2 * ((one @ other.T / dimensions + 1) ** 3).mean()
    assert kernel_distance(real, fake, drawn[:1]) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert abs(found) < 0.5


def test_inception_score(benchmark: BenchmarkFixture, full_size: bool) -> None:
    count = 50_000 if full_size else 100
    logits = np.random.default_rng(0).normal(size=(count, 1008)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean, _ = benchmark(inception_score, shares)
    parts = np.split(shares.astype(np.float64), 10)
    divergences = [(part * np.log(part / part.mean(0))).sum(1).mean() for part in parts]
    assert mean == pytest.approx(np.exp(divergences).mean(), rel=1e-6)


def test_pck(benchmark: BenchmarkFixture, full_size: bool) -> None:
    pairs, resamples = (50_000, 200) if full_size else (20, 10)
    random = np.random.default_rng(0)
    truth = random.uniform(0, 256, (pairs, 15, 2)).astype(np.float32)
    errors = random.normal(0, 20, truth.shape).astype(np.float32)
    visible = random.integers(0, 2, truth.shape[:2])

    def measured() -> Array:
        found = hits(truth + errors, truth, visible, 256.0)
        spread = bootstrap(found, np.random.default_rng(0), resamples)
        return np.stack([spread.low, pck(found), spread.high])

    low, middle, high = benchmark(measured)[:, 0]
    distances = np.sqrt((((truth + errors) - truth) ** 2).sum(2))
    assert middle == pytest.approx(100 * (distances <= np.float32(256 * ALPHAS[0]))[visible != 0].mean(), abs=1e-6)
    assert low <= middle <= high


def test_confusion(benchmark: BenchmarkFixture, full_size: bool) -> None:
    shape = (10, 512, 1024) if full_size else (1, 8, 16)
    random = np.random.default_rng(0)
    labels, predictions = (random.integers(0, 19, shape).astype(np.uint8) for _ in range(2))
    matrix = benchmark(confusion, predictions, labels, 19)
    assert matrix.sum() == labels.size
    assert matrix[3, 5] == ((labels == 3) & (predictions == 5)).sum()
    assert 0 < mean_iou(matrix) < 20


def test_ssim(benchmark: BenchmarkFixture, full_size: bool) -> None:
    size = 512 if full_size else 32
    one, other = pictures(2, size).permute(0, 2, 3, 1).numpy()
    found = benchmark(ssim, one, other)
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights)[..., None] / weights.sum() ** 2
    x, y = (each[5:16, 5:16].astype(np.float64) for each in (one, other))  # around the pixel (10, 10)
    mean_x, mean_y = ((window * each).sum((0, 1)) for each in (x, y))
    varied = (window * (x**2 + y**2)).sum((0, 1)) - mean_x**2 - mean_y**2
    together = (window * x * y).sum((0, 1)) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * together + c2) / (mean_x**2 + mean_y**2 + c1) / (varied + c2)
    np.testing.assert_allclose(ssim_map(one, other)[10, 10], likeness, rtol=1e-9)
    assert found == pytest.approx(ssim_map(one, other).mean())


def test_psnr(benchmark: BenchmarkFixture, full_size: bool) -> None:
    height, width = (512, 1024) if full_size else (8, 16)
    random = np.random.default_rng(0)
    one, other = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 8 : width // 2] = True

    def measured() -> tuple[float, float]:
        return psnr(one, other), psnr(one, other, mask)

    whole, inside = benchmark(measured)
    assert whole == pytest.approx(peak_signal_noise_ratio(one, other), abs=1e-9)
    assert inside == pytest.approx(peak_signal_noise_ratio(one[mask], other[mask]), abs=1e-9)


def edges_apart(a: Array, b: Array) -> float:
    """The chamfer distance of two edge pictures by trees of their edges' places, which is Euclidean."""
    first, second = (np.argwhere(edges == 0) for edges in (a, b))
    return float(KDTree(second).query(first)[0].mean() + KDTree(first).query(second)[0].mean()) / 2


def test_chamfer(benchmark: BenchmarkFixture, full_size: bool) -> None:
    one, other = canny_edges(pictures(2, 512 if full_size else 32).permute(0, 2, 3, 1).numpy())
    found = benchmark(symmetric_chamfer, one, other)
    assert found.value == pytest.approx(edges_apart(one, other), rel=0.02)  # OpenCV's steps are that near


def test_edit_fidelity(benchmark: BenchmarkFixture, full_size: bool) -> None:
    size, network = 512 if full_size else 32, load_lpips("alex", "cpu")
    seen = pictures(2, size)
    edited, target = seen.permute(0, 2, 3, 1).numpy()
    places = (np.arange(size) + 0.5) / size - 0.5
    mask = (1.5 - 5 * np.hypot(places[:, None], places)).clip(0, 1).astype(np.float32)  # a soft disc, off the borders

    def measured() -> Fidelity:
        return edit_fidelity(edited, target, mask, network, canny_edges)

    found = benchmark.pedantic(measured, rounds=5 if full_size else 1).corrected
    assert tuple(found) == COLUMNS
    squares = np.square(edited.astype(np.float64) - target).mean(2)
    likeness = structural_similarity(
        edited, target, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1].mean(2)
    one, other = seen.float() / 127.5 - 1
    perceived = lpips_map(network, one, other)
    edges = canny_edges(np.stack([edited, target]))
    for region, weights, inside in (("_changed", mask, mask > 0), ("_unchanged", 1 - mask, mask == 0)):
        error = np.average(squares, weights=weights)
        assert found["psnr" + region] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
        assert found["lpips" + region] == pytest.approx(np.average(perceived, weights=weights), rel=1e-4)
        expected = edges_apart(*(np.where(inside, each, 255) for each in edges))
        assert found["chamfer" + region] == pytest.approx(expected, rel=0.02)
    # scikit-image mirrors at the borders, where this takes zeros; the disc is away from them.
    assert found["ssim_changed"] == pytest.approx(np.average(likeness, weights=mask), abs=1e-6)
    share = mask.mean(dtype=np.float64)
    whole = share * found["ssim_changed"] + (1 - share) * found["ssim_unchanged"]
    assert found["ssim"] == pytest.approx(whole, abs=1e-6)
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(edited, target), abs=1e-9)
    assert found["lpips"] == pytest.approx(float(network(one[None], other[None])), rel=1e-4)
    assert found["chamfer"] == pytest.approx(edges_apart(*edges), rel=0.02)


def lpips_map(network: LPIPS, one: torch.Tensor, other: torch.Tensor) -> Array:
    """The distance at each pixel of two pictures (3, H, W) in [-1, 1]: the taps' places, grown by Pillow."""
    layers = [layer[0, 0].numpy() for layer in network.layers(one[None], other[None])]
    height, width = one.shape[1:]
    grown = [Image.fromarray(layer).resize((width, height), Image.Resampling.BILINEAR) for layer in layers]
    return np.sum([np.asarray(layer) for layer in grown], 0)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips(benchmark: BenchmarkFixture, full_size: bool, trunk: Trunk) -> None:
    network = load_lpips(trunk, "cpu")
    seen = pictures(8, 256 if full_size else 32).float() / 127.5 - 1
    found = benchmark.pedantic(lambda: network(seen[:4], seen[4:]), rounds=5 if full_size else 1)
    torch.testing.assert_close(found[:1], network(seen[:1], seen[4:5]), rtol=1e-4, atol=1e-6)
    assert (found > 0).all()


def test_l2(benchmark: BenchmarkFixture, full_size: bool) -> None:
    count, size = (50, 256) if full_size else (3, 16)
    guides, results = (pictures(count, size, seed).float() / 255 for seed in (0, 1))
    found = benchmark(l2_norm, guides, results)
    flat = (guides.numpy().astype(np.float64) - results.numpy()).reshape(count, -1)
    np.testing.assert_allclose(found, np.linalg.norm(flat, axis=1), rtol=1e-9)


def test_masked_lpips(benchmark: BenchmarkFixture, full_size: bool) -> None:
    size, network = 256 if full_size else 32, load_lpips("vgg", "cpu")
    seen = pictures(8, size).float() / 255
    pasted = torch.zeros(size, size, dtype=torch.bool)
    pasted[size // 4 : size // 2, size // 4 : 3 * size // 4] = True
    found = benchmark.pedantic(masked_lpips, (network, seen[:4], seen[4:], pasted), rounds=5 if full_size else 1)
    outside = lpips_map(network, 2 * seen[0] - 1, 2 * seen[4] - 1)[~pasted.numpy()]
    assert float(found[0]) == pytest.approx(outside.mean(), rel=1e-4)


def test_leakage(benchmark: BenchmarkFixture, full_size: bool) -> None:
    count = 1000 if full_size else 40
    fresh = pictures(count, 32).float() / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    moved, cut = (diff_augment(fresh, policy, generator=generator) for policy in ("translation", "cutout"))
    quarter = count // 4
    samples = torch.cat([moved[:quarter], cut[quarter : 2 * quarter], fresh[2 * quarter :]])
    reals = torch.cat([fresh[quarter:], cut[: quarter // 2]])  # some have marks, so that the scale's zero counts
    augmented = torch.cat([moved[::2], cut[1::2]])
    found = benchmark(leakage, samples, reals, augmented)
    share, low, high = (filled(x.numpy()).mean() for x in (samples, reals, augmented))
    assert found == pytest.approx((share - low) / (high - low), abs=1e-6)
    assert 0 < low < share < high


def filled(seen: Array) -> Array:
    """Which pictures (N, 3, S, S) have a grey window of a quarter of their side, or a grey line at a border."""
    distance = np.abs(seen).max(1)
    side = distance.shape[1] // 4
    windows = np.lib.stride_tricks.sliding_window_view(distance, (side, side), (1, 2)).mean((3, 4)).min((1, 2))
    lines = np.min([np.rot90(distance, turn, (1, 2))[:, 0].mean(1) for turn in range(4)], 0)
    return np.minimum(windows, lines) < np.minimum(0.12, 0.2 * distance.mean((1, 2)))


@pytest.mark.parametrize(
    ("rounding", "middle"), [(to_uint8, 127.5), (to_uint8_truncated, 127)], ids=["to_uint8", "to_uint8_truncated"]
)
def test_grey_levels(
    benchmark: BenchmarkFixture, full_size: bool, rounding: Callable[[torch.Tensor], torch.Tensor], middle: float
) -> None:
    shape = (50, 3, 256, 256) if full_size else (2, 3, 16, 16)
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    # Each value is in the middle of those that its level is given to; `middle` is the level whose middle is 0.
    found = benchmark(rounding, (levels - middle) / 127.5)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), levels)


@pytest.mark.parametrize("mode", MODES)
def test_resizing(benchmark: BenchmarkFixture, full_size: bool, mode: Mode) -> None:
    size = 256 if full_size else 32
    picture = pictures(1, size)[0].permute(1, 2, 0).numpy()
    made = benchmark(resizer(mode, 299), picture)
    assert made.shape == (299, 299, 3)
    np.testing.assert_allclose(made.clip(0, 255), resized(picture, mode).clip(0, 255), rtol=0, atol=0.01)


def resized(picture: Array, mode: Mode) -> Array:
    """By Pillow, a channel at a time; TensorFlow 1, which Pillow cannot be, reads pixel i at i * length / 299."""
    if mode != "legacy_tensorflow":
        how = Image.Resampling.BICUBIC if mode == "clean" else Image.Resampling.BILINEAR
        planes = [
            Image.fromarray(plane.astype(np.float32)).resize((299, 299), how) for plane in np.moveaxis(picture, 2, 0)
        ]
        return np.stack([np.asarray(plane) for plane in planes], 2)
    out = picture.astype(np.float64)
    for axis in (0, 1):
        places = np.arange(299) * out.shape[axis] / 299
        low = np.floor(places).astype(int)
        share = np.expand_dims(places - low, (1, 2) if axis == 0 else (0, 2))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        out = (1 - share) * out.take(low, axis) + share * out.take(high, axis)
    return out


def test_alignment(benchmark: BenchmarkFixture, full_size: bool) -> None:
    encoder, count = world_open_clip.encoder(), 200 if full_size else 4
    seen = list(pictures(count, 64).permute(0, 2, 3, 1).numpy())
    prompts = [f"photo of a {world.SPECIES[i % len(world.SPECIES)]}" for i in range(count)]

    def measured() -> tuple[Array, Array]:
        return picture_features(seen, encoder), text_features(prompts, encoder)

    shown, said = benchmark.pedantic(measured, rounds=5 if full_size else 1)
    unit = shown[:4] / np.linalg.norm(shown[:4], axis=1, keepdims=True)
    assert image_alignment(shown[:4], shown[:4]) == pytest.approx((unit @ unit.T).mean(), abs=1e-5)
    assert said.shape == shown.shape


def test_cosines(benchmark: BenchmarkFixture, full_size: bool) -> None:
    count, dimensions = (1000, 512) if full_size else (20, 16)
    shown, said, own = (torch.from_numpy(features(n, dimensions, seed)) for seed, n in enumerate((count, count, 5)))

    def measured() -> tuple[float, float]:
        return (
            text_alignment(shown.numpy(), said.numpy()).cosine,
            image_alignment(shown.numpy(), own.numpy()),
        )

    text, image = benchmark(measured)
    assert text == pytest.approx(float(torch.cosine_similarity(shown, said).mean()), rel=1e-5)
    pairs = torch.cosine_similarity(shown[:, None], own[None], dim=2)
    assert image == pytest.approx(float(pairs.mean()), rel=1e-5)


def test_moments_of_a_map(benchmark: BenchmarkFixture, full_size: bool) -> None:
    shape = (1, 128, 256, 256) if full_size else (1, 16, 8, 8)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    mean, variance = benchmark(channel_moments, x)
    torch.testing.assert_close(mean, x.double().mean((2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(variance, x.double().var((2, 3), correction=0), rtol=1e-5, atol=0)
