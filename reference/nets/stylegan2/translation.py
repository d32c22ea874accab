"""SinCUT's networks: translation with StyleGAN2's parts, without styles (Park et al., ECCV 2020, section 4.3).

Operations and linear layers are StyleGAN2's (`ops`, `layers`); what is assembled of them, and its parameter names, are
those of the published code. Convolutions have the layout [blur] - convolution - [bias and leaky ReLU].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2.layers import FIR, FullyConnectedLayer
from gengauge.reference.nets.stylegan2.ops import bias_act, conv2d_resample, setup_filter

TAPS = (0, 2, 4)  # SinCUT's: the picture, the halving block, the second block after it
LOW, HIGH = {4: 4096, 8: 2048, 16: 1024, 32: 512}, {64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
GENERATOR_WIDEST, DISCRIMINATOR_WIDEST = 512, 384  # of the resolutions in `LOW`


def channels_of_generator(ngf: int) -> dict[int, int]:
    """The channels at each resolution: of 32 those of the smallest StyleGAN2."""
    low = {size: min(GENERATOR_WIDEST, round(c * ngf / 32)) for size, c in LOW.items()}
    return low | {size: round(c * ngf / 32) for size, c in HIGH.items()}


def channels_of_discriminator(ndf: int) -> dict[int, int]:
    """The channels at each resolution, rounded down."""
    low = {size: min(DISCRIMINATOR_WIDEST, int(c * ndf / 64)) for size, c in LOW.items()}
    return low | {size: int(c * ndf / 64) for size, c in HIGH.items()}


def nominal_resolution(size: int) -> int:
    """The power of two nearest, in octaves, to a size in px. Raises ValueError outside of 4 to 1024."""
    nearest = 1 << round(math.log2(size)) if size > 0 else 0
    if nearest not in LOW | HIGH:
        raise ValueError(f"SinCUT's networks are made for 4 to 1024 px, not {size}")
    return nearest


class Blur(nn.Module):
    """The filter (4, 4) of a resampling convolution, as published checkpoints hold it."""

    kernel: Tensor

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", setup_filter(FIR) * gain)


class Conv(nn.Module):
    """The weight of a convolution N(0, 1), scaled when it is used by 1 / sqrt(inputs k^2); `bias` where it has one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1 / math.sqrt(inputs * kernel**2)


class Activation(nn.Module):
    """A bias (1, C, 1, 1), `flat` (C,), a leaky ReLU of slope 0.2, and the factor sqrt(2)."""

    def __init__(self, channels: int, flat: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels) if flat else torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(x, self.bias.flatten(), "lrelu")


