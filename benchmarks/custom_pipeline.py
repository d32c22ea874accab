"""Customised models in pipelines of diffusers: a delta put in and taken out again, made small, and several made one.

diffusers 0.42's own `load_attn_procs` loads nothing from such files and does not say so; here what changes is checked.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.datasets.deltas import Delta, check_fits, samples, whole
from gengauge.reference.custom_diffusion.compress import compress
from gengauge.reference.custom_diffusion.conditioning import features
from gengauge.reference.custom_diffusion.merge import (
    MergeReport,
    Variant,
    distinct,
    in_order,
    merge,
    target_prompts,
    text_features,
)
from gengauge.reference.custom_diffusion.tokens import OLD_END, add_rows, add_words, pool_at_end, renamed_for, table

Parts = Any  # a text encoder or tokenizer, or a list of them
ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, eq=False)
class Applied:
    """A delta that is in a model: `ids` of its tokens and how many of the model's `weights` changed."""

    ids: dict[str, int]
    weights: int
    _undo: list[Callable[[], object]]

    def undo(self) -> None:
        """Gives the model its weights, rows and tokenizers back, bit by bit. Of several deltas the last goes first."""
        while self._undo:
            self._undo.pop()()


def apply_to_pipeline(pipeline: Any, delta: Delta, *, strength: float = 1.0, any_base: bool = False) -> Applied:
    """`apply_delta` to a StableDiffusionPipeline, or one of XL, with all text encoders that it has."""
    return apply_delta(pipeline.unet, *text_parts(pipeline), delta, strength=strength, any_base=any_base)


def text_parts(pipeline: Any) -> tuple[list[Any], list[Any]]:
    """The text encoders of a pipeline and their tokenizers: one of each, or two of XL."""
    names = [name for name in ENCODERS if getattr(pipeline, name, None) is not None]
    tokenizers = [getattr(pipeline, name.replace("text_encoder", "tokenizer")) for name in names]
    return [getattr(pipeline, name) for name in names], tokenizers


def apply_delta(
    unet: nn.Module,
    text_encoder: Parts,
    tokenizer: Parts,
    delta: Delta,
    *,
    strength: float = 1.0,
    any_base: bool = False,
) -> Applied:
    """Puts a delta's weights and tokens into the modules of diffusers and transformers that it is for.

    `strength` scales the change of all weights, 0 for none and 1 for the delta's own; tokens are its own always, since
    they had no value before. Weights keep their type and place. `any_base` admits a model of the same shape that the
    delta was not learnt on.

    Raises ValueError, with the model as it was, for a delta of another model or of other text encoders; for tokens that
    the tokenizer has; for weights that are quantised or not in memory; and where nothing changed, as by a delta that is
    there already.
    """
    encoders, tokenizers = _list(text_encoder), _list(tokenizer)
    if not math.isfinite(strength):
        raise ValueError(f"the strength is {strength}; it is a number: 0 for no change, 1 for the delta's own")
    state = dict(unet.named_parameters())
    _check_weights(state)
    check_fits(delta, state, any_base)
    _check_tokens(delta, encoders, tokenizers)
    done: list[Callable[[], object]] = []
    applied = Applied({}, 0, done)
    try:
        for number, (encoder, words) in enumerate(zip(encoders, tokenizers, strict=True)):
            if delta.tokens:
                applied.ids.update(_add_tokens(encoder, words, delta, number, done))
        changed = _change(state, delta, strength, done)
        for name, tensors in delta.text_encoders.items():
            number = ENCODERS.index(name) if name in ENCODERS else len(encoders)
            if number >= len(encoders):
                raise ValueError(f"the delta has weights of {name}, which this model does not have")
            # The table first, since the tokens' rows are a part of it, then the rows at their full strength.
            changed += _change_encoder(encoders[number], tensors, strength, done)
            _set_rows(encoders[number], applied.ids, delta, number)
        stores = any(tensor.numel() for tensor in delta.weights.values()) or any(
            u.numel() for u, _ in delta.factors.values()
        )
        if not changed and strength and (stores or not delta.tokens):
            raise ValueError("nothing changed: this delta is in the model already, or it is the model's own weights")
    except BaseException:
        applied.undo()
        raise
    return replace(applied, weights=changed)


