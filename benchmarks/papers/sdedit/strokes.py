"""Strokes to pictures: tables 1, 2 and 4, and realism against faithfulness over t0 (figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Axis,
    Context,
    Experiment,
    Limits,
    Need,
    Picture,
    Plan,
    Result,
    Scale,
)
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.needs import data_need, weights_need
from gengauge.benchmarks.papers.sdedit.priors import PRIORS
from gengauge.benchmarks.papers.sdedit.runs import (
    SHARED,
    WORLD,
    Editor,
    Pictures,
    Sampling,
    Scores,
    l2,
    steps_of,
)
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo import stylegan2_cat
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.strokes import read_mask_and_image
from gengauge.reference.nets.lpips import Trunk
from gengauge.reference.sdedit.projector import Recipe, lpips_features, project
from gengauge.reference.sdedit.strokes import COLOURS, strokes

SHOWN = 12  # pictures of a row in the report
ALL_COLOURS = (3, 6, 16, 30, 50)

COLUMNS = {
    "kid": Column("kid", "KID (Inception 2015, clean resizing), all pairs, against validation pictures", "1", "lower"),
    "l2": Column("l2", "L2 norm of the difference from the guide, pixels in [0, 1], mean", "1", "lower"),
}
# ----------------------------------------------------------------------------------------------------------------------
# Table 2: simulated strokes; table 4: their colours


@dataclass(frozen=True)
class Simulated:
    """Strokes of `colours` colours, one row a number, edited by SDEdit."""

    rows: tuple[tuple[str, int], ...]
    pictures: Pictures
    sampling: Sampling


def simulated(context: Context) -> Iterator[Result]:
    """SDEdit of simulated strokes: L2 and KID of every row."""
    s: Simulated = context.settings
    edit = Editor(context, s.sampling.prior)
    real, references = s.pictures.load(context)
    scores = Scores(references, context.device)
    for (row, colours), tell in zip(s.rows, steps_of(context, len(s.rows)), strict=True):
        guides = strokes(real, colours)
        results = edit(s.sampling, guides, tell(f"{colours} colours"))
        yield from scored(context, row, guides, results, scores, f"Strokes of {colours} colours and what SDEdit makes")


def scored(context: Context, row: str, guides: Tensor, results: Tensor, scores: Scores, about: str) -> Iterator[Result]:
    """A row of results of guides, both uint8 (N, 3, R, R)."""
    yield l2(row, guides, results)
    yield scores.kid(row, results)
    if context.seed == 0:
        yield _shown(row, "strokes", f"{about} of them", guides, results)


@dataclass(frozen=True)
class Projected:
    """Strokes projected into the latents of the zoo's StyleGAN2."""

    row: str
    pictures: Pictures
    recipe: Recipe
    trunk: Trunk
    batch: int = 64


def projected(context: Context) -> Iterator[Result]:
    """The GAN baseline: the generator's picture nearest to the strokes."""
    s: Projected = context.settings
    network = stylegan2_cat.load().to(context.device)
    real, references = s.pictures.load(context)
    guides = strokes(real)
    distance = lpips_features(load_lpips(s.trunk, context.device))
    generator = torch.Generator(context.device).manual_seed(context.seed)
    parts = guides.split(s.batch)
    made: list[Tensor] = []
    for part, tell in zip(parts, steps_of(context, len(parts)), strict=True):
        told = tell("projecting")
        found = project(
            network,
            part.to(context.device).float() / 127.5 - 1,
            distance,
            s.recipe,
            generator=generator,
            callback=lambda step, distances, told=told: told(step + 1, s.recipe.steps),  # type: ignore[misc]
        )
        made.append(to_uint8(found.pictures.cpu()))
    scores = Scores(references, context.device)
    yield from scored(context, s.row, guides, torch.cat(made), scores, "Strokes and what the projection makes")


# ----------------------------------------------------------------------------------------------------------------------
# Figure 3: over t0

AXIS = Axis("t0", steps_per_unit=100, about="Over t0")
TRAINED, EXACT = "trained prior", "exact denoiser"
STROKES, FRESH = Row("Strokes as they are"), Row("Other real pictures")


def _at(t0: float, repeats: int = 1) -> Row:
    return Row("SDEdit", f"t0 = {t0:g}, K = {repeats}")


@dataclass(frozen=True)
class TradeOff:
    """Strokes edited from every t0; a line of the curve a prior. K other than 1 is tried at one t0 with the first.

    `lines` are names with how guides are edited and from which t0.
    """

    pictures: Pictures
    lines: tuple[tuple[str, Sampling, tuple[float, ...]], ...]
    repeats: tuple[int, ...] = (1, 3)
    repeats_at: float = 0.5


