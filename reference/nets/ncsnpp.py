"""NCSN++, the score network of variance-exploding diffusion (Song et al., ICLR 2021, section 4.1 and appendix H).

Parameter names are those of the published checkpoints: one flat list `all_modules.{i}` in execution order, which
`NCSNpp` builds and walks by the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2 import ops
from gengauge.reference.nets.unet import EPS, timestep_embedding

SQRT2 = math.sqrt(2)
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "swish": F.silu,
    "elu": F.elu,
    "relu": F.relu,
    "lrelu": lambda x: F.leaky_relu(x, 0.2),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "embedding_type": ("fourier", "positional"),
    "nonlinearity": tuple(ACTIVATIONS),
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
}
# Settings of the published configurations that this network does not depend on.
OTHER_SETTINGS = ("normalization", "attention_type", "conv_size", "ema_rate", "beta_min", "beta_max")
NIN_SCALE = 0.1  # of the initial weights of matrices, but for those that end a branch
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class NCSNppConfig:
    """Sizes and kinds of layers; names and values are those of the published configurations.

    Raises ValueError naming the setting that has no meaning here.
    """

    image_size: int  # px, of square pictures
    nf: int  # channels at ch_mult 1
    ch_mult: tuple[int, ...]  # a level each; the picture is halved between levels
    num_res_blocks: int  # a level on the way down; one more on the way up
    attn_resolutions: tuple[int, ...]  # px where attention stands; the middle always has it
    sigma_max: float
    sigma_min: float = 0.01
    num_scales: int = 2000  # entries of the table of noise levels
    num_channels: int = 3
    centered: bool = False  # pictures come in [-1, 1] already, not in [0, 1]
    dropout: float = 0.0
    conditional: bool = True  # blocks are told the noise level
    embedding_type: str = "fourier"  # of the noise level itself, or "positional" of its index in the table
    fourier_scale: float = 16.0
    nonlinearity: str = "swish"
    resblock_type: str = "biggan"  # blocks resample, or "ddpm": layers between the blocks do
    resamp_with_conv: bool = True  # those layers have a convolution
    fir: bool = True  # resampling is filtered; else means of four and repeated pixels
    fir_kernel: tuple[float, ...] = (1, 3, 3, 1)
    skip_rescale: bool = True  # sums of two branches are divided by sqrt(2)
    scale_by_sigma: bool = True  # the output is divided by the noise level
    progressive: str = "output_skip"  # how levels of the way up reach the output
    progressive_input: str = "input_skip"  # how smaller copies of the picture reach the way down
    progressive_combine: str = "sum"  # how "input_skip" joins them
    init_scale: float = 0.0  # of initial weights that end a branch; 0 stands for 1e-10

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(known)}")
        halvings = len(self.ch_mult) - 1
        if self.image_size % 2**halvings:
            raise ValueError(f"image_size: a picture of {self.image_size} px cannot be halved {halvings} times")
        if self.nf < 4:
            raise ValueError(f"nf is {self.nf}; normalisation needs at least 4 channels")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must lie between 0 and sigma_max {self.sigma_max}")

    @classmethod
    def published(cls, settings: Mapping[str, Any]) -> NCSNppConfig:
        """From the settings `model.*`, `data.image_size` ... of a published configuration, by their last names.

        Raises ValueError naming a setting that is missing, unknown, or of another network.
        """
        if settings.get("name", "ncsnpp") != "ncsnpp":
            raise ValueError(f"name is {settings['name']!r}; this network is 'ncsnpp'")
        own = {field.name for field in fields(cls)}
        unknown = sorted(settings.keys() - own - {"name", *OTHER_SETTINGS})
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        needed = ("image_size", "nf", "ch_mult", "num_res_blocks", "attn_resolutions", "sigma_max")
        missing = [name for name in needed if name not in settings]
        if missing:
            raise ValueError(f"settings are missing: {', '.join(missing)}")
        given = {name: value for name, value in settings.items() if name in own}
        lowered = {name: given[name].lower() for name in CHOICES if name in given}
        tuples = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**{**given, **lowered, **tuples})


def _published(sigma_max: float) -> NCSNppConfig:
    return NCSNppConfig(256, 128, (1, 1, 2, 2, 2, 2, 2), 2, (16,), sigma_max)


BEDROOM_256, CHURCH_256, FACES_256 = _published(378.0), _published(380.0), _published(348.0)  # FFHQ and CelebA-HQ
FFHQ_1024 = NCSNppConfig(1024, 16, (1, 2, 4, 8, 16, 32, 32, 32), 1, (16,), 1348.0)


# ----------------------------------------------------------------------------------------------------------------------
# Initial weights: variance scaling, mean of fan-in and fan-out, uniform


def _initialise(weight: Tensor, scale: float) -> None:
    fans = (weight.shape[0] + weight.shape[1]) / 2 * weight[0, 0].numel()
    bound = math.sqrt(3 * (scale or 1e-10) / fans)
    nn.init.uniform_(weight, -bound, bound)


def _conv(inputs: int, outputs: int, size: int, scale: float = 1.0, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2 if stride == 1 else 0)
    _initialise(layer.weight, scale)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    _initialise(layer.weight, 1.0)
    nn.init.zeros_(layer.bias)
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, EPS)


# ----------------------------------------------------------------------------------------------------------------------
# Layers


class FourierFeatures(nn.Module):
    """Sines, then cosines (N, 2 size) of 2 pi W times values (N,).

    The frequencies W are drawn once and not trained. They keep single precision when the network is cast to half: their
    products are large angles.
    """

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.to(self.W.dtype)[:, None] * self.W[None] * 2 * math.pi
        return torch.cat([angles.sin(), angles.cos()], 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierFeatures:
        before = self.W.data
        super()._apply(fn, recurse)
        if self.W.dtype in (torch.float16, torch.bfloat16):
            self.W.data = before.to(self.W.device)
        return self


def fir_upsample(x: Tensor, f: Tensor) -> Tensor:
    """Doubles a map (N, C, H, W) with a filter f (k, k): `ops.upsample2d` without the zeros between pixels."""
    taps, channels = len(f), x.shape[1]
    if taps % 2:
        return ops.upsample2d(x, f)
    weight = (f * 4).to(x.dtype).expand(channels, 1, taps, taps).contiguous()
    return F.conv_transpose2d(x, weight, stride=2, padding=(taps - 2) // 2, groups=channels)


def fir_downsample(x: Tensor, f: Tensor) -> Tensor:
    """Halves a map (N, C, H, W) of even size with a filter f (k, k): `ops.downsample2d` without a padded copy."""
    taps, channels = len(f), x.shape[1]
    if taps % 2:
        return ops.downsample2d(x, f)
    weight = f.flip(0, 1).to(x.dtype).expand(channels, 1, taps, taps).contiguous()
    return F.conv2d(x, weight, stride=2, padding=(taps - 2) // 2, groups=channels)


class Resample(nn.Module):
    """Halves or doubles a map (N, C, H, W): filtered, or where `kernel` is None by means and repeated pixels."""

    def __init__(self, direction: Direction, kernel: Sequence[float] | None) -> None:
        super().__init__()
        self.up = direction == "up"
        self.f: Tensor | None
        self.register_buffer("f", None if kernel is None else ops.setup_filter(kernel), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.f is not None:
            return fir_upsample(x, self.f) if self.up else fir_downsample(x, self.f)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.avg_pool2d(x, 2)


class ResampleConv(nn.Module):
    """Halves or doubles a map and convolves it, 3x3; without a filter as DDPM's layers do."""

    def __init__(self, direction: Direction, kernel: Sequence[float] | None, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = direction == "up"
        self.f: Tensor | None
        self.register_buffer("f", None if kernel is None else ops.setup_filter(kernel), persistent=False)
        conv = _conv(inputs, outputs, 3, stride=1 if self.up or kernel is not None else 2)
        self.name = "Conv_0" if kernel is None else "Conv2d_0"
        self.add_module(self.name, conv)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.get_submodule(self.name)
        assert isinstance(conv, nn.Conv2d)
        if self.f is None:
            return conv(F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))
        up, down = (2, 1) if self.up else (1, 2)
        out = ops.conv2d_resample(x, conv.weight, self.f.to(x.dtype), up=up, down=down, padding=1)
        assert conv.bias is not None
        return out + conv.bias[:, None, None]


