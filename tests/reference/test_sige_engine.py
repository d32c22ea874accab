"""The engine on any network: full equals the network, sparse equals it where the edit lies and the cache elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.kernels import native
from gengauge.kernels.tile_conv import ConvWay, EditedMap
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.pd_unet import PDConfig, PDUNet
from gengauge.reference.nets.spade import SPADEConfig, SPADEGenerator
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import masks, policy
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.run import Run
from gengauge.reference.sige.tape import CannotRecord

WAYS: tuple[ConvWay, ...] = ("torch", "direct", "fast")
CLOSE = {"torch": 2e-5, "direct": 2e-5, "fast": 1e-4}  # of outputs, relative to the largest where that is above 1
Masks = dict[tuple[int, int], Tensor]


pytestmark = pytest.mark.usefixtures("one_thread")


by_way = pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            way,
            marks=pytest.mark.skipif(way != "torch" and not native.reason().startswith("yes"), reason=native.reason()),
        )
        for way in WAYS
    ],
)


def tiles_everywhere(fresh: bool = True) -> Policy:
    """Every convolution on tiles; norms with the statistics of the edit, or of the original."""
    by_size = policy.by_size(threshold=1, first_and_last=True)
    return replace(by_size, fresh_norms=lambda name: fresh)


def assert_close(ours: Tensor, expected: Tensor, way: str, factor: float = 1.0) -> None:
    assert ours.shape == expected.shape
    error = (ours - expected).abs().max().item()
    assert error <= factor * CLOSE[way] * max(1.0, expected.abs().max().item()), f"largest error {error:.3g}"


def output(network: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return network(*(value.clone() for value in inputs))


def sizes(engine: Engine) -> set[tuple[int, int]]:
    """The sizes at which convolutions work."""
    assert engine.program is not None
    return {step.size_in for step in engine.program.steps}


def all_of(engine: Engine) -> Masks:
    """Masks that hold everything."""
    return {size: torch.ones(size, dtype=torch.bool) for size in sizes(engine)}


def edit(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """The picture with a rectangle replaced."""
    out = x.clone()
    region = out[..., top : top + height, left : left + width]
    region.copy_(torch.randn(region.shape, generator=torch.Generator().manual_seed(1)))
    return out


def levels(x: Tensor, edited: Tensor, engine: Engine) -> Masks:
    """Masks of an edit at all sizes of a network, as the recipes make them."""
    smallest = min(sizes(engine))
    return masks.downsample(masks.dilate(masks.difference_mask(x[:1], edited[:1], 0.0), 1), smallest, 1)


# ----------------------------------------------------------------------------------------------------------------------
# Random networks


class Block(nn.Module):
    """Norm, activation, convolution, twice, with what networks do between: a scale and shift, dropout, a shortcut."""

    def __init__(self, draw: random.Random, inputs: int, outputs: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.kernel = draw.choice([1, 3, 3, 5])
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.act = draw.choice([nn.SiLU(), nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.Identity()])
        self.conv1 = nn.Conv2d(inputs, outputs, self.kernel, padding=self.kernel // 2)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=draw.random() < 0.5)
        self.emb = nn.Linear(4, 2 * outputs) if draw.random() < 0.5 else None
        self.drop = nn.Dropout(0.3)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or draw.random() < 0.3 else None
        self.shrink = draw.choice([1.0, 2.0**-0.5])

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        h = self.norm2(h)
        if self.emb is not None:
            scale, shift = self.emb(F.silu(emb))[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        h = self.conv2(self.drop(self.act(h)))
        return ((x if self.shortcut is None else self.shortcut(x)) + h) * self.shrink


class Attend(nn.Module):
    """Self-attention of pixels."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(2).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, 1))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(1, 2).reshape(x.shape))


