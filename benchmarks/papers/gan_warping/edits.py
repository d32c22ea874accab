"""The edits of the embedded world: longer ears and a raised nose, made by the cats' exact landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.training.warping import latents
from gengauge.benchmarks.zoo import posed_cats
from gengauge.datasets import world
from gengauge.datasets.warp_edits import PointedPicture, WarpEdit
from gengauge.reference.gan_warping.landmark_edits import LandmarkEdit, Move, Place
from gengauge.reference.gan_warping.warps import pixel_grid, with_corners

Array = np.ndarray[Any, Any]
SIDES = ("left", "right")
_FACE = ("left_cheek", "right_cheek", "forehead", "chin")
EARS = LandmarkEdit(
    tuple(Move(f"{side}_ear_tip", f"{side}_ear_base", f"{side}_ear_tip", 0.7) for side in SIDES),
    (*(f"{side}_ear_base" for side in SIDES), "left_eye", "right_eye", "nose", *_FACE),
)
NOSE = LandmarkEdit(
    tuple(
        Move(name, "nose", "forehead", 0.35) for name in ("nose", "mouth", "left_mouth_corner", "right_mouth_corner")
    ),
    (*(f"{side}_{part}" for part in ("ear_base", "ear_tip", "eye_outer") for side in SIDES), *_FACE),
)
EDITS: dict[str, LandmarkEdit] = {"ears": EARS, "nose": NOSE}
ABOUT = {"ears": "ears 1.7 times as long", "nose": "nose and mouth raised"}


@dataclass(frozen=True)
class Warps:
    """Pictures of a generator and how they are warped: latents z (N, z_dim) and grids (N, 2, R, R) in px."""

    z: Tensor
    pixels: Tensor


def landmarks(z: Tensor, resolution: int = posed_cats.RESOLUTION) -> list[dict[str, Place]]:
    """The landmarks of the cats that latents name, in px of the picture."""
    found = world.render(posed_cats.named_by(z, z), resolution).landmarks
    return [dict(zip(world.LANDMARKS, map(tuple, one), strict=True)) for one in found.tolist()]


def editable(edit: LandmarkEdit, first: int, count: int) -> list[int]:
    """The next `count` seeds from `first` on whose cats can be edited: of few all that is to move lies outside.

    Raises ValueError where hardly any can.
    """
    seeds: list[int] = []
    last = first + 20 * count + 100
    while len(seeds) < count:
        if first >= last:
            raise ValueError(
                f"of {last} cats only {len(seeds)} can be edited so: what is to move lies outside of others"
            )
        more = range(first, first + count - len(seeds))
        for seed, found in zip(more, landmarks(latents(more, posed_cats.Z_DIM)), strict=True):
            places = [found[move.landmark] for move in edit.moves]
            if any(min(place) >= 0 and max(place) <= posed_cats.RESOLUTION - 1 for place in places):
                seeds.append(seed)
        first = more.stop
    return seeds


def warps(names: Sequence[str], seeds: Sequence[int], resolution: int = posed_cats.RESOLUTION) -> Warps:
    """The cats of seeds, warped by one edit, or by the points of several together.

    Raises ValueError for a cat that is not `editable`.
    """
    z = latents(seeds, posed_cats.Z_DIM)
    both = together([EDITS[name] for name in names])
    size = (resolution, resolution)
    points = _points(both, seeds, landmarks(z, resolution), resolution)
    grids = [pixel_grid(with_corners(torch.from_numpy(rows), size), size) for rows in points]
    return Warps(z, torch.stack(grids))


def together(edits: Sequence[LandmarkEdit]) -> LandmarkEdit:
    """One edit that moves what any of them moves, and pins what all others pin."""
    moves = tuple(move for edit in edits for move in edit.moves)
    moved = {move.landmark for move in moves}
    pins = dict.fromkeys(pin for edit in edits for pin in edit.pins if pin not in moved)
    return LandmarkEdit(moves, tuple(pins))


def pointed(edit: LandmarkEdit, seeds: Sequence[int], generator: str, name: str) -> WarpEdit:
    """The edit of the zoo's cats as a file holds it. Raises ValueError for a cat that is not `editable`."""
    resolution = posed_cats.RESOLUTION
    found = _points(edit, seeds, landmarks(latents(seeds, posed_cats.Z_DIM)), resolution)
    # Cut, not rounded: warps cut the rest off, so that these are the same.
    pictures = tuple(
        PointedPicture(seed, tuple(map(tuple, (np.floor(points * 100) / 100).tolist())))
        for seed, points in zip(seeds, found, strict=True)
    )
    return WarpEdit(generator, resolution, pictures, name=name)


def _points(
    edit: LandmarkEdit, seeds: Sequence[int], found: Sequence[Mapping[str, Place]], resolution: int
) -> list[Array]:
    out = []
    for seed, places in zip(seeds, found, strict=True):
        try:
            out.append(edit.points(places, resolution))
        except ValueError as error:
            raise ValueError(f"the cat of seed {seed} cannot be edited: {error}") from None
    return out
