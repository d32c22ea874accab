"""DexiNed: a dense network for edges, seven maps of logits from coarse and fine scales (Soria et al., WACV 2020).

Names and order of the parameters are those of the authors' PyTorch file (35,215,245 of them), as GAN Warping's
evaluation ships it. Two parts of that file are never used: `side_5` and the batch norm of `block_cat`.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

MULTIPLE = 16  # of which both sides of a picture must be
MEAN_BGR = (103.939, 116.779, 123.68)  # grey levels, subtracted from the pictures that the network was trained on
UPSAMPLER_CHANNELS = 16
UPSAMPLER_PADDING = {1: 0, 2: 1, 3: 3, 4: 7}  # by the number of doublings, with kernels of 2 ** doublings


class DexiNed(nn.Module):
    """Logits of edges of pictures (N, 3, H, W), BGR grey levels less `MEAN_BGR`; sides are multiples of 16.

    Gives seven maps (N, 1, H, W), of the six blocks and, last, their learnt sum, which is the one to use. ValueError
    for pictures of another shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block_1 = ConvolutionPair(3, 32, 64, stride=2)
        self.block_2 = ConvolutionPair(64, 128, 128, last_relu=False)
        self.dblock_3 = DenseBlock(2, 128, 256)
        self.dblock_4 = DenseBlock(3, 256, 512)
        self.dblock_5 = DenseBlock(3, 512, 512)
        self.dblock_6 = DenseBlock(3, 512, 256)
        self.side_1 = Projection(64, 128, stride=2)
        self.side_2 = Projection(128, 256, stride=2)
        self.side_3 = Projection(256, 512, stride=2)
        self.side_4 = Projection(512, 512)
        self.side_5 = Projection(512, 256)
        self.pre_dense_2 = Projection(128, 256, stride=2)
        self.pre_dense_3 = Projection(128, 256)
        self.pre_dense_4 = Projection(256, 512)
        self.pre_dense_5 = Projection(512, 512)
        self.pre_dense_6 = Projection(512, 256)
        self.up_block_1 = Upsampler(64, 1)
        self.up_block_2 = Upsampler(128, 1)
        self.up_block_3 = Upsampler(256, 2)
        self.up_block_4 = Upsampler(512, 3)
        self.up_block_5 = Upsampler(512, 4)
        self.up_block_6 = Upsampler(256, 4)
        self.block_cat = Projection(6, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.ndim != 4 or x.shape[1] != 3 or not x.numel() or x.shape[2] % MULTIPLE or x.shape[3] % MULTIPLE:
            raise ValueError(
                f"DexiNed takes pictures (N, 3, H, W) whose sides are multiples of {MULTIPLE}, not {tuple(x.shape)}; "
                "pad them and crop the result"
            )
        block_1 = self.block_1(x)  # 1/2 of the size
        block_2 = self.block_2(block_1)
        down_2 = _halved(block_2)  # 1/4
        sum_2 = down_2 + self.side_1(block_1)

        block_3 = self.dblock_3(sum_2, self.pre_dense_3(down_2))
        down_3 = _halved(block_3)  # 1/8
        sum_3 = down_3 + self.side_2(sum_2)

        block_4 = self.dblock_4(sum_3, self.pre_dense_4(down_3 + self.pre_dense_2(down_2)))
        down_4 = _halved(block_4)  # 1/16
        sum_4 = down_4 + self.side_3(sum_3)

        block_5 = self.dblock_5(sum_4, self.pre_dense_5(down_4))
        sum_5 = block_5 + self.side_4(sum_4)

        block_6 = self.dblock_6(sum_5, self.pre_dense_6(block_5))

        logits = [
            self.up_block_1(block_1),
            self.up_block_2(block_2),
            self.up_block_3(block_3),
            self.up_block_4(block_4),
            self.up_block_5(block_5),
            self.up_block_6(block_6),
        ]
        return [*logits, self.block_cat.conv(torch.cat(logits, 1))]


class ConvolutionPair(nn.Module):
    """Two 3x3 convolutions with batch norm, and ReLU after the first or both: (N, C, H, W) to (N, C', H/s, W/s)."""

    def __init__(self, inputs: int, between: int, outputs: int, stride: int = 1, last_relu: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, between, 3, stride, 1)
        self.bn1: nn.Module = nn.BatchNorm2d(between)
        self.conv2 = nn.Conv2d(between, outputs, 3, padding=1)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs)
        self.last_relu = last_relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x) if self.last_relu else x


class DenseLayer(nn.Module):
    """The mean of a skip connection and of two 3x3 convolutions with batch norm; sizes are kept."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # The margin of 2 px that the first one adds is what both of them take away.
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=2)
        self.norm1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3)
        self.norm2: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(F.relu(x))))))
        return 0.5 * (x + skip)


class DenseBlock(nn.Module):
    """Dense layers in a row, all with the same skip connection (N, outputs, H, W)."""

    def __init__(self, count: int, inputs: int, outputs: int) -> None:
        super().__init__()
        for i in range(count):
            self.add_module(f"denselayer{i + 1}", DenseLayer(outputs if i else inputs, outputs))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x, skip)
        return x


class Projection(nn.Module):
    """A 1x1 convolution with batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Upsampler(nn.Module):
    """Doubles the sides `doublings` times by transposed convolutions, down to one channel of logits."""

    def __init__(self, inputs: int, doublings: int) -> None:
        super().__init__()
        kernel, padding = 2**doublings, UPSAMPLER_PADDING[doublings]
        layers: list[nn.Module] = []
        channels = [inputs, *[UPSAMPLER_CHANNELS] * (doublings - 1), 1]
        for before, after in pairwise(channels):
            layers += [
                nn.Conv2d(before, after, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(after, after, kernel, stride=2, padding=padding),
            ]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def fold_batch_norm(network: DexiNed) -> DexiNed:
    """The same function in inference, its batch norms folded into the convolutions, in channels_last memory.

    Equal to rounding, and faster on a CPU. The result is frozen; the network given is left as it is.
    """
    network = copy.deepcopy(network).eval()
    pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv1", "norm1"), ("conv2", "norm2"), ("conv", "bn"))
    for module in network.modules():
        for convolution, norm in pairs:
            if module is network.block_cat or not hasattr(module, norm):
                continue
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last).requires_grad_(False)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, 1)
