"""Face: eyes, muzzle, nose, mouth and whiskers, as the species and the expression shape them."""

from __future__ import annotations

import torch
from torch import Tensor

from gengauge.datasets.world.canvas import EYES, MOUTH, MUZZLE, NOSE, Canvas
from gengauge.datasets.world.palette import INK, MOUTH_RED, TONGUE, TOOTH
from gengauge.datasets.world.pose import Pair, Pose, by_side, colours, pair, side_of
from gengauge.datasets.world.shapes import coverage, ellipse, length, line_coverage, smooth_min

EYE_DEPTH = 0.82
WHITE = (255, 255, 255)


def eye_pair(p: Pose) -> Pair:
    """Where both eyes show."""
    return pair(p, p.a.eye_x, p.a.eye_y, EYE_DEPTH)


def eyes(c: Canvas, p: Pose) -> None:
    """Paint both eyes with pupils, highlights and lids."""
    a, m = p.a, p.m
    rx, ry = a.eye_rx * p.n.eye_size, a.eye_ry * p.n.eye_size * m.open
    u, v, side = eye_pair(p).local(c.u, c.v)
    u, v = u / rx, v / ry
    pixels = c.pixels * ry
    v = v + a.eye_slant * u
    r = length(u, v)
    socket = coverage(r - 1.13, pixels)
    ink = colours([INK])
    c.paint(socket, ink, EYES)
    ball = coverage(r - 0.98, pixels)
    c.paint(ball, colours([WHITE]) * 0.94)
    # The pupil's centre, in the eye's outward-pointing coordinates; v is sheared, so gaze follows the slant.
    gu = p.n.gaze_x * side * 0.2
    gv = p.n.gaze_y * 0.16
    iu, iv = u - gu, v - gv
    ir = length(iu, iv)
    iris = coverage(ir - a.iris, pixels) * ball
    c.paint(iris, p.c.iris, shade=(ir - 0.55).clamp_(min=0.0).mul_(-0.35).add_(iv * 0.32).add_(0.86))
    pupil = coverage(ellipse(iu, iv, a.pupil_rx, a.pupil_ry), pixels) * ball
    c.paint(pupil, ink * 0.6)
    gleam = side * 0.34 * p.n.light_x
    shine = torch.minimum(ellipse(u - gleam, v + 0.36, 0.24, 0.24), ellipse(u + gleam, v - 0.42, 0.12, 0.12))
    c.paint(coverage(shine, pixels) * ball, colours([WHITE]))
    top = -1.25 + 2.3 * m.lid_top + m.lid_tilt * u
    lid = torch.minimum(v - top, 1.25 - 2.3 * m.lid_low - v)
    c.paint(coverage(lid, pixels) * socket, p.c.fur * 0.84)
    lash = line_coverage((v - top).abs_(), 0.1, pixels) * socket * (m.lid_top > 0)
    c.paint(lash, ink)


def brows(c: Canvas, p: Pose) -> None:
    """Paint the slanted brows of the expressions that have them."""
    a, m = p.a, p.m
    u, v, _ = eye_pair(p).local(c.u, c.v)
    rx, ry = a.eye_rx * p.n.eye_size, a.eye_ry * p.n.eye_size * m.open
    u, v = u / rx, v / ry
    pixels = c.pixels * ry
    height = (v + a.eye_slant * u + 1.67 - m.brow_tilt * u).abs_()
    brow = line_coverage(height, 0.16, pixels).mul_(coverage(u.abs() - 0.85, pixels))
    c.paint(brow.mul_(m.brow), p.c.marking * 0.7)


def eyes_square(p: Pose) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Centre and reach of a square that holds both eyes however the head is turned."""
    a = p.a
    width, height = a.eye_x + 1.45 * a.eye_rx * p.n.eye_size, (1.2 + a.eye_slant.abs()) * a.eye_ry * p.n.eye_size
    return p.place(0.0, a.eye_y, EYE_DEPTH), length(width, 1.22 * height)


def muzzle_square(p: Pose) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Centre and reach of a square that holds muzzle, mouth and nose however the head is turned."""
    a = p.a
    top = torch.minimum(a.bridge_y - a.bridge_ry, a.nose_y - a.nose_ry)
    bottom = torch.maximum(a.chin_y + a.chin_ry, a.mouth_y + 0.1) + p.m.gape * a.mouth_w
    width = torch.maximum(a.pad_x + 1.3 * a.pad_rx, 1.3 * a.mouth_w + 0.05)
    width = width + 0.35 * p.n.turn.abs()
    half = 0.5 * (bottom - top)
    reach = torch.maximum(torch.maximum(half, width), 0.75 * length(half, width)) + 0.08
    return p.place(0.0, 0.5 * (top + bottom), 0.95 + a.snout), reach


