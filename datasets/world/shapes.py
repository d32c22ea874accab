"""Shapes: signed distances of simple shapes and the coverage they give, for whole batches of points.

Every argument broadcasts, so a shape may have one value per picture (N, 1, 1) and be read at (N, H, W) points.
Distances are negative inside, in the unit of the points, and exact to first order near the edge, which is all that
anti-aliasing needs. Only the four operations, square roots, minima and maxima are used: their results are fixed by the
floating point standard, so a picture does not depend on the machine or on its place in a batch.

Roots are taken as x / sqrt(x) and fractions with ``frac``, because torch hands ``sqrt``, ``floor``, ``ceil`` and
``round`` of even small tensors to its thread pool, and waking it takes longer than the operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-8


def length(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean length of (x, y)."""
    squares = x * x + (y * y).add_(_TINY * _TINY)
    return squares.mul_(squares.rsqrt())


def coverage(distance: Tensor, pixels: Tensor) -> Tensor:
    """How much of each pixel is inside, 0 to 1, given distances in units of ``pixels`` pixels."""
    return (distance * -pixels).add_(0.5).clamp_(0.0, 1.0)


def line_coverage(distance: Tensor, half_width: Tensor | float, pixels: Tensor) -> Tensor:
    """Coverage of a line from the distance to its middle; lines thinner than a pixel become faint, not thick."""
    half = half_width * pixels
    return torch.minimum((half + 0.5 - distance * pixels).clamp_(0.0, 1.0), 2 * half)


def ellipse(u: Tensor, v: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Distance to the ellipse of radii ``rx`` and ``ry`` around the origin."""
    a = u * u
    b = v * v
    ax, by = 1.0 / (rx * rx), 1.0 / (ry * ry)
    a = a * ax
    b = b * by
    half_slope = (a * ax).add_(b * by).add_(_TINY).rsqrt_().mul_(0.5)
    return a.add_(b).sub_(1.0).mul_(half_slope)


def blade(
    u: Tensor, v: Tensor, du: Tensor, dv: Tensor, start: Tensor, end: Tensor, bulge: Tensor, bend: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A leaf along the segment from the origin to (``du``, ``dv``).

    Its half width runs from ``start`` to ``end`` with ``bulge`` added in the middle; ``bend`` pushes the middle
    sideways, to the left of the direction of travel on a screen whose v points down. Returns the distance from the
    spine, the half width, and the position along the spine from 0 to 1.
    """
    length2 = du * du + dv * dv
    inverse = 1.0 / length2
    along = (u * (du * inverse) + v * (dv * inverse)).clamp_(0.0, 1.0)
    hump = (1.0 - along).mul_(along).mul_(4.0)
    shift = bend * length2.rsqrt()
    x = u - along * du - hump * (shift * dv)
    y = v - along * dv + hump * (shift * du)
    spine = length(x, y)
    half = along * (end - start) + start + hump * bulge
    return spine, half, along


def box(u: Tensor, v: Tensor, half_u: Tensor | float, half_v: Tensor | float) -> Tensor:
    """Distance to the axis-parallel box around the origin (corners are square inside and out)."""
    return torch.maximum(u.abs() - half_u, v.abs() - half_v)


def smooth_min(a: Tensor, b: Tensor, blend: float) -> Tensor:
    """Union of two distances whose seam is rounded over about ``blend``."""
    h = (blend - (a - b).abs()).clamp_(min=0.0)
    return torch.minimum(a, b) - h * h * (0.25 / blend)
