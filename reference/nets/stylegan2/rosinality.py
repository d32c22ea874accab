"""StyleGAN2's generator under the parameter names of rosinality's port, in which GANgealing's checkpoints come.

Same operations and linear layers as `generator`, another way to hold them: weights (1, O, I, k, k), noise in buffers, a
list of styles that are mixed. Source: Karras et al., CVPR 2020; GANgealing (Peebles et al., CVPR 2022), appendix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2 import generator as nvidia
from gengauge.reference.nets.stylegan2.layers import FullyConnectedLayer, resolutions_up_to, works_in_half
from gengauge.reference.nets.stylegan2.ops import conv2d_resample, modulated_conv2d, normalise_2nd_moment, upsample2d
from gengauge.reference.nets.stylegan2.translation import Activation, Blur, Conv, NoiseInjection

WIDEST = 512  # channels of the low resolutions in networks of full size


def channels_of(resolution: int, channel_multiplier: float = 2, base_channels: int = WIDEST) -> int:
    """Channels at a resolution: `base_channels` up to 32 px, then a multiple that halves with each doubling.

    Raises ValueError where none would be left.
    """
    share = 1.0 if resolution <= 32 else 32 * channel_multiplier / resolution
    channels = int(base_channels * share)
    if channels < 1:
        raise ValueError(f"{base_channels} base channels times {channel_multiplier} leave none at {resolution} px")
    return channels


class EqualConv2d(Conv):
    """A convolution (N, I, H, W) to (N, O, H', W') with runtime weight scale, with a bias (O,)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, bias)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class ModulatedConv2d(nn.Module):
    """A convolution whose kernel each picture's style scales: (N, I, H, W) and w (N, style_dim) to (N, O, H', W').

    `resample` doubles or halves the sides. `normalize` keeps half precision from overflowing: styles are divided by the
    largest of the whole batch, kernels by their own largest; demodulation takes both out again, up to its epsilon.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        demodulate: bool = True,
        resample: Literal["up", "down"] | None = None,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.resample, self.demodulate, self.normalize = resample, demodulate, normalize
        if resample:
            self.blur = Blur(gain=4.0 if resample == "up" else 1.0)  # the published buffer holds the gain of doubling
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = FullyConnectedLayer(style_dim, inputs, bias_init=1)
        self.gain = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight, styles = self.weight[0] * self.gain, self.modulation(w)
        if self.normalize:
            weight = weight / self.weight[0].abs().amax((1, 2, 3), keepdim=True)
            styles = styles / styles.abs().max()
        up, down = (2 if self.resample == "up" else 1), (2 if self.resample == "down" else 1)
        f = self.blur.kernel / up**2 if self.resample else weight[0, 0]  # not looked at where nothing is resampled
        padding = weight.shape[-1] // 2
        if down > 1:
            return self._halved(x, weight, styles, f)
        return modulated_conv2d(
            x, weight, styles, f, up=up, padding=padding, demodulate=self.demodulate, flip_weight=up == 1
        )

    def _halved(self, x: Tensor, weight: Tensor, styles: Tensor, f: Tensor) -> Tensor:
        x = conv2d_resample(x * styles[:, :, None, None], weight, f, down=2, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return x
        scale = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
        return x * scale[:, :, None, None]


class StyledConv(nn.Module):
    """A modulated 3x3 convolution, noise (N, 1, H', W') and activation, with `up` to twice the sides."""

    def __init__(
        self, inputs: int, outputs: int, style_dim: int, up: bool = False, normalize: bool = False, half: bool = False
    ) -> None:
        super().__init__()
        self.half_precision = half
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, resample="up" if up else None, normalize=normalize)
        self.noise = NoiseInjection()
        self.activate = Activation(outputs, flat=True)

    def forward(
        self, x: Tensor, w: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws the noise, one map a picture, where none is given."""
        x = x.half() if self.half_precision and x.is_cuda else x.to(w.dtype)
        x = self.conv(x, w)
        if noise is None:
            noise = torch.randn(len(x), 1, *x.shape[2:], generator=generator, device=x.device)
        return self.activate(self.noise(x, noise).to(x.dtype))


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to a picture (N, 3, H, W), added to the doubled picture of the resolution before."""

    def __init__(self, inputs: int, style_dim: int, upsample: bool = True) -> None:
        super().__init__()
        if upsample:
            self.upsample = Blur(gain=4.0)
        self.conv = ModulatedConv2d(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, before: Tensor | None = None) -> Tensor:
        x = self.conv(x.to(w.dtype), w) + self.bias
        return x if before is None else x + upsample2d(before, self.upsample.kernel / 4)


class PixelNorm(nn.Module):
    """Latents over the root of their mean square."""

    def forward(self, z: Tensor) -> Tensor:
        return normalise_2nd_moment(z)


class ConstantInput(nn.Module):
    """The learnt input (1, C, 4, 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Generator(nn.Module):
    """Latents (N, z_dim) to pictures (N, 3, size, size), about [-1, 1]. 30,034,338 parameters at 256 px.

    `style` maps z to w, z being as long as w in the published ones. Channels are `base_channels` up to 32 px, or the
    `widths` of all resolutions from 4 px on. The `num_fp16_res` highest resolutions use the
    normalised modulation that generators trained with ADA need; they compute in half precision, on a GPU, only without
    `run_fp32`.
    """

    def __init__(
        self,
        size: int,
        style_dim: int = 512,
        n_mlp: int = 8,
        channel_multiplier: float = 2,
        base_channels: int = WIDEST,
        lr_mlp: float = 0.01,
        num_fp16_res: int = 0,
        run_fp32: bool = True,
        z_dim: int | None = None,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        resolutions = resolutions_up_to(size)
        self.size, self.style_dim, self.z_dim = size, style_dim, z_dim or style_dim
        self.n_latent, self.num_layers = 2 * len(resolutions), 2 * len(resolutions) - 1
        widths = widths or [channels_of(resolution, channel_multiplier, base_channels) for resolution in resolutions]
        lengths = [self.z_dim, *[style_dim] * (n_mlp - 1)]
        layers = [FullyConnectedLayer(features, style_dim, "lrelu", lr_mlp) for features in lengths]
        self.style = nn.Sequential(PixelNorm(), *layers)
        self.input = ConstantInput(widths[0])
        self.conv1 = StyledConv(widths[0], widths[0], style_dim)
        self.to_rgb1 = ToRGB(widths[0], style_dim, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for resolution, (inputs, outputs) in zip(resolutions[1:], pairwise(widths), strict=True):
            normalize = works_in_half(resolution, size, num_fp16_res)
            half = normalize and not run_fp32
            self.convs.append(StyledConv(inputs, outputs, style_dim, True, normalize, half))
            self.convs.append(StyledConv(outputs, outputs, style_dim, False, normalize, half))
            self.to_rgbs.append(ToRGB(outputs, style_dim))
        self.noises = nn.Module()
        for i in range(self.num_layers):
            side = resolutions[(i + 1) // 2]
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, side, side))

    def forward(
        self,
        styles: Sequence[Tensor],
        input_is_latent: bool = False,
        noise: Sequence[Tensor] | None = None,
        randomize_noise: bool = True,
        inject_index: int | None = None,
        truncation: float = 1.0,
        truncation_latent: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Pictures of z, or with `input_is_latent` of w (N, style_dim) or W+ (N, n_latent, style_dim).

        Of two styles the first `inject_index` layers take the first, as with one style and a truncation below 1 they
        take the truncated one. `noise` as in `synthesis`.
        """
        ws = list(styles) if input_is_latent else [self.style(self._checked(z)) for z in styles]
        if truncation < 1:
            if len(ws) != 1 or truncation_latent is None:
                raise ValueError("truncation takes one style and truncation_latent, the mean w")
            ws = [truncation_latent.lerp(ws[0], truncation), ws[0]]
        return self.synthesis(self.latents(ws, inject_index, generator), noise, randomize_noise, generator)

    def latents(
        self, ws: Sequence[Tensor], inject_index: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """W+ (N, n_latent, style_dim) of one w or W+, or of two, mixed at `inject_index`, which is drawn where None."""
        if not 1 <= len(ws) <= 2:
            raise ValueError(f"one or two styles are mixed, not {len(ws)}")
        for w in ws:
            if w.shape[1:] not in ((self.style_dim,), (self.n_latent, self.style_dim)):
                raise ValueError(
                    f"styles are (N, {self.style_dim}) or (N, {self.n_latent}, {self.style_dim}), not {tuple(w.shape)}"
                )
        full = [w if w.ndim == 3 else w[:, None].expand(-1, self.n_latent, -1) for w in ws]
        if len(full) == 1:
            return full[0]
        if inject_index is None:
            inject_index = int(torch.randint(1, self.n_latent, (), generator=generator))
        if not 0 <= inject_index <= self.n_latent:
            raise ValueError(f"inject_index must be within 0 to {self.n_latent}, not {inject_index}")
        return torch.cat([full[0][:, :inject_index], full[1][:, inject_index:]], 1)

    def synthesis(
        self,
        latents: Tensor,
        noise: Sequence[Tensor] | None = None,
        randomize_noise: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Pictures of W+ (N, n_latent, style_dim).

        `noise` (N or 1, 1, r, r) a layer takes the place of draws, or without `randomize_noise` the buffers do.
        """
        if latents.shape[1:] != (self.n_latent, self.style_dim):
            raise ValueError(f"W+ is (N, {self.n_latent}, {self.style_dim}), not {tuple(latents.shape)}")
        if noise is not None and len(noise) != self.num_layers:
            raise ValueError(f"{self.num_layers} layers take as many noise maps, not {len(noise)}")
        if noise is None and not randomize_noise:
            noise = [self.noises.get_buffer(f"noise_{i}") for i in range(self.num_layers)]
        maps: Sequence[Tensor | None] = [None] * self.num_layers if noise is None else noise
        w = latents.unbind(1)
        x = self.conv1(self.input.input.expand(len(latents), -1, -1, -1), w[0], maps[0], generator)
        image = self.to_rgb1(x, w[1])
        for i, to_rgb in enumerate(self.to_rgbs):
            first, last = 2 * i + 1, 2 * i + 2  # layers; the picture shares its w with the next resolution's first one
            x = cast(StyledConv, self.convs[first - 1])(x, w[first], maps[first], generator)
            x = cast(StyledConv, self.convs[last - 1])(x, w[last], maps[last], generator)
            image = to_rgb(x, w[last + 1], image)
        return image

    def _checked(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be (N, {self.z_dim}), not {tuple(z.shape)}")
        return z


def from_generator(network: nvidia.Generator) -> Generator:
    """A generator under this port's names with the weights of one under NVIDIA's: the same pictures of the same w.

    Raises ValueError for one with labels, without noise or of another architecture than `skip`.
    """
    synthesis, state = network.synthesis, network.state_dict()
    if network.c_dim or "synthesis.b4.torgb.weight" not in state or "synthesis.b4.conv1.noise_strength" not in state:
        raise ValueError("only unconditional generators with noise and pictures at every resolution have this form")
    layers, pictures = {"conv1": "b4.conv1"}, {"to_rgb1": "b4.torgb"}
    for i, resolution in enumerate(synthesis.block_resolutions[1:]):
        layers |= {f"convs.{2 * i}": f"b{resolution}.conv0", f"convs.{2 * i + 1}": f"b{resolution}.conv1"}
        pictures[f"to_rgbs.{i}"] = f"b{resolution}.torgb"
    found = {"input.input": state["synthesis.b4.const"][None]}
    for i in range(network.mapping.num_layers):
        found |= {f"style.{i + 1}.{part}": state[f"mapping.fc{i}.{part}"] for part in ("weight", "bias")}
    for name, theirs in (layers | pictures).items():
        found[f"{name}.conv.weight"] = state[f"synthesis.{theirs}.weight"][None]
        for part in ("weight", "bias"):
            found[f"{name}.conv.modulation.{part}"] = state[f"synthesis.{theirs}.affine.{part}"]
    for i, (name, theirs) in enumerate(layers.items()):
        found[f"{name}.activate.bias"] = state[f"synthesis.{theirs}.bias"]
        found[f"{name}.noise.weight"] = state[f"synthesis.{theirs}.noise_strength"].view(1)
        found[f"noises.noise_{i}"] = state[f"synthesis.{theirs}.noise_const"][None, None]
    for name, theirs in pictures.items():
        found[f"{name}.bias"] = state[f"synthesis.{theirs}.bias"].view(1, -1, 1, 1)
    made = Generator(
        network.img_resolution,
        network.w_dim,
        network.mapping.num_layers,
        z_dim=network.z_dim,
        widths=[state[f"synthesis.b{r}.conv1.weight"].shape[0] for r in synthesis.block_resolutions],
    )
    made.load_state_dict({**made.state_dict(), **found})  # the filters are its own
    return made
