"""pytest-benchmark's JSON in the record store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gengauge.benchmarks.core.comparison import compare
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.ingest import ingest, records_of


def content(*benchmarks: dict[str, Any], **others: Any) -> dict[str, Any]:
    machine = {"python_version": "3.11.7", "machine": "x86_64", "cpu": {"brand_raw": "A processor"}}
    commit = {"id": "0123456789abcdef", "dirty": True}
    return {
        "machine_info": machine,
        "commit_info": commit,
        "benchmarks": list(benchmarks),
        "datetime": "2026-01-31T13:00:00.5+01:00",
        "version": "5.1.0",
        **others,
    }


def benchmark(name: str, *seconds: float, **extra: Any) -> dict[str, Any]:
    return {"fullname": f"benchmarks/speed/{name}", "extra_info": extra, "stats": {"data": list(seconds)}}


def written(path: Path, found: object) -> Path:
    path.write_text(json.dumps(found))
    return path


def test_a_benchmark_becomes_a_record_with_its_rounds(tmp_path: Path) -> None:
    file = written(tmp_path / "s.json", content(benchmark("bench_sige.py::test_gather[fast-320]", 0.3, 0.1, 0.2)))
    (record,) = ingest(file, tmp_path / "out")
    assert (record.paper, record.table, record.row, record.column) == ("speed", "sige", "gather-fast-320", "seconds")
    assert (record.value, record.low, record.high, record.unit, record.samples) == (0.2, 0.1, 0.3, "s", 3)
    assert record.repetitions == (0.3, 0.1, 0.2)
    assert record.device == "cpu (A processor)"
    assert record.code == "0123456789ab+changes"
    assert record.time == "2026-01-31T12:00:00.500000Z"
    assert json.loads(record.versions) == {"python": "3.11.7", "pytest-benchmark": "5.1.0"}
    frame = read_records(tmp_path / "out")
    assert frame["repetitions"].tolist() == [(0.3, 0.1, 0.2)]
    ingest(file, tmp_path / "out")
    assert len(read_records(tmp_path / "out", every_attempt=True)) == 1


def test_forms_that_a_benchmark_tells_are_rows(tmp_path: Path) -> None:
    forms = {"ours": [1.0, 1.1], "published": [2.0, 2.2]}
    file = written(tmp_path / "s.json", content(benchmark("bench_a.py::test_step", 3.0, 3.3, seconds=forms, threads=2)))
    assert {r.row: r.repetitions for r in records_of(file)} == {"step-ours": (1.0, 1.1), "step-published": (2.0, 2.2)}
    assert {r.threads for r in records_of(file)} == {2}


def test_names_that_differ_stay_apart(tmp_path: Path) -> None:
    names = [
        "bench_a.py::test_x[a-1]",
        "bench_a.py::test_x[a_1]",
        "bench_a.py::TestB::test_x[a-1]",
        "bench_b.py::test_x[a-1]",
    ]
    records = records_of(written(tmp_path / "s.json", content(*(benchmark(name, 1.0) for name in names))))
    assert len({(r.table, r.row) for r in records}) == 4
    assert [r.note for r in records] == [f"benchmarks/speed/{name}" for name in names]


def test_two_commits_are_compared(tmp_path: Path) -> None:
    times = [1.0, 1.02, 0.99, 1.01, 1.0, 0.98, 1.0, 1.01]
    for name, factor in (("before", 1.0), ("after", 1.3)):
        found = content(benchmark("bench_a.py::test_x", *(factor * t for t in times)))
        ingest(written(tmp_path / "s.json", found), tmp_path / name)
    (change,) = compare(read_records(tmp_path / "before"), read_records(tmp_path / "after"))
    assert change.metric == "speed/a/x/seconds"
    assert change.verdict == "worse"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "is no JSON of pytest-benchmark"),
        ({"benchmarks": []}, "is no JSON of pytest-benchmark"),
        (content(), "holds no benchmark"),
        (content(machine_info=[]), "is no JSON of pytest-benchmark"),
        (content(datetime="yesterday"), "is no JSON of pytest-benchmark"),
        (content({"fullname": "a.py::b", "stats": {"median": 1.0}}), "--benchmark-save NAME --benchmark-save-data"),
        (content({"stats": {"data": [1.0]}}), "no benchmark of pytest-benchmark"),
        (content(benchmark("a.py::b", 1.0, -1.0)), "rounds that are no seconds"),
        (content(benchmark("a.py::b", 1.0, float("nan"))), "rounds that are no seconds"),
        (content({"fullname": "a.py::b", "stats": {"data": ["1"]}}), "rounds that are no seconds"),
        (content("text"), "no benchmark of pytest-benchmark"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, found: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        records_of(written(tmp_path / "s.json", found))
    assert "s.json" in str(error.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        records_of(tmp_path / "none.json")
    (tmp_path / "s.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="is no JSON of pytest-benchmark"):
        records_of(tmp_path / "s.json")


def test_a_file_that_pytest_benchmark_wrote(tmp_path: Path) -> None:
    (tmp_path / "bench_small.py").write_text(
        "def test_sum(benchmark):\n    benchmark.pedantic(sum, ([1],), rounds=7)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "bench_small.py", "--benchmark-json", "s.json"]
    # In a worker of xdist, as of these tests, pytest-benchmark measures nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run(command, cwd=tmp_path, env=alone, check=True, capture_output=True, timeout=120)
    (record,) = records_of(tmp_path / "s.json")
    assert (record.table, record.row, len(record.repetitions)) == ("small", "sum", 7)
    assert record.device.startswith("cpu (")