def compress_delta(
    delta: Delta, base: Mapping[str, Tensor], *, ratio: float | None = None, rank: int | None = None
) -> Delta:
    """The delta with its matrices' changes as factors (see `compress`); `base` is the U-Net's state dict.

    What is no matrix stays whole. Raises ValueError for a delta of another base, and as `compress` does.
    """
    full = whole(delta, base)
    check_fits(full, base)
    matrices = {name: weight for name, weight in full.weights.items() if weight.ndim == 2}
    others = {name: weight for name, weight in full.weights.items() if weight.ndim != 2}
    return replace(full, weights=others, factors=compress(base, matrices, ratio=ratio, rank=rank))


def merge_deltas(
    unet: nn.Module,
    text_encoder: Parts,
    tokenizer: Parts,
    deltas: Sequence[Delta],
    categories: Sequence[str],
    captions: Sequence[str],
    *,
    variant: Variant = "diffusers",
    ridge: float = 0.0,
) -> tuple[Delta, MergeReport]:
    """Several deltas as one (section 3.2): each concept's words keep its values, common captions move least.

    `categories` are what the concepts are ("cat"), `captions` common ones, of which the published code takes 200 and
    the paper about 1000. Tokens are called <new1>, <new2>, ... in the deltas' order, of each delta the first. The
    models are the pretrained ones; they are as before when this returns. Features of SDXL's two text encoders stand
    side by side, as its keys and values get them; they end where the first tokenizer's ids do.

    Raises ValueError for deltas of another model or with text encoders of their own, and as `merge` does.
    """
    base = {name: parameter.detach() for name, parameter in unet.named_parameters()}
    if len(deltas) != len(categories) or len(deltas) < 2:
        raise ValueError(
            f"{len(deltas)} deltas with {len(categories)} categories; merge two or more, each with its own"
        )
    if any(delta.text_encoders for delta in deltas):
        raise ValueError("a delta brings a text encoder of its own; only deltas of one text encoder can be merged")
    for delta in deltas:
        check_fits(delta, base)
    tokens = in_order([delta.tokens for delta in deltas])
    added = apply_delta(unet, text_encoder, tokenizer, Delta(tokens=tokens))
    try:
        encoders, tokenizers = _list(text_encoder), _list(tokenizer)
        device = table(encoders[0]).weight.device

        def rows(texts: Sequence[str]) -> Tensor:
            ids = [tokenizers[0](text, truncation=True)["input_ids"] for text in texts]
            # The second tokenizer of SDXL cuts "!" otherwise, which fills up its captions.
            others = [
                {tuple(own): _of_length(words, text, len(own)) for own, text in zip(ids, texts, strict=True)}
                for words in tokenizers[1:]
            ]

            def encode(own: Tensor) -> Tensor:
                found = [torch.tensor([other[tuple(each)] for each in own.tolist()]) for other in others]
                return features(encoders, [each.to(device) for each in (own, *found)])[0]

            return text_features(encode, ids, texts, tokenizers[0].eos_token_id)

        prompts = [target_prompts(category, token, variant) for category, token in zip(categories, tokens, strict=True)]
        targets = distinct([rows(each) for each in prompts])
        tuned = [whole(delta, base).weights for delta in deltas]
        merged, report = merge(base, tuned, rows(captions), targets, ridge)
    finally:
        added.undo()
    weights = {name: weight.float().cpu() for name, weight in merged.items()}
    return Delta(weights, tokens, base=samples(base, weights)), report


def _list(parts: Parts) -> list[Any]:
    return list(parts) if isinstance(parts, list | tuple) else [parts]


def _of_length(tokenizer: Any, text: str, length: int) -> list[int]:
    """A caption's ids, filled up or cut; what a causal encoder makes of those before does not change."""
    ids = [int(each) for each in tokenizer(text, truncation=True)["input_ids"]]
    return [*ids, *[int(tokenizer.pad_token_id)] * (length - len(ids))][:length]


