"""The loop: steps, logged losses, snapshots that are measured, states from which a killed training goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gengauge.benchmarks.machine import utc_now, versions
from gengauge.benchmarks.training.checkpoint import gather, load_newest, save, scatter, tidy
from gengauge.benchmarks.training.processes import Processes

Curve = list[dict[str, float]]
Snapshot = Callable[[int], Mapping[str, float]]
Tell = Callable[[int, int, str], None]


class Trainable(Protocol):
    """What a method's training offers to the loop: networks, optimisers, other state, and one step."""

    iteration: int

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    def scalars(self) -> dict[str, Tensor]: ...

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        average: Callable[[Iterable[nn.Parameter]], None],
    ) -> dict[str, Tensor]: ...


class Source(Protocol):
    """Where batches come from: endless pairs (reals, labels) from an iteration on."""

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Schedule:
    """How long, in iterations, and how often: snapshots (also at 0 and at the end), states, lines of the log."""

    iterations: int
    snapshot_every: int
    save_every: int
    log_every: int = 100

    def snapshot_at(self, iteration: int) -> bool:
        return iteration % self.snapshot_every == 0 or iteration == self.iterations


@dataclass(frozen=True)
class Trained:
    """A finished training: the measured curve, the network of its best snapshot (by `metric`, lowest) and its last.

    `seconds` of work, those of processes that were killed included as far as their states go.
    """

    curve: Curve
    best: dict[str, Tensor] = field(repr=False)
    last: dict[str, Tensor] = field(repr=False)
    about: dict[str, Any] = field(repr=False)
    seconds: float = 0.0


class Diverged(ValueError):
    """A loss that is no finite number."""


def history(about: Mapping[str, Any], code: str) -> str:
    """What a reader must know of a training that `code` alone, in one process, did not do; "" for nothing.

    `about` is that of `Trained`.
    """
    processes, trained_by = about["processes"], about["code"]
    told = [f"trained by {processes} processes"] if processes > 1 else []
    if trained_by != [code]:
        told.append(f"trained by code {', '.join(trained_by)}")
    return "; ".join(told)


def train(
    build: Callable[[], Trainable],
    batches: Source,
    folder: Path,
    schedule: Schedule,
    config: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    snapshot: Callable[[Trainable], Snapshot] | None = None,
    all_measure: bool = False,
    metric: str = "fid",
    keep: str = "G_ema",
    processes: Processes | None = None,
    tell: Tell = lambda done, total, doing: None,
    code: str = "",
) -> Trained:
    """Trains to the end of the schedule, from the newest state in `folder` where there is one.

    Randomness is a generator seeded anew for each iteration and process, so that a training that was killed has the
    losses of one that was not. `snapshot` measures the networks at an iteration, in the main process, or with
    `all_measure` in all of them together; the main one's values make the curve, and the network `keep` of the snapshot
    with the lowest `metric` is kept beside the last. Losses are in `folder/log.jsonl`.

    Rows of several tables may share a training: a process that finds another at work in the folder waits for it.

    Raises ValueError where the folder holds a training of another configuration or a longer one, OSError where nothing
    can be written, Diverged (a ValueError) for a loss that is not finite.
    """
    group = processes or Processes()
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(config, default=str))
    with _turn(folder, group, lambda doing: tell(0, schedule.iterations, doing)):
        torch.manual_seed(seed)  # networks are built from the global generator, alike in all processes
        training = build()
        measure = snapshot(training) if snapshot is not None and (group.main or all_measure) else None
        curve: Curve = []
        best: dict[str, Tensor] = {}
        started, spent = time.monotonic(), 0.0
        if group.main:
            tidy(folder)
        group.wait()
        state = load_newest(folder)
        group.wait()  # all look before the first writes
        about: dict[str, Any] = {
            "config": config,
            "versions": versions(),
            "begun": utc_now(),
            "processes": group.count,
            "threads": torch.get_num_threads(),
            "code": [code],
        }
        if state is not None:
            _check_continues(state.about, config, schedule, group, folder)
            scatter(state.tensors, training.networks, training.optimisers, training.scalars())
            training.iteration, curve = state.about["iteration"], state.about["curve"]
            best = {k.removeprefix("best."): v for k, v in state.tensors.items() if k.startswith("best.")}
            about = {key: state.about[key] for key in about}
            spent = state.about["seconds"]
            if training.iteration < schedule.iterations:
                about["code"] = list(dict.fromkeys([*about["code"], code]))
        log = _Log(folder / "log.jsonl", training.iteration, group.main)
        generator = torch.Generator(device)
        source = batches.start(training.iteration, device)
        total = schedule.iterations

        def mark() -> None:
            """Measures a snapshot where one is due, and saves."""
            nonlocal best
            here = training.iteration
            if group.main:
                check_finite(here, losses)  # a state that went wrong must not be gone on from
            if (
                measure is not None
                and schedule.snapshot_at(here)
                and all(point["iteration"] != here for point in curve)
            ):
                tell(here, total, f"snapshot at iteration {here}")
                point = {"iteration": float(here), **measure(here)}
                earlier = [p[metric] for p in curve if metric in p and math.isfinite(p[metric])]
                curve.append(point)
                if point.get(metric, math.nan) < min(earlier, default=math.inf):
                    best = {k: v.detach().cpu().clone() for k, v in training.networks[keep].state_dict().items()}
            if group.main:
                tensors = gather(training.networks, training.optimisers, training.scalars())
                content = {**about, "curve": curve, "seconds": spent + time.monotonic() - started}
                save(folder, here, {**tensors, **{f"best.{k}": v for k, v in best.items()}}, content)
            group.wait()

        losses: dict[str, Tensor] = {}
        if state is None:
            mark()
        while training.iteration < total:
            generator.manual_seed(step_seed(seed, group.index, training.iteration))
            losses = training.step(*next(source), generator, average=group.average)
            group.average_tensors(list(training.scalars().values()))
            here = training.iteration
            if here % schedule.log_every == 0 or here == total:
                log.write(here, group.mean_of(losses))
                tell(here, total, f"iteration {here}")
            if schedule.snapshot_at(here) or here % schedule.save_every == 0:
                mark()
        source.close()  # type: ignore[attr-defined]
        last = {k: v.detach().cpu() for k, v in training.networks[keep].state_dict().items()}
        return Trained(curve, best or last, last, about, spent + time.monotonic() - started)


