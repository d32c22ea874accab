"""Cats in all poses: what latents name, what the zoo learnt of them, and the tables that are measured on them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histories import BY_TWO, notes, retell
from skimage import data
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture, Result
from gengauge.benchmarks.metrics.pck import pck
from gengauge.benchmarks.papers.gangealing import PAPER, ablation, comparison, counts, learning
from gengauge.benchmarks.papers.gangealing.classical import best_similarity, moved, sift_similarity
from gengauge.benchmarks.papers.gangealing.evaluation import Protocol, transfer
from gengauge.benchmarks.papers.gangealing.world import ALPHAS, Pairs
from gengauge.benchmarks.zoo import aligners, entries, posed_cats, stylegan2_poses
from gengauge.benchmarks.zoo.aligners import ALIGNERS, RECIPES
from gengauge.benchmarks.zoo.networks import networks
from gengauge.datasets import world

PLAIN = Protocol(flips=False)


def latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, posed_cats.Z_DIM, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------------------
# What latents name


def test_poses_are_wider_than_the_worlds_and_all_else_is_as_the_world_draws_it() -> None:
    mine = posed_cats.scenes(3, range(300))
    theirs = world.scenes(3, range(300), **posed_cats.FIXED)
    for name, (old, new) in posed_cats.WIDER.items():
        for a, b in zip(mine, theirs, strict=True):
            share = (getattr(b, name) - old[0]) / (old[1] - old[0])
            assert getattr(a, name) == pytest.approx(new[0] + share * (new[1] - new[0]))
        values = [getattr(scene, name) for scene in mine]
        assert min(values) >= new[0]
        assert max(values) <= new[1]
        assert max(values) - min(values) > 0.9 * (new[1] - new[0])
    same = dict.fromkeys(posed_cats.WIDER, 0.3)
    assert [replace(s, **same) for s in mine] == [replace(s, **same) for s in theirs]


def test_a_latent_names_a_pose_and_a_look_and_only_its_direction_counts() -> None:
    layout, look = latents(20), latents(20, 1)
    both, own = posed_cats.named_by(layout, look), posed_cats.named_by(layout, layout)
    other = posed_cats.named_by(look, look)
    poses, looks = ("rotation", "scale", "x", "y", "yaw", "pitch"), ("fur_colour", "background_colour", "warmth")
    for mixed, a, b in zip(both, own, other, strict=True):
        assert all(getattr(mixed, name) == getattr(a, name) for name in poses)
        assert all(getattr(mixed, name) == getattr(b, name) for name in looks)
    scaled = posed_cats.named_by(3 * layout, 0.1 * look)
    assert all(
        getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-5, abs=1e-6)
        for a, b in zip(both, scaled, strict=True)
        for name in (*poses, "warmth")
    )
    many = posed_cats.named_by(latents(400), latents(400))
    assert {scene.fur_colour for scene in many} == set(world.NATURAL_FUR_COLOURS)
    assert {scene.background_colour for scene in many} == set(world.BACKGROUND_COLOURS)
    low, high = posed_cats.WIDER["rotation"][1]
    shares = np.sort([(scene.rotation - low) / (high - low) for scene in many])
    assert np.abs(shares - np.linspace(0, 1, 400)).max() < 0.1  # uniform
    narrow = posed_cats.named_by(layout, look, spread=0.1)
    assert all(abs(scene.rotation) <= 0.1 * high + 1e-9 for scene in narrow)


def test_attributes_are_those_of_the_scene() -> None:
    z = latents(50)
    found = posed_cats.attributes(z)
    for row, scene in zip(found.tolist(), posed_cats.named_by(z, z), strict=True):
        low, high = posed_cats.WIDER["rotation"][1]
        assert row[0] == pytest.approx(2 * (scene.rotation - low) / (high - low) - 1, abs=1e-5)
        colours = row[8 : 8 + len(world.NATURAL_FUR_COLOURS)]
        assert world.NATURAL_FUR_COLOURS[colours.index(2.0)] == scene.fur_colour
        assert sorted(colours)[:-1] == [0.0] * (len(colours) - 1)


# ----------------------------------------------------------------------------------------------------------------------
# What the zoo learnt


@pytest.mark.parametrize("name", [stylegan2_poses.NAME, *(aligner.NAME for aligner in ALIGNERS.values())])
def test_a_file_is_that_of_its_card_and_small(name: str) -> None:
    entry: Any = networks()[name]
    card = entry.card()
    assert card["bytes"] == (entries.FOLDER / f"{name}.safetensors").stat().st_size < 3_000_000
    network = entry.load()
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_transformers_were_trained_from_the_generator_that_is_here() -> None:
    for aligner in ALIGNERS.values():
        assert aligner.card()["generator_sha256"] == stylegan2_poses.card()["sha256"]
        assert aligner.card()["iterations"] == RECIPES[aligner.key].iterations


@torch.no_grad()
def test_the_generator_makes_what_latents_name() -> None:
    network = stylegan2_poses.load()
    layout, look = latents(24), latents(24, 1)
    wanted = world.render(posed_cats.named_by(layout, look), posed_cats.RESOLUTION).images
    w = [network.mapping(z, None) for z in (layout, look)]
    made = network.synthesis(torch.cat([w[0][:, : stylegan2_poses.INJECT], w[1][:, stylegan2_poses.INJECT :]], 1))
    error = (made - wanted).abs().mean((1, 2, 3))
    others = torch.stack([(made.roll(i, 0) - wanted).abs().mean((1, 2, 3)) for i in range(1, 24)])
    assert error.mean() < 0.4 * others.mean()


@torch.no_grad()
def test_the_generators_two_forms_make_the_same_cats() -> None:
    network, aligned = stylegan2_poses.load(), stylegan2_poses.aligned_form()
    z = latents(4)
    theirs = network(z, noise_mode="const")
    mine = aligned.synthesis(aligned.latents([aligned.style(z)]), randomize_noise=False)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("key", list(ALIGNERS))
def test_a_transformer_takes_landmarks_nearer_than_they_were(key: str) -> None:
    drawn = Pairs(60).drawn(77)  # a seed that no run draws
    found = transfer(ALIGNERS[key].load(), drawn.batches(), Protocol(iters=3, flips=False))
    left = pck(drawn.hits(found.points_a))
    assert (pck(drawn.hits(found.estimated_b)) > 1.5 * left).all()


def test_transformers_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligners, "SAMPLES", 3000)
    for key, aligner in ALIGNERS.items():
        aligner.make(tmp_path, tmp_path / "work", "cpu", kimg=2 * aligners.BATCH / 1000)
        assert aligner.card(tmp_path)["iterations"] == 2
        assert type(aligner.load(tmp_path)) is type(RECIPES[key].build())


def test_the_generator_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught = stylegan2_poses.teach_mapping
    monkeypatch.setattr(stylegan2_poses, "teach_mapping", lambda mapping: taught(mapping, 2, 4))
    stylegan2_poses.make(tmp_path, tmp_path / "work", "cpu", kimg=0.032, samples=4)
    assert stylegan2_poses.card(tmp_path)["iterations"] == 2
    before = stylegan2_poses.card(tmp_path)["sha256"]
    stylegan2_poses.make(tmp_path, tmp_path / "work", "cpu", kimg=0.032, samples=4)  # from its state, which is the end
    assert stylegan2_poses.card(tmp_path)["sha256"] == before


# ----------------------------------------------------------------------------------------------------------------------
# Ways without learning


def test_the_best_similarity_is_found_and_is_the_best() -> None:
    random = np.random.default_rng(0)
    start = random.normal(size=(9, 2))
    linear = 1.7 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    matrix = np.concatenate([linear, [[3.0], [-2.0]]], 1)
    np.testing.assert_allclose(best_similarity(start, moved(start, matrix)), matrix, atol=1e-12)
    end = moved(start, matrix) + random.normal(size=(9, 2))
    best = best_similarity(start, end)
    least = np.square(moved(start, best) - end).sum()
    for _ in range(50):
        shift = 0.01 * random.normal(size=4)
        a, b = shift[:2]
        near = best + np.array([[a, -b, shift[2]], [b, a, shift[3]]])
        assert np.square(moved(start, near) - end).sum() > least
    with pytest.raises(ValueError, match="two points or more"):
        best_similarity(start[:1], end[:1])


def test_matched_features_find_a_known_similarity_and_none_where_there_is_none() -> None:
    import cv2

    photograph = np.asarray(data.astronaut())[:256, 100:356].copy()
    matrix = np.array([[0.9, -0.3, 40.0], [0.3, 0.9, -25.0]])
    turned = cv2.warpAffine(photograph, matrix, (256, 256), flags=cv2.INTER_CUBIC)
    found = sift_similarity(photograph, turned)
    assert found is not None
    corners = np.array([[60.0, 60.0], [200.0, 60.0], [60.0, 200.0], [200.0, 200.0]])
    np.testing.assert_allclose(moved(corners, found), moved(corners, matrix), atol=0.5)
    assert sift_similarity(np.full_like(photograph, 127), turned) is None
    assert sift_similarity(photograph, np.full_like(photograph, 127)) is None


def test_without_opencv_only_its_row_is_missing(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    settings = replace(comparison.EXPERIMENT.scales["quick"].settings, pairs=Pairs(3))
    results = [m for m in comparison.compare(replace(context, settings=settings)) if isinstance(m, Measurement)]
    assert {(m.row, m.column) for m in results} == declared(comparison.EXPERIMENT)
    for m in results:
        assert ("pip install opencv" in m.missing) == (m.row == comparison.SIFT.key)
        assert np.isnan(m.value) == (m.row == comparison.SIFT.key)


# ----------------------------------------------------------------------------------------------------------------------
# The tables


def test_true_points_are_all_right_and_pairs_differ_by_seed() -> None:
    drawn = Pairs(30).drawn(0)
    assert (pck(drawn.hits(drawn.points[1::2, :, :2].numpy())) == 100).all()
    shifted = drawn.points[1::2, :, :2].numpy() + np.array([0.07, 0.0]) * drawn.lengths[1::2, None, None]
    assert pck(drawn.hits(shifted)).tolist() == [100.0, 100.0, 0.0]  # 0.2, 0.1, 0.05
    assert not torch.equal(drawn.pictures, Pairs(30).drawn(1).pictures)
    assert sum(len(batch.a) for batch in Pairs(51).drawn(0).batches()) == 51


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(None, 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None)


def cells(results: list[Result]) -> dict[tuple[str, str], float]:
    return {(m.row, m.column): m.value for m in results if isinstance(m, Measurement) and m.step is None}


def declared(experiment: Experiment) -> set[tuple[str, str]]:
    return {(row, column.key) for row in experiment.rows for column in experiment.columns}


def test_the_comparison_fills_its_table(context: Context) -> None:
    experiment = comparison.EXPERIMENT
    settings = replace(experiment.scales["quick"].settings, pairs=Pairs(12))
    results = list(experiment.run(replace(context, settings=settings)))
    found = cells(results)
    assert found.keys() == declared(experiment)
    assert {r.name for r in results if isinstance(r, Picture)} == {"pairs", "average"}
    assert found[comparison.LEFT.key, "pck_10"] < found[comparison.BOTH.key, "pck_10"]
    for m in results:
        if isinstance(m, Measurement):
            assert m.low is not None
            assert m.high is not None
            assert m.low <= m.value <= m.high


TINY = replace(aligners.SHORT, iterations=4, annealing=1, batch=2, transformer={"flow_size": 64, "base_channels": 16})


def test_the_live_training_fills_its_table_and_its_curve(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligners, "SAMPLES", 3000)
    settings = learning.Settings(TINY, Pairs(6), PLAIN, every=2)
    results = list(learning.EXPERIMENT.run(replace(context, settings=settings)))
    assert cells(results).keys() == declared(learning.EXPERIMENT)
    steps = [m.step for m in results if isinstance(m, Measurement) and m.step is not None and m.column == "pck_10"]
    assert steps == [0, 2, 4]
    drawn = Pairs(6).drawn(0)
    left = pck(drawn.hits(drawn.points[0::2, :, :2].numpy()))[list(ALPHAS).index("pck_20")]
    assert cells(results)[learning.LIVE.key, "pck_20_start"] == pytest.approx(left, abs=1e-6)
    assert notes(results) == {}
    retell(context.work)
    again = notes(learning.EXPERIMENT.run(replace(context, settings=settings)))
    assert again == dict.fromkeys(declared(learning.EXPERIMENT), BY_TWO)


@pytest.mark.parametrize("row", list(ablation.RECIPES), ids=str)
def test_the_ablation_fills_its_rows(context: Context, row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligners, "SAMPLES", 3000)
    (experiment,) = (e for e in ablation.EXPERIMENTS if e.rows == (row.key,))
    settings: ablation.Settings = experiment.scales["small"].settings
    assert settings.recipe == ablation.RECIPES[row]
    small = replace(settings.recipe, iterations=2, batch=2, transformer=TINY.transformer)
    settings = replace(settings, recipe=small, pairs=Pairs(4))
    assert experiment.train is not None
    experiment.train(replace(context, settings=settings))
    results = list(experiment.run(replace(context, settings=settings)))  # of the training that is there
    longer = replace(settings, recipe=replace(small, iterations=3))
    experiment.train(replace(context, settings=longer))  # another recipe is another training
    assert len(list(context.work.glob("gangealing-*"))) == 2
    assert cells(results).keys() == declared(experiment)
    assert notes(results) == {}
    retell(context.work)
    again = notes(experiment.run(replace(context, settings=settings)))
    assert again.keys() == declared(experiment)
    assert all(note.endswith(f"; {BY_TWO}") for note in again.values())


def test_what_is_left_out_in_the_ablation_is_left_out() -> None:
    full = ablation.RECIPES[ablation.FULL]
    assert ablation.RECIPES[ablation.ONLY].transforms == "similarity"
    assert ablation.RECIPES[ablation.SUDDEN].annealing == 0 < full.annealing
    assert ablation.RECIPES[ablation.ROUGH].tv_weight == 0 < full.tv_weight
    assert {recipe.iterations for recipe in ablation.RECIPES.values()} == {full.iterations}


def test_counts_are_those_of_the_published_networks(context: Context) -> None:
    """Of the dossier, measured on the published code, whose filters are other convolutions."""
    found = cells(list(counts.EXPERIMENT.run(replace(context, settings=counts.Settings()))))
    assert found.keys() == declared(counts.EXPERIMENT)
    values = [found[row, "parameters"] for row in counts.EXPERIMENT.rows]
    assert values == [30034338, 29328669, 43054278, 51052440, 22424644, 20629634, 18293320, 14714688 + 1472]
    assert found["generator-256-px", "macs"] == pytest.approx(45.375, rel=1e-3)
    assert found["transformer-similarity-and-flow", "macs"] == pytest.approx(15.525, rel=5e-3)
    assert found["lpips-on-vgg16-a-pair", "macs"] == pytest.approx(10.024, rel=1e-3)


def test_claims_speak_of_rows_that_are_measured() -> None:
    measured = {
        (e.table, row, column)
        for e in PAPER.experiments
        for row, column in declared(e)
        if (row, column) not in e.without
    }
    for claim in PAPER.claims:
        assert all((claim.table, cell.row, cell.column) in measured for cell in claim.cells.values())
