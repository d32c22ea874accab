"""SIGE's fidelity against the edited share, on a tiny network with random weights."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Measurement, Picture, Result
from gengauge.benchmarks.papers.sige import PAPER
from gengauge.benchmarks.papers.sige import fidelity_by_area as by_area
from gengauge.benchmarks.papers.sige.edits import ALL
from gengauge.benchmarks.papers.sige.fidelity_by_area import (
    DENSE,
    EVERY_LAYER,
    FINAL,
    KEPT,
    OWN_STATISTICS,
    POLICIES,
    RECIPE,
    RELEASED,
    SIZE,
    SQUARES,
    Settings,
)
from gengauge.benchmarks.papers.sige.speed import AREA
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige.count import dense_macs
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.tape import record

CONFIG = UNetConfig(SIZE, 16, (1, 2, 2), 1, (8,), temb_ch=32, num_groups=8)
TINY = Settings(pictures=1, steps=2, edits=(FINAL, ALL), rows=(RELEASED, OWN_STATISTICS))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> DDPMUNet:
    """A tiny network, which also takes the place of the trained one."""
    torch.manual_seed(0)
    made = DDPMUNet(CONFIG).eval().requires_grad_(False)
    monkeypatch.setattr(by_area.ddpm_cat, "load", lambda: made)
    return made


def run(settings: Settings, seed: int = 0) -> list[Result]:
    told: list[tuple[int, int]] = []
    context = Context(
        settings, seed, "quick", "cpu", None, Path(), lambda done, total, doing: told.append((done, total))
    )
    found = list(by_area.fidelity_by_area(context))
    assert all(0 <= done <= total for done, total in told)
    return found


def test_every_declared_cell_is_measured_once(network: DDPMUNet) -> None:
    (quick,) = (e for e in PAPER.experiments if e.table == by_area.TABLE.key and "quick" in e.scales)
    settings = quick.scales["quick"].settings
    found = run(Settings(pictures=1, steps=1, edits=TINY.edits, rows=settings.rows))
    numbers = [m for m in found if isinstance(m, Measurement)]
    assert all(math.isfinite(m.value) for m in numbers)
    final = Counter((m.row, m.column) for m in numbers if m.step is None)
    assert set(final) == {(row, c.key) for row in quick.rows for c in quick.columns} - quick.without
    assert set(final.values()) == {1}
    points = Counter((m.row, m.column, m.step) for m in numbers if m.step is not None)
    assert set(points.values()) == {1}
    assert {row for row, _, _ in points} == {row.key for row in settings.rows}
    assert len(points) == len(settings.rows) * len(quick.columns) * len(TINY.edits)
    assert max(step for _, _, step in points if step) == 100 * AREA.steps_per_unit
    (sheet,) = (p for p in found if isinstance(p, Picture))
    assert sheet.pixels.shape == (3 * SIZE * (3 + len(settings.rows)), 3 * SIZE * len(TINY.edits), 3)


def test_the_same_seed_gives_the_same_numbers(network: DDPMUNet) -> None:
    first, again, other = ([m for m in run(TINY, seed) if isinstance(m, Measurement)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_with_all_pixels_touched_statistics_are_all_that_is_lost(network: DDPMUNet) -> None:
    found = [m for m in run(TINY) if isinstance(m, Measurement) and m.step == 100 * AREA.steps_per_unit]
    value = {(m.row, m.column): m.value for m in found}
    for column in ("first_noise", "last_noise"):
        assert value[OWN_STATISTICS.key, column] < 100 * 1e-4
        assert value[RELEASED.key, column] > 100 * value[OWN_STATISTICS.key, column]
    assert value[OWN_STATISTICS.key, "psnr_edit"] > value[RELEASED.key, "psnr_edit"] + 10


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_the_original_itself_comes_out_as_it_was(network: DDPMUNet, policy: Policy) -> None:
    engine = Engine(by_area.fused(network), policy)
    picture, time = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), torch.tensor([250.0])
    expected = network(picture, time)
    torch.testing.assert_close(engine.full(picture, time), expected, rtol=0, atol=1e-4)
    for edit in (FINAL, ALL):
        engine.set_masks(RECIPE.from_mask(placed(edit.name)).levels)
        torch.testing.assert_close(engine.sparse(picture), expected, rtol=0, atol=1e-4)


def placed(name: str, seed: int = 0) -> Tensor:
    (edit,) = (edit for edit in SQUARES if edit.name == name)
    return by_area.placed(edit, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("edit", SQUARES, ids=lambda edit: edit.name)
def test_squares_and_their_grown_masks_have_one_size_at_all_places(edit: by_area.Edit) -> None:
    masks = [RECIPE.from_mask(placed(edit.name, seed)) for seed in range(20)]
    assert edit.share is not None
    assert len({m.ratio for m in masks}) == 1
    assert masks[0].raw.double().mean().item() == pytest.approx(edit.share, abs=0.01)
    assert len({tuple(m.raw.nonzero()[0].tolist()) for m in masks}) > 1 or edit == ALL


def test_the_original_s_noise_is_a_row_without_a_curve_and_dense_has_operations_only(network: DDPMUNet) -> None:
    numbers = [m for m in run(TINY) if isinstance(m, Measurement)]
    assert {m.column for m in numbers if m.row == DENSE.key} == {"macs"}
    assert {m.step for m in numbers if m.row == KEPT.key} == {None}
    value = {(m.row, m.column): m.value for m in numbers if m.step is None}
    assert value[KEPT.key, "macs"] == 0
    assert 0 < value[RELEASED.key, "macs"] < value[DENSE.key, "macs"] * 1.5
    assert value[KEPT.key, "last_noise"] > value[RELEASED.key, "last_noise"]


def test_the_protocol_tells_what_tiles_over_the_edge_cost() -> None:
    network = DDPMUNet(by_area.ddpm_cat.CONFIG, fused=True).eval()
    picture, time = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1)
    engine = Engine(network, POLICIES[RELEASED])
    engine.prepare(picture, time)
    engine.set_masks(RECIPE.from_mask(placed(ALL.name)).levels)
    ratio = engine.macs().total() / dense_macs(network, record(network, picture, time)).total()
    (told,) = (here for subject, _, here in by_area.PROTOCOL if subject == "tiles over the edge")
    assert told.startswith(f"{ratio:.2f} times")


def test_small_scale_has_every_policy() -> None:
    (small,) = (e for e in PAPER.experiments if e.table == by_area.TABLE.key and "small" in e.scales)
    assert {row.key for row in POLICIES} <= set(small.rows)
    assert EVERY_LAYER.key in small.rows
    needs = small.scales["small"].plan.needs(None)
    assert [need.what.split(":")[0] for need in needs] == ["lpips-alex"]
