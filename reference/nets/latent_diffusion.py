"""Stable Diffusion's U-Net and autoencoder, as diffusers' modules, and their published names.

The networks are those of Rombach et al. 2022 in version 1 of Stable Diffusion. Published files name their tensors in
one of two ways: as the latent diffusion code does (`model.diffusion_model.*`, `first_stage_model.*`), all networks in
one file, or as diffusers does, a folder a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
# What diffusers called the linear layers of an autoencoder's attention before its release 0.13.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(_OLD_ATTENTION)})(\.(?:weight|bias))$")


def stable_diffusion_unet() -> nn.Module:
    """The U-Net of version 1: latents (N, 4, H, W), times (N,) and text (N, 77, 768) to noise like the latents."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def stable_diffusion_xl_unet() -> nn.Module:
    """The U-Net of XL: as version 1, with text (N, L, 2048), and pooled text and sizes as `added_cond_kwargs`."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )


def stable_diffusion_autoencoder() -> nn.Module:
    """The autoencoder of version 1: pictures (N, 3, 8 H, 8 W) in [-1, 1] to latents (N, 4, H, W) and back."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )


def latent_diffusion_state(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network of diffusers, a U-Net or an autoencoder, in a latent diffusion file's tensors.

    The tensors may stand under `state_dict`; those of other networks and averaged weights are left alone. Raises
    ValueError naming what is missing, is not of this network or has another shape.
    """
    from diffusers import AutoencoderKL
    from diffusers.loaders import single_file_utils

    prefix, convert = (
        (AUTOENCODER, single_file_utils.convert_ldm_vae_checkpoint)
        if isinstance(network, AutoencoderKL)
        else (UNET, single_file_utils.convert_ldm_unet_checkpoint)
    )
    bare = {name.removeprefix("state_dict."): tensor for name, tensor in tensors.items()}
    mine = {name: tensor for name, tensor in bare.items() if name.startswith(prefix)}
    if not mine:
        first = ", ".join(sorted(bare)[:3]) or "none"
        raise ValueError(f"this is no file of latent diffusion: it has no tensor {prefix}* (it has {first}, ...)")
    try:
        state = convert(mine, network.config)
    except (KeyError, IndexError, AttributeError) as error:  # one that belongs to another is missing
        raise ValueError(f"the tensors of {prefix}* cannot be named anew: {error} is missing or misshapen") from None
    return checked_state({name: tensor for name, tensor in state.items() if tensor is not None}, network)


def diffusers_state(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network in the tensors of a diffusers file, those of before release 0.13 included.

    Raises ValueError as `latent_diffusion_state` does.
    """
    own = network.state_dict()
    state = {}
    for old, tensor in tensors.items():
        name = old if old in own else _OLD_NAME.sub(lambda m: m[1] + _OLD_ATTENTION[m[2]] + m[3], old)
        # Linear layers were 1x1 convolutions in some.
        pointwise = name in own and tensor.shape == (*own[name].shape, 1, 1)
        state[name] = tensor[..., 0, 0] if pointwise else tensor
    return checked_state(state, network)


def checked_state(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state with the network's names in its order. Raises ValueError naming what does not fit."""
    own = network.state_dict()
    wrong = {
        "missing": [name for name in own if name not in state],
        "not of this network": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, not {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ],
        "not of real numbers": [name for name in own if name in state and not state[name].is_floating_point()],
    }
    told = "; ".join(f"{what}: {_first(names)}" for what, names in wrong.items() if names)
    if told:
        raise ValueError(f"these are no weights of {type(network).__name__} as configured: {told}")
    return {name: state[name] for name in own}


def with_memory(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A network of the meta device on the CPU in float32 with these weights, for evaluation."""
    network = network.to_empty(device="cpu")
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()})
    return network.eval().requires_grad_(False)


def _first(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
