"""Animals on meadows: the side of the embedded world on which label maps are translated to pictures, unpaired.

It plays Cityscapes. Training label maps and training pictures are of different scenes; of a test scene there are both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.datasets import world

FIXED = {"background": "meadow"}
CLASSES = len(world.LABELS)
# Of the label maps as pictures, in the order of the labels: far apart, so that a code is read off easily.
COLOURS = torch.tensor(
    [
        (0, 130, 180),
        (120, 10, 130),
        (250, 170, 30),
        (220, 20, 60),
        (240, 240, 240),
        (110, 140, 35),
        (0, 0, 0),
        (150, 75, 20),
        (0, 220, 60),
    ],
    dtype=torch.uint8,
)
TEST_SEED = 1_000_000  # far from every seed of training
_PART = 256  # scenes that are drawn at once


def coloured(labels: Tensor) -> Tensor:
    """Label maps (N, H, W) as pictures uint8 (N, 3, H, W)."""
    return COLOURS[labels.long()].permute(0, 3, 1, 2).contiguous()


def scenes(seed: int, count: int, size: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (N, 3, S, S) and their label maps uint8 (N, S, S)."""
    made = world.render(world.scenes(seed, range(first, first + count), **FIXED), size)
    return world.to_uint8(made.images), made.labels


@dataclass(frozen=True)
class Meadows:
    """An unpaired set: how many pictures of `size` px a side has for training and for testing, and its seed."""

    size: int = 64
    training: int = 1000
    test: int = 128
    seed: int = 0

    def write(self, root: Path) -> Path:
        """Makes the set in `root`, folders trainA (label maps), trainB (pictures), testA and testB; returns `root`.

        It is there as a whole or not at all. Test scenes do not depend on the seed. Raises OSError.
        """
        if root.exists():
            return root
        hidden = root.with_name(f".{root.name}.{os.getpid()}.tmp")
        try:
            for folder, pictures in (
                ("trainA", self._parts(self.seed, 0, self.training, labels=True)),
                ("trainB", self._parts(self.seed, self.training, self.training, labels=False)),
                ("testA", self._parts(TEST_SEED, 0, self.test, labels=True)),
                ("testB", self._parts(TEST_SEED, 0, self.test, labels=False)),
            ):
                (hidden / folder).mkdir(parents=True)
                for number, picture in enumerate(pictures):
                    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(hidden / folder / f"{number:05d}.png")
            try:
                hidden.rename(root)
            except OSError:
                if not root.is_dir():  # else another job has made it meanwhile
                    raise
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return root

    def test_labels(self) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
        """The exact label maps of the test scenes, (N, S, S)."""
        return scenes(TEST_SEED, self.test, self.size)[1].numpy()

    def _parts(self, seed: int, first: int, count: int, labels: bool) -> Iterator[Tensor]:
        for start in range(first, first + count, _PART):
            pictures, maps = scenes(seed, min(_PART, first + count - start), self.size, start)
            yield from coloured(maps) if labels else pictures
