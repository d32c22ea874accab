"""The tiny models of Custom Diffusion's goldens: settings from tensors where these tell, else from settings.json."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from goldens import HERE, files, load, settings, under
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from gengauge.reference.custom_diffusion.models import Models
from gengauge.reference.custom_diffusion.tokens import renamed_for
from gengauge.reference.nets.latent_diffusion import UNET, latent_diffusion_state

PAPER = "custom_diffusion"


def told(path: Path) -> dict[str, Any]:
    """What the MANIFEST says of a file in prose only: the set's own `settings.json` over the committed one."""
    committed = json.loads((HERE / PAPER / "settings.json").read_text())
    return {**committed.get(path.stem, {}), **settings(path)}


@lru_cache
def model_file(path: Path) -> Path:
    """The file of the model that a golden was made with: the one that its settings name, or whose shapes it has.

    A golden that holds a model is its own.
    """
    golden, _ = load(path)
    if "unet.conv_in.weight" in golden:
        return path
    if name := told(path).get("model"):
        return path.parent / f"{name}.safetensors"
    marked = re.compile(r"(?:^|\.)(?:unet|W0)\.(?=.*attn2)")
    shapes = {marked.split(key)[-1]: value.shape for key, value in golden.items() if marked.search(key)}
    fitting = []
    for file in files(PAPER, "model_"):
        state = under(load(file)[0], "unet.")
        if shapes and all(name in state and state[name].shape == shape for name, shape in shapes.items()):
            fitting.append(file)
    assert len(fitting) == 1, f"{path.name} fits {len(fitting)} models; name one in settings.json"
    return fitting[0]


def models_of(path: Path) -> Models:
    """The networks of a file `model_*`, on the CPU, with the schedule in diffusers' own rounding."""
    tensors, config = load(path)[0], told(path)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return Models(
        unet_of(under(tensors, "unet."), config),
        text_encoder_of(under(tensors, "text_encoder."), config),
        vae_of(under(tensors, "vae."), config),
        scheduler.alphas_cumprod,
    )


def unet_of(state: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    """A U-Net of diffusers from its tensors; heads and groups of norms are told."""
    levels = _count(state, r"down_blocks\.(\d+)\.")
    network = UNet2DConditionModel(
        sample_size=16,
        in_channels=state["conv_in.weight"].shape[1],
        out_channels=state["conv_out.weight"].shape[0],
        block_out_channels=tuple(state[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)),
        layers_per_block=_count(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        down_block_types=tuple(_cross(state, f"down_blocks.{i}", "DownBlock2D") for i in range(levels)),
        up_block_types=tuple(_cross(state, f"up_blocks.{i}", "UpBlock2D") for i in range(levels)),
        cross_attention_dim=_context(state),
        use_linear_projection=state["mid_block.attentions.0.proj_in.weight"].ndim == 2,
        attention_head_dim=config["unet_heads"],
        norm_num_groups=config.get("unet_groups", 8),
    )
    network.load_state_dict(state)
    return network


def vae_of(state: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    """An autoencoder from the tensors of its encoder; the decoder is random where it is not there."""
    levels = _count(state, r"encoder\.down_blocks\.(\d+)\.")
    sides = range(levels)
    network = AutoencoderKL(
        block_out_channels=tuple(state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in sides),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=_count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        latent_channels=state["quant_conv.weight"].shape[0] // 2,
        norm_num_groups=config.get("vae_groups", 4),
    )
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in missing)
    return network


def text_encoder_of(state: dict[str, Tensor], config: dict[str, Any]) -> nn.Module:
    """A CLIP text encoder from its tensors, whatever level their names have."""
    bare = {name.removeprefix("text_model."): value for name, value in state.items()}
    vocabulary, hidden = bare["embeddings.token_embedding.weight"].shape
    network = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=bare["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_count(bare, r"encoder\.layers\.(\d+)\."),
            num_attention_heads=config.get("text_heads", hidden // 8),
            max_position_embeddings=bare["embeddings.position_embedding.weight"].shape[0],
            hidden_act="quick_gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    network.load_state_dict(renamed_for(network, state))
    return network.eval()


def compvis_unet(tensors: dict[str, Tensor], heads: int) -> nn.Module:
    """A U-Net of the latent diffusion code, its tensors under `model.diffusion_model.`, as that of diffusers."""
    state = under(tensors, UNET)
    levels: list[list[int]] = [[]]
    for block in range(1, _count(state, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{block}.0.op.weight" in state:
            levels.append([])
        else:
            levels[-1].append(block)
    attends = [f"input_blocks.{level[0]}.1.proj_in.weight" in state for level in levels]
    network = UNet2DConditionModel(
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=state["out.2.weight"].shape[0],
        block_out_channels=tuple(state[f"input_blocks.{level[0]}.0.in_layers.2.weight"].shape[0] for level in levels),
        layers_per_block=len(levels[0]),
        down_block_types=tuple("CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)),
        cross_attention_dim=_context(state),
        attention_head_dim=heads,
        norm_num_groups=32,
    )
    network.load_state_dict(latent_diffusion_state(tensors, network))
    return network.eval()


def diffusers_names(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, str]:
    """What diffusers calls each weight of the latent diffusion code's U-Net, by its name there without the prefix."""
    names = list(under(tensors, UNET))
    marked = {UNET + name: torch.full_like(tensors[UNET + name], index) for index, name in enumerate(names)}
    return {names[int(value.max())]: name for name, value in latent_diffusion_state(marked, network).items()}


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """One more than the largest number that a pattern finds in the names."""
    return 1 + max(int(match[1]) for name in state if (match := re.match(pattern, name)))


def _cross(state: dict[str, Tensor], block: str, kind: str) -> str:
    return f"CrossAttn{kind}" if any(name.startswith(f"{block}.attentions.") for name in state) else kind


def _context(state: dict[str, Tensor]) -> int:
    return next(value.shape[1] for name, value in state.items() if name.endswith("attn2.to_k.weight"))
