"""Weight changes as low-rank factors (Kumari et al. 2023, section 3.1 and appendix): the leading singular vectors.

A change is (u (out, r), v (r, in)), to be multiplied and added to the base's weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
RATIO = 0.6


def rank_of(singular: Tensor, ratio: float = RATIO) -> int:
    """How many of the descending singular values (k,) the published rule keeps.

    Those before the one at which their plain sum exceeds the ratio of the whole: so the one that crosses is dropped,
    none may be left, and never all are kept. Where all are 0 the rank is 0. Raises ValueError for a ratio outside
    (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"the ratio is {ratio}; it must lie in (0, 1]")
    total = float(singular.sum())
    if total == 0:
        return 0
    beyond = (singular.cumsum(0) / total > ratio).nonzero()
    return int(beyond[0]) if len(beyond) else len(singular) - 1


def compress(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    *,
    ratio: float | None = None,
    rank: int | None = None,
) -> dict[str, Factors]:
    """The factors of tuned - base for each tuned weight, float32: by the published rule, or of a rank.

    Without either the ratio is the published 0.6; a rank above a weight's own is cut to that. Raises ValueError for
    both, a negative rank, weights that are no matrices or not the base's, and values that are not finite.
    """
    if ratio is not None and rank is not None:
        raise ValueError("give a ratio or a rank, not both")
    if rank is not None and rank < 0:
        raise ValueError(f"the rank is {rank}; it is at least 0")
    out = {}
    for name, weight in tuned.items():
        _check(name, weight, base)
        # In float64, since the change is a small difference of large numbers.
        u, s, vh = torch.linalg.svd(weight.double() - base[name].double().to(weight.device), full_matrices=False)
        kept = rank_of(s, RATIO if ratio is None else ratio) if rank is None else min(rank, len(s))
        out[name] = ((u[:, :kept] * s[:kept]).float(), vh[:kept].float())
    return out


def reconstruct(base: Mapping[str, Tensor], factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The weights that factors stand for, base + u v, in the base's type. Raises ValueError for another base."""
    out = {}
    for name, (u, v) in factors.items():
        change = u.float() @ v.float()
        _check(name, change, base)
        precise = base[name].to(torch.promote_types(base[name].dtype, torch.float32))
        out[name] = (precise + change.to(precise)).to(base[name].dtype)
    return out


def stored_numbers(factors: Mapping[str, Factors], others: Sequence[Tensor] = ()) -> int:
    """How many numbers a file holds: those of the factors and of what is stored beside them, tokens for one."""
    return sum(u.numel() + v.numel() for u, v in factors.values()) + sum(tensor.numel() for tensor in others)


def _check(name: str, weight: Tensor, base: Mapping[str, Tensor]) -> None:
    if weight.ndim != 2:
        raise ValueError(f"{name} is {tuple(weight.shape)}; only matrices have factors")
    if name not in base or base[name].shape != weight.shape:
        found = tuple(base[name].shape) if name in base else "none"
        raise ValueError(f"{name} is {tuple(weight.shape)}, and the base's is {found}: it is of another base")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"{name} holds values that are no finite numbers")
