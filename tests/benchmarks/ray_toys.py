"""A paper for the tests of the Ray engine: jobs whose worker is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
from toy_paper import experiment, paper

from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Result


def ray_worker(pid: int) -> psutil.Process:
    """The worker of Ray under which a job's process runs."""
    return next(each for each in psutil.Process(pid).parents() if each.name().startswith("ray::"))


def waits_at_first(context: Context) -> Iterator[Result]:
    """Waits to be killed; at the second attempt it goes through."""
    first = not list(context.work.glob("*.pid"))
    (context.work / f"{os.getpid()}.pid").touch()
    context.progress(1, 2, "working")
    if first:
        time.sleep(60)
    yield Measurement("plain", "score", 7.0)


def kills_its_worker(context: Context) -> Iterator[Result]:
    (context.work / f"{os.getpid()}.pid").touch()
    ray_worker(os.getpid()).kill()
    time.sleep(60)
    yield Measurement("plain", "score", 1.0)


def quick(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "score", 2.0)


def _named(found: Experiment, key: str) -> Experiment:
    return replace(found, key=key)


KILLED = paper(experiment(waits_at_first), experiment(quick, seeds=2))
DEADLY = paper(experiment(kills_its_worker), experiment(quick, seeds=2))
