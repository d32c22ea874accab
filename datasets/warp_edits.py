"""A warp edit that a person can write: JSON that names a generator, some of its pictures by seed, and their points.

    {"format": "gengauge warp edit", "version": 1, "generator": "stylegan2-poses64", "resolution": 64,
     "truncation": 1.0, "pictures": [{"seed": 3, "points": [[20, 14, 18, 6], [40, 30, 40, 30]]}]}

A point is x_src, y_src, x_dst, y_dst in px of the picture at `resolution`, from (0, 0), the middle of the upper left
pixel; one whose source is its destination stays where it is. The four corners are pinned without being written.
A seed names z = numpy.random.RandomState(seed).randn(1, z_dim), as in NVIDIA's tools.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengauge.datasets.saving import write_text
from gengauge.datasets.sets import Array

FORMAT, VERSION = "gengauge warp edit", 1
MAX_BYTES = 2**24
MAX_SEED = 2**32 - 1
MAX_RESOLUTION = 2**13
MAX_TRUNCATION = 2.0
_FAR = 1e15  # also keeps whole numbers of any length out of messages
NEEDED = ("format", "version", "generator", "resolution", "pictures")
OPTIONAL = ("truncation", "name", "note")

Point = tuple[float, float, float, float]


@dataclass(frozen=True)
class PointedPicture:
    """The picture of a seed, 0 to 2^32 - 1, and its points: x_src, y_src, x_dst, y_dst in px each."""

    seed: int
    points: tuple[Point, ...]

    def rows(self) -> Array:
        """The points as float64 (N, 4)."""
        return np.array(self.points, np.float64).reshape(-1, 4)


@dataclass(frozen=True)
class WarpEdit:
    """Pictures of a generator with points on them.

    `generator` is a key of the zoo, a path, or any text that tells people which it is. `truncation` is psi. Raises
    ValueError naming the picture and the point (both counted from 0) that cannot be meant.
    """

    generator: str
    resolution: int
    pictures: tuple[PointedPicture, ...]
    truncation: float = 1.0
    name: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for key in ("generator", "name", "note"):
            _check_text(key, getattr(self, key))
        if not self.generator.strip():
            raise ValueError("generator is empty; name the generator whose pictures these are")
        if not _whole(self.resolution) or not 4 <= self.resolution <= MAX_RESOLUTION:
            raise ValueError(f"resolution is {self.resolution!r}, not a whole number of px from 4 to {MAX_RESOLUTION}")
        if not _number(self.truncation) or abs(self.truncation) > MAX_TRUNCATION:
            raise ValueError(f"truncation is {self.truncation!r}, not psi, a number from -2 to 2")
        if not self.pictures:
            raise ValueError("pictures is empty; an edit has at least one picture")
        seeds: dict[int, int] = {}
        for i, picture in enumerate(self.pictures):
            if not _whole(picture.seed) or not 0 <= picture.seed <= MAX_SEED:
                raise ValueError(f"pictures[{i}] has the seed {picture.seed!r}, not a whole number from 0 to 2^32 - 1")
            if picture.seed in seeds:
                raise ValueError(
                    f"pictures[{seeds[picture.seed]}] and pictures[{i}] both have the seed {picture.seed}; put their "
                    "points into one"
                )
            seeds[picture.seed] = i
            _check_points(f"pictures[{i}] (seed {picture.seed})", picture.points, self.resolution)


def read_warp_edit(path: Path) -> WarpEdit:
    """The edit of a file. Raises FileNotFoundError, ValueError naming the file and what is wrong in it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES // 2**20} MiB and is no warp edit")
    try:
        content = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_twins, parse_constant=_no_constant
        )
        return _edit(content)
    except RecursionError:
        raise ValueError(f"{path} is no warp edit: its brackets are nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no warp edit: {error}") from None


