"""GAN Warping (SIGGRAPH 2022): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.gan_warping import ablation, comparison, composition, counts, own, released
from gengauge.benchmarks.protocols import CONTRACTS

_PUBLISHED = load_tables("gan_warping")

PAPER = Paper(
    key="gan_warping",
    name="GAN Warping",
    title="Rewriting Geometric Rules of a GAN",
    venue="SIGGRAPH 2022",
    tables=(
        *_PUBLISHED,
        comparison.TABLE,
        composition.TABLE,
        composition.SAMPLES,
        ablation.TABLE,
        released.CONVENTIONS,
        released.TRAINED,
        counts.NETWORK_TABLE,
        counts.SIZE_TABLE,
    ),
    experiments=(
        *comparison.EXPERIMENTS,
        *composition.EXPERIMENTS,
        *ablation.EXPERIMENTS,
        *released.experiments(_PUBLISHED),
        *counts.EXPERIMENTS,
    ),
    contract=CONTRACTS["gan_warping"],
    openings=own.OPENINGS,
    closed=own.CLOSED,
    claims=(*comparison.CLAIMS, *composition.CLAIMS, *ablation.CLAIMS, *counts.CLAIMS),
    about={
        "quick": "Cats of the embedded world in all poses, made by a small StyleGAN2 that this project taught by "
        "regression. Ten of them are edited by their exact landmarks, and the trained generators are scored on fifty "
        "others, whose warps are known as exactly. Order and ratios may be compared, the numbers not. Regions are of 0 "
        "and 1, so that PSNR in a region as published is 4.77 dB below the one given here.",
        "small": "The ablation of the ear edit, trained here from the same generator. StyleGAN-NADA, which moves a "
        "generator by words, is left out: it needs CLIP's weights, and an edit in words is not the same task.",
        "paper": "The released edits of the released generators, scored on their test pictures as the released "
        "evaluator scores them, and corrected: it reports the chamfer distance of the last test picture only, and a "
        "PSNR in a region that is 4.8 dB below the one of the whole picture. The same edits are also trained here. The "
        "numbers of the paper's own tables could not be obtained: who has the paper can fill them into "
        "benchmarks/published/gan_warping.csv, whose table `results` has a line for each.",
    },
)
