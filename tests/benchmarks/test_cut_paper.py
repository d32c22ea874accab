"""CUT's experiments at a size of seconds: on the embedded world with the zoo, and on published layouts."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histories import BY_TWO, notes, retell
from PIL import Image
from typer.testing import CliRunner

from gengauge.benchmarks import cli
from gengauge.benchmarks.core.claims import judge
from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture, Scale
from gengauge.benchmarks.papers.cut import PAPER, ablation, comparison, counts, learning, methods, sets
from gengauge.benchmarks.papers.cut.methods import Method, network, train
from gengauge.benchmarks.papers.cut.sets import World
from gengauge.benchmarks.training.processes import Processes
from gengauge.benchmarks.training.unpaired import Recipe, train_unpaired, training_of, translator_of
from gengauge.benchmarks.zoo import translators
from gengauge.benchmarks.zoo.meadows import Meadows
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.cut import cyclegan
from gengauge.reference.nets.drn import DRN, DRNConfig
from gengauge.reference.nets.translation_resnet import ResnetGenerator

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*is not the published set"),
]

FEW = World(Meadows(size=64, training=6, test=4))
NARROW: dict[str, Any] = {"generator": {"n_blocks": 2, "ngf": 4}, "discriminator": {"ndf": 4}}
SMALL_F: dict[str, Any] = {"num_patches": 8, "nc": 8, "nce_layers": (0, 4, 8)}


def narrow(recipe: Recipe) -> Recipe:
    """The recipe with small networks and few places."""
    return replace(recipe, **NARROW, **({} if isinstance(recipe, cyclegan.Recipe) else SMALL_F))


def experiment_of(key: str) -> Experiment:
    return next(e for e in PAPER.experiments if e.key == key)


def run(
    key: str, settings: Any, work: Path, data: Path | None = None, scale: Scale = "quick", seed: int = 0
) -> tuple[dict[tuple[str, str], Measurement], list[Picture]]:
    """What an experiment yields, final values by row and column; all that it declares must be among them."""
    experiment = experiment_of(key)
    told: list[tuple[int, int]] = []
    context = Context(settings, seed, scale, "cpu", data, work, lambda done, total, doing: told.append((done, total)))
    found = list(experiment.run(context))
    measured = {(m.row, m.column): m for m in found if isinstance(m, Measurement) and m.step is None}
    assert set(measured) == {(r, c.key) for r in experiment.rows for c in experiment.columns} - experiment.without
    assert all(math.isfinite(m.value) for m in measured.values())
    assert all(0 <= done <= total for done, total in told)
    return measured, [p for p in found if isinstance(p, Picture)]


# ----------------------------------------------------------------------------------------------------------------------
# On the embedded world


def test_a_translator_of_the_zoo_is_scored(tmp_path: Path) -> None:
    settings = experiment_of("cityscapes-cut").scales["quick"].settings
    settings = replace(settings, method=replace(settings.method, data=World(replace(translators.SET, test=6))))
    found, pictures = run("cityscapes-cut", settings, tmp_path)
    assert 30 < found["cut@cityscapes", "miou"].value < 70
    assert found["cut@cityscapes", "pixel_acc"].value > 80
    assert found["cut@cityscapes", "fid"].samples == 6
    assert "biased" in found["cut@cityscapes", "fid"].note
    assert [p.name for p in pictures] == ["translations"]
    results = tmp_path / "results" / "cut@cityscapes-quick-seed0" / "fake_B"
    assert sorted(f.name for f in results.iterdir()) == [f"{i:05d}.png" for i in range(6)]
    again, pictures = run("cityscapes-cut", settings, tmp_path, seed=1)
    assert again["cut@cityscapes", "miou"].value != found["cut@cityscapes", "miou"].value
    assert not pictures


def test_a_seed_that_the_zoo_does_not_have_is_told(tmp_path: Path) -> None:
    settings = experiment_of("cityscapes-cyclegan").scales["quick"].settings
    settings = replace(settings, method=replace(settings.method, data=FEW))
    with pytest.raises(ValueError, match="seeds 0, 1, 2"):
        run("cityscapes-cyclegan", settings, tmp_path, seed=3)


@pytest.mark.parametrize("key", ["cut", "fastcut", "cyclegan"])
def test_a_training_killed_and_begun_again_has_the_same_losses(key: str, tmp_path: Path) -> None:
    recipe = narrow(translators.RECIPES[key])
    settings = comparison.Settings("row", key, Method(recipe, FEW, iterations=4), ("miou",))

    def go(work: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
        def tell(done: int, total: int, doing: str) -> None:
            if stop is not None and done >= stop:
                raise KeyboardInterrupt

        found = train(settings.method, Context(settings, 0, "small", "cpu", None, work, tell))
        assert found is not None
        return found.last

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "EVERY", 1)
        whole = go(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed", stop=3)
        resumed = go(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [next((tmp_path / which).glob("cut-*/log.jsonl")).read_text() for which in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == 4
    # What was trained is there in the published format too.
    (file,) = (tmp_path / "whole" / "checkpoints").glob("*/latest_net_*.pth")
    assert file.name == f"latest_net_{translator_of(recipe)}.pth"
    assert all(torch.equal(value, whole[name]) for name, value in read_tensors(file).items())


def test_rows_of_several_tables_share_a_training(tmp_path: Path) -> None:
    default = experiment_of(f"ablation-cityscapes-{ablation.DEFAULT}").scales["small"].settings
    assert default.method == Method(translators.RECIPES["cut"], World(translators.SET))
    method = replace(default.method, recipe=narrow(default.method.recipe), data=FEW, iterations=1)
    for row in ("one", "other"):
        settings = replace(default, row=row, method=method)
        train(method, Context(settings, 0, "small", "cpu", None, tmp_path, lambda done, total, doing: None))
    assert len(list(tmp_path.glob("cut-*"))) == 1


@pytest.mark.parametrize("variant", ["cut-external-only", "cut-internal-and-external", "cut-no-id-15-neg-last-layer"])
def test_variants_of_the_ablation_train_and_are_scored(variant: str, tmp_path: Path) -> None:
    key = f"ablation-cityscapes-{variant}"
    settings = experiment_of(key).scales["small"].settings
    recipe = replace(settings.method.recipe, **NARROW, nc=8)
    settings = replace(settings, method=Method(replace(recipe, generator={"n_blocks": 5, "ngf": 4}), FEW, 3))
    found, _ = run(key, settings, tmp_path, scale="small")
    assert found[f"{variant}@cityscapes", "miou"].samples == 4
    assert notes(found.values()) == {}
    retell(tmp_path)
    again, _ = run(key, settings, tmp_path, scale="small")
    assert {cell: m.note for cell, m in again.items()} == {
        cell: "; ".join(filter(None, (m.note, BY_TWO))) for cell, m in found.items()
    }


def test_a_short_training_is_watched(tmp_path: Path) -> None:
    settings = learning.Settings(Method(narrow(translators.RECIPES["cut"]), FEW), iterations=4, every=2, scenes=3)
    experiment = experiment_of("learning")
    context = Context(settings, 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None)
    found = [m for m in experiment.run(context) if isinstance(m, Measurement)]
    assert [m.step for m in found if m.column == "miou"] == [0, 2, 4, None]
    final = {m.column: m.value for m in found if m.step is None}
    assert set(final) == {c.key for c in experiment.columns}
    assert final["miou_start"] == next(m.value for m in found if m.column == "miou" and m.step == 0)
    assert list(experiment.run(context)) == found  # it is found done
    assert notes(found) == {}
    retell(tmp_path)
    assert notes(experiment.run(context)) == {(learning.LIVE.key, column): BY_TWO for column in final}


def test_real_pictures_and_label_maps_bound_the_scores(tmp_path: Path) -> None:
    found, _ = run("bounds", FEW, tmp_path)
    real, untranslated = learning.REAL.key, learning.UNTRANSLATED.key
    assert found[real, "miou"].value > found[untranslated, "miou"].value + 10
    assert found[real, "fid"].note.endswith("other scenes")


def test_times_and_memory_are_taken_of_all_methods(tmp_path: Path) -> None:
    settings = replace(experiment_of("cost").scales["quick"].settings, width=4, side=32, rounds=2, repeats=1)
    found, _ = run("cost", settings, tmp_path)
    assert found["cyclegan@training", "time_ratio"].value == found["cyclegan@training", "memory_ratio"].value == 1
    assert found["fastcut@training", "memory"].value < found["cut@training", "memory"].value
    networks = training_of(settings.recipe("cut"), "cpu").networks
    weights_and_adam = 12 * sum(p.numel() for n in networks.values() for p in n.parameters())
    assert found["cut@training", "memory"].value * 1e9 > weights_and_adam


def test_counts_are_those_of_the_published_code(tmp_path: Path) -> None:
    found, _ = run("counts", counts.Settings(), tmp_path)
    rounded = {(row, column): round(m.value, 3) for (row, column), m in found.items()}
    assert rounded["generator-9-blocks", "parameters"] == 11_378_179
    assert rounded["generator-9-blocks", "macs"] == 64.128
    assert rounded["generator-9-blocks@not-antialiased", "macs"] == 49.552
    assert rounded["patchgan", "macs"] == 6.434
    assert rounded["training-of-cut", "parameters"] == 14_703_300
    assert [round(found[f"training-of-{m}", "flops"].value, 2) for m in ("cut", "fastcut", "cyclegan")] == [
        357.10,
        190.85,
        624.90,
    ]
    assert rounded["training-of-cut", "flops_ratio"] == 0.571
    assert found["training-of-cut", "flops_here"].value < 0.91 * found["training-of-cut", "flops"].value
    without, mirrored = 173.62, 190.85
    assert rounded["training-of-fastcut", "flops_here"] == pytest.approx((without + mirrored) / 2, abs=0.01)
    assert rounded["training-of-cyclegan", "flops_here"] == rounded["training-of-cyclegan", "flops"]
    assert rounded["training-of-cyclegan@without-identities", "flops_ratio"] == 0.693


def test_claims_speak_of_cells_that_some_experiment_measures() -> None:
    measured = {(e.table, r, c.key) for e in PAPER.experiments for r in e.rows for c in e.columns} - {
        (e.table, *cell) for e in PAPER.experiments for cell in e.without
    }
    for claim in PAPER.claims:
        assert {(claim.table, cell.row, cell.column) for cell in claim.cells.values()} <= measured, claim.key
    claim = next(c for c in PAPER.claims if c.key == "label-miou")
    values = {(s, f"{m}@cityscapes", "miou"): v + s for s in range(3) for m, v in (("cut", 45.0), ("cyclegan", 30.0))}
    assert judge(claim, values).verdict == "holds"


# ----------------------------------------------------------------------------------------------------------------------
# On published files


@pytest.fixture
def drn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small segmenter where the user's DRN-D-22 would be."""
    torch.manual_seed(0)
    network = DRN(DRNConfig("basic", (1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4)))
    torch.save(network.state_dict(), tmp_path / "drn.pth")
    monkeypatch.setenv(weights.WEIGHTS[sets.DRN_KEY].variable, str(tmp_path / "drn.pth"))


