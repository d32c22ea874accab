"""SIGE's masks, samplers and scores against tensors made by the published code; tolerances as in its MANIFEST.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes, settings
from torch import Tensor

from gengauge.benchmarks.metrics import segmentation
from gengauge.benchmarks.metrics.psnr import psnr
from gengauge.reference.sige import masks, samplers

PAPER = "sige"
OUTPUT = 1e-4  # of network outputs
SCORE = 1e-9
# What a model of macs_fullsize.json is called there, and its recipe.
RECIPES = (
    (re.compile("ddim|ddpm"), masks.DDPM),
    (re.compile("pd|distill"), masks.PROGRESSIVE_DISTILLATION),
    (re.compile("gau|gan|spade"), masks.GAUGAN),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the goldens were made; rounding depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[object]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def matching(pattern: str) -> Callable[[dict[str, Tensor]], list[str]]:
    return lambda tensors: [key for key in tensors if re.search(pattern, key)]


def beside(name: str) -> str:
    """What stands before the last part of a tensor's name, with its dot."""
    return name[: name.rfind(".") + 1]


# masks*: difference, dilations, levels


@pytest.mark.parametrize(
    ("path", "name"),
    items("masks", lambda tensors: [f"{case}difference_mask" for case in prefixes(tensors, "tensor1")]),
)
def test_difference_mask(path: Path, name: str) -> None:
    tensors, _ = load(path)
    eps = settings(path).get("eps", 0.02)
    ours = masks.difference_mask(tensors[f"{beside(name)}tensor1"], tensors[f"{beside(name)}tensor2"], eps)
    assert torch.equal(ours, tensors[name])


@pytest.mark.parametrize(("path", "name"), items("masks", matching(r"(^|\.)dilate")))
def test_dilation(path: Path, name: str) -> None:
    tensors, _ = load(path)
    radius: int | tuple[int, int]
    both = re.search(r"dilate_h(\d+)_w(\d+)$", name)
    radius = (int(both[1]), int(both[2])) if both else int(name.rpartition("dilate")[2])
    ours = masks.dilate(tensors[f"{beside(name)}difference_mask"], radius)
    assert torch.equal(ours, tensors[name])


@pytest.mark.parametrize(
    ("path", "name"), items("masks", lambda tensors: [f"{case}down" for case in prefixes(tensors, "params")])
)
def test_levels(path: Path, name: str) -> None:
    tensors, _ = load(path)
    case = beside(name)
    height, width, min_height, min_width, dilation = tensors[f"{case}params"].tolist()
    first = settings(path).get("dilation_before", 1)
    mask = masks.dilate(tensors[f"{case}difference_mask"], first)
    ours = masks.downsample(mask, (min_height, min_width), dilation, tensors[f"{case}threshold"].item())
    golden = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    assert next(iter(ours)) == (height, width)
    assert {f"{h}x{w}" for h, w in ours} == set(golden)
    for (h, w), level in ours.items():
        assert torch.equal(level, golden[f"{h}x{w}"]), (h, w)


# macs_fullsize*.json with masks_shipped_edits*: the pixels of published edits


def shipped_edits() -> list[object]:
    found = []
    for path in sorted(folder(PAPER).glob("macs_fullsize*.json")):
        content = json.loads(path.read_text())
        edits = [
            (model, edit) for model, entry in content.items() for edit in entry if "edit_pixels_raw" in entry[edit]
        ]
        found += [pytest.param(path, model, edit, id=f"{model}-{edit}") for model, edit in edits]
    return found


def raw_mask(edit: str, size: tuple[int, int], eps: float) -> Tensor:
    """A centred square `sq<fraction>`, or the shipped example of this size, by its eps where there are several."""
    if edit.startswith("sq"):
        return masks.centred_square(float(edit.removeprefix("sq")), *size)
    shipped = {key: mask for path in files(PAPER, "masks_shipped_edits") for key, mask in load(path)[0].items()}
    fitting = {key: mask for key, mask in shipped.items() if tuple(mask.shape) == size}
    by_eps = [mask for key, mask in fitting.items() if key.endswith(f"eps{eps:g}")]
    (found,) = by_eps or fitting.values()
    return found


