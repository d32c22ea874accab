"""Training of Custom Diffusion from folders: what batches hold, resuming with the same losses, what is learnt."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from letters_tokenizer import VOCABULARY
from PIL import Image
from tiny_stable_diffusion import SIDE, WIDTH, write_pictures, write_stable_diffusion
from torch import Tensor

from gengauge.benchmarks.concept_models import open_model
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline
from gengauge.benchmarks.training import concept_batches
from gengauge.benchmarks.training.concept_batches import Captioned, Concept, ConceptBatches, Intake
from gengauge.benchmarks.training.customisation import train_concepts
from gengauge.benchmarks.training.loop import read_log
from gengauge.datasets.deltas import Delta, check_fits
from gengauge.datasets.folder import list_pictures, read_picture
from gengauge.reference.custom_diffusion.augment import Resize, augment, class_picture
from gengauge.reference.custom_diffusion.models import moments_of, of_pipeline
from gengauge.reference.custom_diffusion.tokens import add_modifier_tokens, table
from gengauge.reference.custom_diffusion.training import TEXTUAL_INVERSION, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(iterations=6, batch=2, lr=1e-2)
MIXED = replace(RECIPE, prior_weight=None, clip=None, concepts=2, batch=4)
PLAIN = Intake(SIDE, augment=False, centre_crop=True)
RANDOM = Intake(SIDE, flip=True, empty="covered")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def concepts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Concept, Concept]:
    folder = tmp_path_factory.mktemp("pictures")

    def captioned(name: str, count: int, seed: int, caption: str) -> tuple[Captioned, ...]:
        return tuple(Captioned(p, caption) for p in list_pictures(write_pictures(folder / name, count, seed)))

    cat = captioned("cat", 3, 0, "photo of a <new1> cat")
    pot = captioned("pot", 4, 1, "photo of a <new2> pot")
    return (
        Concept(cat, "<new1>", captioned("cats", 5, 2, "photo of a cat")),
        Concept(pot, "<new2>", captioned("pots", 4, 3, "photo of a pot")),
    )


def without_token(concept: Concept) -> Concept:
    return Concept(tuple(Captioned(p.path, "a cat") for p in concept.pictures), None, concept.class_pictures)


def source(
    model: Path, concepts: Sequence[Concept], intake: Intake = PLAIN, recipe: Recipe = RECIPE, **more: Any
) -> ConceptBatches:
    pipeline, words = open_model(model), [concept.token for concept in concepts if concept.token]
    ids = add_modifier_tokens(pipeline.tokenizer, pipeline.text_encoder, words, ["k", "x"]) if words else []
    options: dict[str, Any] = {"seed": 3, **more}
    return ConceptBatches(
        concepts,
        intake,
        recipe,
        of_pipeline(pipeline),
        pipeline.tokenizer,
        dict(zip(words, ids, strict=True)),
        **options,
    )


def drawn(batches: ConceptBatches, count: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(islice(batches.start(start, "cpu"), count))


def known(batches: ConceptBatches, make: Callable[[Image.Image, bool], Tensor]) -> dict[str, Tensor]:
    """The posteriors of all pictures as they are, by folder and name."""
    found = {}
    for concept in batches.concepts:
        for of_class, pictures in ((False, concept.pictures), (True, concept.class_pictures)):
            for each in pictures:
                picture = make(Image.fromarray(read_picture(each.path)), of_class)
                name = f"{each.path.parent.name}/{each.path.stem}"
                found[name] = moments_of(batches.models.vae, picture[None])[0]
    return found


def whole(picture: Image.Image, of_class: bool) -> Tensor:
    return class_picture(picture, SIDE) if of_class else augment(picture, "", SIDE, Resize(SIDE)).picture


def names(reals: Tensor, posteriors: Mapping[str, Tensor]) -> list[str]:
    out = []
    for each in reals[:, :-1]:
        fitting = [name for name, posterior in posteriors.items() if torch.allclose(each, posterior, atol=1e-5)]
        assert len(fitting) == 1
        out.append(fitting[0])
    return out


# -- batches -----------------------------------------------------------------------------------------------------------


def test_pictures_of_concepts_come_first_and_as_many_of_classes_behind_them(
    model: Path, concepts: tuple[Concept, Concept]
) -> None:
    batches = source(model, concepts)
    posteriors = known(batches, whole)
    seen: dict[str, int] = {}
    for reals, ids in drawn(batches, 9):  # two epochs of nine class pictures, which are more than the others
        assert reals.shape == (4, 9, SIDE // 8, SIDE // 8)
        assert bool((reals[:, -1] == 1).all())
        found = names(reals, posteriors)
        assert [name.split("/")[0] in ("cat", "pot") for name in found] == [True, True, False, False]
        for name, row in zip(found, ids.tolist(), strict=True):
            held = [token for token in row if token >= len(VOCABULARY)]
            assert held == {"cat": [len(VOCABULARY)], "pot": [len(VOCABULARY) + 1]}.get(name.split("/")[0], [])
            seen[name] = seen.get(name, 0) + 1
    assert {count for name, count in seen.items() if name.startswith(("cats", "pots"))} == {2}
    assert set(seen) == set(posteriors)


def test_a_mixture_has_an_equal_part_for_each_concept_and_one_picture_more_of_its_class(
    model: Path, concepts: tuple[Concept, Concept]
) -> None:
    intake = Intake(SIDE, "compvis", augment=False)
    batches = source(model, concepts, intake, MIXED)

    def square(picture: Image.Image, of_class: bool) -> Tensor:
        return augment(picture, "", SIDE, Resize(SIDE), "compvis").picture

    def mirrored(picture: Image.Image, of_class: bool) -> Tensor:
        return augment(picture, "", SIDE, Resize(SIDE, flip=True), "compvis").picture

    posteriors = known(batches, square) | {f"{k}-flip": v for k, v in known(batches, mirrored).items()}
    parts: list[list[str]] = [[], []]
    for reals, _ in drawn(batches, 20):
        found = names(reals, posteriors)
        parts[0] += found[:2]
        parts[1] += found[2:]
    assert any(name.endswith("-flip") for name in parts[0])
    assert {name.split("/")[0] for name in parts[0]} == {"cat", "cats"}
    assert {name.split("/")[0] for name in parts[1]} == {"pot", "pots"}
    epoch = parts[0][:10]  # twice the five class pictures
    assert sum(name.startswith("cats/") for name in epoch) == 6
    assert sum(name.startswith("cat/") for name in epoch) == 4


@pytest.mark.parametrize("composition", ["diffusers", "compvis"])
@pytest.mark.parametrize("token", [True, False])
def test_batches_do_not_depend_on_where_they_start(
    model: Path, concepts: tuple[Concept, Concept], composition: Any, token: bool
) -> None:
    chosen = concepts if token else tuple(map(without_token, concepts))
    intake = replace(RANDOM, composition=composition)
    recipe = MIXED if composition == "compvis" else RECIPE
    first = drawn(source(model, chosen, intake, recipe), 8)
    assert len({float(reals.sum()) for reals, _ in first}) == 8
    later = drawn(source(model, chosen, intake, recipe), 3, start=5)
    for (reals, labels), (reals_again, labels_again) in zip(first[5:], later, strict=True):
        assert torch.equal(reals, reals_again)
        assert torch.equal(labels, labels_again)
    assert labels.is_floating_point() != token
    other = drawn(source(model, chosen, intake, recipe, seed=4), 1)[0][0]
    assert not torch.equal(first[0][0], other)


def test_masks_and_words_are_those_of_the_resizing(model: Path, concepts: tuple[Concept, Concept]) -> None:
    batches = source(model, concepts[:1], RANDOM, replace(RECIPE, batch=16))
    (reals, ids), *_ = drawn(batches, 1)
    said = [batches.captions.tokenizers[0].decode(row).replace(" ", "") for row in ids]
    for mask, caption in zip(reals[:16, -1], said[:16], strict=True):
        assert bool(mask.any())
        assert bool((mask == 0).any()) == ("faraway" in caption or "verysmall" in caption)
    assert not any("far" in caption or "close" in caption for caption in said[16:])
    assert bool((reals[16:, -1] == 1).all())
    assert 0 < int((reals[:16, -1].flatten(1).min(1).values == 0).sum()) < 16


def test_a_picture_that_stays_as_it_is_and_a_caption_are_encoded_once(
    model: Path, concepts: tuple[Concept, Concept], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"pictures": 0, "texts": 0}
    encode = concept_batches.moments_of

    def counted(vae: Any, pictures: Tensor) -> Tensor:
        counts["pictures"] += len(pictures)
        return encode(vae, pictures)

    monkeypatch.setattr(concept_batches, "moments_of", counted)
    batches = source(model, [without_token(concepts[0])])
    batches.models.text_encoder.register_forward_hook(lambda *_: counts.update(texts=counts["texts"] + 1))
    drawn(batches, 20)
    assert counts == {"pictures": 8, "texts": 2}
    # A random square differs each time, a concept's picture that is not resized does not.
    counts["pictures"] = 0
    drawn(source(model, [concepts[0]], replace(PLAIN, centre_crop=False)), 20)
    assert counts["pictures"] == 3 + 20 * 2


@pytest.mark.parametrize("composition", ["diffusers", "compvis"])
def test_processes_share_every_part_of_a_batch(
    model: Path, concepts: tuple[Concept, Concept], composition: Any
) -> None:
    intake = replace(PLAIN, composition=composition)
    recipe = replace(MIXED if composition == "compvis" else RECIPE, batch=4)
    whole_batch = drawn(source(model, concepts, intake, recipe), 3)
    parts = [drawn(source(model, concepts, intake, recipe, process=i, processes=2), 3) for i in (0, 1)]
    for (reals, ids), first, second in zip(whole_batch, *parts, strict=True):
        assert torch.equal(torch.stack([first[0], second[0]], 1).flatten(0, 1), reals)
        assert torch.equal(torch.stack([first[1], second[1]], 1).flatten(0, 1), ids)


# -- trainings ---------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def run(
    model: Path, concepts: Sequence[Concept], work: Path, recipe: Recipe = RECIPE, **more: Any
) -> tuple[Any, Delta]:
    pipeline = open_model(model)
    options: dict[str, Any] = {"intake": RANDOM, "begin_as": ["k", "x"], "seed": 3, "device": "cpu", "every": 2, **more}
    delta, _ = train_concepts(recipe, of_pipeline(pipeline), pipeline.tokenizer, concepts, work, {"a": 1}, **options)
    return pipeline, delta


def stopping(at: int) -> Callable[[int, int, str], None]:
    def tell(done: int, total: int, doing: str) -> None:
        if done == at:
            raise Stopped

    return tell


def same(a: Delta, b: Delta) -> bool:
    return all(torch.equal(weight, b.weights[name]) for name, weight in a.weights.items()) and all(
        torch.equal(vectors[0], b.tokens[token][0]) for token, vectors in a.tokens.items()
    )


@pytest.mark.parametrize("composition", ["diffusers", "compvis"])
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path, composition: Any
) -> None:
    intake = replace(RANDOM, composition=composition)
    recipe = MIXED if composition == "compvis" else RECIPE
    _, straight = run(model, concepts, tmp_path / "a", recipe, intake=intake)
    with pytest.raises(Stopped):
        run(model, concepts, tmp_path / "b", recipe, intake=intake, tell=stopping(3))
    _, resumed = run(model, concepts, tmp_path / "b", recipe, intake=intake)
    assert same(straight, resumed)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert len(read_log(tmp_path / "a")) == 6


def test_only_keys_values_and_the_new_tokens_learn(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path
) -> None:
    before = open_model(model)
    pipeline, delta = run(model, concepts, tmp_path)
    old = dict(before.unet.named_parameters())
    for name, weight in pipeline.unet.named_parameters():
        learns = ".attn2.to_k." in name or ".attn2.to_v." in name
        assert torch.equal(weight, old[name]) != learns
        assert (name in delta.weights) == learns
    check_fits(delta, before.unet.state_dict())
    rows = table(before.text_encoder).weight
    for token, word in (("<new1>", "k</w>"), ("<new2>", "x</w>")):
        assert not torch.allclose(delta.tokens[token][0], rows[VOCABULARY.index(word)], atol=1e-3)
    shrunken = rows * (1 - 1e-2 * 0.01) ** 6  # published: weight decay reaches all rows
    assert torch.allclose(table(pipeline.text_encoder).weight[: len(rows)], shrunken, atol=1e-7)
    assert delta.tokens["<new1>"][0].shape == (WIDTH,)


def test_tokens_that_learn_alone_go_with_their_model(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path
) -> None:
    recipe = replace(TEXTUAL_INVERSION, iterations=6, batch=2)
    chosen = [replace(concept, class_pictures=()) for concept in concepts]
    pipeline, delta = run(model, chosen, tmp_path / "a", recipe, intake=PLAIN)
    before = open_model(model)
    assert not delta.names
    old = dict(before.unet.named_parameters())
    assert all(torch.equal(weight, old[name]) for name, weight in pipeline.unet.named_parameters())
    rows = table(before.text_encoder).weight
    assert torch.equal(table(pipeline.text_encoder).weight[: len(rows)], rows)
    for token, word in (("<new1>", "k</w>"), ("<new2>", "x</w>")):
        assert not torch.allclose(delta.tokens[token][0], rows[VOCABULARY.index(word)], atol=1e-3)
    assert apply_to_pipeline(before, delta).ids == {"<new1>": len(rows), "<new2>": len(rows) + 1}
    other = open_model(write_stable_diffusion(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=r"learnt on another .*attn2\.to_[kv]"):
        apply_to_pipeline(other, delta)
    with pytest.raises(Stopped):
        run(model, chosen, tmp_path / "b", recipe, intake=PLAIN, tell=stopping(3))
    _, resumed = run(model, chosen, tmp_path / "b", recipe, intake=PLAIN)
    assert same(delta, resumed)


@pytest.mark.parametrize("composition", ["diffusers", "compvis"])
def test_tokens_begin_as_rare_words_in_the_order_of_the_published_code(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path, composition: Any
) -> None:
    recipe = replace(MIXED if composition == "compvis" else RECIPE, lr=1e-9, iterations=1)
    _, delta = run(model, concepts, tmp_path, recipe, intake=replace(RANDOM, composition=composition))
    rows = table(open_model(model).text_encoder).weight
    words = ["k</w>", "x</w>"] if composition == "diffusers" else ["x</w>", "k</w>"]
    for (vector,), word in zip(delta.tokens.values(), words, strict=True):
        assert torch.allclose(vector, rows[VOCABULARY.index(word)], atol=1e-6)


def test_a_concept_without_a_token_and_one_without_class_pictures(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path
) -> None:
    pipeline, delta = run(model, [without_token(concepts[0])], tmp_path / "a")
    assert not delta.tokens
    assert len(pipeline.tokenizer) == len(VOCABULARY)
    alone = replace(concepts[0], class_pictures=())
    _, delta = run(model, [alone], tmp_path / "b", replace(RECIPE, prior_weight=None))
    assert list(delta.tokens) == ["<new1>"]
    assert set(read_log(tmp_path / "b")[0]) == {"iteration", "loss", "instance", "gradient_norm"}


def test_less_memory_and_bfloat16_learn_alike(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = run(model, concepts, tmp_path / "a")
    calls = []
    original = torch.utils.checkpoint.checkpoint

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    _, twice = run(model, concepts, tmp_path / "b", checkpointing=True)
    assert len(calls) >= RECIPE.iterations
    short = replace(RECIPE, bfloat16=True)
    _, half = run(model, concepts, tmp_path / "c", short)
    learnt = [name for name in plain.weights if not torch.equal(plain.weights[name], half.weights[name])]
    assert learnt
    for name, weight in plain.weights.items():
        assert torch.allclose(twice.weights[name], weight, atol=1e-6)
        assert float((half.weights[name] - weight).norm() / weight.norm()) < 0.1


SCALES = torch.ones(3)


class Bytes(torch.optim.AdamW):
    """What matters of bitsandbytes' AdamW8bit: a count of type int, bytes and shared tensors, wrapped when stored."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state |= {"step": 0, "state1": torch.zeros_like(parameter, dtype=torch.uint8), "qmap1": SCALES}
                    state["state2"] = state["state1"].clone()
                assert type(state["step"]) is int
                assert state["state1"].dtype == state["state2"].dtype == torch.uint8
                state["step"] += 1
                state["state1"] += (parameter.grad > 0).to(torch.uint8)
                parameter.data -= group["lr"] * (state["state1"].float() / state["step"] - 0.5)

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        wrapped = {
            index: {"step": state["step"], "wrapped": {k: v for k, v in state.items() if k != "step"}}
            for index, state in found["state"].items()
        }
        return {**found, "state": wrapped}

    def load_state_dict(self, state_dict: dict[str, Any], *more: Any) -> None:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, state in state_dict["state"].items():
            self.state[parameters[index]] = dict(state)


