"""What a report says, as plain data: computed once from records and papers, then written in several formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pandas as pd

from gengauge.benchmarks.core.claims import Judgement, judge
from gengauge.benchmarks.core.experiments import TRAINING, Axis, Experiment, Paper, Scale
from gengauge.benchmarks.core.statistics import Interval, t_interval
from gengauge.benchmarks.core.tables import Column, PublishedNumber, Row, Table

GROUP = ["scale", "data", "device"]
OWN = "(own method)"


@dataclass(frozen=True)
class Illustration:
    """A picture of the page as PNG bytes, with a caption and an alternative text."""

    caption: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Measured:
    """A cell's measured value: mean over seeds with its interval and the values themselves, or why there is none."""

    interval: Interval | None
    values: tuple[float, ...]
    status: str
    reason: str
    exact: bool = False

    def __str__(self) -> str:
        if self.interval is None:
            return self.status
        if self.exact and len(set(self.values)) == 1:
            value = self.values[0]
            return f"{value:,.0f}" if value.is_integer() else f"{value:.6g}"
        text = number(self.interval.mean)
        if self.interval.count > 1:
            text += f" [{number(self.interval.low)}, {number(self.interval.high)}]"
        return f"{text} ({self.interval.count} seed{'s' * (self.interval.count > 1)})"


@dataclass(frozen=True)
class Curve:
    """A column over its experiments' axis: for each row, by name, the places with mean, lowest and highest value over
    seeds."""

    column: Column
    lines: dict[str, list[tuple[float, float, float, float]]]


@dataclass(frozen=True)
class MeasuredTable:
    """A table as run at one scale on one device with one set of data, beside what the paper prints.

    `rows` are the measured ones in the paper's order; `columns` the measured metrics with a direction first. `beside`
    are published tables that belong under this one.
    """

    table: Table
    scale: str
    data: str
    device: str
    rows: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, str], Measured]
    protocol: tuple[tuple[str, str, str], ...]
    curves: tuple[Curve, ...]
    judgements: tuple[Judgement, ...]
    axis: Axis
    beside: tuple[Table, ...]

    @property
    def stand_in(self) -> bool:
        """Below paper scale a number stands in for the published one and is not set against it."""
        return self.scale != "paper"

    def published(self, row: str, column: str) -> PublishedNumber | None:
        return self.table.number(row, column)

    def parts(self) -> tuple[MeasuredTable, ...]:
        """The table in parts whose rows have no column in common, as scores of one part and times of another have none.

        Most tables are one part.
        """
        groups: list[tuple[set[str], set[str]]] = []  # rows and columns
        for row, _ in self.rows:
            rows, columns = {row}, {c.key for c in self.columns if self.cells[row, c.key].status != "-"}
            joined = [group for group in groups if group[1] & columns]
            groups = [group for group in groups if group not in joined]
            groups.append((rows.union(*(g[0] for g in joined)), columns.union(*(g[1] for g in joined))))
        order = [row for row, _ in self.rows]
        groups.sort(key=lambda group: min(order.index(row) for row in group[0]))
        return tuple(
            replace(
                self,
                rows=tuple(row for row in self.rows if row[0] in rows),
                columns=tuple(column for column in self.columns if column.key in columns),
            )
            for rows, columns in groups
        )


@dataclass(frozen=True)
class PaperSection:
    """A paper's part of the report."""

    paper: Paper
    about: tuple[str, ...]
    measured: tuple[MeasuredTable, ...]


@dataclass(frozen=True)
class Summary:
    """The first screen: what was run, on what, and how much of it holds."""

    scales: tuple[str, ...]
    devices: tuple[str, ...]
    data: tuple[str, ...]
    versions: dict[str, str]
    code: tuple[str, ...]
    first: str
    last: str
    job_seconds: float
    statuses: dict[str, int]
    verdicts: dict[str, int]
    problems: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Report:
    """All that a report says."""

    summary: Summary
    papers: tuple[PaperSection, ...]


def compose(frame: pd.DataFrame, papers: Sequence[Paper]) -> Report:
    """The content of a report on records of `papers`; those without a record are left out.

    Raises ValueError for a frame without records.
    """
    if frame.empty:
        raise ValueError("there are no records to report; `gengauge run` makes them")
    sections = []
    for paper in papers:
        mine = frame[frame["paper"] == paper.key]
        if mine.empty:
            continue
        order = {table.key: i for i, table in enumerate(paper.tables)}
        groups = sorted(mine.groupby(["table", *GROUP], sort=False), key=lambda item: order[str(item[0][0])])
        measured = tuple(_measured_table(paper, str(table), group, part) for (table, *group), part in groups)
        about = tuple(text for scale, text in paper.about.items() if scale in set(mine["scale"]))
        sections.append(PaperSection(paper, about, measured))
    return Report(_summary(frame, sections), tuple(sections))


def number(value: float) -> str:
    """Four significant digits, no exponent between 1e-4 and 1e6."""
    if value != value:
        return "-"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    digits = max(0, 4 - len(str(int(abs(value)))) + (1 if abs(value) < 1 else 0))
    return f"{value:.{digits}f}"


def row_name(paper: Paper, table: Table, key: str) -> str:
    """A row's name as the paper has it, its key where it is not one of the paper's, marked where nobody declares it.

    Such a row is a method of the user's own.
    """
    if any(key in e.rows for e in paper.experiments if e.table == table.key):
        return next((str(row) for row in table.rows if row.key == key), key)
    return next((str(row) for row in table.rows if row.key == key), f"{key} {OWN}")


