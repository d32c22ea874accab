"""The sets of edits: read from small copies of their folders; a bad file is named, a hostile one runs nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from gengauge.datasets import weights
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.download import DownloadError
from gengauge.datasets.edits import ChurchEdits, CityscapesEdits, prepared
from gengauge.datasets.sets import DataNotFound

SIZE = (6, 8)


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 16)) -> np.ndarray[Any, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def array(path: Path, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values, allow_pickle=True)
    return values


def churches(root: Path, names: tuple[str, ...] = ("000", "001", "430")) -> Path:
    folder = root / "church_outdoor_sdedit"
    for i, name in enumerate(names):
        picture(folder / "original" / f"{name}.png", i)
        picture(folder / "edited" / f"{name}.png", 100 + i)
        array(folder / "masks" / f"{name}.npy", np.random.RandomState(i).rand(16, 24) < 0.2)
    picture(folder / "gt" / "000.png", 200)
    return folder


def cityscapes(root: Path, ids: tuple[tuple[str, str], ...] = (("0", "7"), ("3", "1501"))) -> Path:
    folder = root / "cityscapes-edit"
    for i, (gt, synthetic) in enumerate(ids):
        random = np.random.RandomState(i)
        for kind, name in (("gt", gt), ("synthetic", synthetic)):
            array(folder / f"{kind}_labels" / f"{name}.npy", random.randint(0, 35, SIZE))
            array(folder / f"{kind}_instances" / f"{name}.npy", random.randint(0, 26000, SIZE).astype(np.int32))
        array(folder / "masks" / f"{synthetic}.npy", random.rand(*SIZE) < 0.2)
        picture(folder / "images" / f"{gt}.png", i, SIZE[::-1])
    (folder / "meta.csv").write_text("gt_id,synthetic_id\n" + "".join(f"{a},{b}\n" for a, b in ids))
    return folder


def published(path: Path, size: int) -> torch.Tensor:
    chain = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    return 2 * transforms.Compose(chain)(Image.open(path)) - 1


def test_churches_are_read_and_prepared_as_published(tmp_path: Path) -> None:
    folder = churches(tmp_path)
    for root in (tmp_path, folder):
        edits = ChurchEdits(root, size=12)
        assert edits.names == ("000", "001", "430")
        assert len(edits) == 3
        for i, name in enumerate(edits.names):
            pair = edits.pair(i)
            assert pair.name == name
            for part, ours in (("original", pair.original), ("edited", pair.edited)):
                assert ours.shape == (3, 12, 12)
                assert torch.allclose(ours, published(folder / part / f"{name}.png", 12), atol=1e-7)
            assert np.array_equal(edits.mask(i), np.load(folder / "masks" / f"{name}.npy"))
    assert np.array_equal(edits.truth(0), picture(tmp_path / "x.png", 200))
    with pytest.raises(DataNotFound, match=r"gt/001\.png.*fetch the set again"):
        edits.truth(1)


@pytest.mark.parametrize("size", [(24, 16), (16, 24), (17, 33), (12, 12), (8, 9), (13, 12)])
@pytest.mark.parametrize("resolution", [12, 7])
def test_preparation_is_torchvisions(tmp_path: Path, size: tuple[int, int], resolution: int) -> None:
    picture(tmp_path / "x.png", 5, size)
    ours = prepared(Image.open(tmp_path / "x.png"), resolution)
    assert torch.allclose(ours, published(tmp_path / "x.png", resolution), atol=1e-7)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()


def test_label_maps_are_edited_both_ways(tmp_path: Path) -> None:
    folder = cityscapes(tmp_path)
    for root in (tmp_path, folder):
        edits = CityscapesEdits(root, size=SIZE)
        assert edits.ids == (("0", "7"), ("3", "1501"))
        pairs = [edits.pair(i) for i in range(len(edits))]
        assert [pair.name for pair in pairs] == ["7_synthetic", "1501_synthetic", "7_gt", "1501_gt"]
    there, back = pairs[1], pairs[3]
    assert np.array_equal(there.original_label.numpy(), np.load(folder / "gt_labels" / "3.npy"))
    assert np.array_equal(there.edited_instance.numpy(), np.load(folder / "synthetic_instances" / "1501.npy"))
    assert torch.equal(there.edited_label, back.original_label)
    assert torch.equal(there.original_instance, back.edited_instance)
    assert (there.original_label.dtype, there.original_instance.dtype) == (torch.int64, torch.int32)
    assert np.array_equal(edits.mask(1), np.load(folder / "masks" / "1501.npy"))
    assert np.array_equal(edits.mask(3), edits.mask(1))
    assert np.array_equal(edits.truth(3), np.asarray(Image.open(folder / "images" / "3.png")))
    assert len(CityscapesEdits(tmp_path, symmetric=False, size=SIZE)) == 2
    for index in (-1, 4):
        with pytest.raises(IndexError, match="set of 4 edits"):
            edits.pair(index)


def test_a_missing_set_says_how_to_get_it(tmp_path: Path) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "church_outdoor_sdedit": ChurchEdits,
        "cityscapes-edit": CityscapesEdits,
    }
    for key, reader in readers.items():
        with pytest.raises(DataNotFound, match=f"unpack {key}.zip") as caught:
            reader(tmp_path)
        assert caught.value.remedy == data_set(key).remedy
        assert str(tmp_path / key) in str(caught.value)
        assert data_set(key).find(tmp_path) is None
    assert data_set("church_outdoor_sdedit").find(churches(tmp_path).parent) is not None
    (tmp_path / "empty" / "original").mkdir(parents=True)
    with pytest.raises(DataNotFound, match="pictures of church"):
        ChurchEdits(tmp_path / "empty")


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = churches(tmp_path)
    (folder / "edited" / "001.png").unlink()
    with pytest.raises(DataNotFound, match=r"part of church_outdoor_sdedit \(edited/001\.png\).*again: unpack"):
        ChurchEdits(tmp_path)
    folder = cityscapes(tmp_path)
    (folder / "masks" / "7.npy").unlink()
    with pytest.raises(DataNotFound, match=r"masks/7\.npy"):
        CityscapesEdits(tmp_path, size=SIZE).mask(0)
    (folder / "synthetic_instances" / "1501.npy").unlink()
    with pytest.raises(DataNotFound, match=r"\(synthetic_instances/1501\.npy\)"):
        CityscapesEdits(tmp_path, size=SIZE)
    for file in (folder / "gt_labels").iterdir():
        file.unlink()
    (folder / "meta.csv").write_text("gt_id,synthetic_id\n" + "0,7\n" * 9)
    with pytest.raises(DataNotFound, match="and 4 more"):
        CityscapesEdits(tmp_path, size=SIZE)


class Hostile:
    """Unpickled freely, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.mark}",)


