"""GANgealing's training step, evaluation of a pair and hot parts: ours, and the published operations one by one.

The published code took 0.64 s a step at the tiny size on one thread, and 10 s a pair on a busy machine. Forms are timed
in alternation, in one process and on one thread, and must give the same values.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from gengauge.reference.gangealing.flips import mirror
from gengauge.reference.gangealing.latents import DirectionInterpolator
from gengauge.reference.gangealing.losses import total_variation
from gengauge.reference.gangealing.points import congeal_points, match_flows, transfer_matched, uncongeal_points
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.splatting import splat
from gengauge.reference.gangealing.training import Recipe, Training
from gengauge.reference.gangealing.warps import MipmapWarp, affine_grid, mip_levels, mipmap, warp
from gengauge.reference.nets.perceptual import PerceptualLoss
from gengauge.reference.nets.stylegan2.rosinality import Generator, ModulatedConv2d, ToRGB
from gengauge.reference.nets.stylegan2.translation import Activation, Blur, Conv, ConvLayer

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS, PAIR_ROUNDS = 15, 5
TINY_G: dict[str, Any] = {"size": 64, "style_dim": 32, "n_mlp": 2, "base_channels": 16}
STEP_VALUES, PAIR_PX = 2e-4, 0.02  # how near the forms' losses (relative) and points are, as against the goldens


# ----------------------------------------------------------------------------------------------------------------------
# The published operations: rosinality's StyleGAN2 without its CUDA extensions, and sampling of all mip levels


def published_upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Filters every channel as a picture of its own, at the full size; only then takes every `down`-th pixel."""
    n, channels, height, width = x.shape
    x = F.pad(x.reshape(-1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1)).view(-1, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, (*pad, *pad)), kernel.flip(0, 1)[None, None])
    return x.view(n, channels, *x.shape[2:])[:, :, ::down, ::down]


