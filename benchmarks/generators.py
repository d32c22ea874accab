"""Generators from the network files of NVIDIA's code bases and their descendants: StyleGAN2 and StyleGAN3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gengauge.datasets.network_pickles import StoredNetwork, read_networks
from gengauge.reference.nets.stylegan2 import generator as stylegan2
from gengauge.reference.nets.stylegan2 import tensorflow
from gengauge.reference.nets.stylegan3 import generator as stylegan3
from gengauge.reference.nets.stylegan3.states import generator_from

Generator = stylegan2.Generator | stylegan3.Generator
_OWN = (
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "mapping_kwargs",
    "synthesis_kwargs",
)
# A constant that a network computes itself, and that TensorFlow's variables lack.
_CONSTANT = "resample_filter"


def read_pickled(path: Path) -> Generator:
    """The averaged generator (`G_ema`) of a `.pkl`, of the TensorFlow or the PyTorch code, frozen, in eval mode.

    Nothing in the file is executed. Raises FileNotFoundError, UnsafeCheckpoint, DamagedCheckpoint, or ValueError for a
    file without such a generator and for one of another network.
    """
    networks = read_networks(path)
    if "G_ema" not in networks:
        raise ValueError(f"{path} holds {', '.join(networks)} but no averaged generator, G_ema")
    stored = networks["G_ema"]
    try:
        network = _built(stored, path)
    except TypeError as error:
        raise ValueError(f"{path} holds a {stored.class_name} that is no StyleGAN2 ({error})") from None
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


def _built(stored: StoredNetwork, path: Path) -> Generator:
    if "synthesis.input.freqs" in stored.tensors:
        try:
            return generator_from(stored.arguments, stored.tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if stored.kind == "tensorflow":
        arguments = tensorflow.generator_arguments(stored.arguments, stored.tensors)
        state = tensorflow.generator_state(stored.tensors)
    else:
        arguments, state = _nested(stored.arguments), stored.tensors
    network = stylegan2.Generator(**arguments)
    load_strictly(network, state, path)
    return network


def _nested(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of StyleGAN2 with those of the synthesis together, which the code of StyleGAN3 keeps beside the others.

    What that code says of how it computes, and not what, is left out.
    """
    own = {name: value for name, value in arguments.items() if name in _OWN}
    synthesis = {
        name: value for name, value in arguments.items() if name not in _OWN and name != "fused_modconv_default"
    }
    if synthesis:
        own["synthesis_kwargs"] = {**own.get("synthesis_kwargs", {}), **synthesis}
    return own