def header(shape: str, kind: str = "<i8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


WHOLE = header("(6, 8)") + bytes(6 * 8 * 8)
BAD_ARRAYS = {
    "empty": (b"", "does not begin"),
    "html": (b"<html>moved</html>", "does not begin"),
    "an archive of arrays": (b"PK\x03\x04" + bytes(60), "does not begin"),
    "cut": (WHOLE[:300], "damaged"),
    "cut in its header": (WHOLE[:40], "damaged"),
    "cut after its first bytes": (WHOLE[:7], "damaged"),
    "a header that is no literal": (WHOLE.replace(b"False", b"print"), "damaged"),
    "a header of another kind": (header("'x'") + bytes(384), "damaged"),
    "more than a machine can hold": (header("(1000000000, 1000000000)"), "damaged"),
    "another shape": (header("(8, 6)") + bytes(384), r"\(8, 6\), not integers \(6, 8\)"),
    "three dimensions": (header("(1, 6, 8)") + bytes(384), r"\(1, 6, 8\)"),
    "floats": (header("(6, 8)", "<f8") + bytes(384), "float64"),
    "a label too large": (header("(6, 8)") + struct.pack("<q", 35) * 48, r"the label 35, outside 0\.\.34"),
    "a label below 0": (header("(6, 8)") + struct.pack("<q", -1) * 48, "the label -1"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_a_bad_array_is_named_with_its_cause(tmp_path: Path, kind: str) -> None:
    folder = cityscapes(tmp_path)
    content, cause = BAD_ARRAYS[kind]
    (folder / "synthetic_labels" / "7.npy").write_bytes(content)
    edits = CityscapesEdits(tmp_path, size=SIZE)
    with pytest.raises(ValueError, match=rf"(?s)synthetic_labels/7\.npy.*{cause}"):
        edits.pair(0)
    assert edits.pair(1).name == "1501_synthetic"


def test_the_whole_array_of_those_tests_is_read(tmp_path: Path) -> None:
    (cityscapes(tmp_path) / "synthetic_labels" / "7.npy").write_bytes(WHOLE)
    assert CityscapesEdits(tmp_path, size=SIZE).pair(0).edited_label.sum() == 0


def test_a_pickled_array_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "made"
    folder = churches(tmp_path)
    hostile = np.empty((16, 24), object)
    hostile.fill(Hostile(mark))
    array(folder / "masks" / "000.npy", hostile)
    (folder / "masks" / "001.npy").write_bytes(pickle.dumps(Hostile(mark)))
    edits = ChurchEdits(tmp_path)
    for i in range(2):
        with pytest.raises(ValueError, match=rf"00{i}\.npy is damaged or no plain array"):
            edits.mask(i)
    assert not mark.exists()
    np.load(folder / "masks" / "000.npy", allow_pickle=True)
    assert mark.exists()  # read freely, the file runs something


def test_a_mask_of_numbers_and_a_damaged_picture_are_named(tmp_path: Path) -> None:
    folder = churches(tmp_path)
    array(folder / "masks" / "000.npy", np.zeros((16, 24)))
    (folder / "edited" / "000.png").write_bytes((folder / "edited" / "000.png").read_bytes()[:100])
    edits = ChurchEdits(tmp_path)
    with pytest.raises(ValueError, match=r"masks/000\.npy holds float64 \(16, 24\), not bool"):
        edits.mask(0)
    with pytest.raises(ValueError, match=r"edited/000\.png cannot be read as a picture"):
        edits.pair(0)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "lists no pairs"),
        ("gt_id,synthetic_id\n", "lists no pairs"),
        ("gt_id\n0\n", "has 1 column in line 1"),
        ("gt_id,synthetic_id\n0,7\n3\n", "has 1 column in line 3"),
        ("gt_id,synthetic_id\n0,../../secret\n", r"'\.\./\.\./secret' in line 2, which is no id"),
        ("gt_id,synthetic_id\n/etc/x,7\n", "no id"),
        ("gt_id,synthetic_id\n,7\n", "no id"),
        ("gt_id,synthetic_id\n0,\x007\n", "meta.csv"),
        (b"gt_id,synthetic_id\n\xff\xfe,7\n", "cannot be read"),
    ],
)
def test_a_bad_list_of_pairs_is_named_with_its_cause(tmp_path: Path, content: str | bytes, cause: str) -> None:
    file = cityscapes(tmp_path) / "meta.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=rf"(?s)meta\.csv.*{cause}" if cause != "meta.csv" else cause):
        CityscapesEdits(tmp_path, size=SIZE)


