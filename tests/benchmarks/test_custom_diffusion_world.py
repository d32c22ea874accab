"""Personal concepts of the embedded world: their pictures and prompts, how they are recognised, and the tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histories import BY_TWO, notes, retell
from torch import Tensor, nn

from gengauge.benchmarks.core.claims import MIN_SEEDS, judge
from gengauge.benchmarks.core.experiments import SCALES, Context, Experiment, Measurement, Picture, Result, Scale
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.papers.custom_diffusion import PAPER, ablation, comparison, composition, world
from gengauge.benchmarks.papers.custom_diffusion.lessons import Kept, Together, learnt, lesson_of
from gengauge.benchmarks.papers.custom_diffusion.world import Asked, Model, Sampling, prompts
from gengauge.benchmarks.zoo import concept_deltas
from gengauge.benchmarks.zoo.captioned_animals import animals, in_style, pictures
from gengauge.benchmarks.zoo.concept_deltas import CUSTOMISATIONS, RECIPE, TOKENS, Lesson, generated, inversion, teach
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.benchmarks.zoo.personal_concepts import (
    CAT,
    CLASS_PICTURES,
    DOG,
    RABBIT,
    Personal,
    alone,
    class_animals,
    coats,
    other_pictures,
    shown,
    trained_pictures,
    written,
)
from gengauge.benchmarks.zoo.pictured_attributes import backdrops
from gengauge.datasets.deltas import Delta
from gengauge.datasets.folder import read_picture
from gengauge.reference.custom_diffusion.tokens import table

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = Sampling(prompts=4, captions=3, real=4, steps=2)
BRIEF = replace(RECIPE, iterations=2, batch=1)
CONCEPTS = (CAT, DOG, RABBIT)
each_concept = pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.species)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(None, 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Features that are grey levels in place of Inception's, and a cache of the test's own."""

    class Levels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(x, 4).flatten(1)

    network = FeatureNetwork("inception", "FID", 8, 12, Levels(), lambda x, mode: x / 128 - 1, None, "grey levels")
    monkeypatch.setattr(world, "load_network", lambda name: network)
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path / "cache"))


# ----------------------------------------------------------------------------------------------------------------------
# Concepts


@each_concept
def test_a_concept_is_recognised_and_nothing_else_is_taken_for_it(concept: Personal) -> None:
    plain = [each for each in alone(replace(concept, look=concept.look[:1]), 4, 40) if each.scene.pattern == "plain"]
    coloured = [colour for colour, _ in coats(pictures(plain))]
    assert coloured.count(concept.fixed["fur_colour"]) > 0.9 * len(coloured) > 3
    assert np.mean(shown(concept, other_pictures(concept, 40, seed=3))) > 0.95
    for other in CONCEPTS:
        if other != concept:
            assert np.mean(shown(other, other_pictures(concept, 40, seed=3))) < 0.05
    usual = [each for each in animals(77, range(300)) if each.framing == "normal" and each.style == "photo"]
    assert np.mean(shown(concept, pictures(usual))) < 0.05


def test_two_concepts_side_by_side_are_recognised_on_their_sides() -> None:
    def pairs(concept: Personal) -> list[Any]:
        return [each for each in animals(5, range(200), unusual=True, **concept.fixed) if each.framing == "pair"]

    both = []
    for left, right in zip(pairs(CAT), pairs(DOG), strict=True):
        place = {name: getattr(left.other, name) for name in ("x", "y", "background", "background_colour")}
        both.append(replace(left, style="photo", other=replace(right.scene, **place)))
    seen = pictures(both)
    assert len(seen) > 15
    assert np.mean(shown(CAT, seen, "left")) > 0.95
    assert np.mean(shown(DOG, seen, "right")) > 0.95
    assert not any(shown(DOG, seen, "left"))
    assert not any(shown(CAT, seen, "right"))


@each_concept
def test_pictures_of_a_concept_show_one_look_in_different_places(concept: Personal) -> None:
    found = alone(concept, 1, 20)
    for each in found:
        assert {name: getattr(each.scene, name) for name in concept.fixed} == concept.fixed
        assert (each.framing, each.style, each.scene.accessory) == ("normal", "photo", "none")
    assert len({(each.scene.background, each.scene.background_colour) for each in found}) > 5
    assert len(trained_pictures(concept)) == 5


