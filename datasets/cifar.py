"""CIFAR-10 and CIFAR-100 as published: pickles of Python 2, read without running anything, or the binary version."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gengauge.datasets.checkpoints import UnsafeCheckpoint
from gengauge.datasets.sets import Array, DataNotFound, InMemory

PIXELS = 3 * 32 * 32
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
# What unpickling raises on files that are cut short or overwritten.
_DAMAGE = (
    EOFError, ValueError, LookupError, AttributeError, TypeError, MemoryError, OverflowError, RecursionError,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class _Version:
    """One of the published forms of a set: its folder, its files by split, its archive."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    archive: str


_VERSIONS = {
    10: (
        _Version(
            "cifar-10-batches-py",
            tuple(f"data_batch_{i}" for i in range(1, 6)),
            ("test_batch",),
            "cifar-10-python.tar.gz",
        ),
        _Version(
            "cifar-10-batches-bin",
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            ("test_batch.bin",),
            "cifar-10-binary.tar.gz",
        ),
    ),
    100: (
        _Version("cifar-100-python", ("train",), ("test",), "cifar-100-python.tar.gz"),
        _Version("cifar-100-binary", ("train.bin",), ("test.bin",), "cifar-100-binary.tar.gz"),
    ),
}


def read_cifar(root: Path, classes: Literal[10, 100], split: Literal["train", "test"]) -> InMemory:
    """A split of CIFAR in its stored order; CIFAR-100 with its fine labels. `root`: the data folder or the set's own.

    The files may hold any number of pictures. Raises DataNotFound where there is no such set or a file of the split is
    missing, UnsafeCheckpoint for a pickle that asks for more than arrays, ValueError for any other bad file.
    """
    files = _split_files(root, classes, split)
    parts = [_read_file(file, classes) for file in files]
    pixels = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return InMemory(torch.from_numpy(pixels), labels, classes, f"cifar{classes}-{split}")


def cifar_files(root: Path, classes: Literal[10, 100]) -> list[Path] | None:
    """The files that are there of the most complete version, training before test; None where there are none."""
    found = _found(root, classes)
    best = max(found, key=lambda place: len(_there(*place)), default=None)
    return None if best is None else _there(*best)


def _places(root: Path, classes: int) -> list[tuple[Path, _Version]]:
    return [(folder, v) for v in _VERSIONS[classes] for folder in (root / v.folder, root)]


def _found(root: Path, classes: int) -> list[tuple[Path, _Version]]:
    return [place for place in _places(root, classes) if _there(*place)]


def _there(folder: Path, version: _Version) -> list[Path]:
    return [folder / name for name in (*version.train, *version.test) if (folder / name).is_file()]


def _split_files(root: Path, classes: Literal[10, 100], split: Literal["train", "test"]) -> list[Path]:
    """The files of a split, all of them there."""
    found = _found(root, classes)
    missing: list[Path] = []
    for folder, version in found:
        files = [folder / name for name in (version.train if split == "train" else version.test)]
        lacking = [file for file in files if not file.is_file()]
        if not lacking:
            return files
        missing = missing or lacking
    archive = (found[0][1] if found else _VERSIONS[classes][0]).archive
    remedy = f"unpack {archive} from {PAGE} into the data folder"
    if missing:
        names = ", ".join(file.name for file in missing)
        raise DataNotFound(f"part of CIFAR-{classes} ({names})", [missing[0].parent], f"{remedy} again")
    places = dict.fromkeys(folder for folder, _ in _places(root, classes))
    raise DataNotFound(f"CIFAR-{classes}", list(places), remedy)


def _read_file(file: Path, classes: int) -> tuple[Array, Array]:
    """Pixels uint8 (N, 3072) and labels int64 (N,) of one file."""
    pixels, labels = _read_binary(file, classes) if file.suffix == ".bin" else _read_pickle(file, classes)
    if not len(labels):
        raise ValueError(f"{file} holds no pictures; unpack it again")
    if len(labels) != len(pixels):
        raise ValueError(f"{file} holds {len(pixels)} pictures and {len(labels)} labels; unpack it again")
    if not 0 <= labels.min() <= labels.max() < classes:
        bad = next(int(label) for label in labels if not 0 <= label < classes)
        raise ValueError(f"{file} has the label {bad}, outside 0..{classes - 1}")
    return pixels, labels


