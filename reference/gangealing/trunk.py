"""The trunk of residual blocks that GANgealing's transformers and its classifier share.

Source: Peebles et al., CVPR 2022, appendix: the layers of StyleGAN2's discriminator, with half its channels.
"""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn

from gengauge.reference.gangealing.warps import BilinearDownsample
from gengauge.reference.nets.stylegan2.layers import resolutions_up_to
from gengauge.reference.nets.stylegan2.rosinality import WIDEST, channels_of
from gengauge.reference.nets.stylegan2.translation import ConvLayer, ResBlock

SMALLEST = 4  # px of the features that end in a linear layer
FLOW_BLOCKS = 4  # of which those after the last halving keep their size


class Trunk(nn.Module):
    """Pictures (N, 3, flow_size, flow_size) to features; those of `supersize` are made smaller first.

    Without `flow_downsample` blocks halve down to 4 px: (N, C, 4, 4). With it there are four blocks, of which as many
    halve as it asks for: (N, C, flow_size / flow_downsample, the same).
    """

    def __init__(
        self,
        flow_size: int = 128,
        supersize: int | None = None,
        channel_multiplier: float = 0.5,
        base_channels: int = WIDEST,
        flow_downsample: int | None = None,
    ) -> None:
        super().__init__()
        resolutions = resolutions_up_to(flow_size)[::-1]
        supersize = supersize or flow_size
        if supersize % flow_size:
            raise ValueError(f"supersize must be a multiple of flow_size {flow_size}, not {supersize}")
        self.flow_size, self.supersize = flow_size, supersize
        if supersize > flow_size:
            self.input_downsample = BilinearDownsample(supersize // flow_size, 3)
        halvings = len(resolutions) - 1
        blocks = halvings
        if flow_downsample is not None:
            halvings, blocks = int(math.log2(flow_downsample)), FLOW_BLOCKS
            if 2**halvings != flow_downsample or halvings > blocks or flow_size < SMALLEST << blocks:
                raise ValueError(
                    f"a flow of at least {SMALLEST << blocks} px is made from features 1, 2, ... {1 << blocks} times"
                    f" smaller, not one of {flow_size} px from {flow_downsample} times smaller ones"
                )
        widths = [channels_of(resolution, channel_multiplier, base_channels) for resolution in resolutions]
        layers: list[nn.Module] = [ConvLayer(3, widths[0], 1, flat=True)]
        layers += [ResBlock(widths[i], widths[i + 1], down=i < halvings, flat=True) for i in range(blocks)]
        self.convs = nn.Sequential(*layers)
        self.channels = widths[blocks]
        self.final_conv = ConvLayer(self.channels, self.channels, 3, flat=True)

    def smaller(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) at `flow_size`. Raises ValueError where S is neither that nor `supersize`."""
        side = x.shape[-1]
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != side or side not in (self.flow_size, self.supersize):
            either = " or ".join(map(str, sorted({self.flow_size, self.supersize})))
            raise ValueError(f"pictures are (N, 3, S, S) with S {either}, not {tuple(x.shape)}")
        return x if side == self.flow_size else cast(Tensor, self.input_downsample(x))

    def features(self, x: Tensor) -> Tensor:
        """The features of pictures at `flow_size` or `supersize`."""
        return self.final_conv(self.convs(self.smaller(x)))
