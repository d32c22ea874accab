"""Trainings from the zoo's generator, each in a folder that its recipe names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from gengauge.benchmarks.core.experiments import Context, Plan
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.gangealing.plans import planned
from gengauge.benchmarks.training.alignment import train_alignment
from gengauge.benchmarks.training.loop import Snapshot, Trainable, Trained
from gengauge.benchmarks.training.processes import join
from gengauge.benchmarks.zoo import aligners, stylegan2_poses
from gengauge.reference.gangealing.training import Recipe


def train_from_zoo(
    context: Context, recipe: Recipe, every: int, snapshot: Callable[[Trainable], Snapshot] | None = None
) -> Trained:
    """Trains a recipe's transformer, from where an earlier job left it; `snapshot` measures it every so many steps."""
    processes, device = join(context.device)
    config = {"generator": stylegan2_poses.card()["sha256"], "measured": repr(snapshot is not None)}
    name = hashlib.sha256(repr((recipe, sorted(config.items()))).encode()).hexdigest()[:12]
    return train_alignment(
        recipe,
        stylegan2_poses.aligned_form(),
        aligners.perceptual_loss(device),
        context.work / f"gangealing-{name}-seed{context.seed}",
        config,
        samples=aligners.SAMPLES,
        seed=context.seed,
        device=device,
        every=every,
        snapshot=snapshot,
        processes=processes,
        tell=context.progress,
        code=code_version(),
    )


def plan(recipe: Recipe) -> Plan:
    """What a training needs."""
    return Plan((planned(recipe.build, recipe.transformer["flow_size"]),), lambda data: (weights_need("lpips-alex"),))
