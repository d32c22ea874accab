"""The local engine: runs jobs side by side, each in a process of its own, under limits of time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from gengauge.benchmarks.core.experiments import Limits
from gengauge.benchmarks.core.records import Status
from gengauge.benchmarks.core.store import write_part
from gengauge.benchmarks.jobs import Job
from gengauge.benchmarks.machine import utc_now
from gengauge.benchmarks.worker import last_lines, make_records, work

# torch._dynamo is what the first optimiser of a process imports, in a second or more.
PRELOAD = ["torch", "torch._dynamo", "pyarrow.parquet", "gengauge.benchmarks.worker"]
# Keeps freed memory in the process: page faults would otherwise be a large and erratic part of every time.
TIMING_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
# torch is told its threads by the worker; numpy's and scipy's libraries take theirs from the environment.
THREADS_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0  # for a process to end after its last message


@dataclass(frozen=True)
class Event:
    """What the engine tells while it runs: a job started, came to `done` of `total`, or ended with a status."""

    kind: Literal["start", "progress", "end"]
    job: Job
    done: int = 0
    total: int = 0
    doing: str = ""
    status: Status = "ok"
    reason: str = ""
    seconds: float = 0.0
    died: bool = False  # at the end: by itself, without a result and before any limit


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    pipe: Connection
    limits: Limits
    utc: str
    started: float = field(default_factory=time.perf_counter)
    final: tuple[Status, str] | None = None
    final_at: float = 0.0
    peak: float = 0.0  # GiB seen

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


def run_local(jobs: Sequence[Job], out: Path, parallel: int, tell: Callable[[Event], None]) -> None:
    """Runs every job, at most `parallel` at a time and timed ones alone, and tells what happens.

    Each job's records lie in `out/records` when its end is told; a job that died or was stopped at a limit gets
    records with that status from here. Interrupted (Ctrl-C), it stops the running jobs and raises KeyboardInterrupt.
    """
    forked = multiprocessing.get_context("forkserver")
    # With the papers' modules, which bring most of the imports; and a file edited during a run does no harm.
    papers = {job.source.partition(":")[0]: job.paper.preload for job in jobs}
    forked.set_forkserver_preload([*PRELOAD, *papers, *(each for heavy in papers.values() for each in heavy)])
    waiting = sorted(jobs, key=lambda job: job.declared()[0].timed)  # stable: the timed ones come last
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < parallel and _may_join(waiting[0], running):
                with _uninterrupted():  # a job that has begun but is not noted down would outlive an interrupt
                    running.append(_start(waiting.pop(0), out))
                tell(Event("start", running[-1].job))
            wait([r.process.sentinel for r in running] + [r.pipe for r in running if not r.pipe.closed], POLL_SECONDS)
            for r in list(running):
                for done, total, doing in _messages(r):
                    tell(Event("progress", r.job, done, total, doing))
                over = _over_limit(r)
                lingers = r.final is not None and time.perf_counter() > r.final_at + GRACE_SECONDS
                if over or lingers or not r.process.is_alive():
                    running.remove(r)
                    status, reason = _finish(r, out, over)
                    died = r.final is None and over is None
                    tell(Event("end", r.job, status=status, reason=reason, seconds=r.seconds, died=died))
    finally:
        for r in running:
            _stop(r.process)


def _may_join(job: Job, running: Sequence[_Running]) -> bool:
    alone = job.declared()[0].timed or any(r.job.declared()[0].timed for r in running)
    return not (alone and running)


def _start(job: Job, out: Path) -> _Running:
    experiment, at = job.declared()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    method = "spawn" if experiment.timed else "forkserver"
    start: Any = multiprocessing.get_context(method)
    process: BaseProcess = start.Process(target=work, args=(job, out, theirs), name=str(job))
    with _environment({**THREADS_ENVIRONMENT, **(TIMING_ENVIRONMENT if experiment.timed else {})}):
        process.start()
    theirs.close()
    return _Running(job, process, ours, at.limits, utc_now())


def _messages(r: _Running) -> Iterator[tuple[int, int, str]]:
    try:
        while not r.pipe.closed and r.pipe.poll():
            message = r.pipe.recv()
            if len(message) == 2:
                r.final, r.final_at = message, time.perf_counter()
            else:
                yield message
    except EOFError:
        r.pipe.close()


def _over_limit(r: _Running) -> tuple[Status, str] | None:
    if r.final is not None:
        return None
    if r.seconds > r.limits.seconds:
        return "timeout", f"stopped after {r.seconds:.0f} s; its limit is {r.limits.seconds:g} s"
    try:
        process = psutil.Process(r.process.pid)
        several = process.children(recursive=True) if r.job.processes > 1 else []  # a limit is each one's
        resident = max(each.memory_info().rss for each in (process, *several)) / 2**30
    except psutil.Error:  # one has just ended
        return None
    r.peak = max(r.peak, resident)
    if resident > r.limits.gibibytes:
        return "memory", f"stopped at {resident:.2f} GiB; its limit is {r.limits.gibibytes:g} GiB"
    return None


def _finish(r: _Running, out: Path, over: tuple[Status, str] | None) -> tuple[Status, str]:
    if r.process.is_alive():
        _stop(r.process)
    r.process.join()
    for _ in _messages(r):
        pass  # the last words of a process that has just ended: only `final` still matters
    r.pipe.close()
    if r.final is not None:
        return r.final
    status, reason = over or ("failed", _how_it_died(r.process.exitcode))
    log = last_lines(out / "logs" / f"{r.job.digest}.log")
    reason = f"{reason}\n{log}".strip()
    records = make_records(r.job, status, reason, [], r.seconds, r.peak * 1024, r.utc)
    write_part(out / "records", f"{r.job.digest}-{r.utc.replace(':', '')}", records)
    return status, reason


def _how_it_died(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = "; the system may have been out of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {exitcode} and no result"


def _stop(process: BaseProcess) -> None:
    process.kill()
    process.join()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect at the end. To block the signal would not do: another thread may take it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where Python handles no signal
        return
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if interrupts:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
