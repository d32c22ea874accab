"""Networks that were built without memory, on the meta device, filled from weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def filled(empty: Network, state: Mapping[str, Tensor]) -> Network:
    """Nothing is drawn: a network that is loaded moves no generator of random numbers."""
    network = empty.to_empty(device="cpu")
    network.load_state_dict(dict(state))
    return network.eval().requires_grad_(False)
