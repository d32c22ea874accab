"""Which pixels an edit touches, at every resolution of a network (Li et al. 2022; `sige/utils` of its code)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
# A level's pixels are active above the threshold, or above the level's maximum less this where that is smaller.
MARGIN = 1e-3


def difference_mask(a: Tensor, b: Tensor, eps: float = 0.02) -> Tensor:
    """Where two pictures differ by more than `eps` in any channel: bool (H, W).

    `a` and `b`: (H, W), (C, H, W) or (1, C, H, W), both alike; pictures in [-1, 1], or one-hot labels and edges. Raises
    ValueError for other or different shapes, and for values that are not finite.
    """
    if a.shape != b.shape:
        raise ValueError(f"the pictures have the shapes {tuple(a.shape)} and {tuple(b.shape)}; a mask needs two alike")
    if not 2 <= a.ndim <= 4 or (a.ndim == 4 and len(a) != 1) or not a.numel():
        raise ValueError(f"a picture is (H, W), (C, H, W) or (1, C, H, W), not {tuple(a.shape)}")
    if not eps >= 0:
        raise ValueError(f"eps is {eps}; it cannot be negative")
    # Bytes would wrap around, and bool knows no difference.
    a, b = (x if x.is_floating_point() else x.double() for x in (a, b))
    difference = (a - b).abs_().reshape(-1, *a.shape[-2:]).amax(0)
    if not torch.isfinite(difference).all():  # as it is wherever one of the two is not
        for name, x in (("first", a), ("second", b)):
            if not torch.isfinite(x).all():
                raise ValueError(f"the {name} picture has {int((~torch.isfinite(x)).sum())} values that are not finite")
    return difference > eps


def dilate(mask: Tensor, radius: int | Size) -> Tensor:
    """The mask (..., H, W) bool, grown by a plus of arms (rows, columns) `radius`, or equal ones.

    A plus and no square: the published code grows the original mask along H, then along W, and joins the two. Raises
    ValueError for a mask of another kind and a negative radius.
    """
    _check_mask(mask)
    rows, columns = (radius, radius) if isinstance(radius, int) else radius
    if rows < 0 or columns < 0:
        raise ValueError(f"the radius {radius} is negative")
    x = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    tall = F.max_pool2d(x, (2 * rows + 1, 1), 1, (rows, 0))
    wide = F.max_pool2d(x, (1, 2 * columns + 1), 1, (0, columns))
    return (torch.maximum(tall, wide) > 0).reshape(mask.shape)


def downsample(mask: Tensor, min_size: Size, dilation: int | Size, threshold: float = 0.3) -> dict[Size, Tensor]:
    """The mask (H, W) at its own size and each half of it, every level dilated: {(h, w): bool (h, w)}.

    The sides are halved, rounding down, until both are below `min_size`. Each level is a bilinear reduction of the one
    above *before* threshold and dilation, so that its values are shares of edited pixels. A level whose largest share
    is not above the threshold takes the pixels of that share, so that none is empty; where even that share is below
    1e-3, as of one pixel after five halvings, the rule of the published code makes the whole level active.

    Raises ValueError for a mask without any pixel ("nothing is edited": the rule would make every level whole), and for
    a smallest size that a side of the mask cannot reach.
    """
    _check_mask(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask of levels is (H, W), not {tuple(mask.shape)}")
    if min(min_size) < 1:
        raise ValueError(f"the smallest size {min_size} must be at least (1, 1)")
    if not mask.any():
        raise ValueError("nothing is edited: the mask has no pixel, so there is nothing to compute")
    share = mask[None, None].float()
    levels = {}
    while True:
        height, width = share.shape[-2:]
        limit = min(threshold, share.max().item() - MARGIN)
        levels[height, width] = dilate(share[0, 0] > limit, dilation)
        height, width = height // 2, width // 2
        if height < min_size[0] and width < min_size[1]:
            return levels
        if not height or not width:
            raise ValueError(f"a mask of {tuple(mask.shape)} cannot be halved down to {min_size}")
        share = F.interpolate(share, (height, width), mode="bilinear", align_corners=False)


def edit_ratio(mask: Tensor) -> float:
    """The share of active pixels, 0 to 1; the papers' "edit size" is that of the mask after its first dilation."""
    _check_mask(mask)
    return mask.double().mean().item()


def centred_square(fraction: float, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """A mask bool (height, width) of about `fraction` of the pixels: a square in the middle, or what fits in its place.

    Raises ValueError for a share outside (0, 1], and where it would have no pixel.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a square covers a share above 0 and up to 1, not {fraction}")
    area = fraction * height * width
    rows = min(round(math.sqrt(area)), height)
    if not rows:
        raise ValueError(f"a share of {fraction} of {height} x {width} pixels is less than one")
    columns = round(area / rows)
    if columns > width:
        rows, columns = round(area / width), width
    top, left = (height - rows) // 2, (width - columns) // 2
    mask = torch.zeros(height, width, dtype=torch.bool, device=device)
    mask[top : top + rows, left : left + columns] = True
    return mask


@dataclass(frozen=True, eq=False)
class EditMasks:
    """What a recipe makes of an edit: `raw` and `dilated` bool (H, W), and the masks of the levels by size."""

    raw: Tensor
    dilated: Tensor
    levels: dict[Size, Tensor]

    @property
    def ratio(self) -> float:
        """The reported edit size: the share of pixels after the first dilation."""
        return edit_ratio(self.dilated)


@dataclass(frozen=True)
class MaskRecipe:
    """How an edit becomes the masks of a network's levels.

    `min_size` fits the network: its input divided by 2^(levels - 1).
    """

    eps: float  # the smallest difference of pixels that counts
    dilation_before: int | Size  # radius at full size
    dilation: int | Size  # radius at every level, the full size once more included
    min_size: Size
    threshold: float = 0.3

    def from_pair(self, original: Tensor, edited: Tensor) -> EditMasks:
        """The masks of an edit, from two inputs of the network as `difference_mask` takes them.

        Raises ValueError as `difference_mask` and `downsample` do, also where the two do not differ.
        """
        return self.from_mask(difference_mask(original, edited, self.eps))

    def from_mask(self, mask: Tensor) -> EditMasks:
        """The masks of an edit from its pixels, bool (H, W). Raises ValueError as `downsample` does."""
        dilated = dilate(mask, self.dilation_before)
        return EditMasks(mask, dilated, downsample(dilated, self.min_size, self.dilation, self.threshold))


# As published, for the networks' published sizes. `dataclasses.replace` fits one to another size.
DDPM = MaskRecipe(eps=0.01, dilation_before=5, dilation=1, min_size=(8, 8))
PROGRESSIVE_DISTILLATION = MaskRecipe(eps=0.02, dilation_before=2, dilation=1, min_size=(8, 8))
GAUGAN = MaskRecipe(eps=1e-3, dilation_before=1, dilation=2, min_size=(4, 8))
STABLE_DIFFUSION_IMG2IMG = MaskRecipe(eps=0.02, dilation_before=5, dilation=1, min_size=(4, 4))
STABLE_DIFFUSION_INPAINTING = MaskRecipe(eps=0.02, dilation_before=0, dilation=1, min_size=(8, 8))
# Of the decoder, from the img2img mask *after* its dilation by 5; with inpainting it takes the other masks.
STABLE_DIFFUSION_DECODER = MaskRecipe(eps=0.02, dilation_before=40, dilation=0, min_size=(4, 4))


def _check_mask(mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.ndim < 2 or not mask.numel():
        raise ValueError(f"a mask is bool (..., H, W), not {mask.dtype} {tuple(mask.shape)}")
