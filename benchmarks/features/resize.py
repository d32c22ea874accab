"""How pictures come to a feature network's size: the three ways of published FID, by clean-fid's own resizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from cleanfid.resize import build_resizer, make_resizer

Array = np.ndarray[Any, Any]
Mode = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]
MODES: tuple[Mode, ...] = get_args(Mode)


def resizer(mode: Mode, size: int) -> Callable[[Array], Array]:
    """A function of (H, W, 3) uint8 to (size, size, 3) float32 grey levels in [0, 255].

    `clean`: antialiased bicubic in float (clean-fid); `legacy_pytorch`: bilinear without antialiasing, half-pixel
    centres (pytorch-fid); `legacy_tensorflow`: bilinear without antialiasing or half-pixel centres, as inside the
    TensorFlow graph (the original FID and StyleGAN codes).
    """
    if mode == "clean":
        return _checked(build_resizer(mode) if size == 299 else make_resizer("PIL", False, "bicubic", (size, size)))
    if mode == "legacy_pytorch":
        return _checked(
            build_resizer(mode) if size == 299 else make_resizer("PyTorch", False, "bilinear", (size, size))
        )
    if mode == "legacy_tensorflow":
        # clean-fid leaves this one to its TorchScript file, which resizes inside and cannot be had without it.
        return _checked(lambda picture: resize_tensorflow(picture, size), ("uint8", "float32"))
    raise ValueError(f"there is no resizing {mode!r}; there are {', '.join(MODES)}")


def resize_tensorflow(picture: Array, size: int) -> Array:
    """TensorFlow 1's `resize_bilinear` with its defaults: output pixel i reads at i * length / size, edges repeated."""
    rows, row_weight = _taps(picture.shape[0], size)
    columns, column_weight = _taps(picture.shape[1], size)
    x = picture.astype(np.float32)
    x = x[rows[0]] + (x[rows[1]] - x[rows[0]]) * row_weight[:, None, None]
    return x[:, columns[0]] + (x[:, columns[1]] - x[:, columns[0]]) * column_weight[None, :, None]


def _taps(length: int, size: int) -> tuple[tuple[Array, Array], Array]:
    position = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = np.floor(position).astype(np.int64)
    return (low, np.minimum(low + 1, length - 1)), (position - low).astype(np.float32)


def _checked(function: Callable[[Array], Array], kinds: tuple[str, ...] = ("uint8",)) -> Callable[[Array], Array]:
    def resize(picture: Array) -> Array:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype.name not in kinds:
            raise ValueError(f"a picture is (H, W, 3) {' or '.join(kinds)}, not {picture.shape} {picture.dtype}")
        return function(picture)

    return resize
