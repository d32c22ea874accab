"""Table 3: compositing. What was pasted into a picture is blended in, and the rest is to stay as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Picture,
    Plan,
    Result,
)
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.core.tables import Column
from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.metrics.faithfulness import masked_lpips
from gengauge.benchmarks.needs import data_need, weights_need
from gengauge.benchmarks.papers.sdedit.priors import PRIORS
from gengauge.benchmarks.papers.sdedit.runs import SHARED, WORLD, Editor, Sampling, l2, steps_of
from gengauge.benchmarks.papers.sdedit.strokes import INFERRED, SHOWN
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo import ddpm_cat
from gengauge.benchmarks.zoo.entries import FRESH_SEED
from gengauge.datasets import world
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.strokes import Composites
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.sdedit.blending import laplacian_blend, poisson_blend

SDEDIT, LAPLACIAN, POISSON = "sdedit@celeba-hq", "laplacian-blending@celeba-hq", "poisson-blending@celeba-hq"
COLUMNS = (
    Column("l2", "L2 norm of the difference from the composite, pixels in [0, 1], mean", "1", "lower"),
    Column("masked_lpips", "LPIPS 0.1 (VGG16) of original and result outside the pasted region, mean", "1", "lower"),
    Column(
        "outside", "Root mean square difference from the original outside the pasted region, grey levels", "1", "lower"
    ),
)


@dataclass(frozen=True)
class Settings:
    """Composites of a `source`, the world or a data set by key; of the world `count` a seed."""

    source: str
    count: int
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class Parts:
    """Originals, and the same with something pasted in, uint8 (N, 3, R, R); `pasted` bool (N, 1, R, R).

    `whole` are the pictures that the parts were cut from, where they are known: blending takes them.
    """

    original: Tensor
    composite: Tensor
    pasted: Tensor
    whole: Tensor | None = None


def compositing(context: Context) -> Iterator[Result]:
    """SDEdit and both blendings of the same composites."""
    s: Settings = context.settings
    parts = parts_of(context)
    lpips = load_lpips("vgg", context.device)
    edit = Editor(context, s.sampling.prior)
    (tell,) = steps_of(context, 1)
    edited = edit(s.sampling, parts.composite, tell("compositing"), parts.pasted)
    source = parts.composite if parts.whole is None else parts.whole
    original, cut = parts.original.float() / 255, source.float() / 255
    made = {
        LAPLACIAN: _grey(laplacian_blend(original, cut, parts.pasted)),
        # Of a finished composite the gradient across the seam is the paste's own edge, and is left out.
        POISSON: _grey(poisson_blend(original, cut, parts.pasted, "flat" if parts.whole is None else "pasted")),
        SDEDIT: edited,
    }
    for row, results in made.items():
        yield from scored(row, parts, results, lpips, context.device)
    if context.seed == 0:
        alt = "Rows: originals, composites, Laplacian blending, Poisson blending, SDEdit"
        yield shown(SDEDIT, parts, list(made.values()), alt)


def parts_of(context: Context) -> Parts:
    """The composites of a job. Raises DataNotFound, and ValueError for pictures that the network does not take."""
    return _world_parts(context) if context.settings.source == WORLD else _own_parts(context)


def scored(row: str, parts: Parts, results: Tensor, lpips: LPIPS, device: str) -> Iterator[Measurement]:
    """A row's values for results uint8 (N, 3, R, R)."""
    yield l2(row, parts.composite, results)
    yield _masked(row, lpips, parts, results, device)
    away = (results.float() - parts.original.float()).permute(0, 2, 3, 1)[~parts.pasted[:, 0]]
    yield Measurement(row, "outside", float(away.square().mean().sqrt()), samples=len(results))


