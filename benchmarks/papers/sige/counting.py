"""Parameters and operations of SIGE's networks, dense and sparse: exact numbers, without weights or pictures."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from gengauge.benchmarks.papers.sige.edits import Edit
from gengauge.benchmarks.papers.sige.networks import NETWORKS, Network
from gengauge.reference.sige.count import CONVOLUTION, dense_macs, parameters
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.tape import record


@dataclass(frozen=True)
class Variant:
    """What a count takes another way than the released configuration: from which px on, or the levels' dilation."""

    name: str
    threshold: int | None = None
    dilation: int | None = None


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
    network = NETWORKS[key]
    with torch.device("meta"):
        module = network.build(False).eval()
    macs = dense_macs(module, record(module, torch.empty(1, *network.shape), *network.times()))
    return Count(macs.total(), macs[CONVOLUTION], parameters(module))


@functools.cache
def count_sparse(key: str, edit: Edit, variant: Variant = RELEASED) -> Count:
    """The sparse pass of an edit, in the fused form, under the released policy or another."""
    network = NETWORKS[key]
    engine = _engine(key, variant)
    recipe = network.recipe if variant.dilation is None else replace(network.recipe, dilation=variant.dilation)
    masks = recipe.from_mask(edit.mask(network.shipped, *network.size))
    engine.set_masks(masks.levels)
    macs = engine.macs()
    return Count(macs.total(), macs[CONVOLUTION], parameters(engine.network), engine.products(), masks.ratio)


def reduction(key: str, count: Count) -> float:
    """MACs of the paper's original of a network divided by those counted."""
    return count_dense(NETWORKS[key].original or key).macs / count.macs


@functools.cache
def _engine(key: str, variant: Variant) -> Engine:
    network = NETWORKS[key]
    policy = network.policy if variant.threshold is None else network.policy_from(variant.threshold)
    engine = Engine(_empty(network), policy)
    engine.prepare(torch.empty(1, *network.shape), *network.times())
    return engine


def _empty(network: Network) -> torch.nn.Module:
    """The fused network with memory that nobody touches: which way a convolution takes depends on its device."""
    with torch.device("meta"):
        module = network.build(True).eval()
    return module.to_empty(device="cpu")
