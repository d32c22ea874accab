"""The runner and its engine: limits, failures, kill and restart."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from filelock import FileLock
from rich.console import Console

from gengauge.benchmarks import engine
from gengauge.benchmarks.core.store import DamagedPart, read_records
from gengauge.benchmarks.jobs import Job, select
from gengauge.benchmarks.machine import source_digest
from gengauge.benchmarks.runner import run

HERE = Path(__file__).parent
VOLATILE = ["seconds", "peak_mebibytes", "time"]


def jobs(paper: str, targets: list[str] | None = None, seeds: int | None = None) -> list[Job]:
    return select([f"toy_paper:{paper}"], targets or [], "quick", seeds, "cpu", None)


def run_all(chosen: list[Job], out: Path, **options: object) -> tuple[dict[str, int], str]:
    text = io.StringIO()
    counts = run(chosen, out, 2, bool(options.get("force")), Console(file=text, width=200))
    return dict(counts), text.getvalue()


def stable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=VOLATILE)


def test_records_of_a_run_that_ends_well(tmp_path: Path) -> None:
    counts, said = run_all(jobs("PAPER"), tmp_path)
    assert counts["ok"] == 6
    assert said.count("ok in") == 6
    frame = read_records(tmp_path)
    final = frame[frame["step"].isna() & (frame["row"] == "plain")]
    assert final["value"].tolist() == [10.0, 11.0, 12.0]
    assert final["seed"].tolist() == [0, 1, 2]
    assert final[["low", "high", "interval", "samples"]].iloc[0].tolist() == [9.0, 11.0, "made up", 5]
    curve = frame[frame["step"].notna() & (frame["seed"] == 1)]
    assert curve["step"].tolist() == [1, 2]
    assert curve["value"].tolist() == [1.5, 2.0]
    assert (frame["status"] == "ok").all()
    assert len(list(tmp_path.glob("pictures/*/plain.square.png"))) == 3


def test_finished_jobs_are_not_repeated_unless_forced(tmp_path: Path) -> None:
    run_all(jobs("PAPER", seeds=1), tmp_path)
    before = read_records(tmp_path)
    counts, said = run_all(jobs("PAPER", seeds=2), tmp_path)
    assert counts["ok"] == 4
    assert "2 of 4 jobs are finished already" in said
    after = read_records(tmp_path)
    pd.testing.assert_frame_equal(after[after["seed"] == 0].reset_index(drop=True), before)
    run_all(jobs("PAPER", seeds=1), tmp_path, force=True)
    again = read_records(tmp_path)
    pd.testing.assert_frame_equal(stable(again), stable(after))
    assert (again.loc[again["seed"] == 0, "time"] > after.loc[after["seed"] == 0, "time"]).all()
    assert len(read_records(tmp_path, every_attempt=True)) == len(again) + len(before)


def test_one_bad_job_becomes_a_record_and_the_others_go_on(tmp_path: Path) -> None:
    counts, said = run_all(jobs("BAD"), tmp_path)
    assert counts == {"ok": 1, "failed": 4, "timeout": 1, "memory": 1, "unavailable": 2}
    frame = read_records(tmp_path).set_index("experiment")
    for name, status, words in (
        ("fails", "failed", "RuntimeError: the toy broke"),
        ("fails", "failed", "raise RuntimeError"),
        ("not_a_number", "failed", "score came out as nan"),
        ("hangs", "timeout", "its limit is 2 s"),
        ("grows", "memory", "its limit is 1.5 GiB"),
        ("dies", "failed", "SIGSEGV"),
        ("lacks", "unavailable", "no moon is up. To get it: wait for the night"),
        ("lacks_weights", "unavailable", "no weights anywhere"),
        ("undeclared", "failed", "plain/other, which it does not declare"),
    ):
        record = frame.loc[[name]].iloc[0]
        assert record["status"] == status
        assert words in record["reason"]
        assert pd.isna(record["value"])
    assert frame.loc[["good"], "value"].notna().all()
    assert frame.loc["grows", "peak_mebibytes"] > 1000
    assert "the toy broke" in said


def test_a_failed_job_is_tried_again(tmp_path: Path) -> None:
    chosen = [job for job in jobs("BAD") if job.experiment == "fails"]
    run_all(chosen, tmp_path)
    counts, said = run_all(chosen, tmp_path)
    assert counts["failed"] == 1
    assert "finished already" not in said
    assert len(read_records(tmp_path)) == 1


def test_a_timed_job_runs_alone_with_the_environment_for_timing(tmp_path: Path) -> None:
    run_all(jobs("TIMED"), tmp_path)
    frame = read_records(tmp_path).set_index("experiment")
    assert frame.loc["surroundings", "value"] == len("268435456")
    assert "MALLOC_TOP_PAD_" not in os.environ


def start_and_kill(out: Path, parts: int) -> list[psutil.Process]:
    """Starts the slow paper in a process of its own and ends that with SIGKILL once `parts` jobs are finished.

    Returns the processes that it had started.
    """
    script = (
        "from pathlib import Path; from rich.console import Console\n"
        "from gengauge.benchmarks.jobs import select; from gengauge.benchmarks.runner import run\n"
        "if __name__ == '__main__':\n"
        "    jobs = select(['toy_paper:SLOW'], [], 'quick', None, 'cpu', None)\n"
        f"    run(jobs, Path({str(out)!r}), 2, False, Console())\n"
    )
    (out / "start.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, out / "start.py"], env={**os.environ, "PYTHONPATH": str(HERE)}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while not ((out / "logs").exists() and len(list(out.glob("records/*.parquet"))) >= parts):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return started


def test_a_killed_run_goes_on_and_gives_the_same_frame(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_all(jobs("SLOW"), whole)
    killed.mkdir()
    (killed / "records").mkdir()
    (killed / "records" / ".half.1.tmp").write_bytes(b"of a run that was killed while it wrote")
    for parts in (0, 2):
        started = start_and_kill(killed, parts)
        assert started
        _, alive = psutil.wait_procs(started, timeout=10)
        assert not alive, "the jobs of a dead runner end by themselves"
    finished = len(list(killed.glob("records/*.parquet")))
    assert 2 <= finished < 6
    counts, said = run_all(jobs("SLOW"), killed)
    assert counts["ok"] == 6
    assert f"{finished} of 6 jobs are finished already" in said
    assert len(list(killed.glob("records/*.parquet"))) == 6
    assert not list(killed.glob("records/.*.tmp"))
    pd.testing.assert_frame_equal(stable(read_records(killed)), stable(read_records(whole)))
    pictures = [{p.relative_to(out): p.read_bytes() for p in out.rglob("*.png")} for out in (whole, killed)]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 6


def test_what_was_measured_before_a_failure_is_kept_and_what_was_not_is_missed(tmp_path: Path) -> None:
    start = time.monotonic()
    counts, _ = run_all(jobs("ODD"), tmp_path)
    assert time.monotonic() - start < 45, "a process that lingers after its result is ended"
    assert counts == {"ok": 2, "failed": 2}
    frame = read_records(tmp_path).set_index("experiment")
    half = frame.loc[["half_way"]]
    assert sorted(half["status"]) == ["failed", "ok"]
    assert half.loc[half["status"] == "ok", "value"].tolist() == [4.0]
    assert "ended without a value for plain/score" in frame.loc["nothing", "reason"]
    assert frame.loc["cannot_tell", "status"] == "unavailable"
    assert frame.loc["cannot_tell", "reason"] == "no way to tell here"
    assert frame.loc["lingers", "value"] == 3.0
    _, said = run_all(jobs("ODD"), tmp_path)
    assert "2 of 4 jobs are finished already" in said


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(OSError, match="another run is at work"):
        run_all(jobs("PAPER"), tmp_path)


def test_a_damaged_part_is_set_aside_and_its_job_repeated(tmp_path: Path) -> None:
    run_all(jobs("PAPER"), tmp_path)
    before = read_records(tmp_path)
    part = sorted(tmp_path.glob("records/*.parquet"))[2]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.warns(DamagedPart, match=part.name):
        assert len(read_records(tmp_path)) < len(before)
    assert (tmp_path / "records" / "damaged" / part.name).exists()
    counts, _ = run_all(jobs("PAPER"), tmp_path)
    assert counts["ok"] == 6
    pd.testing.assert_frame_equal(stable(read_records(tmp_path)), stable(before))


def test_an_output_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file.*--out"):
        run_all(jobs("PAPER"), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "no paper 'nothing'; there are toy"),
        ("toy/none", "no table 'none'; it has toys"),
        ("toy/toys/none", "no row 'none'; it has plain, better"),
    ],
)
def test_a_target_that_names_nothing_says_what_there_is(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs("PAPER", [target])


def test_a_target_chooses_the_experiments_that_fill_it() -> None:
    assert {job.experiment for job in jobs("PAPER", ["toy/toys/better"])} == {"better"}
    assert {job.experiment for job in jobs("PAPER", ["toy/toys"])} == {"good", "better"}
    assert [job.seed for job in jobs("PAPER", seeds=2)] == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["conv.cpp", "conv.h", "card.json", "code.py"])
def test_the_codes_digest_tells_native_code_and_the_networks_that_come_with_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / name
    file.write_text("1")
    before = source_digest(tmp_path)
    assert source_digest(tmp_path) == before
    file.write_text("2")
    assert source_digest(tmp_path) != before


def test_a_jobs_digest_depends_on_what_its_result_depends_on(tmp_path: Path) -> None:
    def digests(device: str = "cpu", data: Path | None = None) -> set[str]:
        return {job.digest for job in select(["toy_paper:PAPER"], [], "quick", 2, device, data)}

    (tmp_path / "a.png").write_bytes(b"1")
    first = digests(data=tmp_path)
    assert digests() == digests()
    assert len(digests()) == 4
    assert not digests() & (digests("cuda") | first)
    (tmp_path / ".DS_Store").write_bytes(b"3")
    assert digests(data=tmp_path) == first
    (tmp_path / "a.png").write_bytes(b"2")
    assert not first & digests(data=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        digests(data=tmp_path / "none")


def test_an_interrupt_waits_until_a_job_is_noted_down_whichever_thread_takes_it() -> None:
    done, noted = threading.Event(), []
    other = threading.Thread(target=done.wait)
    other.start()

    @engine._uninterrupted()
    def note_down() -> None:
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGINT)
        time.sleep(0.1)
        noted.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            note_down()
        assert noted
        with pytest.raises(KeyboardInterrupt):  # as before
            signal.raise_signal(signal.SIGINT)
    finally:
        done.set()
        other.join()
