"""Reading foreign checkpoints without running anything that they carry.

A pickle can call any function that it names. The readers here admit tensors, arrays and plain containers by name and
refuse everything else; a TorchScript archive's code is never looked at.
"""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from gengauge.datasets.unpickling import (
    ARRAYS,
    MAX_BYTES,
    Attributes,
    DamagedCheckpoint,
    Restricted,
    UnsafeCheckpoint,
    flat,
    reading,
    rebuild_tensor,
    torch_load,
)

__all__ = ["DamagedCheckpoint", "UnsafeCheckpoint", "read_tensors"]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by dotted name, read on the CPU.

    Understands safetensors, `torch.save` files, TorchScript archives and pickles of numpy arrays, told apart by their
    first bytes. Nested containers are flattened: {"G": {"w": t}} becomes {"G.w": t}.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint.
    """
    with reading(path):
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
        return flat(content)


def _read_pickle(path: Path) -> Any:
    """A bare pickle: arrays by the names of numpy's own reducers, or an old `torch.save` file."""
    with path.open("rb") as stream:
        legacy_torch = stream.read(64).find(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.") >= 0
    if legacy_torch:
        return torch_load(path)
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
    return torch_load(path)


class _Arrays(Restricted):
    admitted = ARRAYS


class _Script(Restricted):
    """The object tree of a TorchScript archive with its tensors; classes become `Attributes`."""

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

    def __init__(self, stream: BinaryIO, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Attributes
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild_tensor
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or "/" in str(key):
            raise UnsafeCheckpoint(f"{pid!r} is no tensor storage")
        if key not in self.storages:
            data = bytearray(self.archive.read(self.root + key))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]
