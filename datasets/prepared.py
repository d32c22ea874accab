"""The databases that GANgealing's preparation script writes: pictures of one size in an LMDB, key points beside it.

Keys are "{size}-{index:05d}", and "length" holds the number of pictures as text. Beside the database a set with key
points has `keypoints.pt` and, as far as they apply, `pairs.pt`, `pck_thresholds.pt` with `inverse_coordinates.pt`, and
`permutation.pt`. Reading needs no package `lmdb`; writing does.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.datasets.key_points import KeyPointSet
from gengauge.datasets.lsun import LMDBSet
from gengauge.datasets.saving import write_checkpoint
from gengauge.datasets.sets import Array, DataNotFound, Indices, checked
from gengauge.datasets.unpickling import DamagedCheckpoint, reading, torch_load

Encoding = Literal["png", "jpeg"]
LENGTH = "length"
_JPEG_QUALITY = 100
_MAP_SIZE = 2**40  # the most that a database may grow to; files are only as large as what they hold
_COMMIT_EVERY = 1000


class PreparedPictures:
    """The pictures of a prepared database in the order of their indices.

    Raises FileNotFoundError, ValueError for a database that is damaged or holds other keys.
    """

    labels = None
    num_classes = 0

    def __init__(self, path: Path, size: int, *, name: str | None = None) -> None:
        self.path, self.resolution, self.name = path, size, name or path.name
        self._stored = LMDBSet(path, size)
        self._count = len(self._stored) - 1  # beside the length
        # Keys are ordered by their text: index 100000 stands between 10000 and 10001.
        order = sorted(range(self._count), key=lambda index: key_of(size, index))
        expected = {
            place: key_of(size, order[place]) for place in (0, self._count // 2, self._count - 1) if self._count
        }
        for place, key in {**expected, self._count: LENGTH}.items():
            found = self._stored.key(place)
            if found != key:
                raise ValueError(
                    f"{path} does not hold pictures of {size} px as prepared: a key is {found!r}, not {key!r}"
                )
        self._places = np.empty(self._count, np.int64)
        self._places[order] = np.arange(self._count)

    def __len__(self) -> int:
        return self._count

    def pictures(self, indices: Indices) -> Tensor:
        """The pictures as uint8 (n, 3, size, size). Raises IndexError, ValueError naming an unreadable one's key."""
        return self._stored.pictures(self._places[checked(indices, len(self))])


def key_of(size: int, index: int) -> str:
    """The key of a picture."""
    return f"{size}-{index:05d}"


def read_prepared(path: Path, size: int) -> KeyPointSet:
    """A prepared set with key points. Raises DataNotFound without them, ValueError where files do not agree."""
    stored = PreparedPictures(path, size)
    key_points = _tensor(path / "keypoints.pt")
    if key_points is None:
        raise DataNotFound(f"the key points of {path.name}", [path / "keypoints.pt"], "prepare the set with key points")
    if key_points.ndim != 3 or key_points.shape[2] != 3 or len(key_points) != len(stored):
        raise ValueError(f"{path} has {len(stored)} pictures and key points of shape {tuple(key_points.shape)}")
    pairs, lengths = _tensor(path / "pairs.pt"), _tensor(path / "pck_thresholds.pt")
    inverse = _tensor(path / "inverse_coordinates.pt")
    if (lengths is None) != (inverse is None):
        raise ValueError(f"{path} has only one of pck_thresholds.pt and inverse_coordinates.pt; prepare it again")
    for kind, found in (("pck_thresholds", lengths), ("inverse_coordinates", inverse)):
        if found is not None and len(found) != len(stored):
            raise ValueError(f"{path} has {len(stored)} pictures and {len(found)} {kind}; prepare it again")
    if pairs is not None and (
        pairs.ndim != 2 or pairs.shape[1] != 2 or not 0 <= pairs.min() <= pairs.max() < len(stored)
    ):
        raise ValueError(f"the pairs of {path} are no pairs of its {len(stored)} pictures; prepare it again")

    def read(index: int) -> Array:
        return stored.pictures([index])[0].permute(1, 2, 0).numpy()

    permutation = _tensor(path / "permutation.pt")
    inverse = None if inverse is None else inverse.float()
    lengths = None if lengths is None else lengths.float()
    return KeyPointSet(path.name, size, key_points.float(), pairs, permutation, lengths, inverse, (), read)


def write_prepared(
    path: Path,
    pictures: Iterable[Array],
    size: int,
    key_points: KeyPointSet | None = None,
    encoding: Encoding = "png",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes pictures, uint8 (H, W, 3) each, and what is known of their key points; returns how many.

    `path` appears when all is written. `progress` is told the number of pictures done. Raises FileExistsError where
    `path` is there, ImportError without the package `lmdb`, ValueError for other pictures or none.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already; choose another place or remove it")
    if key_points is not None and len(key_points) == 0:
        raise ValueError("a set without pictures is not written")
    lmdb = _package()
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    hidden.mkdir(parents=True)
    try:
        count = 0
        with lmdb.open(str(hidden), map_size=_MAP_SIZE, readahead=False) as database:
            transaction = database.begin(write=True)
            for picture in pictures:
                transaction.put(key_of(size, count).encode(), _encoded(picture, encoding))
                count += 1
                if count % _COMMIT_EVERY == 0:
                    transaction.commit()
                    transaction = database.begin(write=True)
                if progress is not None:
                    progress(count)
            transaction.put(LENGTH.encode(), str(count).encode())
            transaction.commit()
        if not count or (key_points is not None and count != len(key_points)):
            raise ValueError(
                f"{count} pictures are not written as a set"
                + (f" of {len(key_points)}" if key_points is not None else "")
            )
        (hidden / "lock.mdb").unlink(missing_ok=True)
        if key_points is not None:
            _write_key_points(hidden, key_points)
        hidden.replace(path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return count


def write_key_point_set(path: Path, found: KeyPointSet, encoding: Encoding = "png") -> int:
    """Writes a set with key points as the published script does. Raises as `write_prepared` does."""
    pictures = (found.pictures([i])[0].permute(1, 2, 0).numpy() for i in range(len(found)))
    return write_prepared(path, pictures, found.size, found, encoding)


def _write_key_points(folder: Path, found: KeyPointSet) -> None:
    contents: dict[str, Any] = {
        "keypoints": found.key_points,
        "pairs": found.pairs,
        "pck_thresholds": found.lengths,
        "inverse_coordinates": found.inverse_coordinates,
        "permutation": None if found.permutation is None else found.permutation.tolist(),
    }
    for name, content in contents.items():
        if content is not None:
            write_checkpoint(folder / f"{name}.pt", content)


def _encoded(picture: Array, encoding: Encoding) -> bytes:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"pictures are uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    stream = io.BytesIO()
    more = {"quality": _JPEG_QUALITY} if encoding == "jpeg" else {}
    Image.fromarray(picture).save(stream, encoding.upper(), **more)
    return stream.getvalue()


def _tensor(file: Path) -> Tensor | None:
    """The tensor of a file, or of its list of numbers; None where there is no file."""
    if not file.exists():
        return None
    with reading(file):
        content = torch_load(file)
        if not isinstance(content, Tensor | list):
            raise DamagedCheckpoint("it holds neither a tensor nor a list")
        return torch.as_tensor(content)


def _package() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError("writing databases needs the package lmdb: pip install lmdb") from error
    return lmdb
