"""The published colour edits of GAN Warping: folders of pictures with strokes of colour and of what must stay.

A folder is a split, `data/MODEL/EDIT/train`: `counter`, `latents/{i}_w.pth`, `targets/{i}.png` and `masks/{i}.npz` with
`color`, `color_mask` and `background_mask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    write_latent,
    write_picture,
    written_whole,
)
from gengauge.datasets.numpy_files import read_npz
from gengauge.datasets.sets import Array

MASKS = ("color_mask", "background_mask")


@dataclass(frozen=True, eq=False)
class ColouredPicture:
    """A picture of a generator and its strokes. Raises ValueError for parts of other shapes or kinds.

    `latent` (num_ws, w_dim) float32; `color` (H, W, 3) uint8, the strokes on black; `color_mask` and `background_mask`
    (H, W) float32 in [0, 1], 1 where the colour is wanted and where nothing may change; `target` (H, W, 3) uint8, the
    picture with its strokes, is for people to look at. `datasets.edit_folders.signed_pixels` makes `color` what
    trainings take.
    """

    latent: Tensor
    color: Array
    color_mask: Array
    background_mask: Array
    target: Array | None = None

    def __post_init__(self) -> None:
        check_latent(self.latent)
        check_picture("colour", self.color)
        for name in MASKS:
            mask = getattr(self, name)
            check_mask(name, mask)
            if mask.shape != self.color.shape[:2]:
                raise ValueError(f"the {name} is {mask.shape}, of a colour {self.color.shape[:2]}")
        if self.target is not None:
            check_picture("target", self.target)


def read_colour_folder(path: Path) -> list[ColouredPicture]:
    """The pictures of a published colour edit; one without the folder `targets` has none.

    Raises FileNotFoundError naming what is missing; UnsafeCheckpoint, DamagedCheckpoint or ValueError naming a file.
    """
    count = read_counter(path)
    with_targets = (path / "targets").is_dir()
    for part, ending in (("latents", "_w.pth"), ("masks", ".npz"), *((("targets", ".png"),) if with_targets else ())):
        check_present(path, part, ending, count)
    found = [
        _read_one(path, i, read_picture(path / "targets" / f"{i}.png") if with_targets else None) for i in range(count)
    ]
    _check_together(path, found)
    return found


def write_colour_folder(path: Path, pictures: Sequence[ColouredPicture], *, overwrite: bool = False) -> None:
    """Writes a colour edit in the published form, whole or not at all.

    Raises FileExistsError where there is something and `overwrite` is not asked for, or more than an edit; ValueError
    for pictures that do not go together; OSError where the folder cannot be made.
    """
    if not pictures:
        raise ValueError("an edit has at least one picture")
    _check_together(path, pictures)
    without = [i for i, picture in enumerate(pictures) if picture.target is None]
    if 0 < len(without) < len(pictures):
        raise ValueError(f"picture {without[0]} has no target, and others have one; give it to all or to none")
    with written_whole(path, overwrite) as folder:
        (folder / "masks").mkdir()
        for i, picture in enumerate(pictures):
            write_latent(folder / "latents" / f"{i}_w.pth", picture.latent)
            arrays: dict[str, Any] = {name: _small(getattr(picture, name)) for name in MASKS}
            np.savez_compressed(folder / "masks" / f"{i}.npz", color=picture.color, **arrays)
            if picture.target is not None:
                write_picture(folder / "targets" / f"{i}.png", picture.target)
        (folder / "counter").write_text(f"{len(pictures)}\n", encoding="ascii")


def _read_one(path: Path, i: int, target: Array | None) -> ColouredPicture:
    file = path / "masks" / f"{i}.npz"
    strokes = read_npz(file, ("color", *MASKS))
    latent = read_latent(path / "latents" / f"{i}_w.pth")
    try:
        wanted, kept = (strokes[name].astype(np.float32) for name in MASKS)
        return ColouredPicture(latent, strokes["color"], wanted, kept, target)
    except ValueError as error:
        raise ValueError(f"{file}: {error}; paint the strokes anew") from None


def _check_together(path: Path, pictures: Sequence[ColouredPicture]) -> None:
    check_latents(path, [picture.latent for picture in pictures])
    for i, picture in enumerate(pictures):
        if picture.color.shape != pictures[0].color.shape:
            raise ValueError(
                f"{path} has strokes of several sizes: 0 is {pictures[0].color.shape[:2]}, {i} is "
                f"{picture.color.shape[:2]}"
            )


def _small(mask: Array) -> Array:
    """A mask of zeros and ones as the published files have it, others as they are."""
    return mask.astype(np.uint8) if np.isin(mask, (0, 1)).all() else mask
