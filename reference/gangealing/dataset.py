"""Congealing a dataset: pictures of any size cut out upright and in place; those too small or cut off are dropped.

Only similarities are used, so that nothing is bent. Source: Peebles et al., CVPR 2022, section 4 and appendix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.reference.gangealing.congealing import PLAIN, Congealed, Settings, check_pictures, congeal
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.training import Transformer
from gengauge.reference.gangealing.warps import MipmapWarp, affine_grid, out_of_bounds

LEAST = 0.75  # px of the original for a px of the result; published as 192 for 256


@dataclass(frozen=True)
class Quality:
    """What tells N congealed pictures of use from others."""

    effective_resolution: Tensor  # (N,): px of the original across the result
    outside: Tensor  # (N,) bool: more than 2.5 % of the samples, on either axis, lie beyond the true picture

    def enough(self, resolution: float) -> Tensor:
        """Which to keep (N,) bool: of at least that many px, and not outside."""
        return (self.effective_resolution >= resolution) & ~self.outside


def quality(congealed: Congealed, bounds: Tensor) -> Quality:
    """Of pictures padded to squares, their true width and height in px `bounds` (N, 2) being in the middle.

    The effective resolution is det(M)^(1/2) min(w, h), as published, of the similarity M. The published test of samples
    beyond the bounds works for one picture at a time only (its bounds are broadcast along the wrong axis); this one
    tells the same of each picture of a batch. Raises ValueError for other bounds and where there is no similarity.
    """
    matrix = congealed.warped.matrix
    if matrix is None or congealed.partial:
        raise ValueError("the quality is that of a whole similarity; congeal with one, and without alpha")
    if bounds.shape != (len(matrix), 2) or not (bounds > 0).all():
        raise ValueError(f"bounds of {len(matrix)} pictures are ({len(matrix)}, 2) px above 0, not {bounds.tolist()}")
    bounds = bounds.to(matrix)
    resolution = matrix[:, :, :2].det().abs().sqrt() * bounds.amin(1)
    # Each picture has a square of its own, the side of which `out_of_bounds` takes as one number.
    grid = affine_grid(matrix, congealed.warped.grid.shape[1])
    outside = [
        out_of_bounds(one[None], int(side), pair[None])
        for one, side, pair in zip(grid, bounds.amax(1).tolist(), bounds, strict=True)
    ]
    return Quality(resolution, torch.cat(outside))


@dataclass(frozen=True)
class Entry:
    """A picture of a dataset, congealed."""

    image: Tensor  # (3, R, R)
    matrix: Tensor  # (2, 3): from the common frame to the padded square
    mirrored: bool
    cluster: int
    effective_resolution: float  # px
    outside: bool
    kept: bool


def congeal_dataset(
    network: Transformer,
    pictures: Iterable[Tensor],
    settings: Settings = PLAIN,
    output_resolution: int = 256,
    least: float | None = None,
) -> Iterator[Entry]:
    """Each picture (3, H, W) in [-1, 1], of any size, congealed at `output_resolution` out of its own pixels.

    It is padded to a square by its edges, its similarity told at the network's size, and the square sampled once.
    `least` px is the effective resolution to keep (default: 0.75 of the output's). Dropped pictures come too, with
    `kept` False. Published settings: 3 iters. With `flips`, and no classifier of them, the flow tells what to mirror.

    Raises ValueError for a picture of another shape, with its number.
    """
    least = LEAST * output_resolution if least is None else least
    for number, picture in enumerate(pictures):
        if picture.ndim != 3 or not picture.is_floating_point():
            given = f"{tuple(picture.shape)} {picture.dtype}"
            raise ValueError(f"picture {number}: pictures of a dataset are (3, H, W) float in [-1, 1], not {given}")
        square = squared_up(picture[None])
        try:
            check_pictures(square)
            congealed = _aligned(network, square, settings, output_resolution)
        except ValueError as error:
            raise ValueError(f"picture {number}: {error}") from error
        height, width = picture.shape[1:]
        found = quality(congealed, torch.tensor([[width, height]]))
        matrix = congealed.warped.matrix
        assert matrix is not None
        yield Entry(
            congealed.image[0],
            matrix[0],
            bool(congealed.mirrored),
            int(congealed.cluster),
            float(found.effective_resolution),
            bool(found.outside),
            bool(found.enough(least)),
        )


def squared_up(x: Tensor) -> Tensor:
    """Pictures (N, C, H, W) in the middle of squares (N, C, S, S), S the longer side, filled by their edges."""
    height, width = x.shape[2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(x, (left, side - width - left, top, side - height - top), mode="replicate")


def _aligned(network: Transformer, square: Tensor, settings: Settings, size: int) -> Congealed:
    seen = F.interpolate(square, (network.flow_size,) * 2, mode="bilinear", align_corners=False, antialias=True)
    if not isinstance(network, ComposedSTN):
        return congeal(network, seen, settings, square, output_resolution=size)
    if not settings.flips:
        return congeal(network.similarity, seen, settings, square, output_resolution=size)
    # The flow only tells what to mirror.
    found = congeal(network, seen, settings, square)
    assert found.warped.matrix is not None
    grid = affine_grid(found.warped.matrix, size)
    image = MipmapWarp().to(square.device)(square, grid, settings.padding_mode)
    return replace(found, warped=replace(found.warped, image=image, grid=grid))
