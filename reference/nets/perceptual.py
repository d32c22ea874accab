"""A perceptual loss of pictures: LPIPS on VGG16 or AlexNet, or plain features of a self-supervised VGG16.

Source: Zhang et al., CVPR 2018; Peebles et al. 2022, section 4 ("SSL"), whose trunk was trained by SimCLR on ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

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
        # The layout in which convolutions need no reordering, and neighbouring numbers are one place's channels.
        self.network = (network or LPIPS("vgg")).requires_grad_(False).eval().to(memory_format=torch.channels_last)
        for module in self.network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # nobody looks at what was before it

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
        if a.shape != b.shape:
            raise ValueError("two batches of pictures of one shape are compared")
        if a.requires_grad == b.requires_grad:
            taps = [tap.chunk(2) for tap in self._taps(torch.cat([a, b]))]
        else:  # one pass of both would have a gradient of both
            taps = [*zip(self._taps(a), self._taps(b), strict=True)]
        return [cast(Tensor, _TapDistance.apply(x, y, self.weights(i))) for i, (x, y) in enumerate(taps)]

    def weights(self, tap: int) -> Tensor | None:
        """How much each channel of a tap counts, (C,); None: all alike."""
        if self.kind == "vgg_ssl":
            return None
        return self.network.get_parameter(f"lin{tap}.model.1.weight").flatten()

    def features(self, x: Tensor) -> list[Tensor]:
        """The five taps of pictures, each place's channels scaled to length 1, for many distances to the same ones."""
        return [tap / (tap.square().sum(1, keepdim=True).sqrt() + _EPS) for tap in self._taps(x)]

    def between(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        """The five parts (N,) of the distance between what `features` found; one of the two may be of one picture."""
        out = []
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x.shape[1:] != y.shape[1:] or (len(x) != len(y) and 1 not in (len(x), len(y))):
                raise ValueError("two batches of pictures of one shape are compared")
            squares, weights = (x - y).square(), self.weights(i)
            squares = squares if weights is None else squares * weights.view(-1, 1, 1)
            out.append(squares.sum(1).mean((1, 2)))
        return out

    def _taps(self, x: Tensor) -> list[Tensor]:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"pictures are (N, 3, H, W), not {tuple(x.shape)}")
        return self.network.taps(x.contiguous(memory_format=torch.channels_last))


class _TapDistance(torch.autograd.Function):
    """A tap's part (N,) of the distance between activations x and y (N, C, H, W), with channel weights (C,) or None.

    What `between` makes of `features`, in a third of the passes over memory: the gradient is written out by hand.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        lengths = [torch.linalg.vector_norm(tap, dim=1, keepdim=True).add_(_EPS) for tap in (x, y)]
        units = [tap / length for tap, length in zip((x, y), lengths, strict=True)]
        difference = units[0] - units[1]
        weighed = difference if weights is None else difference * weights.view(-1, 1, 1)
        ctx.save_for_backward(weighed, *units, *lengths)
        return (weighed * difference).sum(1).mean((1, 2))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weighed, *others = ctx.saved_tensors
        share = gradients[0].view(-1, 1, 1, 1) * (2 / weighed[0, 0].numel())
        out: list[Tensor | None] = []
        for i, sign in enumerate((1, -1)):
            unit, length = others[i], others[2 + i]
            if not ctx.needs_input_grad[i]:
                out.append(None)
                continue
            # Of a unit only what is across it counts; where nothing is active the epsilon keeps the quotient finite.
            along = (unit * weighed).sum(1, keepdim=True)
            out.append(torch.addcmul(weighed, unit, along, value=-1).mul_(share * sign / length))
        return out[0], out[1], None


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
