"""The Ray engine on two nodes of this machine: the local engine's frame, workers that die, refusals, errors of use."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray_toys
from rich.console import Console
from typer.testing import CliRunner

from gengauge.benchmarks import cli, papers
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.engine import Event
from gengauge.benchmarks.engines import EngineName, opened
from gengauge.benchmarks.jobs import Job, select
from gengauge.benchmarks.machine import versions
from gengauge.benchmarks.mirror import NotSent
from gengauge.benchmarks.runner import run
from gengauge.benchmarks.terminal import DeviceName

HERE = Path(__file__).parent
VOLATILE = ["seconds", "peak_mebibytes", "time"]

ray_engine = pytest.importorskip("gengauge.benchmarks.ray_engine", reason="the extra `cluster` is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a connected cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH", "")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before]))  # the workers find the toys
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        with ray_engine.connected(nodes.address):
            yield nodes.address
    finally:
        nodes.shutdown()
        os.environ["PYTHONPATH"] = before


def jobs(paper: str) -> list[Job]:
    return select([paper], [], "quick", None, "cpu", None)


def run_on(chosen: list[Job], out: Path, ray: bool = True, retries: int = 2) -> tuple[dict[str, int], str]:
    text = io.StringIO()
    more = {"engine": partial(ray_engine.run_on_ray, retries=retries)} if ray else {}
    counts = run(chosen, out, 8, False, Console(file=text, width=200), **more)
    return dict(counts), text.getvalue()


def gone(folder: Path) -> bool:
    """Whether the processes that left their numbers in a folder end within seconds."""
    pids = [int(path.stem) for path in folder.glob("*.pid")]
    assert pids
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("paper", ["toy_paper:PAPER", "toy_paper:TIMED"])
def test_the_frame_is_that_of_the_local_engine(cluster: str, tmp_path: Path, paper: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    local = run_on(jobs(paper), here, ray=False)
    counts, said = run_on(jobs(paper), there)
    assert counts == local[0]
    assert said.count("ok in") == local[1].count("ok in") == counts["ok"]
    frames = [read_records(out).drop(columns=VOLATILE) for out in (here, there)]
    pd.testing.assert_frame_equal(*frames)
    pictures = [{p.relative_to(out): p.read_bytes() for p in out.rglob("*.png")} for out in (here, there)]
    assert pictures[0] == pictures[1]
    assert not list(there.rglob(".seen*")), "the mark for the nodes is removed"
    assert "2 of 2 jobs" in run_on(jobs(paper)[:2], there)[1], "finished jobs are not repeated"


def test_limits_failures_and_what_is_missing_are_records_as_they_are_here(cluster: str, tmp_path: Path) -> None:
    with pytest.warns(
        ray_engine.WorkerDied, match=r"dies seed 0: its process was ended by SIGSEGV; trying again, \d of 2"
    ):
        counts, _ = run_on(jobs("toy_paper:BAD"), tmp_path)
    assert counts == {"ok": 1, "failed": 4, "timeout": 1, "memory": 1, "unavailable": 2}
    frame = read_records(tmp_path).set_index("experiment")
    assert frame.loc["dies", "reason"].endswith("SIGSEGV; tried 3 times")
    assert "its limit is 2 s" in frame.loc["hangs", "reason"]
    assert "its limit is 1.5 GiB" in frame.loc["grows", "reason"]
    assert frame.loc["grows", "peak_mebibytes"] > 1000
    assert "the toy broke" in (tmp_path / "logs" / f"{frame.loc['fails', 'digest']}.log").read_text()


def test_a_job_whose_worker_is_killed_is_tried_again_and_the_others_go_on(cluster: str, tmp_path: Path) -> None:
    events: list[Event] = []
    killer = threading.Thread(target=kill_worker, args=(tmp_path / "training",))
    killer.start()
    with pytest.warns(ray_engine.WorkerDied, match="waits_at_first seed 0: its worker died.*1 of 2"):
        ray_engine.run_on_ray(jobs("ray_toys:KILLED"), tmp_path, 8, events.append)
    killer.join()
    ends = {str(e.job): e.status for e in events if e.kind == "end"}
    assert len(ends) == 3
    assert set(ends.values()) == {"ok"}
    again = [e.kind for e in events if e.job.experiment == "waits_at_first"]
    assert again[0] == "start"
    assert again.count("start") == again.count("end") == 1
    assert any(e.doing.startswith("again: its worker died") for e in events)
    frame = read_records(tmp_path, every_attempt=True)
    assert sorted(frame["value"]) == [2.0, 2.0, 7.0]
    assert len(list((tmp_path / "training").glob("*.pid"))) == 2, "it ran twice, in two processes"
    assert gone(tmp_path / "training")


def kill_worker(folder: Path) -> None:
    """Kills the worker of Ray whose job has left its number in a folder."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if pids := [int(path.stem) for path in folder.glob("*.pid")]:
            ray_toys.ray_worker(pids[0]).kill()
            return
        time.sleep(0.05)


