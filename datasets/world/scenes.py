"""Scenes: the named attributes of one embedded-world picture and how a seed draws them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gengauge.datasets.world.palette import (
    ACCESSORY_COLOURS,
    BACKGROUND_COLOURS,
    EYE_COLOURS,
    FUR_COLOURS,
    NATURAL_EYE_COLOURS,
    NATURAL_FUR_COLOURS,
)

SPECIES: tuple[str, ...] = ("cat", "dog", "rabbit", "bear", "fox")
PATTERNS: tuple[str, ...] = ("plain", "striped", "spotted", "patched")
EXPRESSIONS: tuple[str, ...] = ("neutral", "smiling", "laughing", "sad", "surprised", "sleepy", "angry")
ACCESSORIES: tuple[str, ...] = ("none", "collar", "hat", "glasses")
BACKGROUNDS: tuple[str, ...] = ("plain", "gradient", "meadow", "night", "bricks")

CATEGORIES: dict[str, tuple[str, ...]] = {
    "species": SPECIES,
    "fur_colour": FUR_COLOURS,
    "pattern": PATTERNS,
    "eye_colour": EYE_COLOURS,
    "expression": EXPRESSIONS,
    "accessory": ACCESSORIES,
    "accessory_colour": ACCESSORY_COLOURS,
    "background": BACKGROUNDS,
    "background_colour": BACKGROUND_COLOURS,
}
"""Allowed values of every attribute that is a name."""

RANGES: dict[str, tuple[float, float]] = {
    "scale": (0.12, 0.6),
    "x": (-0.5, 1.5),
    "y": (-0.5, 1.5),
    "rotation": (-math.pi, math.pi),
    "yaw": (-0.7, 0.7),
    "pitch": (-0.4, 0.4),
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-1.0, 1.0),
    "head_width": (0.8, 1.25),
    "eye_size": (0.7, 1.4),
    "ear_spread": (-1.0, 1.0),
    "light_angle": (-2 * math.pi, 2 * math.pi),
    "light_strength": (0.0, 1.0),
    "brightness": (0.3, 1.4),
    "warmth": (-1.0, 1.0),
}
"""Allowed closed range of every attribute that is a number."""

_TEXTURE_LIMIT = 1 << 31
# What an attribute is drawn from: names may repeat to be likelier, pairs of numbers are uniform bounds.
# The order is part of the format: attribute k always reads uniform number k.
_DRAWN: tuple[tuple[str, tuple[str, ...] | tuple[float, float] | int], ...] = (
    ("species", SPECIES),
    ("fur_colour", NATURAL_FUR_COLOURS),
    ("pattern", PATTERNS),
    ("eye_colour", NATURAL_EYE_COLOURS),
    ("expression", EXPRESSIONS),
    ("accessory", ("none", "none", "collar", "hat", "glasses")),
    ("accessory_colour", ACCESSORY_COLOURS),
    ("background", BACKGROUNDS),
    ("background_colour", BACKGROUND_COLOURS),
    ("scale", (0.28, 0.36)),
    ("x", (0.44, 0.56)),
    ("y", (0.46, 0.55)),
    ("rotation", (-0.32, 0.32)),
    ("yaw", (-0.5, 0.5)),
    ("pitch", (-0.16, 0.16)),
    ("gaze_x", (-0.7, 0.7)),
    ("gaze_y", (-0.5, 0.5)),
    ("head_width", (0.93, 1.07)),
    ("eye_size", (0.9, 1.15)),
    ("ear_spread", (-0.8, 0.8)),
    ("light_angle", (-math.pi, math.pi)),
    ("light_strength", (0.25, 0.9)),
    ("brightness", (0.86, 1.08)),
    ("warmth", (-0.6, 0.6)),
    ("fur_texture", _TEXTURE_LIMIT),
    ("background_texture", _TEXTURE_LIMIT),
)
ATTRIBUTES: tuple[str, ...] = tuple(name for name, _ in _DRAWN)
"""Every attribute of a scene that can be fixed or changed, in the order of drawing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """The attributes of one picture; ``seed`` and ``index`` say which draw they came from.

    Lengths are fractions of the picture's side, angles are radians. ``scale`` is the head radius, (``x``, ``y``) the
    head centre with the origin at the top left; a species may move and shrink its head a little to keep its ears in
    the frame. ``rotation`` turns the head clockwise, ``yaw`` turns the face towards the right edge and ``pitch``
    towards the bottom edge; ``gaze_x`` and ``gaze_y`` move the pupils inside the eyes. ``head_width`` and ``eye_size``
    are factors, ``ear_spread`` tilts the ears outwards. ``light_angle`` is the direction the light comes from (0: from
    the right, pi/2: from below), ``brightness`` a factor and ``warmth`` runs from bluish to yellowish.
    ``fur_texture`` and ``background_texture`` (0 <= value < 2**31) place the details of the markings and of the
    background.

    Raises ValueError when a value is not an allowed one, naming the field, the value and what is allowed.
    """

    species: str
    fur_colour: str
    pattern: str
    eye_colour: str
    expression: str
    accessory: str
    accessory_colour: str
    background: str
    background_colour: str
    scale: float
    x: float
    y: float
    rotation: float
    yaw: float
    pitch: float
    gaze_x: float
    gaze_y: float
    head_width: float
    eye_size: float
    ear_spread: float
    light_angle: float
    light_strength: float
    brightness: float
    warmth: float
    fur_texture: int
    background_texture: int
    seed: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CATEGORIES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            try:
                inside = low <= value <= high
            except TypeError:
                inside = False
            if not inside:
                raise ValueError(f"{name}: {value!r} is not a number from {low:g} to {high:g}")
        for name in ("fur_texture", "background_texture"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value < _TEXTURE_LIMIT:
                raise ValueError(f"{name}: {value!r} is not an integer from 0 to {_TEXTURE_LIMIT - 1}")


def check_names(names: Iterable[str]) -> None:
    """Raise a TypeError that lists the attributes when one of ``names`` is not an attribute of a scene."""
    unknown = sorted(set(names) - set(ATTRIBUTES))
    if unknown:
        raise TypeError(f"unknown scene attribute {', '.join(unknown)}; the attributes are {', '.join(ATTRIBUTES)}")


def scene(seed: int, index: int, **fixed: Any) -> Scene:
    """The scene that (``seed``, ``index``) draws, with the attributes named in ``fixed`` set to the given values.

    Both numbers are integers >= 0. Every attribute has its own random number, so fixing one leaves all others as they
    were, on every machine. Raises TypeError for an unknown attribute and ValueError for a value that is not allowed.
    """
    check_names(fixed)
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, got seed {seed} and index {index}")
    uniforms = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index]))).random(len(_DRAWN)).tolist()
    values: dict[str, Any] = {}
    for (name, source), uniform in zip(_DRAWN, uniforms, strict=True):
        if isinstance(source, int):
            values[name] = int(uniform * source)
        elif isinstance(source[0], str):
            values[name] = source[int(uniform * len(source))]
        else:
            low, high = source
            values[name] = low + uniform * (high - low)
    values.update(fixed)
    return Scene(**values, seed=seed, index=index)


def scenes(seed: int, indices: Iterable[int], **fixed: Any) -> list[Scene]:
    """``scene(seed, index, **fixed)`` for each of ``indices``, in their order."""
    return [scene(seed, int(index), **fixed) for index in indices]


def changed_scene(original: Scene, **changes: Any) -> Scene:
    """``original`` with the attributes named in ``changes`` replaced; the same errors as ``scene``."""
    check_names(changes)
    return dataclasses.replace(original, **changes)
