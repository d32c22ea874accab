"""GAN Warping's hot parts, ours and the published operations: StyleGAN3's filtered leaky ReLU and whole synthesis, and
a training step of StyleGAN2.

The published code's fallback took 52 s a training step (two passes of the generator, LPIPS, backward) of StyleGAN3-R at
64 px, at most 128 channels and batch 4, on one thread, and 1.82 s of StyleGAN2, where a product of float32 matrices ran
at 175 GFLOP/s. Forms are timed in alternation, in one process and on one thread, and must give the same values and
gradients.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from gengauge.kernels.filtered_lrelu import Padding, filtered_lrelu
from gengauge.reference.gan_warping.training import Recipe, Training
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.perceptual import PerceptualLoss
from gengauge.reference.nets.stylegan2 import generator as stylegan2
from gengauge.reference.nets.stylegan3 import layers
from gengauge.reference.nets.stylegan3.generator import CONFIG_R, Generator

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS, SYNTHESIS_ROUNDS, STEP_ROUNDS = 9, 3, 12
CLOSE = 2e-5  # of the largest value; each form is within 6e-6 of float64
# Of a step's gradients, sums over pixels that cancel, through ReLUs that rounding flips: within 2e-4 of float64.
STEP_CLOSE = 5e-4
EDITED = 8  # the layer whose weight is trained
PUBLISHED_STEP = 1.82 * 175  # s, times the GFLOP/s of float32 matrices on the machine of this time


# ----------------------------------------------------------------------------------------------------------------------
# The published operations: StyleGAN3 without its CUDA extensions


def published_upfirdn2d(
    x: Tensor, f: Tensor | None, up: int = 1, down: int = 1, padding: Padding = (0, 0, 0, 0), gain: float = 1.0
) -> Tensor:
    """Multiplies inserted zeros as well, and filters at the full size; only then takes every `down`-th pixel."""
    n, channels, height, width = x.shape
    x = F.pad(x.reshape(n, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    x = F.pad(x.reshape(n, channels, height * up, width * up), padding)
    f = torch.ones(1, 1) if f is None else f
    f = (f * gain ** (f.ndim / 2)).flip([*range(f.ndim)]).expand(channels, 1, *f.shape)
    if f.ndim == 4:
        x = F.conv2d(x, f, groups=channels)
    else:
        x = F.conv2d(F.conv2d(x, f[:, :, None], groups=channels), f[..., None], groups=channels)
    return x[:, :, ::down, ::down]


def published_filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor,
    *,
    up: int,
    down: int,
    padding: Padding,
    gain: float,
    slope: float,
    clamp: float,
) -> Tensor:
    x = published_upfirdn2d(x + b.view(1, -1, 1, 1), fu, up=up, padding=padding, gain=up**2)
    x = (F.leaky_relu(x, slope) * gain).clamp(-clamp, clamp)
    return published_upfirdn2d(x, fd, down=down)


def published_modulated_conv2d(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Tensor, demodulate: bool
) -> Tensor:
    """A kernel of its own for each picture, by a grouped convolution."""
    if demodulate:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    kernels = weight * styles[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    kernels = kernels * input_gain
    n, _, height, width = x.shape
    x = F.conv2d(x.reshape(1, -1, height, width), kernels.flatten(0, 1), padding=weight.shape[-1] - 1, groups=n)
    return x.view(n, -1, *x.shape[2:])


def published_stylegan2_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused: bool = True,
) -> Tensor:
    """StyleGAN2's: a kernel of its own for each picture, spread to twice the size by a grouped convolution too."""
    n, inputs, height, width = x.shape
    kernels = weight * styles[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (kernels.square().sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
    outputs, size = kernels.shape[1], kernels.shape[3]
    x = x.reshape(1, n * inputs, height, width)
    if up > 1:
        spread = kernels.transpose(1, 2).reshape(n * inputs, outputs, size, size)
        x = F.conv_transpose2d(x, spread, stride=up, groups=n)
        x = published_upfirdn2d(x, f, padding=(1, 1, 1, 1), gain=up**2)
    else:
        x = F.conv2d(x, kernels.reshape(n * outputs, inputs, size, size), padding=padding, groups=n)
    x = x.view(n, outputs, *x.shape[2:])
    return x if noise is None else x + noise


def published_activate(x: Tensor, bias: Tensor, activation: str, gain: float, clamp: float | None) -> Tensor:
    x = x + bias.view(1, -1, 1, 1)
    if activation == "lrelu":
        x = F.leaky_relu(x, 0.2) * (2**0.5 * gain)
    return x if clamp is None else x.clamp(-clamp, clamp)


def published_upsample2d(x: Tensor, f: Tensor) -> Tensor:
    return published_upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4)


# ----------------------------------------------------------------------------------------------------------------------
# Comparison


def compare(benchmark: BenchmarkFixture, calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Times calls by turns in shuffled order; the median of how many times slower each is than the first, by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)

    def alternate() -> None:
        for name in order.sample([*calls], len(calls)):
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)

    alternate()
    seconds = {name: [] for name in calls}  # the first round warms up
    benchmark.pedantic(alternate, rounds=rounds)
    ours, *others = calls
    ratios = {name: [a / b for a, b in zip(seconds[name], seconds[ours], strict=True)] for name in others}
    benchmark.extra_info |= {"seconds": seconds, "ratios": ratios}
    for name, found in ratios.items():
        low, high = torch.tensor(found).quantile(torch.tensor([0.1, 0.9])).tolist()
        spread = f"{median(found):.2f} [{low:.2f}, {high:.2f}] times as long as {ours}, {median(seconds[ours]):.4f} s"
        print(f"\n{benchmark.name}: {name} takes {spread}")
    return {name: median(found) for name, found in ratios.items()}


