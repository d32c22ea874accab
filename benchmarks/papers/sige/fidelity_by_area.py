"""What sparse results lose against dense ones at each size of an edit, on a small trained network of this project.

The published networks' weights are not at hand; with random ones the distance between sparse and dense results says
nothing. The zoo's DDPM of cats at 32 px stands in: pictures are edited as the released benchmark edits churches.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
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
    PlannedNetwork,
    Result,
    Scale,
)
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.metrics.psnr import psnr
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.sige.counts import BEYOND
from gengauge.benchmarks.papers.sige.editing import Array, grey_levels
from gengauge.benchmarks.papers.sige.edits import EDITS, Edit
from gengauge.benchmarks.papers.sige.fidelity import Compare, lpips_of_pictures
from gengauge.benchmarks.papers.sige.speed import AREA
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo import ddpm_cat
from gengauge.benchmarks.zoo.entries import FRESH_SEED
from gengauge.datasets import world
from gengauge.reference.nets.ddpm_unet import DDPMUNet, fuse
from gengauge.reference.sige import masks, policy
from gengauge.reference.sige.count import dense_macs
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.masks import EditMasks
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.samplers import Edit as HeldEdit
from gengauge.reference.sige.samplers import diffuse, linear_betas, sample_ddim, uniform_times
from gengauge.reference.sige.tape import record

SIZE = ddpm_cat.RESOLUTION
MEGA = 1e6
# The released settings are of 256 px: tiles from 64 px up, edits grown by 5 px.
THRESHOLD = 64 * SIZE // 256
SMALLEST = SIZE >> (len(ddpm_cat.CONFIG.ch_mult) - 1)
RECIPE = replace(masks.DDPM, dilation_before=max(1, round(5 * SIZE / 256)), min_size=(SMALLEST, SMALLEST))

RELEASED = Row("SIGE", f"as released, tiles from {THRESHOLD} px")
SMALL_DENSE = Row("SIGE", f"tiles from {2 * THRESHOLD} px, small maps and attention dense")
OWN_STATISTICS = Row("SIGE", f"tiles from {THRESHOLD} px, statistics of the edit")
EVERY_LAYER = Row(f"SIGE, {BEYOND}")
KEPT, DENSE = Row("Nothing computed", "the original's noise"), Row("Dense")
POLICIES: dict[Row, Policy] = {
    RELEASED: policy.ddpm(THRESHOLD),
    SMALL_DENSE: policy.ddpm(2 * THRESHOLD),
    # No published policy: with new statistics every pixel of every map changes, and only convolutions are sparse.
    OWN_STATISTICS: replace(policy.ddpm(THRESHOLD), name="statistics of the edit", fresh_norms=lambda name: True),
    EVERY_LAYER: policy.beyond_published(),
}
SQUARES = tuple(edit for edit in EDITS if edit.share is not None)
FINAL = next(edit for edit in SQUARES if edit.share == 0.15)

COLUMNS = (
    Column(
        "psnr_edit",
        "PSNR of sparse results against dense ones inside the grown mask, mean; outside both are the original",
        "dB",
        "higher",
    ),
    Column("lpips", "LPIPS 0.1 (AlexNet) of sparse against dense results, whole pictures, mean", "1", "lower"),
    Column(
        "first_noise",
        "Error of one pass inside the grown mask, as a share of the dense network's noise (root mean squares), at the "
        "first step, where the picture is noisiest; mean",
        "%",
        "lower",
    ),
    Column("last_noise", "The same at the last step of the dense sampling; mean", "%", "lower"),
    Column("macs", "Multiply-accumulate operations of one pass, mean over the places of the edit", "M", "lower"),
)
PROTOCOL = (
    (
        "network",
        "DDPM of churches at 256 px, six sizes of maps",
        "the zoo's DDPM of cats at 32 px, three sizes of maps",
    ),
    ("edits", "strokes on photographs of churches", "a square at a drawn place, in it the pixels of another cat"),
    (
        "tiles",
        "from 64 px up: three of six sizes; 4 px of output, 1/64 of a side",
        f"from {THRESHOLD} px up, the same share: all three sizes; 4 px, 1/8 of a side: more around edits is computed",
    ),
    (
        "tiles over the edge",
        "1.05 times the dense network's MACs with all pixels touched",
        "1.47 times: the one more tile along a side weighs more on small maps",
    ),
    ("mask before levels", "grown by 5 px of 256", f"grown by {RECIPE.dilation_before} px of {SIZE}"),
    ("the original's passes", "at every step of every edit", "once a step for all edits, which gives the same numbers"),
    ("scores", "PSNR and LPIPS, of whole pictures and masked ones", "PSNR inside the mask, LPIPS of whole pictures"),
)


@dataclass(frozen=True)
class Settings:
    """Cats a seed; times as in the released sampling (`noise_level` of 1,000, `steps`); edits; ways of computing."""

    pictures: int = 2
    steps: int = 10
    noise_level: int = 500
    edits: tuple[Edit, ...] = SQUARES
    rows: tuple[Row, ...] = (RELEASED, OWN_STATISTICS, EVERY_LAYER)


class Sparse(Protocol):
    """A way to compute an edit's passes from those of the original, one a time step."""

    def full(self, x: Tensor, time: Tensor, t: int) -> Tensor:
        """The pass on the original at time step t, which is kept."""

    def begin(self, mask: EditMasks) -> float | None:
        """The edit that follows; the operations of a pass in millions, None where they are not known."""

    def sparse(self, x: Tensor, t: int) -> Tensor:
        """The pass on the edit at time step t."""


