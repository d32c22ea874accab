"""SDEdit's compositing at a size of seconds: both blendings beside it, on the world and on a user's own composites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sdedit_tiny import context_of, experiment_of, measured, network_for, small, values, write_composites

from gengauge.benchmarks.core.claims import judge
from gengauge.benchmarks.papers.sdedit import compositing, runs
from gengauge.benchmarks.papers.sdedit.compositing import CLAIMS, EXPERIMENT, LAPLACIAN, POISSON, SDEDIT
from gengauge.benchmarks.papers.sdedit.loading import Layout, save_network
from gengauge.benchmarks.papers.sdedit.runs import run_edit
from gengauge.datasets import weights
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.sdedit.blending import laplacian_blend, poisson_blend

PRIOR = "ncsnpp-ffhq-256"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)


def tiny() -> Any:
    settings = EXPERIMENT.scales["quick"].settings
    return replace(settings, count=4, sampling=replace(settings.sampling, steps_per_unit=10, batch=3))


def published() -> Any:
    """Of the published schedule 7 steps in the place of 700."""
    settings = EXPERIMENT.scales["paper"].settings
    return replace(settings, sampling=replace(settings.sampling, steps_per_unit=20, batch=2))


def test_three_ways_of_blending_cats_are_measured_and_the_claims_judged() -> None:
    assert experiment_of("compositing") is EXPERIMENT
    cells: dict[tuple[int, str, str], float] = {}
    for seed in range(2):
        found, pictures = measured(EXPERIMENT, tiny(), "quick", seed)
        assert {m.samples for m in found} == {4}
        cells |= {(seed, row, column): value for (row, column), value in values(found).items()}
        assert [p.pixels.shape for p in pictures] == ([(5 * 64, 4 * 64, 3)] if seed == 0 else [])
        # Poisson blending changes nothing outside; SDEdit leaves the noise of its first level, 1 % of [-1, 1].
        assert cells[seed, POISSON, "outside"] == 0
        assert 1 < cells[seed, SDEDIT, "outside"] < 1.6
        assert cells[seed, LAPLACIAN, "outside"] > cells[seed, SDEDIT, "outside"]
    judged = {claim.key: judge(claim, cells) for claim in CLAIMS}
    assert set(judged) == {"outside-kept", "keeps-more-than-laplacian"}
    assert judged["outside-kept"].verdict == "holds"
    assert all(j.interval is not None and j.interval.count == 2 for j in judged.values())


def test_blending_takes_the_pictures_that_the_parts_were_cut_from() -> None:
    cells = values(measured(EXPERIMENT, tiny(), "quick")[0])
    parts = compositing._world_parts(context_of(tiny(), "quick"))
    assert parts.whole is not None
    for row, blend in ((LAPLACIAN, laplacian_blend), (POISSON, poisson_blend)):
        made = (255 * blend(parts.original.float() / 255, parts.whole.float() / 255, parts.pasted)).round()
        assert cells[row, "l2"] == pytest.approx(runs.l2(row, parts.composite, made.to(torch.uint8)).value)


def test_a_seed_gives_its_numbers_again_and_another_one_other_cats() -> None:
    first, again, other = (values(measured(EXPERIMENT, tiny(), "quick", seed)[0]) for seed in (0, 0, 1))
    assert first == again
    assert first[SDEDIT, "l2"] != other[SDEDIT, "l2"]
    parts = [compositing._world_parts(context_of(tiny(), "quick", seed)) for seed in range(2)]
    every = torch.cat([x for p in parts for x in (p.original, p.whole) if x is not None])
    assert len(every.unique(dim=0)) == 16


def test_pasting_changes_the_middle_only() -> None:
    parts = compositing._world_parts(context_of(tiny(), "quick"))
    changed = (parts.original != parts.composite).any(1, keepdim=True)
    assert not (changed & ~parts.pasted).any()
    assert 0.1 < parts.pasted.float().mean() < 0.3
    assert parts.whole is not None
    assert torch.equal(parts.composite, torch.where(parts.pasted, parts.whole, parts.original))


@pytest.mark.parametrize("layout", ["score", "bare"])
def test_own_composites_are_blended_by_the_published_prior_in_any_layout(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, network = network_for("faces", seed=1), network_for("faces")
    frequencies = "all_modules.0.W"  # are not trained, and so not averaged
    network.load_state_dict({**network.state_dict(), frequencies: other.state_dict()[frequencies]})
    save_network(other, tmp_path / "checkpoint_15.pth", layout, network.state_dict())
    monkeypatch.setenv(weights.WEIGHTS[PRIOR].variable, str(tmp_path / "checkpoint_15.pth"))
    data = write_composites(tmp_path / "data", 3)
    found, _ = measured(EXPERIMENT, published(), "paper", data=data)
    cells = values(found)
    # The same from the network itself.
    parts = compositing._own_parts(context_of(published(), "paper", data=data))
    edited = run_edit(network, published().sampling, parts.composite, 0, "cpu", parts.pasted)
    assert cells[SDEDIT, "l2"] == runs.l2(SDEDIT, parts.composite, edited).value
    away = (edited.float() - parts.original.float()).permute(0, 2, 3, 1)[~parts.pasted[:, 0]]
    assert cells[SDEDIT, "outside"] == pytest.approx(away.square().mean().sqrt().item())
    # Of finished composites the gradient across the seam is left out.
    flat = poisson_blend(parts.original.float() / 255, parts.composite.float() / 255, parts.pasted, "flat")
    made = (255 * flat).round().to(torch.uint8)
    assert cells[POISSON, "l2"] == pytest.approx(runs.l2(POISSON, parts.composite, made).value)
    assert cells[POISSON, "outside"] == 0


def test_at_the_published_number_of_steps_the_picture_outside_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exploding form leaves 0.01 of [0, 1], 2.6 grey levels, which the claim must allow for."""
    settings = EXPERIMENT.scales["paper"].settings
    assert (settings.sampling.t0, settings.sampling.steps, settings.sampling.repeats) == (0.35, 700, 1)
    parts = compositing._own_parts(context_of(settings, "paper", data=write_composites(tmp_path, 2)))
    flat = torch.full_like(parts.composite, 128)  # grey: no noise is cut off
    out = run_edit(
        lambda x, sigma: torch.zeros_like(x),
        settings.sampling,
        flat,
        0,
        "cpu",
        parts.pasted,
    )
    away = (out.float() - 128).permute(0, 2, 3, 1)[~parts.pasted[:, 0]].square().mean().sqrt().item()
    assert away == pytest.approx(2.57, abs=0.15)
    (claim,) = (claim for claim in CLAIMS if claim.key == "outside-kept")
    assert claim.margin({"away": away}) > 0
    assert claim.margin({"away": 2 * away}) < 0


