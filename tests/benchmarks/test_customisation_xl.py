"""Customising Stable Diffusion XL: two text encoders, what else its U-Net is told, and the commands on a tiny one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from concept_commands import done, refused
from letters_tokenizer import EOS, VOCABULARY
from PIL import Image
from tiny_stable_diffusion import (
    PROJECTED,
    SIDE,
    WIDTHS,
    parameters,
    write_pictures,
    write_stable_diffusion,
    write_stable_diffusion_xl,
)
from torch import Tensor, nn

from gengauge.benchmarks.concept_files import read_concept
from gengauge.benchmarks.concept_models import open_model
from gengauge.benchmarks.concepts import recipe_for
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline, text_parts
from gengauge.benchmarks.training.concept_batches import Concept, ConceptBatches, Intake
from gengauge.benchmarks.training.customisation import train_concepts
from gengauge.datasets.delta_files import read_delta
from gengauge.datasets.deltas import Delta
from gengauge.datasets.folder import list_pictures
from gengauge.reference.custom_diffusion.augment import Resize, augment
from gengauge.reference.custom_diffusion.conditioning import conditions, with_sizes
from gengauge.reference.custom_diffusion.models import of_pipeline
from gengauge.reference.custom_diffusion.tokens import add_modifier_tokens, pool_at_end, table
from gengauge.reference.custom_diffusion.training import Draws, Recipe, Training, joined

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(iterations=4, batch=2, lr=1e-2, weight_decay=0.0)
PLAIN = Intake(SIDE, augment=False, centre_crop=True)
SHORT = ("--iterations", "3", "--batch", "2", "--rate", "0.01", "--empty-masks", "covered", "--device", "cpu")
TOKEN = len(VOCABULARY)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and pictures of 80 x 70 px."""
    folder = tmp_path_factory.mktemp("xl")
    write_stable_diffusion_xl(folder / "xl")
    for seed, (name, count) in enumerate((("cat", 3), ("pot", 3), ("cats", 4))):
        write_pictures(folder / name, count, seed)
    letters = [f"a {x}{y} of {z}" for x in "abcdefg" for y in "hijkl" for z in "mnop"]
    (folder / "captions.txt").write_text("\n".join(letters) + "\n")
    return folder


def concept(root: Path) -> Concept:
    return read_concept(root / "cat", "cat", "<new1>", class_folder=root / "cats")


def training(root: Path, recipe: Recipe = RECIPE) -> tuple[Any, Training]:
    """A pipeline with one new token, and a training of it without the autoencoder."""
    pipeline = open_model(root / "xl")
    encoders, tokenizers = text_parts(pipeline)
    ids = add_modifier_tokens(tokenizers, encoders, ["<new1>"], ["k"])
    assert ids == [TOKEN]
    return pipeline, Training(recipe, replace(of_pipeline(pipeline), vae=None), ids)


