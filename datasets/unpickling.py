"""What readers of foreign pickles share: an unpickler that finds only what it lists, and stand-ins for what it finds.

Nothing that a pickle names is imported. A stand-in keeps values, checks that they agree and does nothing else.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

MAX_BYTES = 16 * 2**30
# What readers raise on files that are cut short or overwritten.
_DAMAGE = (
    EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, StopIteration, ArithmeticError,
    AssertionError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


class UnsafeCheckpoint(ValueError):
    """A file that asks for more than tensors and plain containers; the message names the file and what it asks for."""


class DamagedCheckpoint(ValueError):
    """A file that is not what its name promises: cut short, of another format, or too large when unpacked."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Names the file in whatever goes wrong inside.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        yield
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{path} is refused: {error}") from None
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from None
    except _DAMAGE as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error or type(error).__name__}); fetch it again") from error


class Restricted(pickle.Unpickler):
    """Finds only what `admitted` lists."""

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {}

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.stream = stream

    def load(self) -> Any:
        # A few bytes that ask for a memo slot of a high number make the unpickler fill all memory.
        start = self.stream.tell()
        for index, (opcode, argument, _) in enumerate(pickletools.genops(self.stream)):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > index:
                raise DamagedCheckpoint(f"it asks for room for {argument} values and holds {index} so far")
        self.stream.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        raise UnsafeCheckpoint(f"it asks for {module}.{name}, which is no tensor or container")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpoint("it refers to objects outside itself")


def torch_load(source: Path | BinaryIO) -> Any:
    """What `torch.save` wrote, on the CPU; torch's own list of harmless names applies, and that of `beside_tensors`."""
    admitting = getattr(torch.serialization, "safe_globals", lambda _: nullcontext())  # since torch 2.5
    try:
        with admitting(beside_tensors()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message is a page that begins with advice to load the file unsafely.
        named = re.search(r"GLOBAL (\S+)", str(error))
        cause = (
            f"it asks for {named[1]}, which is no tensor or container"
            if named
            else "torch's restricted reader does not understand it"
        )
        raise UnsafeCheckpoint(cause) from error


class Attributes:
    """Stands for any object: it keeps the attributes and has no behaviour."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class DType:
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


class Array:
    """Stands for numpy's array while a pickle is read: keeps shape, kind and bytes and checks that they agree."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, fortran, data = state
        if not isinstance(kind, DType) or not isinstance(data, bytes | bytearray):
            raise UnsafeCheckpoint("an array of objects is refused")
        dtype = np.dtype(kind.order + kind.code)
        if values(shape) * dtype.itemsize != len(data):
            raise DamagedCheckpoint(f"an array of shape {shape} comes with {len(data)} bytes")
        self.array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

    @property
    def value(self) -> Tensor:
        # Copied when it is asked for: a pickle can build any number of arrays on the same bytes.
        return torch.from_numpy(self.array.astype(self.array.dtype.newbyteorder("=")))


class ArrayType:
    """Stands for the class numpy.ndarray, which a pickle may name but not call."""

    def __init__(self, *_: Any) -> None:
        raise UnsafeCheckpoint("an array built from a buffer is refused")

    # Without it a pickle could set attributes of this class.
    def __setstate__(self, _state: Any) -> None:
        raise UnsafeCheckpoint("an array built from a buffer is refused")


def _reconstruct(subtype: type, _shape: Any, _kind: Any) -> Array:
    """numpy's array builder, for plain arrays only."""
    if subtype is not ArrayType:
        raise UnsafeCheckpoint(f"an array of type {subtype} is refused")
    return Array()


def _frombuffer(data: Any, kind: DType, shape: tuple[int, ...], order: str) -> Array:
    """numpy's array builder in protocol 5."""
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _scalar(kind: DType, data: Any) -> Array:
    return _frombuffer(data, kind, (), "C")


def _latin1(text: str, _encoding: str) -> bytes:
    """How protocol 2 writes bytes: as text in Latin-1."""
    return text.encode("latin1")


ARRAYS: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): ArrayType,
    ("numpy", "dtype"): DType,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
}
# What networks hold beyond arrays in the form that all protocols share.
SCALARS: Mapping[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


def beside_tensors() -> list[Any]:
    """What trainings leave in their checkpoints beside tensors, as stand-ins under the names that the files give.

    PyTorch Lightning, which the published file of Stable Diffusion was written by, keeps the class of a callback as a
    key, and that callback's best score as a numpy number. GANgealing's training keeps its parsed options, an
    argparse.Namespace.
    """
    lightning = "pytorch_lightning.callbacks.model_checkpoint"
    return [
        type("ModelCheckpoint", (Attributes,), {"__module__": lightning}),
        type("Namespace", (Attributes,), {"__module__": "argparse"}),
        type("dtype", (DType,), {"__module__": "numpy"}),
        _named("_codecs", "encode", _latin1),
        *(_named(f"numpy.{core}.multiarray", "scalar", _scalar) for core in ("core", "_core")),
    ]


def _named(module: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under another's name, by which torch looks it up."""

    def stand_in(*args: Any) -> Any:
        return function(*args)

    stand_in.__module__, stand_in.__qualname__ = module, name
    return stand_in


def values(shape: tuple[int, ...]) -> int:
    """How many values a shape holds; a shape of anything but counts is refused, for lists multiply to any length."""
    if not all(type(n) is int and n >= 0 for n in shape):
        raise DamagedCheckpoint("a shape is not made of counts")
    return math.prod(shape)


def rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A view of a storage; torch refuses one that would reach past its end, and one that repeats values is refused."""
    if values(size) > storage.numel():
        raise UnsafeCheckpoint(f"a tensor of {values(size)} values on a storage of {storage.numel()} is refused")
    return storage.as_strided(size, stride, offset)


def flat(content: Any) -> dict[str, Tensor]:
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
    if isinstance(content, Attributes):
        content = content.state
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Array):
        yield prefix, content.value
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{prefix}.{index}" if prefix else str(index))