def shown(row: str, parts: Parts, results: Sequence[Tensor], alt: str) -> Picture:
    """Originals, composites and results, a row of the sheet each."""
    sheet = torch.cat([rows[:SHOWN] for rows in (parts.original, parts.composite, *results)])
    zoom = max(1, 64 // sheet.shape[-1])
    return Picture(row, "composites", grid(sheet.numpy(), min(SHOWN, len(parts.original)), zoom), alt)


def _masked(row: str, network: LPIPS, parts: Parts, results: Tensor, device: str) -> Measurement:
    found: list[float] = []
    for i in range(0, len(results), 16):
        one = slice(i, i + 16)
        a, b = (x[one].to(device).float() / 255 for x in (parts.original, results))
        found += masked_lpips(network, a, b, parts.pasted[one].to(device)).tolist()
    interval = t_interval(found)
    return Measurement(
        row, "masked_lpips", interval.mean, interval.low, interval.high, "95 % t over pictures", interval.count
    )


def _grey(pictures: Tensor) -> Tensor:
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


def _world_parts(context: Context) -> Parts:
    """The middle of one cat's face in another cat's picture, in an ellipse."""
    s: Settings = context.settings
    size, first = ddpm_cat.RESOLUTION, 2 * s.count * context.seed
    both = world.pictures(FRESH_SEED + 1, range(first, first + 2 * s.count), size, species=ddpm_cat.SPECIES)
    original, whole = both.split(s.count)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle = (((y - 0.5 * size) / (0.22 * size)) ** 2 + ((x - 0.5 * size) / (0.28 * size)) ** 2 < 1)[None, None]
    pasted = middle.expand(s.count, 1, size, size)
    return Parts(original, torch.where(pasted, whole, original), pasted, whole)


def _own_parts(context: Context) -> Parts:
    """The user's composites. Raises DataNotFound, and ValueError for pictures of another size than the network's."""
    s: Settings = context.settings
    entry = data_set(s.source)
    place = entry.find(context.data)
    if place is None:
        raise DataNotFound(entry.what, [context.data or "no data folder"], entry.remedy)
    composites = Composites(place)
    found = [composites.composite(i) for i in range(len(composites))]
    resolution = PRIORS[s.sampling.prior].resolution
    for one in found:
        if one.original.shape != (3, resolution, resolution):
            raise ValueError(
                f"{place}: {one.name} has {tuple(one.original.shape[1:])} px; the network takes {resolution} x "
                f"{resolution}: resize original, composite and mask"
            )

    def all_of(part: Callable[[int], Tensor]) -> Tensor:
        return torch.stack([part(i) for i in range(len(found))])

    return Parts(
        _grey(all_of(lambda i: found[i].original)),
        _grey(all_of(lambda i: found[i].composite)),
        all_of(lambda i: found[i].pasted).any(1, keepdim=True),
    )


def _at(s: Settings, seeds: int, limits: Limits, *protocol: tuple[str, str, str]) -> AtScale:
    prior = PRIORS[s.sampling.prior]

    def needs(data: Path | None) -> tuple[object, ...]:
        own = () if s.source == WORLD else (data_need(s.source, data),)
        return (*own, *prior.needs(), weights_need("lpips-vgg"))

    return AtScale(s, seeds, limits, plan=Plan(prior.planned(), needs), protocol=protocol)  # type: ignore[arg-type]


STAND_IN = (
    ("pictures", "CelebA-HQ at 256 px, patches pasted by hand", "a cat's face in another cat's picture, 32 px"),
    ("prior", "NCSN++ of FFHQ (VE), t0 = 0.35, N = 700", "the zoo's U-Net of cats (VP), t0 = 0.3"),
    ("steps", "700", "7 (quick) or 60 (small), respaced"),
    ("clean picture", "not cut", "cut to [-1, 1]"),
)
_USUAL = Sampling("zoo", t0=0.3, steps_per_unit=24, clamp=True, batch=32)

EXPERIMENT = Experiment(
    key="compositing",
    table="compositing",
    rows=(LAPLACIAN, POISSON, SDEDIT),
    columns=COLUMNS,
    scales={
        "quick": _at(Settings(WORLD, 32, _USUAL), 3, Limits(900, 6), *STAND_IN),
        "small": _at(
            Settings(WORLD, 300, Sampling("zoo", t0=0.3, steps_per_unit=200, clamp=True, batch=50)),
            3,
            Limits(6 * 3600, 16),
            *STAND_IN,
        ),
        "paper": _at(
            Settings("sdedit-composites", 0, Sampling("faces", t0=0.35, steps_per_unit=2000, batch=8)),
            1,
            Limits(30 * 24 * 3600, 64),
            ("pictures", "the paper's composites; not published", "those in your folder"),
        ),
    },
    run=compositing,
    generates=SHARED,
    protocol=(
        INFERRED[0],
        ("masked LPIPS", "follows Bau et al. 2020; network not told", "VGG16, mean of the map outside (inferred)"),
        (
            "Poisson blending",
            "settings not told",
            "without the gradient across the seam where only composites are known",
        ),
    ),
    reads=lambda settings, root: data_set("sdedit-composites").find(root),
)

CLAIMS = (
    Claim(
        "outside-kept",
        "Outside of what was pasted SDEdit keeps the picture: it differs by less than 3 grey levels (the noise of the "
        "first level, which its algorithms leave there, is 1.3 of the VP form and 2.6 of the VE form).",
        "compositing",
        {"away": Cell(SDEDIT, "outside")},
        lambda v: 3 - v["away"],
        unit="grey levels",
    ),
    Claim(
        "keeps-more-than-laplacian",
        "Outside of what was pasted SDEdit changes less than Laplacian blending (masked LPIPS).",
        "compositing",
        {"blend": Cell(LAPLACIAN, "masked_lpips"), "ours": Cell(SDEDIT, "masked_lpips")},
        lambda v: v["blend"] - v["ours"],
    ),
)
