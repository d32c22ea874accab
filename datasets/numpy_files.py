"""Arrays of numbers in `.npy` and `.npz` files: nothing is unpickled, and no more memory taken than a file holds."""

from __future__ import annotations

import io
import tokenize
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gengauge.datasets.sets import Array
from gengauge.datasets.unpickling import DamagedCheckpoint, UnsafeCheckpoint, reading, values

MAX_ARRAY_BYTES = 2**28
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(path: Path, max_bytes: int = MAX_ARRAY_BYTES) -> Array:
    """The array of a `.npy` file: integers, floats or truth values.

    Raises FileNotFoundError, UnsafeCheckpoint for objects, DamagedCheckpoint for what is cut short, larger than
    `max_bytes` or no such file.
    """
    with reading(path):
        if path.stat().st_size > max_bytes:
            raise DamagedCheckpoint(f"it has more than {max_bytes / 2**20:.3g} MiB")
        return _array(path.read_bytes())


def read_npz(path: Path, names: Sequence[str], max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, Array]:
    """The arrays called `names` of an `.npz` file, each integers, floats or truth values; others are left alone.

    Raises FileNotFoundError, UnsafeCheckpoint for objects, DamagedCheckpoint for what is cut short, lacks an array, is
    no such file or would unpack to more than `max_bytes`.
    """
    with reading(path):
        if path.stat().st_size > max_bytes:
            raise DamagedCheckpoint(f"it has more than {max_bytes / 2**20:.3g} MiB")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            missing = [name for name in names if f"{name}.npy" not in members]
            if missing:
                raise DamagedCheckpoint(f"it lacks {', '.join(missing)}; it needs {', '.join(names)}")
            wanted = {name: members[f"{name}.npy"] for name in names}
            # Of other compressions a few bytes can unpack to any number before the size that they claim is looked at.
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in wanted.values()):
                raise DamagedCheckpoint("it is compressed in a way that numpy does not write")
            if sum(info.file_size for info in wanted.values()) > max_bytes:
                raise DamagedCheckpoint(f"it would unpack to more than {max_bytes / 2**20:.3g} MiB")
            return {name: _array(archive.read(info)) for name, info in wanted.items()}


def _array(data: bytes) -> Array:
    # numpy's own reader takes the memory that a header claims before it looks at how much there is.
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise DamagedCheckpoint(f"it is of version {version} of numpy's format; versions 1.0 and 2.0 hold numbers")
    try:
        shape, by_columns, dtype = _HEADERS[version](stream)
    except (SyntaxError, tokenize.TokenError) as error:
        raise DamagedCheckpoint(f"its header is damaged ({error})") from None
    if dtype.hasobject:
        raise UnsafeCheckpoint("it holds objects, not numbers")
    if dtype.kind not in "biuf":
        raise DamagedCheckpoint(f"it holds {dtype}, not numbers")
    start = stream.tell()
    if values(shape) * dtype.itemsize != len(data) - start:
        raise DamagedCheckpoint(f"an array of {dtype} {shape} comes with {len(data) - start} bytes")
    found: Array = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype, offset=start)
    found = found != 0 if dtype.kind == "b" else found.astype(dtype.newbyteorder("="))
    return found.reshape(shape, order="F" if by_columns else "C")
