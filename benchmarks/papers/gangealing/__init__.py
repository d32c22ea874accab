"""GANgealing (CVPR 2022): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.gangealing import released

_PUBLISHED = load_tables("gangealing")

PAPER = Paper(
    key="gangealing",
    name="GANgealing",
    title="GAN-Supervised Dense Visual Alignment",
    venue="CVPR 2022",
    tables=(*_PUBLISHED, released.PROTOCOLS),
    experiments=(*released.experiments(_PUBLISHED),),
    about={
        "paper": "The released transformers on the test pairs of SPair-71k and on ACSM's validation pictures of CUB, "
        "by the published protocol; nothing is trained. As published, a mirrored picture's points keep the visibility "
        "of their old labels. The own table also counts them with the visibility of their new ones, and tells what is "
        "reached without mirroring pictures, and by points that stay where they are.",
    },
)
