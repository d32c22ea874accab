"""The networks that come with the package: their files, their cards, and that they can be made again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli
from gengauge.benchmarks.zoo import ddpm_cat, entries, stylegan2_cat
from gengauge.datasets import world
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sdedit.editing import Behaviour, edit, from_noise
from gengauge.reference.sdedit.schedule import DDPM
from gengauge.reference.sdedit.strokes import strokes

TINY = UNetConfig(32, 8, (1, 2), 1, (8,), temb_ch=16, num_groups=4)
both = pytest.mark.parametrize("entry", [stylegan2_cat, ddpm_cat], ids=lambda entry: entry.NAME)


def zoo(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["zoo", *arguments], catch_exceptions=False)


def scaled(pictures: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return pictures.float() / 127.5 - 1


@both
def test_a_file_is_that_of_its_card_and_small(entry: Any) -> None:
    file = entry.FOLDER / f"{entry.NAME}.safetensors"
    assert entry.card()["bytes"] == file.stat().st_size < 7_000_000
    network = entry.load()
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in network.parameters())


def test_the_generator_makes_pictures_like_the_worlds() -> None:
    card = stylegan2_cat.card()
    network = stylegan2_cat.load()
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["fid_of_fresh_pictures"] < card["fid"] < 150
    z = torch.randn(64, network.z_dim, generator=torch.Generator().manual_seed(0))
    pictures = network(z, noise_mode="const")
    assert pictures.shape == (64, 3, 32, 32)
    real = scaled(world.pictures(1, range(64), 32, species="cat"))
    assert torch.allclose(pictures.mean((0, 2, 3)), real.mean((0, 2, 3)), atol=0.15)
    assert pictures.std(0).mean() > 0.5 * real.std(0).mean()  # they differ from one another


@pytest.fixture(scope="module")
def cats() -> Tensor:
    """Pictures that no network of the zoo was trained on."""
    return world.pictures(entries.FRESH_SEED, range(8), ddpm_cat.RESOLUTION, species=ddpm_cat.SPECIES)


@pytest.mark.parametrize(("time", "most"), [(100, 0.15), (300, 0.25), (500, 0.36)])
def test_the_prior_finds_cats_in_noise(cats: Tensor, time: int, most: float) -> None:
    """Root mean square error of the clean picture; not to look at the noisy one would have 0.45, the cats' spread."""
    network, x = ddpm_cat.load(), scaled(cats)
    e = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    abar = DDPM.abar[time]
    noisy = abar.sqrt() * x + (1 - abar).sqrt() * e
    clean = (noisy - (1 - abar).sqrt() * network(noisy, torch.full((8,), float(time)))) / abar.sqrt()
    assert (clean.clamp(-1, 1) - x).square().mean().sqrt() < most < x.std()


def test_the_prior_makes_cats_of_strokes(cats: Tensor) -> None:
    network, levels, behaviour = ddpm_cat.load(), DDPM.levels(0.3, 12), Behaviour(clamp=True)
    real, guides = scaled(cats), scaled(strokes(cats))
    reverse = from_noise(network, levels, behaviour)
    made = edit(reverse, guides, levels, behaviour=behaviour, generator=torch.Generator().manual_seed(0))

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).flatten(1).norm(dim=1)

    abar, noise = levels.abar[-1], torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    start = abar.sqrt() * guides + (1 - abar).sqrt() * noise
    others = torch.stack([distance(made, real.roll(i, 0)) for i in range(1, 8)]).amin(0)
    assert (distance(made, real) < 0.5 * distance(start, real)).all()
    assert (distance(made, real) < others).all()  # each is nearer to its own cat than to any other
    assert (distance(made, guides) > 1).all()


def test_the_prior_makes_cats_of_noise(cats: Tensor) -> None:
    (made,) = ddpm_cat.sample(ddpm_cat.load(), 8, "cpu", steps=25)
    assert (made.shape, made.dtype) == ((8, 3, 32, 32), torch.uint8)
    # Smooth as cats are: from pixel to pixel noise changes by far more.
    steps = [x.float().diff(dim=3).abs().mean().item() for x in (made, cats)]
    assert 0.3 * steps[1] < steps[0] < 2 * steps[1]
    assert made.float().std(0).mean() > 0.5 * cats.float().std(0).mean()  # they differ from one another
    assert [len(batch) for batch in ddpm_cat.sample(DDPMUNet(TINY), 101, "cpu", steps=1)] == [100, 100]


