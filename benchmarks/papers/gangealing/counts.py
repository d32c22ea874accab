"""Exact numbers of GANgealing's networks: they depend on no weights, data or machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gengauge.benchmarks.core.experiments import SCALES, AtScale, Context, Experiment, Limits, Measurement, Plan, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.stylegan2.rosinality import Generator

GIGA = 1e9


PICTURE = (1, 3, 128, 128)  # what a transformer sees
NETWORKS: dict[Row, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    Row("Generator, 256 px"): (lambda: _Mapped(256), ((1, 512),)),
    Row("Generator, 128 px"): (lambda: _Mapped(128), ((1, 512),)),
    Row("Transformer, similarity and flow"): (ComposedSTN, (PICTURE,)),
    Row("Transformer, similarity and flow", "4 heads"): (lambda: ComposedSTN(num_heads=4), (PICTURE,)),
    Row("Transformer, similarity"): (SpatialTransformer, (PICTURE,)),
    Row("Transformer, flow"): (lambda: SpatialTransformer("flow"), (PICTURE,)),
    Row("Classifier of clusters", "4 heads and their mirror images"): (
        lambda: ResnetClassifier(num_heads=8),
        (PICTURE,),
    ),
    Row("LPIPS on VGG16, a pair"): (lambda: LPIPS("vgg"), (PICTURE, PICTURE)),
}
COLUMNS = (
    Column("parameters", "Values that are trained, of LPIPS its heads and its trunk", "1", "none", True),
    Column(
        "macs",
        "Multiply-accumulates of convolutions and products for one picture; filters are fused with convolutions here, "
        "where the published code has them apart (15.525 of similarity and flow, 45.375 of the generator)",
        "G",
        "lower",
        True,
    ),
)  # fmt: skip


class _Mapped(nn.Module):
    """A generator as a module that takes latents z."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.generator = Generator(size)

    def forward(self, z: Tensor) -> Tensor:
        g = self.generator
        return g.synthesis(g.latents([g.style(z)]), randomize_noise=False)


def count(context: Context) -> Iterator[Result]:
    """All counts. Networks are run, for a transformer's sampling depends on its warps."""
    for done, (row, (build, inputs)) in enumerate(NETWORKS.items()):
        context.progress(done, len(NETWORKS), str(row))
        network = build().eval()
        yield Measurement(row.key, "parameters", sum(parameter.numel() for parameter in network.parameters()))
        network.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            network(*(torch.zeros(shape) for shape in inputs))
        yield Measurement(row.key, "macs", counter.get_total_flops() / 2 / GIGA)


@dataclass(frozen=True)
class Settings:
    """Nothing is to be chosen."""


TABLE = Table(
    "counts", "Sizes and operations (this project's own; all numbers are exact)", COLUMNS, tuple(NETWORKS), ()
)
EXPERIMENT = Experiment(
    key="counts",
    table="counts",
    rows=tuple(row.key for row in NETWORKS),
    columns=COLUMNS,
    scales={scale: AtScale(Settings(), 1, Limits(600, 6), 1, Plan()) for scale in SCALES},
    run=count,
)
