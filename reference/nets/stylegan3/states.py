"""From a state dict of StyleGAN3's generator to the arguments that make a generator of its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gengauge.reference.nets.stylegan3.filters import bands

_LAYER = re.compile(r"synthesis\.(L(\d+)_(\d+)_(\d+))\.weight")


def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `Generator` for a state dict, read from its names and shapes.

    What neither tells has its usual value: clamp, output scale, critical layers of configuration T, and the bands,
    whose filters are in the state dict themselves.
    Raises ValueError for a state dict of another network.
    """
    found = sorted((int(match[2]), match) for name in state if (match := _LAYER.fullmatch(name)))
    if not found or "synthesis.input.freqs" not in state or "mapping.fc0.weight" not in state:
        raise ValueError("the tensors are no StyleGAN3 generator's: synthesis.input, synthesis.L0_... and mapping.fc0")
    names = [match[1] for _, match in found]
    sizes, channels = ([int(match[group]) for _, match in found] for group in (3, 4))
    num_layers = len(names) - 1
    first = f"synthesis.{names[0]}"
    separable = [f"synthesis.{name}.down_filter" for name in names[:-1]]
    # Radial filters tell the critical layers, whose filters are separable.
    flat = [state[name].ndim == 1 for name in separable if name in state]
    radial = not all(flat)
    w_dim = state[f"{first}.affine.weight"].shape[1]
    embedded = state.get("mapping.embed.weight")
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state)
    synthesis: dict[str, Any] = {
        "num_layers": num_layers,
        "num_critical": sum(flat) if radial else 2,
        "channel_max": max(channels[:-1]),
        "conv_kernel": state[f"{first}.weight"].shape[2],
        "use_radial_filters": radial,
    }
    rate = 16  # of the first layer, which is twice its stopband of 2^2.1, rounded up
    synthesis["margin_size"] = (sizes[0] - rate) // 2
    resolution = sizes[-1]
    synthesis["channel_base"] = _channel_base(channels, resolution, synthesis)
    return {
        "z_dim": state["mapping.fc0.weight"].shape[1] - (0 if embedded is None else embedded.shape[0]),
        "c_dim": 0 if embedded is None else embedded.shape[1],
        "w_dim": w_dim,
        "img_resolution": resolution,
        "img_channels": channels[-1],
        "mapping_kwargs": {"num_layers": layers},
        "synthesis_kwargs": synthesis,
    }


def _channel_base(channels: list[int], resolution: int, synthesis: Mapping[str, Any]) -> float:
    """One that gives these channels: the layers below the maximum each bound it from both sides."""
    given = {name: synthesis[name] for name in ("num_layers", "num_critical")}
    cutoffs = [band.cutoff for band in bands(resolution, channels[-1], channel_base=2**40, channel_max=1, **given)]
    widest = synthesis["channel_max"]
    low = max(2 * cutoff * (count - 0.5) for cutoff, count in zip(cutoffs[:-1], channels[:-1], strict=True))
    below = [2 * cutoff * (n + 0.5) for cutoff, n in zip(cutoffs[:-1], channels[:-1], strict=True) if n < widest]
    high = min(below, default=2 * low)
    if low > high:
        raise ValueError(f"no channel_base gives layers of {channels} channels at {resolution} px")
    # The published bases are powers of two, which are preferred where one fits.
    power = 2.0 ** round((low * high) ** 0.5).bit_length()
    return next((base for base in (power, power / 2) if low <= base <= high), (low + high) / 2)
