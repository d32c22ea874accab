"""Edits drawn once: from the common frame onto every picture, and from one picture into the common frame.

A template is a picture of the common frame with an alpha, (4, T, T) of any T: colours in [-1, 1], alpha in [0, 1]. With
clusters there may be one each, (K, 4, T, T). Source: Peebles et al., CVPR 2022, section 4 ("edit propagation").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.reference.gangealing.blending import Bands, blend, composite
from gengauge.reference.gangealing.congealing import PLAIN, Congealed, Settings, congeal
from gengauge.reference.gangealing.points import uncongeal_places
from gengauge.reference.gangealing.splatting import splat
from gengauge.reference.gangealing.training import Transformer
from gengauge.reference.gangealing.warps import MipmapWarp, identity_grid, resize_grid

# Spots this wide, in the template's pixels as a picture has them, leave no holes where a flow stretches them by half.
SIGMA = 0.75
LEAST_SIGMA = 0.5  # px, below which a spot can miss every pixel


@dataclass(frozen=True)
class Overlay:
    """An edit as N pictures have it."""

    edit: Tensor  # (N, 3, S, S)
    mask: Tensor  # (N, 1, S, S) in [0, 1]

    def over(self, pictures: Tensor, opacity: float = 1.0, bands: Bands | None = None) -> Tensor:
        """The edit over pictures (N, 3, S, S): composited, or with `blending.SMOOTH` or `LIGHT` bands blended."""
        if bands is None:
            return composite(self.edit, pictures, self.mask, opacity)
        return blend(self.edit, pictures, self.mask, opacity, bands)


@torch.no_grad()
def propagate(congealed: Congealed, template: Tensor, size: int, sigma: float | None = None) -> Overlay:
    """A template as the N congealed pictures have it, `size` px: every pixel of it with an alpha is drawn as a spot.

    `sigma` in px is that of all spots; by default it follows each picture's scale, so that spots join. Colours are the
    spots' mean, the mask fades out where few are. Mirrored pictures have mirrored edits. Raises ValueError for another
    template, one without an alpha above 0, too few for the clusters, and for pictures congealed with an alpha.
    """
    templates = _checked(template, congealed)
    pictures = congealed.warped.grid
    edit, mask = pictures.new_zeros(len(pictures), 3, size, size), pictures.new_zeros(len(pictures), 1, size, size)
    which = congealed.cluster if len(templates) > 1 else torch.zeros_like(congealed.cluster)
    for cluster in which.unique().tolist():
        index = (which == cluster).nonzero()[:, 0]
        part, drawn = congealed.part(index), templates[cluster].to(pictures)
        there = drawn[3] > 0
        places = identity_grid(drawn.shape[-1], pictures)[0][there].expand(len(part), -1, -1)
        points = uncongeal_places(part.warped, places, size)
        values = drawn[:, there].T.expand(len(part), -1, -1)
        sigmas = _spacing(part, drawn.shape[-1], size).mul(SIGMA).clamp(min=LEAST_SIGMA) if sigma is None else sigma
        edit[index] = splat(points, values[..., :3], sigmas, (size, size))
        mask[index] = splat(points, values[..., 3:], sigmas, (size, size), "soft")
    return Overlay(edit, mask)


@torch.no_grad()
def template_of(congealed: Congealed, drawing: Tensor, resolution: int | None = None) -> Tensor:
    """A drawing (4, S, S) on one congealed picture as a template (4, T, T), by default at the resolution of that.

    What lies outside the common frame is lost. Raises ValueError for another drawing, one that is lost altogether, more
    than one picture, and one congealed with an alpha.
    """
    if len(congealed) != 1:
        raise ValueError(f"a drawing is on one picture, not on {len(congealed)}; take a `part`")
    if drawing.ndim != 3:
        raise ValueError(f"a drawing is (4, S, S), not {tuple(drawing.shape)}")
    (drawn,) = _checked(drawing, congealed, "drawing").to(congealed.warped.grid)
    grid = congealed.warped.grid
    # Colours where nothing is drawn must not mix in, so that they are weighted by the alpha.
    weighted = torch.cat([drawn[:3] * drawn[3:], drawn[3:]])
    (found,) = MipmapWarp().to(grid.device)(weighted[None], resize_grid(grid, resolution or grid.shape[1]), "zeros")
    alpha = found[3:].clamp(0, 1)
    if not alpha.any():
        raise ValueError("the drawing lies outside of what the common frame has of the picture")
    colours = torch.where(alpha > 0, found[:3] / alpha.clamp(min=torch.finfo(alpha.dtype).tiny), 0.0)
    return torch.cat([colours.clamp(-1, 1), alpha])


def edit_each(
    network: Transformer,
    batches: Iterable[Tensor],
    template: Tensor,
    settings: Settings = PLAIN,
    sigma: float | None = None,
    opacity: float = 1.0,
    bands: Bands | None = None,
) -> Iterator[Tensor]:
    """Batches (n, 3, S, S), such as the frames of a video one by one, with a template's edit over each picture.

    Nothing is kept from batch to batch.
    """
    for x in batches:
        found = congeal(network, x, settings)
        yield propagate(found, template, x.shape[-1], sigma).over(x, opacity, bands)


def dot(x: float, y: float, radius: float, colour: tuple[float, float, float], resolution: int = 128) -> Tensor:
    """A template (4, T, T) of one disc; place and radius in units of the frame's side, [0, 1] from its left and top."""
    places = (identity_grid(resolution)[0] + 1) / 2
    alpha = ((places - places.new_tensor([x, y])).norm(dim=-1) <= radius).to(places.dtype)
    if not alpha.any():
        raise ValueError(f"a dot of radius {radius} at ({x}, {y}) covers no pixel of {resolution} x {resolution}")
    return torch.cat([places.new_tensor(colour)[:, None, None].expand(-1, resolution, resolution), alpha[None]])


