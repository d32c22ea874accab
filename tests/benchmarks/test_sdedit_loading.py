"""SDEdit's priors from every published layout and back, and files that must be refused."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from gengauge.benchmarks.papers.sdedit import loading
from gengauge.benchmarks.papers.sdedit.loading import load_network, load_published, network_of, save_network
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.reference.nets.ddpm_unet import DDPMUNet, fuse
from gengauge.reference.nets.ncsnpp import NCSNpp, NCSNppConfig
from gengauge.reference.nets.published import trained_parameters
from gengauge.reference.nets.unet import UNetConfig

UNET = UNetConfig(8, 8, (1, 2), 1, (4,), temb_ch=32, num_groups=4)
SCORE = NCSNppConfig(8, 8, (1, 2), 1, (4,), 50.0, num_scales=20)


@pytest.fixture(autouse=True)
def _tiny_networks_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DDPM", {**loading.DDPM, "tiny": UNET})
    monkeypatch.setattr(loading, "SCORE", {**loading.SCORE, "tiny": SCORE})


class Hostile:
    """Unpickled freely, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def moved(network: nn.Module) -> dict[str, Tensor]:
    """Averaged weights that are not the network's own."""
    return {name: value.detach() + 1 for name, value in trained_parameters(network).items()}


def holds(network: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether a network is in evaluation, frozen, and has these weights."""
    own = network.state_dict()
    frozen = not network.training and not any(p.requires_grad for p in network.parameters())
    return frozen and all(torch.equal(own[name], value) for name, value in state.items())


def stepped(network: nn.Module) -> dict[str, Any]:
    """An optimiser's state dict after a step, which holds tensors of its own."""
    optimizer = torch.optim.Adam(trained_parameters(network).values())
    for value in trained_parameters(network).values():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("kind", ["ddpm", "score"])
@pytest.mark.parametrize("layout", ["bare", "model and ema", "ddim", "score"])
def test_layouts_are_told_apart(kind: str, layout: loading.Layout, tmp_path: Path) -> None:
    if (kind, layout) == ("ddpm", "score"):
        with pytest.raises(ValueError, match="'score' is of NCSN"):
            save_network(DDPMUNet(UNET), tmp_path / "x", layout)
        return
    network: loading.Network = DDPMUNet(UNET) if kind == "ddpm" else NCSNpp(SCORE)
    own, averaged = {k: v.clone() for k, v in network.state_dict().items()}, moved(network)
    path = tmp_path / "model-1.ckpt"
    save_network(network, path, layout, averaged, stepped(network), epoch=3, step=17)
    assert holds(load_network(path), averaged)
    assert holds(load_network(path, network.config), averaged)
    if layout == "bare":  # has one set
        with pytest.raises(ValueError, match="no averaged weights"):
            load_network(path, ema=True)
        return
    assert holds(load_network(path, ema=True), averaged)
    assert holds(load_network(path, ema=False), own)
    if isinstance(network, NCSNpp):
        assert torch.equal(load_network(path).state_dict()["all_modules.0.W"], own["all_modules.0.W"])


def test_the_published_trainers_containers_are_what_they_write(tmp_path: Path) -> None:
    unet, score = DDPMUNet(UNET), NCSNpp(SCORE)
    save_network(unet, tmp_path / "a", "ddim", moved(unet), stepped(unet), 2, 9)
    model, optimizer, epoch, step, ema = torch.load(tmp_path / "a", weights_only=True)
    assert list(model) == [f"module.{name}" for name in unet.state_dict()]
    assert optimizer.keys() == {"state", "param_groups"}
    assert (epoch, step) == (2, 9)
    assert list(ema) == [name for name, _ in unet.named_parameters()]
    save_network(unet, tmp_path / "b", "ddim")
    assert len(torch.load(tmp_path / "b", weights_only=True)) == 4
    assert holds(load_network(tmp_path / "b"), unet.state_dict())
    save_network(score, tmp_path / "c", "score", moved(score), stepped(score), step=5, decay=0.5)
    content = torch.load(tmp_path / "c", weights_only=True)
    assert content.keys() == {"optimizer", "model", "ema", "step"}
    assert "module.sigmas" in content["model"]
    assert content["ema"].keys() == {"decay", "num_updates", "shadow_params"}
    assert len(content["ema"]["shadow_params"]) == len(list(score.parameters())) - 1
    assert (content["ema"]["decay"], content["step"]) == (0.5, 5)


def test_a_network_that_was_loaded_and_so_frozen_is_written_as_one_that_was_not(tmp_path: Path) -> None:
    network = NCSNpp(SCORE)
    own, averaged = {k: v.clone() for k, v in network.state_dict().items()}, moved(network)
    save_network(network, tmp_path / "a", "score", averaged)
    save_network(load_network(tmp_path / "a", ema=False), tmp_path / "b", "score", averaged)
    assert holds(load_network(tmp_path / "b", ema=True), averaged)
    assert holds(load_network(tmp_path / "b", ema=False), own)


def test_an_ordered_dict_of_half_precision_becomes_float32(tmp_path: Path) -> None:
    network = DDPMUNet(UNET)
    torch.save(OrderedDict((k, v.half()) for k, v in network.state_dict().items()), tmp_path / "church_outdoor.ckpt")
    read = load_network(tmp_path / "church_outdoor.ckpt")
    assert all(p.dtype == torch.float32 for p in read.parameters())
    assert holds(read, {k: v.half().float() for k, v in network.state_dict().items()})


def test_noise_levels_come_from_the_file(tmp_path: Path) -> None:
    network = NCSNpp(replace(SCORE, sigma_max=380.0))
    save_network(network, tmp_path / "x", "score")
    read = load_network(tmp_path / "x")
    assert isinstance(read.config, NCSNppConfig)
    assert read.config.sigma_max == pytest.approx(380)
    with pytest.raises(ValueError, match="noise levels start at 380, sigma_max is 50"):
        load_network(tmp_path / "x", SCORE)


def test_diffusers_opens_what_is_written_and_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DDPMUNet(UNET).eval()
    fused = DDPMUNet(UNET, fused=True)
    fused.load_state_dict(fuse(network.state_dict(), UNET))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    for number, written in enumerate((network, fused)):
        folder = tmp_path / str(number)
        save_network(written, folder, "diffusers")
        other = diffusers.UNet2DModel.from_pretrained(folder).eval()
        read = load_network(folder)
        with torch.no_grad():
            assert (other(x, t).sample - network(x, t)).abs().max() <= 1e-5
            assert torch.equal(read(x, t), network(x, t))
        assert read.config == UNET
    other.save_pretrained(tmp_path / "theirs")
    assert holds(load_network(tmp_path / "theirs"), network.state_dict())
    assert holds(load_network(tmp_path / "theirs" / "diffusion_pytorch_model.safetensors"), network.state_dict())
    other.save_pretrained(tmp_path / "older", safe_serialization=False)
    assert holds(load_network(tmp_path / "older"), network.state_dict())
    with pytest.raises(ValueError, match="one set of weights"):
        load_network(tmp_path / "theirs", ema=True)


def test_a_folder_of_another_network_is_refused_by_its_setting(tmp_path: Path) -> None:
    other = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    other.save_pretrained(tmp_path / "x")
    with pytest.raises(ValueError, match="x: flip_sin_to_cos is True"):
        load_network(tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"without config\.json"):
        load_network(tmp_path / "empty")
    with pytest.raises(ValueError, match="'diffusers' is of DDPM's U-Net"):
        save_network(NCSNpp(SCORE), tmp_path / "y", "diffusers")


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bedroom.ckpt"
    with pytest.raises(FileNotFoundError, match=r"bedroom\.ckpt"):
        load_network(path)
    torch.save([{"module.w": torch.zeros(1)}, Hostile(tmp_path / "mark")], path)
    with pytest.raises(UnsafeCheckpoint, match="mkdir"):
        load_network(path)
    assert not (tmp_path / "mark").exists()
    save_network(DDPMUNet(UNET), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_network(path)


def test_files_of_other_networks_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    state = DDPMUNet(UNET).state_dict()
    torch.save({**state, "logvar": torch.zeros(1000)}, path)
    with pytest.raises(ValueError, match=r"x\.ckpt: .*not of this network: logvar"):
        load_network(path, UNET)
    with pytest.raises(ValueError, match=r"x\.ckpt is of no published network; .*tiny: .*logvar"):
        load_network(path)
    torch.save({**state, "conv_in.bias": torch.zeros(7)}, path)
    with pytest.raises(ValueError, match=r"conv_in\.bias has the shape \(7,\), the network needs \(8,\)"):
        load_network(path, UNET)
    save_network(NCSNpp(SCORE), path)
    with pytest.raises(ValueError, match="missing: temb"):
        load_network(path, UNET)
    content = {"model": state, "ema": {name: value for name, value in state.items() if name != "conv_in.bias"}}
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"averaged weights are not complete: missing: conv_in\.bias"):
        load_network(path, UNET)
    network = NCSNpp(SCORE)
    shadow = [value.detach() for value in network.parameters()]  # the frequencies with them: one too many
    torch.save({"model": network.state_dict(), "ema": {"decay": 0.9, "shadow_params": shadow}}, path)
    with pytest.raises(ValueError, match=rf"has {len(shadow)} entries, the network {len(shadow) - 1}"):
        load_network(path, SCORE)
    with pytest.raises(ValueError, match="averaged weights are not those of the network: conv_in"):
        save_network(DDPMUNet(UNET), path, "ddim", {k: v for k, v in state.items() if not k.startswith("conv_in")})


def test_the_catalogue_names_every_published_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path))
    monkeypatch.setenv("GENGAUGE_OFFLINE", "1")
    for key in loading.PUBLISHED:
        monkeypatch.delenv(weights.WEIGHTS[key].variable, raising=False)
        assert weights.WEIGHTS[key].variable in weights.remedy(key)
        with pytest.raises(weights.WeightsNotFound, match=key):
            load_published(key)
    assert "403" in weights.remedy("sdedit-church")
    assert "fdc68a23938c2397caba4a260bc2445f" in weights.remedy("ddim-church")
    with pytest.raises(KeyError):
        load_published("unknown")


def test_a_published_prior_is_loaded_from_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = DDPMUNet(UNET)
    save_network(network, tmp_path / "x.ckpt", "ddim", moved(network))
    monkeypatch.setattr(loading, "PUBLISHED", {"ddim-church": UNET})
    monkeypatch.setenv("GENGAUGE_DDIM_CHURCH", str(tmp_path / "x.ckpt"))
    assert holds(load_published("ddim-church"), moved(network))
    assert holds(load_published("ddim-church", ema=False), network.state_dict())
    with pytest.raises(ValueError, match="ddim-church: "):
        network_of({"w": torch.zeros(1)}, UNET, None, "ddim-church")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    network = DDPMUNet(UNET)
    with torch.no_grad():
        network.conv_in.bias[0] = value
    save_network(network, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"conv_in\.bias has values that are not finite"):
        load_network(tmp_path / "bad.ckpt", UNET)


def test_a_layout_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layout 'nonsense'"):
        save_network(DDPMUNet(UNET), tmp_path / "x", "nonsense")  # type: ignore[arg-type]
