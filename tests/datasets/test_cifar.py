"""CIFAR as published: both versions of both sets are read, every bad file is named, a hostile one runs nothing."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gengauge.datasets.checkpoints import UnsafeCheckpoint
from gengauge.datasets.cifar import PIXELS, cifar_files, read_cifar
from gengauge.datasets.sets import DataNotFound

TRAIN = [f"data_batch_{i}" for i in range(1, 6)]


def random_rows(count: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, PIXELS), dtype=np.uint8)


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def text(value: bytes) -> bytes:
    """A string as Python 2 pickles it, which Python 3 would not write."""
    return b"U" + bytes([len(value)]) + value


def python2_pickle(rows: np.ndarray, labels: list[int], key: bytes = b"labels", code: bytes = b"u1") -> bytes:
    """A batch as in the published archives: protocol 2, names and pixels as strings, the array by numpy's old path."""
    pixels = rows.tobytes()
    dtype = b"cnumpy\ndtype\n" + text(code) + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + number(1) + b"".join(map(number, rows.shape)) + b"\x86" + dtype
    array += b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
    items = [b"batch_label", key, b"data", b"filenames"]
    values = [text(b"testing"), b"](" + b"".join(map(number, labels)) + b"e", array, b"](" + text(b"a.png") + b"e"]
    return b"\x80\x02}(" + b"".join(text(k) + v for k, v in zip(items, values, strict=True)) + b"u."


