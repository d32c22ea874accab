"""Small networks of latent diffusion, and their tensors as the latent diffusion code names them in its files."""

from __future__ import annotations

import re

import pytest
from torch import Tensor, nn

from gengauge.reference.nets.latent_diffusion import AUTOENCODER, UNET

diffusers = pytest.importorskip("diffusers")

State = dict[str, Tensor]
RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def small_unet() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96, 96),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def small_autoencoder() -> nn.Module:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 24, 24),
        layers_per_block=2,
        norm_num_groups=4,
    )


def unet_name(name: str, network: nn.Module) -> str:
    """The latent diffusion code's name of a tensor of a U-Net: every block of a level is numbered on."""
    layers = network.config.layers_per_block
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return UNET + theirs + name.removeprefix(ours)
    side, rest = re.match(r"(down_blocks|up_blocks|mid_block)\.(.*)", name).groups()  # type: ignore[union-attr]
    level, kind, number, rest = re.match(r"(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)", rest).groups()  # type: ignore[union-attr]
    if kind == "resnets":
        part, _, leaf = rest.partition(".")
        rest = f"{RES_BLOCK[part]}.{leaf}"
    if side == "mid_block":
        return f"{UNET}middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{rest}"
    first = int(level) * (layers + 1)
    if kind == "downsamplers":
        return f"{UNET}input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        attends = hasattr(network.up_blocks[int(level)], "attentions")
        return f"{UNET}output_blocks.{first + layers}.{1 + attends}.{rest}"
    block = (
        f"input_blocks.{1 + first + int(number)}" if side == "down_blocks" else f"output_blocks.{first + int(number)}"
    )
    return f"{UNET}{block}.{0 if kind == 'resnets' else 1}.{rest}"


def autoencoder_name(name: str, network: nn.Module) -> str:
    """The published name of a tensor of an autoencoder; the decoder's levels are numbered from the end."""
    last = len(network.config.block_out_channels) - 1
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{last - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("resnets", "block").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    for ours, theirs in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return AUTOENCODER + name


def published(network: nn.Module) -> State:
    """A network's tensors as the latent diffusion code would write them."""
    named = autoencoder_name if isinstance(network, diffusers.AutoencoderKL) else unet_name
    state = {named(name, network): tensor for name, tensor in network.state_dict().items()}
    return {n: t[..., None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", n) else t for n, t in state.items()}
