"""A small convolutional GAN of 32 px that trains in seconds on one CPU core. Not a published network."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESOLUTION = 32


class Generator(nn.Module):
    """Latents (N, latent) to pictures (N, 3, 32, 32) in [-1, 1]: three transposed convolutions from 4 px."""

    def __init__(self, latent: int = 64, width: int = 32) -> None:
        super().__init__()
        self.latent, channels = latent, [4 * width, 2 * width, width]
        self.start = nn.Linear(latent, channels[0] * 16)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in zip(channels, [*channels[1:], 3], strict=True)
        )

    def forward(self, z: Tensor) -> Tensor:
        x = self.start(z).view(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = convolution(F.relu(norm(x)))
        return torch.tanh(x)


class Discriminator(nn.Module):
    """Pictures (N, 3, 32, 32) to scores (N, 1): three strided convolutions and a linear layer, without normalisation.

    Without normalisation and with more updates than the generator it memorises a few dozen pictures in seconds, which
    is the failure that DiffAugment is about.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 4, 2, 1) for i, o in itertools.pairwise(channels))
        self.score = nn.Linear(channels[-1] * 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.2)
        return self.score(x.flatten(1))
