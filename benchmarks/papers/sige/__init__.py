"""SIGE (NeurIPS 2022): its published tables, and what fills them at each scale."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.sige import counts, fidelity, speed

TABLES = load_tables("sige")

PAPER = Paper(
    key="sige",
    name="SIGE",
    title="Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models",
    venue="NeurIPS 2022",
    tables=(*TABLES, counts.TABLE, *speed.TABLES),
    experiments=(*counts.experiments(TABLES), *speed.EXPERIMENTS, *fidelity.experiments(TABLES)),
    claims=(*counts.CLAIMS, *speed.CLAIMS),
    about={
        "quick": "All counts of operations are exact: they need no weights. Those of sparse passes of Stable Diffusion "
        "are of centred squares: the published edits are not at hand. Latency is that of DDPM at 256 px and of "
        "GauGAN, at full size with random weights, which take the same time as trained ones, on the machine at hand; "
        "published figures of other machines stand beside and are not comparable with it. Beside the sparse engine "
        "stands what a user would do instead: channels_last, bfloat16 and, at small scale, torch.compile. With few "
        "measured edits the size from which sparse stops paying lies between two of them; the straight line between "
        "is no more than a guess. Whether results stay the same is not shown: with random weights the distance "
        "between sparse and dense results says nothing.",
        "small": "Counts, and latency of every network (but Stable Diffusion) and edit, with one thread and with two, "
        "also under torch.compile, on the CPU or the GPU; weights are random.",
        "paper": "Counts, and the quality of sparse against dense results of the published networks on the published "
        "edits.",
    },
)
