"""Custom Diffusion at paper scale, small: sets and models of the published layouts, from the files to the numbers."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from custom_diffusion_tiny import ALL, CLIP_FILE, COCO, DINO_FILE, EACH, MEAN, OF_CLASS, PAPER, encoders, write_tree
from histories import BY_TWO, notes, retell
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli, papers
from gengauge.benchmarks.concept_models import open_model
from gengauge.benchmarks.concept_samples import PROMPTS, SAMPLES
from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline
from gengauge.benchmarks.features.clip import picture_features, text_features
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.metrics.kernel import mmd2
from gengauge.benchmarks.papers import custom_diffusion
from gengauge.benchmarks.papers.custom_diffusion import costs, loading, rows, units
from gengauge.benchmarks.papers.custom_diffusion.evaluation import Evaluation, coco
from gengauge.benchmarks.papers.custom_diffusion.keeping import kept, model_digest
from gengauge.benchmarks.papers.custom_diffusion.loading import MODEL
from gengauge.benchmarks.papers.custom_diffusion.merging import merged
from gengauge.benchmarks.papers.custom_diffusion.methods import BOOTH, CUSTOM, INVERSION, Merging, Settings
from gengauge.benchmarks.papers.custom_diffusion.naming import alone, asked, begins
from gengauge.datasets.concept_sets import SetConcept
from gengauge.datasets.delta_files import read_delta, write_delta
from gengauge.datasets.deltas import Delta
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound

pytestmark = pytest.mark.usefixtures("one_thread")

CAT, DOG = "cat-5-images", "dog-10-images"
ROW = f"per-dataset-custom-diffusion-{CAT}"
Cells = dict[tuple[str, str], Measurement]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("custom-diffusion"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all rows of this module keep what they learn, so that they share it."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def own(tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree that a test may spoil."""
    return shutil.copytree(tree, tmp_path / "own")


