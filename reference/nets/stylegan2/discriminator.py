"""StyleGAN2's discriminator, with the architectures `resnet`, `skip` and `orig`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.reference.nets.stylegan2.layers import (
    FIR,
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    channels_at,
    resolutions_up_to,
    works_in_half,
)
from gengauge.reference.nets.stylegan2.ops import downsample2d, minibatch_stddev, setup_filter


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution, which they halve: (x, img) of the block before to (x, img)."""

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        img_channels: int,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = FIR,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        self.architecture, self.use_fp16 = architecture, use_fp16
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        more: dict[str, Any] = {"resample_filter": resample_filter, "conv_clamp": conv_clamp}
        self.fromrgb = (
            Conv2dLayer(img_channels, hidden, 1, activation=activation, **more)
            if not inputs or architecture == "skip"
            else None
        )
        self.conv0 = Conv2dLayer(hidden, hidden, 3, activation=activation, **more)
        self.conv1 = Conv2dLayer(hidden, outputs, 3, activation=activation, down=2, **more)
        if architecture == "resnet":
            self.skip = Conv2dLayer(hidden, outputs, 1, bias=False, down=2, resample_filter=resample_filter)

    def forward(self, x: Tensor | None, img: Tensor | None) -> tuple[Tensor, Tensor | None]:
        given = img if x is None else x
        assert given is not None
        dtype = torch.float16 if self.use_fp16 and given.device.type == "cuda" else torch.float32
        x = None if x is None else x.to(dtype)
        if self.fromrgb is not None:
            assert img is not None
            y = self.fromrgb(img.to(dtype))
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            return shortcut + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """The layers at 4x4: minibatch deviation, convolution, two linear layers, and the projection on a label."""

    def __init__(
        self,
        inputs: int,
        cmap_dim: int,
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim, self.group_size, self.features = cmap_dim, mbstd_group_size, mbstd_num_channels
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, inputs, 1, activation=activation)
        self.architecture = architecture
        self.conv = Conv2dLayer(inputs + mbstd_num_channels, inputs, 3, activation=activation, conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(inputs * 16, inputs, activation)
        self.out = FullyConnectedLayer(inputs, cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        x = x.float()
        if self.architecture == "skip":
            assert img is not None
            x = x + self.fromrgb(img.float())
        if self.features:
            x = minibatch_stddev(x, self.group_size, self.features)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            x = (x * cmap).sum(1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Pictures (N, img_channels, R, R) and labels (N, c_dim) to logits (N, 1)."""

    def __init__(
        self,
        c_dim: int = 0,
        img_resolution: int = 256,
        img_channels: int = 3,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.block_resolutions = resolutions_up_to(img_resolution)[:0:-1]
        blocks = dict(block_kwargs or {})
        blocks.pop("freeze_layers", None)  # of transfer learning, which no recipe here uses
        width = {r: channels_at(r, channel_base, channel_max) for r in resolutions_up_to(img_resolution)}
        cmap = 0 if not c_dim else width[4] if cmap_dim is None else cmap_dim
        for resolution in self.block_resolutions:
            block = DiscriminatorBlock(
                width[resolution] if resolution < img_resolution else 0,
                width[resolution],
                width[resolution // 2],
                img_channels,
                architecture,
                conv_clamp=conv_clamp,
                use_fp16=works_in_half(resolution, img_resolution, num_fp16_res),
                **blocks,
            )
            setattr(self, f"b{resolution}", block)
        if c_dim:
            self.mapping = MappingNetwork(0, c_dim, cmap, None, w_avg_beta=None, **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(
            width[4], cmap, img_channels, architecture, conv_clamp=conv_clamp, **(epilogue_kwargs or {})
        )

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if img.shape[1:] != expected:
            raise ValueError(f"pictures must be (N, {', '.join(map(str, expected))}), not {tuple(img.shape)}")
        x, rest = None, img
        for resolution in self.block_resolutions:
            x, rest = getattr(self, f"b{resolution}")(x, rest)
        cmap = self.mapping(None, c) if self.c_dim else None
        return self.b4(x, rest, cmap)
