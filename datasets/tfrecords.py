"""NVIDIA's TFRecord files of one resolution, read without TensorFlow: framing, checksums and two protobuf features."""

from __future__ import annotations

import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets.reading import read_at
from gengauge.datasets.sets import Array, Indices, checked, class_indices

# A record: the data's length (8 bytes) and its checksum (4), the data, the data's checksum (4).
_HEAD, _TAIL = 12, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class TFRecordSet:
    """The pictures of `<name>-<res>.tfrecords` or `<name>-rXX.tfrecords`, in the order of the file.

    Only the records' places are read at opening; grey pictures become RGB. Labels come from `<name>-rxx.labels` or the
    like beside it. `verify` checks the pictures' checksums on access too (some 10 ms for 256 x 256 pixels).

    Raises FileNotFoundError, ValueError naming file and record where the file is cut short or overwritten.
    """

    def __init__(self, path: Path, *, verify: bool = False, name: str | None = None) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
        self.path, self.verify, self.name = path, verify, name or path.stem
        self._places = _index(path)
        with path.open("rb", buffering=0) as stream:
            self.shape = self._picture(stream.fileno(), 0).shape
        self.resolution = self.shape[-1]
        self.labels: Array | None = None
        self.num_classes = 0
        labels = _labels_file(path)
        if labels is not None:
            self.labels, self.num_classes = _read_labels(labels, len(self))

    def __len__(self) -> int:
        return len(self._places)

    def pictures(self, indices: Indices) -> Tensor:
        """The pictures as uint8 (n, 3, R, R). Raises IndexError, ValueError naming an unreadable record."""
        chosen = checked(indices, len(self))
        out = np.empty((len(chosen), 3, self.resolution, self.resolution), dtype=np.uint8)
        with self.path.open("rb", buffering=0) as stream:
            for i, record in enumerate(chosen):
                picture = self._picture(stream.fileno(), int(record))
                if picture.shape != self.shape:
                    raise ValueError(f"{self.path}: record {record} is {picture.shape}, the first {self.shape}")
                out[i] = picture  # one channel is repeated
        return torch.from_numpy(out)

    def _picture(self, descriptor: int, record: int) -> Array:
        """The picture of a record as uint8 (C, H, W), C = 1 or 3."""
        start, length = (int(x) for x in self._places[record])
        data = bytearray(read_at(descriptor, length + _TAIL, start))
        try:
            if len(data) < length + _TAIL:
                raise ValueError("it is cut short")
            if self.verify and masked_crc32c(data[:length]) != int.from_bytes(data[length:], "little"):
                raise ValueError("its checksum does not fit its data")
            return _parse_example(memoryview(data)[:length])
        except ValueError as error:
            raise ValueError(f"{self.path}: record {record} cannot be read ({error}); fetch the file again") from error


def crc32c(data: bytes | bytearray) -> int:
    """The checksum CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | bytearray) -> int:
    """The checksum as TFRecord files store it: rotated and offset, so that it may itself be checksummed."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    out = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        out.append(value)
    return tuple(out)


_TABLE = _table()


def _index(path: Path) -> Array:
    """Where each record's data starts and how long it is, int64 (N, 2)."""
    places: list[tuple[int, int]] = []
    known: set[bytes] = set()  # records of one file have few different lengths
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        at = 0
        while at < size:
            head = read_at(stream.fileno(), _HEAD, at)
            if len(head) == _HEAD and head not in known:
                if masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
                    raise ValueError(
                        f"{path}: record {len(places)} at byte {at} has a wrong checksum of its length; the file is "
                        "damaged or no TFRecord file"
                    )
                known.add(head)
            length = int.from_bytes(head[:8], "little")
            if len(head) < _HEAD or at + _HEAD + length + _TAIL > size:
                raise ValueError(f"{path}: record {len(places)} at byte {at} is cut short; fetch the file again")
            places.append((at + _HEAD, length))
            at += _HEAD + length + _TAIL
    if not places:
        raise ValueError(f"{path} holds no records")
    return np.array(places, dtype=np.int64)


def _parse_example(data: memoryview) -> Array:
    """The picture of a tf.train.Example with the features `shape` (three integers) and `data` (bytes)."""
    shape: list[int] = []
    pixels: memoryview | None = None
    for entry in (e for features in _submessages(data, 1) for e in _submessages(features, 1)):
        key = b"".join(bytes(part) for part in _submessages(entry, 1))
        for feature in _submessages(entry, 2):
            if key == b"shape":
                shape += [number for numbers in _submessages(feature, 3) for number in _integers(numbers)]
            elif key == b"data":
                pixels = next((v for values in _submessages(feature, 1) for v in _submessages(values, 1)), pixels)
    if pixels is None or len(shape) != 3:
        raise ValueError("it lacks the features 'shape' of three numbers and 'data'")
    channels, height, width = shape
    if channels not in (1, 3) or height != width or channels * height * width != len(pixels):
        raise ValueError(f"{len(pixels)} bytes are no square picture of shape {tuple(shape)}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _submessages(data: memoryview, number: int) -> Iterator[memoryview]:
    """The contents of the fields with a number and a length."""
    return (value for field, value in _fields(data) if field == number and isinstance(value, memoryview))


def _integers(data: memoryview) -> Iterator[int]:
    """The values of an Int64List, one a field or packed together."""
    for field, value in _fields(data):
        if field != 1:
            continue
        if isinstance(value, int):
            yield value
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            yield number


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """A message's fields: number and value, which is bytes unless it is a varint."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"its fields are of an unknown kind {wire}")
        if at + length > len(data):
            raise ValueError("a field reaches past its end")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next one starts."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a number does not end")


def _labels_file(path: Path) -> Path | None:
    """The labels beside a file: NVIDIA's `<name>-rxx.labels` serve all resolutions, `<stem>.labels` one."""
    name = re.sub(r"-r?\d+$", "", path.stem)
    wanted = [f"{stem}{end}.labels" for stem in (path.stem, name) for end in ("", "-rxx")]
    there = {file.name.lower(): file for file in path.parent.glob("*.labels")}
    return next((there[file.lower()] for file in wanted if file.lower() in there), None)


def _read_labels(path: Path, count: int) -> tuple[Array, int]:
    try:
        # Mapped, so that a header which promises more than the file holds reserves nothing; objects are refused.
        found = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, SyntaxError, OverflowError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is no array of labels ({error})") from error
    if found.ndim not in (1, 2) or len(found) != count:
        raise ValueError(f"{path} holds labels of shape {found.shape} for {count} pictures")
    return class_indices(np.array(found), path)
