"""Deltas in a small pipeline of Stable Diffusion: put in, taken out, compressed and merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from letters_tokenizer import BOS, EOS, VOCABULARY, letters_tokenizer
from torch import Tensor

from gengauge.benchmarks.custom_pipeline import apply_delta, apply_to_pipeline, compress_delta, merge_deltas
from gengauge.datasets.deltas import Delta, samples, whole
from gengauge.reference.custom_diffusion.sampling import with_ddim
from gengauge.reference.custom_diffusion.tokens import table

WIDTH = 32


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text_encoder(width: int = WIDTH, rows: int = len(VOCABULARY)) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=rows, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS,
        )
    ).eval()  # fmt: skip
    for name, parameter in encoder.named_parameters():
        # A norm that has not been trained gives features that sum to zero.
        if "final_layer_norm" in name:
            parameter.data = 1 + drawn(width)
    return encoder


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=WIDTH,
        attention_head_dim=2, sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1).eval()
    made = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text_encoder(), tokenizer=letters_tokenizer(tmp_path),
        scheduler=diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return with_ddim(made)


def base_of(pipeline: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in pipeline.unet.named_parameters()}


def delta_for(pipeline: Any, seed: int = 1, size: float = 0.5) -> Delta:
    chosen = {name: w for name, w in base_of(pipeline).items() if ".attn2.to_k" in name or ".attn2.to_v" in name}
    weights = {name: w + size * drawn(*w.shape, seed=seed + i) for i, (name, w) in enumerate(chosen.items())}
    return Delta(weights, {"<new1>": (drawn(WIDTH, seed=seed),)}, base=samples(chosen, chosen))


def shown(pipeline: Any, prompt: str = "a <new1> cat") -> Tensor:
    out = pipeline(
        prompt, num_inference_steps=2, guidance_scale=2.0, eta=1.0, generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )  # fmt: skip
    return out.images


def everything(pipeline: Any) -> list[Tensor]:
    return [p.detach().clone() for part in (pipeline.unet, pipeline.text_encoder) for p in part.parameters()]


def unchanged(pipeline: Any, before: list[Tensor], words: int = len(VOCABULARY)) -> None:
    assert all(torch.equal(a, b) for a, b in zip(everything(pipeline), before, strict=True))
    assert len(pipeline.tokenizer) == words == pipeline.text_encoder.config.vocab_size
    assert table(pipeline.text_encoder).num_embeddings == words


# -- put in and taken out ----------------------------------------------------------------------------------------------


def test_a_delta_changes_what_a_pipeline_draws_and_can_be_undone(pipeline: Any) -> None:
    before, first, ids = everything(pipeline), shown(pipeline), pipeline.tokenizer("a <new1> cat")["input_ids"]
    delta = delta_for(pipeline)
    random = torch.get_rng_state()
    applied = apply_to_pipeline(pipeline, delta)
    assert torch.equal(torch.get_rng_state(), random)
    assert applied.weights == len(delta.weights) == 8
    assert applied.ids == {"<new1>": len(VOCABULARY)}
    assert pipeline.tokenizer("a <new1> cat")["input_ids"].count(len(VOCABULARY)) == 1
    assert torch.equal(table(pipeline.text_encoder).weight[-1], delta.tokens["<new1>"][0])
    for name, weight in delta.weights.items():
        assert torch.equal(pipeline.unet.get_parameter(name), weight)
    assert not torch.allclose(shown(pipeline), first)
    applied.undo()
    unchanged(pipeline, before)
    assert pipeline.tokenizer("a <new1> cat")["input_ids"] == ids
    assert torch.equal(shown(pipeline), first)
    applied.undo()
    unchanged(pipeline, before)


def test_a_model_that_was_moved_meanwhile_is_given_back_too(pipeline: Any) -> None:
    """Moving a model, to a GPU or another type, gives its parameters other memory."""
    before = {name: each.double() for name, each in pipeline.unet.state_dict().items()}
    words = table(pipeline.text_encoder).weight.double()
    applied = apply_to_pipeline(pipeline, delta_for(pipeline))
    pipeline.to(torch.float64)
    applied.undo()
    assert all(torch.equal(each, before[name]) for name, each in pipeline.unet.state_dict().items())
    assert torch.equal(table(pipeline.text_encoder).weight, words)


def test_two_deltas_at_once_are_undone_from_the_last(pipeline: Any) -> None:
    before = everything(pipeline)
    one = apply_to_pipeline(pipeline, delta_for(pipeline))
    second = Delta(tokens={"<new2>": (drawn(WIDTH, seed=9),)})
    two = apply_to_pipeline(pipeline, second)
    assert two.ids == {"<new2>": len(VOCABULARY) + 1}
    assert len(table(pipeline.text_encoder).weight) == len(VOCABULARY) + 2
    two.undo()
    one.undo()
    unchanged(pipeline, before)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
def test_strength_scales_the_change_of_weights(pipeline: Any, strength: float) -> None:
    base, delta = base_of(pipeline), delta_for(pipeline)
    applied = apply_to_pipeline(pipeline, delta, strength=strength)
    assert applied.weights == (8 if strength else 0)
    for name, weight in delta.weights.items():
        assert torch.allclose(pipeline.unet.get_parameter(name), base[name] + strength * (weight - base[name]))
    assert torch.equal(table(pipeline.text_encoder).weight[-1], delta.tokens["<new1>"][0])


def test_factors_are_as_good_as_whole_weights(pipeline: Any) -> None:
    before, base, delta = everything(pipeline), base_of(pipeline), delta_for(pipeline)
    factors = compress_delta(delta, base, rank=WIDTH)
    assert not factors.weights
    pictures = []
    for each in (delta, factors):
        applied = apply_to_pipeline(pipeline, each)
        pictures.append(shown(pipeline))
        applied.undo()
    assert torch.allclose(*pictures, atol=1e-4)
    none = compress_delta(delta, base, rank=0)
    assert apply_to_pipeline(pipeline, none).weights == 0  # the token remains
    assert compress_delta(factors, base, rank=2).numbers < factors.numbers
    assert compress_delta(delta, base, ratio=0.6).numbers < delta.numbers
    bias = {**delta.weights, "conv_in.bias": torch.ones(8)}
    assert [*compress_delta(replace(delta, weights=bias), base, rank=1).weights] == ["conv_in.bias"]
    assert len(before) == len(everything(pipeline))


def test_weights_keep_their_type(pipeline: Any) -> None:
    delta = delta_for(pipeline)
    for part in (pipeline.unet, pipeline.text_encoder):
        part.to(torch.bfloat16)
    before = everything(pipeline)
    applied = apply_to_pipeline(pipeline, delta)
    assert {tensor.dtype for tensor in everything(pipeline)} == {torch.bfloat16}
    applied.undo()
    unchanged(pipeline, before)


def test_a_table_with_rows_to_spare(pipeline: Any) -> None:
    pipeline.text_encoder = text_encoder(rows=len(VOCABULARY) + 10)
    before = everything(pipeline)
    applied = apply_to_pipeline(pipeline, delta_for(pipeline))
    assert len(table(pipeline.text_encoder).weight) == len(VOCABULARY) + 10
    assert not all(torch.equal(a, b) for a, b in zip(everything(pipeline), before, strict=True))
    applied.undo()
    assert all(torch.equal(a, b) for a, b in zip(everything(pipeline), before, strict=True))


@pytest.mark.parametrize("level", ["", "text_model."])
def test_a_text_encoder_that_was_trained_too(pipeline: Any, level: str) -> None:
    before, delta = everything(pipeline), delta_for(pipeline)
    bare = {name.removeprefix("text_model."): p for name, p in pipeline.text_encoder.state_dict().items()}
    state = {level + name: p + 0.1 for name, p in bare.items() if p.is_floating_point()}
    grown = level + "embeddings.token_embedding.weight"
    state[grown] = torch.cat([state[grown], drawn(1, WIDTH)])
    delta = replace(delta, text_encoders={"text_encoder": state})
    applied = apply_to_pipeline(pipeline, delta)
    assert applied.weights == 8 + len(state)
    assert torch.equal(table(pipeline.text_encoder).weight[:-1], state[grown][:-1])
    assert torch.equal(table(pipeline.text_encoder).weight[-1], delta.tokens["<new1>"][0])
    applied.undo()
    unchanged(pipeline, before)
    for bad, match in (
        ({"text_encoder": {**state, grown: state[grown][:-1]}}, "and this model's is"),
        ({"text_encoder_2": state}, "weights of text_encoder_2, which this model does not have"),
    ):
        with pytest.raises(ValueError, match=match):
            apply_to_pipeline(pipeline, replace(delta, text_encoders=bad))
        unchanged(pipeline, before)


def test_two_text_encoders(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    encoders = [pipeline.text_encoder, text_encoder(6)]
    tokenizers = [pipeline.tokenizer, letters_tokenizer(tmp_path / "second")]
    vectors = (drawn(WIDTH), drawn(6))
    delta = replace(delta_for(pipeline), tokens={"<new1>": vectors})
    applied = apply_delta(pipeline.unet, encoders, tokenizers, delta)
    for encoder, vector in zip(encoders, vectors, strict=True):
        assert torch.equal(table(encoder).weight[-1], vector)
    applied.undo()
    assert [len(each) for each in tokenizers] == [len(VOCABULARY)] * 2
    with pytest.raises(ValueError, match=r"for text encoders of widths \[32, 6\], and this model's are \[32\]"):
        apply_to_pipeline(pipeline, delta)
    with pytest.raises(ValueError, match="2 text encoders with 1 tokenizers"):
        apply_delta(pipeline.unet, encoders, tokenizers[0], delta)


def test_a_delta_that_changes_nothing_or_does_not_fit_leaves_the_model_alone(pipeline: Any) -> None:
    before, delta = everything(pipeline), delta_for(pipeline)
    name = delta.names[0]
    same = Delta({name: base_of(pipeline)[name]}, delta.tokens)
    bad: list[tuple[Delta, str]] = [
        (same, "nothing changed: this delta is in the model already"),
        (replace(same, tokens={}), "nothing changed"),
        (Delta({name: torch.ones(3, 3)}), "load the model it is for"),
        (Delta({"elsewhere": torch.ones(3, 3)}), "which this U-Net does not have"),
        (Delta(tokens={"<new1>": (torch.ones(3),)}), r"widths \[3\], and this model's are \[32\]"),
        (Delta(tokens={"a": (torch.ones(WIDTH),)}), "already has"),
        (replace(delta, base={n: w + 1 for n, w in delta.base.items()}), "learnt on another"),
    ]
    for each, match in bad:
        with pytest.raises(ValueError, match=match):
            apply_to_pipeline(pipeline, each)
        unchanged(pipeline, before)
    with pytest.raises(ValueError, match="the strength is nan"):
        apply_to_pipeline(pipeline, delta, strength=float("nan"))
    apply_to_pipeline(pipeline, replace(bad[-1][0]), any_base=True)
    with pytest.raises(ValueError, match="already has '<new1>'"):
        apply_to_pipeline(pipeline, replace(delta, base={}))


def test_weights_that_are_quantised_or_not_in_memory(pipeline: Any) -> None:
    delta = delta_for(pipeline)
    layer = pipeline.unet.get_submodule(delta.names[0].removesuffix(".weight"))
    whole_layer = layer.weight
    layer.weight = torch.nn.Parameter(whole_layer.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"is torch\.int8; apply the delta to the weights before they are quantised"):
        apply_to_pipeline(pipeline, delta)
    layer.weight = whole_layer
    pipeline.unet.to("meta")
    with pytest.raises(ValueError, match="is not in memory; apply the delta before"):
        apply_to_pipeline(pipeline, delta)


# -- several as one ----------------------------------------------------------------------------------------------------


def captions() -> list[str]:
    letters = [f"{a}{b} {c}" for a in "abcdef" for b in "ghij" for c in "klm"]
    return [f"photo of a {text}" if i % 3 == 0 else text for i, text in enumerate(letters)]


@pytest.mark.parametrize("variant", ["diffusers", "compvis"])
def test_a_merge_keeps_what_each_concept_says(pipeline: Any, variant: Any) -> None:
    before = everything(pipeline)
    parts = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    deltas = [delta_for(pipeline, seed=10 * n + 1, size=0.1) for n in range(2)]
    deltas[1] = replace(deltas[1], tokens={"<other>": deltas[1].tokens["<new1>"]})
    merged, report = merge_deltas(*parts, deltas, ["x", "y"], captions(), variant=variant, ridge=1e-9)
    unchanged(pipeline, before)
    assert report.target_residual < 1e-6
    assert [*merged.tokens] == ["<new1>", "<new2>"]
    assert torch.equal(merged.tokens["<new2>"][0], deltas[1].tokens["<other>"][0])
    applied = apply_to_pipeline(pipeline, merged)
    ids = pipeline.tokenizer("<new2> y")["input_ids"]
    with torch.no_grad():
        features = pipeline.text_encoder(torch.tensor([ids]))[0][0, 1:]
    for name, weight in merged.weights.items():
        assert torch.allclose(features @ weight.T, features @ deltas[1].weights[name].T, atol=1e-3)
    applied.undo()


def test_factors_merge_as_whole_weights_do(pipeline: Any) -> None:
    parts = pipeline.unet, pipeline.text_encoder, pipeline.tokenizer
    deltas = [delta_for(pipeline, seed=10 * n + 1) for n in range(2)]
    small = [compress_delta(delta, base_of(pipeline), rank=2) for delta in deltas]
    one, _ = merge_deltas(*parts, small, ["x", "y"], captions(), ridge=1e-9)
    other, _ = merge_deltas(
        *parts, [whole(each, base_of(pipeline)) for each in small], ["x", "y"], captions(), ridge=1e-9
    )
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_what_cannot_be_merged(pipeline: Any) -> None:
    before = everything(pipeline)
    parts, delta = (pipeline.unet, pipeline.text_encoder, pipeline.tokenizer), delta_for(pipeline)
    own = replace(delta, text_encoders={"text_encoder": {"a": torch.ones(1)}})
    for deltas, categories, match in (
        ([delta], ["x"], "merge two or more"),
        ([delta, delta], ["x"], "2 deltas with 1 categories"),
        ([delta, own], ["x", "y"], "brings a text encoder of its own"),
        ([delta, replace(delta, tokens={})], ["x", "y"], "concept 2 has no token"),
        ([delta, Delta({"elsewhere": torch.ones(1)}, delta.tokens)], ["x", "y"], "does not have"),
    ):
        with pytest.raises(ValueError, match=match):
            merge_deltas(*parts, deltas, categories, captions())
        unchanged(pipeline, before)
    with pytest.raises(ValueError, match="give more captions, or a ridge"):
        merge_deltas(*parts, [delta, delta_for(pipeline, 5)], ["x", "y"], ["a"])
    unchanged(pipeline, before)
