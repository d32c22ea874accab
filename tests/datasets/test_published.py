"""Published data sets by key: each of their forms is found under a data folder; a missing one says how to get it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from gengauge.datasets.catalogue import DATA_SETS, data_set
from gengauge.datasets.published import open_set
from gengauge.datasets.sets import DataNotFound

KEYS = (
    "cifar10", "cifar100", "100-shot-obama", "100-shot-grumpy_cat", "100-shot-panda", "AnimalFace-cat",
    "AnimalFace-dog", "ffhq", "lsun-cat", "imagenet",
)  # fmt: skip
PAIRS = ("church_outdoor_sdedit", "cityscapes-edit")
UNPAIRED = (
    "horse2zebra", "cat2dog", "cityscapes", "cityscapes-cut", "cityscapes-val-for-cut", "grumpifycat",
    "single_image_monet_etretat", "single_image",
)  # fmt: skip
GAN_WARPING = {
    "gan-warping-data": "warp_folders",
    "gan-warping-weights": "edited_weights",
    "gan-warping-pretrained": "network_pickles",
}
CUSTOM_DIFFUSION = {
    "custom-diffusion-data": "concept_sets_paper",
    "customconcept101": "concept_sets",
    "dreambench": "concept_sets_dreambench",
    "coco-captions": "concept_sets_files",
}
LOW_SHOT = [key for key in KEYS if "-shot-" in key or key.startswith("AnimalFace")]


def picture(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def values(key: str, root: Path, resolution: int, split: str = "train") -> list[float]:
    """The red of each picture's first pixel."""
    found = open_set(key, root, resolution, split)
    return found.pictures(range(len(found)))[:, 0, 0, 0].tolist()


def test_the_catalogue_has_every_key_once() -> None:
    keys = [entry.key for entry in DATA_SETS]
    assert len(set(keys)) == len(keys)
    assert {*KEYS, *PAIRS, *UNPAIRED} <= set(keys)
    with pytest.raises(KeyError, match="no data set 'celeba'; there are cifar10"):
        data_set("celeba")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_set_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path, key: str) -> None:
    entry, resolution = data_set(key), 32
    with pytest.raises(DataNotFound, match=r"no data folder is given.*--data DIR or GENGAUGE_DATA") as caught:
        open_set(key, None, resolution)
    assert entry.remedy in caught.value.remedy
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataNotFound) as caught:
            open_set(key, root, resolution)
        assert caught.value.remedy == entry.remedy
        for mark in entry.marks:
            assert str(root / mark) in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_split_that_a_set_lacks_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} has no split 'all'; it has train"):
        open_set(key, tmp_path, 32, "all")


@pytest.mark.parametrize(
    ("key", "reader"),
    [
        *((k, "edits") for k in PAIRS),
        *((k, "unpaired") for k in UNPAIRED),
        *GAN_WARPING.items(),
        *CUSTOM_DIFFUSION.items(),
    ],
)
def test_a_set_that_is_no_plain_pictures_has_a_reader_of_its_own(tmp_path: Path, key: str, reader: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is no plain set.*datasets.{reader}"):
        open_set(key, tmp_path, 32)


@pytest.mark.parametrize("key", UNPAIRED)
def test_unpaired_sets_are_found_and_say_how_they_are_got(tmp_path: Path, key: str) -> None:
    entry = data_set(key)
    assert entry.papers == ("cut",)
    assert "data folder" in entry.remedy
    assert entry.find(tmp_path) is None
    (tmp_path / entry.marks[0]).mkdir(parents=True)
    assert entry.find(tmp_path) == tmp_path / entry.marks[0]


@pytest.mark.parametrize("key", GAN_WARPING)
def test_gan_warpings_folders_are_found_and_say_how_they_are_got(tmp_path: Path, key: str) -> None:
    entry, part = data_set(key), key.removeprefix("gan-warping-")
    assert entry.papers == ("gan_warping",)
    assert re.search(
        rf"bash {part}/download\w+\.sh` of PeterWang512/GANWarping.* gan_warping/{part} of the data folder",
        entry.remedy,
    )
    assert entry.find(tmp_path) is None
    (tmp_path / "GANWarping" / part).mkdir(parents=True)
    assert entry.find(tmp_path) == tmp_path / "GANWarping" / part


@pytest.mark.parametrize("key", LOW_SHOT)
def test_low_shot_sets_are_folders_or_archives(tmp_path: Path, key: str) -> None:
    for i in range(3):
        picture(tmp_path / key / f"{i}.png", i)
    assert values(key, tmp_path, 8) == [0, 1, 2]
    assert open_set(key, tmp_path, 4).pictures([1]).shape == (1, 3, 4, 4)
    with zipfile.ZipFile(tmp_path / f"{key}.zip", "w") as archive:
        archive.write(tmp_path / key / "2.png", "2.png")
    assert values(key, tmp_path, 8) == [2]
    assert open_set(key, tmp_path, 8).name == key


def test_cifar_by_key(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"\x03" + bytes([9]) * 3072)
    assert values("cifar10", tmp_path, 32, "test") == [9]
    assert data_set("cifar10").find(tmp_path) == tmp_path / "cifar-10-batches-bin"
    with pytest.raises(ValueError, match="pictures of 32 pixels, not 64"):
        open_set("cifar10", tmp_path, 64)


def test_ffhq_as_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "ffhq256" / "00000" / "00001.png", 5)
    assert values("ffhq", tmp_path, 8) == [5]
    # The official folder: the aligned pictures are taken, their thumbnails are not.
    picture(tmp_path / "ffhq" / "thumbnails128x128" / "00000.png", 7, (2, 2))
    picture(tmp_path / "ffhq" / "images1024x1024" / "00000.png", 6, (16, 16))
    assert values("ffhq", tmp_path, 8) == [6]


def test_imagenet_has_class_folders_or_loose_validation_pictures(tmp_path: Path) -> None:
    for i, name in enumerate(("n02", "n01")):
        picture(tmp_path / "ILSVRC2012" / "train" / name / "x.JPEG", 40 * i, (20, 10))
    train = open_set("imagenet", tmp_path, 8)
    assert train.labels is not None
    assert (train.labels.tolist(), train.num_classes) == ([0, 1], 2)
    assert values("imagenet", tmp_path, 8) == [40, 0]
    with pytest.raises(DataNotFound):
        open_set("imagenet", tmp_path, 8, "test")
    picture(tmp_path / "ILSVRC2012" / "val" / "b.png", 2)
    assert open_set("imagenet", tmp_path, 8, "test").labels is None
    assert open_set("imagenet", tmp_path, 8, "test").name != train.name
