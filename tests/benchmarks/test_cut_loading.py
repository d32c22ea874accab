"""CUT's networks from their published files and back, and files that must be refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import files, load, under
from torch import nn

from gengauge.benchmarks.papers.cut import loading
from gengauge.benchmarks.papers.cut.loading import (
    load_published,
    load_translator,
    write_checkpoint,
)
from gengauge.benchmarks.segmenters import load_segmenter
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint, read_tensors
from gengauge.reference.cut import contrastive, cyclegan
from gengauge.reference.nets.drn import DRN, DRNConfig
from gengauge.reference.nets.translation_resnet import ResnetGenerator

SMALL = {"n_blocks": 2, "ngf": 4}
RECIPE = contrastive.Recipe(generator={"n_blocks": 5, "ngf": 4}, discriminator={"ndf": 4}, nc=8)
TINY_DRN = DRNConfig("basic", (1, 1, 1, 1), (2, 3, 4, 5, 6, 7, 8, 9))
"""Another width than any published DRN: what is tested is that a file tells it."""


def same(network: nn.Module, state: Any) -> bool:
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], value) for name, value in state.items())


def test_what_is_written_is_the_published_format_and_is_read_again(tmp_path: Path) -> None:
    training = contrastive.Training(RECIPE)
    folder = tmp_path / "checkpoints" / "toy"
    written = write_checkpoint(folder, training.networks)
    assert sorted(p.name for p in folder.iterdir()) == [f"latest_net_{name}.pth" for name in "DFG"]
    assert {p.name for p in written} == {p.name for p in folder.iterdir()}
    for name, network in training.networks.items():
        plain = torch.load(folder / f"latest_net_{name}.pth", weights_only=True)
        assert list(plain) == list(network.state_dict())
        assert all(value.is_contiguous() and not value.requires_grad for value in plain.values())
    made = load_translator(folder)
    assert same(made, training.g.state_dict())
    assert not made.training
    assert not any(p.requires_grad for p in made.parameters())
    assert same(load_translator(folder / "latest_net_G.pth"), training.g.state_dict())


def test_cyclegan_has_two_of_each_and_its_pools_are_not_written(tmp_path: Path) -> None:
    recipe = cyclegan.Recipe(generator={**SMALL, "antialias": False, "antialias_up": False}, discriminator={"ndf": 4})
    training = cyclegan.Training(recipe)
    write_checkpoint(tmp_path, training.networks, "20")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"20_net_{name}.pth" for name in ("D_A", "D_B", "G_A", "G_B")]
    assert same(load_translator(tmp_path, "20"), training.g[0].state_dict())
    assert same(load_translator(tmp_path, "20", "G_B"), training.g[1].state_dict())
    with pytest.raises(FileNotFoundError, match=r"holds no latest_net_G\.pth or latest_net_G_A\.pth"):
        load_translator(tmp_path)
    with pytest.raises(ValueError, match="name no checkpoint"):
        load_translator(tmp_path, "../20")
    with pytest.raises(ValueError, match="networks are G, F, D"):
        write_checkpoint(tmp_path, training.pools)


def test_wrappers_leave_no_trace_in_a_written_file(tmp_path: Path) -> None:
    network = ResnetGenerator(**SMALL)
    write_checkpoint(tmp_path, {"G": nn.DataParallel(network)})
    assert read_tensors(tmp_path / "latest_net_G.pth").keys() == network.state_dict().keys()


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ResnetGenerator(**SMALL)
    write_checkpoint(tmp_path, {"G": network})
    before = (tmp_path / "latest_net_G.pth").read_bytes()

    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(tmp_path, {"G": ResnetGenerator(**SMALL)})
    assert [p.name for p in tmp_path.iterdir()] == ["latest_net_G.pth"]
    assert (tmp_path / "latest_net_G.pth").read_bytes() == before


@pytest.mark.parametrize("legacy", [False, True])
def test_cpu_saved_files_of_either_format(tmp_path: Path, legacy: bool) -> None:
    network = nn.DataParallel(ResnetGenerator(**SMALL))
    torch.save(network.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert same(load_translator(tmp_path / "x.pth"), network.module.state_dict())


def test_an_old_cyclegan_is_not_antialiased_and_has_statistics_that_nothing_reads(tmp_path: Path) -> None:
    network = ResnetGenerator(**SMALL, antialias=False, antialias_up=False)
    state = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, nn.InstanceNorm2d):
            state |= {f"{name}.running_mean": torch.randn(4), f"{name}.running_var": torch.rand(4)}
    torch.save(state, tmp_path / "latest_net_G_A.pth")
    assert same(load_translator(tmp_path), network.state_dict())


def golden_generators() -> list[Any]:
    return [pytest.param(f, id=f.stem) for f in files("cut", "*train_step")]


@pytest.mark.parametrize("file", golden_generators())
def test_generators_of_the_published_code(file: Path, tmp_path: Path) -> None:
    tensors, _ = load(file)
    for name in ("G", "G_A", "G_B"):
        state = under(tensors, f"init.net{name}.")
        if state:
            torch.save(state, tmp_path / f"latest_net_{name}.pth")
            assert same(load_translator(tmp_path, name=name), state)


def test_loading_draws_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"G": ResnetGenerator(**SMALL)})
    before = torch.get_rng_state()
    load_translator(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_fit_names_the_file(tmp_path: Path) -> None:
    state = dict(ResnetGenerator(**SMALL).state_dict())
    path = tmp_path / "latest_net_G.pth"
    torch.save({k: v for k, v in state.items() if k != "model.4.bias"} | {"model.4.scale": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"net_G\.pth: .*missing: model\.4\.bias; in excess: model\.4\.scale"):
        load_translator(path)
    torch.save(RECIPE.build()[1].state_dict(), path)
    with pytest.raises(ValueError, match=r"latest_net_G\.pth: this is no generator"):
        load_translator(path)
    torch.save({**state, "model.4.bias": torch.full((8,), torch.nan)}, path)
    with pytest.raises(ValueError, match=r"model\.4\.bias has values that are not finite"):
        load_translator(path)
    with pytest.raises(FileNotFoundError):
        load_translator(tmp_path / "none.pth")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedCheckpoint, match="latest_net_G"):
        load_translator(path)


class Call:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-checkpoint",)


def test_a_file_that_asks_for_more_than_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model.1.weight": Call()}, tmp_path / "x.pth")
    for load_file in (load_translator, load_segmenter):
        with pytest.raises(UnsafeCheckpoint):
            load_file(tmp_path / "x.pth")
    assert not (tmp_path / "made-by-a-checkpoint").exists()


def test_a_segmenter_from_a_state_dict_and_from_its_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = DRN(TINY_DRN, 7).eval()
    state = network.state_dict()
    torch.save(state, tmp_path / "a.pth")
    trained = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "arch": "drn_d_22", "state_dict": trained, "best_prec1": 70.5}, tmp_path / "b.pth.tar")
    for name in ("a.pth", "b.pth.tar"):
        made = load_segmenter(tmp_path / name)
        assert same(made, state)
        with torch.no_grad():
            x = torch.randn(1, 3, 16, 32)
            assert torch.equal(made(x), network(x))
    monkeypatch.setenv("GENGAUGE_DRN_D_22_CITYSCAPES", str(tmp_path / "b.pth.tar"))
    assert same(load_segmenter("drn-d-22-cityscapes"), state)
    torch.save({**state, "seg.bias": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: seg\.bias has the shape \(3,\), the network needs \(7,\)"):
        load_segmenter(tmp_path / "a.pth")


def test_the_catalogue_names_every_published_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path))
    assert len(loading.PUBLISHED) == 6
    for key in loading.PUBLISHED.values():
        monkeypatch.delenv(weights.WEIGHTS[key].variable, raising=False)
        with pytest.raises(weights.WeightsNotFound, match=r"tar -xf pretrained_models\.tar") as caught:
            load_published(key)
        method, data = key.split("-")
        assert f"checkpoints/{data}_{method}_pretrained/latest_net_G.pth" in caught.value.remedy
    with pytest.raises(KeyError, match="no published generator 'sincut'"):
        load_published("sincut")
    state = ResnetGenerator(**SMALL).state_dict()
    torch.save(state, tmp_path / "x.pth")
    monkeypatch.setenv("GENGAUGE_FASTCUT_CAT2DOG", str(tmp_path / "x.pth"))
    assert same(load_published("fastcut-cat2dog"), state)
