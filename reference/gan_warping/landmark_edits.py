"""Control points from landmarks, for any detector's: which of them move and how far, and which stay where they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Place = tuple[float, float]  # x and y in px


@dataclass(frozen=True)
class Move:
    """A landmark that moves `by` times the way from the landmark `start` to the landmark `end`."""

    landmark: str
    start: str
    end: str
    by: float


@dataclass(frozen=True)
class LandmarkEdit:
    """An edit in words: what moves, and what stays where it is.

    Raises ValueError for an edit that moves nothing or by no finite number, or has a landmark that both moves and
    stays, or moves twice.
    """

    moves: tuple[Move, ...]
    pins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.moves:
            raise ValueError("an edit moves at least one landmark")
        for move in self.moves:
            if not math.isfinite(move.by):
                raise ValueError(f"the landmark {move.landmark!r} moves by {move.by}, which is no finite number")
        moved = [move.landmark for move in self.moves]
        twice = [name for name in (*moved, *self.pins) if (*moved, *self.pins).count(name) > 1]
        if twice:
            raise ValueError(f"the landmark {twice[0]!r} is named twice; it either moves once or stays")

    def points(self, landmarks: Mapping[str, Place], resolution: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Control points (N, 4) on a picture of `resolution` px: x_src, y_src, x_dst, y_dst.

        A move that would leave the picture ends at its border, on the way. A landmark that lies outside is left out,
        and so is a pin on a pixel that another point takes already, for a picture has one point there.
        Raises ValueError for a landmark that the picture lacks or that is no number, and where nothing is left to move.
        """
        rows = []
        for move in self.moves:
            source, start, end = (_place(landmarks, name) for name in (move.landmark, move.start, move.end))
            if _inside(source, resolution):
                rows.append((*source, *_ended(source, start, end, move.by, resolution)))
        if not rows:
            raise ValueError("all landmarks that the edit moves lie outside of the picture")
        pins = [place for name in self.pins if _inside(place := _place(landmarks, name), resolution)]
        taken: set[tuple[int, int]] = set()
        kept = []
        for row in (*rows, *((*pin, *pin) for pin in pins)):
            pixel = (math.floor(row[2]), math.floor(row[3]))
            if pixel not in taken:
                taken.add(pixel)
                kept.append(row)
        return np.array(kept, np.float64)


def _place(landmarks: Mapping[str, Place], name: str) -> Place:
    if name not in landmarks:
        raise ValueError(f"there is no landmark {name!r} among {', '.join(landmarks)}")
    x, y = landmarks[name]
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"the landmark {name!r} is at {x}, {y}, which are no finite numbers")
    return x, y


def _inside(place: Place, resolution: int) -> bool:
    return all(0 <= x <= resolution - 1 for x in place)


def _ended(source: Place, start: Place, end: Place, by: float, resolution: int) -> Place:
    """Where a move ends: at its end, or where it meets the border."""
    ways = [by * (b - a) for a, b in zip(start, end, strict=True)]
    share = 1.0
    for x, way in zip(source, ways, strict=True):
        if way:
            share = min(share, ((resolution - 1 if way > 0 else 0) - x) / way)
    # Rounding could take it over the border.
    x, y = (min(max(x + share * way, 0.0), resolution - 1.0) for x, way in zip(source, ways, strict=True))
    return x, y
