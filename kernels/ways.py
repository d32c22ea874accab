"""The ways to compute a kernel, which of them this machine has, and the choice among them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from gengauge.kernels import native

Way = Literal["auto", "torch", "native", "triton"]
FAST_TYPES = (torch.float32, torch.bfloat16, torch.float16)  # what is computed with in float by native and triton


def available() -> dict[str, str]:
    """For each way `yes` with particulars, or `no` with the reason and the remedy."""
    return {"torch": "yes", "native": native.reason(), "triton": _triton()}


def choose(way: Way, *tensors: Tensor | None) -> Literal["torch", "native", "triton"]:
    """The way for floating tensors: the fastest that can ("auto"), or the one named.

    Raises ValueError for an unknown way and RuntimeError where the named one cannot, saying why.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if way not in get_args(Way):
        raise ValueError(f"way={way!r}: one of {', '.join(get_args(Way))}")
    if way == "torch":
        return "torch"
    wanted: Literal["native", "triton"] = (
        way if way != "auto" else "native" if given[0].device.type == "cpu" else "triton"
    )
    obstacle = _obstacle(wanted, given)
    if obstacle is None:
        return wanted
    if way == "auto":
        return "torch"
    raise RuntimeError(f"way={way!r} cannot serve: {obstacle}; way='auto' takes one that can")


def interpreted() -> bool:
    """Whether Triton interprets its kernels, on the CPU as well."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _obstacle(way: Literal["native", "triton"], tensors: list[Tensor]) -> str | None:
    first = tensors[0]
    if first.dtype not in FAST_TYPES:
        return f"it takes float32, bfloat16 and float16, not {first.dtype}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "it has no gradient; use torch.no_grad() or way='torch'"
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors):
        return "it takes plain tensors, no subclasses"
    needed = ("cpu",) if way == "native" else ("cuda", "cpu") if interpreted() else ("cuda",)
    if first.device.type not in needed:
        return f"it takes tensors on {' or '.join(needed)}, not on {first.device}"
    state = native.reason() if way == "native" else _triton()
    return None if state.startswith("yes") else state.removeprefix("no: ")


def _triton() -> str:
    if find_spec("triton") is None:
        return "no: Triton is not installed; run `pip install triton` (it comes with torch's CUDA builds)"
    if interpreted():
        return "yes, interpreted (TRITON_INTERPRET=1): for checks only"
    if not torch.cuda.is_available():
        return "no: torch finds no CUDA device; TRITON_INTERPRET=1 interprets the kernels on the CPU, for checks"
    return f"yes, on {torch.cuda.get_device_name()}"
