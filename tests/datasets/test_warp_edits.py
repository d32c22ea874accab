"""Warp edits: the file that people write, the published folders, and everything that is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.datasets import edit_folders
from gengauge.datasets.colour_edits import ColouredPicture, read_colour_folder, write_colour_folder
from gengauge.datasets.eval_tasks import EvalTask, read_eval_tasks
from gengauge.datasets.unpickling import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.warp_edits import PointedPicture, WarpEdit, read_warp_edit, write_warp_edit
from gengauge.datasets.warp_folders import WarpedPicture, read_warp_folder, write_warp_folder

Pixels = np.ndarray[Any, Any]
SIDE = 16
FIRST = PointedPicture(3, ((10.0, 7.0, 9.0, 3.0), (8.5, 8.0, 8.5, 8.0)))
EDIT = WarpEdit("stylegan2-poses64", SIDE, (FIRST, PointedPicture(2**32 - 1, ((1.0, 2.0, 3.0, 4.0),))), 0.7)


class Hostile:
    """Unpickled freely, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


# The file that people write.


def test_the_edit_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = """{"format": "gengauge warp edit", "version": 1, "generator": "stylegan2-poses64", "resolution": 64,
     "pictures": [{"seed": 3, "points": [[20, 14, 18, 6], [40, 30.5, 40, 30.5]]}]}"""
    path.write_text(text, encoding="utf-8-sig")  # as some editors save it
    edit = read_warp_edit(path)
    points = ((20.0, 14.0, 18.0, 6.0), (40.0, 30.5, 40.0, 30.5))
    assert edit == WarpEdit("stylegan2-poses64", 64, (PointedPicture(3, points),))
    assert (edit.truncation, edit.name, edit.note) == (1.0, "", "")
    rows = edit.pictures[0].rows()
    assert (rows.dtype, rows.tolist()) == (np.float64, [list(point) for point in points])


@pytest.mark.parametrize("edit", [EDIT, replace(EDIT, name="Öhrchen", note='a "note"\nof two lines', truncation=-1.0)])
def test_an_edit_is_read_as_written(tmp_path: Path, edit: WarpEdit) -> None:
    path = tmp_path / "new" / "a.json"
    write_warp_edit(path, edit)
    assert read_warp_edit(path) == edit
    assert '    {"seed": 3, "points": [[10, 7, 9, 3], [8.5, 8, 8.5, 8]]},\n' in path.read_text()
    with pytest.raises(FileExistsError, match=r"a\.json is there already.*overwritten"):
        write_warp_edit(path, EDIT)
    assert read_warp_edit(path) == edit
    write_warp_edit(path, replace(edit, name="other"), overwrite=True)
    assert read_warp_edit(path).name == "other"