@dataclass(frozen=True)
class Tiles:
    """SIGE's engine."""

    engine: Engine

    def full(self, x: Tensor, time: Tensor, t: int) -> Tensor:
        return self.engine.full(x, time, cache_id=t)

    def begin(self, mask: EditMasks) -> float:
        self.engine.set_masks(mask.levels)
        return self.engine.macs().total() / MEGA

    def sparse(self, x: Tensor, t: int) -> Tensor:
        return self.engine.sparse(x, t)


def fidelity_by_area(context: Context) -> Iterator[Result]:
    """Edits every cat densely and with every policy, and compares."""
    s: Settings = context.settings
    network = fused(ddpm_cat.load()).to(context.device)
    yield from compared(context, network, {row: Tiles(Engine(network, POLICIES[row])) for row in s.rows}, RELEASED)


def compared(context: Context, network: DDPMUNet, engines: Mapping[Row, Sparse], pictured: Row) -> Iterator[Result]:
    """Edits every cat densely and by every engine, and compares; a picture of all goes to one row."""
    s: Settings = context.settings
    lpips = lpips_of_pictures(context.device)
    cats = world.pictures(FRESH_SEED + context.seed, range(2 * s.pictures), SIZE, species=ddpm_cat.SPECIES)
    cats = cats.float().to(context.device) / 127.5 - 1
    draws = torch.Generator().manual_seed(context.seed)
    noises = torch.randn(s.pictures, 1, 3, SIZE, SIZE, generator=draws).to(context.device)
    scores: dict[tuple[Row, Edit], Scores] = {}
    areas: dict[Edit, list[float]] = {edit: [] for edit in s.edits}
    shown: list[list[Array]] = []
    total = s.pictures * len(s.edits)
    for number, (original, other, noise) in enumerate(zip(*cats.split(s.pictures), noises, strict=True)):
        context.progress(number * len(s.edits), total, f"passes on original {number + 1} of {s.pictures}")
        one = Original(original[None], noise, s, network, engines)
        for index, edit in enumerate(s.edits):
            context.progress(number * len(s.edits) + index, total, f"{edit.name} in picture {number + 1}")
            mask = RECIPE.from_mask(placed(edit, draws).to(context.device))
            areas[edit].append(100 * mask.ratio)
            edited = torch.where(mask.raw, other, original)[None]
            results = one.edit(edited, mask, lpips, keeps=edit == FINAL)
            for row, made in results.items():
                scores.setdefault((row, edit), Scores()).add(made.values)
            if number == 0:
                shown.append(
                    [grey_levels(x) for x in (one.picture, edited)] + [made.picture for made in results.values()]
                )
    yield Measurement(DENSE.key, "macs", dense_macs(network, record(network, one.picture, one.time(0))).total() / MEGA)
    for (row, edit), found in scores.items():
        yield from _measured(row, found, edit == FINAL, statistics.fmean(areas[edit]))
    if context.seed == 0:
        yield _sheet(shown, s, pictured, tuple(engines))


