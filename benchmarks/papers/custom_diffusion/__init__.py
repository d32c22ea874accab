"""Custom Diffusion (CVPR 2023): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.custom_diffusion import (
    ablation,
    comparison,
    composition,
    cost_rows,
    counts,
    own,
    published,
)
from gengauge.benchmarks.protocols import CONTRACTS

_PUBLISHED = load_tables("custom_diffusion")

_WORLD = (
    "Two animals of unnatural looks, in the embedded world, teach a small text-to-image model that this project "
    "trained on captioned pictures of usual ones. Because the world's attributes are known, samples are also checked "
    "for the asked background and for the animal's coat. Order and ratios may be compared, the numbers not: the model "
    "is small: it learns a look that is far from all that it knows in a part of its samples only, and draws two such "
    "looks in one picture hardly at all."
)

PAPER = Paper(
    key="custom_diffusion",
    name="Custom Diffusion",
    title="Multi-Concept Customization of Text-to-Image Diffusion",
    venue="CVPR 2023",
    tables=(
        *_PUBLISHED,
        published.RELEASED_TABLE,
        comparison.TABLE,
        comparison.RANK_TABLE,
        comparison.LIVE_TABLE,
        composition.TABLE,
        ablation.TABLE,
        counts.TABLE,
    ),
    experiments=(
        *comparison.EXPERIMENTS,
        *composition.EXPERIMENTS,
        *ablation.EXPERIMENTS,
        counts.EXPERIMENT,
        *published.experiments(_PUBLISHED),
        *cost_rows.experiments(_PUBLISHED),
    ),
    contract=CONTRACTS["custom_diffusion"],
    openings=own.OPENINGS,
    closed=own.closed(_PUBLISHED),
    claims=(*comparison.CLAIMS, *composition.CLAIMS, *ablation.CLAIMS, *counts.CLAIMS),
    preload=("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "open_clip"),
    about={
        "quick": f"{_WORLD} Customisations come from the zoo, each trained once, so that intervals are of prompts and "
        "noise, not of trainings; one short training of another animal runs live. The whole U-Net, at the rate that "
        "suited another animal, hardly learns this one: that keys and values match it says little here. Also exact "
        "counts of what is trained and stored.",
        "small": f"{_WORLD} All is trained here, from other pictures for each seed.",
        "paper": "Stable Diffusion 1.4 customised by the published recipes on the user's copy of the concepts; flower, "
        "table and chair are not released, so rows with them are unavailable and an own table gives means over the "
        "seven others. Whole U-Nets take 3.4 GB each in the folder of trainings. The human study is not repeated.",
    },
)
