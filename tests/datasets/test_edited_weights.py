"""Edited weights, whole and as factors, and directions of GANSpace: round trips, other bases, and bad files."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gengauge.datasets.edited_weights import (
    Factors,
    LowRankEdit,
    check_base,
    fingerprint,
    is_low_rank_edit,
    read_edited_weights,
    read_low_rank_edit,
    write_edited_weights,
    write_low_rank_edit,
)
from gengauge.datasets.ganspace import read_ganspace
from gengauge.datasets.unpickling import DamagedCheckpoint, UnsafeCheckpoint

LAYER = "synthesis.b16.conv1"
NOISE = f"{LAYER}.noise_strength"


class Hostile:
    """Unpickled freely, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def base(seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {f"{LAYER}.weight": torch.randn(6, 5, 3, 3, generator=rng), NOISE: torch.tensor(0.5)}


def factors(rank: int = 2) -> Factors:
    rng = torch.Generator().manual_seed(1)
    return Factors(torch.randn(6, rank, 3, 3, generator=rng), torch.randn(rank, 5, generator=rng))


def low_rank(**changes: Any) -> LowRankEdit:
    marks = {LAYER: fingerprint(base()[f"{LAYER}.weight"])}
    return replace(LowRankEdit("stylegan2-poses64", {LAYER: factors()}, marks, {NOISE: torch.tensor(0.25)}), **changes)


def test_whole_weights_are_what_torch_loads(tmp_path: Path) -> None:
    layer = nn.Conv2d(5, 6, 3)
    before = layer.bias.detach().clone() if layer.bias is not None else None
    path = tmp_path / "new" / "a.pth"
    large = torch.randn(60, 5, 3, 3, dtype=torch.float64)
    weight = nn.Parameter(large[:6])  # a view does not bring what it is a view of
    write_edited_weights(path, {"weight": weight})
    assert path.stat().st_size < 6000
    loaded = torch.load(path, weights_only=True)
    assert type(loaded) is dict
    assert layer.load_state_dict(loaded, strict=False).missing_keys == ["bias"]
    assert torch.equal(layer.weight, weight.float())
    assert layer.bias is not None
    assert before is not None
    assert torch.equal(layer.bias, before)
    read = read_edited_weights(path)
    assert list(read) == ["weight"]
    assert torch.equal(read["weight"], weight.float())
    assert not is_low_rank_edit(path)


def test_whole_weights_of_other_kinds_of_files(tmp_path: Path) -> None:
    half = {"a.weight": torch.randn(2, 2).half()}
    save_file(half, tmp_path / "a.safetensors")
    read = read_edited_weights(tmp_path / "a.safetensors")
    assert torch.equal(read["a.weight"], half["a.weight"].float())
    assert not is_low_rank_edit(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "at least one parameter"),
        ({"": torch.zeros(1)}, "each with a name"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, r"a is torch.int64 \(2,\), not plain floats"),
        ({"a": torch.tensor([1.0, torch.nan])}, "a holds NaN"),
    ],
)
def test_what_is_no_parameter_is_neither_written_nor_read(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_edited_weights(tmp_path / "a.pth", tensors)
    assert not list(tmp_path.iterdir())
    torch.save(tensors.get("", tensors), tmp_path / "a.pth")
    with pytest.raises(DamagedCheckpoint, match=r"a\.pth"):
        read_edited_weights(tmp_path / "a.pth")


def test_hostile_and_damaged_weights_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(FileNotFoundError, match=r"a\.pth"):
        read_edited_weights(path)
    torch.save({"a": torch.zeros(1), "b": Hostile(tmp_path / "mark")}, path)
    with pytest.raises(UnsafeCheckpoint, match="mkdir"):
        read_edited_weights(path)
    assert not (tmp_path / "mark").exists()
    write_edited_weights(path, base())
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DamagedCheckpoint, match=r"a\.pth"):
        read_edited_weights(path)


def test_factors_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    edit = low_rank(note="ears\nand all")
    write_low_rank_edit(path, edit)
    assert is_low_rank_edit(path)
    read = read_low_rank_edit(path)
    assert (read.generator, read.note, read.rank, read.fingerprints) == (
        edit.generator,
        edit.note,
        2,
        edit.fingerprints,
    )
    assert list(read.factors) == [LAYER]
    assert torch.equal(read.factors[LAYER].weight_lambda, factors().weight_lambda)
    assert torch.equal(read.factors[LAYER].weight_context, factors().weight_context)
    assert read.factors[LAYER].weight_shape == (6, 5, 3, 3)
    assert list(read.tensors) == [NOISE]
    assert torch.equal(read.tensors[NOISE], torch.tensor(0.25))
    check_base(read, base())
    with pytest.raises(DamagedCheckpoint, match="holds factors, not whole weights; read it by read_low_rank_edit"):
        read_edited_weights(path)


