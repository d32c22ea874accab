"""A comparison of two runs as Markdown for a pull request, JSON, JUnit XML, and one self-contained page."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from xml.etree import ElementTree

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gengauge.benchmarks.core.comparison import METHOD, VERDICTS, Change, Verdict
from gengauge.reports.content import number

SHOWN = 25  # unclear changes of a Markdown text, which has an end where it is shown


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: the name it was given by, and what it was measured with."""

    name: str
    scales: tuple[str, ...]
    devices: tuple[str, ...]
    code: tuple[str, ...]
    versions: tuple[str, ...]
    first: str
    last: str

    def __str__(self) -> str:
        when = self.first[:16].replace("T", " ") or "no time"
        return f"{self.name} (code {', '.join(self.code)}; {', '.join(self.devices)}; {when})"


def side_of(name: str, frame: pd.DataFrame) -> Side:
    """What a frame of records was measured with."""

    def unique(column: str) -> tuple[str, ...]:
        return tuple(sorted({str(v) for v in frame[column]}))

    versions = {f"{k} {v}" for text in unique("versions") for k, v in json.loads(text or "{}").items()}
    times = unique("time") or ("",)
    return Side(name, unique("scale"), unique("device"), unique("code"), tuple(sorted(versions)), times[0], times[-1])


def counts(changes: Sequence[Change]) -> dict[Verdict, int]:
    """How many changes have each verdict, in the order of `VERDICTS`."""
    found = Counter(change.verdict for change in changes)
    return {verdict: found[verdict] for verdict in VERDICTS}


def incomparable(changes: Sequence[Change]) -> list[tuple[str, int, str]]:
    """Why metrics could not be compared: reason, number of metrics and one of them, the most frequent first."""
    mine = [change for change in changes if change.verdict == "incomparable"]
    reasons = Counter(change.reason for change in mine)
    return [(why, count, next(c.metric for c in mine if c.reason == why)) for why, count in reasons.most_common()]


def moved(change: Change) -> str:
    """A change with its interval: `+9.8% [+5.1%, +14.9%]`, or with the unit where it is absolute."""
    if change.change is None:
        return ""

    def one(value: float) -> str:
        text = f"{100 * value:+.3g}%" if change.relative else f"{value:+.4g}"
        return text if float(text.rstrip("%")) else text.replace("+", "").replace("-", "")

    unit = "" if change.relative or change.unit == "1" else f" {change.unit}"
    if change.low is None or change.high is None:
        return f"{one(change.change)}{unit}"
    if change.low == change.high:
        return f"{one(change.change)}{unit}"
    return f"{one(change.change)} [{one(change.low)}, {one(change.high)}]{unit}"


def measured(value: float | None, unit: str) -> str:
    """A value with its unit."""
    return "" if value is None else number(value) + ("" if unit == "1" else f" {unit}")


def cells(change: Change) -> list[str]:
    """A change as a line of a table, in the order of `HEADER`."""
    return [
        change.metric + ("" if change.where.count(",") == 0 else f" ({change.where})"),
        measured(change.baseline, change.unit),
        measured(change.candidate, change.unit),
        moved(change),
        "any" if change.kind == "exact" else str(change.threshold),
        "" if change.p is None else f"{change.p:.2g}",
        change.reason + (f" ({change.method})" if change.method else ""),
    ]


HEADER = ("metric", "baseline", "candidate", "change [95 %]", "matters", "p", "why")


def markdown(changes: Sequence[Change], baseline: Side, candidate: Side) -> str:
    """What a pull request shows: all that is worse or better, and the rest in short."""
    return _render("comparison.md", changes, baseline, candidate, shown=SHOWN)


def page(changes: Sequence[Change], baseline: Side, candidate: Side) -> str:
    """The whole comparison as one HTML page that needs nothing else."""
    css = Markup((resources.files("gengauge.reports") / "templates" / "page.css").read_text(encoding="utf-8"))
    return _render("comparison.html", changes, baseline, candidate, css=css)


def as_json(changes: Sequence[Change], baseline: Side, candidate: Side) -> str:
    """The comparison with all its numbers."""
    content = {
        "baseline": asdict(baseline),
        "candidate": asdict(candidate),
        "verdicts": counts(changes),
        "method": METHOD,
        "changes": [asdict(change) | {"threshold": str(change.threshold)} for change in changes],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def junit(changes: Sequence[Change], failing: Collection[Verdict]) -> str:
    """The comparison as JUnit XML: a test case a metric, failed where its verdict is in `failing`, passed where it was
    compared, and skipped where that was not possible."""
    found = counts(changes)
    totals = {
        "tests": len(changes),
        "failures": sum(found[verdict] for verdict in failing),
        "skipped": 0 if "incomparable" in failing else found["incomparable"],
        "errors": 0,
    }
    attributes = {"name": "gengauge compare", **{key: str(value) for key, value in totals.items()}}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for change in changes:
        paper, table, rest = change.metric.split("/", 2)
        name = rest if change.where.count(",") == 0 else f"{rest} ({change.where})"
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(f"{paper}.{table}"), name=_xml(name))
        said = _xml(f"{change.verdict}: {moved(change)} {change.reason}".replace(":  ", ": "))
        if change.verdict in failing:
            ElementTree.SubElement(case, "failure", message=said, type=change.verdict).text = _xml(_told(change))
        elif change.verdict == "incomparable":
            ElementTree.SubElement(case, "skipped", message=said)
        else:
            ElementTree.SubElement(case, "system-out").text = said
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _told(change: Change) -> str:
    return "\n".join(f"{name}: {cell}" for name, cell in zip(HEADER, cells(change), strict=True) if cell)


def _xml(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def _cell(text: str) -> str:
    return re.sub(r"([|<>])", r"\\\1", text).replace("\n", " ")


def _render(name: str, changes: Sequence[Change], baseline: Side, candidate: Side, **more: object) -> str:
    environment = Environment(
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    template = (resources.files("gengauge.reports") / "templates" / name).read_text(encoding="utf-8")
    groups = {verdict: [cells(c) for c in changes if c.verdict == verdict] for verdict in VERDICTS}
    return environment.from_string(template).render(
        counts=counts(changes),
        groups=groups,
        header=HEADER,
        why=incomparable(changes),
        baseline=baseline,
        candidate=candidate,
        method=METHOD,
        **more,
    )
