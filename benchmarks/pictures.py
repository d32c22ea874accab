"""PNG files of the report, with their alternative text inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def write_png(path: Path, pixels: np.ndarray[Any, Any], alt: str) -> None:
    """Writes (H, W, 3) uint8, whole or not at all; `alt` goes into the PNG text field Description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_itxt("Description", alt)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    Image.fromarray(pixels).save(hidden, "PNG", pnginfo=info)
    hidden.replace(path)


def grid(pictures: np.ndarray[Any, Any], columns: int, zoom: int = 1) -> np.ndarray[Any, Any]:
    """Pictures (N, 3, H, W) uint8 as one (rows H, columns W, 3) uint8, zoomed by whole pixels; the rest stays white."""
    count, channels, height, width = pictures.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height, width, channels), 255, np.uint8)
    canvas[:count] = pictures.transpose(0, 2, 3, 1)
    sheet = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    return sheet.repeat(zoom, 0).repeat(zoom, 1)