def test_an_edit_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_warp_edit(path, EDIT)

    def fails(file: Path, text: str, **_: Any) -> None:
        file.write_bytes(text.encode()[:20])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="no space left"):
        write_warp_edit(path, replace(EDIT, name="new"), overwrite=True)
    assert read_warp_edit(path) == EDIT
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def content(**changes: Any) -> dict[str, Any]:
    pictures = [{"seed": 3, "points": [[1, 2, 3, 4]]}]
    whole = {"format": "gengauge warp edit", "version": 1, "generator": "g", "resolution": SIDE, "pictures": pictures}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def pointed(*points: Any, seed: Any = 3) -> dict[str, Any]:
    return content(pictures=[{"seed": 1, "points": [[1, 2, 3, 4]]}, {"seed": seed, "points": list(points)}])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([1], "the file holds no values by name"),
        (content(format="x"), "its format is 'x', not 'gengauge warp edit'"),
        (content(version=2), "its version is 2, and this gengauge reads version 1"),
        (content(version=True), "its version is True"),
        (content(resolution=None), "the file lacks 'resolution'"),
        (content(truncaton=1), "the file has 'truncaton', which is none of format, version.*truncation, name, note"),
        (content(generator=" "), "generator is empty"),
        (content(generator=7), "generator is 7, not a text"),
        (content(note="\ud800"), "note holds half of a character"),
        (content(resolution=64.0), "resolution is 64.0, not a whole number of px"),
        (content(resolution=10**6), "resolution is 1000000, not a whole number of px from 4 to 8192"),
        (content(truncation=70), "truncation is 70, not psi, a number from -2 to 2"),
        (content(truncation="1"), "truncation is '1'"),
        (content(pictures=[]), "pictures is empty"),
        (content(pictures={}), "pictures is no list"),
        (content(pictures=[{"seed": 3}]), r"pictures\[0\] lacks 'points'"),
        (content(pictures=[{"seed": 3, "points": 1}]), r"pictures\[0\] has points that are no list"),
        (content(pictures=[{"seed": 3, "points": [[1, 2, 3, 4]], "psi": 1}]), r"pictures\[0\] has 'psi'"),
        (pointed(), r"pictures\[1\] \(seed 3\) has no points; give it at least one"),
        (pointed(1), r"pictures\[1\], points\[0\] is no list of x_src"),
        (pointed([1, 2, 3]), r"pictures\[1\] \(seed 3\), points\[0\] is \[1, 2, 3\], not four finite numbers"),
        (pointed([1, 2, 3, "4"]), r"points\[0\] is \[1, 2, 3, '4'\], not four"),
        (pointed([1, 2, 3, True]), "not four finite numbers"),
        (pointed([1, 2, 3, 10**400]), "not four finite numbers"),
        (
            pointed([1, 2, 3, 4], [1, 2, 16, 3]),
            r"pictures\[1\] \(seed 3\), points\[1\] has its destination \(16, 3\) ou",
        ),
        (pointed([1, 2, 3, -0.5]), r"destination \(3, -0.5\) outside the picture, whose pixels are 0 to 15"),
        (pointed([-1, 2, 3, 4]), r"points\[0\] has its source \(-1, 2\) outside the picture"),
        (
            pointed([1, 2, 9, 4], [1, 2, 3, 4], [6, 6, 3.9, 4.2]),
            r"points\[1\] and points\[2\] both end on pixel \(3, 4\)",
        ),
        (pointed([1, 2, 15, 0]), r"points\[0\] ends on the corner \(15, 0\), which is pinned; move it beside it"),
        (pointed([1, 2, 3, 4], seed=-1), r"pictures\[1\] has the seed -1, not a whole number from 0 to 2\^32 - 1"),
        (pointed([1, 2, 3, 4], seed=2**32), "has the seed 4294967296"),
        (pointed([1, 2, 3, 4], seed=1.0), "has the seed 1.0"),
        (pointed([1, 2, 3, 4], seed=1), r"pictures\[0\] and pictures\[1\] both have the seed 1; put their points into"),
    ],
)
def test_an_edit_that_cannot_be_meant_is_refused_by_name(tmp_path: Path, written: Any, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=message) as error:
        read_warp_edit(path)
    assert str(error.value).startswith(f"{path} is no warp edit: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": NaN}', "holds NaN, which is no number"),
        ('{"a": 1, "a": 2}', "has 'a' twice"),
        ('{"a": ', r"is no JSON: .*line 1 column"),
        ("[" * 100_000, "nested too deep"),
        (json.dumps(content(resolution=-1)).replace("-1", "9" * 5000), "is no warp edit"),
    ],
)
def test_a_text_that_is_no_edit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_warp_edit(path)


def test_other_files_are_no_edits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match=r"a\.json: there is no such file"):
        read_warp_edit(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="is no warp edit"):
        read_warp_edit(path)
    with path.open("wb") as stream:
        stream.truncate(2**24 + 1)
    with pytest.raises(ValueError, match="more than 16 MiB"):
        read_warp_edit(path)


def test_points_at_the_edges_and_pinned_corners_are_taken() -> None:
    points = ((15.9, 0.0, 0.0, 7.0), (0.0, 0.0, 0.0, 0.0), (15.2, 15.9, 15.7, 15.1))
    assert WarpEdit("g", SIDE, (PointedPicture(0, points),)).pictures[0].points == points


# The published folders.


def pixels(seed: int, side: int = SIDE, channels: tuple[int, ...] = (3,)) -> Pixels:
    return np.random.RandomState(seed).randint(0, 256, (side, side, *channels), dtype=np.uint8)


