"""Folders, zip archives and databases of pictures: order, crops, labels; bad ones are named, hostile ones harmless."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.datasets import pictures_set
from gengauge.datasets.pictures_set import FolderSet, decode_all
from gengauge.datasets.sets import PictureSet


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture file's content; WebP without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def grey(value: int, size: int = 4) -> bytes:
    return encoded(np.full((size, size, 3), value, np.uint8))


def write_all(root: Path, files: dict[str, bytes], archive: bool) -> Path:
    """Files in a folder, or in a zip archive of the same name."""
    if archive:
        with zipfile.ZipFile(root / "set.zip", "w", zipfile.ZIP_DEFLATED) as stream:
            for name, content in files.items():
                stream.writestr(name, content)
        return root / "set.zip"
    for name, content in files.items():
        path = root / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "set"


@pytest.mark.parametrize("archive", [False, True])
def test_pictures_come_in_the_order_of_their_paths(tmp_path: Path, archive: bool) -> None:
    # As text `a-b/` stands before `a/`, which sorting by folders would turn round.
    names = ["10.png", "9.png", "a-b/1.png", "a/1.PNG", "a/b/1.jpeg", "z.webp"]
    files = {name: grey(10 * i) for i, name in enumerate(names)}
    files |= {"notes.txt": b"", "._9.png": b"fork", "a/.hidden.png": b""}
    found: PictureSet = FolderSet(write_all(tmp_path, dict(reversed(files.items())), archive), 4)
    assert (len(found), found.name, found.resolution, found.num_classes) == (6, "set", 4, 0)
    assert found.labels is None
    assert found.pictures(range(6))[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert found.pictures([3, 1])[:, 2, 3, 3].tolist() == [30, 10]
    assert found.pictures([]).shape == (0, 3, 4, 4)
    with pytest.raises(IndexError, match="set of 6"):
        found.pictures([6])


def test_sizes_crops_and_kinds_of_pixels(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    exact, wide = random.randint(0, 256, (2, 8, 8, 3), dtype=np.uint8), np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = 255
    transparent = np.dstack([exact[1], np.zeros((8, 8), np.uint8)])
    files = {"0.png": exact[0], "1.png": wide, "2.png": transparent, "3.png": exact[0][..., 0]}
    path = write_all(tmp_path, {name: encoded(pixels) for name, pixels in files.items()}, archive=False)
    whole, central = FolderSet(path, 8), FolderSet(path, 8, crop="center")
    for found in (whole, central):
        pictures = found.pictures(range(4)).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(pictures[0], exact[0])
        assert np.array_equal(pictures[2], exact[1])
        assert np.array_equal(pictures[3], exact[0][..., :1].repeat(3, 2))
    assert (central.pictures([1]) == 255).all()
    assert (whole.pictures([1])[..., 0] < 128).all()
    for resample, kind in (("lanczos", Image.Resampling.LANCZOS), ("bilinear", Image.Resampling.BILINEAR)):
        ours = FolderSet(path, 5, resample=resample).pictures([0])[0].permute(1, 2, 0)  # type: ignore[arg-type]
        assert np.array_equal(ours.numpy(), np.asarray(Image.fromarray(exact[0]).resize((5, 5), kind)))
    assert whole.original(1).size == (20, 8)
    with pytest.raises(IndexError):
        whole.original(4)


@pytest.mark.parametrize("archive", [False, True])
def test_labels_of_a_json_file(tmp_path: Path, archive: bool) -> None:
    labels: object = [["b/2.png", 4], ["a.png", 1], ["gone.png", 9]]
    files = {"a.png": grey(1), "b/2.png": grey(2), "dataset.json": json.dumps({"labels": labels}).encode()}
    found = FolderSet(write_all(tmp_path, files, archive), 4)
    assert found.labels is not None
    assert (found.labels.tolist(), found.num_classes, found.labels.dtype) == ([1, 4], 5, np.int64)
    for labels, expected in ((None, None), ([["a.png", [0, 1.0]], ["b/2.png", [1, 0]]], [1, 0])):
        files["dataset.json"] = json.dumps({"labels": labels}).encode()
        again = FolderSet(write_all(tmp_path, files, archive), 4).labels
        assert (None if again is None else again.tolist()) == expected
    for content, cause in (
        (b'{"labels": [["a.png", 0]]}', "no label for b/2.png"),
        (b'{"labels": [["a.png", 0], ["b/2.png", -1]]}', "neither classes"),
        (b'{"labels": [["a.png", "cat"], ["b/2.png", "dog"]]}', "neither classes"),
        (b'{"labels": [["a.png", [1]], ["b/2.png", [1, 0]]]}', "different lengths"),
        (b'{"labels": [1]}', "not of the form"),
        (b"[]", "not of the form"),
        (b'{"labels"', "not of the form"),
        (b"[" * 100_000, "not of the form"),
    ):
        files["dataset.json"] = content
        with pytest.raises(ValueError, match=rf"dataset\.json in .*{cause}"):
            FolderSet(write_all(tmp_path, files, archive), 4)


@pytest.mark.parametrize("archive", [False, True])
def test_labels_of_class_folders(tmp_path: Path, archive: bool) -> None:
    files = {"n02/b.JPEG": grey(2), "n01/x.png": grey(0), "n01/deep/y.png": grey(1), "n10/z.png": grey(3)}
    path = write_all(tmp_path, files, archive)
    found = FolderSet(path, 4, class_folders=True)
    assert found.labels is not None
    assert (found.labels.tolist(), found.num_classes) == ([0, 0, 1, 2], 3)
    assert FolderSet(path, 4).labels is None
    path = write_all(tmp_path, {**files, "loose.png": grey(4)}, archive)
    with pytest.raises(ValueError, match=r"loose\.png .* no class folder"):
        FolderSet(path, 4, class_folders=True)


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write_all(tmp_path, {"a.png": grey(1)}, archive=False)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "class").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "up").symlink_to(tmp_path / "links")
    assert FolderSet(tmp_path / "links", 4).files == ["class/a.png"]


def test_missing_empty_and_foreign_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        FolderSet(tmp_path / "none", 4)
    with pytest.raises(ValueError, match="holds no pictures"):
        FolderSet(tmp_path, 4)
    (tmp_path / "set.zip").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ValueError, match=r"set\.zip cannot be opened as a zip archive"):
        FolderSet(tmp_path / "set.zip", 4)


def claims(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


BAD_PICTURES = {
    "empty": b"",
    "html": b"<html></html>",
    "cut": encoded(np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8))[:700],
    "overwritten": grey(1)[:45] + b"\xff" * 20 + grey(1)[65:],
    "bomb": claims(9000, 9000),
    "large bomb": claims(60000, 60000),
    "16 bits": encoded(np.zeros((4, 4), np.uint16)),
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n",
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("kind", BAD_PICTURES)
@pytest.mark.filterwarnings("error")
def test_an_unreadable_picture_is_named(tmp_path: Path, kind: str, archive: bool) -> None:
    files = {f"{i}.png": grey(i) for i in range(20)} | {"x/bad.png": BAD_PICTURES[kind]}
    path = write_all(tmp_path, files, archive)
    found = FolderSet(path, 4)
    assert found.pictures(range(20)).shape == (20, 3, 4, 4)
    for indices in ([20], range(21)):
        with pytest.raises(ValueError, match=rf"x/bad\.png in {path} cannot be read as a picture"):
            found.pictures(indices)


def test_an_entry_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_all(tmp_path, {"bomb.png": bytes(10**6), "good.png": grey(1)}, archive=True)
    assert path.stat().st_size < 5000
    monkeypatch.setattr(pictures_set, "MAX_FILE_BYTES", 10**5)
    found = FolderSet(path, 4)
    assert found.pictures([1]).shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"bomb\.png in .* more than"):
        found.pictures([0])


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    outside = tmp_path / "outside.png"
    files = {"../outside.png": grey(7), str(outside): grey(8), "in.png": grey(9)}
    path = write_all(tmp_path / "deep", files, archive=True)
    before = sorted(tmp_path.rglob("*"))
    found = FolderSet(path, 4)
    assert found.pictures(range(3))[:, 0, 0, 0].tolist() == [7, 8, 9]
    assert sorted(tmp_path.rglob("*")) == before


def test_damage_inside_an_archive_is_named(tmp_path: Path) -> None:
    path = write_all(tmp_path, {"a.png": grey(1), "b.png": grey(2)}, archive=True)
    content = bytearray(path.read_bytes())
    content[content.find(b"a.png") + 5 + 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png in .*set\.zip cannot be read"):
        FolderSet(path, 4).pictures([0])
    content[6] |= 1  # both headers say that the entry is encrypted
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png in .*encrypted"):
        FolderSet(path, 4).pictures([0])


def test_a_set_works_in_another_process(tmp_path: Path) -> None:
    found = FolderSet(write_all(tmp_path, {f"{i:02}.png": grey(i) for i in range(40)}, archive=True), 4)
    moved = pickle.loads(pickle.dumps(found))  # noqa: S301 - as a loader's worker gets it
    assert torch.equal(moved.pictures(range(40)), found.pictures(range(40)))
    child = os.fork()
    if child == 0:
        good = [found.pictures([i])[0, 0, 0, 0].item() == i for i in range(40)]
        os._exit(0 if all(good) else 1)
    assert all(found.pictures([i])[0, 0, 0, 0] == i for i in range(40))
    assert os.waitpid(child, 0)[1] == 0


def test_many_pictures_are_decoded_in_their_order_and_the_first_error_is_raised() -> None:
    out = decode_all(50, lambda i: np.full((3, 2, 2), i), 2)
    assert out[:, 0, 0, 0].tolist() == list(range(50))

    def failing(i: int) -> np.ndarray:
        raise ValueError(f"picture {i}")

    with pytest.raises(ValueError, match="picture 0"):
        decode_all(50, failing, 2)
