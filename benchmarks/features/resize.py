"""How pictures come to a feature network's size: the three ways of published FID, by clean-fid's own resizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from cleanfid.resize import build_resizer, make_resizer
from torch import Tensor

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
        return _checked(lambda picture: _one(picture, size))
    raise ValueError(f"there is no resizing {mode!r}; there are {', '.join(MODES)}")


def resize_tensorflow(pictures: Tensor, size: int) -> Tensor:
    """TensorFlow 1's `resize_bilinear` with its defaults: output pixel i reads at i * length / size, edges repeated.

    pictures (N, C, H, W) of any numbers to float32 (N, C, size, size), on their device.
    """
    x = pictures.float()
    for dimension in (2, 3):
        low, high, weight = _taps(x.shape[dimension], size, x.device)
        weight = weight.view(-1, 1) if dimension == 2 else weight
        first = x.index_select(dimension, low)
        x = first + (x.index_select(dimension, high) - first) * weight
    return x


def _taps(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    position = torch.arange(size, dtype=torch.float32, device=device) * float(np.float32(length / size))
    low = position.floor().long()
    return low, (low + 1).clamp(max=length - 1), position - low


def _one(picture: Array, size: int) -> Array:
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return resize_tensorflow(pixels, size)[0].permute(1, 2, 0).contiguous().numpy()


def _checked(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def resize(picture: Array) -> Array:
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"a picture is (H, W, 3) uint8, not {picture.shape} {picture.dtype}")
        return function(picture)

    return resize