def test_an_edit_of_another_generator_is_refused() -> None:
    edit, other = low_rank(), base(1)
    with pytest.raises(ValueError, match=rf"another {LAYER}.weight .*load the generator it is for, stylegan2-poses64"):
        check_base(edit, other)
    with pytest.raises(ValueError, match="which the file does not name"):
        check_base(replace(edit, generator=""), other)
    nudged = base()
    nudged[f"{LAYER}.weight"][5, 4, 2, 2] += 1e-6
    with pytest.raises(ValueError, match="was learnt on another"):
        check_base(edit, nudged)
    with pytest.raises(ValueError, match=rf"changes {LAYER}.weight, which this generator does not have"):
        check_base(edit, {})
    with pytest.raises(ValueError, match=r"as \(6, 5, 3, 3\), and this generator as \(6, 5, 1, 1\)"):
        check_base(edit, {**base(), f"{LAYER}.weight": torch.zeros(6, 5, 1, 1)})
    with pytest.raises(ValueError, match=f"changes {NOISE}"):
        check_base(edit, {f"{LAYER}.weight": base()[f"{LAYER}.weight"]})
    check_base({f"{LAYER}.weight": torch.zeros(6, 5, 3, 3)}, other)
    with pytest.raises(ValueError, match=r"has x as \(1,\)"):
        check_base({"x": torch.zeros(1)}, {"x": torch.zeros(2)})


def test_fingerprints_tell_values_and_shapes_apart_and_nothing_else() -> None:
    weight = torch.randn(4, 3, 1, 1)
    assert (
        fingerprint(weight)
        == fingerprint(weight.double())
        == fingerprint(weight.permute(1, 0, 2, 3).permute(1, 0, 2, 3))
    )
    assert fingerprint(weight) == fingerprint(weight.to(memory_format=torch.channels_last))
    assert fingerprint(weight) != fingerprint(weight.reshape(3, 4, 1, 1))
    assert fingerprint(torch.ones(2, 1)) == hashlib.sha256(b"(2, 1)" + b"\0\0\x80\x3f" * 2).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": {}}, "at least one layer"),
        ({"factors": {LAYER: Factors(torch.zeros(6, 2, 3, 3), torch.zeros(3, 5))}}, r"are \(6, 2, 3, 3\) and \(3, 5\)"),
        ({"factors": {LAYER: Factors(torch.zeros(6, 2), torch.zeros(2, 5))}}, r"not \(O, r, k, k\) and \(r, I\)"),
        ({"factors": {LAYER: factors(), "b": factors(3)}}, "b are of rank 3, and others of rank 2"),
        ({"factors": {LAYER: factors(), "b": factors()}}, "no fingerprint of the weight that b was learnt on"),
        ({"fingerprints": {LAYER: "12"}}, "no fingerprint"),
        ({"factors": {LAYER: Factors(torch.full((6, 2, 3, 3), torch.nan), torch.zeros(2, 5))}}, "lambda holds NaN"),
        ({"tensors": {NOISE: torch.tensor(torch.inf)}}, f"{NOISE} holds NaN or infinity"),
        ({"tensors": {NOISE: torch.tensor(1)}}, "not plain floats"),
        ({"tensors": {f"{LAYER}.weight": torch.zeros(6, 5, 3, 3)}}, "whole and as factors"),
    ],
)
def test_parts_that_do_not_go_together_make_no_edit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        low_rank(**changes)


