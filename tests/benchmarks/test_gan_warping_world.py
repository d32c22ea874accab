"""Edits of the embedded world's cats: their points, what held-out cats should look like, and the tables of both."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histories import BY_TWO, notes, retell
from torch import nn

from gengauge.benchmarks.core.claims import MIN_SEEDS, judge
from gengauge.benchmarks.core.experiments import SCALES, Context, Experiment, Measurement, Picture, Result
from gengauge.benchmarks.core.tables import Row
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.metrics.edit_fidelity import COLUMNS
from gengauge.benchmarks.papers.gan_warping import (
    PAPER,
    ablation,
    comparison,
    composition,
    counts,
    edits,
    scores,
    world,
)
from gengauge.benchmarks.papers.gan_warping.edits import EARS, EDITS, NOSE, editable, landmarks, pointed, warps
from gengauge.benchmarks.papers.gan_warping.figures import sheet
from gengauge.benchmarks.papers.gan_warping.world import RECIPE, Judges, Lesson, held_out, mapped, pixels
from gengauge.benchmarks.training.warping import latents
from gengauge.benchmarks.zoo import posed_cats, stylegan2_poses
from gengauge.datasets.warp_edits import read_warp_edit, write_warp_edit
from gengauge.reference.gan_warping.low_rank import compose, layers, render
from gengauge.reference.gan_warping.training import Training
from gengauge.reference.gan_warping.warps import pixel_grid, with_corners
from gengauge.reference.nets.stylegan2.generator import Generator

pytestmark = pytest.mark.usefixtures("one_thread")

R = posed_cats.RESOLUTION
HELD = 4
LAST = R - 1
OUTSIDE = 143  # a cat whose ears both end outside of its picture


@pytest.fixture(scope="session")
def cats() -> Generator:
    return stylegan2_poses.load()


@pytest.fixture(scope="session")
def found() -> list[dict[str, tuple[float, float]]]:
    """Landmarks of the cats of seeds 0 to 199."""
    return landmarks(latents(range(200), 32))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(None, 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None)


def rows_of(points: Any) -> dict[tuple[float, float], tuple[float, float]]:
    """Destinations by source."""
    return {(a, b): (c, d) for a, b, c, d in points.tolist()}


def inside(place: Iterable[float]) -> bool:
    return all(0 <= x <= LAST for x in place)


# ----------------------------------------------------------------------------------------------------------------------
# Points


def test_ear_tips_move_outwards_along_their_ears_and_pins_stay(found: list[dict[str, tuple[float, float]]]) -> None:
    moved = ended = 0
    for one in found[:OUTSIDE]:
        places = rows_of(EARS.points(one, R))
        for side in edits.SIDES:
            tip, root = np.array(one[f"{side}_ear_tip"]), np.array(one[f"{side}_ear_base"])
            if not inside(tip):
                assert tuple(tip) not in places
                continue
            way = np.array(places[tuple(tip)]) - tip
            along = tip - root
            assert way @ along > 0 or not way.any()
            assert abs(way[0] * along[1] - way[1] * along[0]) < 1e-3 * (along @ along)
            goal = tip + 0.7 * along
            if inside(goal):
                moved += 1
                np.testing.assert_allclose(tip + way, goal, atol=1e-4)
            else:
                ended += 1
                place = tip + way
                assert inside(place)
                assert min(place.min(), LAST - place.max()) < 1e-4
        tips = {one[f"{side}_ear_tip"] for side in edits.SIDES}
        assert all(places[source] == source for source in places if source not in tips)
        pinned = [name for name in EARS.pins if one[name] in places]
        assert {"left_ear_base", "left_eye", "nose", "chin"} <= set(pinned)
    assert moved > 100
    assert ended > 10


def test_a_nose_and_its_mouth_move_alike_and_ears_stay(found: list[dict[str, tuple[float, float]]]) -> None:
    for one in found[:50]:
        places = rows_of(NOSE.points(one, R))
        way = 0.35 * (np.array(one["forehead"]) - np.array(one["nose"]))
        for name in ("nose", "mouth", "left_mouth_corner", "right_mouth_corner"):
            if one[name] in places and inside(np.array(one[name]) + way):
                np.testing.assert_allclose(np.array(places[one[name]]) - one[name], way, atol=1e-4)
        assert places[one["left_ear_base"]] == one["left_ear_base"]


def test_two_edits_together_move_what_each_moves_and_pin_what_none_moves(
    found: list[dict[str, tuple[float, float]]],
) -> None:
    both = edits.together([EARS, NOSE])
    assert both.moves == (*EARS.moves, *NOSE.moves)
    moved = {move.landmark for move in both.moves}
    assert set(both.pins) == {*EARS.pins, *NOSE.pins} - moved
    assert "nose" in EARS.pins
    assert "left_ear_tip" in NOSE.pins
    assert len(set(both.pins)) == len(both.pins)
    swapped = edits.together([NOSE, EARS])
    for one in found[:20]:
        together = rows_of(both.points(one, R))
        assert together == rows_of(swapped.points(one, R))
        for edit in (EARS, NOSE):
            alone = rows_of(edit.points(one, R))
            for move in edit.moves:
                if one[move.landmark] in together:
                    assert together[one[move.landmark]] == alone[one[move.landmark]]
        assert all(together[one[pin]] == one[pin] for pin in both.pins if one[pin] in together)
    assert edits.together([EARS]) == EARS


def test_cats_without_anything_to_move_are_passed_over(found: list[dict[str, tuple[float, float]]]) -> None:
    assert not any(inside(found[OUTSIDE][f"{side}_ear_tip"]) for side in edits.SIDES)
    assert editable(EARS, OUTSIDE - 2, 4) == [OUTSIDE - 2, OUTSIDE - 1, OUTSIDE + 1, OUTSIDE + 2]
    assert editable(NOSE, OUTSIDE - 2, 4) == list(range(OUTSIDE - 2, OUTSIDE + 2))
    for make in (lambda: warps(("ears",), [OUTSIDE]), lambda: pointed(EARS, [1, OUTSIDE], "x", "y")):
        with pytest.raises(ValueError, match=f"the cat of seed {OUTSIDE} cannot be edited: all landmarks .* outside"):
            make()
    assert len(warps(("ears",), editable(EARS, 100, 50)).pixels) == 50


def test_latents_are_those_of_nvidias_tools() -> None:
    z = latents([3, 5], 32)
    assert z.shape == (2, 32)
    np.testing.assert_array_equal(z[1].numpy(), np.random.RandomState(5).randn(1, 32)[0].astype(np.float32))


def test_warps_take_each_destination_from_its_source() -> None:
    drawn = warps(("ears",), [0, 1])
    assert drawn.pixels.shape == (2, 2, R, R)
    for one, grid in zip(landmarks(drawn.z), drawn.pixels, strict=True):
        for (x, y), (u, v) in rows_of(EARS.points(one, R)).items():
            assert grid[:, math.floor(v), math.floor(u)].tolist() == [math.floor(x), math.floor(y)]
        for x, y in ((0, 0), (0, LAST), (LAST, 0), (LAST, LAST)):
            assert grid[:, y, x].tolist() == [x, y]


def test_warps_of_larger_pictures_are_the_same_warps() -> None:
    (small,), (large,) = warps(("nose",), [0]).pixels, warps(("nose",), [0], 2 * R).pixels
    assert large.shape == (2, 2 * R, 2 * R)
    still = torch.stack(torch.meshgrid(torch.arange(2 * R), torch.arange(2 * R), indexing="xy"))
    ways, own = (large - still).norm(dim=0), (small - still[:, :R, :R]).norm(dim=0)
    assert ways.max() == pytest.approx(2 * float(own.max()), rel=0.2)
    at = [(int(w.argmax()) // w.shape[1] / len(w), int(w.argmax()) % w.shape[1] / len(w)) for w in (ways, own)]
    assert np.abs(np.subtract(*at)).max() < 0.06


@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_in_a_file_warps_as_the_landmarks_do(name: str, tmp_path: Path) -> None:
    seeds = editable(EDITS[name], 0, 60)
    edit = pointed(EDITS[name], seeds, stylegan2_poses.NAME, name)
    write_warp_edit(tmp_path / "edit.json", edit)
    read = read_warp_edit(tmp_path / "edit.json")
    assert read == edit
    assert (read.generator, read.resolution, read.truncation, read.name) == (stylegan2_poses.NAME, R, 1.0, name)
    assert [picture.seed for picture in read.pictures] == seeds
    rows = [with_corners(torch.from_numpy(picture.rows()), (R, R)) for picture in read.pictures]
    assert torch.equal(torch.stack([pixel_grid(points, (R, R)) for points in rows]), warps((name,), seeds).pixels)
    exact = EDITS[name].points(landmarks(latents(seeds[:1], 32))[0], R)
    assert np.abs(read.pictures[0].rows() - exact).max() <= 0.01


# ----------------------------------------------------------------------------------------------------------------------
# Held-out cats and trainings


def test_held_out_masks_cover_what_moves(cats: Generator) -> None:
    held = held_out(cats, ("ears",), HELD, 0)
    assert held.base.shape == held.targets.shape == (HELD, R, R, 3)
    assert held.masks.shape == (HELD, R, R)
    assert set(np.unique(held.masks)) == {0.0, 1.0}
    first = world.FIRST_HELD_OUT
    grids = warps(("ears",), editable(EARS, first, HELD)).pixels
    for y, x in ((0, 0), (20, 31), (50, 7)):
        for grid, mask in zip(grids, held.masks, strict=True):
            assert mask[y, x] == float(math.hypot(grid[0, y, x] - x, grid[1, y, x] - y) >= 1)
    changes = np.abs(held.base.astype(int) - held.targets).sum(3)
    assert changes[held.masks == 1].mean() > 5 * changes[held.masks == 0].mean()
    for one, mask in zip(landmarks(latents(range(first, first + HELD), 32)), held.masks, strict=True):
        for (x, y), (u, v) in rows_of(EARS.points(one, R)).items():
            if math.hypot(u - x, v - y) > 2:
                assert mask[math.floor(v), math.floor(u)] == 1
    both = held_out(cats, ("ears", "nose"), HELD, 0)
    assert np.array_equal(both.base, held.base)
    assert both.masks.sum() > held.masks.sum()
    np.testing.assert_array_equal(pixels(cats, held.ws), held.base)


def test_held_out_cats_are_neither_edited_nor_sampled() -> None:
    longest = max(lesson.pictures for lesson in ablation.LESSONS.values())
    assert 20 * longest < world.FIRST_HELD_OUT
    assert world.FIRST_HELD_OUT + 1000 < composition.FIRST_SAMPLE


BRIEF = Lesson(replace(RECIPE, iterations=3, batch=2), pictures=3)


def small(experiment: Experiment, context: Context, lesson: Lesson = BRIEF) -> Context:
    """The experiment's own settings with a training of few steps and few held-out pictures."""
    s = experiment.scales["quick"].settings
    if isinstance(s, comparison.Settings):
        s = replace(s, lessons=tuple((row, shortened(one)) for row, one in s.lessons), held_out=HELD)
    else:
        s = replace(s, lesson=lesson, held_out=HELD)
    return replace(context, settings=s)


