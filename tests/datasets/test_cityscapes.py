"""Cityscapes: prepared as published with either filter, whole or not at all; the truth of its scores, in order."""

from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gengauge.datasets import cityscapes
from gengauge.datasets.cityscapes import (
    EVALUATED_IDS,
    CityscapesTruth,
    find_tree,
    photos,
    prepare,
    read_preparation,
    read_train_ids,
)
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.unpaired import UnpairedFolders

# As unpacked; the sorted order is b's of aachen before those of zurich.
TRAIN = ("zurich/zurich_000001_000019", "aachen/aachen_000002_000019", "aachen/aachen_000001_000019")
VAL = (*(f"lindau/lindau_{i:06}_000019" for i in range(11)), "frankfurt/frankfurt_000000_000294")
SIZE = (64, 32)
COLOURS = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the published set")


def save(pixels: Any, file: Path, mode: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    (picture.convert(mode) if mode else picture).save(file)


def photo(tree: Path, split: str, name: str) -> Path:
    return tree / "leftImg8bit" / split / f"{name}_leftImg8bit.png"


def labels(tree: Path, split: str, name: str, kind: str) -> Path:
    return tree / "gtFine" / split / f"{name}_gtFine_{kind}.png"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    random = np.random.default_rng(0)
    width, height = SIZE
    for split, names in (("train", TRAIN), ("val", VAL)):
        for name in names:
            save(random.integers(0, 256, (height, width, 3)), photo(root, split, name))
            save(COLOURS[random.integers(3, size=(height, width))], labels(root, split, name, "color"), "RGBA")
            save(random.integers(0, 34, (height, width)), labels(root, split, name, "labelIds"))
    return root


def test_the_places_are_those_of_the_sorted_photographs(tree: Path) -> None:
    (tree / "leftImg8bit" / "train" / "aachen" / "._aachen_000001_000019_leftImg8bit.png").write_bytes(b"")
    assert [p.name for p in photos(tree, "train")] == [TRAIN[2], TRAIN[1], TRAIN[0]]
    assert photos(tree, "val")[0].name == VAL[-1]
    assert find_tree(tree) == find_tree(tree.parent) == find_tree(tree / "leftImg8bit") == tree
    with pytest.raises(DataNotFound, match=r"leftImg8bit and gtFine of Cityscapes not found.*cityscapes-dataset\.com"):
        find_tree(tree / "gtFine")
    shutil.rmtree(tree / "leftImg8bit" / "val")
    with pytest.raises(DataNotFound, match="split val not found"):
        photos(tree, "val")


@pytest.mark.parametrize(("resample", "kind"), [("nearest", 0), ("bicubic", 3)])
def test_pictures_are_what_the_published_script_makes(tree: Path, tmp_path: Path, resample: Any, kind: int) -> None:
    target, told = tmp_path / "new" / "cut", []
    made = prepare(tree, target, resample, lambda done, total: told.append((done, total)))
    assert told == [(i, 15) for i in range(1, 16)]
    assert made == read_preparation(target)
    assert (made.resample, made.size, made.train, made.test) == (resample, (256, 256), 3, 12)
    assert {p.name for p in target.iterdir()} == {"trainA", "trainB", "testA", "testB", "prepared.json"}
    assert sorted(p.name for p in (target / "trainA").iterdir()) == ["0_A.jpg", "1_A.jpg", "2_A.jpg"]
    assert not [p for p in target.parent.iterdir() if p.name.endswith("part")]
    for side, source in (("A", photo(tree, "train", TRAIN[1])), ("B", labels(tree, "train", TRAIN[1], "color"))):
        expected = Image.open(source).convert("RGB").resize((256, 256), kind)
        expected.save(tmp_path / "expected.jpg", format="JPEG", subsampling=0, quality=100)
        assert (target / f"train{side}" / f"1_{side}.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()
    folders = UnpairedFolders(target, "test")
    assert (len(folders.a), len(folders.b)) == (12, 12)


def test_nearest_keeps_the_colours_of_labels_and_bicubic_mixes_them(tree: Path, tmp_path: Path) -> None:
    def distance(resample: Any) -> float:
        prepare(tree, tmp_path / resample, resample)
        pixels = np.asarray(Image.open(tmp_path / resample / "trainB" / "0_B.jpg"), np.int64)
        return float(np.abs(pixels[:, :, None] - COLOURS).max(-1).min(-1).mean())

    assert distance("nearest") < 3 < 10 < distance("bicubic")


def test_the_counts_are_compared_with_the_published_ones(tree: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="3 photographs in the split train, 2975 are published"):
        prepare(tree, tmp_path / "cut")


def test_what_is_prepared_is_not_made_again_nor_mixed_with_another(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "cut"
    first = prepare(tree, target)
    monkeypatch.setattr(cityscapes, "_write", lambda *_: pytest.fail("a picture was made again"))
    monkeypatch.setattr(cityscapes.PIL, "__version__", "99.0")
    assert prepare(tree, target) == first
    with pytest.raises(FileExistsError, match=r"cut holds another preparation \(resample nearest, 3 and 12 pairs\)"):
        prepare(tree, target, "bicubic")
    (target / "testB" / "3_B.jpg").unlink()
    with pytest.raises(FileExistsError, match=r"testB has 11 of its 12 pictures; remove"):
        prepare(tree, target)
    with pytest.raises(ValueError, match="resample is nearest or bicubic, not 'lanczos'"):
        prepare(tree, target, "lanczos")  # type: ignore[arg-type]


def test_a_target_with_other_things_is_left_alone(tree: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "trainA").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="holds no prepared Cityscapes"):
        prepare(tree, mine)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="holds no prepared Cityscapes"):
        prepare(tree, tmp_path / "file")
    (mine / "trainA").rmdir()
    prepare(tree, mine)
    for note in ("{", "[]", '{"size": 3}', json.dumps({"resample": "nearest"})):
        (mine / "prepared.json").write_text(note)
        with pytest.raises(ValueError, match="does not tell how the pictures were made"):
            prepare(tree, mine)


def test_a_run_that_was_ended_goes_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, write, made = tmp_path / "cut", cityscapes._write, []

    def full(file: Path, place: Path, plan: Any) -> None:
        if len(made) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(place)
        write(file, place, plan)

    monkeypatch.setattr(cityscapes, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    monkeypatch.setattr(cityscapes, "_write", full)
    with pytest.raises(OSError, match=r"cut cannot be prepared \(.*No space left.*the same command goes on"):
        prepare(tree, target)
    assert not target.exists()
    part = tmp_path / ".cut.part"
    before = {place: place.stat().st_mtime_ns for place in made}
    assert before
    (part / "trainA" / "0_A.tmp").write_bytes(b"half")
    monkeypatch.setattr(cityscapes, "_write", write)
    prepare(tree, target)
    assert {p: (target / p.relative_to(part)).stat().st_mtime_ns for p in made} == before
    assert len(list((target / "testA").iterdir())) == 12


def test_what_another_run_began_is_thrown_away(tree: Path, tmp_path: Path) -> None:
    part = tmp_path / ".cut.part"
    for note in ("{", None):
        (part / "trainA").mkdir(parents=True)
        (part / "trainA" / "0_A.jpg").write_bytes(b"another")
        if note:
            (part / "prepared.json").write_text(note)
        prepare(tree, tmp_path / "cut")
        assert Image.open(tmp_path / "cut" / "trainA" / "0_A.jpg").size == (256, 256)
        shutil.rmtree(tmp_path / "cut")


def test_a_folder_that_cannot_be_made_is_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/cut cannot be prepared"):
        prepare(tree, tmp_path / "file" / "cut")


def test_the_first_photograph_without_labels_is_named_and_nothing_is_written(tree: Path, tmp_path: Path) -> None:
    labels(tree, "val", VAL[3], "color").unlink()
    labels(tree, "val", VAL[5], "color").unlink()
    with pytest.raises(DataNotFound, match=r"label map of the photograph .*lindau_000003_000019_leftImg8bit\.png"):
        prepare(tree, tmp_path / "cut")
    for i in (3, 5):
        shutil.copy(labels(tree, "val", VAL[0], "color"), labels(tree, "val", VAL[i], "color"))
    photo(tree, "train", TRAIN[1]).unlink()
    with pytest.raises(DataNotFound, match=r"photograph of the label map .*aachen_000002_000019_gtFine_color\.png"):
        prepare(tree, tmp_path / "cut")
    assert not list(tmp_path.glob("*cut*"))


def test_a_damaged_picture_is_named(tree: Path, tmp_path: Path) -> None:
    file = photo(tree, "val", VAL[3])
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"lindau_000003_000019_leftImg8bit\.png cannot be read as a picture"):
        prepare(tree, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_the_truth_comes_in_the_prepared_order_by_the_nearest_pixel(tree: Path) -> None:
    truth = CityscapesTruth(tree.parent)
    assert len(truth) == 12
    assert truth.names == tuple(sorted(VAL))
    ids = np.asarray(Image.open(labels(tree, "val", truth.names[10], "labelIds")))
    expected = np.full_like(ids, 255)
    for train_id, label in enumerate(EVALUATED_IDS):
        expected[ids == label] = train_id
    found = truth.map(10)
    assert found.dtype == np.uint8
    assert found.shape == (128, 256)
    assert np.array_equal(found, expected.repeat(4, 0).repeat(4, 1))
    for file in ("10_A.jpg", "10_B.png", "results/10_B.png", "10.png"):
        assert np.array_equal(truth.map_of(file), found)
    small = CityscapesTruth(tree, size=(32, 16)).map(10)
    assert np.array_equal(small, expected[1::2, 1::2])
    for file in ("fake_10.png", "10_C.png", "_A.jpg"):
        with pytest.raises(ValueError, match="no name of a prepared picture"):
            truth.map_of(file)
    with pytest.raises(IndexError):
        truth.map(12)


def test_train_ids_are_preferred_where_they_are_there(tree: Path) -> None:
    ids = np.full((4, 8), 255)
    ids[0] = 18
    save(ids, labels(tree, "val", VAL[-1], "labelTrainIds"))
    truth = CityscapesTruth(tree, size=(8, 4))
    assert np.array_equal(truth.map(0), ids)
    assert truth.map(1).max() == 255
    labels(tree, "val", VAL[-1], "labelIds").unlink()
    assert len(CityscapesTruth(tree)) == 12
    labels(tree, "val", VAL[2], "labelIds").unlink()
    with pytest.raises(DataNotFound, match=r"lindau_000002.*labelTrainIds.*labelIds"):
        CityscapesTruth(tree)


def test_the_table_is_that_of_cityscapes() -> None:
    table = cityscapes.train_ids(np.arange(256))
    assert len(EVALUATED_IDS) == 19
    assert {i: table[i] for i in (7, 8, 9, 11, 23, 26, 28, 29, 30, 31, 33)} == {
        7: 0, 8: 1, 9: 255, 11: 2, 23: 10, 26: 13, 28: 15, 29: 255, 30: 255, 31: 16, 33: 18,
    }  # fmt: skip
    assert (table[34:] == 255).all()


def test_label_maps_of_another_kind_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x_gtFine_labelIds.png"
    save(np.full((2, 2), 34), file)
    with pytest.raises(ValueError, match=r"labelIds\.png has the label 34, outside 0\.\.33"):
        read_train_ids(file)
    save(np.full((2, 2), 255), file)
    assert (read_train_ids(file) == 255).all()
    save(np.full((2, 2), 19), tmp_path / "x_gtFine_labelTrainIds.png")
    with pytest.raises(ValueError, match=r"has the label 19, outside 0\.\.18"):
        read_train_ids(tmp_path / "x_gtFine_labelTrainIds.png")
    save(np.zeros((2, 2, 3)), file)
    with pytest.raises(ValueError, match="no map of labels but a picture RGB"):
        read_train_ids(file)
    file.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"labelIds\.png cannot be read as a map of labels"):
        read_train_ids(file)
