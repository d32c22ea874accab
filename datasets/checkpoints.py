"""Reading foreign checkpoints without running anything that they carry.

A pickle can call any function that it names. The readers here admit tensors, arrays and plain containers by name and
refuse everything else; a TorchScript archive's code is never looked at.
"""

from __future__ import annotations

import io
import pickle
import zipfile
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


class UnsafeCheckpoint(Exception):
    """A file that asks for more than tensors and plain containers; the message names the file and what it asks for."""


class DamagedCheckpoint(Exception):
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
            raise DamagedCheckpoint(f"{path} is no checkpoint of a known format; was its download cut short?")
    except (
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        RuntimeError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error}); fetch it again") from error
    return dict(_flatten(content))


def _read_pickle(path: Path) -> Any:
    """A bare pickle: arrays by the names of numpy's own reducers, or an old `torch.save` file."""
    with path.open("rb") as stream:
        legacy_torch = stream.read(64).find(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.") >= 0
    if legacy_torch:
        return _torch_load(path)
    with path.open("rb") as stream:
        return _Arrays(stream, path).load()


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
            raise DamagedCheckpoint(f"{path} would unpack to more than {MAX_BYTES // 2**30} GiB")
        if any("/code/" in name for name in names):
            root = next(name for name in names if name.endswith("data.pkl")).removesuffix("data.pkl")
            return _Script(io.BytesIO(archive.read(f"{root}data.pkl")), path, archive, f"{root}data/").load()
    return _torch_load(path)


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(f"{path} is refused: {str(error).splitlines()[0]}") from error


class _Restricted(pickle.Unpickler):
    """Finds only what `admitted` lists."""

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {}

    def __init__(self, stream: Any, path: Path) -> None:
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        raise UnsafeCheckpoint(f"{self.path} is refused: it asks for {module}.{name}, which is no tensor or container")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpoint(f"{self.path} is refused: it refers to objects outside itself")


def _reconstruct(subtype: type, shape: tuple[int, ...], kind: bytes) -> np.ndarray[Any, Any]:
    """numpy's array builder for plain arrays only."""
    if subtype is not np.ndarray:
        raise UnsafeCheckpoint(f"a pickle asks for an array of type {subtype}")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes: as text in Latin-1."""
    return text.encode("latin1")


class _Arrays(_Restricted):
    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {
        (f"{module}.multiarray", "_reconstruct"): _reconstruct for module in ("numpy.core", "numpy._core")
    } | {
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
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

    def __init__(self, stream: Any, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream, path)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Attributes
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or "/" in str(key):
            raise UnsafeCheckpoint(f"{self.path} is refused: {pid!r} is no tensor storage")
        data = bytearray(self.archive.read(self.root + key))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a storage; torch refuses one that would reach past its end."""
    return storage.as_strided(size, stride, offset).clone()


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, _Attributes):
        content = content.state
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, np.ndarray):
        yield prefix, torch.from_numpy(content.copy())
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _flatten(value, f"{prefix}.{index}" if prefix else str(index))