class Matrix(nn.Module):
    """A matrix W (inputs, outputs) and a bias applied to every pixel of (N, inputs, ...)."""

    def __init__(self, inputs: int, outputs: int, scale: float = NIN_SCALE) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))
        _initialise(self.W.data, scale)

    def forward(self, x: Tensor) -> Tensor:
        return (self.W.T @ x.flatten(2) + self.b[:, None]).unflatten(2, x.shape[2:])


class Attention(nn.Module):
    """Self-attention of pixels with one head, and a residual."""

    def __init__(self, channels: int, config: NCSNppConfig) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2 = (Matrix(channels, channels) for _ in range(3))
        self.NIN_3 = Matrix(channels, channels, config.init_scale)
        self.rescale = SQRT2 if config.skip_rescale else 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.NIN_0, self.NIN_1, self.NIN_2))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)  # (N, C, pixels)
        return _sum(x, self.NIN_3(h.unflatten(2, x.shape[2:])), self.rescale)


class Combine(nn.Module):
    """Joins a smaller copy of the picture, by a 1x1 convolution, with a map: added to it or put before it."""

    def __init__(self, inputs: int, channels: int, method: str) -> None:
        super().__init__()
        self.Conv_0 = _conv(inputs, channels, 1)
        self.cat = method == "cat"

    def forward(self, picture: Tensor, x: Tensor) -> Tensor:
        h = self.Conv_0(picture)
        return torch.cat([h, x], 1) if self.cat else h + x