def trade_off(context: Context) -> Iterator[Result]:
    """L2 and KID over t0, and those of the strokes themselves and of other real pictures."""
    s: TradeOff = context.settings
    real, references = s.pictures.load(context)
    guides = strokes(real)
    scores = Scores(references, context.device)
    runs = [(name, replace(sampling, t0=t0)) for name, sampling, t0s in s.lines for t0 in t0s]
    first, usual, t0s = s.lines[0]
    runs += [(first, replace(usual, t0=s.repeats_at, repeats=k)) for k in s.repeats if k > 1]
    edit = Editor(context, *(sampling.prior for _, sampling, _ in s.lines))
    sheet = [real[:SHOWN], guides[:SHOWN]]
    yield scores.kid(STROKES.key, guides)
    yield l2(STROKES.key, guides, guides)
    yield scores.kid(FRESH.key, real) if s.pictures.source == WORLD else scores.kid_of_halves(FRESH.key)
    for (name, sampling), tell in zip(runs, steps_of(context, len(runs)), strict=True):
        # The same noises at every t0, as far as they go.
        results = edit(sampling, guides, tell(f"{name}, t0 = {sampling.t0:g}"))
        kid, distance = scores.kid(name, results), l2(name, guides, results)
        if sampling.repeats == 1:
            step = round(sampling.t0 * AXIS.steps_per_unit)
            yield from (replace(found, row=LINES[name].key, step=step) for found in (kid, distance))
        if name == first and sampling.t0 in ROWS_T0:
            row = _at(sampling.t0, sampling.repeats).key
            yield from (replace(found, row=row) for found in (kid, distance))
        if name == first:
            sheet.append(results[:SHOWN])
    if context.seed == 0:
        alt = f"Rows: real pictures, their strokes, SDEdit with t0 {', '.join(f'{t:g}' for t in t0s)}, then K = 3"
        yield Picture(LINES[first].key, "over t0", grid(torch.cat(sheet).numpy(), len(sheet[0]), _zoom(guides)), alt)


LINES = {TRAINED: Row("SDEdit", TRAINED), EXACT: Row("SDEdit", EXACT)}
ROWS_T0 = (0.01, 0.1, 0.3, 0.5)  # that have a row at every scale
ALL_T0 = (0.01, *(n / 10 for n in range(1, 11)))
TABLE = Table(
    "trade-off",
    "Realism against faithfulness over t0 (figure 3, whose points are not printed; this project's own numbers)",
    tuple(COLUMNS.values()),
    (*LINES.values(), STROKES, FRESH, *(_at(t0) for t0 in ROWS_T0), _at(0.5, 3)),
    (),
)


# ----------------------------------------------------------------------------------------------------------------------
# Table 1: strokes by hand


@dataclass(frozen=True)
class ByHand:
    """Paintings in the published files, edited by SDEdit."""

    row: str
    source: str
    sampling: Sampling


def by_hand(context: Context) -> Iterator[Result]:
    """SDEdit of strokes painted by hand: L2 to them, over all pixels."""
    s: ByHand = context.settings
    entry = data_set(s.source)
    folder = entry.find(context.data)
    files = sorted(folder.glob("*.pth")) if folder is not None else []
    if not files:
        raise DataNotFound(entry.what, [folder or context.data or "no data folder"], entry.remedy)
    read = [read_mask_and_image(file) for file in files]
    resolution = PRIORS[s.sampling.prior].resolution
    for file, guide in zip(files, read, strict=True):
        if guide.picture.shape != (3, resolution, resolution):
            raise ValueError(
                f"{file} has {tuple(guide.picture.shape[1:])} px; the network takes {resolution} x {resolution}: "
                "resize mask and image"
            )
    guides = torch.stack([(guide.picture * 255).round().to(torch.uint8) for guide in read])
    editable = torch.stack([guide.editable for guide in read])
    (tell,) = steps_of(context, 1)
    results = Editor(context, s.sampling.prior)(s.sampling, guides, tell("strokes"), editable)
    yield l2(s.row, guides, results)
    yield _shown(s.row, "strokes", "Strokes by hand and what SDEdit makes of them", guides, results)


# ----------------------------------------------------------------------------------------------------------------------
# Declarations


