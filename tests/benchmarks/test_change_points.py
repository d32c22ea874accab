"""Change points: how often one is seen where there is none, and found where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from gengauge.benchmarks.core import change_points as module
from gengauge.benchmarks.core.change_points import ALPHA, change_points, exact_changes, fewest


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer permutations, which leave the levels as they are."""
    monkeypatch.setattr(module, "PERMUTATIONS", 399)


def share(found: list[tuple[int, ...]], *places: int) -> float:
    """Of series, those with these changes and no others, to one run."""
    near = [len(f) == len(places) and all(abs(a - b) <= 1 for a, b in zip(f, places, strict=True)) for f in found]
    return float(np.mean(near))


@pytest.mark.parametrize("noise", ["normal", "heavy", "skewed"])
@pytest.mark.parametrize("count", [9, 16, 30])
def test_without_a_change_hardly_one_is_seen(noise: str, count: int) -> None:
    random = np.random.default_rng(count)
    draws = {
        "normal": lambda: random.normal(100, 3, count),
        "heavy": lambda: 100 + random.standard_t(2, count),
        "skewed": lambda: random.exponential(1, count),
    }[noise]
    seen = np.mean([bool(change_points(draws())) for _ in range(300)])
    assert seen <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / 300)


def test_a_step_of_10_percent_under_3_percent_noise_is_found_with_8_runs_a_side() -> None:
    random = np.random.default_rng(0)
    steps = [np.r_[random.normal(100, 3, 8), random.normal(110, 3, 8)] for _ in range(200)]
    found = [change_points(step) for step in steps]
    assert np.mean([len(f) > 0 for f in found]) >= 0.95
    assert share(found, 8) >= 0.9


def test_a_change_near_an_end_and_one_that_is_taken_back_are_found() -> None:
    random = np.random.default_rng(1)
    late = [change_points(np.r_[random.normal(100, 3, 12), random.normal(110, 3, 4)]) for _ in range(60)]
    back = [np.r_[random.normal(100, 3, 8), random.normal(110, 3, 8), random.normal(100, 3, 8)] for _ in range(60)]
    assert share(late, 12) >= 0.8
    assert share([change_points(b) for b in back], 8, 16) >= 0.8


def test_one_spoilt_run_is_no_change_and_hides_none() -> None:
    random = np.random.default_rng(2)
    spoilt = []
    for _ in range(60):
        step = np.r_[random.normal(100, 1, 12), random.normal(110, 1, 12)]
        step[4] *= 5
        spoilt.append(change_points(step))
    assert share(spoilt, 12) >= 0.9
    assert change_points([1, 1.1, 0.9, 1, 30, 1.05, 0.95, 1, 1.1, 0.9]) == ()


def test_steps_without_noise_stand_where_they_are() -> None:
    assert change_points([5.0] * 8 + [6.0] * 8 + [7.0] * 8) == (8, 16)
    assert change_points([5.0] * 20) == ()


def test_too_few_values_never_show_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERMUTATIONS", 1999)
    fewest.cache_clear()
    assert 8 <= fewest() <= 11
    for count in range(fewest()):
        assert change_points([0.0] * (count // 2) + [1.0] * (count - count // 2)) == ()


def test_the_same_series_has_the_same_changes_and_the_scale_does_not_matter() -> None:
    series = np.r_[np.random.default_rng(3).normal(100, 3, 8), np.random.default_rng(4).normal(112, 3, 8)]
    assert (
        change_points(series) == change_points(series) == change_points(1e-6 * series) == change_points(-series) != ()
    )


def test_values_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        change_points([1.0, float("nan")])


def test_exact_numbers_change_wherever_they_differ() -> None:
    assert exact_changes([5, 5, 6, 6, 5]) == (2, 4)
    assert exact_changes([5]) == exact_changes([]) == ()
