"""GAN Warping's folders and strokes against what the published code loads; tolerances as in the goldens' MANIFEST."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import assert_close, files, load, under
from PIL import Image
from torch import Tensor

from gengauge.datasets.colour_edits import read_colour_folder
from gengauge.datasets.edit_folders import signed_pixels
from gengauge.datasets.edited_weights import (
    Factors,
    LowRankEdit,
    check_base,
    fingerprint,
    read_edited_weights,
    read_low_rank_edit,
    write_edited_weights,
    write_low_rank_edit,
)
from gengauge.datasets.ganspace import read_ganspace
from gengauge.datasets.warp_folders import read_warp_folder
from gengauge.reference.gan_warping.strokes import read_strokes
from gengauge.reference.gan_warping.warps import with_corners

PAPER = "gan_warping"
TARGET, SCALED_TARGET, MASK, COLOUR, SAVED = 1e-6, 1 / 127.5, 1 / 255, 1e-6, 1e-6


def numbers(tensors: dict[str, Tensor], pattern: str) -> list[int]:
    """What stands for the group in the names that fit `pattern`, in order."""
    return sorted(int(found[1]) for name in tensors if (found := re.fullmatch(pattern, name)))


def picture(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)


@pytest.mark.parametrize("path", files(PAPER, "warp_dataset"), ids=lambda path: path.stem)
def test_a_warp_folder_is_loaded_as_published(path: Path, tmp_path: Path) -> None:
    tensors, told = load(path)
    count, side, car = len(numbers(tensors, r"latent_pth_(\d+)")), int(told["image_res"]), told["car"] == "True"
    for part in ("latents", "keypoints"):
        (tmp_path / part).mkdir()
    (tmp_path / "counter").write_text(str(count))
    for i in range(count):
        torch.save(tensors[f"latent_pth_{i}"].clone(), tmp_path / "latents" / f"{i}_w.pth")
        np.save(tmp_path / "keypoints" / f"{i}.npy", tensors[f"keypoints_npy_{i}"].numpy())
        picture(tmp_path / "targets" / f"{i}.png", tensors[f"target_png_{i}"])
        if f"mask_png_{i}" in tensors:  # training splits have none
            picture(tmp_path / "target_masks" / f"{i}.png", tensors[f"mask_png_{i}"])
    found = read_warp_folder(tmp_path, side, crop_bars=car)
    assert len(found) == count > 0
    for i, ours in enumerate(found):
        loaded = under(tensors, f"loaded{i}/")
        assert torch.equal(ours.latent, loaded["latents"])
        corners = with_corners(torch.from_numpy(ours.points), (side * 3 // 4 if car else side, side))
        assert torch.equal(corners, loaded["keypoints"].double())
        assert ours.target is not None
        scaled = min(tensors[f"target_png_{i}"].shape[:2]) != side
        assert_close(signed_pixels(ours.target), loaded["targets"], SCALED_TARGET if scaled else TARGET)
        assert (ours.mask is None) == ("target_masks" not in loaded)
        if ours.mask is not None:
            assert_close(torch.from_numpy(ours.mask), loaded["target_masks"], MASK)


@pytest.mark.parametrize("path", files(PAPER, "color_mask_and_dataset"), ids=lambda path: path.stem)
def test_strokes_are_told_apart_as_published(path: Path) -> None:
    tensors, _ = load(path)
    layers = numbers(tensors, r"rgba_(\d+)")
    assert layers
    for i in layers:
        ours = read_strokes(tensors[f"rgba_{i}"].numpy())
        for name, array in ours._asdict().items():
            assert torch.equal(torch.from_numpy(array), tensors[f"{name}_{i}"]), f"{name}_{i}"


@pytest.mark.parametrize("path", files(PAPER, "color_mask_and_dataset"), ids=lambda path: path.stem)
def test_a_colour_folder_is_loaded_as_published(path: Path, tmp_path: Path) -> None:
    tensors, _ = load(path)
    items = numbers(tensors, r"item(\d+)/colors")
    for part in ("latents", "masks"):
        (tmp_path / part).mkdir()
    (tmp_path / "counter").write_text(f"{len(items)}\n")
    for i in items:
        torch.save(tensors[f"item{i}/latents"][None].clone(), tmp_path / "latents" / f"{i}_w.pth")
        arrays = {name: tensors[f"{name}_{i}"].numpy() for name in ("color", "color_mask", "background_mask")}
        np.savez(tmp_path / "masks" / f"{i}.npz", **arrays)
    found = read_colour_folder(tmp_path)
    assert len(found) == len(items) > 0
    for i, ours in zip(items, found, strict=True):
        loaded = under(tensors, f"item{i}/")
        assert torch.equal(ours.latent, loaded["latents"])
        assert_close(signed_pixels(ours.color), loaded["colors"], COLOUR)
        assert torch.equal(torch.from_numpy(ours.color_mask), loaded["color_masks"])
        assert torch.equal(torch.from_numpy(ours.background_mask), loaded["background_masks"])


@pytest.mark.parametrize("path", files(PAPER, "lowrank"), ids=lambda path: path.stem)
def test_edited_weights_are_stored_as_published_and_as_the_factors_they_come_from(path: Path, tmp_path: Path) -> None:
    tensors, told = load(path)
    layer, base, saved = told["updated_module"], under(tensors, "G/"), under(tensors, "saved/")
    assert f"{layer}.weight" in saved
    torch.save(saved, tmp_path / "published.pth")
    write_edited_weights(tmp_path / "ours.pth", saved)
    for file in ("published.pth", "ours.pth"):
        read = read_edited_weights(tmp_path / file)
        check_base(read, base)
        assert read.keys() == saved.keys()
        assert all(torch.equal(read[name], saved[name]) for name in saved)
    factors = {layer: Factors(tensors["L_lambda"], tensors["D_context"])}
    marks = {layer: fingerprint(base[f"{layer}.weight"])}
    others = {name: tensor for name, tensor in saved.items() if name != f"{layer}.weight"}
    write_low_rank_edit(tmp_path / "a.safetensors", LowRankEdit(told["arch"], factors, marks, others))
    edit = read_low_rank_edit(tmp_path / "a.safetensors")
    check_base(edit, base)
    assert edit.rank == int(told["rank"])
    change = torch.einsum("orxy,ri->oixy", edit.factors[layer].weight_lambda, edit.factors[layer].weight_context)
    assert_close(base[f"{layer}.weight"] + change, saved[f"{layer}.weight"], SAVED)
    assert all(torch.equal(edit.tensors[name], others[name]) for name in others)
    with pytest.raises(ValueError, match=f"another {re.escape(layer)}.weight than this generator's"):
        check_base(edit, {**base, **saved})


@pytest.mark.parametrize("path", files(PAPER, "ganspace_edit"), ids=lambda path: path.stem)
def test_a_file_of_directions_is_read_as_written(path: Path, tmp_path: Path) -> None:
    tensors, _ = load(path)
    names = ("pcs", "scale", "pcs_scaled")
    np.savez(tmp_path / "a.npz", **{name: tensors[name].numpy() for name in names})
    found = read_ganspace(tmp_path / "a.npz")
    for name in names:
        assert torch.equal(getattr(found, name), tensors[name])
