"""The long trainings of a selection alone, in one process or in the several that a launcher started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gengauge.benchmarks.core.experiments import Context, Unavailable
from gengauge.benchmarks.core.experiments import Progress as Tell
from gengauge.benchmarks.jobs import Job
from gengauge.benchmarks.machine import exact_float32


def train_rows(jobs: Sequence[Job], out: Path, console: Console) -> dict[str, Exception | None]:
    """Trains each job's experiment where `run` will find it; what went wrong by name, None for a job without training.

    One that goes wrong does not keep the others from their turn. Under a launcher every process calls this; only the
    first shows progress.
    """
    wrong: dict[str, Exception | None] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or os.environ.get("RANK", "0") != "0",
    ) as progress:
        for job in jobs:
            experiment, _ = job.declared()
            if experiment.train is None:
                wrong[str(job)] = None
                continue
            task = progress.add_task(str(job), total=1)

            def tell(done: int, total: int, doing: str, task: int = task, job: Job = job) -> None:
                progress.update(task, completed=done, total=total, description=f"{job}: {doing}")  # type: ignore[arg-type]

            try:
                experiment.train(context_of(job, out / "training", tell))
            except (Unavailable, OSError, ValueError, RuntimeError) as error:
                if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                    raise  # the others wait for this process: the launcher must end them all
                wrong[str(job)] = error
    return wrong


def context_of(job: Job, work: Path, tell: Tell, seed: int | None = None) -> Context:
    """What a job's experiment is given outside of a run, with the threads that it is declared with."""
    _, at = job.declared()
    exact_float32()
    torch.set_num_threads(at.threads)
    return Context(at.settings, job.seed if seed is None else seed, job.scale, job.device, job.data, work, tell)
