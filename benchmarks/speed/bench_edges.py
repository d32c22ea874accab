"""GAN Warping's edges: thinning against the published loops, and DexiNed folded against DexiNed as published.

The published code took 1.29 s and 5.7 s at 512 px on one thread of a busy machine. Forms are timed in alternation, in
one process and on one thread, and must give the same edges.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from scipy import ndimage

from gengauge.benchmarks.features.edges import edge_probabilities
from gengauge.benchmarks.metrics.edges import edge_picture, orientations, second_derivatives
from gengauge.reference.nets.dexined import MEAN_BGR, DexiNed, fold_batch_norm

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS = 5
EIGHT = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]


def published_edges(probability: Array) -> Array:
    """Pixel by pixel; of the strong ones, the first of an array that is copied without it each time."""
    probability = probability.astype(np.float64)
    angles = orientations(*second_derivatives(probability))
    thin = np.zeros_like(probability)
    for i in range(1, thin.shape[0] - 1):
        for j in range(1, thin.shape[1] - 1):
            angle = angles[i, j]
            row, column = 0, 1
            if 22.5 <= angle < 67.5:
                row, column = 1, 1
            elif 67.5 <= angle < 112.5:
                row, column = 1, 0
            elif 112.5 <= angle < 157.5:
                row, column = 1, -1
            if probability[i, j] >= max(probability[i + row, j + column], probability[i - row, j - column]):
                thin[i, j] = probability[i, j]
    thin = thin * (255.0 / thin.max())
    strong = np.where(thin >= 150, 255.0, 0.0)
    strong[(thin > 100) & (thin <= 150)] = 50
    rows, columns = np.where(thin >= 150)
    while len(rows):
        i, j = rows[0], columns[0]
        rows, columns = np.delete(rows, 0), np.delete(columns, 0)
        for row, column in EIGHT:
            y, x = i + row, j + column
            if 0 <= y < thin.shape[0] and 0 <= x < thin.shape[1] and strong[y, x] == 50:
                strong[y, x] = 255
    labels, _ = ndimage.label(strong == 255, np.ones((3, 3)))
    large = np.bincount(labels.ravel()) >= 5
    large[0] = False
    return np.where(large[labels], 0, 255).astype(np.uint8)


def contours(side: int) -> Array:
    """A map of smooth ridges in all directions, a good share of it edges, as of a textured picture."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((side, side)), 6)
    return np.exp(-np.abs(noise / noise.std()) * 4).astype(np.float32)


def alternate(
    benchmark: BenchmarkFixture, forms: dict[str, Callable[[], Array]], rounds: int
) -> tuple[dict[str, Array], float]:
    """The forms' results, and the median ratio of the second form's seconds to the first's."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    found: dict[str, Array] = {}
    order = list(forms)

    def once() -> None:
        for name in order:
            start = time.perf_counter()
            found[name] = forms[name]()
            seconds[name].append(time.perf_counter() - start)
        order.reverse()  # what runs first in one round runs last in the next

    benchmark.pedantic(once, rounds=rounds)
    ours, theirs = seconds.values()
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    benchmark.extra_info |= {"seconds": seconds, "ratios": ratios}
    print({name: [round(s, 4) for s in values] for name, values in seconds.items()}, f"ratio {median(ratios):.3g}")
    return found, median(ratios)


def test_thinning(benchmark: BenchmarkFixture, full_size: bool) -> None:
    probability = contours(512 if full_size else 48)
    forms = {"ours": lambda: edge_picture(probability), "published": lambda: published_edges(probability)}
    found, ratio = alternate(benchmark, forms, ROUNDS if full_size else 1)
    assert np.array_equal(found["ours"], found["published"])
    benchmark.extra_info["edge pixels"] = int((found["ours"] == 0).sum())
    if full_size:
        assert ratio >= 10


def test_dexined(benchmark: BenchmarkFixture, full_size: bool) -> None:
    side = 512 if full_size else 32
    torch.manual_seed(0)
    network = DexiNed().eval().requires_grad_(False)
    folded = fold_batch_norm(network)
    pictures = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)

    @torch.no_grad()
    def published() -> Array:
        x = torch.from_numpy((pictures[..., ::-1] - np.array(MEAN_BGR)).transpose(0, 3, 1, 2).copy()).float()
        return network(x)[-1].sigmoid()[:, 0].numpy()

    forms = {"folded": lambda: edge_probabilities(folded, pictures), "published": published}
    found, ratio = alternate(benchmark, forms, ROUNDS if full_size else 1)
    assert np.abs(found["folded"] - found["published"]).max() <= 1e-4
    if full_size:
        assert ratio >= 1
