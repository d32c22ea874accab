"""The published priors of SDEdit from any of their files, and files from a network: DDPM's U-Net and NCSN++."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gengauge.datasets import weights
from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.diffusers_folder import is_network_folder, read_network_folder, write_network_folder
from gengauge.datasets.saving import write_checkpoint
from gengauge.reference.nets import ddpm_unet, diffusers_unet, ncsnpp
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.ncsnpp import NCSNpp, NCSNppConfig
from gengauge.reference.nets.published import (
    checkpoint_of_ddim,
    checkpoint_of_score_network,
    published_state,
    trained_parameters,
)
from gengauge.reference.nets.unet import UNetConfig

Network = DDPMUNet | NCSNpp
Config = UNetConfig | NCSNppConfig
Layout = Literal["bare", "model and ema", "ddim", "score", "diffusers"]

# The networks that a file is compared with where no configuration is given. Files of NCSN++ hold their noise levels, by
# which those of one size differ.
DDPM = {
    "LSUN and CelebA-HQ, 256 px": ddpm_unet.CHURCH_256,
    "CelebA, 64 px": ddpm_unet.CELEBA_64,
    "CIFAR-10, 32 px": ddpm_unet.CIFAR10_32,
}
SCORE = {"NCSN++, 256 px": ncsnpp.FACES_256, "NCSN++, 1024 px": ncsnpp.FFHQ_1024}

# What stands in the files of the catalogue.
PUBLISHED: Mapping[str, Config] = {
    **dict.fromkeys(("sdedit-bedroom", "sdedit-church", "sdedit-celebahq"), ddpm_unet.CHURCH_256),
    **dict.fromkeys(("ddim-bedroom", "ddim-church", "ddim-cat"), ddpm_unet.CHURCH_256),
    "ddim-cifar10": ddpm_unet.CIFAR10_32,
    **{f"ddpm-ema-{what}-256": ddpm_unet.CHURCH_256 for what in ("bedroom", "church", "celebahq")},
    "ncsnpp-bedroom": ncsnpp.BEDROOM_256,
    "ncsnpp-church": ncsnpp.CHURCH_256,
    "ncsnpp-ffhq-256": ncsnpp.FACES_256,
    "ncsnpp-celebahq-256": ncsnpp.FACES_256,
    "ncsnpp-ffhq-1024": ncsnpp.FFHQ_1024,
}


def load_published(key: str, ema: bool | None = None) -> Network:
    """A network of the catalogue, in float32 and evaluation mode; `ema` as in `load_network`.

    Raises KeyError for another key, WeightsNotFound, and ValueError for a file of another network.
    """
    return network_of(weights.load(key), PUBLISHED[key], ema, key)


def load_network(path: Path, config: Config | None = None, ema: bool | None = None) -> Network:
    """A prior from a file or from a folder of diffusers, in float32 and evaluation mode.

    A file is one of those that `published_state` lists, or diffusers' tensors. Without `config` it must be one of the
    published networks; a folder tells its own. Averaged weights are used where the file holds them; `ema` True insists
    on them and False takes the others.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint for a bad file, and ValueError naming what is not of
    the network, or the setting of `config.json` that makes another.
    """
    if not path.is_dir():
        return network_of(read_tensors(path), config, ema, str(path))
    if not is_network_folder(path):
        raise FileNotFoundError(f"{path} is a folder without config.json; name a file in it")
    settings, tensors = read_network_folder(path)
    try:
        told = diffusers_unet.unet_config(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return network_of(tensors, config or told, ema, str(path))


def network_of(tensors: Mapping[str, Tensor], config: Config | None, ema: bool | None, source: str) -> Network:
    """The network with a file's tensors by dotted name. Raises ValueError naming the `source`."""
    if config is not None:
        return _named(source, lambda: _filled(tensors, config, ema))
    known: Mapping[str, Config] = SCORE if any("all_modules." in name for name in tensors) else DDPM
    problems = []
    for what, candidate in known.items():
        try:
            return _filled(tensors, _as_told(tensors, candidate), ema)
        except ValueError as error:
            problems.append(f"{what}: {error}")
    raise ValueError(f"{source} is of no published network; give its configuration. " + "; ".join(problems))


