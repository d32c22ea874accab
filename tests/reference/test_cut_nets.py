"""CUT's networks beyond the goldens: exact counts, names, receptive fields, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gengauge.reference.cut.patches import PatchSampleF
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, FASTCUT, SINCUT
from gengauge.reference.nets.blurpool import DENSE, Downsample, Upsample, binomial_filter
from gengauge.reference.nets.drn import DRN, DRN_D_22, DRN_D_105, bilinear_filter, normalise
from gengauge.reference.nets.patchgan import PatchDiscriminator, PixelDiscriminator
from gengauge.reference.nets.published import published_state
from gengauge.reference.nets.stylegan2.translation import (
    StyledConv,
    StyleDiscriminator,
    StyleTranslator,
    nominal_resolution,
    tiles,
)
from gengauge.reference.nets.translation_resnet import (
    TAPS,
    ResnetGenerator,
    as_published,
    misread_gradients,
    norm_layer,
)

PLAIN: dict[str, Any] = {"antialias": False, "antialias_up": False}


pytestmark = pytest.mark.usefixtures("one_thread")


def ghost(build: Callable[[], nn.Module]) -> nn.Module:
    """A network that computes nothing, for counts."""
    with torch.device("meta"):
        return build()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def giga_macs(network: nn.Module, *shape: int) -> float:
    """Multiply-accumulates of convolutions and products of one forward pass, in thousand millions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return counter.get_total_flops() / 2e9


# ----------------------------------------------------------------------------------------------------------------------
# Exact counts


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (ResnetGenerator, 11_378_179),
        (lambda: ResnetGenerator(**PLAIN), 11_378_179),
        (lambda: ResnetGenerator(6), 7_837_699),
        (lambda: ResnetGenerator(4), 5_477_379),
        (PatchDiscriminator, 2_764_737),
        (lambda: PatchDiscriminator(antialias=False), 2_764_737),
        (PixelDiscriminator, 8_705),
        (StyleTranslator, 3_068_404),
        (StyleDiscriminator, 5_885_473),
    ],
)
def test_parameters(build: Callable[[], nn.Module], count: int) -> None:
    assert parameters(ghost(build)) == count


@pytest.mark.parametrize(
    ("recipe", "f", "total"),
    [
        (CUT, 560_384, 14_703_300),
        (FASTCUT, 560_384, 14_703_300),
        (SINCUT, 280_832, 3_068_404 + 5_885_473 + 280_832),
    ],
)
def test_parameters_of_the_presets(recipe: Any, f: int, total: int) -> None:
    with torch.device("meta"):
        networks = recipe.build()
    assert parameters(networks[2]) == f
    assert sum(parameters(network) for network in networks) == total


def test_parameters_of_cyclegan() -> None:
    with torch.device("meta"):
        assert sum(parameters(network) for network in CYCLEGAN.build().values()) == 28_285_832


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (ResnetGenerator, 64.128),
        (lambda: ResnetGenerator(**PLAIN), 49.552),
        (lambda: ResnetGenerator(6), 49.632),
        (PatchDiscriminator, 6.434),
        (lambda: PatchDiscriminator(antialias=False), 3.147),
    ],
)
def test_macs_at_256_px(build: Callable[[], nn.Module], count: float) -> None:
    assert round(giga_macs(ghost(build), 1, 3, 256, 256), 3) == count


