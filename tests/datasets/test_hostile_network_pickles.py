"""Reading StyleGAN2's network files that ask for too much: each gets one clear error and runs nothing."""

from __future__ import annotations

import functools
import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gengauge.datasets import network_pickles, unpickling
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.network_pickles import read_networks

SOURCE = "import os\nos.mkdir({mark!r})\n"


class Hostile:
    """Unpickled freely, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


# Pickles are put together from pieces: Python's own pickler writes no names of modules that are not there.
def plain(value: Any) -> bytes:
    return pickle.dumps(value, 3)[2:-1]


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def table(**items: bytes) -> bytes:
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


def network(mark: Path = Path("made"), **state: bytes) -> bytes:
    """A file's G, of PyTorch's kind, with a linear layer's parts where the state names none."""
    own = {name: plain(value) for name, value in vars(torch.nn.Linear(1, 1)).items()}
    state = {"_init_args": plain(()), "_init_kwargs": plain({}), **own, **state}
    source = plain(SOURCE.format(mark=str(mark)))
    meta = table(type=plain("class"), version=plain(6), module_src=source, class_name=plain("G"), state=table(**state))
    return table(G=call("torch_utils.persistence", "_reconstruct_persistent_obj", meta))


def tensorflow_network(**state: bytes) -> bytes:
    return b"cdnnlib.tflib.network\nNetwork\n)\x81" + table(version=plain(4), **state) + b"b"


def view(storage: bytes, size: tuple[Any, ...], offset: int = 0) -> bytes:
    loaded = call("torch.storage", "_load_from_bytes", plain(storage))
    more = (plain(value) for value in (offset, size, (1,), False, {}))
    return network(x=call("torch._utils", "_rebuild_tensor_v2", loaded, *more))


def saved(content: Any, in_zip: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=in_zip)
    return stream.getvalue()


def floats(claim: bytes = b"K\x04", listed: bool = True) -> bytes:
    """A storage of four floats, as plain pickles of tensors hold them."""
    tensor = torch.arange(4, dtype=torch.float32)
    content = saved(torch.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True))
    if not listed:
        content = re.sub(rb"\x80\x02\]q\x00X.{4}\d+q\x01a\..*", b"\x80\x02].", content, flags=re.DOTALL)
    return content.replace(b"K\x04", claim)


