"""What a dense network and the sparse engine make of the edits of a published set, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gengauge.datasets.edits import CHURCHES_WITH_TRUTH, CITYSCAPES_CLASSES, ChurchEdits, CityscapesEdits
from gengauge.datasets.sets import DataNotFound
from gengauge.reference.nets.spade import one_hot_with_edges
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.masks import MaskRecipe
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.samplers import (
    Edit,
    Network,
    diffuse,
    diffuse_distilled,
    linear_betas,
    paired,
    sample_ddim,
    sample_distilled,
    uniform_times,
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Results:
    """Results of one edit, uint8 (H, W, 3): `dense`, `sparse`, and the photograph `truth` where there is one.

    `labels` are the edited map's label ids (H, W) where the network translates label maps.
    """

    name: str
    dense: Array
    sparse: Array
    truth: Array | None
    labels: Array | None = None


def edit_label_maps(
    network: nn.Module,
    policy: Policy,
    recipe: MaskRecipe,
    edits: CityscapesEdits,
    device: str,
    chosen: Sequence[int] | None = None,
) -> Iterator[Results]:
    """GauGAN on pairs of label maps: the network on the edited map, and the engine with the original's cache.

    Results of a real map have a photograph to compare with; those of a synthetic one have none. All pairs are edited,
    or those that are `chosen` by number.
    """
    engine = Engine(network.to(device), policy)
    for index in range(len(edits)) if chosen is None else chosen:
        pair = edits.pair(index)
        original, edited = (
            one_hot_with_edges(label[None], instance[None], CITYSCAPES_CLASSES).to(device)
            for label, instance in (
                (pair.original_label, pair.original_instance),
                (pair.edited_label, pair.edited_instance),
            )
        )
        with torch.no_grad():
            dense = network(edited)
        sparse = engine.full(original)
        if not torch.equal(original, edited):
            engine.set_masks(recipe.from_pair(original, edited).levels)
            sparse = engine.sparse(edited)
        truth = _truth(edits, index) if pair.name.endswith("_gt") else None
        yield Results(pair.name, grey_levels(dense), grey_levels(sparse), truth, pair.edited_label.numpy())


@dataclass(frozen=True)
class Sampling:
    """How a church is edited: the sampler, its noise level and steps (for `pd`, steps of `total`)."""

    sampler: str = "ddim"
    noise_level: int = 500
    steps: int = 50
    total: int = 8


DDIM = Sampling()
DISTILLED = Sampling("pd", steps=5)


def edit_churches(
    network: nn.Module,
    policy: Policy,
    recipe: MaskRecipe,
    edits: ChurchEdits,
    device: str,
    sampling: Sampling = DDIM,
    tell: Callable[[int, int], None] = lambda image, step: None,
    chosen: Sequence[int] | None = None,
) -> Iterator[Results]:
    """SDEdit of churches: the dense network on the edited picture, and the engine on the pair.

    At every step the engine runs on the noised original, which fills its cache, and then on the edit, as in the
    released code. Both start from the same noise, of seed 0 for every picture. All are edited, or those `chosen` by
    number; `tell` hears how many were, and of the step in the next.
    """
    engine = Engine(network.to(device), policy)

    def dense_network(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t)

    for done, index in enumerate(range(len(edits)) if chosen is None else chosen):
        pair = edits.pair(index)
        original, edited = (picture[None].to(device) for picture in (pair.original, pair.edited))
        masks = recipe.from_pair(original, edited)
        told = [0]

        def full(x: Tensor, t: Tensor, done: int = done, told: list[int] = told) -> Tensor:
            told[0] += 1
            tell(done, told[0])
            return engine.full(x, t)

        def sparse(x: Tensor, t: Tensor, levels: dict[tuple[int, int], Tensor] = masks.levels) -> Tensor:
            if engine.marks is None:  # a new shape, or the first run: sizes are known after the full pass
                engine.set_masks(levels)
            return engine.sparse(x)

        engine.marks = None
        noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0)).to(device)
        edit = Edit(original, noise, masks.dilated)
        both = paired(full, sparse)
        dense_result = _sample(dense_network, edited, noise, edit, sampling)
        sparse_result = _sample(both, torch.cat([original, edited]), noise, edit, sampling)[-1:]
        truth = _truth(edits, index) if index < CHURCHES_WITH_TRUTH else None
        yield Results(pair.name, grey_levels(dense_result), grey_levels(sparse_result), truth)


def grey_levels(picture: Tensor) -> Array:
    """A picture (1, 3, H, W) in [-1, 1] as (H, W, 3) uint8, rounded."""
    grey = ((picture[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return grey.permute(1, 2, 0).cpu().numpy()


def _sample(network: Network, x0: Tensor, noise: Tensor, edit: Edit, sampling: Sampling) -> Tensor:
    noise = noise.expand_as(x0)
    generator = torch.Generator().manual_seed(0)
    if sampling.sampler == "pd":
        times = list(range(sampling.steps))
        start = diffuse_distilled(x0, times[-1], noise, sampling.total)
        return sample_distilled(network, start, times, sampling.total, edit)
    betas, times = linear_betas(), uniform_times(sampling.noise_level, sampling.steps)
    return sample_ddim(network, diffuse(x0, times[-1], noise, betas), times, betas, edit, generator=generator)


def _truth(edits: ChurchEdits | CityscapesEdits, index: int) -> Array | None:
    try:
        return edits.truth(index)
    except DataNotFound:  # fewer photographs than edits are no fault of the results
        return None