class Modulate(nn.Module):
    """A map scaled and shifted at every pixel by convolutions of another, as SPADE does."""

    def __init__(self, channels: int, given: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.gamma_beta = nn.Conv2d(given, 2 * channels, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        given = F.interpolate(given, size=x.shape[2:], mode="nearest")
        gamma, beta = self.gamma_beta(given).chunk(2, 1)
        return x + self.conv(F.leaky_relu(self.norm(x) * (1 + gamma) + beta, 0.2))


class Halve(nn.Module):
    """One of the ways to halve a picture."""

    def __init__(self, form: int, channels: int) -> None:
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if form == 2 else 2, padding=0 if form == 0 else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == 0:
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(x) if self.form == 1 else self.conv(F.avg_pool2d(x, 2))


class Net(nn.Module):
    """A small U-Net of random parts: (N, 3, H, W) and (N, 4)."""

    def __init__(self, seed: int, kind: str) -> None:
        super().__init__()
        draw = random.Random(seed)

        def norm(channels: int) -> nn.Module:
            if kind == "batch":
                layer = nn.BatchNorm2d(channels)
                nn.init.normal_(layer.running_mean, 0, 0.5)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                return layer
            if draw.random() < 0.2:
                return nn.InstanceNorm2d(channels, affine=draw.random() < 0.5)
            return nn.GroupNorm(draw.choice([g for g in (1, 2, 3, 5, 7) if channels % g == 0]), channels)

        width, wide = draw.choice([5, 6, 10, 16, 33]), draw.choice([7, 12, 32])
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down1 = Block(draw, width, width, norm)
        self.halve = Halve(draw.randrange(3), width)
        self.down2 = Block(draw, width, wide, norm)
        self.attend = Attend(wide, norm) if kind != "batch" and draw.random() < 0.6 else nn.Identity()
        self.mid = Modulate(wide, 3, norm) if draw.random() < 0.6 else None
        self.up2 = Block(draw, 2 * wide, wide, norm)
        self.twice = nn.Conv2d(wide, width, 3, padding=1)
        self.up1 = Block(draw, 2 * width, width, norm)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        first = self.down1(self.conv_in(x), emb)
        second = self.attend(self.down2(self.halve(first), emb))
        h = second if self.mid is None else self.mid(second, x)
        h = self.up2(torch.cat([h, second], 1), emb)
        h = self.twice(F.interpolate(h, scale_factor=2, mode="nearest"))
        h = self.up1(torch.cat([h, first], 1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))


def drawn(seed: int, kind: str = "any") -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, a picture, an edit of it and an embedding."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    images = draw.choice([1, 1, 2, 3])
    height, width = draw.choice([(16, 16), (12, 20), (20, 14), (26, 18)])
    x = torch.randn(images, 3, height, width)
    edited = edit(x, draw.randrange(height - 4), draw.randrange(width - 4), 3, draw.randint(1, 4))
    return Net(seed, kind).eval(), x, edited, torch.randn(draw.choice([1, images]), 4)


@by_way
@pytest.mark.parametrize("seed", range(12))
def test_full_equals_the_network(seed: int, way: ConvWay) -> None:
    network, x, edited, emb = drawn(seed)
    for chosen in (tiles_everywhere(), tiles_everywhere(False), policy.everywhere(), policy.by_size(10)):
        engine = Engine(network, chosen, way)
        assert_close(engine.full(x, emb), output(network, x, emb), way)
        assert_close(engine.full(edited, emb, cache_id=1), output(network, edited, emb), way)


@by_way
@pytest.mark.parametrize("seed", range(12))
def test_an_edit_of_everything_equals_the_network(seed: int, way: ConvWay) -> None:
    network, x, edited, emb = drawn(seed)
    engine = Engine(network, tiles_everywhere(), way)
    engine.full(x, emb)
    engine.set_masks(all_of(engine))
    assert_close(engine.sparse(edited), output(network, edited, emb), way, 2)
    other = torch.randn_like(x)
    assert_close(engine.sparse(other), output(network, other, emb), way, 2)
    dense = Engine(network, policy.everywhere(), way)
    dense.full(x, emb)
    assert_close(dense.sparse(edited), output(network, edited, emb), way, 2)  # no tiles need no masks


@by_way
@pytest.mark.parametrize("seed", range(12))
def test_an_edit_equals_the_network_where_statistics_are_fixed(seed: int, way: ConvWay) -> None:
    network, x, edited, emb = drawn(seed, "batch")
    engine = Engine(network, tiles_everywhere(), way)
    engine.full(x, emb)
    assert engine.program is not None
    found = {size: torch.zeros(size, dtype=torch.bool) for size in sizes(engine)}
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, []).append(given[0]))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    expected = [output(network, picture, emb) for picture in (x, edited)][1]
    for hook in hooks:
        hook.remove()
    for step in engine.program.steps:  # exactly what the edit changes of a convolution's input
        before, after = (value[:, :, : step.size_in[0], : step.size_in[1]] for value in seen[step.name])
        found[step.size_in] |= (before != after).any(0).any(0)
    engine.set_masks(found)
    assert_close(engine.sparse(edited), expected, way, 2)
    engine.sparse(edited, update=True)
    assert_close(engine.sparse(edited), expected, way, 2)
    assert_close(engine.sparse(x), output(network, x, emb), way, 2)  # the way back


