"""Generators from files: the published `.pth` and `.pkl` layouts, and this project's own training states."""

from __future__ import annotations

from pathlib import Path

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
    CIFAR code publishes it, or a `state.safetensors` of this project's training. Nothing in the file is executed.
    Raises FileNotFoundError, UnsafeCheckpoint, DamagedCheckpoint, or ValueError for a network that is not the row's.
    """
    network = _pickled(path) if path.suffix == ".pkl" else _state(path, run)
    if getattr(network, "resolution", getattr(network, "img_resolution", None)) != run.resolution:
        raise ValueError(f"{path} makes pictures of another size than this row's {run.resolution} px")
    if isinstance(network, StyleGAN2) and network.c_dim:
        raise ValueError(f"{path} holds a conditional StyleGAN2; the tables' are unconditional")
    return network.requires_grad_(False)


def _pickled(path: Path) -> nn.Module:
    stored = read_networks(path)["G_ema"]
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
    own = {key.removeprefix("G_ema."): value for key, value in tensors.items() if key.startswith("G_ema.")}
    if own or not isinstance(run.recipe, biggan.Recipe):
        network = run.recipe.networks()[0]
    else:
        network = biggan_nets.Generator(**biggan_nets.settings_of(tensors))  # type: ignore[arg-type]
    _load(network, own or tensors, path)
    return network


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
