"""Body: shoulders, ears and the head's outline, which everything of the face is painted onto."""

from __future__ import annotations

import torch
from torch import Tensor

from gengauge.datasets.world.canvas import BODY, EARS, HEAD, Canvas
from gengauge.datasets.world.palette import EAR_PINK
from gengauge.datasets.world.pose import Pair, Pose, colours, pair
from gengauge.datasets.world.shapes import blade, coverage, ellipse

BODY_Y, BODY_RX, BODY_RY = 1.85, 1.02, 1.25


def torso(c: Canvas, p: Pose, fur: Tensor) -> None:
    """Paint shoulders and a light chest under the head; the body stays upright when the head is turned."""
    u = c.u * p.n.cos - c.v * p.n.sin
    v = c.u * p.n.sin + c.v * p.n.cos
    c.body.copy_(coverage(ellipse(u, (v - BODY_Y).clamp_(max=0.0), BODY_RX, BODY_RY), c.pixels))
    # Darker than the head, and darkest below the chin: the head throws a shadow on it.
    shade = (v - 0.7).clamp_(0.0, 0.5).mul_(0.5).add_(0.58)
    c.paint(c.body, fur, BODY, shade)
    chest = coverage(ellipse(u, v - 1.62, 0.42, 0.62), c.pixels * 0.35).mul_(0.75).mul_(c.body)
    c.paint(chest, p.c.light, shade=shade + 0.06)
    c.animal.copy_(c.body)


def ear_pair(p: Pose) -> Pair:
    """Where the bases of both ears show."""
    return pair(p, p.a.ear_x * p.n.head_width, p.a.ear_y, 0.04, narrowing=1.0)


def ear_direction(p: Pose) -> tuple[Tensor, Tensor]:
    """From an ear's base to its tip, outwards and down."""
    a = p.a
    rise = a.tip_y - a.ear_y
    return a.tip_x - a.ear_x - 0.12 * p.n.ear_spread * rise, rise


def ears(c: Canvas, p: Pose, fur: Tensor) -> Tensor:
    """Paint both ears behind the head; returns the coverage of those that hang in front of it, to be kept free."""
    a = p.a
    base = ear_pair(p)
    u, v, _ = base.local(c.u, c.v)
    du, dv = ear_direction(p)
    spine, half, along = blade(u, v, du, dv, a.ear_start, a.ear_end, a.ear_bulge, a.ear_bend)
    distance = spine - half
    alpha = coverage(distance, c.pixels)
    rim = (distance * 1.6).add_(0.36).clamp_(0.0, 0.3)
    tip = (along - 0.55).mul_(3.0).clamp_(0.0, 1.0).mul_(a.ear_tip_dark * 0.8)
    c.paint(alpha, fur, EARS, rim.add_(tip).neg_().add_(1.0))
    pink = (colours([EAR_PINK]) * 0.62 + p.c.light * 0.38) * (0.62 + 0.38 * a.ear_inner)
    inner = coverage(spine - half * 0.62 + 0.02, c.pixels).mul_((0.55 + 0.45 * a.ear_inner) * (a.ear_inner > 0))
    c.paint(inner, pink, shade=along.mul_(0.34).add_(0.72))
    torch.maximum(c.animal, alpha, out=c.animal)
    return alpha.mul_(a.ear_front)


def head(c: Canvas, p: Pose, fur: Tensor, in_front: Tensor) -> None:
    """Paint the head's outline filled with fur, except where ``in_front`` covers it."""
    a = p.a
    width = (c.v * a.head_taper).add_(1.0).mul_(p.n.head_width).clamp_(min=0.3)
    distance = ellipse(c.u / width, c.v, a.head_rx, a.head_ry)
    outline = coverage(distance, c.pixels)
    torch.maximum(c.animal, outline, out=c.animal)
    c.head.copy_(outline.mul_(1.0 - in_front))
    c.paint(c.head, fur, HEAD, (distance + 0.3).clamp_(0.0, 0.35).mul_(-0.75).add_(1.05))


def cheeks(c: Canvas, p: Pose) -> None:
    """Paint the light cheeks of the species that have them."""
    a = p.a
    u, v, _ = pair(p, a.cheek_x, a.cheek_y, 0.7).local(c.u, c.v)
    # Slanted down towards the snout.
    alpha = coverage(ellipse(u, v + 0.45 * u, a.cheek_rx, a.cheek_ry), c.pixels * 0.8)
    c.paint(alpha.mul_(c.head).mul_(a.cheek), p.c.light)
