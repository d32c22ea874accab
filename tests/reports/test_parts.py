"""Rows of one table that have no column in common stand in parts of their own, in every format."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import TRAINING
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.core.tables import Column, Row, Table
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