def batch(pipeline: Any, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    ids = [
        words(list(captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        for words in text_parts(pipeline)[1]
    ]
    sizes = torch.tensor([[640, 480, 3, 5, SIDE, SIDE], [SIDE, SIDE, 0, 0, SIDE, SIDE]])
    made = torch.Generator().manual_seed(0)
    count = len(captions)
    reals = joined(torch.randn(count, 8, 8, 8, generator=made), torch.ones(count, 1, 8, 8))
    return reals, with_sizes(torch.stack(ids, 1), sizes[:count])


def drawn(count: int = 2) -> Draws:
    made = torch.Generator().manual_seed(1)
    first, second = (torch.randn(count, 4, 8, 8, generator=made) for _ in range(2))
    return Draws(first, second, torch.tensor([100, 700][:count]))


# -- what the network is told ------------------------------------------------------------------------------------------


def test_the_network_is_told_what_the_pipeline_tells_it(root: Path) -> None:
    pipeline, _ = training(root)
    captions = ["a <new1> cat", "far"]
    labels = batch(pipeline, captions)[1]
    with torch.no_grad():
        told = conditions(text_parts(pipeline)[0], labels)
        states, _, pooled, _ = pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
    assert torch.equal(told["encoder_hidden_states"], states)
    assert states.shape == (2, 77, sum(WIDTHS))
    assert torch.equal(told["added_cond_kwargs"]["text_embeds"], pooled)
    ids = pipeline._get_add_time_ids((640, 480), (3, 5), (SIDE, SIDE), torch.float32, PROJECTED)
    assert torch.equal(told["added_cond_kwargs"]["time_ids"][:1], ids)
    # The pooled text is that of the end, which a new token's id exceeds.
    row = labels[0, 1].tolist().index(EOS)
    second = pipeline.text_encoder_2
    with torch.no_grad():
        last = second.text_model(labels[:1, 1]).last_hidden_state[0, row]
        assert torch.allclose(pooled[0], second.text_projection(last), atol=1e-6)


def test_text_is_pooled_at_its_end_where_there_are_new_tokens_and_as_before_without(root: Path) -> None:
    pipeline = open_model(root / "xl")
    before, pooled = parameters(pipeline), pipeline.encode_prompt("a cat")[2]
    delta = Delta(tokens={"<new1>": tuple(torch.ones(width) for width in WIDTHS)})
    applied = apply_to_pipeline(pipeline, delta)
    assert torch.equal(pipeline.encode_prompt("a cat")[2], pooled)
    tokens = pipeline.encode_prompt("<new1> cat")[2], pipeline.encode_prompt("<new1> pot")[2]
    assert not torch.allclose(*tokens)
    applied.undo()
    assert pipeline.text_encoder_2.text_model.eos_token_id == 2
    assert all(torch.equal(value, before[name]) for name, value in parameters(pipeline).items())
    assert pool_at_end(pipeline.text_encoder, EOS) == []
    with pytest.raises(ValueError, match="it can have none"):
        pool_at_end(pipeline.text_encoder_2, 2)


def labels_of(root: Path, intake: Intake, recipe: Recipe = RECIPE, token: bool = True) -> Tensor:
    pipeline = open_model(root / "xl")
    encoders, tokenizers = text_parts(pipeline)
    ids = add_modifier_tokens(tokenizers, encoders, ["<new1>"], ["k"]) if token else []
    chosen = concept(root) if token else read_concept(root / "cat", "cat", class_folder=root / "cats")
    tokens = {"<new1>": ids[0]} if token else {}
    batches = ConceptBatches([chosen], intake, recipe, of_pipeline(pipeline), tokenizers, tokens, 3)
    return next(batches.start(0, "cpu"))[1]


def test_labels_hold_both_tokenizers_ids_and_the_pictures_sizes(root: Path) -> None:
    found = labels_of(root, PLAIN)
    assert found.shape == (4, 3, 77)
    assert bool((found[:2, :2] == TOKEN).any(2).all())
    assert not bool((found[2:] == TOKEN).any())
    assert found[0, 0, -1] == EOS
    assert found[0, 1, -1] == VOCABULARY.index("a")  # how the second tokenizer fills up
    assert found[:2, 2, :6].tolist() == [[70, 80, 0, 0, SIDE, SIDE]] * 2
    # The shorter side of 70 px becomes 64, the longer of 80 then 73, of which the middle is taken.
    assert found[2:, 2, :6].tolist() == [[70, 80, 0, 4, SIDE, SIDE]] * 2
    assert not bool(found[:, 2, 6:].any())
    corners = {tuple(row[2:4]) for row in labels_of(root, replace(PLAIN, centre_crop=False))[2:, 2].tolist()}
    assert all(top == 0 and 0 <= left <= 9 for top, left in corners)
    # Features are not kept where no token learns, for sizes differ.
    assert labels_of(root, PLAIN, token=False).dtype == torch.int64


def test_sizes_of_pictures_that_are_resized_at_random(root: Path) -> None:
    intake = Intake(SIDE, empty="covered")
    rows = labels_of(root, intake, replace(RECIPE, batch=24))[:24, 2, :6].tolist()
    assert all(row[:2] == [70, 80] and row[4:] == [SIDE, SIDE] for row in rows)
    cut = [row[2:4] for row in rows if row[2:4] != [0, 0]]
    assert 0 < len(cut) < 24
    ramp = Image.fromarray(np.broadcast_to(np.arange(84, dtype=np.uint8)[:, None, None] * 3, (84, 84, 3)).copy())
    shown = augment(ramp, "", SIDE, Resize(84, (40, 44), 0)).picture
    assert round(float(shown[0, 0, 0] + 1) * 127.5) == 3 * (40 - SIDE // 2)


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_rows_of_both_encoders_learn_by_their_gradients(root: Path) -> None:
    pipeline, made = training(root)
    reals, labels = batch(pipeline, ["a <new1> cat", "a <new1> pot"])
    made.gradients(reals, labels, draws=drawn())
    assert list(made.tables) == ["text_encoder", "text_encoder_2"]
    random = torch.Generator().manual_seed(2)
    for rows in made.tables.values():
        assert rows.grad is not None
        assert rows.grad.abs().amax(1).nonzero().flatten().tolist() == [TOKEN]
        slope = rows.grad[TOKEN].clone()
        way = torch.randn(slope.shape, generator=random) + 3 * slope / slope.norm()
        losses = []
        with torch.no_grad():
            for step in (-1e-3, 1e-3):
                rows[TOKEN] += step * way
                losses.append(made.losses(made.predict(reals, labels, draws=drawn()))["loss"].double())
                rows[TOKEN] -= step * way
        assert float((losses[1] - losses[0]) / 2e-3) == pytest.approx(float(slope @ way), rel=0.03)


def test_pooled_text_teaches_the_second_encoders_token(root: Path) -> None:
    pipeline, made = training(root)
    told = conditions(text_parts(pipeline)[0], batch(pipeline, ["a <new1> cat"])[1])
    told["added_cond_kwargs"]["text_embeds"].sum().backward()
    first, second = made.tables.values()
    assert first.grad is None
    assert second.grad is not None
    assert second.grad.abs().amax(1).nonzero().flatten().tolist()[-1] == TOKEN


def run(root: Path, work: Path, recipe: Recipe = RECIPE, **more: Any) -> tuple[Any, Delta]:
    pipeline = open_model(root / "xl")
    options: dict[str, Any] = {"intake": PLAIN, "begin_as": ["k"], "seed": 3, "device": "cpu", "every": 2, **more}
    delta, _ = train_concepts(
        recipe, of_pipeline(pipeline), text_parts(pipeline)[1], [concept(root)], work, {}, **options
    )
    return pipeline, delta


def test_what_is_frozen_stays_to_the_last_bit(root: Path, tmp_path: Path) -> None:
    before = parameters(open_model(root / "xl"))
    pipeline, delta = run(root, tmp_path)
    assert [len(vector) for vector in delta.tokens["<new1>"]] == [*WIDTHS]
    for name, value in parameters(pipeline).items():
        if "token_embedding" in name:
            assert torch.equal(value[:TOKEN], before[name])
            number = int(name.startswith("text_encoder_2"))
            assert torch.equal(delta.tokens["<new1>"][number], value[TOKEN])
            assert not torch.allclose(value[TOKEN], before[name][VOCABULARY.index("k</w>")], atol=1e-3)
            continue
        learns = ".attn2.to_k." in name or ".attn2.to_v." in name
        assert torch.equal(value, before[name]) != learns, name
        assert (name.removeprefix("unet.") in delta.weights) == learns


class Stopped(Exception):
    pass


def test_less_memory_and_going_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = run(root, tmp_path / "a")

    def tell(done: int, total: int, doing: str) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(root, tmp_path / "b", tell=tell)
    _, resumed = run(root, tmp_path / "b")
    calls, original = [], torch.utils.checkpoint.checkpoint

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    _, twice = run(root, tmp_path / "c", checkpointing=True)
    assert len(calls) >= RECIPE.iterations
    _, half = run(root, tmp_path / "d", replace(RECIPE, bfloat16=True))
    for name, weight in plain.weights.items():
        assert torch.equal(resumed.weights[name], weight)
        assert torch.allclose(twice.weights[name], weight, atol=1e-5)
        assert float((half.weights[name] - weight).norm() / weight.norm()) < 0.1
    assert all(torch.equal(*pair) for pair in zip(plain.tokens["<new1>"], resumed.tokens["<new1>"], strict=True))
    assert any(not torch.equal(weight, half.weights[name]) for name, weight in plain.weights.items())


def test_tokens_alone_and_no_token(root: Path, tmp_path: Path) -> None:
    alone = [replace(concept(root), class_pictures=())]
    pipeline = open_model(root / "xl")
    recipe = replace(recipe_for(alone, PLAIN, "textual_inversion"), iterations=2, batch=2)
    arguments = (of_pipeline(pipeline), text_parts(pipeline)[1])
    options: dict[str, Any] = {"intake": PLAIN, "begin_as": ["k"], "seed": 3, "device": "cpu"}
    delta, _ = train_concepts(recipe, *arguments, alone, tmp_path / "a", {}, **options)
    assert not delta.names
    assert [len(vector) for vector in delta.tokens["<new1>"]] == [*WIDTHS]
    words = [read_concept(root / "cat", "cat")]
    recipe = replace(RECIPE, prior_weight=None)
    pipeline = open_model(root / "xl")
    arguments = (of_pipeline(pipeline), text_parts(pipeline)[1])
    delta, _ = train_concepts(recipe, *arguments, words, tmp_path / "b", {}, **options)
    assert not delta.tokens
    assert len(delta.names) == 16


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """The folder, with two trained concepts."""
    reg = ("--class-pictures", root / "cats")
    told = done(
        *("train", root / "xl", "--pictures", root / "cat", "--category", "cat", *reg, "--out", root / "one"),
        *("--begin-as", "k", *SHORT),
    )
    assert told.endswith("16 weights, tokens <new1>")
    done(
        *("train", root / "xl", "--pictures", root / "pot", "--category", "pot", "--out", root / "two"),
        *("--begin-as", "k", "--token", "<pot>", *SHORT),
    )
    return root


def test_two_concepts_are_merged_compressed_and_drawn(trained: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.safetensors"
    done(
        *("merge", trained / "xl", trained / "one", trained / "two", "--category", "cat", "--category", "pot"),
        *("--captions", trained / "captions.txt", "--out", both, "--device", "cpu"),
    )
    merged, parts = read_delta(both), [read_delta(trained / name) for name in ("one", "two")]
    pipeline = open_model(trained / "xl")
    base = dict(open_model(trained / "xl").unet.named_parameters())
    apply_to_pipeline(pipeline, merged)
    # "a" fills up captions in the second tokenizer, which cuts it otherwise.
    assert pipeline.tokenizer("cat")["input_ids"] != pipeline.tokenizer_2("cat")["input_ids"]
    for number, (prompt, part) in enumerate(zip(("photo of a <new1> cat", "<new2> pot"), parts, strict=True)):
        assert torch.equal(merged.tokens[f"<new{number + 1}>"][1], next(iter(part.tokens.values()))[1])
        ids = pipeline.tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            states = pipeline.encode_prompt(prompt)[0][0, len(ids) - 5 : len(ids)]
        for name, weight in merged.weights.items():
            assert torch.allclose(states @ weight.T, states @ part.weights[name].T, atol=2e-3)
            assert not torch.allclose(states @ weight.T, states @ base[name].T, atol=2e-2)
    small = tmp_path / "small.bin"
    done("compress", trained / "xl", both, "--rank", 2, "--out", small)
    stored = torch.load(small, weights_only=True)["modifier_token"]["<new1>"]
    assert [len(vector) for vector in stored] == [*WIDTHS]
    draw = ("sample", trained / "xl", "--prompt", "a <new1> cat and a <new2> pot", "--steps", 2, "--device", "cpu")
    for name, delta in (("plain", both), ("small", small)):
        assert "1 pictures made" in done(*draw, "--delta", delta, "--out", tmp_path / name)
    plain, less = (np.asarray(Image.open(list_pictures(tmp_path / n / "samples")[0])) for n in ("plain", "small"))
    assert plain.shape == (SIDE, SIDE, 3)
    assert not np.array_equal(plain, less)
    assert "no place for tokens of several text encoders" in refused("convert", both, tmp_path / "delta.ckpt")


def test_a_delta_is_for_models_of_its_kind(trained: Path, tmp_path: Path) -> None:
    sd = write_stable_diffusion(tmp_path / "sd")
    begin = ("--pictures", trained / "cat", "--category", "cat", "--begin-as", "k", *SHORT)
    done("train", sd, *begin, "--out", tmp_path / "one")
    draw = ("--prompt", "a <new1> cat", "--steps", 1, "--device", "cpu", "--out", tmp_path / "out")
    for model, delta in ((sd, trained / "one"), (trained / "xl", tmp_path / "one")):
        for more in ((), ("--any-base",)):
            assert "load the model it is for" in refused("sample", model, "--delta", delta, *draw, *more)
    for model, kind in ((sd, trained / "xl"), (trained / "xl", sd)):
        done("train", kind, *begin, "--trained", "tokens", "--out", tmp_path / f"{kind.name}-tokens")
        delta = tmp_path / f"{kind.name}-tokens"
        assert "which this U-Net does not have" in refused("sample", model, "--delta", delta, *draw)
        assert "text encoders of widths" in refused("sample", model, "--delta", delta, *draw, "--any-base")


def test_the_composition_of_the_code_without_xl(trained: Path, tmp_path: Path) -> None:
    begin = ("--pictures", trained / "cat", "--category", "cat", "--begin-as", "k", *SHORT)
    assert "no model of two text encoders" in refused(
        *("train", trained / "xl", *begin, "--composition", "compvis", "--out", tmp_path / "out")
    )


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_labels_of_the_other_kind(root: Path) -> None:
    pipeline, made = training(root)
    reals, labels = batch(pipeline, ["a <new1> cat", "a"])
    with pytest.raises(ValueError, match=r"two text encoders need ids and sizes \(N, 3, L\)"):
        made.step(reals, labels[:, 0])
    with pytest.raises(ValueError, match=r"captions' ids are \(N, L\) for one text encoder"):
        conditions([pipeline.text_encoder], labels)
    with pytest.raises(ValueError, match="sizes"):
        with_sizes(labels[:, :2], torch.zeros(2, 4))
    frozen = Training(RECIPE, of_pipeline(pipeline))
    with pytest.raises(ValueError, match="SDXL is told more than features"):
        frozen.step(reals, torch.zeros(2, 77, sum(WIDTHS)))
    with pytest.raises(ValueError, match="2 text encoders with 1 tokenizers"):
        ConceptBatches([concept(root)], PLAIN, RECIPE, of_pipeline(pipeline), pipeline.tokenizer, {"<new1>": TOKEN}, 3)


def test_tokenizers_of_two_models_change_nothing(root: Path) -> None:
    pipeline = open_model(root / "xl")
    pipeline.tokenizer_2.add_tokens(["<other>"])
    second = table(pipeline.text_encoder_2)
    second.weight = nn.Parameter(torch.cat([second.weight, second.weight[:1]]))
    encoders, tokenizers = text_parts(pipeline)
    with pytest.raises(ValueError, match=f"two tokenizers know {TOKEN} and {TOKEN + 1} tokens"):
        add_modifier_tokens(tokenizers, encoders, ["<new1>"], ["k"])
    assert len(pipeline.tokenizer) == TOKEN
    assert len(table(pipeline.text_encoder).weight) == TOKEN


def test_folders_that_are_no_model_of_its_kind(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(root / "xl", tmp_path / "xl"))
    file = folder / "vae" / "config.json"
    kept = file.read_text()
    file.write_text(json.dumps({**json.loads(kept), "latents_mean": [0.0] * 4}))
    with pytest.raises(ValueError, match="latents are shifted"):
        open_model(folder)
    file.write_text(kept)
    index = json.loads((folder / "model_index.json").read_text())
    sd = write_stable_diffusion(tmp_path / "sd")
    (sd / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(root / "xl" / "text_encoder_2", sd / "text_encoder_2")
    shutil.copytree(root / "xl" / "tokenizer_2", sd / "tokenizer_2")
    with pytest.raises(ValueError, match=r"takes text of 32 and latents of 4 channels, and is given 32 \+ 24 and 4"):
        open_model(sd)
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(root / "xl" / "text_encoder", folder / "text_encoder_2")
    with pytest.raises(ValueError, match="text_encoder_2 lacks 1 tensors of its CLIPTextModelWithProjection"):
        open_model(folder)
