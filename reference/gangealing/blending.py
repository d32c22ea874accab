"""Putting a splatted edit over a picture: plain alpha compositing, or blending by bands of spatial frequency.

Source: Burt and Adelson, "A multiresolution spline", 1983, without subsampling, as GANgealing does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Bands:
    """How pictures are parted: `levels` - 1 blurs one after another, the first by `sigma` px, each by twice the last.

    A blur's kernel has `taps` places and is cut off there; pictures go on at their borders with the last pixel.
    """

    levels: int = 5
    sigma: float = 1.0
    taps: int = 45

    def __post_init__(self) -> None:
        if self.levels < 1 or self.sigma <= 0 or self.taps < 1 or self.taps % 2 == 0:
            raise ValueError(f"bands have a level, a sigma above 0 and an odd number of taps, not {self}")

    def blurred(self, x: Tensor) -> list[Tensor]:
        """The picture and its blurs, (N, C, H, W) each, `levels` in all."""
        out = [x]
        for level in range(self.levels - 1):
            out.append(blur(out[-1], self.sigma * 2**level, self.taps))
        return out


SMOOTH = Bands()
LIGHT = Bands(levels=3, sigma=0.5)


def composite(edit: Tensor, background: Tensor, mask: Tensor, opacity: float = 1.0) -> Tensor:
    """The edit over the background, (N, C, H, W) both, where the mask (N, 1, H, W) in [0, 1] says so."""
    _check(edit, background, mask)
    return background.lerp(edit, opacity * mask)


def blend(edit: Tensor, background: Tensor, mask: Tensor, opacity: float = 1.0, bands: Bands = SMOOTH) -> Tensor:
    """As `composite`, but each band of frequencies with a mask as blurred as the band: edges fade, details stay.

    Values may leave the range of both pictures a little. Raises ValueError for pictures and a mask of other shapes.
    """
    _check(edit, background, mask)
    edits, backgrounds, masks = (bands.blurred(x) for x in (edit, background, opacity * mask))
    out = torch.zeros_like(background)
    for level in range(bands.levels):
        details = [x[level] - x[level + 1] if level + 1 < bands.levels else x[level] for x in (edits, backgrounds)]
        out = out + details[1].lerp(details[0], masks[level])
    return out


def blur(x: Tensor, sigma: float, taps: int) -> Tensor:
    """A Gaussian blur of pictures (N, C, H, W) by `sigma` px."""
    places = torch.arange(taps, device=x.device, dtype=x.dtype) - (taps - 1) / 2
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, [taps // 2] * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])


def _check(edit: Tensor, background: Tensor, mask: Tensor) -> None:
    if edit.shape != background.shape or mask.shape != (len(edit), 1, *edit.shape[2:]):
        raise ValueError(
            f"an edit and a background (N, C, H, W) and a mask (N, 1, H, W) belong together, not {tuple(edit.shape)}, "
            f"{tuple(background.shape)} and {tuple(mask.shape)}"
        )
