"""Writing checkpoints and folders of diffusers, and reading folders that others made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint, read_tensors
from gengauge.datasets.diffusers_folder import is_network_folder, read_network_folder, write_network_folder
from gengauge.datasets.saving import write_checkpoint, write_tensors


class Hostile:
    """Unpickled freely, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shared = torch.randn(4, 3)
    write_checkpoint(tmp_path / "new" / "a.ckpt", [{"module.w": shared}, {"lr": 1e-3, "betas": (0.9, 0.999)}, 3])
    assert torch.equal(read_tensors(tmp_path / "new" / "a.ckpt")["0.module.w"], shared)
    write_tensors(tmp_path / "a.safetensors", {"a": shared, "b": shared, "c": shared.T})
    read = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(read["a"], read["b"])
    assert torch.equal(read["c"], shared.T)


def test_what_a_restricted_reader_refuses_is_not_written(tmp_path: Path) -> None:
    content = {"model": {"w": torch.zeros(1)}, "args": [np.float64(1.0), Path("x")]}
    with pytest.raises(ValueError, match=r"the content\['args'\]\[1\] is \w*Path, which a restricted reader"):
        write_checkpoint(tmp_path / "a.ckpt", content)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, {"w": torch.ones(2)})

    def fails(content: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint(path, {"w": torch.zeros(2)})
    assert torch.equal(read_tensors(path)["w"], torch.ones(2))
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_folders_and_pipelines_are_read(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(2)}
    assert not is_network_folder(tmp_path)
    write_network_folder(tmp_path / "pipeline" / "unet", {"sample_size": 8}, tensors)
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline" / "unet"):
        assert is_network_folder(folder)
        settings, read = read_network_folder(folder)
        assert settings == {"sample_size": 8}
        assert torch.equal(read["w"], tensors["w"])
    bare = tmp_path / "older"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    torch.save(tensors, bare / "diffusion_pytorch_model.bin")
    assert torch.equal(read_network_folder(bare)[1]["w"], tensors["w"])


def test_bad_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_network_folder(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.bin"
    config.write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        read_network_folder(tmp_path)
    torch.save({"w": Hostile(tmp_path / "mark")}, weights)
    with pytest.raises(UnsafeCheckpoint, match="mkdir"):
        read_network_folder(tmp_path)
    assert not (tmp_path / "mark").exists()
    weights.write_bytes(b"cut")
    with pytest.raises(DamagedCheckpoint, match=r"model\.bin"):
        read_network_folder(tmp_path)
    for text, problem in (
        ("[1]", "no settings by name"),
        ('{"a": ', "damaged"),
        ("[" * 100_000, "nested too deep|damaged"),
        (json.dumps({"a": "x" * 2**20}), "more than 1024 KiB"),
    ):
        config.write_text(text)
        with pytest.raises(DamagedCheckpoint, match=problem):
            read_network_folder(tmp_path)
    config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        read_network_folder(tmp_path)


def test_tensors_have_the_users_own_rights(tmp_path: Path) -> None:
    plain, tensors = tmp_path / "plain", tmp_path / "tensors.safetensors"
    plain.write_text("")
    write_tensors(tensors, {"a": torch.zeros(2)})
    assert tensors.stat().st_mode == plain.stat().st_mode