def test_windows_line_ends_further_columns_and_blank_lines(tmp_path: Path) -> None:
    file = cityscapes(tmp_path) / "meta.csv"
    file.write_bytes(b"gt_id,synthetic_id,note\r\n0, 7,a\r\n3,1501,b\r\n\r\n")
    assert CityscapesEdits(tmp_path, size=SIZE).ids == (("0", "7"), ("3", "1501"))


# The checkpoints of these benchmarks, of which md5 sums are published.


def sige_keys() -> list[str]:
    return [key for key in weights.WEIGHTS if key.startswith("sige-")]


def test_published_checkpoints_have_an_address_and_an_md5(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path))
    assert len(sige_keys()) == 8
    for key in sige_keys():
        official = weights.WEIGHTS[key].official
        assert official is not None
        assert len(official.md5) == 32
        assert official.url in weights.remedy(key)
        assert weights.WEIGHTS[key].variable in weights.remedy(key)
        assert weights.find(key) is None


@pytest.mark.parametrize("key", ["drn-d-105-cityscapes", "drn-d-22-cityscapes", "cut-horse2zebra", "sd-v1-4"])
def test_a_file_without_an_address_says_where_to_put_it(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path))
    with pytest.raises(weights.WeightsNotFound, match="no official download") as caught:
        weights.load(key)
    assert f"set {weights.WEIGHTS[key].variable} to its path" in caught.value.remedy


def test_a_download_of_another_md5_is_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = b"weights"

    def download(url: str, path: Path, sha256: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    monkeypatch.setattr(weights, "download", download)
    official = weights.Official("https://example.org/x.pth", md5=hashlib.md5(content).hexdigest())
    assert weights._checked_download(official, tmp_path).read_bytes() == content
    content = b"others"
    with pytest.raises(DownloadError, match="whose md5 is not"):
        weights._checked_download(official, tmp_path)
    assert not list(tmp_path.iterdir())
