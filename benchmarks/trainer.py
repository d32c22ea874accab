"""The long trainings of a selection alone, in one process, in several, or in those that a launcher started."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gengauge.benchmarks.core.experiments import Context, Unavailable
from gengauge.benchmarks.core.experiments import Progress as Tell
from gengauge.benchmarks.jobs import Job
from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.training.launch import launch
from gengauge.benchmarks.worker import train_share


def train_rows(jobs: Sequence[Job], out: Path, console: Console) -> dict[str, Exception | None]:
    """Trains each job's experiment where `run` will find it; what went wrong by name, None for a job without training.

    One that goes wrong does not keep the others from their turn. A job's `processes` are started here; under a launcher
    every process calls this, and only the first shows progress.
    """
    wrong: dict[str, Exception | None] = {}
    first = os.environ.get("RANK", "0") == "0"
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal and first),
    ) as progress:
        for job in jobs:
            experiment, _ = job.declared()
            if experiment.train is None:
                wrong[str(job)] = None
                continue
            task = progress.add_task("", total=1)
            say = _Lines(console) if first else None
            if first:
                console.print(f"training {job} in {out / 'training'}", highlight=False, soft_wrap=True)

            def tell(done: int, total: int, doing: str, task: TaskID = task, say: _Lines | None = say) -> None:
                progress.update(task, completed=done, total=total, description=doing)
                if say is not None:
                    say(done, total, doing)

            try:
                if job.processes > 1:
                    launch(train_share, (job, out / "training"), job.processes, tell)
                else:
                    experiment.train(context_of(job, out / "training", tell))
            except (Unavailable, OSError, ValueError, RuntimeError) as error:
                if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                    raise  # the others wait for this process: the launcher must end them all
                wrong[str(job)] = error
    return wrong


class _Lines:
    """Progress where there is no terminal: a line a snapshot, and one a minute."""

    def __init__(self, console: Console) -> None:
        self.console, self.last = console, time.monotonic()

    def __call__(self, done: int, total: int, doing: str) -> None:
        now = time.monotonic()
        if not self.console.is_terminal and (doing.startswith("snapshot") or now - self.last > 60):
            self.last = now
            self.console.print(f"  {doing} ({done} of {total})", highlight=False, soft_wrap=True)


def context_of(job: Job, work: Path, tell: Tell, seed: int | None = None) -> Context:
    """What a job's experiment is given outside of a run, with the threads that it is declared with."""
    _, at = job.declared()
    exact_float32()
    torch.set_num_threads(at.threads)
    number = job.seed if seed is None else seed
    return Context(at.settings, number, job.scale, job.device, job.data, work, tell, job.digest)
