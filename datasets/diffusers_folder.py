"""Folders of diffusers that hold one network: `config.json` and `diffusion_pytorch_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.saving import write_tensors, write_text
from gengauge.datasets.unpickling import DamagedCheckpoint, reading

CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
MAX_CONFIG_BYTES = 2**20


def is_network_folder(folder: Path) -> bool:
    """Whether a folder holds a network, or a pipeline with its network in `unet`."""
    return any((place / CONFIG).is_file() for place in (folder, folder / "unet"))


def read_network_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the tensors of a folder, or of its subfolder `unet` where that holds the network.

    Raises FileNotFoundError naming the file that is missing, UnsafeCheckpoint or DamagedCheckpoint for a bad one.
    """
    place = folder if (folder / CONFIG).is_file() else folder / "unet"
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no network of diffusers: there is no {CONFIG} in it or in its unet")
    settings = _settings(place / CONFIG)
    file = next((place / name for name in WEIGHTS if (place / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{place} holds no weights: there is no {' or '.join(WEIGHTS)}")
    return settings, read_tensors(file)


def write_network_folder(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes a folder that diffusers' `from_pretrained` opens. Raises OSError where it cannot be made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS[0], tensors, {"format": "pt"})
    write_text(folder / CONFIG, json.dumps(dict(settings), indent=2) + "\n")


def _settings(path: Path) -> dict[str, Any]:
    with reading(path):
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise DamagedCheckpoint(f"it has more than {MAX_CONFIG_BYTES // 2**10} KiB; settings are a page of text")
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise DamagedCheckpoint("its brackets are nested too deep") from None
        if not isinstance(settings, dict):
            raise DamagedCheckpoint("it holds no settings by name")
        return settings
