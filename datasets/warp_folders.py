"""The published warp edits of GAN Warping: folders of pictures with control points, their targets and masks.

A folder is one split, `data/MODEL/EDIT/{train,val,test}`: `counter`, `latents/{i}_w.pth`, `keypoints/{i}.npy`,
`targets/{i}.png`, `target_masks/{i}.png` (val and test) and `originals/{i}_original.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from gengauge.datasets.edit_folders import (
    check_latent,
    check_latents,
    check_mask,
    check_picture,
    check_present,
    read_counter,
    read_latent,
    read_picture,
    read_soft_mask,
    write_latent,
    write_picture,
    written_whole,
)
from gengauge.datasets.numpy_files import read_npy
from gengauge.datasets.sets import Array

MAX_POINTS_BYTES = 2**20
MAX_PLACE = 2**15 - 1  # places become 16-bit integers where the published grid is made


@dataclass(frozen=True, eq=False)
class WarpedPicture:
    """A picture of a generator and how it is warped. Raises ValueError for parts of other shapes or kinds.

    `latent` (num_ws, w_dim) float32 is truncated already. `points` (N, 4) float64 are x_src, y_src, x_dst, y_dst in px,
    without the four corners; a point whose source is its destination is pinned. `target` (H, W, 3) uint8 is the warped
    picture; `mask` (H, W) float32 in [0, 1] is 1 where the warp changes it. `original` (H, W, 3) uint8 is written for
    people to look at, and never read.
    """

    latent: Tensor
    points: Array
    target: Array | None = None
    mask: Array | None = None
    original: Array | None = None

    def __post_init__(self) -> None:
        check_latent(self.latent)
        if self.points.dtype != np.float64 or self.points.ndim != 2 or self.points.shape[1] != 4:
            raise ValueError(f"the points are {self.points.dtype} {self.points.shape}, not float64 (N, 4)")
        if not np.isfinite(self.points).all() or (np.abs(self.points) > MAX_PLACE).any():
            raise ValueError(f"a point is NaN or farther than {MAX_PLACE} px from the picture")
        for name, pixels in (("target", self.target), ("original", self.original)):
            if pixels is not None:
                check_picture(name, pixels)
        if self.mask is not None:
            check_mask("mask", self.mask)


def read_warp_folder(path: Path, image_res: int, crop_bars: bool = False) -> list[WarpedPicture]:
    """The pictures of one split of a published edit, for a generator of `image_res` px.

    As published, a target's shorter side is scaled to `image_res` and a mask to image_res x image_res, both by Pillow's
    bilinear filter. A split without the folder `targets` or `target_masks` has none. With `crop_bars` (cars of 4:3)
    points are of a picture that is 3/4 as high as wide. Unlike the published reader, which lets negative
    destinations come in again at the other side, this one refuses destinations outside the picture.

    Raises FileNotFoundError naming what is missing; UnsafeCheckpoint, DamagedCheckpoint or ValueError naming a file.
    """
    if image_res < 1:
        raise ValueError(f"a resolution is a number of px above 0, not {image_res}")
    count = read_counter(path)
    present = {part: (path / part).is_dir() for part in ("targets", "target_masks")}
    for part, ending in (("latents", "_w.pth"), ("keypoints", ".npy"), ("targets", ".png"), ("target_masks", ".png")):
        if present.get(part, True):
            check_present(path, part, ending, count)
    height = image_res * 3 // 4 if crop_bars else image_res
    found = [
        WarpedPicture(
            read_latent(path / "latents" / f"{i}_w.pth"),
            _read_points(path / "keypoints" / f"{i}.npy", image_res, height),
            read_picture(path / "targets" / f"{i}.png", image_res) if present["targets"] else None,
            read_soft_mask(path / "target_masks" / f"{i}.png", image_res) if present["target_masks"] else None,
        )
        for i in range(count)
    ]
    check_latents(path, [picture.latent for picture in found])
    return found


def write_warp_folder(path: Path, pictures: Sequence[WarpedPicture], *, overwrite: bool = False) -> None:
    """Writes one split in the published form, whole or not at all; masks are rounded to 256 levels.

    Either all pictures have a target, or none; so with masks and originals. Raises FileExistsError where there is
    something and `overwrite` is not asked for, or more than an edit; ValueError for pictures that do not go together;
    OSError where the folder cannot be made.
    """
    if not pictures:
        raise ValueError("an edit has at least one picture")
    check_latents(path, [picture.latent for picture in pictures])
    for part in ("target", "mask", "original"):
        without = [i for i, picture in enumerate(pictures) if getattr(picture, part) is None]
        if 0 < len(without) < len(pictures):
            raise ValueError(f"picture {without[0]} has no {part}, and others have one; give it to all or to none")
    with written_whole(path, overwrite) as folder:
        (folder / "keypoints").mkdir()
        for i, picture in enumerate(pictures):
            write_latent(folder / "latents" / f"{i}_w.pth", picture.latent)
            np.save(folder / "keypoints" / f"{i}.npy", picture.points, allow_pickle=False)
            if picture.target is not None:
                write_picture(folder / "targets" / f"{i}.png", picture.target)
            if picture.mask is not None:
                write_picture(folder / "target_masks" / f"{i}.png", np.rint(picture.mask * 255).astype(np.uint8))
            if picture.original is not None:
                write_picture(folder / "originals" / f"{i}_original.png", picture.original)
        (folder / "counter").write_text(f"{len(pictures)}\n", encoding="ascii")


def _read_points(file: Path, width: int, height: int) -> Array:
    points = read_npy(file, MAX_POINTS_BYTES)
    if points.ndim != 2 or points.shape[1] != 4 or points.dtype.kind not in "iuf":
        raise ValueError(f"{file} holds {points.dtype} {points.shape}, not numbers (N, 4): x_src, y_src, x_dst, y_dst")
    points = points.astype(np.float64)
    for row, point in enumerate(points):
        if not np.isfinite(point).all() or (np.abs(point) > MAX_PLACE).any():
            raise ValueError(f"{file} has the point {point.tolist()} in row {row}, which is no place")
        if not (0 <= point[2] < width and 0 <= point[3] < height):
            raise ValueError(
                f"{file} has the destination ({point[2]:g}, {point[3]:g}) in row {row}, outside a picture of {width} x "
                f"{height} px; is it for a generator of another resolution?"
            )
    return points
