"""The methods of CUT's tables: how a translator is trained at a scale, found in the zoo, and planned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Context, Need, Plan, PlannedNetwork
from gengauge.benchmarks.from_weights import filled
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.papers.cut.loading import write_checkpoint
from gengauge.benchmarks.papers.cut.sets import Set
from gengauge.benchmarks.training.loop import Trained, history
from gengauge.benchmarks.training.processes import join
from gengauge.benchmarks.training.unpaired import (
    Recipe,
    build_translator,
    train_unpaired,
    training_of,
    transform_of,
    translator_of,
)
from gengauge.benchmarks.zoo.translators import SEEDS, TRANSLATORS
from gengauge.datasets.unpaired import Transform, evaluation
from gengauge.reference.cut import cyclegan

NAMES = {"cut": "CUT", "fastcut": "FastCUT", "cyclegan": "CycleGAN"}
EVERY = 1000  # iterations between states of a training


@dataclass(frozen=True)
class Method:
    """A translator of a data set: its recipe and the length of its training, by default the recipe's own.

    `zoo` is the method's key where the trained translators of the zoo are taken instead.
    """

    recipe: Recipe
    data: Set
    iterations: int | None = None
    zoo: str | None = None

    @property
    def evaluation(self) -> Transform:
        """How test pictures are made ready."""
        return evaluation(transform_of(self.recipe))


def network(recipe: Recipe, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that translates A to B with trained weights, in eval mode."""
    with torch.device("meta"):
        empty = build_translator(recipe)
    return filled(empty, weights)


def trained(method: Method, context: Context) -> tuple[nn.Module, str]:
    """The translator of a seed: the zoo's, or one that is trained now, goes on, or is found done; and its `history`.

    Raises ValueError for a seed that the zoo does not have.
    """
    if method.zoo is None:
        found = train(method, context)
        assert found is not None
        return network(method.recipe, found.last), history(found.about, code_version())
    if context.seed not in SEEDS:
        known = ", ".join(map(str, SEEDS))
        raise ValueError(f"the zoo has translators of the seeds {known}; seed {context.seed} is for scale small")
    return TRANSLATORS[method.zoo, context.seed].load(), ""


def train(method: Method, context: Context) -> Trained | None:
    """Trains in `context.work`, where rows of several tables share a training; None but in the main process.

    What was trained is also written as the published code does, `checkpoints/NAME/latest_net_G.pth`.
    """
    group, device = join(context.device)
    folders = method.data.open(context, "train")
    config = {"data": folders.fingerprint(), "recipe": repr(method.recipe)}
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    folder = f"cut-{name}-seed{context.seed}"
    if group.main and not (context.work / folder).exists():
        folders.check()  # a damaged picture would be met days later
    found = train_unpaired(
        method.recipe,
        folders,
        context.work / folder,
        config,
        seed=context.seed,
        device=device,
        iterations=method.iterations,
        every=EVERY,
        processes=group,
        tell=context.progress,
        code=code_version(),
    )
    if not group.main:
        return None
    made = network(method.recipe, found.last)
    write_checkpoint(context.work / "checkpoints" / folder, {translator_of(method.recipe): made})
    return found


def plan(method: Method) -> Plan:
    """The networks of a method at the size of its crops, and what its data need."""

    def planned(name: str) -> PlannedNetwork:
        side = method.recipe.crop_size
        return PlannedNetwork(
            f"{name} of {'CycleGAN' if isinstance(method.recipe, cyclegan.Recipe) else 'CUT'}",
            lambda: training_of(method.recipe, "meta").networks[name],
            lambda: (torch.empty(1, 3, side, side),),
        )

    two = isinstance(method.recipe, cyclegan.Recipe)
    names = ("G_A", "G_B", "D_A", "D_B") if two else ("G", "D")

    def needs(data: Path | None) -> tuple[Need, ...]:
        return method.data.needs(data)

    return Plan(tuple(planned(name) for name in names), needs)
