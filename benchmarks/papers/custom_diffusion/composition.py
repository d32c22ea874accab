"""Two personal concepts of the embedded world in one picture: tokens side by side, trained together, and merged."""

from __future__ import annotations

from collections.abc import Iterator

from gengauge.benchmarks.core.experiments import Context, Experiment, Picture, Result
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.papers.custom_diffusion.comparison import (
    LIVE,
    MANY,
    PROTOCOL,
    SHOWN,
    Settings,
    at_scale,
    close,
)
from gengauge.benchmarks.papers.custom_diffusion.lessons import Source, Together, learnt
from gengauge.benchmarks.papers.custom_diffusion.world import COLUMNS, Model, measurements, prompts
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo.concept_deltas import JOINT as JOINT_RECIPE
from gengauge.benchmarks.zoo.concept_deltas import Lesson, inversion
from gengauge.benchmarks.zoo.personal_concepts import CAT, DOG

BOTH = (CAT, DOG)
BASE, INVERSION = Row("Base, asked for any cat and dog"), Row("Textual Inversion")
JOINT, MERGED = Row("Custom Diffusion (joint)"), Row("Custom Diffusion (optimization)")
SOURCES: tuple[tuple[Row, Source | None], ...] = (
    (BASE, None),
    (INVERSION, Together((inversion(CAT), inversion(DOG)))),
    (JOINT, Lesson(BOTH, JOINT_RECIPE)),
    (MERGED, Together((LIVE, Lesson((DOG,))), merged=True)),
)


def compare(context: Context) -> Iterator[Result]:
    """Alignment of samples that show both concepts, the cat on the left."""
    s: Settings = context.settings
    model, asked = Model(context.device), prompts(s.sampling.prompts, context.seed, len(BOTH))
    for row, source in s.sources:
        delta = None if source is None else learnt(context, source, model)
        context.progress(0, 1, f"samples of {row}")
        names = [each.species if delta is None else each.phrase for each in BOTH]
        made = model.sampled([each.filled(names) for each in asked], delta, s.sampling, context.seed)
        yield from measurements(row.key, model.alignment(asked, made, BOTH, context.seed), len(made))
        if context.seed == 0:
            told = "; ".join(each.filled(names) for each in asked[:SHOWN])
            yield Picture(row.key, "samples", grid(made[:SHOWN].numpy(), SHOWN // 2, 2), f"{row}: {told}")


TABLE = Table(
    "world-pair",
    "A cat and a dog of the embedded world, each with a look of its own, in one picture (own)",
    COLUMNS,
    tuple(row for row, _ in SOURCES),
    (),
)
EXPERIMENTS = (
    Experiment(
        key="world-pair",
        table="world-pair",
        rows=tuple(row.key for row in TABLE.rows),
        columns=COLUMNS,
        scales={"small": at_scale(Settings(SOURCES, MANY))},
        run=compare,
        protocol=PROTOCOL,
    ),
)
CLAIMS = close("merge", "Merging comes close to joint training in {}", "world-pair", MERGED, JOINT)
