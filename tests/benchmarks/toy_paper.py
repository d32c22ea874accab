"""A paper for the tests of the harness: experiments that work, fail, hang, grow, or lack something."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Paper,
    Picture,
    Result,
    Unavailable,
)
from gengauge.benchmarks.core.openings import Contract, Opening, Own
from gengauge.benchmarks.core.tables import Column, PublishedNumber, tables_of
from gengauge.datasets.weights import WeightsNotFound

SOURCE = "toy_paper:PAPER"
COLUMN = Column("score", "A score", "1", "lower")


@dataclass(frozen=True)
class Settings:
    seconds: float = 0.0


def good(context: Context) -> Iterator[Result]:
    for step in (1, 2):
        context.progress(step, 2, "working")
        yield Measurement("plain", "score", step / 2 + context.seed, step=step)
        time.sleep(context.settings.seconds)
    yield Measurement("plain", "score", 10.0 + context.seed, 9.0, 11.0, "made up", samples=5)
    yield Picture("plain", "square", np.full((4, 4, 3), 200, np.uint8), "a grey square")


def better(context: Context) -> Iterator[Result]:
    yield Measurement("better", "score", 5.0 + context.seed * 1.1)


def fails(context: Context) -> Iterator[Result]:
    print("what the log says last")
    raise RuntimeError("the toy broke")
    yield


def not_a_number(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "score", float("nan"))


def hangs(context: Context) -> Iterator[Result]:
    time.sleep(60)
    yield Measurement("plain", "score", 1.0)


def grows(context: Context) -> Iterator[Result]:
    held = [np.ones(2**24) for _ in range(16)]  # 2 GiB
    time.sleep(60)
    yield Measurement("plain", "score", float(len(held)))


def dies(context: Context) -> Iterator[Result]:
    os.kill(os.getpid(), signal.SIGSEGV)
    yield Measurement("plain", "score", 1.0)


def lacks(context: Context) -> Iterator[Result]:
    raise Unavailable("no moon is up", "wait for the night")
    yield


def lacks_weights(context: Context) -> Iterator[Result]:
    raise WeightsNotFound("no weights anywhere", "pip install them")
    yield


def surroundings(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "score", float(len(os.environ.get("MALLOC_TOP_PAD_", ""))))


def undeclared(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "other", 1.0)


def half_way(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "score", 4.0)
    raise RuntimeError("half way")


def nothing(context: Context) -> Iterator[Result]:
    yield from ()


def cannot_tell(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "score", float("nan"), missing="no way to tell here")


def lingers(context: Context) -> Iterator[Result]:
    yield Measurement("plain", "score", 3.0)
    threading.Thread(target=time.sleep, args=(60,)).start()


class Scorer(Protocol):
    """Something that gives scores."""

    name: str = "my-method"

    def score(self, seed: int, bonus: float) -> float:
        """A score of a seed."""
        return seed + bonus

    def learn(self, count: int) -> None:
        """May be left out."""


def own(context: Context, method: Own) -> Iterator[Result]:
    for number, row in enumerate(method.rows):
        for step in (1, 2):
            yield Measurement(row, "score", step / 2, step=step)
        yield Measurement(row, "score", float(method.method.score(context.seed, 100.0 + number)), note="measured")
    yield Picture(method.row, "square", np.full((4, 4, 3), 100, np.uint8), "a dark square")


def experiment(
    run: Callable[[Context], Iterator[Result]],
    row: str = "plain",
    seeds: int = 1,
    limits: Limits = Limits(60, 4),  # noqa: B008 - frozen
    settings: Settings = Settings(),
    timed: bool = False,
) -> Experiment:
    scale = AtScale(settings, seeds, limits)
    return Experiment(run.__name__, "toys", (row,), (COLUMN,), {"quick": scale}, run, timed=timed)


def _number(method: str, text: str) -> PublishedNumber:
    return PublishedNumber(
        "toys", "Table 1: toys", method, "", "score", "A score", "1", "lower", text, "", "", "result", "nowhere", "read"
    )


def paper(*experiments: Experiment) -> Paper:
    claim = Claim(
        "lower",
        "Better is lower.",
        "toys",
        {"plain": Cell("plain", "score"), "better": Cell("better", "score")},
        lambda v: v["plain"] - v["better"],
    )
    tables = tables_of([_number("Plain", "10.5"), _number("Better", "5.25"), _number("Elsewhere", "7")])
    about = {"quick": "Toys & nothing else."}
    return Paper("toy", "Toy", "A Paper of <Toys>", "TOYS 1999", tables, experiments, (claim,), about)


PAPER = paper(experiment(good, seeds=3), experiment(better, "better", seeds=3))
OPEN = replace(
    PAPER,
    contract=Contract(Scorer, required=("score",)),
    openings=(Opening("good", own),),
    closed={"toys/better": "it is better already"},
)
SEVERAL = replace(OPEN, openings=(Opening("good", own, ("10pct", "20pct")),))
SLOW = paper(*[experiment(good, seeds=6, settings=Settings(0.4))])
BAD = paper(
    experiment(good),
    experiment(fails),
    experiment(not_a_number),
    experiment(hangs, limits=Limits(2, 4)),
    experiment(grows, limits=Limits(60, 1.5)),
    experiment(dies),
    experiment(lacks),
    experiment(lacks_weights),
    experiment(undeclared),
)
ODD = paper(experiment(half_way), experiment(nothing), experiment(cannot_tell), experiment(lingers))
UNAVAILABLE = paper(experiment(good), experiment(lacks))
TIMED = paper(experiment(good), experiment(surroundings, timed=True))

BARE = Paper("bare", "Bare", "Published numbers and nothing to run", "nowhere", PAPER.tables)
