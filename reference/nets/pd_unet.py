"""The U-Net of Progressive Distillation (Salimans and Ho, ICLR 2022) as SIGE uses it for LSUN churches.

Unlike DDPM's it is told the log signal-to-noise ratio, its time embedding scales as well as shifts, its attention has
several heads, and residual blocks do the resampling (`down.0.downsample`, `up.1.upsample`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.unet import EPS, UNet, UNetConfig

Resampling = Literal["down", "up"]


@dataclass(frozen=True)
class PDConfig(UNetConfig):
    """Sizes of a network; the output holds an estimate of the picture, then one of the noise."""

    out_ch: int = 6
    head_dim: int = 64  # channels of an attention head


CHURCH_128 = PDConfig(128, 64, (1, 2, 4, 6, 8), 3, (8, 16, 32), temb_ch=768)
CHURCH_256 = PDConfig(256, 64, (1, 1, 2, 4, 6, 8), 3, (8, 16, 32), temb_ch=768)  # published for its speed, untrained


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions, scaled and shifted by the time's embedding, beside a shortcut.

    With `resampling` both branches are halved by averaging, or doubled by repeating pixels, before the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, config: PDConfig, resampling: Resampling | None = None) -> None:
        super().__init__()
        self.resampling = resampling
        self.norm1 = nn.GroupNorm(config.num_groups, inputs, EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.temb_proj = nn.Linear(config.temb_ch, 2 * outputs)
        self.norm2 = nn.GroupNorm(config.num_groups, outputs, EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def resample(self, x: Tensor) -> Tensor:
        """(N, C, H, W) at the block's output resolution."""
        if self.resampling == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resampling == "up" else x

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        x = self.resample(x)
        scale, shift = self.temb_proj(F.silu(temb))[:, :, None, None].chunk(2, 1)
        h = self.norm2(h) * (1 + scale) + shift
        h = self.conv2(self.dropout(F.silu(h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class Attention(nn.Module):
    """Self-attention of pixels with heads of `head_dim` channels, and a residual.

    `qkv` gives the queries of all heads, then the keys, then the values. Raises ValueError where heads do not fit.
    """

    # Products of picture sizes in the published code; a trace counts each as one multiplication.
    size_products = 6

    def __init__(self, channels: int, config: PDConfig) -> None:
        super().__init__()
        if channels % config.head_dim:
            raise ValueError(f"{channels} channels cannot be cut into heads of {config.head_dim}")
        self.head_dim = config.head_dim
        self.norm = nn.GroupNorm(config.num_groups, channels, EPS)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # (N * heads, head_dim, pixels) each
        q, k, v = (part.reshape(-1, self.head_dim, x[0, 0].numel()) for part in self.qkv(self.norm(x)).chunk(3, 1))
        weights = F.softmax(torch.bmm(q.transpose(1, 2), k) * self.head_dim**-0.5, 2)
        h = torch.bmm(v, weights.transpose(1, 2)).view(x.shape)
        return x + self.proj_out(h)


class PDUNet(UNet):
    """Pictures (N, in_channels, R, R) about [-1, 1] and their logsnr (N,) to (N, out_ch, R, R): picture, then noise.

    logsnr is the logarithm of alpha^2 / sigma^2, not a step: -20 is nothing but noise, 20 nothing but picture.
    """

    config: PDConfig

    def __init__(self, config: PDConfig = CHURCH_128) -> None:
        super().__init__(
            config,
            lambda planned: ResBlock(planned.inputs, planned.outputs, config),
            lambda channels: Attention(channels, config),
            lambda channels: ResBlock(channels, channels, config, "down"),
            lambda channels: ResBlock(channels, channels, config, "up"),
        )

    def embeddings(self, t: Tensor) -> Iterator[Tensor]:
        return super().embeddings(1000 * inv_cos(t))

    def resample(self, layer: nn.Module, x: Tensor, embeddings: Iterator[Tensor]) -> Tensor:
        return layer(x, next(embeddings))


def inv_cos(logsnr: Tensor) -> Tensor:
    """The time in [0, 1] at which the cosine schedule has a logsnr, clipped to [-20, 20]: 0 is the clean picture."""
    return torch.atan(torch.exp(-0.5 * logsnr.clamp(-20, 20))) / (0.5 * math.pi)