def _zoom(pictures: Tensor) -> int:
    return max(1, 64 // pictures.shape[-1])


def _shown(row: str, name: str, alt: str, guides: Tensor, results: Tensor) -> Picture:
    pair = torch.cat([guides[:SHOWN], results[:SHOWN]])
    return Picture(row, name, grid(pair.numpy(), min(SHOWN, len(guides)), _zoom(guides)), f"{alt}, one above the other")


# The same noise hides more of a picture of 32 px than of one of 256 px, where it averages out over more of them.
SMALL_PICTURES_T0 = 0.3
QUICK = Sampling("zoo", steps_per_unit=24, clamp=True, batch=24)
SMALL = replace(QUICK, steps_per_unit=200, batch=50)
WORLD_QUICK, WORLD_SMALL = Pictures(WORLD, 24, 192), Pictures(WORLD, 300, 1000)

STAND_IN = (
    ("pictures", "validation pictures of LSUN at 256 px", "cats of the embedded world at 32 px, not trained on"),
    ("median filter", "23 px of 256", "3 px of 32"),
    (
        "prior",
        "DDPM's U-Net, 114 million parameters",
        "the zoo's U-Net, 2.7 million parameters",
    ),
    (
        "t0 and steps",
        "0.5 and N = 500 at 256 px",
        f"{SMALL_PICTURES_T0} at 32 px, where the same noise hides more; 24 (quick) or 200 (small) steps from t0 = 1",
    ),
    ("clean picture", "not cut", "cut to [-1, 1]: the errors of a small network add up to another colour"),
    (
        "KID against",
        "the validation pictures, which the strokes are of",
        "others than those of the strokes: 192 at quick, 1,000 at small",
    ),
)
INFERRED = (
    ("L2", "the text says squared", "the norm: the printed values can be nothing else (inferred)"),
    ("KID", "extractor and subsets are not told", "Inception 2015, all pairs at once, unbiased (assumed)"),
    ("KID's bias", "not told", "at paper scale the pictures it is against are those of the strokes, which lowers it"),
    ("strokes", "median filter of 23 px, 6 colours of an adaptive palette", "Pillow's, in this order (inferred)"),
)
BASELINE = (
    ("GAN", "StyleGAN2-ADA; the checkpoint is not told", "the zoo's StyleGAN2 of cats"),
    (
        "projection",
        "1,000 steps, LPIPS on VGG16",
        "the same at small; at quick 150 steps, LPIPS on AlexNet",
    ),
)


def _plan(pictures: Pictures, *priors: str) -> Plan:
    def needs(data: Path | None) -> tuple[Need, ...]:
        weights = [need for key in priors for need in PRIORS[key].needs()]
        return (*pictures.needs(data), *weights, weights_need("inception"))

    return Plan(tuple(n for key in priors for n in PRIORS[key].planned()), needs)


def _simulated(
    key: str, table: str, rows: Mapping[str, int], source: str, prior: str, seeds: Mapping[Scale, int]
) -> Experiment:
    """Rows of table 2 or 4, with stand-ins below paper scale where `seeds` has these scales."""
    chosen = {
        "quick": (WORLD_QUICK, replace(QUICK, t0=SMALL_PICTURES_T0), Limits(900, 6)),
        "small": (WORLD_SMALL, replace(SMALL, t0=SMALL_PICTURES_T0), Limits(6 * 3600, 16)),
        "paper": (Pictures(source, 300, 300), Sampling(prior, batch=16), Limits(30 * 24 * 3600, 64)),
    }
    scales: dict[Scale, AtScale] = {}
    for scale, count in seeds.items():
        pictures, sampling, limits = chosen[scale]
        scales[scale] = AtScale(
            Simulated(tuple(rows.items()), pictures, sampling),
            count,
            limits,
            plan=_plan(pictures, sampling.prior),
            protocol=() if scale == "paper" else STAND_IN,
        )
    return Experiment(
        key=key,
        table=table,
        rows=tuple(rows),
        columns=tuple(COLUMNS.values()),
        scales=scales,
        run=simulated,
        generates=SHARED,
        protocol=INFERRED,
        reads=lambda settings, root: data_set(source).find(root),
    )


def _projected() -> Experiment:
    row = "stylegan2-ada@lsun-church"

    def at(pictures: Pictures, steps: int, trunk: Trunk, seconds: float) -> AtScale:
        recipe = Recipe(steps=steps, noise_maps=False)
        own = _plan(pictures)
        plan = Plan(own.networks, lambda data: (*own.needs(data), weights_need(f"lpips-{trunk}")))
        return AtScale(Projected(row, pictures, recipe, trunk), 3, Limits(seconds, 8), plan=plan)

    return Experiment(
        key="projector",
        table="simulated-strokes",
        rows=(row,),
        columns=tuple(COLUMNS.values()),
        scales={"quick": at(WORLD_QUICK, 150, "alex", 900), "small": at(WORLD_SMALL, 1000, "vgg", 12 * 3600)},
        run=projected,
        protocol=(*BASELINE, *INFERRED),
    )


def _trade_off() -> Experiment:
    def at(pictures: Pictures, seeds: int, limits: Limits, *lines: tuple[str, Sampling, tuple[float, ...]]) -> AtScale:
        return AtScale(
            TradeOff(pictures, lines),
            seeds,
            limits,
            plan=_plan(pictures, *(sampling.prior for _, sampling, _ in lines)),
            protocol=STAND_IN if pictures.source == WORLD else (),
        )

    return Experiment(
        key="trade-off",
        table=TABLE.key,
        rows=tuple(row.key for row in TABLE.rows),
        columns=TABLE.columns,
        scales={
            "quick": at(
                WORLD_QUICK,
                3,
                Limits(900, 6),
                (TRAINED, QUICK, ROWS_T0),
                (EXACT, replace(QUICK, prior="exact"), (0.1, 0.5)),
            ),
            "small": at(
                WORLD_SMALL,
                3,
                Limits(12 * 3600, 16),
                (TRAINED, SMALL, ALL_T0),
                (EXACT, replace(SMALL, prior="exact"), ALL_T0),
            ),
            "paper": at(
                Pictures("lsun-church-val", 300, 300),
                1,
                Limits(60 * 24 * 3600, 64),
                (TRAINED, Sampling("church", batch=16), ALL_T0),
            ),
        },
        run=trade_off,
        generates=SHARED,
        protocol=INFERRED,
        axis=AXIS,
        without=frozenset([(row.key, column) for row in LINES.values() for column in COLUMNS] + [(FRESH.key, "l2")]),
        reads=lambda settings, root: data_set("lsun-church-val").find(root),
    )


def _by_hand() -> Experiment:
    source = "sdedit-strokes"
    row = "sdedit@lsun-bedroom"
    prior = PRIORS["bedroom"]
    plan = Plan(prior.planned(), lambda data: (data_need(source, data), *prior.needs()))
    return Experiment(
        key="by-hand",
        table="human-strokes",
        rows=(row,),
        columns=(COLUMNS["l2"],),
        scales={
            "paper": AtScale(ByHand(row, source, Sampling("bedroom", batch=8)), 1, Limits(7 * 24 * 3600, 64), plan=plan)
        },
        run=by_hand,
        generates=SHARED,
        protocol=(INFERRED[0], ("strokes", "the paper's, by hand; not published", "those in your folder")),
        reads=lambda settings, root: data_set(source).find(root),
    )


CHURCH = "sdedit@lsun-church"
EXPERIMENTS = (
    _simulated(
        "church",
        "simulated-strokes",
        {CHURCH: COLOURS},
        "lsun-church-val",
        "church",
        {"quick": 3, "small": 3, "paper": 1},
    ),
    _simulated(
        "bedroom", "simulated-strokes", {"sdedit@lsun-bedroom": COLOURS}, "lsun-bedroom-val", "bedroom", {"paper": 1}
    ),
    _projected(),
    _simulated(
        "colours",
        "colours",
        {f"{CHURCH}-{n}-colours": n for n in ALL_COLOURS},
        "lsun-church-val",
        "church",
        {"quick": 1, "small": 3, "paper": 1},
    ),
    _trade_off(),
    _by_hand(),
)

CLAIMS = (
    Claim(
        "realism-rises",
        "Realism rises with t0: results from t0 = 0.3 are closer to real pictures (KID) than those from 0.01.",
        TABLE.key,
        {"low": Cell(_at(0.01).key, "kid"), "high": Cell(_at(0.3).key, "kid")},
        lambda v: v["low"] - v["high"],
    ),
    Claim(
        "faithfulness-falls",
        "Faithfulness falls with t0: each larger one ends farther from the strokes (L2; 0.01, 0.1, 0.3, 0.5).",
        TABLE.key,
        {str(i): Cell(_at(t0).key, "l2") for i, t0 in enumerate(ROWS_T0)},
        lambda v: min(v[str(i + 1)] - v[str(i)] for i in range(len(v) - 1)),
    ),
    *(
        Claim(
            f"beats-projector-{column}",
            f"From strokes, SDEdit ends {words} than the projection into StyleGAN2.",
            "simulated-strokes",
            {"gan": Cell("stylegan2-ada@lsun-church", column), "ours": Cell(CHURCH, column)},
            lambda v: v["gan"] - v["ours"],
        )
        for column, words in (("kid", "closer to real pictures (KID)"), ("l2", "closer to the strokes (L2)"))
    ),
)
