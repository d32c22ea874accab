"""Reading the network files (`.pkl`) of NVIDIA's StyleGAN2 and StyleGAN3 code bases; nothing that they carry is run.

Such a file holds its networks' source text and expects the reader to execute it: TensorFlow's is a tuple of `Network`
objects, PyTorch's a dictionary of objects rebuilt from a class's source and an object's attributes. Here the text stays
a string; names, arguments and tensors are taken from the objects' states.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from gengauge.datasets.unpickling import (
    ARRAYS,
    MAX_BYTES,
    SCALARS,
    Array,
    Attributes,
    DamagedCheckpoint,
    Restricted,
    UnsafeCheckpoint,
    flat,
    reading,
    rebuild_tensor,
    torch_load,
)

NAMES = ("G", "D", "G_ema")  # in the order of the TensorFlow tuple
# A few references to references make a tree of any size; the largest networks have some thousand nodes.
MAX_NODES = 1_000_000


@dataclass(frozen=True)
class StoredNetwork:
    """A network as a pickle stores it.

    `class_name` is the name of the build function for TensorFlow. `arguments` are plain Python values: the static
    arguments of the outermost network (TensorFlow), or those that the class was called with (PyTorch). `tensors` are
    variables, those of components as `mapping/NAME` and `synthesis/NAME` (TensorFlow), or a state dict (PyTorch).
    """

    kind: str  # "tensorflow" or "pytorch"
    class_name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


def read_networks(path: Path) -> dict[str, StoredNetwork]:
    """The networks of a file, on the CPU, by the names G, D and G_ema; those that it lacks are left out.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint.
    """
    with reading(path):
        if path.stat().st_size > MAX_BYTES:
            raise DamagedCheckpoint(f"it is larger than {MAX_BYTES // 2**30} GiB")
        with path.open("rb") as stream:
            if stream.read(1) != b"\x80":
                raise DamagedCheckpoint("it is no pickle; was its download cut short?")
            stream.seek(0)
            content = _Networks(stream).load()
        if isinstance(content, tuple) and len(content) == len(NAMES):
            content = dict(zip(NAMES, content, strict=True))
        held = content if isinstance(content, dict) else {}
        found = {name: _stored(name, held[name]) for name in NAMES if held.get(name) is not None}
        if not found:
            raise DamagedCheckpoint(f"there are no networks in it by the names {', '.join(NAMES)}")
        # All at once, for the limit of size holds for the file.
        tensors = flat({name: network.tensors for name, network in found.items()})
        return {
            name: replace(network, tensors={key: tensors[f"{name}.{key}"] for key in network.tensors})
            for name, network in found.items()
        }


class _Dict(dict[Any, Any]):
    """Stands for EasyDict and OrderedDict, which are dictionaries; attributes of their own are left out."""

    def __setstate__(self, _state: Any) -> None:
        pass


class _Network(Attributes):
    """Stands for the TensorFlow code base's network."""


class _Module(Attributes):
    """Stands for a torch module of any class."""


