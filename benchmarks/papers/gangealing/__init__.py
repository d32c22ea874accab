"""GANgealing (CVPR 2022): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.gangealing import ablation, comparison, counts, learning, own, released
from gengauge.benchmarks.protocols import CONTRACTS

_PUBLISHED = load_tables("gangealing")
_RELEASED = released.experiments(_PUBLISHED)

PAPER = Paper(
    key="gangealing",
    name="GANgealing",
    title="GAN-Supervised Dense Visual Alignment",
    venue="CVPR 2022",
    tables=(*_PUBLISHED, comparison.TABLE, learning.TABLE, ablation.TABLE, released.PROTOCOLS, counts.TABLE),
    experiments=(
        learning.EXPERIMENT,
        comparison.EXPERIMENT,
        *ablation.EXPERIMENTS,
        *_RELEASED,
        counts.EXPERIMENT,
    ),
    contract=CONTRACTS["gangealing"],
    openings=own.openings(_RELEASED),
    closed=own.CLOSED,
    claims=(*comparison.CLAIMS, *learning.CLAIMS, *ablation.CLAIMS),
    about={
        "quick": "Cats of the embedded world in all poses, with exact landmarks. A small StyleGAN2, which this project "
        "taught simpler cats by regression, supervises small transformers by the published method; those of the zoo "
        "are measured, and one training is run live. They see no real picture and no landmark. Order and ratios may be "
        "compared, the numbers not.",
        "small": "The ablation, trained here from the same generator.",
        "paper": "The released transformers on the test pairs of SPair-71k and on ACSM's validation pictures of CUB, "
        "by the published protocol; nothing is trained. As published, a mirrored picture's points keep the visibility "
        "of their old labels. The own table also counts them with the visibility of their new ones, and tells what is "
        "reached without mirroring pictures, and by points that stay where they are.",
    },
)