def _check_continues(
    about: Mapping[str, Any], config: Mapping[str, Any], schedule: Schedule, group: Processes, folder: Path
) -> None:
    """Raises ValueError where a state is of another training, a longer one, or one by another number of processes."""
    if about["config"] != config:
        raise ValueError(f"{folder} holds a training of another configuration; choose another folder")
    if about["iteration"] > schedule.iterations:
        raise ValueError(f"{folder} holds {about['iteration']} iterations, more than {schedule.iterations}")
    if about["iteration"] < schedule.iterations and about["processes"] != group.count:
        raise ValueError(
            f"{folder} was begun by {about['processes']} processes, whose batch norms see their share of a batch; "
            f"go on with as many, not {group.count}"
        )


@contextmanager
def _turn(folder: Path, group: Processes, tell: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other training is at work in the folder; until the first process has it, none reads a state."""
    lock = FileLock(folder / ".lock")
    if group.main:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"waiting for another process that trains in {folder}")
            lock.acquire()
    try:
        group.wait()
        yield
    finally:
        lock.release()


def step_seed(seed: int, process: int, iteration: int) -> int:
    """The generator's seed of one step of one process: 63 bits mixed from the three numbers."""
    return int(np.random.SeedSequence((seed, process, iteration)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_finite(iteration: int, losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses as numbers. Raises Diverged where one is not finite."""
    values = {name: float(value) for name, value in losses.items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise Diverged(f"the training diverged: {bad[0]} is {values[bad[0]]} at iteration {iteration}")
    return values


class _Log:
    """Losses as JSON lines; of a training that resumes, lines after its state are dropped."""

    def __init__(self, path: Path, iteration: int, main: bool) -> None:
        self.path, self.main = path, main
        if main and path.exists():
            kept = [line for line in path.read_text().splitlines() if _iteration(line) <= iteration]
            hidden = path.with_suffix(".tmp")
            hidden.write_text("".join(f"{line}\n" for line in kept))
            hidden.replace(path)

    def write(self, iteration: int, losses: Mapping[str, Tensor]) -> None:
        values = check_finite(iteration, losses)
        if self.main:
            with self.path.open("a") as stream:
                stream.write(json.dumps({"iteration": iteration, **values}) + "\n")


def _iteration(line: str) -> float:
    """The iteration of a line, infinite for one that a kill cut short."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def read_log(folder: Path) -> list[dict[str, float]]:
    """The logged losses of a training, in order."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