def warped(i: int, **changes: Any) -> WarpedPicture:
    latent = torch.randn(4, 8, generator=torch.Generator().manual_seed(i))
    points = np.random.RandomState(i).uniform(0, SIDE - 1, (i + 1, 4))
    mask = pixels(i + 9, channels=()).astype(np.float32) / np.float32(255)
    return replace(WarpedPicture(latent, points, pixels(i), mask), **changes)


def coloured(i: int, **changes: Any) -> ColouredPicture:
    latent = torch.randn(4, 8, generator=torch.Generator().manual_seed(i))
    wanted, kept = ((pixels(i + k, channels=()) > 99).astype(np.float32) for k in (5, 7))
    return replace(ColouredPicture(latent, pixels(i), wanted, kept, pixels(i + 1)), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A warp edit's split of two pictures."""
    write_warp_folder(tmp_path / "ears" / "val", [warped(0, original=pixels(7)), warped(1, original=pixels(8))])
    return tmp_path / "ears" / "val"


@pytest.fixture
def colour(tmp_path: Path) -> Path:
    """A colour edit's split of two pictures."""
    write_colour_folder(tmp_path / "red" / "train", [coloured(0), coloured(1)])
    return tmp_path / "red" / "train"


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_warp_folder_is_read_as_written_and_has_the_published_files(folder: Path) -> None:
    found = read_warp_folder(folder, SIDE)
    assert len(found) == 2
    for i, picture in enumerate(found):
        assert torch.equal(picture.latent, warped(i).latent)
        assert np.array_equal(picture.points, warped(i).points)
        assert np.array_equal(picture.target, warped(i).target)
        assert np.array_equal(picture.mask, warped(i).mask)
        assert picture.original is None
    kinds = (
        "latents/{}_w.pth",
        "keypoints/{}.npy",
        "targets/{}.png",
        "target_masks/{}.png",
        "originals/{}_original.png",
    )
    assert names(folder) == sorted(["counter", *(kind.format(i) for kind in kinds for i in (0, 1))])
    assert int((folder / "counter").read_text()) == 2
    stored = torch.load(folder / "latents" / "1_w.pth", weights_only=True)
    assert (tuple(stored.shape), stored.dtype) == ((1, 4, 8), torch.float32)
    assert np.load(folder / "keypoints" / "1.npy").shape == (2, 4)


def test_a_training_split_has_no_masks_and_may_have_no_targets(tmp_path: Path) -> None:
    nothing = {"target": None, "mask": None, "points": np.zeros((0, 4))}
    write_warp_folder(tmp_path / "train", [warped(0, **nothing)])
    assert names(tmp_path / "train") == ["counter", "keypoints/0.npy", "latents/0_w.pth"]
    found = read_warp_folder(tmp_path / "train", SIDE)[0]
    assert (found.target, found.mask, found.points.shape) == (None, None, (0, 4))


def test_pictures_are_scaled_and_older_numbers_and_latents_are_taken(folder: Path) -> None:
    Image.fromarray(pixels(3, 2 * SIDE)[:, : SIDE + 8]).save(folder / "targets" / "0.png")
    np.save(folder / "keypoints" / "0.npy", np.array([[-3, 2, 3, 4]], order="F"))  # a source may lie outside
    latent = warped(0).latent[None].double().requires_grad_()
    torch.save(latent, folder / "latents" / "0_w.pth", _use_new_zipfile_serialization=False)
    (folder / "counter").write_text(" 1\n")
    (found,) = read_warp_folder(folder, 8)
    assert found.target is not None
    assert found.mask is not None
    assert (found.target.shape, found.mask.shape, found.points.tolist()) == ((10, 8, 3), (8, 8), [[-3, 2, 3, 4]])
    assert torch.equal(found.latent, warped(0).latent)


def test_destinations_below_a_cropped_car_are_refused(folder: Path) -> None:
    np.save(folder / "keypoints" / "0.npy", np.array([[1, 2, 3, 12.5]]))
    np.save(folder / "keypoints" / "1.npy", np.array([[1, 2, 3, 11.5]]))
    read_warp_folder(folder, SIDE)
    with pytest.raises(
        ValueError, match=r"0\.npy has the destination \(3, 12.5\) in row 0, outside a picture of 16 x 12"
    ):
        read_warp_folder(folder, SIDE, crop_bars=True)


@pytest.mark.parametrize(
    ("part", "array", "error", "message"),
    [
        ("0.npy", [[1, 2, 3, 16]], ValueError, r"destination \(3, 16\) in row 0, outside.*another resolution\?"),
        ("1.npy", [[1, 2, 3, 4], [1, 2, -1, 4]], ValueError, r"1\.npy has the destination \(-1, 4\) in row 1"),
        ("0.npy", [[1, 2, 3, np.nan]], ValueError, "has the point .*nan.* in row 0, which is no place"),
        ("0.npy", [[-(2.0**15), 2, 3, 4]], ValueError, "which is no place"),
        ("0.npy", [1, 2, 3, 4], ValueError, r"holds int64 \(4,\), not numbers \(N, 4\)"),
        ("0.npy", [[True] * 4], ValueError, r"holds bool \(1, 4\)"),
        ("0.npy", [["a"] * 4], DamagedCheckpoint, "holds <U1, not numbers"),
        ("0.npy", np.zeros(1, "i4,f8"), DamagedCheckpoint, "not numbers"),
        ("0.npy", np.zeros((2**15, 4)), DamagedCheckpoint, "more than 1 MiB"),
    ],
)
def test_points_of_other_kinds_are_refused(
    folder: Path, part: str, array: Any, error: type[Exception], message: str
) -> None:
    np.save(folder / "keypoints" / part, np.array(array))
    with pytest.raises(error, match=message) as caught:
        read_warp_folder(folder, SIDE)
    assert part in str(caught.value)


def header(text: str, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04", "damaged"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 4)}\n"), "comes with 0 bytes"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4)}\n"), "no.* counts"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 4)}\n") + b"\0" * 31, "comes with 31 bytes"),
        (header("(" * 9000), "damaged"),
        (header("{'descr': '<f8'"), "damaged"),
        (header("{}", 3), "version"),
    ],
)
def test_damaged_arrays_are_refused(folder: Path, data: bytes, message: str) -> None:
    (folder / "keypoints" / "1.npy").write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match=message) as error:
        read_warp_folder(folder, SIDE)
    assert "1.npy" in str(error.value)