def cifar10(root: Path, count: int = 3) -> np.ndarray:
    """A CIFAR-10 of `count` pictures a file; returns all rows, training before test. Labels are 0, 1, 2, ..."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = random_rows(6 * count, 0)
    for i, name in enumerate([*TRAIN, "test_batch"]):
        (folder / name).write_bytes(python2_pickle(rows[i * count : (i + 1) * count], list(range(count))))
    return rows


def test_cifar10_pickles_of_python_2(tmp_path: Path) -> None:
    rows = cifar10(tmp_path)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        train, test = read_cifar(root, 10, "train"), read_cifar(root, 10, "test")
        assert (len(train), len(test), train.num_classes, train.resolution) == (15, 3, 10, 32)
        assert train.labels is not None
        assert train.labels.tolist() == [0, 1, 2] * 5
        assert torch.equal(train.pixels, torch.from_numpy(rows[:15].reshape(-1, 3, 32, 32)))
        assert torch.equal(test.pictures([2, 0]), torch.from_numpy(rows[[17, 15]].reshape(-1, 3, 32, 32)))
        assert train.name != test.name
        files = cifar_files(root, 10)
        assert files is not None
        assert [file.name for file in files] == [*TRAIN, "test_batch"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_written_anew_by_python_3(tmp_path: Path, protocol: int) -> None:
    rows = random_rows(2, 1)
    for name in ("train", "test"):
        content = {"data": np.asfortranarray(rows), "fine_labels": [99, 0], "coarse_labels": [1, 2]}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol))
    read = read_cifar(tmp_path, 100, "test")
    assert read.labels is not None
    assert read.labels.tolist() == [99, 0]
    assert np.array_equal(read.pixels.flatten(1).numpy(), rows)


def test_cifar100_and_the_binary_versions(tmp_path: Path) -> None:
    rows = random_rows(4, 2)
    (tmp_path / "py").mkdir()
    (tmp_path / "py" / "train").write_bytes(python2_pickle(rows, [5, 99, 0, 7], b"fine_labels"))
    read = read_cifar(tmp_path / "py", 100, "train")
    fine = np.array([5, 99, 0, 7], np.uint8)[:, None]
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-binary" / "train.bin").write_bytes(np.hstack([fine // 5, fine, rows]).tobytes())
    binary = read_cifar(tmp_path, 100, "train")
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for i, name in enumerate(TRAIN[:4]):
        (tmp_path / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(
            np.hstack([np.array([[i]]), rows[[i]]]).astype(np.uint8).tobytes()
        )
    (tmp_path / "cifar-10-batches-bin" / "data_batch_5.bin").write_bytes(bytes(1 + PIXELS) * 7)
    ten = read_cifar(tmp_path, 10, "train")
    for one in (read, binary):
        assert one.labels is not None
        assert one.labels.tolist() == [5, 99, 0, 7]
        assert np.array_equal(one.pixels.flatten(1).numpy(), rows)
    assert ten.labels is not None
    assert ten.labels.tolist() == [0, 1, 2, 3] + [0] * 7
    assert np.array_equal(ten.pixels[:4].flatten(1).numpy(), rows)


def test_a_missing_or_incomplete_set_says_how_to_get_it(tmp_path: Path) -> None:
    assert cifar_files(tmp_path, 10) is None
    with pytest.raises(DataNotFound, match=r"CIFAR-100 not found.*cifar-100-python.*unpack cifar-100-python") as caught:
        read_cifar(tmp_path, 100, "train")
    assert "cifar.html" in caught.value.remedy
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - as between processes
    assert (str(again), again.remedy) == (str(caught.value), caught.value.remedy)
    cifar10(tmp_path)
    with pytest.raises(DataNotFound):
        read_cifar(tmp_path, 100, "train")
    for name in ("data_batch_2", "data_batch_5"):
        (tmp_path / "cifar-10-batches-py" / name).unlink()
    with pytest.raises(DataNotFound, match=r"\(data_batch_2, data_batch_5\).*unpack cifar-10-python.tar.gz .* again"):
        read_cifar(tmp_path, 10, "train")
    assert len(read_cifar(tmp_path, 10, "test")) == 3
    assert len(cifar_files(tmp_path, 10) or []) == 4
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name in TRAIN:  # a second version that is whole takes the first one's place
        (tmp_path / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(bytes(1 + PIXELS))
    assert len(read_cifar(tmp_path, 10, "train")) == 5


BAD_PICKLES = {
    "cut": (python2_pickle(random_rows(2, 3), [0, 1])[:3000], "damaged"),
    "cut at the end": (python2_pickle(random_rows(2, 3), [0, 1])[:-1], "damaged"),
    "empty": (b"", "damaged"),
    "html": (b"<html>moved</html>", "damaged"),
    "list": (pickle.dumps([1, 2], 2), "no dictionary"),
    "without data": (pickle.dumps({b"labels": [0]}, 2), "no array of bytes by the name 'data'"),
    "without labels": (python2_pickle(random_rows(2, 3), [0, 1], b"fine_labels"), "by the name 'labels'"),
    "no pictures": (python2_pickle(random_rows(0, 3), []), "holds no pictures"),
    "label too large": (python2_pickle(random_rows(2, 3), [0, 10]), r"label 10, outside 0\.\.9"),
    "label below 0": (python2_pickle(random_rows(2, 3), [0, -1]), "label -1"),
    "labels lacking": (python2_pickle(random_rows(2, 3), [0]), "2 pictures and 1 labels"),
    "short rows": (python2_pickle(random_rows(2, 3)[:, :100], [0, 1]), r"shape \(2, 100\)"),
    "floats": (python2_pickle(random_rows(2, 3), [0, 1], code=b"f4"), "of kind b'f4'"),
    "labels of text": (pickle.dumps({"data": random_rows(1, 3), "labels": ["cat"]}, 2), "whole numbers"),
    "labels true": (pickle.dumps({"data": random_rows(1, 3), "labels": [True]}, 2), "whole numbers"),
    "labels huge": (pickle.dumps({"data": random_rows(1, 3), "labels": [2**70]}, 2), "whole numbers"),
    "bytes lacking": (pickle.dumps({"data": np.zeros(4, np.uint8)}, 2).replace(b"K\x04\x85", b"K\x40\x85"), "shape"),
}


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_a_bad_pickle_is_named_with_its_cause(tmp_path: Path, kind: str) -> None:
    cifar10(tmp_path)
    content, cause = BAD_PICKLES[kind]
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_3.*{cause}"):
        read_cifar(tmp_path, 10, "train")


@pytest.mark.parametrize(
    ("size", "cause"),
    [
        (2 * (1 + PIXELS) - 1, "cut short or of another format"),
        (2 * (2 + PIXELS), "cut short or of another format"),
        (0, "holds no pictures"),
    ],
)
def test_a_bad_binary_file_is_named_with_its_cause(tmp_path: Path, size: int, cause: str) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=rf"test_batch\.bin.*{cause}"):
        read_cifar(tmp_path, 10, "test")
    (tmp_path / "test_batch.bin").write_bytes(b"\x0b" + bytes(PIXELS))
    with pytest.raises(ValueError, match="label 11"):
        read_cifar(tmp_path, 10, "test")


class Hostile:
    """Unpickled freely, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark, payload = tmp_path / "made", pickle.dumps({b"data": Hostile(tmp_path / "made")}, 2)
    (tmp_path / "test_batch").write_bytes(payload)
    with pytest.raises(UnsafeCheckpoint, match=r"test_batch is refused: it asks for posix\.system"):
        read_cifar(tmp_path, 10, "test")
    assert not mark.exists()
    pickle.loads(payload)  # noqa: S301 - shows that the payload is live
    assert mark.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"cbuiltins\neval\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n]K\x00\x85U\x01b\x87R.",  # another type than an array
        b"U\x01xQ.",  # an object outside the file
        pickle.dumps({"data": np.array([{}], dtype=object)}, 2),
        # An array whose kind says afterwards that its bytes are references to objects.
        b"cnumpy\ndtype\nU\x02u1\x85R(K\x03U\x01|NU\x01a\x85}NNNtb.",
        pickle.dumps({"data": np.zeros(2, [("a", "u1")])}, 2),
    ],
)
def test_other_requests_of_a_pickle_are_refused(tmp_path: Path, attack: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(attack if attack[:1] == b"\x80" else b"\x80\x02" + attack)
    with pytest.raises(ValueError, match="test_batch"):
        read_cifar(tmp_path, 10, "test")


def test_a_pickle_cannot_change_what_stands_for_numpy(tmp_path: Path) -> None:
    """BUILD sets attributes of whatever is on the stack, functions and classes of the reader included."""
    for target in (b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"):
        (tmp_path / "test_batch").write_bytes(b"\x80\x02" + target + b"N}U\x05valueK\x01s\x86b.")
        with pytest.raises(ValueError, match="test_batch"):
            read_cifar(tmp_path, 10, "test")
    (tmp_path / "test_batch").write_bytes(python2_pickle(random_rows(1, 0), [3]))
    assert len(read_cifar(tmp_path, 10, "test")) == 1
