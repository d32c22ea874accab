"""Two personal concepts of the embedded world in one picture: tokens side by side, trained together, and merged."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Experiment
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.papers.custom_diffusion.comparison import (
    DOGS,
    LIVE,
    MANY,
    PROTOCOL,
    Settings,
    Sources,
    aligned,
    at_scale,
    close,
    near,
)
from gengauge.benchmarks.papers.custom_diffusion.lessons import Kept, Together
from gengauge.benchmarks.papers.custom_diffusion.world import COLUMNS
from gengauge.benchmarks.zoo.concept_deltas import JOINT as JOINT_RECIPE
from gengauge.benchmarks.zoo.concept_deltas import Lesson, inversion
from gengauge.benchmarks.zoo.personal_concepts import CAT, DOG

BOTH = (CAT, DOG)
BASE, INVERSION = Row("Base, asked for any cat and dog"), Row("Textual Inversion")
JOINT, MERGED = Row("Custom Diffusion (joint)"), Row("Custom Diffusion (optimization)")
TRAINED: Sources = (
    (BASE, None),
    (INVERSION, Together((inversion(CAT), inversion(DOG)))),
    (JOINT, Lesson(BOTH, JOINT_RECIPE)),
    (MERGED, Together((LIVE, DOGS), merged=True)),
)
KEPT: Sources = (
    (BASE, None),
    (INVERSION, Together((Kept("cat-tokens"), Kept("dog-tokens")))),
    (JOINT, Kept("both-kv")),
    (MERGED, Together((Kept("cat-kv"), Kept("dog-kv")), merged=True)),
)


TABLE = Table(
    "world-pair",
    "A cat and a dog of the embedded world, each with a look of its own, in one picture (own)",
    COLUMNS,
    tuple(row for row, _ in TRAINED),
    (),
)
EXPERIMENTS = (
    Experiment(
        key="world-pair",
        table="world-pair",
        rows=tuple(row.key for row in TABLE.rows),
        columns=COLUMNS,
        scales={
            "quick": at_scale(Settings(KEPT, concepts=BOTH)),
            "small": at_scale(Settings(TRAINED, MANY, BOTH)),
        },
        run=aligned,
        protocol=PROTOCOL,
    ),
)
CLAIMS = (
    near(
        "pair-learns",
        "Image alignment to both animals is higher with joint training than that of the base.",
        *("world-pair", JOINT, BASE, COLUMNS[1]),
    ),
    *close("merge", "Merging comes close to joint training in {}", "world-pair", MERGED, JOINT),
)
