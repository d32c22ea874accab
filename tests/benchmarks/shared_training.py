"""A paper for the tests of several processes: GAN Warping's own training at a tiny size, and some that go wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Paper,
    Progress,
    Result,
)
from gengauge.benchmarks.core.tables import Column, PublishedNumber, tables_of
from gengauge.benchmarks.training.launch import together
from gengauge.benchmarks.training.processes import join
from gengauge.benchmarks.training.warping import train_edit
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.gan_warping.training import Recipe
from gengauge.reference.gan_warping.warps import normalised_grid, pixel_grid, with_corners
from gengauge.reference.nets.stylegan2.generator import Generator

SIDE, PICTURES = 16, 6
COLUMNS = (Column("l1", "The last loss", "1", "lower"), Column("processes", "Processes that trained", "1", "lower"))


# Nothing random but the start: what several processes learn is what one does.
RECIPE = Recipe(layers="2", rank=2, stylemix=None, l1=1.0, lpips=0.0, batch=4, iterations=5, lr=0.05, rates="constant")


@dataclass(frozen=True)
class Settings:
    recipe: Recipe = RECIPE


def train(context: Context) -> dict[str, float]:
    """A generator's layer learns a warp; the number of processes and the last loss."""
    recipe: Recipe = context.settings.recipe
    processes, device = join(context.device)
    torch.manual_seed(context.seed)
    width = {"channel_base": 128, "channel_max": 8, "use_noise": False}
    g = Generator(8, 0, 8, SIDE, mapping_kwargs={"num_layers": 1}, synthesis_kwargs=width).eval().requires_grad_(False)
    ws = g.mapping(torch.randn(PICTURES, 8), None)
    to_the_right = with_corners(torch.tensor([[7.0, 7, 10, 7]]), (SIDE, SIDE))
    grid = normalised_grid(pixel_grid(to_the_right, (SIDE, SIDE)))
    _, trained = train_edit(
        recipe,
        g,
        ws,
        grid.expand(PICTURES, -1, -1, -1),
        context.work / "edit",
        {},
        seed=context.seed,
        device=device,
        every=2,
        processes=processes,
        tell=context.progress,
    )
    return {"processes": float(trained.about["processes"])}


def fill(context: Context) -> Iterator[Result]:
    about = train(context)
    yield Measurement("edit", "l1", 0.0)
    yield Measurement("edit", "processes", about["processes"])


def squares(parts: list[Tensor], tell: Progress) -> tuple[list[Tensor], int]:
    """The squares of parts, shared out, and the threads of a process after it has joined the others."""
    processes, _ = join("cpu")
    mine = processes.share(parts)
    tell(0, len(mine), "squares")
    return processes.gathered([part * part for part in mine]), torch.get_num_threads()


def count_processes(context: Context) -> Iterator[Result]:
    """How many processes a job that trains nothing is given, by those that come when they are asked for."""
    parts = [torch.zeros(1)] * 4
    told: list[int] = []
    together(squares, (parts,), context.processes, lambda done, total, doing: told.append(total))
    yield Measurement("drawing", "l1", 0.0)
    yield Measurement("drawing", "processes", len(parts) / told[0])


def weights_are_missing(tell: Progress) -> None:
    raise WeightsNotFound("no weights of a network here", "gengauge doctor")


def leave_number(context: Context) -> bool:
    """Joins the others and leaves this process's number; whether it is the first."""
    processes, _ = join(context.device)
    context.work.mkdir(parents=True, exist_ok=True)
    (context.work / f"{os.getpid()}.pid").touch()
    processes.wait()
    return processes.main


def one_dies(context: Context) -> object:
    """The second process is killed while the first waits for it."""
    if not leave_number(context):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return None


def one_refuses(context: Context) -> object:
    if not leave_number(context):
        raise ValueError("a batch of 3 cannot be shared by 2 processes")
    time.sleep(60)
    return None


def all_wait(context: Context) -> object:
    leave_number(context)
    context.progress(1, 2, "waiting")
    time.sleep(60)
    return None


def experiment(row: str, train: object) -> Experiment:
    scales = {"quick": AtScale(Settings(), 1, Limits(120, 4))}
    return Experiment(f"train-{row}", "shared", (row,), COLUMNS, scales, fill, train=train)  # type: ignore[arg-type]


def drawing() -> Experiment:
    scales = {"quick": AtScale(Settings(), 1, Limits(120, 4))}
    return Experiment("draw", "shared", ("drawing",), COLUMNS, scales, count_processes, generates=("quick",))


def _number(row: str) -> PublishedNumber:
    return PublishedNumber(
        "shared",
        "Table 1: edits",
        row,
        "",
        "l1",
        "The last loss",
        "1",
        "lower",
        "",
        "",
        "",
        "result",
        "nowhere",
        "read",
    )


def paper(*experiments: Experiment) -> Paper:
    tables = tables_of([_number(e.rows[0]) for e in experiments])
    return Paper("shared", "Shared", "Trainings by several processes", "TOYS 1999", tables, experiments)


PAPER = paper(experiment("edit", train))
DRAWS = paper(drawing())
BAD = paper(experiment("dies", one_dies), experiment("refuses", one_refuses))
WAITING = paper(experiment("waits", all_wait))
