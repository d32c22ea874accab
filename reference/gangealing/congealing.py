"""Congealing: pictures brought to the common frame, upright and by their cluster; their flows' smoothness; their mean.

Source: Peebles et al., CVPR 2022, sections 3.3 and 4 (flips and clusters at test time, average congealed pictures).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.flips import forward_with_flip, mirror
from gengauge.reference.gangealing.losses import total_variation
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer, Warped
from gengauge.reference.gangealing.training import Transformer, smaller
from gengauge.reference.gangealing.warps import Padding


@dataclass(frozen=True)
class Settings:
    """How pictures are congealed. Published: 3 `iters` for LSUN, 1 for CelebA and CUB, and the padding of the training.

    With `flips` a picture is mirrored where that leaves the smoother flow. A `classifier` tells each picture's head, or
    `cluster` is the head of all. A classifier of two logits a head also tells what to mirror, whatever `flips` says.
    """

    iters: int = 1
    padding_mode: Padding = "border"
    flips: bool = False
    classifier: ResnetClassifier | None = None
    cluster: int | None = None


PLAIN = Settings()


@dataclass(frozen=True)
class Congealed:
    """N pictures in the common frame. Grid and matrices lead to the pictures as given: a mirrored one's mirror, too."""

    warped: Warped
    mirrored: Tensor  # (N,) bool
    cluster: Tensor  # (N,) int64: the head
    partial: bool = False  # made with an alpha

    def __len__(self) -> int:
        return len(self.mirrored)

    @property
    def image(self) -> Tensor:
        """(N, 3, R, R)"""
        return self.warped.image

    @property
    def score(self) -> Tensor:
        """How smooth the residual flows are, (N,): minus the total variation. ValueError for a similarity alone."""
        if self.warped.delta is None:
            raise ValueError("a similarity leaves no flow to score: congeal with a transformer of both")
        return -total_variation(self.warped.delta)

    def part(self, index: Tensor) -> Congealed:
        """Those of an index (n,) int64 or a mask (N,) bool."""
        w = self.warped
        matrix, delta = (None if x is None else x[index] for x in (w.matrix, w.delta))
        warped = Warped(w.image[index], w.grid[index], matrix, delta, tuple(x[index] for x in w.iterates))
        return replace(self, warped=warped, mirrored=self.mirrored[index], cluster=self.cluster[index])


@torch.no_grad()
def congeal(
    network: Transformer,
    x: Tensor,
    settings: Settings = PLAIN,
    source: Tensor | None = None,
    alpha: Tensor | float | None = None,
    output_resolution: int | None = None,
) -> Congealed:
    """Pictures (N, 3, S, S) in [-1, 1] in the common frame, at `output_resolution` (default: the network's).

    S is the network's `flow_size` times 1, 2, 4, 6, ... `source` (N, 3, T, T), of any T, is sampled instead of x.
    `alpha` in [0, 1], one or (N,), is the share of the way: 0 the picture, or its mirror image, and 1 the whole.

    Raises ValueError for pictures, sources, alphas and settings that do not fit the network.
    """
    if isinstance(network, SpatialTransformer) and network.transform == "flow":
        raise ValueError("a flow alone does not congeal: use a similarity, or a transformer of both")
    check_pictures(x, network.flow_size)
    source = x if source is None else source
    check_pictures(source, count=len(x))
    cluster, mirrored = _chosen(network, x, settings)
    seen = smaller(x, network.flow_size)
    policy = torch.nn.functional.one_hot(cluster, network.num_heads).to(x.dtype)
    share = _shares(alpha, x)
    if mirrored is None and settings.flips:
        if not isinstance(network, ComposedSTN):
            raise ValueError("flips are told by the flow, which a similarity alone has not: give a classifier of flips")
        turned = forward_with_flip(
            network, seen, source, settings.iters, policy, share, settings.padding_mode, output_resolution
        )
        warped, mirrored, grid = turned.warped, turned.mirrored, turned.warped.grid
    else:
        if mirrored is None:
            mirrored = torch.zeros_like(cluster, dtype=torch.bool)
        warped = network(
            mirror(seen, mirrored),
            mirror(source, mirrored),
            iters=settings.iters,
            policy=policy,
            alpha=share,
            padding_mode=settings.padding_mode,
            output_resolution=output_resolution,
        )
        grid = _mirroring(warped.grid, mirrored, warped.grid.new_tensor([-1.0, 1.0]))
    rows = grid.new_tensor([[-1.0], [1.0]])
    matrix = None if warped.matrix is None else _mirroring(warped.matrix, mirrored, rows)
    iterates = tuple(_mirroring(x, mirrored, rows) for x in warped.iterates)
    warped = replace(warped, grid=grid, matrix=matrix, iterates=iterates)
    return Congealed(warped, mirrored, cluster, alpha is not None)


