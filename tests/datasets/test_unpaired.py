"""Unpaired folders: how they are found, what each way of making ready gives, order and chance, damage."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.unpaired import (
    Choices,
    Transform,
    UnpairedBatches,
    UnpairedFolders,
    apply,
    draw,
    evaluation,
    resized,
    to_tensor,
)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def fill(folder: Path, count: int, size: tuple[int, int] = (40, 36), first: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        picture(*size, seed=first + i).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "set" / "trainA", 3)
    fill(tmp_path / "set" / "trainB", 5, first=10)
    return tmp_path / "set"


def test_folders_and_their_order(root: Path) -> None:
    (root / "trainA" / "10.png").write_bytes((root / "trainA" / "1.png").read_bytes())
    folders = UnpairedFolders(root)
    assert len(folders) == 5
    assert [folders.file("A", i) for i in range(4)] == ["0.png", "1.png", "10.png", "2.png"]
    assert np.array_equal(np.asarray(folders.picture("B", 2)), np.asarray(picture(40, 36, 12)))
    with pytest.raises(IndexError):
        folders.picture("A", 4)


def test_the_validation_set_stands_for_a_missing_test_set(root: Path) -> None:
    with pytest.raises(DataNotFound, match=r"testA.*testA.*valA"):
        UnpairedFolders(root, "test")
    fill(root / "valA", 1)
    fill(root / "valB", 2)
    assert len(UnpairedFolders(root, "test")) == 2
    fill(root / "testA", 4)
    fill(root / "testB", 1)
    assert len(UnpairedFolders(root, "test")) == 4


def test_a_missing_side_and_an_empty_one(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="trainA"):
        UnpairedFolders(tmp_path / "nowhere")
    for file in (root / "trainB").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"trainB holds no pictures"):
        UnpairedFolders(root)
    (root / "trainB").rmdir()
    with pytest.raises(DataNotFound, match="trainB"):
        UnpairedFolders(root)


def test_a_damaged_picture_is_named(root: Path) -> None:
    whole = (root / "trainB" / "3.png").read_bytes()
    (root / "trainB" / "3.png").write_bytes(whole[: len(whole) // 2])
    folders = UnpairedFolders(root)
    with pytest.raises(ValueError, match=r"3\.png in .*trainB cannot be read"):
        folders.picture("B", 3)
    batches = UnpairedBatches(folders, Transform(load_size=32, crop_size=32), 0, 1)
    with pytest.raises(ValueError, match=r"3\.png"):
        list(islice(batches.start(0, "cpu"), 60))


def test_damaged_pictures_are_left_out_only_where_that_is_asked_for(root: Path, recwarn: Any) -> None:
    for name in ("1.png", "3.png"):
        whole = (root / "trainB" / name).read_bytes()
        (root / "trainB" / name).write_bytes(whole[: len(whole) // 2])
    assert len(UnpairedFolders(root).b) == 5
    assert len(UnpairedFolders(root, skip_damaged=True).a) == 3
    assert [str(w.message).partition(" in ")[0] for w in recwarn] == ["2 damaged of 5 pictures"]
    with pytest.warns(UserWarning, match=r"2 damaged of 5 pictures in .*trainB are left out: 1\.png, 3\.png") as caught:
        folders = UnpairedFolders(root, skip_damaged=True)
    assert Path(caught[0].filename).name == Path(__file__).name
    assert [folders.file("B", i) for i in range(len(folders.b))] == ["0.png", "2.png", "4.png"]
    assert np.array_equal(np.asarray(folders.picture("B", 1)), np.asarray(picture(40, 36, 12)))
    batches = UnpairedBatches(folders, Transform(load_size=34, crop_size=32), 0, 1)
    assert len(list(islice(batches.start(0, "cpu"), 30))) == 30


def test_a_side_of_damaged_pictures_only_is_an_error(root: Path) -> None:
    for file in (root / "trainA").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"trainA has no picture that can be read: 0\.png in .*cannot be read"):
        UnpairedFolders(root, skip_damaged=True)


def test_a_picture_smaller_than_its_crop_is_named(root: Path) -> None:
    picture(30, 40).save(root / "trainA" / "1.png")
    batches = UnpairedBatches(UnpairedFolders(root), Transform("crop", crop_size=32), 0, 1)
    with pytest.raises(ValueError, match=r"1\.png in .*trainA: a picture of 30 x 40 px is smaller than its crop"):
        list(islice(batches.start(0, "cpu"), 5))


def test_a_picture_of_odd_sides_gives_batches_of_multiples_of_four(root: Path) -> None:
    for folder in ("trainA", "trainB"):
        for file in (root / folder).iterdir():
            picture(41, 35, len(file.name)).save(file)
    reals = UnpairedBatches(UnpairedFolders(root), Transform("none"), 0, 2).read(0)
    assert reals.shape == (4, 3, 36, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_any_kind_are_finite_and_within_bounds(root: Path, mode: str) -> None:
    for file in (*(root / "trainA").iterdir(), *(root / "trainB").iterdir()):
        made = picture(40, 36, 5).convert(mode)
        file.unlink()
        made.save(file.with_suffix(".jpg" if mode == "CMYK" else ".png"))
    reals = UnpairedBatches(UnpairedFolders(root), Transform(load_size=50, crop_size=48), 0, 2).read(0)
    assert reals.isfinite().all()
    assert -1 <= reals.min() < reals.max() <= 1


def test_pictures_of_floats_are_refused(root: Path) -> None:
    bad = np.full((36, 40), np.nan, np.float32)
    Image.fromarray(bad).save(root / "trainA" / "0.tif")
    with pytest.raises(ValueError, match=r"0\.tif in .*more than 8 bits a colour"):
        UnpairedFolders(root).picture("A", 1)


@pytest.mark.parametrize(
    ("how", "size", "expected"),
    [
        (Transform("resize", 50, 40), (76, 60), (48, 48)),  # 12.5 fours are 12
        (Transform("resize_and_crop", 46, 40), (76, 60), (40, 40)),
        (Transform("resize_and_crop", 96, 32, half_height=True), (76, 60), (32, 32)),
        (Transform("scale_width", 48, 32), (76, 60), (48, 36)),
        (Transform("scale_width", 48, 44), (76, 60), (48, 44)),
        (Transform("scale_width", 76, 44), (76, 60), (76, 60)),
        (Transform("scale_width_and_crop", 48, 32), (76, 60), (32, 32)),
        (Transform("scale_shortside", 120, 32), (76, 60), (152, 120)),
        (Transform("scale_shortside", 30, 32), (76, 60), (76, 60)),
        (Transform("crop", 286, 32), (76, 60), (32, 32)),
        (Transform("zoom_and_patch", 1024, 32), (76, 60), (32, 32)),
        (Transform("none"), (1200, 966), (1200, 968)),  # 241.5 fours are 242
        (Transform("none"), (3, 5), (4, 4)),
    ],
)
def test_sizes(how: Transform, size: tuple[int, int], expected: tuple[int, int]) -> None:
    for seed in range(5):
        choices = draw(how, size, np.random.default_rng(seed))
        assert apply(picture(*size), how, choices).size == expected


def test_all_crops_and_flips_come_and_none_leaves_the_picture() -> None:
    how = Transform(load_size=34, crop_size=32)
    random = np.random.default_rng(0)
    drawn = [draw(how, (76, 60), random) for _ in range(300)]
    assert {choice.corner for choice in drawn} == {(x, y) for x in range(3) for y in range(3)}
    assert 0.4 < sum(choice.flip for choice in drawn) / 300 < 0.6
    assert not any(draw(Transform(mirrored=False), (300, 300), random).flip for _ in range(20))
    x = picture(76, 60)
    plain, mirrored = (np.asarray(apply(x, how, Choices((1, 2), flip))) for flip in (False, True))
    assert np.array_equal(plain[:, ::-1], mirrored)


def test_patches_lie_on_a_grid_that_is_counted_down_the_columns() -> None:
    how = Transform("zoom_and_patch", crop_size=16)
    x = picture(40, 54)  # two columns of three rows
    cells = [np.asarray(apply(x, how, Choices(patch=i, start=(3, 5)))) for i in range(7)]
    whole = np.asarray(x)
    for i in range(6):
        column, row = divmod(i, 3)
        top, left = 5 + 16 * row, 3 + 16 * column
        assert np.array_equal(cells[i], whole[top : top + 16, left : left + 16])
    assert np.array_equal(cells[6], cells[0])


def test_zooms_keep_room_for_a_patch() -> None:
    how = Transform("zoom_and_patch", crop_size=64)
    random = np.random.default_rng(0)
    for _ in range(50):
        choices = draw(how, (100, 1000), random)
        width, height = resized(how, (100, 1000), choices.zoom)
        assert 64 <= width <= 100
        assert 333 <= height <= 1000
        assert 1 / 3 <= min(choices.zoom) <= max(choices.zoom) <= 1


@pytest.mark.parametrize("preprocess", ["crop", "resize_and_crop"])
def test_a_crop_larger_than_the_picture(preprocess: Any) -> None:
    how = Transform(preprocess, 20, 32)
    with pytest.raises(ValueError, match="smaller than its crop of 32 px"):
        draw(how, (30, 30), np.random.default_rng(0))
    with pytest.raises(ValueError, match="smaller than its crop of 32 px"):
        apply(picture(30, 30), how, Choices())
    with pytest.raises(ValueError, match="leaves a picture"):
        apply(picture(76, 60), Transform("crop", 286, 32), Choices((50, 0)))


def test_what_pictures_are_tested_with() -> None:
    how = evaluation(Transform())
    assert (how.preprocess, how.load_size, how.crop_size, how.mirrored) == ("resize_and_crop", 256, 256, False)
    assert apply(picture(300, 200), how, draw(how, (300, 200), np.random.default_rng(0))).size == (256, 256)
    single = evaluation(Transform("zoom_and_patch", 1024, 64, resample="bilinear"))
    assert apply(picture(121, 97), single, Choices()).size == (120, 96)


def test_values_lie_between_minus_one_and_one() -> None:
    x = to_tensor(Image.fromarray(np.array([[[0, 255, 51]]], np.uint8)))
    assert x.dtype == torch.float32
    assert torch.allclose(x.flatten(), torch.tensor([-1, 1, -0.6]))


def test_batches_hold_a_before_b_and_depend_on_the_place_only(root: Path) -> None:
    folders = UnpairedFolders(root)
    how = Transform("none", mirrored=False)
    batches = UnpairedBatches(folders, how, 3, 1)
    assert batches.iterations_per_epoch == 5
    known = {
        side: [to_tensor(folders.picture(side, i)) for i in range(count)]  # type: ignore[arg-type]
        for side, count in (("A", 3), ("B", 5))
    }
    run = [reals for reals, _ in islice(batches.start(0, "cpu"), 10)]
    of_a = [next(i for i, x in enumerate(known["A"]) if torch.equal(x, reals[0])) for reals in run]
    assert all(any(torch.equal(x, reals[1]) for x in known["B"]) for reals in run)
    for epoch in (of_a[:5], of_a[5:]):
        assert sorted(epoch) == [0, 0, 1, 1, 2]
    later, labels = next(batches.start(7, "cpu"))
    assert torch.equal(later, run[7])
    assert labels.tolist() == [0, 0]
    other = UnpairedBatches(folders, how, 4, 1)
    assert any(not torch.equal(other.read(i), run[i]) for i in range(5))


def test_jitter_ends_with_the_first_epochs(root: Path) -> None:
    folders = UnpairedFolders(root)
    how = Transform(load_size=60, crop_size=32, mirrored=False)
    steady = UnpairedBatches(folders, how, 0, 1, jitter_epochs=1)
    whole = to_tensor(apply(folders.picture("A", 0), Transform(load_size=32, crop_size=32), Choices()))
    assert not any(torch.equal(steady.read(i)[0], whole) for i in range(5))
    assert any(torch.equal(steady.read(i)[0], whole) for i in range(5, 10))


def test_processes_share_a_batch(root: Path) -> None:
    folders = UnpairedFolders(root)
    how = Transform(load_size=36, crop_size=32)
    whole = UnpairedBatches(folders, how, 0, 4).read(0)
    shares = [UnpairedBatches(folders, how, 0, 4, process=i, processes=2).read(0) for i in (0, 1)]
    assert torch.equal(torch.stack([shares[0][:2], shares[1][:2]], 1).flatten(0, 1), whole[:4])
    assert torch.equal(torch.stack([shares[0][2:], shares[1][2:]], 1).flatten(0, 1), whole[4:])
    with pytest.raises(ValueError, match="cannot be shared"):
        UnpairedBatches(folders, how, 0, 3, processes=2)
    with pytest.raises(ValueError, match="has no batch of 6"):
        UnpairedBatches(folders, how, 0, 6)
    assert UnpairedBatches(folders, how, 0, 6, epoch=100).iterations_per_epoch == 16


def test_pictures_of_different_sizes_make_no_batch(root: Path) -> None:
    picture(20, 20).save(root / "trainA" / "0.png")
    batches = UnpairedBatches(UnpairedFolders(root), Transform("none"), 0, 2)
    with pytest.raises(ValueError, match="make no batch"):
        list(islice(batches.start(0, "cpu"), 10))
