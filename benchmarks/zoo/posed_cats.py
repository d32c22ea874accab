"""Cats in all poses: the side of the embedded world that GANgealing aligns, and how a latent code names one of them.

Heads turn, move and grow far more than in the world's own draws, so that there is something to align.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.datasets import world

RESOLUTION = 64
FIXED: dict[str, Any] = {"species": "cat", "accessory": "none", "background": "plain", "pattern": "plain"}
# What the world draws from, and what is drawn from here instead.
WIDER: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "rotation": ((-0.32, 0.32), (-0.75, 0.75)),
    "scale": ((0.28, 0.36), (0.19, 0.31)),
    "x": ((0.44, 0.56), (0.36, 0.64)),
    "y": ((0.46, 0.55), (0.40, 0.62)),
    "yaw": ((-0.5, 0.5), (-0.3, 0.3)),
}
_PART = 500  # scenes that are drawn at once

# How latents name scenes: a number by the normal distribution's own uniform, a name by the largest of some values.
_LAYOUT: dict[str, tuple[float, float]] = {name: new for name, (_, new) in WIDER.items()} | {"pitch": (-0.16, 0.16)}
_LOOK: dict[str, tuple[float, float]] = {"brightness": (0.86, 1.08), "warmth": (-0.6, 0.6)}
_LOOK_NAMES: dict[str, tuple[str, ...]] = {
    "fur_colour": world.NATURAL_FUR_COLOURS,
    "background_colour": world.BACKGROUND_COLOURS,
}
# What a latent does not say.
_REST: dict[str, Any] = {
    "accessory_colour": world.ACCESSORY_COLOURS[0],
    "expression": "neutral",
    "eye_colour": "green",
    **dict.fromkeys(("gaze_x", "gaze_y", "ear_spread"), 0.0),
    **dict.fromkeys(("head_width", "eye_size"), 1.0),
    "light_angle": -2.0,
    "light_strength": 0.5,
    "fur_texture": 0,
    "background_texture": 0,
}
Z_DIM = 32


def scenes(seed: int, indices: Iterable[int]) -> list[world.Scene]:
    """Scenes of cats: the world's own, their poses stretched to the wider ranges."""
    return [_wider(scene) for scene in world.scenes(seed, indices, **FIXED)]


def pictures(seed: int, indices: Iterable[int], size: int = RESOLUTION) -> Tensor:
    """Cats, uint8 (N, 3, S, S)."""
    found = scenes(seed, indices)
    parts = [found[start : start + _PART] for start in range(0, len(found), _PART)]
    return torch.cat([world.to_uint8(world.render(part, size).images) for part in parts])


def named_by(layout: Tensor, look: Tensor, spread: float = 1.0) -> list[world.Scene]:
    """The scenes that latents (N, Z_DIM) name: the pose by `layout`, colours by `look`; all else is fixed.

    Only a latent's direction counts, as in StyleGAN2's mapping. A `spread` below 1 draws poses towards the middle of
    their ranges.
    """
    found = []
    for z, w in zip(_scaled(layout).tolist(), _scaled(look).tolist(), strict=True):
        values = _numbers(z, _LAYOUT, spread) | _numbers(w[len(_LAYOUT) :], _LOOK)
        left = iter(w[len(_LAYOUT) + len(_LOOK) :])
        for name, choices in _LOOK_NAMES.items():
            mine = [next(left) for _ in choices]
            values[name] = choices[mine.index(max(mine))]
        found.append(world.Scene(**values, **FIXED, **_REST))
    return found


def attributes(z: Tensor) -> Tensor:
    """What latents (N, Z_DIM) name as numbers (N, A): numbers within -1 and 1, a choice as 2 in one of its places."""
    z = _scaled(z).float()
    place = len(_LAYOUT) + len(_LOOK)
    parts = [torch.erf(z[:, :place] / math.sqrt(2))]
    for choices in _LOOK_NAMES.values():
        mine = z[:, place : place + len(choices)]
        parts.append(2.0 * F.one_hot(mine.argmax(1), len(choices)))
        place += len(choices)
    return torch.cat(parts, 1)


def _scaled(z: Tensor) -> Tensor:
    """Latents of length sqrt(Z_DIM)."""
    return z.double() * z.double().square().mean(1, keepdim=True).rsqrt()


def _numbers(z: list[float], ranges: Mapping[str, tuple[float, float]], spread: float = 1.0) -> dict[str, Any]:
    out = {}
    for value, (name, (low, high)) in zip(z, ranges.items(), strict=False):
        share = 0.5 + spread * math.erf(value / math.sqrt(2)) / 2
        out[name] = min(max(low + share * (high - low), low), high)
    return out


def _wider(scene: world.Scene) -> world.Scene:
    values = {}
    for name, ((low, high), (new_low, new_high)) in WIDER.items():
        share = (getattr(scene, name) - low) / (high - low)
        values[name] = min(max(new_low + share * (new_high - new_low), new_low), new_high)
    return replace(scene, **values)
