"""The frame of the U-Nets of DDPM (Ho et al., NeurIPS 2020): levels, skips and time embedding, but no layers.

Where the published code multiplies elementwise, so does this one: MACs are counted by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of group normalisation


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a network. Raises ValueError where the picture cannot be halved often enough."""

    resolution: int  # px, of square pictures
    ch: int  # channels at ch_mult 1
    ch_mult: tuple[int, ...]  # a level each; the picture is halved between levels
    num_res_blocks: int  # a level on the way down; one more on the way up
    attn_resolutions: tuple[int, ...]  # px where attention follows every block; the middle always has it
    temb_ch: int  # width of the time embedding
    in_channels: int = 3
    out_ch: int = 3
    dropout: float = 0.0
    num_groups: int = 32  # of group normalisation
    # Not shown, so that a configuration that does without looks as it did before there was a choice.
    resamp_with_conv: bool = field(default=True, repr=False)  # else by means of four and repeated pixels

    def __post_init__(self) -> None:
        halvings = len(self.ch_mult) - 1
        if self.resolution % 2**halvings:
            raise ValueError(f"a picture of {self.resolution} px cannot be halved {halvings} times")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels, from the picture's resolution down."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    def attends(self, level: int) -> bool:
        """Whether attention follows the blocks of a level."""
        return self.resolution >> level in self.attn_resolutions


@dataclass(frozen=True)
class Planned:
    """A residual block: its name, its channels, and the name of the attention that follows it."""

    name: str
    inputs: int
    outputs: int
    attention: str | None = None


def plan(config: UNetConfig) -> list[Planned]:
    """The residual blocks in execution order, those that resample left out.

    A block on the way up takes the block before it and what was pushed last on the way down: the first convolution,
    each block and each downsampling push.
    """
    blocks: list[Planned] = []
    widths, levels = config.widths, range(len(config.ch_mult))

    def add(side: str, level: int, index: int, inputs: int) -> None:
        attention = f"{side}.{level}.attn.{index}" if config.attends(level) else None
        blocks.append(Planned(f"{side}.{level}.block.{index}", inputs, widths[level], attention))

    h, skips = config.ch, [config.ch]
    for level in levels:
        for i in range(config.num_res_blocks):
            add("down", level, i, h)
            h = widths[level]
            skips.append(h)
        if level != levels[-1]:
            skips.append(h)
    blocks += [Planned("mid.block_1", h, h, "mid.attn_1"), Planned("mid.block_2", h, h)]
    for level in reversed(levels):
        for i in range(config.num_res_blocks + 1):
            add("up", level, i, h + skips.pop())
            h = widths[level]
    return blocks


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines (N, dim) of times t (N,), at dim // 2 frequencies from 1 down to 1e-4.

    An odd dim ends in a column of zeros. Raises ValueError for a dim below 4, which has no two frequencies.
    """
    if dim < 4:
        raise ValueError(f"an embedding of {dim} columns has no two frequencies")
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -(math.log(10000) / (half - 1)))
    angles = t.float()[:, None] * frequencies[None]
    embedding = torch.cat([angles.sin(), angles.cos()], 1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


class TimeEmbedding(nn.Module):
    """Sinusoids (N, ch) to the embedding (N, temb_ch); with `projected`, to all blocks' rows of it (N, projected)."""

    def __init__(self, ch: int, temb_ch: int, projected: int | None = None) -> None:
        super().__init__()
        layers = [nn.Linear(ch, temb_ch), nn.Linear(temb_ch, temb_ch)]
        self.dense = nn.ModuleList(layers if projected is None else [*layers, nn.Linear(temb_ch, projected)])

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.dense):
            x = layer(F.silu(x) if i else x)
        return x


class Level(nn.Module):
    """The layers of one resolution, on one way; `attn` is empty where there is no attention."""

    def __init__(self, blocks: list[nn.Module], attentions: list[nn.Module]) -> None:
        super().__init__()
        self.block, self.attn = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None


class Middle(nn.Module):
    """The layers at the lowest resolution, between the ways."""

    def __init__(self, block_1: nn.Module, attn_1: nn.Module, block_2: nn.Module) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = block_1, attn_1, block_2


class UNet(nn.Module):
    """The frame. Its parts are made by functions: `block(planned)`, and the others by a level's channels."""

    def __init__(
        self,
        config: UNetConfig,
        block: Callable[[Planned], nn.Module],
        attention: Callable[[int], nn.Module],
        downsample: Callable[[int], nn.Module],
        upsample: Callable[[int], nn.Module],
        projected: int | None = None,  # see TimeEmbedding
    ) -> None:
        super().__init__()
        self.config = config
        blocks, widths = plan(config), config.widths

        def level(side: str, index: int) -> Level:
            own = [b for b in blocks if b.name.startswith(f"{side}.{index}.")]
            return Level([block(b) for b in own], [attention(b.outputs) for b in own if b.attention])

        self.temb = TimeEmbedding(config.ch, config.temb_ch, projected)
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            down, up = level("down", i), level("up", i)
            if i < len(widths) - 1:
                down.downsample = downsample(width)
            if i > 0:
                up.upsample = upsample(width)
            self.down.append(down)
            self.up.append(up)
        middle = [block(b) for b in blocks if b.name.startswith("mid.")]
        self.mid = Middle(middle[0], attention(widths[-1]), middle[1])
        self.norm_out = nn.GroupNorm(config.num_groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def sinusoids(self, t: Tensor) -> Tensor:
        """The sinusoids (N, ch) of times t (N,), in the type of the network's weights."""
        return timestep_embedding(t, self.config.ch).to(self.conv_in.weight.dtype)

    def embeddings(self, t: Tensor) -> Iterator[Tensor]:
        """What each block is given of times t (N,), in execution order."""
        return repeat(self.temb(self.sinusoids(t)))

    def resample(self, layer: nn.Module, x: Tensor, embeddings: Iterator[Tensor]) -> Tensor:
        """Calls a layer that halves or doubles the picture."""
        return layer(x)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(N, in_channels, R, R) at times t (N,) to (N, out_ch, R, R)."""
        embeddings = self.embeddings(t)
        skips = [self.conv_in(x)]
        for level in self.down:
            assert isinstance(level, Level)
            for i, block in enumerate(level.block):
                h = block(skips[-1], next(embeddings))
                skips.append(level.attn[i](h) if level.attn else h)
            if level.downsample is not None:
                skips.append(self.resample(level.downsample, skips[-1], embeddings))
        h = self.mid.block_1(skips[-1], next(embeddings))
        h = self.mid.block_2(self.mid.attn_1(h), next(embeddings))
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for i, block in enumerate(level.block):
                h = block(torch.cat([h, skips.pop()], 1), next(embeddings))
                h = level.attn[i](h) if level.attn else h
            if level.upsample is not None:
                h = self.resample(level.upsample, h, embeddings)
        return self.conv_out(F.silu(self.norm_out(h)))
