"""Stable Diffusion from files: the published layout, diffusers' folders, and files that are something else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from latent_diffusion_files import published, small_autoencoder, small_unet
from safetensors.torch import save_file
from torch import nn

from gengauge.benchmarks.papers.sige import loading_stable_diffusion as loading
from gengauge.benchmarks.papers.sige.loading_stable_diffusion import FILES, StableDiffusion, load_stable_diffusion
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.weights import WeightsNotFound

LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "NETWORKS", {"unet": small_unet, "vae": small_autoencoder})


@pytest.fixture(scope="module")
def original() -> StableDiffusion:
    torch.manual_seed(0)
    return StableDiffusion(small_unet(), small_autoencoder())


def tensors_of(original: StableDiffusion) -> dict[str, torch.Tensor]:
    text = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    return published(original.unet) | published(original.vae) | text


def assert_alike(found: StableDiffusion, original: StableDiffusion) -> None:
    for a, b in ((found.unet, original.unet), (found.vae, original.vae)):
        assert type(a) is type(b)
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
        assert not a.training
        assert not any(p.requires_grad for p in a.parameters())


def test_a_checkpoint_as_published(original: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Lightning leaves beside the tensors is read without Lightning: a class as a key, a score of numpy."""
    with monkeypatch.context() as patch:
        callback = type("ModelCheckpoint", (), {"__module__": LIGHTNING})
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", LIGHTNING):
            patch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[LIGHTNING].ModelCheckpoint = callback  # type: ignore[attr-defined]
        beside = {"epoch": 3, "callbacks": {callback: {"monitor": "loss", "best_model_score": np.float32(0.25)}}}
        torch.save({**beside, "state_dict": tensors_of(original)}, tmp_path / "sd-v1-4.ckpt")
    assert_alike(load_stable_diffusion(tmp_path / "sd-v1-4.ckpt"), original)
    monkeypatch.setenv("GENGAUGE_SD_V1_4", str(tmp_path / "sd-v1-4.ckpt"))
    assert_alike(load_stable_diffusion(), original)


def test_safetensors(original: StableDiffusion, tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors_of(original).items()}, tmp_path / "v1.safetensors")
    assert_alike(load_stable_diffusion(tmp_path / "v1.safetensors"), original)


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_diffusers(original: StableDiffusion, tmp_path: Path, safe: bool) -> None:
    for name in ("unet", "vae"):
        getattr(original, name).save_pretrained(tmp_path / name, safe_serialization=safe)
    assert_alike(load_stable_diffusion(tmp_path), original)


def test_files_of_something_else_are_named(
    original: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors: there is no such file"):
        load_stable_diffusion(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: this is no file of latent diffusion"):
        load_stable_diffusion(path)
    tensors = tensors_of(original)
    save_file({n: t.contiguous() for n, t in tensors.items() if not n.startswith("first_stage_model.decoder.")}, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: .* AutoencoderKL as configured: missing: decoder\.conv_in"):
        load_stable_diffusion(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DamagedCheckpoint, match=r"x\.safetensors is damaged"):
        load_stable_diffusion(path)
    torch.save({"state_dict": {"model.diffusion_model.out.0.weight": nn.Linear(1, 1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UnsafeCheckpoint, match=r"x\.ckpt is refused: it asks for torch\.nn\.modules\.linear\.Linear"):
        load_stable_diffusion(tmp_path / "x.ckpt")
    monkeypatch.setenv("GENGAUGE_SD_V1_4", str(tmp_path / "gone"))
    with pytest.raises(WeightsNotFound, match="correct or unset it"):
        load_stable_diffusion()
    monkeypatch.delenv("GENGAUGE_SD_V1_4")
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsNotFound, match=r"CreativeML Open RAIL-M.*wget https://\S+/sd-v1-4\.ckpt"):
        load_stable_diffusion()


def test_folders_of_something_else_are_named(original: StableDiffusion, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"unet needs config\.json and one of diffusion_pytorch_model"):
        load_stable_diffusion(tmp_path)
    for name in ("unet", "vae"):
        getattr(original, name).save_pretrained(tmp_path / name)
    config, told = tmp_path / "vae" / "config.json", json.loads((tmp_path / "vae" / "config.json").read_text())
    for text, message in (
        ("{", "no configuration of diffusers"),
        ("[]", "no configuration of diffusers"),
        ("{}", r"no configuration of diffusers: KeyError\('_class_name'\)"),
        (
            json.dumps(told | {"_class_name": "VQModel"}),
            "is of a VQModel, not of UNet2DConditionModel or AutoencoderKL",
        ),
        (json.dumps(told | {"norm_num_groups": 5}), "cannot be built: num_channels .* must be divisible"),
        (
            json.dumps(told | {"latent_channels": 5}),
            r"AutoencoderKL as configured: of another shape: encoder\.conv_out",
        ),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=f"(?s)vae.*{message}"):
            load_stable_diffusion(tmp_path)
    config.write_text(json.dumps(told))
    weights = tmp_path / "vae" / FILES[0]
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DamagedCheckpoint, match=f"{FILES[0]} is damaged"):
        load_stable_diffusion(tmp_path)