def test_no_training_sees_what_samples_are_compared_to_and_seeds_differ() -> None:
    def distinct(*sets: Tensor) -> bool:
        every = [each.numpy().tobytes() for each in torch.cat(sets)]
        return len(set(every)) == len(every)

    assert distinct(
        *(trained_pictures(CAT, seed) for seed in range(3)), *(other_pictures(CAT, 25, s) for s in range(3))
    )
    of_class = [pictures(class_animals("cat", CLASS_PICTURES, seed)) for seed in range(3)]
    assert distinct(*of_class, pictures(class_animals("cat", 200, world._FRESH)))


def test_a_concept_is_written_as_a_training_takes_it(tmp_path: Path) -> None:
    found = written(DOG, tmp_path)
    assert [each.caption for each in found.pictures] == ["photo of a <new2> dog"] * 5
    assert found.token == "<new2>"
    assert len(found.class_pictures) == CLASS_PICTURES
    assert np.array_equal(read_picture(found.pictures[3].path), trained_pictures(DOG)[3].permute(1, 2, 0).numpy())
    assert all("dog" in each.caption and "<" not in each.caption for each in found.class_pictures)
    assert not {each.path for each in found.pictures} & {each.path for each in written(DOG, tmp_path, 1).pictures}
    assert written(DOG, tmp_path) == found


# ----------------------------------------------------------------------------------------------------------------------
# Prompts


@pytest.mark.parametrize("concepts", [1, 2])
def test_prompts_ask_for_what_a_right_picture_shows(concepts: int) -> None:
    """The world draws what a prompt asks for, and the setting is read off it."""
    asked = prompts(12, 4, concepts)
    for number, each in enumerate(asked):
        style, background, colour = each.setting
        words = each.filled(["<new1> cat", "<new2> dog"][:concepts])
        assert style in words
        assert colour in words
        assert "{" not in words
        (drawn,) = [
            one
            for one in animals(40 + number, range(60), background=background, background_colour=colour or "grey")
            if one.framing == ("normal" if concepts == 1 else "pair")
        ][:1]
        picture = in_style(pictures([replace(drawn, style="photo")])[0], style)
        assert each.shown(backdrops(picture[None])[0])
        assert each.coloured or not colour


def test_prompts_change_with_the_seed_and_name_each_concept() -> None:
    assert prompts(8, 0) == prompts(8, 0) != prompts(8, 1)
    assert Asked("photo of a {} at night", ("photo", "night", "")).filled(["orange cat"]) == (
        "photo of an orange cat at night"
    )
    assert {each.setting[0] for each in prompts(8, 0)} > {"photo"}
    assert all(each.text.count("{}") == 2 and each.coloured for each in prompts(8, 0, 2))


def test_a_setting_is_as_asked_in_style_background_and_where_it_is_told_in_colour() -> None:
    asked = Asked("", ("photo", "plain", "mint"))
    assert asked.shown(("photo", "plain", "mint"))
    for other in (("photo", "plain", "rose"), ("photo", "bricks", "mint"), ("sepia photo", "plain", "mint")):
        assert not asked.shown(other)
    assert Asked("", ("sepia photo", "plain", "")).shown(("sepia photo", "plain", "rose"))
    assert not Asked("", ("sepia photo", "plain", "")).coloured


# ----------------------------------------------------------------------------------------------------------------------
# The model and its scores


def test_the_model_is_as_before_when_samples_were_drawn(model: Model) -> None:
    before = {name: each.clone() for name, each in model.pipeline.unet.state_dict().items()}
    vocabulary = len(model.pipeline.tokenizer)
    plain = model.sampled(["photo of a cat"] * 2, None, FEW, 1)
    with_it = model.sampled(["photo of a <new1> cat"] * 2, CUSTOMISATIONS["cat-kv"].load(), FEW, 1)
    assert plain.dtype == torch.uint8
    assert plain.shape == with_it.shape == (2, 3, 64, 64)
    assert not torch.equal(plain, with_it)
    assert not torch.equal(plain[0], plain[1])
    assert torch.equal(model.sampled(["photo of a cat"] * 2, None, FEW, 1), plain)
    assert not torch.equal(model.sampled(["photo of a cat"] * 2, None, FEW, 2), plain)
    assert len(model.pipeline.tokenizer) == vocabulary
    assert all(torch.equal(each, before[name]) for name, each in model.pipeline.unet.state_dict().items())