@pytest.mark.parametrize(("path", "model", "edit"), shipped_edits())
def test_pixels_of_published_edits(path: Path, model: str, edit: str) -> None:
    golden: dict[str, Any] = json.loads(path.read_text())[model][edit]
    recipe = next(recipe for name, recipe in RECIPES if name.search(model))
    pixels = {ast.literal_eval(size): count for size, count in golden["active_pixels_per_resolution"].items()}
    size = max(pixels)
    ours = recipe.from_mask(raw_mask(edit, size, recipe.eps))
    assert int(ours.raw.sum()) == golden["edit_pixels_raw"]
    assert int(ours.dilated.sum()) == golden["edit_pixels_dilated"]
    assert ours.ratio == golden["edit_pixels_dilated"] / (size[0] * size[1])
    assert {level: int(mask.sum()) for level, mask in ours.levels.items()} == pixels


# samplers*: outputs of a small function in the network's place


def toy_eps(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(0.7 * x) + 0.01 * torch.cos(t).view(-1, 1, 1, 1)


def toy_clean_and_eps(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([toy_eps(x, t), torch.sin(x)], 1)


@pytest.mark.parametrize(
    ("path", "name"), items("samplers", lambda tensors: [f"{name}.out" for name in prefixes(tensors, ".out")])
)
def test_sampler(path: Path, name: str) -> None:
    tensors, _ = load(path)
    case = beside(name)
    found = {key.removeprefix(case): value for key, value in tensors.items() if key.startswith(case)}
    given = settings(path).get(case[:-1], {})
    edit = samplers.Edit(found["gt_x0"], found["e"], found["mask"])
    times = found["seq"].tolist()
    if case.startswith("pd"):
        total = given.get("total_steps", 8)
        start = samplers.diffuse_distilled(found["x0"], times[-1], found["e"], total)
        ours = samplers.sample_distilled(toy_clean_and_eps, found["xt"], times, total, edit)
    else:
        betas, noises = found["betas"], found.get("noises")
        start = samplers.diffuse(found["x0"], times[-1], found["e"], betas)
        if case.startswith("ddim"):
            eta = given.get("eta", 0.0)
            ours = samplers.sample_ddim(toy_eps, found["xt"], times, betas, edit, eta=eta, noises=noises)
        elif case.startswith("ddpm"):
            ours = samplers.sample_ddpm(toy_eps, found["xt"], times, betas, edit, noises=noises)
        else:
            assert case.startswith("dpm_solver"), f"no sampler of this name: {case}"
            ours = samplers.sample_dpm_solver(toy_eps, found["xt"], times, betas, edit)
    assert_close(start, found["xt"], OUTPUT)
    assert_close(ours, found["out"], OUTPUT)


@pytest.mark.parametrize(("path", "name"), items("samplers", matching(r"\.betas$")))
def test_betas(path: Path, name: str) -> None:
    betas = load(path)[0][name]
    first, last = settings(path).get("betas", (1e-4, 0.02))
    assert torch.equal(samplers.linear_betas(len(betas), first, last), betas)


# metrics*: PSNR, confusion matrix, mean IoU


@pytest.mark.parametrize(
    ("path", "name"), items("metrics", matching(r"(^|\.)psnr")) + items("metrics", matching(r"(^|\.)(hist|miou)"))
)
def test_score(path: Path, name: str) -> None:
    tensors = {key: value.numpy() for key, value in load(path)[0].items()}
    case, score = beside(name), name[len(beside(name)) :]
    masked = score.endswith("_masked")
    if score.startswith("psnr"):
        first, second = tensors[f"{case}img1"], tensors[f"{case}img2"]
        if score == "psnr_identical_rule":
            ours = psnr(first, first, identical="one-level")
        else:
            ours = psnr(first, second, tensors[f"{case}mask"] if masked else None)
        assert abs(ours - tensors[name].item()) <= SCORE
        return
    classes = len(tensors[f"{case}hist"])
    mask = tensors[f"{case}mask_miou"] if masked else None
    matrix = segmentation.confusion(tensors[f"{case}pred"], tensors[f"{case}label"], classes, mask)
    if score.startswith("hist"):
        assert np.array_equal(matrix, tensors[name])
    else:
        assert abs(segmentation.mean_iou(matrix) - tensors[name].item()) <= SCORE
