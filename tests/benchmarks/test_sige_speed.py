"""SIGE's timed experiments on a tiny network, the crossing of times, and how ways are timed in alternation."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from sige_tiny import TINY

from gengauge.benchmarks.core.experiments import Context, Measurement
from gengauge.benchmarks.papers.sige import PAPER, networks, speed
from gengauge.benchmarks.papers.sige.crossing import Crossing, crossing
from gengauge.benchmarks.papers.sige.edits import ALL, SQUARE, Edit
from gengauge.benchmarks.papers.sige.speed import AREA, DENSE, FULL, LINES, Settings, rows_of, sparse_row
from gengauge.benchmarks.timing import Samples, alternate, ratio, working_bytes

EDITS = (SQUARE, Edit("square of 30%", 0.30), ALL)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A small network under a key of its own."""
    monkeypatch.setitem(networks.NETWORKS, "tiny", TINY)
    monkeypatch.setattr(speed, "EDITS", EDITS)
    return "tiny"


def run(settings: Settings) -> list[Measurement]:
    threads, told = torch.get_num_threads(), []
    context = Context(settings, 0, "quick", "cpu", None, Path(), lambda done, total, doing: told.append((done, total)))
    found = [m for m in speed.speed(context) if isinstance(m, Measurement)]
    assert torch.get_num_threads() == threads
    assert all(0 <= done <= total for done, total in told)
    return found


def test_every_cell_is_measured_and_curves_run_over_the_area(tiny: str) -> None:
    settings = Settings(
        tiny, EDITS, ("eager", "channels_last", "bfloat16", "autocast"), ("fast", "direct", "bfloat16"), rounds=2
    )
    found = run(settings)
    final = {(m.row, m.column): m for m in found if m.step is None}
    assert set(final) == {(row.key, column) for row, columns in rows_of(settings).items() for column in columns}
    assert all(math.isfinite(m.value) for m in found)
    seconds = final[sparse_row(SQUARE).key, "seconds"]
    assert seconds.low is not None
    assert seconds.high is not None
    assert 0 < seconds.low <= seconds.value <= seconds.high
    assert seconds.samples == 2 * speed.SPARSE_REPEATS
    assert final[DENSE["eager"].key, "speedup"].value == 1
    assert final[sparse_row(ALL).key, "against_all"].value == 1
    assert final[sparse_row(ALL).key, "edited"].value == 100
    assert final[FULL.key, "cache"].value > 0
    assert final[DENSE["bfloat16"].key, "memory"].value < final[DENSE["channels_last"].key, "memory"].value
    curves = {row.key: [m.step for m in found if m.row == row.key and m.step is not None] for row in LINES}
    assert all(len(steps) == len(EDITS) for steps in curves.values())
    assert max(s for s in curves[LINES[0].key] if s) == 100 * AREA.steps_per_unit


def test_a_compiler_that_is_missing_costs_its_own_row_only(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: object) -> object:
        def run(*args: object) -> object:
            raise RuntimeError("no compiler\nhere")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    found = run(Settings(tiny, (SQUARE, ALL), ("eager", "compile"), rounds=1))
    missing = {m.column: m.missing for m in found if m.row == DENSE["compile"].key}
    assert set(missing) == set(speed.OF_COMPILED)
    assert set(missing.values()) == {"torch.compile does not work here: no compiler"}
    assert all(math.isfinite(m.value) for m in found if m.row != DENSE["compile"].key)


def test_timed_experiments_run_alone_and_declare_what_they_lack() -> None:
    timed = [e for e in PAPER.experiments if e.timed]
    assert {e.axis for e in timed} == {AREA}
    for experiment in timed:
        lacking = {row for row, _ in experiment.without}
        assert {row.key for row in LINES} <= lacking
        (at,) = experiment.scales.values()
        settings = at.settings
        own = {(row.key, c) for row, columns in rows_of(settings).items() for c in columns}
        every = {(row, c.key) for row in experiment.rows for c in experiment.columns}
        assert own == every - experiment.without
    quick = [e for e in timed if "quick" in e.scales]
    assert {e.scales["quick"].settings.network for e in quick} == {"ddpm-256", "gaugan"}
    assert all("compile" not in e.scales["quick"].settings.dense for e in quick)


@pytest.mark.parametrize(
    ("times", "dense", "expected"),
    [
        ({1.0: 1.0, 10.0: 2.0, 100.0: 8.0}, 5.0, Crossing(55.0, 10.0, 100.0)),
        ({1.0: 1.0, 10.0: 2.0}, 9.0, Crossing(100.0, 10.0, 100.0)),
        ({1.0: 3.0, 10.0: 4.0}, 2.0, Crossing(0.0, 0.0, 1.0)),
        ({10.0: 2.0, 1.0: 1.0}, 1.5, Crossing(5.5, 1.0, 10.0)),
    ],
    ids=["between", "never lost", "never pays", "any order"],
)
def test_where_times_cross(times: dict[float, float], dense: float, expected: Crossing) -> None:
    assert crossing(times, dense) == expected


def test_a_crossing_needs_times() -> None:
    with pytest.raises(ValueError, match="no edit"):
        crossing({}, 1.0)


def test_ways_are_timed_in_alternation_and_made_ready_untimed() -> None:
    calls: list[str] = []
    ways = {name: partial(calls.append, name) for name in ("a", "b")}
    samples = alternate(
        ways, 2, lambda name: 2 if name == "b" else 1, "cpu", lambda name: calls.append(f"before {name}")
    )
    assert calls == ["before a", "a", "before b", "b", "b"] * 2
    assert [len(r) for r in samples["b"].rounds] == [2, 2]
    assert len(samples["b"].faults) == 4


def test_a_ratio_is_formed_within_a_round() -> None:
    slow, quick = Samples([[2.0], [30.0]]), Samples([[1.0, 1.0], [10.0, 10.0]])
    found = ratio(slow, quick)
    assert (found.median, found.low, found.high) == (2.5, 2.0, 3.0)


def test_working_memory_counts_what_lives_at_once() -> None:
    x = torch.zeros(1000)

    def chain() -> torch.Tensor:
        y = x
        for _ in range(5):
            y = y.view(10, 100).view(-1) + 1  # at most two new ones are alive
        return y

    assert working_bytes(chain, "cpu") == 2 * 4000
    assert working_bytes(lambda: x.view(10, 100), "cpu") == 0


def test_a_wrong_result_is_not_timed() -> None:
    right = torch.randn(1, 3, 8, 8)
    speed.check_agreement("the pass", right + 1e-5, right)
    for wrong in (right + 0.1, right * float("nan")):
        with pytest.raises(RuntimeError, match="its time would mean nothing"):
            speed.check_agreement("the pass", wrong, right)