@by_way
@pytest.mark.parametrize("seed", range(8))
def test_what_no_tile_reaches_is_the_cache(seed: int, way: ConvWay) -> None:
    network, x, edited, emb = drawn(seed)
    engine = Engine(network, tiles_everywhere(False), way)
    engine.full(x, emb)
    kept = {index: value.clone() for index, value in engine.caches[0].maps.items()}
    engine.set_masks(levels(x, edited, engine))
    assert engine.program is not None
    assert engine.prepared is not None
    run = Run(engine.prepared, engine.way, engine.caches[0], edited, marks=engine.marks)
    with torch.no_grad():
        run.all()
    found = {index: value for index, value in run.values.items() if isinstance(value, EditedMap)}
    assert found.keys() == kept.keys()
    for index, value in found.items():
        untouched = (value.touched.where < 0).view(value.touched.size)
        assert torch.equal(value.whole()[:, :, untouched], kept[index][:, :, untouched])
        assert torch.equal(engine.caches[0].maps[index], kept[index]), "an edit wrote into the cache"


@by_way
@pytest.mark.parametrize("seed", range(8))
def test_the_same_edit_gives_the_same_bits(seed: int, way: ConvWay) -> None:
    network, x, edited, emb = drawn(seed)
    engine = Engine(network, tiles_everywhere(False), way)
    full = engine.full(x, emb)
    engine.set_masks(levels(x, edited, engine))
    first, between, second = engine.sparse(edited), engine.sparse(edit(x, 1, 1, 2, 2)), engine.sparse(edited)
    assert torch.equal(first, second)
    assert not torch.equal(first, between)
    assert torch.equal(engine.full(x, emb), full)
    assert torch.equal(engine.sparse(edited), first)
    fresh = Engine(network, tiles_everywhere(False), way)
    fresh.full(x, emb)
    fresh.set_masks(levels(x, edited, fresh))
    assert torch.equal(fresh.sparse(edited), first)


@pytest.mark.parametrize("seed", range(8))
def test_ways_agree_on_edits(seed: int) -> None:
    network, x, edited, emb = drawn(seed)
    found = {}
    for way in WAYS:
        engine = Engine(network, tiles_everywhere(False), way)
        engine.full(x, emb)
        engine.set_masks(levels(x, edited, engine))
        found[way] = engine.sparse(edited)
    for way in WAYS:
        assert_close(found[way], found["torch"], way, 2)


