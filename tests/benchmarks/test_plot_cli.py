"""The commands plot and history: what they take, write and say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from frames import RECORD
from typer.testing import CliRunner

from gengauge.benchmarks.cli import app
from gengauge.benchmarks.core.records import Record
from gengauge.benchmarks.core.store import write_part
from gengauge.benchmarks.plot_cli import runs_in, short_names, words

TIMES = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 1.2, 1.21, 1.19, 1.2)


def gengauge(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "250"})
    if isinstance(result.exception, ValueError | OSError):
        raise result.exception
    return result.exit_code, result.output


def of_sdedit(row: str, column: str, value: float, **others: object) -> Record:
    made = replace(RECORD, paper="sdedit", table="simulated-strokes", row=row, column=column, value=value)
    return replace(made, **others)  # type: ignore[arg-type]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs `a` and `b` of SDEdit's strokes, and `nightly/00` to `nightly/11` of a speed that fell."""
    monkeypatch.chdir(tmp_path)
    for name, factor in (("a", 1.0), ("b", 1.1)):
        values = [
            of_sdedit(row, column, factor * value + seed, seed=seed)
            for row, column, value in (
                ("sdedit@lsun-church", "kid", 0.02),
                ("sdedit@lsun-church", "l2", 37.0),
                ("sdedit@lsun-bedroom", "kid", 0.01),
                ("sdedit@lsun-bedroom", "l2", 36.0),
            )
            for seed in (0, 1)
        ]
        write_part(tmp_path / name / "records", "a", values)
    for i, seconds in enumerate(TIMES):
        made = replace(RECORD, paper="speed", column="seconds", unit="s", value=seconds, code=f"1+{i:08x}")
        write_part(
            tmp_path / "nightly" / f"{i:02d}" / "records", "a", [replace(made, time=f"2026-01-{i + 1:02d}T00:00Z")]
        )
    return tmp_path


def texts(svg: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


TABLE = ("--table", "sdedit/simulated-strokes")


def test_bars_of_two_runs_beside_what_is_published(runs: Path) -> None:
    assert gengauge("plot", "a", "b/records/a.parquet", *TABLE, "--y", "kid,l2", "--out", "new/bars.svg")[0] == 0
    found = texts(runs / "new" / "bars.svg")
    assert {"a (stand-in)", "a.parquet (stand-in)", "published", "SDEdit (LSUN church)"} <= set(found)


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_a_trade_off_in_other_formats(runs: Path, suffix: str) -> None:
    out = f"t.{suffix}"
    assert (
        gengauge("plot", "a", *TABLE, "--kind", "trade-off", "--x", "l2", "--y", "kid", "--front", "--out", out)[0] == 0
    )
    assert (runs / out).read_bytes()[:4] in (b"%PDF", b"\x89PNG")


def test_labels_title_and_size_are_the_users(runs: Path) -> None:
    look = ("--title", "Mine", "--x-label", "wide", "--y-label", "high", "--width", "3", "--height", "2")
    gengauge("plot", "a", *TABLE, "--kind", "trade-off", "--x", "l2", "--y", "kid", "--out", "t.svg", *look)
    assert {"Mine", "wide", "high"} <= set(texts(runs / "t.svg"))
    assert ElementTree.parse(runs / "t.svg").getroot().attrib["width"] == "216pt"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--table", "sdedit/strokes"), "there are sdedit/simulated-strokes"),
        ((*TABLE, "--y", "fid"), "has no metric 'fid'; it has kid, l2"),
        ((*TABLE, "--rows", "cut*"), r"matches 'cut\*'; it has in-domain-gan-1"),
        ((*TABLE, "--x", "l2"), "--x means nothing for a plot of kind bars"),
        ((*TABLE, "--kind", "against"), "needs --x and one --y; .* has kid, l2"),
        ((*TABLE, "--kind", "against", "--x", "l2", "--y", "kid", "--front"), "--front means nothing"),
        ((*TABLE, "--kind", "trade-off", "--x", "l2", "--y", "kid", "--levels", "a"), "--levels means nothing"),
        ((*TABLE, "--kind", "against", "--x", "setting", "--y", "kid"), "no number in the settings of 2 rows"),
    ],
)
def test_what_cannot_be_drawn_names_what_there_is(runs: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gengauge("plot", "a", *words, "--out", "x.svg")
    assert not (runs / "x.svg").exists()


def test_a_format_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match=r"x\.gif: a plot is written as"):
        gengauge("plot", "nowhere", *TABLE, "--out", "x.gif")
    with pytest.raises(FileNotFoundError, match="no baseline 'nowhere'"):
        gengauge("plot", "nowhere", *TABLE, "--out", "x.svg")


def test_a_history_of_a_folder_marks_what_changed(runs: Path) -> None:
    status, text = gengauge("history", "--runs", "nightly", "--out", "h.svg")
    assert status == 0
    assert "12 runs, 1 metrics with a history, 1 changes" in text
    assert "+20%" in text
    found = texts(runs / "h.svg")
    assert " +20% worse" in found
    assert {"00", "07", "11"} <= set(found)


def test_a_history_takes_baselines_and_an_order(runs: Path) -> None:
    gengauge("baseline", "save", "first", "nightly/00", "--dir", "kept")
    status, text = gengauge("history", "nightly/03", "first", "nightly/01", "--dir", "kept", "--order", "given")
    assert status == 0
    assert "3 runs" in text
    assert "from 10 runs on" in text
    assert [run.name for run in runs_in(runs / "kept")] == [str(runs / "kept" / "first.jsonl")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a history needs runs"),
        (("--runs", "nightly", "--table", "speed/u"), "no table with a history matches 'speed/u'; there are speed/t"),
        (("--runs", "nightly", "--metric", "fid"), "no metric with a history matches 'fid'; there are seconds"),
        (("nightly/00", "--out", "x.svg"), "no metric was measured in two runs"),
    ],
)
def test_a_history_of_nothing_is_refused(runs: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gengauge("history", *words)


def test_a_folder_without_runs_is_named(runs: Path) -> None:
    (runs / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no runs"):
        runs_in(runs / "empty")
    with pytest.raises(FileNotFoundError, match="lost is no folder of runs"):
        runs_in(runs / "lost")
    assert [Path(run.name).name for run in runs_in(runs / "nightly" / "00")] == ["00"]


def test_runs_are_called_by_the_last_part_of_their_path() -> None:
    assert short_names(["out/a/", "b"]) == ["a", "b"]
    assert short_names(["x/a", "y/a"]) == ["x/a", "y/a"]
    with pytest.raises(ValueError, match="named twice"):
        short_names(["a", "a"])
    assert words(["a, b", "c"]) == ["a", "b", "c"]


def test_a_report_shows_the_runs_before_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def report(*arguments: object) -> Path:
        seen["history"] = arguments[-1]
        return runs / "index.html"

    monkeypatch.setattr("gengauge.reports.build_report", report)
    monkeypatch.setattr("gengauge.benchmarks.gallery.gallery", lambda: ())
    gengauge("report", "nightly/11", "--history", "nightly")
    past = seen["history"]
    assert [Path(run.name).name for run in past.runs] == [f"{i:02d}" for i in range(12)]  # type: ignore[attr-defined]
