"""Training of GANgealing's transformers from a frozen generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gengauge.benchmarks.training.loop import Schedule, Snapshot, Tell, Trainable, Trained, train
from gengauge.benchmarks.training.processes import Processes
from gengauge.reference.gangealing.starting import learner
from gengauge.reference.gangealing.training import Recipe, Training
from gengauge.reference.nets.perceptual import PerceptualLoss
from gengauge.reference.nets.stylegan2.rosinality import Generator


class NoPictures:
    """Batches of nothing: the generator makes all that a transformer sees."""

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.zeros(0), torch.zeros(0)


def train_alignment(
    recipe: Recipe,
    generator: Generator,
    loss: PerceptualLoss,
    work: Path,
    config: Mapping[str, Any],
    *,
    samples: int,
    seed: int,
    device: str,
    every: int = 1000,
    snapshot: Callable[[Trainable], Snapshot] | None = None,
    processes: Processes | None = None,
    tell: Tell = lambda done, total, doing: None,
    code: str = "",
) -> Trained:
    """Trains the recipe's transformer to the end of its iterations, with states in `work` every so many.

    `samples` of W find the directions in which the target's code may lie. The trained network is the average of T,
    `last`; no snapshot is the best one, for what is better is up to who measures.
    Raises what `train` and the recipe's parts raise.
    """
    group = processes or Processes()

    def build() -> Training:
        # Alike in all processes: the codes are no part of what they exchange.
        random = torch.Generator(device).manual_seed(seed)
        g = generator.to(device).eval().requires_grad_(False)
        ll = learner(
            g,
            recipe.ndirs,
            recipe.inject_index,
            recipe.num_heads,
            loss.to(device),
            recipe.transformer.get("flow_size"),
            random,
            samples,
            min(samples, 50_000),
        )
        return Training(recipe, g, ll, loss, device, processes=group.count)

    return train(
        build,
        NoPictures(),
        work,
        Schedule(recipe.iterations, every, every, max(1, every // 20)),
        {**config, "recipe": repr(recipe), "samples": samples},
        seed=seed,
        device=device,
        snapshot=snapshot,
        keep="T_ema",
        processes=group,
        tell=tell,
        code=code,
    )
