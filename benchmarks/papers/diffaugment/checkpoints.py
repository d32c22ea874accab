"""Generators from files: the published `.pth` and `.pkl` layouts, and this project's own training states."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gengauge.benchmarks.papers.diffaugment.rows import Run
from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.network_pickles import StoredNetwork, read_networks
from gengauge.reference.diffaugment import biggan
from gengauge.reference.nets import biggan as biggan_nets
from gengauge.reference.nets.stylegan2 import tensorflow
from gengauge.reference.nets.stylegan2.generator import Generator as StyleGAN2


def read_generator(path: Path, run: Run) -> nn.Module:
    """The averaged generator in a file, for a row's protocol.

    `.pkl`: NVIDIA's network pickles, TensorFlow or PyTorch (`G_ema`). Otherwise tensors: a BigGAN state dict as the
    CIFAR code publishes it, or a `state.safetensors` of this project's training, whose best snapshot is taken as the
    tables do. Nothing in the file is executed.
    Raises FileNotFoundError, UnsafeCheckpoint, DamagedCheckpoint, or ValueError for a network that is not the row's.
    """
    network = _pickled(path) if path.suffix == ".pkl" else _state(path, run)
    _check_of_row(network, path, run)
    return network.requires_grad_(False)


def _check_of_row(network: nn.Module, path: Path, run: Run) -> None:
    """Refuses what the row's protocol cannot mean: another family, picture size, number of classes or latent."""
    with torch.device("meta"):
        own = run.recipe.networks()[0]
    if type(network) is not type(own):
        raise ValueError(f"{path} holds a {_family(network)}; this row is of a {_family(own)}")
    for name, what in (
        ("resolution", "px"),
        ("img_resolution", "px"),
        ("num_classes", "classes"),
        ("c_dim", "classes"),
        ("dim_z", "latent dimensions"),
    ):
        found, asked = getattr(network, name, None), getattr(own, name, None)
        if found != asked:
            raise ValueError(f"{path} holds a network of {found} {what}; this row's has {asked}")


def _family(network: nn.Module) -> str:
    return "StyleGAN2" if isinstance(network, StyleGAN2) else "BigGAN"


def _pickled(path: Path) -> nn.Module:
    networks = read_networks(path)
    if "G_ema" not in networks:
        raise ValueError(f"{path} holds {', '.join(networks)} but no averaged generator, G_ema")
    stored = networks["G_ema"]
    return _from_tensorflow(stored, path) if stored.kind == "tensorflow" else _from_pytorch(stored, path)


def _from_tensorflow(stored: StoredNetwork, path: Path) -> nn.Module:
    network = StyleGAN2(**tensorflow.generator_arguments(stored.arguments, stored.tensors))
    _load(network, tensorflow.generator_state(stored.tensors), path)
    return network


def _from_pytorch(stored: StoredNetwork, path: Path) -> nn.Module:
    try:
        network = StyleGAN2(**stored.arguments)
    except TypeError as error:
        raise ValueError(f"{path} holds a {stored.class_name} that is no StyleGAN2 ({error})") from None
    _load(network, stored.tensors, path)
    return network


def _state(path: Path, run: Run) -> nn.Module:
    tensors = read_tensors(path)
    own = _under(tensors, "best.") or _under(tensors, "G_ema.")
    if own or not isinstance(run.recipe, biggan.Recipe):
        network = run.recipe.networks()[0]
    else:
        network = biggan_nets.Generator(**biggan_nets.settings_of(tensors))  # type: ignore[arg-type]
    _load(network, own or tensors, path)
    return network


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Strictly, but for the constant filters, which TensorFlow's variables do not have."""
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} holds a network of other shapes: {str(error).splitlines()[1].strip()}") from None
    missing = [name for name in missing if not name.endswith("resample_filter")]
    if missing or unexpected:
        raise ValueError(
            f"{path} is of another network: {len(missing)} tensors are missing (first: {missing[:1]}), "
            f"{len(unexpected)} unknown (first: {unexpected[:1]})"
        )
