"""Reading foreign checkpoints without running anything that they carry.

A pickle can call any function that it names. The readers here admit tensors, arrays and plain containers by name and
refuse everything else; a TorchScript archive's code is never looked at.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_BYTES = 16 * 2**30
# What readers raise on files that are cut short or overwritten.
_DAMAGE = (
    EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, StopIteration,
    zlib.error, zipfile.BadZipFile, pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


class UnsafeCheckpoint(ValueError):
    """A file that asks for more than tensors and plain containers; the message names the file and what it asks for."""


class DamagedCheckpoint(ValueError):
    """A file that is not what its name promises: cut short, of another format, or too large when unpacked."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by dotted name, read on the CPU.

    Understands safetensors, `torch.save` files, TorchScript archives and pickles of numpy arrays, told apart by their
    first bytes. Nested containers are flattened: {"G": {"w": t}} becomes {"G.w": t}.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
        if start[:4] == b"PK\x03\x04":
            content = _read_zip(path)
        elif start[8:9] == b"{":
            content = load_file(path)
        elif start[:1] == b"\x80":
            content = _read_pickle(path)
        else:
            raise DamagedCheckpoint("it is no checkpoint of a known format; was its download cut short?")
        return _flat(content)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path} is refused: {error}") from None
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from None
    except _DAMAGE as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error}); fetch it again") from error


def _read_pickle(path: Path) -> Any:
    """A bare pickle: arrays by the names of numpy's own reducers, or an old `torch.save` file."""
    with path.open("rb") as stream:
        legacy_torch = stream.read(64).find(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.") >= 0
    if legacy_torch:
        return _torch_load(path)
    with path.open("rb") as stream:
        return _Arrays(stream).load()


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
            raise DamagedCheckpoint(f"it would unpack to more than {MAX_BYTES // 2**30} GiB")
        if any("/code/" in name for name in names):
            root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
            return _Script(io.BytesIO(archive.read(f"{root}data.pkl")), archive, f"{root}data/").load()
    return _torch_load(path)


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(str(error).splitlines()[0]) from error


class _Restricted(pickle.Unpickler):
    """Finds only what `admitted` lists."""

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        raise UnsafeCheckpoint(f"it asks for {module}.{name}, which is no tensor or container")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpoint("it refers to objects outside itself")


class _DType:
    """Stands for numpy's dtype: numbers by a short list of codes, without fields, objects or sizes of its own."""

    codes = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

    def __init__(self, code: str, *_: Any) -> None:
        if code not in self.codes:
            raise UnsafeCheckpoint(f"an array of kind {code!r} is refused; numbers are {', '.join(self.codes)}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise UnsafeCheckpoint("an array of structured kind is refused")
        self.order = state[1]


class _Array:
    """Stands for numpy's array while a pickle is read: keeps shape, kind and bytes and checks that they agree."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, fortran, data = state
        if not isinstance(kind, _DType) or not isinstance(data, bytes):
            raise UnsafeCheckpoint("an array of objects is refused")
        dtype = np.dtype(kind.order + kind.code)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise DamagedCheckpoint(f"an array of shape {shape} comes with {len(data)} bytes")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        self.value = torch.from_numpy(array.astype(dtype.newbyteorder("=")))


class _ArrayType:
    """Stands for the class numpy.ndarray, which a pickle may name but not call."""

    def __init__(self, *_: Any) -> None:
        raise UnsafeCheckpoint("an array built from a buffer is refused")


def _reconstruct(subtype: type, _shape: Any, _kind: Any) -> _Array:
    """numpy's array builder, for plain arrays only."""
    if subtype is not _ArrayType:
        raise UnsafeCheckpoint(f"an array of type {subtype} is refused")
    return _Array()


def _latin1(text: str, _encoding: str) -> bytes:
    """How protocol 2 writes bytes: as text in Latin-1."""
    return text.encode("latin1")


class _Arrays(_Restricted):
    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _ArrayType,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _latin1,
        ("collections", "OrderedDict"): OrderedDict,
    }


class _Attributes:
    """Stands for any object of a TorchScript archive: it keeps the attributes and has no behaviour."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Script(_Restricted):
    """The object tree of a TorchScript archive with its tensors; classes become `_Attributes`."""

    dtypes: ClassVar[dict[str, torch.dtype]] = {
        "FloatStorage": torch.float32,
        "DoubleStorage": torch.float64,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "BoolStorage": torch.bool,
        "ByteStorage": torch.uint8,
    }
    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        **{("torch", name): dtype for name, dtype in dtypes.items()},
    }

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Attributes
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or "/" in str(key):
            raise UnsafeCheckpoint(f"{pid!r} is no tensor storage")
        if key not in self.storages:
            data = bytearray(self.archive.read(self.root + key))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a storage; torch refuses one that would reach past its end, and one that repeats values is refused."""
    if math.prod(size) > storage.numel():
        raise UnsafeCheckpoint(f"a tensor of {math.prod(size)} values on a storage of {storage.numel()} is refused")
    return storage.as_strided(size, stride, offset)


def _flat(content: Any) -> dict[str, Tensor]:
    """All tensors by dotted name, none of them sharing memory with another."""
    out: dict[str, Tensor] = {}
    total = 0
    for name, tensor in _tensors(content):
        total += tensor.numel() * tensor.element_size()
        if total > MAX_BYTES:
            raise DamagedCheckpoint(f"it holds more than {MAX_BYTES // 2**30} GiB of tensors")
        out[name] = tensor.clone()
    return out


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, _Attributes):
        content = content.state
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, _Array):
        yield prefix, content.value
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{prefix}.{index}" if prefix else str(index))
