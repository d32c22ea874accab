"""SDEdit against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes
from torch import Tensor, nn

from gengauge.reference.nets.ddpm_unet import (
    CELEBA_64,
    CHURCH_256,
    CIFAR10_32,
    Attention,
    DDPMUNet,
    Downsample,
    ResBlock,
    Upsample,
    fuse,
)
from gengauge.reference.nets.ncsnpp import FACES_256, FFHQ_1024, NCSNpp, NCSNppConfig, fir_downsample, fir_upsample
from gengauge.reference.nets.unet import EPS, UNetConfig, timestep_embedding

PAPER = "sdedit"
NETWORK, FIR = 1e-5, 1e-6
# Of embeddings: sines of angles near 1000 keep fewer digits.
EMBEDDING = {"small": 1e-5, "large": 2e-4}
SMALL = 20  # times below are small
SCORE = 1e-4  # of a picture's largest value, each picture for itself
NUM_GROUPS = 32
# Kinds whose tests are yet to come.
AWAITED = (
    "closed_form_score",
    "ddpm_train_step",
    "guided_step",
    "metrics",
    "sde_steps",
    "stroke",
    "ve_sdedit",
    "vp_paper",
    "vp_schedule",
    "vp_sdedit",
    "vp_step",
)
READ: set[Path] = set()  # the files that gave a test item


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the goldens were made; rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[Any]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    READ.update(path for path, _ in found)
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def whole(paths: list[Path]) -> list[Any]:
    """A test item a file."""
    READ.update(paths)
    return [pytest.param(path, id=path.stem) for path in paths]


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def weights(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix; those that are stored in half precision as float32."""
    return {
        key: value.float() if value.dtype == torch.float16 else value for key, value in under(tensors, prefix).items()
    }


def setting(text: str) -> Any:
    """A number, a sequence as a tuple, a truth value or a word, from a golden's metadata."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value


def test_every_golden_file_gives_a_test_item() -> None:
    there = {path for path in folder(PAPER).iterdir() if path.name not in ("MANIFEST.md", "settings.json")}
    unknown = sorted(path.name for path in there - READ if not path.name.startswith(AWAITED))
    assert not unknown, f"no test reads {unknown}"


# ----------------------------------------------------------------------------------------------------------------------
# ddpm_blocks*: parts of DDPM's U-Net


def made(block: str, state: dict[str, Tensor], given: list[Tensor], out: Tensor) -> nn.Module:
    """The part that a golden's name and weights tell of."""
    channels, outputs = given[0].shape[1], out.shape[1]
    if block.startswith("res"):
        shortcut_is_3x3 = "conv_shortcut.weight" in state
        return ResBlock(channels, outputs, given[1].shape[1], 0.0, NUM_GROUPS, shortcut_is_3x3)
    if block.startswith("attn"):
        return Attention(channels, fused=False, num_groups=NUM_GROUPS)
    if out.shape[2] < given[0].shape[2]:
        return Downsample(channels, "conv.weight" in state)
    return Upsample(channels, "conv.weight" in state)


@pytest.mark.parametrize(("path", "block"), items("ddpm_blocks", lambda tensors: prefixes(tensors, ".in0")))
def test_blocks_of_ddpm(path: Path, block: str) -> None:
    tensors, _ = load(path)
    given = [tensors[name] for name in sorted(tensors) if name.startswith(f"{block}.in")]
    state, out = weights(tensors, f"{block}.w."), tensors[f"{block}.out"]
    part = made(block, state, given, out)
    part.load_state_dict(state)
    with torch.no_grad():
        assert_close(part.eval()(*given), out, NETWORK)


@pytest.mark.parametrize(("path", "name"), items("ddpm_blocks", lambda tensors: prefixes(tensors, ".in")))
def test_normalisation_of_ddpm(path: Path, name: str) -> None:
    tensors, _ = load(path)
    given, state = tensors[f"{name}.in"], weights(tensors, f"{name}.w.")
    norm = nn.GroupNorm(NUM_GROUPS, given.shape[1], EPS)
    norm.load_state_dict(state)
    with torch.no_grad():
        assert_close(norm(given), tensors[f"{name}.out"], NETWORK)


@pytest.mark.parametrize(
    ("path", "name"), items("ddpm_blocks", lambda tensors: [name for name in tensors if name.startswith("temb.dim")])
)
def test_time_embedding(path: Path, name: str) -> None:
    tensors, _ = load(path)
    t, golden = tensors["temb.t"], tensors[name]
    ours = timestep_embedding(t, golden.shape[1])
    assert golden.shape[1] == int(name.removeprefix("temb.dim"))
    assert_close(ours, golden, EMBEDDING["large"])
    assert_close(ours[t < SMALL], golden[t < SMALL], EMBEDDING["small"])