def test_real_pictures_of_the_concept_have_all_of_the_alignment(model: Model) -> None:
    """Pictures that the world draws as they were asked for, against others: the judge tells them apart."""
    asked = [each for each in prompts(40, 2) if each.coloured]

    def drawn(concept: Personal, right: bool) -> Tensor:
        out = []
        for number, each in enumerate(asked):
            _, background, colour = each.setting if right else asked[number - 1].setting
            fixed = {"background": background, "background_colour": colour or "grey", "accessory": "none"}
            found = animals(60 + number, range(40), unusual=True, **fixed, **concept.fixed)
            out.append(next(one for one in found if one.framing == "normal"))
        return pictures([replace(each, style="photo") for each in out])

    right, elsewhere, other = drawn(CAT, True), drawn(CAT, False), drawn(DOG, True)
    best, moved, wrong = (model.alignment(asked, each, (CAT,), 0) for each in (right, elsewhere, other))
    assert best["setting"] == 100 > moved["setting"]
    assert best["concept"] == best["coat_colour"] == 100 > wrong["coat_colour"] >= wrong["concept"]
    assert best["text_alignment"] > moved["text_alignment"]
    assert best["text_alignment"] > wrong["text_alignment"]
    assert best["image_alignment_clip"] > wrong["image_alignment_clip"] + 0.1


# ----------------------------------------------------------------------------------------------------------------------
# Where customisations come from


def test_customisations_of_the_zoo_go_into_its_model(model: Model) -> None:
    for key, each in CUSTOMISATIONS.items():
        delta, card = each.load(), each.card()
        tokens = [concept.token for concept in each.lesson.concepts]
        assert list(delta.tokens) == tokens, key
        assert card["parameters"] == delta.numbers
        assert card["bytes"] < 8e6
        assert bool(delta.weights) == (each.lesson.recipe.trained != "tokens")
        applied = apply_to_pipeline(model.pipeline, delta)
        assert applied.weights == len(delta.weights)
        applied.undo()