def test_arrays_of_objects_run_nothing(folder: Path, colour: Path, tmp_path: Path) -> None:
    bombs = np.array([[Hostile(tmp_path / "mark")] * 4], dtype=object)
    np.save(folder / "keypoints" / "0.npy", bombs, allow_pickle=True)
    with pytest.raises(UnsafeCheckpoint, match=r"0\.npy is refused: it holds objects"):
        read_warp_folder(folder, SIDE)
    arrays: dict[str, Any] = {"color_mask": bombs, "background_mask": bombs}
    np.savez(colour / "masks" / "0.npz", color=pixels(0), **arrays)
    with pytest.raises(UnsafeCheckpoint, match=r"0\.npz is refused: it holds objects"):
        read_colour_folder(colour)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("stored", "error", "message"),
    [
        (lambda mark: Hostile(mark), UnsafeCheckpoint, "mkdir"),
        (lambda mark: torch.zeros(4, 8), DamagedCheckpoint, r"\(4, 8\), not a latent of floats \(1, num_ws, w_dim\)"),
        (lambda mark: torch.zeros(2, 4, 8), DamagedCheckpoint, r"\(2, 4, 8\), not a latent"),
        (lambda mark: torch.zeros(1, 0, 8), DamagedCheckpoint, "not a latent"),
        (lambda mark: torch.zeros(1, 4, 8).int(), DamagedCheckpoint, "holds torch.int32"),
        (lambda mark: torch.full((1, 4, 8), torch.nan), DamagedCheckpoint, "holds NaN"),
        (lambda mark: {"w": torch.zeros(1, 4, 8)}, DamagedCheckpoint, "holds dict, not one plain tensor"),
        (lambda mark: torch.zeros(1, 4, 8).to_sparse(), DamagedCheckpoint, "plain tensor|damaged"),
        (lambda mark: torch.zeros(1).expand(1, 2**16, 2**16), DamagedCheckpoint, "a latent is far smaller"),
        (lambda mark: torch.zeros(1, 2**11, 2**12), DamagedCheckpoint, "more than 16 MiB"),
        (lambda mark: torch.zeros(1, 4, 9), ValueError, r"several generators: 0 is \(4, 8\), 1 is \(4, 9\)"),
    ],
)
def test_latents_of_other_kinds_are_refused(
    folder: Path, tmp_path: Path, stored: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    torch.save(stored(tmp_path / "mark"), folder / "latents" / "1_w.pth")
    with pytest.raises(error, match=message) as caught:
        read_warp_folder(folder, SIDE)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_a_bare_pickle_and_a_packed_latent_are_refused(folder: Path, tmp_path: Path) -> None:
    file = folder / "latents" / "0_w.pth"
    file.write_bytes(pickle.dumps(Hostile(tmp_path / "mark")))
    with pytest.raises((UnsafeCheckpoint, DamagedCheckpoint), match=r"0_w\.pth"):
        read_warp_folder(folder, SIDE)
    assert not (tmp_path / "mark").exists()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**25))
    assert file.stat().st_size < 2**20
    with pytest.raises(DamagedCheckpoint, match="more than 16 MiB"):
        read_warp_folder(folder, SIDE)


