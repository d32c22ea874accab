"""Exact numbers of GAN Warping's generators and edits: they depend on no weights, data or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import SCALES, AtScale, Context, Experiment, Limits, Measurement, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.generators import Generator
from gengauge.benchmarks.papers.gan_warping.world import RECIPE
from gengauge.benchmarks.zoo import stylegan2_poses
from gengauge.reference.gan_warping.low_rank import RANK, Update, layers
from gengauge.reference.nets.dexined import DexiNed
from gengauge.reference.nets.stylegan2 import generator as stylegan2
from gengauge.reference.nets.stylegan3 import generator as stylegan3


def _third(resolution: int) -> stylegan3.Generator:
    return stylegan3.Generator(
        img_resolution=resolution, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=stylegan3.CONFIG_R
    )


ZOO = Row("StyleGAN2 of the zoo", "64 px")
NETWORKS: dict[Row, Callable[[], nn.Module]] = {
    **{Row("StyleGAN3-R", f"{size} px"): lambda size=size: _third(size) for size in (256, 512, 1024)},  # type: ignore[misc]
    **{
        Row("StyleGAN2", f"{size} px"): lambda size=size: stylegan2.Generator(img_resolution=size)  # type: ignore[misc]
        for size in (256, 512)
    },
    ZOO: stylegan2_poses.build,
    Row("DexiNed"): DexiNed,
}
# The layers that released scripts edit by rank 50, and that of the embedded world's edits.
EDITED: dict[Row, tuple[Row, int, int]] = {
    Row(f"Layer {layer}", str(of)): (of, layer, RANK)
    for of, chosen in {
        Row("StyleGAN3-R", "256 px"): (8, 14),
        Row("StyleGAN3-R", "512 px"): (1, 8, 13),
        Row("StyleGAN3-R", "1024 px"): (5, 6),
        Row("StyleGAN2", "512 px"): (8,),
    }.items()
    for layer in chosen
} | {Row(f"Layer {RECIPE.layers}, rank {RECIPE.rank}", str(ZOO)): (ZOO, int(RECIPE.layers), RECIPE.rank or 0)}
PARAMETERS = Column("parameters", "Values that are trained", "1", "none", True)
MACS = Column(
    "macs",
    "Multiply-accumulates of the synthesis' convolutions for one picture, at each layer's input size, without filters",
    "G",
    "lower",
    True,
)
SIZES = (
    Column("trained", f"Values that an edit of rank {RANK}, or as named, trains", "1", "lower", True),
    Column("dense", "Values of the layer's weight", "1", "none", True),
    Column("factors_kib", "Size of the factors as float32", "KiB", "lower", True),
    Column("dense_kib", "Size of the weight as float32, which the published files hold", "KiB", "lower", True),
)


@dataclass(frozen=True)
class Settings:
    """Nothing is to be chosen."""


def count_networks(context: Context) -> Iterator[Result]:
    """Parameters and operations."""
    for row, build in NETWORKS.items():
        with torch.device("meta"):
            network = build()
        yield Measurement(row.key, "parameters", sum(parameter.numel() for parameter in network.parameters()))
        if not isinstance(network, DexiNed):
            yield Measurement(row.key, "macs", macs(network) / 1e9)  # type: ignore[arg-type]


def count_edits(context: Context) -> Iterator[Result]:
    """What edits train and store."""
    for row, (of, layer, rank) in EDITED.items():
        with torch.device("meta"):
            g: Generator = NETWORKS[of]()  # type: ignore[assignment]
            name = layers(g)[layer]
            trained = sum(factor.numel() for factor in Update(g, [name], rank).parameters())
        dense = g.get_parameter(f"{name}.weight").numel()
        values = {"trained": trained, "dense": dense, "factors_kib": trained / 256, "dense_kib": dense / 256}
        for column, value in values.items():
            yield Measurement(row.key, column, value)


def macs(g: Generator) -> int:
    """Multiply-accumulates of a generator's convolutions for one picture."""
    if isinstance(g, stylegan3.Generator):
        names = layers(g)
        sizes = [int(name.split("_")[1]) for name in names]
        inputs = dict(zip(names, [sizes[0], *sizes], strict=False))
    else:
        names = [*layers(g), *(name for name, _ in g.named_modules() if name.endswith(".torgb"))]
        inputs = {name: _input_side(name, g.get_submodule(name)) for name in names}
    return sum(g.get_parameter(f"{name}.weight").numel() * side**2 for name, side in inputs.items())


def _input_side(name: str, layer: nn.Module) -> int:
    """Of StyleGAN2's layers, one of which in each block doubles the side."""
    return int(name.split(".")[1].removeprefix("b")) // int(getattr(layer, "up", 1))


NETWORK_TABLE = Table(
    "networks",
    "Sizes and operations of the networks (own; all numbers are exact)",
    (PARAMETERS, MACS),
    tuple(NETWORKS),
    (),
)
SIZE_TABLE = Table(
    "sizes", "What edits of the released scripts train and store (own; all numbers are exact)", SIZES, tuple(EDITED), ()
)
EXPERIMENTS = (
    Experiment(
        key="networks",
        table="networks",
        rows=tuple(row.key for row in NETWORKS),
        columns=(PARAMETERS, MACS),
        scales={scale: AtScale(Settings(), 1, Limits(600, 6), 1) for scale in SCALES},
        run=count_networks,
        without=frozenset({(Row("DexiNed").key, "macs")}),
    ),
    Experiment(
        key="sizes",
        table="sizes",
        rows=tuple(row.key for row in EDITED),
        columns=SIZES,
        scales={scale: AtScale(Settings(), 1, Limits(600, 6), 1) for scale in SCALES},
        run=count_edits,
    ),
)
_EIGHTH = next(row for row, (of, layer, _) in EDITED.items() if of == Row("StyleGAN3-R", "512 px") and layer == 8).key
CLAIMS = (
    Claim(
        "fraction",
        "An edit of rank 50 of the layer that most scripts edit (StyleGAN3-R, 512 px, layer 8) has less than a fifth "
        "of its weight's values.",
        "sizes",
        {"trained": Cell(_EIGHTH, "trained"), "dense": Cell(_EIGHTH, "dense")},
        lambda v: 0.2 - v["trained"] / v["dense"],
        "1",
        exact=True,
    ),
)
