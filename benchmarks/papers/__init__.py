"""The papers of the suite, by where each is declared."""

from __future__ import annotations

SOURCES = (
    "gengauge.benchmarks.papers.diffaugment:PAPER",
    "gengauge.benchmarks.papers.sige:PAPER",
    "gengauge.benchmarks.papers.custom_diffusion:PAPER",
    "gengauge.benchmarks.papers.gangealing:PAPER",
    "gengauge.benchmarks.papers.gan_warping:PAPER",
    "gengauge.benchmarks.papers.sdedit:PAPER",
    "gengauge.benchmarks.papers.cut:PAPER",
)
