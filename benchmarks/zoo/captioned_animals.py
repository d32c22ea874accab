"""Captioned animals: the side of the embedded world that the zoo's text-to-image model knows, and its phrasings.

What no caption tells (light, gaze, the place of each star and brick) is the same in all of them, so that a small
network spends nothing on it. Unusual looks, a coat of an unnatural colour with markings, or eyes of an unnatural
colour, are left out of what the model learns: they are for the concepts that a person brings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets import world

RESOLUTION = 64
FIXED: dict[str, Any] = {
    **dict.fromkeys(("pitch", "gaze_x", "gaze_y", "ear_spread", "warmth"), 0.0),
    "head_width": 1.0,
    "eye_size": 1.1,
    "light_angle": -2.0,
    "light_strength": 0.5,
    "brightness": 1.0,
    "background_texture": 1 << 29,
}
EXPRESSIONS = ("neutral", "laughing", "surprised")  # those that are seen at this size
UNNATURAL = tuple(c for c in world.FUR_COLOURS if c not in world.NATURAL_FUR_COLOURS)
_COATS = 2 * world.NATURAL_FUR_COLOURS + UNNATURAL
STYLES = ("photo", "black and white photo", "sepia photo")
_STYLE_SHARES = (0.88, 0.06, 0.06)
# Head radius as a share of the side; the words are those that Custom Diffusion puts before captions of pictures that
# its resize augmentation made small or large.
FRAMINGS: dict[str, tuple[float, float]] = {
    "normal": (0.28, 0.33),
    "far": (0.15, 0.20),
    "near": (0.39, 0.45),
    "pair": (0.17, 0.19),
}
FRAMING_WORDS: dict[str, tuple[str, ...]] = {
    "normal": (),
    "far": ("far away", "very small"),
    "near": ("zoomed in", "close up"),
    "pair": (),
}
_FRAMING_SHARES = (0.62, 0.12, 0.12, 0.14)
_OTHER = 1 << 40  # added to the seed: the draws of the animal on the right
# Where heads are, x and y: of one animal, of a far one, of the left and the right one of two.
_PLACED = {
    "normal": ((0.47, 0.53), (0.49, 0.53)),
    "near": ((0.47, 0.53), (0.49, 0.53)),
    "far": ((0.32, 0.68), (0.34, 0.68)),
    "left": ((0.25, 0.27), (0.5, 0.56)),
    "right": ((0.73, 0.75), (0.5, 0.56)),
}
_LUMA = torch.tensor([0.299, 0.587, 0.114])
_SEPIA = torch.tensor([1.07, 0.91, 0.68])
_PART = 512  # scenes that are drawn at once

_MOODS = {
    "neutral": ("calm", "quiet"),
    "laughing": ("laughing", "cheerful", "happy"),
    "surprised": ("surprised", "astonished"),
}
WEARING = {
    "collar": ("wearing a {} collar", "with a {} collar"),
    "hat": ("wearing a {} hat", "in a {} hat", "with a {} hat"),
    "glasses": ("wearing {} glasses", "with {} glasses"),
}
PLACES = {
    "plain": ("in front of a {} wall", "on a {} background", "in front of a plain {} wall"),
    "gradient": ("on a {} gradient background", "in front of a {} gradient"),
    "meadow": ("in a meadow", "in a green meadow", "on a meadow with flowers"),
    "night": ("at night", "under the night sky", "at night under the stars"),
    "bricks": ("in front of a {} wall of bricks", "by a wall of {} bricks", "in front of {} bricks"),
}
# How often a caption of our own tells each part.
_TOLD = {"coat": 0.6, "mood": 0.25, "eyes": 0.1, "accessory": 0.85}
_PLACE_TOLD = 0.75


@dataclass(frozen=True, slots=True)
class Animal:
    """A scene with what the world's scenes do not say: its framing, a key of `FRAMINGS`, and one of `STYLES`.

    `other` is, of a pair, the scene of its right half; both have one background.
    """

    scene: world.Scene
    framing: str = "normal"
    style: str = "photo"
    other: world.Scene | None = None


def animals(seed: int, indices: Iterable[int], *, unusual: bool = False, **fixed: Any) -> list[Animal]:
    """The animals that a seed draws, some attributes given. With `unusual` looks that the model never learns come too.

    Each depends on the seed and its index only. Raises TypeError or ValueError for attributes that are not allowed.
    """
    return [_animal(seed, int(index), unusual, fixed) for index in indices]


def pictures(shown: Sequence[Animal], size: int = RESOLUTION) -> Tensor:
    """The animals as uint8 (N, 3, S, S)."""
    parts = []
    for start in range(0, len(shown), _PART):
        part = shown[start : start + _PART]
        made = world.to_uint8(world.render([each.scene for each in part], size).images)
        others = [(i, each.other) for i, each in enumerate(part) if each.other is not None]
        if others:
            right = world.to_uint8(world.render([other for _, other in others], size).images)
            made[[i for i, _ in others], :, :, size // 2 :] = right[..., size // 2 :]
        for i, each in enumerate(part):
            if each.style != "photo":
                made[i] = in_style(made[i], each.style)
        parts.append(made)
    return torch.cat(parts)


def in_style(picture: Tensor, style: str) -> Tensor:
    """A picture uint8 (3, H, W) in one of `STYLES`. Raises ValueError for another."""
    if style not in STYLES:
        raise ValueError(f"style: {style!r} is not one of {', '.join(STYLES)}")
    if style == "photo":
        return picture
    grey = (picture.float() * _LUMA.view(3, 1, 1)).sum(0, keepdim=True).expand(3, -1, -1)
    toned = grey * _SEPIA.view(3, 1, 1) if style == "sepia photo" else grey
    return toned.round().clamp(0, 255).to(torch.uint8)


def caption(animal: Animal, random: np.random.Generator) -> str:
    """One of the sentences for an animal: the world's own, or, shorter, one that tells a part of what is seen."""
    scene = animal.scene
    plain = animal.style == "photo"
    if animal.framing == "normal" and plain and random.random() < 0.3:
        return world.caption(replace(scene, seed=int(random.integers(1 << 20))))

    def pick(options: Sequence[str]) -> str:
        return options[int(random.integers(len(options)))]

    def named(shown: world.Scene) -> list[str]:
        told = {part: random.random() < share for part, share in _TOLD.items()}
        words = [pick(_MOODS[shown.expression])] if told["mood"] else []
        if told["coat"]:
            words += [shown.fur_colour] if shown.pattern == "plain" else [shown.pattern, shown.fur_colour]
        words.append(shown.species)
        if told["eyes"]:
            words.append(f"with {shown.eye_colour} eyes")
        if told["accessory"] and shown.accessory != "none":
            words.append(pick(WEARING[shown.accessory]).format(shown.accessory_colour))
        return words

    words = named(scene)
    if animal.other is not None:
        words += ["and a", *named(animal.other)]
    if random.random() < _PLACE_TOLD:
        words.append(pick(PLACES[scene.background]).format(scene.background_colour))
    lead = f"{pick(('photo', 'photo', 'picture', 'portrait')) if plain else animal.style} of a"
    framed = random.random() < 0.9 and bool(FRAMING_WORDS[animal.framing])
    before = [pick(FRAMING_WORDS[animal.framing])] if framed else []
    if random.random() < 0.6:
        before.insert(0, "a")
    if not framed and plain and random.random() < 0.2:
        before, lead = [], "a"
    return with_articles(" ".join([*before, lead, *words]))


