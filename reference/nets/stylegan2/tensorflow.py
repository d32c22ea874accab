"""From the networks of NVIDIA's TensorFlow StyleGAN2 to this project's: arguments and names of variables.

The TensorFlow code stores kernels as HWIO, flips those of `Conv0_up` and `Skip`, and adds 1 to modulation biases when
they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Variables = Mapping[str, Tensor]


def generator_arguments(static: Mapping[str, Any], variables: Variables) -> dict[str, Any]:
    """Arguments of `Generator` for a TensorFlow network's static keyword arguments.

    The width is read from the variables' shapes, which hold also where `fmap_base` is not named.
    """
    resolution = static.get("resolution", 1024)
    widest = static.get("fmap_max", 512)
    return {
        "z_dim": static.get("latent_size", 512),
        "c_dim": static.get("label_size", 0),
        "w_dim": static.get("dlatent_size", 512),
        "img_resolution": resolution,
        "img_channels": static.get("num_channels", 3),
        "mapping_kwargs": {
            "num_layers": static.get("mapping_layers", 8),
            "embed_features": static.get("label_fmaps"),
            "layer_features": static.get("mapping_fmaps"),
            "activation": static.get("mapping_nonlinearity", "lrelu"),
            "lr_multiplier": static.get("mapping_lrmul", 0.01),
            "w_avg_beta": 1.0 if static.get("w_avg_beta", 0.995) is None else static.get("w_avg_beta", 0.995),
        },
        "synthesis_kwargs": {
            "channel_base": _channel_base(static, variables, "synthesis/{r}x{r}/Conv1/bias", resolution),
            "channel_max": widest,
            "num_fp16_res": static.get("num_fp16_res", 0),
            "conv_clamp": static.get("conv_clamp"),
            "architecture": static.get("architecture", "skip"),
            "resample_filter": list(static.get("resample_kernel") or [1, 3, 3, 1]),
            "use_noise": static.get("use_noise", True),
            "activation": static.get("nonlinearity", "lrelu"),
        },
    }


def discriminator_arguments(
    static: Mapping[str, Any], variables: Variables, trained_group: bool = True
) -> dict[str, Any]:
    """Arguments of `Discriminator`. The TensorFlow networks were trained with groups of 4 in the minibatch deviation;
    with `trained_group` False a group that is not named becomes the whole batch, as in NVIDIA's converter."""
    resolution = static.get("resolution", 1024)
    mapped = static.get("mapping_fmaps")
    return {
        "c_dim": static.get("label_size", 0),
        "img_resolution": resolution,
        "img_channels": static.get("num_channels", 3),
        "architecture": static.get("architecture", "resnet"),
        "channel_base": _channel_base(static, variables, "{r}x{r}/Conv0/bias", resolution),
        "channel_max": static.get("fmap_max", 512),
        "num_fp16_res": static.get("num_fp16_res", 0),
        "conv_clamp": static.get("conv_clamp"),
        "cmap_dim": mapped,
        "block_kwargs": {
            "activation": static.get("nonlinearity", "lrelu"),
            "resample_filter": list(static.get("resample_kernel") or [1, 3, 3, 1]),
            "freeze_layers": static.get("freeze_layers", 0),
        },
        "mapping_kwargs": {
            "num_layers": static.get("mapping_layers", 0),
            "embed_features": mapped,
            "layer_features": mapped,
            "activation": static.get("nonlinearity", "lrelu"),
            "lr_multiplier": static.get("mapping_lrmul", 0.1),
        },
        "epilogue_kwargs": {
            "mbstd_group_size": static.get("mbstd_group_size", 4 if trained_group else None),
            "mbstd_num_channels": static.get("mbstd_num_features", 1),
            "activation": static.get("nonlinearity", "lrelu"),
        },
    }


def generator_state(variables: Variables) -> dict[str, Tensor]:
    """The state dict of `Generator`, without the constant filters, from TensorFlow's variables.

    Names carry the prefixes `mapping/` and `synthesis/`. Raises ValueError for a variable that it does not know.
    """
    return _converted(variables, _GENERATOR, ("lod",))


def discriminator_state(variables: Variables) -> dict[str, Tensor]:
    """The state dict of `Discriminator`, without the constant filters, from TensorFlow's variables."""
    return _converted(variables, _DISCRIMINATOR, ("lod",))