def shortened(lesson: Lesson, iterations: int = 3) -> Lesson:
    return replace(lesson, recipe=replace(lesson.recipe, iterations=iterations, batch=2), pictures=3)


def cells(results: list[Result]) -> dict[tuple[str, str], float]:
    return {(m.row, m.column): m.value for m in results if isinstance(m, Measurement) and m.step is None}


def declared(experiment: Experiment) -> set[tuple[str, str]]:
    return {(row, column.key) for row in experiment.rows for column in experiment.columns} - experiment.without


def experiment_of(key: str) -> Experiment:
    return next(e for e in PAPER.experiments if e.key == key)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Result]]]:
    """The comparisons of both edits, and where their trainings are."""
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("warp-world")
    start = Context(None, 0, "quick", "cpu", None, work, lambda done, total, doing: None)
    found = {}
    for name in EDITS:
        experiment = experiment_of(f"world-{name}")
        found[name] = list(experiment.run(small(experiment, start)))
    return work, found


@pytest.mark.parametrize("name", list(EDITS))
def test_the_comparison_fills_its_rows_and_curves(
    name: str, trained: tuple[Path, dict[str, list[Result]]], cats: Generator
) -> None:
    experiment, results = experiment_of(f"world-{name}"), trained[1][name]
    found = cells(results)
    assert found.keys() == declared(experiment)
    assert all(math.isfinite(value) for value in found.values())
    for m in results:
        if isinstance(m, Measurement):
            assert m.samples is not None
            assert m.samples == HELD or (
                m.column.startswith("chamfer") and 0 < m.samples < HELD and "no edge" in m.note
            )
    curves = [m for m in results if isinstance(m, Measurement) and m.step is not None]
    base = Row(comparison.BASE, name).key
    assert {m.row for m in curves} == set(experiment.rows) - {base}
    for row in {m.row for m in curves}:
        for column in comparison.WATCHED:
            points = {m.step: m.value for m in curves if (m.row, m.column) == (row, column)}
            assert list(points) == [0, 3]
            assert points[0] == pytest.approx(found[base, column], rel=1e-6)
            assert points[3] == pytest.approx(found[row, column], rel=1e-6)
            assert points[3] != pytest.approx(points[0], rel=1e-6)
    (picture,) = (r for r in results if isinstance(r, Picture))
    assert (picture.row, picture.name) == (Row(comparison.METHOD, name).key, "held-out")
    assert picture.pixels.shape == (3 * 128, HELD * 128, 3)
    held = held_out(cats, (name,), HELD, 0)
    np.testing.assert_array_equal(picture.pixels[:128:2, :128:2], held.base[0])
    values = cells(list(held.scored(base, held.base, Judges())))
    assert values == {key: value for key, value in found.items() if key[0] == base}


