"""Rows of one table without a common column stand in parts of their own; plots of many metrics stay readable."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gengauge.benchmarks.core.experiments import TRAINING
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.reports import plots
from gengauge.reports.content import Measured, MeasuredTable
from gengauge.reports.text import csv, header, latex, lines

COLUMNS = tuple(Column(key, key, "1", "lower") for key in ("fid", "seconds", "miou"))
ROWS = tuple(Row(name) for name in ("CUT scores", "CUT time", "GAN scores", "GAN time", "Labels"))
HAVE = {"cut-scores": "fid miou", "cut-time": "seconds", "gan-scores": "fid", "gan-time": "seconds", "labels": "miou"}


def table(have: dict[str, str]) -> MeasuredTable:
    def cell(row: str, column: str) -> Measured:
        if column in have[row].split():
            return Measured(t_interval([1.0, 2.0]), (1.0, 2.0), "ok", "")
        return Measured(None, (), "-", "")

    return MeasuredTable(
        Table("t", "Scores and times", COLUMNS, ROWS, ()),
        "quick",
        "world",
        "cpu",
        tuple((row.key, str(row)) for row in ROWS),
        COLUMNS,
        {(row.key, column.key): cell(row.key, column.key) for row in ROWS for column in COLUMNS},
        (),
        (),
        (),
        TRAINING,
        (),
    )


def test_rows_are_parted_by_their_columns_and_keep_their_order() -> None:
    scores, times = table(HAVE).parts()
    # The labels share a column with CUT's scores, and through them belong to the GAN's.
    assert [row for row, _ in scores.rows] == ["cut-scores", "gan-scores", "labels"]
    assert [c.key for c in scores.columns] == ["fid", "miou"]
    assert [row for row, _ in times.rows] == ["cut-time", "gan-time"]
    assert header(times) == ["row", "seconds measured (stand-in)"]
    assert [line[0] for line in lines(times)] == ["CUT time", "GAN time"]


def test_formats_hold_every_part() -> None:
    assert latex(table(HAVE)).count(r"\begin{tabular}") == 2
    assert len(csv(table(HAVE)).splitlines()) == 1 + len(ROWS) * len(COLUMNS)


def test_most_tables_are_one_part() -> None:
    whole = table(dict.fromkeys(HAVE, "fid seconds"))
    (part,) = whole.parts()
    assert (part.rows, [c.key for c in part.columns]) == (whole.rows, ["fid", "seconds"])


def test_whole_exact_numbers_are_written_out() -> None:
    assert str(Measured(t_interval([11378179.0]), (11378179.0,), "ok", "", exact=True)) == "11,378,179"
    assert str(Measured(t_interval([64.1278]), (64.1278,), "ok", "", exact=True)) == "64.1278"


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (6, 1), (7, 2), (12, 2), (13, 3)])
def test_panels_are_put_into_lines(count: int, lines: int) -> None:
    columns = tuple(Column(f"metric{i}", f"metric {i}", "1", "lower") for i in range(count))
    whole = table(HAVE)
    cells = {
        (row, column.key): Measured(t_interval([1.0, 2.0]), (1.0, 2.0), "ok", "")
        for row, _ in whole.rows
        for column in columns
    }
    svg = plots.comparison(replace(whole, columns=columns, cells=cells), "many")
    assert svg is not None
    assert all(re.search(rf"metric{i}\b", svg) for i in range(count))
    assert svg.count("Labels") == lines  # each line names its rows
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None
    assert float(found[1]) < 72 * (2.5 + 1.9 * plots.IN_A_LINE)
