"""Miniature trees of sets with key points, in their published layouts: SPair-71k and CUB-200-2011."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from gengauge.datasets.cub import KEY_POINTS, LIST

Place = tuple[float, float]
Pair = tuple[str, str, Mapping[str, tuple[Place, Place]]]  # source, target, and the points that both have


def spair_pair(source: str, target: str, points: Mapping[str, tuple[Place, Place]]) -> dict[str, Any]:
    """The content of a pair's file."""
    return {
        **{"src_imname": f"{source}.jpg", "trg_imname": f"{target}.jpg"},
        **{"src_bndbox": [1, 2, 21, 12], "trg_bndbox": [0, 0, 10, 30], "kps_ids": list(points)},
        "src_kps": [places[0] for places in points.values()],
        "trg_kps": [places[1] for places in points.values()],
    }


def write_spair(
    tree: Path, category: str, sizes: Mapping[str, tuple[int, int]], pairs: Sequence[Pair], count: int
) -> Path:
    """SPair-71k with test pairs of one category, which can have `count` key points; `sizes` are those of its pictures.

    Pictures are of noise.
    """
    parts = (f"JPEGImages/{category}", f"ImageAnnotation/{category}", "PairAnnotation/test")
    pictures, notes, listed = (tree / part for part in parts)
    for folder in (pictures, notes, listed):
        folder.mkdir(parents=True)
    for name, (width, height) in sizes.items():
        random = np.random.default_rng(len(name))
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(pictures / f"{name}.jpg")
        (notes / f"{name}.json").write_text(json.dumps({"kps": {str(i): None for i in range(count)}}))
    for i, (source, target, points) in enumerate(pairs):
        file = listed / f"{i:06d}-{source}-{target}:{category}.json"
        file.write_text(json.dumps(spair_pair(source, target, points)))
    return tree


def acsm_list(boxes: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The content of ACSM's list as Matlab structures: boxes (x1, y1, x2, y2) by path."""
    images = np.zeros((1, len(boxes)), dtype=[("rel_path", object), ("bbox", object)])
    for i, (path, box) in enumerate(boxes.items()):
        images[0, i] = (path, dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True)))
    return {"images": images}


def write_cub(
    root: Path,
    sizes: Mapping[str, tuple[int, int]],
    boxes: Mapping[str, Sequence[float]],
    place: Callable[[int, int], tuple[float, float, int]],
) -> Path:
    """CUB-200-2011 under `root` with the list beside it. Pictures, of noise, and parts are numbered from 1.

    `place` gives x, y in px from 1 and the visibility of a picture's part.
    """
    tree = root / "CUB_200_2011"
    (tree / "parts").mkdir(parents=True)
    locations, names = [], []
    for number, (path, (width, height)) in enumerate(sizes.items(), start=1):
        file = tree / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(file)
        names.append(f"{number} {path}")
        for part in range(1, KEY_POINTS + 1):
            x, y, visible = place(number, part)
            locations.append(f"{number} {part} {x} {y} {visible}")
    (tree / "images.txt").write_text("\n".join(names) + "\n")
    (tree / "parts" / "part_locs.txt").write_text("\n".join(locations) + "\n")
    savemat(root / LIST, acsm_list(boxes))
    return root
