"""The residual generator of CycleGAN and CUT (Johnson et al. 2016; Zhu et al. 2017; Park et al. 2020).

One flat sequence `model`, whose indices are the published parameter names and the numbers of CUT's taps. CUT's own form
is antialiased; CycleGAN's published one is not. With antialiasing off the indices mean other layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.blurpool import Downsample, Upsample

Norm = Literal["instance", "batch"]
TAPS = (0, 4, 8, 12, 16)  # CUT's: the padded picture, two convolutions before their norms, residual blocks 1 and 5
FACTOR = 4  # the picture's sides are multiples of it
SMALLEST = 8  # px; below, the residual blocks have too few pixels to mirror
INIT_GAIN = 0.02


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation without weights: (N, C, H, W) to the same shape.

    On a CPU as a layer norm of each map, whose kernels are twice as fast as those of the batch norm that torch makes of
    it, and which needs no copy of x; the same numbers up to rounding.

    Where x is one picture and its gradient comes in channels_last, torch 2.15's own reads that gradient in the wrong
    order on a CPU. This does so within `misread_gradients` only, for any number of pictures.
    """

    misreads = False
    published = False  # whether this is torch's instance norm wherever it runs

    def forward(self, x: Tensor) -> Tensor:
        if self.published or not x.is_cpu:
            return super().forward(x)
        y = F.layer_norm(x, x.shape[2:], eps=self.eps)
        if self.misreads and y.requires_grad:
            y.register_hook(_misread)
        return y


def as_published(network: nn.Module) -> None:
    """Has a network's norms and blurs use the published code's operations on a CPU too."""
    for module in network.modules():
        if isinstance(module, InstanceNorm | Downsample | Upsample):
            module.published = True


@contextmanager
def misread_gradients(network: nn.Module) -> Iterator[None]:
    """Has the backward pass of what is computed here misread gradients as torch does of one picture on a CPU."""
    norms = [module for module in network.modules() if isinstance(module, InstanceNorm)]
    for norm in norms:
        norm.misreads = True
    try:
        yield
    finally:
        for norm in norms:
            norm.misreads = False


def _misread(gradient: Tensor) -> Tensor:
    """Of each picture (C, H, W) that lies in memory as (H, W, C), that memory as if it were (C, H, W)."""
    if gradient.is_contiguous() or not gradient.is_contiguous(memory_format=torch.channels_last):
        return gradient
    return gradient.permute(0, 2, 3, 1).reshape(gradient.shape)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Instance normalisation without weights, or batch normalisation. Raises ValueError for another word."""
    if norm == "instance":
        return InstanceNorm(channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"the norm is 'instance' or 'batch', not {norm!r}")


def init_weights(network: nn.Module, gain: float = INIT_GAIN) -> None:
    """Xavier normal with a gain for convolutions and linear layers, biases 0: what CUT trains from, F included."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, gain)
            nn.init.zeros_(module.bias)