@by_way
def test_the_network_and_what_it_is_given_are_not_changed(way: ConvWay) -> None:
    network, x, edited, emb = drawn(3)
    before = [value.clone() for value in (x, edited, emb, *network.state_dict().values())]
    engine = Engine(network, tiles_everywhere(), way)
    engine.full(x, emb)
    engine.set_masks(levels(x, edited, engine))
    out = engine.sparse(edited, update=True)
    kept = out.clone()
    engine.sparse(edit(x, 0, 0, 9, 9))
    assert torch.equal(out, kept), "a result was overwritten by a later run"
    after = [x, edited, emb, *network.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_several_caches_and_successive_edits() -> None:
    network, x, edited, emb = drawn(5)
    engine = Engine(network, tiles_everywhere(False), "direct")
    for cache_id, factor in ((0, 1.0), (7, -0.5)):
        engine.full(factor * x, emb, cache_id=cache_id)
    engine.set_masks(levels(x, edited, engine))
    first = engine.sparse(edited)
    other = engine.sparse(-0.5 * edited, 7)
    assert torch.equal(engine.sparse(edited), first)
    engine.sparse(edited, update=True)
    assert torch.equal(engine.sparse(edited), first)  # computed anew from the same maps
    assert torch.equal(engine.sparse(-0.5 * edited, 7), other)
    assert engine.cache_bytes > 0
    engine.clear()
    assert engine.cache_bytes == 0
    with pytest.raises(ValueError, match=r"cache id 7 \(kept: none\)"):
        engine.sparse(edited, 7)


# ----------------------------------------------------------------------------------------------------------------------
# The published networks, at other sizes than the goldens'


def unet(attention: tuple[int, ...], mult: tuple[int, ...] = (1, 2), resolution: int = 32, **more: Any) -> UNetConfig:
    return UNetConfig(resolution, 32, mult, 1, attention, temb_ch=40, **more)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Policy, tuple[int, int], int]] = {
    "ddpm, attention on tiles": (lambda: DDPMUNet(unet((32, 16))), policy.ddpm(16), (32, 32), 3),
    "ddpm, fused": (lambda: DDPMUNet(unet((16, 8), (1, 2, 3)), fused=True), policy.ddpm(8), (32, 32), 3),
    "ddpm, no sparse level": (lambda: DDPMUNet(unet(())), policy.ddpm(64), (32, 32), 3),
    "pd, from 16": (
        lambda: PDUNet(PDConfig(32, 32, (1, 2), 1, (32, 16), temb_ch=24, out_ch=6, head_dim=16)),
        policy.progressive_distillation(16),
        (32, 32),
        3,
    ),
    "pd, three levels": (
        lambda: PDUNet(PDConfig(32, 32, (1, 1, 2), 2, (8,), temb_ch=24, out_ch=6, head_dim=32)),
        policy.progressive_distillation(32),
        (32, 32),
        3,
    ),
} | {
    f"spade, {layers} layers, {'separable' if separable else 'plain'}{', fused' * fused}": (
        lambda separable=separable, fused=fused: SPADEGenerator(
            SPADEConfig(128, 2.0, 5, (3, 2, 4, 3, 1, 3, 2, 4), separable), fused
        ),
        policy.spade(layers),
        (64, 128),
        6,
    )
    for layers in (4, 5, 6, 7)
    for separable in (False, True)
    for fused in (False, True)
}


def published(name: str) -> tuple[nn.Module, Policy, Tensor, Tensor, tuple[Tensor, ...]]:
    """A network with moderate random weights, its policy, a picture, an edit and further arguments."""
    make, chosen, size, channels = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    x = torch.randn(1, channels, *size)
    further = () if name.startswith("spade") else (torch.tensor([0.7 if name.startswith("pd") else 37.0]),)
    return network, chosen, x, edit(x, 9, 13, 5, 6), further


@by_way
@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_at_other_sizes(name: str, way: ConvWay) -> None:
    network, chosen, x, edited, further = published(name)
    engine = Engine(network, chosen, way)
    assert_close(engine.full(x, *further), output(network, x, *further), way)
    engine.set_masks(levels(x, edited, engine))
    reference = Engine(network, chosen, "torch")
    reference.full(x, *further)
    reference.set_masks(levels(x, edited, engine))
    assert_close(engine.sparse(edited), reference.sparse(edited), way, 2)
    fresh = Engine(network, replace(chosen, fresh_norms=lambda name: True), way)
    fresh.full(x, *further)
    fresh.set_masks(all_of(fresh))
    assert_close(fresh.sparse(edited), output(network, edited, *further), way, 2)


def sparse_names(name: str) -> list[str]:
    """The convolutions of a network that its policy computes on tiles."""
    network, chosen, x, _, further = published(name)
    engine = Engine(network, chosen)
    program = engine.prepare(x, *further)
    return [step.name for step in program.steps if engine.tiling(step) is not None]


