"""How well pictures go with their text and with a concept's pictures: cosines of features (Kumari et al. 2023).

Features are (N, D), one row a picture or text, of CLIP or, for pictures only, of DINO. The paper's tables take CLIP
ViT-B/32, those of its set CustomConcept101 also DINO ViT-S/16.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CLIP_SCORE_WEIGHT = 2.5  # of CLIPScore (Hessel et al. 2021, equation 1)
MODIFIER = r"<new\d+>"


@dataclass(frozen=True, eq=False)
class TextAlignment:
    """Of N pictures, each with its text: cosines (N,) float64, and the CLIPScore 2.5 max(cosine, 0) of each."""

    cosines: Array

    @property
    def scores(self) -> Array:
        """(N,) float64 in [0, 2.5]."""
        return CLIP_SCORE_WEIGHT * np.maximum(self.cosines, 0)

    @property
    def cosine(self) -> float:
        """The mean cosine, as later benchmarks report it."""
        return float(self.cosines.mean())

    @property
    def score(self) -> float:
        """The mean CLIPScore, as Custom Diffusion reports it."""
        return float(self.scores.mean())


def text_alignment(pictures: Array, texts: Array) -> TextAlignment:
    """Of pictures' features (N, D) with those of their texts (N, D), or of one text (1, D) for all.

    The texts are without modifier tokens: `without_modifiers`. Raises ValueError for features that are not finite, of
    length 0 or of other shapes.
    """
    a, b = _unit(pictures, "pictures"), _unit(texts, "texts")
    if a.shape[1] != b.shape[1] or len(b) not in (1, len(a)):
        raise ValueError(f"features {a.shape} of pictures and {b.shape} of texts: each picture has one text")
    return TextAlignment((a * b).sum(1))


def image_alignment(generated: Array, targets: Array) -> float:
    """The mean cosine of all pairs of generated pictures (N, D) and the concept's own (M, D), in [-1, 1].

    A mean over pairs is the product of the means, so that it costs N + M rows and not N M. Raises ValueError as
    `text_alignment`.
    """
    a, b = _unit(generated, "generated pictures"), _unit(targets, "target pictures")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the features have {a.shape[1]} and {b.shape[1]} dimensions; extract both alike")
    return float(a.mean(0) @ b.mean(0))


def without_modifiers(prompt: str, tokens: Iterable[str] | None = None) -> str:
    """A prompt as text alignment is measured with it: without the tokens (<new1>, ...), which CLIP knows nothing of.

    Raises ValueError where nothing is left.
    """
    pattern = MODIFIER if tokens is None else "|".join(re.escape(token) for token in sorted(tokens, key=len)[::-1])
    text = " ".join((re.sub(pattern, " ", prompt) if pattern else prompt).split())
    if not text:
        raise ValueError(f"the prompt {prompt!r} says nothing but its modifier tokens")
    return text


def _unit(features: Array, what: str) -> Array:
    if features.ndim != 2 or not features.size or not np.isfinite(features).all():
        raise ValueError(f"features of {what} are finite (N, D), not {features.shape} with NaN or infinity or empty")
    values = features.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"a feature of {what} has length 0, so it has no cosine")
    return values / lengths
