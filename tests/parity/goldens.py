"""Golden files: where they lie, which kinds a paper has, and how close two tensors must be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

HERE = Path(__file__).parent.parent / "goldens"


def folder(paper: str) -> Path:
    """The goldens of a paper: those of $GENGAUGE_GOLDENS, else the committed ones."""
    return Path(os.environ.get("GENGAUGE_GOLDENS", HERE)) / paper


def files(paper: str, prefix: str) -> list[Path]:
    """The files of a kind, by prefix."""
    return sorted(folder(paper).glob(f"{prefix}*.safetensors"))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A golden's tensors and its metadata."""
    with safe_open(path, "pt") as stream:
        return {key: stream.get_tensor(key) for key in stream.keys()}, stream.metadata() or {}  # noqa: SIM118 - no dict


def settings(path: Path) -> dict[str, Any]:
    """What the MANIFEST says of a file in prose only, from `settings.json` beside it; empty where it says nothing."""
    file = path.parent / "settings.json"
    return json.loads(file.read_text()).get(path.stem, {}) if file.exists() else {}


def prefixes(tensors: dict[str, Tensor], ending: str) -> list[str]:
    """What stands before `ending` in the names of tensors, in order."""
    return [key.removesuffix(ending) for key in tensors if key.endswith(ending)]


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def assert_close(ours: Tensor, golden: Tensor, absolute: float, relative: float = 0.0) -> None:
    """max |a - b| <= absolute + relative max |b|, for the whole tensor; `absolute` 0 asks for equal bits."""
    assert ours.shape == golden.shape
    if not golden.numel():
        return
    assert torch.isfinite(ours.double()).all()
    error = (ours.double() - golden.double()).abs().max().item()
    assert error <= absolute + relative * golden.double().abs().max().item(), f"largest error {error:.3g}"
