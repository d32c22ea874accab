"""CUB-200-2011 (Wah et al. 2011) as GANgealing measures key points on it: birds cut out as ACSM does, 15 points each.

Boxes are (x0, y0, x1, y1) in px from 0, both ends inside. The pictures are those of ACSM's validation list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.key_points import KeyPointSet
from gengauge.datasets.pictures_set import MAX_PIXELS, open_rgb
from gengauge.datasets.sets import Array, DataNotFound

Box = tuple[int, int, int, int]
LIST = "val_cub_cleaned.mat"
FOLDER = "CUB_200_2011"
REMEDY = data_set("cub").remedy
SIZE = 256
KEY_POINTS = 15
MARGIN = 0.05  # of a box's sides, that is added on each
# Which key point of a mirrored bird is which: eyes, legs and wings change sides.
PERMUTATION = (0, 1, 2, 3, 4, 5, 10, 11, 12, 9, 6, 7, 8, 13, 14)


@dataclass(frozen=True)
class Bird:
    """A picture of the list: its path under `images`, and its box in px from 1, as the list has it."""

    path: str
    box: tuple[float, float, float, float]


def find_tree(root: Path) -> tuple[Path, Path]:
    """The folder of CUB-200-2011 and the file of the list. Raises DataNotFound."""
    trees = [root, root / FOLDER, root / "cub" / FOLDER]
    tree = next((place for place in trees if (place / "images.txt").is_file()), None)
    if tree is None:
        raise DataNotFound("CUB-200-2011", trees, REMEDY)
    lists = [place / LIST for place in (root, tree, tree.parent)]
    file = next((place for place in lists if place.is_file()), None)
    if file is None:
        raise DataNotFound("the validation list of CUB-200-2011", lists, REMEDY)
    return tree, file


def read_cub(root: Path, size: int = SIZE) -> KeyPointSet:
    """The birds of the list, cut out and scaled to `size` px; pairs are drawn by `datasets.pairing.random_pairs`.

    Distances between key points are set against the picture's size. As published, points that cannot be seen are moved
    like all others. Pictures are decoded on access. Raises DataNotFound for what is missing, ValueError naming a
    damaged file and a picture without key points.
    """
    if size < 1:
        raise ValueError(f"a size is a number of px above 0, not {size}")
    tree, file = find_tree(root)
    birds = read_list(file)
    known = _key_points(tree)
    boxes = [square_box(enlarged(np.array(bird.box) - 1)) for bird in birds]
    points = np.empty((len(birds), KEY_POINTS, 3), np.float32)
    for i, bird in enumerate(birds):
        if bird.path not in known:
            raise ValueError(f"{file} lists {bird.path}, which {tree / 'images.txt'} does not have")
        points[i] = to_square(known[bird.path], boxes[i], size)
    files = tuple(tree / "images" / bird.path for bird in birds)
    missing = next((place for place in files if not place.is_file()), None)
    if missing is not None:
        raise DataNotFound(f"the picture {missing.name} of CUB-200-2011", [missing.parent], REMEDY)
    return KeyPointSet(
        "cub-val",
        size,
        torch.from_numpy(points),
        permutation=torch.tensor(PERMUTATION),
        files=files,
        read=_Reader(files, tuple(boxes), size),
    )


def read_list(file: Path) -> list[Bird]:
    """The pictures of ACSM's list and their boxes. Raises ValueError for a file that is no such list."""
    try:
        images = loadmat(str(file), struct_as_record=False, squeeze_me=True)["images"]
        birds = []
        for image in np.atleast_1d(images):
            box = image.bbox
            path = str(image.rel_path)
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"the path {path!r} leads out of the folder")
            birds.append(Bird(path, (float(box.x1), float(box.y1), float(box.x2), float(box.y2))))
    except Exception as error:
        raise ValueError(f"{file} is no list of pictures of ACSM ({error}); fetch it again") from error
    if not birds:
        raise ValueError(f"{file} lists no pictures; fetch it again")
    return birds


