"""Pictures of the report: points that were transferred between pictures, and the average of congealed pictures."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.papers.gangealing.evaluation import Transfers
from gengauge.benchmarks.pictures import grid

Array = np.ndarray[Any, Any]
SMALLEST = 256  # px of a picture in the report, which others are zoomed to
TURN = 0.61803398875  # of the circle of hues, from one point to the next: neighbours differ


def transferred_points(a: Tensor, b: Tensor, found: Transfers) -> Array:
    """Pairs (n, 3, S, S) uint8 below each other, mirrored as they were for the transfer, as (H, W, 3) uint8.

    On the left a point; on the right a dot where it came, a ring where it belongs, and a line from one to the other.
    Points that a picture does not have are left out.
    """
    zoom = max(1, SMALLEST // a.shape[-1])
    visible = np.take_along_axis(found.visible_a, found.order, 1) * found.visible_b != 0
    rows = []
    for i, pick in enumerate(found.pick.tolist()):
        left = _drawable(a[i].flip(2) if pick % 2 else a[i], zoom)
        right = _drawable(b[i].flip(2) if pick >= 2 else b[i], zoom)
        for k in visible[i].nonzero()[0].tolist():
            colour = _colour(k)
            start, came, belongs = (_place(p[i, k], zoom) for p in (found.points_a, found.estimated_b, found.points_b))
            _dot(ImageDraw.Draw(left), start, colour)
            draw = ImageDraw.Draw(right)
            draw.line([came, belongs], fill=colour, width=2)
            draw.ellipse(_box(belongs, 5), outline=colour, width=2)
            _dot(draw, came, colour)
        rows.append(np.concatenate([np.asarray(left), np.asarray(right)], 1))
    return np.concatenate(rows)


def averages(*pictures: Tensor) -> Array:
    """Mean pictures (3, S, S) in [-1, 1] side by side, (H, W, 3) uint8."""
    sheet = to_uint8(torch.stack(pictures)).numpy()
    return grid(sheet, len(pictures), max(1, SMALLEST // sheet.shape[-1]))


def _drawable(picture: Tensor, zoom: int) -> Image.Image:
    pixels = picture.permute(1, 2, 0).numpy().repeat(zoom, 0).repeat(zoom, 1)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _place(point: Array, zoom: int) -> tuple[float, float]:
    """A point, from the centre of the first pixel, on a zoomed picture."""
    x, y = ((float(value) + 0.5) * zoom - 0.5 for value in point)
    return x, y


def _dot(draw: ImageDraw.ImageDraw, place: tuple[float, float], colour: tuple[int, int, int]) -> None:
    draw.ellipse(_box(place, 3), fill=colour, outline=(255, 255, 255))


def _box(place: tuple[float, float], radius: int) -> tuple[float, float, float, float]:
    x, y = place
    return x - radius, y - radius, x + radius, y + radius


def _colour(index: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(index * TURN % 1, 0.85, 0.95))
    return red, green, blue
