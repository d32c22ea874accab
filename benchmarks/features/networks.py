"""The feature networks by name, loaded with their published weights and made fast for inference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gengauge.benchmarks.features.resize import Mode
from gengauge.datasets import weights
from gengauge.reference.nets import efficientnet_lite, inception

NetworkName = Literal["inception", "efficientnet-lite0"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network for features: `size` px of its input, `distance` the name of a Frechet distance in its features.

    `normalise` maps grey levels in [0, 255] to the network's range, for a resizing mode; `probabilities` maps features
    to class probabilities, None where the weights have no classifier; `digest` tells one set of weights from another.
    """

    name: NetworkName
    distance: str
    size: int
    dimensions: int
    network: nn.Module
    normalise: Callable[[Tensor, Mode], Tensor]
    probabilities: Callable[[Tensor], Tensor] | None
    digest: str


def load_network(name: NetworkName, path: Path | None = None) -> FeatureNetwork:
    """Loads a feature network on the CPU. `path` overrides where its weights are looked for.

    `inception` takes the classifier along where weights with it are found, so that the Inception Score can be had.
    Raises WeightsNotFound naming the places searched, ValueError for an unknown name or weights of another network.
    """
    if name == "inception":
        return _inception(path)
    if name == "efficientnet-lite0":
        network = efficientnet_lite.EfficientNetLite0()
        _load(network, weights.load(name, path), name)
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        return FeatureNetwork(
            name,
            "FD-EfficientNetLite0",
            efficientnet_lite.INPUT_SIZE,
            efficientnet_lite.FEATURES,
            network,
            lambda x, mode: (x - 127) / 128,
            lambda f: network.logits(f).softmax(1),
            _digest(network),
        )
    raise ValueError(f"there is no feature network {name!r}; there are {', '.join(NETWORKS)}")


def _inception(path: Path | None) -> FeatureNetwork:
    if path is None and weights.find("inception-logits") is not None:
        state = weights.load("inception-logits")
    else:
        state = weights.load("inception", path)
    if any(key.startswith("net.layers.") for key in state):
        state = inception.from_carrier_keys(state)
    state = {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}
    network = inception.Inception2015(with_logits="fc.weight" in state)
    _load(network, state, "inception")
    fast = inception.fold_batch_norm(network)
    probabilities = (lambda f: fast.logits(f).softmax(1)) if fast.fc is not None else None
    return FeatureNetwork(
        "inception",
        "FID",
        inception.INPUT_SIZE,
        inception.FEATURES,
        fast,
        _normalise_inception,
        probabilities,
        _digest(fast),
    )


def _digest(network: nn.Module) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for name, value in network.state_dict().items():
        hasher.update(name.encode() + value.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _normalise_inception(x: Tensor, mode: Mode) -> Tensor:
    """pytorch-fid scales to [-1, 1]; the TensorFlow graph, and clean-fid after it, subtracts and divides by 128."""
    return x / 127.5 - 1 if mode == "legacy_pytorch" else (x - 128) / 128


def _load(network: nn.Module, state: dict[str, Tensor], name: str) -> None:
    optional = {key for key in network.state_dict() if key.endswith("num_batches_tracked")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if key not in optional]
    if missing or unexpected:
        raise ValueError(
            f"these are no weights of {name}: {len(missing)} tensors are missing (first: {missing[:1]}), "
            f"{len(unexpected)} unknown (first: {unexpected[:1]})"
        )
