"""A short training that anyone can watch: CUT from nothing, its label scores while it learns; and what bounds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Measurement, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.papers.cut.comparison import KID
from gengauge.benchmarks.papers.cut.methods import Method, plan
from gengauge.benchmarks.papers.cut.scoring import Distances, label_scores
from gengauge.benchmarks.papers.cut.sets import World
from gengauge.benchmarks.segmenters import segment
from gengauge.benchmarks.training.loop import Snapshot, Trainable, history
from gengauge.benchmarks.training.unpaired import train_unpaired
from gengauge.benchmarks.zoo import meadows, segmenter, translators

SCORED = ("miou", "pixel_acc", "class_acc")


@dataclass(frozen=True)
class Settings:
    """How long CUT trains, in iterations; how often and on how many test scenes it is scored meanwhile."""

    method: Method
    iterations: int = 300
    every: int = 100
    scenes: int = 64


LIVE = Row("CUT, trained here")
COLUMNS = (
    Column("miou", "mean IoU of the zoo's segmenter on translations", "%", "higher"),
    Column("pixel_acc", "pixel accuracy, likewise", "%", "higher"),
    Column("class_acc", "mean class accuracy, likewise", "%", "higher"),
    Column("miou_start", "mean IoU before the first iteration", "%", "none"),
)


def live(context: Context) -> Iterator[Result]:
    """Trains CUT for a few iterations, scored at snapshots."""
    s: Settings = context.settings
    data = s.method.data
    assert isinstance(data, World)
    labels = meadows.scenes(meadows.TEST_SEED, s.scenes, data.pictures.size)[1]
    sources = meadows.coloured(labels).float() / 127.5 - 1
    judge = segmenter.load()

    @torch.inference_mode()
    def scores(training: Trainable) -> dict[str, float]:
        g = training.networks["G"]
        made = torch.cat([to_uint8_truncated(g(part.to(context.device)).cpu()) for part in sources.split(8)])
        predictions = segment(judge, made, context.device)
        found = label_scores("", iter(predictions), list(labels.numpy()), meadows.CLASSES)
        return {one.column: one.value for one in found}

    def snapshot(training: Trainable) -> Snapshot:
        return lambda iteration: scores(training)

    found = train_unpaired(
        s.method.recipe,
        data.open(context, "train"),
        context.work / f"cut-live-seed{context.seed}",
        {"data": repr(data), "iterations": s.iterations, "scenes": s.scenes},
        seed=context.seed,
        device=context.device,
        iterations=s.iterations,
        every=s.every,
        snapshot=snapshot,
        tell=context.progress,
        code=code_version(),
    )
    for point in found.curve:
        for column in SCORED:
            yield Measurement(LIVE.key, column, point[column], step=int(point["iteration"]), samples=s.scenes)
    told = history(found.about, code_version())
    for column in SCORED:
        yield Measurement(LIVE.key, column, found.curve[-1][column], samples=s.scenes, note=told)
    yield Measurement(LIVE.key, "miou_start", found.curve[0]["miou"], samples=s.scenes, note=told)


# ----------------------------------------------------------------------------------------------------------------------
# What the scores lie between

REAL, UNTRANSLATED = Row("Real pictures of the test scenes"), Row("Label maps as they are")
BOUNDS = (*COLUMNS[:3], Column("fid", "FID against the target's test pictures", "1", "lower"), KID)


def bounds(context: Context) -> Iterator[Result]:
    """Label scores of the test scenes' own pictures and of their label maps; FID of other real pictures."""
    world: World = context.settings
    p = world.pictures
    folders = world.open(context, "test")
    judge = segmenter.load()
    distances = Distances.of(sorted(folders.b.path.iterdir()), load_network("inception"), context.device)
    pictures, labels = meadows.scenes(meadows.TEST_SEED, p.test, p.size)
    other = meadows.scenes(meadows.TEST_SEED, p.test, p.size, first=p.test)[0]
    coloured = meadows.coloured(labels)
    for row, scored, compared in ((REAL, pictures, other), (UNTRANSLATED, coloured, coloured)):
        predictions = segment(judge, scored, context.device)
        yield from label_scores(row.key, iter(predictions), list(labels.numpy()), meadows.CLASSES)
        for found in distances.measure(row.key, compared, ("fid", "kid")):
            yield found.noted("other scenes" if row is REAL else "")


METHOD = Method(translators.RECIPES["cut"], World(translators.SET))
TABLES = (
    Table("learning", "A short training of CUT on the embedded world (own)", COLUMNS, (LIVE,), ()),
    Table("bounds", "What the scores on the embedded world lie between (own)", BOUNDS, (REAL, UNTRANSLATED), ()),
)
EXPERIMENTS = (
    Experiment(
        key="learning",
        table="learning",
        rows=(LIVE.key,),
        columns=COLUMNS,
        scales={"quick": AtScale(Settings(METHOD), 2, Limits(1800, 6), 1, plan(METHOD))},
        run=live,
    ),
    Experiment(
        key="bounds",
        table="bounds",
        rows=(REAL.key, UNTRANSLATED.key),
        columns=BOUNDS,
        scales={"quick": AtScale(World(translators.SET), 1, Limits(1800, 6))},
        run=bounds,
    ),
)
CLAIMS = (
    Claim(
        "learns",
        "In a training of 300 iterations CUT's translations come to show the labels of their sources.",
        "learning",
        {"end": Cell(LIVE.key, "miou"), "start": Cell(LIVE.key, "miou_start")},
        lambda v: v["end"] - v["start"],
        "%",
    ),
)
