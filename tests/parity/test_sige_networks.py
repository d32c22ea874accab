"""The networks of SIGE against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import assert_close, files, load
from torch import Tensor, nn

from gengauge.reference.nets import ddpm_unet, spade
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.pd_unet import PDConfig, PDUNet
from gengauge.reference.nets.spade import SPADEConfig, SPADEGenerator, one_hot_with_edges
from gengauge.reference.nets.unet import UNetConfig

PAPER = "sige"
KINDS = ("ddpm_", "pd_", "gaugan_", "gancomp_")
ITEMS = [pytest.param(path, kind, id=path.stem) for kind in KINDS for path in files(PAPER, kind)]
SPADES = [item for item in ITEMS if item.values[1] in ("gaugan_", "gancomp_")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the goldens were made; rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setting(metadata: dict[str, str], name: str) -> Any:
    """A number, a list as a tuple, or None, from a golden's metadata."""
    value = ast.literal_eval(metadata[name])
    return tuple(value) if isinstance(value, list) else value


def weights(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, which are stored in half precision, as float32."""
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return {key: value.float() if value.is_floating_point() else value for key, value in found.items()}


def unet_settings(state: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """What the metadata and the shapes of the weights tell of a U-Net."""
    named = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions")
    return {
        "resolution": setting(metadata, "image_size"),
        **{name: setting(metadata, name) for name in named},
        "temb_ch": len(state["temb.dense.0.bias"]),
        "in_channels": state["conv_in.weight"].shape[1],
        "out_ch": len(state["conv_out.bias"]),
    }


def spade_config(state: dict[str, Tensor], metadata: dict[str, str]) -> SPADEConfig:
    """What the metadata and the shapes of the weights tell of a SPADE generator."""
    channels = setting(metadata, "channels")
    return SPADEConfig(
        crop_size=setting(metadata, "crop_size"),
        aspect_ratio=setting(metadata, "aspect_ratio"),
        labels=state["fc.weight"].shape[1] - 1,
        channels=channels or (setting(metadata, "ngf"),) * 8,
        separable=channels is not None,
    )


def built(
    kind: str, state: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[Callable[[bool], nn.Module], dict[str, Tensor] | None]:
    """How to make a file's network, plain or fused, and the fused weights where the network has such a form."""
    if kind == "pd_":
        pd = PDConfig(**unet_settings(state, metadata), head_dim=setting(metadata, "head_dim"))
        return lambda fused: PDUNet(pd), None
    if kind == "ddpm_":
        ddpm = UNetConfig(**unet_settings(state, metadata))
        return lambda fused: DDPMUNet(ddpm, fused), ddpm_unet.fuse(state, ddpm)
    config = spade_config(state, metadata)
    return lambda fused: SPADEGenerator(config, fused), spade.fuse(state, config)


def arguments(kind: str, tensors: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
    """The network's arguments for the original and for the edited picture."""
    if kind in ("ddpm_", "pd_"):
        return [(tensors[f"x_{which}"], tensors["t"]) for which in ("original", "edited")]
    labels = tensors["w.fc.weight"].shape[1] - 1
    both = one_hot_with_edges(tensors["label"], tensors["instance"], labels)
    return [(both[:1],), (both[1:],)]


def output(network: nn.Module, state: dict[str, Tensor], given: tuple[Tensor, ...]) -> Tensor:
    """A network's output in evaluation, with weights that must be all of its own."""
    network.load_state_dict(state)
    with torch.no_grad():
        return network.eval()(*given)


@pytest.mark.parametrize(("path", "kind"), ITEMS)
def test_outputs(path: Path, kind: str) -> None:
    tensors, metadata = load(path)
    state = weights(tensors, "w.")
    make, fused = built(kind, state, metadata)
    original, edited = arguments(kind, tensors)
    plain = output(make(False), state, edited)
    assert_close(output(make(False), state, original), tensors["out.dense_original"], 1e-4)
    assert_close(plain, tensors["out.dense_edited"], 1e-4)
    if "out.fused_edited" in tensors:
        assert fused is not None
        ours = output(make(True), fused, edited)
        assert_close(ours, tensors["out.fused_edited"], 1e-4)
        assert_close(ours, plain, 2e-5)


@pytest.mark.parametrize(("path", "kind"), ITEMS)
def test_fused_weights(path: Path, kind: str) -> None:
    tensors, metadata = load(path)
    state = weights(tensors, "w.")
    _, fused = built(kind, state, metadata)
    golden = weights(tensors, "wfused.")
    for name, value in golden.items():
        assert fused is not None
        assert_close(fused[name], value, 0.0)
    if golden and fused is not None:
        assert golden.keys() == fused.keys() - state.keys()


@pytest.mark.parametrize(("path", "kind"), SPADES)
def test_one_hot_with_edges(path: Path, kind: str) -> None:
    tensors, metadata = load(path)
    labels = setting(metadata, "input_nc")
    ours = one_hot_with_edges(tensors["label"], tensors["instance"], labels)
    assert ours.shape[1] == labels + 1 == tensors["w.fc.weight"].shape[1]
    assert torch.equal(ours[:, :-1].argmax(1), tensors["label"][:, 0].long())
    assert torch.equal(ours[:, :-1].sum(1), torch.ones_like(ours[:, 0]))
    assert torch.equal(ours[:, -1:], tensors["edge"].float())
