"""Writing checkpoints: whole or not at all, and with nothing in them that a restricted reader refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PLAIN = (Tensor, str, bytes, bool, int, float, type(None))


def write_checkpoint(path: Path, content: Any) -> None:
    """Writes tensors in plain containers as `torch.save` does; `path` changes at the end only.

    Raises ValueError naming a place in `content` that holds anything else, and OSError where the file cannot be made.
    """
    _check(content, "the content")
    _replaced(path, lambda hidden: torch.save(content, hidden))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors by name as safetensors, each with memory of its own; `path` changes at the end only.

    Raises OSError where the file cannot be made.
    """
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}

    def write(hidden: Path) -> None:
        hidden.touch()
        mode = hidden.stat().st_mode  # the user's own; safetensors makes files that nobody else may read
        save_file(own, hidden, dict(metadata or {}))
        hidden.chmod(mode)

    _replaced(path, write)


def write_text(path: Path, text: str) -> None:
    """Writes a text; `path` changes at the end only. Raises OSError where the file cannot be made."""
    _replaced(path, lambda hidden: hidden.write_text(text, encoding="utf-8"))


def _replaced(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(hidden)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def _check(content: Any, place: str) -> None:
    if isinstance(content, Mapping):
        for key, value in content.items():
            _check(value, f"{place}[{key!r}]")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            _check(value, f"{place}[{index}]")
    elif not isinstance(content, PLAIN):
        raise ValueError(f"{place} is {type(content).__name__}, which a restricted reader would refuse")
