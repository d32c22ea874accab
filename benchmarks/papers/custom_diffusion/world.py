"""Prompts for the embedded world's personal concepts, samples of them, and how these are scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Measurement, Plan, PlannedNetwork
from gengauge.benchmarks.core.tables import Column
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline
from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.clip import picture_features, text_features
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.metrics.alignment import image_alignment, text_alignment
from gengauge.benchmarks.metrics.kernel import mmd2
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.zoo import (
    captions_tokenizer,
    text_to_image,
    world_autoencoder,
    world_clip,
    world_diffusion,
    world_open_clip,
)
from gengauge.benchmarks.zoo.captioned_animals import PLACES, WEARING, caption, pictures, with_articles
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.benchmarks.zoo.personal_concepts import Personal, Place, class_animals, coats, other_pictures
from gengauge.benchmarks.zoo.pictured_attributes import PLAINLY_COLOURED, backdrops
from gengauge.datasets import world
from gengauge.datasets.deltas import Delta

Array = np.ndarray[Any, Any]
_PROMPTS, _FRESH = 20, 9_000_000  # seeds: of prompts, and of pictures of the class
JUDGE = world_open_clip.NAME
_TARGETS = 25  # pictures of a concept that no training saw, to which samples are compared

COLUMNS = (
    Column("text_alignment", f"CLIPScore with {JUDGE}, 2.5*max(cos,0), prompts without tokens", "1", "higher"),
    Column("image_alignment_clip", f"Mean cosine of {JUDGE} to unseen pictures of the concept", "1", "higher"),
    Column("setting", "Samples with the asked style, background and, of a photo, its colour", "%", "higher"),
    Column("coat_colour", "Samples, but those without colours, whose coat has the concept's colour", "%", "higher"),
    Column("concept", "Samples, but those without colours, whose coat is likest to the concept's", "%", "higher"),
)
KID = Column("kid", "KID of samples without the concept to real pictures of its class, times 1000", "1e-3", "lower")


@dataclass(frozen=True)
class Sampling:
    """How many prompts are drawn for alignment and captions for KID, one sample each, and by which steps of DDIM."""

    prompts: int = 12
    captions: int = 16
    real: int = 100  # pictures to which those of captions are compared
    steps: int = 8
    guidance: float = text_to_image.GUIDANCE


@dataclass(frozen=True)
class Asked:
    """A prompt with `{}` for each concept, and the style, background and colour that a right picture has.

    The colour is "" where none is to be told: of meadow and night, and in a style without colours.
    """

    text: str
    setting: tuple[str, str, str]

    @property
    def coloured(self) -> bool:
        """Whether coats can be told."""
        return self.setting[0] == "photo"

    def shown(self, setting: tuple[str, str, str]) -> bool:
        """Whether a picture's setting, as `backdrops` reads it, is the asked one."""
        return setting[:2] == self.setting[:2] and self.setting[2] in ("", setting[2])

    def filled(self, names: Sequence[str]) -> str:
        """The prompt with these names."""
        return with_articles(self.text.format(*names))


def prompts(count: int, seed: int, concepts: int = 1) -> list[Asked]:
    """Prompts for one concept, or for two side by side, others for each seed.

    For one: in turn three times a new background, which may come with something to wear, and once another style.
    """
    random = np.random.default_rng((_PROMPTS, seed, concepts))

    def pick(options: Sequence[str]) -> str:
        return options[int(random.integers(len(options)))]

    out = []
    for number in range(count):
        background, colour = pick(world.BACKGROUNDS), pick(world.BACKGROUND_COLOURS)
        place = PLACES[background][0].format(colour)
        style = pick(("black and white photo", "sepia photo")) if concepts == 1 and number % 4 == 3 else "photo"
        worn = (
            WEARING[pick(("hat", "collar"))][0].format(pick(world.ACCESSORY_COLOURS))
            if concepts == 1 and number % 4 == 1
            else ""
        )
        words = [f"{style} of a", " and a ".join(["{}"] * concepts), worn, place]
        hue = colour if background in PLAINLY_COLOURED and style == "photo" else ""
        out.append(Asked(" ".join(filter(None, words)), (style, background, hue)))
    return out


