"""The edits that SIGE is measured on: the examples that its repository ships, and centred squares.

`shipped_edits.npz` holds where the two pictures of each published example pair differ, before any dilation: the pair of
churches (`church256-ddpm` and `pd` notebooks of lmxyy/sige), at the two thresholds and sizes of its networks, and the
pair of label maps of Cityscapes (its GauGAN notebook). Eight pixels of a row are one byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gengauge.reference.sige.masks import centred_square

SHIPPED_EDITS = Path(__file__).with_name("shipped_edits.npz")


@dataclass(frozen=True)
class Edit:
    """An edit by the words of a row; `share` of a picture's pixels in a square, or None for the shipped example."""

    name: str
    share: float | None

    def mask(self, shipped: str, height: int, width: int) -> Tensor:
        """Where the edit changes a picture, bool (height, width); `shipped` names the network's example."""
        return shipped_mask(shipped) if self.share is None else centred_square(self.share, height, width)


SHIPPED = Edit("shipped edit", None)
SQUARE = Edit("square of 1.2%", 0.012)
ALL = Edit("all pixels", 1.0)
EDITS = (
    SHIPPED,
    SQUARE,
    *(Edit(f"square of {round(100 * share)}%", share) for share in (0.05, 0.15, 0.30, 0.50)),
    ALL,
)


def shipped_mask(name: str) -> Tensor:
    """Where a shipped pair differs, bool (H, W). Raises KeyError for another name."""
    with np.load(SHIPPED_EDITS, allow_pickle=False) as file:
        return torch.from_numpy(np.unpackbits(file[name], axis=1).astype(bool))
