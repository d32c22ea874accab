"""SDEdit's experiments at a size of seconds: small networks in the place of the published ones, features, data."""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture, Scale
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.papers.sdedit import PAPER, compositing, loading, priors, runs, strokes
from gengauge.benchmarks.papers.sdedit.loading import Network
from gengauge.benchmarks.papers.sdedit.priors import PRIORS
from gengauge.datasets import weights
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.ncsnpp import NCSNpp, NCSNppConfig
from gengauge.reference.nets.unet import UNetConfig

UNET = UNetConfig(8, 8, (1, 2), 1, (4,), temb_ch=32, num_groups=4)
SCORE = NCSNppConfig(32, 8, (1, 2), 1, (16,), 348.0, num_scales=20)  # LPIPS takes no smaller pictures


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks for the published ones, of which none is found; grey levels of 2 x 2 places for Inception's
    features; LPIPS untrained; few pictures in the exact denoiser."""
    monkeypatch.setattr(priors, "EXACT_PICTURES", 20)
    for key, prior in list(PRIORS.items()):
        config = SCORE if prior.score else UNET
        for name in prior.weights:
            monkeypatch.delenv(weights.WEIGHTS[name].variable, raising=False)
            monkeypatch.setitem(loading.PUBLISHED, name, config)  # type: ignore[arg-type]
        if prior.weights:
            monkeypatch.setitem(PRIORS, key, replace(prior, resolution=32 if prior.score else 8))
    features = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    network = FeatureNetwork("inception", "FID", 8, 12, features, lambda x, mode: x / 128 - 1, None, "grey levels")
    monkeypatch.setattr(runs, "load_network", lambda name: network)
    for module in (strokes, compositing):
        monkeypatch.setattr(module, "load_lpips", untrained_lpips)


def untrained_lpips(trunk: str, device: str) -> LPIPS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LPIPS("alex").eval().requires_grad_(False)
    for name, value in network.named_parameters():
        if name.startswith("lin"):
            value.abs_()
    return network


def network_for(prior: str, seed: int = 0) -> Network:
    """A small network with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = NCSNpp(SCORE) if PRIORS[prior].score else DDPMUNet(UNET)
        for value in network.parameters():  # some start at 0
            value.data.add_(0.02 * torch.randn(value.shape))
    return network.eval().requires_grad_(False)


def experiment_of(key: str) -> Experiment:
    return next(e for e in PAPER.experiments if e.key == key)


def context_of(settings: Any, scale: Scale, seed: int = 0, data: Path | None = None) -> Context:
    return Context(settings, seed, scale, "cpu", data, Path(), lambda done, total, doing: None)


def measured(
    experiment: Experiment, settings: Any, scale: Scale, seed: int = 0, data: Path | None = None
) -> tuple[list[Measurement], list[Picture]]:
    """What an experiment yields; every final value that it declares, once, and nothing else."""
    told: list[tuple[int, int]] = []
    context = replace(
        context_of(settings, scale, seed, data), progress=lambda done, total, doing: told.append((done, total))
    )
    results = list(experiment.run(context))
    found = [r for r in results if isinstance(r, Measurement)]
    final = Counter((m.row, m.column) for m in found if m.step is None)
    every = {(row, column.key) for row in experiment.rows for column in experiment.columns}
    assert final == Counter(every - experiment.without)
    assert {(m.row, m.column) for m in found} <= every
    assert all(math.isfinite(m.value) for m in found)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    return found, [r for r in results if isinstance(r, Picture)]


def values(found: list[Measurement]) -> dict[tuple[str, str], float]:
    return {(m.row, m.column): m.value for m in found if m.step is None}


def photographs(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray[Any, Any]:
    """Noise (count, H, W, 3) in blocks of two pixels."""
    height, width = size
    coarse = np.random.default_rng(seed).integers(0, 256, (count, height // 2, width // 2, 3), np.uint8)
    return coarse.repeat(2, 1).repeat(2, 2)


def write_lsun(root: Path, folder: str, count: int) -> Path:
    """A validation set as LSUN has it: an LMDB of pictures, wider than high. Returns the data folder."""
    lmdb = pytest.importorskip("lmdb")
    (root / folder).mkdir(parents=True)
    with lmdb.open(str(root / folder), map_size=2**24) as opened, opened.begin(write=True) as transaction:
        for i, pixels in enumerate(photographs(count, (12, 16))):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "WEBP", quality=95)
            transaction.put(f"{i:040d}".encode(), stream.getvalue())
    return root


def write_painting(path: Path, mask: Tensor, size: int = 8, seed: int = 0) -> None:
    """A file as the published code reads it: the list [mask, image]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))
    torch.save([mask, image], path)


def write_composites(root: Path, count: int, size: int = 32) -> Path:
    """Pictures of noise into whose middle others are pasted. Returns the data folder."""
    folder = root / "sdedit-composites"
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = 255
    originals, others = photographs(count, (size, size)), photographs(count, (size, size), 1)
    for i in range(count):
        parts = {"original": originals[i], "composite": np.where(mask[..., None] == 255, others[i], originals[i])}
        for part, pixels in {**parts, "mask": mask}.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / part / f"{i}.png")
    return root
