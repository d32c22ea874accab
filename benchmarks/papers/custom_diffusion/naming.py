"""How concepts are called: by tokens, by words in their place, alone or in pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gengauge.benchmarks.papers.custom_diffusion.methods import Method
from gengauge.datasets.concept_sets import TOKEN, SetConcept, SetPair, with_token
from gengauge.reference.custom_diffusion.augment import template
from gengauge.reference.custom_diffusion.tokens import single_ids

Subject = SetConcept | SetPair


def named(concept: SetConcept, method: Method, token: str = TOKEN) -> SetConcept:
    """The concept with a token where a method learns nothing else and the set gives it none."""
    if not method.tokens_alone or concept.token is not None:
        return concept
    return replace(
        concept,
        token=token,
        caption=template(f"{token} {concept.category}"),
        prompts=tuple(with_token(prompt, concept.category, token) for prompt in concept.prompts),
    )


def named_pair(pair: SetPair, method: Method) -> SetPair:
    """The pair with a token for each where a method learns tokens alone, numbered in order."""
    if not method.tokens_alone or (pair.first.token and pair.second.token):
        return pair
    return replace(pair, first=replace(pair.first, token="<new1>"), second=replace(pair.second, token="<new2>"))


def alone(concept: SetConcept) -> SetConcept:
    """The second concept of a pair as it is called when it is learnt alone, so that its training is the same."""
    if concept.token is None:
        return concept
    return replace(concept, token=TOKEN, caption=concept.caption.replace(concept.token, TOKEN))


def asked(subject: Subject, method: Method) -> list[str]:
    """The prompts that samples of a subject are drawn from, with words in place of tokens where a method has those."""
    own = named(subject, method) if isinstance(subject, SetConcept) else named_pair(subject, method)
    both = [own] if isinstance(own, SetConcept) else [own.first, own.second]
    tokens = [each.token for each in both if each.token is not None]
    prompts = own.generation_prompts()
    for token, word in zip(tokens, method.words, strict=False):
        prompts = [prompt.replace(token, word) for prompt in prompts]
    return prompts


def begins(method: Method, tokenizer: Any, category: str) -> tuple[str, ...]:
    """The words that new tokens begin as: the class's last that is one token of the vocabulary, else rare ones."""
    if method.begin_as_class:
        for word in reversed(category.split()):
            try:
                single_ids(tokenizer, [word])
            except ValueError:
                continue
            return (word,)
    return method.begin_as