def save_network(
    network: Network,
    path: Path,
    layout: Layout = "bare",
    averaged: Mapping[str, Tensor] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    epoch: int = 0,
    step: int = 0,
    decay: float = 0.999,
) -> None:
    """Writes a network in a published layout, which `load_network` and the published code read.

    "bare" is SDEdit's state dict, "model and ema" SIGE's, "ddim" and "score" those of the trainers, with `optimizer`
    its state dict, and "diffusers" a folder that `UNet2DModel.from_pretrained` opens. `averaged` are the weights after
    averaging by name; layouts that hold only one set take them instead of the network's.

    Raises ValueError for averaged weights that are not complete, for "score" of another network and for "diffusers" of
    one that UNet2DModel cannot express.
    """
    if isinstance(network, NCSNpp):
        network = _trainable(network)
    if layout not in get_args(Layout):
        raise ValueError(f"there is no layout {layout!r}; there are {', '.join(get_args(Layout))}")
    state = _plain(network)
    one = {**state, **averaged} if averaged is not None else state
    missing = [name for name in _trained(network, state) if averaged is not None and name not in averaged]
    if missing or one.keys() != state.keys():
        raise ValueError(f"the averaged weights are not those of the network: {(missing or ['others'])[0]}")
    if layout == "bare":
        write_checkpoint(path, one)
    elif layout == "model and ema":
        write_checkpoint(path, {"model": state, "ema": one})
    elif layout == "ddim":
        write_checkpoint(path, checkpoint_of_ddim(state, averaged, optimizer, epoch, step))
    elif layout == "score":
        if not isinstance(network, NCSNpp):
            raise ValueError(f"the layout 'score' is of NCSN++, not of {type(network).__name__}")
        write_checkpoint(path, checkpoint_of_score_network(network, one, decay, optimizer, step))
    else:
        if not isinstance(network, DDPMUNet):
            raise ValueError(f"the layout 'diffusers' is of DDPM's U-Net, not of {type(network).__name__}")
        settings = diffusers_unet.diffusers_config(network.config)
        write_network_folder(path, settings, diffusers_unet.to_diffusers(one, network.config))


def _plain(network: Network) -> dict[str, Tensor]:
    state = network.state_dict()
    fused = isinstance(network, DDPMUNet) and network.fused
    return ddpm_unet.unfuse(state, network.config) if fused else state  # type: ignore[arg-type]


def _trainable(network: NCSNpp) -> NCSNpp:
    """The same network, frozen only where it always is: a loaded one no longer tells which weights are averaged."""
    fresh = NCSNpp(network.config)
    fresh.load_state_dict(network.state_dict())
    return fresh


def _trained(network: Network, state: Mapping[str, Tensor]) -> list[str]:
    return list(trained_parameters(network)) if isinstance(network, NCSNpp) else list(state)


def _as_told(tensors: Mapping[str, Tensor], config: Config) -> Config:
    """With the noise levels that a file of NCSN++ holds."""
    sigmas = next((value for name, value in tensors.items() if name.split(".")[-1] == "sigmas"), None)
    if not isinstance(config, NCSNppConfig) or sigmas is None or sigmas.ndim != 1 or len(sigmas) < 2:
        return config
    return replace(config, sigma_max=float(sigmas[0]), sigma_min=float(sigmas[-1]), num_scales=len(sigmas))


def _filled(tensors: Mapping[str, Tensor], config: Config, ema: bool | None) -> Network:
    """The network with its weights. Raises ValueError naming what does not fit; nothing large is made before."""
    make: Callable[[], Network]
    make = (lambda: NCSNpp(config)) if isinstance(config, NCSNppConfig) else (lambda: DDPMUNet(config))
    with torch.device("meta"):
        empty = make()
    if diffusers_unet.MARK in tensors:
        if not isinstance(config, UNetConfig):
            raise ValueError("these are tensors of diffusers' UNet2DModel, and the configuration is of NCSN++")
        if ema:
            raise ValueError("the checkpoint has one set of weights, and nothing says whether they are averaged")
        state = diffusers_unet.from_diffusers(tensors, config)
    else:
        state = published_state(tensors, empty, ema)
    for name, value in empty.state_dict().items():
        if state[name].layout != torch.strided or state[name].is_meta or not state[name].is_floating_point():
            raise ValueError(f"{name} is no plain tensor of floats")
        if not state[name].isfinite().all():
            raise ValueError(f"{name} has values that are not finite: the training diverged, or the file is damaged")
        if state[name].shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, the network needs {tuple(value.shape)}")
    if isinstance(config, NCSNppConfig):
        largest = float(state["sigmas"][0])
        if abs(largest - config.sigma_max) > 1e-4 * config.sigma_max:
            raise ValueError(f"the file's noise levels start at {largest:g}, sigma_max is {config.sigma_max:g}")
    network = make()
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _named(source: str, load: Callable[[], Network]) -> Network:
    try:
        return load()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
