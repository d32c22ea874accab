"""Histories: what a run is, in which order runs stand, what a point is, and where a metric changed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from frames import FID, MACS, PAPER, SECONDS, frame, over_seeds, record

from gengauge.benchmarks.core.history import Run, Series, history, runs_of
from gengauge.benchmarks.core.records import Record, empty_frame


def run_of(number: int, *records: Record) -> Run:
    """The `number`-th run of a year, by a code of its own."""
    time = f"2026-01-{number + 1:02d}T00:00:00Z"
    (run,) = runs_of(f"r{number}", frame(*(replace(r, time=time, code=f"1+{number:08x}") for r in records)))
    return run


def only(runs: list[Run]) -> Series:
    (series,) = history(runs, [PAPER]).series
    return series


def test_a_folder_is_as_many_runs_as_there_were_codes_and_the_newest_attempt_counts() -> None:
    old = record(FID, 1.0, code="1")
    tries = [record(FID, value, code="2", time=f"2026-01-0{day}T00:00:00Z") for day, value in ((2, 5.0), (3, 6.0))]
    runs = runs_of("out", frame(old, *tries))
    assert [(run.code, run.frame["value"].tolist()) for run in runs] == [("1", [1.0]), ("2", [6.0])]
    assert runs[1].time == "2026-01-03T00:00:00Z"


def test_runs_stand_by_time_or_as_given_and_count_once() -> None:
    a, b = run_of(0, record(FID, 1.0)), run_of(1, record(FID, 2.0))
    assert [p.value for p in only([b, a, b]).points] == [1.0, 2.0]
    assert [run.name for run in history([b, a], [PAPER], "given").runs] == ["r1", "r0"]


def test_a_point_is_the_mean_over_seeds_and_a_time_the_median() -> None:
    (quality,) = only([run_of(0, *over_seeds(FID, 1.0, 2.0, 6.0))]).points
    assert (quality.value, quality.seeds) == (3.0, 3)
    assert quality.low < 3.0 < quality.high
    (time,) = only([run_of(0, *over_seeds(SECONDS, 1.0, 2.0, 6.0))]).points
    assert time.value == 2.0


def test_one_seed_has_the_records_interval_or_that_of_its_repetitions() -> None:
    (kept,) = only([run_of(0, record(FID, 3.0, low=2.5, high=3.5))]).points
    assert (kept.low, kept.high) == (2.5, 3.5)
    (timed,) = only([run_of(0, record(SECONDS, 1.0, repetitions=tuple(1 + i / 100 for i in range(8))))]).points
    assert 1.0 <= timed.low < 1.035 < timed.high <= 1.07
    (bare,) = only([run_of(0, record(FID, 3.0))]).points
    assert math.isnan(bare.low)


def test_a_level_that_moved_is_told_with_what_was_before_and_after() -> None:
    times = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 1.2, 1.21, 1.19, 1.2, 1.22, 1.18, 1.2, 1.21]
    (change,) = only([run_of(i, record(SECONDS, t)) for i, t in enumerate(times)]).changes
    assert (change.place, change.before, change.after) == (8, 1.0, 1.2)
    assert change.share == pytest.approx(0.2)


def test_an_exact_number_changes_at_once_and_quality_does_not() -> None:
    runs = [run_of(i, record(MACS, v), record(FID, v)) for i, v in enumerate((5.0, 5.0, 6.0))]
    found = {series.metric[3]: series for series in history(runs, [PAPER]).series}
    assert [change.place for change in found["macs"].changes] == [2]
    assert found["fid"].changes == ()
    assert (found["macs"].kind, found["fid"].direction) == ("exact", "lower")


def test_other_devices_are_other_series_and_curves_and_failures_none() -> None:
    runs = [
        run_of(0, record(FID, 1.0), record(FID, 9.0, step=3)),
        run_of(1, record(FID, 2.0, device="cuda"), replace(record(FID, 3.0, row="b"), column="", status="failed")),
    ]
    found = history(runs, [PAPER]).series
    assert sorted((s.context.device, [p.run for p in s.points]) for s in found) == [("cpu (one)", [0]), ("cuda", [1])]


def test_nothing_is_no_history() -> None:
    with pytest.raises(ValueError, match="out/x holds no records"):
        runs_of("out/x", empty_frame())
    with pytest.raises(ValueError, match="needs runs"):
        history([])
