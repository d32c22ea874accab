"""Networks that find the labels of pictures: DRN from its published files, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.from_weights import filled
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import read_tensors
from gengauge.reference.nets.drn import DRN, normalise
from gengauge.reference.nets.translation_checkpoints import from_published, published_drn


def load_segmenter(source: Path | str) -> DRN:
    """A DRN for segmentation from a file, or from the catalogue by its key, in float32 and evaluation mode.

    A file is a state dict, or holds one under "state_dict". Raises KeyError or WeightsNotFound for a key, else
    FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint, and ValueError naming the file and what does not fit.
    """
    return segmenter_of(weights.load(source) if isinstance(source, str) else read_tensors(source), str(source))


def segmenter_of(tensors: Mapping[str, Tensor], source: str) -> DRN:
    """The DRN with a file's tensors. Raises ValueError naming the `source` and what does not fit."""
    try:
        empty = published_drn(tensors)
        return filled(empty, from_published(tensors, empty))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


@torch.inference_mode()
def segment(network: DRN, pictures: Tensor, device: str = "cpu", batch: int = 32) -> np.ndarray[Any, Any]:
    """The likeliest label of each pixel of pictures uint8 (N, 3, H, W): uint8 (N, H, W)."""
    network = network.to(device)
    found = [network(normalise(part.to(device).float() / 255)).argmax(1).cpu() for part in pictures.split(batch)]
    return torch.cat(found).to(torch.uint8).numpy()
