"""Personal concepts of the embedded world: animals of a look of their own, their pictures, and how they are recognised.

Their coats are of an unnatural colour and marked, their eyes of an unnatural colour: looks that the zoo's text-to-image
model has never seen, as it has never seen a person's own pet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.pictures import write_png
from gengauge.benchmarks.training.concept_batches import Captioned, Concept
from gengauge.benchmarks.zoo.captioned_animals import RESOLUTION, Animal, animals, caption, pictures
from gengauge.benchmarks.zoo.pictured_attributes import histograms, middle
from gengauge.datasets import world
from gengauge.reference.custom_diffusion.augment import template

PICTURES, CLASS_PICTURES = 5, 200  # as a person has, and as the paper takes
CELL = 4  # px of the zoo's latents
_TRAINED, _CLASS, _SEEN, _KNOWN = 5_000_000, 6_000_000, 7_000_000, 8_000_000  # seeds, apart from those of the zoo
Place = Literal["middle", "left", "right"]


@dataclass(frozen=True)
class Personal:
    """An animal of a fixed look: its species, its token, and the attributes of the look."""

    species: str
    token: str
    look: tuple[tuple[str, Any], ...]

    @property
    def phrase(self) -> str:
        """What stands for it in prompts."""
        return f"{self.token} {self.species}"

    @property
    def fixed(self) -> dict[str, Any]:
        """The attributes that all its pictures have."""
        return {"species": self.species, **dict(self.look)}


def _look(colour: str, pattern: str, eyes: str, texture: int) -> tuple[tuple[str, Any], ...]:
    return (("fur_colour", colour), ("pattern", pattern), ("eye_colour", eyes), ("fur_texture", texture))


CAT = Personal("cat", "<new1>", _look("pink", "spotted", "purple", 7 << 20))
DOG = Personal("dog", "<new2>", _look("green", "striped", "red", 11 << 20))
RABBIT = Personal(
    "rabbit", "<new1>", _look("purple", "patched", "red", 13 << 20)
)  # in no table: rates were chosen on it


def alone(concept: Personal, seed: int, count: int) -> list[Animal]:
    """Pictures of the animal: by itself, of the usual size, without accessories, in different places."""
    out: list[Animal] = []
    index = 0
    while len(out) < count:
        found = animals(seed, range(index, index + 4 * count), unusual=True, accessory="none", **concept.fixed)
        out += [each for each in found if each.framing == "normal" and each.style == "photo"]
        index += 4 * count
    return out[:count]


def _own(first: int, concept: Personal) -> int:
    """Seeds of a species' own, so that no two concepts have the same places."""
    return first + 10_000 * world.SPECIES.index(concept.species)


def trained_pictures(concept: Personal, seed: int = 0) -> Tensor:
    """The five pictures that teach it, others for each seed: uint8 (5, 3, 64, 64)."""
    return pictures(alone(concept, _own(_TRAINED, concept) + seed, PICTURES))


def other_pictures(concept: Personal, count: int, seed: int = 0) -> Tensor:
    """Pictures of it that no training saw, others for each seed: uint8 (N, 3, 64, 64)."""
    return pictures(alone(concept, _own(_SEEN, concept) + seed, count))


def class_animals(species: str, count: int, seed: int = 0) -> list[Animal]:
    """Animals of a species as the model knows them, those that a person would retrieve by its name."""
    return animals(_CLASS + seed, range(count), species=species)


def class_pictures(species: str, seed: int = 0) -> tuple[Tensor, list[str]]:
    """The pictures of a class that a training takes, uint8 (200, 3, 64, 64), and their captions."""
    shown_animals, random = class_animals(species, CLASS_PICTURES, seed), np.random.default_rng((_CLASS, seed))
    return pictures(shown_animals), [caption(each, random) for each in shown_animals]


def written(concept: Personal, folder: Path, seed: int = 0) -> Concept:
    """The concept as a training takes it: pictures in `folder`, and 200 real ones of its class with their captions.

    Several processes may write the same ones. Raises OSError.
    """
    own, (of_class, captions) = trained_pictures(concept, seed), class_pictures(concept.species, seed)
    return Concept(
        put(folder, f"{concept.species}-{seed}", own, [template(concept.phrase)] * len(own)),
        concept.token,
        put(folder, f"{concept.species}-class-{seed}", of_class, captions),
    )


def put(folder: Path, name: str, shown: Tensor, captions: Sequence[str]) -> tuple[Captioned, ...]:
    """Pictures uint8 (N, 3, H, W) in a folder that their pixels name too, so that others are never taken for them.

    Those that are there already stay. Raises OSError.
    """
    place = folder / f"{name}-{hashlib.sha256(shown.numpy().tobytes()).hexdigest()[:8]}"
    paths = [place / f"{number:03d}.png" for number in range(len(shown))]
    for path, picture in zip(paths, shown, strict=True):
        if not path.is_file():
            write_png(path, picture.permute(1, 2, 0).numpy(), "an animal of the embedded world")
    return tuple(map(Captioned, paths, captions))


# -- recognition -------------------------------------------------------------------------------------------------------


def shown(concept: Personal, seen: Tensor, place: Place = "middle") -> list[bool]:
    """Whether pictures uint8 (N, 3, 64, 64) show the concept's coat, colour and markings, as `coats` reads them."""
    return [coat == (concept.fixed["fur_colour"], concept.fixed["pattern"]) for coat in coats(seen, place)]


def coats(seen: Tensor, place: Place = "middle") -> list[tuple[str, str]]:
    """The coat that pictures uint8 (N, 3, 64, 64) show where a head is, as colour and pattern.

    The nearest histogram of colours decides, among those of the concepts, of plain coats of all colours and of marked
    natural ones. A head is in the `middle`, or of two animals on the `left` or `right`, of the usual size of that.
    """
    names, known = _known_coats(alone=place == "middle")
    return [names[int(i)] for i in (histograms(_head(seen, place)).sqrt() @ known.T).argmax(1)]


@cache
def _known_coats(alone: bool) -> tuple[tuple[tuple[str, str], ...], Tensor]:
    """Coats, each a colour and a pattern, and the roots of their mean histograms (K, 512), of length 1."""
    looks: list[dict[str, Any]] = [{"fur_colour": colour, "pattern": "plain"} for colour in world.FUR_COLOURS]
    looks += [
        {"fur_colour": colour, "pattern": pattern}
        for colour in world.NATURAL_FUR_COLOURS
        for pattern in world.PATTERNS
        if pattern != "plain"
    ]
    looks += [dict(each.look) for each in (CAT, DOG, RABBIT)]
    drawn = animals(_KNOWN, range(30 if alone else 120), unusual=True)
    chosen = [each for each in drawn if each.framing == ("normal" if alone else "pair") and each.style == "photo"]
    roots = []
    for look in looks:
        dressed = [replace(each, scene=replace(each.scene, **look)) for each in chosen]
        roots.append(histograms(_head(pictures(dressed), "middle" if alone else "left")).mean(0).sqrt())
    known = torch.stack(roots)
    return tuple((look["fur_colour"], look["pattern"]) for look in looks), known / known.norm(dim=1, keepdim=True)


def _head(seen: Tensor, place: Place) -> Tensor:
    """The part of pictures (N, 3, 64, 64) that a head fills."""
    if place == "middle":
        return middle(seen)
    half = seen[..., : RESOLUTION // 2] if place == "left" else seen[..., RESOLUTION // 2 :]
    return half[:, :, 26:42, 8:24]
