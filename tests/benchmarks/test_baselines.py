"""Baselines as text: what comes back, what a diff shows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import FID, MACS, PAPER, RECALL, SECONDS, frame, over_seeds, record

import gengauge.reports
from gengauge.benchmarks.core.baselines import (
    baseline_names,
    baseline_path,
    dump,
    load,
    printed,
    read_baseline,
    write_baseline,
)
from gengauge.benchmarks.core.comparison import compare
from gengauge.benchmarks.jobs import load_paper
from gengauge.benchmarks.papers import SOURCES

COMMITTED = Path(gengauge.reports.__path__[0]) / "baselines"
DATE = "2026-01-31T12:00:00Z"
MIXED = frame(
    *over_seeds(FID, 1 / 3, 20.5),
    *over_seeds(MACS, 2.436632064),
    record(RECALL, 7.0, samples=100, data="photos, 10 %", settings="0123abcd"),
    record(SECONDS, 0.25, repetitions=(0.251239, 0.25, 0.2431)),
    record(FID, 3.0, row="my.module:Method/x"),
    record(FID, 9.0, step=4),
    record(FID, 0.0, status="failed", row="broken"),
)


def test_a_baseline_comes_back_to_the_printed_digits() -> None:
    text = dump(MIXED, "main", DATE)
    found = load(text, "main.jsonl")
    assert dump(found.frame, "main", DATE) == text
    values = found.frame.set_index(["row", "column", "seed"])
    assert values.loc[("a", "fid", 0), "value"] == 0.333333333333
    assert values.loc[("a", "macs", 0), "value"] == 2.436632064
    assert values.loc[("a", "seconds", 0), "repetitions"] == (0.25124, 0.25, 0.2431)
    assert values.loc[("a", "recall", 0), "data"] == "photos, 10 %"
    assert values.loc[("a", "recall", 0), "samples"] == 100
    assert values.loc[("a", "recall", 0), "settings"] == "0123abcd"
    assert values.loc[("my.module:Method/x", "fid", 0), "value"] == 3
    assert len(found.frame) == 6
    assert {c.verdict for c in compare(found.frame, printed(MIXED), [PAPER])} == {"same"}


def test_it_says_what_it_was_measured_with_and_is_a_line_a_metric() -> None:
    lines = dump(MIXED, "main", DATE).splitlines()
    header = json.loads(lines[0])
    assert header["name"] == "main"
    assert header["date"] == DATE
    assert header["devices"] == ["cpu (one)"]
    assert header["scales"] == ["quick"]
    assert header["versions"] == [{"python": "3"}]
    assert header["code"] == ["1"]
    assert header["metrics"] == 5
    assert len(lines) == 1 + 2 + 5
    assert sum('"metric": "p/t/a/fid"' in line for line in lines) == 1


def test_order_does_not_matter_and_one_metric_moves_one_line() -> None:
    text = dump(MIXED, "main", DATE)
    assert dump(MIXED.sample(frac=1, random_state=0), "main", DATE) == text
    moved = MIXED.assign(value=[21.5 if v == 20.5 else v for v in MIXED["value"]])
    pairs = zip(text.splitlines(), dump(moved, "main", DATE).splitlines(), strict=True)
    assert sum(a != b for a, b in pairs) == 1


def test_thousands_of_repetitions_become_what_is_compared() -> None:
    times = np.random.default_rng(0).lognormal(0, 0.1, 5000)
    (kept,) = load(dump(frame(record(SECONDS, 1.0, repetitions=tuple(times))), "x", DATE), "x").frame["repetitions"]
    assert len(kept) == 20
    assert kept[0] == pytest.approx(np.median(times[:250]), rel=1e-4)


def test_what_failed_stays_beside_what_is_printed() -> None:
    found = printed(MIXED)
    assert found.loc[found["row"] == "broken", "status"].tolist() == ["failed"]
    only_bad = MIXED[MIXED["status"] != "ok"]
    pd.testing.assert_frame_equal(printed(only_bad), only_bad)


def test_a_run_without_values_is_no_baseline() -> None:
    with pytest.raises(ValueError, match="no measured values"):
        dump(MIXED[MIXED["status"] != "ok"], "x", DATE)


TEXT = dump(MIXED, "main", DATE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: "", r"main\.jsonl:1: this is no line"),
        (lambda t: "[]\n", r"main\.jsonl:1: this is no line"),
        (lambda t: '{"a": 1}\n', r"main\.jsonl:1: this is no header"),
        (lambda t: t.replace('"gengauge_baseline": 1', '"gengauge_baseline": 9'), r":1: format 9, .* update gengauge"),
        (lambda t: t.replace('"devices"', '"device"', 1), r":1: the header lacks 'devices'"),
        (lambda t: t[:-30], r":8: this is no line"),
        (lambda t: "\n".join(t.splitlines()[:-1]), r":7: 4 metrics, where the header promises 5"),
        (lambda t: t.replace("20.5", "NaN"), r":5: this is no line .*NaN"),
        (lambda t: t.replace("20.5", "1e999"), r":5: p/t/a/fid has no finite numbers at seed 1"),
        (lambda t: t.replace("20.5", '"20.5"'), r":5: p/t/a/fid has no finite numbers at seed 1"),
        (lambda t: t.replace("20.5", "true"), r":5: p/t/a/fid has no finite numbers"),
        (lambda t: t.replace('"1": 20.5', '"one": 20.5'), r":5: p/t/a/fid has no finite numbers at seed one"),
        (lambda t: t.replace('"p/t/a/fid"', '"p/fid"'), r":5: a metric is PAPER/TABLE/ROW/COLUMN"),
        (lambda t: t.replace('"p/t/a/fid", "unit": "1"', '"p/t/a/fid", "unit": 1'), r":5: p/t/a/fid lacks its unit"),
        (lambda t: t.replace('"values": {"0": 3}', '"values": {}'), "lacks its values by seed"),
        (lambda t: t.replace('"threads": 1', '"threads": "1"'), r":2: neither a metric nor .*'threads' is wrong"),
        (lambda t: t.replace(t.splitlines()[1] + "\n", ""), r":2: a metric before the line"),
        (lambda t: t + t.splitlines()[-1] + "\n", r":9: p/t/my.module:Method/x/fid stands in line 8 already"),
        (lambda t: t.replace("\n", "\n<<<<<<< HEAD\n", 1), r":2: this is no line"),
    ],
)
def test_damage_is_named_with_its_line(damage: object, message: str) -> None:
    text = damage(TEXT)  # type: ignore[operator]
    assert text != TEXT
    with pytest.raises(ValueError, match=message):
        load(text, "main.jsonl")


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"{}\n\xff\xfe")
    with pytest.raises(ValueError, match=r"x\.jsonl:2: this is no text"):
        read_baseline(tmp_path / "x.jsonl")


def test_baselines_are_files_of_a_folder(tmp_path: Path) -> None:
    assert baseline_names(tmp_path / "none") == []
    write_baseline(tmp_path / "b", "v1.0", TEXT)
    path = write_baseline(tmp_path / "b", "main", TEXT)
    assert path.read_text() == TEXT
    assert baseline_names(tmp_path / "b") == ["main", "v1.0"]
    assert len(read_baseline(path).frame) == 6
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["main.jsonl", "v1.0.jsonl"]


def test_a_folder_that_cannot_be_written_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/b .*--dir"):
        write_baseline(tmp_path / "file" / "b", "main", TEXT)


@pytest.mark.parametrize("name", ["", "../main", "a/b", ".hidden", "a b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a baseline's name"):
        baseline_path(Path(), name)


@pytest.mark.parametrize("name", baseline_names(COMMITTED))
def test_a_committed_baseline_is_read_whole(name: str) -> None:
    found = read_baseline(baseline_path(COMMITTED, name))
    assert found.header["name"] == name
    known = {(paper.key, table.key) for paper in map(load_paper, SOURCES) for table in paper.tables}
    assert set(zip(found.frame["paper"], found.frame["table"], strict=True)) <= known
    assert baseline_path(COMMITTED, name).stat().st_size < 1e6