class ConvLayer(nn.Sequential):
    """(N, I, H, W) to (N, O, H, W), or with `down` to half the sides; blurred before, activated after.

    SinCUT stores biases as pictures, other checkpoints of this layout `flat`.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, down: bool = False, activate: bool = True, flat: bool = False
    ) -> None:
        self.down = 2 if down else 1
        parts: list[nn.Module] = [Blur()] if down else []
        parts.append(Conv(inputs, outputs, kernel))
        parts += [Activation(outputs, flat)] if activate else []
        super().__init__(*parts)
        self.activated = activate

    def forward(self, x: Tensor) -> Tensor:
        conv = cast(Conv, self[self.down - 1])
        kernel = (
            cast(Blur, self[0]).kernel if self.down > 1 else conv.weight[0, 0]
        )  # not looked at where nothing is resampled
        x = conv2d_resample(x, conv.weight * conv.gain, kernel, down=self.down, padding=conv.weight.shape[-1] // 2)
        return self[-1](x) if self.activated else x


class ResBlock(nn.Module):
    """Two 3x3 layers beside a shortcut, their sum over sqrt(2): (N, I, H, W) to (N, O, H, W), or half the sides.

    SinCUT's shortcut is the identity where nothing changes; with `flat` biases it always is a convolution.
    """

    def __init__(self, inputs: int, outputs: int, down: bool = True, flat: bool = False) -> None:
        super().__init__()
        self.conv1 = ConvLayer(inputs, inputs, 3, flat=flat)
        self.conv2 = ConvLayer(inputs, outputs, 3, down=down, flat=flat)
        self.skip: nn.Module = nn.Identity()
        if flat or down or inputs != outputs:
            self.skip = ConvLayer(inputs, outputs, 1, down=down, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class DemodulatedConv(nn.Module):
    """A 3x3 convolution whose kernel is divided by its length a channel, with `up` to twice the sides.

    StyleGAN2's modulated convolution for a style of ones, which all pictures share. weight (1, O, I, 3, 3).
    """

    def __init__(self, inputs: int, outputs: int, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3))
        self.up = 2 if up else 1
        if up:
            self.blur = Blur(gain=4.0)  # the published buffer holds the gain of doubling

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        weight = weight * (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        kernel = self.blur.kernel / 4 if self.up > 1 else weight[0, 0]
        return conv2d_resample(x, weight, kernel, up=self.up, padding=1, flip_weight=self.up == 1)


class NoiseInjection(nn.Module):
    """Noise times a learnt number, 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class StyledConv(nn.Module):
    """A demodulated convolution, noise (N, 1, H', W') and activation. `noise.weight` is there also without noise."""

    def __init__(self, inputs: int, outputs: int, up: bool = False, inject_noise: bool = True) -> None:
        super().__init__()
        self.inject_noise = inject_noise
        self.conv = DemodulatedConv(inputs, outputs, up)
        self.noise = NoiseInjection()
        self.activate = Activation(outputs)

    def forward(self, x: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        x = self.conv(x)
        if self.inject_noise:
            if noise is None:
                noise = torch.randn(len(x), 1, *x.shape[2:], generator=generator, device=x.device, dtype=x.dtype)
            x = self.noise(x, noise)
        return self.activate(x)


class _Sequence(nn.Module):
    """Layers under the published name `convs`."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*layers)


class StyleTranslator(nn.Module):
    """Pictures (N, 3, H, W) to pictures of the same shape, not bounded: the last layer is a leaky ReLU times sqrt(2).

    Sides are multiples of 2^num_downsampling. `crop_size` names the resolution whose number of channels the first layer
    has; pictures may have any. The noise is drawn in evaluation as well. 3,068,404 parameters as SinCUT configures it;
    `smallstylegan2` has n_blocks 2 and injects no noise.
    """

    def __init__(
        self,
        ngf: int = 10,
        n_blocks: int = 6,
        num_downsampling: int = 1,
        crop_size: int = 64,
        input_nc: int = 3,
        output_nc: int = 3,
        inject_noise: bool = True,
    ) -> None:
        super().__init__()
        self.input_nc, self.num_downsampling = input_nc, num_downsampling
        self.independent = True  # of the other pictures of a batch; noise comes after the encoder
        first = nominal_resolution(crop_size)
        table = channels_of_generator(ngf)
        sizes = [first >> i for i in range(num_downsampling + 1)]
        if sizes[-1] not in table:
            raise ValueError(f"{num_downsampling} halvings of {first} px leave fewer than 4 px")
        widths = [table[size] for size in sizes]
        plain = n_blocks // 2
        self.widths = (input_nc, *widths, *[widths[-1]] * plain)  # after each layer of the encoder
        self.encoder = _Sequence(
            [
                nn.Identity(),
                ConvLayer(input_nc, widths[0], 1),
                *(ResBlock(a, b) for a, b in pairwise(widths)),
                *(ResBlock(widths[-1], widths[-1], down=False) for _ in range(plain)),
            ]
        )
        self.decoder = _Sequence(
            [
                *(ResBlock(widths[-1], widths[-1], down=False) for _ in range(plain)),
                *(StyledConv(a, b, up=True, inject_noise=inject_noise) for a, b in pairwise(widths[::-1])),
                ConvLayer(widths[0], output_nc, 1),
            ]
        )

    def forward(
        self, x: Tensor, noise: Sequence[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """`noise`: draws (N, 1, h, w) of each doubling layer in order, instead of the generator's."""
        return self._decode(self.encoder.convs(self._checked(x)), noise, generator)

    def _decode(self, x: Tensor, noise: Sequence[Tensor] | None, generator: torch.Generator | None) -> Tensor:
        given = iter(noise or ())
        for layer in self.decoder.convs:
            x = layer(x, next(given, None), generator) if isinstance(layer, StyledConv) else layer(x)
        return x

    def with_taps(
        self,
        x: Tensor,
        taps: Sequence[int] = TAPS,
        noise: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """What the network makes of pictures, and what `encode` gives for the same taps, in one pass."""
        wanted = self._own(taps)
        found: list[Tensor] = []
        x = self._checked(x)
        for i, layer in enumerate(self.encoder.convs):
            x = layer(x)
            if i in wanted:
                found.append(x)
        return self._decode(x, noise, generator), found

    def encode(self, x: Tensor, taps: Sequence[int] = TAPS) -> list[Tensor]:
        """What the encoder's layers of these ascending indices give, (N, C, h, w) each.

        Taps beyond the encoder are left out, as in the published code: of SinCUT's three `smallstylegan2` has two.
        Raises ValueError for indices that do not ascend.
        """
        wanted = self._own(taps)
        found: list[Tensor] = []
        x = self._checked(x)
        for i, layer in enumerate(self.encoder.convs):
            if len(found) == len(wanted):
                break
            x = layer(x)
            if i in wanted:
                found.append(x)
        return found

    def tap_channels(self, taps: Sequence[int] = TAPS) -> list[int]:
        """The channels of what `encode` gives for the same taps."""
        return [self.widths[tap] for tap in self._own(taps)]

    def _own(self, taps: Sequence[int]) -> list[int]:
        """The taps that this encoder has."""
        if any(tap < 0 for tap in taps) or any(a >= b for a, b in pairwise(taps)):
            raise ValueError(f"taps are ascending layers from 0, not {tuple(taps)}")
        return [tap for tap in taps if tap < len(self.widths)]

    def _checked(self, x: Tensor) -> Tensor:
        factor = 1 << self.num_downsampling
        if x.ndim != 4 or x.shape[1] != self.input_nc or any(side % factor for side in x.shape[2:]):
            raise ValueError(
                f"pictures are (N, {self.input_nc}, H, W), sides multiples of {factor}, not {tuple(x.shape)}"
            )
        return x


class StyleDiscriminator(nn.Module):
    """Pictures (N, 3, R, R) to scores (N, 1), without the minibatch's deviation. 5,885,473 parameters in SinCUT.

    R is the power of two nearest to `crop_size`; other sizes raise ValueError.
    """

    def __init__(self, ndf: int = 8, crop_size: int = 64, input_nc: int = 3) -> None:
        super().__init__()
        self.size, self.input_nc = nominal_resolution(crop_size), input_nc
        table = channels_of_discriminator(ndf)
        widths = [table[self.size >> i] for i in range(self.size.bit_length() - 2)]  # down to 4 px
        self.convs = nn.Sequential(ConvLayer(input_nc, widths[0], 1), *(ResBlock(a, b) for a, b in pairwise(widths)))
        last = widths[-1]
        self.final_conv = ConvLayer(last, last, 3)
        self.final_linear = nn.Sequential(
            FullyConnectedLayer(last * 16, last, "lrelu"),
            FullyConnectedLayer(last, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        expected = (self.input_nc, self.size, self.size)
        if x.shape[1:] != expected:
            raise ValueError(
                f"pictures are (N, {', '.join(map(str, expected))}), not {tuple(x.shape)}; crop them first"
            )
        return self.final_linear(self.final_conv(self.convs(x)).flatten(1))


def tiles(x: Tensor, size: int) -> Tensor:
    """Pictures (N, C, H, W) cut into squares (N h w, C, size, size), of one picture after the other, row by row.

    How the published code's unused tiled discriminator sees a picture. Raises ValueError where a side is no multiple.
    """
    n, channels, height, width = x.shape
    if height % size or width % size:
        raise ValueError(f"{height} x {width} px cannot be cut into tiles of {size} px")
    cut = x.view(n, channels, height // size, size, width // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, size, size)
