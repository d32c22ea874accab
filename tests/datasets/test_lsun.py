"""LSUN's databases: what lmdb writes is read in order, without values at opening; a bad file is named."""

from __future__ import annotations

import io
import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.datasets import lsun
from gengauge.datasets.lsun import LMDBSet
from gengauge.datasets.published import open_set
from gengauge.datasets.sets import PictureSet

PAGE = 4096


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture file's content; WebP without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def grey(value: int, size: int = 4) -> bytes:
    return encoded(np.full((size, size, 3), value, np.uint8))


def database(path: Path, files: dict[str, bytes]) -> Path:
    """A database as the published ones were made."""
    lmdb = pytest.importorskip("lmdb")
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**28) as opened:
        for key, content in files.items():
            with opened.begin(write=True) as transaction:
                transaction.put(key.encode(), content)
    return path


def test_pictures_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = np.random.RandomState(0).randint(0, 256, (8, 8, 3))
    files = {"b": encoded(wide, "WEBP"), "a": encoded(wide[:, 6:14], "WEBP"), "c": grey(3, 16)}
    found: PictureSet = LMDBSet(database(tmp_path / "cat", files), 8)
    assert (len(found), found.labels, found.num_classes, found.name) == (3, None, 0, "cat")
    pictures = found.pictures([0, 1, 2])
    for i in range(2):
        assert np.array_equal(pictures[i].permute(1, 2, 0).numpy(), wide[:, 6:14])
    assert (pictures[2] == 3).all()
    small = LMDBSet(tmp_path / "cat", 4, limit=2)
    assert [small.key(i) for i in range(len(small))] == ["a", "b"]
    scaled = np.asarray(Image.fromarray(wide[:, 6:14]).resize((4, 4), Image.Resampling.LANCZOS))
    assert np.array_equal(small.pictures([1])[0].permute(1, 2, 0).numpy(), scaled)
    assert torch.equal(pickle.loads(pickle.dumps(found)).pictures([2, 0]), pictures[[2, 0]])  # noqa: S301 - to a worker
    by_key = open_set("lsun-cat", tmp_path, 8)
    assert by_key.name == "lsun-cat"
    assert torch.equal(by_key.pictures(range(3)), pictures)


def test_a_large_tree_is_read_as_lmdb_reads_it(tmp_path: Path) -> None:
    """Several levels of pages, values inside leaves and on overflow pages, pages freed by changes and deletions."""
    lmdb = pytest.importorskip("lmdb")
    random = np.random.RandomState(0)
    path = database(tmp_path / "x", {})
    with lmdb.open(str(path), map_size=2**28) as opened:
        for _ in range(3):
            with opened.begin(write=True) as transaction:
                for number in random.randint(0, 8000, 5000):
                    key = f"{number * 7919 % 8009:0{number % 60 + 5}d}".encode()
                    if random.rand() < 0.2:
                        transaction.delete(key)
                    else:
                        transaction.put(key, os.urandom(random.choice([0, 1, 30, 900, 2100, 9000])))
        with opened.begin() as transaction:
            expected = list(transaction.cursor())
            depth = opened.stat()["depth"]
    assert depth >= 3
    found = LMDBSet(path, 4)
    content = (path / "data.mdb").read_bytes()
    places = found._places.tolist()
    assert [(content[k : k + n], content[v : v + m]) for k, n, v, m in places] == expected
    assert len(LMDBSet(path, 4, limit=100)) == 100
    assert len(LMDBSet(path, 4, limit=10**6)) == len(expected)


def test_values_are_not_read_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{i:040}": os.urandom(9000) for i in range(300)}
    path, read = database(tmp_path / "x", files), []
    honest = lsun.read_at

    def counted(descriptor: int, count: int, at: int) -> bytes:
        read.append(count)
        return honest(descriptor, count, at)

    monkeypatch.setattr(lsun, "read_at", counted)
    assert len(LMDBSet(path, 4)) == 300
    assert sum(read) < 20 * PAGE
    read.clear()
    LMDBSet(path, 4, limit=1)
    assert sum(read) < 4 * PAGE


def test_an_unreadable_picture_is_named_by_its_key(tmp_path: Path) -> None:
    path = database(tmp_path / "cat", {"a": grey(1), "broken": b"RIFF"})
    with pytest.raises(ValueError, match=r"broken in .*cat cannot be read as a picture"):
        LMDBSet(path, 4).pictures([1])
    with pytest.raises(IndexError, match="set of 2"):
        LMDBSet(path, 4).pictures([2])


def test_a_database_that_is_missing_empty_or_cut_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data\.mdb"):
        LMDBSet(tmp_path, 4)
    with pytest.raises(ValueError, match="holds no pictures"):
        LMDBSet(database(tmp_path / "empty", {}), 4)
    content = (database(tmp_path / "x", {"a": grey(1), "c": os.urandom(50_000)}) / "data.mdb").read_bytes()
    for size in (0, 100, PAGE, PAGE + 50, 3 * PAGE, len(content) - PAGE):
        (tmp_path / "x" / "data.mdb").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"data\.mdb is damaged or no LMDB database"):
            LMDBSet(tmp_path / "x", 4)


def test_overwritten_pages_are_refused_and_never_followed_for_ever(tmp_path: Path) -> None:
    path = database(tmp_path / "x", {f"{i:040}": bytes(500) for i in range(200)})
    content = (path / "data.mdb").read_bytes()
    random = np.random.RandomState(0)
    with (path / "data.mdb").open("rb") as stream:
        branch = lsun._read_meta(stream.fileno()).root

    def index(changed: bytes) -> None:
        (path / "data.mdb").write_bytes(changed)
        LMDBSet(path, 4)

    for cause, at, data in (
        ("first pages are not those", 16, b"\0\0\0\0"),
        ("first pages are not those", 20, b"\2"),
        ("pages have 0 bytes", 40, b"\0\0\0\0"),
        ("neither branch nor leaf", branch * PAGE + 10, b"\4"),
        ("neither branch nor leaf", branch * PAGE + 12, b"\x10\0"),
    ):
        with pytest.raises(ValueError, match=rf"data\.mdb is damaged .*{cause}"):
            index(content[:at] + data + content[at + len(data) :])
    # A branch page all of whose nodes lead to itself.
    loop, lower = bytearray(content), struct.unpack_from("<H", content, branch * PAGE + 12)[0]
    for node in struct.unpack_from(f"<{(lower - 16) // 2}H", content, branch * PAGE + 16):
        struct.pack_into("<HHH", loop, branch * PAGE + node, branch, 0, 0)
    with pytest.raises(ValueError, match=f"refers to page {branch}"):
        index(bytes(loop))
    for _ in range(300):
        changed = bytearray(content)
        for at in random.randint(0, len(changed), 20) // 8 * 4:  # mostly in the first half: metas, branches, leaves
            changed[at] = random.randint(256)
        with suppress(ValueError):
            index(bytes(changed))
