"""Custom Diffusion (CVPR 2023): its published tables, and the exact numbers; what trains and samples is to come."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import SCALES, Paper
from gengauge.benchmarks.core.tables import load_tables
from gengauge.benchmarks.papers.custom_diffusion import counts

PAPER = Paper(
    key="custom_diffusion",
    name="Custom Diffusion",
    title="Multi-Concept Customization of Text-to-Image Diffusion",
    venue="CVPR 2023",
    tables=(*load_tables("custom_diffusion"), counts.TABLE),
    experiments=(counts.EXPERIMENT,),
    claims=counts.CLAIMS,
    about=dict.fromkeys(
        SCALES,
        "Exact counts of what is trained and stored. The method is there as a library; its tables of alignment and "
        "forgetting are not measured yet.",
    ),
)
