"""Exact numbers of what Custom Diffusion trains and stores: they depend on no weights, data or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import SCALES, AtScale, Context, Experiment, Limits, Measurement, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.reference.custom_diffusion.attention import Which, trained_names
from gengauge.reference.nets.latent_diffusion import stable_diffusion_unet, stable_diffusion_xl_unet

MEGA = 1e6
RANKS = (1, 10, 60, 100)
UNETS: dict[str, Callable[[], nn.Module]] = {
    "Stable Diffusion 1": stable_diffusion_unet,
    "Stable Diffusion XL": stable_diffusion_xl_unet,
}
TRAINED: dict[str, Which] = {
    "Keys and values of cross-attention": "kv",
    "All of cross-attention": "crossattn",
    "The whole U-Net": "all",
}
WHAT = {Row(name, unet): (unet, which) for unet in UNETS for name, which in TRAINED.items()}
COMPRESSED = {Row(f"Keys and values at rank {rank}", unet): (unet, rank) for unet in UNETS for rank in RANKS}
COLUMNS = (
    Column("tensors", "Tensors that are trained or, of a rank, replaced by two factors", "1", "none", True),
    Column("numbers", "Values that are stored of them", "1", "lower", True),
    Column("share", "Share of the U-Net's values", "%", "lower", True),
    Column("megabytes", "Size as float32, of a million bytes each; float16 takes half", "MB", "lower", True),
)


def weights(build: Callable[[], nn.Module]) -> Mapping[str, torch.Size]:
    """The shapes of a network's parameters by name."""
    with torch.device("meta"):
        network = build()
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def count(context: Context) -> Iterator[Result]:
    """All rows."""
    shapes = {unet: weights(build) for unet, build in UNETS.items()}
    whole = {unet: sum(shape.numel() for shape in found.values()) for unet, found in shapes.items()}
    for row, (unet, which) in WHAT.items():
        names = trained_names(shapes[unet], which)
        yield from _measured(row, len(names), sum(shapes[unet][name].numel() for name in names), whole[unet])
    for row, (unet, rank) in COMPRESSED.items():
        names = trained_names(shapes[unet])
        yield from _measured(row, len(names), sum(rank * sum(shapes[unet][name]) for name in names), whole[unet])


def _measured(row: Row, tensors: int, numbers: int, whole: int) -> Iterator[Measurement]:
    yield from map(
        partial(Measurement, row.key),
        (column.key for column in COLUMNS),
        (tensors, numbers, 100 * numbers / whole, 4 * numbers / MEGA),
    )


@dataclass(frozen=True)
class Settings:
    """Nothing is to be chosen."""


TABLE = Table(
    "counts",
    "What Custom Diffusion trains and stores (own; all numbers are exact)",
    COLUMNS,
    (*WHAT, *COMPRESSED),
    (),
)
EXPERIMENT = Experiment(
    key="counts",
    table="counts",
    rows=tuple(row.key for row in TABLE.rows),
    columns=COLUMNS,
    scales={scale: AtScale(Settings(), 1, Limits(600, 6), 1) for scale in SCALES},
    run=count,
)
_KV = Row("Keys and values of cross-attention", "Stable Diffusion 1").key
CLAIMS = (
    Claim(
        "few-values",
        "Less than 5 % of the U-Net's values are trained (Stable Diffusion 1).",
        "counts",
        {"share": Cell(_KV, "share")},
        lambda v: 5.0 - v["share"],
        "%",
        exact=True,
    ),
    Claim(
        "small-file",
        "A concept takes about 75 MB, within 5 % (Stable Diffusion 1, float32, without its token).",
        "counts",
        {"size": Cell(_KV, "megabytes")},
        lambda v: 0.05 - abs(v["size"] / 75 - 1),
        "1",
        exact=True,
    ),
)
