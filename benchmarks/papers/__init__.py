"""The papers of the suite, by where each is declared."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.tables import load_tables


def _published_only(key: str, name: str, title: str, venue: str) -> Paper:
    return Paper(key, name, title, venue, load_tables(key))


custom_diffusion = _published_only(
    "custom_diffusion", "Custom Diffusion", "Multi-Concept Customization of Text-to-Image Diffusion", "CVPR 2023"
)

SOURCES = (
    "gengauge.benchmarks.papers.diffaugment:PAPER",
    "gengauge.benchmarks.papers.sige:PAPER",
    *(f"{__name__}:{key}" for key in ("custom_diffusion",)),
    "gengauge.benchmarks.papers.gangealing:PAPER",
    "gengauge.benchmarks.papers.gan_warping:PAPER",
    "gengauge.benchmarks.papers.sdedit:PAPER",
    "gengauge.benchmarks.papers.cut:PAPER",
)
