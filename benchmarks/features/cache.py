"""Features kept by content: the same pictures through the same network are computed once, whoever asks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

import gengauge.datasets.folder
import gengauge.reference.nets
from gengauge.benchmarks.features.extract import Pictures, Precision, extract
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.features.resize import Mode
from gengauge.benchmarks.machine import all_cores, source_digest, versions
from gengauge.datasets.weights import cache_folder

Array = np.ndarray[Any, Any]


def features(
    pictures: Pictures,
    network: FeatureNetwork,
    mode: Mode = "clean",
    device: str = "cpu",
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """As `extract`, from the cache where these pictures' features by this network were computed before.

    The key is made of the pictures' bytes in order, the network's name and weights, mode, precision, kind of device,
    the code that reads, resizes and computes, and the versions of the libraries under it.
    Two processes that ask for the same features at once compute them once; since the others wait, all cores work on
    them. A damaged cache file is made again.
    """
    key = _digest(pictures, network, f"{mode} {precision} {device}")
    path = cache_folder() / "features" / f"{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        found = _read(path, len(pictures), network.dimensions)
        if found is None:
            with all_cores():
                found = extract(pictures, network, mode, device, precision, progress)
            hidden = path.with_suffix(f".{os.getpid()}.tmp")
            with hidden.open("wb") as stream:
                np.save(stream, found)
            hidden.replace(path)
    return found


def _read(path: Path, count: int, dimensions: int) -> Array | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError, OSError):
        return None
    return found if found.shape == (count, dimensions) and np.isfinite(found).all() else None


def _digest(pictures: Pictures, network: FeatureNetwork, how: str) -> str:
    hasher = hashlib.sha256(f"{network.name} {network.digest} {extraction_code()} {how}".encode())
    if isinstance(pictures, Tensor):
        hasher.update(repr(tuple(pictures.shape)).encode() + pictures.contiguous().numpy().tobytes())
    else:
        for path in pictures:
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:32]


def extraction_code() -> str:
    """What features depend on beside pictures and weights: the code that makes them and the libraries under it."""
    here = Path(__file__).parent
    nets, folder = Path(gengauge.reference.nets.__path__[0]), Path(gengauge.datasets.folder.__file__)
    return f"{source_digest(here, nets, folder)} {sorted(versions().items())}"
