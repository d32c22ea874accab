"""Metrics against clean-fid, against brute force, and on what cannot be measured."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as clean_frechet
from cleanfid.fid import kernel_distance as clean_kernel

from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.kernel import draw_subsets, jackknife_error, kernel_distance, kid, mmd2
from gengauge.benchmarks.metrics.leakage import leakage, marked
from gengauge.benchmarks.metrics.precision_recall import precision_recall
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.datasets import world
from gengauge.reference.diffaugment.augment import diff_augment


def features(count: int, dimensions: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Non-negative and correlated, with a fast falling spectrum, as pooled activations are."""
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions)) * 0.9 ** np.arange(dimensions)
    x = np.random.default_rng(seed).normal(size=(count, dimensions)) @ mixing.T + shift
    return np.abs(0.3 * x + 1).astype(np.float32)


@pytest.mark.parametrize(("real", "fake", "dimensions"), [(500, 400, 64), (50, 400, 64), (40, 30, 64), (30, 30, 256)])
def test_fid_agrees_with_clean_fid(real: int, fake: int, dimensions: int) -> None:
    x, y = features(real, dimensions, 0), features(fake, dimensions, 1, 0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clean-fid calls scipy's square root with an argument it will drop
        theirs = clean_frechet(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    a, b = fit(x), fit(y)
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
    bare = [Gaussian(g.mean, g.covariance) for g in (a, b)]
    assert frechet_distance(*bare) == pytest.approx(theirs, rel=1e-6)
    assert frechet_distance(bare[0], b) == pytest.approx(theirs, rel=1e-6)
    assert frechet_distance(a, bare[1]) == pytest.approx(theirs, rel=1e-6)


def test_fid_of_gaussians_known_in_closed_form() -> None:
    a = Gaussian(np.array([0.0, 0.0]), np.diag([1.0, 4.0]))
    b = Gaussian(np.array([3.0, 4.0]), np.diag([9.0, 16.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + (1 - 3) ** 2 + (2 - 4) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_kid_agrees_with_clean_fid_on_the_same_subsets() -> None:
    real, fake = features(150, 32, 0), features(130, 32, 1, 0.3)
    np.random.seed(3)  # noqa: NPY002 - clean-fid draws from the global generator: generated first, then real
    theirs = clean_kernel(real, fake, num_subsets=7, max_subset_size=40)
    np.random.seed(3)  # noqa: NPY002
    subsets = []
    for _ in range(7):
        of_fake = np.random.choice(130, 40, replace=False)  # noqa: NPY002
        subsets.append((np.random.choice(150, 40, replace=False), of_fake))  # noqa: NPY002
    assert kernel_distance(real, fake, subsets) == pytest.approx(theirs, rel=1e-6)


def test_kid_is_unbiased_and_its_interval_covers_zero_for_equal_distributions() -> None:
    found = [kid(features(60, 16, 2 * i), features(60, 16, 2 * i + 1)) for i in range(200)]
    values = np.array([k.value for k in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert 0.9 < np.mean([k.low <= 0 <= k.high for k in found]) <= 1


def test_the_jackknife_equals_leaving_out_each_picture() -> None:
    x, y = features(12, 8, 0).astype(np.float64), features(9, 8, 1, 0.5).astype(np.float64)

    def estimate(a: np.ndarray, b: np.ndarray) -> float:
        def k(p: np.ndarray, q: np.ndarray) -> np.ndarray:
            return (p @ q.T / 8 + 1) ** 3

        off = ~np.eye(len(a), dtype=bool), ~np.eye(len(b), dtype=bool)
        return float(k(a, a)[off[0]].mean() + k(b, b)[off[1]].mean() - 2 * k(a, b).mean())

    assert kid(x, y).value == pytest.approx(estimate(x, y))
    left_x = np.array([estimate(np.delete(x, i, 0), y) for i in range(12)])
    left_y = np.array([estimate(x, np.delete(y, i, 0)) for i in range(9)])
    variance = sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in (left_x, left_y))
    assert jackknife_error(x, y) == pytest.approx(np.sqrt(variance))
    assert mmd2(x, y) == pytest.approx(estimate(x, y))
    x = x[:9]
    own = np.diag((x @ y.T / 8 + 1) ** 3)
    all_pairs = ((x @ y.T / 8 + 1) ** 3).sum()
    apart = estimate(x, y) + 2 * all_pairs / 81 - 2 * (all_pairs - own.sum()) / 72
    assert kid(x, y, paired=True).value == pytest.approx(apart)
    pairs = np.array([mmd2(np.delete(x, i, 0), np.delete(y, i, 0), paired=True) for i in range(9)])
    assert jackknife_error(x, y, paired=True) == pytest.approx(np.sqrt(8 / 9 * ((pairs - pairs.mean()) ** 2).sum()))


def test_pictures_made_from_the_reals_need_the_estimate_of_pairs() -> None:
    mixing = np.random.default_rng(0).normal(size=(8, 8)) / 3

    def draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        real = random.normal(size=(count, 8))
        return real, real + 0.3 * random.normal(size=real.shape) @ mixing + 0.4

    # Sources and fakes that have nothing to do with each other.
    independent = [mmd2(draw(1000 + i, 400)[0], draw(2000 + i, 400)[1]) for i in range(20)]
    truth, error = np.mean(independent), np.std(independent, ddof=1) / np.sqrt(20)
    paired, apart = ([kid(*draw(i, 60), paired=p) for i in range(300)] for p in (True, False))
    values = np.array([k.value for k in paired])
    assert abs(values.mean() - truth) < 3 * np.hypot(error, values.std() / np.sqrt(300))
    assert np.mean([k.value for k in apart]) < truth - 10 * error  # each is near its own source
    assert 0.9 < np.mean([k.low <= truth <= k.high for k in paired]) <= 1
    widths = [np.mean([k.high - k.low for k in kids]) for kids in (paired, apart)]
    assert widths[0] < 0.6 * widths[1]  # what sources and fakes share cancels


def test_pairs_stay_together_in_subsets() -> None:
    real = features(1100, 8, 0)
    fake = real + 0.1 * features(1100, 8, 1)
    whole, split = mmd2(real, fake, paired=True), kid(real, fake, paired=True)
    assert split.low < whole < split.high
    assert split.value == pytest.approx(whole, abs=0.2 * abs(whole - mmd2(real, fake)) + 0.01 * abs(whole))


def test_subsets_are_drawn_without_replacement_and_no_larger_than_the_smaller_side() -> None:
    subsets = draw_subsets(30, 50, np.random.default_rng(0), subsets=4, size=1000)
    assert [len(r) for r, _ in subsets] == [30] * 4
    assert all(len(set(f)) == 30 for _, f in subsets)


def test_inception_score_of_known_cases() -> None:
    assert inception_score(np.full((100, 8), 1 / 8))[0] == pytest.approx(1)
    certain = np.eye(10)[np.arange(100) % 10]
    assert inception_score(certain) == pytest.approx((10, 0))
    # 25 rows in 10 equal splits use 20 of them; even borders use all.
    rows = np.random.default_rng(0).dirichlet(np.ones(5), 25)
    assert inception_score(rows)[0] == pytest.approx(inception_score(rows[:20])[0])
    assert inception_score(rows, borders="even")[0] != pytest.approx(inception_score(rows)[0])


def test_precision_and_recall_by_brute_force() -> None:
    real, fake = features(80, 6, 0), features(70, 6, 1, 0.6)

    def share(queries: np.ndarray, centres: np.ndarray) -> float:
        radii = [np.sort(np.linalg.norm(centres - c, axis=1))[3] for c in centres]
        return float(np.mean([(np.linalg.norm(centres - q, axis=1) <= radii).any() for q in queries]))

    precision, recall = precision_recall(real, fake)
    assert precision == pytest.approx(share(fake.astype(float), real.astype(float)))
    assert recall == pytest.approx(share(real.astype(float), fake.astype(float)))
    assert 0 < precision < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(np.zeros((1, 4))), "N >= 2"),
        (lambda: fit(np.array([[1.0, np.nan], [0, 0]])), "1 of 2 features are not finite"),
        (lambda: frechet_distance(fit(np.eye(3)), fit(np.eye(4))), "3 and 4 dimensions"),
        (lambda: kid(np.eye(3), np.eye(4)), "3 and 4 dimensions"),
        (lambda: kid(np.full((4, 3), np.inf), np.eye(3)), "finite real features"),
        (lambda: kid(np.eye(3), np.ones((4, 3)), paired=True), "3 and 4 pictures are no pairs"),
        (lambda: mmd2(np.eye(1), np.eye(1)), "N >= 2"),
        (lambda: inception_score(np.ones((20, 3))), "sum 1"),
        (lambda: inception_score(np.ones((5, 1))), "10 splits"),
        (lambda: precision_recall(np.eye(3), np.eye(5)), "neighbour 3"),
        (lambda: to_uint8(torch.tensor([float("nan")])), "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_grey_levels_saturate() -> None:
    assert to_uint8(torch.tensor([-2.0, -1, 0, 1, 2])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("policy", ["cutout", "translation", "translation,cutout"])
def test_leakage_tells_augmented_pictures_from_untouched_ones(policy: str) -> None:
    reals = world.pictures(5, range(160), 32).float() / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    first, second = (diff_augment(reals, policy, generator=generator) for _ in range(2))
    assert marked(reals).float().mean() < 0.05
    assert leakage(first, reals, second) == pytest.approx(1, abs=0.15)
    half = torch.cat([reals[:80], first[80:]])
    assert leakage(half, reals, second) == pytest.approx(0.5, abs=0.15)
    assert leakage(reals.flip(3), reals, second) == pytest.approx(0, abs=1e-9)


def test_low_contrast_blur_and_collapse_are_no_leakage() -> None:
    reals = world.pictures(6, range(160), 32).float() / 127.5 - 1
    augmented = diff_augment(reals, "translation,cutout", generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(reals, (3, 3, 3, 3), mode="replicate"), 7, stride=1
    )
    controls = {
        "half contrast": reals / 2,
        "quarter contrast": reals / 4,
        "blurred": blurred,
        "collapsed to the mean": reals.mean(0, keepdim=True).expand(8, -1, -1, -1),
        "grey": torch.zeros(8, 3, 32, 32),
    }
    for name, pictures in controls.items():
        assert leakage(pictures, reals, augmented) < 0.1, name
    assert leakage(augmented / 2, reals, augmented) > 0.9


def test_leakage_refuses_pictures_where_marks_tell_nothing() -> None:
    grey = torch.zeros(8, 3, 32, 32)
    with pytest.raises(ValueError, match="they tell nothing"):
        leakage(grey, grey, grey)
