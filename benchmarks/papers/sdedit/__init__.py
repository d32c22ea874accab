"""SDEdit (ICLR 2022): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.sdedit import compositing, own, strokes
from gengauge.benchmarks.protocols import CONTRACTS

PAPER = Paper(
    key="sdedit",
    name="SDEdit",
    title="SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
    venue="ICLR 2022",
    tables=(*load_tables("sdedit"), strokes.TABLE),
    experiments=(*strokes.EXPERIMENTS, compositing.EXPERIMENT),
    contract=CONTRACTS["sdedit"],
    openings=own.OPENINGS,
    closed=own.CLOSED,
    claims=(*strokes.CLAIMS, *compositing.CLAIMS),
    about={
        "quick": "Stand-ins on the embedded world: the published sampler with few steps, a small prior trained by this "
        "project on cats of 32 px, and strokes simulated from cats that it has not seen. Order and shape of the curve "
        "may be compared, the numbers not. The exact denoiser is a second prior, without any training: it knows 2,000 "
        "pictures by heart, so it shows that the sampler is right, and what it returns are these pictures.",
        "small": "The same with 300 strokes a seed, more steps and every t0 of the paper's figure.",
        "paper": "The published networks and settings. Strokes by hand and composites are not published: bring your "
        "own. Preferences of people are shown as printed.",
    },
)
