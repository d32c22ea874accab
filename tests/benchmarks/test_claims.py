"""Claims: verdicts from seeds, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gengauge.benchmarks.core.claims import Cell, Claim, judge
from gengauge.benchmarks.core.statistics import t_interval

CLAIM = Claim(
    "lower", "Ours is lower.", "t", {"a": Cell("base", "fid"), "b": Cell("ours", "fid")}, lambda v: v["a"] - v["b"]
)


def values(base: list[float], ours: list[float]) -> dict[tuple[int, str, str], float]:
    rows = {"base": base, "ours": ours}
    return {(seed, row, "fid"): value for row, column in rows.items() for seed, value in enumerate(column)}


@pytest.mark.parametrize(
    ("base", "ours", "verdict", "reason"),
    [
        ([10, 11, 12], [5, 6.5, 6.8], "holds", ""),
        ([5, 6.5, 6.8], [10, 11, 12], "fails", ""),
        ([10, 11, 12], [12, 10, 11.5], "undecided", "holds zero"),
        ([10], [1], "undecided", "1 of the 2 seeds"),
        ([10, 11], [1, math.nan], "undecided", "1 of the 2 seeds"),
        ([10, 11], [1, 4], "undecided", "holds zero"),
        ([10, 11], [1, 2.1], "holds", ""),
        ([], [1, 2, 3], "undecided", "no seed measured"),
    ],
)
def test_a_verdict_needs_seeds_and_an_interval_off_zero(
    base: list[float], ours: list[float], verdict: str, reason: str
) -> None:
    judgement = judge(CLAIM, values(base, ours))
    assert judgement.verdict == verdict
    assert reason in judgement.reason


def test_what_seeds_share_cancels() -> None:
    shared = [0.0, 100.0, 200.0, 300.0]
    judgement = judge(
        CLAIM, values([s + 2 for s in shared], [s + d for s, d in zip(shared, (0.5, 1, 1.5, 1), strict=True)])
    )
    assert judgement.verdict == "holds"


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = [i.low <= 3 <= i.high for i in (t_interval(generator.normal(3, 2, 5).tolist()) for _ in range(2000))]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_a_claim_about_equal_methods_is_rarely_decided() -> None:
    generator = np.random.default_rng(1)
    draws = (values(generator.normal(0, 1, 5).tolist(), generator.normal(0, 1, 5).tolist()) for _ in range(1000))
    assert np.mean([judge(CLAIM, v).verdict != "undecided" for v in draws]) < 0.08


def test_an_interval_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        t_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="finite"):
        t_interval([])
