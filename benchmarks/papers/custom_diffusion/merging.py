"""A merge of concepts of which some have no token, as the paper's moongate has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gengauge.benchmarks.custom_pipeline import apply_to_pipeline, merge_deltas, text_parts
from gengauge.benchmarks.papers.custom_diffusion.methods import Merging
from gengauge.datasets.concept_sets import SetConcept
from gengauge.datasets.deltas import Delta, samples, whole
from gengauge.reference.custom_diffusion.augment import template
from gengauge.reference.custom_diffusion.conditioning import features
from gengauge.reference.custom_diffusion.merge import distinct, merge, target_prompts, text_features


def merged(
    pipeline: Any, deltas: Sequence[Delta], concepts: Sequence[SetConcept], captions: Sequence[str], how: Merging
) -> Delta:
    """Deltas of single concepts as one, by the closed form; tokens are called as `concepts` call them.

    Where all have a token it is `merge_deltas`. A concept without is named by its class alone. Raises ValueError for a
    delta that lacks the token of its concept, and as `merge_deltas` does.
    """
    for delta, concept in zip(deltas, concepts, strict=True):
        if concept.token is not None and not delta.tokens:
            raise ValueError(f"the delta of {concept.name} has no token, which its prompts say; train it with one")
    if all(concept.token is not None for concept in concepts):
        categories = [concept.category for concept in concepts]
        parts = pipeline.unet, *text_parts(pipeline)
        return merge_deltas(*parts, deltas, categories, captions, variant=how.variant, ridge=how.ridge)[0]
    tokens = tokens_of(deltas, concepts)
    base: Mapping[str, Tensor] = {name: each.detach() for name, each in pipeline.unet.named_parameters()}
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    added = apply_to_pipeline(pipeline, Delta(tokens=tokens)) if tokens else None

    def rows(texts: Sequence[str]) -> Tensor:
        ids = [tokenizer(text, truncation=True)["input_ids"] for text in texts]
        place = next(encoder.parameters()).device
        return text_features(lambda x: features([encoder], [x.to(place)])[0], ids, texts, tokenizer.eos_token_id)

    try:
        prompts = [
            target_prompts(each.category, each.token, how.variant)
            if each.token
            else (each.category, template(each.category))
            for each in concepts
        ]
        tuned = [whole(delta, base).weights for delta in deltas]
        weights, _ = merge(base, tuned, rows(captions), distinct([rows(each) for each in prompts]), how.ridge)
    finally:
        if added is not None:
            added.undo()
    found = {name: weight.float().cpu() for name, weight in weights.items()}
    return Delta(found, tokens, base=samples(base, found))


def tokens_of(deltas: Sequence[Delta], concepts: Sequence[SetConcept]) -> dict[str, tuple[Tensor, ...]]:
    """The first token of each delta, called as its concept calls it; none of a concept without."""
    return {
        concept.token: next(iter(delta.tokens.values()))
        for delta, concept in zip(deltas, concepts, strict=True)
        if concept.token is not None
    }