def published_modulation(module: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """A kernel of its own for each picture, by a grouped convolution."""
    n, inputs, height, width = x.shape
    weight = module.gain * module.weight * module.modulation(w).view(n, 1, inputs, 1, 1)
    if module.demodulate:
        weight = weight * (weight.square().sum((2, 3, 4)) + 1e-8).rsqrt().view(n, -1, 1, 1, 1)
    outputs, size = weight.shape[1], weight.shape[3]
    x = x.reshape(1, n * inputs, height, width)
    if module.resample == "up":
        spread = weight.transpose(1, 2).reshape(n * inputs, outputs, size, size)
        x = F.conv_transpose2d(x, spread, stride=2, groups=n)
        return published_upfirdn2d(x.view(n, outputs, *x.shape[2:]), module.blur.kernel, pad=(1, 1))
    x = F.conv2d(x, weight.view(n * outputs, inputs, size, size), padding=size // 2, groups=n)
    return x.view(n, outputs, *x.shape[2:])


def published_picture(module: ToRGB, x: Tensor, w: Tensor, before: Tensor | None = None) -> Tensor:
    x = module.conv(x, w) + module.bias
    return x if before is None else x + published_upfirdn2d(before, module.upsample.kernel, up=2, pad=(2, 1))


def published_activation(module: Activation, x: Tensor) -> Tensor:
    return F.leaky_relu(x + module.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


def published_layer(module: ConvLayer, x: Tensor) -> Tensor:
    """The blur at the full size, then a convolution that takes every other pixel."""
    conv = cast(Conv, module[module.down - 1])
    padding, size = conv.weight.shape[-1] // 2, conv.weight.shape[-1]
    if module.down > 1:
        padding, pad = 0, 2 + size - 1
        x = published_upfirdn2d(x, cast(Blur, module[0]).kernel, pad=((pad + 1) // 2, pad // 2))
    x = F.conv2d(x, conv.weight * conv.gain, stride=module.down, padding=padding)
    return module[-1](x) if module.activated else x


def published_warp(module: MipmapWarp, source: Tensor, grid: Tensor, padding_mode: Any = "border") -> Tensor:
    """All levels are made as large as the picture, all are sampled, and two are taken of each pixel."""
    levels = mip_levels(grid, source.shape[-1], module.max_num_levels, module.min_level)
    count = math.ceil(levels.detach().max().item()) + 1
    stack = mipmap(source, count, module.blur_filter).flatten(1, 2)
    sampled = warp(stack, grid, padding_mode).unflatten(1, (-1, count))
    lower = levels.detach().floor()
    share = (levels - lower)[:, None]

    def taken(level: Tensor) -> Tensor:
        return sampled.gather(2, level.long()[:, None, None].expand(-1, source.shape[1], 1, -1, -1))[:, :, 0]

    return torch.lerp(taken(lower), taken(lower + (share[:, 0] > 0)), share)


PUBLISHED: dict[type[nn.Module], Callable[..., Tensor]] = {
    ModulatedConv2d: published_modulation,
    ToRGB: published_picture,
    Activation: published_activation,
    ConvLayer: published_layer,
    MipmapWarp: published_warp,
}


def as_published(network: nn.Module) -> None:
    """Has a network's modules use the published operations."""
    for module in network.modules():
        if type(module) in PUBLISHED:
            vars(module)["forward"] = partial(PUBLISHED[type(module)], module)


class PublishedLPIPS(PerceptualLoss):
    """One pass of VGG16 for each of the two, in the usual memory layout, and torch's gradient of every operation."""

    def __init__(self) -> None:
        super().__init__("lpips")
        for module in self.network.to(memory_format=torch.contiguous_format).modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return cast(Tensor, self.network(a, b))


@torch.no_grad()
def published_pair(network: ComposedSTN, a: Tensor, b: Tensor, points: Tensor, iters: int) -> Tensor:
    """The flip search, a pass for each of the four pictures, and after it the transfer with passes of its own."""
    scores = [total_variation(network(x, iters=iters).delta) for x in (a, mirror(a), b, mirror(b))]
    flip_a, flip_b = scores[1] < scores[0], scores[3] < scores[2]
    there = torch.stack([a.shape[-1] - 1 - points[..., 0], points[..., 1]], -1)
    points = torch.where(flip_a[:, None, None], there, points)
    of_a, of_b = network(mirror(a, flip_a), iters=iters), network(mirror(b, flip_b), iters=iters)
    return uncongeal_points(of_b, congeal_points(of_a, points, a.shape[-1]), a.shape[-1])


# ----------------------------------------------------------------------------------------------------------------------
# What is timed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stirred(network: Any, seed: int = 0) -> Any:
    """A transformer that is not the identity, with some shrinking and some flow."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "warp_head.linear" in name or "flow_out.2.weight" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network


def training(form: str, full_size: bool) -> Training:
    """A training at the tiny size, with all of VGG16 where times count."""
    torch.manual_seed(0)
    g = Generator(**TINY_G if full_size else {**TINY_G, "base_channels": 4})
    for name, parameter in g.named_parameters():
        if name.endswith("noise.weight"):
            nn.init.constant_(parameter, 0.1)
    t = stirred(ComposedSTN(64, base_channels=16 if full_size else 8))
    ll = DirectionInterpolator(torch.randn(1, 32), torch.zeros(1, 32), g.n_latent)
    batch = 5 if full_size else 1
    recipe = Recipe(loss="lpips", tv_weight=2500.0, padding_mode="border", batch=batch)
    state = PerceptualLoss("lpips").state_dict()
    # Positive heads, as the learnt ones are: else the distance is a sum that cancels.
    state = {name: value.abs() if name.startswith("lin") else value for name, value in state.items()}
    loss = PublishedLPIPS() if form == "published" else PerceptualLoss("lpips")
    loss.network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()}, strict=False)
    made = Training(recipe, g, ll, loss, t=t)
    if form == "published":
        as_published(made.g)
        as_published(made.t)
        made.optimisers = {
            "T": torch.optim.Adam(made.t.parameters(), recipe.lr, recipe.betas),
            "LL": torch.optim.Adam(ll.parameters(), recipe.ll_lr, recipe.betas),
        }
    return made


def compare(benchmark: BenchmarkFixture, calls: dict[str, Callable[[], Any]], rounds: int) -> float:
    """Times two calls by turns in shuffled order; the median of how many times slower the second is, round by round."""
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
    ours, theirs = calls
    ratios = [there / here for there, here in zip(seconds[theirs], seconds[ours], strict=True)]
    low, high = torch.tensor(ratios).quantile(torch.tensor([0.1, 0.9])).tolist()
    benchmark.extra_info |= {"seconds": seconds, "ratios": ratios}
    spread = f"{median(ratios):.2f} [{low:.2f}, {high:.2f}] times as long as {ours}, {median(seconds[ours]):.4f} s"
    print(f"\n{benchmark.name}: {theirs} takes {spread}")
    return median(ratios)


def test_step(benchmark: BenchmarkFixture, full_size: bool) -> None:
    """A training step: two passes of G, T, LPIPS on VGG16, backward, Adam, the mean of the weights."""
    forms = {form: training(form, full_size) for form in ("ours", "published")}
    generators = {form: seeded() for form in forms}
    ours, theirs = (forms[form].step(generator=generators[form]) for form in forms)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=STEP_VALUES, atol=1e-7)
    gradients = [dict(made.t.named_parameters()) | dict(made.ll.named_parameters()) for made in forms.values()]
    for name, parameter in gradients[1].items():
        found, wanted = (cast(Tensor, one.grad) for one in (gradients[0][name], parameter))
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3 * wanted.abs().max().item() + 1e-9, msg=name)
    calls: dict[str, Callable[[], Any]] = {
        form: partial(made.step, generator=generators[form]) for form, made in forms.items()
    }
    ratio = compare(benchmark, calls, ROUNDS if full_size else 1)
    assert ratio >= 1.3 or not full_size


def test_pair(benchmark: BenchmarkFixture, full_size: bool) -> None:
    """The flip search and the transfer of one way, three iterations, by the networks of full size at 256 px."""
    sizes: dict[str, int] = {"flow_size": 128, "supersize": 256}
    if not full_size:
        sizes = {"flow_size": 64, "supersize": 128, "base_channels": 8}
    networks = {}
    for form in ("ours", "published"):
        torch.manual_seed(0)
        networks[form] = stirred(ComposedSTN(**sizes)).eval().requires_grad_(False)
    as_published(networks["published"])
    networks["ours"].to(memory_format=torch.channels_last)
    side = sizes["supersize"]
    a, b = torch.rand(2, 1, 3, side, side, generator=seeded()) * 2 - 1
    points = torch.rand(1, 15, 2, generator=seeded(1)) * (side - 1)

    def ours() -> Tensor:
        return transfer_matched(match_flows(networks["ours"], a, b, points, points, iters=3))

    theirs = partial(published_pair, networks["published"], a, b, points, 3)
    distance = (ours() - theirs()).norm(dim=-1)
    assert (distance > PAIR_PX).sum() <= 1  # whose nearest entry of the grid is another
    ratio = compare(benchmark, {"ours": ours, "published": theirs}, PAIR_ROUNDS if full_size else 1)
    assert ratio >= 1.5 or not full_size


@pytest.mark.parametrize("side", [128, 256])
def test_splat(benchmark: BenchmarkFixture, full_size: bool, side: int) -> None:
    """A point a pixel of a template, as an edit is carried to a picture."""
    side = side if full_size else 16
    coords = torch.rand(1, side**2, 2, generator=seeded()) * side
    values = torch.rand(1, side**2, 3, generator=seeded(1))
    ways: dict[str, Callable[[], Tensor]] = {
        "auto": partial(splat, coords, values, 1.2, (side, side)),
        "torch": partial(splat, coords, values, 1.2, (side, side), way="torch"),
    }
    torch.testing.assert_close(ways["auto"](), ways["torch"](), rtol=1e-5, atol=1e-5)
    compare(benchmark, dict(ways), ROUNDS if full_size else 1)


@pytest.mark.parametrize("scale", [0.9, 1.3, 4.0], ids=["level 0", "a level", "all levels"])
def test_mipmap_warp(benchmark: BenchmarkFixture, full_size: bool, scale: float) -> None:
    """A picture of 256 px at the places of a grid of 128, and back: of one level, of two and of all."""
    side = 256 if full_size else 32
    x = torch.rand(2, 3, side, side, generator=seeded())
    grid = affine_grid((scale / 2 * torch.eye(2, 3)).expand(2, -1, -1), side // 2).requires_grad_()
    warper = MipmapWarp()

    def both(warped: Callable[..., Tensor]) -> Tensor:
        return torch.autograd.grad(warped(x, grid).square().sum(), grid)[0]

    forms: dict[str, Callable[[], Tensor]] = {
        "ours": partial(both, warper),
        "published": partial(both, partial(published_warp, warper)),
    }
    torch.testing.assert_close(forms["ours"](), forms["published"](), rtol=1e-4, atol=1e-3)
    compare(benchmark, dict(forms), ROUNDS if full_size else 1)
