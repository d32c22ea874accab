"""What a row needs before it can run: its networks for the meta device, its data, the feature network's weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gengauge.benchmarks.core.experiments import Need, Plan, PlannedNetwork
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.diffaugment.rows import Recipe, Run
from gengauge.datasets.catalogue import DATA_SETS, data_folder
from gengauge.reference.diffaugment import biggan
from gengauge.reference.nets.spectral_norm import SNConv2d


def plan(run: Run) -> Plan:
    """Networks, data and weights of a row."""

    def needs(data: Path | None) -> tuple[Need, ...]:
        judges = ["inception", *(["inception-logits"] if run.protocol.inception_score else [])]
        return (data_need(run.data, data), *(weights_need(key) for key in judges))

    return Plan(planned_networks(run.recipe, run.resolution), needs)


def data_need(key: str, data: Path | None) -> Need:
    """A published data set under the user's data folder."""
    entry = next(entry for entry in DATA_SETS if entry.key == key)
    root = data or data_folder()
    looked = tuple(str(root / mark) for mark in entry.marks) if root else ("no data folder: give --data DIR",)
    return Need(f"{entry.key}: {entry.what}", entry.find(root), looked, entry.remedy)


def planned_networks(recipe: Recipe, resolution: int) -> tuple[PlannedNetwork, ...]:
    """Generator and discriminator of a recipe with example inputs of one picture."""
    family = "BigGAN" if isinstance(recipe, biggan.Recipe) else "StyleGAN2"
    labelled = isinstance(recipe, biggan.Recipe)
    dim_z = recipe.generator.get("dim_z", 128) if labelled else recipe.generator.get("z_dim", 512)

    def labels() -> tuple[torch.Tensor, ...]:
        return (torch.zeros(1, dtype=torch.int64),) if labelled else ()

    return (
        PlannedNetwork(
            f"{family} generator, {resolution} px",
            lambda: _published(recipe.networks()[0]),
            lambda: (torch.empty(1, dim_z), *labels()),
        ),
        PlannedNetwork(
            f"{family} discriminator, {resolution} px",
            lambda: _published(recipe.networks()[1]),
            lambda: (torch.empty(1, 3, resolution, resolution), *labels()),
        ),
    )


def _published(network: nn.Module) -> nn.Module:
    """The network with the published order of operations, so that its count is the published one's."""
    for module in network.modules():
        if isinstance(module, SNConv2d):
            module.folded = False
    return network.eval()
