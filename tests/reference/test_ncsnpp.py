"""NCSN++ beyond the goldens: published sizes, its variants, half precision, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gengauge.reference.nets import ncsnpp
from gengauge.reference.nets.ncsnpp import NCSNpp, NCSNppConfig, fir_downsample, fir_upsample
from gengauge.reference.nets.stylegan2 import ops

TINY = NCSNppConfig(16, 8, (1, 2, 2), 1, (8,), 50.0, num_scales=20)
VARIANTS: dict[str, Mapping[str, Any]] = {
    "as published": {},
    "plain resampling": {"fir": False},
    "blocks of DDPM": {"resblock_type": "ddpm"},
    "blocks of DDPM, plain": {"resblock_type": "ddpm", "fir": False},
    "blocks of DDPM, no convolution": {"resblock_type": "ddpm", "resamp_with_conv": False},
    "concatenated input": {"progressive_combine": "cat"},
    "residual input": {"progressive": "none", "progressive_input": "residual"},
    "residual output": {"progressive": "residual", "progressive_input": "none"},
    "residual, plain": {"progressive": "residual", "progressive_input": "residual", "fir": False},
    "neither pyramid": {"progressive": "none", "progressive_input": "none"},
    "positional": {"embedding_type": "positional"},
    "told nothing": {"conditional": False},
    "no rescaling": {"skip_rescale": False, "scale_by_sigma": False, "centered": True},
    "other kernel": {"fir_kernel": (1, 2, 1), "nonlinearity": "elu"},
    "more pixels than levels of attention": {"attn_resolutions": (), "num_channels": 2},
}


def drawn(config: NCSNppConfig) -> NCSNpp:
    """A network in evaluation whose branches all end in weights that matter."""
    torch.manual_seed(0)
    return NCSNpp(replace(config, init_scale=1.0)).eval()


def given(config: NCSNppConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of two; the second argument is a level of noise or its index."""
    x = torch.randn(2, config.num_channels, config.image_size, config.image_size)
    positional = config.embedding_type == "positional"
    return x, torch.tensor([3.0, 11.0]) if positional else torch.tensor([0.5, 20.0])


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_run_and_use_all_their_weights(name: str) -> None:
    config = replace(TINY, **VARIANTS[name])
    network = drawn(config)
    x, sigma = given(config)
    out = network(x, sigma)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert torch.isfinite(out).all()
    out.square().sum().backward()
    unused = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    if config.conditional:
        assert not unused
    else:  # published networks keep these layers, too
        assert all("Dense_0" in n for n in unused)


def test_scales_of_the_output_and_the_input() -> None:
    config = replace(TINY, scale_by_sigma=False)
    scaled, plain = drawn(TINY), drawn(config)
    x, sigma = given(TINY)
    with torch.no_grad():
        assert torch.allclose(scaled(x, sigma), plain(x, sigma) / sigma[:, None, None, None])
        centred = drawn(replace(config, centered=True))
        assert torch.allclose(centred(2 * x - 1, sigma), plain(x, sigma))
        indexed = drawn(replace(TINY, embedding_type="positional"))
        at = indexed.sigmas[[3, 11]].float()
        unscaled = drawn(replace(config, embedding_type="positional"))
        index = torch.tensor([3.0, 11.0])
        assert torch.allclose(indexed(x, index) * at[:, None, None, None], unscaled(x, index), rtol=1e-4, atol=1e-5)


def test_names_are_the_published_ones() -> None:
    def layers(**changes: Any) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for name in NCSNpp(replace(TINY, ch_mult=(1, 2), attn_resolutions=(), **changes)).state_dict():
            if name.startswith("all_modules."):
                _, index, rest = name.split(".", 2)
                found.setdefault(int(index), set()).add(rest.split(".")[0])
        return found

    block = {"GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1"}
    nin = {"GroupNorm_0", "NIN_0", "NIN_1", "NIN_2", "NIN_3"}
    affine, conv, matrix, resampling = {"weight", "bias"}, block | {"Conv_2"}, block | {"NIN_0"}, {"Conv2d_0"}
    start = [{"W"}, affine, affine, affine, block]
    published = [conv, {"Conv_0"}, conv, block, nin, block, conv, conv, affine, affine, conv, conv, conv]
    assert layers() == dict(enumerate([*start, *published, affine, affine]))
    ddpm = [resampling, resampling, matrix, block, nin, block, matrix, matrix, affine, affine, resampling, matrix]
    changes = {"resblock_type": "ddpm", "progressive": "residual", "progressive_input": "residual"}
    assert layers(**changes) == dict(enumerate([*start, *ddpm, matrix, resampling, affine, affine]))
    assert layers(resblock_type="ddpm", fir=False)[5] == {"Conv_0"}
    assert 5 not in layers(resblock_type="ddpm", resamp_with_conv=False)  # a layer without weights keeps its number


