"""Anatomy: the proportions of every species and the face of every expression, as tables and as tensors.

Lengths are in head radii, with the origin at the head's centre, u to the right and v down; paired parts are given for
the right side of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T", float, Tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy(Generic[T]):
    """Proportions of one species (floats), or of the species of every picture in a batch (tensors (N, 1, 1))."""

    frame_scale: T
    frame_dy: T
    head_rx: T
    head_ry: T
    head_taper: T
    ear_x: T
    ear_y: T
    tip_x: T
    tip_y: T
    ear_start: T
    ear_end: T
    ear_bulge: T
    ear_bend: T
    ear_front: T
    ear_inner: T
    ear_tip_dark: T
    eye_x: T
    eye_y: T
    eye_rx: T
    eye_ry: T
    eye_slant: T
    iris: T
    pupil_rx: T
    pupil_ry: T
    pad_x: T
    pad_y: T
    pad_rx: T
    pad_ry: T
    chin_y: T
    chin_rx: T
    chin_ry: T
    bridge_y: T
    bridge_rx: T
    bridge_ry: T
    snout: T
    cheek_x: T
    cheek_y: T
    cheek_rx: T
    cheek_ry: T
    cheek: T
    nose_y: T
    nose_rx: T
    nose_ry: T
    nose_taper: T
    mouth_y: T
    mouth_w: T
    teeth: T
    whiskers: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood(Generic[T]):
    """Face of one expression, or of every picture's expression: eyelids in eye heights, mouth in mouth half widths."""

    open: T
    lid_top: T
    lid_tilt: T
    lid_low: T
    brow: T
    brow_tilt: T
    dip: T
    rise: T
    gape: T
    tongue: T