def test_own_parts_are_the_files(tmp_path: Path) -> None:
    data = write_composites(tmp_path, 2)
    parts = compositing._own_parts(context_of(published(), "paper", data=data))
    for part, tensor in (("original", parts.original), ("composite", parts.composite)):
        with Image.open(data / "sdedit-composites" / part / "1.png") as picture:
            assert np.array_equal(np.asarray(picture), tensor[1].permute(1, 2, 0).numpy())
    assert parts.pasted.shape == (2, 1, 32, 32)
    assert parts.pasted.sum() == 2 * 16 * 16
    assert parts.whole is None


def test_composites_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    data = write_composites(tmp_path, 1, size=48)
    with pytest.raises(
        ValueError,
        match=r"sdedit-composites: 0 has \(48, 48\) px; the network takes 32 x 32: resize original, composite and mask",
    ):
        list(EXPERIMENT.run(context_of(published(), "paper", data=data)))


def test_what_is_missing_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (None, tmp_path / "empty"):
        with pytest.raises(DataNotFound, match=r"original/NAME\.png, composite/NAME\.png and mask/NAME\.png"):
            list(EXPERIMENT.run(context_of(published(), "paper", data=data)))
    data = write_composites(tmp_path / "data", 1)
    with pytest.raises(WeightsNotFound, match=r"download the checkpoint_.*set GENGAUGE_NCSNPP_FFHQ_256"):
        list(EXPERIMENT.run(context_of(published(), "paper", data=data)))
    (data / "sdedit-composites" / "mask" / "0.png").unlink()
    with pytest.raises(DataNotFound, match=r"mask/0\.png"):
        list(EXPERIMENT.run(context_of(published(), "paper", data=data)))


def test_a_prior_of_other_noise_levels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of churches, whose noise goes to 380, would be run with the levels of faces."""
    network = network_for("faces")
    state = {**network.state_dict(), "sigmas": network.state_dict()["sigmas"] * 380 / 348}
    torch.save(state, tmp_path / "x.pth")
    monkeypatch.setenv(weights.WEIGHTS[PRIOR].variable, str(tmp_path / "x.pth"))
    data = write_composites(tmp_path / "data", 1)
    with pytest.raises(ValueError, match="noise levels start at 380, sigma_max is 348"):
        list(EXPERIMENT.run(context_of(published(), "paper", data=data)))
