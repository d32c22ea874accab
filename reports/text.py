"""A report's tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from gengauge.benchmarks.core.statistics import Interval
from gengauge.benchmarks.core.tables import Column, Table
from gengauge.reports.content import MeasuredTable, Report, number, pivot, sources

LEGEND = "A star marks a published number that is remembered, not read. Brackets are 95 % t intervals over seeds."


def header(table: MeasuredTable) -> list[str]:
    """The columns of a measured table: the row, then published and measured for each metric."""
    names = ["row"]
    for column in table.columns:
        if any(table.published(row, column.key) for row, _ in table.rows):
            names.append(f"{column.key} published")
        names.append(f"{column.key} measured" + _standing(table, column))
    return names


def _standing(table: MeasuredTable, column: Column) -> str:
    if column.exact:
        return " (exact)"
    return " (stand-in)" if table.stand_in else ""


def published_lines(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table's published numbers alone; a star marks a remembered one."""
    body = [
        [str(row), *(("" if n is None else n.text + ("" if n.confidence == "read" else "*")) for n in numbers)]
        for row, numbers in pivot(table)
    ]
    return ["row", *(f"{c.key}{'' if c.unit == '1' else f' ({c.unit})'} published" for c in table.columns)], body


def lines(table: MeasuredTable) -> list[list[str]]:
    """The rows of a measured table as text, in the order of `header`."""
    out = []
    for row, label in table.rows:
        line = [label]
        for column in table.columns:
            if any(table.published(r, column.key) for r, _ in table.rows):
                published = table.published(row, column.key)
                line.append(
                    "" if published is None else published.text + ("" if published.confidence == "read" else "*")
                )
            line.append(str(table.cells[row, column.key]))
        out.append(line)
    return out


def markdown(report: Report) -> str:
    """The whole report as Markdown."""
    s = report.summary
    where = f"Scale {', '.join(s.scales)}; data: {', '.join(s.data)}; {', '.join(s.devices)}"
    jobs = ", ".join(f"{count} {status}" for status, count in s.statuses.items())
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in s.verdicts.items())
    out = ["# gengauge report", "", f"{where}; {s.first[:16]} to {s.last[:16]} UTC; code {', '.join(s.code)}.", ""]
    out += [f"Jobs: {jobs}. Claims: {verdicts}.", ""]
    for section in report.papers:
        out += [f"## {section.paper.name}: {section.paper.title} ({section.paper.venue})", "", *section.about, ""]
        for table in section.measured:
            out += [f"### {table.table.title}", "", f"Scale {table.scale}, {table.data}, {table.device}. {LEGEND}", ""]
            for part in table.parts():
                out += [*pipe(header(part), lines(part)), ""]
            if table.judgements:
                out += ["", "| claim | verdict | margin |", "| --- | --- | --- |"]
                out += [
                    f"| {j.claim.sentence} | {j.verdict}{f': {j.reason}' if j.reason else ''} | {margin(j.interval)} |"
                    for j in table.judgements
                ]
            for other in table.beside:
                out += ["", f"Published beside: {other.title}", "", *pipe(*published_lines(other))]
            if table.protocol:
                out += ["", *pipe(["subject", "published", "here"], table.protocol)]
            out.append("")
    if s.problems:
        out += [
            "## What did not end well",
            "",
            *(f"- {what}: {status}: {reason.splitlines()[0]}" for what, status, reason in s.problems),
            "",
        ]
    return "\n".join(out)


def margin(interval: Interval | None) -> str:
    """A claim's interval as text, empty where there is none."""
    if interval is None:
        return ""
    bounds = f" [{number(interval.low)}, {number(interval.high)}]" if interval.count > 1 else ""
    return f"{number(interval.mean)}{bounds}, {interval.count} seed{'s' * (interval.count > 1)}"


def csv(table: MeasuredTable) -> str:
    """A measured table as CSV, a line a cell, with full precision."""
    rows = []
    for row, label in table.rows:
        for column in table.columns:
            cell, published = table.cells[row, column.key], table.published(row, column.key)
            rows.append(
                {
                    "row": label,
                    "column": column.key,
                    "metric": column.metric,
                    "unit": column.unit,
                    "direction": column.direction,
                    "published": published.text if published else "",
                    "published_metric": published.metric if published else "",
                    "confidence": published.confidence if published else "",
                    "mean": cell.interval.mean if cell.interval else None,
                    "low": cell.interval.low if cell.interval else None,
                    "high": cell.interval.high if cell.interval else None,
                    "seeds": len(cell.values),
                    "status": cell.status,
                    "scale": table.scale,
                    "data": table.data,
                    "device": table.device,
                }
            )
    return pd.DataFrame(rows).to_csv(index=False)


def latex(table: MeasuredTable) -> str:
    """A measured table as a LaTeX `tabular` a part (needs booktabs)."""
    return "\n".join(map(_tabular, table.parts()))


def _tabular(table: MeasuredTable) -> str:
    names = header(table)
    body = [" & ".join(map(_tex, line)) + r" \\" for line in lines(table)]
    return "\n".join(
        [
            f"% {table.table.title}; scale {table.scale}; {table.data}; {table.device}",
            r"\begin{tabular}{l" + "r" * (len(names) - 1) + "}",
            r"\toprule",
            " & ".join(map(_tex, names)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def published_markdown(report: Report) -> str:
    """All published numbers of the papers in a report, with the source and confidence of each."""
    out = ["# Published numbers", "", "A star marks a number that is remembered, not read.", ""]
    for section in report.papers:
        for table in section.paper.tables:
            if not table.published:
                continue
            out += [f"## {section.paper.name}: {table.title}", ""]
            out += pipe(
                ["row", *(c.key for c in table.columns), "source (confidence)"],
                [
                    [
                        str(row),
                        *(("" if n is None else n.text + ("" if n.confidence == "read" else "*")) for n in numbers),
                        sources(numbers),
                    ]
                    for row, numbers in pivot(table)
                ],
            )
            out.append("")
    return "\n".join(out)


def pipe(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown as lines."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"

    return [line(names), line(["---"] * len(names)), *map(line, rows)]


def _tex(text: str) -> str:
    return (
        re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
        .replace("~", r"\textasciitilde ")
        .replace("^", r"\textasciicircum ")
    )
