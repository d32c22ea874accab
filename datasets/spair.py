"""SPair-71k (Min et al. 2019) in its published folders: pairs of pictures of a category with key points in common.

As GANgealing prepares it: two pictures for every pair, in the order of the pairs' files: pair k is (2k, 2k + 1).
The files of pairs have a colon before the category; a system that cannot hold one leaves an underscore there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.key_points import KeyPointSet
from gengauge.datasets.pictures_set import open_rgb
from gengauge.datasets.sets import Array, DataNotFound
from gengauge.datasets.squares import Fit, fitted, frame

Split = Literal["trn", "val", "test"]
REMEDY = data_set("spair-71k").remedy
SIZE = 256
CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dog", "horse", "motorbike",
    "person", "pottedplant", "sheep", "train", "tvmonitor",
)  # fmt: skip
# Which key point of a mirrored picture is which: published for the four categories of the paper's table.
PERMUTATIONS = {
    "bicycle": (0, 1, 3, 2, 4, 5, 7, 6, 8, 10, 9, 11),
    "cat": (1, 0, 3, 2, 5, 4, 7, 6, 8, 10, 9, 12, 11, 13, 14),
    "dog": (1, 0, 3, 2, 5, 4, 6, 7, 8, 10, 9, 12, 11, 13, 14, 15),
    "tvmonitor": (2, 1, 0, 7, 6, 5, 4, 3, 10, 9, 8, 15, 14, 13, 12, 11),
}
_MOST_KEY_POINTS = 1000  # more than any category has; a file that claims more is damaged


@dataclass(frozen=True, eq=False)
class Side:
    """One picture of a pair: its file, its box (x, y, x, y) in px, and points {number: (x, y)} that both have."""

    file: Path
    box: tuple[float, float, float, float]
    points: dict[int, tuple[float, float]]


def find_tree(root: Path) -> Path:
    """The folder that holds `JPEGImages`, `PairAnnotation` and `ImageAnnotation`. Raises DataNotFound."""
    places = [root, root / "SPair-71k", root / "spair" / "SPair-71k"]
    for place in places:
        if all((place / name).is_dir() for name in ("JPEGImages", "PairAnnotation", "ImageAnnotation")):
            return place
    raise DataNotFound("SPair-71k", places, REMEDY)


def read_spair(root: Path, category: str, split: Split = "test", size: int = SIZE, fit: Fit = "border") -> KeyPointSet:
    """The pairs of a category, fitted into squares of `size` px; key points that never occur are left out.

    All pictures must be there; they are decoded on access. Raises DataNotFound for what is missing, ValueError naming a
    damaged file, a point outside its picture's key points, or a fit that makes no squares.
    """
    if fit not in ("border", "zero", "center"):
        raise ValueError(f"pairs of pictures are fitted by border, zero or center, not {fit!r}")
    tree = find_tree(root)
    sides = [side for pair in read_pairs(tree, category, split) for side in pair]
    count = _key_point_count(tree, category)
    sizes = {side.file: _size(side.file) for side in sides}
    key_points = np.zeros((len(sides), count, 3), np.float32)
    inverse = np.zeros((len(sides), 3), np.float32)
    for i, side in enumerate(sides):
        place_of = frame(sizes[side.file], size, fit)
        points = np.zeros((count, 3), np.float32)
        for number, place in side.points.items():
            if not 0 <= number < count:
                raise ValueError(f"a pair of {side.file.name} has the key point {number}, {category} has {count}")
            points[number] = *place, 1
        key_points[i] = place_of.moved(points)
        inverse[i] = place_of.offset_x, place_of.offset_y, place_of.scale
    lengths = [max(side.box[2] - side.box[0], side.box[3] - side.box[1]) for side in sides]
    seen = key_points[:, :, 2].any(0)
    permutation = PERMUTATIONS.get(category)
    return KeyPointSet(
        f"spair-{category}-{split}",
        size,
        torch.from_numpy(key_points[:, seen]),
        torch.arange(len(sides)).view(-1, 2),
        None if permutation is None else torch.tensor(permutation),
        torch.tensor(lengths, dtype=torch.float32),
        torch.from_numpy(inverse),
        tuple(side.file for side in sides),
        _Reader(tuple(side.file for side in sides), size, fit),
    )


def read_pairs(tree: Path, category: str, split: Split) -> list[tuple[Side, Side]]:
    """The pairs of a category as their files tell them, source before target.

    Raises DataNotFound where there are none, ValueError naming a file that is not of this form.
    """
    folder = tree / "PairAnnotation" / split
    if category not in CATEGORIES:
        raise ValueError(f"SPair-71k has no category {category!r}; it has {', '.join(CATEGORIES)}")
    ends = (f":{category}.json", f"_{category}.json")
    files = sorted(file for file in folder.glob("[!.]*.json") if file.name.endswith(ends))
    if not files:
        raise DataNotFound(f"pairs of SPair-71k, category {category}, split {split}", [folder], REMEDY)
    pairs = []
    for file in files:
        content = _json(file)
        try:
            numbers = [int(number) for number in content["kps_ids"]]
            pairs.append(
                (_side(tree, category, content, "src", numbers), _side(tree, category, content, "trg", numbers))
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} is no pair of SPair-71k ({error}); unpack it again") from error
    return pairs


def _side(tree: Path, category: str, content: Any, which: str, numbers: list[int]) -> Side:
    name = str(content[f"{which}_imname"])
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{name!r} is no name of a picture")
    x0, y0, x1, y1 = (float(x) for x in content[f"{which}_bndbox"])
    if not (x1 > x0 and y1 > y0):
        raise ValueError("its box has no size")
    places = [(float(x), float(y)) for x, y in content[f"{which}_kps"]]
    points = dict(zip(numbers, places, strict=True))
    return Side(tree / "JPEGImages" / category / name, (x0, y0, x1, y1), points)


def _key_point_count(tree: Path, category: str) -> int:
    """How many key points a category can have, as the note of its first picture lists them."""
    folder = tree / "ImageAnnotation" / category
    file = min(folder.glob("[!.]*.json"), default=None)
    if file is None:
        raise DataNotFound(f"notes on pictures of SPair-71k, category {category}", [folder], REMEDY)
    points = _json(file).get("kps")
    if not isinstance(points, dict) or not 0 < len(points) <= _MOST_KEY_POINTS:
        raise ValueError(f"{file} lists no key points; unpack it again")
    return len(points)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); unpack it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no dictionary; unpack it again")
    return content


def _size(file: Path) -> tuple[int, int]:
    """A picture's size (width, height). The pairs tell it too, but not whether the picture is there and can be read."""
    if not file.is_file():
        raise DataNotFound(f"the picture {file.name} of SPair-71k", [file.parent], REMEDY)
    return open_rgb(file.read_bytes(), str(file)).size


@dataclass(frozen=True)
class _Reader:
    """Reads and fits the picture of an index; travels to other processes."""

    files: tuple[Path, ...]
    size: int
    fit: Fit

    def __call__(self, index: int) -> Array:
        file = self.files[index]
        return fitted(open_rgb(file.read_bytes(), str(file)), self.size, self.fit)