def test_a_customisation_of_another_file_is_refused(tmp_path: Path) -> None:
    each = CUSTOMISATIONS["cat-tokens"]
    for name in (f"{each.NAME}.json", f"{each.NAME}.safetensors"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert list(each.load(tmp_path).tokens) == ["<new1>"]
    file = tmp_path / f"{each.NAME}.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ValueError, match="not the file of its card"):
        each.load(tmp_path)


def test_a_lesson_trains_what_it_says_and_goes_on_where_it_stopped(context: Context, model: Model) -> None:
    delta, told = learnt(context, Lesson((CAT,), BRIEF), model)
    assert told == ""
    assert list(delta.tokens) == ["<new1>"]
    assert len(delta.weights) == 14
    retell(context.work)
    again, told = learnt(context, Lesson((CAT,), BRIEF), model)
    assert told == BY_TWO
    assert all(torch.equal(delta.weights[name], again.weights[name]) for name in delta.weights)
    assert len(list(context.work.glob("custom-diffusion-*"))) == 1
    other, _ = learnt(replace(context, seed=1), Lesson((CAT,), BRIEF), model)
    assert any(not torch.equal(delta.weights[name], other.weights[name]) for name in delta.weights)


def test_textual_inversion_begins_as_the_species_and_resizes_nothing(context: Context, model: Model) -> None:
    lesson = inversion(CAT)
    assert not lesson.intake.augment
    still = replace(lesson, recipe=replace(lesson.recipe, iterations=1, batch=1, lr=1e-12))
    delta, _ = teach(still, context.work)
    (cat,) = model.pipeline.tokenizer("cat", add_special_tokens=False).input_ids
    assert torch.allclose(delta.tokens["<new1>"][0], table(model.pipeline.text_encoder).weight[cat], atol=1e-6)
    assert not delta.weights


def test_tokens_stand_side_by_side_and_weights_are_merged(context: Context, model: Model) -> None:
    token = replace(TOKENS, iterations=1, batch=1)
    both, _ = learnt(context, Together((Lesson((CAT,), token), Lesson((DOG,), token))), model)
    assert list(both.tokens) == ["<new1>", "<new2>"]
    assert not both.weights
    cat, dog = (Lesson((each,), BRIEF) for each in (CAT, DOG))
    learnt(context, cat, model)
    retell(context.work)
    found, told = learnt(context, Together((cat, dog), merged=True), model)
    assert told == f"cat: {BY_TWO}"
    assert list(found.tokens) == ["<new1>", "<new2>"]
    assert len(found.weights) == 14
    assert torch.equal(found.tokens["<new1>"][0], learnt(context, cat, model)[0].tokens["<new1>"][0])
    assert torch.equal(found.tokens["<new2>"][0], learnt(context, dog, model)[0].tokens["<new2>"][0])
    rows = len(table(model.pipeline.text_encoder).weight)
    assert rows == len(model.pipeline.tokenizer)  # as before


def test_class_pictures_may_be_the_models_own(context: Context, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_deltas, "CLASS_PICTURES", 2)
    made = generated(model.pipeline, "cat", context.work, 0, "cpu", steps=1)
    assert [each.caption for each in made] == ["photo of a cat"] * 2
    assert generated(model.pipeline, "cat", context.work, 0, "cpu", steps=1) == made
    assert generated(model.pipeline, "cat", context.work, 1, "cpu", steps=1) != made
    monkeypatch.setattr(concept_deltas, "generated", lambda *arguments: made)
    real, _ = teach(Lesson((CAT,), BRIEF), context.work)
    own, _ = teach(Lesson((CAT,), BRIEF, generated=True), context.work)
    assert any(not torch.equal(weight, own.weights[name]) for name, weight in real.weights.items())


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def final(results: list[Result]) -> dict[tuple[str, str], float]:
    return {
        (each.row, each.column): each.value for each in results if isinstance(each, Measurement) and each.step is None
    }


def brief(experiment: Experiment, scale: Scale = "small") -> Any:
    """Settings with all that is long cut short."""

    def short(source: Any) -> Any:
        if isinstance(source, Lesson):
            return replace(source, recipe=replace(source.recipe, iterations=2, batch=1))
        return replace(source, parts=tuple(map(short, source.parts))) if isinstance(source, Together) else source

    settings = replace(experiment.scales[scale].settings, sampling=FEW)
    return replace(settings, sources=tuple((row, short(source)) for row, source in settings.sources))


def kept(experiment: Experiment) -> list[Kept]:
    """The customisations of the zoo that an experiment takes at quick scale."""
    sources = [source for _, source in experiment.scales["quick"].settings.sources]
    parts = [part for each in sources for part in (each.parts if isinstance(each, Together) else (each,))]
    return [part for part in parts if isinstance(part, Kept)]


@pytest.mark.parametrize("scale", ["quick", "small"])
@pytest.mark.parametrize(
    "experiment", [*comparison.EXPERIMENTS, *composition.EXPERIMENTS], ids=lambda experiment: experiment.key
)
def test_all_cells_are_measured(experiment: Experiment, scale: Scale, context: Context, levels: None) -> None:
    found = list(experiment.run(replace(context, settings=brief(experiment, scale))))
    cells = {(row, column.key) for row in experiment.rows for column in experiment.columns} - experiment.without
    values = final(found)
    assert values.keys() == cells
    assert all(map(math.isfinite, values.values()))
    shown_pictures = [each for each in found if isinstance(each, Picture)]
    assert {each.row for each in shown_pictures} <= set(experiment.rows)
    assert all(each.pixels.dtype == np.uint8 for each in shown_pictures)
    assert shown_pictures or experiment.key == "world-ranks"
    assert notes(found) == {}


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize(
    "key", ["world-custom-diffusion", "world-base-asked-for-any-cat-textual-inversion", "world-ranks"]
)
def test_what_is_measured_of_others_trainings_tells_so(
    key: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "learnt", lambda *arguments: (learnt(*arguments)[0], BY_TWO))
    (experiment,) = (each for each in comparison.EXPERIMENTS if each.key == key)
    told = notes(experiment.run(replace(context, settings=brief(experiment, "quick"), seed=1)))
    assert set(told.values()) == {BY_TWO}
    rows = set(experiment.rows) - {comparison.BASE.key, comparison.OVER_RANKS.key}
    # Shares and sizes depend on no training, and the KID of tokens alone is the base's.
    columns = {column.key for column in experiment.columns} - {comparison.SHARE.key, comparison.MEGABYTES.key}
    assert told.keys() == {(row, column) for row in rows for column in columns} - {(comparison.INVERSION.key, "kid")}


@pytest.mark.usefixtures("levels")
def test_textual_inversion_forgets_nothing_and_trains_no_weight(context: Context, model: Model) -> None:
    (experiment,) = [each for each in comparison.EXPERIMENTS if comparison.BASE.key in each.rows]
    found = list(experiment.run(replace(context, settings=brief(experiment))))
    values, base, token = final(found), comparison.BASE.key, comparison.INVERSION.key
    tokens = CUSTOMISATIONS["cat-tokens"].load()
    assert values[base, "kid"] == model.kid(None, CAT, FEW, 0) == model.kid(tokens, CAT, FEW, 0)
    assert values[base, "kid"] != model.kid(CUSTOMISATIONS["cat-kv"].load(), CAT, FEW, 0)
    (told,) = [each for each in found if isinstance(each, Measurement) and (each.row, each.column) == (token, "kid")]
    assert told.value == values[base, "kid"]
    assert "whose weights it has" in told.note
    assert values[base, "share"] == values[token, "share"] == 0
    assert values[base, "text_alignment"] != values[token, "text_alignment"]


def test_the_share_is_that_of_keys_and_values(model: Model) -> None:
    own = dict(model.pipeline.unet.named_parameters())
    kv = sum(each.numel() for name, each in own.items() if ".attn2.to_k." in name or ".attn2.to_v." in name)
    whole = sum(each.numel() for each in own.values())
    assert comparison.share(model, CUSTOMISATIONS["dog-kv"].load()) == pytest.approx(100 * kv / whole, abs=1e-12)
    every = Delta({name: each.detach() for name, each in own.items()})
    assert comparison.share(model, every) == pytest.approx(100)
    assert 2 < comparison.share(model, CUSTOMISATIONS["dog-kv"].load()) < 5


def test_experiments_fill_their_tables_at_each_scale() -> None:
    for filled in (comparison.TABLE, comparison.RANK_TABLE, comparison.LIVE_TABLE, composition.TABLE, ablation.TABLE):
        for scale in SCALES:
            mine = [each for each in PAPER.experiments if each.table == filled.key and scale in each.scales]
            rows = [row for each in mine for row in each.rows]
            here = scale == "small" or (scale == "quick" and filled != ablation.TABLE)
            assert sorted(rows) == (sorted(row.key for row in filled.rows) if here else [])


def test_quick_takes_from_the_zoo_what_small_trains() -> None:
    def lessons(source: Any) -> Any:
        if isinstance(source, Together):
            return source.merged, tuple(map(lessons, source.parts))
        return source and lesson_of(source)

    compared = [*comparison.EXPERIMENTS, *composition.EXPERIMENTS]
    for each in compared:
        quick, small = (each.scales[scale].settings.sources for scale in ("quick", "small"))
        assert [row for row, _ in quick] == [row for row, _ in small]
        if each.table != comparison.LIVE_TABLE.key:
            assert [lessons(source) for _, source in quick] == [lessons(source) for _, source in small], each.key
            assert not any(isinstance(source, Lesson) for _, source in quick)
    assert {source.key for each in compared for source in kept(each)} == CUSTOMISATIONS.keys()


def test_claims_speak_of_cells_that_are_measured_and_can_fail() -> None:
    for claim in (*comparison.CLAIMS, *composition.CLAIMS, *ablation.CLAIMS):
        cells = claim.cells
        measured = {
            (row, column.key)
            for each in PAPER.experiments
            if each.table == claim.table
            for row in each.rows
            for column in each.columns
        }
        assert {(cell.row, cell.column) for cell in cells.values()} <= measured, claim.key
        one, other = cells["one"], cells["other"]
        for better, verdict in ((100.0, "holds"), (-100.0, "fails")):
            values = {
                (seed, cell.row, cell.column): value + 0.001 * seed
                for seed in range(MIN_SEEDS)
                for cell, value in ((one, better), (other, 0.0))
            }
            assert judge(claim, values).verdict == verdict, claim.key