def write_cityscapes(root: Path, training: int = 3, validation: int = 12) -> Path:
    """A small Cityscapes in its published layout."""
    random = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", training), ("val", "lindau", validation)):
        for i in range(count):
            name = f"{city}_{i:06d}_000019"
            files = {
                f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png": random.integers(0, 256, (64, 128, 3), np.uint8),
                f"gtFine/{split}/{city}/{name}_gtFine_color.png": random.integers(0, 256, (64, 128, 3), np.uint8),
                f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png": random.integers(0, 34, (64, 128), np.uint8),
            }
            for place, pixels in files.items():
                (root / "cityscapes" / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / "cityscapes" / place)
    return root


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The folder of data sets, its Cityscapes prepared by the command."""
    root = write_cityscapes(tmp_path / "data")
    result = CliRunner().invoke(cli.app, ["prepare", "cityscapes", "--data", str(root)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "12 test pictures" in result.output
    return root


def published(key: str, iterations: int = 2) -> comparison.Settings:
    """A row's settings at paper scale, with small networks and few iterations on crops of 32 px."""
    settings = experiment_of(key).scales["paper"].settings
    recipe = replace(narrow(settings.method.recipe), load_size=40, crop_size=32)
    return replace(settings, method=replace(settings.method, recipe=recipe, iterations=iterations))


