"""Points between pictures, by what a transformer makes of both: to the aligned frame, and from it to another picture.

Points (N, P, 2) are (x, y) in px from the centre of the first pixel. Source: Peebles et al., CVPR 2022, section 4.2.
The published code's rounding to the flow's grid and its scales are kept, for the paper's numbers have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from gengauge.reference.gangealing.flips import mirror
from gengauge.reference.gangealing.heads import squared
from gengauge.reference.gangealing.losses import total_variation
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer, Warped
from gengauge.reference.gangealing.warps import Padding, identity_grid, warp


def normalise(points: Tensor, resolution: int, frame: int | None = None) -> Tensor:
    """Points of a square of `frame` px (default: `resolution`) as places of a grid, with the scale of `resolution`."""
    frame = frame or resolution
    return (2 * points / (frame - 1) - 1) * ((resolution - 1) / resolution)


def unnormalise(places: Tensor, resolution: int, frame: int | None = None) -> Tensor:
    """Places of a grid as points; undoes `normalise`."""
    frame = frame or resolution
    return (places * (resolution / (resolution - 1)) + 1) * ((frame - 1) / 2)


def convert(points: Tensor, before: int, after: int) -> Tensor:
    """Points of a square of `before` px in one of `after` px, corner to corner."""
    return points * ((after - 1) / (before - 1))


def unravel_index(flat: Tensor, width: int) -> Tensor:
    """Places (...) in rows of a width, counted one after the other, as (x, y) (..., 2)."""
    return torch.stack([flat % width, flat.div(width, rounding_mode="floor")], -1)


def nearest_index(places: Tensor, grid: Tensor) -> Tensor:
    """The (x, y) int64 (N, P, 2) of the entry of a grid (N, H, W, 2) that is nearest to each place (N, P, 2).

    Of equally near ones the first. It inverts a flow up to the grid's spacing; places beyond it come to its edge.
    """
    flat = grid.flatten(1, 2)
    squares = places.square().sum(-1)[:, :, None] + flat.square().sum(-1)[:, None]
    return unravel_index((squares - 2 * places @ flat.mT).argmin(-1), grid.shape[2])


def congeal_points(warped: Warped, points: Tensor, resolution: int) -> Tensor:
    """Points of pictures of `resolution` px in the aligned frame, by how those were warped.

    By a similarity alone: points of the aligned frame in px of `resolution`. With a flow: entries (x, y) int64 of the
    residual flow's grid, of F px.
    """
    if warped.matrix is None:
        raise ValueError("points are taken to the aligned frame by a similarity, alone or before a flow")
    _check(points, warped.matrix)
    inverse = torch.linalg.inv(squared(warped.matrix))[:, :2]
    places = _moved(normalise(points, resolution), inverse)
    if warped.delta is None:
        return unnormalise(places, resolution)
    return nearest_index(places, identity_grid(warped.delta.shape[1], warped.delta) + warped.delta)


def uncongeal_places(warped: Warped, places: Tensor, resolution: int) -> Tensor:
    """Places (N, P, 2) of the aligned frame, [-1, 1], as points in px of pictures of `resolution` px."""
    _check(places, warped.grid)
    if warped.delta is None and warped.matrix is not None:
        return unnormalise(_moved(places, warped.matrix), resolution)
    found = warp(warped.grid.permute(0, 3, 1, 2), places[:, None], "border")
    return unnormalise(found[:, :, 0].mT, resolution)


def uncongeal_points(warped: Warped, points: Tensor, resolution: int) -> Tensor:
    """What `congeal_points` gave, as points in px of other pictures of `resolution` px.

    As published, entries of the flow's grid are scaled as if that had `resolution` px, which moves those at the edge by
    up to a quarter of an entry.
    """
    frame = None if warped.delta is None else warped.delta.shape[1]
    return uncongeal_places(warped, normalise(points.to(warped.grid.dtype), resolution, frame), resolution)


@torch.no_grad()
def transfer_points(
    network: SpatialTransformer | ComposedSTN,
    a: Tensor,
    b: Tensor,
    points: Tensor,
    iters: int = 1,
    policy_a: Tensor | None = None,
    policy_b: Tensor | None = None,
    padding_mode: Padding = "border",
) -> Tensor:
    """Points (N, P, 2) in px of pictures a (N, 3, S, S) as points of pictures b of the same shape.

    With several heads the policies (N, K) choose one for each picture.
    """
    if a.shape != b.shape:
        raise ValueError(f"points go between pictures of one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    resolution = a.shape[-1]
    both = _together(network, [(a, policy_a), (b, policy_b)], iters, padding_mode)
    of_a, of_b = _each(both, slice(len(a))), _each(both, slice(len(a), None))
    return uncongeal_points(of_b, congeal_points(of_a, points, resolution), resolution)


MOST_PICTURES = 32  # that are warped at a time, for memory's sake


@dataclass(frozen=True)
class Matched:
    """Pairs of pictures, mirrored so that their flows are smoothest, their points, and how they were warped.

    The last is known of pairs that `match_flows` made.
    """

    a: Tensor  # (N, 3, S, S)
    b: Tensor
    points_a: Tensor  # (N, P, 2)
    points_b: Tensor
    pick: Tensor  # (N,) int64: 0 as given, 1 a mirrored, 2 b mirrored, 3 both
    order: Tensor  # (N, P) int64: which of the given points of a each of `points_a` is
    warped_a: Warped | None = None
    warped_b: Warped | None = None


@torch.no_grad()
def match_flows(
    network: ComposedSTN,
    a: Tensor,
    b: Tensor,
    points_a: Tensor,
    points_b: Tensor,
    permutation: Tensor | None = None,
    iters: int = 1,
    policy_a: Tensor | None = None,
    policy_b: Tensor | None = None,
    padding_mode: Padding = "border",
) -> Matched:
    """Mirrors either picture of each pair (N, 3, S, S) where that makes the sum of both flows' variation least.

    `permutation` (P,) exchanges the points that a mirror image exchanges, such as left and right eye. It is applied to
    the points of a, once for each mirrored picture of the pair. The published code leaves the points' visibility as it
    was; `order` tells which is whose.
    """
    _check(points_a, a)
    _check(points_b, b)
    if a.shape != b.shape:
        raise ValueError(f"pairs are of pictures of one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    # One pass for the four of each pair: the networks' weights are read once.
    four = [(a, policy_a), (mirror(a), policy_a), (b, policy_b), (mirror(b), policy_b)]
    warped = _together(network, four, iters, padding_mode)
    if warped.delta is None:
        raise ValueError("pictures are matched by how smooth their flows are, and this transformer has no flow")
    of = total_variation(warped.delta).view(4, len(a))
    pick = torch.stack([of[i] + of[2 + j] for j, i in product((0, 1), repeat=2)], 1).argmin(1)
    flip_a, flip_b = pick % 2 == 1, pick >= 2
    points_a, points_b = _mirrored(points_a, flip_a, a.shape[-1]), _mirrored(points_b, flip_b, b.shape[-1])
    order = torch.arange(points_a.shape[1], device=a.device).expand(len(a), -1)
    if permutation is not None:
        if permutation.shape != order.shape[1:]:
            raise ValueError(f"a permutation of {order.shape[1]} points has not the shape {tuple(permutation.shape)}")
        for flipped in (flip_a, flip_b):
            order = torch.where(flipped[:, None], order[:, permutation], order)
        points_a = points_a.gather(1, order[:, :, None].expand(-1, -1, 2))
    rows = torch.arange(len(a), device=a.device)
    of_a, of_b = (_each(warped, index) for index in (rows + len(a) * flip_a, rows + len(a) * (2 + flip_b.long())))
    return Matched(mirror(a, flip_a), mirror(b, flip_b), points_a, points_b, pick, order, of_a, of_b)


@torch.no_grad()
def transfer_matched(matched: Matched, back: bool = False) -> Tensor:
    """What `transfer_points` gives for matched pairs, without warping their pictures again: (N, P, 2) on b.

    With `back` the points of b on a. Raises ValueError for pairs that `match_flows` did not make.
    """
    if matched.warped_a is None or matched.warped_b is None:
        raise ValueError("how these pairs are warped is not known; use transfer_points")
    resolution = matched.a.shape[-1]
    if back:
        points = congeal_points(matched.warped_b, matched.points_b, resolution)
        return uncongeal_points(matched.warped_a, points, resolution)
    points = congeal_points(matched.warped_a, matched.points_a, resolution)
    return uncongeal_points(matched.warped_b, points, resolution)


def _together(
    network: SpatialTransformer | ComposedSTN,
    groups: Sequence[tuple[Tensor, Tensor | None]],
    iters: int,
    padding_mode: Padding,
) -> Warped:
    """Groups of pictures, each with the policy that chooses its heads, warped one after the other in one result."""
    pictures, policies = torch.cat([x for x, _ in groups]), [policy for _, policy in groups if policy is not None]
    if network.num_heads > 1 and len(policies) < len(groups):
        raise ValueError(f"of {network.num_heads} heads a policy must choose one for each picture")
    policy = torch.cat(policies) if network.num_heads > 1 else None
    parts = []
    for start in range(0, len(pictures), MOST_PICTURES):
        some = slice(start, start + MOST_PICTURES)
        chosen = None if policy is None else policy[some]
        parts.append(network(pictures[some], iters=iters, policy=chosen, padding_mode=padding_mode))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[Warped]) -> Warped:
    """Results one after the other."""

    def joined(fields: list[Tensor | None]) -> Tensor | None:
        known = [field for field in fields if field is not None]
        return torch.cat(known) if known else None

    return Warped(
        torch.cat([part.image for part in parts]),
        torch.cat([part.grid for part in parts]),
        joined([part.matrix for part in parts]),
        joined([part.delta for part in parts]),
        tuple(torch.cat(steps) for steps in zip(*(part.iterates for part in parts), strict=True)),
    )


def _each(warped: Warped, index: Tensor | slice) -> Warped:
    """Some of the results."""
    return Warped(
        warped.image[index],
        warped.grid[index],
        None if warped.matrix is None else warped.matrix[index],
        None if warped.delta is None else warped.delta[index],
        tuple(step[index] for step in warped.iterates),
    )


def _mirrored(points: Tensor, chosen: Tensor, resolution: int) -> Tensor:
    """Points of a mask's pictures (N,) at the place they have in the mirror image."""
    there = torch.stack([resolution - 1 - points[..., 0], points[..., 1]], -1)
    return torch.where(chosen[:, None, None], there, points)


def _moved(places: Tensor, matrix: Tensor) -> Tensor:
    """Places (N, P, 2) by matrices (N, 2, 3)."""
    return places @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def _check(points: Tensor, of: Tensor) -> None:
    if points.ndim != 3 or points.shape[2] != 2 or len(points) != len(of):
        raise ValueError(f"points of {len(of)} pictures are ({len(of)}, P, 2), not {tuple(points.shape)}")
