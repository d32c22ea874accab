"""LSUN's databases of compressed pictures (LMDB), read page by page without the package `lmdb`.

That package reads every value when it lists keys, tens of gigabytes here, ends the process on a file that is cut short,
and opens a file only once. What is needed of the format is small: two meta pages of which the newer counts, and a tree
of branch pages and leaf pages; a leaf holds a value or the number of the overflow page where it starts.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from gengauge.datasets.pictures_set import Resample, decode_all, open_rgb, square
from gengauge.datasets.reading import read_at
from gengauge.datasets.sets import Array, Indices, checked

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _LEAF2 = 1, 2, 0x20
_BIG, _OTHER = 1, 6  # flags of a node: its value is on overflow pages; it is a database or a set of values
_NO_PAGE = 2**64 - 1
_PAGE_HEAD, _NODE_HEAD, _META = 16, 8, 136
_MOST_LEVELS = 32  # as the library has it


class LMDBSet:
    """The pictures of a folder with `data.mdb` in the order of their keys, no labels; `limit` takes the first only.

    A picture's central square is scaled, by Lanczos as the published tools for GANs do it. At opening only the tree is
    read.

    Raises FileNotFoundError, ValueError for a damaged or empty database.
    """

    labels = None
    num_classes = 0

    def __init__(
        self,
        path: Path,
        resolution: int,
        *,
        limit: int | None = None,
        name: str | None = None,
        resample: Resample = "lanczos",
    ) -> None:
        self.file = path / "data.mdb"
        if not self.file.is_file():
            raise FileNotFoundError(f"{path}: there is no data.mdb in this folder")
        self.path, self.resolution, self.name = path, resolution, name or path.name
        self.resample: Resample = resample
        self._places = _index(self.file, limit)
        if not len(self._places):
            raise ValueError(f"{path} holds no pictures")

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> str:
        """The key of a picture. Raises IndexError."""
        start, length = (int(x) for x in self._places[checked([index], len(self))[0], :2])
        with self.file.open("rb", buffering=0) as stream:
            return read_at(stream.fileno(), length, start).decode(errors="replace")

    def pictures(self, indices: Indices) -> Tensor:
        """The pictures as uint8 (n, 3, R, R). Raises IndexError, ValueError naming an unreadable picture's key."""
        chosen = checked(indices, len(self))
        with self.file.open("rb", buffering=0) as stream:

            def decode_one(i: int) -> Array:
                start, length = (int(x) for x in self._places[chosen[i], 2:])
                content = read_at(stream.fileno(), length, start)
                picture = open_rgb(content, f"{self.key(int(chosen[i]))} in {self.path}")
                return square(picture, self.resolution, "center", self.resample)

            return decode_all(len(chosen), decode_one, self.resolution)


@dataclass(frozen=True)
class _Meta:
    """What a meta page says: the page size, and the tree of the newest state of the database."""

    page_size: int
    flags: int
    entries: int
    root: int
    last_page: int
    transaction: int


class _Damaged(ValueError):
    """A page that is not what it should be."""


def _index(file: Path, limit: int | None) -> Array:
    """Start and length of the first `limit` keys and of their values in the file, int64 (N, 4)."""
    places = array("q")
    with file.open("rb", buffering=0) as stream:
        size = file.stat().st_size
        try:
            meta = _read_meta(stream.fileno())
            if (meta.last_page + 1) * meta.page_size > size:
                raise _Damaged("it is cut short")
            if meta.entries * _NODE_HEAD > size:
                raise _Damaged(f"it claims {meta.entries} entries")
            wanted = meta.entries if limit is None else min(limit, meta.entries)
            if wanted and meta.root != _NO_PAGE:
                for place in _nodes(stream.fileno(), meta, meta.root, _MOST_LEVELS):
                    if len(places) == 4 * wanted:
                        break
                    places.extend(place)
            if len(places) != 4 * wanted:
                raise _Damaged(f"it holds {len(places) // 4} of its {meta.entries} entries")
        except (_Damaged, struct.error) as error:
            raise ValueError(f"{file} is damaged or no LMDB database ({error}); unpack it again") from error
    return np.array(places, dtype=np.int64).reshape(-1, 4)


def _read_meta(descriptor: int) -> _Meta:
    """The newer of the two meta pages."""
    first = _parse_meta(read_at(descriptor, _PAGE_HEAD + _META, 0))
    if first.page_size < 256 or first.page_size > 65536:
        raise _Damaged(f"its pages have {first.page_size} bytes")
    second = _parse_meta(read_at(descriptor, _PAGE_HEAD + _META, first.page_size))
    meta = max(first, second, key=lambda meta: meta.transaction)
    if meta.flags or meta.page_size != first.page_size:
        raise _Damaged("it is no plain table of keys and values")
    return meta


def _parse_meta(page: bytes) -> _Meta:
    magic, version = struct.unpack_from("<II", page, _PAGE_HEAD)
    if magic != _MAGIC or version != _VERSION:
        raise _Damaged("its first pages are not those of LMDB 0.9")
    # Address and size of the map come first, then the list of free pages, whose first number is the page size, then
    # the tree itself.
    (page_size,) = struct.unpack_from("<I", page, _PAGE_HEAD + 24)
    flags, _depth, *_pages, entries, root = struct.unpack_from("<4xHHQQQQQ", page, _PAGE_HEAD + 72)
    last_page, transaction = struct.unpack_from("<QQ", page, _PAGE_HEAD + 120)
    return _Meta(page_size, flags, entries, root, last_page, transaction)


def _nodes(descriptor: int, meta: _Meta, number: int, levels: int) -> Iterator[tuple[int, int, int, int]]:
    """Start and length of key and value of all entries under a page, in order."""
    if not levels or not 2 <= number <= meta.last_page:
        raise _Damaged(f"a page refers to page {number}")
    at = number * meta.page_size
    page = read_at(descriptor, meta.page_size, at)
    flags, lower = struct.unpack_from("<10xHH", page)
    if flags & _LEAF2 or flags & (_BRANCH | _LEAF) not in (_BRANCH, _LEAF) or not _PAGE_HEAD < lower <= len(page):
        raise _Damaged(f"page {number} is neither branch nor leaf")
    for node in struct.unpack_from(f"<{(lower - _PAGE_HEAD) // 2}H", page, _PAGE_HEAD):
        low, high, kind, key_length = struct.unpack_from("<HHHH", page, node)
        if flags & _BRANCH:
            yield from _nodes(descriptor, meta, low | high << 16 | kind << 32, levels - 1)
            continue
        start, length = at + node + _NODE_HEAD + key_length, low | high << 16
        end = at + meta.page_size
        if kind & _OTHER:
            raise _Damaged(f"page {number} has another table")
        if kind & _BIG:
            (overflow,) = struct.unpack_from("<Q", page, node + _NODE_HEAD + key_length)
            start, end = overflow * meta.page_size + _PAGE_HEAD, (meta.last_page + 1) * meta.page_size
        if start + length > end:
            raise _Damaged(f"an entry of page {number} reaches past its end")
        yield at + node + _NODE_HEAD, key_length, start, length