def hostile(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would make `mark`, or do more than they may first, with what is said about them."""
    make, posix = plain(Hostile(mark)), rf"asks for {os.name}\.mkdir"
    evaluated = call("builtins", "eval", plain(f"__import__('os').mkdir({str(mark)!r})"))
    payload = pickle.dumps(Hostile(mark), 2)
    return {
        "system": (call(os.name, "system", plain(f"mkdir {mark}")), rf"asks for {os.name}\.system"),
        "tuple": (b"(" + make * 3 + b"t", posix),
        "static": (tensorflow_network(static_kwargs=make), posix),
        "meta": (network(mark, _init_kwargs=evaluated), r"asks for builtins\.eval"),
        "beside": (table(augment_pipe=plain(functools.partial(os.mkdir, str(mark)))), r"asks for functools\.partial"),
        "random": (network(x=plain(np.random.default_rng)), r"asks for numpy\.random"),
        "function": (network(x=plain(torch.nn.functional.relu)), r"asks for torch\.nn\.functional\.relu"),
        "inside a class": (network(x=b"ctorch.nn.modules.module\nModule.apply\n"), r"asks for .*Module\.apply"),
        "bare storage": (view(payload, (1,)), posix),
        "saved storage": (view(saved(Hostile(mark)), (1,)), posix),
        "zipped storage": (view(saved(Hostile(mark), in_zip=True), (1,)), "another format"),
        "no storage": (view(saved({"x": 1}), (1,)), "come as dict, which is no storage"),
        "view": (view(floats(), (5,)), "a tensor of 5 values on a storage of 4"),
        "builder": (call("copyreg", "__newobj__", b"cnumpy\ndtype\n", plain("O8")), "arguments of its own"),
        "subtype": (call("copyreg", "_reconstructor", b"cdnnlib\nEasyDict\n", make), posix),
        "objects": (network(x=plain(np.array([Hostile(mark)], object))), "an array of kind 'O8' is refused"),
    }


@pytest.mark.parametrize("attack", hostile(Path("made")))
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path: Path, attack: str) -> None:
    content, message = hostile(tmp_path / "made")[attack]
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + content + b".")
    with pytest.raises(UnsafeCheckpoint, match=rf"x\.pkl is refused: .*{message}"):
        read_networks(tmp_path / "x.pkl")
    assert [item.name for item in tmp_path.iterdir()] == ["x.pkl"]


def test_the_payloads_are_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "a")))  # noqa: S301 - shows that the test above would notice
    exec(SOURCE.format(mark=str(tmp_path / "b")), {})
    assert {item.name for item in tmp_path.iterdir()} == {"a", "b"}


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small pickles that claim much, with what is said about them."""
    loop, shared = torch.nn.ModuleList(), torch.nn.ModuleList()
    loop._modules["again"] = loop
    for _ in range(40):
        shared = torch.nn.ModuleList([shared, shared])
    wide: list[Any] = []
    own: list[Any] = []
    own.append(own)
    for _ in range(60):
        wide = [wide] * 3
    deep = b"]" * 100_000 + b"a" * 99_999
    component = b"cdnnlib.tflib\nNetwork\n)\x81q\5" + table(variables=plain([]), components=table(x=b"h\5")) + b"b"
    names = {"build_func_name": plain("G"), "static_kwargs": plain({}), "variables": plain([])}
    return {
        "loop of arguments": (network(_init_kwargs=table(x=plain(own))), "recursion"),
        "loop of modules": (network(_modules=table(x=plain(loop))), "recursion"),
        "loop of components": (
            b"(" + tensorflow_network(**names, components=table(x=component)) + plain(None) * 2 + b"t",
            "recursion",
        ),
        "deep arguments": (network(_init_kwargs=table(x=deep)), "recursion"),
        "wide arguments": (network(_init_kwargs=table(x=plain(wide))), "refers to more than 1000 values"),
        "wide modules": (network(_modules=table(x=plain(shared))), "refers to more than 1000 values"),
        "large argument": (network(_init_kwargs=table(x=plain(np.zeros(2000)))), "an argument holds 2000 values"),
        "view": (view(floats(), (2,), offset=3), "out of bounds"),
        "list": (view(floats(), (10**12, [0])), "a shape is not made of counts"),
        "negative": (view(floats(), (-1, -4)), "a shape is not made of counts"),
        "storage": (view(floats(b"\x8a\x05\0\0\0\0\1"), (4,)), "is damaged"),
        "storage without bytes": (view(floats(b"J\0\0\0\1", listed=False), (4,)), "of 16777216 values comes with"),
        "memo": (b"]r\xff\xff\xff\x7f", "asks for room for 2147483647 values"),
        "bytes": (b"\x8e\0\0\0\0\0\0\0\x10abc", "is damaged"),
        "attribute of a class": (b"cnumpy\nndarray\n" + plain((None, {"a": 1})) + b"b", "is damaged"),
        "frame": (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN", "is damaged"),
    }


@pytest.mark.parametrize("bomb", bombs())
def test_a_file_that_claims_much_is_named(tmp_path: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_pickles, "MAX_NODES", 1000)
    content, message = bombs()[bomb]
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + content + b".")
    with pytest.raises(DamagedCheckpoint, match=rf"x\.pkl .*{message}"):
        read_networks(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no pickle"),
        (b"<html>not found</html>", "is no pickle"),
        (saved({"G": torch.zeros(3)}, in_zip=True), "is no pickle"),
        (b"\x80", "is damaged"),
        (saved({"G": torch.zeros(3)}), "no networks in it by the names G, D, G_ema"),
        (pickle.dumps({"a.weight": torch.zeros(3), "b": np.zeros(2)}), "no networks in it"),
        (pickle.dumps([1, 2, 3]), "no networks in it"),
        (pickle.dumps({"G": None}), "no networks in it"),
        (pickle.dumps({"G": torch.zeros(3)}), "its G is no network of a known kind"),
        (pickle.dumps({"D": torch.nn.Linear(1, 1)}), "its D is no network of a known kind"),
    ],
)
def test_what_holds_no_networks_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=rf"x\.pkl .*{message}"):
        read_networks(tmp_path / "x.pkl")


def test_missing_cut_and_too_large_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl: there is no such file"):
        read_networks(tmp_path / "none.pkl")
    content = b"\x80\x04" + network() + b"."
    whole, cut = tmp_path / "whole.pkl", tmp_path / "cut.pkl"
    whole.write_bytes(content)
    assert set(read_networks(whole)["G"].tensors) == {"weight", "bias"}
    for part in np.linspace(2, len(content) - 1, 20).astype(int):
        cut.write_bytes(content[:part])
        with pytest.raises(DamagedCheckpoint, match=r"cut\.pkl is damaged"):
            read_networks(cut)
    monkeypatch.setattr(unpickling, "MAX_BYTES", 7)
    with pytest.raises(DamagedCheckpoint, match=r"whole\.pkl cannot be read: it holds more than"):
        read_networks(whole)
    monkeypatch.setattr(network_pickles, "MAX_BYTES", len(content) - 1)
    with pytest.raises(DamagedCheckpoint, match=r"whole\.pkl cannot be read: it is larger than"):
        read_networks(whole)
