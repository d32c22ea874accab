"""Which pictures make a pair when GANgealing's key points are measured, drawn by torch's CPU generator as published."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_EPOCH_SEEDS = 9_999_999_999_999


def disjoint_pairs(pictures: int, generator: torch.Generator) -> Tensor:
    """All pictures in random pairs, int64 (pictures // 2, 2); of an odd number one is left out.

    Raises ValueError for fewer than two.
    """
    if pictures < 2:
        raise ValueError(f"{pictures} pictures make no pair")
    return torch.randperm(pictures, generator=generator)[: pictures // 2 * 2].view(-1, 2)


def resampled_pairs(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """As many of the fixed pairs (n, 2), drawn with replacement. Raises ValueError without any."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"pairs are (n, 2), not {tuple(pairs.shape)}")
    return pairs[torch.randint(len(pairs), (len(pairs),), generator=generator)]


def epoch_seeds(seed: int) -> Iterator[int]:
    """The seed of each epoch's pairs, without end; the published numbers on CUB begin with the first of seed 0."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(_EPOCH_SEEDS, (1,), generator=generator))


def random_pairs(pictures: int, count: int, seed: int = 0) -> Tensor:
    """`count` random pairs, int64 (count, 2): new disjoint pairs of all pictures as often as needed (CUB: 10,000)."""
    found: list[Tensor] = []
    for epoch_seed in epoch_seeds(seed):
        if sum(map(len, found)) >= count:
            break
        found.append(disjoint_pairs(pictures, torch.Generator().manual_seed(epoch_seed)))
    return torch.cat(found)[:count] if found else torch.zeros(0, 2, dtype=torch.long)
