"""ImageNet as the third code base (compare_gan) prepares it: squares, TensorFlow's resizing, no rounding."""

from __future__ import annotations

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
    """Pictures of a folder as float32 grey levels (n, 3, R, R) in [0, 255], not rounded; `count` of them, or all.

    A count takes the first of a fixed shuffled order, as the published one takes the first of tfds's, which is shuffled
    too: the folder itself is sorted by class. `pictures` takes the largest central square, `zoomed`, for training, a
    smaller one in its middle.
    """

    def __init__(self, files: FolderSet, resolution: int, count: int | None = None) -> None:
        self.files, self.resolution, self.num_classes = files, resolution, files.num_classes
        order = np.arange(len(files)) if count is None else np.random.RandomState(0).permutation(len(files))[:count]
        self.order = order
        self.name = files.name if count is None else f"{files.name}[{count} of a shuffled order]"
        self.labels = None if files.labels is None else files.labels[order]

    def __len__(self) -> int:
        return len(self.order)

    def pictures(self, indices: Indices) -> Tensor:
        return self.zoomed(indices, [1.0] * len(indices))

    def zoomed(self, indices: Indices, sides: Sequence[float]) -> Tensor:
        """Central squares whose sides are these shares of the largest square's."""
        chosen = self.order[checked(indices, len(self))]
        with ThreadPoolExecutor(min(WORKERS, len(chosen) or 1)) as pool:
            made = list(pool.map(self._square, chosen.tolist(), sides))
        return torch.cat(made)

    def _square(self, index: int, share: float) -> Tensor:
        picture = np.asarray(self.files.original(index))
        height, width = picture.shape[:2]
        side = max(1, round(share * min(height, width)))
        top, left = (height - side) // 2, (width - side) // 2
        square = torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1)
        return resize_tensorflow(square[None], self.resolution)
