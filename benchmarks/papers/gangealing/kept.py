"""Transfers that are kept, so that the rows of several tables share them: they take hours on a CPU."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.machine import versions
from gengauge.benchmarks.papers.gangealing.evaluation import Protocol, Transfers
from gengauge.datasets.key_points import KeyPointSet


def kept_transfers(
    folder: Path,
    name: str,
    make: Callable[[], Transfers],
    *depends_on: Tensor | nn.Module | KeyPointSet | Protocol,
    waiting: Callable[[], None] = lambda: None,
) -> Transfers:
    """What `make` gives, from `folder` where it was made before of the same pictures, networks, settings and code.

    Two processes that ask for the same make it once; the second is told that it waits. A damaged file is made again.
    """
    path = folder / f"{name}-{_digest(depends_on)}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        found = _read(path)
        if found is None:
            found = make()
            hidden = path.with_suffix(f".{os.getpid()}.tmp")
            with hidden.open("wb") as stream:
                np.savez(stream, **{f.name: getattr(found, f.name) for f in fields(Transfers)})
            hidden.replace(path)
    finally:
        lock.release()
    return found


def _read(path: Path) -> Transfers | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Transfers(**{f.name: file[f.name] for f in fields(Transfers)})
    except (FileNotFoundError, KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile):
        return None


def _digest(parts: tuple[Tensor | nn.Module | KeyPointSet | Protocol, ...]) -> str:
    hasher = hashlib.sha256(f"{code_version()} {sorted(versions().items())}".encode())
    for part in parts:
        if isinstance(part, nn.Module):
            for name, value in part.state_dict().items():
                hasher.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        elif isinstance(part, KeyPointSet):
            hasher.update(f"{part.name} {part.size}".encode())
            for index in range(len(part)):
                hasher.update(part.key_points[index].numpy().tobytes() + part.thresholds([index]).numpy().tobytes())
            for file in dict.fromkeys(part.files):
                hasher.update(hashlib.sha256(file.read_bytes()).digest())
        elif isinstance(part, Tensor):
            hasher.update(part.contiguous().numpy().tobytes())
        else:
            hasher.update(repr(sorted(asdict(part).items())).encode())
    return hasher.hexdigest()[:16]
