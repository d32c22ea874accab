"""GAN Warping at paper scale, small: archives of the published layouts, from the files to the numbers."""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from gan_warping_tiny import (
    EDIT,
    FILE,
    OWN,
    SIZE,
    SYNTHESIS,
    base,
    factors_of,
    rendered,
    split,
    write_pickle,
    write_tasks,
    write_tree,
)
from gan_warping_tiny import PAPER as TINY
from histories import notes, retell
from torch import Tensor
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli, papers
from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.core.tables import Row
from gengauge.benchmarks.features.perceptual import load_lpips, perceptual_loss
from gengauge.benchmarks.generators import read_pickled
from gengauge.benchmarks.metrics.chamfer import symmetric_chamfer
from gengauge.benchmarks.metrics.edges import thinned
from gengauge.benchmarks.metrics.edit_fidelity import COLUMNS
from gengauge.benchmarks.metrics.ssim import ssim_map
from gengauge.benchmarks.papers import gan_warping
from gengauge.benchmarks.papers.gan_warping import released
from gengauge.benchmarks.papers.gan_warping.loading import BASES, Edit, read_changed
from gengauge.benchmarks.training import warping
from gengauge.benchmarks.training.warping import EditedPictures, train_edit
from gengauge.datasets.edited_weights import write_edited_weights, write_low_rank_edit
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.unpickling import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.warp_folders import read_warp_folder, write_warp_folder
from gengauge.datasets.weights import WEIGHTS, WeightsNotFound
from gengauge.reference.gan_warping.low_rank import layers
from gengauge.reference.gan_warping.training import Recipe, Training
from gengauge.reference.nets.lpips import pooled, spread
from gengauge.reference.nets.stylegan2 import generator as stylegan2

pytestmark = pytest.mark.usefixtures("one_thread")

Array = np.ndarray[Any, Any]
CHAMFER = {column for column in COLUMNS if column.startswith("chamfer")}
METHOD = Row(released.METHOD, EDIT).key
THREE = 10 * math.log10(3)  # dB between the conventions, for masks of 0 and 1


@pytest.fixture(autouse=True)
def _without_dexined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS["dexined"].variable, raising=False)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("gan-warping"))