def fused(network: DDPMUNet) -> DDPMUNet:
    """The network in the form that SIGE's are published in."""
    made = DDPMUNet(network.config, fused=True)
    made.load_state_dict(fuse(network.state_dict(), network.config))
    return made.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def placed(edit: Edit, generator: torch.Generator) -> Tensor:
    """The edit's mask bool (SIZE, SIZE) at a drawn place.

    A square keeps a pixel from the edges where it can, so that the grown mask has one size at all places.
    """
    square = edit.mask("", SIZE, SIZE)
    sides = int(square.any(1).sum()), int(square.any(0).sum())
    draws = torch.rand(2, generator=generator).tolist()
    top, left = (min(1 + int(draw * (SIZE - 1 - side)), SIZE - side) for draw, side in zip(draws, sides, strict=True))
    mask = torch.zeros_like(square)
    mask[top : top + sides[0], left : left + sides[1]] = True
    return mask


@dataclass(frozen=True, eq=False)
class Made:
    """A sparse result uint8 (H, W, 3), and what its columns say of it against the dense one."""

    picture: Array
    values: Mapping[str, float]


@dataclass
class Scores:
    """Values by column, one a picture."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Those of one more picture."""
        for column, value in values.items():
            self.values.setdefault(column, []).append(value)


class Original:
    """A picture (1, 3, H, W) with its noise; all engines keep its passes, one a time step."""

    def __init__(
        self, picture: Tensor, noise: Tensor, s: Settings, network: DDPMUNet, engines: Mapping[Row, Sparse]
    ) -> None:
        self.picture, self.noise, self.network, self.engines = picture, noise, network, engines
        self.betas, self.times = linear_betas(), uniform_times(s.noise_level, s.steps)
        self.noises: dict[int, Tensor] = {}  # that the network gives for the original
        for engine in engines.values():
            for t in self.times:
                self.noises[t] = engine.full(self.noised(picture, t), self.time(t), t)

    def edit(self, edited: Tensor, mask: EditMasks, lpips: Compare, keeps: bool = False) -> dict[Row, Made]:
        """The dense result and the sparse ones by row; with `keeps` also that of the original's noise."""
        passes: list[tuple[Tensor, Tensor]] = []

        def dense(x: Tensor, t: int) -> Tensor:
            passes.append((x, self.network(x, self.time(t))))
            return passes[-1][1]

        expected = grey_levels(self.sample(dense, edited, mask))
        ways: dict[Row, Callable[[Tensor, int], Tensor]] = {}
        macs: dict[Row, float | None] = {KEPT: 0.0}
        for row, engine in self.engines.items():
            macs[row] = engine.begin(mask)
            ways[row] = engine.sparse
        if keeps:
            ways[KEPT] = lambda x, t: self.noises[t]
        inside = mask.dilated.cpu().numpy()
        made = {DENSE: Made(expected, {})}
        for row, way in ways.items():
            found = grey_levels(self.sample(way, edited, mask))
            values = {
                "psnr_edit": psnr(expected, found, inside, identical="one-level"),
                "lpips": lpips(expected, found),
            }
            if (operations := macs[row]) is not None:
                values["macs"] = operations
            for column, t, (x, noise) in zip(
                ("first_noise", "last_noise"), (self.times[-1], self.times[0]), (passes[0], passes[-1]), strict=True
            ):
                values[column] = 100 * _share(way(x, t) - noise, noise, mask.dilated)
            made[row] = Made(found, values)
        return made

    @torch.no_grad()
    def sample(self, network: Callable[[Tensor, int], Tensor], edited: Tensor, mask: EditMasks) -> Tensor:
        """SDEdit of the edited picture with a network of one picture at a time step."""
        return sample_ddim(
            lambda x, t: network(x, int(t)),
            self.noised(edited, self.times[-1]),
            self.times,
            self.betas,
            HeldEdit(self.picture, self.noise, mask.dilated),
            generator=torch.Generator(),
        )

    def noised(self, picture: Tensor, t: int) -> Tensor:
        """A picture at a time step."""
        return diffuse(picture, t, self.noise, self.betas)

    def time(self, t: int) -> Tensor:
        """A time step as the network takes it, (1,)."""
        return torch.full((1,), float(t), device=self.picture.device)