@pytest.mark.parametrize(
    ("told", "tensors", "message"),
    [
        ({"format": None}, {}, r"no file of factors \(gengauge low-rank edit\); whole weights: read_edited_weights"),
        ({"version": "2"}, {}, "version is '2', and this gengauge reads 1"),
        ({"rank": "7"}, {}, "says rank '7' and holds factors of rank 2"),
        ({"base": None}, {}, "damaged"),
        ({"base": "[]"}, {}, "does not tell which weights"),
        ({"base": "[" * 100_000}, {}, "does not tell which weights|damaged"),
        ({"base": "{}"}, {}, f"no fingerprint of the weight that {LAYER}"),
        ({}, {f"{LAYER}.weight_context": None}, f"one of the two factors of {LAYER}"),
        ({}, {"b.weight_context": torch.zeros(2, 5)}, "one of the two factors of b"),
        ({}, {f"{LAYER}.weight_context": torch.zeros(2, 5, dtype=torch.int32)}, "not plain floats"),
        ({}, {NOISE: torch.tensor(torch.nan)}, f"{NOISE} holds NaN"),
    ],
)
def test_files_of_factors_with_other_content_are_refused(
    tmp_path: Path, told: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    edit, path = low_rank(), tmp_path / "a.safetensors"
    whole = {
        f"{LAYER}.weight_lambda": factors().weight_lambda,
        f"{LAYER}.weight_context": factors().weight_context,
        **edit.tensors,
        **tensors,
    }
    marks = {"format": "gengauge low-rank edit", "version": "1", "generator": "g", "rank": "2", "note": ""}
    known = {**marks, "base": json.dumps(edit.fingerprints), **told}
    save_file(
        {name: tensor for name, tensor in whole.items() if tensor is not None},
        path,
        {key: text for key, text in known.items() if text is not None},
    )
    with pytest.raises(DamagedCheckpoint, match=message) as error:
        read_low_rank_edit(path)
    assert str(path) in str(error.value)


def test_files_of_factors_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors"):
        read_low_rank_edit(path)
    write_low_rank_edit(path, low_rank())
    data = path.read_bytes()
    for bad in (data[:-1], data[:40], b"\xff" * 8 + data[8:]):
        path.write_bytes(bad)
        with pytest.raises(DamagedCheckpoint, match=r"a\.safetensors is damaged"):
            read_low_rank_edit(path)
    path.write_bytes(b"cut")
    with pytest.raises(DamagedCheckpoint, match="no file of factors"):
        read_low_rank_edit(path)


@pytest.mark.parametrize("kind", ["whole", "factors"])
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "a"
    write_edited_weights(path, base())

    def fails(_: Any, file: Path, *__: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fails)
    monkeypatch.setattr("gengauge.datasets.saving.save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        write_edited_weights(path, base(1)) if kind == "whole" else write_low_rank_edit(path, low_rank())
    assert torch.equal(read_edited_weights(path)[f"{LAYER}.weight"], base()[f"{LAYER}.weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def directions(count: int = 6, width: int = 8) -> dict[str, Any]:
    rng = np.random.RandomState(0)
    pcs = np.linalg.qr(rng.randn(width, count))[0].T.astype(np.float32)
    scale = np.sort(rng.rand(count).astype(np.float32))[::-1]
    return {"pcs": pcs, "scale": scale, "pcs_scaled": pcs * scale[:, None]}


def test_directions_are_read_as_written(tmp_path: Path) -> None:
    path, arrays = tmp_path / "a.npz", directions()
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays, mean=np.zeros(3))
        found = read_ganspace(path)
        for name, array in arrays.items():
            assert np.array_equal(getattr(found, name).numpy(), array)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": np.ones(5, np.float32)}, DamagedCheckpoint, r"scale float32 \(5,\), .*not \(K, w_dim\), \(K,\)"),
        ({"pcs": np.zeros((0, 8), np.float32)}, DamagedCheckpoint, r"not \(K, w_dim\)"),
        ({"pcs_scaled": np.zeros((6, 7), np.float32)}, DamagedCheckpoint, r"not \(K, w_dim\)"),
        ({"scale": np.ones(6)}, DamagedCheckpoint, "not float32"),
        ({"scale": np.full(6, np.nan, np.float32)}, DamagedCheckpoint, "NaN or infinity"),
        ({"scale": np.ones(6, np.float32)}, DamagedCheckpoint, "pcs_scaled is not pcs times scale"),
        ({"pcs": None}, DamagedCheckpoint, "lacks pcs; it needs pcs, scale, pcs_scaled"),
        ({"pcs": np.array([{}], dtype=object)}, UnsafeCheckpoint, "holds objects"),
    ],
)
def test_directions_of_other_kinds_are_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{name: array for name, array in {**directions(), **changes}.items() if array is not None})
    with pytest.raises(error, match=message) as caught:
        read_ganspace(path)
    assert str(path) in str(caught.value)


def test_directions_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    claim = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999)}\n"
    header = b"\x93NUMPY\x01\x00" + len(claim).to_bytes(2, "little") + claim
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in directions():
            archive.writestr(f"{name}.npy", header)
    with pytest.raises(DamagedCheckpoint, match=r"float32 \(99999, 99999\) comes with 0 bytes"):
        read_ganspace(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in directions():
            archive.writestr(f"{name}.npy", bytes(2**25))
    with pytest.raises(DamagedCheckpoint, match="unpack to more than 64 MiB"):
        read_ganspace(path)
