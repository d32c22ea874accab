"""Generators from the network files of NVIDIA's code bases and their descendants: StyleGAN2 and StyleGAN3."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from gengauge.datasets.network_pickles import StoredNetwork, read_networks
from gengauge.reference.nets.stylegan2 import generator as stylegan2
from gengauge.reference.nets.stylegan2 import tensorflow
from gengauge.reference.nets.stylegan3 import generator as stylegan3

Generator = stylegan2.Generator | stylegan3.Generator
# Constants that a network computes itself, and that older files lack.
_CONSTANT = ("resample_filter", "up_filter", "down_filter")


def read_pickled(path: Path) -> Generator:
    """The averaged generator (`G_ema`) of a `.pkl`, of the TensorFlow or the PyTorch code, frozen, in eval mode.

    Nothing in the file is executed. Raises FileNotFoundError, UnsafeCheckpoint, DamagedCheckpoint, or ValueError for a
    file without such a generator and for one of another network.
    """
    networks = read_networks(path)
    if "G_ema" not in networks:
        raise ValueError(f"{path} holds {', '.join(networks)} but no averaged generator, G_ema")
    stored = networks["G_ema"]
    network, state = _from_tensorflow(stored) if stored.kind == "tensorflow" else _from_pytorch(stored, path)
    load_strictly(network, state, path)
    return network.eval().requires_grad_(False)


def load_strictly(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fills a network from a file's tensors. Raises ValueError where any but a constant filter is missing."""
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} holds a network of other shapes: {str(error).splitlines()[1].strip()}") from None
    missing = [name for name in missing if not name.endswith(_CONSTANT)]
    if missing or unexpected:
        raise ValueError(
            f"{path} is of another network: {len(missing)} tensors are missing (first: {missing[:1]}), "
            f"{len(unexpected)} unknown (first: {unexpected[:1]})"
        )


def _from_tensorflow(stored: StoredNetwork) -> tuple[Generator, dict[str, Tensor]]:
    network = stylegan2.Generator(**tensorflow.generator_arguments(stored.arguments, stored.tensors))
    return network, tensorflow.generator_state(stored.tensors)


def _from_pytorch(stored: StoredNetwork, path: Path) -> tuple[Generator, dict[str, Tensor]]:
    third = any(name.startswith("synthesis.input.") for name in stored.tensors)
    try:
        if third:
            return stylegan3.Generator(**stored.arguments), stored.tensors
        return stylegan2.Generator(**stored.arguments), stored.tensors
    except TypeError as error:
        family = "StyleGAN3" if third else "StyleGAN2"
        raise ValueError(f"{path} holds a {stored.class_name} that is no {family} ({error})") from None
