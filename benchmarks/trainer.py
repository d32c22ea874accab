"""The long trainings of a selection alone, in one process or in the several that a launcher started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gengauge.benchmarks.core.experiments import Context
from gengauge.benchmarks.jobs import Job


def train_rows(jobs: Sequence[Job], out: Path, console: Console) -> list[str]:
    """Trains each job's experiment where `run` will find it, and returns the names of those that train nothing.

    Under a launcher every process calls this; only the first shows progress. Raises what the trainings raise.
    """
    idle = []
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
            experiment, at = job.declared()
            if experiment.train is None:
                idle.append(str(job))
                continue
            torch.set_num_threads(at.threads)
            task = progress.add_task(str(job), total=1)

            def tell(done: int, total: int, doing: str, task: int = task, job: Job = job) -> None:
                progress.update(task, completed=done, total=total, description=f"{job}: {doing}")  # type: ignore[arg-type]

            context = Context(at.settings, job.seed, job.scale, job.device, job.data, out / "training", tell)
            experiment.train(context)
    return idle
