"""StyleGAN2's generator: mapping and synthesis, with the architectures `skip`, `resnet` and `orig`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2.layers import (
    FIR,
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    activate,
    channels_at,
    resolutions_up_to,
    works_in_half,
)
from gengauge.reference.nets.stylegan2.ops import modulated_conv2d, setup_filter, upsample2d

NoiseMode = Literal["random", "const", "none"]


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution with noise: (N, I, H, W) and w (N, w_dim) to (N, O, R, R)."""

    resample_filter: Tensor
    noise_const: Tensor
    fused = False  # see `modulated_conv2d`

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.conv_clamp = activation, conv_clamp
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, inputs, bias_init=1)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise_mode: NoiseMode = "random",
        gain: float = 1.0,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`noise` (N, 1, R, R) takes the place of random draws; the generator must be on x's device."""
        if not self.use_noise or noise_mode == "none":
            noise = None
        elif noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        else:
            if noise is None:
                shape = (len(x), 1, self.resolution, self.resolution)
                noise = torch.randn(shape, generator=generator, device=x.device)
            noise = noise * self.noise_strength
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            self.resample_filter,
            noise,
            up=self.up,
            padding=1,
            flip_weight=self.up == 1,
            fused=self.fused,
        )
        return activate(x, self.bias, self.activation, gain, self.conv_clamp)


class ToRGBLayer(nn.Module):
    """A modulated 1x1 convolution to pictures, without demodulation."""

    fused = False

    def __init__(self, inputs: int, outputs: int, w_dim: int, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, inputs, bias_init=1)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_gain = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        # A 1x1 kernel needs no filter; the argument's values are not looked at.
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, self.weight[0, 0], demodulate=False, fused=self.fused)
        return activate(x, self.bias, "linear", 1.0, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: (x, img) of the block before to (x, img)."""

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        use_noise: bool = True,
        activation: str = "lrelu",
    ) -> None:
        super().__init__()
        self.architecture, self.use_fp16 = architecture, use_fp16
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def layer(channels: int, up: int) -> SynthesisLayer:
            return SynthesisLayer(
                channels, outputs, w_dim, resolution, up, use_noise, activation, resample_filter, conv_clamp
            )

        if not inputs:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        else:
            self.conv0 = layer(inputs, 2)
        self.conv1 = layer(outputs, 1)
        self.num_conv = 2 if inputs else 1
        self.torgb = ToRGBLayer(outputs, img_channels, w_dim, conv_clamp) if is_last or architecture == "skip" else None
        self.num_torgb = int(self.torgb is not None)
        if inputs and architecture == "resnet":
            self.skip = Conv2dLayer(inputs, outputs, 1, bias=False, up=2, resample_filter=resample_filter)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        noise_mode: NoiseMode = "random",
        noise: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """ws (N, num_conv + num_torgb, w_dim); `noise` maps `conv0` and `conv1` to their draws."""
        noise = noise or {}
        w = iter(ws.unbind(1))
        dtype = torch.float16 if self.use_fp16 and ws.device.type == "cuda" else torch.float32
        x = self.const.to(dtype).expand(len(ws), -1, -1, -1) if x is None else x.to(dtype)
        if self.num_conv == 1:
            x = self.conv1(x, next(w), noise_mode, noise=noise.get("conv1"), generator=generator)
        elif self.architecture == "resnet":
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(w), noise_mode, noise=noise.get("conv0"), generator=generator)
            x = self.conv1(x, next(w), noise_mode, math.sqrt(0.5), noise.get("conv1"), generator)
            x = shortcut + x
        else:
            x = self.conv0(x, next(w), noise_mode, noise=noise.get("conv0"), generator=generator)
            x = self.conv1(x, next(w), noise_mode, noise=noise.get("conv1"), generator=generator)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.torgb is not None:
            rgb = self.torgb(x, next(w)).float()
            img = rgb if img is None else img + rgb
        assert x is not None
        return x, img


class SynthesisNetwork(nn.Module):
    """ws (N, num_ws, w_dim) to pictures (N, img_channels, R, R), about [-1, 1].

    The `num_fp16_res` highest resolutions work in half precision, on a GPU only.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.block_resolutions = resolutions_up_to(img_resolution)
        self.num_ws = 0
        inputs = 0
        for resolution in self.block_resolutions:
            outputs = channels_at(resolution, channel_base, channel_max)
            last = resolution == img_resolution
            block = SynthesisBlock(
                inputs,
                outputs,
                w_dim,
                resolution,
                img_channels,
                last,
                use_fp16=works_in_half(resolution, img_resolution, num_fp16_res),
                **block_kwargs,
            )
            self.num_ws += block.num_conv + (block.num_torgb if last else 0)
            setattr(self, f"b{resolution}", block)
            inputs = outputs

    def forward(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "random",
        noise: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`noise` maps `b4.conv1`, `b8.conv0`, ... to draws (N, 1, r, r) that replace the generator's."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be (N, {self.num_ws}, {self.w_dim}), not {tuple(ws.shape)}")
        x = img = None
        position = 0
        for resolution in self.block_resolutions:
            block: SynthesisBlock = getattr(self, f"b{resolution}")
            # A block's torgb shares its w with the next block's first convolution.
            mine = ws[:, position : position + block.num_conv + block.num_torgb]
            position += block.num_conv
            draws = {key.partition(".")[2]: n for key, n in (noise or {}).items() if key.startswith(f"b{resolution}.")}
            x, img = block(x, img, mine, noise_mode, draws, generator)
        assert img is not None
        return img


class Generator(nn.Module):
    """Latents (N, z_dim) and labels (N, c_dim) to pictures (N, img_channels, R, R), about [-1, 1]."""

    def __init__(
        self,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_resolution: int = 256,
        img_channels: int = 3,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: NoiseMode = "random",
        noise: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, noise_mode, noise, generator)