def test_a_job_that_kills_every_worker_is_one_failed_record(cluster: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        counts, said = run_on(jobs("ray_toys:DEADLY"), tmp_path, retries=1)
    assert len([each for each in told if each.category is ray_engine.WorkerDied]) == 1
    assert counts == {"ok": 2, "failed": 1}
    assert "tried 2 times" in said
    frame = read_records(tmp_path, every_attempt=True)
    (failed,) = frame[frame["status"] == "failed"].to_dict("records")
    assert failed["experiment"] == "kills_its_worker"
    assert re.fullmatch(r"its worker died \(\w+\); tried 2 times", failed["reason"])
    assert failed["device"] == frame["device"].iloc[0]
    assert len(list((tmp_path / "training").glob("*.pid"))) == 2
    assert gone(tmp_path / "training")


def test_an_interrupt_ends_the_jobs_on_the_nodes(cluster: str, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ray_engine.run_on_ray(jobs("ray_toys:KILLED")[:1], tmp_path, 8, interrupt)
    assert gone(tmp_path / "training")
    assert not list(tmp_path.glob("records/*"))


def test_other_code_on_a_node_is_refused_and_both_versions_are_named(cluster: str, tmp_path: Path) -> None:
    (job, *_) = jobs("toy_paper:PAPER")
    counts, _ = run_on([replace(job, code="0.0.1+another")], tmp_path)
    assert counts == {"failed": 1}
    (reason,) = read_records(tmp_path)["reason"]
    assert f"has gengauge {job.code}, the run was started by 0.0.1+another; install the same gengauge" in reason


def test_the_command_runs_on_the_cluster_and_keeps_records_at_a_url(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "SOURCES", ("toy_paper:PAPER",))
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/there"
    command = ["run", "--engine", "ray", "--address", cluster, "--seeds", "1", "--out", url]
    done = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 jobs at scale quick on cpu of a Ray cluster of 2 nodes with 2 cores, as many as fit" in done.output
    assert read_records(tmp_path / "there")["value"].tolist() == [5.0, 10.0, 0.5, 1.0]
    assert len(list(tmp_path.glob("there/pictures/*/plain.square.png"))) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Without a cluster


def node(cores: float = 4, gpus: int = 0, gibibytes: float = 16) -> object:
    return ray_engine.Node("1", "n", cores, gpus, int(gibibytes * 2**30))


def test_a_job_needs_what_its_experiment_declares() -> None:
    (job, *_) = jobs("toy_paper:PAPER")
    assert ray_engine.needs(job, [node()]) == {"num_cpus": 1, "num_gpus": 0, "memory": 4 * 2**30}
    on_gpu = replace(job, device="cuda", processes=2)
    assert ray_engine.needs(on_gpu, [node(gpus=2)]) == {"num_cpus": 2, "num_gpus": 2, "memory": 8 * 2**30}
    # A node that is too small runs it alone, as this machine would.
    assert ray_engine.needs(on_gpu, [node(cores=1, gibibytes=2)])["memory"] == 2 * 2**30
    assert ray_engine.needs(job, [node()], node(cores=32)) == {"num_cpus": 32, "num_gpus": 0, "memory": 4 * 2**30}


def refusal(job: Job, tmp_path: Path, **more: object) -> str:
    run = ray_engine.Run(tmp_path, "mark", "", versions(), {}, ())
    (message,) = ray_engine.carry_out(job, replace(run, **more))
    return message.reason


def ending(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, well: bool = True) -> list[ray_engine.Message]:
    """What a node tells of a job that leaves a record and a state, where the URL takes no file."""

    def heard(job: Job, own: Path) -> Iterator[Event]:
        for name in ("records/a.parquet", "training/t/step-00000001/state"):
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).write_text("1")
        yield Event("end", job, status="ok")
        if not well:
            raise OSError("the disk is full")

    def cut(mirror: object, local: Path, name: str) -> None:
        raise ConnectionError("the line is cut")

    monkeypatch.setattr(ray_engine, "_heard", heard)
    monkeypatch.setattr(ray_engine, "_own_folder", lambda run: tmp_path / "lasting")
    monkeypatch.setattr(ray_engine.Mirror, "_put", cut)
    run = ray_engine.Run(tmp_path, "mark", f"file://{tmp_path}/there", versions(), {}, ())
    return list(ray_engine.carry_out(job, run))


def test_a_finished_job_whose_states_cannot_be_sent_keeps_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job, *_) = jobs("toy_paper:PAPER")
    *_, ended = ending(job, tmp_path, monkeypatch)
    with pytest.warns(NotSent, match=f"^{re.escape(str(job))}: file://.* cannot be written: .*the line is cut"):
        assert not ray_engine._heed(ray_engine._Task(job), ended, tmp_path / "out", lambda event: None, 2)
    assert (tmp_path / "out/records/a.parquet").read_text() == "1"


