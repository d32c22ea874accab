"""SPADE's generator, "GauGAN" (Park et al., CVPR 2019), and GAN Compression's small form of it (Li et al., CVPR 2020).

Parameter names are those of the published Cityscapes checkpoints. The fused form computes the same: the first
convolutions of a block's norms are one, `X.mlp_shared`, and gamma and beta one convolution, `X.norm_k.mlp_gamma_beta`,
where they are not separable. Where the published code multiplies elementwise, so does this one: MACs are counted by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.published import joined, parted

SLOPE = 0.2  # of the leaky ReLU
HALVINGS = 6  # from the picture to the first map
KINDS = ("weight", "bias")
# Blocks in execution order with their width, in units of the block's own number; the picture doubles after each.
BLOCKS = {"head_0": 16, "G_middle_0": 16, "G_middle_1": 16, "up_0": 8, "up_1": 4, "up_2": 2, "up_3": 1}


@dataclass(frozen=True)
class SPADEConfig:
    """Sizes of a generator. Raises ValueError where the numbers are not 1 + 7, or the picture has too few pixels."""

    crop_size: int = 512  # px, the picture's width
    aspect_ratio: float = 2.0  # width over height
    labels: int = 35  # classes; one more channel tells the edges of instances
    channels: tuple[int, ...] = (
        64,
    ) * 8  # numbers of the first convolution and of each block; `ngf` throughout in SPADE
    separable: bool = False  # gamma and beta by a depthwise and a 1x1 convolution, normalised between

    def __post_init__(self) -> None:
        if len(self.channels) != 1 + len(BLOCKS):
            raise ValueError(f"a generator has {1 + len(BLOCKS)} numbers of channels, not {len(self.channels)}")
        if min(self.latent) < 1:
            raise ValueError(
                f"a picture {self.crop_size} px wide at {self.aspect_ratio}:1 has no map before 6 doublings"
            )

    @property
    def latent(self) -> tuple[int, int]:
        """(height, width) of the first map."""
        width = self.crop_size >> HALVINGS
        return round(width / self.aspect_ratio), width

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        height, width = self.latent
        return height << HALVINGS, width << HALVINGS

    @property
    def inputs(self) -> int:
        """Channels of the network's input: labels and edges."""
        return self.labels + 1


CITYSCAPES = SPADEConfig()
CITYSCAPES_MOBILE = SPADEConfig(channels=(32, 32, 32, 48, 32, 24, 24, 32), separable=True)


@dataclass(frozen=True)
class Planned:
    """A block's name and channels; `hidden` are those between labels and gamma, beta."""

    name: str
    inputs: int
    middle: int
    outputs: int
    hidden: int

    @property
    def shortcut(self) -> bool:
        """Whether the block has a convolution beside: those that narrow, even where a configuration keeps the width."""
        return self.name.startswith("up_")

    @property
    def norms(self) -> dict[str, int]:
        """The block's norms with the channels that they normalise, in the order of the fused layout."""
        norms = {"norm_0": self.inputs, "norm_1": self.middle}
        return {**norms, "norm_s": self.inputs} if self.shortcut else norms


def plan(config: SPADEConfig) -> list[Planned]:
    """The blocks in execution order. The first three give the width back that they take; the others narrow."""
    blocks: list[Planned] = []
    x = 16 * config.channels[0]
    for (name, factor), number in zip(BLOCKS.items(), config.channels[1:], strict=True):
        middle = number * factor
        outputs = middle if name.startswith("up_") else x
        blocks.append(Planned(name, x, middle, outputs, 2 * number))
        x = outputs
    return blocks


class SeparableConv2d(nn.Module):
    """A depthwise 3x3 convolution, instance normalisation without weights, and a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
            nn.InstanceNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SPADE(nn.Module):
    """Batch normalisation, scaled and shifted at every pixel by what two convolutions make of the labels.

    In the fused form `forward` is given the first convolution's output instead of the labels.
    """

    mlp_gamma: nn.Module  # these two only where there is no `mlp_gamma_beta`
    mlp_beta: nn.Module

    def __init__(self, channels: int, labels: int, hidden: int, separable: bool, fused: bool) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = None if fused else shared(labels, hidden)
        self.mlp_gamma_beta = None
        if fused and not separable:
            self.mlp_gamma_beta = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        elif separable:
            self.mlp_gamma, self.mlp_beta = SeparableConv2d(hidden, channels), SeparableConv2d(hidden, channels)
        else:
            self.mlp_gamma, self.mlp_beta = (nn.Conv2d(hidden, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        normalized = self.param_free_norm(x)
        h = labels if self.mlp_shared is None else self.mlp_shared(resized(labels, x))
        if self.mlp_gamma_beta is None:
            gamma, beta = self.mlp_gamma(h), self.mlp_beta(h)
        else:
            gamma, beta = self.mlp_gamma_beta(h).chunk(2, 1)
        return normalized * (1 + gamma) + beta


class SPADEBlock(nn.Module):
    """Two normalised 3x3 convolutions, beside an identity or a normalised 1x1 convolution."""

    norm_0: SPADE
    norm_1: SPADE
    norm_s: SPADE  # only where there is a `conv_s`

    def __init__(self, planned: Planned, labels: int, separable: bool, fused: bool) -> None:
        super().__init__()
        self.norms = tuple(planned.norms)
        self.hidden = planned.hidden
        self.conv_0 = nn.Conv2d(planned.inputs, planned.middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(planned.middle, planned.outputs, 3, padding=1)
        self.conv_s = nn.Conv2d(planned.inputs, planned.outputs, 1, bias=False) if planned.shortcut else None
        self.mlp_shared = shared(labels, len(self.norms) * planned.hidden) if fused else None
        for name, channels in planned.norms.items():
            self.add_module(name, SPADE(channels, labels, planned.hidden, separable, fused))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x (N, inputs, h, w) and the input of the network (N, labels, H, W) to (N, outputs, h, w)."""
        given = dict.fromkeys(self.norms, labels)
        if self.mlp_shared is not None:
            parts = self.mlp_shared(resized(labels, x)).split(self.hidden, 1)
            given = dict(zip(self.norms, parts, strict=True))
        shortcut = x if self.conv_s is None else self.conv_s(self.norm_s(x, given["norm_s"]))
        h = self.conv_0(F.leaky_relu(self.norm_0(x, given["norm_0"]), SLOPE))
        h = self.conv_1(F.leaky_relu(self.norm_1(h, given["norm_1"]), SLOPE))
        return shortcut + h


