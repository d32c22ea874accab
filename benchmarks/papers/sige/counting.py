"""Parameters and operations of SIGE's networks, dense and sparse: exact numbers, without weights or pictures."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from gengauge.benchmarks.papers.sige.edits import Edit
from gengauge.benchmarks.papers.sige.networks import Network
from gengauge.benchmarks.papers.sige.stable_diffusion import COUNTED
from gengauge.reference.sige import policy
from gengauge.reference.sige.count import CONVOLUTION, dense_macs, parameters
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.masks import MaskRecipe, dilate
from gengauge.reference.sige.tape import record


@dataclass(frozen=True)
class Variant:
    """What a count takes another way than the network's own configuration, by a row's method.

    From which px on there are tiles, or by a policy that goes `beyond` the published ones; the levels' dilation, or
    another recipe of masks, of an edit that is `grown` by a radius before.
    """

    name: str
    threshold: int | None = None
    dilation: int | None = None
    beyond: bool = False
    recipe: MaskRecipe | None = None
    grown: int = 0


RELEASED = Variant("")


@dataclass(frozen=True)
class Count:
    """Multiply-accumulate operations by the paper's rules, all and those of convolutions.

    `products` are the multiplications that this project's engine does for the convolutions; None of a dense network.
    `edited` is the share of pixels after the first dilation.
    """

    macs: int
    convolutions: int
    parameters: int
    products: int | None = None
    edited: float = 1.0


@functools.cache
def count_dense(key: str) -> Count:
    """The network as published, in its plain form."""
    network = COUNTED[key]
    with torch.device("meta"):
        module = network.build(False).eval()
    macs = dense_macs(module, record(module, *network.example("meta")), network.swish_is_product)
    return Count(macs.total(), macs[CONVOLUTION], parameters(module))


@functools.cache
def count_sparse(key: str, edit: Edit, variant: Variant = RELEASED) -> Count:
    """The sparse pass of an edit, in the fused form, under the released policy or another."""
    network = COUNTED[key]
    engine = _engine(key, variant.threshold, variant.beyond)
    recipe = variant.recipe or network.recipe
    recipe = recipe if variant.dilation is None else replace(recipe, dilation=variant.dilation)
    masks = recipe.from_mask(dilate(edit.mask(network.shipped, *network.size), variant.grown))
    engine.set_masks(masks.levels)
    macs = engine.macs(network.swish_is_product)
    return Count(macs.total(), macs[CONVOLUTION], parameters(engine.network), engine.products(), masks.ratio)


def reduction(key: str, count: Count) -> float:
    """MACs of the paper's original of a network divided by those counted."""
    return count_dense(COUNTED[key].original or key).macs / count.macs


@functools.cache
def _engine(key: str, threshold: int | None, beyond: bool) -> Engine:
    network = COUNTED[key]
    chosen = network.policy if threshold is None else network.policy_from(threshold)
    if beyond:
        chosen = replace(policy.beyond_published(), doublings=network.policy.doublings)
    engine = Engine(_empty(network), chosen)
    engine.prepare(*network.example())
    return engine


def _empty(network: Network) -> torch.nn.Module:
    """The fused network with memory that nobody touches: which way a convolution takes depends on its device."""
    with torch.device("meta"):
        module = network.build(True).eval()
    return module.to_empty(device="cpu")
