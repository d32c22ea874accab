"""SIGE's quality rows on tiny networks and small sets of the published format: read, edited, scored, or missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gengauge.benchmarks.core.experiments import Context, Measurement
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.papers.sige import PAPER, fidelity, networks
from gengauge.benchmarks.papers.sige.editing import Sampling, edit_churches, edit_label_maps
from gengauge.benchmarks.papers.sige.loading import load_tensors
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.cityscapes import train_ids
from gengauge.datasets.edits import ChurchEdits, CityscapesEdits
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.drn import DRN, DRNConfig
from gengauge.reference.nets.spade import SPADEConfig, SPADEGenerator
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import masks, policy
from gengauge.reference.sige.masks import MaskRecipe

SPADE = SPADEConfig(crop_size=128, channels=(2,) * 8)
DDPM = UNetConfig(32, 32, (1, 2), 1, (16,), temb_ch=64)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks in the place of the published ones."""
    gaugan = replace(
        networks.NETWORKS["gaugan"],
        build=partial(networks._spade, SPADE),
        shape=(36, 64, 128),
        recipe=replace(masks.GAUGAN, min_size=(1, 2)),
    )
    ddpm = replace(
        networks.NETWORKS["ddpm-256"],
        build=partial(networks._ddpm, DDPM),
        shape=(3, 32, 32),
        policy=policy.ddpm(32),
        recipe=MaskRecipe(eps=0.01, dilation_before=1, dilation=1, min_size=(16, 16)),
    )
    monkeypatch.setitem(networks.NETWORKS, "gaugan", gaugan)
    monkeypatch.setitem(networks.NETWORKS, "ddpm-256", ddpm)
    monkeypatch.setattr(fidelity, "DDIM", Sampling(steps=2))


def cityscapes(root: Path) -> Path:
    """Two pairs of label maps that differ in a corner, with their photographs."""
    folder = root / "cityscapes-edit"
    for part in ("gt_labels", "gt_instances", "synthetic_labels", "synthetic_instances", "images"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for gt, synthetic in (("0", "7"), ("1", "8")):
        labels = np.kron(random.integers(0, 35, (4, 8)), np.ones((16, 16), np.int64))
        edited = labels.copy()
        edited[8:20, 8:24] = (labels[8:20, 8:24] + 1) % 35
        for kind, name, values in (("gt", gt, labels), ("synthetic", synthetic, edited)):
            np.save(folder / f"{kind}_labels" / f"{name}.npy", values)
            np.save(folder / f"{kind}_instances" / f"{name}.npy", values.astype(np.int32))
        Image.fromarray(random.integers(0, 256, (64, 128, 3), np.uint8)).save(folder / "images" / f"{gt}.png")
    (folder / "meta.csv").write_text("gt_id,synthetic_id\n0,7\n1,8\n")
    return root


def churches(root: Path) -> Path:
    """Two pictures with an edited corner, and a photograph of the first."""
    folder = root / "church_outdoor_sdedit"
    for part in ("original", "edited", "gt"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("000", "001"):
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "original" / f"{name}.png")
        pixels[4:10, 4:12] = 255 - pixels[4:10, 4:12]
        Image.fromarray(pixels).save(folder / "edited" / f"{name}.png")
    Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / "gt" / "000.png")
    return root


def run(network: str, root: Path | None) -> dict[tuple[str, str], Measurement]:
    settings = next(s for s in fidelity.ROWS if s.network == network)
    context = Context(settings, 0, "paper", "cpu", root, Path(), lambda done, total, doing: None)
    found = [m for m in fidelity.fidelity(context) if isinstance(m, Measurement)]
    (experiment,) = (e for e in PAPER.experiments if e.key == f"fidelity-{network}")
    every = {(row, c.key) for row in experiment.rows for c in experiment.columns}
    assert {(m.row, m.column) for m in found} == every - experiment.without
    return {(m.row, m.column): m for m in found}