# ----------------------------------------------------------------------------------------------------------------------
# ddpm_unet*, ncsnpp*: whole networks


def unet(state: dict[str, Tensor], metadata: dict[str, str]) -> DDPMUNet:
    """The U-Net that a golden's metadata and weights tell of."""
    told = {name: setting(text) for name, text in metadata.items()}
    assert told.get("type", "simple") == "simple", "a network of another kind"
    named = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "in_channels", "out_ch", "dropout")
    config = UNetConfig(
        resolution=told["image_size"],
        temb_ch=len(state["temb.dense.0.bias"]),
        resamp_with_conv=told.get("resamp_with_conv", True),
        **{name: told[name] for name in named},
    )
    return DDPMUNet(config)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("path", whole(files(PAPER, "ddpm_unet")))
def test_unet(path: Path, fused: bool) -> None:
    tensors, metadata = load(path)
    state = weights(tensors, "w.")
    network = unet(state, metadata)
    if fused:
        config = network.config
        network, state = DDPMUNet(config, fused=True), fuse(state, config)
    network.load_state_dict(state)
    inner = {"conv_in": network.conv_in, "mid_out": network.mid.block_2, "norm_out": network.norm_out}
    if not fused:
        inner["temb_dense1"] = network.temb
    seen: dict[str, Tensor] = {}
    for name, module in inner.items():
        module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        out = network.eval()(tensors["x"], tensors["t"])
    assert_close(out, tensors["out"], NETWORK)
    captured = under(tensors, "cap.")
    assert captured.keys() <= {*seen, "temb_dense1"}
    for name in captured.keys() & seen.keys():
        assert_close(seen[name], captured[name], NETWORK)


@pytest.mark.parametrize("path", whole(files(PAPER, "ncsnpp")))
def test_score_network(path: Path) -> None:
    tensors, metadata = load(path)
    config = NCSNppConfig.published({name: setting(text) for name, text in metadata.items()})
    network, state = NCSNpp(config), weights(tensors, "w.")
    assert_close(network.sigmas, state["sigmas"], 0.0, 1e-12)
    network.load_state_dict(state)
    with torch.no_grad():
        out = network.eval()(tensors["x"], tensors["sigma" if "sigma" in tensors else "t"])
    assert out.dtype == tensors["x"].dtype
    assert out.shape == tensors["out"].shape
    for ours, golden in zip(out, tensors["out"], strict=True):
        assert_close(ours, golden, 0.0, SCORE)
    if "fourier_emb" in tensors:
        assert_close(network.all_modules[0](tensors["sigma"].log()), tensors["fourier_emb"], NETWORK)


# ----------------------------------------------------------------------------------------------------------------------
# fir*: filtered resampling


@pytest.mark.parametrize("path", whole(files(PAPER, "fir")))
def test_filtered_resampling(path: Path) -> None:
    tensors, _ = load(path)
    kernel = tensors["kernel"]
    kernel = kernel / kernel.sum()
    assert_close(fir_upsample(tensors["x"], kernel), tensors["fir_up2"], FIR)
    assert_close(fir_downsample(tensors["x"], kernel), tensors["fir_down2"], FIR)


# ----------------------------------------------------------------------------------------------------------------------
# *_state_dict.csv: names, shapes and types of the networks at full size


FULL_SIZE: dict[str, Callable[[], nn.Module]] = {
    "ddpm256": lambda: DDPMUNet(CHURCH_256),
    "ddpm64": lambda: DDPMUNet(CELEBA_64),
    "ddpm32": lambda: DDPMUNet(CIFAR10_32),
    "ncsnpp256": lambda: NCSNpp(FACES_256),
    "ncsnpp1024": lambda: NCSNpp(FFHQ_1024),
}


def listed(network: nn.Module) -> list[tuple[str, str, str]]:
    """Name, shape and type of every tensor, in order of names."""
    return sorted(
        (name, "x".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."))
        for name, value in network.state_dict().items()
    )


@pytest.mark.parametrize("path", whole(sorted(folder(PAPER).glob("*_state_dict.csv"))))
def test_state_dict_at_full_size(path: Path) -> None:
    """Of the network that the file's name tells, or of any of them where it is none of these names."""
    with path.open(newline="") as stream:
        rows = sorted((row["name"], row["shape"], row["dtype"]) for row in csv.DictReader(stream))
    told = path.stem.removesuffix("_state_dict")
    with torch.device("meta"):
        if told in FULL_SIZE:
            assert listed(FULL_SIZE[told]()) == rows
        else:
            assert rows in [listed(make()) for make in FULL_SIZE.values()]
