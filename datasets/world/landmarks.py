"""Landmarks: named points of the face, where a turned head shows them, and whether they can be seen."""

from __future__ import annotations

import torch
from torch import Tensor

from gengauge.datasets.world.body import ear_direction, ear_pair
from gengauge.datasets.world.canvas import EARS, EYES, HEAD, LABELS, MOUTH, MUZZLE, NOSE
from gengauge.datasets.world.face import eye_pair
from gengauge.datasets.world.pose import Pair, Pose, pair

LANDMARKS: tuple[str, ...] = (
    "left_ear_tip",
    "right_ear_tip",
    "left_ear_base",
    "right_ear_base",
    "left_eye",
    "right_eye",
    "left_eye_outer",
    "right_eye_outer",
    "left_eye_inner",
    "right_eye_inner",
    "left_cheek",
    "right_cheek",
    "left_mouth_corner",
    "right_mouth_corner",
    "nose",
    "mouth",
    "chin",
    "forehead",
)
"""Names of the landmarks, left and right as the viewer sees them."""
# The labels that a landmark may lie on, by the first word of its name after the side.
_PARTS: dict[str, tuple[int, ...]] = {
    "ear": (EARS,),
    "eye": (EYES,),
    "cheek": (HEAD,),
    "mouth": (HEAD, MUZZLE, MOUTH),
    "nose": (NOSE,),
    "chin": (MUZZLE, MOUTH),
    "forehead": (HEAD,),
}
_CHEEK_X, _CHEEK_Y = 0.78, 0.28


def head_points(p: Pose) -> tuple[Tensor, Tensor, Tensor]:
    """The landmarks in head coordinates: u and v (N, 1, L), and whether they are turned towards the viewer (N, L)."""
    a, m = p.a, p.m
    points: list[tuple[Tensor, Tensor]] = []

    def both(where: Pair, du: Tensor | float, dv: Tensor | float) -> None:
        points.append((where.left - du * where.left_width, where.y + dv))
        points.append((where.right + du * where.right_width, where.y + dv))

    du, dv = ear_direction(p)
    # A little inside the tip, whose last pixel is rarely drawn; the base is where the outer side meets the head.
    both(ear_pair(p), 0.95 * du, 0.95 * dv)
    both(ear_pair(p), 0.3 * du, 0.3 * dv)
    rx = a.eye_rx * p.n.eye_size
    both(eye_pair(p), 0.0, 0.0)
    # The eye is sheared by its slant; its corners lie just inside the dark rim.
    slant = 0.95 * a.eye_slant * a.eye_ry * p.n.eye_size * m.open
    both(eye_pair(p), 0.95 * rx, -slant)
    both(eye_pair(p), -0.95 * rx, slant)
    x = _CHEEK_X * a.head_rx * (1.0 + a.head_taper * _CHEEK_Y)
    both(pair(p, x, torch.full_like(x, _CHEEK_Y), 0.55), 0.0, 0.0)
    both(pair(p, a.mouth_w, a.mouth_y, 0.86 + a.snout), 0.0, -m.rise * a.mouth_w)
    gape = m.gape * a.mouth_w
    points.append(p.place(0.0, a.nose_y, 1.0 + a.snout))
    points.append(p.place(0.0, a.mouth_y, 0.95 + a.snout))
    points.append(p.place(0.0, a.chin_y + 0.55 * gape + 0.6 * a.chin_ry, 0.8 + 0.6 * a.snout))
    points.append(p.place(0.0, -0.7 * a.head_ry, 0.5))
    u, v = (torch.cat([point[k] for point in points], dim=2) for k in (0, 1))
    towards = torch.ones(u.shape[0], len(LANDMARKS), dtype=torch.bool)
    slope = (p.n.turn * x / 0.55).view(-1)
    ahead = p.n.ahead.view(-1)
    towards[:, LANDMARKS.index("left_cheek")] = ahead + slope > 0.25
    towards[:, LANDMARKS.index("right_cheek")] = ahead - slope > 0.25
    return u, v, towards


def unhidden(labels: Tensor) -> Tensor:
    """Whether what lies on top at each landmark, ``labels`` (N, L), is the part that the landmark belongs to."""
    own = torch.zeros(len(LANDMARKS), len(LABELS), dtype=torch.bool)
    for k, name in enumerate(LANDMARKS):
        part = name.removeprefix("left_").removeprefix("right_").split("_")[0]
        own[k, list(_PARTS[part])] = True
    return own[torch.arange(len(LANDMARKS)), labels.long()]