@pytest.mark.parametrize("key", ["cut", "fastcut", "cyclegan"])
def test_cityscapes_as_published_from_the_tree_to_the_scores(
    key: str, prepared: Path, drn: None, tmp_path: Path
) -> None:
    found, _ = run(f"cityscapes-{key}", published(f"cityscapes-{key}"), tmp_path / "work", prepared, "paper")
    row = f"{key}@cityscapes"
    assert found[row, "miou"].samples == found[row, "fid"].samples == 12
    assert "nearest" in found[row, "miou"].note
    made = tmp_path / "work" / "results" / f"{row}-paper-seed0" / "fake_B"
    # Sources are the label maps, B as published; 10 comes before 2 and must still meet its own truth.
    assert {f.name for f in made.iterdir()} == {f"{i}_B.png" for i in range(12)}


def test_what_cityscapes_lacks_is_told_with_the_remedy(tmp_path: Path, drn: None) -> None:
    settings = published("cityscapes-cut")
    with pytest.raises(DataNotFound, match="gengauge prepare"):
        run("cityscapes-cut", settings, tmp_path / "work", tmp_path, "paper")
    root = write_cityscapes(tmp_path / "data")
    CliRunner().invoke(cli.app, ["prepare", "cityscapes", "--data", str(root)], catch_exceptions=False)
    (root / "cityscapes").rename(root / "elsewhere")
    with pytest.raises(DataNotFound, match="leftImg8bit"):
        run("cityscapes-cut", settings, tmp_path / "work", root, "paper")


