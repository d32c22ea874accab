"""Dilated residual networks for segmentation, DRN-D-22 and DRN-D-105 (Yu, Koltun and Funkhouser, CVPR 2017).

CUT's Cityscapes scores were made with DRN-D-22; pix2pix's followers use DRN-D-105. Parameter names are those of the
published segmentation checkpoints: `base.<i>` for the trunk's layer i, `seg` for the classifier, `up` for the fixed
bilinear enlargement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

CLASSES = 19  # of Cityscapes' evaluation
# Of Cityscapes' photographs in [0, 1], red, green and blue.
MEAN, DEVIATION = (0.290101, 0.328081, 0.286964), (0.182954, 0.186566, 0.184475)
STRIDE = 8  # of the trunk; the enlargement undoes it


@dataclass(frozen=True)
class DRNConfig:
    """Which block the residual layers 3 to 6 have, and how many of each; the other layers are single convolutions.

    `channels` are those of layers 1 to 8; a bottleneck gives four times as many.
    """

    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int, int, int, int, int] = (16, 32, 64, 128, 256, 512, 512, 512)


DRN_D_22 = DRNConfig("basic", (2, 2, 2, 2))
DRN_D_105 = DRNConfig("bottleneck", (3, 4, 23, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, I, H, W) to (N, C, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, 3, stride, dilation)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3, 1, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return self.relu(h + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, beside a shortcut: (N, I, H, W) to (N, 4 C, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.conv1 = _conv(inputs, channels, 1, 1, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride, dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, outputs, 1, 1, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return self.relu(h + (x if self.downsample is None else self.downsample(x)))


class DRN(nn.Module):
    """Pictures (N, 3, H, W), normalised by `normalise`, to log-probabilities (N, classes, H, W) of each pixel.

    Sides are multiples of 8. `base` is the trunk: `base.0` a 7x7 convolution, `base.1` to `base.8` the layers of the
    paper's figure, the last two without residuals so that no grid remains. Weights begin as the published ones did.
    """

    def __init__(self, config: DRNConfig = DRN_D_22, classes: int = CLASSES) -> None:
        super().__init__()
        kind = BasicBlock if config.block == "basic" else Bottleneck
        widths = config.channels
        layers: list[nn.Module] = [_single(3, widths[0], 1, 1, kernel=7)]
        width = widths[0]
        for channels, stride in zip(widths[:2], (1, 2), strict=True):
            layers.append(_single(width, channels, stride, 1))
            width = channels
        for channels, count, (stride, dilation) in zip(
            widths[2:6], config.blocks, ((2, 1), (2, 1), (1, 2), (1, 4)), strict=True
        ):
            blocks: list[nn.Module] = []
            for i in range(count):
                blocks.append(kind(width, channels, stride if i == 0 else 1, dilation))
                width = channels * kind.expansion
            layers.append(nn.Sequential(*blocks))
        for channels, dilation in zip(widths[6:], (2, 1), strict=True):
            layers.append(_single(width, channels, 1, dilation))
            width = channels
        self.base = nn.Sequential(*layers)
        self.seg = nn.Conv2d(width, classes, 1)
        self.up = nn.ConvTranspose2d(classes, classes, 2 * STRIDE, STRIDE, STRIDE // 2, groups=classes, bias=False)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3 or any(side % STRIDE for side in x.shape[2:]):
            raise ValueError(f"pictures are (N, 3, H, W), sides multiples of {STRIDE}, not {tuple(x.shape)}")
        return self.up(self.seg(self.base(x))).log_softmax(1)


def normalise(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] in the units of the network's training."""
    mean, deviation = (torch.tensor(values, device=pictures.device).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (pictures - mean) / deviation


def bilinear_filter(size: int) -> Tensor:
    """The kernel (size, size) float32 with which a transposed convolution of stride size / 2 enlarges bilinearly."""
    half = (size + 1) // 2
    centre = half - 1 if size % 2 else half - 0.5
    taps = 1 - (torch.arange(size) - centre).abs() / half
    return taps.outer(taps)


def _initialise(network: DRN) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        network.up.weight.copy_(bilinear_filter(2 * STRIDE).expand_as(network.up.weight))
    network.up.weight.requires_grad_(False)  # it is no part of what is learnt


def _conv(inputs: int, outputs: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def _single(inputs: int, outputs: int, stride: int, dilation: int, kernel: int = 3) -> nn.Sequential:
    conv = _conv(inputs, outputs, kernel, stride, dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride, 1), nn.BatchNorm2d(outputs))
