"""StyleGAN2's layers with equalised learning rates: linear, convolution, mapping network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2.ops import (
    ACTIVATIONS,
    bias_act,
    conv2d_resample,
    normalise_2nd_moment,
    setup_filter,
)

FIR = (1, 3, 3, 1)


class FullyConnectedLayer(nn.Module):
    """(N, inputs) to (N, outputs): weights are stored as N(0, 1) / lr_multiplier and scaled when they are used."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation, self.lr_multiplier = activation, lr_multiplier
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias_init)))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) * (self.lr_multiplier / math.sqrt(self.weight.shape[1]))
        bias = self.bias if self.lr_multiplier == 1 else self.bias * self.lr_multiplier
        return bias_act(x @ weight.T, bias, self.activation)


class Conv2dLayer(nn.Module):
    """A convolution with runtime weight scale, resampling and activation (N, I, H, W) to (N, O, H', W')."""

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_gain = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        x = conv2d_resample(
            x,
            (self.weight * self.weight_gain).to(x.dtype),
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.weight.shape[-1] // 2,
            flip_weight=self.up == 1,
        )
        return activate(x, self.bias, self.activation, gain, self.conv_clamp)


class MappingNetwork(nn.Module):
    """Latents (N, z_dim) and labels (N, c_dim) to ws (N, num_ws, w_dim), or (N, w_dim) where num_ws is None.

    Without latents (z_dim 0) it embeds labels only, as the conditional discriminator does. In training the running mean
    `w_avg` follows the ws by w_avg_beta, None for no mean.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        embedded = (embed_features or w_dim) if c_dim else 0
        hidden = layer_features or w_dim
        features = [z_dim + embedded, *[hidden] * (num_layers - 1), w_dim]
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embedded)
        for i in range(num_layers):
            layer = FullyConnectedLayer(features[i], features[i + 1], activation, lr_multiplier)
            setattr(self, f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
    ) -> Tensor:
        """Truncation pulls the first `truncation_cutoff` ws (all by default) to their mean by 1 - psi."""
        inputs = []
        if self.z_dim:
            inputs.append(normalise_2nd_moment(_checked("z", z, self.z_dim)))
        if self.c_dim:
            inputs.append(normalise_2nd_moment(self.embed(_checked("c", c, self.c_dim))))
        x = torch.cat(inputs, 1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if self.w_avg_beta is not None and self.training and not skip_w_avg_update:
            self.w_avg.copy_(x.detach().mean(0).lerp(self.w_avg, self.w_avg_beta))
        ws = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws = torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], 1)
        return ws


def activate(x: Tensor, bias: Tensor | None, activation: str, gain: float, clamp: float | None) -> Tensor:
    """`bias_act` of a convolution's output, with a gain on top of the activation's own that scales the clamp as well.

    x, which nobody else has, is overwritten.
    """
    if bias is not None:
        x = x.add_(bias.to(x.dtype)[:, None, None])
    return bias_act(x, None, activation, ACTIVATIONS[activation][1] * gain, None if clamp is None else clamp * gain)


def _checked(name: str, x: Tensor | None, dimensions: int) -> Tensor:
    if x is None or x.ndim != 2 or x.shape[1] != dimensions:
        raise ValueError(f"{name} must be (N, {dimensions}), not {None if x is None else tuple(x.shape)}")
    return x.float()


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Channels of the blocks at a resolution. Raises ValueError where there would be none."""
    channels = min(channel_base // resolution, channel_max)
    if channels < 1:
        raise ValueError(
            f"channel_base {channel_base} leaves no channels at {resolution} px; give at least {resolution}"
        )
    return channels


def resolutions_up_to(img_resolution: int) -> list[int]:
    """4, 8, ..., img_resolution. Raises ValueError for anything but a power of two of at least 4."""
    exponent = int(math.log2(img_resolution)) if img_resolution > 0 else 0
    if img_resolution < 4 or img_resolution != 2**exponent:
        raise ValueError(f"StyleGAN2 makes pictures of 4, 8, 16, ... px, not {img_resolution}")
    return [2**i for i in range(2, exponent + 1)]


def works_in_half(resolution: int, img_resolution: int, num_fp16_res: int) -> bool:
    """Whether a resolution is among the highest ones that work in half precision; 4 px never is."""
    return num_fp16_res > 0 and resolution >= max(2 * img_resolution // 2**num_fp16_res, 8)
