"""What CUT's tables are measured on: a set's pictures for training and testing, and who judges label scores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from gengauge.benchmarks.core.experiments import Context, Need
from gengauge.benchmarks.needs import data_need, weights_need
from gengauge.benchmarks.segmenters import load_segmenter, segment
from gengauge.benchmarks.zoo import meadows, segmenter
from gengauge.benchmarks.zoo.meadows import Meadows
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.cityscapes import CLASSES, SCORE_SIZE, CityscapesTruth, names_digest, read_preparation
from gengauge.datasets.folder import read_picture
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.unpaired import Direction, Phase, UnpairedFolders
from gengauge.reference.nets.drn import DRN

Array = np.ndarray[Any, Any]
DRN_KEY = "drn-d-22-cityscapes"
BATCH = 16  # pictures that are segmented at once


class Judge(Protocol):
    """Finds the labels that translations show, and knows the true ones of their sources."""

    @property
    def classes(self) -> int: ...

    def predict(self, pictures: Sequence[Path]) -> Iterator[Array]:
        """The labels (H, W) of each picture."""

    def truth(self, files: Sequence[str]) -> list[Array]:
        """The true labels (H, W) behind each source by its file name."""


@dataclass(frozen=True)
class WorldJudge:
    """The zoo's segmenter, at its own size, and the exact label maps of test scenes."""

    pictures: Meadows
    network: DRN
    device: str
    classes: int = meadows.CLASSES

    def predict(self, pictures: Sequence[Path]) -> Iterator[Array]:
        """Of pictures resampled bicubically to the segmenter's size, as CUT's were to 256 x 128."""
        side = segmenter.RESOLUTION
        for part in _parts(pictures, (side, side)):
            yield from segment(self.network, part, self.device)

    def truth(self, files: Sequence[str]) -> list[Array]:
        maps = Meadows(segmenter.RESOLUTION, test=self.pictures.test).test_labels()
        return [maps[int(Path(file).stem)] for file in files]


@dataclass(frozen=True)
class CityscapesJudge:
    """DRN-D-22 trained on Cityscapes, at 256 x 128 px, and the label maps of the split val."""

    maps: CityscapesTruth
    network: DRN
    device: str
    classes: int = CLASSES

    def predict(self, pictures: Sequence[Path]) -> Iterator[Array]:
        """Of pictures resampled bicubically to 256 x 128."""
        for part in _parts(pictures, SCORE_SIZE):
            yield from segment(self.network, part, self.device)

    def truth(self, files: Sequence[str]) -> list[Array]:
        return [self.maps.map_of(file) for file in files]


def _parts(pictures: Sequence[Path], size: tuple[int, int]) -> Iterator[torch.Tensor]:
    for start in range(0, len(pictures), BATCH):
        read = [Image.fromarray(read_picture(path)) for path in pictures[start : start + BATCH]]
        resampled = [
            np.array(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))
            for picture in read
        ]
        yield torch.from_numpy(np.stack(resampled)).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class World:
    """Animals on meadows of the embedded world: label maps to pictures."""

    pictures: Meadows = field(default_factory=Meadows)

    def open(self, context: Context, phase: Phase) -> UnpairedFolders:
        """Its folders, which are made on first use."""
        p = self.pictures
        name = f"meadows-{p.size}px-{p.training}-{p.test}-{p.seed}"
        return UnpairedFolders(p.write(context.work / name), phase)

    def judge(self, context: Context) -> Judge | None:
        """The zoo's segmenter."""
        return WorldJudge(self.pictures, segmenter.load(), context.device)

    def needs(self, data: Path | None) -> tuple[Need, ...]:
        """For `--dry-run`."""
        return (Need("label maps and pictures", Path("embedded world")),)

    def note(self, context: Context) -> str:
        """What a reader must know of this copy of the set."""
        return ""


@dataclass(frozen=True)
class Folders:
    """A set of the catalogue by `key`, unpaired folders; label scores where `labels` is the key of their tree."""

    key: str
    direction: Direction = "AtoB"
    labels: str | None = None
    test: tuple[int, int] | None = None  # pictures of the published sides A and B

    def find(self, root: Path | None) -> Path | None:
        """Where the set lies in a folder of data sets."""
        return data_set(self.key).find(root)

    def open(self, context: Context, phase: Phase) -> UnpairedFolders:
        """Raises DataNotFound, and ValueError for a folder without pictures."""
        skip = os.environ.get("GENGAUGE_SKIP_DAMAGED", "") not in ("", "0")
        return UnpairedFolders(_found(self.key, context.data), phase, skip, self.direction)

    def judge(self, context: Context) -> Judge | None:
        """DRN for a set with labels.

        Raises DataNotFound, WeightsNotFound, and ValueError for a DRN of other classes, or for a prepared set that is
        not of the label maps at hand, whose places would be others.
        """
        if self.labels is None:
            return None
        _found(self.labels, context.data)
        assert context.data is not None
        network, truth = load_segmenter(DRN_KEY), CityscapesTruth(context.data)
        if network.seg.out_channels != CLASSES:
            raise ValueError(
                f"{DRN_KEY} tells {network.seg.out_channels} classes apart, not the {CLASSES} of Cityscapes"
            )
        folder = _found(self.key, context.data)
        told = read_preparation(folder)
        if told is not None and told.names != names_digest(context.data):
            raise ValueError(
                f"{folder} was prepared from other photographs than are in {context.data} now; prepare it again"
            )
        files = self.open(context, "test").a.files
        if told is None and len(files) != len(truth):
            raise ValueError(f"{folder} has {len(files)} test pictures, but there are {len(truth)} label maps for them")
        for file in files:
            truth.place_of(file)
        return CityscapesJudge(truth, network, context.device)

    def check(self, root: Path | None) -> None:
        """Refuses test folders that are not whole: their numbers would stand beside the published ones."""
        folder = self.find(root)
        if folder is None or self.test is None:
            return
        folders = UnpairedFolders(folder, "test")
        found = len(folders.a), len(folders.b)
        if found != self.test:
            raise ValueError(
                f"{folder} has {found[0]} and {found[1]} test pictures, the published set {self.test[0]} and "
                f"{self.test[1]}; fetch it again"
            )

    def needs(self, data: Path | None) -> tuple[Need, ...]:
        """For `--dry-run`."""
        out = [data_need(self.key, data), weights_need("inception")]
        if self.labels is not None:
            out += [data_need(self.labels, data), weights_need(DRN_KEY)]
        return tuple(out)

    def note(self, context: Context) -> str:
        """How a prepared set was resampled, which moves its scores."""
        found = self.find(context.data)
        told = None if found is None else read_preparation(found)
        return "" if told is None else f"label maps resampled by Pillow's {told.resample} filter"


def _found(key: str, root: Path | None) -> Path:
    entry = data_set(key)
    found = entry.find(root)
    if found is None:
        places = [str(root / mark) for mark in entry.marks] if root is not None else ["no data folder"]
        raise DataNotFound(entry.what, places, entry.remedy)
    return found


Set = World | Folders
CITYSCAPES = Folders("cityscapes-cut", "BtoA", labels="cityscapes", test=(500, 500))
CITYSCAPES_VAL = Folders("cityscapes-val-for-cut", "BtoA", labels="cityscapes", test=(500, 500))
HORSE2ZEBRA = Folders("horse2zebra", test=(120, 140))
CAT2DOG = Folders("cat2dog", test=(500, 500))