def test_a_seed_gives_the_same_numbers_again_and_another_seed_others(
    trained: tuple[Path, dict[str, list[Result]]], context: Context
) -> None:
    experiment = experiment_of("world-nose")
    again = list(experiment.run(small(experiment, context)))
    assert cells(again) == cells(trained[1]["nose"])
    other = list(experiment.run(small(experiment, replace(context, seed=1))))
    for row in experiment.rows:
        assert cells(other)[row, "psnr"] != cells(again)[row, "psnr"]
    assert not any(isinstance(r, Picture) for r in other)
    assert len(list(context.work.glob("gan-warping-*"))) == 2 * len(comparison.METHODS["nose"])


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be trained any more."""
    monkeypatch.setattr(Training, "step", lambda *_, **__: pytest.fail("it was trained again"))


@pytest.mark.usefixtures("untrained")
def test_the_composition_takes_the_comparisons_trainings(
    trained: tuple[Path, dict[str, list[Result]]], context: Context
) -> None:
    experiment = experiment_of("composition")
    results = list(experiment.run(small(experiment, replace(context, work=trained[0]))))
    found = cells(results)
    assert found.keys() == declared(experiment)
    assert all(math.isfinite(value) for value in found.values())
    assert len({found[row, "psnr"] for row in experiment.rows}) == len(experiment.rows)
    assert [r.name for r in results if isinstance(r, Picture)] == ["held-out"]


@pytest.mark.usefixtures("untrained")
def test_rows_tell_which_of_their_edits_others_trained(
    trained: tuple[Path, dict[str, list[Result]]], context: Context, tmp_path: Path
) -> None:
    here = replace(context, work=shutil.copytree(trained[0], tmp_path / "copy"))
    for state in here.work.glob("gan-warping-*/step-*"):
        if json.loads((state / "about.json").read_text())["config"]["edit"] == "ears":
            retell(state)
    for name in EDITS:
        experiment = experiment_of(f"world-{name}")
        assert notes(trained[1][name]) == {}
        again = notes(experiment.run(small(experiment, here)))
        base = Row(comparison.BASE, name).key
        assert again.keys() == ({c for c in declared(experiment) if c[0] != base} if name == "ears" else set())
        assert all(note.endswith(BY_TWO) for note in again.values())
    told = notes(experiment_of("composition").run(small(experiment_of("composition"), here)))
    assert {row for row, _ in told} == {composition.ALONE["ears"].key, composition.BOTH.key}
    assert all(note.endswith(f"ears: {BY_TWO}") == (row == composition.BOTH.key) for (row, _), note in told.items())


def test_published_settings_of_both_tables_are_one_training() -> None:
    s = experiment_of("composition").scales["quick"].settings
    assert s == experiment_of("samples").scales["quick"].settings
    for name in EDITS:
        theirs = experiment_of(f"world-{name}").scales["quick"].settings
        assert dict(theirs.lessons)[Row(comparison.METHOD, name)] == s.lesson
        assert theirs.held_out == s.held_out


def test_edits_of_different_layers_compose_exactly(cats: Generator) -> None:
    state, names = cats.state_dict(), layers(cats)
    noise = torch.Generator().manual_seed(0)
    both = {
        edit: {f"{names[i]}.weight": state[f"{names[i]}.weight"] + torch.randn((), generator=noise)}
        for edit, i in (("ears", 3), ("nose", 5))
    }
    found = composition.composed(cats, both)
    assert found.keys() == {f"{names[i]}.weight" for i in (3, 5)}
    for edit in both.values():
        for name, value in edit.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    ws = mapped(cats, latents(range(2), 32))
    with torch.no_grad():
        wanted = render(cats, ws, both["ears"] | both["nose"], noise_mode="const")
        torch.testing.assert_close(render(cats, ws, found, noise_mode="const"), wanted, rtol=0, atol=1e-4)
    same = dict.fromkeys(("ears", "nose"), both["ears"])
    (weight,) = composition.composed(cats, same).values()
    name = f"{names[3]}.weight"
    torch.testing.assert_close(weight, 2 * both["ears"][name] - state[name], rtol=0, atol=1e-5)
    half = compose(state, [both["ears"]], [0.5])[name]
    torch.testing.assert_close(half, (both["ears"][name] + state[name]) / 2, rtol=0, atol=1e-6)


class Levels(nn.Module):
    """Stands for Inception: mean grey levels of 2 x 2 places."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_samples_of_edits_that_change_nothing_are_the_bases(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step, whose rate is 0."""
    network = FeatureNetwork("inception", "FID", 8, 12, Levels(), lambda x, mode: x / 128 - 1, None, "grey levels")
    monkeypatch.setattr(composition, "load_network", lambda name: network)
    told: list[str] = []
    experiment = experiment_of("samples")
    start = small(experiment, context, shortened(BRIEF, 1))
    settings = replace(start.settings, samples=12)
    start = replace(start, settings=settings, progress=lambda done, total, doing: told.append(doing))
    found = cells(list(experiment.run(start)))
    assert found.keys() == declared(experiment)
    others = composition.SAMPLED_OTHERS.key
    base = composition.SAMPLED_BASE.key
    for row in experiment.rows:
        assert row in (base, others) or found[row, "fid_base"] == pytest.approx(0, abs=1e-6)
        assert found[row, "diversity"] > 0.05
    assert found[others, "fid_base"] > 0.01
    assert len({found[row, "diversity"] for row in experiment.rows if row != others}) == 1
    assert any("samples of" in doing for doing in told)
    # And of edits that change something they are not.
    changed = list(experiment.run(replace(start, settings=replace(settings, lesson=BRIEF))))
    for row in (*composition.SAMPLED.values(), composition.SAMPLED_BOTH):
        assert cells(changed)[row.key, "fid_base"] > 1e-5
    assert notes(changed) == {}
    retell(context.work)
    again = notes(experiment.run(start))
    assert {row for row, _ in again} == {row.key for row in (*composition.SAMPLED.values(), composition.SAMPLED_BOTH)}
    assert again[composition.SAMPLED_BOTH.key, "diversity"] == f"ears: {BY_TWO}; nose: {BY_TWO}"


