"""Folders of pictures: finding, reading, cropping; each error names the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

EXTENSIONS = frozenset({".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def list_pictures(folder: Path) -> list[Path]:
    """The pictures under a folder and its subfolders, sorted by path; hidden files are left out.

    Raises FileNotFoundError or NotADirectoryError, and ValueError for a folder without pictures.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    found = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file()
    )
    if not found:
        raise ValueError(f"{folder} holds no pictures (looked for {', '.join(sorted(EXTENSIONS))})")
    return found


def read_picture(path: Path) -> np.ndarray[Any, Any]:
    """A picture as (H, W, 3) uint8; grey and palette pictures become RGB, transparency is dropped as clean-fid does.

    Raises ValueError naming a file that is damaged, no picture, or so large that it may be a decompression bomb.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error}); replace or remove it") from error


def load_square(paths: Sequence[Path], size: int) -> Tensor:
    """Pictures as (N, 3, size, size) uint8: the largest central square, resized by Lanczos as published tools do."""
    out = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for i, path in enumerate(paths):
        picture = read_picture(path)
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = Image.fromarray(picture[top : top + side, left : left + side])
        if side != size:
            square = square.resize((size, size), Image.Resampling.LANCZOS)
        out[i] = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return out
