"""CUT's projection of encoder features at sampled places, F, and the contrastive loss PatchNCE (section 3).

In the paper a "patch" is what one feature sees of the picture; sampled are places of the feature maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.translation_resnet import init_weights

EPS = 1e-7  # added to the norm itself, after the square root
TEMPERATURE = 0.07
SELF = -10.0  # takes the place of the product with the row itself among the negatives; as good as minus infinity
NOTHING = -90.0  # a logit so far below another adds nothing to its exponential
POOLED = 4  # side of the maps of `reshaped`


def normalise(x: Tensor, dim: int = 1) -> Tensor:
    """x / (|x| + 1e-7) along a dimension."""
    # Backwards, a product is much cheaper than a quotient.
    return x * (torch.linalg.vector_norm(x, dim=dim, keepdim=True) + EPS).reciprocal()


def draw_patches(
    sizes: Sequence[tuple[int, int]], num_patches: int, generator: torch.Generator | None, device: str | torch.device
) -> list[Tensor]:
    """Places of maps of sizes (h, w): the first `num_patches` of a random order of the h w flat indices, int64."""
    return [torch.randperm(h * w, generator=generator, device=device)[:num_patches] for h, w in sizes]


class PatchSampleF(nn.Module):
    """Features at sampled places through two linear layers a tap, divided by their length: rows of length 1.

    `channels` are the taps'. The published code makes the layers at the first batch and so only knows its names,
    `mlp_0.0.weight` ..., after that; these are made at once. Without `use_mlp` the features themselves are divided.
    """

    def __init__(self, channels: Sequence[int], nc: int = 256, use_mlp: bool = True) -> None:
        super().__init__()
        self.channels, self.nc, self.use_mlp = tuple(channels), nc, use_mlp
        for i, inputs in enumerate(channels if use_mlp else ()):
            self.add_module(f"mlp_{i}", nn.Sequential(nn.Linear(inputs, nc), nn.ReLU(), nn.Linear(nc, nc)))
        init_weights(self)

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor] | None) -> list[Tensor]:
        """Maps (N, C, h, w), one a tap, at flat indices h * w + w (P,) to rows (N P, nc), those of a picture together.

        All pictures of the batch share the places; with places (groups, P), those of each of so many equal groups. With
        `places` None every place is taken, the result is a map (N, nc, h, w), and, as in the published code
        (num_patches 0), each channel is divided by its length over all places. Raises ValueError for other maps than
        the taps'.
        """
        found = tuple(tap.shape[1] for tap in features)
        if found != self.channels or (places is not None and len(places) != len(found)):
            raise ValueError(
                f"F takes a map and its places for each of the taps of {self.channels} channels, not {found}"
            )
        out = []
        for i, tap in enumerate(features):
            n, _, height, width = tap.shape
            rows = tap.flatten(2).transpose(1, 2)
            if places is not None:
                rows = _at(rows, places[i]).flatten(0, 1)
            rows = normalise(self.get_submodule(f"mlp_{i}")(rows) if self.use_mlp else rows)
            out.append(rows if places is not None else rows.transpose(1, 2).reshape(n, -1, height, width))
        return out


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (N, h w, C) at places (P,), or (groups, P) where groups of pictures have their own: (N, P, C)."""
    if places.ndim == 1:
        return rows[:, places]
    at = places.repeat_interleave(len(rows) // len(places), 0)
    return rows[torch.arange(len(rows), device=rows.device)[:, None], at]


def reshaped(feature: Tensor) -> Tensor:
    """A map (N, C, h, w) averaged to 4 x 4 places, as rows (16 N, C) of length 1: the published `reshape` for F."""
    return normalise(F.adaptive_avg_pool2d(feature, POOLED).permute(0, 2, 3, 1).flatten(0, 2))


def patch_nce(
    queries: Tensor,
    keys: Tensor,
    batch: int,
    temperature: float = TEMPERATURE,
    all_negatives: bool = False,
    fill: float = SELF,
    apart: bool = False,
    external: Tensor | None = None,
    internal: bool = True,
) -> Tensor:
    """The loss of each row (N P,): cross entropy of its key among the keys of its picture (equation 3).

    queries and keys (N P, nc) of length 1, those of a picture together; keys pass no gradient. Negatives are the other
    rows of the same picture, with `all_negatives` of the whole batch; `external` rows (M, nc), also of length 1, come
    to them, or take their place without `internal`. The published code has `fill` as one more
    negative of each row; where it is too low to count in float32, it is left out. With `apart` positives are computed a
    second time and `fill` is kept, as published: for comparing speed. Raises ValueError where `batch` pictures do not
    share the rows evenly, which the published code groups wrongly without a word.
    """
    if queries.shape != keys.shape or queries.ndim != 2:
        raise ValueError(f"queries and keys are rows of one shape, not {tuple(queries.shape)} and {tuple(keys.shape)}")
    if batch < 1 or len(queries) % batch:
        raise ValueError(f"{len(queries)} rows cannot be those of {batch} pictures; give the batch that made them")
    groups = 1 if all_negatives else batch
    q, k = (rows.view(groups, -1, rows.shape[1]) for rows in (queries, keys.detach()))
    if not internal:
        others = queries.new_empty(0, queries.shape[1]) if external is None else external
        logits = torch.cat([(queries * keys.detach()).sum(1, keepdim=True), queries @ others.T], 1) / temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")
    if apart:
        positive = torch.bmm(queries[:, None], keys.detach()[:, :, None])[:, 0]
        itself = torch.eye(q.shape[1], dtype=torch.bool, device=q.device)
        negatives = (q @ k.transpose(1, 2)).masked_fill(itself, fill).flatten(0, 1)
        logits = torch.cat([positive, negatives], 1) / temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")
    # Dividing keys needs no backward pass, unlike dividing queries or products.
    logits = (q @ (k / temperature).transpose(1, 2)).flatten(0, 1)
    if external is not None:
        logits = torch.cat([logits, queries @ (external / temperature).T], 1)
    if (fill + 1) / temperature > NOTHING:  # next to a product of -1 at the least
        logits = F.pad(logits, (0, 1), value=fill / temperature)
    positives = torch.arange(q.shape[1], device=q.device).repeat(groups)  # the diagonals
    return F.cross_entropy(logits, positives, reduction="none")
