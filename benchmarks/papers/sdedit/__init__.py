"""SDEdit (ICLR 2022): its published tables."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables

PAPER = Paper(
    key="sdedit",
    name="SDEdit",
    title="SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
    venue="ICLR 2022",
    tables=load_tables("sdedit"),
)