def muzzle(c: Canvas, p: Pose) -> None:
    """Paint the light muzzle: a pad on either side, the chin, which an open mouth lowers, and the nose's bridge."""
    a = p.a
    u, v, _ = pair(p, a.pad_x, a.pad_y, 0.86 + a.snout).local(c.u, c.v)
    pads = ellipse(u, v, a.pad_rx, a.pad_ry)
    cu, cv = p.place(0.0, a.chin_y + 0.55 * a.mouth_w * p.m.gape, 0.8 + 0.6 * a.snout)
    chin = ellipse(c.u - cu, c.v - cv, a.chin_rx, a.chin_ry)
    cu, cv = p.place(0.0, a.bridge_y, 0.9 + 0.3 * a.snout)
    bridge = ellipse(c.u - cu, c.v - cv, a.bridge_rx, a.bridge_ry)
    distance = smooth_min(smooth_min(pads, chin, 0.1), bridge, 0.12)
    rim = (distance + 0.12).clamp_(0.0, 0.14).mul_(1.1)
    c.paint(coverage(distance, c.pixels), p.c.light, MUZZLE, rim.neg_().add_(1.0))


def mouth(c: Canvas, p: Pose) -> None:
    """Paint the mouth: a double curve from the middle to both corners, or the opening under it with a tongue."""
    a, m = p.a, p.m
    ink = colours([INK])
    centre, y = p.place(0.0, a.mouth_y, 0.95 + a.snout)
    _, nose_y = p.place(0.0, a.nose_y, 1.0 + a.snout)
    corner = pair(p, a.mouth_w, a.mouth_y, 0.86 + a.snout)
    du = c.u - centre
    w = by_side(side_of(du), centre - corner.left, corner.right - centre).clamp_(min=0.03)
    dv = c.v - y
    away = du.abs()
    t = away / w
    s = t.clamp(max=1.0)
    dip, rise = m.dip * a.mouth_w, m.rise * a.mouth_w
    upper = (1.0 - s) * s * (4.0 * 0.6 * dip) - s * s * rise
    gape = m.gape * a.mouth_w
    opening = torch.maximum(upper - dv, dv - upper - gape * (1.0 - s * s))
    opening = torch.maximum(opening, away - w)
    hole = coverage(opening, c.pixels).mul_(m.gape > 0)
    c.paint(hole, colours([MOUTH_RED]), MOUTH)
    tongue = coverage(ellipse(du, dv - gape * 0.86, a.mouth_w * 0.55, gape * 0.5 + 0.02), c.pixels)
    c.paint(tongue * hole * m.tongue, colours([TONGUE]))
    slope = ((1.0 - 2.0 * s) * (4.0 * 0.6 * dip) - s * (2.0 * rise)) / w
    over = (away - w).clamp_(min=0.0)
    gap = dv - upper
    curve = length(gap.mul_((slope * slope + 1.0).rsqrt_()), over)
    # Philtrum: straight down from the nose.
    above = torch.maximum(nose_y - c.v, dv).clamp_(min=0.0)
    stem = length(du, above)
    line = torch.minimum(curve, stem)
    c.paint(line_coverage(line, 0.03, c.pixels), ink)
    # However thin it is drawn, the line owns the pixels that it passes through.
    c.mark(coverage(curve - torch.clamp(0.5 / c.pixels, min=0.03), c.pixels), MOUTH)


def teeth(c: Canvas, p: Pose) -> None:
    """Paint two front teeth below the middle of the mouth."""
    centre, y = p.place(0.0, p.a.mouth_y, 0.95 + p.a.snout)
    away, dv = (c.u - centre).abs_(), c.v - y
    teeth = torch.maximum((away - 0.055).abs() - 0.047, (dv - 0.085).abs() - 0.075)
    c.paint(coverage(teeth, c.pixels), colours([TOOTH]), MOUTH)


def nose(c: Canvas, p: Pose) -> None:
    """Paint the nose, wider at the top, with nostrils and a gleam."""
    a = p.a
    cu, cv = p.place(0.0, a.nose_y, 1.0 + a.snout)
    u, v = (c.u - cu) / a.nose_rx, (c.v - cv) / a.nose_ry
    pixels = c.pixels * a.nose_ry
    width = (1.0 - a.nose_taper * v).clamp_(min=0.25)
    r = length(u / width, v)
    c.paint(coverage(r - 1.0, pixels), p.c.nose, NOSE)
    c.paint(coverage(ellipse(u.abs() - 0.48, v - 0.12, 0.2, 0.26), pixels) * 0.6, colours([INK]) * 0.5)
    c.paint(coverage(ellipse(u - 0.3 * p.n.light_x, v + 0.5, 0.42, 0.2), pixels) * 0.5, colours([WHITE]))


def whiskers(c: Canvas, p: Pose) -> None:
    """Paint three long whiskers on each side of species that show them."""
    a = p.a
    u, v, _ = pair(p, a.pad_x, a.pad_y, 0.86 + a.snout).local(c.u, c.v)
    # A fan of rays: in slope they are evenly spaced, so the nearest one is found by rounding.
    reach = u + 0.35
    slope = (v + 0.02) / reach.clamp(min=0.1) + 0.03 * u
    step = 0.17
    shifted = (slope * (1.0 / step)).clamp_(-1.4, 1.4).add_(1.5)
    nearest = shifted - shifted.frac() - 1.0
    distance = (slope - nearest * step).abs_().mul_(reach)
    ends = torch.maximum(0.1 - u, u - 1.0)
    alpha = line_coverage(distance, 0.011, c.pixels) * coverage(ends, c.pixels)
    c.paint(alpha * a.whiskers * 0.9, colours([(250, 248, 244)]) * 0.75 + (1.0 - p.c.fur) * 0.25)
