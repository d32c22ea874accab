"""CUT (ECCV 2020): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.cut import ablation, comparison, cost, counts, learning, own, released, single
from gengauge.benchmarks.protocols import CONTRACTS

_PUBLISHED = load_tables("cut")
_RELEASED = released.table_and_experiments(_PUBLISHED)

PAPER = Paper(
    key="cut",
    name="CUT",
    title="Contrastive Learning for Unpaired Image-to-Image Translation",
    venue="ECCV 2020",
    tables=(*_PUBLISHED, counts.TABLE, *learning.TABLES, _RELEASED[0], single.TABLE),
    experiments=(
        *comparison.experiments(_PUBLISHED),
        cost.experiment(_PUBLISHED),
        *ablation.experiments(_PUBLISHED),
        counts.EXPERIMENT,
        *learning.EXPERIMENTS,
        *_RELEASED[1],
        single.EXPERIMENT,
    ),
    contract=CONTRACTS["cut"],
    openings=own.OPENINGS,
    closed=own.CLOSED,
    claims=(*comparison.CLAIMS, *cost.CLAIMS, *ablation.CLAIMS, *learning.CLAIMS),
    about={
        "quick": "A miniature Cityscapes from the embedded world: label maps to pictures of animals on meadows, "
        "unpaired, 64 px. Small translators trained by this project for 2,000 iterations under the published recipes, "
        "three seeds each, are scored by a small segmenter that plays DRN; one training is run live. Order and ratios "
        "may be compared, the numbers not.",
        "small": "The same at 128 px with wider networks, trained here, and the ablation at 64 px. SinCUT on a pair of "
        "your own pictures.",
        "paper": "The published recipes, data and protocol; trainings take days on a GPU. The released generators are "
        "scored without training. DRN's weights as the authors trained them were not released: bring a DRN-D-22.",
    },
)
