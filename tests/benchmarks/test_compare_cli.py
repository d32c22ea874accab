"""The commands compare, ingest and baseline: what they print, write and end with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from frames import RECORD
from typer.testing import CliRunner

from gengauge.benchmarks.cli import app
from gengauge.benchmarks.compare_cli import default_folder, read_thresholds, verdicts_of
from gengauge.benchmarks.core.records import Record
from gengauge.benchmarks.core.store import write_part

STEADY = (1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 1.0)


def time(factor: float, **others: object) -> Record:
    times = tuple(factor * t for t in STEADY)
    made = replace(RECORD, paper="speed", column="seconds", unit="s", value=factor, repetitions=times)
    return replace(made, **others)  # type: ignore[arg-type]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs `old`, `slow` and `elsewhere`."""
    monkeypatch.chdir(tmp_path)
    for name, record in (("old", time(1)), ("slow", time(1.3)), ("elsewhere", time(1, device="cuda"))):
        write_part(tmp_path / name / "records", "a", [record])
    return tmp_path


def gengauge(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "250"})
    if isinstance(result.exception, ValueError | OSError):
        raise result.exception
    return result.exit_code, result.output


def test_a_slowdown_ends_with_status_1_and_is_written_everywhere(runs: Path) -> None:
    status, text = gengauge(
        "compare", "old", "slow", "--markdown", "new/c.md", "--json", "c.json", "--junit", "c.xml", "--html", "c.html"
    )
    assert status == 1
    assert "1 worse" in text
    assert "speed/t/a/seconds" in text
    assert "1 worse" in (runs / "new" / "c.md").read_text()
    assert json.loads((runs / "c.json").read_text())["verdicts"]["worse"] == 1
    assert ElementTree.parse(runs / "c.xml").getroot().attrib["failures"] == "1"
    assert "+30%" in (runs / "c.html").read_text()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("old", "old"), 0),
        (("slow", "old"), 0),
        (("old", "slow", "--fail-on", "none"), 0),
        (("old", "slow", "--fail-on", "unclear"), 0),
        (("old", "slow", "--fail-on", "unclear,worse"), 1),
        (("old", "slow", "--fail-on", "unclear", "--fail-on", "worse"), 1),
        (("old", "elsewhere"), 3),
        (("old", "elsewhere", "--fail-on", "incomparable"), 1),
        (("old/records/a.parquet", "slow/records"), 1),
    ],
)
def test_the_exit_status_says_what_moved(runs: Path, words: tuple[str, ...], status: int) -> None:
    assert gengauge("compare", *words)[0] == status


def test_thresholds_stand_in_pyproject(runs: Path) -> None:
    (runs / "pyproject.toml").write_text('[tool.gengauge.compare]\n"*/seconds" = "50%"\n')
    assert gengauge("compare", "old", "slow")[0] == 0
    (runs / "other.toml").write_text("[tool.gengauge.compare]\n'*/seconds' = 0.1\n")
    assert gengauge("compare", "old", "slow", "--config", "other.toml")[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.gengauge.compare]\n'*' = 'much'", r"c\.toml: \[tool.gengauge.compare\] '\*': a threshold is"),
        ("[tool.gengauge]\ncompare = 3", r"c\.toml: .* is no table"),
        ("[tool", r"c\.toml: "),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_thresholds(tmp_path / "c.toml")


def test_this_projects_own_thresholds_can_be_read() -> None:
    file = Path(__file__).parent.parent.parent / "pyproject.toml"
    assert read_thresholds(file).patterns


def test_fail_on_takes_verdicts_only() -> None:
    assert verdicts_of(None) == {"worse"}
    assert verdicts_of(["worse, unclear"]) == {"worse", "unclear"}
    for words in (["better"], ["none,worse"], [""]):
        with pytest.raises(ValueError, match="--fail-on takes"):
            verdicts_of(words)


def test_a_baseline_is_saved_listed_shown_and_compared_with(runs: Path) -> None:
    assert gengauge("baseline", "save", "main", "old", "--dir", "b")[0] == 0
    assert "main" in gengauge("baseline", "list", "--dir", "b")[1]
    assert "speed/t/a/seconds" in gengauge("baseline", "show", "main", "--dir", "b")[1]
    assert gengauge("compare", "main", "old", "--dir", "b")[0] == 0
    assert gengauge("compare", "main", "slow", "--dir", "b")[0] == 1
    assert gengauge("compare", "b/main.jsonl", "old")[0] == 0
    with pytest.raises(ValueError, match="--overwrite replaces it"):
        gengauge("baseline", "save", "main", "slow", "--dir", "b")
    assert gengauge("baseline", "save", "main", "slow", "--dir", "b", "--overwrite")[0] == 0
    assert gengauge("compare", "main", "slow", "--dir", "b")[0] == 0


def test_an_equal_run_is_the_same_as_its_baseline_to_the_last_digit(runs: Path) -> None:
    third = replace(RECORD, column="fid", value=1 / 3)
    write_part(runs / "third", "a", [third, replace(third, seed=1, value=2 / 3)])
    gengauge("baseline", "save", "third", "third", "--dir", "b")
    gengauge("compare", "third", "third", "--json", "c.json")
    gengauge("compare", "third", str(runs / "b" / "third.jsonl"), "--json", "c.json")
    (change,) = json.loads((runs / "c.json").read_text())["changes"]
    assert (change["verdict"], change["reason"]) == ("same", "equal at 2 seeds")


def test_what_is_neither_run_nor_baseline_names_what_there_is(runs: Path) -> None:
    gengauge("baseline", "save", "main", "old", "--dir", "b")
    with pytest.raises(FileNotFoundError, match=r"no baseline 'mian' in b \(there are: main\)"):
        gengauge("compare", "mian", "old", "--dir", "b")
    with pytest.raises(FileNotFoundError, match=r"out/quick is no run's folder"):
        gengauge("compare", "out/quick", "old", "--dir", "b")
    (runs / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no records"):
        gengauge("compare", "empty", "old")
    (runs / "x.parquet").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"x\.parquet is no part of a record store"):
        gengauge("compare", "x.parquet", "old")
    assert (runs / "x.parquet").exists()


def test_timings_of_pytest_benchmark_are_taken_in(runs: Path) -> None:
    for number in (0, 1):
        found = {
            "machine_info": {},
            "benchmarks": [{"fullname": "bench_a.py::test_x", "stats": {"data": list(STEADY)}}],
            "datetime": f"2026-01-0{number + 1}T00:00:00+00:00",
        }
        (runs / f"{number}.json").write_text(json.dumps(found))
    status, text = gengauge("ingest", "0.json", "1.json", "--out", "taken")
    assert status == 0
    assert "1 timings of 10 rounds" in text
    gengauge("compare", "taken", "taken", "--json", "c.json")
    (change,) = json.loads((runs / "c.json").read_text())["changes"]
    assert change["pairs"] == 20


def test_the_default_folder_is_the_packages() -> None:
    assert default_folder().parts[-2:] == ("reports", "baselines")
