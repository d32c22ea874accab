"""Features of pictures that come in batches and need not fit in memory, and the moments of whole data sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from torch import Tensor

from gengauge.benchmarks.features.cache import extraction_code, features
from gengauge.benchmarks.features.extract import Precision, extract
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.features.resize import Mode
from gengauge.benchmarks.metrics.frechet import Gaussian, fit
from gengauge.datasets.sets import PictureSet
from gengauge.datasets.weights import cache_folder

Array = np.ndarray[Any, Any]
# Sets up to this size keep their features (82 KB for ten pictures), which makes small-set distances exact and cheap.
KEPT = 20_000
CHUNK = 512


def stream_features(
    batches: Iterable[Tensor],
    network: FeatureNetwork,
    mode: Mode,
    device: str,
    precision: Precision = "float32",
    progress: Callable[[int], None] | None = None,
) -> Array:
    """Features (N, D) float32 of batches of pictures (n, 3, H, W), uint8 or float32 grey levels (see `extract`)."""
    out, done = [], 0
    for batch in batches:
        out.append(extract(batch.cpu(), network, mode, device, precision))
        done += len(batch)
        if progress is not None:
            progress(done)
    return np.concatenate(out)


def set_moments(
    pictures: PictureSet,
    network: FeatureNetwork,
    mode: Mode,
    device: str,
    ddof: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Gaussian:
    """The Gaussian of a whole set's features, kept in the cache; of a large set in one pass with running sums.

    The cache key of a large set tells its pictures by name, size and a digest of some of them, since reading all is
    what the cache is there to spare; the rest of it is as in `features`.
    """
    if len(pictures) <= KEPT:
        whole = pictures.pictures(np.arange(len(pictures)))
        return fit(features(whole, network, mode, device, progress=progress), ddof)
    what = f"{fingerprint(pictures)} {network.name} {network.digest} {extraction_code()} {mode} {device} {ddof}"
    key = hashlib.sha256(what.encode())
    path = cache_folder() / "moments" / f"{key.hexdigest()[:32]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if (found := _read(path)) is not None:
            return found
        made = running_moments(_chunks(pictures), len(pictures), network, mode, device, ddof, progress)
        hidden = path.with_suffix(f".{os.getpid()}.tmp")
        with hidden.open("wb") as stream:
            np.savez(stream, mean=made.mean, covariance=made.covariance, count=np.int64(made.count or 0))
        hidden.replace(path)
    return made


def running_moments(
    batches: Iterable[Tensor],
    total: int,
    network: FeatureNetwork,
    mode: Mode,
    device: str,
    ddof: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Gaussian:
    """Mean and covariance of features of batches, from sums in float64."""
    count, first = 0, np.zeros(network.dimensions)
    second = np.zeros((network.dimensions, network.dimensions))
    for batch in batches:
        x = extract(batch, network, mode, device).astype(np.float64)
        count, first, second = count + len(x), first + x.sum(0), second + x.T @ x
        if progress is not None:
            progress(count, total)
    mean = first / count
    return Gaussian(mean, (second - count * np.outer(mean, mean)) / (count - ddof), count)


def fingerprint(pictures: PictureSet, looked_at: int = 64) -> str:
    """A name of a set's content: name, size, labels, and a digest of some pictures spread over it."""
    chosen = np.linspace(0, len(pictures) - 1, min(looked_at, len(pictures))).astype(np.int64)
    hasher = hashlib.sha256(pictures.pictures(chosen).contiguous().numpy().tobytes())
    if pictures.labels is not None:
        hasher.update(np.ascontiguousarray(pictures.labels).tobytes())
    return f"{pictures.name} {len(pictures)} {hasher.hexdigest()[:16]}"


def _chunks(pictures: PictureSet) -> Iterator[Tensor]:
    for start in range(0, len(pictures), CHUNK):
        yield pictures.pictures(np.arange(start, min(start + CHUNK, len(pictures))))


def _read(path: Path) -> Gaussian | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Gaussian(file["mean"], file["covariance"], int(file["count"]))
    except (FileNotFoundError, KeyError, ValueError, EOFError, OSError):
        return None