def congeal_each(
    network: Transformer,
    batches: Iterable[Tensor],
    settings: Settings = PLAIN,
    output_resolution: int | None = None,
) -> Iterator[Congealed]:
    """`congeal` of one batch after the other; only one is held."""
    return (congeal(network, x, settings, output_resolution=output_resolution) for x in batches)


def flow_scores(network: ComposedSTN, batches: Iterable[Tensor], settings: Settings = PLAIN) -> Tensor:
    """The smoothness of every picture's flow (N,), of batches (n, 3, S, S); `losses.smooth_enough` filters by it.

    Raises ValueError where there is no picture.
    """
    scores = [found.score for found in congeal_each(network, batches, settings)]
    if not scores:
        raise ValueError("there are no pictures to score")
    return torch.cat(scores)


@dataclass(frozen=True)
class Average:
    """The mean of `count` pictures, (C, H, W) float32."""

    image: Tensor
    count: int


def average(batches: Iterable[Tensor]) -> Average:
    """The mean of pictures in batches (n, C, H, W), summed in float64; only one batch is held.

    Raises ValueError for no pictures, for another shape than the first batch's, and for values that are not finite.
    """
    total, count = torch.zeros(()), 0
    for batch in batches:
        if batch.ndim != 4 or (count and batch.shape[1:] != total.shape):
            wanted = f"(n, {', '.join(map(str, total.shape))})" if count else "(n, C, H, W)"
            raise ValueError(f"pictures to average are {wanted}, not {tuple(batch.shape)}")
        _check_finite(batch)
        total, count = total.to(batch.device) + batch.double().sum(0), count + len(batch)
    if not count:
        raise ValueError("there are no pictures to average")
    return Average((total / count).float(), count)


def check_pictures(x: Tensor, flow_size: int | None = None, count: int | None = None) -> None:
    """Raises ValueError unless x is (N, 3, S, S), float and finite; S such that it can be brought to `flow_size`."""
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or not len(x):
        raise ValueError(f"pictures are (N, 3, S, S), square and at least one, not {tuple(x.shape)}; pad or crop them")
    if not x.is_floating_point():
        raise ValueError(f"pictures are float in [-1, 1], not {x.dtype}; bytes are x / 127.5 - 1")
    if count is not None and len(x) != count:
        raise ValueError(f"{count} pictures have as many sources, not {len(x)}")
    times, rest = divmod(x.shape[-1], flow_size or x.shape[-1])
    if rest or not times or (times > 1 and times % 2):
        raise ValueError(
            f"pictures of {x.shape[-1]} px do not go into {flow_size} px; scale them to {flow_size} px or to 2, 4, "
            "6, ... times that"
        )
    _check_finite(x)


def _chosen(network: Transformer, x: Tensor, settings: Settings) -> tuple[Tensor, Tensor | None]:
    """The heads of pictures (N,) and which are mirrored (N,), or None where no classifier tells."""
    heads, classifier, cluster = network.num_heads, settings.classifier, settings.cluster
    if cluster is not None and not 0 <= cluster < heads:
        raise ValueError(f"the transformer's heads are 0 to {heads - 1}, and {cluster} is none of them")
    if classifier is None:
        if cluster is None and heads > 1:
            raise ValueError(
                f"one of {heads} heads is chosen by the settings' classifier or cluster; they have neither"
            )
        return _all(cluster or 0, x), None
    if classifier.num_heads not in (heads, 2 * heads):
        raise ValueError(
            f"a classifier for {heads} heads has {heads} logits, or {2 * heads} with flips, not {classifier.num_heads}"
        )
    flips = classifier.num_heads == 2 * heads
    small = smaller(x, classifier.flow_size)
    if cluster is not None:
        return _all(cluster, x), classifier.upright_as(small, cluster)[1] if flips else None
    if not flips:
        return classifier.assign(small), None
    _, found, mirrored = classifier.upright(small)
    return found, mirrored


def _all(cluster: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), cluster, device=x.device)


def _shares(alpha: Tensor | float | None, x: Tensor) -> Tensor | None:
    """Alpha as (N,)."""
    if alpha is None:
        return None
    shares = torch.as_tensor(alpha, dtype=x.dtype, device=x.device)
    if shares.shape not in ((), (len(x),)) or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"alpha is one number in [0, 1], or one a picture ({len(x)},), not {alpha}")
    return shares.expand(len(x))


def _mirroring(values: Tensor, mirrored: Tensor, signs: Tensor) -> Tensor:
    """Values (N, ...) times signs that exchange left and right, for those of a mask (N,)."""
    return torch.where(mirrored.view(-1, *[1] * (values.ndim - 1)), values * signs, values)


def _check_finite(x: Tensor) -> None:
    bad = (~x.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(f"pictures {bad} of a batch of {len(x)} have values that are not finite; leave them out")
