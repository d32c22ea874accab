"""Normalisation as an affine map per channel: from a map's moments to scale and shift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.reference.sige.tape import Call, Ref


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and (biased) variance of each channel of each picture, (N, C) float64, over its pixels."""

    mean: Tensor
    variance: Tensor

    def part(self, start: int, channels: int) -> ChannelMoments:
        """Those of some channels."""
        return ChannelMoments(self.mean[:, start : start + channels], self.variance[:, start : start + channels])

    def after(self, scale: Tensor, shift: Tensor) -> ChannelMoments:
        """Those of scale * x + shift, both (1 or N, C)."""
        return ChannelMoments(self.mean * scale + shift, self.variance * scale**2)

    @staticmethod
    def joined(parts: Sequence[ChannelMoments]) -> ChannelMoments:
        """Those of maps side by side."""
        return ChannelMoments(torch.cat([p.mean for p in parts], 1), torch.cat([p.variance for p in parts], 1))


def norm_affine(call: Call, value: Callable[[int], Tensor], moments: ChannelMoments) -> tuple[Tensor, Tensor]:
    """Scale and shift (1 or N, C) float64 that a norm's call is on a map of these moments.

    `value` gives the tensors of the call: weights and running statistics. Batch normalisation is that of evaluation.
    """
    if call.op == "group_norm":
        groups = call.argument(1, "num_groups")
        weight, bias, eps = call.argument(2, "weight"), call.argument(3, "bias"), call.argument(4, "eps", 1e-5)
        mean, variance = (_by_group(side, groups) for side in (moments.mean, moments.variance + moments.mean**2))
        variance = variance - mean**2
    elif call.op == "batch_norm" or not uses_input_statistics(call):
        mean, variance = (value(call.argument(i, name).index).double()[None] for i, name in _RUNNING)
        weight, bias, eps = call.argument(3, "weight"), call.argument(4, "bias"), call.argument(7, "eps", 1e-5)
    else:
        mean, variance = moments.mean, moments.variance
        weight, bias, eps = call.argument(3, "weight"), call.argument(4, "bias"), call.argument(7, "eps", 1e-5)
    scale = (variance + eps).rsqrt()
    if isinstance(weight, Ref):
        scale = scale * value(weight.index).double()
    shift = -mean * scale
    if isinstance(bias, Ref):
        shift = shift + value(bias.index).double()
    return scale, shift


def uses_input_statistics(call: Call) -> bool:
    """Whether a call is an instance normalisation by its input's own statistics."""
    return call.op == "instance_norm" and bool(call.argument(5, "use_input_stats", True))


_RUNNING = ((1, "running_mean"), (2, "running_var"))


def _by_group(side: Tensor, groups: int) -> Tensor:
    """Means over groups of channels, at every channel."""
    grouped = side.unflatten(1, (groups, -1)).mean(2, keepdim=True)
    return grouped.expand(-1, -1, side.shape[1] // groups).flatten(1)
