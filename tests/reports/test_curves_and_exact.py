"""What a report makes of curves over another axis than training, of exact numbers, and of tables that stand beside."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from gengauge.benchmarks.core.claims import Cell, Claim, judge
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Axis,
    Context,
    Experiment,
    Limits,
    Measurement,
    Paper,
    Result,
)
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.core.tables import Column, PublishedNumber, Row, Table, tables_of
from gengauge.benchmarks.jobs import select
from gengauge.benchmarks.runner import run
from gengauge.reports import build_report
from gengauge.reports.content import compose

SPEED, OPERATIONS = Column("speedup", "Speed-up", "x", "higher"), Column("macs", "Operations", "G", "lower", exact=True)
AREA = Axis("edited pixels (%)", steps_per_unit=100, log=True, about="Against the edited share")


@dataclass(frozen=True)
class Settings:
    pass


def measure(context: Context) -> Iterator[Result]:
    yield Measurement("sparse", "speedup", 3.0)
    yield Measurement("sparse", "macs", 15.28882)
    yield Measurement("dense", "macs", 281.413583)
    for step in (118, 10_000):
        yield Measurement("sparse", "speedup", 400 / step, step=step)
        yield Measurement("bound", "speedup", 900 / step, step=step)


PHONE = PublishedNumber(
    "phone", "On a phone", "Sparse", "", "latency", "Latency", "s", "lower", "0.99", "", "", "result", "a page", "read"
)
(OTHER,) = tables_of([PHONE])
OWN = Table("own", "Speed", (SPEED, OPERATIONS), (Row("Sparse"), Row("Dense"), Row("Bound")), (), beside=("phone",))
EXPERIMENT = Experiment(
    key="speed",
    table="own",
    rows=("sparse", "dense", "bound"),
    columns=(SPEED, OPERATIONS),
    scales={"quick": AtScale(Settings(), 1, Limits(60, 4))},
    run=measure,
    axis=AREA,
    without=frozenset({("dense", "speedup"), ("bound", "speedup"), ("bound", "macs")}),
)
CLAIM = Claim("few", "Few.", "own", {"a": Cell("sparse", "macs")}, lambda v: 20 - v["a"], exact=True)
PAPER = Paper("curved", "Curved", "A Paper of Curves", "Nowhere", (OTHER, OWN), (EXPERIMENT,), (CLAIM,))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("curved")
    jobs = select(["test_curves_and_exact:PAPER"], [], "quick", None, "cpu", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        run(jobs, out, 1, False, Console(file=io.StringIO()))
    build_report(read_records(out), [PAPER], out, out / "report")
    return out


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield


def test_curves_run_over_the_declared_axis_and_lines_are_no_rows(out: Path) -> None:
    (table,) = compose(read_records(out), [PAPER]).papers[0].measured
    assert table.rows == (("sparse", "Sparse"), ("dense", "Dense"))
    (curve,) = table.curves
    assert {name: [point[0] for point in line] for name, line in curve.lines.items()} == {
        "Sparse": [1.18, 100.0],
        "Bound": [1.18, 100.0],
    }
    page = (out / "report" / "index.html").read_text()
    assert "edited pixels (%)" in page
    assert "Against the edited share: mean over seeds" in page
    assert "Over training" not in page


def test_exact_numbers_stand_for_themselves(out: Path) -> None:
    (table,) = compose(read_records(out), [PAPER]).papers[0].measured
    assert str(table.cells["sparse", "macs"]) == "15.2888"
    assert str(table.cells["dense", "speedup"]) == "-"
    text = (out / "report" / "report.md").read_text()
    assert "macs measured (exact)" in text
    assert "speedup measured (stand-in)" in text
    assert "| Few. | holds |" in text


def test_a_table_beside_is_shown_under_the_measured_one(out: Path) -> None:
    text = (out / "report" / "report.md").read_text()
    assert "Published beside: On a phone" in text
    assert "| Sparse | 0.99 |" in text
    assert "Published beside, on other machines: On a phone" in (out / "report" / "index.html").read_text()


def test_an_exact_claim_needs_one_seed_and_another_two() -> None:
    values = {(0, "sparse", "macs"): 15.0}
    assert judge(CLAIM, values).verdict == "holds"
    assert judge(CLAIM, {(0, "sparse", "macs"): 25.0}).verdict == "fails"
    assert judge(replace(CLAIM, exact=False), values).verdict == "undecided"


def test_a_cell_that_is_declared_must_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = select(["test_curves_and_exact:LACKING"], [], "quick", None, "cpu", None)
    run(jobs, tmp_path, 1, False, Console(file=io.StringIO()))
    frame = read_records(tmp_path)
    assert frame["reason"].str.contains("without a value for dense/speedup").any()


LACKING = replace(PAPER, experiments=(replace(EXPERIMENT, without=EXPERIMENT.without - {("dense", "speedup")}),))
