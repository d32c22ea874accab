"""SIGE (NeurIPS 2022): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.sige import counts, fidelity, fidelity_by_area, own, speed
from gengauge.benchmarks.protocols import CONTRACTS

TABLES = load_tables("sige")

PAPER = Paper(
    key="sige",
    name="SIGE",
    title="Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models",
    venue="NeurIPS 2022",
    tables=(*TABLES, counts.TABLE, *speed.TABLES, fidelity_by_area.TABLE),
    experiments=(
        *counts.experiments(TABLES),
        *speed.EXPERIMENTS,
        *fidelity_by_area.EXPERIMENTS,
        *fidelity.experiments(TABLES),
    ),
    contract=CONTRACTS["sige"],
    openings=own.openings(TABLES),
    closed=own.closed(TABLES),
    claims=(*counts.CLAIMS, *speed.CLAIMS, *fidelity_by_area.CLAIMS),
    about={
        "quick": "All counts of operations are exact: they need no weights. Those of sparse passes of Stable Diffusion "
        "are of centred squares: the published edits are not at hand. Latency is that of DDPM at 256 px and of "
        "GauGAN, at full size with random weights, which take the same time as trained ones, on the machine at hand; "
        "published figures of other machines stand beside and are not comparable with it. Beside the sparse engine "
        "stands what a user would do instead: channels_last, bfloat16 and, at small scale, torch.compile. With few "
        "measured edits the size from which sparse stops paying lies between two of them; the straight line between "
        "is no more than a guess. Whether results stay the same is shown on a small trained network of this project, "
        "at 32 px, against the edited share: with the random weights of the others the distance between sparse and "
        "dense results says nothing. Sparse results are not the dense ones even where all pixels are touched, since "
        "the released policy keeps the original's statistics; beside it stand tiles with the edit's own, which are.",
        "small": "Counts, and latency of every network (but Stable Diffusion) and edit, with one thread and with two, "
        "also under torch.compile, on the CPU or the GPU; weights are random. Fidelity as at quick scale, with more "
        "pictures and steps.",
        "paper": "Counts, and the quality of sparse against dense results of the published networks on the published "
        "edits.",
    },
)