class Model:
    """The zoo's text-to-image model, opened when it is needed, and the CLIP that judges its pictures."""

    def __init__(self, device: str = "cpu", folder: Path = FOLDER) -> None:
        self.device, self.folder = device, folder
        self.pipeline = text_to_image.pipeline(folder).to(device)
        self.judge = world_open_clip.encoder(text_to_image.place(folder, world_open_clip.NAME), device)

    def sampled(self, texts: Sequence[str], delta: Delta | None, how: Sampling, seed: int) -> Tensor:
        """Pictures uint8 (N, 3, 64, 64) of texts by the model with a delta; noise depends on seed and number only."""
        applied = None if delta is None else apply_to_pipeline(self.pipeline, delta)
        try:
            made = text_to_image.sample(self.pipeline, texts, seed, how.steps, how.guidance, self.device, batch=24)
            return torch.cat(list(made))
        finally:
            if applied is not None:
                applied.undo()

    def alignment(
        self, asked: Sequence[Asked], made: Tensor, concepts: Sequence[Personal], seed: int
    ) -> dict[str, float]:
        """What the columns of alignment say of pictures (N, 3, 64, 64); of several concepts the mean of both."""
        texts = [each.filled([concept.species for concept in concepts]) for each in asked]
        own = self._features(made)
        targets = [self._features(other_pictures(concept, _TARGETS, seed)) for concept in concepts]
        settings = backdrops(made)
        seen = torch.tensor([each.coloured for each in asked])
        sides: tuple[Place, ...] = ("middle",) if len(concepts) == 1 else ("left", "right")
        found = [coats(made[seen], side) for side in sides]
        looks = [(each.fixed["fur_colour"], each.fixed["pattern"]) for each in concepts]
        pairs = list(zip(found, looks, strict=True))
        return {
            "text_alignment": text_alignment(own, text_features(texts, self.judge)).score,
            "image_alignment_clip": float(np.mean([image_alignment(own, each) for each in targets])),
            "setting": 100 * float(np.mean([each.shown(read) for each, read in zip(asked, settings, strict=True)])),
            "coat_colour": 100 * float(np.mean(np.all([[c[0] == look[0] for c in side] for side, look in pairs], 0))),
            "concept": 100 * float(np.mean(np.all([[c == look for c in side] for side, look in pairs], 0))),
        }

    def _features(self, seen: Tensor) -> Array:
        return picture_features(list(seen.permute(0, 2, 3, 1).numpy()), self.judge)

    def kid(self, delta: Delta | None, concept: Personal, how: Sampling, seed: int) -> float:
        """1000 KID, over all pairs, of samples by captions of the class, without the token, to real pictures."""
        real, inception = pictures(class_animals(concept.species, how.real, _FRESH)), load_network("inception")
        captioned = class_animals(concept.species, how.captions, _FRESH + 1 + seed)
        random = np.random.default_rng((_FRESH, seed))
        made = self.sampled([caption(each, random) for each in captioned], delta, how, seed)
        return 1000 * mmd2(features(real, inception, device=self.device), extract(made, inception, device=self.device))


def measurements(row: str, values: Mapping[str, float], samples: int, note: str = "") -> Iterator[Measurement]:
    """A row's values."""
    for column, value in values.items():
        yield Measurement(row, column, value, samples=samples, note=note)


def _inputs() -> tuple[Tensor, ...]:
    side, context = world_diffusion.SIDE, (1, captions_tokenizer.LENGTH, world_clip.WIDTH)
    return torch.empty(1, world_autoencoder.LATENT_CHANNELS, side, side), torch.empty(1), torch.empty(context)


_NETWORK = PlannedNetwork("U-Net", world_diffusion.build, _inputs)


def plan(inception: bool = False) -> Plan:
    """What samples of the zoo's model need, with Inception where KID is measured."""
    return Plan((_NETWORK,), lambda data: (weights_need("inception"),) if inception else ())
