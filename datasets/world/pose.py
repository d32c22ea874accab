"""Pose: the scenes of a batch as tensors, and where a turned head shows its parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets.world.anatomy import EXPRESSION_MOODS, SPECIES_ANATOMY, Anatomy, Mood, T
from gengauge.datasets.world.palette import ACCESSORY, EYES, FUR, Colour
from gengauge.datasets.world.scenes import Scene


def colours(values: Sequence[Colour]) -> Tensor:
    """(3, N, 1, 1) in [0, 1] from N byte triples."""
    return (torch.tensor(values, dtype=torch.float32) / 255.0).T[:, :, None, None].contiguous()


def hashed(textures: Sequence[int], count: int) -> Tensor:
    """(count, N, 1, 1) uniforms in [0, 1) that integer hashing (splitmix64) makes from N texture numbers."""
    with np.errstate(over="ignore"):
        z = np.asarray(textures, dtype=np.uint64)[None] * np.uint64(64) + np.arange(count, dtype=np.uint64)[:, None]
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    # 24 bits are exact in float32, so a uniform never rounds up to 1.
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))[:, :, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers(Generic[T]):
    """The numbers of one scene (floats) or of every scene of a batch (tensors (N, 1, 1)).

    ``x``, ``y`` and ``radius`` are fractions of the picture's side; ``sin``/``cos`` are of the in-plane rotation,
    ``turn``/``ahead`` the sine and cosine of the yaw, ``nod`` the sine of the pitch; an accessory is 1 where worn.
    """

    x: T
    y: T
    radius: T
    sin: T
    cos: T
    turn: T
    ahead: T
    nod: T
    gaze_x: T
    gaze_y: T
    head_width: T
    eye_size: T
    ear_spread: T
    light_x: T
    light_y: T
    light_strength: T
    brightness: T
    warmth: T
    hat: T
    collar: T
    glasses: T


@dataclass(frozen=True, slots=True)
class Coat:
    """The colours of every scene of a batch, each (3, N, 1, 1) in [0, 1]."""

    fur: Tensor
    marking: Tensor
    light: Tensor
    nose: Tensor
    iris: Tensor
    accessory: Tensor


_PARTS = (Numbers, Anatomy, Mood)
_FIELDS = tuple(tuple(field.name for field in dataclasses.fields(part)) for part in _PARTS)


@dataclass(frozen=True, slots=True)
class Pose:
    """What painting needs to know of N scenes: their numbers, proportions, faces and colours as tensors."""

    scenes: Sequence[Scene]
    matrix: Tensor
    palette: Tensor
    n: Numbers[Tensor]
    a: Anatomy[Tensor]
    m: Mood[Tensor]
    c: Coat

    def place(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> tuple[Tensor, Tensor]:
        """Where the head shows the point (x, y, z) of its unturned self; z points to the viewer."""
        return x * self.n.ahead + z * self.n.turn, y + z * self.n.nod

    def take(self, rows: Sequence[int]) -> Pose:
        """The pose of these scenes only."""
        index = torch.tensor(rows)
        return _pose(
            [self.scenes[k] for k in rows], self.matrix.index_select(1, index), self.palette.index_select(2, index)
        )


def _pose(scenes: Sequence[Scene], matrix: Tensor, palette: Tensor) -> Pose:
    columns = iter(matrix[:, :, None, None].unbind())
    n, a, m = (part(**{name: next(columns) for name in names}) for part, names in zip(_PARTS, _FIELDS, strict=True))
    return Pose(scenes, matrix, palette, n, a, m, Coat(*palette[..., None, None].unbind()))


def _numbers(s: Scene, a: Anatomy[float]) -> Numbers[float]:
    # Trigonometry is done scene by scene: a vectorised sine may round differently at another place in the batch.
    return Numbers(
        x=s.x,
        y=s.y + a.frame_dy * s.scale,
        radius=s.scale * a.frame_scale,
        sin=math.sin(s.rotation),
        cos=math.cos(s.rotation),
        turn=math.sin(s.yaw),
        ahead=math.cos(s.yaw),
        nod=math.sin(s.pitch),
        gaze_x=s.gaze_x,
        gaze_y=s.gaze_y,
        head_width=s.head_width,
        eye_size=s.eye_size,
        ear_spread=s.ear_spread,
        light_x=math.cos(s.light_angle),
        light_y=math.sin(s.light_angle),
        light_strength=s.light_strength,
        brightness=s.brightness,
        warmth=s.warmth,
        hat=float(s.accessory == "hat"),
        collar=float(s.accessory == "collar"),
        glasses=float(s.accessory == "glasses"),
    )


def pose(scenes: Sequence[Scene]) -> Pose:
    """The pose of each scene."""
    rows: list[list[float]] = []
    colour_rows: list[tuple[Colour, ...]] = []
    for s in scenes:
        anatomy = SPECIES_ANATOMY[s.species]
        parts = (_numbers(s, anatomy), anatomy, EXPRESSION_MOODS[s.expression])
        rows.append([getattr(part, name) for part, names in zip(parts, _FIELDS, strict=True) for name in names])
        fur = FUR[s.fur_colour]
        eyes, accessory = EYES[s.eye_colour], ACCESSORY[s.accessory_colour]
        colour_rows.append((fur.base, fur.marking, fur.light, fur.nose, eyes, accessory))
    # Rounded from double to single precision here, once.
    matrix = torch.tensor(rows, dtype=torch.float64).float().T.contiguous()
    palette = (torch.tensor(colour_rows, dtype=torch.float32) / 255.0).permute(1, 2, 0).contiguous()
    return _pose(scenes, matrix, palette)


@dataclass(frozen=True, slots=True)
class Pair:
    """A part that the head has on both sides: where each one shows and how much the turn narrows it."""

    left: Tensor
    right: Tensor
    left_width: Tensor
    right_width: Tensor
    y: Tensor

    def local(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each point in the unturned coordinates of its own side's part, u pointing outwards; and +1 right, -1 left."""
        offset = u - (self.left + self.right) * 0.5
        side = side_of(offset)
        outward = offset.abs_().sub_((self.right - self.left) * 0.5)
        return outward.mul_(by_side(side, 1.0 / self.left_width, 1.0 / self.right_width)), v - self.y, side


def side_of(offset: Tensor) -> Tensor:
    """+1 for points right of 0, -1 for points left of it: arithmetic, many times faster than a choice per element."""
    return (offset * 1e6).clamp_(-1.0, 1.0)


def by_side(side: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``left`` where ``side`` is -1 and ``right`` where it is +1."""
    return side * ((right - left) * 0.5) + (left + right) * 0.5


def pair(p: Pose, x: Tensor, y: Tensor, z: Tensor | float, narrowing: Tensor | float | None = None) -> Pair:
    """The pair at (x, y, z) and (-x, y, z) of a round head, or one that turns as if at depth ``narrowing``."""
    right, shown_y = p.place(x, y, z)
    left, _ = p.place(-x, y, z)
    slope = p.n.turn * x / (z if narrowing is None else narrowing)
    return Pair(
        left,
        right,
        (p.n.ahead + slope).clamp(0.4, 1.25),
        (p.n.ahead - slope).clamp(0.4, 1.25),
        shown_y,
    )
