"""The published data sets: what each must look like under the user's data folder, and how to get it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSet:
    """A data set by its key. It is there if one of `marks`, paths under the data folder, exists."""

    key: str
    what: str
    papers: tuple[str, ...]
    marks: tuple[str, ...]
    remedy: str

    def find(self, root: Path | None) -> Path | None:
        """Where the set lies under `root`, None where it is missing."""
        return next((root / mark for mark in self.marks if root is not None and (root / mark).exists()), None)


DATA_SETS = (
    DataSet(
        "cifar10",
        "CIFAR-10, Python pickles",
        ("diffaugment",),
        ("cifar-10-batches-py",),
        "unpack cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into the data folder",
    ),
    DataSet(
        "cifar100",
        "CIFAR-100, Python pickles",
        ("diffaugment",),
        ("cifar-100-python",),
        "unpack cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html into the data folder",
    ),
    DataSet(
        "low-shot",
        "100-shot sets and AnimalFace, zip archives or folders",
        ("diffaugment",),
        ("100-shot-obama.zip", "100-shot-obama"),
        "follow the links in the README of mit-han-lab/data-efficient-gans",
    ),
    DataSet(
        "ffhq",
        "FFHQ at 256 px",
        ("diffaugment",),
        ("ffhq-256.tfrecords", "ffhq", "ffhq256"),
        "follow the README of NVlabs/ffhq-dataset",
    ),
    DataSet("lsun-cat", "LSUN-Cat, LMDB", ("diffaugment",), ("cat", "lsun-cat"), "follow the README of fyu/lsun"),
    DataSet(
        "imagenet",
        "ImageNet 2012, train and val folders",
        ("diffaugment",),
        ("imagenet", "ILSVRC2012"),
        "register at https://image-net.org and download ILSVRC2012",
    ),
)


def data_folder() -> Path | None:
    """The folder of published data sets: $GENGAUGE_DATA, None where it is not set."""
    return Path(os.environ["GENGAUGE_DATA"]) if os.environ.get("GENGAUGE_DATA") else None
