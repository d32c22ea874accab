"""The exponential moving average of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(ema: nn.Module, source: nn.Module, decay: float, buffers: bool = True) -> None:
    """Moves every parameter of `ema` to decay * ema + (1 - decay) * source.

    Buffers move likewise (the BigGAN code) or, with `buffers` False, are copied (the StyleGAN2 codes); those that are
    no floating-point numbers are always copied. Decay 0 copies exactly.
    """
    mean: list[Tensor] = list(ema.parameters())
    now: list[Tensor] = [source.get_parameter(name).detach() for name, _ in ema.named_parameters()]
    for name, value in ema.named_buffers():
        if buffers and value.is_floating_point():
            mean.append(value)
            now.append(source.get_buffer(name))
        else:
            value.copy_(source.get_buffer(name))
    if decay == 0:
        torch._foreach_copy_(mean, now)
    else:
        torch._foreach_lerp_(mean, now, 1 - decay)