@pytest.mark.parametrize("text", ["", "two", "-1", "0", "2.0", "１", "9" * 12, "9" * 10**5])
def test_a_counter_that_is_no_count_is_refused(folder: Path, text: str) -> None:
    (folder / "counter").write_text(text)
    with pytest.raises(ValueError, match=r"counter holds .*, not the number of pictures"):
        read_warp_folder(folder, SIDE)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file counter in it; name one of its folders val$"):
        read_warp_folder(folder.parent, SIDE)
    with pytest.raises(FileNotFoundError, match=r"there is no file counter in it$"):
        read_warp_folder(tmp_path / "none", SIDE)
    (folder / "counter").write_text("3")
    with pytest.raises(FileNotFoundError, match=r"lacks latents/2_w\.pth, and its counter says that it has 3 pictures"):
        read_warp_folder(folder, SIDE)
    (folder / "counter").write_text("2")
    for part in ("target_masks/1.png", "targets/0.png", "keypoints/1.npy", "latents/0_w.pth"):
        (folder / part).unlink()
        with pytest.raises(FileNotFoundError, match=f"lacks {part}"):
            read_warp_folder(folder, SIDE)
    with pytest.raises(ValueError, match="above 0, not 0"):
        read_warp_folder(folder, 0)


def test_damaged_and_endless_pictures_are_named(folder: Path) -> None:
    file = folder / "targets" / "1.png"
    data = file.read_bytes()
    Image.new("RGB", (1, 5000)).save(file)
    with pytest.raises(ValueError, match=r"1\.png is 1 x 5000 px, which is no generator's picture"):
        read_warp_folder(folder, SIDE)
    for part in ("targets", "target_masks"):
        (folder / part / "1.png").write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=rf"{part}/1\.png cannot be read as a picture"):
            read_warp_folder(folder, SIDE)
        (folder / part / "1.png").write_bytes(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": torch.zeros(4)}, r"latent is torch.float32 \(4,\), not float32 \(num_ws, w_dim\)"),
        ({"latent": torch.full((4, 8), torch.inf)}, "latent holds NaN or infinity"),
        ({"points": np.zeros((1, 4), int)}, r"points are int64 \(1, 4\), not float64 \(N, 4\)"),
        ({"points": np.full((1, 4), np.nan)}, "a point is NaN"),
        ({"target": np.zeros((4, 4), np.uint8)}, r"target is uint8 \(4, 4\)"),
        ({"original": np.zeros((4, 4, 3))}, "original is float64"),
        ({"mask": np.full((4, 4), 2, np.float32)}, r"mask has values from 2 to 2, not in \[0, 1\]"),
        ({"mask": np.full((4, 4), np.nan, np.float32)}, "mask has values from nan"),
        ({"mask": np.zeros((4, 4))}, r"mask is float64 \(4, 4\), not float32"),
    ],
)
def test_parts_of_other_kinds_make_no_picture(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warped(0, **changes)


def test_pictures_that_do_not_go_together_are_not_written(tmp_path: Path) -> None:
    for pictures, message in (
        ([], "at least one picture"),
        ([warped(0), warped(1, mask=None)], "picture 1 has no mask, and others have one"),
        ([warped(0), warped(1, latent=torch.zeros(4, 9))], "several generators"),
    ):
        with pytest.raises(ValueError, match=message):
            write_warp_folder(tmp_path / "a", pictures)
    for strokes, message in (
        ([], "at least one picture"),
        ([coloured(0), coloured(1, target=None)], "picture 1 has no target"),
        ([coloured(0), coloured(1, latent=torch.zeros(4, 9))], "several generators"),
    ):
        with pytest.raises(ValueError, match=message):
            write_colour_folder(tmp_path / "a", strokes)
    assert not list(tmp_path.iterdir())


def test_an_edit_is_replaced_only_when_told(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="val is there already; name another folder"):
        write_warp_folder(folder, [warped(5)])
    assert len(read_warp_folder(folder, SIDE)) == 2
    write_warp_folder(folder, [warped(5)], overwrite=True)
    assert torch.equal(read_warp_folder(folder, SIDE)[0].latent, warped(5).latent)
    assert [file.name for file in folder.parent.iterdir()] == ["val"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds more than an edit \(notes.txt\) and is not replaced"):
        write_warp_folder(folder, [warped(6)], overwrite=True)
    with pytest.raises(FileExistsError, match="it is a file"):
        write_warp_folder(folder / "notes.txt", [warped(6)], overwrite=True)
    assert torch.equal(read_warp_folder(folder, SIDE)[0].latent, warped(5).latent)
    (folder.parent / "train").mkdir()
    write_warp_folder(folder.parent / "train", [warped(1)])  # an empty folder holds nothing to lose
    assert len(read_warp_folder(folder.parent / "train", SIDE)) == 1


def test_a_folder_that_cannot_be_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(folder)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", fails)
        with pytest.raises(OSError, match="no space left"):
            write_warp_folder(folder, [warped(5)], overwrite=True)
    # The old folder is aside already when the new one cannot take its place.
    rename = Path.rename

    def fails_once(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise PermissionError("not permitted")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails_once)
        with pytest.raises(PermissionError, match="not permitted"):
            write_warp_folder(folder, [warped(5)], overwrite=True)
    assert names(folder) == before
    assert [file.name for file in folder.parent.iterdir()] == ["val"]
    assert torch.equal(read_warp_folder(folder, SIDE)[0].latent, warped(0).latent)


def test_an_edit_left_aside_by_an_interruption_is_not_lost(folder: Path) -> None:
    aside = folder.with_name(f".val.{os.getpid()}.old")
    folder.rename(aside)
    with pytest.raises(FileExistsError, match="whose replacement was interrupted; move it back"):
        write_warp_folder(folder, [warped(5)])
    assert len(read_warp_folder(aside, SIDE)) == 2


def test_signed_pixels() -> None:
    ours = edit_folders.signed_pixels(np.array([[[0, 255, 51]]], np.uint8))
    assert ours.shape == (3, 1, 1)
    assert torch.allclose(ours.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


# Colour edits.


def test_a_colour_folder_is_read_as_written_and_has_the_published_files(colour: Path, tmp_path: Path) -> None:
    for i, picture in enumerate(read_colour_folder(colour)):
        expected = coloured(i)
        assert torch.equal(picture.latent, expected.latent)
        for name in ("color", "color_mask", "background_mask", "target"):
            assert np.array_equal(getattr(picture, name), getattr(expected, name))
        assert picture.color_mask.dtype == np.float32
    kinds = ("latents/{}_w.pth", "masks/{}.npz", "targets/{}.png")
    assert names(colour) == sorted(["counter", *(kind.format(i) for kind in kinds for i in (0, 1))])
    with np.load(colour / "masks" / "0.npz") as stored:
        assert sorted(stored) == ["background_mask", "color", "color_mask"]
        assert {array.dtype for array in stored.values()} == {np.dtype(np.uint8)}
    soft = np.full((SIDE, SIDE), 0.25, np.float32)
    write_colour_folder(tmp_path / "soft", [coloured(0, color_mask=soft, target=None)])
    found = read_colour_folder(tmp_path / "soft")[0]
    assert np.array_equal(found.color_mask, soft)
    assert found.target is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"color": pixels(0, channels=(4,))}, r"0\.npz: the colour is uint8 \(16, 16, 4\).*paint the strokes anew"),
        ({"color": pixels(0).astype(float)}, "the colour is float64"),
        ({"color_mask": pixels(0, channels=())}, r"color_mask has values from 3 to 255, not in \[0, 1\]"),
        ({"background_mask": np.full((SIDE, SIDE), np.nan)}, "background_mask has values from nan"),
        ({"background_mask": np.zeros((SIDE, 4))}, r"background_mask is \(16, 4\), of a colour \(16, 16\)"),
        ({"color_mask": np.zeros(SIDE)}, r"color_mask is float32 \(16,\)"),
        ({"color_mask": None}, r"0\.npz cannot be read: it lacks color_mask; it needs color, color_mask, background_"),
    ],
)
def test_strokes_of_other_kinds_are_refused(colour: Path, changes: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {name: getattr(coloured(0), name) for name in ("color", "color_mask", "background_mask")}
    arrays = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    np.savez(colour / "masks" / "0.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_colour_folder(colour)


def test_strokes_of_several_sizes_are_refused(colour: Path) -> None:
    empty = np.zeros((4, 4), np.uint8)
    np.savez(colour / "masks" / "1.npz", color=np.zeros((4, 4, 3), np.uint8), color_mask=empty, background_mask=empty)
    with pytest.raises(ValueError, match=r"several sizes: 0 is \(16, 16\), 1 is \(4, 4\)"):
        read_colour_folder(colour)


@pytest.mark.parametrize(
    ("compression", "mebibytes", "message"),
    [(zipfile.ZIP_DEFLATED, 86, "unpack to more than 256 MiB"), (zipfile.ZIP_BZIP2, 1, "numpy does not write")],
)
def test_packed_strokes_that_would_fill_the_memory_are_refused(
    colour: Path, compression: int, mebibytes: int, message: str
) -> None:
    file = colour / "masks" / "1.npz"
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in ("color", "color_mask", "background_mask"):
            with archive.open(f"{name}.npy", "w") as stream:
                for _ in range(mebibytes):
                    stream.write(bytes(2**20))
    assert file.stat().st_size < 2**20
    with pytest.raises(DamagedCheckpoint, match=rf"1\.npz cannot be read: .*{message}"):
        read_colour_folder(colour)


def test_damaged_strokes_are_named(colour: Path) -> None:
    file = colour / "masks" / "1.npz"
    data = file.read_bytes()
    for bad in (data[: len(data) // 2], b"", data[:60] + bytes(40) + data[100:]):
        file.write_bytes(bad)
        with pytest.raises(DamagedCheckpoint, match=r"1\.npz is damaged"):
            read_colour_folder(colour)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks masks/1\.npz"):
        read_colour_folder(colour)


# The list of evaluations.


def test_tasks_are_lines_of_four_fields(tmp_path: Path) -> None:
    path = tmp_path / "eval_task"
    path.write_text("ears  sg3r_cat/ears\tcat weights/sg3r_cat/ears.pth\n\nhump sg3r_horse/hump horse /w/hump.pth")
    assert read_eval_tasks(path) == [
        EvalTask("ears", "sg3r_cat/ears", "cat", "weights/sg3r_cat/ears.pth"),
        EvalTask("hump", "sg3r_horse/hump", "horse", "/w/hump.pth"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a b c d\na b c", "line 2: 3 fields, where there are four: NAME DATA BASE WEIGHTS"),
        (b"a ../b c d", "line 1: '../b' leads out of the folder of edits"),
        (b"a /b c d", "line 1: '/b' leads out"),
        (b" \n", "lists no tasks"),
        (b"\xff\xfe", "is no text"),
        (b"a b c d\n" * 2**18, "more than 1 MiB"),
    ],
)
def test_lists_of_other_content_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "eval_task"
    with pytest.raises(FileNotFoundError, match="no such list of tasks"):
        read_eval_tasks(path)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_eval_tasks(path)