class Block(nn.Module):
    """Two normalised 3x3 convolutions, the noise level's embedding between them, beside a shortcut.

    With `direction` both branches are resampled before their first convolution.
    """

    def __init__(self, inputs: int, outputs: int, config: NCSNppConfig, direction: Direction | None = None) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.nonlinearity]
        self.GroupNorm_0 = _norm(inputs)
        self.Conv_0 = _conv(inputs, outputs, 3)
        self.Dense_0 = _linear(4 * config.nf, outputs)
        self.GroupNorm_1 = _norm(outputs)
        self.Dropout_0 = nn.Dropout(config.dropout)
        self.Conv_1 = _conv(outputs, outputs, 3, config.init_scale)
        self.Conv_2: nn.Module | None = None
        self.NIN_0: nn.Module | None = None
        if config.resblock_type == "biggan":
            self.Conv_2 = _conv(inputs, outputs, 1) if inputs != outputs or direction else None
        elif inputs != outputs:
            self.NIN_0 = Matrix(inputs, outputs)
        kernel = config.fir_kernel if config.fir else None
        self.resample = None if direction is None else Resample(direction, kernel)
        self.rescale = SQRT2 if config.skip_rescale else 1.0

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        h = self.act(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h)
        if temb is not None:
            h = h + self.Dense_0(self.act(temb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(self.act(self.GroupNorm_1(h))))
        shortcut = self.Conv_2 or self.NIN_0
        return _sum(x if shortcut is None else shortcut(x), h, self.rescale)


def _sum(x: Tensor, h: Tensor, rescale: float) -> Tensor:
    return x + h if rescale == 1 else (x + h) / rescale


# ----------------------------------------------------------------------------------------------------------------------
# The network


class NCSNpp(nn.Module):
    """Pictures (N, C, R, R) at noise levels sigma (N,) to their scores (N, C, R, R), already divided by sigma.

    Pictures are x0 + sigma * noise, with x0 in [0, 1], or in [-1, 1] where `centered`. With positional embeddings the
    second argument is the index of the noise level in `sigmas`, (num_scales,) float64, from sigma_max down.
    """

    sigmas: Tensor

    def __init__(self, config: NCSNppConfig = FACES_256) -> None:
        super().__init__()
        self.config = config
        self.act = ACTIVATIONS[config.nonlinearity]
        self.rescale = SQRT2 if config.skip_rescale else 1.0
        span = math.log(config.sigma_max), math.log(config.sigma_min)
        self.register_buffer("sigmas", torch.linspace(*span, config.num_scales, dtype=torch.float64).exp())
        kernel = config.fir_kernel if config.fir else None
        self.picture_down, self.picture_up = Resample("down", kernel), Resample("up", kernel)
        self.all_modules = nn.ModuleList(_layers(config))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NCSNpp:
        # The table of noise levels is no part of the computation whose precision a cast chooses.
        before = self.sigmas
        super()._apply(fn, recurse)
        if self.sigmas.dtype != before.dtype:
            self.sigmas = before.to(self.sigmas.device)
        return self

    def embedding(self, sigma: Tensor, layers: Iterator[nn.Module]) -> Tensor | None:
        """What blocks are given of noise levels or their indices (N,): (N, 4 nf); None where not conditional."""
        config = self.config
        wide = sigma if sigma.dtype == torch.float64 else sigma.float()
        emb = next(layers)(wide.log()) if config.embedding_type == "fourier" else timestep_embedding(wide, config.nf)
        if not config.conditional:
            return None
        first, second = next(layers), next(layers)
        assert isinstance(first, nn.Linear)
        return second(self.act(first(emb.to(first.weight.dtype))))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        config = self.config
        layers = iter(self.all_modules)
        temb = self.embedding(sigma, layers)
        x = x if config.centered else 2 * x - 1

        picture, hs = x, [next(layers)(x)]
        for level in range(len(config.ch_mult)):
            for _ in range(config.num_res_blocks):
                hs.append(self._attended(next(layers)(hs[-1], temb), level, layers))
            if level < len(config.ch_mult) - 1:
                h = self._resampled(hs[-1], temb, layers)
                if config.progressive_input == "input_skip":
                    picture = self.picture_down(picture)
                    h = next(layers)(picture, h)
                elif config.progressive_input == "residual":
                    h = picture = _sum(next(layers)(picture), h, self.rescale)
                hs.append(h)

        h = next(layers)(hs[-1], temb)
        h = next(layers)(h)
        h = next(layers)(h, temb)

        pyramid: Tensor | None = None
        for level in reversed(range(len(config.ch_mult))):
            for _ in range(config.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, hs.pop()], 1), temb)
            h = self._attended(h, level, layers)
            if config.progressive == "output_skip":
                larger = None if pyramid is None else self.picture_up(pyramid)
                own = self._projected(h, layers)
                pyramid = own if larger is None else larger + own
            elif config.progressive == "residual":
                # The lowest level only starts the pyramid; the others are replaced by their sum with it.
                if pyramid is None:
                    pyramid = self._projected(h, layers)
                else:
                    h = pyramid = _sum(next(layers)(pyramid), h, self.rescale)
            if level > 0:
                h = self._resampled(h, temb, layers)
        out = pyramid if config.progressive == "output_skip" else self._projected(h, layers)
        assert out is not None
        if not config.scale_by_sigma:
            return out
        level_of = sigma if config.embedding_type == "fourier" else self.sigmas[sigma.long()]
        return (out.to(torch.promote_types(out.dtype, torch.float32)) / level_of.view(-1, 1, 1, 1)).to(out.dtype)

    def _attended(self, h: Tensor, level: int, layers: Iterator[nn.Module]) -> Tensor:
        return next(layers)(h) if self.config.image_size >> level in self.config.attn_resolutions else h

    def _resampled(self, h: Tensor, temb: Tensor | None, layers: Iterator[nn.Module]) -> Tensor:
        layer = next(layers)
        return layer(h, temb) if isinstance(layer, Block) else layer(h)

    def _projected(self, h: Tensor, layers: Iterator[nn.Module]) -> Tensor:
        h = self.act(next(layers)(h))
        return next(layers)(h)


