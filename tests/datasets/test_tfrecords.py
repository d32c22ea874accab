"""TFRecord files of pictures: framing, checksums, protobuf fields, labels; a bad file is named with its record."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gengauge.datasets.published import open_set
from gengauge.datasets.sets import DataNotFound, PictureSet
from gengauge.datasets.tfrecords import TFRecordSet, crc32c, masked_crc32c


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(name: bytes, value: bytes) -> bytes:
    return field(1, field(1, name) + field(2, value))


def side_list(sides: Sequence[int], packed: bool = True) -> bytes:
    numbers = [varint(side) for side in sides]
    return field(3, field(1, b"".join(numbers)) if packed else b"".join(b"\x08" + number for number in numbers))


def example(pixels: np.ndarray, shape: Sequence[int] | None = None, packed: bool = True) -> bytes:
    """A picture (C, H, W) as TensorFlow serialises a tf.train.Example of it."""
    data = feature(b"data", field(1, field(1, pixels.tobytes())))
    return field(1, feature(b"shape", side_list(shape or pixels.shape, packed)) + data)


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data))


def pictures(count: int, channels: int = 3, size: int = 8) -> np.ndarray:
    return np.random.RandomState(1).randint(0, 256, (count, channels, size, size), dtype=np.uint8)


def write(path: Path, records: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(record(data) for data in records))
    return path


def test_the_checksum_is_the_known_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    rotated = 0x2507C60D  # 0xE3069283 by 15 bits
    assert masked_crc32c(b"123456789") == (rotated + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_records_are_read_by_index(tmp_path: Path, packed: bool, channels: int) -> None:
    pixels = pictures(5, channels)
    path = write(tmp_path / "toy-r03.tfrecords", [example(p, packed=packed) for p in pixels])
    found: PictureSet = TFRecordSet(path, verify=True)
    assert (len(found), found.resolution, found.labels, found.num_classes, found.name) == (5, 8, None, 0, "toy-r03")
    expected = torch.from_numpy(pixels).expand(-1, 3, -1, -1)
    assert torch.equal(found.pictures(range(5)), expected)
    assert torch.equal(found.pictures(np.array([4, 0])), expected[[4, 0]])
    assert found.pictures([]).shape == (0, 3, 8, 8)
    with pytest.raises(IndexError, match="set of 5"):
        found.pictures([5])


def test_fields_that_are_not_asked_for_are_passed_over(tmp_path: Path) -> None:
    pixels = pictures(1)[0]
    # Every kind of field, a feature of floats, and features in another order.
    more = b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + field(6, b"text")
    label = feature(b"label", field(2, field(1, struct.pack("<f", 0.5))))
    swapped = (
        feature(b"data", field(1, field(1, pixels.tobytes()))) + label + feature(b"shape", side_list(pixels.shape))
    )
    for data in (more + example(pixels) + more, field(1, swapped)):
        found = TFRecordSet(write(tmp_path / "x.tfrecords", [data]))
        assert np.array_equal(found.pictures([0])[0].numpy(), pixels)


@pytest.mark.parametrize(
    ("file", "labels"),
    [
        ("ffhq-r08.tfrecords", "ffhq-rxx.labels"),
        ("cifar10-32.tfrecords", "cifar10-rXX.labels"),
        ("x-r05.tfrecords", "x-r05.labels"),
        ("100-shot-obama.tfrecords", "100-shot-obama-rxx.labels"),
    ],
)
def test_labels_lie_beside_the_file(tmp_path: Path, file: str, labels: str) -> None:
    path = write(tmp_path / file, [example(p) for p in pictures(3)])
    for content, classes in ((np.eye(4, dtype=np.float32)[[3, 0, 1]], 4), (np.array([3, 0, 1], np.int32), 4)):
        with (tmp_path / labels).open("wb") as stream:
            np.save(stream, content)
        found = TFRecordSet(path)
        assert found.labels is not None
        assert (found.labels.tolist(), found.labels.dtype, found.num_classes) == ([3, 0, 1], np.int64, classes)


def test_bad_labels_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecords", [example(p) for p in pictures(3)])
    start = np.lib.format.magic(1, 0) + struct.pack("<H", 80)
    endless = start + b"{'descr': '<i8', 'fortran_order': False, 'shape': (3, 99999999999)}".ljust(80)
    for content, cause in (
        (np.zeros(2, np.int64), r"shape \(2,\) for 3 pictures"),
        (np.zeros((3, 2)), "not one-hot"),
        (np.array([0, 1, -1]), "neither classes"),
        (np.array([{}, {}, {}], dtype=object), "no array of labels"),
        (b"", "no array of labels"),
        (b"not numpy", "no array of labels"),
        (endless, "no array of labels"),
        (start + b"{'descr': (".ljust(80), "no array of labels"),
    ):
        with (tmp_path / "x.labels").open("wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                np.save(stream, content)
        with pytest.raises(ValueError, match=rf"x\.labels.*{cause}"):
            TFRecordSet(path)


def test_a_file_that_is_cut_short_is_named_with_the_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        TFRecordSet(tmp_path / "none.tfrecords")
    path = write(tmp_path / "x.tfrecords", [example(p) for p in pictures(3)])
    content = path.read_bytes()
    one = len(content) // 3
    for size in (2 * one + 5, 2 * one + 12, 3 * one - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=rf"x\.tfrecords: record 2 at byte {2 * one} is cut short"):
            TFRecordSet(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no records"):
        TFRecordSet(path)
    path.write_bytes(content)
    found = TFRecordSet(path)
    path.write_bytes(content[: 2 * one])
    with pytest.raises(ValueError, match=r"x\.tfrecords: record 2 cannot be read \(it is cut short"):
        found.pictures([0, 2])


def test_wrong_checksums_are_named_with_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecords", [example(p) for p in pictures(3)])
    content = bytearray(path.read_bytes())
    one = len(content) // 3
    content[one + 100] ^= 1  # a pixel
    path.write_bytes(content)
    assert len(TFRecordSet(path).pictures([1])) == 1
    with pytest.raises(ValueError, match=r"record 1 cannot be read \(its checksum"):
        TFRecordSet(path, verify=True).pictures([0, 1])
    content[one + 2] ^= 1  # a length
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"record 1 at byte {one} has a wrong checksum"):
        TFRecordSet(path)
    path.write_bytes(b"<html>this is no file of records, but long enough</html>")
    with pytest.raises(ValueError, match=r"record 0 .* no TFRecord file"):
        TFRecordSet(path)


GOOD = pictures(1)[0]
BAD_RECORDS = {
    "empty": (b"", "lacks the features"),
    "no pixels": (field(1, feature(b"shape", field(3, field(1, b"\x03\x08\x08")))), "lacks the features"),
    "no shape": (field(1, feature(b"data", field(1, field(1, GOOD.tobytes())))), "lacks the features"),
    "not square": (example(GOOD, (3, 4, 16)), "no square picture"),
    "four channels": (example(pictures(1, 4)[0]), "no square picture"),
    "short": (example(GOOD[:, :7], (3, 8, 8)), "168 bytes are no square picture"),
    "endless number": (b"\xff" * 30, "does not end"),
    "cut number": (b"\x0a\x80", "does not end"),
    "field too long": (b"\x0a\x7fabc", "reaches past its end"),
    "unknown kind": (b"\x0b", "unknown kind 3"),
    "another size": (example(pictures(1, size=4)[0]), r"is \(3, 4, 4\), the first \(3, 8, 8\)"),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_record_that_is_no_picture_is_named(tmp_path: Path, kind: str) -> None:
    data, cause = BAD_RECORDS[kind]
    path = write(tmp_path / "x.tfrecords", [example(GOOD), data])
    with pytest.raises(ValueError, match=rf"x\.tfrecords: record 1 .*{cause}"):
        TFRecordSet(path).pictures([1])
    if kind != "another size":
        with pytest.raises(ValueError, match="record 0"):
            TFRecordSet(write(path, [data]))


def test_ffhq_is_taken_from_the_records_of_its_resolution(tmp_path: Path) -> None:
    (tmp_path / "ffhq").mkdir()
    pixels = {size: pictures(2, size=size) for size in (4, 8, 16)}
    for file, size in (("ffhq/ffhq-r02.tfrecords", 4), ("ffhq/ffhq-r03.tfrecords", 8), ("ffhq-16.tfrecords", 16)):
        write(tmp_path / file, [example(p) for p in pixels[size]])
    for size, expected in pixels.items():
        found = open_set("ffhq", tmp_path, size)
        assert (found.name, found.resolution) == ("ffhq", size)
        assert np.array_equal(found.pictures([0, 1]).numpy(), expected)
    for size in (32, 5):
        with pytest.raises(DataNotFound, match=rf"FFHQ at {size} px .there is ffhq-16.tfrecords, ffhq-r02.tfrecords"):
            open_set("ffhq", tmp_path, size)
    write(tmp_path / "ffhq-r05.tfrecords", [example(p) for p in pixels[8]])
    with pytest.raises(ValueError, match="has pictures of 8 pixels, not 32"):
        open_set("ffhq", tmp_path, 32)
