"""Dense correspondence: for every pixel of a picture its place in another, through the common frame.

Source: Peebles et al., CVPR 2022, section 4 ("dense correspondence"); as published a flow is inverted by its nearest
entry, which rounds to about S / F px of pictures of S px and flows of F px. "refined" is this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gengauge.reference.gangealing.congealing import Congealed
from gengauge.reference.gangealing.points import (
    congeal_points,
    normalise,
    uncongeal_places,
    uncongeal_points,
    unnormalise,
)
from gengauge.reference.gangealing.warps import Padding, identity_grid, warp

Inversion = Literal["nearest", "refined"]

STEPS = 50  # of the fixed-point iteration at most
SETTLED = 1e-6  # in units of half a picture's side
_MOST_DISTANCES = 2**20  # of a chunk of points at a time, which then fit a cache


@dataclass(frozen=True)
class Correspondence:
    """For N pairs of pictures a and b of S px the place in b of each pixel of a."""

    points: Tensor  # (N, S, S, 2): (x, y) in px of b, from the centre of its first pixel
    valid: Tensor  # (N, S, S) bool: inside the common frame and inside b, and the flow has an inverse there

    @property
    def flow(self) -> Tensor:
        """How far each pixel moves, (N, S, S, 2) in px."""
        return self.points - _pixels(self.points.shape[1], self.points)

    @property
    def grid(self) -> Tensor:
        """The places as a sampling grid of b, (N, S, S, 2), [-1, 1] from edge to edge."""
        return normalise(self.points, self.points.shape[1])

    def sample(self, b: Tensor, padding_mode: Padding = "border") -> Tensor:
        """Pictures b (N, C, T, T), of any T, brought onto a: (N, C, S, S). Look at `valid` for what is meant."""
        if b.ndim != 4 or len(b) != len(self.points):
            raise ValueError(f"{len(self.points)} pictures (N, C, T, T) are brought over, not {tuple(b.shape)}")
        return warp(b, self.grid, padding_mode)


@torch.no_grad()
def correspond(a: Congealed, b: Congealed, size: int, inversion: Inversion = "nearest") -> Correspondence:
    """The correspondence of N pairs of pictures of `size` px, congealed. What warps a onto b is the one of b and a.

    Similarities are inverted in closed form. A flow is inverted by its "nearest" entry, as published, scales included,
    or by a fixed-point iteration ("refined"), which is exact where the flow changes by less than one from place to
    place. The first reads b's grid, so that it depends a little on the resolution b was congealed at. Places whose
    inverse is off by more than an entry of the flow's grid are not valid.

    Raises ValueError for another number of pictures, warps of different kinds, and pictures congealed with an alpha.
    """
    _check(a, b)
    if size < 2:
        raise ValueError(f"pictures have 2 px or more a side, not {size}")
    pixels = _pixels(size, a.warped.grid).reshape(1, -1, 2).expand(len(a), -1, -1)
    chunk = pixels.shape[1]
    if a.warped.delta is not None and inversion == "nearest":
        chunk = max(1, _MOST_DISTANCES // (len(a) * a.warped.delta.shape[1] ** 2))
    found = [_carried(a, b, part, size, inversion) for part in pixels.split(chunk, 1)]
    points, valid = (torch.cat([pair[i] for pair in found], 1) for i in (0, 1))
    return Correspondence(points.view(-1, size, size, 2), valid.view(-1, size, size))


def _carried(a: Congealed, b: Congealed, points: Tensor, size: int, inversion: Inversion) -> tuple[Tensor, Tensor]:
    """Points (N, P, 2) of a in b, and which are valid (N, P)."""
    alone = replace(a.warped, delta=None), replace(b.warped, delta=None)
    before = normalise(congeal_points(alone[0], points, size), size)  # the similarity undone
    if a.warped.delta is None or b.warped.delta is None:
        there, framed, off = uncongeal_places(alone[1], before, size), before, torch.zeros_like(before)
        entry = 0.0
    elif inversion == "nearest":
        index = congeal_points(a.warped, points, size)
        entry = 2 / a.warped.delta.shape[1]
        framed = normalise(index.to(points.dtype), a.warped.delta.shape[1])
        off = framed + _at(a.warped.delta, framed) - before
        there = uncongeal_points(b.warped, index, size)
    else:
        entry = 2 / a.warped.delta.shape[1]
        framed, off = invert(a.warped.delta, before)
        # By flow and matrix rather than by the grid, which ends at the centres of its outermost entries.
        there = uncongeal_places(alone[1], framed + _at(b.warped.delta, framed), size)
    inside = (framed.abs() <= 1) & (normalise(there, size).abs() <= 1) & (off.abs() <= entry)
    return there, inside.all(2)


def invert(delta: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The places g (N, P, 2) with g + delta(g) = `places` of residual flows (N, F, F, 2), and what is left of the two.

    g := places - delta(g) is iterated until it settles. It converges where delta has differences below its distances;
    elsewhere what is left tells so. Beyond the frame the flow goes on as at its edge.
    """
    found = places
    for _ in range(STEPS):
        off = found + _at(delta, found) - places
        if not (off.abs() > SETTLED).any():
            break
        found = found - off
    return found, found + _at(delta, found) - places


def _at(delta: Tensor, places: Tensor) -> Tensor:
    """Flows (N, F, F, 2) at places (N, P, 2)."""
    return warp(delta.permute(0, 3, 1, 2), places[:, None], "border")[:, :, 0].mT


def _pixels(size: int, like: Tensor) -> Tensor:
    """The points (1, size, size, 2) of a picture's pixels."""
    return unnormalise(identity_grid(size, like), size)


def _check(a: Congealed, b: Congealed) -> None:
    if len(a) != len(b):
        raise ValueError(f"pictures correspond one to one: {len(a)} and {len(b)} of them do not; take a `part`")
    if a.partial or b.partial:
        raise ValueError("pictures congealed with an alpha are on the way only; congeal them without")
    sides = [None if c.warped.delta is None else c.warped.delta.shape[1] for c in (a, b)]
    if sides[0] != sides[1] or a.warped.matrix is None or b.warped.matrix is None:
        raise ValueError(f"a and b are congealed by one transformer, not by flows of {sides[0]} and {sides[1]} px")
