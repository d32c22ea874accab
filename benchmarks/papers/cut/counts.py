"""Exact numbers of CUT's networks and of an iteration of training: they depend on no weights, data or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gengauge.benchmarks.core.experiments import SCALES, AtScale, Context, Experiment, Limits, Measurement, Plan, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.training.unpaired import Recipe, training_of
from gengauge.reference.cut import contrastive
from gengauge.reference.cut.contrastive import Draws
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, FASTCUT
from gengauge.reference.nets.patchgan import PatchDiscriminator, PixelDiscriminator
from gengauge.reference.nets.translation_resnet import ResnetGenerator

GIGA = 1e9
SIDE = 256  # px of the pictures that networks are counted for


@dataclass(frozen=True)
class Settings:
    """The side in px of the pictures that an iteration is counted for."""

    side: int = 128


PLAIN: dict[str, Any] = {"antialias": False, "antialias_up": False}
NETWORKS: dict[Row, tuple[Callable[[], nn.Module], int]] = {
    Row("Generator, 9 blocks"): (ResnetGenerator, SIDE),
    Row("Generator, 9 blocks", "not antialiased"): (lambda: ResnetGenerator(**PLAIN), SIDE),
    Row("Generator, 6 blocks"): (lambda: ResnetGenerator(6), SIDE),
    Row("Generator, 4 blocks"): (lambda: ResnetGenerator(4), SIDE),
    Row("PatchGAN"): (PatchDiscriminator, SIDE),
    Row("PatchGAN", "not antialiased"): (lambda: PatchDiscriminator(antialias=False), SIDE),
    Row("PixelGAN"): (PixelDiscriminator, SIDE),
}
# Without a pool, which would look at its pictures; a pool changes no count.
_WITHOUT_POOL = replace(CYCLEGAN, pool_size=0)
TRAININGS: dict[Row, Recipe] = {
    Row("Training of CUT"): CUT,
    Row("Training of FastCUT"): FASTCUT,
    Row("Training of CycleGAN"): _WITHOUT_POOL,
    Row("Training of CycleGAN", "without identities"): replace(_WITHOUT_POOL, lambda_identity=0.0),
}
COLUMNS = (
    Column("parameters", "Trainable values of the network, or of all networks in training", "1", "none", True),
    Column(
        "macs", "Multiply-accumulates of convolutions and products, one forward pass at 256 px", "G",
        "lower", True,
    ),
    Column(
        "flops",
        "Floating-point operations of convolutions and products in one iteration at 128 px, batch 1, as published",
        "G",
        "lower",
        True,
    ),
    Column("flops_ratio", "The same divided by CycleGAN's", "1", "lower", True),
    Column(
        "flops_here",
        "The same as this project does it, where keys are not computed twice; of FastCUT the mean over mirrored and "
        "other iterations",
        "G",
        "lower",
        True,
    ),
)  # fmt: skip
OF_NETWORKS, OF_TRAININGS = ("parameters", "macs"), ("parameters", "flops", "flops_ratio", "flops_here")
BASE = Row("Training of CycleGAN")


def macs(network: nn.Module, side: int) -> float:
    """Multiply-accumulates of one forward pass of one picture, in thousand millions; of a network on meta."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2 / GIGA


def flops(recipe: Recipe, side: int) -> tuple[int, float]:
    """Trainable values of a recipe's networks, and operations of one iteration in thousand millions.

    Where pictures are mirrored by chance, the mean of an iteration with and one without.
    """
    with torch.device("meta"):
        training = training_of(recipe, "meta")
    reals, counts = torch.empty(2, 3, side, side, device="meta"), []
    for flip in (False, True):
        with FlopCounterMode(display=False) as counter:
            if isinstance(training, contrastive.Training):
                training.step(reals, draws=Draws(flip=flip))
            else:
                training.step(reals)
        counts.append(counter.get_total_flops())
    values = sum(_parameters(network) for network in training.networks.values())
    return values, sum(counts) / len(counts) / GIGA


def count(context: Context) -> Iterator[Result]:
    """All counts."""
    s: Settings = context.settings
    for row, (build, side) in NETWORKS.items():
        with torch.device("meta"):
            network = build()
        yield Measurement(row.key, "parameters", _parameters(network))
        yield Measurement(row.key, "macs", macs(network, side))
    counted = {row: flops(replace(recipe, as_published=True), s.side) for row, recipe in TRAININGS.items()}
    for row, (values, operations) in counted.items():
        yield Measurement(row.key, "flops_here", flops(TRAININGS[row], s.side)[1])
        yield Measurement(row.key, "parameters", values)
        yield Measurement(row.key, "flops", operations)
        yield Measurement(row.key, "flops_ratio", operations / counted[BASE][1])


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


ROWS = (*NETWORKS, *TRAININGS)
TABLE = Table("counts", "Sizes and operations (this project's own; all numbers are exact)", COLUMNS, ROWS, ())
_WITHOUT = {
    (row.key, column.key)
    for rows, mine in ((NETWORKS, OF_NETWORKS), (TRAININGS, OF_TRAININGS))
    for row in rows
    for column in COLUMNS
    if column.key not in mine
}
EXPERIMENT = Experiment(
    key="counts",
    table="counts",
    rows=tuple(row.key for row in ROWS),
    columns=COLUMNS,
    scales={scale: AtScale(Settings(), 1, Limits(600, 4), 1, Plan()) for scale in SCALES},
    run=count,
    without=frozenset(_WITHOUT),
)
