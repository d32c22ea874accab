"""Transfers between cats in all poses: the zoo's transformers beside ways without learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

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
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.papers.gangealing.classical import best_similarity, moved, sift_similarity, without_opencv
from gengauge.benchmarks.papers.gangealing.evaluation import Protocol, Transfers, congealed, left_in_place, transfer
from gengauge.benchmarks.papers.gangealing.figures import averages, transferred_points
from gengauge.benchmarks.papers.gangealing.plans import planned
from gengauge.benchmarks.papers.gangealing.scores import measurements
from gengauge.benchmarks.papers.gangealing.world import COLUMNS, SCORED, Drawn, Pairs
from gengauge.benchmarks.zoo import aligners, posed_cats

Array = np.ndarray[Any, Any]

SHOWN = 4  # pairs in the report
WIDE = 10.0  # points of PCK that "by a wide margin" means here


@dataclass(frozen=True)
class Settings:
    """The pairs, and how the transformers take points from one picture to the other."""

    pairs: Pairs
    protocol: Protocol


LEFT = Row("Points left in place")
SIFT = Row("A similarity by matched SIFT features (OpenCV)")
FITTED = Row("A similarity by least squares, from the true points")
ALIGNERS = {
    Row("GANgealing, similarity"): aligners.ALIGNERS["similarity"],
    Row("GANgealing, similarity and flow"): aligners.ALIGNERS["both"],
}
SIMILARITY, BOTH = ALIGNERS


def compare(context: Context) -> Iterator[Result]:
    """All rows, on the same pairs."""
    s: Settings = context.settings
    networks = {row: aligner.load().to(context.device) for row, aligner in ALIGNERS.items()}
    drawn = s.pairs.drawn(context.seed)
    means = [drawn.pictures.mean(0)]
    for done, (row, network) in enumerate(networks.items()):
        context.progress(done, len(networks) + 1, f"{row}: {s.pairs.count} pairs")
        found = transfer(network, drawn.batches(), s.protocol)
        if done == 0:
            yield from measurements(LEFT.key, drawn.hits(left_in_place(found).estimated_b), SCORED, context.seed)
        yield from measurements(row.key, drawn.hits(found.estimated_b), SCORED, context.seed)
        parts = drawn.pictures.split(100)
        means.append(torch.cat([congealed(network, x, s.protocol, s.pairs.size).cpu() for x in parts]).mean(0))
    if context.seed == 0:
        yield shown(BOTH.key, drawn, found)
        yield Picture(
            BOTH.key,
            "average",
            averages(*means),
            f"The average of {len(drawn.pictures)} cats as they are, aligned by a similarity, and by a similarity and "
            "a flow",
        )
    context.progress(len(networks), len(networks) + 1, f"{SIFT}: {s.pairs.count} pairs")
    if reason := without_opencv():
        yield from (Measurement(SIFT.key, column, math.nan, missing=reason) for column in SCORED)
    else:
        estimated, matched = by_sift(drawn)
        note = f"{matched} of {s.pairs.count} pairs had matches; elsewhere points stay in place"
        yield from measurements(SIFT.key, drawn.hits(estimated), SCORED, context.seed, note=note)
    yield from measurements(FITTED.key, drawn.hits(by_true_points(drawn)), SCORED, context.seed)


def shown(row: str, drawn: Drawn, found: Transfers) -> Picture:
    """The first pairs with their points."""
    a, b = to_uint8(drawn.pictures[0 : 2 * SHOWN : 2]), to_uint8(drawn.pictures[1 : 2 * SHOWN : 2])
    return Picture(
        row,
        "pairs",
        transferred_points(a, b, found.of(np.arange(len(a)))),
        "Pairs of cats: landmarks of the left picture, and on the right one where they are put (dots) "
        "and where they are (rings)",
    )


def by_sift(drawn: Drawn) -> tuple[Array, int]:
    """The points of each pair (n, P, 2) moved by the similarity that SIFT finds, and how many pairs have one."""
    pixels = to_uint8(drawn.pictures).permute(0, 2, 3, 1).numpy()
    points = drawn.points[0::2, :, :2].numpy().copy()
    matched = 0
    for i in range(len(points)):
        matrix = sift_similarity(pixels[2 * i], pixels[2 * i + 1])
        if matrix is not None:
            points[i], matched = moved(points[i], matrix), matched + 1
    return points, matched


def by_true_points(drawn: Drawn) -> Array:
    """The points of each pair (n, P, 2) moved by the similarity that fits those that both pictures show."""
    start, end = drawn.points[0::2].numpy(), drawn.points[1::2].numpy()
    out = start[..., :2].copy()
    for i, (a, b) in enumerate(zip(start, end, strict=True)):
        both = (a[:, 2] * b[:, 2]) != 0
        if both.sum() > 1:
            out[i] = moved(a[:, :2], best_similarity(a[both, :2], b[both, :2]))
    return out


def _margin(
    better: Row, worse: Row, by: float = 0.0
) -> tuple[Mapping[str, Cell], Callable[[Mapping[str, float]], float]]:
    cells = {"better": Cell(better.key, "pck_10"), "worse": Cell(worse.key, "pck_10")}
    return cells, lambda v: v["better"] - v["worse"] - by


TABLE = Table(
    "world",
    "PCK-Transfer between cats of the embedded world in all poses (own)",
    COLUMNS,
    (LEFT, SIFT, *ALIGNERS, FITTED),
    (),
)
PROTOCOL = (
    ("pictures", "photographs of SPair-71k and CUB", "cats of the embedded world with exact landmarks, 64 px"),
    (
        "generator",
        "StyleGAN2 trained against a discriminator on photographs",
        "a small one of the zoo, taught by regression what its latents name, the pose among it; cats of one expression",
    ),
    ("training", "batch 40, 1.3 million iterations, LPIPS-VGG", aligners.ABOUT),
    (
        "PCK",
        "alpha 0.1 of the object's box (SPair-71k) or of the picture (CUB)",
        "alpha of the box around the landmarks; no picture is mirrored",
    ),
)
PLAN = Plan(tuple(planned(aligners.RECIPES[a.key].build, posed_cats.RESOLUTION) for a in ALIGNERS.values()))
EXPERIMENT = Experiment(
    key="world",
    table="world",
    rows=tuple(row.key for row in TABLE.rows),
    columns=COLUMNS,
    scales={"quick": AtScale(Settings(Pairs(), Protocol(iters=3, flips=False)), 3, Limits(1800, 6), 1, PLAN)},
    run=compare,
    protocol=PROTOCOL,
)
CLAIMS = (
    Claim(
        "aligned",
        f"Transfer through the aligned frame beats points left in place by more than {WIDE:g} points of PCK at 0.1.",
        "world",
        *_margin(BOTH, LEFT, WIDE),
        "%",
    ),
    Claim(
        "flow",
        "A flow after the similarity beats the similarity alone (one training each, other pairs for each seed).",
        "world",
        *_margin(BOTH, SIMILARITY),
        "%",
    ),
    Claim("beats-sift", "Alignment beats a similarity by matched features.", "world", *_margin(BOTH, SIFT), "%"),
)