@both
def test_a_file_that_is_not_the_cards_is_refused(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        entry.load(tmp_path)
    for file in entry.FOLDER.glob(f"{entry.NAME}.*"):
        shutil.copy(file, tmp_path)
    entry.load(tmp_path)
    file = tmp_path / f"{entry.NAME}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{entry.NAME}\.safetensors is not the file of its card"):
        entry.load(tmp_path)


def test_the_generator_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylegan2_cat, "PICTURES", 40)
    stylegan2_cat.make(tmp_path, tmp_path / "work", "cpu", kimg=0.032, samples=4)
    card = json.loads((tmp_path / f"{stylegan2_cat.NAME}.json").read_text())
    assert card["iterations"] == 2
    assert card["fid"] > 0
    stylegan2_cat.load(tmp_path)


def test_the_prior_can_be_made_again_and_its_card_tells_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddpm_cat, "PICTURES", 40)
    monkeypatch.setattr(ddpm_cat, "CONFIG", TINY)
    monkeypatch.setattr(ddpm_cat, "RECIPE", replace(ddpm_cat.RECIPE, network=TINY))
    ddpm_cat.make(tmp_path, tmp_path / "work", "cpu", kimg=0.064, samples=4)
    card, network = ddpm_cat.card(tmp_path), ddpm_cat.load(tmp_path)
    assert (card["name"], card["iterations"], card["batch"], card["kimg"]) == (ddpm_cat.NAME, 2, 32, 0.064)
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["bytes"] == (tmp_path / f"{ddpm_cat.NAME}.safetensors").stat().st_size
    assert (card["samples"], card["sampling_steps"]) == (4, ddpm_cat.STEPS)
    assert 0 < card["fid_of_fresh_pictures"] < card["fid"]
    assert card["kid"] > 0
    assert "40 of the embedded world at 32 px, species cat, seed 0" in card["pictures"]
    assert "EMA" in card["what"]
    assert card.keys() >= {"seconds", "device", "threads", "begun", "ended", "versions", "sha256"}
    # The same command goes on from its state, which is the end, and writes the same weights.
    ddpm_cat.make(tmp_path, tmp_path / "work", "cpu", kimg=0.064, samples=4)
    assert ddpm_cat.card(tmp_path)["sha256"] == card["sha256"]


def test_the_command_makes_a_network_in_the_folder_and_shows_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def make(folder: Path, work: Path, device: str, kimg: float, tell: object) -> None:
        asked.extend((folder, work, device, kimg))
        entries.write_card(ddpm_cat.NAME, folder, {"what": "just made"})

    monkeypatch.setattr(ddpm_cat, "make", make)
    for more, kimg in ((["--kimg", "3"], 3.0), ([], ddpm_cat.KIMG)):
        text = zoo(ddpm_cat.NAME, "--make", str(tmp_path), "--device", "cpu", *more).stdout
        assert "just made" in text
        assert asked == [tmp_path, tmp_path / "training", "cpu", kimg]
        asked.clear()


def test_the_command_shows_one_card_or_all() -> None:
    cards = {entry.NAME: entry.card()["sha256"] for entry in (stylegan2_cat, ddpm_cat)}
    for name, digest in cards.items():
        text = zoo(name).stdout
        assert digest in text
        assert not any(other in text for other in cards.values() if other != digest)
    assert all(digest in zoo().stdout for digest in cards.values())


def test_a_wrong_use_of_the_command_is_told() -> None:
    with pytest.raises(ValueError, match=r"the zoo has no 'ddpm-dog'; it has stylegan2-cat32, ddpm-cat32"):
        zoo("ddpm-dog")
    with pytest.raises(ValueError, match="name the network to make: stylegan2-cat32, ddpm-cat32"):
        zoo("--make", "nowhere")
    with pytest.raises(ValueError, match="give --make DIR"):
        zoo("ddpm-cat32", "--kimg", "3")
    assert not Path("nowhere").exists()