def test_state_entries_and_names() -> None:
    state = ghost(ResnetGenerator).state_dict()
    assert len(state) == 52
    filters = {name: tuple(value.shape) for name, value in state.items() if name.endswith("filt")}
    assert filters == {
        "model.7.filt": (128, 1, 3, 3),
        "model.11.filt": (256, 1, 3, 3),
        "model.21.filt": (256, 1, 4, 4),
        "model.25.filt": (128, 1, 4, 4),
    }
    assert {"model.1.weight", "model.12.conv_block.1.weight", "model.20.conv_block.5.bias", "model.30.bias"} <= set(
        state
    )
    dropped = ghost(lambda: ResnetGenerator(dropout=True)).state_dict()
    assert "model.12.conv_block.6.weight" in dropped
    assert "model.12.conv_block.5.weight" not in dropped
    assert len(ghost(PatchDiscriminator).state_dict()) == 13
    batch_normed = ghost(lambda: ResnetGenerator(norm="batch")).state_dict()
    biased = {name for name in batch_normed if name.endswith("bias") and batch_normed[name].numel() == 3}
    assert biased == {"model.30.bias"}
    f = PatchSampleF([3, 8], 16)
    assert list(f.state_dict()) == [
        f"mlp_{i}.{j}.{kind}" for i in (0, 1) for j in (0, 2) for kind in ("weight", "bias")
    ]


def test_checkpoints_saved_on_a_cpu_carry_a_prefix_that_is_dropped() -> None:
    network, other = ResnetGenerator(4, 2), ResnetGenerator(4, 2)
    saved = {f"module.{name}": value for name, value in network.state_dict().items()}
    for content in (saved, network.state_dict()):
        other.load_state_dict(published_state(content, other))
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())
    saved.pop("module.model.7.filt")
    with pytest.raises(ValueError, match=r"missing: model\.7\.filt"):
        published_state(saved, other)


def test_taps_at_256_px() -> None:
    network = ghost(ResnetGenerator)
    assert isinstance(network, ResnetGenerator)
    shapes = [tuple(tap.shape[1:]) for tap in network.encode(torch.empty(1, 3, 256, 256, device="meta"))]
    assert shapes == [(3, 262, 262), (128, 256, 256), (256, 128, 128), (256, 64, 64), (256, 64, 64)]
    assert network.tap_channels() == [3, 128, 256, 256, 256]


# ----------------------------------------------------------------------------------------------------------------------
# Receptive fields, by the pixels that move a value when all weights are positive and nothing is normalised


def positive(network: nn.Module) -> nn.Module:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    for value in network.parameters():
        nn.init.constant_(value, 1e-3)
    return network


def extent(network: Callable[[Tensor], Tensor], size: int = 160) -> int:
    """The side of the square of pixels that the value in the middle of a map depends on."""
    x = torch.ones(1, 3, size, size, requires_grad=True)
    out = network(x)
    (gradient,) = torch.autograd.grad(out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum(), x)
    seen = gradient.abs().sum((0, 1))
    sides = {int((seen.sum(dim) > 0).sum()) for dim in (0, 1)}
    assert len(sides) == 1
    return sides.pop()


@pytest.mark.parametrize(
    ("arguments", "fields"), [({}, (1, 9, 15, 35, 99)), (PLAIN, (1, 9, 13, 61, 125))], ids=["antialias", "plain"]
)
def test_receptive_fields_of_taps(arguments: dict[str, Any], fields: tuple[int, ...]) -> None:
    network = positive(ResnetGenerator(ngf=2, **arguments))
    assert isinstance(network, ResnetGenerator)
    found = tuple(extent(lambda x, tap=tap: network.encode(x, [tap])[0]) for tap in TAPS)  # type: ignore[misc]
    assert found == fields


@pytest.mark.parametrize(("antialias", "field"), [(True, 84), (False, 70)])
def test_receptive_field_of_the_discriminator(antialias: bool, field: int) -> None:
    assert extent(positive(PatchDiscriminator(ndf=2, antialias=antialias))) == field


# ----------------------------------------------------------------------------------------------------------------------
# What the networks take and refuse


@pytest.mark.parametrize(
    "shape", [(1, 3, 30, 32), (1, 3, 32, 34), (1, 3, 4, 4), (1, 1, 32, 32), (3, 32, 32), (1, 3, 33, 33)]
)
def test_the_generator_refuses_other_pictures(shape: tuple[int, ...]) -> None:
    network = ResnetGenerator(4, 2)
    for use in (network, network.encode):
        with pytest.raises(ValueError, match=r"pictures are|multiples of 4"):
            use(torch.zeros(shape))