def test_ddpms_middle_is_never_on_tiles_and_its_attention_is() -> None:
    found = sparse_names("ddpm, attention on tiles")
    assert not [step for step in found if step.startswith("mid.")]
    assert {"down.0.attn.0.q", "down.0.attn.0.proj_out", "up.1.attn.1.v", "down.1.block.0.conv1"} <= set(found)
    assert {"up.1.upsample.conv"} == set(sparse_names("ddpm, no sparse level"))


def test_pds_attention_is_never_on_tiles_and_its_middle_is() -> None:
    found = sparse_names("pd, from 16")
    assert not [step for step in found if ".attn" in step]
    assert {"mid.block_1.conv1", "mid.block_2.conv2", "down.0.downsample.conv1", "up.1.upsample.conv2"} <= set(found)
    assert not [step for step in sparse_names("pd, three levels") if step.startswith(("down.1.", "up.1.", "mid."))]


def test_spades_layers_are_counted_from_the_end() -> None:
    blocks = {step.split(".")[0] for step in sparse_names("spade, 6 layers, plain")}
    assert blocks == {"G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3"}
    with pytest.raises(ValueError, match="8"):
        policy.spade(8)


# ----------------------------------------------------------------------------------------------------------------------
# Networks that do something unusual


class Fn(nn.Module):
    """A network whose forward is a function of itself and its inputs."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.of = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.of(self, *inputs)


def conv(inputs: int, outputs: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **more})


def running_instance_norm() -> nn.Module:
    layer = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    nn.init.normal_(cast(Tensor, layer.running_mean))
    nn.init.uniform_(cast(Tensor, layer.running_var), 0.5, 2)
    return layer


def cut(self: Any, x: Tensor) -> Tensor:
    return self.b(torch.cat(self.a(x).split([1, 3, 2], 1)[::-1], 1))


UNUSUAL: dict[str, Callable[[], nn.Module]] = {
    "slices in another order": lambda: Fn(cut, a=conv(3, 6), b=conv(6, 4)),
    "four maps side by side": lambda: Fn(
        lambda self, x: self.b(torch.cat([self.a(x), x, F.silu(x), x], 1)), a=conv(3, 6), b=conv(15, 4)
    ),
    "a map beside itself": lambda: Fn(
        lambda self, x: (lambda h: self.b(torch.cat([h, h], 1)))(self.a(x)), a=conv(3, 5), b=conv(10, 4)
    ),
    "twice doubled": lambda: Fn(
        lambda self, x: self.b(F.interpolate(F.interpolate(self.a(x), scale_factor=2), scale_factor=2)),
        a=conv(3, 5),
        b=conv(5, 4),
    ),
    "a map of maps, doubled": lambda: Fn(
        lambda self, x: self.b(F.interpolate(torch.cat([self.a(x), x], 1), scale_factor=2)), a=conv(3, 5), b=conv(8, 4)
    ),
    "large kernels": lambda: nn.Sequential(conv(3, 4, 5), conv(4, 4, 7), conv(4, 3, 9)),
    "strides": lambda: nn.Sequential(conv(3, 4, stride=2), conv(4, 4, 5, stride=3), conv(4, 3, 1, stride=2)),
    "groups and dilation": lambda: nn.Sequential(
        conv(3, 4), conv(4, 4, padding=2, dilation=2), conv(4, 8, groups=2), conv(8, 8, groups=8)
    ),
    "oblong kernels": lambda: nn.Sequential(
        conv(3, 4), nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 4, 3, padding=(1, 0))
    ),
    "other padding": lambda: nn.Sequential(
        conv(3, 4, padding_mode="reflect"), conv(4, 4, padding="same"), conv(4, 4, padding=2)
    ),
    "padded, then doubled": lambda: Fn(
        lambda self, x: self.b(F.interpolate(F.pad(self.a(x), (1, 1, 1, 1)), scale_factor=2)),
        a=conv(3, 4),
        b=conv(4, 4, padding=0),
    ),
    "padded, then modulated": lambda: Fn(
        lambda self, x: self.b(F.pad(self.a(x), (1, 1, 1, 1)) * (1 + self.g(x)) + self.g(x)),
        a=conv(3, 4),
        g=conv(3, 4, padding=2),
        b=conv(4, 4, padding=0),
    ),
    "cropped": lambda: Fn(
        lambda self, x: self.b(F.pad(self.a(x), (-1, -1, -1, -1))), a=conv(3, 4), b=conv(4, 4, padding=0)
    ),
    "transposed convolution": lambda: nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 4, 4, 2, 1), conv(4, 4)),
    "squeeze and excitation": lambda: Fn(
        lambda self, x: (lambda h: self.b(h * self.d(h.mean((2, 3), keepdim=True)).sigmoid()))(self.a(x)),
        a=conv(3, 4),
        d=conv(4, 4, 1),
        b=conv(4, 4),
    ),
    "a sum of itself": lambda: Fn(lambda self, x: (lambda h: self.b(h + h))(self.a(x)), a=conv(3, 4), b=conv(4, 4)),
    "sums of sums": lambda: Fn(
        lambda self, x: (lambda h: (lambda y: y + self.d(y) + h)(self.b(h) + h))(self.a(x)),
        a=conv(3, 4),
        b=conv(4, 4),
        d=conv(4, 4),
    ),
    "a weighted sum": lambda: Fn(
        lambda self, x: self.b(torch.add(self.a(x), self.d(x), alpha=2)), a=conv(3, 4), d=conv(3, 4), b=conv(4, 4)
    ),
    "a weighted one": lambda: Fn(
        lambda self, x: self.b(self.a(x) * torch.add(self.d(x), 1, alpha=2) + self.d(x)),
        a=conv(3, 4),
        d=conv(3, 4),
        b=conv(4, 4),
    ),
    "the same convolution twice": lambda: Fn(
        lambda self, x: self.a(F.silu(self.n(self.a(x)))), a=conv(3, 3), n=nn.GroupNorm(1, 3)
    ),
    "the same convolution at two sizes": lambda: Fn(lambda self, x: self.a(F.avg_pool2d(self.a(x), 2)), a=conv(3, 3)),
    "activations in place": lambda: nn.Sequential(
        conv(3, 4), nn.SiLU(inplace=True), conv(4, 4), nn.ReLU(inplace=True), conv(4, 4)
    ),
    "group norm of tokens": lambda: Fn(
        lambda self, x: (lambda h: self.b((self.n(h.flatten(2)) * 2).view(h.shape)))(self.a(x)),
        a=conv(3, 4),
        n=nn.GroupNorm(2, 4),
        b=conv(4, 4),
    ),
    "layer norm of channels": lambda: Fn(
        lambda self, x: self.b(self.n(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=conv(3, 4),
        n=nn.LayerNorm(4),
        b=conv(4, 4),
    ),
    "instance norm with running statistics": lambda: nn.Sequential(conv(3, 4), running_instance_norm(), conv(4, 4)),
    "no convolution": lambda: Fn(lambda self, x: x * 2),
    "nothing": lambda: nn.Identity(),
}


@by_way
@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.parametrize("images", [1, 2])
def test_unusual_networks(name: str, images: int, way: ConvWay) -> None:
    torch.manual_seed(0)
    network = UNUSUAL[name]().eval()
    x = torch.randn(images, 3, 16, 14)
    engine = Engine(network, tiles_everywhere(), way)
    assert_close(engine.full(x), output(network, x), way)
    engine.set_masks(all_of(engine))
    edited = edit(x, 3, 4, 6, 5)
    assert_close(engine.sparse(edited), output(network, edited), way, 2)


def test_a_constant_channel_keeps_what_little_it_has() -> None:
    network = nn.Sequential(conv(3, 4), nn.InstanceNorm2d(4), conv(4, 4, 1)).eval()
    x = 1000 + 1e-2 * torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        network[0].bias.fill_(100)  # type: ignore[union-attr]
    exact = network.double()(x.double()).float()
    network.float()
    for way in WAYS:
        engine = Engine(network, tiles_everywhere(False), way)
        reference = (output(network, x) - exact).abs().max().item()
        assert (engine.full(x) - exact).abs().max().item() <= 4 * reference + 1e-5


def test_doubles_are_computed_in_doubles() -> None:
    network, x, edited, emb = drawn(1)
    network = network.double()
    engine = Engine(network, tiles_everywhere(), "fast")
    expected = output(network, x.double(), emb.double())
    assert (engine.full(x.double(), emb.double()) - expected).abs().max() < 1e-10
    engine.set_masks(all_of(engine))
    expected = output(network, edited.double(), emb.double())
    assert (engine.sparse(edited.double()) - expected).abs().max() < 1e-10


def test_the_picture_may_be_given_twice() -> None:
    network = Fn(lambda self, x, y: self.b(self.a(x) + y), a=conv(3, 3), b=conv(3, 4)).eval()
    x = torch.randn(1, 3, 12, 12)
    engine = Engine(network, tiles_everywhere(), "torch")
    assert_close(engine.full(x, x), output(network, x, x), "torch")
    engine.set_masks(all_of(engine))
    edited = edit(x, 2, 2, 4, 4)
    assert_close(engine.sparse(edited), output(network, edited, x), "torch")


# ----------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.fixture
def ready() -> tuple[Engine, Tensor, Tensor]:
    network, x, _, emb = drawn(2)
    return Engine(network, tiles_everywhere(), "torch"), x, emb


def test_an_edit_needs_an_original(ready: tuple[Engine, Tensor, Tensor]) -> None:
    engine, x, emb = ready
    with pytest.raises(ValueError, match=r"cache id 0 \(kept: none\); call full first"):
        engine.sparse(x)
    engine.full(x, emb, cache_id=3)
    engine.set_masks(all_of(engine))
    with pytest.raises(ValueError, match=r"cache id 0 \(kept: 3\)"):
        engine.sparse(x)
    engine.sparse(x, 3)


def test_masks_need_an_original(ready: tuple[Engine, Tensor, Tensor]) -> None:
    engine, x, emb = ready
    with pytest.raises(ValueError, match="call full first"):
        engine.set_masks({(8, 8): torch.ones(8, 8, dtype=torch.bool)})
    engine.full(x, emb)
    with pytest.raises(ValueError, match="no masks are set"):
        engine.sparse(x)


def test_masks_must_be_of_all_sizes(ready: tuple[Engine, Tensor, Tensor]) -> None:
    engine, x, emb = ready
    engine.full(x, emb)
    complete = all_of(engine)
    height, width = max(complete)
    missing = {size: mask for size, mask in complete.items() if size != (height, width)}
    with pytest.raises(ValueError, match=f"{height} x {width}, for which there is no mask"):
        engine.set_masks(missing)
    with pytest.raises(ValueError, match="has the shape"):
        engine.set_masks({**complete, (height, width): torch.ones(height, width - 1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no masks are set"):
        engine.sparse(x)
    engine.set_masks({**complete, (3, 3): torch.ones(3, 3, dtype=torch.bool)})  # more than needed does no harm
    engine.sparse(x)


def test_an_edit_must_have_the_originals_shape(ready: tuple[Engine, Tensor, Tensor]) -> None:
    engine, x, emb = ready
    engine.full(x, emb)
    engine.set_masks(all_of(engine))
    with pytest.raises(ValueError, match="they must agree"):
        engine.sparse(x[:, :, :-2])
    smaller = x[:, :, :-2].contiguous()
    engine.full(smaller, emb)  # a new shape starts anew
    with pytest.raises(ValueError, match="no masks are set"):
        engine.sparse(smaller)


def test_a_network_in_training_is_refused(ready: tuple[Engine, Tensor, Tensor]) -> None:
    engine, x, emb = ready
    engine.network.train()
    with pytest.raises(ValueError, match=r"network\.eval\(\)"):
        engine.full(x, emb)


def test_a_change_through_a_view_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.a(x)
        h[:, :1].mul_(2)
        return self.b(h)

    engine = Engine(Fn(forward, a=conv(3, 4), b=conv(4, 4)).eval(), tiles_everywhere())
    with pytest.raises(CannotRecord, match="out of place"):
        engine.full(torch.randn(1, 3, 8, 8))
