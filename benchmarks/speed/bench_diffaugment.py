"""The augmentations, at the sizes of the published code's own measurement, and one step of the quick study's GAN."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.benchmarks.papers.diffaugment.study import POLICY, USUAL
from gengauge.benchmarks.zoo.small_gan import Discriminator, Generator
from gengauge.reference.diffaugment.augment import diff_augment
from gengauge.reference.diffaugment.placement import DIFFAUGMENT, discriminator_loss, generator_loss


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
@pytest.mark.parametrize("shape", [(50, 3, 32, 32), (8, 3, 256, 256)], ids=["50x32px", "8x256px"])
def test_augmentation(benchmark: BenchmarkFixture, policy: str, shape: tuple[int, ...]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        out = benchmark(lambda: diff_augment(x, policy, generator=torch.Generator().manual_seed(1)))
    finally:
        torch.set_num_threads(threads)
    assert out.shape == x.shape
    assert not torch.equal(out, x)


def test_step_of_the_small_gan(benchmark: BenchmarkFixture) -> None:
    g, d = Generator(USUAL.latent, USUAL.generator_width), Discriminator(USUAL.discriminator_width)
    generator = torch.Generator().manual_seed(0)
    reals = torch.randn(USUAL.batch, 3, 32, 32, generator=generator)
    z = torch.randn(USUAL.batch, USUAL.latent, generator=generator)

    def augment(x: torch.Tensor) -> torch.Tensor:
        return diff_augment(x, POLICY, generator=generator)

    def step() -> torch.Tensor:
        d.zero_grad()
        g.zero_grad()
        discriminator_loss(d, reals, g(z).detach(), DIFFAUGMENT, augment).backward()
        generator_loss(d, g(z), DIFFAUGMENT, augment).backward()
        return g.start.weight.grad  # type: ignore[return-value]

    assert torch.isfinite(benchmark(step)).all()