def test_diversity_is_the_mean_distance_of_neighbours(cats: Generator) -> None:
    made, judge_ = pixels(cats, mapped(cats, latents(range(3), 32))), Judges().lpips
    x = torch.from_numpy(made).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = np.mean([float(judge_(x[i : i + 1], x[[(i + 1) % 3]])) for i in range(3)])
    assert composition.diversity(judge_, made) == pytest.approx(wanted, rel=1e-5)
    assert composition.diversity(judge_, made[[0, 0, 0]]) == pytest.approx(0, abs=1e-7)
    assert math.isnan(composition.diversity(judge_, made[:1]))


# ----------------------------------------------------------------------------------------------------------------------
# The ablation


def test_each_line_of_the_ablation_changes_one_thing() -> None:
    full = ablation.LESSONS[ablation.DEFAULT]
    assert (full.recipe.rank, full.recipe.layers, full.pictures, full.trunk, full.exact) == (8, "4", 10, "vgg", False)
    for name, lesson in ablation.LESSONS.items():
        different = {field for field in vars(lesson) if getattr(lesson, field) != getattr(full, field)}
        inner = {field for field in vars(lesson.recipe) if getattr(lesson.recipe, field) != getattr(full.recipe, field)}
        wanted: dict[str, set[str]] = {
            ablation.DEFAULT: set(),
            "whole weight": {"rank"},
            "all convolutions, whole weights": {"rank", "layers"},
            "without augmentation": {"stylemix"},
            "L1": {"lpips", "l1"},
            "squared error": {"lpips", "mse"},
            "LPIPS-AlexNet": {"trunk"},
            "exact warps": {"exact"},
        }
        key = name.split()[0]
        expected = wanted.get(name) or {"rank": {"rank"}, "layer": {"layers"}}.get(key)
        if name == ablation.DEFAULT:
            expected = set()
        if name.endswith("pictures"):
            expected = {"pictures"}
            assert lesson.pictures == int(key)
            assert lesson.pictures >= lesson.recipe.batch
        assert (different - {"recipe"}) | inner == expected, name
    assert len(set(map(repr, ablation.LESSONS.values()))) == len(ablation.LESSONS)
    for e in ablation.EXPERIMENTS:
        (row,) = e.rows
        s = e.scales["small"].settings
        assert (s.row, Row(f"GAN Warping, {name_of(s.lesson)}", s.edit).key) == (row, row)