def write_warp_edit(path: Path, edit: WarpEdit, *, overwrite: bool = False) -> None:
    """Writes an edit, a line a picture; `path` changes at the end only.

    Raises FileExistsError where it is there and `overwrite` is not asked for, OSError where it cannot be made.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; name another file, or ask for it to be overwritten")
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "generator": edit.generator}
    head |= {"resolution": edit.resolution, "truncation": _short(edit.truncation)}
    head |= {key: text for key in ("name", "note") if (text := getattr(edit, key))}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    pictures = [
        json.dumps({"seed": picture.seed, "points": [[_short(x) for x in point] for point in picture.points]})
        for picture in edit.pictures
    ]
    body = ",\n".join(f"    {picture}" for picture in pictures)
    write_text(path, "\n".join(["{", *lines, '  "pictures": [', body, "  ]", "}", ""]))


def _edit(content: Any) -> WarpEdit:
    _check_keys("the file", content, NEEDED, OPTIONAL)
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
    if not _whole(content["version"]) or content["version"] != VERSION:
        raise ValueError(f"its version is {content['version']!r}, and this gengauge reads version {VERSION}")
    if not isinstance(content["pictures"], list):
        raise ValueError("pictures is no list")
    pictures = []
    for i, picture in enumerate(content["pictures"]):
        _check_keys(f"pictures[{i}]", picture, ("seed", "points"), ())
        if not isinstance(picture["points"], list):
            raise ValueError(f"pictures[{i}] has points that are no list")
        for row, point in enumerate(picture["points"]):
            if not isinstance(point, list):
                raise ValueError(f"pictures[{i}], points[{row}] is no list of x_src, y_src, x_dst, y_dst")
        pictures.append(PointedPicture(picture["seed"], tuple(tuple(point) for point in picture["points"])))
    optional = {key: content[key] for key in OPTIONAL if key in content}
    return WarpEdit(content["generator"], content["resolution"], tuple(pictures), **optional)


def _check_keys(where: str, content: Any, needed: tuple[str, ...], optional: tuple[str, ...]) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} holds no values by name")
    unknown = [key for key in content if key not in (*needed, *optional)]
    if unknown:
        raise ValueError(f"{where} has {unknown[0]!r}, which is none of {', '.join((*needed, *optional))}")
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(f"{where} lacks {missing[0]!r}")


def _check_points(where: str, points: tuple[Point, ...], resolution: int) -> None:
    if not points:
        raise ValueError(f"{where} has no points; give it at least one, or leave the picture out")
    taken: dict[tuple[int, int], int] = {}
    last = resolution - 1
    for row, point in enumerate(points):
        here = f"{where}, points[{row}]"
        if len(point) != 4 or not all(_number(x) for x in point):
            raise ValueError(f"{here} is {list(point)!r}, not four finite numbers x_src, y_src, x_dst, y_dst")
        for what, (x, y) in (("source", point[:2]), ("destination", point[2:])):
            if not (0 <= x < resolution and 0 <= y < resolution):
                raise ValueError(
                    f"{here} has its {what} ({x:g}, {y:g}) outside the picture, whose pixels are 0 to {last}; move it "
                    "inside"
                )
        # The method rounds places down, so that points on one pixel are one.
        source, destination = ((math.floor(x), math.floor(y)) for x, y in (point[:2], point[2:]))
        if destination in taken:
            raise ValueError(
                f"{where}, points[{taken[destination]}] and points[{row}] both end on pixel {destination}; drop one"
            )
        taken[destination] = row
        if destination[0] in (0, last) and destination[1] in (0, last) and source != destination:
            raise ValueError(f"{here} ends on the corner {destination}, which is pinned; move it beside it")


def _check_text(key: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{key} is {text!r}, not a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key} holds half of a character") from None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR


def _short(value: float) -> float:
    """The number as a person would write it: 20, not 20.0."""
    return int(value) if value == int(value) else float(value)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"it has {next(key for key in names if names.count(key) > 1)!r} twice in one place")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"it holds {text}, which is no number of JSON")
