"""Sets of picture files: a folder or a zip archive, which is never unpacked to disk; with labels where it has them."""

from __future__ import annotations

import io
import json
import lzma
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.datasets.folder import EXTENSIONS
from gengauge.datasets.sets import Array, Indices, checked, class_indices

Crop = Literal["none", "center"]
Resample = Literal["lanczos", "bilinear"]

# More than any published picture has; a file that claims more would fill the memory.
MAX_PIXELS = 2**26
MAX_FILE_BYTES = 2**28
# pillow can read more; of those formats some run other programs (PostScript) and none is in use for such sets.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
_DAMAGE = (
    OSError, EOFError, SyntaxError, ValueError, LookupError, RuntimeError, struct.error, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
# Below this number of pictures the threads cost more than they save.
_FEW = 4


class FolderSet:
    """The pictures under a folder or in a zip archive, ordered by the text of their relative paths, as published.

    `crop` "none" scales the whole picture to the square as the low-shot code does, "center" takes the largest central
    square first. Labels come from `dataset.json` ({"labels": [[path, class], ...]}), or with `class_folders` from the
    names of the topmost subfolders, sorted. Hidden files are left out. Pictures are decoded on access.

    Raises FileNotFoundError, and ValueError for what holds no pictures or has labels that do not fit.
    """

    def __init__(
        self,
        path: Path,
        resolution: int,
        *,
        crop: Crop = "none",
        resample: Resample = "lanczos",
        class_folders: bool = False,
        name: str | None = None,
    ) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such folder or archive")
        self.path, self.resolution, self.name = path, resolution, name or path.stem
        self.crop, self.resample = crop, resample
        self._source: _Folder | _Archive = _Folder(path) if path.is_dir() else _Archive(path)
        names = self._source.names()
        self.files = sorted(name for name in names if is_picture(name))
        if not self.files:
            raise ValueError(f"{path} holds no pictures (looked for {', '.join(sorted(EXTENSIONS))})")
        self.labels: Array | None = None
        self.num_classes = 0
        if class_folders:
            self.labels, self.num_classes = self._folder_labels()
        elif "dataset.json" in names:
            self.labels, self.num_classes = self._json_labels()

    def __len__(self) -> int:
        return len(self.files)

    def pictures(self, indices: Indices) -> Tensor:
        """The pictures as uint8 (n, 3, R, R). Raises IndexError, ValueError naming an unreadable picture."""
        chosen = checked(indices, len(self))
        return decode_all(len(chosen), lambda i: self._decode(self.files[chosen[i]]), self.resolution)

    def original(self, index: int) -> Image.Image:
        """A picture as RGB in its own size, for crops of other kinds. Raises IndexError, ValueError naming it."""
        file = self.files[checked([index], len(self))[0]]
        return open_rgb(self._read(file), f"{file} in {self.path}")

    def read(self, file: str) -> bytes:
        """A picture's file as it is. Raises ValueError naming one that cannot be read."""
        return self._read(file)

    def _decode(self, file: str) -> Array:
        picture = open_rgb(self._read(file), f"{file} in {self.path}")
        return square(picture, self.resolution, self.crop, self.resample)

    def _read(self, file: str) -> bytes:
        try:
            return self._source.read(file)
        except _DAMAGE as error:
            raise ValueError(f"{file} in {self.path} cannot be read ({error})") from error

    def _folder_labels(self) -> tuple[Array, int]:
        tops = [file.partition("/")[0] for file in self.files]
        loose = next((file for file in self.files if "/" not in file), None)
        if loose is not None:
            raise ValueError(
                f"{loose} in {self.path} lies in no class folder; sort the pictures into one folder a class"
            )
        numbers = {top: i for i, top in enumerate(sorted(set(tops)))}
        return np.array([numbers[top] for top in tops], dtype=np.int64), len(numbers)

    def _json_labels(self) -> tuple[Array | None, int]:
        where = f"dataset.json in {self.path}"
        try:
            content = json.loads(self._read("dataset.json"))
            labels = content.get("labels")
            by_file = None if labels is None else {str(file).replace("\\", "/"): label for file, label in labels}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f'{where} is not of the form {{"labels": [[file, class], ...]}} ({error})') from error
        if by_file is None:
            return None, 0
        missing = next((file for file in self.files if file not in by_file), None)
        if missing is not None:
            raise ValueError(f"{where} has no label for {missing}")
        try:
            found = np.array([by_file[file] for file in self.files])
        except ValueError as error:
            raise ValueError(f"{where} has labels of different lengths") from error
        return class_indices(found, where)


def is_picture(name: str) -> bool:
    """Whether a relative path is that of a picture; hidden files, which some archives have beside each, are none."""
    file = PurePosixPath(name)
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")


def open_rgb(data: bytes, where: str) -> Image.Image:
    """The picture of a file's content; grey becomes RGB and transparency is dropped.

    Raises ValueError naming `where` the content is from.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"it claims {picture.width} x {picture.height} pixels")
            if picture.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a colour")
            return picture.convert("RGB")
    except _DAMAGE as error:
        raise ValueError(f"{where} cannot be read as a picture ({error}); replace or remove it") from error


def square(picture: Image.Image, resolution: int, crop: Crop, resample: Resample) -> Array:
    """A picture as uint8 (3, R, R), as `FolderSet` says; one of the right size is not resampled."""
    if crop == "center":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if picture.size != (resolution, resolution):
        picture = picture.resize((resolution, resolution), _FILTERS[resample])
    return np.asarray(picture).transpose(2, 0, 1)


def decode_all(count: int, decode_one: Callable[[int], Array], resolution: int) -> Tensor:
    """The pictures 0..count - 1 of `decode_one`, uint8 (count, 3, R, R); many at once in a few threads."""
    out = np.empty((count, 3, resolution, resolution), dtype=np.uint8)

    def fill(i: int) -> None:
        out[i] = decode_one(i)

    if count <= _FEW:
        for i in range(count):
            fill(i)
        return torch.from_numpy(out)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        work = [pool.submit(fill, i) for i in range(count)]
        try:
            for done in work:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return torch.from_numpy(out)


class _Folder:
    """The files under a folder by their relative paths with forward slashes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> set[str]:
        return set(_walk(self.path, "", frozenset()))

    def read(self, name: str) -> bytes:
        with (self.path / name).open("rb") as stream:
            return _bounded(stream.read(MAX_FILE_BYTES + 1))


class _Archive:
    """A zip archive. Its names are labels only: one like `../x.png` leads nowhere, for nothing is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile, threading.Lock] | None = None

    def names(self) -> set[str]:
        return {name for name in self._archive()[0].namelist() if not name.endswith("/")}

    def read(self, name: str) -> bytes:
        archive, lock = self._archive()
        with lock, archive.open(name) as stream:
            return _bounded(stream.read(MAX_FILE_BYTES + 1))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}

    def _archive(self) -> tuple[zipfile.ZipFile, threading.Lock]:
        # A process that was forked shares the position in its parent's open file, so that it must open its own.
        if self._open is None or self._open[0] != os.getpid():
            try:
                self._open = os.getpid(), zipfile.ZipFile(self.path), threading.Lock()
            except _DAMAGE as error:
                raise ValueError(f"{self.path} cannot be opened as a zip archive ({error}); fetch it again") from error
        return self._open[1:]


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """The files under a folder. Linked ones are followed, for sets are often made of links; a loop of them is not."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
            else:
                yield prefix + entry.name
