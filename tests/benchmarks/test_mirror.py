"""Runs kept at a URL: what is finished there is not repeated, files are whole, errors name the URL or the package."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli, papers
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.mirror import RESULTS, STATES, Mirror, NotSent, is_url, working_folder

pytest.importorskip("fsspec", reason="the extra `cluster` is not installed")


def run(tmp_path: Path, *more: str) -> Result:
    command = ["run", "--seeds", "1", "--device", "cpu", "--out", f"file://{tmp_path}/there", *more]
    return CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, command, catch_exceptions=False)


def write(folder: Path, name: str, text: str = "1") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_run_at_a_url_goes_on_from_there_on_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "SOURCES", ("toy_paper:PAPER",))
    monkeypatch.chdir(tmp_path)
    first = run(tmp_path)
    assert first.exit_code == 0, first.output
    folder = working_folder(f"file://{tmp_path}/there")
    assert f"{folder}/records and file://{tmp_path}/there" in first.output
    assert {"records", "pictures", "logs"} <= {name.partition("/")[0] for name in names(tmp_path / "there")}
    before = read_records(tmp_path / "there")
    pd.testing.assert_frame_equal(read_records(folder), before)

    shutil.rmtree("out")  # as on another machine
    assert "2 of 2 jobs are finished already" in run(tmp_path).output
    pd.testing.assert_frame_equal(read_records(folder), before)
    assert not list((tmp_path / "there").rglob(".*"))

    (part, *_) = (tmp_path / "there" / "records").glob("*.parquet")
    part.unlink()  # of a run that was killed before it could send it
    assert "2 of 2 jobs are finished already" in run(tmp_path).output
    assert part.exists()


def test_both_sides_get_what_they_lack_and_states_that_are_gone_are_removed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "records/a.parquet")
    write(here, "records/.b.1.tmp")
    write(here, "records/damaged/c.parquet")
    write(here, "training/t/step-1/state")
    mirror = Mirror(f"file://{there}")
    mirror.send(here, (*STATES, *RESULTS))
    assert names(there) == ["records/a.parquet", "training/t/step-1/state"]

    write(there, "records/d.parquet", "another's")
    shutil.rmtree(here / "training/t/step-1")
    write(here, "training/t/step-2/state")
    write(here, "training/t/log.jsonl", "1\n2\n")
    mirror.fetch(here, RESULTS)
    mirror.send(here, (*STATES, *RESULTS))
    expected = ["records/a.parquet", "records/d.parquet", "training/t/log.jsonl", "training/t/step-2/state"]
    assert names(there) == expected
    assert (here / "records/d.parquet").read_text() == "another's"

    # Of a node that has copies of others' states only its own changes are sent.
    other = tmp_path / "other"
    node = Mirror(f"file://{there}")
    node.fetch(other, STATES)
    node.leave(other, STATES)
    shutil.rmtree(there / "training/t/step-2")
    write(other, "training/t/log.jsonl", "1\n2\n3\n")
    node.send(other, STATES)
    assert names(there / "training") == ["t/log.jsonl"]
    assert (there / "training/t/log.jsonl").read_text() == "1\n2\n3\n"


def test_what_a_killed_process_left_is_sent_but_no_older_state(tmp_path: Path) -> None:
    node, there = tmp_path / "node", tmp_path / "there"
    for name in ("t/step-00000002/state", "u/step-00000009/state"):
        write(there, f"training/{name}")
    for name in ("t/step-00000001/state", "t/step-00000003/state", "u/step-00000008/state", "v/step-00000001/state"):
        write(node, f"training/{name}")  # those of `t` and `v` were never sent
    write(there, "training/t/log.jsonl", "1\n")
    write(node, "training/t/log.jsonl", "1\n2\n")
    mirror = Mirror(f"file://{there}")
    mirror.fetch(node, STATES)
    mirror.leave(node, STATES)
    mirror.send(node, STATES)
    steps = ["t/step-00000002/state", "t/step-00000003/state", "u/step-00000009/state", "v/step-00000001/state"]
    assert names(there / "training") == ["t/log.jsonl", *steps]
    assert (there / "training/t/log.jsonl").read_text() == "1\n2\n"


def test_states_that_another_removes_meanwhile_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for step in (1, 2):
        write(first, f"training/t/step-{step}/state")
    mirror = Mirror("memory://removed/run")
    mirror.send(first, STATES)
    get, remove = mirror.files.get_file, mirror.files.rm_file

    def late(source: str, local: str) -> None:
        if mirror.files.exists(gone := f"{mirror.root}/training/t/step-1/state"):
            remove(gone)
        get(source, local)

    def twice(path: str) -> None:
        remove(path)
        remove(path)

    monkeypatch.setattr(mirror.files, "get_file", late)
    mirror.fetch(second, STATES)
    assert names(second) == ["training/t/step-2/state"]
    monkeypatch.setattr(mirror.files, "rm_file", twice)
    shutil.rmtree(second)
    mirror.send(second, STATES)
    assert not mirror.files.find(mirror.root)
    assert not mirror.known


def test_a_body_that_raises_is_not_hidden_by_what_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror("memory://hidden/run")
    monkeypatch.setattr(mirror.files, "put_file", lambda local, target: 1 / 0)
    write(tmp_path, "records/a.parquet")
    with (
        pytest.warns(NotSent, match="ZeroDivisionError"),
        pytest.raises(KeyError, match="the body's"),
        mirror.kept(tmp_path, RESULTS),
    ):
        raise KeyError("the body's")
    with pytest.raises(OSError, match="ZeroDivisionError"), mirror.kept(tmp_path, RESULTS):
        pass


def test_a_file_that_cannot_be_sent_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here", "records/a.parquet", "whole")
    mirror = Mirror(f"file://{tmp_path}/there")
    put = mirror.files.put_file

    def half(local: str, target: str) -> None:
        Path(target).write_text("ha")
        raise OSError("the line is cut")

    monkeypatch.setattr(mirror.files, "put_file", half)
    with pytest.raises(OSError, match=rf"^file://{tmp_path}/there cannot be written: OSError: the line is cut$"):
        mirror.send(tmp_path / "here", RESULTS)
    assert not names(tmp_path / "there")
    monkeypatch.setattr(mirror.files, "put_file", put)
    mirror.send(tmp_path / "here", RESULTS)
    assert (tmp_path / "there/records/a.parquet").read_text() == "whole"


def test_what_cannot_be_sent_meanwhile_is_told_and_sent_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror("memory://bucket/run")
    put, wrong = mirror.files.put_file, [True]

    def sometimes(local: str, target: str) -> None:
        if wrong:
            wrong.clear()
            raise ConnectionError("no way")
        put(local, target)

    monkeypatch.setattr(mirror.files, "put_file", sometimes)

    def end_a_job() -> None:
        with mirror.kept(tmp_path, RESULTS) as due:
            write(tmp_path, "records/a.parquet")
            due.set()
            deadline = time.monotonic() + 10
            while wrong and time.monotonic() < deadline:
                time.sleep(0.01)

    with pytest.warns(NotSent, match="no way"):
        end_a_job()
    mirror.fetch(tmp_path / "copy", RESULTS)
    assert names(tmp_path / "copy") == ["records/a.parquet"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nothing://bucket/run", "nothing://bucket/run cannot be opened: Protocol not known"),
        ("s3://bucket/run", r"needs a package that is not installed: pip install s3fs"),
    ],
)
def test_a_url_that_nothing_opens_names_the_package(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=message):
        Mirror(url)


def test_a_url_needs_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match=r'pip install "gengauge\[cluster\]"'):
        Mirror("s3://bucket/run")


def test_a_place_where_nothing_can_be_written_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "SOURCES", ("toy_paper:PAPER",))
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "there", "a file")
    with pytest.raises(OSError, match=rf"^file://{tmp_path}/there cannot be written to"):
        run(tmp_path)
    assert not list(tmp_path.glob("out/*/records/*.parquet"))


def test_a_url_is_no_path_and_has_a_working_folder_of_its_own() -> None:
    assert is_url("s3://bucket/run")
    assert not is_url("out/run")
    assert working_folder("s3://bucket/run/") == working_folder("s3://bucket/run")
    assert len({working_folder(f"s3://{bucket}/run") for bucket in "ab"}) == 2
