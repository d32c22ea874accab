"""A short training that anyone can watch: a similarity from nothing, and the PCK of what it has learnt so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Measurement, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.metrics.pck import pck
from gengauge.benchmarks.papers.gangealing.comparison import PROTOCOL
from gengauge.benchmarks.papers.gangealing.evaluation import Protocol, transfer
from gengauge.benchmarks.papers.gangealing.trained import plan, train_from_zoo
from gengauge.benchmarks.papers.gangealing.world import ALPHAS, COLUMNS, Pairs
from gengauge.benchmarks.training.loop import Snapshot, Trainable, history
from gengauge.benchmarks.zoo import aligners
from gengauge.reference.gangealing.training import Recipe, Transformer

START = Column("pck_20_start", "PCK at 0.2 before the first iteration, where points stay in place", "%", "none")


@dataclass(frozen=True)
class Settings:
    """The training, how often in iterations it is scored, and on which pairs."""

    recipe: Recipe
    pairs: Pairs
    protocol: Protocol
    every: int = 100


LIVE = Row("GANgealing, similarity, trained here")


def live(context: Context) -> Iterator[Result]:
    """Trains a similarity for a few iterations, scored at snapshots."""
    s: Settings = context.settings
    drawn = s.pairs.drawn(0)  # the same for all seeds, which are of the training

    def scores(training: Trainable) -> dict[str, float]:
        network = cast(Transformer, training.networks["T_ema"])
        found = transfer(network, drawn.batches(), s.protocol)
        return dict(zip(ALPHAS, pck(drawn.hits(found.estimated_b)).tolist(), strict=True))

    def snapshot(training: Trainable) -> Snapshot:
        return lambda iteration: scores(training)

    found = train_from_zoo(context, s.recipe, s.every, snapshot)
    for point in found.curve:
        for column in ALPHAS:
            yield Measurement(LIVE.key, column, point[column], step=int(point["iteration"]), samples=s.pairs.count)
    told = history(found.about, code_version())
    for column in ALPHAS:
        yield Measurement(LIVE.key, column, found.curve[-1][column], samples=s.pairs.count, note=told)
    yield Measurement(LIVE.key, START.key, found.curve[0]["pck_20"], samples=s.pairs.count, note=told)


MINE = (*COLUMNS[: len(ALPHAS)], START)
TABLE = Table("learning", "A short training of a similarity on the embedded world (own)", MINE, (LIVE,), ())
EXPERIMENT = Experiment(
    key="learning",
    table="learning",
    rows=(LIVE.key,),
    columns=MINE,
    scales={
        "quick": AtScale(
            Settings(aligners.SHORT, Pairs(100), Protocol(iters=3, flips=False)),
            2,
            Limits(1800, 6),
            1,
            plan(aligners.SHORT),
        )
    },
    run=live,
    protocol=(
        *(line for line in PROTOCOL if line[0] != "training"),
        (
            "training",
            "batch 40, 1.3 million iterations, LPIPS-VGG, a similarity and a flow",
            f"batch {aligners.BATCH}, {aligners.SHORT.iterations} iterations, LPIPS-AlexNet, a similarity",
        ),
    ),
)
CLAIMS = (
    Claim(
        "learns",
        f"A training of {aligners.SHORT.iterations} iterations that sees no landmark transfers landmarks better than "
        "leaving them in place (PCK at 0.2; finer ones need longer).",
        "learning",
        {"end": Cell(LIVE.key, "pck_20"), "start": Cell(LIVE.key, START.key)},
        lambda v: v["end"] - v["start"],
        "%",
    ),
)
