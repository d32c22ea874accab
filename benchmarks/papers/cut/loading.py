"""CUT's and CycleGAN's generators from their published files, and files from networks."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gengauge.benchmarks.from_weights import filled
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.saving import write_checkpoint as write
from gengauge.reference.nets.translation_checkpoints import (
    NAMES,
    Generator,
    bare_state,
    from_published,
    published_config,
)

GENERATORS = ("G", "G_A")  # CUT's, and CycleGAN's from A to B
# The generators of the catalogue, by method and data set.
PUBLISHED = {
    (method, data): f"{method}-{data}"
    for data in ("cityscapes", "horse2zebra", "cat2dog")
    for method in ("cut", "fastcut")
}


def load_published(key: str) -> Generator:
    """A generator of the catalogue, in float32 and evaluation mode.

    Raises KeyError for another key, WeightsNotFound, and ValueError for a file of another network.
    """
    if key not in PUBLISHED.values():
        raise KeyError(f"there is no published generator {key!r}; there are {', '.join(PUBLISHED.values())}")
    return translator_of(weights.load(key), key)


def load_translator(path: Path, epoch: str = "latest", name: str | None = None) -> Generator:
    """A generator from a file, or from a folder `checkpoints/NAME`, in float32 and evaluation mode.

    In a folder `EPOCH_net_G.pth` is taken, else CycleGAN's `EPOCH_net_G_A.pth`; `name` takes one of them, or `G_B`. The
    configuration is read off the file: width, blocks, antialiasing, residual or StyleGAN2.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint for a bad file, and ValueError naming the file and
    what is missing or in excess.
    """
    file = checkpoint_file(path, epoch, GENERATORS if name is None else (name,)) if path.is_dir() else path
    return translator_of(read_tensors(file), str(file))


def translator_of(tensors: Mapping[str, Tensor], source: str) -> Generator:
    """The generator with a file's tensors. Raises ValueError naming the `source` and what does not fit."""
    try:
        config = published_config(tensors)
        with torch.device("meta"):
            empty = config.build()
        return filled(empty, from_published(tensors, empty))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def checkpoint_file(folder: Path, epoch: str, names: tuple[str, ...]) -> Path:
    """The file of the first of some networks in a folder `checkpoints/NAME`. Raises FileNotFoundError, ValueError."""
    files = [folder / _file_name(epoch, name) for name in names]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(file.name for file in files)}")
    return found


def write_checkpoint(folder: Path, networks: Mapping[str, nn.Module], epoch: str = "latest") -> list[Path]:
    """Writes `EPOCH_net_NAME.pth` of each network as the published code does, and returns the files.

    Names are G, F and D or CycleGAN's G_A, G_B, D_A and D_B; others, as the pools of earlier fakes, have no file in the
    published format. A file is a bare state dict on the CPU, without names of wrappers. Each file changes at its end
    only. Raises ValueError where no network has such a name, OSError where a file cannot be made.
    """
    chosen = {name: network for name, network in networks.items() if name in NAMES}
    if not chosen:
        raise ValueError(f"networks are {', '.join(NAMES)}, not {', '.join(networks) or 'none'}")
    out = []
    for name, network in chosen.items():
        state = bare_state(network.state_dict())
        file = folder / _file_name(epoch, name)
        # Each tensor with memory of its own: a view would be written with all that it is a view of.
        write(file, OrderedDict((key, value.detach().cpu().contiguous().clone()) for key, value in state.items()))
        out.append(file)
    return out


def _file_name(epoch: str, name: str) -> str:
    if name not in NAMES or not re.fullmatch(r"\w+", epoch):
        raise ValueError(f"{epoch!r} and {name!r} name no checkpoint such as latest_net_G.pth")
    return f"{epoch}_net_{name}.pth"
