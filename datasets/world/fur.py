"""Fur: the coat's colour at every point, plain or with stripes, spots or patches that turn with the head."""

from __future__ import annotations

import torch
from torch import Tensor

from gengauge.datasets.world.canvas import Canvas
from gengauge.datasets.world.pose import Pose, hashed
from gengauge.datasets.world.shapes import box, coverage, ellipse, length

# Added to lattice coordinates to make them positive everywhere, as ``frac`` needs.
_FAR = 128.0


def coat(c: Canvas, p: Pose) -> Tensor:
    """The fur's colour (3, N, H, W) everywhere, whatever is there; ears, head and body show their part of it."""
    fur = torch.empty(3, *c.u.shape)
    for plane, colour in zip(fur, p.c.fur, strict=True):
        plane.copy_(colour.expand(c.u.shape))
    delta = p.c.marking - p.c.fur
    for name, alpha_of in (("striped", _stripes), ("spotted", _spots), ("patched", _patches)):
        rows = [i for i, s in enumerate(p.scenes) if s.pattern == name]
        if not rows:
            continue
        some = torch.tensor(rows)
        u, v, pixels, turn, ahead, nod = (
            plane.index_select(0, some) for plane in (c.u, c.v, c.pixels, p.n.turn, p.n.ahead, p.n.nod)
        )
        u, v = _unturned(u, v, turn, ahead, nod)
        alpha = alpha_of(u, v, pixels, hashed([p.scenes[i].fur_texture for i in rows], 12))
        for plane, colour, change in zip(fur, p.c.fur[:, some], delta[:, some], strict=True):
            plane.index_copy_(0, some, (change * alpha).add_(colour))
    return fur


def _unturned(u: Tensor, v: Tensor, turn: Tensor, ahead: Tensor, nod: Tensor) -> tuple[Tensor, Tensor]:
    """Where shown points lie on the unturned head, a unit sphere with a flat plane around it."""
    rest = (1.0 - u * u).sub_(v * v).clamp_(min=1e-9)
    depth = rest.mul_(rest.rsqrt())
    return u * ahead - depth * turn, v - depth * nod


def _stripes(u: Tensor, v: Tensor, pixels: Tensor, h: Tensor) -> Tensor:
    """Upright bars on the forehead, and bars that run in from the sides of the face and across the body."""
    away = u.abs()
    period = 0.21 + 0.06 * h[0]
    phase = u * (1.0 / period) + _FAR + 0.5
    forehead = phase.frac().sub_(0.5).abs_().mul_(period).sub_(0.035 + 0.02 * h[1])
    forehead = torch.maximum(forehead, box(u, v + 0.66, 1.55 * period, 0.26 + 0.08 * h[2]))
    period = 0.26 + 0.08 * h[3]
    phase = (v + away * (0.5 * h[4] - 0.1)) * (1.0 / period) + h[5] + _FAR
    sides = phase.frac().sub_(0.5).abs_().mul_(period)
    # The bars taper towards the face; below the chin they cross the whole chest.
    inner = (v - 0.98).mul_(50.0).clamp_(0.0, 1.0).mul_(-0.52).add_(0.62)
    taper = (away - inner).mul_(0.16).clamp_(max=0.085 * period / 0.3)
    return coverage(torch.minimum(forehead, sides - taper), pixels)


def _spots(u: Tensor, v: Tensor, pixels: Tensor, h: Tensor) -> Tensor:
    """One round spot in each cell of a staggered lattice; a spot never leaves its cell."""
    cells = 2.7 + 0.9 * h[0]
    b = v * cells + h[1] * 8.0 + _FAR
    row = b - b.frac()
    a = u * cells + h[2] * 8.0 + (row * 0.5).frac_() + _FAR
    column = a - a.frac()
    key = (column * 0.7548777 + row * 0.5698403 + h[3]).frac_()
    other = (key * 7.31).frac_()
    x = a - column - 0.35 - 0.3 * key
    y = b - row - 0.35 - 0.3 * other
    spot = length(x, y).sub_(0.16 + 0.16 * other)
    return coverage(spot, pixels / cells)


def _patches(u: Tensor, v: Tensor, pixels: Tensor, h: Tensor) -> Tensor:
    """A large patch around one eye, others over the far ear, a cheek and a shoulder."""
    side = torch.where(h[0] < 0.5, -1.0, 1.0)
    patches = (
        (side * (0.42 + 0.1 * h[1]), -0.2 + 0.15 * h[2], 0.42 + 0.16 * h[3], 0.5 + 0.16 * h[4]),
        (-side * (0.75 + 0.1 * h[5]), -0.95 + 0.2 * h[6], 0.42 + 0.1 * h[7], 0.5 + 0.1 * h[7]),
        (-side * (0.8 + 0.1 * h[8]), 0.5 + 0.2 * h[9], 0.3 + 0.1 * h[10], 0.25 + 0.1 * h[6]),
        (side * (0.5 + 0.3 * h[11]), 1.6 + 0.2 * h[9], 0.5 + 0.1 * h[1], 0.4 + 0.1 * h[2]),
    )
    alpha = torch.zeros_like(u)
    for x, y, rx, ry in patches:
        torch.maximum(alpha, coverage(ellipse(u - x, v - y, rx, ry), pixels), out=alpha)
    return alpha
