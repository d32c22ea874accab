"""Edge pictures by hand and against plain loops; DexiNed's sizes, and how its weights are read and refused."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gengauge.benchmarks.features.edges import dexined_of, edge_probabilities, load_dexined
from gengauge.benchmarks.metrics.edges import (
    EDGE,
    canny_edges,
    edge_picture,
    hysteresis,
    non_maximum_suppression,
    orientations,
    thinned,
    without_crumbs,
)
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.reference.nets.dexined import DexiNed, fold_batch_norm

Array = np.ndarray[Any, Any]


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).random(shape)


# ----------------------------------------------------------------------------------------------------------------------
# Thinning


def suppressed_by_loops(image: Array, angles: Array) -> Array:
    """Each pixel with its two neighbours across the edge, one after the other."""
    out = np.zeros(image.shape)
    for i in range(1, image.shape[0] - 1):
        for j in range(1, image.shape[1] - 1):
            row, column = [(0, 1), (1, 1), (1, 0), (1, -1)][int((angles[i, j] + 22.5) // 45) % 4]
            if image[i, j] >= max(image[i + row, j + column], image[i - row, j - column]):
                out[i, j] = image[i, j]
    return out * 255 / out.max()


def test_suppression_is_that_of_plain_loops() -> None:
    # Few levels, so that neighbours are often equal, and angles that meet the bounds of the steps.
    image = np.round(noise(24, 31) * 5)
    angles = np.random.default_rng(1).choice(np.arange(0, 180.1, 7.5), image.shape)
    assert {22.5, 67.5, 112.5, 157.5, 180.0} <= set(np.unique(angles))
    assert non_maximum_suppression(image, angles) == pytest.approx(suppressed_by_loops(image, angles), abs=1e-12)


def test_a_map_of_nothing_has_no_edge() -> None:
    for size in ((20, 20), (2, 9), (1, 1)):
        assert (edge_picture(np.zeros(size, np.float32)) != EDGE).all()
    assert not non_maximum_suppression(np.zeros((5, 5)), np.zeros((5, 5))).any()


def test_orientations_lie_between_0_and_180() -> None:
    yy, xx = np.array([0.0, 1, 1, 1, 0, -1, -1, -1, -0.0]), np.array([1.0, 1, 0, -1, -1, -1, 0, 1, -1])
    assert orientations(xx, yy).tolist() == [0, 45, 90, 135, 180, 45, 90, 135, 0]


def test_a_ridge_becomes_a_line() -> None:
    ridge = np.exp(-((np.arange(32) - 15.0) ** 2) / 8)
    expected = np.full((32, 32), 255)
    expected[1:-1, 15] = 0
    assert np.array_equal(edge_picture(np.tile(ridge, (32, 1))), expected)
    assert np.array_equal(edge_picture(np.tile(ridge, (32, 1)).T), expected.T)


def test_weak_pixels_follow_strong_ones_by_one_or_all_the_way() -> None:
    image = np.zeros((5, 9))
    image[2] = [0, 200, 120, 120, 120, 0, 120, 150, 100]
    published = hysteresis(image)
    assert np.flatnonzero(published[2]).tolist() == [1, 2, 6]  # of 150 comes the neighbour, and not itself
    full = hysteresis(image, propagation="full")
    assert np.flatnonzero(full[2]).tolist() == [1, 2, 3, 4, 6, 7]
    assert not published[[0, 1, 3, 4]].any()
    assert not full[[0, 1, 3, 4]].any()
    with pytest.raises(ValueError, match="lower threshold 9 is above the higher one 8"):
        hysteresis(image, 9, 8)


def test_full_propagation_keeps_what_the_published_one_keeps() -> None:
    image = noise(40, 40) * 255
    image[image == 150] = 151
    published, full = hysteresis(image), hysteresis(image, propagation="full")
    assert (full | ~published).all()
    assert full.sum() > published.sum()


def test_crumbs_are_components_of_fewer_pixels() -> None:
    edges = np.zeros((12, 12), bool)
    edges[[1, 2, 3, 4], [1, 2, 3, 4]] = True  # 4 that touch at their corners
    edges[8, 2:7] = True  # 5
    assert np.array_equal(without_crumbs(edges).sum(1), [0] * 8 + [5] + [0] * 3)
    assert not without_crumbs(edges, 6).any()
    assert without_crumbs(edges, 4).sum() == 9


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (np.full((8, 8), np.nan), "finite and not negative"),
        (np.full((8, 8), -0.1), "finite and not negative"),
        (np.zeros((8, 8), np.uint8), "floats .H, W., not uint8"),
        (np.zeros((1, 8, 8)), r"not float64 \(1, 8, 8\)"),
        (np.zeros((0, 8)), r"not float64 \(0, 8\)"),
    ],
)
def test_other_probabilities_are_refused(probability: Array, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        edge_picture(probability)


# ----------------------------------------------------------------------------------------------------------------------
# Detectors


def test_canny_finds_the_outline_of_a_square() -> None:
    picture = np.zeros((2, 32, 32, 3), np.uint8)
    picture[1, 8:24, 8:24] = 255
    none, square = canny_edges(picture) == EDGE
    assert not none.any()
    rows, columns = np.nonzero(square)
    inside = np.maximum(np.abs(rows - 15.5), np.abs(columns - 15.5))
    assert ((inside >= 7.5) & (inside <= 8.5)).all()
    assert 50 <= len(rows) <= 70  # 4 sides of about 16


def test_a_detector_of_probabilities() -> None:
    ridge = np.tile(np.exp(-((np.arange(16) - 7.0) ** 2) / 8), (3, 16, 1)).astype(np.float32)
    pictures = np.zeros((3, 16, 16, 3), np.uint8)
    found = thinned(lambda _: ridge, "full")(pictures)
    assert found.shape == (3, 16, 16)
    assert (np.argwhere(found[0] == EDGE)[:, 1] == 7).all()
    for detector in (canny_edges, thinned(lambda _: ridge)):
        with pytest.raises(ValueError, match=r"uint8 \(N, H, W, 3\), not uint8 \(16, 16, 3\)"):
            detector(pictures[0])
        with pytest.raises(ValueError, match="not float64"):
            detector(pictures / 255)


# ----------------------------------------------------------------------------------------------------------------------
# DexiNed


@functools.cache
def state() -> dict[str, Tensor]:
    """Weights of the full size; their values are of no account but for the means and variances."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DexiNed().state_dict().items()}
    out = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            out[name] = torch.tensor(7)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            out[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            out[name] = torch.randn(shape, generator=generator) * 0.05
    return out


def pictures(*size: int) -> Array:
    return np.random.default_rng(2).integers(0, 256, (2, *size, 3), dtype=np.uint8)


def test_other_sizes_are_filled_up_and_cropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "load", lambda key, path: state())
    detect = load_dexined()
    given = pictures(27, 33)
    found = detect(given)
    assert found.shape == (2, 27, 33)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    filled = np.pad(given, ((0, 0), (0, 5), (0, 15), (0, 0)), mode="reflect")
    assert np.array_equal(detect(filled)[:, :27, :33], found)
    assert detect(pictures(1, 5)).shape == (2, 1, 5)
    for wrong in (given[0], given / 255, given[..., :2], given[:0]):
        with pytest.raises(ValueError, match=r"pictures are uint8 \(N, H, W, 3\)"):
            detect(wrong)


