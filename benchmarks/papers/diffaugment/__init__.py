"""DiffAugment (NeurIPS 2020): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.diffaugment import checks, limited_data, own, study
from gengauge.benchmarks.protocols import CONTRACTS

TABLES = load_tables("diffaugment")
_LIMITED = limited_data.experiments(TABLES)

PAPER = Paper(
    key="diffaugment",
    name="DiffAugment",
    title="Differentiable Augmentation for Data-Efficient GAN Training",
    venue="NeurIPS 2020",
    tables=(*TABLES, checks.TABLE),
    experiments=(*study.EXPERIMENTS, *checks.EXPERIMENTS, *_LIMITED),
    contract=CONTRACTS["diffaugment"],
    openings=own.openings(_LIMITED),
    closed=own.CLOSED,
    claims=(*study.CLAIMS, *limited_data.CLAIMS),
    about={
        "quick": "A mechanism study, not a reproduction. A small GAN is trained on 64 pictures with the augmentation "
        "(translation and cutout) at the four places of the paper's ablation. It shows whether the discriminator "
        "memorises, whether augmentations leak and whether the samples come closer to fresh pictures. It does not "
        "show the paper's FID: network, pictures, schedule and sample count are others. Nor does it rank the "
        "placements by FID: after so few steps any augmentation of what D sees helps a baseline that memorises. "
        "The full networks train a few steps at small width, as a check that they do and that they resume exactly.",
        "small": "BigGAN at half its width and with a short schedule, on the published subsets of CIFAR-10. Which of "
        "two rows is lower may be compared; the numbers themselves are no reproduction.",
        "paper": "Each row is trained by its recipe to the end of its schedule, measured by its table's own protocol "
        "at every snapshot. As published, the best snapshot by FID is reported; the last stands beside it.",
    },
)