def coordinate_map(resolution: int = 128) -> Tensor:
    """A template (4, T, T) that shows by its colours what corresponds: hue by direction from the centre, and the more
    saturated the further out, white in the middle. Neighbours have like colours."""
    x, y = identity_grid(resolution)[0].unbind(-1)
    hue, saturation = torch.atan2(y, x) / (2 * math.pi), (x.square() + y.square()).sqrt().clamp(max=1)
    sector = (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + 6 * hue) % 6
    colours = 1 - saturation * torch.minimum(sector, 4 - sector).clamp(0, 1)
    return torch.cat([2 * colours - 1, torch.ones(1, resolution, resolution)])


def _spacing(congealed: Congealed, resolution: int, size: int) -> Tensor:
    """The mean distance (N,), in px of pictures of `size`, of what are neighbours in a frame of `resolution` px."""
    grid = congealed.warped.grid
    across, down = (grid.diff(dim=dim).norm(dim=-1).mean((1, 2)) for dim in (2, 1))
    return (across + down) / 2 * (size / 2) * (grid.shape[1] / resolution)


def _checked(template: Tensor, congealed: Congealed, kind: str = "template") -> Tensor:
    """Templates (K, 4, T, T)."""
    templates = template[None] if template.ndim == 3 else template
    if templates.ndim != 4 or templates.shape[2] != templates.shape[3] or not len(templates):
        raise ValueError(f"a {kind} is square, (4, T, T) or (K, 4, T, T), not {tuple(template.shape)}")
    if templates.shape[1] != 4:
        raise ValueError(
            f"a {kind} has four channels, not {templates.shape[1]}: add an alpha, 1 where it is drawn and 0 elsewhere"
        )
    if not templates.is_floating_point() or not templates.isfinite().all():
        raise ValueError(f"a {kind} holds finite floats, colours in [-1, 1] and alpha in [0, 1]")
    alpha = templates[:, 3]
    if alpha.min() < 0 or alpha.max() > 1:
        raise ValueError(f"a {kind}'s alpha is in [0, 1], not {alpha.min():.3g} to {alpha.max():.3g}")
    if not alpha.any():
        raise ValueError(f"the {kind} is transparent everywhere: give alpha above 0 where it is drawn")
    if 1 < len(templates) <= int(congealed.cluster.max()):
        raise ValueError(
            f"{len(templates)} templates are too few: there are pictures of cluster {congealed.cluster.max()}"
        )
    if congealed.partial:
        raise ValueError("the pictures were congealed with an alpha, part of the way; congeal them without for edits")
    return templates
