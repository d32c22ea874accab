"""The distance between an aligned picture and its target: LPIPS on VGG16, or plain features of a self-supervised VGG16.

Source: Zhang et al., CVPR 2018; Peebles et al. 2022, section 4 ("SSL"), whose trunk was trained by SimCLR on ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gengauge.reference.nets.lpips import LPIPS

Kind = Literal["lpips", "vgg_ssl"]
SSL_DIVISOR = 18.0  # brings the unweighed distance to about the size of LPIPS
_EPS = 1e-10


class PerceptualLoss(nn.Module):
    """Distances (N,) of pictures (N, 3, H, W) in [-1, 1] to others, by a frozen VGG16; `network` is its LPIPS module.

    `lpips` weighs channels by the learnt heads; `vgg_ssl` adds all of them up alike, without a use for the heads. The
    network is never in training mode, which would drop channels before the heads. Raises ValueError for another kind.
    """

    def __init__(self, kind: Kind = "lpips", network: LPIPS | None = None) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"a perceptual loss is {' or '.join(get_args(Kind))}, not {kind!r}")
        self.kind = kind
        self.network = (network or LPIPS("vgg")).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Changes nothing but this module's own flag."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.total(self.by_layer(a, b))

    def total(self, parts: list[Tensor]) -> Tensor:
        """The distances (N,) from the taps' parts."""
        return torch.stack(parts).sum(0) / (1.0 if self.kind == "lpips" else SSL_DIVISOR)

    def by_layer(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """The five taps' parts (N,) of the distance, those of `vgg_ssl` before they are divided.

        Raises ValueError for pictures of two shapes.
        """
        return self.between(self.features(a), self.features(b))

    def features(self, x: Tensor) -> list[Tensor]:
        """The five taps of pictures, each place's channels scaled to length 1, for many distances to the same ones."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"pictures are (N, 3, H, W), not {tuple(x.shape)}")
        return [tap / (tap.square().sum(1, keepdim=True).sqrt() + _EPS) for tap in self.network.taps(x)]

    def between(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        """The five parts (N,) of the distance between what `features` found; one of the two may be of one picture."""
        out = []
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x.shape[1:] != y.shape[1:] or (len(x) != len(y) and 1 not in (len(x), len(y))):
                raise ValueError("two batches of pictures of one shape are compared")
            squares = (x - y).square()
            if self.kind == "lpips":
                squares = self.network.get_submodule(f"lin{i}").get_submodule("model")(squares)
            out.append(squares.sum(1).mean((1, 2)))
        return out


def from_torchvision(state: Mapping[str, Tensor], network: LPIPS) -> dict[str, Tensor]:
    """Names of `network` for the weights of torchvision's VGG16 features: "0.weight" becomes "net.slice1.0.weight".

    The published self-supervised trunk comes so. The heads keep the network's own values. Raises ValueError naming
    weights that are missing or too many.
    """
    out = dict(network.state_dict())
    places = {name.split(".", 2)[2]: name for name in out if name.startswith("net.")}
    given = {name.removeprefix("features."): value for name, value in state.items()}
    given = {name: value for name, value in given.items() if not name.startswith("classifier.")}
    wrong = sorted(places.keys() ^ given.keys())
    if wrong:
        raise ValueError(f"these are not the features of a VGG16: {', '.join(wrong[:5])} are missing or too many")
    return out | {places[name]: value for name, value in given.items()}
