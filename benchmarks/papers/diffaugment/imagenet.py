"""ImageNet as the third code base (compare_gan) prepares it: squares, TensorFlow's resizing, no rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.features.resize import resize_tensorflow
from gengauge.datasets.pictures_set import FolderSet
from gengauge.datasets.sets import Indices, checked

WORKERS = 8


class ImageNetSet:
    """The first `count` pictures of a folder as float32 grey levels (n, 3, R, R) in [0, 255], not rounded.

    `pictures` takes the largest central square; `zoomed`, for training, a central square of a share of the area.
    """

    def __init__(self, files: FolderSet, resolution: int, count: int | None = None) -> None:
        self.files, self.resolution, self.num_classes = files, resolution, files.num_classes
        self.count = len(files) if count is None else count
        self.name = files.name if count is None else f"{files.name}[:{count}]"
        self.labels = None if files.labels is None else files.labels[: self.count]

    def __len__(self) -> int:
        return self.count

    def pictures(self, indices: Indices) -> Tensor:
        return self.zoomed(indices, [math.inf] * len(indices))

    def zoomed(self, indices: Indices, areas: Sequence[float]) -> Tensor:
        """Central squares of these shares of the pictures' areas, at most the largest square that there is."""
        chosen = checked(indices, len(self))
        with ThreadPoolExecutor(min(WORKERS, len(chosen) or 1)) as pool:
            made = list(pool.map(self._square, chosen.tolist(), areas))
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)

    def _square(self, index: int, area: float) -> np.ndarray:
        picture = np.asarray(self.files.original(index))
        height, width = picture.shape[:2]
        side = min(height, width)
        if math.isfinite(area):
            side = max(1, min(side, round(math.sqrt(area * height * width))))
        top, left = (height - side) // 2, (width - side) // 2
        return resize_tensorflow(picture[top : top + side, left : left + side], self.resolution)