def _layers(config: NCSNppConfig) -> Iterator[nn.Module]:
    """The layers in execution order; `NCSNpp.forward` takes them in this order."""
    kernel = config.fir_kernel if config.fir else None
    biggan, levels = config.resblock_type == "biggan", range(len(config.ch_mult))
    temb, emb = 4 * config.nf, config.nf
    if config.embedding_type == "fourier":
        emb = 2 * config.nf
        yield FourierFeatures(config.nf, config.fourier_scale)
    if config.conditional:
        yield _linear(emb, temb)
        yield _linear(temb, temb)

    def resampled(direction: Direction, channels: int) -> nn.Module:
        if biggan:
            return Block(channels, channels, config, direction)
        with_conv = config.resamp_with_conv
        return ResampleConv(direction, kernel, channels, channels) if with_conv else Resample(direction, kernel)

    def projected(inputs: int, outputs: int, scale: float) -> Iterator[nn.Module]:
        yield _norm(inputs)
        yield _conv(inputs, outputs, 3, scale)

    picture, h, skips = config.num_channels, config.nf, [config.nf]
    yield _conv(picture, h, 3)
    for level in levels:
        for _ in range(config.num_res_blocks):
            width = config.nf * config.ch_mult[level]
            yield Block(h, width, config)
            h = width
            if config.image_size >> level in config.attn_resolutions:
                yield Attention(h, config)
            skips.append(h)
        if level != levels[-1]:
            yield resampled("down", h)
            if config.progressive_input == "input_skip":
                yield Combine(picture, h, config.progressive_combine)
                h *= 2 if config.progressive_combine == "cat" else 1
            elif config.progressive_input == "residual":
                yield ResampleConv("down", kernel, picture, h)
                picture = h
            skips.append(h)

    h = skips[-1]
    yield Block(h, h, config)
    yield Attention(h, config)
    yield Block(h, h, config)

    pyramid = 0
    for level in reversed(levels):
        for _ in range(config.num_res_blocks + 1):
            width = config.nf * config.ch_mult[level]
            yield Block(h + skips.pop(), width, config)
            h = width
        if config.image_size >> level in config.attn_resolutions:
            yield Attention(h, config)
        if config.progressive == "output_skip":
            yield from projected(h, config.num_channels, config.init_scale)
        elif config.progressive == "residual":
            if level == levels[-1]:
                yield from projected(h, h, 1.0)
            else:
                yield ResampleConv("up", kernel, pyramid, h)
            pyramid = h
        if level > 0:
            yield resampled("up", h)
    if config.progressive != "output_skip":
        yield from projected(h, config.num_channels, config.init_scale)
