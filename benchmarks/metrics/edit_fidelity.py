"""How well edited pictures show the wanted edit, as GAN Warping's evaluation measures it.

Twelve columns: PSNR in dB, SSIM, LPIPS and the chamfer distance in px, each overall, `_changed` and `_unchanged`. A
soft mask m, (H, W) in [0, 1], tells what the edit changes; 1 - m tells what it must leave. Two conventions:

- PSNR in a region. "published", as the released evaluator computes it: of (m d)^2 summed over pixels and the three
  channels, divided by the sum of m alone. "corrected": of the mean of d^2 over pixels and channels weighed by m, on one
  scale with the PSNR overall. For masks of 0 and 1 that is 10 log10(3) = 4.771 dB more; where a mask is between, its
  square no longer makes errors smaller, and the difference is less.
- SSIM and LPIPS in a region, in both: the mean of the map, weighed by m. LPIPS overall is the network's own mean.
- Chamfer in a region, in both: of edges where m is not 0, or, unchanged, where m is 0.
- Over pictures, in both: the mean. But the released evaluator reports the chamfer distance of the last picture, and
  so does "published"; "corrected" is the mean of the pictures that have one.

Where a mask leaves nothing to compare, or a picture has no edge, a value is NaN and the reason is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from gengauge.benchmarks.metrics.chamfer import symmetric_chamfer
from gengauge.benchmarks.metrics.edges import Detector
from gengauge.benchmarks.metrics.ssim import ssim_map
from gengauge.reference.nets.lpips import LPIPS, pooled, spread

Array = np.ndarray[Any, Any]
Convention = Literal["corrected", "published"]

METRICS = ("psnr", "ssim", "lpips", "chamfer")
REGIONS = ("", "_changed", "_unchanged")
COLUMNS = tuple(metric + region for metric in METRICS for region in REGIONS)
NOTHING_LEFT = "the mask leaves no pixel"


@dataclass(frozen=True)
class Fidelity:
    """Values by column in both conventions, of a picture or of many; `reasons` tells of each NaN why.

    `counts` says of each column how many pictures its corrected value is of.
    """

    corrected: Mapping[str, float]
    published: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def values(self, convention: Convention = "corrected") -> Mapping[str, float]:
        """The values by column in a convention."""
        return self.corrected if convention == "corrected" else self.published


def edit_fidelity(
    edited: Array,
    target: Array,
    mask: Array,
    lpips: LPIPS | None = None,
    edges: Detector | None = None,
) -> Fidelity:
    """All columns of one edited picture against its target, both (H, W, 3) uint8, by a mask (H, W) of [0, 1].

    Columns of LPIPS are left out without its network (the published tables take AlexNet, in eval mode), and those of
    the chamfer distance without an edge detector (`edges.thinned` of DexiNed, or `edges.canny_edges`). Equal pictures
    have the PSNR infinity.

    Raises ValueError for other arrays and for masks beyond [0, 1].
    """
    _check(edited, target, mask)
    changed = mask.astype(np.float32)
    weights = dict(zip(REGIONS, (np.ones_like(changed), changed, 1 - changed), strict=True))
    corrected: dict[str, float] = {}
    published: dict[str, float] = {}
    reasons: dict[str, str] = {}

    maps = {"ssim": ssim_map(edited, target).mean(2)}
    if lpips is not None:
        corrected["lpips"], maps["lpips"] = _lpips(lpips, edited, target)
    for region, w in weights.items():
        if not w.any():
            for metric in ("psnr", *maps):
                corrected[metric + region], reasons[metric + region] = math.nan, NOTHING_LEFT
            continue
        corrected["psnr" + region] = psnr(edited, target, w if region else None)
        published["psnr" + region] = psnr(edited, target, w if region else None, "published")
        for metric, values in maps.items():
            corrected.setdefault(metric + region, float((values * w).sum() / w.sum(dtype=np.float64)))
    if edges is not None:
        first, second = edges(np.stack([edited, target]))
        found = chamfer_columns(first, second, mask)
        corrected |= found.corrected
        reasons |= found.reasons
    return _told(corrected, corrected | published, reasons)


def chamfer_columns(edited: Array, target: Array, mask: Array) -> Fidelity:
    """The three columns of the chamfer distance, of edge pictures (H, W) uint8 and a mask (H, W) of [0, 1].

    A pixel is in the changed region where the mask is not 0, as published, however little. Raises ValueError as
    `symmetric_chamfer` does.
    """
    values, reasons = {}, {}
    for region, part in zip(REGIONS, (None, mask != 0, mask == 0), strict=True):
        found = symmetric_chamfer(edited, target, part)
        values["chamfer" + region] = found.value
        if found.reason:
            reasons["chamfer" + region] = found.reason
    return _told(values, values, reasons)


def mse(a: Array, b: Array, mask: Array | None = None, convention: Convention = "corrected") -> float:
    """The mean squared difference of pictures (H, W, 3), of the whole or weighed by a mask (H, W) of [0, 1].

    "published" multiplies differences by the mask before they are squared, sums them over the 3 channels and divides
    by the mask's sum alone. NaN where the mask is 0 everywhere.
    """
    squares = np.square(a.astype(np.float64) - b)
    if mask is None:
        return float(squares.mean())
    if not mask.any():
        return math.nan
    weights = mask.astype(np.float64)[..., None]
    if convention == "published":
        # The sum in the mask's own precision, float32 as it is read, moves the ninth digit.
        return float((weights**2 * squares).sum() / mask.sum())
    return float((weights * squares).sum() / (weights.sum() * squares.shape[2]))


def psnr(a: Array, b: Array, mask: Array | None = None, convention: Convention = "corrected") -> float:
    """10 log10(255^2 / `mse`) of pictures (H, W, 3) uint8, in dB; infinity where nothing differs, NaN as `mse`."""
    error = mse(a, b, mask, convention)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def aggregate(pictures: Sequence[Fidelity]) -> Fidelity:
    """The values of many pictures, each convention by its own rule (see the table above).

    Corrected: the mean over the pictures that have a value, with their number in `counts`; NaN, with a reason, where
    none has. Published: the mean, NaN if any picture is NaN; for chamfer the last picture's value.

    Raises ValueError for no pictures and for pictures of different columns.
    """
    if not pictures:
        raise ValueError("there are no pictures to aggregate")
    columns = list(pictures[0].corrected)
    if any(set(picture.corrected) != set(columns) for picture in pictures):
        raise ValueError("the pictures have different columns, so their values do not belong in one mean")
    corrected, published, reasons, counts = {}, {}, {}, {}
    for column in columns:
        there = [v for picture in pictures if not math.isnan(v := picture.corrected[column])]
        counts[column] = len(there)
        corrected[column] = float(np.mean(there)) if there else math.nan
        of_all = [picture.published[column] for picture in pictures]
        published[column] = of_all[-1] if column.startswith("chamfer") else float(np.mean(of_all))
        if len(there) < len(pictures):
            first = next(p.reasons.get(column, "") for p in pictures if math.isnan(p.corrected[column]))
            reasons[column] = f"{len(pictures) - len(there)} of {len(pictures)} pictures have no value: {first}"
    return Fidelity(corrected, published, reasons, counts)


def _told(corrected: Mapping[str, float], published: Mapping[str, float], reasons: Mapping[str, str]) -> Fidelity:
    """One picture's values, in the order of the table's columns."""
    order = [column for column in COLUMNS if column in corrected]
    return Fidelity(
        {column: corrected[column] for column in order},
        {column: published[column] for column in order},
        dict(reasons),
        {column: int(not math.isnan(corrected[column])) for column in order},
    )


@torch.no_grad()
def _lpips(network: LPIPS, a: Array, b: Array) -> tuple[float, Array]:
    """The distance of two pictures and its map (H, W) float64, from one pass of the network."""
    device = next(network.parameters()).device
    x, y = (torch.from_numpy(picture / 127.5 - 1).permute(2, 0, 1)[None].float().to(device) for picture in (a, b))
    layers = network.layers(x, y)
    return float(pooled(layers)), spread(layers, a.shape[:2])[0].double().cpu().numpy()


def _check(edited: Array, target: Array, mask: Array) -> None:
    for name, picture in (("edited picture", edited), ("target", target)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"the {name} is uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    if edited.shape != target.shape:
        raise ValueError(f"the edited picture is {edited.shape} and its target {target.shape}")
    if mask.dtype.kind not in "bf" or mask.shape != edited.shape[:2]:
        raise ValueError(f"the mask is floats {edited.shape[:2]} in [0, 1], not {mask.dtype} {mask.shape}")
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(f"the mask has values from {mask.min():.3g} to {mask.max():.3g}; bring them to [0, 1]")