class _Persistent(_Module):
    """Stands for an object whose class travels as source text."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        if meta["type"] != "class":
            raise DamagedCheckpoint(f"an object is rebuilt from a {meta['type']!r}, which is no class")
        self.class_name, self.state = meta["class_name"], meta["state"]


def _instance(kind: type, *arguments: Any) -> Any:
    """The general builders of `copyreg`, for stand-ins whose contents follow as a state."""
    if kind not in (_Dict, _Network, _Module) or arguments not in ((), (object, None)):
        raise UnsafeCheckpoint(f"an object of {kind} with arguments of its own is refused")
    return kind()


class _Networks(Restricted):
    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {
        **ARRAYS,
        **SCALARS,
        **dict.fromkeys((("dnnlib.tflib.network", "Network"), ("dnnlib.tflib", "Network")), _Network),
        **dict.fromkeys((("dnnlib.util", "EasyDict"), ("dnnlib", "EasyDict"), ("collections", "OrderedDict")), _Dict),
        **dict.fromkeys((("copyreg", "__newobj__"), ("copyreg", "_reconstructor")), _instance),
        **{("builtins", kind.__name__): kind for kind in (set, frozenset, object)},
        **{("torch", name): dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)},
        ("torch", "Size"): tuple,
        ("torch", "device"): torch.device,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Persistent,
    }

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.loaded = 0

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # as protocol 2 writes them
        if module.startswith("torch.nn.modules.") and name.isidentifier() and name[0].isupper():
            return _Module
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self.storage
        return super().find_class(module, name)

    def storage(self, data: bytes) -> Tensor:
        """All values of a storage that `torch.save` wrote inside the pickle, in its old format."""
        # The same bytes can be asked for any number of times, and a zip archive could unpack to any size.
        self.loaded += len(data)
        if self.loaded > MAX_BYTES:
            raise DamagedCheckpoint(f"it holds more than {MAX_BYTES // 2**30} GiB of tensors")
        if data[:1] != b"\x80":
            raise UnsafeCheckpoint("a tensor's values come in another format than torch's old one")
        storage = torch_load(io.BytesIO(data))
        if not isinstance(storage, torch.TypedStorage):
            raise UnsafeCheckpoint(f"a tensor's values come as {type(storage).__name__}, which is no storage")
        values = torch.empty(0, dtype=storage.dtype).set_(storage)
        # torch makes room for what a storage claims before it looks whether the values are there.
        if values.numel() * values.element_size() > len(data):
            raise DamagedCheckpoint(f"a storage of {values.numel()} values comes with {len(data)} bytes")
        return values


def _stored(name: str, network: Any) -> StoredNetwork:
    nodes = itertools.count()
    if isinstance(network, _Network):
        state = network.state
        if state["version"] < 4:
            raise DamagedCheckpoint(f"its {name} is of version {state['version']}; versions from 4 on are read")
        class_name, arguments = state["build_func_name"], state["static_kwargs"]
        kind, named = "tensorflow", _variables(network, nodes)
    elif isinstance(network, _Persistent):
        class_name, arguments = network.class_name, network.state["_init_kwargs"]
        if network.state["_init_args"]:
            raise DamagedCheckpoint(f"its {name} was built with arguments whose names only its source text tells")
        kind, named = "pytorch", _state_dict(network, nodes)
    else:
        raise DamagedCheckpoint(f"its {name} is no network of a known kind")
    tensors = dict(named)
    if strange := [key for key, tensor in tensors.items() if not isinstance(tensor, Tensor | Array)]:
        raise DamagedCheckpoint(f"{strange[0]} of its {name} is no tensor")
    return StoredNetwork(kind, str(class_name), _plain(dict(arguments), nodes), tensors)


def _variables(network: _Network, nodes: Iterator[int], prefix: str = "") -> Iterator[tuple[str, Any]]:
    _count(nodes)
    for name, value in network.state["variables"]:
        yield f"{prefix}{name}", value
    for name, component in network.state["components"].items():
        yield from _variables(component, nodes, f"{prefix}{name}/")


def _state_dict(module: _Module, nodes: Iterator[int], prefix: str = "") -> Iterator[tuple[str, Any]]:
    _count(nodes)
    state = module.state
    # Modules of old versions of torch know no buffers that are left out.
    left_out = state.get("_non_persistent_buffers_set", ())
    buffers = {name: value for name, value in state["_buffers"].items() if name not in left_out}
    for name, value in {**state["_parameters"], **buffers}.items():
        if value is not None:
            yield f"{prefix}{name}", value
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _state_dict(child, nodes, f"{prefix}{name}.")


def _plain(value: Any, nodes: Iterator[int]) -> Any:
    """A value without stand-ins: dictionaries and sequences stay, arrays and numpy's numbers become Python's."""
    _count(nodes)
    if isinstance(value, dict):
        return {_plain(key, nodes): _plain(item, nodes) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_plain(item, nodes) for item in value)
    if isinstance(value, Array | Tensor):
        tensor = value.value if isinstance(value, Array) else value
        if tensor.numel() > MAX_NODES:
            raise DamagedCheckpoint(f"an argument holds {tensor.numel()} values")
        return _plain(tensor.tolist(), nodes)
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device):
        return value
    raise DamagedCheckpoint(f"an argument of kind {type(value).__name__} is no plain value")


def _count(nodes: Iterator[int]) -> None:
    if next(nodes) > MAX_NODES:
        raise DamagedCheckpoint(f"it refers to more than {MAX_NODES} values")