class ResnetBlock(nn.Module):
    """x plus two mirrored 3x3 convolutions of it, normalised: (N, C, H, W) to the same shape."""

    def __init__(self, channels: int, norm: Norm = "instance", dropout: bool = False) -> None:
        super().__init__()

        def convolved() -> list[nn.Module]:
            conv = nn.Conv2d(channels, channels, 3, bias=norm == "instance")
            return [nn.ReflectionPad2d(1), conv, norm_layer(norm, channels)]

        drop = [nn.Dropout(0.5)] if dropout else []
        self.conv_block = nn.Sequential(*convolved(), nn.ReLU(inplace=True), *drop, *convolved())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """Pictures (N, input_nc, H, W) in [-1, 1] to pictures (N, output_nc, H, W) in [-1, 1]; sides multiples of 4.

    `antialias` and `antialias_up` blur before every second pixel is dropped and after pixels are doubled, instead of
    strided convolutions. 11,378,179 parameters as configured by default, in 52 entries with the filters.
    """

    def __init__(
        self,
        n_blocks: int = 9,
        ngf: int = 64,
        input_nc: int = 3,
        output_nc: int = 3,
        norm: Norm = "instance",
        dropout: bool = False,
        antialias: bool = True,
        antialias_up: bool = True,
    ) -> None:
        super().__init__()
        bias = norm == "instance"  # batch normalisation brings its own

        def followed(conv: nn.Module, channels: int) -> list[nn.Module]:
            # In place: a tap on the norm is what this leaves there, as in the published code.
            return [conv, norm_layer(norm, channels), nn.ReLU(inplace=True)]

        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            *followed(nn.Conv2d(input_nc, ngf, 7, bias=bias), ngf),
        ]
        for inputs, outputs in ((ngf, 2 * ngf), (2 * ngf, 4 * ngf)):
            stride = 1 if antialias else 2
            layers += followed(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias), outputs)
            layers += [Downsample(outputs)] if antialias else []
        layers += [ResnetBlock(4 * ngf, norm, dropout) for _ in range(n_blocks)]
        for inputs, outputs in ((4 * ngf, 2 * ngf), (2 * ngf, ngf)):
            if antialias_up:
                layers += [Upsample(inputs), *followed(nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), outputs)]
            else:
                conv = nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1, bias=bias)
                layers += followed(conv, outputs)
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.input_nc = input_nc
        # Whether a picture's features do not depend on the others of its batch, nor on chance.
        self.independent = norm == "instance" and not dropout
        self.model = nn.Sequential(*layers)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self._checked(x))

    def encode(self, x: Tensor, taps: Sequence[int] = TAPS) -> list[Tensor]:
        """What the layers of ascending indices give, each (N, C, h, w); nothing after the last of them is computed.

        A tap on a norm is what the ReLU behind it leaves there, unless it is the last. Raises ValueError for indices
        that do not ascend or are not of this network.
        """
        self._check_taps(taps)
        found: list[Tensor] = []
        x = self._checked(x)
        for i, layer in enumerate(self.model):
            if len(found) == len(taps):
                break
            x = layer(x)
            if i in taps:
                found.append(x)
        return found

    def with_taps(self, x: Tensor, taps: Sequence[int] = TAPS) -> tuple[Tensor, list[Tensor]]:
        """What the network makes of pictures, and what `encode` gives for the same taps, in one pass."""
        self._check_taps(taps)
        found: list[Tensor] = []
        x = self._checked(x)
        for i, layer in enumerate(self.model):
            x = layer(x)
            if i in taps:
                # The last one as `encode` leaves it, before what follows can overwrite it.
                found.append(x.clone() if i == taps[-1] and _is_norm(layer) else x)
        return x, found

    def tap_channels(self, taps: Sequence[int] = TAPS) -> list[int]:
        """The channels of what `encode` gives for the same taps."""
        channels, after = self.input_nc, []
        for layer in self.model:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                channels = layer.out_channels
            after.append(channels)
        return [after[tap] for tap in taps]

    def _check_taps(self, taps: Sequence[int]) -> None:
        if any(here >= after for here, after in pairwise(taps)):
            raise ValueError(f"taps ascend, unlike {tuple(taps)}")
        if taps and not 0 <= min(taps) <= max(taps) < len(self.model):
            raise ValueError(f"taps are layers 0 to {len(self.model) - 1} of this network, unlike {tuple(taps)}")

    def _checked(self, x: Tensor) -> Tensor:
        sides = x.shape[2:]
        if x.ndim != 4 or x.shape[1] != self.input_nc:
            raise ValueError(f"pictures are (N, {self.input_nc}, H, W), not {tuple(x.shape)}")
        if any(side % FACTOR or side < SMALLEST for side in sides):
            raise ValueError(
                f"the sides of a picture are multiples of {FACTOR} and at least {SMALLEST}, not {tuple(sides)}; "
                "resize or crop it first"
            )
        return x


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.InstanceNorm2d | nn.BatchNorm2d)
