"""SPair-71k in its published folders, pairs of it, databases prepared of it, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from key_point_trees import Pair, write_spair
from PIL import Image

from gengauge.datasets.key_points import KeyPointSet
from gengauge.datasets.pairing import disjoint_pairs, random_pairs, resampled_pairs
from gengauge.datasets.prepared import PreparedPictures, read_prepared, write_key_point_set, write_prepared
from gengauge.datasets.sets import DataNotFound, PictureSet
from gengauge.datasets.spair import CATEGORIES, PERMUTATIONS, read_spair
from gengauge.datasets.squares import fitted, frame

SIZES = {"a": (60, 40), "b": (32, 50), "c": (1, 1)}
PAIRS: list[Pair] = [
    ("a", "b", {"0": ((10, 20), (3, 4)), "2": ((59, 39), (31, 49))}),
    ("b", "a", {"2": ((1, 2), (5, 6))}),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = write_spair(tmp_path / "SPair-71k", "cow", SIZES, PAIRS, 4)
    (root / "PairAnnotation" / "test" / "000000-a-b:cat.json").write_text("of another category")
    return root


def test_pairs_become_two_pictures_each(tree: Path) -> None:
    found: PictureSet = read_spair(tree.parent, "cow", size=30)
    assert isinstance(found, KeyPointSet)
    assert (len(found), found.resolution, found.name) == (4, 30, "spair-cow-test")
    assert found.pairs is not None
    assert found.pairs.tolist() == [[0, 1], [2, 3]]
    assert found.permutation is None
    # Key points 1 and 3 never occur. The scale of a is 1/2, of b 3/5 with 5 px to the left.
    assert found.key_points.shape == (4, 2, 3)
    assert found.key_points[0].tolist() == [[5, 15, 1], [29.5, 24.5, 1]]
    assert found.key_points[1].numpy() == pytest.approx(np.array([[6.8, 2.4, 1], [23.6, 29.4, 1]]), abs=1e-5)
    assert found.key_points[2, 0].tolist() == [0, 0, 0]
    assert found.lengths is not None
    assert found.lengths.tolist() == [20, 30, 20, 30]
    assert found.thresholds([0, 3]).tolist() == [10, 15]
    with Image.open(tree / "JPEGImages" / "cow" / "b.jpg") as picture:
        assert np.array_equal(found.pictures([1])[0].permute(1, 2, 0).numpy(), fitted(picture, 30, "border"))


def test_a_system_without_colons_in_names(tree: Path) -> None:
    before = read_spair(tree, "cow", size=16)
    for file in (tree / "PairAnnotation" / "test").glob("*:cow.json"):
        file.rename(file.with_name(file.name.replace(":", "_")))
    assert torch.equal(read_spair(tree, "cow", size=16).key_points, before.key_points)


def test_permutations_are_their_own_inverse() -> None:
    assert set(PERMUTATIONS) < set(CATEGORIES)
    for order in PERMUTATIONS.values():
        assert [order[i] for i in order] == list(range(len(order)))


def test_a_permutation_must_fit_the_points_that_occur() -> None:
    points = torch.zeros(1, 2, 3)
    assert KeyPointSet("x", 8, points).usable_permutation() is None
    order = torch.tensor([1, 0])
    assert KeyPointSet("x", 8, points, permutation=order).usable_permutation() is order
    with pytest.raises(ValueError, match="2 key points that occur and a permutation of 3"):
        KeyPointSet("x", 8, points, permutation=torch.arange(3)).usable_permutation()
    assert KeyPointSet("x", 8, points).thresholds([0]).tolist() == [8]
    with pytest.raises(ValueError, match="has no pictures"):
        KeyPointSet("x", 8, points).pictures([0])


def spoil(tree: Path, **change: Any) -> None:
    file = tree / "PairAnnotation" / "test" / "000000-a-b:cow.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src_kps": [[1, 2]]}, "no pair of SPair-71k"),
        ({"src_kps": None}, "no pair of SPair-71k"),
        ({"kps_ids": ["0", "99"]}, "key point 99, cow has 4"),
        ({"src_imname": "../../secret.jpg"}, "no name of a picture"),
        ({"trg_bndbox": [5, 5, 5, 9]}, "box has no size"),
    ],
)
def test_damaged_pairs_are_named(tree: Path, change: dict[str, Any], message: str) -> None:
    spoil(tree, **change)
    with pytest.raises(ValueError, match=message):
        read_spair(tree, "cow")


def test_what_is_missing_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"SPair-71k.*To get it"):
        read_spair(tmp_path / "nowhere", "cow")
    with pytest.raises(ValueError, match="no category 'unicorn'"):
        read_spair(tree, "unicorn")
    with pytest.raises(DataNotFound, match="category cow, split val"):
        read_spair(tree, "cow", "val")
    with pytest.raises(DataNotFound, match="category dog"):
        read_spair(tree, "dog")
    with pytest.raises(ValueError, match="border, zero or center"):
        read_spair(tree, "cow", fit="none")
    (tree / "JPEGImages" / "cow" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read"):
        read_spair(tree, "cow")
    (tree / "JPEGImages" / "cow" / "b.jpg").unlink()
    with pytest.raises(DataNotFound, match=r"the picture b\.jpg"):
        read_spair(tree, "cow")
    (tree / "ImageAnnotation" / "cow" / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json holds no dictionary"):
        read_spair(tree, "cow")


def test_a_prepared_database_comes_back(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    before = read_spair(tree, "cow", size=24)
    assert write_key_point_set(tmp_path / "cow", before) == 4
    after = read_prepared(tmp_path / "cow", 24)
    assert torch.equal(after.pictures(range(4)), before.pictures(range(4)))
    for name in ("key_points", "pairs", "lengths", "inverse_coordinates"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    assert after.permutation is None
    with pytest.raises(FileExistsError, match="is there already"):
        write_key_point_set(tmp_path / "cow", before)
    with pytest.raises(ValueError, match="pictures of 32 px"):
        read_prepared(tmp_path / "cow", 32)
    (tmp_path / "cow" / "inverse_coordinates.pt").unlink()
    with pytest.raises(ValueError, match="only one of"):
        read_prepared(tmp_path / "cow", 24)
    (tmp_path / "cow" / "keypoints.pt").unlink()
    with pytest.raises(DataNotFound, match="key points of cow"):
        read_prepared(tmp_path / "cow", 24)


def test_prepared_pictures_come_by_index_and_not_by_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lmdb")
    monkeypatch.setattr("gengauge.datasets.prepared.key_of", lambda size, index: f"{size}-{index}")
    grey = (np.full((2, 2, 3), i, np.uint8) for i in range(12))  # 10 stands before 2
    write_prepared(tmp_path / "set", grey, 2)
    found: PictureSet = PreparedPictures(tmp_path / "set", 2)
    assert found.pictures(range(12))[:, 0, 0, 0].tolist() == list(range(12))
    with pytest.raises(IndexError):
        found.pictures([12])


def test_nothing_is_left_of_a_database_that_fails(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    for pictures, message in (([], "0 pictures"), ([np.zeros((2, 2), np.uint8)], "uint8")):
        with pytest.raises(ValueError, match=message):
            write_prepared(tmp_path / "set", pictures, 2)
    assert not list(tmp_path.iterdir())


def test_fits() -> None:
    wide = Image.fromarray(np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3))
    assert fitted(wide, None, "none").shape == (4, 8, 3)
    assert fitted(wide, 2, "small_side").shape == (2, 4, 3)
    assert fitted(wide, 100, "border").shape == (100, 100, 3)  # smaller pictures are made larger
    assert fitted(Image.new("L", (1, 300)), 4, "zero").shape == (4, 4, 3)
    # A place moves with what is there, also where the square is cut out.
    assert frame((8, 4), 4, "center").moved(np.array([[2.0, 0, 1], [7, 3, 0]])).tolist() == [[0, 0, 1], [0, 0, 0]]
    for fit, size, message in (("other", 4, "fitted by"), ("center", None, "without a size"), ("border", 0, "above 0")):
        with pytest.raises(ValueError, match=message):
            frame((8, 4), size, fit)  # type: ignore[arg-type]


def test_random_pairs_begin_anew_when_all_are_used() -> None:
    pairs = random_pairs(7, 10)
    assert pairs.shape == (10, 2)
    for start in (0, 3, 6):
        assert pairs[start : start + 3].unique().numel() == 6
    assert torch.equal(pairs[:4], random_pairs(7, 4))
    assert not torch.equal(pairs, random_pairs(7, 10, seed=1))
    assert random_pairs(7, 0).shape == (0, 2)
    generator = torch.Generator()
    with pytest.raises(ValueError, match="make no pair"):
        disjoint_pairs(1, generator)
    with pytest.raises(ValueError, match="pairs are"):
        resampled_pairs(torch.zeros(0, 2), generator)
