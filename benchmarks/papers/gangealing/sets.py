"""What GANgealing's tables are measured on: pairs of pictures with key points, prepared as published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gengauge.benchmarks.core.experiments import Need
from gengauge.benchmarks.needs import data_need
from gengauge.benchmarks.papers.gangealing.evaluation import Batch
from gengauge.datasets import cub, spair
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.key_points import KeyPointSet
from gengauge.datasets.pairing import random_pairs
from gengauge.datasets.sets import DataNotFound

SIZE = 256  # px


@dataclass(frozen=True)
class SPair:
    """A category's test pairs of SPair-71k, each once, from source to target.

    `count` is how many test pairs all categories have.
    """

    category: str
    count: int = 12_234
    size: int = SIZE
    key: str = "spair-71k"
    both_ways: bool = False

    def find(self, root: Path | None) -> Path | None:
        """Where the set lies in a folder of data sets."""
        try:
            return None if root is None else spair.find_tree(root)
        except DataNotFound:
            return None

    def open(self, root: Path | None) -> KeyPointSet:
        """Raises DataNotFound, and ValueError naming what is damaged."""
        return spair.read_spair(_given(root, self.key), self.category, size=self.size)

    def pairs(self, found: KeyPointSet, seed: int) -> Tensor:
        """All that there are, (n, 2); no seed changes them."""
        assert found.pairs is not None
        return found.pairs

    def check(self, root: Path | None) -> None:
        """Refuses a set that is not whole: its numbers would stand beside the published ones."""
        tree = self.find(root)
        if tree is None:
            return  # told as missing later
        pairs = len(list((tree / "PairAnnotation" / "test").glob("[!.]*.json")))
        if pairs != self.count:
            raise ValueError(f"{tree} has {pairs} test pairs, the published set {self.count}; unpack it again")


@dataclass(frozen=True)
class CUB:
    """Random pairs of ACSM's validation pictures of CUB-200-2011, both ways; seed 0 has the published ones."""

    count: int = 10_000
    size: int = SIZE
    key: str = "cub"
    both_ways: bool = True

    def find(self, root: Path | None) -> Path | None:
        """The folder that holds the set and ACSM's list, which may lie beside it."""
        try:
            if root is None:
                return None
            tree, file = cub.find_tree(root)
        except DataNotFound:
            return None
        return tree if file.parent == tree else file.parent

    def open(self, root: Path | None) -> KeyPointSet:
        """Raises DataNotFound, and ValueError naming what is damaged."""
        return cub.read_cub(_given(root, self.key), self.size)

    def pairs(self, found: KeyPointSet, seed: int) -> Tensor:
        """Pairs (n, 2) of a seed. Raises ValueError for fewer than two pictures."""
        return random_pairs(len(found), self.count, seed)

    def check(self, root: Path | None) -> None:
        """How many pictures ACSM's list has is not published; its file tells."""


Pairs = SPair | CUB


def batches(found: KeyPointSet, pairs: Tensor, batch: int) -> Iterator[Batch]:
    """Pairs (n, 2) of a set, `batch` at a time."""
    for part in pairs.split(batch):
        a, b = (scaled(found, side.tolist()) for side in part.unbind(1))
        of_a, of_b = found.key_points[part[:, 0]], found.key_points[part[:, 1]]
        yield Batch(a, b, of_a, of_b, *(found.thresholds(side.numpy()) for side in part.unbind(1)))


def scaled(found: KeyPointSet, indices: list[int]) -> Tensor:
    """Pictures (n, 3, S, S) in [-1, 1]. Raises ValueError naming an unreadable picture."""
    return (found.pictures(indices).float() / 255 - 0.5) / 0.5


def distinct(found: KeyPointSet) -> list[int]:
    """The index of every picture once: a set in pairs has a picture again for each of its pairs."""
    files = found.files or range(len(found))
    return sorted({file: i for i, file in reversed(list(enumerate(files)))}.values())


def needs(pairs: Pairs, data: Path | None) -> tuple[Need, ...]:
    """For `--dry-run`."""
    return (data_need(pairs.key, data),)


def _given(root: Path | None, key: str) -> Path:
    if root is None:
        raise DataNotFound(data_set(key).what, [], data_set(key).remedy)
    return root