def test_an_oserror_of_the_job_itself_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(NotSent, match="the line is cut"), pytest.raises(OSError, match=r"^the disk is full$"):
        ending(jobs("toy_paper:PAPER")[0], tmp_path, monkeypatch, well=False)


@pytest.mark.parametrize(("error", "kind"), [(OSError("gone"), "_Died"), (ValueError("gone"), "Refused")])
def test_an_oserror_on_a_node_is_tried_again(error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: object) -> object:
        raise ray_engine.broken.RayTaskError("carry_out", "", error, pid=1, ip="127.0.0.1")

    monkeypatch.setattr(ray_engine.ray, "get", get)
    message = ray_engine._hear(iter([None]))
    assert type(message).__name__ == kind
    assert message.reason == f"a node could not run it: {type(error).__name__}: gone"


@pytest.mark.parametrize("name", ["../a", "records/../../a", "{folder}/a", ""])
def test_a_file_of_a_node_that_would_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (job, *_) = jobs("toy_paper:PAPER")
    name = name.format(folder=tmp_path)
    ended = ray_engine.Ended(Event("end", job, status="ok"), {"records/b": b"1", name: b"1"})
    with pytest.raises(ValueError, match=f"a node sent a file {re.escape(repr(name))}, whose place is not in"):
        ray_engine._heed(ray_engine._Task(job), ended, tmp_path / "out", lambda event: None, 2)
    assert not list(tmp_path.iterdir())


def test_other_libraries_and_other_data_are_refused(tmp_path: Path) -> None:
    (job, *_) = jobs("toy_paper:PAPER")
    theirs = {**versions(), "torch": "1.0"}
    assert re.search(r"has torch \S+ for 1.0 of the machine that started", refusal(job, tmp_path, versions=theirs))
    data = tmp_path / "data"
    elsewhere = replace(job, data=data, data_name="data (00000000)")
    assert f"has no {data}; put the data into a folder that all nodes see" in refusal(elsewhere, tmp_path)
    data.mkdir()
    (data / "a.png").write_bytes(b"1")
    assert "the run has data (00000000)" in refusal(elsewhere, tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers at 127\.0\.0\.1:1 .*`ray start --head`"),
        ("ray://head:10001", "run gengauge on a node of the cluster"),
        ("somewhere", "HOST:PORT, for instance"),
        ("host:port", "HOST:PORT, for instance"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_an_error_at_once(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ray_engine._check_answers(address)


def test_an_address_is_for_ray_and_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="--address is for --engine ray"),
        opened(EngineName.local, DeviceName.cpu, "10.0.0.1:6379"),
    ):
        pass
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "gengauge.benchmarks.ray_engine")
    monkeypatch.delattr("gengauge.benchmarks.ray_engine")
    with (
        pytest.raises(ValueError, match=re.escape('pip install "gengauge[cluster]"')),
        opened(EngineName.ray, DeviceName.cpu),
    ):
        pass


def test_ray_is_imported_only_where_it_is_asked_for() -> None:
    script = (
        "import sys, gengauge.benchmarks.cli, gengauge.benchmarks.runner, gengauge.benchmarks.engines as e\n"
        "with e.opened(e.EngineName.local, e.DeviceName.cpu): print('ray' in sys.modules, 'fsspec' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
