"""Two edits in one generator, and what edits do to its samples: distance to the base's, and how different they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
    Result,
)
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.metrics.frechet import fit, frechet_distance
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.gan_warping.comparison import BASE, COLUMNS, LESSONS, METHOD, PROTOCOL, SHOWN
from gengauge.benchmarks.papers.gan_warping.edits import EDITS
from gengauge.benchmarks.papers.gan_warping.figures import sheet
from gengauge.benchmarks.papers.gan_warping.world import (
    Array,
    Judges,
    Learnt,
    Lesson,
    held_out,
    learnt,
    mapped,
    pixels,
    plan,
)
from gengauge.benchmarks.training.warping import latents
from gengauge.benchmarks.zoo import stylegan2_poses
from gengauge.reference.gan_warping.low_rank import compose
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.stylegan2.generator import Generator

FIRST_SAMPLE = 20_000  # seeds of samples, which are neither edited nor held out
NAMES = tuple(EDITS)
TOGETHER = " and ".join(NAMES)


@dataclass(frozen=True)
class Settings:
    """How edits are learnt, on how many held-out pictures they are scored or watched, how many samples are compared."""

    lesson: Lesson = LESSONS[METHOD]
    held_out: int = 50
    samples: int = 100


def edits_of(context: Context, s: Settings, g: Generator) -> dict[str, Learnt]:
    """Each edit, those of the comparison where it has trained them."""
    return {name: learnt(context, name, s.lesson, held_out(g, (name,), s.held_out, context.seed)) for name in NAMES}


def changed_by(edits: Mapping[str, Learnt]) -> dict[str, Mapping[str, Tensor]]:
    """The changed weights of each edit."""
    return {name: edit.changed for name, edit in edits.items()}


def composed(g: Generator, edits: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of all edits together, each at its full strength."""
    return compose(g.state_dict(), list(edits.values()), [1.0] * len(edits))


def histories(edits: Mapping[str, Learnt]) -> str:
    """What is to be told of the trainings of edits that are composed."""
    return "; ".join(f"{name}: {edit.history}" for name, edit in edits.items() if edit.history)


def compare(context: Context) -> Iterator[Result]:
    """The base, each edit alone and both composed, against pictures that both warp."""
    s: Settings = context.settings
    g, judges = stylegan2_poses.load(), Judges()
    edits = edits_of(context, s, g)
    held = held_out(g, NAMES, s.held_out, context.seed)
    yield from held.scored(UNEDITED.key, held.base, judges)
    for name, edit in edits.items():
        yield from held.scored(ALONE[name].key, pixels(g, held.ws, edit.changed), judges, edit.history)
    made = pixels(g, held.ws, composed(g, changed_by(edits)))
    yield from held.scored(BOTH.key, made, judges, histories(edits))
    if context.seed == 0:
        shown = np.stack([held.base, held.targets, made])[:, :SHOWN]
        yield Picture(
            BOTH.key,
            "held-out",
            sheet(shown),
            "Cats that no training saw: as the base makes them, as both edits warp them, and by the two edits composed",
        )


def sampled(context: Context) -> Iterator[Result]:
    """Distance and diversity of samples of the same latents by the base, by each edit and by both."""
    s: Settings = context.settings
    g = stylegan2_poses.load()
    judge, inception = Judges().lpips.to(context.device), load_network("inception")
    edits = edits_of(context, s, g)
    changed: dict[Row, Mapping[str, Tensor]] = {SAMPLED_BASE: {}, SAMPLED_OTHERS: {}}
    changed |= {row: edits[name].changed for name, row in SAMPLED.items()}
    changed |= {SAMPLED_BOTH: composed(g, changed_by(edits))}
    told = {row: edits[name].history for name, row in SAMPLED.items()} | {SAMPLED_BOTH: histories(edits)}
    # The base's other samples tell what a distance of so few is worth.
    ws, others = (
        mapped(g, latents(range(i, i + s.samples), g.z_dim)) for i in (FIRST_SAMPLE, FIRST_SAMPLE + s.samples)
    )
    reference = None
    for done, (row, weights) in enumerate(changed.items()):
        context.progress(done, len(changed), f"samples of {row}")
        made, note = pixels(g, others if row == SAMPLED_OTHERS else ws, weights), told.get(row, "")
        found = fit(extract(torch.from_numpy(made).permute(0, 3, 1, 2), inception, device=context.device))
        if reference is None:
            reference = found
        else:
            yield Measurement(row.key, "fid_base", frechet_distance(reference, found), samples=s.samples, note=note)
        yield Measurement(row.key, "diversity", diversity(judge, made), samples=s.samples, note=note)