def _check_weights(state: Mapping[str, Tensor]) -> None:
    for name, parameter in state.items():
        if not parameter.is_floating_point():
            raise ValueError(f"{name} is {parameter.dtype}; apply the delta to the weights before they are quantised")
        if parameter.is_meta:
            raise ValueError(f"{name} is not in memory; apply the delta before weights are moved out of the GPU")


def _check_tokens(delta: Delta, encoders: Sequence[nn.Module], tokenizers: Sequence[Any]) -> None:
    if len(encoders) != len(tokenizers):
        raise ValueError(f"{len(encoders)} text encoders with {len(tokenizers)} tokenizers")
    for token, vectors in delta.tokens.items():
        widths = [table(encoder).weight.shape[1] for encoder in encoders]
        if [len(vector) for vector in vectors] != widths:
            raise ValueError(
                f"the embeddings of {token} are for text encoders of widths {[len(v) for v in vectors]}, and this "
                f"model's are {widths}; load the model it is for"
            )


def _add_tokens(
    encoder: nn.Module, tokenizer: Any, delta: Delta, number: int, done: list[Callable[[], object]]
) -> dict[str, int]:
    before = copy.deepcopy(tokenizer.__dict__)
    embedding = table(encoder)
    weight, config = embedding.weight, getattr(encoder, "config", None)
    size = getattr(config, "vocab_size", None)
    pooling: list[nn.Module] = []

    def undo() -> None:
        tokenizer.__dict__.clear()
        tokenizer.__dict__.update(before)
        here = embedding.weight  # wherever the model has been moved by then
        moved = weight if weight.device == here.device and weight.dtype == here.dtype else weight.detach().to(here)
        embedding.weight = weight if moved is weight else nn.Parameter(moved, weight.requires_grad)
        embedding.num_embeddings = len(weight)
        for module in pooling:
            module.eos_token_id = OLD_END  # type: ignore[assignment]
        if config is not None:
            config.vocab_size = size

    done.append(undo)
    pooling += pool_at_end(encoder, tokenizer.eos_token_id)
    ids = dict(zip(delta.tokens, add_words(tokenizer, list(delta.tokens)), strict=True))
    # A table may have rows to spare; those that it lacks begin as its first. Either way the old one stays as it was.
    if (lacking := max(ids.values()) + 1 - len(weight)) > 0:
        add_rows(encoder, [0] * lacking)
    else:
        embedding.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    _set_rows(encoder, ids, delta, number)
    return ids


@torch.no_grad()
def _set_rows(encoder: nn.Module, ids: Mapping[str, int], delta: Delta, number: int) -> None:
    rows = table(encoder).weight
    for token, row in ids.items():
        rows[row] = delta.tokens[token][number].to(rows)


@torch.no_grad()
def _change(state: Mapping[str, Tensor], delta: Delta, strength: float, done: list[Callable[[], object]]) -> int:
    changed = 0
    for name in delta.names:
        own = state[name]
        if name in delta.factors:
            u, v = (part.to(own.device).float() for part in delta.factors[name])
            new = own.float() + u @ v
        else:
            new = delta.weights[name].to(own.device)
        changed += _replace(own, new, strength, done)
    return changed


@torch.no_grad()
def _change_encoder(
    encoder: nn.Module, tensors: Mapping[str, Tensor], strength: float, done: list[Callable[[], object]]
) -> int:
    state, changed = dict(encoder.named_parameters()), 0
    for name, value in renamed_for(encoder, tensors).items():
        if name not in state or state[name].shape != value.shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise ValueError(f"the delta's text encoder has {name} {tuple(value.shape)}, and this model's is {found}")
        changed += _replace(state[name], value.to(state[name].device), strength, done)
    return changed


def _replace(own: Tensor, new: Tensor, strength: float, done: list[Callable[[], object]]) -> bool:
    """Moves a weight towards its new value, at strength 1 to all its bits; whether that changed it."""
    before = own.detach().clone()
    done.append(lambda: own.data.copy_(before))  # wherever the model has been moved by then
    own.data.copy_(new if strength == 1 else before.float() + strength * (new.float() - before.float()))
    return not torch.equal(own, before)
