"""The published data sets by key: finds one under the data folder, in any of its published forms, and opens it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from gengauge.datasets.catalogue import DataSet, data_set
from gengauge.datasets.cifar import read_cifar
from gengauge.datasets.lsun import LMDBSet
from gengauge.datasets.pictures_set import FolderSet
from gengauge.datasets.sets import DataNotFound, PictureSet
from gengauge.datasets.tfrecords import TFRecordSet

# Sets that are no plain pictures, and who reads them.
_READ_BY = {
    **dict.fromkeys(("church_outdoor_sdedit", "cityscapes-edit"), "edits"),
    **dict.fromkeys(
        (
            "horse2zebra", "cat2dog", "cityscapes", "cityscapes-cut", "cityscapes-val-for-cut", "grumpifycat",
            "single_image_monet_etretat", "single_image",
        ),
        "unpaired",
    ),
    "spair-71k": "spair",
    "cub": "cub",
    "gan-warping-data": "warp_folders",
    "gan-warping-weights": "edited_weights",
    "gan-warping-pretrained": "network_pickles",
    **dict.fromkeys(("custom-diffusion-data", "custom-diffusion-prompts"), "concept_sets_paper"),
    **dict.fromkeys(("customconcept101", "customconcept101-prompts"), "concept_sets"),
    "custom-diffusion-models": "delta_files",
    "dreambench": "concept_sets_dreambench",
    "coco-captions": "concept_sets_files",
    "coco-val": "folder",
    "stable-diffusion-v1-4": "diffusers_folder",
}  # fmt: skip
_SPLITS = {"cifar10": ("train", "test"), "cifar100": ("train", "test"), "imagenet": ("train", "test")}


def open_set(key: str, root: Path | None, resolution: int, split: str = "train") -> PictureSet:
    """The data set `key` of datasets.catalogue at `resolution` pixels, from the data folder `root`.

    Sets without a split but "train" are compared with the very pictures that they are trained on. ImageNet comes as
    central squares scaled bilinearly, its "test" being the published validation pictures; crops and scalings of other
    kinds are made from `FolderSet.original`.

    Raises DataNotFound with the catalogue's remedy, KeyError for an unknown key, ValueError for a split or resolution
    that the set does not have, for a set that another module reads and for damaged files.
    """
    entry = data_set(key)
    if key in _READ_BY:
        raise ValueError(f"{key} is no plain set of pictures: read it with gengauge.datasets.{_READ_BY[key]}")
    splits = _SPLITS.get(key, ("train",))
    if split not in splits:
        raise ValueError(f"{key} has no split {split!r}; it has {' and '.join(splits)}")
    if root is None:
        raise DataNotFound(entry.what, [], f"{entry.remedy}; name that folder by --data DIR or GENGAUGE_DATA")
    opened = _READERS.get(key, _low_shot)(entry, root, resolution, split)
    if opened is None:
        raise DataNotFound(entry.what, [root / mark for mark in entry.marks], entry.remedy)
    return opened


def _cifar(entry: DataSet, root: Path, resolution: int, split: str) -> PictureSet:
    if resolution != 32:
        raise ValueError(f"{entry.key} has pictures of 32 pixels, not {resolution}")
    part: Literal["train", "test"] = "train" if split == "train" else "test"
    return read_cifar(root, 10 if entry.key == "cifar10" else 100, part)


def _low_shot(entry: DataSet, root: Path, resolution: int, split: str) -> PictureSet | None:
    place = entry.find(root)
    return None if place is None else FolderSet(place, resolution, name=entry.key)


def _ffhq(entry: DataSet, root: Path, resolution: int, split: str) -> PictureSet | None:
    """Records of the resolution, which are the published training data; else pictures, scaled to it."""
    level = math.log2(resolution)
    names = [f"ffhq-{resolution}.tfrecords", *([f"ffhq-r{int(level):02d}.tfrecords"] if level.is_integer() else [])]
    for file in (folder / name for folder in (root, root / "ffhq") for name in names):
        if file.is_file():
            records = TFRecordSet(file, name=entry.key)
            if records.resolution != resolution:
                raise ValueError(f"{file} has pictures of {records.resolution} pixels, not {resolution}")
            return records
    # The official folder has the pictures in three forms, of which this is the aligned one at full size.
    aligned = root / "ffhq" / "images1024x1024"
    folders = [place for place in entry.places(root) if place.suffix != ".tfrecords"]
    for place in ([aligned] if aligned.is_dir() else []) + folders:
        if place.is_file() or not any(place.glob("*.tfrecords")):
            return FolderSet(place, resolution, name=entry.key)
    others = sorted(file.name for folder in (root, root / "ffhq") for file in folder.glob("ffhq-*.tfrecords"))
    if others:
        places = [root / names[-1], root / "ffhq" / names[-1]]
        raise DataNotFound(f"FFHQ at {resolution} px (there is {', '.join(others)})", places, entry.remedy)
    return None


def _lsun(entry: DataSet, root: Path, resolution: int, split: str) -> PictureSet | None:
    place = next((place for place in entry.places(root) if (place / "data.mdb").is_file()), None)
    return None if place is None else LMDBSet(place, resolution, name=entry.key)


def _imagenet(entry: DataSet, root: Path, resolution: int, split: str) -> PictureSet | None:
    folder = "train" if split == "train" else "val"  # the labelled pictures that everybody compares with
    place = next((place / folder for place in entry.places(root) if (place / folder).is_dir()), None)
    if place is None:
        return None
    # The validation pictures are published in one folder without their classes, which comparisons do not need.
    classes = split == "train" or any(child.is_dir() for child in place.iterdir())
    return FolderSet(
        place, resolution, crop="center", resample="bilinear", class_folders=classes, name=f"{entry.key}-{split}"
    )


_READERS: Mapping[str, Callable[[DataSet, Path, int, str], PictureSet | None]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "ffhq": _ffhq,
    "lsun-cat": _lsun,
    "imagenet": _imagenet,
}