def enlarged(box: Sequence[float] | Array) -> Array:
    """A box with 5 % of its width and height added on each side, float64 (4,)."""
    x0, y0, x1, y1 = (float(x) for x in box)
    if not (x1 >= x0 and y1 >= y0):
        raise ValueError(f"the box {(x0, y0, x1, y1)} has no size")
    across, down = MARGIN * (x1 - x0 + 1), MARGIN * (y1 - y0 + 1)
    return np.array([x0 - across, y0 - down, x1 + across, y1 + down])


def square_box(box: Sequence[float] | Array) -> Box:
    """The box rounded to whole px, halves up, and made a square around its middle; it may leave the picture."""
    x0, y0, x1, y1 = (math.floor(float(x) + 0.5) for x in box)
    width, height = x1 - x0 + 1, y1 - y0 + 1
    side = max(width, height)
    # What is added to an odd number more goes to the left and above.
    x0, y0 = x0 - (side - width + 1) // 2, y0 - (side - height + 1) // 2
    return x0, y0, x0 + side - 1, y0 + side - 1


def cub_crop(picture: Array, box: Box, size: int | None) -> Array:
    """What a box holds of a picture (H, W, 3) uint8, whose edges go on outside, scaled to `size` (None: not scaled).

    Raises ValueError for a box that holds nothing of the picture, or more than a picture can.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    if x1 < 0 or y1 < 0 or x0 >= width or y0 >= height or (x1 - x0 + 1) * (y1 - y0 + 1) > MAX_PIXELS:
        raise ValueError(f"the box {box} does not belong to a picture of {width} x {height} px")
    rows, columns = np.arange(y0, y1 + 1).clip(0, height - 1), np.arange(x0, x1 + 1).clip(0, width - 1)
    found = picture[rows[:, None], columns]
    if size is None:
        return found
    return np.asarray(Image.fromarray(found).resize((size, size), Image.Resampling.LANCZOS))


def to_square(points: Array, box: Box, size: int) -> Array:
    """Key points (P, 3), x and y in px from 1, and visibility, in the cut-out of a square box scaled to `size`."""
    x0, y0, x1, _ = box
    found = np.array(points, np.float32)
    corner = np.array([x0 + 1, y0 + 1], np.float32)
    found[:, :2] = (found[:, :2] - corner) * np.float32(size / (x1 - x0 + 1))
    return found


def _key_points(tree: Path) -> dict[str, Array]:
    """All pictures' key points (15, 3) by path: x, y in px and visibility."""
    names = dict(line.split(maxsplit=1) for line in _lines(tree / "images.txt"))
    file = tree / "parts" / "part_locs.txt"
    found: dict[str, Any] = {name: np.full((KEY_POINTS, 3), np.nan, np.float32) for name in names.values()}
    for line in _lines(file):
        try:
            picture, part, *place = line.split()
            found[names[picture]][int(part) - 1] = [float(x) for x in place]
        except (ValueError, LookupError) as error:
            raise ValueError(f"{file} has the line {line!r}, which is no key point; unpack it again") from error
    incomplete = next((name for name, points in found.items() if np.isnan(points).any()), None)
    if incomplete is not None:
        raise ValueError(f"{file} lacks key points of {incomplete}; unpack it again")
    return found


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataNotFound(f"{file.name} of CUB-200-2011", [file.parent], REMEDY)
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if any(len(line.split()) < 2 for line in lines):
        raise ValueError(f"{file} is damaged; unpack it again")
    return lines


@dataclass(frozen=True)
class _Reader:
    """Reads and cuts out the bird of an index; travels to other processes."""

    files: tuple[Path, ...]
    boxes: tuple[Box, ...]
    size: int

    def __call__(self, index: int) -> Array:
        file = self.files[index]
        picture = np.asarray(open_rgb(file.read_bytes(), str(file)))
        try:
            return cub_crop(picture, self.boxes[index], self.size)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
