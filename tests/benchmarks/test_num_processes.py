"""`--num-processes`: two processes learn what one does with the whole batch, end together, and say what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from shared_training import squares, weights_are_missing
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli, machine, papers, runner
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.engine import Event, run_local
from gengauge.benchmarks.jobs import select
from gengauge.benchmarks.training.launch import check_room, launch, together
from gengauge.benchmarks.training.loop import read_log
from gengauge.datasets.weights import WeightsNotFound

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The command line with the paper of these tests."""
    monkeypatch.setattr(papers, "SOURCES", ("shared_training:PAPER",))
    return monkeypatch


def gengauge(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, arguments, catch_exceptions=False)


def numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.pid")]


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_two_processes_have_the_losses_of_one_with_the_doubled_batch(tmp_path: Path, only: pytest.MonkeyPatch) -> None:
    losses = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        options = ("--scale", "quick", "--device", "cpu", "--out", str(out), "--num-processes", str(count))
        done = gengauge("train", "shared", *options)
        assert done.exit_code == 0, done.output
        assert "1 trained" in done.output
        losses[count] = read_log(out / "training" / "edit")
    one, two = losses[1], losses[2]
    assert [line["iteration"] for line in one] == [line["iteration"] for line in two] == [1, 2, 3, 4, 5]
    for name in one[0]:
        found, expected = (torch.tensor([line[name] for line in lines]) for lines in (two, one))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert one[-1]["L1"] < 0.9 * one[0]["L1"], "it learns"


def test_a_training_inside_a_run_is_shared_and_the_main_processs_result_is_the_jobs(
    tmp_path: Path, only: pytest.MonkeyPatch
) -> None:
    done = gengauge("run", "shared", "--device", "cpu", "--out", str(tmp_path), "--num-processes", "2")
    assert done.exit_code == 0, done.output
    frame = read_records(tmp_path).set_index("column")
    assert frame["status"].tolist() == ["ok", "ok"]
    assert frame.loc["processes", "value"] == 2
    assert frame["value"].notna().all()
    assert frame["peak_mebibytes"].isna().all(), "that of the first process would not be the job's"


@pytest.mark.parametrize("count", [1, 3])
def test_parts_are_shared_and_come_back_in_order(count: int) -> None:
    told: list[int] = []
    parts = [torch.full((2,), number) for number in range(5)]
    made, threads = together(squares, (parts,), count, lambda done, total, doing: told.append(total))
    assert [each.tolist() for each in made] == [[n * n, n * n] for n in range(5)]
    assert threads == torch.get_num_threads() == 1
    assert told == [-(-5 // count)]


def test_a_job_that_trains_nothing_generates_in_as_many(tmp_path: Path, only: pytest.MonkeyPatch) -> None:
    only.setattr(papers, "SOURCES", ("shared_training:DRAWS",))
    options = ("shared", "--scale", "quick", "--device", "cpu", "--out", str(tmp_path), "--num-processes", "2")
    done = gengauge("run", *options)
    assert done.exit_code == 0, done.output
    assert read_records(tmp_path).set_index("column").loc["processes", "value"] == 2
    assert "trains nothing that outlives its job" in gengauge("train", *options).output


def test_what_is_missing_in_one_of_several_processes_keeps_its_remedy() -> None:
    with pytest.raises(WeightsNotFound, match="no weights of a network here") as found:
        launch(weights_are_missing, (), 2, lambda done, total, doing: None)
    assert found.value.remedy == "gengauge doctor"
    assert "in weights_are_missing" in str(found.value.__cause__), "where it was raised"


def test_all_end_when_one_dies_and_its_error_is_told(tmp_path: Path, only: pytest.MonkeyPatch) -> None:
    only.setattr(papers, "SOURCES", ("shared_training:BAD",))
    options = ("--scale", "quick", "--device", "cpu", "--out", str(tmp_path), "--num-processes", "2")
    done = gengauge("train", "shared", *options)
    assert done.exit_code == cli.FAILED
    assert "train-dies seed 0: process 1 of 2 was ended by SIGKILL" in done.output
    assert "the same command goes on from what was saved" in done.output
    assert "train-refuses seed 0: a batch of 3 cannot be shared by 2 processes" in done.output
    assert "Traceback" not in done.output
    assert len(numbers(tmp_path / "training")) == 4
    assert gone(numbers(tmp_path / "training"))


def test_a_jobs_processes_end_with_it(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            raise KeyboardInterrupt  # the engine kills the job, not what the job has started

    with pytest.raises(KeyboardInterrupt):
        run_local(select(["shared_training:WAITING"], [], "quick", None, "cpu", None, 2), tmp_path, 1, interrupt)
    assert len(numbers(tmp_path / "training")) == 2
    assert gone(numbers(tmp_path / "training"))


def test_the_number_is_part_of_a_jobs_identity_where_there_is_a_training() -> None:
    def found(source: str, processes: int) -> list[tuple[int, str]]:
        return [(job.processes, job.digest) for job in select([source], [], "quick", 1, "cpu", None, processes)]

    assert found("shared_training:PAPER", 1) != found("shared_training:PAPER", 2)
    assert found("toy_paper:PAPER", 1) == found("toy_paper:PAPER", 2)
    assert {count for count, _ in found("toy_paper:PAPER", 2)} == {1}


def test_jobs_that_only_generate_are_the_same_by_any_number() -> None:
    one, two = (select(papers.SOURCES, ["sdedit"], "small", 1, "cpu", None, count) for count in (1, 2))
    assert [job.digest for job in one] == [job.digest for job in two]
    assert {job.experiment: job.processes for job in two} == {
        **dict.fromkeys(("church", "colours", "trade-off", "compositing"), 2),
        "projector": 1,
    }
    quick = select(papers.SOURCES, ["sdedit"], "quick", 1, "cpu", None, 2)
    assert {job.processes for job in quick} == {1}, "there the guides are one batch"


@pytest.mark.parametrize(("options", "parallel"), [("1", 6), ("2", 3), ("4", 1), ("16", 1), ("2 --jobs 5", 5)])
def test_jobs_of_several_processes_are_fewer_side_by_side(
    tmp_path: Path, only: pytest.MonkeyPatch, options: str, parallel: int
) -> None:
    asked: list[int] = []

    def run(jobs: object, out: object, parallel: int, *more: object) -> Counter[str]:
        asked.append(parallel)
        return Counter()

    only.setattr(runner, "run", run)
    only.setattr(machine, "available_cores", lambda: 6)
    gengauge("run", "shared", "--device", "cpu", "--out", str(tmp_path), "--num-processes", *options.split())
    gengauge("run", "shared", "--device", "cpu", "--out", str(tmp_path), "--jobs", "7")
    assert asked == [parallel, 7]


def test_what_cannot_be_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(64, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"--num-processes 2: torch finds 1 GPUs here"):
        check_room(2, "cuda")
    with pytest.raises(ValueError, match="add --device cpu"):
        check_room(2, "mps")
    with pytest.raises(ValueError, match="writes into a folder; `gengauge run --out URL`"):
        gengauge("train", "cut", "--out", "s3://bucket/run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a launcher has started this one"):
        check_room(2, "cpu")