@pytest.fixture
def own(tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree that a test may spoil."""
    return shutil.copytree(tree, tmp_path / "own")


@pytest.fixture
def edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "load_dexined", lambda path, device: steps)


def steps(pictures: Array) -> Array:
    """Stands for DexiNed: how steep the brightness is beside its surroundings, so that each region has edges."""
    down, right = np.gradient(pictures.mean(3, dtype=np.float64), axis=(1, 2))
    steep = np.hypot(down, right)
    return (steep / (20 * np.stack([cv2.blur(one, (9, 9)) for one in steep]) + 1)).astype(np.float32)


def experiment_of(key: str) -> Experiment:
    return next(e for e in TINY.experiments if e.key == f"{key}-{EDIT}")


def context_of(key: str, work: Path, data: Path | None, seed: int = 0, **recipe: Any) -> Context:
    settings = experiment_of(key).scales["paper"].settings
    settings = replace(settings, recipe=replace(settings.recipe, **recipe))
    return Context(settings, seed, "paper", "cpu", data, work, lambda done, total, doing: None)


def run(
    key: str, work: Path, data: Path | None, seed: int = 0, **recipe: Any
) -> tuple[dict[tuple[str, str], Measurement], list[Picture]]:
    """What an experiment yields; all that it declares must be among it, and nothing else."""
    experiment = experiment_of(key)
    found = list(experiment.run(context_of(key, work, data, seed, **recipe)))
    measured = [m for m in found if isinstance(m, Measurement)]
    cells = {(m.row, m.column): m for m in measured}
    assert len(cells) == len(measured)
    assert set(cells) == {(r, c.key) for r in experiment.rows for c in experiment.columns}
    return cells, [p for p in found if isinstance(p, Picture)]


# ----------------------------------------------------------------------------------------------------------------------
# What the numbers must be, reckoned here from the files


def grey(target: Array) -> Array:
    """A target through the generator's range, its grey levels cut as the published evaluator cuts them."""
    signed = (target.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return ((signed + 1) / 2 * 255).astype(np.uint8)


def by_hand(made: Array, tests: Any) -> dict[str, list[float]]:
    """Each picture's values by column; of PSNR in regions the published one is under `published`."""
    lpips = load_lpips("alex", "cpu")
    out: dict[str, list[float]] = {}
    for pixels, picture in zip(made, tests, strict=True):
        target, mask = grey(picture.target), picture.mask.astype(np.float64)
        square = ((pixels.astype(np.float64) - target) / 255) ** 2
        x, y = (torch.from_numpy(a).float().permute(2, 0, 1)[None] / 127.5 - 1 for a in (pixels, target))
        with torch.no_grad():
            parts = lpips.layers(x, y)
            distances = spread(parts, (SIZE, SIZE))[0].double().numpy()
        similar = ssim_map(pixels, target).mean(2)
        first, second = thinned(steps)(np.stack([pixels, target]))
        values = {
            "psnr": -10 * math.log10(square.mean()),
            "ssim": similar.mean(),
            "lpips": float(pooled(parts)),
            "chamfer": symmetric_chamfer(first, second).value,
        }
        for region, w in (("_changed", mask), ("_unchanged", 1 - mask)):
            published = ((w[..., None] * (pixels / 255 - target / 255)) ** 2).sum() / w.sum()
            values[f"published psnr{region}"] = -10 * math.log10(published)
            values[f"psnr{region}"] = -10 * math.log10((w * square.mean(2)).sum() / w.sum())
            values[f"ssim{region}"] = (similar * w).sum() / w.sum()
            values[f"lpips{region}"] = (distances * w).sum() / w.sum()
            inside = mask != 0 if region == "_changed" else mask == 0
            values[f"chamfer{region}"] = symmetric_chamfer(first, second, inside).value
        for column, value in values.items():
            out.setdefault(column, []).append(float(value))
    return out


@pytest.fixture(scope="session")
def expected(tree: Path) -> dict[bool, dict[str, list[float]]]:
    """Of the edited pictures and of the base's."""
    g, tests = base(), read_warp_folder(tree / "gan_warping/data/cat/alien_eye/test", SIZE)
    ws = torch.stack([picture.latent for picture in tests])
    weights = torch.load(tree / "gan_warping/weights/cat/alien_eye.pth", weights_only=True)
    assert list(weights) == [f"{layers(g)[8]}.weight"]
    found = {edited: by_hand(rendered(g, ws, weights if edited else None), tests) for edited in (True, False)}
    values = np.array(list(found[True].values()))
    assert np.isfinite(values).all()
    assert (values.std(1) > 1e-3).all()  # no column hides behind another's picture
    return found


def published(values: dict[str, list[float]], column: str) -> float:
    if column in CHAMFER:
        return values[column][-1]
    return float(np.mean(values.get(f"published {column}", values[column])))


def corrected(values: dict[str, list[float]], column: str) -> float:
    return float(np.mean(values[column]))


@pytest.mark.usefixtures("edges")
def test_the_row_is_scored_as_the_published_evaluator_scores(
    tree: Path, tmp_path: Path, expected: dict[bool, dict[str, list[float]]]
) -> None:
    found, pictures = run("results", tmp_path, tree)
    for column in COLUMNS:
        m = found[METHOD, column]
        assert m.value == pytest.approx(published(expected[True], column), rel=1e-5), column
        assert m.samples == (1 if column in CHAMFER else 3)
    assert [(p.row, p.name) for p in pictures] == [(METHOD, "test")]
    assert pictures[0].pixels.shape == (3 * 128, 3 * 128, 3)
    again, none = run("results", tmp_path, tree, seed=1)
    assert {key: m.value for key, m in again.items()} == {key: m.value for key, m in found.items()}
    assert none == []


@pytest.mark.usefixtures("edges")
def test_the_conventions_differ_as_they_are_described(
    tree: Path, tmp_path: Path, expected: dict[bool, dict[str, list[float]]]
) -> None:
    found, _ = run("conventions", tmp_path, tree)
    row = {name: Row(getattr(released, name), EDIT).key for name in ("PUBLISHED", "CORRECTED", "UNEDITED")}
    for column in COLUMNS:
        old, new, unedited = (found[row[name], column].value for name in ("PUBLISHED", "CORRECTED", "UNEDITED"))
        assert old == pytest.approx(published(expected[True], column), rel=1e-5)
        assert new == pytest.approx(corrected(expected[True], column), rel=1e-5)
        assert unedited == pytest.approx(corrected(expected[False], column), rel=1e-5)
        assert (old != pytest.approx(new, rel=1e-6)) == (column in {*CHAMFER, "psnr_changed", "psnr_unchanged"})
    for column in ("psnr_changed", "psnr_unchanged"):
        difference = found[row["CORRECTED"], column].value - found[row["PUBLISHED"], column].value
        assert 0 < difference < THREE - 1e-3  # masks are soft here


@pytest.mark.usefixtures("edges")
def test_for_masks_of_0_and_1_the_conventions_are_a_factor_of_three_apart(own: Path, tmp_path: Path) -> None:
    folder = own / "gan_warping/data/cat/alien_eye/test"
    hard = [replace(p, mask=np.round(p.mask)) for p in read_warp_folder(folder, SIZE) if p.mask is not None]
    write_warp_folder(folder, hard, overwrite=True)
    found, _ = run("conventions", tmp_path, own)
    for column in ("psnr_changed", "psnr_unchanged"):
        old, new = (found[Row(m, EDIT).key, column].value for m in (released.PUBLISHED, released.CORRECTED))
        assert new - old == pytest.approx(THREE, abs=1e-5)


@pytest.mark.usefixtures("edges")
def test_a_picture_without_an_edge_leaves_the_mean_and_is_counted(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last picture, whose value the published evaluator reports."""
    calls: list[int] = []

    def blind(pictures: Array) -> Array:
        calls.append(len(pictures))
        return steps(pictures) * (len(calls) % 3 != 0)

    monkeypatch.setattr(released, "load_dexined", lambda path, device: blind)
    found, _ = run("conventions", tmp_path, own)
    assert set(calls) == {2}
    old, new = (found[Row(m, EDIT).key, "chamfer"] for m in (released.PUBLISHED, released.CORRECTED))
    assert math.isnan(old.value)
    assert "1 of 3 pictures have no value: the first and the second picture has no edge" in old.missing
    assert math.isfinite(new.value)
    assert new.samples == 2
    assert "1 of 3 pictures" in new.note


def test_without_dexined_its_columns_tell_how_to_get_it(tree: Path, tmp_path: Path) -> None:
    for key in ("results", "conventions"):
        found, _ = run(key, tmp_path, tree)
        for (_, column), m in found.items():
            assert math.isnan(m.value) == (column in CHAMFER)
            assert ("take pretrained/dexined.pth" in m.missing) == (column in CHAMFER)


# ----------------------------------------------------------------------------------------------------------------------
# Training


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """LPIPS on AlexNet wherever one is asked for, for time; which trunks were asked for."""
    asked: list[str] = []

    def load(trunk: str, device: str) -> Any:
        asked.append(trunk)
        return load_lpips("alex", device)

    def loss(trunk: str, device: str) -> Any:
        asked.append(trunk)
        return perceptual_loss("alex", device)

    monkeypatch.setattr(released, "load_lpips", load)
    monkeypatch.setattr(released, "perceptual_loss", loss)
    return asked


def learnt(trained: object) -> tuple[dict[str, Tensor], str]:
    """What an experiment's `train` gives."""
    assert isinstance(trained, tuple)
    return trained


def test_an_edit_is_trained_once_and_scored_by_corrected_values(
    tree: Path, tmp_path: Path, light: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "retrained"
    train = experiment_of(key).train
    assert train is not None
    trained, told = learnt(train(context_of(key, tmp_path, tree)))
    assert told == ""
    assert light == ["vgg"]
    (name,) = trained
    assert name == f"{layers(base())[8]}.weight"
    change = trained[name] - base().state_dict()[name]
    assert change.abs().max() > 0
    assert int(torch.linalg.matrix_rank(change[:, :, 0, 0])) <= 2
    with monkeypatch.context() as nothing:
        nothing.setattr(Training, "step", lambda *_, **__: pytest.fail("it was trained again"))
        found, pictures = run(key, tmp_path, tree)
        assert notes(found.values()) == {}
        retell(tmp_path)
        assert notes(run(key, tmp_path, tree)[0].values()).keys() == found.keys()
    row = Row(released.RETRAINED, EDIT).key
    tests = read_warp_folder(tree / "gan_warping/data/cat/alien_eye/test", SIZE)
    values = by_hand(rendered(base(), torch.stack([p.latent for p in tests]), trained), tests)
    for column in set(COLUMNS) - CHAMFER:
        assert found[row, column].value == pytest.approx(corrected(values, column), rel=1e-5)
    assert [p.row for p in pictures] == [row]
    other, _ = learnt(train(context_of(key, tmp_path, tree, seed=1)))
    assert not torch.equal(other[name], trained[name])
    assert len(list(tmp_path.glob(f"gan-warping-{EDIT}-*-seed1"))) == 1


def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By L1, so that it needs no network."""
    recipe = {"lpips": 0.0, "l1": 1.0, "iterations": 4}
    train = experiment_of("retrained").train
    assert train is not None
    monkeypatch.setattr(released, "load_lpips", lambda trunk, device: None)
    monkeypatch.setattr(released, "train_edit", functools.partial(train_edit, every=1))
    straight, _ = learnt(train(context_of("retrained", tmp_path / "a", tree, **recipe)))
    step, iterations = Training.step, []

    def killed(self: Training, *arguments: Any, **named: Any) -> dict[str, Tensor]:
        if len(iterations) == 2:
            raise KeyboardInterrupt
        iterations.append(self.iteration)
        return step(self, *arguments, **named)

    monkeypatch.setattr(Training, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(context_of("retrained", tmp_path / "b", tree, **recipe))
    assert iterations == [0, 1]
    iterations[:] = [-1, -1, -1]
    resumed, _ = learnt(train(context_of("retrained", tmp_path / "b", tree, **recipe)))
    assert iterations[3:] == [2, 3]
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_another_recipe_another_base_or_other_points_are_another_training(
    own: Path, tmp_path: Path, light: list[str]
) -> None:
    train = experiment_of("retrained").train
    assert train is not None
    work = tmp_path / "work"
    train(context_of("retrained", work, own, iterations=1))
    train(context_of("retrained", work, own, iterations=1, lr=0.01))
    write_pickle(own / "gan_warping/pretrained" / FILE, base(5))
    train(context_of("retrained", work, own, iterations=1))
    folder = own / "gan_warping/data/cat/alien_eye/train"
    moved = [replace(p, points=p.points + np.array([0.0, 0, 1, 0])) for p in read_warp_folder(folder, SIZE)]
    write_warp_folder(folder, moved, overwrite=True)
    train(context_of("retrained", work, own, iterations=1))
    assert len(list(work.iterdir())) == 4


def test_fewer_training_pictures_than_a_batch(tree: Path, tmp_path: Path, light: list[str]) -> None:
    with pytest.raises(ValueError, match="an edit of 3 pictures fills no batch of 8: edit more pictures, or take a sm"):
        run("retrained", tmp_path, tree, batch=8)


def test_batches_are_whole_shuffled_and_shared() -> None:
    ws, labels = torch.arange(7.0)[:, None, None], torch.arange(7)[:, None]
    start = EditedPictures(ws, labels, 2, seed=3).start(0, "cpu")
    drawn = [next(start) for _ in range(12)]
    assert all(torch.equal(a[:, 0, 0].long(), b[:, 0]) for a, b in drawn)
    order = torch.cat([b[:, 0] for _, b in drawn]).tolist()
    epochs = [order[i : i + 6] for i in range(0, 24, 6)]
    assert all(len(set(epoch)) == 6 for epoch in epochs)  # one picture is left over
    assert len({tuple(epoch) for epoch in epochs}) > 1
    later = EditedPictures(ws, labels, 2, seed=3).start(5, "cpu")
    assert torch.equal(next(later)[1], drawn[5][1])
    halves = [next(EditedPictures(ws, labels, 2, 3, process, 2).start(4, "cpu"))[1] for process in range(2)]
    assert torch.equal(torch.cat(halves), drawn[4][1])
    for arguments, message in (
        ((ws, labels[:5], 2, 0), "each picture has ws and a warp, not 7 and 5"),
        ((ws, labels, 3, 0, 0, 2), "a batch of 3 cannot be shared by 2 processes"),
    ):
        with pytest.raises(ValueError, match=message):
            EditedPictures(*arguments)  # type: ignore[arg-type]


def test_recipes_are_those_of_the_released_scripts() -> None:
    for name in released.EDITS:
        (experiment,) = (e for e in gan_warping.PAPER.experiments if e.key == f"retrained-{name}")
        at = experiment.scales["paper"]
        layer = "1" if name in ("cat_rabbit_face", "house_heaved_ground") else "8"
        assert at.settings.recipe == Recipe(layers=layer)
        assert at.seeds == 3
    recipe = Recipe()
    assert (recipe.rank, recipe.batch, recipe.iterations, recipe.lr) == (50, 8, 2000, 0.05)
    assert (recipe.stylemix, recipe.rampup, recipe.rampdown, recipe.lpips) == ((8, 16), 0.05, 0.5, 1)
    assert not recipe.l1 + recipe.mse
    assert recipe.only_weight


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_whole_weights_and_factors_are_one_edit(
    tree: Path, tmp_path: Path, expected: dict[bool, dict[str, list[float]]]
) -> None:
    g = base()
    compact, whole = tmp_path / "edit.safetensors", tree / "gan_warping/weights/cat/alien_eye.pth"
    write_low_rank_edit(compact, factors_of(g))
    (a,), (b,) = read_changed(compact, g).values(), read_changed(whole, g).values()
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    measure = experiment_of("results").measure
    assert measure is not None
    found = [measure(context_of("results", Path(), tree), path) for path in (whole, compact)]
    for column in set(COLUMNS) - CHAMFER:
        values = [one[column] for one in found]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
        assert values[0][0] == pytest.approx(published(expected[True], column), rel=1e-5)
        each = expected[True].get(f"published {column}", expected[True][column])
        assert values[0][1] == pytest.approx(np.std(each, ddof=1) / math.sqrt(3), rel=1e-4)
    assert not CHAMFER & found[0].keys()


@pytest.mark.usefixtures("edges")
def test_the_deviation_of_one_pictures_distance_is_not_that_of_a_mean(tree: Path) -> None:
    measure = experiment_of("results").measure
    assert measure is not None
    found = measure(context_of("results", Path(), tree), tree / "gan_warping/weights/cat/alien_eye.pth")
    assert set(found) == set(COLUMNS)
    assert all((found[column][1] == 0) == (column in CHAMFER) for column in COLUMNS)


def test_what_is_equal_to_its_target_has_no_psnr_and_says_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perfect(self: released.Opened, settings: Any, changed: Any) -> Array:
        return np.stack([grey(p.target) for p in self.test if p.target is not None])

    monkeypatch.setattr(released.Opened, "made", perfect)
    found, _ = run("results", tmp_path, tree)
    m = found[METHOD, "psnr"]
    assert math.isnan(m.value)
    assert m.missing == "it is inf: some pictures are equal to their targets"
    assert found[METHOD, "ssim"].value == pytest.approx(1)
    measure = experiment_of("results").measure
    assert measure is not None
    told = measure(context_of("results", Path(), tree), tree / "gan_warping/weights/cat/alien_eye.pth")
    assert "psnr" not in told
    assert told["lpips"][0] == 0


@pytest.mark.parametrize("arguments", [{**OWN, **SYNTHESIS}, {**OWN, "synthesis_kwargs": SYNTHESIS}])
def test_base_generators_are_read_whatever_way_their_arguments_lie(tmp_path: Path, arguments: dict[str, Any]) -> None:
    g = base()
    read = read_pickled(write_pickle(tmp_path / "x.pkl", g, arguments))
    assert not read.training
    assert not any(p.requires_grad for p in read.parameters())
    z = torch.randn(2, OWN["z_dim"])
    assert torch.equal(read(z), g(z))


@pytest.mark.parametrize("flat", [True, False])
def test_stylegan2_is_read_as_either_code_base_writes_it(tmp_path: Path, flat: bool) -> None:
    own = {**OWN, "img_resolution": 16}
    synthesis = {"channel_base": 64, "channel_max": 6}
    g = stylegan2.Generator(**own, synthesis_kwargs=synthesis).eval()
    how = {**synthesis, "fused_modconv_default": "inference_only"} if flat else {"synthesis_kwargs": synthesis}
    read = read_pickled(write_pickle(tmp_path / "x.pkl", g, {**own, **how}))
    z = torch.randn(2, OWN["z_dim"])
    with torch.no_grad():
        assert torch.equal(read(z, noise_mode="const"), g(z, noise_mode="const"))
    with pytest.raises(ValueError, match=r"y\.pkl holds a Generator that is no StyleGAN2 \(.*'legs'"):
        read_pickled(write_pickle(tmp_path / "y.pkl", g, {**own, **how, "legs": 4}))


def test_a_base_of_other_shapes_than_it_says_is_refused(tmp_path: Path) -> None:
    wrong = {**OWN, **SYNTHESIS, "img_resolution": 64}
    with pytest.raises(ValueError, match=r"x\.pkl: img_resolution is 64 by the arguments and 32 by the tensors"):
        read_pickled(write_pickle(tmp_path / "x.pkl", base(), wrong))


class Call:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-file",)


def _other_base(root: Path) -> None:
    g = base(3)
    write_low_rank_edit(root / "gan_warping/weights/cat/alien_eye.pth", factors_of(g))


def _other_layers(root: Path) -> None:
    tensors = {"synthesis.L8_276_645.weight": torch.zeros(2, 2, 1, 1)}
    write_edited_weights(root / "gan_warping/weights/cat/alien_eye.pth", tensors)


def _other_shape(root: Path) -> None:
    tensors = {f"{layers(base())[8]}.weight": torch.zeros(2, 2, 1, 1)}
    write_edited_weights(root / "gan_warping/weights/cat/alien_eye.pth", tensors)


def _hostile(root: Path) -> None:
    torch.save({"synthesis.x.weight": Call()}, root / "gan_warping/weights/cat/alien_eye.pth")


def _cut_short(root: Path) -> None:
    path = root / "gan_warping/weights/cat/alien_eye.pth"
    path.write_bytes(path.read_bytes()[:300])


def _latents(shape: tuple[int, int]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        folder = root / "gan_warping/data/cat/alien_eye/test"
        pictures = [replace(p, latent=torch.zeros(shape)) for p in read_warp_folder(folder, SIZE)]
        write_warp_folder(folder, pictures, overwrite=True)

    return change


def _no_masks(root: Path) -> None:
    write_warp_folder(root / "gan_warping/data/cat/alien_eye/test", split(base(), 2, 2, masks=False), overwrite=True)


def _without(part: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        path = root / "gan_warping" / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def _tasks(line: str) -> Callable[[Path], None]:
    return lambda root: write_tasks(root, f"{line}\n")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_other_base, ValueError, rf"alien_eye\.pth: the edit was learnt on another .*L8_52_6.weight .*, {FILE}"),
        (_other_layers, ValueError, r"alien_eye\.pth: the edit changes synthesis.L8_276_645.weight, which this gen"),
        (_other_shape, ValueError, r"alien_eye\.pth: the edit has synthesis.L8_52_6.weight as \(2, 2, 1, 1\), and"),
        (_hostile, UnsafeCheckpoint, r"alien_eye\.pth is refused: it asks for posix\.mkdir"),
        (_cut_short, DamagedCheckpoint, r"alien_eye\.pth"),
        (_latents((14, 8)), ValueError, r"alien_eye/test has latents \(14, 8\); this generator takes \(16, 8\)"),
        (_latents((16, 9)), ValueError, r"alien_eye/test has latents \(16, 9\); this generator takes \(16, 8\)"),
        (_no_masks, ValueError, "alien_eye/test has no masks, so that nothing can be measured"),
        (_without("data/cat/alien_eye/test"), FileNotFoundError, "alien_eye/test is no folder of edited pictures"),
        (_without("weights/cat/alien_eye.pth"), FileNotFoundError, r"alien_eye\.pth: there is no such file"),
        (_without(f"pretrained/{FILE}"), FileNotFoundError, FILE),
        (_without("weights/eval_task"), FileNotFoundError, "eval_task: there is no such list"),
        (_without("data"), DataNotFound, r"gan_warping/data.*download_dataset\.sh|unpacks data\.zip"),
        (_without("weights"), DataNotFound, r"unpacks weights\.zip"),
        (_without("pretrained"), DataNotFound, r"unpacks pretrained\.zip"),
        (
            _tasks(f"{EDIT} ../.. cat weights/cat/alien_eye.pth"),
            ValueError,
            r"eval_task, line 1: '\.\./\.\.' leads out",
        ),
        (_tasks(f"{EDIT} /etc cat weights/cat/alien_eye.pth"), ValueError, "line 1: '/etc' leads out"),
        (_tasks(f"{EDIT} cat/alien_eye cat ../../x.pth"), ValueError, r"eval_task names \.\./\.\./x\.pth, which leads"),
        (_tasks(f"{EDIT} cat/alien_eye cat /x.pth"), ValueError, r"eval_task names /x\.pth, which leads out of"),
        (_tasks("cat_hat cat/hat cat hat.pth"), ValueError, rf"eval_task has no task {EDIT}; it has cat_hat"),
        (_tasks(f"{EDIT} cat/alien_eye"), ValueError, "line 1: 2 fields, where there are four: NAME DATA BASE WEIGHTS"),
    ],
)
def test_what_is_wrong_with_the_archives_is_named(
    change: Callable[[Path], None],
    error: type[Exception],
    message: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(released.scores, "fidelities", lambda *_: pytest.fail("pictures were scored"))
    change(own)
    with pytest.raises(error, match=message):
        run("results", tmp_path, own)
    assert not (tmp_path / "made-by-a-file").exists()


def test_an_edit_of_another_base_in_the_users_file_is_named(tree: Path, tmp_path: Path) -> None:
    measure = experiment_of("results").measure
    assert measure is not None
    write_low_rank_edit(tmp_path / "mine.safetensors", factors_of(base(3)))
    with pytest.raises(ValueError, match=r"mine\.safetensors: the edit was learnt on another"):
        measure(context_of("results", Path(), tree), tmp_path / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        measure(context_of("results", Path(), tree), tmp_path / "none.pth")


@pytest.mark.parametrize(
    "line",
    [
        f"{EDIT} cat/alien_eye cat weights/cat/alien_eye.pth",
        "alien_eye cat/alien_eye cat weights/cat/alien_eye.pth",
        "eye cat/alien_eye/ cat cat/alien_eye.pth",
    ],
)
def test_a_task_is_found_by_any_of_its_names(line: str, own: Path) -> None:
    write_tasks(own, f"horse_lift_leg horse/lift_leg horse x.pth\n{line}\n")
    edit = Edit(EDIT)
    folders = edit.folders(own)
    assert set(edit.weights(folders, base())) == {f"{layers(base())[8]}.weight"}
    assert len(edit.pictures(folders, "test", SIZE)) == 3


def test_jobs_are_of_the_archives_alone(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for experiment in gan_warping.PAPER.experiments:
        if "paper" in experiment.scales and experiment.reads is not None:
            settings = experiment.scales["paper"].settings
            assert experiment.reads(settings, tree) == tree / "gan_warping"
            assert experiment.reads(settings, tmp_path) is None
    (tmp_path / "gan_warping/data").mkdir(parents=True)
    (tmp_path / "GANWarping/weights").mkdir(parents=True)
    assert Edit(EDIT).place(tmp_path) == tmp_path


def test_every_row_of_the_paper_is_filled() -> None:
    paper = gan_warping.PAPER
    for key in ("results", "conventions", "retrained"):
        rows = {row.key for row in paper.table(key).rows}
        filled = [row for e in paper.experiments if e.table == key and "paper" in e.scales for row in e.rows]
        assert set(filled) == rows
        assert len(filled) == len(rows)
    assert {Edit(name).base for name in released.EDITS} == set(BASES)
    assert [c.key for c in paper.table("results").columns] == list(COLUMNS)
    assert warping.Recipe is Recipe


# ----------------------------------------------------------------------------------------------------------------------
# By the command line


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command with the small paper in the place of the real one."""
    monkeypatch.setattr(papers, "SOURCES", ("gan_warping_tiny:PAPER",))
    return lambda *arguments: CliRunner(env={"COLUMNS": "250"}).invoke(cli.app, arguments)


def test_the_command_fills_rows_and_tells_what_is_missing(
    own: Path, tmp_path: Path, command: Callable[..., Result], expected: dict[bool, dict[str, list[float]]]
) -> None:
    out, options = tmp_path / "out", ["--scale", "paper", "--device", "cpu", "--jobs", "2"]
    trained = f"gan_warping/retrained/{Row(released.RETRAINED, EDIT).key}"
    house = f"gan_warping/results/{Row(released.METHOD, 'house_heaved_ground').key}"
    rows = [f"gan_warping/results/{METHOD}", trained, house]
    done = command("run", *rows, *options, "--seeds", "1", "--data", str(own), "--out", str(out))
    assert done.exit_code == cli.FAILED, done.output
    frame = read_records(out)
    measured = frame[(frame["status"] == "ok") & frame["step"].isna()]
    for column in set(COLUMNS) - CHAMFER:
        (value,) = measured.loc[(measured["row"] == METHOD) & (measured["column"] == column), "value"]
        assert value == pytest.approx(published(expected[True], column), rel=1e-4)
    assert set(measured["row"]) == {METHOD, Row(released.RETRAINED, EDIT).key}
    chamfer = frame[frame["column"].isin(CHAMFER)]
    assert len(chamfer) == 6
    assert set(chamfer["status"]) == {"unavailable"}
    assert chamfer["reason"].str.contains("take pretrained/dexined.pth").all()
    (lost,) = frame.loc[frame["status"] == "failed", "reason"]
    assert "stylegan3-r-house-512x512.pkl" in lost
    assert len(list((out / "training").glob(f"gan-warping-{EDIT}-*-seed0"))) == 1
    assert {p.name for p in out.rglob("*.png")} == {f"{row.split('/')[-1]}.test.png" for row in rows[:2]}


def test_without_the_archives_rows_are_unavailable(tmp_path: Path, command: Callable[..., Result]) -> None:
    (tmp_path / "data").mkdir()
    options = ["--scale", "paper", "--device", "cpu", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = command("run", f"gan_warping/results/{METHOD}", *options)
    assert done.exit_code == cli.UNAVAILABLE, done.output
    frame = read_records(tmp_path / "out")
    assert set(frame["status"]) == {"unavailable"}
    assert frame["reason"].str.contains(r"PeterWang512/GANWarping, which unpacks data\.zip").all()


def test_the_command_measures_an_edit_in_a_file(
    tree: Path, tmp_path: Path, command: Callable[..., Result], expected: dict[bool, dict[str, list[float]]]
) -> None:
    write_low_rank_edit(tmp_path / "edit.safetensors", factors_of(base()))
    value = published(expected[True], "psnr_changed")
    for path in (tree / "gan_warping/weights/cat/alien_eye.pth", tmp_path / "edit.safetensors"):
        done = command("measure", f"gan_warping/results/{METHOD}", str(path), "--device", "cpu", "--data", str(tree))
        assert done.exit_code == cli.UNAVAILABLE, done.output  # of DexiNed's columns
        line = next(line for line in done.output.splitlines() if "psnr_changed" in line)
        assert f"{value:.5g} +-" in line
        assert "unavailable" in next(line for line in done.output.splitlines() if "chamfer_changed" in line)


def test_a_dry_run_counts_the_network_and_names_what_it_needs(tree: Path) -> None:
    arguments = [
        "run",
        "gan_warping/retrained",
        "--scale",
        "paper",
        "--dry-run",
        "--device",
        "cpu",
        "--data",
        str(tree),
    ]
    result = CliRunner(env={"COLUMNS": "250"}).invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert text.count("16,665,594 parameters") == 6
    assert text.count("18,816,387 parameters") == 2
    parts = ("gan-warping-data", "gan-warping-weights", "gan-warping-pretrained")
    for need in (*parts, "lpips-alex", "lpips-vgg"):
        assert text.count(f"needs {need}") == 8, need


def test_weights_of_lpips_are_needed(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(trunk: str, device: str) -> None:
        raise WeightsNotFound(f"no lpips-{trunk}", "pip install them")

    monkeypatch.setattr(released, "load_lpips", missing)
    for key, trunk in (("results", "alex"), ("conventions", "alex"), ("retrained", "alex")):
        with pytest.raises(WeightsNotFound, match=f"no lpips-{trunk}"):
            run(key, tmp_path, tree)
    assert not list(tmp_path.iterdir())
