"""All networks of the zoo by name: what `gengauge zoo` shows and makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.zoo import (
    ddpm_cat,
    segmenter,
    stylegan2_cat,
    stylegan2_poses,
    text_to_image,
    world_autoencoder,
    world_clip,
    world_open_clip,
)
from gengauge.benchmarks.zoo.aligners import ALIGNERS
from gengauge.benchmarks.zoo.concept_deltas import CUSTOMISATIONS
from gengauge.benchmarks.zoo.translators import TRANSLATORS


class Entry(Protocol):
    """A network of the zoo: its card, and its making for so many thousand pictures."""

    @property
    def NAME(self) -> str: ...

    @property
    def KIMG(self) -> float: ...

    def card(self, folder: Path = ...) -> dict[str, Any]: ...

    def make(self, folder: Path, work: Path, device: str, kimg: float = ..., *, tell: Tell | None = ...) -> None: ...


def networks() -> dict[str, Entry]:
    """The zoo, in the order in which it grew."""
    known: tuple[Entry, ...] = (
        stylegan2_cat,
        ddpm_cat,
        segmenter,
        *TRANSLATORS.values(),
        stylegan2_poses,
        *ALIGNERS.values(),
        world_clip,
        world_open_clip,
        world_autoencoder,
        text_to_image,
        *CUSTOMISATIONS.values(),
    )
    return {entry.NAME: entry for entry in known}