@torch.no_grad()
def diversity(lpips: LPIPS, pictures: Array) -> float:
    """The mean LPIPS of pictures (N, H, W, 3) uint8, each with the next one."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = x.to(next(lpips.parameters()).device)
    pairs = zip(x.split(32), x.roll(-1, 0).split(32), strict=True)
    return float(torch.cat([lpips(a, b) for a, b in pairs]).mean()) if len(x) > 1 else math.nan


UNEDITED = Row(BASE, TOGETHER)
ALONE = {name: Row(f"GAN Warping, the {name} alone", TOGETHER) for name in NAMES}
BOTH = Row("GAN Warping, edits composed", TOGETHER)
TABLE = Table(
    "composition",
    "Two edits composed, against held-out pictures that both warp (own)",
    COLUMNS,
    (UNEDITED, *ALONE.values(), BOTH),
    (),
)
SAMPLED_BASE = Row("Base")
SAMPLED_OTHERS = Row("Base, samples of other latents")
SAMPLED = {name: Row(METHOD, name) for name in NAMES}
SAMPLED_BOTH = Row("GAN Warping, edits composed", TOGETHER)
SAMPLE_COLUMNS = (
    Column("fid_base", "FID of samples to those of the first row", "1", "none"),
    Column("diversity", "Mean LPIPS (AlexNet) of a sample to the next", "1", "none"),
)
SAMPLES = Table(
    "samples",
    "Samples of edited generators against the base's (own)",
    SAMPLE_COLUMNS,
    (SAMPLED_BASE, SAMPLED_OTHERS, *SAMPLED.values(), SAMPLED_BOTH),
    (),
)
_NEEDS = Plan(plan().networks, lambda data: (*plan().needs(data), weights_need("inception")))
EXPERIMENTS = (
    Experiment(
        key="composition",
        table="composition",
        rows=tuple(row.key for row in TABLE.rows),
        columns=COLUMNS,
        scales={"quick": AtScale(Settings(), 3, Limits(1800, 6), 1, plan())},
        run=compare,
        protocol=PROTOCOL,
    ),
    Experiment(
        key="samples",
        table="samples",
        rows=tuple(row.key for row in SAMPLES.rows),
        columns=SAMPLE_COLUMNS,
        without=frozenset({(SAMPLED_BASE.key, "fid_base")}),
        scales={"quick": AtScale(Settings(), 1, Limits(1800, 6), 1, _NEEDS)},
        run=sampled,
        protocol=(
            *PROTOCOL,
            (
                "samples",
                "200 random ones, to look at",
                "the same latents for all rows but the second, which tells what the FID of so few is worth",
            ),
        ),
    ),
)
CLAIMS = (
    Claim(
        "composes",
        "Two edits compose: by PSNR where both together change held-out pictures, the composed generator is nearer to "
        "them than the base and than either edit alone.",
        "composition",
        {
            "both": Cell(BOTH.key, "psnr_changed"),
            **{row.method: Cell(row.key, "psnr_changed") for row in (UNEDITED, *ALONE.values())},
        },
        lambda v: v["both"] - max(value for name, value in v.items() if name != "both"),
        "dB",
    ),
)
