"""A step of SDEdit's sampler with DDPM's U-Net: this project's forms, and diffusers' with the same weights.

The tests run it at a tiny size; `make bench` with the 256 px network, where a run of N = 500 is 500 such steps.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.reference.nets.ddpm_unet import CHURCH_256, DDPMUNet
from gengauge.reference.nets.diffusers_unet import diffusers_config, to_diffusers
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sdedit.editing import edit, from_noise, in_type
from gengauge.reference.sdedit.schedule import DDPM
from gengauge.reference.sdedit.strokes import strokes
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.policy import everywhere

TINY = UNetConfig(32, 32, (1, 2), 1, (16,), temb_ch=128)
T = 499  # of the step that is timed; all take the same time
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


def build(config: UNetConfig) -> DDPMUNet:
    torch.manual_seed(0)
    return DDPMUNet(config).eval().requires_grad_(False)


def ours(network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Step:
    levels = DDPM.levels()
    reverse = from_noise(network, levels)

    def step(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mean, deviation = reverse(x, T)
            return mean + deviation * z

    return step


def of_diffusers(network: DDPMUNet, layout: torch.memory_format) -> Step:
    other = UNet2DModel.from_config(diffusers_config(network.config))
    other.load_state_dict(to_diffusers(network.state_dict(), network.config))
    other.eval().requires_grad_(False).to(memory_format=layout)
    scheduler = DDPMScheduler(beta_start=DDPM.first, beta_end=DDPM.last, clip_sample=False)

    def step(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return scheduler.step(other(x, T).sample, T, x).prev_sample

    return step


def make(form: str, network: DDPMUNet) -> Step:
    """The step in a form."""
    if form.startswith("diffusers"):
        return of_diffusers(network, torch.channels_last if "channels_last" in form else torch.contiguous_format)
    if form == "engine":
        return ours(Engine(network, everywhere()).full)
    if form == "bfloat16":
        return ours(in_type(network.bfloat16().to(memory_format=torch.channels_last), torch.bfloat16))
    if form == "compiled":
        return ours(torch.compile(network.to(memory_format=torch.channels_last)))
    return ours(network.to(memory_format=torch.channels_last) if form == "channels_last" else network)


FORMS = ("eager", "channels_last", "engine", "bfloat16", "diffusers", "diffusers channels_last")


@pytest.mark.parametrize("form", [*FORMS, "compiled"])
def test_step(benchmark: BenchmarkFixture, full_size: bool, form: str) -> None:
    """One step: the network on one picture, and what the sampler does with it."""
    if form == "compiled" and not full_size:
        form = "eager"  # compiling takes minutes, and its result is torch's
    network = build(CHURCH_256 if full_size else TINY)
    step = make(form, network)
    x, z = torch.randn(2, 1, 3, network.config.resolution, network.config.resolution)
    benchmark.extra_info["form"] = form
    out = benchmark.pedantic(step, (x, z), rounds=5, warmup_rounds=1) if full_size else benchmark(step, x, z)
    assert torch.isfinite(out).all()


def test_simulated_strokes(benchmark: BenchmarkFixture, full_size: bool) -> None:
    size = 256 if full_size else 32
    picture = torch.randint(256, (1, 3, size, size), dtype=torch.uint8)
    assert benchmark(strokes, picture).shape == picture.shape


@pytest.mark.parametrize("batch", [1, 8])
def test_run(benchmark: BenchmarkFixture, full_size: bool, batch: int) -> None:
    """A whole run of 10 steps on pictures of 32 px, alone and batched."""
    network = build(UNetConfig(32, 64, (1, 2), 1, (16,), temb_ch=256) if full_size else TINY)
    levels = DDPM.levels(0.5, 10 if full_size else 2)
    guides = torch.zeros(batch, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    out = benchmark(lambda: edit(from_noise(network, levels), guides, levels, generator=generator))
    assert out.shape == guides.shape
