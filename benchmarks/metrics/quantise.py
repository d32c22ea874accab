"""From network output to grey levels."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(pictures: Tensor) -> Tensor:
    """uint8 grey levels of pictures in [-1, 1]: floor(127.5 x + 128), saturating.

    The rounding of the BigGAN, TensorFlow StyleGAN2 and PyTorch StyleGAN2 evaluation codes. Raises ValueError for
    values that are not finite.
    """
    if not torch.isfinite(pictures).all():
        raise ValueError("pictures hold values that are not finite")
    return (pictures * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_uint8_truncated(pictures: Tensor) -> Tensor:
    """uint8 grey levels of pictures in [-1, 1]: floor(255 (x + 1) / 2), saturating; what CUT's code saves.

    Half a level darker in the mean than `to_uint8`. Raises ValueError for values that are not finite.
    """
    if not torch.isfinite(pictures).all():
        raise ValueError("pictures hold values that are not finite")
    return ((pictures.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)
