"""A training step of CUT, FastCUT and CycleGAN: this project's form, and the published operations one by one.

The published code was timed at 64 px, ngf = ndf = 16, batch 1 on one thread: 0.170, 0.102 and 0.237 s.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.reference.cut import contrastive, cyclegan
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, FASTCUT
from gengauge.reference.nets.blurpool import Downsample, Upsample
from gengauge.reference.nets.translation_resnet import as_published, norm_layer

RECIPES: dict[str, Any] = {"CUT": CUT, "FastCUT": FASTCUT, "CycleGAN": CYCLEGAN}
FORMS: dict[str, dict[str, Any]] = {"ours": {}, "published": {"as_published": True}}
STEPS = 10  # the same mirrored ones among them in each form


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize(("size", "width"), [(64, 16), (128, 32)])
def test_step(benchmark: BenchmarkFixture, full_size: bool, method: str, form: str, size: int, width: int) -> None:
    """One step on random pictures."""
    size, width = (size, width) if full_size else (size // 2, 1)
    widths = {"generator": {"ngf": width}, "discriminator": {"ndf": width}}
    recipe = replace(RECIPES[method], **widths, **FORMS[form])
    torch.manual_seed(0)
    build = cyclegan.Training if method == "CycleGAN" else contrastive.Training
    training = build(recipe, memory_format=torch.contiguous_format)
    seeds = cycle(range(STEPS))

    def step() -> dict[str, torch.Tensor]:
        return training.step(reals, generator=torch.Generator().manual_seed(next(seeds)))

    reals = torch.rand(2, 3, size, size) * 2 - 1
    benchmark.extra_info.update(form=form, method=method)
    rounds = STEPS if full_size else 1
    losses = benchmark.pedantic(step, rounds=rounds, warmup_rounds=2 if full_size else 0)
    assert all(torch.isfinite(loss) for loss in losses.values())


PARTS = {"norm": lambda n: norm_layer("instance", n), "down": Downsample, "up": Upsample}


@pytest.mark.parametrize("form", ["ours", "published"])
@pytest.mark.parametrize("part", PARTS)
def test_part(benchmark: BenchmarkFixture, full_size: bool, part: str, form: str) -> None:
    """The norm and the blurs, forward and backward, where a generator of width 64 has them at 128 px."""
    channels, size = (128, 64) if full_size else (2, 8)
    module = PARTS[part](channels)
    if form == "published":
        as_published(module)
    x = torch.randn(1, channels, size, size, requires_grad=True)
    probe = torch.randn_like(module(x))
    benchmark.extra_info["form"] = form
    (gradient,) = benchmark(lambda: torch.autograd.grad(module(x), x, probe))
    assert gradient.shape == x.shape