def test_label_maps_are_edited_both_ways_and_scored(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    torch.save(SPADEGenerator(SPADE).state_dict(), tmp_path / "spade.pth")  # the plain form; the fused one is run
    monkeypatch.setenv("GENGAUGE_SIGE_SPADE", str(tmp_path / "spade.pth"))
    found = run("gaugan", cityscapes(tmp_path))
    assert found["sige@gaugan", "psnr_original"].samples == 4
    assert found["sige@gaugan", "psnr_original"].value > 30
    assert found["sige@gaugan", "lpips_original"].value < found["sige@gaugan", "lpips_truth"].value
    assert found["original@gaugan", "psnr_truth"].samples == 2
    assert found["original@gaugan", "fid"].value > 0
    assert "drn-d-105" in found["sige@gaugan", "miou"].missing


def test_processes_share_the_edits_and_the_first_scores_all(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    torch.save(SPADEGenerator(SPADE).state_dict(), tmp_path / "spade.pth")
    monkeypatch.setenv("GENGAUGE_SIGE_SPADE", str(tmp_path / "spade.pth"))
    root = cityscapes(tmp_path)
    alone = run("gaugan", root)
    settings = next(s for s in fidelity.ROWS if s.network == "gaugan")
    told: list[tuple[int, int]] = []

    class OneOfTwo(Processes):
        """The others' scores are those that were gathered before."""

        scores: ClassVar[list[Any]] = []

        def gathered(self, made: Sequence[Any]) -> list[Any]:
            self.scores.append(*made)
            return self.scores

    for index in (1, 0):
        monkeypatch.setattr(fidelity, "join", lambda device, index=index: (OneOfTwo(index, 2), device))
        scores = fidelity.edit_and_score(settings, root, "cpu", lambda done, total, doing: told.append((done, total)))
    assert told == [(1, 2), (2, 2)] * 2
    monkeypatch.setattr(fidelity, "together", lambda *arguments: scores)
    shared = run("gaugan", root)
    assert shared.keys() == alone.keys()
    for cell, found in shared.items():
        assert found.samples == alone[cell].samples
        assert found.value == pytest.approx(alone[cell].value, rel=1e-6, nan_ok=True)


def test_a_segmenter_scores_both_ways_against_the_edited_label_maps(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segmenter that says "road" of all: its IoU is the share of roads, all other classes that occur have none."""
    torch.save(SPADEGenerator(SPADE).state_dict(), tmp_path / "spade.pth")
    monkeypatch.setenv("GENGAUGE_SIGE_SPADE", str(tmp_path / "spade.pth"))
    drn = DRN(DRNConfig("bottleneck", (1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4)))
    torch.nn.init.zeros_(drn.seg.weight)
    drn.seg.bias.data[0] = 1.0
    torch.save(drn.state_dict(), tmp_path / "drn.pth")
    monkeypatch.setenv("GENGAUGE_DRN_D_105_CITYSCAPES", str(tmp_path / "drn.pth"))
    root = cityscapes(tmp_path)
    found = run("gaugan", root)
    maps = [np.load(file) for file in sorted((root / "cityscapes-edit").glob("*_labels/*.npy"))]
    classes = train_ids(np.stack(maps))
    counted = classes[classes < 19]
    expected = 100 * (counted == 0).mean() / len(np.unique(counted))
    for row in ("sige@gaugan", "original@gaugan"):
        assert found[row, "miou"].value == pytest.approx(expected)
        assert found[row, "miou"].samples == 4


def test_churches_are_edited_and_scored(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, averaged = DDPMUNet(DDPM), DDPMUNet(DDPM)
    content = {"model": network.state_dict(), "ema": dict(averaged.named_parameters())}
    torch.save(content, tmp_path / "ddpm.pth")
    monkeypatch.setenv("GENGAUGE_SIGE_CHURCH256_DDPM", str(tmp_path / "ddpm.pth"))
    found = run("ddpm-256", churches(tmp_path))
    assert found["sige@ddpm-256", "psnr_original"].samples == 2
    assert found["sige@ddpm-256", "psnr_original"].value > 20
    assert found["sige@ddpm-256", "psnr_truth"].samples == 1
    assert "clean-fid/stats" in found["sige@ddpm-256", "fid"].missing
    np.savez(tmp_path / fidelity.CHURCH_STATISTICS, mu=np.zeros(2048), sigma=np.eye(2048))
    reference, missing = fidelity._reference(None, tmp_path, load_network("inception"), "cpu")
    assert missing == ""
    assert reference is not None
    assert reference.mean.shape == (2048,)


def test_the_edit_stays_in_its_mask(tiny: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.NETWORKS["ddpm-256"]
    edits = ChurchEdits(churches(tmp_path), 32)
    results = list(
        edit_churches(network.build(True).eval(), network.policy, network.recipe, edits, "cpu", Sampling(steps=2))
    )
    assert [r.name for r in results] == ["000", "001"]
    with Image.open(tmp_path / "church_outdoor_sdedit" / "original" / "001.png") as picture:
        original = np.asarray(picture)
    for made in (results[1].dense, results[1].sparse):
        assert np.array_equal(made[14:], original[14:])
        assert not np.array_equal(made[:14], original[:14])


def test_distilled_networks_take_their_own_sampler(tmp_path: Path) -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_in = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.conv_in(x)) + 0.01 * t[:, None, None, None].cos()

    torch.manual_seed(0)
    recipe = MaskRecipe(eps=0.01, dilation_before=1, dilation=1, min_size=(16, 16))
    edits = ChurchEdits(churches(tmp_path), 32)
    sampling = Sampling("pd", steps=2)
    for result in edit_churches(Toy().eval(), policy.everywhere(), recipe, edits, "cpu", sampling):
        assert np.abs(result.dense.astype(int) - result.sparse).max() <= 1


def test_equal_label_maps_take_the_originals_result(tiny: None, tmp_path: Path) -> None:
    root = cityscapes(tmp_path)
    folder = root / "cityscapes-edit"
    for kind in ("labels", "instances"):
        np.save(folder / f"synthetic_{kind}" / "7.npy", np.load(folder / f"gt_{kind}" / "0.npy"))
    network = networks.NETWORKS["gaugan"]
    torch.manual_seed(0)
    edits = CityscapesEdits(root, size=(64, 128))
    first = next(edit_label_maps(network.build(True).eval(), network.policy, network.recipe, edits, "cpu"))
    assert np.abs(first.dense.astype(int) - first.sparse).max() <= 1


def test_what_is_missing_is_named(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENGAUGE_SIGE_SPADE", str(tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsNotFound, match="nowhere"):
        run("gaugan", tmp_path)
    torch.save(SPADEGenerator(SPADE).state_dict(), tmp_path / "nowhere.pth")
    for root in (None, tmp_path):
        with pytest.raises(DataNotFound, match=r"cityscapes-edit\.zip"):
            run("gaugan", root)
    with pytest.raises(ValueError, match="nor of its plain form"):
        load_tensors(SPADEGenerator(SPADE, fused=True), {"fc.weight": torch.zeros(1)}, False)


@pytest.mark.parametrize("network", [s.network for s in fidelity.ROWS])
def test_a_plan_names_checkpoint_data_and_what_judges(network: str, tmp_path: Path) -> None:
    (experiment,) = (e for e in PAPER.experiments if e.key == f"fidelity-{network}")
    needs = experiment.scales["paper"].plan.needs(tmp_path)
    text = "\n".join(f"{need.what} {need.remedy}" for need in needs)
    assert f"{fidelity.PUBLISHED[network].keys[0]}" in text
    assert ("cityscapes-edit.zip" if network.startswith("ga") else "church_outdoor_sdedit.zip") in text
    assert ("drn-d-105" in text) == network.startswith("ga")
    assert "lpips-alex" in text