def test_label_maps_must_be_those_of_the_prepared_pictures(
    prepared: Path, drn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One photograph more would move the places of all that follow it."""
    settings = published("cityscapes-cut")
    for kind in ("leftImg8bit", "gtFine"):
        for file in (prepared / "cityscapes" / kind / "val" / "lindau").iterdir():
            other = prepared / "cityscapes" / kind / "val" / "bremen" / file.name
            other.parent.mkdir(exist_ok=True)
            shutil.copy(file, other)
    with pytest.raises(ValueError, match="prepare it again"):
        run("cityscapes-cut", settings, tmp_path / "work", prepared, "paper")
    (prepared / "cityscapes-cut" / "prepared.json").unlink()  # as in the authors' own files
    with pytest.raises(ValueError, match="12 test pictures, but there are 24 label maps"):
        run("cityscapes-cut", settings, tmp_path / "work", prepared, "paper")
    assert not list((tmp_path / "work").glob("cut-*"))


def test_a_segmenter_of_other_classes_is_refused(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = DRN(DRNConfig("basic", (1, 1, 1, 1), (4, 4, 4, 4, 4, 4, 4, 4)), 34)
    torch.save(network.state_dict(), tmp_path / "drn.pth")
    monkeypatch.setenv(weights.WEIGHTS[sets.DRN_KEY].variable, str(tmp_path / "drn.pth"))
    with pytest.raises(ValueError, match="34 classes"):
        run("cityscapes-cut", published("cityscapes-cut"), tmp_path / "work", prepared, "paper")


def test_sets_that_are_not_whole_are_refused_at_paper_scale(tmp_path: Path) -> None:
    data = write_unpaired(tmp_path, "horse2zebra")
    experiment = experiment_of("horse-zebra-cut")
    with pytest.raises(ValueError, match="3 and 3 test pictures, the published set 120 and 140"):
        experiment.check(experiment.scales["paper"].settings, data)
    experiment.check(experiment.scales["paper"].settings, tmp_path / "elsewhere")  # told as missing later
    experiment_of("cityscapes-cut").check(experiment_of("cityscapes-cut").scales["quick"].settings, None)


def test_label_scores_need_a_segmenter(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="drn-d-22"):
        run("cityscapes-cut", published("cityscapes-cut"), tmp_path / "work", prepared, "paper")
    assert not list((tmp_path / "work").glob("cut-*"))  # nothing was trained before


def write_unpaired(root: Path, name: str, sizes: tuple[int, ...] = (40, 48, 56)) -> Path:
    random = np.random.default_rng(1)
    for folder in ("trainA", "trainB", "testA", "testB"):
        (root / name / folder).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).save(root / name / folder / f"{i}.jpg")
    return root


def test_references_keep_their_sizes(tmp_path: Path) -> None:
    data = write_unpaired(tmp_path / "data", "horse2zebra")
    settings = published("horse-zebra-cut")
    found, _ = run("horse-zebra-cut", settings, tmp_path / "work", data, "paper")
    assert found["cut@horse-zebra", "fid"].samples == 3
    for file in (data / "horse2zebra" / "testB").iterdir():
        Image.open(file).resize((32, 32)).save(file)
    resized, _ = run("horse-zebra-cut", settings, tmp_path / "work", data, "paper")
    assert abs(resized["cut@horse-zebra", "fid"].value / found["cut@horse-zebra", "fid"].value - 1) > 0.01


def test_a_damaged_picture_is_told_before_the_training_and_left_out_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_unpaired(tmp_path / "data", "horse2zebra")
    file = data / "horse2zebra" / "trainB" / "1.jpg"
    file.write_bytes(file.read_bytes()[:100])
    settings = published("horse-zebra-cut")
    with pytest.raises(ValueError, match=r"trainB/1\.jpg.*GENGAUGE_SKIP_DAMAGED"):
        run("horse-zebra-cut", settings, tmp_path / "work", data, "paper")
    assert not list((tmp_path / "work").glob("cut-*"))
    monkeypatch.setenv("GENGAUGE_SKIP_DAMAGED", "1")
    with pytest.warns(UserWarning, match=r"1 damaged of 3.*1\.jpg"):
        run("horse-zebra-cut", settings, tmp_path / "work", data, "paper")


def test_other_pictures_make_another_training(tmp_path: Path) -> None:
    data = write_unpaired(tmp_path / "data", "horse2zebra")
    method = published("horse-zebra-cut", 1).method
    context = Context(None, 0, "paper", "cpu", data, tmp_path / "work", lambda done, total, doing: None)
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 40), colour).save(data / "horse2zebra" / "trainA" / "0.jpg")
        train(method, context)
        train(method, context)  # found done
    assert len(list((tmp_path / "work").glob("cut-*"))) == 2


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (translators.RECIPES["cyclegan"], "pool of earlier fakes"),
        (replace(translators.RECIPES["cut"], negatives="both"), "bank of features"),
    ],
)
def test_several_processes_are_refused_where_their_states_differ(recipe: Recipe, message: str, tmp_path: Path) -> None:
    folders = FEW.open(Context(None, 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None), "train")
    group = Processes(count=2)
    with pytest.raises(ValueError, match=message):
        train_unpaired(replace(recipe, batch=2), folders, tmp_path / "work", {}, seed=0, device="cpu", processes=group)


@pytest.fixture
def generator() -> ResnetGenerator:
    torch.manual_seed(3)
    return ResnetGenerator(2, 4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_generator_in_a_file_is_measured(prefix: str, generator: ResnetGenerator, tmp_path: Path) -> None:
    data = write_unpaired(tmp_path / "data", "cat2dog")
    file = tmp_path / "checkpoints" / "mine" / "latest_net_G.pth"
    file.parent.mkdir(parents=True)
    torch.save({prefix + key: value for key, value in generator.state_dict().items()}, file)
    settings = published("cat-dog-fastcut")
    context = Context(settings, 0, "paper", "cpu", data, Path(), lambda done, total, doing: None)
    measure = experiment_of("cat-dog-fastcut").measure
    assert measure is not None
    found = measure(context, file.parent)
    assert set(found) == {"fid", "kid"}
    assert measure(context, file) == found
    assert not Path("results").exists()


def test_a_released_generator_is_scored(
    generator: ResnetGenerator, prepared: Path, drn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prepared / "cityscapes_val").mkdir()
    for side in "AB":
        (prepared / "cityscapes-cut" / f"test{side}").rename(prepared / "cityscapes_val" / f"val{side}")
    torch.save(generator.state_dict(), tmp_path / "latest_net_G.pth")
    monkeypatch.setenv(weights.WEIGHTS["cut-cityscapes"].variable, str(tmp_path / "latest_net_G.pth"))
    settings = experiment_of("released-cut-cityscapes").scales["paper"].settings
    settings = replace(settings, method=replace(settings.method, recipe=replace(settings.method.recipe, crop_size=32)))
    found, pictures = run("released-cut-cityscapes", settings, tmp_path / "work", prepared, "paper")
    assert found["cut-released@cityscapes", "miou"].samples == 12
    assert pictures
    settings = experiment_of("released-fastcut-cityscapes").scales["paper"].settings
    with pytest.raises(WeightsNotFound, match=r"pretrained_models\.tar"):
        run("released-fastcut-cityscapes", settings, tmp_path / "work", prepared, "paper")


def test_a_pair_of_pictures_is_enough_for_sincut_and_more_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gengauge.benchmarks.papers.cut.single.CROPS", 4)
    data = write_unpaired(tmp_path / "data", "single_image", (70,))
    settings = experiment_of("single-image").scales["small"].settings
    recipe = replace(settings.method.recipe, batch=2, generator={"ngf": 1, "crop_size": 64}, nc=8)
    recipe = replace(recipe, discriminator={"ndf": 1, "crop_size": 64})
    settings = replace(settings, method=replace(settings.method, recipe=recipe, iterations=1))
    found, pictures = run("single-image", settings, tmp_path / "work", data, "small")
    assert found["source-as-it-is", "fid_crops"].samples == 4
    assert [p.name for p in pictures] == ["source", "target", "translation"]
    assert {p.pixels.shape for p in pictures} == {(72, 72, 3)}
    assert notes(found.values()) == {}
    retell(tmp_path / "work")
    again, _ = run("single-image", settings, tmp_path / "work", data, "small")
    assert notes(again.values()).keys() == {("sincut", "fid_crops"), ("sincut", "identity")}
    Image.new("RGB", (70, 70)).save(data / "single_image" / "trainA" / "second.png")
    with pytest.raises(ValueError, match="one of each"):
        run("single-image", settings, tmp_path / "work2", data, "small")
    assert not (tmp_path / "work2").exists()  # told before anything is trained


def test_a_trained_network_is_built_again_from_its_weights() -> None:
    recipe = narrow(translators.RECIPES["cyclegan"])
    torch.manual_seed(0)
    g = training_of(recipe, "cpu").networks["G_A"].eval()
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(recipe, g.state_dict())(x), g(x))
