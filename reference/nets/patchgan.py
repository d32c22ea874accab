"""The discriminators of pix2pix, CycleGAN and CUT: PatchGAN and PixelGAN (Isola et al. 2017), antialiased or not.

Parameter names are the published ones. The receptive field of the usual three layers is 70 x 70 px, 84 x 84 where they
are antialiased as in CUT.
"""

from __future__ import annotations

from torch import Tensor, nn

from gengauge.reference.nets.blurpool import Downsample
from gengauge.reference.nets.translation_resnet import Norm, init_weights, norm_layer

SLOPE = 0.2  # of the leaky ReLU
WIDEST = 8  # times ndf


class PatchDiscriminator(nn.Module):
    """Pictures (N, input_nc, H, W) to a map of scores (N, 1, h, w) without sigmoid: 256 px to 30 x 30.

    2,764,737 parameters as configured by default. Raises ValueError for pictures too small to give one score.
    """

    def __init__(
        self,
        input_nc: int = 3,
        ndf: int = 64,
        n_layers: int = 3,
        norm: Norm = "instance",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.input_nc, self.n_layers = input_nc, n_layers
        self.independent = norm == "instance"  # whether a picture's scores do not depend on the others of its batch
        bias = norm == "instance"
        stride = 1 if antialias else 2

        def halved(channels: int) -> list[nn.Module]:
            return [nn.LeakyReLU(SLOPE, inplace=True), *([Downsample(channels)] if antialias else [])]

        layers = [nn.Conv2d(input_nc, ndf, 4, stride, padding=1), *halved(ndf)]
        width = ndf
        for i in range(1, n_layers):
            inputs, width = width, ndf * min(2**i, WIDEST)
            layers += [nn.Conv2d(inputs, width, 4, stride, padding=1, bias=bias), norm_layer(norm, width)]
            layers += halved(width)
        inputs, width = width, ndf * min(2**n_layers, WIDEST)
        layers += [
            nn.Conv2d(inputs, width, 4, padding=1, bias=bias),
            norm_layer(norm, width),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(width, 1, 4, padding=1),
        ]
        self.model = nn.Sequential(*layers)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        smallest = 3 << self.n_layers  # two convolutions of 4 taps follow the halvings
        if x.ndim != 4 or x.shape[1] != self.input_nc or min(x.shape[2:]) < smallest:
            raise ValueError(
                f"pictures are (N, {self.input_nc}, H, W) of at least {smallest} px a side, not {tuple(x.shape)}"
            )
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """Pictures (N, input_nc, H, W) to a score for every pixel (N, 1, H, W), from that pixel alone."""

    def __init__(self, input_nc: int = 3, ndf: int = 64, norm: Norm = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            norm_layer(norm, 2 * ndf),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