@pytest.fixture(autouse=True)
def _judges(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in encoders(tree).items():
        monkeypatch.setattr(loading, name, stand_in)
    monkeypatch.setenv("GENGAUGE_CLIP_VIT_B_32", str(tree / CLIP_FILE))
    monkeypatch.setenv("GENGAUGE_DINO_VITS16", str(tree / DINO_FILE))


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, "train_concepts", "sample")


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Nothing is trained or sampled from here on."""

    def forbidden(*arguments: Any, **named: Any) -> None:
        raise AssertionError("this was not to be done")

    for name in names:
        monkeypatch.setattr(units, name, forbidden)


def experiment_of(key: str) -> Experiment:
    return next(each for each in PAPER.experiments if each.key == key)


def context_of(key: str, work: Path, data: Path | None, **changed: Any) -> Context:
    settings = replace(experiment_of(key).scales["paper"].settings, **changed)
    return Context(settings, 0, "paper", "cpu", data, work, lambda done, total, doing: None)


def run(key: str, work: Path, data: Path | None, **changed: Any) -> tuple[Cells, list[Picture]]:
    """What an experiment yields; all that it declares must be among it, with a value or a reason, and nothing else."""
    experiment = experiment_of(key)
    found = list(experiment.run(context_of(key, work, data, **changed)))
    measured = [each for each in found if isinstance(each, Measurement)]
    cells = {(each.row, each.column): each for each in measured}
    assert len(cells) == len(measured)
    declared = {(row, column.key) for row, column in product(experiment.rows, experiment.columns)}
    assert set(cells) == declared - experiment.without
    for each in measured:
        assert math.isfinite(each.value) != bool(each.missing)
        if each.low is not None and each.high is not None:
            assert each.low <= each.value <= each.high
    return cells, [each for each in found if isinstance(each, Picture)]


def value(cells: Cells, column: str) -> float:
    (found,) = (each.value for (_, name), each in cells.items() if name == column)
    return found


# -- rows of single concepts -------------------------------------------------------------------------------------------


def unit(features: Any) -> Any:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_a_row_is_scored_by_the_published_rules(tree: Path, work: Path) -> None:
    cells, pictures = run(ROW, work, tree)
    made = Evaluation(context_of(ROW, work, tree))
    (cat,) = made.subjects
    assert isinstance(cat, SetConcept)
    folder = made.samples(cat)
    asked_for = json.loads((folder / PROMPTS).read_text())
    assert list(asked_for.values()) == [f"<new1> cat and {letter}" for letter in "abcdefghijklmnopqrst"]
    clip = made.judges.of("clip")
    own = unit(picture_features(list_pictures(folder / SAMPLES), clip))
    texts = unit(text_features([f"cat and {letter}" for letter in "abcdefghijklmnopqrst"], clip))
    expected = np.mean([2.5 * max(float(a @ b), 0) for a, b in zip(own, texts, strict=True)])
    assert value(cells, "text_alignment") == pytest.approx(expected, rel=1e-5)
    targets = unit(picture_features(list(cat.pictures), clip))
    expected = np.mean([float(a @ b) for a in own for b in targets])
    assert value(cells, "image_alignment_clip") == pytest.approx(expected, rel=1e-5)
    # KID is of other samples: of plain captions, or of "photo of a cat" where the real pictures have none.
    plain = list(folder.parent.glob("cat-class-*"))
    assert len(plain) == 1
    assert set(json.loads((plain[0] / PROMPTS).read_text()).values()) == {"photo of a cat"}
    real = list_pictures(tree / "custom-diffusion" / "validation" / "cat")
    assert made.inception is not None
    fake = list_pictures(plain[0] / SAMPLES)
    assert len(fake) == OF_CLASS
    expected = 1000 * mmd2(extract(real, made.inception), extract(fake, made.inception))
    assert value(cells, "kid") == pytest.approx(expected, rel=1e-6)
    assert [(each.row, each.name, each.pixels.shape) for each in pictures] == [
        ("custom-diffusion@cat-5-images", "samples", (512, 768, 3))
    ]
    assert {each.samples for each in cells.values()} == {20 * EACH, OF_CLASS}
    assert all("trained here" in each.note for each in cells.values())


def test_captions_of_real_pictures_are_what_the_class_is_sampled_by(own: Path, tmp_path: Path) -> None:
    place = own / "custom-diffusion" / "validation" / "cat"
    (place / "images.txt").write_text("0.png\n1.png\n2.png\n")
    (place / "caption.txt").write_text("a cat\nmy cat\ntwo\n")
    run("per-dataset-pretrained-stable-diffusion-cat-5-images", tmp_path, own)
    (folder,) = (tmp_path / "custom-diffusion" / "samples").iterdir()
    assert list(json.loads((folder / PROMPTS).read_text()).values()) == ["a cat", "my cat", "two", "a cat"]


def test_means_leave_the_scene_out_of_alignment_only_and_share_what_is_there(
    tree: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = {
        name: run(f"per-dataset-custom-diffusion-{slug}", work, tree)[0]
        for name, slug in zip(MEAN, ("moongate-135-images", DOG, CAT), strict=True)
    }

    forbid(monkeypatch, "train_concepts", "sample")
    for key in ("single-custom-diffusion-mean-over-datasets", "ablation-custom-diffusion-single-concept"):
        cells, _ = run(key, work, tree)
        for column in ("text_alignment", "image_alignment_clip"):
            assert value(cells, column) == pytest.approx(
                np.mean([value(each[name], column) for name in ("dog", "cat")])
            )
        assert value(cells, "kid") == pytest.approx(np.mean([value(each[name], "kid") for name in MEAN]))
        notes = {column: found.note for (_, column), found in cells.items()}
        assert notes["kid"] == "mean of 3; trained here"
        assert notes["text_alignment"] == "mean of 2; trained here"
    # Table 5 knows nothing of the scene.
    cells, _ = run("token-custom-diffusion-mean", work, tree)
    assert value(cells, "kid") == pytest.approx(np.mean([value(each[name], "kid") for name in ("dog", "cat")]))


def test_published_means_are_over_nine_and_ten() -> None:
    settings = {each.key: each.scales["paper"].settings for each in ALL}
    single: Settings = settings["single-custom-diffusion-mean-over-datasets"]
    assert (len(single.subjects.names), single.left_out) == (10, ("moongate",))
    assert (single.drawing.how.steps, single.drawing.how.eta, single.drawing.how.guidance) == (50, 1.0, 6.0)
    assert (single.drawing.each, single.drawing.of_class, single.class_pictures) == (50, 1000, 200)
    assert len(settings["token-custom-diffusion-mean"].subjects.names) == 9
    pairs: Settings = settings["multi-custom-diffusion-joint-mean-over-5-compositions"]
    assert (len(pairs.subjects.names), pairs.left_out, pairs.drawing.how.steps) == (5, (), 200)
    assert settings["per-composition-custom-diffusion-joint-mean"].subjects == pairs.subjects
    listed: Settings = settings["cc101-single-readme-custom-diffusion-50-ddpm-steps"]
    assert (listed.subjects.names, listed.drawing.each, listed.drawing.how.steps) == ((), 5, 50)
    assert listed.method.prior == "generated"
    assert settings["coco-custom-diffusion-cat-5-images"].of.drawing.how.steps == 50


SINGLES = (
    f"per-dataset-textual-inversion-{CAT}",
    f"per-dataset-dreambooth-{CAT}",
    f"per-dataset-custom-diffusion-w-fine-tune-all-{CAT}",
    f"token-custom-diffusion-v-init-from-normal-dist.-{CAT}",
)
ABLATED = tuple(f"ablation-custom-diffusion-{what}-single-concept" for what in ("w-o-aug", "w-o-reg", "w-gen"))
LISTED = tuple(
    f"cc101-single-readme-{method}-200-ddpm-steps" for method in ("textual-inversion", "dreambooth", "custom-diffusion")
)


@pytest.mark.parametrize("key", LISTED)
def test_rows_of_customconcept101(key: str, tree: Path, work: Path) -> None:
    cells, _ = run(key, work, tree)
    assert {each.note for each in cells.values()} == {"mean of 2; trained here"}


def test_every_method_fills_its_row_by_a_training_of_its_own(tree: Path, tmp_path: Path) -> None:
    for key in (ROW, *SINGLES, *ABLATED):
        changed: dict[str, Any] = {}
        if key in ABLATED:
            s: Settings = experiment_of(key).scales["paper"].settings
            changed = {"subjects": replace(s.subjects, names=("cat",)), "left_out": ()}
        cells, _ = run(key, tmp_path, tree, **changed)
        assert {(each.note, each.missing) for each in cells.values()} == {("trained here", "")}
    learnt = set()
    for path in (tmp_path / "custom-diffusion" / "deltas").iterdir():
        delta, about = read_delta(path), json.loads((path / "about.json").read_text())
        assert about["seconds"] > 0
        assert not (path / "training").exists()
        moved = tuple(float(each[0].sum()) for each in delta.tokens.values())
        learnt.add((len(delta.weights), moved, float(sum(w.sum() for w in delta.weights.values()))))
    # Of eight, six learn keys and values alone or nothing of the U-Net, and DreamBooth learns no token.
    assert len(learnt) == 8
    whole = max(count for count, _, _ in learnt)
    assert whole > 8
    assert sorted(count for count, _, _ in learnt) == [0, 8, 8, 8, 8, 8, whole, whole]
    assert [count for count, moved, _ in learnt if not moved] == [whole]
    (generated,) = (tmp_path / "custom-diffusion" / "samples").glob("class-cat-*")
    assert set(json.loads((generated / PROMPTS).read_text()).values()) == {"photo of a cat"}


def test_tokens_alone_forget_nothing_and_the_scene_gets_one(tree: Path, work: Path, tmp_path: Path) -> None:
    base, _ = run("per-dataset-pretrained-stable-diffusion-moongate-135-images", work, tree)
    key = "per-dataset-textual-inversion-moongate-135-images"
    cells, _ = run(key, work, tree)
    assert value(cells, "kid") == value(base, "kid")
    made = Evaluation(context_of(key, work, tree))
    (gate,) = made.subjects
    assert asked(gate, made.s.method)[0] == "<new1> moongate and a"
    assert gate.plain_prompts()[0] == "moongate and a"
    assert list(made.learnt(gate).delta.tokens) == ["<new1>"]


def test_dreambooth_says_words_for_tokens_and_tokens_begin_as_their_class(tree: Path, work: Path) -> None:
    made = Evaluation(context_of(f"per-dataset-dreambooth-{CAT}", work, tree))
    (cat,) = made.subjects
    assert asked(cat, BOOTH)[0] == "sks cat and a"
    assert asked(cat, CUSTOM)[0] == "<new1> cat and a"
    assert made.workshop._concepts(cat, made.s.method)[0].pictures[0].caption == "photo of a k cat"
    words = made.workshop.model.tokenizer
    assert begins(INVERSION, words, "old b") == ("b",)
    assert begins(INVERSION, words, "old pot") == INVERSION.begin_as
    assert begins(CUSTOM, words, "old b") == CUSTOM.begin_as


# -- pairs -------------------------------------------------------------------------------------------------------------

PAIR = "cat-chair"
METHODS = (
    "textual-inversion",
    "dreambooth",
    "custom-diffusion-optimization",
    "custom-diffusion-joint",
    "custom-diffusion-sequential",
    "custom-diffusion-w-fine-tune-all",
)


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_is_scored_against_both_concepts(method: str, tree: Path, work: Path) -> None:
    key = f"per-composition-{method}-{PAIR}"
    cells, _ = run(key, work, tree)
    made = Evaluation(context_of(key, work, tree))
    (pair,) = made.subjects
    clip = made.judges.of("clip")
    own = unit(picture_features(list_pictures(made.samples(pair) / SAMPLES), clip))
    for number, concept in enumerate((pair.first, pair.second), 1):
        targets = unit(picture_features(list(concept.pictures), clip))
        column = f"image_alignment_clip_target{number}"
        assert value(cells, column) == pytest.approx(float(own.mean(0) @ targets.mean(0)), rel=1e-5)
    s = replace(made.s, columns=("text_alignment", "image_alignment_clip"))
    whole = {each.column: each.value for each in rows.row(replace(made.context, settings=s)) if hasattr(each, "value")}
    both = [value(cells, f"image_alignment_clip_target{number}") for number in (1, 2)]
    assert whole["image_alignment_clip"] == pytest.approx(np.mean(both))


@pytest.mark.parametrize("method", ["dreambooth", "custom-diffusion-optimization"])
def test_pairs_of_customconcept101(method: str, tree: Path, work: Path) -> None:
    first, _ = run(f"cc101-multi-readme-{method}-200-ddpm-steps", work, tree)
    again, _ = run(f"cc101-multi-{method}-101-concept-pairs", work, tree)
    assert value(again, "image_alignment_clip") == value(first, "image_alignment_clip")


def test_the_second_concept_is_learnt_on_top_of_the_first(tree: Path, work: Path) -> None:
    made = Evaluation(context_of(f"per-composition-custom-diffusion-sequential-{PAIR}", work, tree))
    (pair,) = made.subjects
    found = made.learnt(pair).delta
    first = made.workshop.learnt(pair.first, made.s.method).delta
    assert found is not None
    assert first is not None
    assert list(found.tokens) == ["<new1>", "<new2>"]
    assert torch.equal(found.tokens["<new1>"][0], first.tokens["<new1>"][0])
    name = next(iter(found.weights))
    base = made.workshop.base[name]
    # A step of the first (0.01 a number) and a step of the second.
    assert (first.weights[name] - base).abs().max() < 0.011
    assert (found.weights[name] - base).abs().max() > 0.015
    apply_to_pipeline(made.workshop.fresh(), found)  # its base is the pretrained model


def test_two_are_merged_where_one_has_no_token(tree: Path, work: Path) -> None:
    made = Evaluation(context_of(f"per-composition-custom-diffusion-optimization-{PAIR}", work, tree))
    (pair,) = made.subjects
    shop, method = made.workshop, made.s.method
    first, second = pair.first, pair.second
    deltas = [shop.learnt(each, method).delta for each in (first, alone(second))]
    both = [deltas[0], Delta(deltas[1].weights)]
    concepts = (first, replace(second, token=None))
    captions = loading.common_captions(made.found, 140, tree)
    pipeline = shop.fresh()
    found = merged(pipeline, both, concepts, captions, Merging(140))
    assert list(found.tokens) == ["<new1>"]
    apply_to_pipeline(pipeline, found)
    with torch.no_grad():
        for delta, text in zip(both, ("<new1> cat", "chair"), strict=True):
            ids = torch.tensor([pipeline.tokenizer(text)["input_ids"]])
            features = pipeline.text_encoder(ids)[0][0, 1:]
            for name, weight in found.weights.items():
                wanted = features @ delta.weights[name].T
                assert torch.allclose(features @ weight.T, wanted, atol=2e-3)
    with pytest.raises(ValueError, match="the delta of chair has no token"):
        merged(pipeline, both, (first, second), captions, Merging(140))


def test_pictures_that_trainings_see_are_no_reference_of_kid(own: Path, tmp_path: Path) -> None:
    code = own / "custom-diffusion"
    seen = code / "data" / "real_reg" / "samples_cat" / "images" / "0.png"
    shutil.copy(seen, code / "validation" / "cat" / "another name.png")
    with pytest.raises(ValueError, match=r"another name\.png is among the class pictures"):
        run(ROW, tmp_path, own)
    assert not (tmp_path / "custom-diffusion" / "deltas").exists()


def test_a_picture_without_a_caption_is_told_before_anything_is_trained(own: Path, tmp_path: Path) -> None:
    captions = own / "custom-diffusion" / "data" / "real_reg" / "samples_cat" / "caption.txt"
    captions.write_text("a cat\n\nanother\n")
    with pytest.raises(ValueError, match=r"caption\.txt, line 2, is empty"):
        run(ROW, tmp_path, own)
    assert not (tmp_path / "custom-diffusion" / "deltas").exists()


# -- the authors' deltas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["cat.bin", "delta_cat.ckpt", "cat/delta.bin"])
def test_the_authors_deltas_take_the_place_of_a_training(
    place: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = dict(open_model(own / MODEL).unet.named_parameters())
    weights = {name: each.detach() * 1.1 for name, each in base.items() if ".attn2.to_k." in name}
    path = own / "custom-diffusion" / "models" / place
    path.parent.mkdir(parents=True)
    (own / "custom-diffusion" / "models" / "cat.a.png").write_bytes(b"a picture of it")
    if path.suffix == ".ckpt":
        weights = {}
    write_delta(path, Delta(weights, {"<new1>": (torch.ones(32),)}), layers=1)
    shutil.rmtree(own / "custom-diffusion" / "data" / "real_reg")  # which nothing is trained with

    forbid(monkeypatch, "train_concepts")
    cells, _ = run(ROW, tmp_path, own)
    assert {each.note for each in cells.values()} == {f"the authors' delta {path.name}"}
    assert loading.released(["ca"], CUSTOM, own) is None
    assert loading.released(["cat"], BOOTH, own) is None


# -- COCO, costs and weights that move ---------------------------------------------------------------------------------


def test_fid_on_coco_is_of_first_captions(tree: Path, work: Path) -> None:
    cells, _ = run(f"coco-custom-diffusion-{CAT}", work, tree)
    base, _ = run("coco-pretrained-stable-diffusion-not-fine-tuned", work, tree)
    assert value(cells, "fid") != value(base, "fid")
    (folder,) = (work / "custom-diffusion" / "samples").glob("base-coco-*")
    assert list(json.loads((folder / PROMPTS).read_text()).values()) == [f"a thing {letter}" for letter in "abcde"]
    captions, pictures = coco(tree, 3)
    assert captions == ["a thing a", "a thing b", "a thing c"]
    assert [path.name for path in pictures] == ["0.png", "1.png", "2.png"]
    with pytest.raises(ValueError, match="are of 5 pictures, and 6"):
        coco(tree, COCO + 1)


def test_coco_of_two_years(own: Path) -> None:
    (own / "coco" / "val2017" / "3.png").unlink()
    with pytest.raises(ValueError, match="of one year"):
        coco(own, COCO)


def test_files_are_as_large_as_the_paper_says(tree: Path, work: Path) -> None:
    cells, _ = run("cost-custom-diffusion-per-concept", work, None)
    numbers = 19_169_280 + 768
    assert value(cells, "file_size") == pytest.approx(4 * numbers / 1e6, rel=1e-3)
    whole = experiment_of("cost-dreambooth-per-concept").scales["paper"].settings
    assert (whole.which, whole.tokens) == ("all", 0)
    small, _ = run("cost-custom-diffusion-compressed-per-concept-ratio-0.6", work, tree)
    assert 0 < value(small, "file_size") < 0.02
    share, _ = run("weight-change-stable-diffusion-u-net-cross-attention-layers", work, None)
    assert value(share, "parameter_share") == pytest.approx(5.1, abs=0.05)


def test_times_are_of_trainings_of_their_own(tree: Path, work: Path) -> None:
    cells, _ = run("cost-custom-diffusion-2-a100", work, tree)
    assert value(cells, "training_time") > 0
    (memory,) = (each for each in cells.values() if each.column == "memory")
    assert "--device cuda" in memory.missing
    key = "cost-custom-diffusion-optimization-closed-form-merge"
    s = context_of(key, work, tree).settings
    one = replace(s, of=replace(s.of, subjects=replace(s.of.subjects, names=("cat+chair",))), repeats=1)
    found = list(experiment_of(key).run(replace(context_of(key, work, tree), settings=one)))
    assert [each.column for each in found if isinstance(each, Measurement)] == ["merge_time"]


def test_which_weights_move(tree: Path, work: Path) -> None:
    cells, _ = run("weight-change-fine-tuning-all-weights-cross-attention-layers", work, tree)
    assert len({each.value for each in cells.values()}) == 3
    base = {f"{kind}.weight": torch.full((2, 2), 2.0) for kind in ("a.attn2.to_q", "a.attn1.to_q", "conv")}
    base |= {"conv.bias": torch.full((5,), 2.0), "norm.bias": torch.zeros(3)}
    tuned = {name: each + (0.2 if "attn2" in name else 0.1) for name, each in base.items()}
    found = costs.changes(base, tuned)
    assert {kind: [pytest.approx(each) for each in values] for kind, values in found.items()} == {
        "cross-attention layers": [0.1],
        "self-attention layers": [0.05],
        "other layers": [0.05],
    }
    part = {"a.attn2.to_k.weight": torch.ones(1), "conv.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="no weight of self-attention"):
        costs.changes(part, part)


# -- what is missing or wrong ------------------------------------------------------------------------------------------

MERGED = f"per-composition-custom-diffusion-optimization-{PAIR}"
DINO_ROW = "cc101-single-readme-custom-diffusion-200-ddpm-steps"


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("key", "gone", "told"),
    [
        (ROW, "stable-diffusion-v1-4", "hf download CompVis/stable-diffusion-v1-4"),
        (ROW, "custom-diffusion/data", "data.zip"),
        (ROW, "custom-diffusion/data/cat", "data.zip"),
        (ROW, "custom-diffusion/prompts", "git clone"),
        (ROW, "$GENGAUGE_CLIP_VIT_B_32", "correct or unset it"),
        (ROW, "custom-diffusion/data/real_reg", "samples_cat"),
        (MERGED, "custom-diffusion/data/regularization_captions.txt", "data.zip"),
        (DINO_ROW, "$GENGAUGE_DINO_VITS16", "correct or unset it"),
        (DINO_ROW, "custom-diffusion/customconcept101/benchmark_dataset", "benchmark_dataset.zip"),
        ("coco-custom-diffusion-cat-5-images", "coco/annotations", "annotations_trainval2017"),
        ("coco-custom-diffusion-cat-5-images", "coco/val2017", "val2017.zip"),
        ("per-dataset-pretrained-stable-diffusion-cat-5-images", "custom-diffusion/validation", "about 500 pictures"),
        ("cost-custom-diffusion-2-a100", "custom-diffusion/data/real_reg", "samples_cat"),
        ("per-dataset-custom-diffusion-flower-10-images", "$GENGAUGE_DINO_VITS16", "flower: not released"),
    ],
)
def test_nothing_is_trained_where_something_is_missing(
    key: str, gone: str, told: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = own / gone
    if gone.startswith("$"):
        monkeypatch.setenv(gone[1:], str(place))
    else:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises((DataNotFound, WeightsNotFound), match=told):
        run(key, tmp_path, own)
    experiment = experiment_of(key)
    experiment.check(experiment.scales["paper"].settings, own)  # what is missing is no error of the command's
    assert not (tmp_path / "custom-diffusion" / "deltas").exists()


def test_without_real_pictures_kid_alone_is_missing(
    own: Path, work: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(own / "custom-diffusion" / "validation" / "cat")
    whole, _ = run(ROW, work, tree)
    cells, _ = run(ROW, work, own)
    missing = {column: each.missing for (_, column), each in cells.items()}
    assert "about 500 pictures" in missing.pop("kid")
    assert set(missing.values()) == {""}
    assert value(cells, "text_alignment") == value(whole, "text_alignment")

    def nowhere(name: str) -> None:
        raise WeightsNotFound("no Inception", "pip install it")

    monkeypatch.setattr(loading, "load_network", nowhere)
    cells, _ = run(ROW, work, tree)
    assert cells["custom-diffusion@cat-5-images", "kid"].missing == "no Inception"
    # The scene counts in KID only, so it is not learnt where that cannot be had.
    made = Evaluation(context_of("single-custom-diffusion-mean-over-datasets", work, tree))
    assert [each.name for each in made.taught()] == ["dog", "cat"]


def test_damaged_prompts_are_refused_before_any_job(own: Path) -> None:
    experiment = experiment_of(ROW)
    path = own / "custom-diffusion" / "prompts" / "cat.txt"
    path.write_text("a <new1> cat\n")
    with pytest.raises(ValueError, match=r"cat\.txt holds 1 prompts"):
        experiment.check(experiment.scales["paper"].settings, own)


def test_large_weights_have_a_digest() -> None:
    network = torch.nn.Module()
    network.register_parameter("w", torch.nn.Parameter(torch.zeros(1).expand(37_945_344)))
    assert model_digest(network) == model_digest(network)


def test_damaged_scores_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert kept(path, lambda: {"a": 1}) == {"a": 1}
    assert kept(path, lambda: {"a": 2}) == {"a": 1}
    for wrong in ('{"a"', "[1]", "[" * 9999):
        path.write_text(wrong)
        assert kept(path, lambda: {"a": 2}) == {"a": 2}


def test_a_training_that_was_stopped_goes_on_and_train_leaves_nothing_to_do(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(ROW, tmp_path, tree)
    s: Settings = context.settings
    assert s.method.recipe is not None
    longer = replace(s, method=replace(s.method, recipe=replace(s.method.recipe, iterations=4)))
    experiment = experiment_of(ROW)
    assert experiment.train is not None

    class Killed(Exception):
        pass

    def kill(done: int, total: int, doing: str) -> None:
        if "iteration 2" in doing:
            raise Killed

    with pytest.raises(Killed):
        experiment.train(replace(context, settings=longer, progress=kill))
    told: list[int] = []

    def tell(done: int, total: int, doing: str) -> None:
        if "iteration" in doing:
            told.append(done)

    experiment.train(replace(context, settings=longer, progress=tell))
    assert told
    assert min(told) > 1
    (stopped,) = (tmp_path / "custom-diffusion" / "deltas").iterdir()
    other = replace(context, settings=longer, work=tmp_path / "other")
    experiment.train(other)
    (whole,) = (tmp_path / "other" / "custom-diffusion" / "deltas").iterdir()
    a, b = read_delta(stopped), read_delta(whole)
    assert all(torch.equal(weight, b.weights[name]) for name, weight in a.weights.items())

    forbid(monkeypatch, "train_concepts")
    list(experiment.run(replace(context, settings=longer)))


def test_two_processes_draw_what_one_does(tree: Path, work: Path, tmp_path: Path) -> None:
    made = Evaluation(context_of(ROW, work, tree))
    learnt = made.learnt(made.subjects[0])
    assert learnt.delta is not None
    found = []
    for count in (1, 2):
        here = replace(context_of(ROW, tmp_path / str(count), tree), processes=count)
        workshop = units.Workshop(here, Evaluation(here).found)
        drawing = replace(here.settings.drawing, each=5, batch=2)
        folder = workshop.sampled("cats", learnt, ["<new1> cat"], drawing)
        found.append({path.name: path.read_bytes() for path in list_pictures(folder / SAMPLES)})
        for name in ("000002.png", "000003.png"):  # as if the job had been stopped
            (folder / SAMPLES / name).unlink()
        assert workshop.sampled("cats", learnt, ["<new1> cat"], drawing) == folder
        assert {path.name: path.read_bytes() for path in list_pictures(folder / SAMPLES)} == found[-1]
    assert len(found[0]) == 5
    assert found[0] == found[1]


def test_what_is_measured_of_others_trainings_tells_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, moves = "cost-custom-diffusion-2-a100", "weight-change-fine-tuning-all-weights-cross-attention-layers"
    small, coco_key = "cost-custom-diffusion-compressed-per-concept-ratio-0.6", "coco-custom-diffusion-cat-5-images"
    pairs = [f"per-composition-custom-diffusion-{how}-{PAIR}" for how in ("optimization", "sequential")]
    mean = "single-custom-diffusion-mean-over-datasets"
    keys = (mean, ROW, timed, moves, small, coco_key, *pairs)
    for key in keys:
        assert notes(run(key, tmp_path, tree)[0].values()) == {}, key
    retell(tmp_path)
    forbid(monkeypatch, "train_concepts", "sample")
    told = {key: set(notes(run(key, tmp_path, tree)[0].values()).values()) for key in keys}
    assert told[ROW] == told[coco_key] == {f"trained here ({BY_TWO})"}
    assert told[mean] == {f"mean of {count}; trained here ({BY_TWO})" for count in (2, 3)}
    assert told[pairs[0]] == {f"trained here ({BY_TWO}), merged"}
    assert told[pairs[1]] == {f"trained here ({BY_TWO})"}
    assert told[moves] == {BY_TWO}
    assert all(note.endswith(f"; {BY_TWO}") for key in (timed, small) for note in told[key])
    # Those of one concept alone, and of before processes and code were kept.
    retell(tmp_path, processes=1)
    for path in (tmp_path / "custom-diffusion" / "deltas").glob("cat-*/about.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps({name: about[name] for name in ("seconds", "device", "recipe")}))
    old = "trained here (trained by code of an earlier version)"
    assert set(notes(run(ROW, tmp_path, tree)[0].values()).values()) == {old}
    found = notes(run(mean, tmp_path, tree)[0].values())
    assert set(found.values()) == {f"mean of {count}; 2 of 3: trained here; 1 of 3: {old}" for count in (2, 3)}


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(papers, "SOURCES", ("custom_diffusion_tiny:PAPER",))
    return lambda *arguments: CliRunner(env={"COLUMNS": "250"}).invoke(cli.app, [str(each) for each in arguments])


def test_a_dry_run_counts_the_network_and_tells_what_is_there(own: Path, command: Callable[..., Result]) -> None:
    (own / "custom-diffusion" / "prompts" / "dog.txt").write_text("a dog\n")  # of another row
    row = "custom_diffusion/per-dataset/custom-diffusion@cat-5-images"
    result = command("run", row, "--scale", "paper", "--data", own, "--dry-run")
    assert result.exit_code == 0, (result.output, result.exception)
    text = " ".join(result.output.split())
    assert "U-Net of Stable Diffusion 1" in text
    assert "859,520,964" in text or "859.5" in text
    assert str(own / "stable-diffusion-v1-4") in text


def test_a_plan_tells_what_is_there(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENGAUGE_DINO_VITS16")
    shutil.rmtree(own / "custom-diffusion" / "validation")
    needs = {
        each.what.partition(":")[0]: each
        for key in (ROW, DINO_ROW, "coco-custom-diffusion-cat-5-images")
        for each in experiment_of(key).scales["paper"].plan.needs(own)
    }
    assert needs["clip-vit-b-32"].where == Path(os.environ["GENGAUGE_CLIP_VIT_B_32"])
    assert needs["stable-diffusion-v1-4"].where == own / "stable-diffusion-v1-4"
    assert needs["coco-val"].where == own / "coco" / "val2017"
    missing = {name for name, each in needs.items() if each.where is None}
    assert {"dino-vits16", "custom-diffusion-validation"} <= missing
    assert all(needs[name].remedy for name in missing)
    nowhere = experiment_of(ROW).scales["paper"].plan.needs(None)
    assert nowhere[0].looked_in == ("no data folder: give --data DIR",)


def test_every_row_of_the_paper_is_filled_or_cannot_be() -> None:
    filled = {(each.table, row) for each in ALL for row in each.rows}
    assert len({each.key for each in ALL}) == len(ALL)
    left = {(table.key, row.key) for table in custom_diffusion.PAPER.tables for row in table.rows if table.published}
    left = {each for each in left - filled if each[0] != "preference"}
    assert {row for _, row in left} == {
        "custom-diffusion-compressed@per-concept-smallest-quoted",
        "custom-diffusion-compressed@fig.-21-caption-1-mb-point",
        "custom-diffusion-compressed@fig.-21-caption-0.1-mb-point",
        "custom-diffusion-compressed@fig.-21-caption-0.08-mb-point",
    }
    known = {table.key: table for table in PAPER.tables}
    for each in ALL:
        assert set(each.rows) <= {row.key for row in known[each.table].rows}
        for subject, published, here in each.protocol:
            assert subject
            assert published
            assert here


def test_jobs_are_of_the_published_code_alone(tree: Path) -> None:
    for key in (ROW, DINO_ROW, "coco-custom-diffusion-cat-5-images", "cost-custom-diffusion-2-a100"):
        experiment = experiment_of(key)
        assert experiment.reads is not None
        assert experiment.reads(experiment.scales["paper"].settings, tree) == tree / "custom-diffusion"
        assert experiment.reads(experiment.scales["paper"].settings, tree / "coco") is None
