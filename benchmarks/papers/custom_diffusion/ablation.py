"""The personal cat of the embedded world once more, without parts of the method."""

from __future__ import annotations

from dataclasses import replace

from gengauge.benchmarks.core.experiments import Experiment
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.papers.custom_diffusion.comparison import (
    COMPARED,
    LIVE,
    MANY,
    METHOD,
    PROTOCOL,
    Settings,
    at_scale,
    compare,
    near,
)
from gengauge.benchmarks.papers.custom_diffusion.world import KID
from gengauge.benchmarks.zoo.concept_deltas import Lesson

WITHOUT_AUGMENTATION, WITHOUT_CLASS = Row("Custom Diffusion w/o Aug"), Row("Custom Diffusion w/o Reg")
GENERATED, ALL_OF_IT = Row("Custom Diffusion w/ Gen"), Row("Custom Diffusion, all of cross-attention")
LESSONS: dict[Row, Lesson] = {
    METHOD: LIVE,
    WITHOUT_AUGMENTATION: replace(LIVE, intake=replace(LIVE.intake, augment=False)),
    WITHOUT_CLASS: replace(LIVE, recipe=replace(LIVE.recipe, prior_weight=None)),
    GENERATED: replace(LIVE, generated=True),
    ALL_OF_IT: replace(LIVE, recipe=replace(LIVE.recipe, trained="crossattn")),
}
TABLE = Table(
    "world-ablation",
    "A cat of the embedded world with a look of its own, without parts of the method (own)",
    COMPARED,
    tuple(LESSONS),
    (),
)
EXPERIMENTS = tuple(
    Experiment(
        key=f"world-ablation-{row.key}",
        table=TABLE.key,
        rows=(row.key,),
        columns=COMPARED,
        scales={"small": at_scale(Settings(((row, lesson),), MANY), inception=True)},
        run=compare,
        protocol=PROTOCOL,
    )
    for row, lesson in LESSONS.items()
)
CLAIMS = (
    near(
        "regularisation",
        "The KID of the concept's class is lower with pictures of the class than without.",
        *(TABLE.key, WITHOUT_CLASS, METHOD, KID),
    ),
    near(
        "real-regularisation",
        "It is lower with real pictures of the class than with such as the model makes.",
        *(TABLE.key, GENERATED, METHOD, KID),
    ),
)
