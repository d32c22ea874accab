"""Statistics of changes: against scipy's, and how often intervals and corrected tests are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gengauge.benchmarks.core.changes import holm, off_zero, paired, paired_blocks, typical, unpaired


def test_runs_of_different_length_are_paired_by_place() -> None:
    before, after = paired_blocks([5.0, 1.0, 1.0, 1.0], [50.0, 10.0])
    assert before.tolist() == [3.0, 1.0]
    assert after.tolist() == [50.0, 10.0]
    many, _ = paired_blocks(list(range(1000)), list(range(500)))
    assert len(many) == 20
    assert many[0] == np.median(range(50))


@pytest.mark.parametrize("count", [6, 7, 10, 15])
def test_a_signed_rank_interval_leaves_zero_out_where_scipys_test_rejects_it(count: int) -> None:
    generator = np.random.default_rng(count)
    rejected = 0
    for _ in range(100):
        d = generator.normal(0.6, 1, count)
        shift = typical(d)
        rejects = stats.wilcoxon(d, method="exact").pvalue <= 0.05
        assert rejects == (shift.low > 0 or shift.high < 0)
        assert shift.low <= shift.middle <= shift.high
        rejected += rejects
    assert 0 < rejected < 100


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(count: int) -> None:
    generator = np.random.default_rng(count)
    shifts = [typical(generator.laplace(0.3, 1, count)) for _ in range(1000)]
    assert np.mean([s.low <= 0.3 <= s.high for s in shifts]) > 0.93


def test_a_spoilt_repetition_moves_a_mean_and_not_the_typical_value() -> None:
    d = np.array([0.01, -0.02, 0.03, 0.0, -0.01, 0.02, 0.01, 5.0])
    assert abs(typical(d).middle) < 0.03


def test_paired_and_unpaired_are_students_and_welchs() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0, 1, 4), generator.normal(1, 2, 4)
    shift, p = paired(b - a)
    test = stats.ttest_rel(b, a, alternative="greater")
    assert p == pytest.approx(test.pvalue)
    shift, p = unpaired(a.tolist(), b[:3].tolist())
    test = stats.ttest_ind(b[:3], a, equal_var=False, alternative="greater")
    assert p == pytest.approx(test.pvalue)
    interval = stats.ttest_ind(b[:3], a, equal_var=False).confidence_interval()
    assert (shift.low, shift.high) == pytest.approx((interval.low, interval.high))


def test_two_equal_differences_are_not_taken_for_certainty() -> None:
    assert paired(np.array([0.5, 0.5]))[1] == 0.25
    assert paired(np.array([-0.5, -0.5]))[1] == 1
    assert unpaired([1.0, 1.0], [2.0, 2.0])[1] == 0.25


def test_holms_correction_of_its_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_a_metric_alone_needs_more_than_a_few_repetitions() -> None:
    assert off_zero([np.array([0.3, 0.31])])[0][0] > 0.2
    above, below = off_zero([np.full(12, 0.3)])[0]
    assert above < 0.01
    assert below > 0.9


def test_metrics_of_different_lengths_are_judged_together() -> None:
    generator = np.random.default_rng(0)
    suite = [generator.normal(0, 0.05, 2 + i % 9) for i in range(20)]
    suite[7] = suite[7] + 0.3
    found = off_zero(suite)
    assert found[7][0] < 0.05
    assert min(above for i, (above, _) in enumerate(found) if i != 7) > 0.05


def test_the_whole_suite_slowing_is_seen_too() -> None:
    generator = np.random.default_rng(0)
    found = off_zero([generator.normal(0.0953, 0.07, 10) for _ in range(40)])
    assert np.mean([above <= 0.05 for above, _ in found]) > 0.5
