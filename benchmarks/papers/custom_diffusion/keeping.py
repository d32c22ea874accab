"""What is computed once and kept: small results beside what they are of, by a digest of all that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from gengauge.datasets.saving import write_text

VALUES = 64  # of a parameter, which tell one model from another


def digest(*parts: object) -> str:
    """A short name of parts, by what they print as."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def model_digest(*networks: nn.Module) -> str:
    """A name of networks' weights, by values spread over each."""
    hasher = hashlib.sha256()
    for network in networks:
        for name, parameter in network.named_parameters():
            flat = parameter.detach().reshape(-1)
            count = min(VALUES, len(flat))
            chosen = flat[(torch.arange(count) * (len(flat) - 1) // max(count - 1, 1)).to(flat.device)]
            hasher.update(f"{name} {tuple(parameter.shape)}".encode() + chosen.float().cpu().numpy().tobytes())
    return hasher.hexdigest()[:16]


def files_digest(files: list[Path]) -> str:
    """A name of files' contents, in order."""
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


@contextmanager
def turn(folder: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Waits until no other process is at work in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".turn.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, from the file where it was made before; a damaged file is made again."""
    found = _read(path)
    if found is None:
        found = make()
        write_text(path, json.dumps(found, indent=1))
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