def test_folding_and_batches_change_nothing() -> None:
    network = dexined_of(state())
    given = pictures(32, 48)
    plain = edge_probabilities(network, given)
    assert np.abs(edge_probabilities(fold_batch_norm(network), given, 2) - plain).max() <= 1e-4
    assert plain.std() > 1e-3
    # BGR, so a picture and its mirror in colour differ.
    assert np.abs(edge_probabilities(network, given[..., ::-1].copy()) - plain).max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 3, 24, 32), (1, 3, 32, 40), (1, 1, 32, 32), (3, 32, 32), (0, 3, 32, 32)])
def test_sizes_that_the_network_does_not_take(shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = DexiNed()
    with pytest.raises(ValueError, match="sides are multiples of 16"):
        network(torch.zeros(shape, device="meta"))


def damaged(**changes: Tensor | None) -> dict[str, Tensor]:
    names = {name.replace(".", "_"): name for name in state()}
    changed = {names.get(name, name): value for name, value in changes.items()}
    return {k: v for k, v in (state() | changed).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"side_5_conv_bias": None}, "1 of 282 tensors are missing .first: .'side_5.conv.bias'"),
        ({"more": torch.zeros(2)}, "1 unknown .first: .'more'"),
        ({"block_1_bn1_bias": torch.zeros(33)}, r"block_1.bn1.bias is torch.float32 \(33,\), not floats \(32,\)"),
        ({"block_1_bn1_bias": torch.zeros(32, dtype=torch.int64)}, "is torch.int64"),
        ({"block_1_bn1_bias": torch.full((32,), torch.nan)}, "block_1.bn1.bias holds values that are not finite"),
        ({"block_1_bn1_running_var": torch.full((32,), -1.0)}, "variance block_1.bn1.running_var is negative"),
    ],
)
def test_weights_of_another_network_are_refused(changes: dict[str, Tensor | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dexined_of(damaged(**changes))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "dexined.pth"
    torch.save({"block_1.conv1.weight": torch.zeros(32, 3, 3, 3)}, file)
    with pytest.raises(ValueError, match="281 of 282 tensors are missing"):
        load_dexined(file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DamagedCheckpoint, match=r"dexined\.pth"):
        load_dexined(file)
    for protocol in (2, 4):
        file.write_bytes(pickle.dumps({"block_1.conv1.weight": Bomb()}, protocol))
        with pytest.raises(UnsafeCheckpoint, match=r"dexined\.pth is refused"):
            load_dexined(file)
    torch.save({"block_1.conv1.weight": Bomb()}, file)
    with pytest.raises(UnsafeCheckpoint, match=r"dexined\.pth is refused"):
        load_dexined(file)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        load_dexined(tmp_path / "gone.pth")


def test_missing_weights_say_where_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENGAUGE_DEXINED", raising=False)
    with pytest.raises(weights.WeightsNotFound, match=r"download_pretrained_models\.sh.*set GENGAUGE_DEXINED"):
        load_dexined()