@pytest.mark.parametrize("kernel", [(1, 3, 3, 1), (1, 1), (1, 2, 4, 8, 3, 1), (1, 2, 1)])
def test_resampling_is_that_of_stylegan2(kernel: tuple[float, ...]) -> None:
    f = ops.setup_filter(kernel)
    x = torch.randn(2, 3, 8, 6)
    for given in (x, x.to(memory_format=torch.channels_last)):
        assert torch.allclose(fir_upsample(given, f), ops.upsample2d(given, f), atol=1e-6)
        assert torch.allclose(fir_downsample(given, f), ops.downsample2d(given, f), atol=1e-6)


def test_published_sizes() -> None:
    with torch.device("meta"):
        network = NCSNpp(ncsnpp.FACES_256)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 256, 256), torch.empty(1))
    assert sum(p.numel() for p in network.parameters()) == 65_574_549
    assert len(network.state_dict()) == 646
    # The published code filters at the larger size, zeros included, and drops pixels after; its products of that are
    # part of its 266.7 GMACs, and are fewer here.
    published, ours = 0, 0
    widths = [128, 128, 256, 256, 256, 256, 256]
    for level in range(6):
        large, small = 256 >> level, 128 >> level
        down, up = 2 * widths[level] + 3, 2 * widths[level + 1] + 3
        published += 16 * (down * (large - 1) ** 2 + up * large**2)
        ours += 16 * (down + up) * small**2
    macs = counter.get_total_flops() / 2
    assert round((macs - ours + published) / 1e9, 2) == 266.72


def test_half_precision_keeps_the_noise_levels() -> None:
    network = drawn(TINY)
    x, sigma = given(TINY)
    features, levels = network.all_modules[0](sigma.log()), network.sigmas
    with torch.no_grad():
        exact = network(x, sigma)
        for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
            half = copy.deepcopy(network).to(dtype)
            assert torch.equal(half.sigmas, levels)
            assert torch.equal(half.all_modules[0](sigma.log()), features)
            out = half(x.to(dtype), sigma)
            assert out.dtype == dtype
            for ours, wanted in zip(out.float(), exact, strict=True):
                assert (ours - wanted).abs().max() < tolerance * wanted.abs().max()
    wide = copy.deepcopy(network).double()
    with torch.no_grad():
        assert torch.allclose(wide(x.double(), sigma.double()).float(), exact, rtol=1e-3, atol=1e-5)


def test_the_fourier_frequencies_are_not_trained() -> None:
    network = NCSNpp(TINY)
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["all_modules.0.W"]
    assert network.sigmas.dtype == torch.float64
    assert network.sigmas[0].item() == pytest.approx(50)
    assert network.sigmas[-1].item() == pytest.approx(0.01)


def test_published_configurations_are_read() -> None:
    settings = {
        "name": "ncsnpp", "image_size": 16, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8],
        "sigma_max": 50.0, "resblock_type": "BigGAN", "normalization": "GroupNorm", "conv_size": 3, "ema_rate": 0.999,
    }  # fmt: skip
    assert NCSNppConfig.published(settings) == NCSNppConfig(16, 8, (1, 2), 1, (8,), 50.0)
    for change, problem in (
        ({"name": "ddpm"}, "name is 'ddpm'"),
        ({"resblock_type": "resnet"}, "resblock_type is 'resnet'; it can be biggan, ddpm"),
        ({"attention": 3}, "unknown settings: attention"),
        ({"image_size": 15}, "image_size: a picture of 15 px cannot be halved 1 times"),
        ({"sigma_max": 0.001}, "sigma_min 0.01 must lie between"),
        ({"nf": 2}, "nf is 2"),
    ):
        with pytest.raises(ValueError, match=problem):
            NCSNppConfig.published({**settings, **change})
    with pytest.raises(ValueError, match="settings are missing: nf, sigma_max"):
        NCSNppConfig.published({name: v for name, v in settings.items() if name not in ("nf", "sigma_max")})
