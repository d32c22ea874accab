"""Accessories: collar, hat and glasses."""

from __future__ import annotations

import torch

from gengauge.datasets.world.canvas import ACCESSORY, Canvas
from gengauge.datasets.world.face import eye_pair
from gengauge.datasets.world.palette import BRASS, INK
from gengauge.datasets.world.pose import Pose, colours
from gengauge.datasets.world.shapes import box, coverage, ellipse, length, line_coverage


def collar(c: Canvas, p: Pose) -> None:
    """Paint a band around the neck, over the body, with a brass tag."""
    u = c.u * p.n.cos - c.v * p.n.sin
    v = c.u * p.n.sin + c.v * p.n.cos
    band = (v - 1.2 + 0.2 * u * u).abs_().sub_(0.105)
    alpha = coverage(band, c.pixels).mul_(c.body)
    c.paint(alpha, p.c.accessory, ACCESSORY, band.clamp_(-0.06, 0.0).mul_(-2.0).add_(0.88))
    c.paint(coverage(ellipse(u, v - 1.4, 0.12, 0.12), c.pixels), colours([BRASS]), ACCESSORY)


def hat(c: Canvas, p: Pose) -> None:
    """Paint a brimmed hat on top of the head, between the ears."""
    cu, cv = p.place(0.0, -0.02 - 0.78 * p.a.head_ry, 0.45)
    u, v = c.u - cu, c.v - cv
    crown = coverage(box(u, v + 0.31, 0.40 - 0.1 * v, 0.31), c.pixels)
    c.paint(crown, p.c.accessory, ACCESSORY, 1.0 - u * u * 0.9)
    ribbon = coverage((v + 0.16).abs_().sub_(0.08), c.pixels).mul_(crown)
    c.paint(ribbon, 1.0 - p.c.accessory * 0.8)
    brim = coverage(ellipse(u, v + 0.12 * u * u, 0.68, 0.12), c.pixels)
    c.paint(brim, p.c.accessory, ACCESSORY, 0.8 - v * 1.2)
    torch.maximum(c.animal, torch.maximum(crown, brim), out=c.animal)


def glasses(c: Canvas, p: Pose) -> None:
    """Paint round glasses around the eyes, with temples up to the head's edge."""
    a = p.a
    u, v, _ = eye_pair(p).local(c.u, c.v)
    radius = torch.minimum(a.eye_rx * p.n.eye_size * 1.3 + 0.05, a.eye_x * 0.86)
    r = length(u, v).sub_(radius)
    c.paint(coverage(r, c.pixels).mul_(0.16), colours([(225, 240, 255)]))
    # Between the rims the bridge, outside of them the temples.
    bar = torch.maximum((v - 0.02).abs_().sub_(0.03), -r)
    bridge = coverage(torch.maximum(bar, u), c.pixels)
    temple = coverage(torch.maximum(bar, -u), c.pixels).mul_(c.head)
    frame = torch.maximum(line_coverage(r.abs_(), 0.045, c.pixels), torch.maximum(bridge, temple))
    c.paint(frame, p.c.accessory * 0.85 + colours([INK]) * 0.1, ACCESSORY)