class SPADEGenerator(nn.Module):
    """Labels and edges (N, labels + 1, H, W) as `one_hot_with_edges` makes them to pictures (N, 3, H, W) in [-1, 1].

    Published networks are used in evaluation mode: the norms have running statistics.
    """

    def __init__(self, config: SPADEConfig = CITYSCAPES, fused: bool = False) -> None:
        super().__init__()
        self.config, self.fused = config, fused
        blocks = plan(config)
        self.fc = nn.Conv2d(config.inputs, blocks[0].inputs, 3, padding=1)
        for planned in blocks:
            self.add_module(planned.name, SPADEBlock(planned, config.inputs, config.separable, fused))
        self.conv_img = nn.Conv2d(blocks[-1].outputs, 3, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        expected = (self.config.inputs, *self.config.size)
        if labels.shape[1:] != expected:
            raise ValueError(f"labels must be (N, {', '.join(map(str, expected))}), not {tuple(labels.shape)}")
        x = self.fc(F.interpolate(labels, size=self.config.latent, mode="nearest"))
        for name in BLOCKS:
            if name != "head_0":
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.get_submodule(name)(x, labels)
        return torch.tanh(self.conv_img(F.leaky_relu(x, SLOPE)))


def shared(labels: int, hidden: int) -> nn.Sequential:
    """The first convolution of the labels."""
    return nn.Sequential(nn.Conv2d(labels, hidden, 3, padding=1), nn.ReLU())


def resized(labels: Tensor, like: Tensor) -> Tensor:
    """Labels at the resolution of a map."""
    return F.interpolate(labels, size=like.shape[2:], mode="nearest")


def one_hot_with_edges(label: Tensor, instance: Tensor, labels: int) -> Tensor:
    """Classes and instance numbers (N, H, W) or (N, 1, H, W), integers, to (N, labels + 1, H, W) float32.

    The last channel is 1 on both sides of a border between instances (`edges`). Raises ValueError where shapes
    differ or a class is not in 0 ... labels - 1.
    """
    if label.ndim == 4 and label.shape[1] == 1:
        label = label[:, 0]
    if instance.ndim == 4 and instance.shape[1] == 1:
        instance = instance[:, 0]
    if label.ndim != 3 or label.shape != instance.shape:
        raise ValueError(
            f"label and instance maps are (N, H, W) of one shape, not {tuple(label.shape)} and {tuple(instance.shape)}"
        )
    label = label.long()
    if label.numel() and (label.min() < 0 or label.max() >= labels):
        raise ValueError(f"classes {int(label.min())} to {int(label.max())} do not fit in {labels} labels from 0")
    one_hot = F.one_hot(label, labels).permute(0, 3, 1, 2)
    return torch.cat([one_hot.float(), edges(instance)[:, None].float()], 1)


def edges(instance: Tensor) -> Tensor:
    """Instance numbers (N, H, W) to bool: where a pixel differs from its left, right, upper or lower neighbour."""
    across = instance[..., 1:] != instance[..., :-1]
    along = instance[..., 1:, :] != instance[..., :-1, :]
    return F.pad(across, (0, 1)) | F.pad(across, (1, 0)) | F.pad(along, (0, 0, 0, 1)) | F.pad(along, (0, 0, 1, 0))


def fuse(state: Mapping[str, Tensor], config: SPADEConfig) -> dict[str, Tensor]:
    """The fused network's state dict from the plain one's; what does not change is shared.

    Raises ValueError where a tensor is missing.
    """
    out = dict(state)
    for block in plan(config):
        norms = [f"{block.name}.{norm}" for norm in block.norms]
        for kind in KINDS:
            joined(out, [f"{norm}.mlp_shared.0.{kind}" for norm in norms], f"{block.name}.mlp_shared.0.{kind}")
            if config.separable:
                continue
            for norm in norms:
                joined(
                    out, [f"{norm}.mlp_{part}.{kind}" for part in ("gamma", "beta")], f"{norm}.mlp_gamma_beta.{kind}"
                )
    return out


def unfuse(state: Mapping[str, Tensor], config: SPADEConfig) -> dict[str, Tensor]:
    """The plain network's state dict from the fused one's: the inverse of `fuse`. Raises ValueError as it does."""
    out = dict(state)
    for block in plan(config):
        norms = {f"{block.name}.{norm}": channels for norm, channels in block.norms.items()}
        for kind in KINDS:
            names = [f"{norm}.mlp_shared.0.{kind}" for norm in norms]
            parted(out, f"{block.name}.mlp_shared.0.{kind}", names, [block.hidden] * len(norms))
            if config.separable:
                continue
            for norm, channels in norms.items():
                names = [f"{norm}.mlp_{part}.{kind}" for part in ("gamma", "beta")]
                parted(out, f"{norm}.mlp_gamma_beta.{kind}", names, [channels] * 2)
    return out
