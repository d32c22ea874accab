"""A comparison as Markdown, JSON, JUnit XML and a page: what each says, and that odd names break none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from gengauge.benchmarks.core.comparison import Change
from gengauge.benchmarks.core.thresholds import Threshold
from gengauge.reports.comparison import Side, as_json, junit, markdown, moved, page

BEFORE = Side("main", ("quick",), ("cpu (one)",), ("1",), ("python 3",), "2026-01-01T10:00", "2026-01-01T11:00")
AFTER = replace(BEFORE, name="out/<quick>|", code=("2",))
FIVE = Threshold(0.05, True)
WORSE = Change(
    "p/t/a/seconds", "quick", "speed", "s", "lower", FIVE, 1.0, 1.2, 0.2, 0.15, 0.26, True, 0.003, 10,
    "signed ranks of 10 differences", "worse", "beyond the noise",
)  # fmt: skip
BETTER = replace(WORSE, metric="p/t/b/seconds", candidate=0.8, change=-0.2, low=-0.25, high=-0.15, verdict="better")
ODD = replace(WORSE, metric="p/t/<b>|x/seconds", verdict="unclear", reason="a & b\x00\x1b[31m")
LOST = Change("p/t/a/fid", "quick", "quality", "1", "lower", FIVE, reason="device cpu against cuda")
EXACT = Change(
    "p/t/a/macs", "quick", "exact", "G", "lower", Threshold(0, True), 5.0, 5.0, 0.0, 0.0, 0.0, verdict="same",
    reason="equal",
)  # fmt: skip
CHANGES = (WORSE, BETTER, ODD, LOST, replace(LOST, metric="p/t/b/fid"), EXACT)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (WORSE, "+20% [+15%, +26%]"),
        (replace(WORSE, low=None, high=None), "+20%"),
        (EXACT, "0%"),
        (LOST, ""),
        (replace(WORSE, relative=False, change=-0.5, low=-1.0, high=0.0, unit="dB"), "-0.5 [-1, 0] dB"),
    ],
)
def test_a_change_is_told_with_its_interval(change: Change, text: str) -> None:
    assert moved(change) == text


def test_markdown_shows_what_moved_and_counts_the_rest() -> None:
    text = markdown(CHANGES, BEFORE, AFTER)
    lines = text.splitlines()
    assert lines[0] == "# gengauge compare: 1 worse, 1 better, 1 unclear, 2 incomparable, 1 same"
    (line,) = (line for line in lines if line.startswith("| p/t/a/seconds "))
    assert "| 1.000 s | 1.200 s | +20% [+15%, +26%] | 5% | 0.003 | beyond the noise" in line
    assert "- 2: device cpu against cuda (for instance p/t/a/fid)" in lines
    assert r"out/\<quick\>\|" in text
    for line in lines:
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 8, line
    assert "p/t/a/macs" not in text


def test_markdown_of_a_suite_has_an_end() -> None:
    text = markdown([replace(ODD, metric=f"p/t/r{i}/seconds") for i in range(300)], BEFORE, AFTER)
    assert "Unclear: 300, of which the 25 worst are shown" in text
    assert text.count("| p/t/r") == 25


def test_json_holds_every_number() -> None:
    found = json.loads(as_json(CHANGES, BEFORE, AFTER))
    assert found["verdicts"] == {"worse": 1, "better": 1, "unclear": 1, "incomparable": 2, "same": 1}
    assert found["candidate"]["code"] == ["2"]
    assert len(found["changes"]) == 6
    first = found["changes"][0]
    assert (first["metric"], first["verdict"], first["change"], first["threshold"]) == (
        "p/t/a/seconds", "worse", 0.2, "5%",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failing", "failures", "skipped"),
    [(["worse"], 1, 2), ([], 0, 2), (["worse", "unclear"], 2, 2), (["incomparable"], 2, 0)],
)
def test_junit_fails_what_is_asked_for(failing: list[str], failures: int, skipped: int) -> None:
    root = ElementTree.fromstring(junit(CHANGES, failing))  # type: ignore[arg-type]
    (suite,) = root
    assert suite.attrib["tests"] == "6"
    assert len(suite.findall("testcase")) == 6
    assert len(suite.findall("testcase/failure")) == failures == int(suite.attrib["failures"])
    assert len(suite.findall("testcase/skipped")) == skipped == int(suite.attrib["skipped"])


def test_junit_names_metric_and_change() -> None:
    case = ElementTree.fromstring(junit(CHANGES, ["worse"]))[0][0]
    assert case.attrib == {"classname": "p.t", "name": "a/seconds"}
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "worse: +20% [+15%, +26%] beyond the noise"


class _Checker(HTMLParser):
    """Whether tags are closed in order, and what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    text = page(CHANGES, BEFORE, AFTER)
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.fetched == []
    assert "&lt;b&gt;|x" in text
    assert "<b>|x" not in text
    assert "+20% [+15%, +26%]" in text
    assert "p/t/a/macs" in text
    assert "device cpu against cuda" in text
