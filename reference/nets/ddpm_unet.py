"""The U-Net of DDPM (Ho et al., NeurIPS 2020) as DDIM, SDEdit and SIGE use it, plain and fused.

Parameter names are those of the published checkpoints (`down.0.block.0.conv1.weight` ...). The fused form computes the
same: all time projections are one layer, `temb.dense.2`, and the attention's q, k and v one convolution, `qkv`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.published import joined, parted
from gengauge.reference.nets.unet import EPS, Planned, UNet, UNetConfig, plan

CHURCH_256 = UNetConfig(256, 128, (1, 1, 2, 2, 4, 4), 2, (16,), temb_ch=512)  # bedrooms and CelebA-HQ, too
CELEBA_64 = UNetConfig(64, 128, (1, 2, 2, 2, 4), 2, (16,), temb_ch=512, dropout=0.1)
CIFAR10_32 = UNetConfig(32, 128, (1, 2, 2, 2), 2, (16,), temb_ch=512, dropout=0.1)

QKV = ("q", "k", "v")
KINDS = ("weight", "bias")


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions, the time's embedding added between them, beside an identity or a shortcut.

    The shortcut is a 1x1 convolution, with `conv_shortcut` (which no published network has) a 3x3 one. The embedding is
    (N, temb_ch), or already projected to (N, outputs) where `temb_ch` is None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        temb_ch: int | None,
        dropout: float,
        num_groups: int,
        conv_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, inputs, EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.temb_proj = None if temb_ch is None else nn.Linear(temb_ch, outputs)
        self.norm2 = nn.GroupNorm(num_groups, outputs, EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        changes = inputs != outputs
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if changes and not conv_shortcut else None
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 3, padding=1) if changes and conv_shortcut else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        emb = temb if self.temb_proj is None else self.temb_proj(F.silu(temb))
        h = h + emb[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        shortcut = self.nin_shortcut or self.conv_shortcut
        return (x if shortcut is None else shortcut(x)) + h


class Attention(nn.Module):
    """Self-attention of pixels with one head, and a residual."""

    # Products of picture sizes in the published code; a trace counts each as one multiplication, in either form.
    size_products = 3

    def __init__(self, channels: int, fused: bool, num_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, channels, EPS)
        self.fused = fused
        if fused:
            self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        else:
            self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in QKV)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self.qkv(h).chunk(3, 1) if self.fused else (self.q(h), self.k(h), self.v(h))
        weights = torch.bmm(q.flatten(2).transpose(1, 2), k.flatten(2)) * q.shape[1] ** -0.5
        weights = F.softmax(weights, 2)  # (N, queries, keys)
        h = torch.bmm(v.flatten(2), weights.transpose(1, 2)).view(x.shape)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halves by a strided 3x3 convolution that looks one pixel beyond the right and lower edge, or by means of four."""

    def __init__(self, channels: int, with_conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles by repeating pixels, then convolves unless told not to."""

    def __init__(self, channels: int, with_conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x if self.conv is None else self.conv(x)


class DDPMUNet(UNet):
    """Pictures (N, in_channels, R, R) about [-1, 1] at steps t (N,), from 0, to their noise (N, out_ch, R, R)."""

    def __init__(self, config: UNetConfig = CHURCH_256, fused: bool = False) -> None:
        rows = [planned.outputs for planned in plan(config)]

        def block(planned: Planned) -> ResBlock:
            temb_ch = None if fused else config.temb_ch
            return ResBlock(planned.inputs, planned.outputs, temb_ch, config.dropout, config.num_groups)

        def attention(channels: int) -> Attention:
            return Attention(channels, fused, config.num_groups)

        def downsample(channels: int) -> Downsample:
            return Downsample(channels, config.resamp_with_conv)

        def upsample(channels: int) -> Upsample:
            return Upsample(channels, config.resamp_with_conv)

        super().__init__(config, block, attention, downsample, upsample, sum(rows) if fused else None)
        self.fused, self.rows = fused, rows  # of temb.dense.2, a block each

    def embeddings(self, t: Tensor) -> Iterator[Tensor]:
        if not self.fused:
            return super().embeddings(t)
        return iter(self.temb(self.sinusoids(t)).split(self.rows, 1))


def fuse(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The fused network's state dict from the plain one's; what does not change is shared.

    Rows of `temb.dense.2` are in execution order: the way up goes from the lowest resolution to the highest. Raises
    ValueError where a tensor is missing.
    """
    out = dict(state)
    for kind in KINDS:
        joined(out, [f"{block.name}.temb_proj.{kind}" for block in plan(config)], f"temb.dense.2.{kind}")
        for attention in _attentions(config):
            joined(out, [f"{attention}.{part}.{kind}" for part in QKV], f"{attention}.qkv.{kind}")
    return out


def unfuse(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The plain network's state dict from the fused one's: the inverse of `fuse`. Raises ValueError as it does."""
    out = dict(state)
    for kind in KINDS:
        blocks = plan(config)
        names = [f"{block.name}.temb_proj.{kind}" for block in blocks]
        parted(out, f"temb.dense.2.{kind}", names, [block.outputs for block in blocks])
        for attention, channels in _attentions(config).items():
            names = [f"{attention}.{part}.{kind}" for part in QKV]
            parted(out, f"{attention}.qkv.{kind}", names, [channels] * len(QKV))
    return out


def _attentions(config: UNetConfig) -> dict[str, int]:
    return {block.attention: block.outputs for block in plan(config) if block.attention}
