"""DDPM's U-Net as SDEdit and DDIM use it: published sizes, and the variants that SIGE does without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gengauge.reference.nets.ddpm_unet import (
    CELEBA_64,
    CHURCH_256,
    CIFAR10_32,
    Attention,
    DDPMUNet,
    Downsample,
    ResBlock,
    Upsample,
    fuse,
)
from gengauge.reference.nets.unet import UNetConfig, timestep_embedding

TINY = UNetConfig(16, 8, (1, 2), 1, (16,), temb_ch=12, out_ch=6, num_groups=4)


@pytest.mark.parametrize(
    ("config", "parameters", "tensors", "gmacs"),
    [
        (CHURCH_256, 113_673_219, 450, 248.51),
        (CELEBA_64, 78_700_803, 390, 24.05),
        (CIFAR10_32, 35_746_307, 328, 6.22),
    ],
)
def test_published_sizes(config: UNetConfig, parameters: int, tensors: int, gmacs: float) -> None:
    with torch.device("meta"):
        network = DDPMUNet(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, config.resolution, config.resolution), torch.empty(1))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors
    assert round(counter.get_total_flops() / 2e9, 2) == gmacs


def test_a_configuration_looks_as_it_did_before_resampling_was_a_choice() -> None:
    assert repr(TINY) == (
        "UNetConfig(resolution=16, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), temb_ch=12, "
        "in_channels=3, out_ch=6, dropout=0.0, num_groups=4)"
    )
    assert replace(TINY, resamp_with_conv=False) != TINY


@pytest.mark.parametrize("fused", [False, True])
def test_resampling_without_convolutions(fused: bool) -> None:
    config = replace(TINY, resamp_with_conv=False)
    network = DDPMUNet(config).eval()
    names = network.state_dict()
    assert not any("sample" in name for name in names)
    assert "down.0.attn.0.q.weight" in names
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.0, 7.0])
    with torch.no_grad():
        out = network(x, t)
        if fused:
            other = DDPMUNet(config, fused=True).eval()
            other.load_state_dict(fuse(names, config))
            assert torch.allclose(other(x, t), out, atol=1e-5)
    assert out.shape == (2, 6, 16, 16)


def test_parts_take_maps_of_any_shape() -> None:
    x, temb = torch.randn(2, 8, 6, 10), torch.randn(2, 12)
    with torch.no_grad():
        for conv in (False, True):
            assert Downsample(8, conv)(x).shape == (2, 8, 3, 5)
            assert Upsample(8, conv)(x).shape == (2, 8, 12, 20)
            assert ResBlock(8, 16, 12, 0.0, 4, conv_shortcut=conv)(x, temb).shape == (2, 16, 6, 10)
        assert torch.equal(Downsample(8, False)(x)[0, 0, 0, 0], x[0, 0, :2, :2].mean())
        assert torch.equal(Upsample(8, False)(x)[..., ::2, 1::2], x)
        assert Attention(8, False, 4)(x).shape == x.shape
    same, changing = ResBlock(8, 8, 12, 0.0, 4, True), ResBlock(8, 16, 12, 0.0, 4, True)
    assert not any("shortcut" in name for name in same.state_dict())
    assert changing.state_dict()["conv_shortcut.weight"].shape == (16, 8, 3, 3)


def test_embeddings_of_odd_length_end_in_a_column_of_zeros() -> None:
    t = torch.tensor([0.0, 5.0, 999.0])
    odd = timestep_embedding(t, 9)
    assert torch.equal(odd[:, :8], timestep_embedding(t, 8))
    assert not odd[:, 8].any()
    with pytest.raises(ValueError, match="3 columns"):
        timestep_embedding(t, 3)
