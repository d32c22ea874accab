"""The network that comes with the package: its file, its card, and that it can be made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gengauge.benchmarks.zoo import stylegan2_cat
from gengauge.datasets import world


def test_the_network_is_that_of_its_card_and_makes_pictures_like_the_worlds() -> None:
    card = stylegan2_cat.card()
    network = stylegan2_cat.load()
    assert card["bytes"] < 7_000_000
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["fid_of_fresh_pictures"] < card["fid"] < 150
    z = torch.randn(64, network.z_dim, generator=torch.Generator().manual_seed(0))
    pictures = network(z, noise_mode="const")
    assert pictures.shape == (64, 3, 32, 32)
    real = world.pictures(1, range(64), 32, species="cat").float() / 127.5 - 1
    assert torch.allclose(pictures.mean((0, 2, 3)), real.mean((0, 2, 3)), atol=0.15)
    assert pictures.std(0).mean() > 0.5 * real.std(0).mean()  # they differ from one another


def test_a_file_that_is_not_the_cards_is_refused(tmp_path: Path) -> None:
    for file in stylegan2_cat.FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    file = tmp_path / f"{stylegan2_cat.NAME}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not the file of its card"):
        stylegan2_cat.load(tmp_path)


def test_the_network_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylegan2_cat, "PICTURES", 40)
    stylegan2_cat.make(tmp_path, tmp_path / "work", "cpu", kimg=0.032, samples=4)
    card = json.loads((tmp_path / f"{stylegan2_cat.NAME}.json").read_text())
    assert card["iterations"] == 2
    assert card["fid"] > 0
    stylegan2_cat.load(tmp_path)
