"""One iteration of the published recipes: BigGAN as the published code was timed, and StyleGAN2's phases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.reference.diffaugment import biggan, recipes, stylegan2

pytestmark = pytest.mark.usefixtures("one_thread")


def test_biggan_iteration(benchmark: BenchmarkFixture) -> None:
    """ch 16, batch 50, 4 steps of D, translation and cutout: 3.36 CPU seconds in the published code on one thread."""
    ch, batch = (16, 50) if benchmark.enabled else (1, 2)
    recipe = replace(recipes.biggan_cifar(ch=ch), policy="translation,cutout", batch=batch)
    training = biggan.Training(recipe)
    generator = torch.Generator().manual_seed(0)
    reals = torch.rand(batch * recipe.d_steps, 3, 32, 32, generator=generator) * 2 - 1
    labels = torch.randint(10, (len(reals),), generator=generator)
    losses = benchmark.pedantic(
        lambda: training.step(reals, labels, generator), rounds=5 if benchmark.enabled else 1, warmup_rounds=1
    )
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("code", ["tf", "pytorch"])
def test_stylegan2_iteration(benchmark: BenchmarkFixture, code: str) -> None:
    """The recipes at 32 px with the networks of `run_cifar.py`, batch 4: R1 at each step (tf) or not in this one."""
    batch = 4
    recipe = recipes.stylegan2_tf("cifar")
    if code == "pytorch":
        other = recipes.stylegan2_pytorch("low-shot", 32)
        recipe = replace(other, generator=recipe.generator, discriminator=recipe.discriminator)
    if not benchmark.enabled:
        width = {"channel_base": 128, "channel_max": 8}
        generator_arguments = {**recipe.generator, "z_dim": 8, "w_dim": 8, "synthesis_kwargs": width}
        recipe = replace(recipe, generator=generator_arguments, discriminator={**recipe.discriminator, **width})
    training = stylegan2.Training(replace(recipe, batch=batch, policy="color,translation,cutout"))
    training.step(torch.zeros(batch, 3, 32, 32), torch.zeros(batch, dtype=torch.int64))  # the lazy phases' turn
    generator = torch.Generator().manual_seed(0)
    reals = torch.rand(batch, 3, 32, 32, generator=generator) * 2 - 1
    labels = torch.zeros(batch, dtype=torch.int64)

    def iteration() -> dict[str, torch.Tensor]:
        training.iteration = 1
        return training.step(reals, labels, generator)

    losses = benchmark.pedantic(iteration, rounds=3 if benchmark.enabled else 1, warmup_rounds=1)
    assert all(torch.isfinite(loss) for loss in losses.values())
