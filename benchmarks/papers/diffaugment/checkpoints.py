"""Generators from files: the published `.pth` and `.pkl` layouts, and this project's own training states."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gengauge.benchmarks.generators import load_strictly, read_pickled
from gengauge.benchmarks.papers.diffaugment.rows import Run
from gengauge.datasets.checkpoints import read_tensors
from gengauge.reference.diffaugment import biggan
from gengauge.reference.nets import biggan as biggan_nets
from gengauge.reference.nets.stylegan2.generator import Generator as StyleGAN2
from gengauge.reference.nets.stylegan3.generator import Generator as StyleGAN3


def read_generator(path: Path, run: Run) -> nn.Module:
    """The averaged generator in a file, for a row's protocol.

    `.pkl`: NVIDIA's network pickles, TensorFlow or PyTorch (`G_ema`). Otherwise tensors: a BigGAN state dict as the
    CIFAR code publishes it, or a `state.safetensors` of this project's training, whose best snapshot is taken as the
    tables do. Nothing in the file is executed.
    Raises FileNotFoundError, UnsafeCheckpoint, DamagedCheckpoint, or ValueError for a network that is not the row's.
    """
    network = read_pickled(path) if path.suffix == ".pkl" else _state(path, run)
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
    return {StyleGAN2: "StyleGAN2", StyleGAN3: "StyleGAN3"}.get(type(network), "BigGAN")


def _state(path: Path, run: Run) -> nn.Module:
    tensors = read_tensors(path)
    own = _under(tensors, "best.") or _under(tensors, "G_ema.")
    if own or not isinstance(run.recipe, biggan.Recipe):
        network = run.recipe.networks()[0]
    else:
        network = biggan_nets.Generator(**biggan_nets.settings_of(tensors))  # type: ignore[arg-type]
    load_strictly(network, own or tensors, path)
    return network


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
