"""PCK-Transfer of a transformer: points of one picture of a pair taken to the other, and how many come near.

Nothing here knows a set of pictures. The published protocol is kept, with its choices as settings: mirrored pictures,
one way or both, labels of mirrored pictures. Source: Peebles et al., CVPR 2022, section 4.2, and the published script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.benchmarks.metrics.pck import ALPHAS, Hits, Labels, hits
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.congealing import Settings, congeal
from gengauge.reference.gangealing.points import Matched, match_flows, transfer_matched
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.training import Transformer
from gengauge.reference.gangealing.warps import Padding

Array = np.ndarray[Any, Any]
Tell = Callable[[int], None]
Way = Callable[[Tensor, Tensor, Tensor], Tensor]  # pictures, other pictures and points of the first to the other's


@dataclass(frozen=True)
class Protocol:
    """How points are transferred.

    - iters: how often the similarity is regressed
    - flips: either picture is mirrored where that makes the flows smoother
    - both_ways: back from the second picture to the first too
    """

    iters: int = 1
    padding_mode: Padding = "border"
    flips: bool = True
    both_ways: bool = False


@dataclass(frozen=True, eq=False)
class Batch:
    """n pairs of pictures (n, 3, S, S) in [-1, 1] and their key points (n, P, 3): x, y in px, and visibility.

    `lengths` (n,) in px are what distances on a picture are set against.
    """

    a: Tensor
    b: Tensor
    points_a: Tensor
    points_b: Tensor
    lengths_a: Tensor
    lengths_b: Tensor


@dataclass(frozen=True, eq=False)
class Transfers:
    """What a network made of n pairs, in px.

    Points are those after mirroring and permuting. `estimated_a` and `estimated_b` (n, P, 2) came from the other
    picture; without both ways `estimated_a` is (n, 0, 2).
    """

    estimated_a: Array
    estimated_b: Array
    points_a: Array  # (n, P, 2)
    points_b: Array
    visible_a: Array  # (n, P), as given
    visible_b: Array
    lengths_a: Array  # (n,)
    lengths_b: Array
    order: Array  # (n, P) int64: which of the given points of a each of `points_a` is
    pick: Array  # (n,) int64: 0 as given, 1 a mirrored, 2 b mirrored, 3 both

    def __len__(self) -> int:
        return len(self.pick)

    def of(self, pairs: Array) -> Transfers:
        """Some of the pairs."""
        return Transfers(**{f.name: getattr(self, f.name)[pairs] for f in fields(Transfers)})

    def hits(self, labels: Labels = "published", alphas: tuple[float, ...] = ALPHAS) -> Hits:
        """How many points came near.

        "published" leaves the visibility of a mirrored picture's points as it was, so that points count that are in no
        picture; "corrected" moves it with the labels.

        Raises ValueError as `metrics.pck.hits` does, where no pair has a point in common for instance.
        """
        of_a = self.visible_a if labels == "published" else np.take_along_axis(self.visible_a, self.order, 1)
        visible = of_a * self.visible_b
        found = hits(self.estimated_b, self.points_b, visible, self.lengths_b, alphas)
        if self.estimated_a.shape[1]:
            found = found + hits(self.estimated_a, self.points_a, visible, self.lengths_a, alphas)
        return found


@torch.inference_mode()
def transfer(
    network: Transformer,
    pairs: Iterable[Batch],
    protocol: Protocol,
    permutation: Tensor | None = None,
    classifier: ResnetClassifier | None = None,
    tell: Tell = lambda done: None,
) -> Transfers:
    """Transfers the points of all pairs, on the device of the network, and tells how many pairs are done.

    `permutation` (P,) int64 says which label a point has in the mirrored picture. Of several heads the classifier
    chooses a picture's one. A similarity alone does without flips. Raises ValueError without any pair, for pictures of
    another size than the network's, for several heads without a classifier and for a permutation of another length.
    """
    _check_network(network, classifier, protocol)
    device = next(network.parameters()).device
    permutation = None if permutation is None else permutation.to(device)
    return _collected(
        pairs, lambda batch: _transferred(network, batch, protocol, permutation, classifier, device), tell
    )


@torch.no_grad()
def transfer_by(way: Way, pairs: Iterable[Batch], both_ways: bool = False, tell: Tell = lambda done: None) -> Transfers:
    """Transfers the points of all pairs by any way, of pictures as they are. Raises ValueError without any pair."""

    def one(batch: Batch) -> dict[str, Tensor]:
        (places_a, visible_a), (places_b, visible_b) = (
            (p[..., :2], p[..., 2]) for p in (batch.points_a, batch.points_b)
        )
        to_b = way(batch.a, batch.b, places_a)
        to_a = way(batch.b, batch.a, places_b) if both_ways else to_b[:, :0]
        count, points = visible_a.shape
        return {
            **{"estimated_a": to_a, "estimated_b": to_b, "points_a": places_a, "points_b": places_b},
            **{"visible_a": visible_a, "visible_b": visible_b, "order": torch.arange(points).expand(count, -1)},
            "pick": torch.zeros(count, dtype=torch.long),
            **{"lengths_a": batch.lengths_a, "lengths_b": batch.lengths_b},
        }

    return _collected(pairs, one, tell)


def _collected(pairs: Iterable[Batch], one: Callable[[Batch], dict[str, Tensor]], tell: Tell) -> Transfers:
    parts: list[dict[str, Tensor]] = []
    done = 0
    for batch in pairs:
        parts.append(one(batch))
        done += len(batch.a)
        tell(done)
    if not parts:
        raise ValueError("there are no pairs of pictures to transfer points between")
    return Transfers(
        **{f.name: np.concatenate([part[f.name].cpu().numpy() for part in parts]) for f in fields(Transfers)}
    )


def left_in_place(found: Transfers) -> Transfers:
    """The same pairs, each point left at the place that it has in the other picture: what a method must surpass.

    Mirrored pictures count as mirrored; pass what was transferred without flips for pictures as they are.
    """
    back = found.points_b if found.estimated_a.shape[1] else found.estimated_a
    values = {f.name: getattr(found, f.name) for f in fields(Transfers)}
    return Transfers(**{**values, "estimated_b": found.points_a, "estimated_a": back})


def congealed(
    network: Transformer,
    pictures: Tensor,
    protocol: Protocol,
    resolution: int,
    classifier: ResnetClassifier | None = None,
) -> Tensor:
    """Pictures (n, 3, S, S) in the aligned frame, (n, 3, resolution, resolution).

    With flips each is mirrored where that leaves the smoother flow, or where the classifier says so. Raises ValueError
    as `transfer` does.
    """
    _check_network(network, classifier, protocol)
    settings = Settings(protocol.iters, protocol.padding_mode, protocol.flips, classifier)
    x = pictures.to(next(network.parameters()).device)
    return congeal(network, x, settings, output_resolution=resolution).image


def _transferred(
    network: Transformer,
    batch: Batch,
    protocol: Protocol,
    permutation: Tensor | None,
    classifier: ResnetClassifier | None,
    device: torch.device,
) -> dict[str, Tensor]:
    a, b = batch.a.to(device), batch.b.to(device)
    points_a, points_b = batch.points_a.to(device), batch.points_b.to(device)
    heads = [_policy(classifier, x, network.num_heads) for x in (a, b)]
    how: dict[str, Any] = {"iters": protocol.iters, "padding_mode": protocol.padding_mode}
    (places_a, visible_a), (places_b, visible_b) = ((p[..., :2], p[..., 2]) for p in (points_a, points_b))
    if protocol.flips and isinstance(network, ComposedSTN):
        policies = dict(zip(("policy_a", "policy_b"), heads, strict=True))
        found = match_flows(network, a, b, places_a, places_b, permutation, **how | policies)
    else:
        order = torch.arange(points_a.shape[1], device=device).expand(len(a), -1)
        pick = torch.zeros(len(a), dtype=torch.long, device=device)
        warped = (network(x, policy=head, **how) for x, head in zip((a, b), heads, strict=True))
        found = Matched(a, b, places_a, places_b, pick, order, *warped)
    to_b = transfer_matched(found)
    to_a = transfer_matched(found, back=True) if protocol.both_ways else to_b[:, :0]
    return {
        **{"estimated_a": to_a, "estimated_b": to_b, "points_a": found.points_a, "points_b": found.points_b},
        **{"visible_a": visible_a, "visible_b": visible_b, "order": found.order, "pick": found.pick},
        **{"lengths_a": batch.lengths_a, "lengths_b": batch.lengths_b},
    }


def _policy(classifier: ResnetClassifier | None, x: Tensor, num_heads: int) -> Tensor | None:
    """Which head each picture takes, (n, K)."""
    if num_heads == 1 or classifier is None:
        return None
    return F.one_hot(classifier.assign(x, ignore_flips=True), num_heads).to(x.dtype)


def _check_network(network: Transformer, classifier: ResnetClassifier | None, protocol: Protocol) -> None:
    if protocol.flips and not isinstance(network, ComposedSTN):
        raise ValueError("pictures are mirrored by how smooth their flows are, which a similarity alone does not have")
    clusters = 1 if classifier is None else classifier.clusters
    if network.num_heads > 1 and clusters != network.num_heads:
        raise ValueError(f"a transformer of {network.num_heads} heads needs a classifier that chooses among as many")
