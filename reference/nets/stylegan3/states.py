"""StyleGAN3's generator from stored tensors: with the arguments stored beside them, or from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gengauge.reference.nets.stylegan3.filters import bands
from gengauge.reference.nets.stylegan3.generator import Generator

_LAYER = re.compile(r"synthesis\.(L(\d{1,4})_(\d{1,6})_(\d{1,6}))\.weight")
_OWN = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
_TOLD = ("num_layers", "conv_kernel")  # arguments of synthesis that the tensors tell as well, with their defaults
_DEFAULTS = {"num_layers": 14, "conv_kernel": 3}
_FIRST_RATE = 16  # twice the first stopband, 2^2.1, rounded up to a power of two


def generator_from(arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Generator:
    """A generator of a published network file: the class's arguments and its state dict, loaded strictly.

    The published class takes the arguments of synthesis among its own; both that and `synthesis_kwargs` are read. In
    evaluation mode; nothing is allocated before arguments and tensors agree.
    Raises ValueError, naming the difference, where they do not or where they are those of another network.
    """
    told = settings_of(tensors)
    for name in _OWN[5:]:
        if not isinstance(arguments.get(name, {}), Mapping):
            raise ValueError(f"{name} are named values, not {arguments[name]!r}")
    nested = {name: arguments[name] for name in _OWN if name in arguments}
    beside = {name: value for name, value in arguments.items() if name not in _OWN}
    nested["synthesis_kwargs"] = {**nested.get("synthesis_kwargs", {}), **beside}
    for name in _OWN[:5]:
        _agree(name, nested.get(name, told[name]), told[name])
    mapping, synthesis = nested.get("mapping_kwargs", {}), nested["synthesis_kwargs"]
    _agree("mapping's num_layers", mapping.get("num_layers", 2), told["mapping_kwargs"]["num_layers"])
    for name in _TOLD:
        _agree(name, synthesis.get(name, _DEFAULTS[name]), told["synthesis_kwargs"][name])
    try:
        with torch.device("meta"):
            network = Generator(**{**{name: told[name] for name in _OWN[:5]}, **nested})
    except (TypeError, OverflowError) as error:
        raise ValueError(f"the arguments are no StyleGAN3 generator's ({error})") from None
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"arguments and tensors differ: {str(error).splitlines()[1].strip()}") from None
    return network.eval()


def _agree(name: str, given: Any, told: Any) -> None:
    if given != told:
        raise ValueError(f"{name} is {given!r} by the arguments and {told!r} by the tensors")


def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `Generator` for a state dict, read from its names and shapes.

    What neither tells has its usual value: clamp, output scale, critical layers of configuration T, and the bands,
    whose filters are in the state dict themselves.
    Raises ValueError for a state dict of another network.
    """
    layers = [match for name in state if (match := _LAYER.fullmatch(name))]
    layers.sort(key=lambda match: int(match[2]))
    try:
        return _settings(state, layers)
    except (LookupError, AttributeError):
        raise ValueError(
            f"the {len(state)} tensors are no StyleGAN3 generator's: synthesis.input, synthesis.L0_36_... to the "
            "last layer, and mapping.fc0"
        ) from None


def _settings(state: Mapping[str, Tensor], layers: list[re.Match[str]]) -> dict[str, Any]:
    sizes, channels = ([int(match[group]) for match in layers] for group in (3, 4))
    first = f"synthesis.{layers[0][1]}"
    # Of radial filters, those of the critical layers alone are separable.
    separable = [f.ndim == 1 for match in layers if (f := state.get(f"synthesis.{match[1]}.down_filter")) is not None]
    radial = not all(separable)
    synthesis: dict[str, Any] = {
        "num_layers": len(layers) - 1,
        "num_critical": sum(separable) if radial else 2,
        "channel_max": max(channels[:-1]),
        "margin_size": (sizes[0] - _FIRST_RATE) // 2,
        "conv_kernel": state[f"{first}.weight"].shape[2],
        "use_radial_filters": radial,
    }
    synthesis["channel_base"] = _channel_base(channels, sizes[-1], synthesis)
    embedded = state.get("mapping.embed.weight")
    return {
        "z_dim": state["mapping.fc0.weight"].shape[1] - (0 if embedded is None else embedded.shape[0]),
        "c_dim": 0 if embedded is None else embedded.shape[1],
        "w_dim": state["synthesis.input.affine.weight"].shape[1],
        "img_resolution": sizes[-1],
        "img_channels": channels[-1],
        "mapping_kwargs": {"num_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in state)},
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