def with_articles(text: str) -> str:
    """A sentence with "an" for "a" before a vowel."""
    words = text.split()
    for k, after in enumerate(words[1:]):
        if words[k] == "a" and after[0] in "aeiou":
            words[k] = "an"
    return " ".join(words)


def rendered(work: Path, seed: int, count: int, *, unusual: bool = False) -> Tensor:
    """`pictures` of the first animals of a seed, from a file in `work` that is made where it is not there.

    It is mapped, so that several trainings share its memory, and made anew where it is not what would be made now.
    Raises OSError.
    """
    file = work / f"animals-{seed}-{count}-{'all' if unusual else 'usual'}.npy"
    first = pictures(animals(seed, range(min(8, count)), unusual=unusual))
    if file.is_file():
        found = torch.from_numpy(np.load(file, mmap_mode="c"))
        if len(found) == count and torch.equal(found[: len(first)], first):
            return found
    work.mkdir(parents=True, exist_ok=True)
    hidden = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        shape = (count, 3, RESOLUTION, RESOLUTION)
        out = np.lib.format.open_memmap(hidden, mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, count, _PART):
            end = min(start + _PART, count)
            out[start:end] = pictures(animals(seed, range(start, end), unusual=unusual)).numpy()
        out.flush()
        hidden.replace(file)
    finally:
        hidden.unlink(missing_ok=True)
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _animal(seed: int, index: int, unusual: bool, fixed: dict[str, Any]) -> Animal:
    random = np.random.default_rng((seed, index, 1))  # apart from the world's own draws
    framing = tuple(FRAMINGS)[int(random.choice(len(FRAMINGS), p=_FRAMING_SHARES))]
    style = STYLES[int(random.choice(len(STYLES), p=_STYLE_SHARES))]

    def scene(drawn_by: int, place: str, given: dict[str, Any]) -> world.Scene:
        x, y = _PLACED[place]
        values = {
            "fur_colour": _COATS[int(random.integers(len(_COATS)))],
            "expression": EXPRESSIONS[int(random.integers(len(EXPRESSIONS)))],
            "scale": random.uniform(*FRAMINGS[framing]),
            "x": random.uniform(*x),
            "y": random.uniform(*y),
            "rotation": random.uniform(-0.12, 0.12),
            "yaw": random.uniform(-0.2, 0.2),
        }
        eyes = world.EYE_COLOURS[int(random.integers(len(world.EYE_COLOURS)))]
        if unusual:
            values["eye_colour"] = eyes
        elif values["fur_colour"] in UNNATURAL:
            values["pattern"] = "plain"
        return world.scene(drawn_by, index, **{**FIXED, **values, **given})

    if framing != "pair":
        return Animal(scene(seed, framing, fixed), framing, style)
    left = scene(seed, "left", fixed)
    behind = {"background": left.background, "background_colour": left.background_colour}
    return Animal(left, framing, style, scene(seed + _OTHER, "right", behind))
