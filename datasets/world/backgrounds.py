"""Backgrounds: plain, gradient, meadow, night and bricks behind the animal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gengauge.datasets.world.palette import BACKGROUND
from gengauge.datasets.world.pose import colours, hashed
from gengauge.datasets.world.scenes import Scene
from gengauge.datasets.world.shapes import coverage, length, line_coverage

# From back to front, each a colour (3, N, 1, 1) with its opacity; the first one's second tensor is its brightness.
Layers = list[tuple[Tensor, Tensor]]
Painter = Callable[[Tensor, Tensor, float, Tensor, Tensor], Layers]


def backgrounds(scenes: Sequence[Scene], x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The background of each scene as planes (N, H, W) in [0, 1], at the points ``x`` (1, 1, W) and ``y`` (1, H, 1).

    The points are in pixels of pictures of ``size`` x ``size``.
    """
    shape = (len(scenes), y.shape[1], x.shape[2])
    out = (torch.empty(shape), torch.empty(shape), torch.empty(shape))
    x, y = x / size, y / size
    for name, painter in _PAINTERS.items():
        rows = [i for i, s in enumerate(scenes) if s.background == name]
        if rows:
            colour = colours([BACKGROUND[scenes[i].background_colour] for i in rows])
            h = hashed([scenes[i].background_texture for i in rows], 12)
            index = torch.tensor(rows)
            layers = painter(x, y, float(size), colour, h)
            for k, plane in enumerate(out):
                plane.index_copy_(0, index, _flatten(layers, k).expand(len(rows), *shape[1:]))
    return out


def _flatten(layers: Layers, channel: int) -> Tensor:
    """One channel of the layers laid over each other; the first one is solid."""
    out = layers[0][0][channel] * layers[0][1]
    for colour, alpha in layers[1:]:
        out = out + (colour[channel] - out) * alpha
    return out


def _plain(x: Tensor, y: Tensor, size: float, colour: Tensor, h: Tensor) -> Layers:
    return [(colour, 0.94 + 0.1 * h[0])]


def _gradient(x: Tensor, y: Tensor, size: float, colour: Tensor, h: Tensor) -> Layers:
    """From the colour to a darker one, along a slanted line, down or up."""
    t = (y + (x - 0.5) * (h[0] - 0.5)).clamp(0.0, 1.0)
    t = torch.where(h[1] < 0.5, t, 1.0 - t)
    return [(colour * 1.08 + 0.06, torch.ones(1)), (colour * 0.42, t)]


def _disc(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return length(x, y) - radius


def _cells(x: Tensor, y: Tensor, cells: float, wander: float, h: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from the one point in each lattice cell, and a number in [0, 1) that differs from cell to cell."""
    b = y * cells
    row = b - b.frac()
    a = x * cells + 0.5 * (row * 0.5).frac() + h[0] * 4.0
    column = a - a.frac()
    key = (column * 0.7548777 + row * 0.5698403 + h[1]).frac()
    edge = 0.5 - 0.5 * wander
    dx, dy = a - column - edge - wander * key, b - row - edge - wander * (key * 5.7).frac()
    return length(dx, dy) / cells, key


def _meadow(x: Tensor, y: Tensor, size: float, colour: Tensor, h: Tensor) -> Layers:
    """Sky with a sun in a corner, a hill, grass and flowers."""
    pixels = torch.tensor(size)
    sun = _disc(x - 0.12 - 0.76 * (h[0] < 0.5), y - 0.1 - 0.1 * h[1], 0.06 + 0.03 * h[2])
    top = 0.5 + 0.16 * h[3]
    bend = x - 0.2 - 0.6 * h[4]
    hill = top + 0.18 * bend * bend - y
    near = top + 0.16 + 0.1 * (x - 0.5) * (h[5] - 0.5)
    # A triangle wave makes the jagged edge of the grass.
    blade = ((x * (11.0 + 6.0 * h[6]) + h[7]).frac() - 0.5).abs()
    flower, key = _cells(x, y, 7.0, 0.4, h[8:10])
    shown = (key < 0.55) & (y > near + 0.08)
    return [
        (colours([(112, 176, 236)]), torch.ones(1)),
        (colours([(214, 234, 246)]), (y * 1.6).clamp(max=1.0)),
        (colours([(255, 238, 170)]), coverage(sun, pixels)),
        (colours([(104, 164, 82)]), coverage(hill, pixels)),
        (colours([(72, 138, 58)]), coverage(near + blade * 0.09 - y, pixels * 0.7)),
        (colour * 0.5 + 0.5, coverage(flower - 0.024, pixels) * shown),
    ]


def _night(x: Tensor, y: Tensor, size: float, colour: Tensor, h: Tensor) -> Layers:
    """A dark sky with stars and a crescent moon above dark hills."""
    pixels = torch.tensor(size)
    star, key = _cells(x, y, 8.0, 0.6, h[0:2])
    mx, my, r = x - 0.13 - 0.74 * (h[2] < 0.5), y - 0.13 - 0.06 * h[3], 0.07 + 0.03 * h[4]
    moon = torch.maximum(_disc(mx, my, r), -_disc(mx - r * 0.5, my + r * 0.2, r * 0.9))
    bend = x - 0.2 - 0.6 * h[5]
    hill = 0.72 + 0.1 * h[6] + 0.3 * bend * bend - y
    return [
        (colours([(14, 18, 50)]), torch.ones(1)),
        (colours([(52, 50, 104)]), y),
        (colours([(250, 246, 220)]), line_coverage(star, 0.004 + 0.006 * (key * 3.3).frac(), pixels) * (key < 0.6)),
        (colours([(246, 236, 190)]), coverage(moon, pixels)),
        (colours([(18, 24, 36)]), coverage(hill, pixels)),
    ]


def _bricks(x: Tensor, y: Tensor, size: float, colour: Tensor, h: Tensor) -> Layers:
    """Staggered bricks, each of its own tone, in light mortar."""
    rows = 7.0 + (h[0] * 3.0).floor()
    b = y * rows + h[1]
    row = b - b.frac()
    a = x * (rows * 0.5) + (row * 0.5).frac() + h[2]
    column = a - a.frac()
    key = (column * 0.7548777 + row * 0.5698403 + h[3]).frac()
    du = (a - column - 0.5).abs() * 2.0 - 0.93
    dv = (b - row - 0.5).abs() - 0.43
    mortar = coverage(-torch.maximum(du, dv) / rows, torch.tensor(size))
    return [(colour, 0.78 + 0.3 * key), (colour * 0.25 + 0.6, mortar)]


_PAINTERS: dict[str, Painter] = {
    "plain": _plain,
    "gradient": _gradient,
    "meadow": _meadow,
    "night": _night,
    "bricks": _bricks,
}