def assert_same(forms: Mapping[str, Callable[[], list[Tensor]]], close: float = CLOSE) -> None:
    found = {name: call() for name, call in forms.items()}
    for values in zip(*found.values(), strict=True):
        for value in values[1:]:
            torch.testing.assert_close(values[0], value, rtol=0, atol=close * value.abs().max().item() + 1e-12)


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["L5_84", "L9_148", "L13_256"])
def test_filtered_lrelu(benchmark: BenchmarkFixture, full_size: bool, layer: str) -> None:
    """Forward and backward of one layer of configuration R at 256 px: upsampled four times, radial, separable."""
    with torch.device("meta"):
        network = Generator(img_resolution=256, synthesis_kwargs=CONFIG_R)
    names = network.synthesis.layer_names
    position = next(i for i, name in enumerate(names) if name.startswith(f"{layer}_"))
    size = int(names[position - 1].split("_")[1])
    channels = int(names[position].split("_")[2]) // 8 if full_size else 2
    small = Generator(8, 0, 8, 256, synthesis_kwargs={**CONFIG_R, "channel_max": 1})
    one = small.synthesis.get_submodule(next(name for name in small.synthesis.layer_names if name.startswith(layer)))
    assert isinstance(one, layers.SynthesisLayer)
    options = {"up": one.up, "down": one.down, "padding": one.padding, "gain": 2**0.5, "slope": 0.2, "clamp": 256.0}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, size, size, generator=generator).requires_grad_()
    b = torch.randn(channels, generator=generator).requires_grad_()

    def both(form: Callable[..., Tensor]) -> list[Tensor]:
        y = form(x, one.up_filter, one.down_filter, b, **options)
        return [y.detach(), *torch.autograd.grad(y, (x, b), y.detach())]

    forms = {
        "auto": partial(both, filtered_lrelu),
        "torch": partial(both, partial(filtered_lrelu, way="torch")),
        "published": partial(both, published_filtered_lrelu),
    }
    assert_same(forms)
    ratios = compare(benchmark, forms, ROUNDS if full_size else 1)
    assert ratios["published"] >= 3 or not full_size


