"""Inception Score: the spread of class probabilities over pictures (Salimans et al. 2016)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]


def inception_score(
    probabilities: Array, splits: int = 10, borders: Literal["equal", "even"] = "equal"
) -> tuple[float, float]:
    """Mean and population standard deviation over splits of exp(mean KL(p(y|x) || p(y))), natural logarithm.

    `probabilities` (N, classes). With `equal` borders each split has floor(N / splits) pictures and the remainder is
    dropped (the BigGAN code); with `even` borders split i ends at floor((i + 1) N / splits) (the StyleGAN2 codes).
    Raises ValueError for fewer pictures than splits or rows that are no probabilities.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or len(p) < splits:
        raise ValueError(f"{splits} splits need at least as many rows of probabilities, not shape {p.shape}")
    if not (np.isfinite(p).all() and (p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-3)):
        raise ValueError("each row must be probabilities: not negative, with sum 1")
    n = len(p) // splits
    ends = [
        (i * n, (i + 1) * n) if borders == "equal" else (i * len(p) // splits, (i + 1) * len(p) // splits)
        for i in range(splits)
    ]
    scores = [_score(p[start:end]) for start, end in ends]
    return float(np.mean(scores)), float(np.std(scores))


def _score(p: Array) -> float:
    marginal = p.mean(0, keepdims=True)
    # A class of probability 0 adds 0 to the sum: 0 log 0.
    terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(np.where(marginal > 0, marginal, 1))), 0)
    return float(np.exp(terms.sum(1).mean()))