def test_eight_bit_adam_resumes_with_its_bytes(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.optim", raising=False)
    with pytest.raises(ValueError, match="8-bit Adam needs bitsandbytes"):
        run(model, concepts, tmp_path / "none", eight_bit=True)
    optim = types.ModuleType("bitsandbytes.optim")
    optim.AdamW8bit = Bytes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    _, straight = run(model, concepts, tmp_path / "a", eight_bit=True)
    with pytest.raises(Stopped):
        run(model, concepts, tmp_path / "b", eight_bit=True, tell=stopping(3))
    _, resumed = run(model, concepts, tmp_path / "b", eight_bit=True)
    assert same(straight, resumed)
    with pytest.raises(ValueError, match="another configuration"):
        run(model, concepts, tmp_path / "b")


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_told_before_anything_is(
    model: Path, concepts: tuple[Concept, Concept], tmp_path: Path
) -> None:
    cat, pot = concepts
    bad = tmp_path / "bad.png"
    bad.write_bytes(cat.pictures[0].path.read_bytes()[:200])
    long = " ".join(["a"] * 80) + " <new1>"
    cases: list[tuple[Sequence[Concept], dict[str, Any], str]] = [
        ([replace(cat, token="a")], {}, "vocabulary already has 'a'"),
        ([replace(cat, token="ab")], {}, "vocabulary already has 'ab'"),
        (
            [replace(cat, class_pictures=cat.pictures)],
            {},
            "caption of a class picture, 'photo of a <new1> cat', holds the token <new1>",
        ),
        ([replace(cat, token="two words")], {}, "no name of a token"),
        ([cat, replace(pot, token="<new1>")], {}, "two concepts have the token <new1>"),
        ([replace(cat, pictures=(Captioned(cat.pictures[0].path, "a cat"),))], {}, "does not hold the token <new1>"),
        ([replace(cat, pictures=(Captioned(cat.pictures[0].path, long),))], {}, "is lost from the caption"),
        ([replace(cat, pictures=())], {}, "each with pictures"),
        ([], {}, "one concept or more"),
        ([replace(cat, pictures=(Captioned(bad, "<new1>"),))], {}, r"bad\.png cannot be read as a picture"),
        ([replace(cat, class_pictures=(Captioned(bad, "x"),))], {}, r"bad\.png cannot be read as a picture"),
        ([replace(cat, class_pictures=())], {}, "prior weight go together"),
        ([cat], {"recipe": replace(RECIPE, prior_weight=None)}, "prior weight go together"),
        ([without_token(cat)], {"recipe": replace(RECIPE, trained="tokens")}, "no concept has a token"),
        ([cat], {"begin_as": ["cat"]}, "is 3 tokens in this vocabulary"),
        ([cat], {"begin_as": []}, "need as many rare words"),
        ([cat, pot], {"recipe": MIXED}, "its recipe has 1 part"),
        ([cat], {"recipe": MIXED, "intake": replace(RANDOM, composition="compvis")}, "here 1 parts of a batch"),
        (
            [replace(cat, class_pictures=cat.class_pictures[:1])],
            {"recipe": replace(MIXED, concepts=1), "intake": replace(RANDOM, composition="compvis")},
            "two class pictures or more",
        ),
    ]
    for chosen, options, match in cases:
        with pytest.raises(ValueError, match=match):
            run(model, chosen, tmp_path / "work", **options)
    assert not (tmp_path / "work").exists()


def test_pictures_too_small_for_a_mask() -> None:
    with pytest.raises(ValueError, match="as small as 22 px, too small for a mask: train at 72 px or more"):
        Intake(64)
    assert Intake(72).size == Intake(64, augment=False).size + 8
    with pytest.raises(ValueError, match="'covered' at 48 px or more"):
        Intake(40, empty="covered")
    # The bounds are sharp: every place of the smallest picture leaves a cell at the least size, and not below it.
    for size, empty in ((72, "error"), (48, "covered")):
        picture = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
        small = size // 3 + size // 3 % 2
        places = range(small // 2, size - small // 2 + 1)
        for row in places:
            draws = Resize(small, (row, places[0]), 0)
            assert bool(augment(picture, "", size, draws, empty=empty).mask.any())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of 8"):
        Intake(100)
    with pytest.raises(ValueError, match="compositions are diffusers or compvis"):
        Intake(composition="both")  # type: ignore[arg-type]