def pivot(table: Table) -> list[tuple[Row, list[PublishedNumber | None]]]:
    """A table's published numbers by row, in the order of its columns."""
    by_cell = {(n.row, n.column): n for n in table.published}
    return [(row, [by_cell.get((row, column.key)) for column in table.columns]) for row in table.rows]


def sources(numbers: Sequence[PublishedNumber | None]) -> str:
    """Where a row's numbers come from, each source once with its confidence: `README.md (read); slides (memory)`."""
    return "; ".join(dict.fromkeys(f"{n.source} ({n.confidence})" for n in numbers if n is not None))


def _measured_table(paper: Paper, key: str, group: Sequence[object], part: pd.DataFrame) -> MeasuredTable:
    table = paper.table(key)
    names = set(part["experiment"])
    experiments: list[Experiment] = [e for e in paper.experiments if e.key in names]
    columns = {c.key: c for e in experiments for c in e.columns}
    present = [r.key for r in table.rows if r.key in set(part["row"])]
    present += [r for r in dict.fromkeys(part["row"]) if r not in present]
    final = part[part["step"].isna()]
    lines, present = present, [row for row in present if row in set(final["row"])]
    declared = {(row, c.key) for e in experiments for row in e.rows for c in e.columns if (row, c.key) not in e.without}
    of_paper = {row for row, _ in declared}  # a user's own row has every column
    cells = {
        (row, c): _measured(final[final["row"] == row], columns[c])
        if row not in of_paper or (row, c) in declared
        else Measured(None, (), "-", "")
        for row in present
        for c in columns
    }
    good = final[final["status"] == "ok"]
    keys = zip(good["seed"], good["row"], good["column"], strict=True)
    values = {(int(s), str(r), str(c)): float(v) for (s, r, c), v in zip(keys, good["value"], strict=True)}
    # A claim about what this scale does not measure at all is no claim of this table.
    judgements = tuple(
        judge(claim, values)
        for claim in paper.claims
        if claim.table == key and all(cell.column in columns for cell in claim.cells.values())
    )
    axis = next((e.axis for e in experiments), TRAINING)
    names_of = {row: row_name(paper, table, row) for row in lines}
    curves = tuple(curve for c in columns.values() if (curve := _curve(part, names_of, c, axis)) is not None)
    scale, data, device = (str(x) for x in group)
    at_scale = [e.scales[s].protocol if (s := cast(Scale, scale)) in e.scales else () for e in experiments]
    everywhere = [e.protocol for e in experiments]
    protocol = tuple(dict.fromkeys(line for lines in (*at_scale, *everywhere) for line in lines))
    ordered = sorted(columns.values(), key=lambda c: c.direction == "none")
    return MeasuredTable(
        table,
        scale,
        data,
        device,
        tuple((r, row_name(paper, table, r)) for r in present),
        tuple(ordered),
        cells,
        protocol,
        curves,
        judgements,
        axis,
        tuple(paper.table(other) for other in table.beside),
    )


def _measured(rows: pd.DataFrame, column: Column) -> Measured:
    mine = rows[(rows["column"] == column.key) & (rows["status"] == "ok")]
    if len(mine):
        values = tuple(float(v) for v in mine.sort_values("seed")["value"])
        return Measured(t_interval(values), values, "ok", "", column.exact)
    bad = rows[rows["status"] != "ok"]
    if len(bad):
        return Measured(None, (), str(bad.iloc[0]["status"]), str(bad.iloc[0]["reason"]))
    return Measured(None, (), "-", "")


def _curve(part: pd.DataFrame, rows: Mapping[str, str], column: Column, axis: Axis) -> Curve | None:
    points = part[(part["column"] == column.key) & part["step"].notna() & (part["status"] == "ok")]
    if points.empty:
        return None
    lines = {}
    for row, name in rows.items():
        mine = points[points["row"] == row].groupby("step")["value"].agg(["mean", "min", "max"])
        places = [int(step) / axis.steps_per_unit for step in mine.index]
        lines[name] = [(place, *map(float, line)) for place, line in zip(places, mine.to_numpy(), strict=True)]
    return Curve(column, {row: line for row, line in lines.items() if line})  # type: ignore[misc]


def _summary(frame: pd.DataFrame, sections: Sequence[PaperSection]) -> Summary:
    jobs = frame.groupby("digest").agg(status=("status", _worst), seconds=("seconds", "first"))
    verdicts = [j.verdict for s in sections for t in s.measured for j in t.judgements]
    bad = frame[frame["status"] != "ok"].drop_duplicates(["digest", "reason"])
    return Summary(
        scales=_unique(frame["scale"]),
        devices=_unique(frame["device"]),
        data=_unique(frame["data"]),
        versions=json.loads(str(frame.sort_values("time")["versions"].iloc[-1])),
        code=_unique(frame["code"]),
        first=str(frame["time"].min()),
        last=str(frame["time"].max()),
        job_seconds=float(jobs["seconds"].sum()),
        statuses={str(k): int(v) for k, v in jobs["status"].value_counts().items()},
        verdicts={v: verdicts.count(v) for v in ("holds", "undecided", "fails")},
        problems=tuple(
            (f"{r.paper}/{r.table}/{r.row} seed {r.seed}", str(r.status), str(r.reason)) for r in bad.itertuples()
        ),
    )


def _worst(statuses: pd.Series) -> str:
    return next((s for s in statuses if s != "ok"), "ok")


def _unique(column: pd.Series) -> tuple[str, ...]:
    return tuple(str(v) for v in dict.fromkeys(column))