def _channel_base(static: Mapping[str, Any], variables: Variables, pattern: str, resolution: int) -> int:
    if "fmap_base" in static:
        return int(static["fmap_base"]) * 2
    bias = variables.get(pattern.format(r=resolution))
    if bias is None:
        return 16384 * 2
    return len(bias) * resolution


def _same(x: Tensor) -> Tensor:
    return x


def _dense(x: Tensor) -> Tensor:
    return x.T


def _kernel(x: Tensor) -> Tensor:
    return x.permute(3, 2, 0, 1)


def _flipped(x: Tensor) -> Tensor:
    return x.flip(0, 1).permute(3, 2, 0, 1)


Rule = tuple[str, str | Callable[[re.Match[str]], str], Callable[[Tensor], Tensor]]


def _convolution(source: str, target: str, kernel: Callable[[Tensor], Tensor]) -> list[Rule]:
    return [
        (rf"{source}/weight", rf"{target}.weight", kernel),
        (rf"{source}/bias", rf"{target}.bias", _same),
        (rf"{source}/noise_strength", rf"{target}.noise_strength", _same),
        (rf"{source}/mod_weight", rf"{target}.affine.weight", _dense),
        (rf"{source}/mod_bias", rf"{target}.affine.bias", lambda x: x + 1),
    ]


def _noise(match: re.Match[str]) -> str:
    """noise0 is of 4x4; from then on two a resolution, for conv0 and conv1."""
    index = int(match[1])
    resolution = 2 ** ((index + 1) // 2 + 2)
    return f"synthesis.b{resolution}.conv{1 if index == 0 or index % 2 == 0 else 0}.noise_const"


_SIZE = r"(\d+)x\1"
_GENERATOR: list[Rule] = [
    (r"dlatent_avg", r"mapping.w_avg", _same),
    (r"mapping/LabelEmbed/weight", r"mapping.embed.weight", _dense),
    (r"mapping/LabelEmbed/bias", r"mapping.embed.bias", _same),
    (r"mapping/Dense(\d+)/weight", r"mapping.fc\1.weight", _dense),
    (r"mapping/Dense(\d+)/bias", r"mapping.fc\1.bias", _same),
    (r"synthesis/4x4/Const/const", r"synthesis.b4.const", lambda x: x[0]),
    (r"synthesis/noise(\d+)", _noise, lambda x: x[0, 0]),
    *_convolution(r"synthesis/4x4/Conv", r"synthesis.b4.conv1", _kernel),
    *_convolution(rf"synthesis/{_SIZE}/Conv0_up", r"synthesis.b\1.conv0", _flipped),
    *_convolution(rf"synthesis/{_SIZE}/Conv1", r"synthesis.b\1.conv1", _kernel),
    *_convolution(rf"synthesis/{_SIZE}/ToRGB", r"synthesis.b\1.torgb", _kernel),
    (rf"synthesis/{_SIZE}/Skip/weight", r"synthesis.b\1.skip.weight", _flipped),
]
_DISCRIMINATOR: list[Rule] = [
    (r"LabelEmbed/weight", r"mapping.embed.weight", _dense),
    (r"LabelEmbed/bias", r"mapping.embed.bias", _same),
    (r"Mapping(\d+)/weight", r"mapping.fc\1.weight", _dense),
    (r"Mapping(\d+)/bias", r"mapping.fc\1.bias", _same),
    *_convolution(r"4x4/Conv", r"b4.conv", _kernel),
    (r"4x4/Dense0/weight", r"b4.fc.weight", _dense),
    (r"4x4/Dense0/bias", r"b4.fc.bias", _same),
    (r"Output/weight", r"b4.out.weight", _dense),
    (r"Output/bias", r"b4.out.bias", _same),
    *_convolution(rf"{_SIZE}/FromRGB", r"b\1.fromrgb", _kernel),
    *_convolution(rf"{_SIZE}/Conv0", r"b\1.conv0", _kernel),
    *_convolution(rf"{_SIZE}/Conv1_down", r"b\1.conv1", _kernel),
    (rf"{_SIZE}/Skip/weight", r"b\1.skip.weight", _kernel),
]


def _converted(variables: Variables, rules: list[Rule], ignored: tuple[str, ...]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, value in variables.items():
        if name in ignored:
            continue
        for pattern, target, change in rules:
            match = re.fullmatch(pattern, name)
            if match:
                out[target(match) if callable(target) else match.expand(target)] = change(value).contiguous()
                break
        else:
            raise ValueError(f"the TensorFlow variable {name} belongs to no StyleGAN2 network that is known here")
    return out