@pytest.mark.parametrize("resolution", [64, 256])
def test_synthesis(
    benchmark: BenchmarkFixture, full_size: bool, resolution: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 64 px and batch 4 both passes, for one layer's weight and the input; at 256 px pictures of the full size."""
    torch.manual_seed(0)
    widths = {"channel_base": 8192, "channel_max": 128} if resolution == 64 else {}
    if not full_size:
        resolution, widths = 16, {"channel_base": 256, "channel_max": 4}
    learns = "channel_max" in widths
    network = Generator(img_resolution=resolution, synthesis_kwargs={**CONFIG_R, **widths}).requires_grad_(False)
    ws = network.mapping(torch.randn(4 if learns else 1, 512)).requires_grad_(learns)
    weight = network.synthesis.get_parameter(f"{network.synthesis.layer_names[EDITED]}.weight").requires_grad_(learns)

    def run(own: bool) -> list[Tensor]:
        with monkeypatch.context() as patched:
            if not own:
                patched.setattr(layers, "filtered_lrelu", published_filtered_lrelu)
                patched.setattr(layers, "modulated_conv2d", published_modulated_conv2d)
            pictures = network.synthesis(ws)
            if not learns:
                return [pictures]
            return [pictures.detach(), *torch.autograd.grad(pictures.square().mean(), (weight, ws))]

    forms = {"ours": partial(run, True), "published": partial(run, False)}
    assert_same(forms)
    ratio = compare(benchmark, forms, SYNTHESIS_ROUNDS if full_size else 1)["published"]
    assert ratio >= (8 if learns else 1.5) or not full_size


def gigaflops(side: int = 1024, rounds: int = 10) -> float:
    """The rate of a product of float32 matrices, for comparison with times of other machines."""
    a, b = torch.randn(2, side, side)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds) / 1e9


def stylegan2_training(published: bool, full_size: bool) -> Training:
    """An edit of rank 50 of the fifth layer, with heads of LPIPS that are positive, as the learnt ones are."""
    torch.manual_seed(0)
    widths = {"channel_base": 8192, "channel_max": 128} if full_size else {"channel_base": 64, "channel_max": 4}
    g = stylegan2.Generator(img_resolution=64 if full_size else 16, synthesis_kwargs=widths)
    g.eval().requires_grad_(False)
    lpips = LPIPS("vgg").eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in [*lpips.named_parameters(), *g.named_parameters()]:
            if name.startswith("lin"):
                parameter.abs_()
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    for module in lpips.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    recipe = Recipe(layers="4", stylemix=(5, g.num_ws), batch=4)
    training = Training(recipe, g, lpips if published else PerceptualLoss("lpips", lpips))
    if published:
        training.layout = {}
    for name, parameter in training.update.named_parameters():
        if name.endswith("weight_lambda"):  # for gradients of the context, which else begin at 0
            nn.init.normal_(parameter, 0, 0.01)
    return training


def test_stylegan2_step(benchmark: BenchmarkFixture, full_size: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step at 64 px and batch 4: two passes with noise of their own, the warp, LPIPS on VGG16, backward, Adam."""
    trainings = {published: stylegan2_training(published, full_size) for published in (False, True)}
    generators = {published: torch.Generator().manual_seed(0) for published in trainings}
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        ws = trainings[True].g.mapping(torch.randn(4, 512, generator=draw), None)
    side = 64 if full_size else 16
    theta = torch.eye(2, 3) + 0.1 * torch.randn(4, 2, 3, generator=draw)
    grids = F.affine_grid(theta, [4, 3, side, side], align_corners=False)

    def step(published: bool) -> dict[str, Tensor]:
        with monkeypatch.context() as patched:
            if published:
                patched.setattr(stylegan2, "modulated_conv2d", published_stylegan2_conv2d)
                patched.setattr(stylegan2, "upsample2d", published_upsample2d)
                patched.setattr(stylegan2, "activate", published_activate)
            return trainings[published].step(ws, grids, generators[published])

    def values(published: bool) -> list[Tensor]:
        losses = step(published)
        gradients = [one.grad for one in trainings[published].update.parameters() if one.grad is not None]
        return [losses["LPIPS"], *gradients]

    assert_same({"ours": partial(values, False), "published": partial(values, True)}, STEP_CLOSE)
    ratio = compare(
        benchmark, {"ours": partial(step, False), "published": partial(step, True)}, STEP_ROUNDS if full_size else 1
    )["published"]
    if full_size:
        rate, ours = gigaflops(), median(benchmark.extra_info["seconds"]["ours"])
        benchmark.extra_info["gflops"] = rate
        faster = PUBLISHED_STEP / (ours * rate)
        print(f"float32 matrices at {rate:.0f} GFLOP/s: {faster:.2f} times as fast as the published code's step")
        assert faster >= 1.3
        assert ratio >= 1.2
