"""Reading StyleGAN2's and StyleGAN3's network files: all layouts are understood, their source text is not run."""

from __future__ import annotations

import ast
import copy
import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.network_pickles import read_networks
from gengauge.reference.nets.stylegan2.discriminator import Discriminator
from gengauge.reference.nets.stylegan2.generator import Generator
from gengauge.reference.nets.stylegan2.tensorflow import (
    discriminator_arguments,
    discriminator_state,
    generator_arguments,
    generator_state,
)
from gengauge.reference.nets.stylegan3 import generator as stylegan3
from gengauge.reference.nets.stylegan3.states import generator_from

GOLDEN = Path(__file__).parents[1] / "goldens" / "diffaugment" / "sg2_tf_conversion.safetensors"
SMALL = {"channel_base": 64, "channel_max": 6}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "G": {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "synthesis_kwargs": SMALL},
    "D": {"c_dim": 0, "img_resolution": 16, **SMALL},
}
SOURCE = "import os\nos.mkdir({mark!r})\n"


class EasyDict(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Network:
    """The TensorFlow code base's: only its state is stored."""

    def __init__(self, **state: Any) -> None:
        self.held = state

    def __getstate__(self) -> dict[str, Any]:
        return self.held


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    """Where the PyTorch ports execute `module_src`."""
    pytest.fail("a class was rebuilt")


class Rebuilt:
    """Reduces to `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def persistent(class_name: str, state: dict[str, Any], mark: Path = Path("made"), **more: Any) -> Rebuilt:
    meta = {"type": "class", "version": 6, "module_src": SOURCE.format(mark=str(mark)), "class_name": class_name}
    return Rebuilt(_reconstruct_persistent_obj, {**meta, "state": state, **more})


def state_of(module: torch.nn.Module, arguments: dict[str, Any] | None = None, mark: Path = Path("made")) -> Any:
    """The attributes of a module whose own parts are persistent, as are all that belong to no package."""
    state = copy.copy(module.__dict__)
    parts = {
        name: part
        if part is None or type(part).__module__.startswith("torch.")
        else persistent(type(part).__name__, state_of(part, {}, mark), mark)
        for name, part in module._modules.items()
    }
    return {**state, "_modules": parts, "_init_args": (), "_init_kwargs": easy(arguments or {})}


def easy(arguments: dict[str, Any]) -> EasyDict:
    return EasyDict({name: easy(value) if isinstance(value, dict) else value for name, value in arguments.items()})


@contextmanager
def code_base() -> Iterator[None]:
    """The modules of both code bases, for as long as something is pickled that names them."""
    homes = {EasyDict: "dnnlib.util", Network: "dnnlib.tflib.network"}
    homes[_reconstruct_persistent_obj] = "torch_utils.persistence"  # type: ignore[index]
    names = ["dnnlib", "dnnlib.util", "dnnlib.tflib", "dnnlib.tflib.network", "torch_utils", "torch_utils.persistence"]
    sys.modules.update({name: types.ModuleType(name) for name in names})
    before = {item: item.__module__ for item in homes}
    for item, home in homes.items():
        item.__module__ = home
        setattr(sys.modules[home], item.__name__, item)
    try:
        yield
    finally:
        for item, home in before.items():
            item.__module__ = home
        for name in names:
            del sys.modules[name]


def dump(path: Path, content: Any, protocol: int = 4) -> Path:
    with code_base():
        path.write_bytes(pickle.dumps(content, protocol))
    return path


def torch_content(mark: Path = Path("made")) -> tuple[dict[str, Any], dict[str, torch.nn.Module]]:
    torch.manual_seed(0)
    networks = {"G": Generator(**ARGUMENTS["G"]), "D": Discriminator(**ARGUMENTS["D"])}
    networks["G_ema"] = copy.deepcopy(networks["G"])
    for network in networks.values():
        network.eval().requires_grad_(False)
    content: dict[str, Any] = {"training_set_kwargs": easy({"path": "x.zip", "use_labels": False})}
    for name, network in networks.items():
        arguments = ARGUMENTS[name.removesuffix("_ema")]
        content[name] = persistent(type(network).__name__, state_of(network, arguments, mark), mark)
    return content, networks


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pytorch_networks_come_back_as_they_were(tmp_path: Path, protocol: int) -> None:
    content, networks = torch_content(tmp_path / "made")
    content["augment_pipe"] = persistent("AugmentPipe", state_of(torch.nn.BatchNorm1d(2)))
    stored = read_networks(dump(tmp_path / "x.pkl", content, protocol))
    assert not (tmp_path / "made").exists()
    assert list(stored) == ["G", "D", "G_ema"]
    for name, network in networks.items():
        got = stored[name]
        assert (got.kind, got.class_name) == ("pytorch", type(network).__name__)
        assert got.arguments == ARGUMENTS[name.removesuffix("_ema")]
        assert all(type(value) in (int, dict) for value in got.arguments.values())
        assert got.tensors.keys() == network.state_dict().keys()
        rebuilt = type(network)(**got.arguments)
        rebuilt.load_state_dict(got.tensors)
        for key, value in rebuilt.state_dict().items():
            assert torch.equal(value, network.state_dict()[key])


def test_what_else_a_module_may_hold(tmp_path: Path) -> None:
    inner = torch.nn.ModuleList([torch.nn.Linear(2, 3, bias=False), torch.nn.Sequential(torch.nn.BatchNorm1d(3))])
    inner.register_buffer("left", torch.zeros(2), persistent=False)
    inner.register_buffer("narrow", torch.arange(6, dtype=torch.float16).reshape(2, 3).T)
    values = {"gain": np.sqrt(2), "sizes": {np.int64(3)}, "kernel": np.array([1, 3]), "fixed": frozenset({"a"})}
    exact = {"dtype": torch.float16, "size": torch.Size([1, 2]), "device": torch.device("cpu"), "some": [None, b"x"]}
    state = {**state_of(inner, {**values, **exact, "map": OrderedDict(a=1)}), **values, **exact, "_backward_hooks": {}}
    for protocol in (2, 3, 4, 5):
        file = dump(tmp_path / "x.pkl", {"G": None, "G_ema": persistent("Any", state)}, protocol)
        (stored,) = read_networks(file).values()
        assert stored.arguments["gain"] == 2**0.5
        assert type(stored.arguments["gain"]) is float
        assert stored.arguments["sizes"] == {3}
        assert stored.arguments["kernel"] == [1, 3]
        assert stored.arguments["map"] == {"a": 1}
        assert {name: stored.arguments[name] for name in exact} == exact
        assert stored.tensors.keys() == inner.state_dict().keys()
        assert torch.equal(stored.tensors["narrow"], inner.narrow)


# StyleGAN3's class takes the arguments of synthesis among its own.
THIRD: dict[str, Any] = {
    "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3, "mapping_kwargs": {"num_layers": 2},
}  # fmt: skip
THIRD_SYNTHESIS = {"channel_base": 192, "channel_max": 6, "magnitude_ema_beta": 0.999, "num_fp16_res": 4}


def third_content(config: Any, mark: Path, **more: Any) -> tuple[dict[str, Any], stylegan3.Generator]:
    """A StyleGAN3 file, whose modules hold numpy's arrays and numbers beside tensors, and its network."""
    torch.manual_seed(0)
    network = stylegan3.Generator(**THIRD, synthesis_kwargs={**config, **THIRD_SYNTHESIS}).eval().requires_grad_(False)
    published = copy.deepcopy(network)
    for part in published.modules():
        part.__dict__.pop("band", None)
        if isinstance(part, stylegan3.SynthesisLayer):
            part.in_size, part.in_sampling_rate = np.broadcast_to(np.asarray(36), [2]), np.float64(16)  # type: ignore[assignment]
    for name, value in more.items():
        published.synthesis.input._buffers[name] = value
    arguments = {**THIRD, **config, **THIRD_SYNTHESIS}
    return {"G": None, "G_ema": persistent("Generator", state_of(published, arguments, mark), mark)}, network


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("config", [stylegan3.CONFIG_R, stylegan3.CONFIG_T])
def test_stylegan3s_networks_come_back_as_they_were(tmp_path: Path, config: Any, protocol: int) -> None:
    content, network = third_content(config, tmp_path / "made")
    stored = read_networks(dump(tmp_path / "x.pkl", content, protocol))["G_ema"]
    assert not (tmp_path / "made").exists()
    assert (stored.kind, stored.class_name) == ("pytorch", "Generator")
    assert stored.arguments == {**THIRD, **config, **THIRD_SYNTHESIS}
    assert stored.tensors.keys() == network.state_dict().keys()
    rebuilt = generator_from(stored.arguments, stored.tensors)
    for key, value in rebuilt.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    z = torch.randn(2, 8)
    assert torch.equal(rebuilt(z), network(z))


def test_a_hostile_stylegan3_file_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "made"
    content, _ = third_content(stylegan3.CONFIG_R, mark, freqs=Rebuilt(os.mkdir, str(mark)))
    file = dump(tmp_path / "x.pkl", content)
    with pytest.raises(UnsafeCheckpoint, match=rf"x\.pkl is refused: it asks for {os.name}\.mkdir"):
        read_networks(file)
    assert not mark.exists()


def tensorflow_content(mark: Path = Path("made"), **more: Any) -> tuple[Network, Network, Network]:
    """G, D and Gs with the variables of a golden, as the code base spreads them over components."""
    with safe_open(GOLDEN, "np") as file:
        # TensorFlow gives variables without dimensions as numpy's scalars.
        held = {key: file.get_tensor(key)[()] for key in file.keys() if key.startswith("tf")}  # noqa: SIM118
        metadata = file.metadata()

    def network(prefix: str, function: str, static: dict[str, Any], components: dict[str, Network]) -> Network:
        names = [n.removeprefix(prefix) for n in held if n.startswith(prefix)]
        own = [(n, held[prefix + n]) for n in names if not any(n.startswith(f"{c}/") for c in components)]
        source = SOURCE.format(mark=str(mark))
        state = {"version": 4, "name": function, "static_kwargs": static, "components": components, "variables": own}
        return Network(**{**state, "build_module_src": source, "build_func_name": function, **more})

    kwargs = {side: easy(ast.literal_eval(metadata[f"{side}_static_kwargs"])) for side in "GD"}
    parts = {p: network(f"tfG.{p}/", f"G_{p}", kwargs["G"], {}) for p in ("synthesis", "mapping")}
    generator = network("tfG.", "G_main", kwargs["G"], parts)
    return generator, network("tfD.", "D_stylegan2", kwargs["D"], {}), Network(**generator.held)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensorflow_networks_load_into_this_projects(tmp_path: Path, protocol: int) -> None:
    stored = read_networks(dump(tmp_path / "x.pkl", tensorflow_content(tmp_path / "made"), protocol))
    assert not (tmp_path / "made").exists()
    with safe_open(GOLDEN, "pt") as file:
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert [network.class_name for network in stored.values()] == ["G_main", "D_stylegan2", "G_main"]
    for name, network in stored.items():
        side = name[0]
        assert network.kind == "tensorflow"
        assert network.tensors.keys() == {key[4:] for key in golden if key.startswith(f"tf{side}.")}
        for key, value in network.tensors.items():
            assert torch.equal(value, golden[f"tf{side}.{key}"])
        if side == "G":
            module: torch.nn.Module = Generator(**generator_arguments(network.arguments, network.tensors))
            state = generator_state(network.tensors)
        else:
            module = Discriminator(**discriminator_arguments(network.arguments, network.tensors))
            state = discriminator_state(network.tensors)
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(key.endswith("resample_filter") for key in missing)


def test_versions_and_arguments_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = dump(tmp_path / "old.pkl", tensorflow_content(version=3))
    with pytest.raises(DamagedCheckpoint, match=r"old\.pkl cannot be read: its G is of version 3; versions from 4"):
        read_networks(file)
    state = state_of(torch.nn.Linear(1, 1))
    for change, message in (
        ({"_init_args": (8,)}, "whose names only its source text tells"),
        ({"_init_kwargs": {"f": torch.nn.Linear(1, 1)}}, "kind _Module is no plain value"),
        ({"_parameters": {"weight": 1.0}}, "weight of its D is no tensor"),
    ):
        with pytest.raises(DamagedCheckpoint, match=rf"x\.pkl cannot be read: .*{message}"):
            read_networks(dump(tmp_path / "x.pkl", {"D": persistent("Any", {**state, **change})}))
    with pytest.raises(DamagedCheckpoint, match="rebuilt from a 'function'"):
        read_networks(dump(tmp_path / "x.pkl", {"D": persistent("Any", state, type="function")}))