SPECIES_ANATOMY: dict[str, Anatomy[float]] = {
    "cat": Anatomy(
        frame_scale=1.0, frame_dy=0.03,
        head_rx=1.0, head_ry=0.84, head_taper=0.05,
        ear_x=0.58, ear_y=-0.50, tip_x=0.86, tip_y=-1.28, ear_start=0.36, ear_end=0.03, ear_bulge=0.05, ear_bend=0.0,
        ear_front=0.0, ear_inner=1.0, ear_tip_dark=0.0,
        eye_x=0.41, eye_y=-0.07, eye_rx=0.235, eye_ry=0.205, eye_slant=0.22, iris=0.95, pupil_rx=0.30, pupil_ry=0.80,
        pad_x=0.155, pad_y=0.40, pad_rx=0.25, pad_ry=0.19, chin_y=0.57, chin_rx=0.2, chin_ry=0.17,
        bridge_y=0.3, bridge_rx=0.13, bridge_ry=0.16, snout=0.1,
        cheek_x=0.5, cheek_y=0.4, cheek_rx=0.3, cheek_ry=0.2, cheek=0.0,
        nose_y=0.255, nose_rx=0.12, nose_ry=0.085, nose_taper=0.55, mouth_y=0.42, mouth_w=0.27, teeth=0.0, whiskers=1.0,
    ),
    "dog": Anatomy(
        frame_scale=1.0, frame_dy=-0.02,
        head_rx=0.85, head_ry=0.92, head_taper=-0.06,
        ear_x=0.62, ear_y=-0.60, tip_x=1.0, tip_y=0.36, ear_start=0.2, ear_end=0.17, ear_bulge=0.12, ear_bend=0.14,
        ear_front=1.0, ear_inner=0.0, ear_tip_dark=0.0,
        eye_x=0.35, eye_y=-0.16, eye_rx=0.165, eye_ry=0.165, eye_slant=-0.08, iris=0.84, pupil_rx=0.5, pupil_ry=0.5,
        pad_x=0.2, pad_y=0.50, pad_rx=0.32, pad_ry=0.26, chin_y=0.74, chin_rx=0.26, chin_ry=0.16,
        bridge_y=0.1, bridge_rx=0.17, bridge_ry=0.55, snout=0.32,
        cheek_x=0.5, cheek_y=0.4, cheek_rx=0.3, cheek_ry=0.2, cheek=0.0,
        nose_y=0.28, nose_rx=0.22, nose_ry=0.155, nose_taper=0.3, mouth_y=0.56, mouth_w=0.34, teeth=0.0, whiskers=0.0,
    ),
    "rabbit": Anatomy(
        frame_scale=0.88, frame_dy=0.46,
        head_rx=0.84, head_ry=0.86, head_taper=0.14,
        ear_x=0.30, ear_y=-0.62, tip_x=0.50, tip_y=-1.84, ear_start=0.14, ear_end=0.10, ear_bulge=0.12, ear_bend=0.0,
        ear_front=0.0, ear_inner=1.0, ear_tip_dark=0.0,
        eye_x=0.48, eye_y=-0.10, eye_rx=0.17, eye_ry=0.20, eye_slant=0.05, iris=0.95, pupil_rx=0.66, pupil_ry=0.66,
        pad_x=0.13, pad_y=0.40, pad_rx=0.21, pad_ry=0.17, chin_y=0.6, chin_rx=0.16, chin_ry=0.14,
        bridge_y=0.3, bridge_rx=0.1, bridge_ry=0.16, snout=0.12,
        cheek_x=0.5, cheek_y=0.4, cheek_rx=0.3, cheek_ry=0.2, cheek=0.0,
        nose_y=0.27, nose_rx=0.095, nose_ry=0.065, nose_taper=0.6, mouth_y=0.42, mouth_w=0.18, teeth=1.0, whiskers=0.8,
    ),
    "bear": Anatomy(
        frame_scale=1.0, frame_dy=0.02,
        head_rx=1.0, head_ry=0.90, head_taper=0.05,
        ear_x=0.70, ear_y=-0.62, tip_x=0.76, tip_y=-0.72, ear_start=0.31, ear_end=0.30, ear_bulge=0.0, ear_bend=0.0,
        ear_front=0.0, ear_inner=0.55, ear_tip_dark=0.0,
        eye_x=0.36, eye_y=-0.12, eye_rx=0.13, eye_ry=0.13, eye_slant=0.0, iris=0.92, pupil_rx=0.6, pupil_ry=0.6,
        pad_x=0.12, pad_y=0.38, pad_rx=0.34, pad_ry=0.29, chin_y=0.50, chin_rx=0.34, chin_ry=0.24,
        bridge_y=0.24, bridge_rx=0.26, bridge_ry=0.22, snout=0.28,
        cheek_x=0.5, cheek_y=0.4, cheek_rx=0.3, cheek_ry=0.2, cheek=0.0,
        nose_y=0.2, nose_rx=0.18, nose_ry=0.115, nose_taper=0.25, mouth_y=0.44, mouth_w=0.22, teeth=0.0, whiskers=0.0,
    ),
    "fox": Anatomy(
        frame_scale=1.0, frame_dy=0.05,
        head_rx=0.96, head_ry=0.86, head_taper=-0.42,
        ear_x=0.58, ear_y=-0.52, tip_x=0.84, tip_y=-1.36, ear_start=0.36, ear_end=0.03, ear_bulge=0.04, ear_bend=0.0,
        ear_front=0.0, ear_inner=0.3, ear_tip_dark=1.0,
        eye_x=0.38, eye_y=-0.06, eye_rx=0.18, eye_ry=0.135, eye_slant=0.35, iris=0.92, pupil_rx=0.34, pupil_ry=0.78,
        pad_x=0.08, pad_y=0.56, pad_rx=0.18, pad_ry=0.17, chin_y=0.68, chin_rx=0.15, chin_ry=0.14,
        bridge_y=0.42, bridge_rx=0.13, bridge_ry=0.3, snout=0.42,
        cheek_x=0.48, cheek_y=0.44, cheek_rx=0.42, cheek_ry=0.27, cheek=1.0,
        nose_y=0.50, nose_rx=0.125, nose_ry=0.095, nose_taper=0.4, mouth_y=0.66, mouth_w=0.2, teeth=0.0, whiskers=0.5,
    ),
}  # fmt: skip

_NEUTRAL: Mood[float] = Mood(
    open=1.0, lid_top=0.0, lid_tilt=0.0, lid_low=0.0, brow=0.0, brow_tilt=0.0, dip=0.4, rise=0.3, gape=0.0, tongue=0.0
)

EXPRESSION_MOODS: dict[str, Mood[float]] = {
    "neutral": _NEUTRAL,
    "smiling": replace(_NEUTRAL, dip=0.35, rise=0.75, lid_low=0.16),
    "laughing": replace(_NEUTRAL, dip=0.25, rise=0.6, gape=1.15, tongue=1.0, lid_low=0.2),
    "sad": replace(_NEUTRAL, dip=0.0, rise=-0.6, lid_top=0.2, lid_tilt=0.3, brow=1.0, brow_tilt=0.55),
    "surprised": replace(_NEUTRAL, open=1.18, dip=0.1, rise=-0.2, gape=1.5),
    "sleepy": replace(_NEUTRAL, lid_top=0.62, lid_low=0.06, dip=0.3, rise=0.2),
    "angry": replace(_NEUTRAL, lid_top=0.22, lid_tilt=-0.45, dip=0.05, rise=-0.35, brow=1.0, brow_tilt=-0.6),
}
