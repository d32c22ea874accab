"""AdamW whose moments take a byte a number: that of bitsandbytes, where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CODES, SCALES = ("state1", "state2"), "qmap1"


def eight_bit_adam(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW8bit over the groups of an AdamW that has not begun, with its settings.

    Its states can go through `checkpoint`. Raises ValueError where bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ValueError(
            f"8-bit Adam needs bitsandbytes, which cannot be imported ({error}): pip install bitsandbytes, or train "
            "without it"
        ) from None

    class Resumable(AdamW8bit):  # type: ignore[misc, unused-ignore]
        def state_dict(self) -> dict[str, Any]:
            found = super().state_dict()
            return {**found, "state": {index: _flat(state) for index, state in found["state"].items()}}

        def load_state_dict(self, state_dict: dict[str, Any], *more: Any) -> None:
            # `checkpoint` hands moments back in their parameter's type and counts as tensors.
            for state in state_dict["state"].values():
                state["step"] = int(state["step"])
                if SCALES in state:  # small parameters keep float32
                    state |= {name: state[name].to(torch.uint8) for name in CODES}
            super().load_state_dict(state_dict, *more)

    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in optimiser.param_groups]
    first = optimiser.param_groups[0]
    return Resumable(groups, lr=first["lr"], betas=first["betas"], eps=first["eps"])


def _flat(state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state without the level that bitsandbytes puts around bytes, each tensor with memory of its own."""
    out: dict[str, Any] = {}
    for name, value in state.items():
        out |= (
            _flat(value) if isinstance(value, dict) else {name: value.clone() if isinstance(value, Tensor) else value}
        )
    return out