def name_of(lesson: Lesson) -> str:
    return next(name for name, one in ablation.LESSONS.items() if one == lesson)


@pytest.mark.parametrize(
    "name",
    [ablation.DEFAULT, "all convolutions, whole weights", "without augmentation", "L1", "exact warps", "50 pictures"],
)
def test_the_ablation_fills_its_rows(name: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    alex = world.perceptual_loss
    asked: list[str] = []

    def load(trunk: str, device: str) -> Any:
        asked.append(trunk)
        return alex("alex", device)

    monkeypatch.setattr(world, "perceptual_loss", load)
    # The fifty pictures of seed 1 begin at 100, and the cat of seed 143 has no ears in its picture.
    row = Row(f"GAN Warping, {name}", "ears").key
    experiment = experiment_of(f"ablation-{row}")
    s = experiment.scales["small"].settings
    lesson = shortened(s.lesson, 2)
    settings = replace(s, lesson=lesson if name != "50 pictures" else replace(lesson, pictures=50), held_out=2)
    start = replace(context, settings=settings, seed=1)
    assert experiment.train is not None
    experiment.train(start)
    assert asked == ([] if name == "L1" else ["vgg"])
    with monkeypatch.context() as nothing:
        nothing.setattr(Training, "step", lambda *_, **__: pytest.fail("it was trained again"))
        found = list(experiment.run(start))
        assert notes(found) == {}
        retell(context.work)
        assert notes(experiment.run(start)).keys() == declared(experiment)
    assert cells(found).keys() == declared(experiment)
    assert len(list(context.work.glob("gan-warping-*-seed1"))) == 1


def test_another_lesson_is_another_training(context: Context, cats: Generator) -> None:
    held = held_out(cats, ("nose",), 2, 0)
    quick = replace(BRIEF, recipe=replace(BRIEF.recipe, iterations=1, lpips=0.0, l1=1.0))
    for lesson in (quick, replace(quick, exact=True), replace(quick, recipe=replace(quick.recipe, rank=2)), quick):
        world.learnt(context, "nose", lesson, held)
    assert len(list(context.work.glob("gan-warping-*"))) == 3
    with pytest.raises(ValueError, match="an edit of 3 pictures fills no batch of 8"):
        world.learnt(context, "nose", replace(quick, recipe=replace(quick.recipe, batch=8)), held)


# ----------------------------------------------------------------------------------------------------------------------
# Scores, counts and claims


def test_columns_are_those_of_the_evaluation() -> None:
    for edges in ("Canny", "DexiNed"):
        columns = scores.columns(edges)
        assert [c.key for c in columns] == list(COLUMNS)
        assert {c.key: c.direction for c in columns} == {
            c: "higher" if c.startswith(("psnr", "ssim")) else "lower" for c in COLUMNS
        }
        assert [c.key for c in columns if edges in c.metric] == [c for c in COLUMNS if c.startswith("chamfer")]


def test_a_sheet_is_of_rows_and_zooms_small_pictures() -> None:
    rows = np.arange(2 * 3 * 64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 3, 64, 64, 3)
    page = sheet(rows)
    assert page.shape == (2 * 128, 3 * 128, 3)
    np.testing.assert_array_equal(page[128::2, 256::2], rows[1, 2])
    assert sheet(np.zeros((1, 2, 256, 256, 3), np.uint8)).shape == (256, 512, 3)


def test_counts_are_those_of_the_published_networks(context: Context) -> None:
    """Of the dossier, measured on the published code."""
    found: dict[tuple[str, str], float] = {}
    for experiment in counts.EXPERIMENTS:
        mine = cells(list(experiment.run(replace(context, settings=counts.Settings()))))
        assert mine.keys() == declared(experiment)
        assert set(experiment.scales) == set(SCALES)
        found |= mine
    third = {size: Row("StyleGAN3-R", f"{size} px") for size in (256, 512, 1024)}
    second = {size: Row("StyleGAN2", f"{size} px") for size in (256, 512)}
    for row, parameters in {
        **{third[256]: 18_816_387, third[512]: 16_665_594, third[1024]: 15_093_151},
        **{second[256]: 30_034_338, second[512]: 30_276_583, Row("DexiNed"): 35_215_245},
    }.items():
        assert found[row.key, "parameters"] == parameters
    for size, macs in {256: 99_451_428_864, 512: 117_784_807_024, 1024: 123_791_968_064}.items():
        assert found[third[size].key, "macs"] * 1e9 == pytest.approx(macs, abs=0.5)
    for row, layer, trained, dense in (
        *((third[256], 8, 102_400, 1_048_576), (third[256], 14, 12_950, 768), (third[512], 8, 80_600, 623_715)),
        *((third[512], 1, 102_400, 1_048_576), (third[512], 13, 12_800, 16_384), (second[512], 8, 256_000, 2_359_296)),
        *((third[1024], 5, 102_400, 1_048_576), (third[1024], 6, 102_400, 1_048_576)),
    ):
        key = Row(f"Layer {layer}", str(row)).key
        assert (found[key, "trained"], found[key, "dense"]) == (trained, dense)
        assert (found[key, "factors_kib"], found[key, "dense_kib"]) == (4 * trained / 1024, 4 * dense / 1024)


def test_claims_are_decidable() -> None:
    measured: dict[tuple[str, str, str], set[Any]] = {}
    for e in PAPER.experiments:
        for row, column in declared(e):
            measured.setdefault((e.table, row, column), set()).update(e.scales)
    seeds = {
        (e.table, row): {scale: at.seeds for scale, at in e.scales.items()} for e in PAPER.experiments for row in e.rows
    }
    assert len({claim.key for claim in PAPER.claims}) == len(PAPER.claims)
    for claim in PAPER.claims:
        keys = [(claim.table, cell.row, cell.column) for cell in claim.cells.values()]
        common = set.intersection(*(measured[key] for key in keys))
        assert common, claim.key
        for scale in common:
            assert claim.exact or min(seeds[table, row][scale] for table, row, _ in keys) >= MIN_SEEDS
        rows = {cell.row for cell in claim.cells.values()}
        assert rows <= {row.key for row in PAPER.table(claim.table).rows}


def test_verdicts_follow_the_better_row() -> None:
    for claim in PAPER.claims:
        if claim.exact:
            continue
        # The first cell is the one that the sentence praises.
        praised = next(iter(claim.cells.values()))
        for better, verdict in ((True, "holds"), (False, "fails")):
            values = {}
            for seed in range(3):
                for name, cell in claim.cells.items():
                    own = name.split()[0] == next(iter(claim.cells)).split()[0]
                    values[seed, cell.row, cell.column] = 20.0 + 5 * (own == better) + 0.01 * seed * (cell == praised)
            assert judge(claim, values).verdict == verdict, claim.key
