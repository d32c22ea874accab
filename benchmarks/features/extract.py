"""Features of many pictures in one pass: decoding and resizing in threads beside the network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.features.resize import Mode, resize_tensorflow, resizer
from gengauge.datasets.folder import read_picture

Array = np.ndarray[Any, Any]
Pictures = Sequence[Path] | Tensor
Precision = Literal["float32", "tf32", "bf16"]

CPU_BATCH = 8
GPU_BATCH = 64


def extract(
    pictures: Pictures,
    network: FeatureNetwork,
    mode: Mode = "clean",
    device: str = "cpu",
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Features (N, D) float32 of picture files or of a tensor (N, 3, H, W), uint8, or float32 grey levels not rounded.

    Real grey levels are for `legacy_tensorflow` only, whose graph takes them (the ImageNet protocol of compare_gan).

    float32 means float32: tf32 (inside a GPU's float32 products) and bf16 are used only when named, since they move
    features by 1e-3 and more. The files of a batch are read ahead while the network works on the one before.
    Raises ValueError naming a picture that cannot be read.
    """
    kinds = (torch.uint8, torch.float32) if mode == "legacy_tensorflow" else (torch.uint8,)
    if isinstance(pictures, Tensor) and (pictures.dtype not in kinds or pictures.ndim != 4 or pictures.shape[1] != 3):
        raise ValueError(f"pictures are a (N, 3, H, W) uint8 tensor, not {pictures.dtype} {tuple(pictures.shape)}")
    if precision != "float32" and device != "cuda":
        raise ValueError(f"precision {precision} is for GPUs; this runs on {device}")
    resize = resizer(mode, network.size)
    batch = GPU_BATCH if device == "cuda" else CPU_BATCH
    module = network.network.to(device)
    out = np.empty((len(pictures), network.dimensions), np.float32)
    workers = torch.get_num_threads()

    # TensorFlow's resizing is a part of its graph: whole batches go through it on the device.
    on_device = isinstance(pictures, Tensor) and mode == "legacy_tensorflow"

    def prepare(start: int) -> Tensor:
        if on_device:
            assert isinstance(pictures, Tensor)
            return pictures[start : start + batch]
        read = [_pixels(pictures, i) for i in range(start, min(start + batch, len(pictures)))]
        return torch.from_numpy(np.stack([resize(picture) for picture in read]))

    with (
        torch.inference_mode(),
        _precision(precision, device),
        ThreadPoolExecutor(workers) as pool,
    ):
        for start, grey in _ahead(pool, workers, prepare, range(0, len(pictures), batch)):
            x = grey.to(device)
            # (N, H, W, 3) in memory, seen as (N, 3, H, W), is channels_last without a copy.
            x = resize_tensorflow(x, network.size) if on_device else x.permute(0, 3, 1, 2)
            x = network.normalise(x, mode).contiguous(memory_format=torch.channels_last)
            features = module(x)
            if not torch.isfinite(features).all():
                raise ValueError(f"features of pictures {start} to {start + len(x) - 1} are not finite")
            out[start : start + len(x)] = features.float().cpu().numpy()
            if progress is not None:
                progress(start + len(x), len(pictures))
    return out


def _pixels(pictures: Pictures, index: int) -> Array:
    if isinstance(pictures, Tensor):
        return pictures[index].permute(1, 2, 0).contiguous().numpy()
    return read_picture(pictures[index])


def _ahead(
    pool: ThreadPoolExecutor, workers: int, prepare: Callable[[int], Tensor], starts: range
) -> Iterator[tuple[int, Tensor]]:
    """Batches in order, with `workers` of them in preparation."""
    waiting = [(start, pool.submit(prepare, start)) for start in starts[:workers]]
    for start in starts[workers:]:
        first, future = waiting.pop(0)
        batch = future.result()
        waiting.append((start, pool.submit(prepare, start)))
        yield first, batch
    for first, future in waiting:
        yield first, future.result()


@contextlib.contextmanager
def _precision(precision: Precision, device: str) -> Iterator[None]:
    if device != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
