"""The portable weights of GAN Warping's goldens, for networks too large to store; their MANIFEST has the rule."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from goldens import folder
from torch import Tensor, nn

from gengauge.reference.nets.lpips import LPIPS, Trunk

KEYS = folder("gan_warping") / "dexined_state_dict_keys.json"
BLOCK = 2**22  # values made at once, so that a few MB are moved and not hundreds


def uniform(shape: Sequence[int], number: int, seed: int) -> Tensor:
    """Values in [0, 1) of tensor `number` (from 0) of a network: float64 of a shape, hashed from their places."""
    start = np.uint32(((number + 1) * 40503 + seed * 977) % 2**32)
    out = np.empty(math.prod(shape))
    for first in range(0, len(out), BLOCK):
        h = np.arange(first, min(first + BLOCK, len(out)), dtype=np.uint32)
        h *= np.uint32(2654435761)
        h += start
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
        out[first : first + len(h)] = h
    out /= 2.0**32
    return torch.from_numpy(out).view(*shape)


def around_zero(shape: Sequence[int], number: int, seed: int, reach: float) -> Tensor:
    return ((uniform(shape, number, seed) * 2 - 1) * reach).float()


def filled_lpips(trunk: Trunk, seed: int, heads: Mapping[str, Tensor]) -> LPIPS:
    """LPIPS with a filled trunk; `heads` are lin0 ... lin4, (1, C, 1, 1) each. In eval mode, frozen."""
    network = LPIPS(trunk)
    convolutions = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]
    for i, module in enumerate(convolutions):
        weight, bias = module.weight, module.bias
        assert bias is not None
        reach = math.sqrt(6 / weight[0].numel())
        weight.data = around_zero(weight.shape, 2 * i, seed, reach)
        bias.data = around_zero(bias.shape, 2 * i + 1, seed, 0.05)
    state = {f"{name}.model.1.weight": value for name, value in heads.items()}
    missing, unknown = network.load_state_dict(state, strict=False)
    assert not unknown
    assert not [name for name in missing if name.startswith("lin")]
    return network.eval().requires_grad_(False)


@functools.cache
def dexined_shapes() -> dict[str, list[int]]:
    """The names and shapes of DexiNed's tensors, in the published order."""
    return json.loads(KEYS.read_text())


def filled_dexined(seed: int) -> dict[str, Tensor]:
    """DexiNed's tensors by name."""
    out = {}
    for number, (name, shape) in enumerate(dexined_shapes().items()):
        if name.endswith(".weight") and len(shape) == 4:
            out[name] = around_zero(shape, number, seed, math.sqrt(3 / math.prod(shape[1:])))
        elif name.endswith(".weight"):
            out[name] = (0.8 + 0.4 * uniform(shape, number, seed)).float()
        elif name.endswith(".bias"):
            out[name] = around_zero(shape, number, seed, 0.05)
        elif name.endswith("running_mean"):
            out[name] = around_zero(shape, number, seed, 0.1)
        else:
            out[name] = (0.5 + uniform(shape, number, seed)).float()
    return out
