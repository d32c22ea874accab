"""GANgealing's paper with settings for networks and sets of seconds, and checkpoints of the published layout."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from key_point_trees import Pair, write_cub, write_spair
from torch import Tensor

from gengauge.benchmarks.core.experiments import Experiment
from gengauge.benchmarks.papers import gangealing
from gengauge.benchmarks.papers.gangealing import released
from gengauge.benchmarks.papers.gangealing.sets import SPair
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.latents import DirectionInterpolator
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.nets.stylegan2.rosinality import Generator

FLOW, SIZE, CHANNELS = 64, 128, 16
SIZES = {"a": (60, 40), "bb": (32, 50), "ccc": (64, 64)}
# All twelve points of a bicycle occur; their places in source and target.
POINTS = {str(i): ((3.0 + 4 * i, 2.0 + 3 * i), (2.0 + 2 * i, 5.0 + 3.5 * i)) for i in range(12)}
PAIRS: list[Pair] = [
    ("a", "bb", POINTS),
    ("a", "ccc", {k: POINTS[k] for k in ("0", "3", "7")}),
    ("ccc", "bb", {k: ((x + 1.0, y), (x / 2, y)) for k, ((x, y), _) in POINTS.items() if k in ("1", "4", "5", "9")}),
]
BOXES = {"1/a.jpg": (5, 5, 36, 30), "1/b.jpg": (1, 1, 40, 40), "2/c.jpg": (10, 2, 29, 38), "2/d.jpg": (3, 3, 30, 20)}


def write_bicycles(root: Path, pairs: list[Pair] = PAIRS) -> Path:
    """SPair-71k under `root` with three pairs of bicycles."""
    write_spair(root / "SPair-71k", "bicycle", SIZES, pairs, 12)
    return root


def write_birds(root: Path, visible: int = 1) -> Path:
    """CUB-200-2011 under `root` with four birds, whose last parts cannot be seen."""

    def place(number: int, part: int) -> tuple[float, float, int]:
        return 5.0 + 2 * part + number, 30.0 - part + 2 * number, visible if part < 14 else 0

    root.mkdir(parents=True, exist_ok=True)
    return write_cub(root, dict.fromkeys(BOXES, (44, 42)), BOXES, place)


def transformer(posed: float = 0.0, seed: int = 0, num_heads: int = 1, base_channels: int = CHANNELS) -> ComposedSTN:
    """A transformer that does nothing, or one whose similarity depends on the picture."""
    torch.manual_seed(seed)
    network = ComposedSTN(FLOW, SIZE, num_heads=num_heads, base_channels=base_channels).eval()
    if posed:
        torch.nn.init.normal_(network.similarity.warp_head.linear.weight, std=posed)
    return network


def checkpoint(network: ComposedSTN, classes: int = 0) -> dict[str, Any]:
    """What the published training saves, after the classifier's training where there are classes."""
    g = Generator(SIZE, 32, 2, base_channels=CHANNELS)
    learner = DirectionInterpolator(torch.randn(3, 32), torch.randn(1, 32), g.n_latent, 5, network.num_heads)
    adam = torch.optim.Adam(learner.parameters())
    adam.step()
    state = network.state_dict()
    content: dict[str, Any] = {
        **{"g_ema": g.state_dict(), "t": {k: v + 1 for k, v in state.items()}, "t_ema": state},
        **{"t_optim": adam.state_dict(), "t_sched": {"last_epoch": 3.5, "base_lrs": [0.001]}},
        **{"ll": learner.state_dict(), "ll_optim": adam.state_dict(), "ll_sched": {"last_epoch": 3.5}},
        "args": argparse.Namespace(iters=1, padding_mode="reflection", transform=["similarity", "flow"], ckpt=None),
    }
    if classes:
        content["classifier"] = ResnetClassifier(FLOW, 0.5, classes, SIZE, CHANNELS).state_dict()
    return content


def write_checkpoint(path: Path, network: ComposedSTN, classes: int = 0, **changed: Any) -> Path:
    """Writes a checkpoint with some of its parts changed."""
    torch.save({**checkpoint(network, classes), **changed}, path)
    return path


def tiny(experiment: Experiment) -> Experiment:
    """The experiment on sets as small as those here and with networks of any width."""
    at = experiment.scales["paper"]
    pairs = at.settings.pairs
    pairs = replace(pairs, size=SIZE, count=len(PAIRS) if isinstance(pairs, SPair) else 5)
    settings = replace(at.settings, pairs=pairs, base_channels=None, batch=2, resamples=50)
    return replace(experiment, scales={"paper": replace(at, settings=settings)})


def nearest_cell(places: Tensor) -> Tensor:
    """Places in [-1, 1] at the centre of the nearest cell of the flow's grid, as the number of the cell."""
    return ((places + 1) * FLOW / 2 - 0.5).round().clamp(0, FLOW - 1)


PAPER = replace(gangealing.PAPER, experiments=tuple(map(tiny, released.experiments(gangealing.PAPER.tables))))
