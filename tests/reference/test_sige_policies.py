"""Policies for Stable Diffusion and beyond the published ones: what is on tiles, and that results stay the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import masks, policy
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.policy import Policy

diffusers = pytest.importorskip("diffusers")

SIZE = (64, 64)  # of the pictures


pytestmark = pytest.mark.usefixtures("one_thread")


def autoencoder() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 24, 24),
        norm_num_groups=4,
    )
    return made.eval()


def half(name: str) -> tuple[nn.Module, Tensor]:
    """The encoder or decoder with a picture or latent for it."""
    network = autoencoder()
    x = torch.randn(1, 3, *SIZE) if name == "encoder" else torch.randn(1, 4, SIZE[0] // 8, SIZE[1] // 8)
    return getattr(network, name), x


def edit_of(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x + torch.randn_like(x), x)


def sparse(
    network: nn.Module, chosen: Policy, x: Tensor, edited: Tensor, levels: dict[tuple[int, int], Tensor]
) -> Tensor:
    engine = Engine(network, chosen)
    engine.full(x)
    engine.set_masks(levels)
    return engine.sparse(edited)


def kept(chosen: Policy) -> Policy:
    """The policy with every norm's statistics kept."""
    return replace(chosen, fresh_norms=lambda name: False)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_halves_of_the_autoencoder_on_tiles(name: str) -> None:
    network, x = half(name)
    chosen = policy.stable_diffusion_autoencoder()
    engine = Engine(network, chosen)
    assert torch.allclose(engine.full(x), network(x), atol=1e-4)
    on_tiles = {step.name for step in engine.program.steps if engine.tiling(step) is not None}
    assert {step.name for step in engine.program.steps} - on_tiles == {"conv_in", "conv_out"}
    assert engine.prepared.tokens.sizes() == {(8, 8): 4}
    levels = masks.STABLE_DIFFUSION_IMG2IMG.from_mask(masks.centred_square(0.05, *SIZE)).levels
    engine.set_masks(levels)
    assert torch.allclose(engine.sparse(x), network(x), atol=1e-4)  # of the original, the original's


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_tiles_everywhere_are_the_network_with_kept_statistics(name: str) -> None:
    network, x = half(name)
    edited = torch.randn_like(x)
    levels = masks.STABLE_DIFFUSION_IMG2IMG.from_mask(torch.ones(SIZE, dtype=torch.bool)).levels
    tiles = sparse(network, kept(policy.stable_diffusion_autoencoder()), x, edited, levels)
    dense = sparse(network, kept(policy.everywhere()), x, edited, levels)
    assert (dense - network(edited)).abs().max() > 1e-2
    assert torch.allclose(tiles, dense, atol=1e-4)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_keys_that_are_kept_change_no_result(name: str) -> None:
    network, x = half(name)
    mask = masks.centred_square(0.05, *SIZE)
    levels = masks.STABLE_DIFFUSION_IMG2IMG.from_mask(mask).levels
    edited = edit_of(x, levels[x.shape[2], x.shape[3]])
    chosen = policy.stable_diffusion_autoencoder()
    engine = Engine(network, chosen)
    engine.full(x)
    engine.set_masks(levels)
    first = engine.sparse(edited, update=True)
    assert torch.allclose(first, sparse(network, replace(chosen, keeps_keys=False), x, edited, levels), atol=1e-5)
    assert torch.allclose(engine.sparse(edited), first, atol=1e-5)  # now kept
    assert not torch.allclose(first, network(x), atol=1e-2)


def test_the_middle_of_stable_diffusion_sees_the_edit() -> None:
    chosen = policy.stable_diffusion()
    assert chosen.norm_is_fresh("mid_block.resnets.1.norm2")
    assert chosen.norm_is_fresh("conv_norm_out")
    assert not chosen.norm_is_fresh("mid_block.attentions.0.norm")
    assert not chosen.norm_is_fresh("down_blocks.0.resnets.0.norm1")


def test_beyond_the_published_policies_everything_is_on_tiles() -> None:
    torch.manual_seed(0)
    network = DDPMUNet(UNetConfig(32, 32, (1, 2, 2), 1, (16,), temb_ch=64), fused=True).eval()
    x, time = torch.randn(1, 3, 32, 32), torch.zeros(1)
    levels = masks.downsample(masks.centred_square(0.02, 32, 32), (8, 8), 1)
    counts = {}
    for chosen in (policy.ddpm(32), policy.beyond_published(), policy.beyond_published(16)):
        engine = Engine(network, chosen)
        engine.full(x, time)
        engine.set_masks(levels)
        assert torch.allclose(engine.sparse(x), network(x, time), atol=1e-4)
        counts[chosen.name] = engine.macs().total()
        dense = {step.name for step in engine.program.steps if engine.tiling(step) is None}
        if chosen.name == policy.beyond_published().name:
            assert not dense
        else:
            assert dense
        assert chosen.norm_is_fresh("norm_out") == chosen.name.startswith("ddpm")
    published = counts.pop("ddpm from 32 px")
    assert len(counts) == 2
    assert max(counts.values()) < published
