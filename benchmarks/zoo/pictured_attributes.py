"""What a picture of the captioned animals shows, read off its pixels: background, style and coat, without a network.

Possible since the background of a caption is always the same picture, and a coat one of a few colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.zoo.captioned_animals import PLACES, RESOLUTION, STYLES, animals, in_style, pictures
from gengauge.datasets import world
from gengauge.datasets.world.backgrounds import backgrounds

PLAINLY_COLOURED = ("plain", "gradient", "bricks")  # backgrounds whose colour is seen at once
_SEED = 3_000_000  # of the pictures whose coats are known
_SIDE = 6  # pixels of the strips at the sides
_UNCOVERED = 0.3  # of a strip at least, also where an animal is near


@cache
def _templates() -> tuple[tuple[tuple[str, str, str], ...], Tensor]:
    """Style, background and its colour ("" where none is seen) with the strips (K, 3, P) of each."""
    at = torch.arange(RESOLUTION) + 0.5
    names, out = [], []
    for background in world.BACKGROUNDS:
        coloured = background in PLAINLY_COLOURED
        for colour in world.BACKGROUND_COLOURS if coloured else world.BACKGROUND_COLOURS[:1]:
            (shown,) = animals(0, [0], background=background, background_colour=colour)
            planes = backgrounds([shown.scene], at[None, None], at[None, :, None], RESOLUTION)
            picture = world.to_uint8(torch.cat(planes) * 2 - 1)
            for style in STYLES:
                names.append((style, background, colour if coloured else ""))
                out.append(in_style(picture, style))
    return tuple(names), _strips(torch.stack(out))


def _strips(shown: Tensor) -> Tensor:
    """The upper two thirds of the sides of pictures (N, 3, H, W), float32 (N, 3, P)."""
    upper = shown[:, :, : 2 * RESOLUTION // 3].float()
    return torch.cat([upper[..., :_SIDE], upper[..., -_SIDE:]], 3).flatten(2)


def backdrops(shown: Tensor) -> list[tuple[str, str, str]]:
    """Style, background and its colour ("" for meadow and night) of pictures uint8 (N, 3, 64, 64).

    Those of the nearest of all, by a low quantile of the differences, so that an animal may cover the rest.
    """
    names, templates = _templates()
    out = []
    for picture in _strips(shown):
        far = (picture - templates).abs().sum(1).quantile(_UNCOVERED, dim=1)
        out.append(names[int(far.argmin())])
    return out


@cache
def _coats() -> Tensor:
    """The mean histogram of the heads of each coat colour, (colours, bins)."""
    out = []
    for colour in world.FUR_COLOURS:
        shown = animals(_SEED, range(160), unusual=True, fur_colour=colour)
        chosen = [each for each in shown if each.framing == "normal" and each.style == "photo"]
        out.append(histograms(middle(pictures(chosen))).mean(0))
    return torch.stack(out)


def middle(shown: Tensor) -> Tensor:
    """The part of pictures (N, 3, 64, 64) that the head of an animal alone fills."""
    low, high = 3 * RESOLUTION // 10, 7 * RESOLUTION // 10
    return shown[:, :, low:high, low:high]


def histograms(shown: Tensor) -> Tensor:
    """How often each of 512 colours is in pictures uint8 (N, 3, H, W): (N, 512), sums 1."""
    bins = shown.long() // 32
    index = (bins[:, 0] * 64 + bins[:, 1] * 8 + bins[:, 2]).flatten(1)
    counts = torch.zeros(len(shown), 512).scatter_add_(1, index, torch.ones(index.shape))
    return counts / index.shape[1]


def coats(shown: Tensor) -> list[str]:
    """Coat colours of animals alone in pictures uint8 (N, 3, 64, 64), not far away: that of the nearest histogram."""
    known = _coats().sqrt()
    found = histograms(middle(shown)).sqrt() @ known.T / known.norm(dim=1)
    return [world.FUR_COLOURS[int(i)] for i in found.argmax(1)]


def prompts(count: int) -> list[tuple[str, tuple[str, str, str]]]:
    """Prompts for one animal with the coat colour, the background and its colour that they ask for."""
    random = np.random.default_rng(0)
    out = []
    for _ in range(count):
        coat, species, background, colour = (
            options[int(random.integers(len(options)))]
            for options in (world.FUR_COLOURS, world.SPECIES, world.BACKGROUNDS, world.BACKGROUND_COLOURS)
        )
        place = PLACES[background][0].format(colour)
        colour = colour if background in PLAINLY_COLOURED else ""
        out.append((f"photo of a {coat} {species} {place}", (coat, background, colour)))
    return out


def shares(wanted: Sequence[tuple[str, str, str]], shown: Tensor) -> dict[str, float]:
    """Shares of pictures whose coat colour, background, and background's colour are those wanted."""
    right: Counter[str] = Counter()
    coloured = sum(bool(colour) for _, _, colour in wanted)
    for (coat, background, colour), seen, (_, behind, hue) in zip(wanted, coats(shown), backdrops(shown), strict=True):
        right["coat"] += seen == coat
        right["background"] += behind == background
        right["background_colour"] += bool(colour) and hue == colour
    totals = {"coat": len(wanted), "background": len(wanted), "background_colour": max(1, coloured)}
    return {name: round(right[name] / total, 4) for name, total in totals.items()}
