"""Histories as figures and text: a panel a metric, what moved, and the section of a report."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from frames import FID, MACS, PAPER, SECONDS, SHIFT, frame, record

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.history import Change, History, history, runs_of
from gengauge.benchmarks.core.records import Record
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.reports import build_report
from gengauge.reports.history import by_table, figure, label_of, labels, lines, markdown, told, worth
from gengauge.reports.printing import save

TIMES = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 1.2, 1.21, 1.19, 1.2, 1.22, 1.18, 1.2, 1.21)
WITH_TABLE: Paper = replace(PAPER, tables=(Table("t", "A table", (FID, SECONDS), (Row("a"),), ()),))


def runs(name: str = "out/r{}") -> History:
    """Sixteen runs: seconds rise by a fifth, operations once, FID stays, and what has no direction wavers."""
    found = []
    for i, seconds in enumerate(TIMES):
        records: list[Record] = [
            record(SECONDS, seconds, low=0.99 * seconds, high=1.01 * seconds),
            record(MACS, 5.0 if i < 3 else 6.0),
            record(FID, 10.0 + i % 3, digest="q"),
            record(SHIFT, 1.0 + i % 2, digest="q"),
        ]
        stamp = {"time": f"2026-01-{i + 1:02d}T00:00:00Z", "code": f"0.1.0+{i:04x}00000000"}
        found += runs_of(name.format(i), frame(*(replace(r, **stamp) for r in records)))
    return history(found, [PAPER])


def test_a_panel_has_its_runs_intervals_levels_and_changes() -> None:
    past = runs()
    shown = worth(past)
    assert [s.metric[3] for s in shown] == ["macs", "seconds", "fid"]  # what changed first, no wavering
    made = figure(shown, past.runs, "name")
    assert len(made.axes) == 3
    ax = made.axes[1]
    assert ax.get_title() == "p/t/a/seconds"
    assert ax.lines[0].get_ydata().tolist() == list(TIMES)
    assert sum(line.get_xdata().tolist() == [i, i] for i in range(16) for line in ax.lines[1:17]) == 16
    assert [line.get_ydata().tolist() for line in ax.lines[17:19]] == [[1.0, 1.0], [1.2, 1.2]]
    assert ax.lines[19].get_xdata() == [7.5, 7.5]
    assert [text.get_text() for text in ax.texts] == [" +20% worse"]
    assert not len(made.axes[2].texts)


def test_changes_are_told_with_run_code_and_verdict() -> None:
    past = runs()
    found = {line[0]: line[1:] for line in lines(past, past.series)}
    assert found["p/t/a/seconds"] == ["r8", "0.1.0+000800000000", "1.000 s", "1.200 s", "+20%", "worse"]
    assert found["p/t/a/macs"][0] == "r3"
    assert set(found) == {"p/t/a/seconds", "p/t/a/macs"}
    assert told(Change(3, 0.0, 2.0)) == "0.0000 to 2.000"


def test_runs_are_called_by_what_tells_them_apart() -> None:
    assert label_of(runs().runs) == "name"
    same = runs("out/quick")
    assert label_of(same.runs) == "code"
    assert labels(same.runs, "code")[10] == "000a0000"
    assert labels(same.runs, "time")[0] == "2026-01-01 00:00"
    assert labels(runs().runs, "name")[-1] == "r15"


def test_a_figure_is_written_twice_alike(tmp_path: Path) -> None:
    past = runs()
    for name in ("a.svg", "b.svg"):
        save(figure(worth(past), past.runs, "time"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "+20% worse" in (tmp_path / "a.svg").read_text()


def test_many_runs_are_not_all_named() -> None:
    past = runs()
    made = figure(worth(past), past.runs, "name")
    assert len(made.axes[0].get_xticks()) == 8


def test_a_report_has_a_section_and_a_plot_a_table(tmp_path: Path) -> None:
    past = runs()
    assert list(by_table(past)) == ["p/t"]
    page = build_report(past.runs[-1].frame, [WITH_TABLE], tmp_path, tmp_path / "report", history=past).read_text()
    _Checker().feed(page)
    section = page[page.index('<section id="history">') :]
    assert "16 runs, 2026-01-01 to 2026-01-16" in section
    assert "<td>+20%</td><td>worse</td>" in section
    assert 'aria-label="p/t over 16 runs; p/t/a/macs, p/t/a/seconds changed level"' in section
    assert "<details open><summary>p/t</summary>" in section
    assert '<a href="#history">' in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| p/t/a/seconds | r8 | 0.1.0+000800000000 | 1.000 s | 1.200 s | +20% | worse |" in text


def test_one_run_is_no_history(tmp_path: Path) -> None:
    past = runs()
    alone = history(past.runs[-1:], [PAPER])
    page = build_report(past.runs[-1].frame, [WITH_TABLE], tmp_path, tmp_path / "report", history=alone)
    assert 'id="history"' not in page.read_text()
    assert worth(alone) == ()


def test_a_history_without_changes_says_so() -> None:
    past = runs()
    assert "No metric changed its level." in markdown(history(past.runs[:3], [PAPER]))


class _Checker(HTMLParser):
    """Whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
