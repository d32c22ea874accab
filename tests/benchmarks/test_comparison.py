"""Comparisons of runs: verdicts and their reasons, false alarms of whole suites, and the slowdowns that are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from frames import FAULTS, FID, MACS, PAPER, RECALL, RECORD, SECONDS, SHIFT, SPEEDUP, WEIGHTS, frame, over_seeds, record
from scipy import stats

from gengauge.benchmarks.core.comparison import Change, compare
from gengauge.benchmarks.core.records import Record
from gengauge.benchmarks.core.tables import Column
from gengauge.benchmarks.core.thresholds import Threshold, Thresholds

# ----------------------------------------------------------------------------------------------------------------------
# Verdicts


def one(before: list[Record], after: list[Record], **patterns: str) -> Change:
    thresholds = Thresholds(tuple((f"*/{key}", Threshold.parse(text)) for key, text in patterns.items()))
    (change,) = compare(frame(*before), frame(*after), [PAPER], thresholds)
    return change


def times(*values: float, column: Column = SECONDS, **others: object) -> list[Record]:
    return [record(column, float(np.median(values)), repetitions=values, **others)]


STEADY = (1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 1.0)
SLOWER = tuple(1.2 * t for t in reversed(STEADY))
SLIGHTLY = tuple(1.01 * t for t in reversed(STEADY))


@pytest.mark.parametrize(
    ("before", "after", "verdict", "reason"),
    [
        (over_seeds(FID, 10, 11, 12), over_seeds(FID, 12, 13.01, 13.99), "worse", "beyond the noise"),
        (over_seeds(FID, 12, 13.01, 13.99), over_seeds(FID, 10, 11, 12), "better", "beyond the noise"),
        (over_seeds(RECALL, 50, 51, 52), over_seeds(RECALL, 40, 41.1, 41.9), "worse", "beyond the noise"),
        (over_seeds(RECALL, 50, 51, 52), over_seeds(RECALL, 60, 61.1, 61.9), "better", "beyond the noise"),
        (over_seeds(FID, 10, 11, 12), over_seeds(FID, 10, 11, 12), "same", "equal at 3 seeds"),
        (over_seeds(FID, 10, 11, 12), over_seeds(FID, 10.001, 11, 12.001), "same", "within 2%"),
        (over_seeds(FID, 10, 11, 12), over_seeds(FID, 12, 10, 13), "unclear", "more repetitions or seeds"),
        (over_seeds(FID, 10), over_seeds(FID, 20), "unclear", "one value a side"),
        (over_seeds(SHIFT, 10, 11, 12), over_seeds(SHIFT, 20, 21.1, 22), "unclear", "neither direction"),
        (over_seeds(MACS, 5.0), over_seeds(MACS, 5.000001), "worse", "an exact number changed"),
        (over_seeds(MACS, 5.0), over_seeds(MACS, 4.9), "better", "an exact number changed"),
        (over_seeds(MACS, 5.0), over_seeds(MACS, 5.0), "same", "equal"),
        (over_seeds(WEIGHTS, 5), over_seeds(WEIGHTS, 4), "worse", "an exact number changed"),
        (times(*STEADY), times(*SLOWER), "worse", "beyond the noise"),
        (times(*SLOWER), times(*STEADY), "better", "beyond the noise"),
        (times(*STEADY), times(*SLIGHTLY), "same", "within 5%"),
        (times(*STEADY, column=SPEEDUP), times(*SLOWER, column=SPEEDUP), "better", "beyond the noise"),
        (times(*STEADY[:3]), times(*SLOWER[:3]), "unclear", "not surely"),
        (over_seeds(SECONDS, 1.0), over_seeds(SECONDS, 1.5), "unclear", "one value a side"),
        (over_seeds(FAULTS, 0, 0), over_seeds(FAULTS, 0, 0), "same", "equal at 2 seeds"),
        (over_seeds(FID, 0, 0), over_seeds(FID, 1, 1), "unclear", "not surely"),
    ],
)
def test_verdicts(before: list[Record], after: list[Record], verdict: str, reason: str) -> None:
    change = one(before, after)
    assert change.verdict == verdict, change
    assert reason in change.reason


def test_a_change_is_told_in_parts_of_the_baseline_or_in_its_unit() -> None:
    before, after = over_seeds(RECALL, 50, 60), over_seeds(RECALL, 55, 66)
    change = one(before, after)
    assert change.relative
    assert change.change == pytest.approx(0.1)
    change = one(before, after, recall="0.5")
    assert not change.relative
    assert change.change == pytest.approx(5.5)
    change = one(times(*STEADY), times(*SLOWER))
    assert change.change == pytest.approx(0.2, abs=0.01)
    assert change.pairs == 10
    assert change.low is not None
    assert change.high is not None
    assert change.low < 0.2 < change.high


def test_a_threshold_decides_what_matters() -> None:
    assert one(times(*STEADY), times(*SLOWER), seconds="30%").verdict == "same"
    assert one(times(*STEADY), times(*SLIGHTLY), seconds="0.1%").verdict != "same"
    found = Thresholds((("*/seconds", Threshold(0.2, True)), ("p/t/*", Threshold(0.1, True))))
    assert found.of("p/t/a/seconds", "speed").size == 0.1
    assert found.of("q/t/a/seconds", "speed").size == 0.2
    assert found.of("q/t/a/fid", "quality").size == 0.02
    assert found.of("p/t/a/macs", "exact").size == 0


@pytest.mark.parametrize("text", ["much", "-5%", "nan", "inf%", True, None, ""])
def test_a_threshold_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="a threshold is a share"):
        Threshold.parse(text)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"device": "cuda (H100)"}, "device cpu (one) against cuda (H100)"),
        ({"scale": "small"}, "scale quick against small"),
        ({"data": "photos"}, "data world against photos"),
        ({"threads": 2}, "threads 1 against 2"),
        ({"dtype": "bfloat16"}, "dtype float32 against bfloat16"),
        ({"unit": "%"}, "unit 1 against %"),
        ({"experiment": "other"}, "experiment quality against other"),
        ({"settings": "cd"}, "settings ab against cd"),
        ({"samples": 50}, "settings: 100 samples against 50"),
        ({"seed": 5}, "no seed in common"),
    ],
)
def test_what_was_measured_otherwise_is_incomparable(others: dict[str, object], reason: str) -> None:
    shared = {"samples": 100, "settings": "ab"}
    change = one([record(FID, 1.0, **shared)], [record(FID, 2.0, **{**shared, **others})])
    assert change.verdict == "incomparable"
    assert reason in change.reason


def test_settings_that_one_side_does_not_tell_are_no_difference() -> None:
    before = over_seeds(FID, 1.0, 1.1, 1.2)
    after = [replace(each, settings="ab") for each in before]
    assert one(before, after).verdict == one(after, before).verdict == "same"


def test_an_exact_number_does_not_ask_for_the_machine() -> None:
    assert one([record(MACS, 5)], [record(MACS, 5, device="cuda", threads=8, data="photos")]).verdict == "same"


def test_disjoint_seeds_are_compared_where_there_are_enough() -> None:
    before = over_seeds(FID, 10, 10.1, 9.9)
    after = [record(FID, value, seed) for seed, value in ((5, 20.0), (6, 20.1), (7, 19.9))]
    change = one(before, after)
    assert change.verdict == "worse"
    assert "Welch" in change.method


def test_one_side_alone_and_failures_are_told() -> None:
    base = [*over_seeds(FID, 1, 2), *over_seeds(RECALL, 1, 2), *over_seeds(MACS, 3)]
    gone = replace(RECORD, column="", value=None, status="failed", reason="it broke\nat line 5")
    found = {c.metric: c for c in compare(frame(*base), frame(*over_seeds(FID, 1, 2), gone), [PAPER])}
    assert found["p/t/a/recall"].verdict == "worse"
    assert found["p/t/a/recall"].reason == "candidate: failed: it broke"
    assert found["p/t/a/fid"].verdict == "same"
    (lost,) = compare(frame(*over_seeds(FID, 1, 2)), frame(record(FID, 1.0), replace(gone, seed=1)), [PAPER])
    assert (lost.verdict, lost.reason) == ("worse", "a seed failed in the candidate: failed: it broke")
    missing = replace(gone, status="unavailable", reason="no GPU")
    (change,) = compare(frame(*over_seeds(MACS, 3)), frame(missing), [PAPER])
    assert (change.verdict, change.reason) == ("incomparable", "candidate: unavailable: no GPU")
    (change,) = compare(frame(*over_seeds(MACS, 3)), frame(*over_seeds(MACS, 3, row="b")), [PAPER])[:1]
    assert (change.verdict, change.reason) == ("incomparable", "not in the candidate")
    (change,) = compare(frame(missing), frame(*over_seeds(FID, 3)), [PAPER])
    assert change.verdict == "incomparable"


def test_curves_are_left_out_and_the_worst_comes_first() -> None:
    before = [record(FID, 9.0, step=3), *times(*STEADY), *times(*STEADY, row="b"), *over_seeds(MACS, 1)]
    after = [record(FID, 5.0, step=3), *times(*SLOWER), *times(*(2 * t for t in SLOWER), row="b"), *over_seeds(MACS, 1)]
    assert [c.metric for c in compare(frame(*before), frame(*after), [PAPER])] == [
        "p/t/b/seconds", "p/t/a/seconds", "p/t/a/macs",
    ]  # fmt: skip


def test_a_time_that_no_paper_declares_is_better_low() -> None:
    before = [replace(r, paper="speed", experiment="pytest-benchmark") for r in times(*STEADY)]
    after = [replace(r, paper="speed", experiment="pytest-benchmark") for r in times(*SLOWER)]
    (change,) = compare(frame(*before), frame(*after))
    assert (change.kind, change.verdict) == ("speed", "worse")
    rates = [[replace(r, unit="img/s") for r in side] for side in (before, after)]
    assert compare(frame(*rates[0]), frame(*rates[1]))[0].verdict == "better"


def test_from_six_runs_on_a_run_counts_once() -> None:
    """Runs that differ as wholes are no news, however often each repeats."""
    shifts = (0.1, -0.08, 0.12, -0.1, 0.07, -0.09)
    before = [times(*STEADY, seed=seed)[0] for seed in range(6)]
    after = [times(*(t * (1 + shift) for t in STEADY), seed=seed)[0] for seed, shift in enumerate(shifts)]
    change = one(before, after)
    assert (change.pairs, change.verdict) == (6, "unclear")
    assert one(before[:5], after[:5]).pairs == 50
    slower = [times(*SLOWER, seed=seed)[0] for seed in range(6)]
    assert one(before, slower).verdict == "worse"


def test_two_devices_of_one_run_are_compared_each() -> None:
    both = [*over_seeds(FID, 1, 2), *(replace(r, device="cuda") for r in over_seeds(FID, 3, 4))]
    found = compare(frame(*both), frame(*both), [PAPER])
    assert [c.where for c in found] == ["quick, world, cpu (one)", "quick, world, cuda"]
    cuda, cpu = compare(frame(*both), frame(*over_seeds(FID, 1, 2)), [PAPER])
    assert (cpu.verdict, cuda.verdict, cuda.reason) == ("same", "incomparable", "not in the candidate")


# ----------------------------------------------------------------------------------------------------------------------
# Whole suites

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

NOISES: dict[str, Noise] = {
    "normal": lambda g, shape: g.normal(0, 1, shape),
    "skewed": lambda g, shape: g.exponential(1, shape),
    "heavy tails": lambda g, shape: g.standard_t(3, shape) / np.sqrt(3),
    "spoilt repetitions": lambda g, shape: g.normal(0, 1, shape) + 8 * (g.random(shape) < 0.1),
}
EVEN, UNEVEN = np.full(30, 0.05), np.geomspace(0.005, 0.2, 30)


def suite(noise: Noise, sizes: np.ndarray, repetitions: int, generator: np.random.Generator) -> pd.DataFrame:
    """30 times of so many repetitions, with noise of these sizes, and 30 qualities of two to five seeds."""
    rows = [record(SECONDS, 1.0, row=f"r{i}") for i in range(len(sizes))]
    rows += [record((FID, RECALL)[i % 2], 0, seed, f"r{i}") for i in range(30) for seed in range(2 + i % 4)]
    made = frame(*rows)
    logs = sizes[:, None] * noise(generator, (len(sizes), repetitions))
    times = list(map(tuple, np.exp(logs)))
    made["repetitions"] = pd.Series([*times, *[()] * (len(made) - len(times))], dtype=object)
    made["value"] = [*np.median(np.exp(logs), 1), *(10 + noise(generator, (len(made) - len(times),)))]
    return made


def redrawn(made: pd.DataFrame, noise: Noise, sizes: np.ndarray, generator: np.random.Generator) -> pd.DataFrame:
    """Another run of a suite, with which nothing changed."""
    out, count = made.copy(), len(sizes)
    logs = sizes[:, None] * noise(generator, (count, len(made["repetitions"].iloc[0])))
    out["repetitions"] = pd.Series([*map(tuple, np.exp(logs)), *[()] * (len(made) - count)], dtype=object)
    out["value"] = [*np.median(np.exp(logs), 1), *(10 + noise(generator, (len(made) - count,)))]
    return out


def worse(before: pd.DataFrame, after: pd.DataFrame) -> set[str]:
    return {c.metric for c in compare(before, after, [PAPER]) if c.verdict == "worse"}


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
def test_where_nothing_changed_suites_rarely_raise_an_alarm(noise: Noise, sizes: np.ndarray) -> None:
    generator, suites = np.random.default_rng(0), 40
    before = suite(noise, sizes, 10, generator)
    again = partial(redrawn, before, noise, sizes, generator)
    alarms = sum(bool(worse(again(), again())) for _ in range(suites))
    # At a rate of 5 % more than this would come once in ten thousand times.
    assert alarms <= stats.binom.ppf(0.9999, suites, 0.05)


def slowed(made: pd.DataFrame, factor: float, rows: int = 1) -> pd.DataFrame:
    out = made.copy()
    spent = [tuple(factor * t for t in r) if i < rows else r for i, r in enumerate(out["repetitions"])]
    out["repetitions"] = pd.Series(spent, dtype=object)
    return out


def test_a_slowdown_of_10_percent_is_found_under_noise_of_5_percent() -> None:
    generator, runs = np.random.default_rng(1), 150
    before = suite(NOISES["normal"], EVEN[:1], 10, generator).iloc[:1]
    again = partial(redrawn, before, NOISES["normal"], EVEN[:1], generator)
    assert sum(bool(worse(again(), slowed(again(), 1.1))) for _ in range(runs)) >= 0.9 * runs


@pytest.mark.parametrize(("repetitions", "share"), [(10, 0.75), (13, 0.9)])
def test_it_is_found_among_60_metrics_too(repetitions: int, share: float) -> None:
    generator, runs = np.random.default_rng(2), 40
    before = suite(NOISES["normal"], EVEN, repetitions, generator)
    again = partial(redrawn, before, NOISES["normal"], EVEN, generator)
    assert sum("p/t/r0/seconds" in worse(again(), slowed(again(), 1.1)) for _ in range(runs)) >= share * runs


def test_a_slowdown_of_everything_is_found() -> None:
    generator = np.random.default_rng(3)
    before = suite(NOISES["normal"], EVEN, 10, generator)
    again = partial(redrawn, before, NOISES["normal"], EVEN, generator)
    assert all(len(worse(again(), slowed(again(), 1.1, 30))) >= 10 for _ in range(5))
