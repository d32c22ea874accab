"""Stable Diffusion's U-Net and autoencoder with published weights: from one file, or from a folder of diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gengauge.datasets import weights
from gengauge.datasets.checkpoints import read_tensors
from gengauge.reference.nets.latent_diffusion import (
    diffusers_state,
    latent_diffusion_state,
    stable_diffusion_autoencoder,
    stable_diffusion_unet,
    with_memory,
)

KEY = "sd-v1-4"
NETWORKS: dict[str, Callable[[], nn.Module]] = {"unet": stable_diffusion_unet, "vae": stable_diffusion_autoencoder}
FILES = tuple(f"diffusion_pytorch_model{kind}" for kind in (".safetensors", ".bin", ".fp16.safetensors"))


@dataclass(frozen=True)
class StableDiffusion:
    """The two networks of version 1 that pictures go through: diffusers' UNet2DConditionModel and AutoencoderKL."""

    unet: nn.Module
    vae: nn.Module


def load_stable_diffusion(path: Path | None = None) -> StableDiffusion:
    """Stable Diffusion v1 in float32, in evaluation mode.

    `path` is a file of the latent diffusion code (`sd-v1-4.ckpt`, or the same as safetensors) or a local folder of
    diffusers with `unet` and `vae`; by default the file of the weights `sd-v1-4`. Nothing is downloaded.

    Raises FileNotFoundError (WeightsNotFound without a path), DamagedCheckpoint or UnsafeCheckpoint for a bad file, and
    ValueError, naming file and tensors, for one of another network.
    """
    if path is not None and path.is_dir():
        return StableDiffusion(*(load_folder(path / name) for name in NETWORKS))
    tensors = weights.load(KEY) if path is None else read_tensors(path)
    return StableDiffusion(*(load_tensors(tensors, make, str(path or KEY)) for make in NETWORKS.values()))


def load_tensors(tensors: dict[str, Tensor], make: Callable[[], nn.Module], source: str) -> nn.Module:
    """A network with its part of a latent diffusion file. Raises ValueError naming the `source`."""
    with torch.device("meta"):
        network = make()
    try:
        return with_memory(network, latent_diffusion_state(tensors, network))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def load_folder(folder: Path) -> nn.Module:
    """A network of a diffusers folder: its `config.json` tells which, a file beside it has the tensors.

    Raises FileNotFoundError where one of the two is not there, DamagedCheckpoint or UnsafeCheckpoint for bad tensors,
    and ValueError for a configuration that is no U-Net's or autoencoder's, and for tensors of another.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    config = folder / "config.json"
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not config.is_file() or not found:
        raise FileNotFoundError(f"{folder} needs config.json and one of {', '.join(FILES)}")
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
        kind = told["_class_name"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{config} is no configuration of diffusers: {error!r}") from None
    kinds = {"UNet2DConditionModel": UNet2DConditionModel, "AutoencoderKL": AutoencoderKL}
    if kind not in kinds:
        raise ValueError(f"{config} is of a {kind}, not of {' or '.join(kinds)}")
    try:
        with torch.device("meta"):
            network: nn.Module = kinds[kind].from_config(told)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{config} cannot be built: {error}") from None
    tensors = read_tensors(found[0])
    try:
        return with_memory(network, diffusers_state(tensors, network))
    except ValueError as error:
        raise ValueError(f"{found[0]}: {error}") from None