def _share(error: Tensor, whole: Tensor, region: Tensor) -> float:
    """The root mean square of an error in a region, as a share of that of the whole value there."""
    squares = (x[..., region].double().square().mean() for x in (error, whole))
    return math.sqrt(next(squares) / next(squares))


def _measured(row: Row, found: Scores, final: bool, percent: float) -> Iterator[Measurement]:
    for column, values in found.values.items():
        mean, count = statistics.fmean(values), len(values)
        if final:
            yield Measurement(row.key, column, mean, samples=count)
        if row != KEPT:
            yield Measurement(row.key, column, mean, samples=count, step=round(percent * AREA.steps_per_unit))


def _sheet(shown: list[list[Array]], s: Settings, pictured: Row, rows: tuple[Row, ...]) -> Picture:
    """The first picture with every edit: a row of the sheet for the original, the edit and every way's result."""
    ways = ["original", "edited", "dense", *map(str, rows)]
    tiles = np.stack([column[i] for i in range(len(ways)) for column in shown]).transpose(0, 3, 1, 2)
    edits = ", ".join(edit.name for edit in s.edits)
    alt = f"Columns: {edits}. Rows: {'; '.join(ways)}"
    return Picture(pictured.key, "edits", grid(tiles, len(shown), zoom=3), alt)


# ----------------------------------------------------------------------------------------------------------------------
# Declarations

TABLE = Table(
    "fidelity-by-area",
    f"Fidelity of sparse against dense results over the edited share of the picture, {SIZE} px; the table is of a "
    f"{FINAL.name} (this project's own)",
    COLUMNS,
    (*POLICIES, KEPT, DENSE),
    (),
)


def _experiment(scale: Scale, settings: Settings, limits: Limits) -> Experiment:
    def inputs() -> tuple[Tensor, Tensor]:
        return torch.empty(1, 3, SIZE, SIZE, device="meta"), torch.zeros(1, device="meta")

    name = f"the zoo's {ddpm_cat.NAME}"
    network = PlannedNetwork(name, lambda: DDPMUNet(ddpm_cat.CONFIG, fused=True).eval(), inputs)
    plan = Plan((network,), lambda data: (weights_need("lpips-alex"),))
    return Experiment(
        key=f"{TABLE.key}-{scale}",
        table=TABLE.key,
        rows=tuple(row.key for row in (*settings.rows, KEPT, DENSE)),
        columns=COLUMNS,
        scales={scale: AtScale(settings, 3, limits, plan=plan)},
        run=fidelity_by_area,
        protocol=PROTOCOL,
        axis=AREA,
        without=frozenset((DENSE.key, column.key) for column in COLUMNS if column.key != "macs"),
    )


EXPERIMENTS = (
    _experiment("quick", Settings(), Limits(seconds=300, gibibytes=4)),
    _experiment("small", Settings(pictures=16, steps=50, rows=tuple(POLICIES)), Limits(seconds=7200, gibibytes=4)),
)
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "statistics",
        "Sparse results lose by the original's statistics, which the released policy keeps: with those of the edit "
        f"they are nearer to the dense ones ({FINAL.name}, cats of {SIZE} px).",
        TABLE.key,
        {"own": Cell(OWN_STATISTICS.key, "psnr_edit"), "kept": Cell(RELEASED.key, "psnr_edit")},
        lambda v: v["own"] - v["kept"],
        unit="dB",
    ),
)