def _read_binary(file: Path, classes: int) -> tuple[Array, Array]:
    content = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    heads = 1 if classes == 10 else 2  # CIFAR-100 has the coarse label before the fine one
    if content.size % (heads + PIXELS):
        raise ValueError(
            f"{file} is cut short or of another format: its {content.size} bytes are not records of {heads + PIXELS}"
        )
    records = content.reshape(-1, heads + PIXELS)
    return records[:, heads:].copy(), records[:, heads - 1].astype(np.int64)


def _read_pickle(file: Path, classes: int) -> tuple[Array, Array]:
    try:
        with file.open("rb") as stream:
            content = _Batch(stream, encoding="bytes").load()
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{file} is refused: {error}") from None
    except _DAMAGE as error:
        raise ValueError(f"{file} is damaged or no pickle of CIFAR ({error}); unpack it again") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds no dictionary; it is no pickle of CIFAR")
    # Python 2 wrote the names as bytes; sets written anew by Python 3 have text.
    by_name = {
        name.encode(errors="replace") if isinstance(name, str) else name: value for name, value in content.items()
    }
    key = b"labels" if classes == 10 else b"fine_labels"
    pixels, labels = by_name.get(b"data"), by_name.get(key)
    if not isinstance(pixels, _Pixels) or pixels.value is None:
        raise ValueError(f"{file} has no array of bytes by the name 'data'")
    if pixels.value.ndim != 2 or pixels.value.shape[1] != PIXELS:
        raise ValueError(f"{file} has pictures of shape {pixels.value.shape}, not (N, {PIXELS})")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise ValueError(f"{file} has no list of whole numbers by the name '{key.decode()}'")
    return pixels.value, np.array(labels, dtype=np.int64)


class _Pixels:
    """Stands for numpy's array while a pickle is read: takes rows of bytes, and no other kind."""

    value: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, fortran, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise UnsafeCheckpoint("an array of objects is refused")
        if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != len(data):
            raise ValueError(f"an array of shape {shape} comes with {len(data)} bytes")
        self.value = np.frombuffer(bytearray(data), np.uint8).reshape(shape, order="F" if fortran else "C")


class _Kind:
    """Stands for numpy's dtype of unsigned bytes, the only one in these files."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise UnsafeCheckpoint("an array of structured kind is refused")


class _Named:
    """Stands for a class or function that a pickle may name; it has no attributes that the pickle could change."""

    __slots__ = ()


class _Dtype(_Named):
    __slots__ = ()

    def __call__(self, code: str | bytes, *_: Any) -> _Kind:
        if code not in ("u1", b"u1"):
            raise ValueError(f"an array is of kind {code!r}, not of bytes ('u1')")
        return _Kind()


class _Reconstruct(_Named):
    __slots__ = ()

    def __call__(self, subtype: Any, _shape: Any, _kind: Any) -> _Pixels:
        if subtype is not _NDARRAY:
            raise UnsafeCheckpoint("an array of a type other than numpy's own is refused")
        return _Pixels()


class _Encode(_Named):
    """How Python 3 writes bytes in protocol 2: as text in Latin-1."""

    __slots__ = ()

    def __call__(self, text: str, _encoding: Any) -> bytes:
        return text.encode("latin1")


_NDARRAY = _Named()
_ADMITTED: Mapping[tuple[str, str], _Named] = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype(),
    ("_codecs", "encode"): _Encode(),
}


class _Batch(pickle.Unpickler):
    """Reads a batch: arrays of bytes and plain containers by name, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        raise UnsafeCheckpoint(f"it asks for {module}.{name}, which is no array or container")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpoint("it refers to objects outside itself")
