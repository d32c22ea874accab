"""Reading checkpoints: every layout that is meant to load does, and a hostile file runs nothing."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gengauge.datasets import checkpoints
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint, read_tensors


class Hostile:
    """Unpickled freely, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def test_safetensors_and_torch_files(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 4), "b": torch.arange(5)}
    save_file(state, tmp_path / "x.safetensors")
    torch.save({"G": OrderedDict(state), "steps": 3, "list": [state["b"]]}, tmp_path / "x.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["a.weight"], state["a.weight"])
    read = read_tensors(tmp_path / "x.pth")
    assert set(read) == {"G.a.weight", "G.b", "list.0"}
    assert torch.equal(read["G.a.weight"], state["a.weight"])
    assert torch.equal(read_tensors(tmp_path / "old.pth")["b"], state["b"])


def test_pickles_of_arrays(tmp_path: Path) -> None:
    content = {"net": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2)}, "n": 3}
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(content, protocol=2))
    read = read_tensors(tmp_path / "x.ckpt")
    assert read["net.kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert set(read) == {"net.kernel", "net.bias"}


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_archives_without_running_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Small()
    torch.jit.script(network).save(str(tmp_path / "x.pt"))
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("its code was loaded"))
    read = read_tensors(tmp_path / "x.pt")
    for key, value in network.state_dict().items():
        assert torch.equal(read[key], value)


def in_zip(path: Path, pickled: bytes, code: bool) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
        if code:
            archive.writestr("x/code/__torch__.py", "")


@pytest.mark.parametrize("kind", ["pickle", "torch", "script", "legacy"])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    mark, file = tmp_path / "made", tmp_path / "hostile.pkl"
    payload = pickle.dumps({"weights": Hostile(mark)}, protocol=2)
    if kind == "pickle":
        file.write_bytes(payload)
    elif kind == "legacy":
        torch.save({"weights": Hostile(mark)}, file, _use_new_zipfile_serialization=False)
    else:
        in_zip(file, payload, code=kind == "script")
    with pytest.raises(UnsafeCheckpoint, match=r"hostile\.pkl is refused"):
        read_tensors(file)
    assert not mark.exists()
    pickle.loads(payload)  # noqa: S301 - shows that the payload is live
    assert mark.exists()


@pytest.mark.parametrize("attack", ["builtins eval", "numpy load", "torch load", "collections abc"])
def test_other_callables_are_refused_by_name(tmp_path: Path, attack: str) -> None:
    module, name = attack.split()
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02c" + f"{module}\n{name}\n".encode() + b".")
    with pytest.raises(UnsafeCheckpoint, match=f"asks for {module}.{name}"):
        read_tensors(tmp_path / "x.pkl")


LIGHTNING = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            LIGHTNING.replace(b"model_checkpoint\nModel", b"early_stopping\nEarly"),
            "is refused: it asks for pytorch_light",
        ),
        (LIGHTNING + b"X\x02\x00\x00\x00id\x85R", "is damaged"),  # called with an argument
        (b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R", "is refused: an array of kind 'O8'"),
        (b"cnumpy.core.multiarray\nscalar\nX\x02\x00\x00\x00f8K\x00\x86R", "is refused: an array of objects"),
        (b"cnumpy.core.multiarray\n_reconstruct\n", "is refused: it asks for numpy.core.multiarray._reconstruct"),
    ],
)
def test_stand_ins_for_what_trainings_leave_do_nothing_else(tmp_path: Path, payload: bytes, message: str) -> None:
    good = b"}" + LIGHTNING + b"}X\x05\x00\x00\x00scoreK\x03ss"
    for content in (good, payload):
        torch.save({}, tmp_path / "empty.pt")
        with zipfile.ZipFile(tmp_path / "empty.pt") as empty, zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            for info in empty.infolist():
                pickled = info.filename.endswith("data.pkl")
                archive.writestr(info.filename, b"\x80\x02" + content + b"." if pickled else empty.read(info))
        if content is good:
            assert read_tensors(tmp_path / "x.pt") == {}
    with pytest.raises((DamagedCheckpoint, UnsafeCheckpoint), match=rf"x\.pt {message}"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_parsed_options_are_plain_data(tmp_path: Path, legacy: bool) -> None:
    """GANgealing's training keeps its argparse.Namespace; what is in it is judged like everything else."""
    options = argparse.Namespace(iter=5, names=["a"], lr=0.1, nothing=None, inner=argparse.Namespace(flag=True))

    def save(**more: object) -> Path:
        content = {"t": {"w": torch.ones(2)}, "args": argparse.Namespace(**vars(options), **more)}
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        return tmp_path / "x.pt"

    assert set(read_tensors(save())) == {"t.w"}
    assert read_tensors(save(mean=torch.zeros(3)))["args.mean"].shape == (3,)
    for callable_value, asked in ((os.getcwd, r"posix\.getcwd"), (Hostile(tmp_path / "made"), r"posix\.mkdir")):
        with pytest.raises(UnsafeCheckpoint, match=rf"x\.pt is refused: it asks for {asked}"):
            read_tensors(save(hook=callable_value))
    assert not (tmp_path / "made").exists()


class Called:
    """Unpickled, it calls argparse.Namespace with what it holds."""

    def __reduce__(self) -> object:
        return argparse.Namespace, (("x", 1),)


def test_options_have_no_behaviour(tmp_path: Path) -> None:
    torch.save({"args": Called()}, tmp_path / "x.pt")
    with pytest.raises(DamagedCheckpoint, match=r"x\.pt is damaged"):
        read_tensors(tmp_path / "x.pt")
    endless = argparse.Namespace()
    endless.own = endless
    torch.save({"args": endless}, tmp_path / "x.pt")
    with pytest.raises(DamagedCheckpoint, match=r"x\.pt is damaged"):
        read_tensors(tmp_path / "x.pt")
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps({"args": argparse.Namespace()}, protocol=2))  # beside torch's format nobody has it
    with pytest.raises(UnsafeCheckpoint, match=r"asks for argparse\.Namespace"):
        read_tensors(file)