def test_the_smallest_picture_passes() -> None:
    assert ResnetGenerator(4, 2)(torch.zeros(1, 3, 8, 12)).shape == (1, 3, 8, 12)


@pytest.mark.parametrize("taps", [(4, 0), (4, 4), (-1, 4), (0, 99)])
def test_the_generator_refuses_odd_taps(taps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="taps"):
        ResnetGenerator(4, 2).encode(torch.zeros(1, 3, 32, 32), taps)


def test_no_taps_cost_nothing() -> None:
    assert ResnetGenerator(4, 2).encode(torch.zeros(1, 3, 32, 32), ()) == []


def test_encoding_stops_at_the_last_tap() -> None:
    network = ResnetGenerator(4, 2)
    ran: list[int] = []
    for i, layer in enumerate(network.model):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    network.encode(torch.zeros(1, 3, 32, 32), (0, 8))
    assert ran == list(range(9))


def test_a_tap_on_a_norm_is_seen_behind_the_relu() -> None:
    network = ResnetGenerator(4, 2, **PLAIN)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last, before = network.encode(x, (8,))[0], network.encode(x, (8, 12))[0]
    assert last.min() < 0
    assert torch.equal(before, last.relu())


def test_discriminators_refuse_small_pictures() -> None:
    assert PatchDiscriminator(ndf=2)(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    assert PatchDiscriminator(ndf=2, antialias=False)(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="at least 24 px"):
        PatchDiscriminator(ndf=2)(torch.zeros(1, 3, 23, 64))
    with pytest.raises(ValueError, match="pictures are"):
        PatchDiscriminator(ndf=2)(torch.zeros(1, 4, 64, 64))


def test_norms_have_two_names() -> None:
    with pytest.raises(ValueError, match="'layer'"):
        norm_layer("layer", 4)  # type: ignore[arg-type]


def test_blurred_resampling_keeps_a_constant_picture() -> None:
    x = torch.full((1, 2, 7, 8), 0.5)
    for size in (1, 2, 3, 4, 5):
        assert torch.allclose(Downsample(2, size)(x), torch.full((1, 2, 4, 4), 0.5))
    for size in (3, 4):
        assert torch.allclose(Upsample(2, size)(x), torch.full((1, 2, 14, 16), 0.5))
    assert binomial_filter(4)[0].tolist() == [1 / 64, 3 / 64, 3 / 64, 1 / 64]
    with pytest.raises(ValueError, match="at least one tap"):
        binomial_filter(0)


# ----------------------------------------------------------------------------------------------------------------------
# What stands for slower operations on a CPU


def value_and_gradient(module: nn.Module, x: Tensor, probe: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a module makes of x, and the gradient of its product with a probe."""
    x = x.clone().requires_grad_()
    out = module(x)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)) if probe is None else probe
    (gradient,) = torch.autograd.grad(out, x, probe)
    return out.detach(), gradient


@pytest.mark.parametrize("padding", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize("build", [Downsample, Upsample])
@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("sides", [(7, 8), (16, 5), (DENSE, 6), (DENSE + 1, 6)])
def test_blurs_are_grouped_convolutions(padding: Any, build: Any, size: int, sides: tuple[int, int]) -> None:
    if build is Upsample and size == 5:
        size = 2
    x = torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    module = build(3, size, padding)
    ours = value_and_gradient(module, x)
    as_published(module)
    for a, b in zip(ours, value_and_gradient(module, x), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=2e-6)
    assert list(module.state_dict()) == ["filt"]


def test_blurs_work_in_inference_mode_and_train_after_it() -> None:
    x = torch.randn(1, 2, 12, 14)
    with torch.inference_mode():
        Downsample(2)(x)
    assert value_and_gradient(Downsample(2), x)[1].abs().sum() > 0
    assert Downsample(2).double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_norm_is_torchs(layout: torch.memory_format, batch: int) -> None:
    x = torch.randn(batch, 4, 6, 5, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    ours, theirs = norm_layer("instance", 4), norm_layer("instance", 4)
    as_published(theirs)
    for a, b in zip(value_and_gradient(ours, x), value_and_gradient(theirs, x), strict=True):
        assert torch.allclose(a, b, atol=2e-6)

    def second(module: nn.Module) -> Tensor:
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(at).pow(3).sum(), at, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), at)[0]

    assert torch.allclose(second(ours), second(theirs), rtol=1e-4, atol=1e-4)


def test_the_norm_misreads_gradients_like_torch_only_where_it_is_asked_to() -> None:
    """Torch does of one picture whose gradient is in channels_last; when it no longer does, this may go."""
    x = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    probe = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    ours, theirs = norm_layer("instance", 4), norm_layer("instance", 4)
    as_published(theirs)
    wrong = value_and_gradient(theirs, x, probe.contiguous(memory_format=torch.channels_last))[1]
    right = value_and_gradient(theirs, x, probe)[1]
    assert torch.allclose(
        value_and_gradient(ours, x, probe.contiguous(memory_format=torch.channels_last))[1], right, atol=2e-6
    )
    with misread_gradients(ours):
        found = value_and_gradient(ours, x, probe.contiguous(memory_format=torch.channels_last))[1]
        assert torch.allclose(value_and_gradient(ours, x, probe)[1], right, atol=2e-6)
    assert torch.allclose(found, wrong, atol=2e-6)
    assert not torch.allclose(wrong, right, atol=1e-2)


# ----------------------------------------------------------------------------------------------------------------------
# SinCUT's networks


def test_the_translator_takes_any_even_size_and_gives_the_same() -> None:
    network = StyleTranslator(ngf=1)
    assert network(torch.zeros(1, 3, 34, 50)).shape == (1, 3, 34, 50)
    with pytest.raises(ValueError, match="multiples of 2"):
        network(torch.zeros(1, 3, 33, 50))
    with pytest.raises(ValueError, match="ascending"):
        network.encode(torch.zeros(1, 3, 32, 32), (2, 0))
    with pytest.raises(ValueError, match="fewer than 4 px"):
        StyleTranslator(ngf=1, num_downsampling=5)


def test_the_small_translator_lacks_the_last_tap() -> None:
    network = StyleTranslator(ngf=1, n_blocks=2, inject_noise=False)
    assert [tuple(tap.shape) for tap in network.encode(torch.zeros(1, 3, 32, 32))] == [(1, 3, 32, 32), (1, 16, 16, 16)]
    assert network.tap_channels() == [3, 16]
    assert any(name.endswith("noise.weight") for name in network.state_dict())


def test_noise_is_the_generators_or_given() -> None:
    network = StyleTranslator(ngf=1).eval()
    for module in network.modules():
        if isinstance(module, StyledConv):
            nn.init.ones_(module.noise.weight)
    x = torch.zeros(2, 3, 32, 32)
    drawn = network(x, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, network(x, [noise]))
    assert not torch.equal(drawn, network(x, generator=torch.Generator().manual_seed(4)))


def test_the_style_discriminator_takes_one_size() -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, 64, 64\)"):
        StyleDiscriminator(1)(torch.zeros(1, 3, 32, 32))
    assert nominal_resolution(60) == 64
    assert nominal_resolution(256) == 256
    for size in (0, 2, 4000):
        with pytest.raises(ValueError, match="4 to 1024 px"):
            nominal_resolution(size)
    with pytest.raises(ValueError, match="tiles of 32"):
        tiles(torch.zeros(1, 3, 32, 48), 32)


# ----------------------------------------------------------------------------------------------------------------------
# DRN


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    """The parameters of a convolution without bias and the norm behind it."""
    return inputs * outputs * kernel**2 + 2 * outputs


def basic(inputs: int, channels: int, count: int) -> int:
    return (
        convolution(inputs, channels, 3)
        + (2 * count - 1) * convolution(channels, channels, 3)
        + convolution(inputs, channels, 1)
    )


def bottleneck(inputs: int, channels: int, count: int) -> int:
    wide = 4 * channels
    first = convolution(inputs, channels, 1) + convolution(channels, channels, 3) + convolution(channels, wide, 1)
    more = convolution(wide, channels, 1) + convolution(channels, channels, 3) + convolution(channels, wide, 1)
    return first + (count - 1) * more + convolution(inputs, wide, 1)


def test_parameters_of_drn_by_layer() -> None:
    stem = [convolution(3, 16, 7), convolution(16, 16, 3), convolution(16, 32, 3)]
    widths = (32, 64, 128, 256, 512)
    d22 = [*stem, *(basic(a, b, 2) for a, b in pairwise(widths)), *[convolution(512, 512, 3)] * 2]
    inputs = (32, 256, 512, 1024)
    d105 = [
        *stem,
        *(bottleneck(a, b, n) for a, b, n in zip(inputs, widths[1:], (3, 4, 23, 3), strict=True)),
        convolution(2048, 512, 3),
        convolution(512, 512, 3),
    ]
    for config, counts in ((DRN_D_22, d22), (DRN_D_105, d105)):
        with torch.device("meta"):
            network = DRN(config)
        assert [parameters(layer) for layer in network.base] == counts
        assert parameters(network.seg) == 512 * 19 + 19
        assert parameters(network.up) == 19 * 16 * 16
    # As the networks of a thousand classes are known.
    assert sum(d22) + 513 * 1000 == 16_393_752
    assert sum(d105) + 513 * 1000 == 54_801_304


def test_drn_names_and_dilations() -> None:
    with torch.device("meta"):
        network = DRN()
    names = set(network.state_dict())
    assert {
        "base.0.0.weight",
        "base.0.1.running_mean",
        "base.2.0.weight",
        "base.3.0.conv1.weight",
        "base.3.0.downsample.0.weight",
        "base.6.1.bn2.bias",
        "base.8.1.weight",
        "seg.bias",
        "up.weight",
    } <= names
    dilations = [
        {conv.dilation[0] for conv in layer.modules() if isinstance(conv, nn.Conv2d)} for layer in network.base
    ]
    assert dilations == [{1}, {1}, {1}, {1}, {1}, {1, 2}, {1, 4}, {2}, {1}]  # shortcuts have none


def test_drn_gives_log_probabilities_at_the_pictures_size() -> None:
    network = DRN().eval()
    with torch.no_grad():
        out = network(normalise(torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))))
    assert out.shape == (1, 19, 32, 48)
    assert torch.allclose(out.exp().sum(1), torch.ones(1, 32, 48), atol=1e-5)
    with pytest.raises(ValueError, match="multiples of 8"):
        network(torch.zeros(1, 3, 30, 32))
    assert not network.up.weight.requires_grad


def test_drn_begins_with_the_published_deviations_and_a_bilinear_enlargement() -> None:
    torch.manual_seed(0)
    network = DRN()
    for conv in (network.base[0][0], network.base[6][1].conv2):  # type: ignore[index]
        expected = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] ** 2))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    f = bilinear_filter(16).view(1, 1, 16, 16)
    enlarged = torch.nn.functional.conv_transpose2d(ramp, f, stride=8, padding=4)
    usual = torch.nn.functional.interpolate(ramp, scale_factor=8, mode="bilinear")
    assert torch.allclose(enlarged[..., 8:-8, 8:-8], usual[..., 8:-8, 8:-8], atol=1e-5)
