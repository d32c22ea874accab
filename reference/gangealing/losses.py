"""GANgealing's losses beside the perceptual one: smoothness of the residual flow, and the choice among clusters.

Residual flows are (N, H, W, 2) in units of half a picture's side, as sampling grids are. Source: Peebles et al. 2022,
section 3; where paper and code differ this follows the code, whose total variation is a Huber loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

HUBER_KNEE = 1.0


def total_variation(flow: Tensor) -> Tensor:
    """The Huber loss of neighbours' differences, means over rows' and columns' added: (N,), one a picture.

    Raises ValueError for another shape and for a flow without neighbours.
    """
    _check(flow)
    if min(flow.shape[1:3]) < 2:
        raise ValueError(f"a flow of {flow.shape[2]} x {flow.shape[1]} places has no neighbours in both directions")
    vertical, horizontal = flow.diff(dim=1), flow.diff(dim=2)
    return _huber(vertical).mean((1, 2, 3)) + _huber(horizontal).mean((1, 2, 3))


def flow_identity(flow: Tensor) -> Tensor:
    """How far a residual flow is from none: the mean of its squares, a number. Raises ValueError for another shape."""
    _check(flow)
    return flow.square().mean()


def by_cluster(losses: Tensor, num_heads: int, flips: bool) -> Tensor:
    """Losses (N clusters,) in the order in which a transformer makes its pictures, as (N, clusters).

    A batch holds the pictures and, with `flips`, all of them mirrored after them; each picture's heads are neighbours.
    Column c < num_heads is head c, column c >= num_heads is head c - num_heads of the mirrored picture. Raises
    ValueError where the number of losses does not fit.
    """
    sides = 2 if flips else 1
    if losses.ndim != 1 or len(losses) % (sides * num_heads):
        raise ValueError(f"losses of {sides * num_heads} clusters do not have the shape {tuple(losses.shape)}")
    return losses.view(sides, -1, num_heads).transpose(0, 1).flatten(1)


def best_cluster(losses: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest of each picture's losses (N, clusters) and which it is, (N,) and int64 (N,); of equal ones the first.

    Only the lowest ones pass gradient. Raises ValueError for another shape.
    """
    if losses.ndim != 2 or not losses.shape[1]:
        raise ValueError(f"losses are (N, clusters), not {tuple(losses.shape)}")
    found = losses.detach().argmin(1)
    return losses.gather(1, found[:, None])[:, 0], found


def of_cluster(values: Tensor, found: Tensor, num_heads: int, flips: bool) -> Tensor:
    """Of values (N clusters, ...) in a transformer's order those of the cluster that each picture has, (N, ...)."""
    sides = 2 if flips else 1
    count = len(values) // (sides * num_heads)
    side, head = found // num_heads, found % num_heads
    rows = torch.arange(count, device=found.device)
    return values[(side * count + rows) * num_heads + head]


def cluster_accuracy(logits: Tensor, losses: Tensor, k: int = 1) -> Tensor:
    """The share of pictures whose cluster by `logits` is among the k of lowest loss, both (N, clusters); a number.

    Raises ValueError for shapes that differ and for a k outside 1..clusters.
    """
    if logits.shape != losses.shape or logits.ndim != 2:
        raise ValueError(f"logits and losses are (N, clusters), not {tuple(logits.shape)} and {tuple(losses.shape)}")
    if not 1 <= k <= losses.shape[1]:
        raise ValueError(f"k lies within 1 and {losses.shape[1]}, not {k}")
    nearest = losses.topk(k, dim=1, largest=False).indices
    return (nearest == logits.argmax(1, keepdim=True)).any(1).float().mean()


def smooth_enough(scores: Tensor, fraction: float) -> Tensor:
    """Which pictures to keep for a dataset: int64 indices of those whose score (N,) is among the given upper fraction.

    A score is the negative total variation of a picture's residual flow. As published a score must lie above the
    quantile, not at it, so that even the fraction 1 leaves the lowest out. Raises ValueError for another fraction or
    shape.
    """
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores are (N,), not {tuple(scores.shape)}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction to keep lies within 0 and 1, not {fraction}")
    return (scores > scores.quantile(1 - fraction)).nonzero()[:, 0]


def _check(flow: Tensor) -> None:
    if flow.ndim != 4 or flow.shape[3] != 2:
        raise ValueError(f"a residual flow is (N, H, W, 2), not {tuple(flow.shape)}")


def _huber(difference: Tensor) -> Tensor:
    size = difference.abs()
    return torch.where(size <= HUBER_KNEE, 0.5 * size.square(), HUBER_KNEE * (size - 0.5 * HUBER_KNEE))