def script_archive(path: Path, view: tuple[int, tuple[int, ...], tuple[int, ...]]) -> None:
    """A TorchScript archive with one tensor: a view (offset, size, stride) of a storage of four floats."""
    stream, storage = io.BytesIO(), object()

    class Out(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if item is storage else None

    class View:
        def __reduce__(self) -> object:
            return torch._utils._rebuild_tensor_v2, (storage, *view, False, OrderedDict())

    Out(stream, protocol=2).dump({"w": View()})
    in_zip(path, stream.getvalue(), code=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/0", np.arange(4, dtype=np.float32).tobytes())


def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path: Path) -> None:
    script_archive(tmp_path / "good.pt", (1, (3,), (1,)))
    assert read_tensors(tmp_path / "good.pt")["w"].tolist() == [1, 2, 3]
    for view in ((0, (1000,), (1,)), (3, (2,), (1,)), (0, (2,), (9,))):
        script_archive(tmp_path / "bad.pt", view)
        with pytest.raises((DamagedCheckpoint, UnsafeCheckpoint), match=r"bad\.pt"):
            read_tensors(tmp_path / "bad.pt")


def test_an_array_that_hides_objects_or_a_size_of_its_own_is_refused(tmp_path: Path) -> None:
    class Kind:
        """A kind of eight plain bytes that says afterwards that they are a reference to an object."""

        def __reduce__(self) -> object:
            return np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)

    class Array:
        def __reduce__(self) -> object:
            return np.ndarray, ((1,), Kind(), b"\x41" * 8)

    (tmp_path / "object.pkl").write_bytes(pickle.dumps({"w": Array()}, protocol=2))
    with pytest.raises(UnsafeCheckpoint, match=r"object\.pkl is refused"):
        read_tensors(tmp_path / "object.pkl")
    short = pickle.dumps(np.zeros(4), protocol=2).replace(b"K\x04\x85", b"K\x40\x85")
    (tmp_path / "short.pkl").write_bytes(short)
    with pytest.raises(DamagedCheckpoint, match=r"short\.pkl"):
        read_tensors(tmp_path / "short.pkl")
    objects = pickle.dumps(np.array([{}], dtype=object), protocol=2)
    (tmp_path / "list.pkl").write_bytes(objects)
    with pytest.raises(UnsafeCheckpoint, match="refused"):
        read_tensors(tmp_path / "list.pkl")


def test_a_tensor_that_repeats_a_small_storage_is_refused(tmp_path: Path) -> None:
    script_archive(tmp_path / "x.pt", (0, (25_000_000,), (0,)))
    with pytest.raises(UnsafeCheckpoint, match=r"x\.pt is refused"):
        read_tensors(tmp_path / "x.pt")


def test_archives_that_lack_or_garble_their_parts_are_damaged(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lack.pt", "w") as archive:
        archive.writestr("x/code/a.py", "")
    with zipfile.ZipFile(tmp_path / "garbled.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/code/a.py", "")
        archive.writestr("x/data.pkl", b"abc" * 1000)
    content = bytearray((tmp_path / "garbled.pt").read_bytes())
    start = content.find(b"x/data.pkl") + 10
    content[start : start + 6] = b"\xff" * 6
    (tmp_path / "garbled.pt").write_bytes(content)
    for name in ("lack.pt", "garbled.pt"):
        with pytest.raises(DamagedCheckpoint, match=name):
            read_tensors(tmp_path / name)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(100)}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for name, content in (("empty", b""), ("text", b"<html>not found</html>"), ("cut", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedCheckpoint, match=name):
            read_tensors(tmp_path / name)
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"a": np.zeros(100)}, protocol=2)[:200])
    with pytest.raises(DamagedCheckpoint, match=r"cut\.pkl"):
        read_tensors(tmp_path / "cut.pkl")
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 100)
    with pytest.raises(DamagedCheckpoint, match="unpack to more than"):
        read_tensors(tmp_path / "x.pth")
