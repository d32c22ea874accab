"""BigGAN (Brock et al., ICLR 2019): the CIFAR networks of DiffAugment, and the 128 px networks of compare_gan.

Parameter names are those of BigGAN-PyTorch, whose 128 px networks have compare_gan's layers and parameter counts; where
the two codes differ, the compare_gan behaviour is an option (`unit_gain`, `output_range`).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.nets.spectral_norm import EPS, SNConv2d, SNEmbedding, SNLinear

Init = Literal["N02", "ortho", "glorot"]

# Width multipliers of `ch`, from the generator's 4x4 start to its last block; of the discriminator's blocks, and which
# of them halve the picture.
GENERATOR_WIDTHS = {32: (4, 4, 4, 4), 128: (16, 16, 8, 4, 2, 1)}
DISCRIMINATOR_WIDTHS = {32: (4, 4, 4, 4), 128: (1, 2, 4, 8, 16, 16)}
DISCRIMINATOR_DOWN = {32: (True, True, False, False), 128: (True, True, True, True, True, False)}
# The resolutions by which the published tables name the discriminator's blocks where attention is asked for; at 32 px
# all blocks are called 16, the last two wrongly.
DISCRIMINATOR_NAMED = {32: (16, 16, 16, 16), 128: (64, 32, 16, 8, 4, 4)}


class BatchNorm(nn.Module):
    """Batch normalisation whose running statistics are called `stored_mean` and `stored_var` (N, C, H, W)."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def standardise(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """By the batch's statistics in training, which also move the stored ones; by the stored ones in eval mode."""
        return F.batch_norm(x, self.stored_mean, self.stored_var, gain, bias, self.training, self.momentum, self.eps)


class PlainBatchNorm(BatchNorm):
    """Batch normalisation with a learned `gain` and `bias`, the generator's last."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.standardise(x, self.gain, self.bias)


class ConditionalBatchNorm(BatchNorm):
    """Batch normalisation times 1 + gain(y) plus bias(y); with `unit_gain` False, times gain(y) as in compare_gan.

    `gain` and `bias` are embeddings of integer labels, or linear layers of a label's vector.
    """

    def __init__(
        self, channels: int, gain: nn.Module, bias: nn.Module, eps: float = 1e-5, unit_gain: bool = True
    ) -> None:
        super().__init__(channels, eps)
        self.gain, self.bias, self.unit_gain = gain, bias, unit_gain

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain = self.gain(y)[:, :, None, None]
        return torch.addcmul(self.bias(y)[:, :, None, None], self.standardise(x), 1 + gain if self.unit_gain else gain)


class Attention(nn.Module):
    """Self-attention over pixels, keys and values max-pooled 2x2; the result is weighed by `gamma`, 0 at the start."""

    def __init__(self, channels: int, conv: partial[SNConv2d]) -> None:
        super().__init__()
        self.theta = conv(channels, channels // 8, 1, bias=False)
        self.phi = conv(channels, channels // 8, 1, bias=False)
        self.g = conv(channels, channels // 2, 1, bias=False)
        self.o = conv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.theta(x).flatten(2)
        keys = F.max_pool2d(self.phi(x), 2).flatten(2)
        values = F.max_pool2d(self.g(x), 2).flatten(2)
        weights = (queries.transpose(1, 2) @ keys).softmax(-1)
        mixed = (values @ weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return self.gamma * self.o(mixed) + x


class GBlock(nn.Module):
    """Two normalised, conditioned 3x3 convolutions, the first of which doubles the picture, beside a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, conv: partial[SNConv2d], norm: partial[ConditionalBatchNorm]) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.conv_sc = conv(inputs, outputs, 1)
        self.bn1, self.bn2 = norm(inputs), norm(outputs)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x, y)), up=True)
        h = self.conv2(F.relu(self.bn2(h, y)))
        return h + self.conv_sc(x, up=True)


class DBlock(nn.Module):
    """Two 3x3 convolutions, after a ReLU unless it is the first block, halved by average pooling where `down`.

    A 1x1 shortcut exists where channels change or the picture is halved.
    """

    def __init__(self, inputs: int, outputs: int, conv: partial[SNConv2d], first: bool, down: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, 3), conv(outputs, outputs, 3)
        self.conv_sc = conv(inputs, outputs, 1) if inputs != outputs or down else None
        self.first, self.down = first, down

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h), down=self.down)
        return h + (x if self.conv_sc is None else self.conv_sc(x, down=self.down))


class Generator(nn.Module):
    """Latents (N, dim_z) and labels (N,) int64 to pictures (N, 3, R, R) in `output_range`.

    With `shared_dim` the labels pass through one embedding and the conditioned norms are linear layers with spectral
    norm; without, each norm has embeddings of its own, without spectral norm (the CIFAR recipe). With `hierarchical`
    the latent is cut in equal chunks: the first starts the picture, each block gets one beside the label's vector.
    `attention` names the resolutions after which self-attention stands.
    """

    def __init__(
        self,
        ch: int = 64,
        dim_z: int = 128,
        num_classes: int = 10,
        resolution: int = 32,
        shared_dim: int | None = None,
        hierarchical: bool = False,
        attention: tuple[int, ...] = (),
        num_svs: int = 1,
        sn_eps: float = EPS,
        bn_eps: float = 1e-5,
        unit_gain: bool = True,
        output_range: tuple[float, float] = (-1.0, 1.0),
        init: Init = "N02",
        zero_bias: bool = False,
    ) -> None:
        super().__init__()
        widths = [ch * m for m in _known(GENERATOR_WIDTHS, resolution)]
        blocks = len(widths) - 1
        if hierarchical and dim_z % (blocks + 1):
            raise ValueError(f"a hierarchical latent of {dim_z} cannot be cut into {blocks + 1} equal chunks")
        if hierarchical and shared_dim is None:
            raise ValueError("a hierarchical latent needs a shared embedding of the labels: give shared_dim")
        self.resolution, self.dim_z, self.num_classes = resolution, dim_z, num_classes
        self.hierarchical, self.output_range = hierarchical, output_range
        self.chunk = dim_z // (blocks + 1) if hierarchical else dim_z
        conv = partial(SNConv2d, num_svs=num_svs, eps=sn_eps)
        linear = partial(SNLinear, num_svs=num_svs, eps=sn_eps)
        self.shared = nn.Identity() if shared_dim is None else nn.Embedding(num_classes, shared_dim)

        def norm(channels: int) -> ConditionalBatchNorm:
            if shared_dim is None:
                condition: list[nn.Module] = [nn.Embedding(num_classes, channels) for _ in range(2)]
            else:
                inputs = shared_dim + (self.chunk if hierarchical else 0)
                condition = [linear(inputs, channels, bias=False) for _ in range(2)]
            return ConditionalBatchNorm(channels, condition[0], condition[1], bn_eps, unit_gain)

        self.linear = linear(self.chunk, widths[0] * 16)
        self.blocks = nn.ModuleList()
        for i in range(blocks):
            layers: list[nn.Module] = [GBlock(widths[i], widths[i + 1], conv, norm)]  # type: ignore[arg-type]
            if 8 * 2**i in attention:
                layers.append(Attention(widths[i + 1], conv))
            self.blocks.append(nn.ModuleList(layers))
        self.output_layer = nn.Sequential(PlainBatchNorm(widths[-1], bn_eps), nn.ReLU(), conv(widths[-1], 3, 3))
        initialise(self, init, zero_bias)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        chunks = z.split(self.chunk, 1)
        y = self.shared(y)
        x = self.linear(chunks[0]).view(len(z), -1, 4, 4)
        for i, layers in enumerate(self.blocks):
            condition = torch.cat([y, chunks[i + 1]], 1) if self.hierarchical else y
            x = layers[0](x, condition)  # type: ignore[index]
            for attention in layers[1:]:  # type: ignore[index]
                x = attention(x)
        x = torch.tanh(self.output_layer(x))
        low, high = self.output_range
        return x if (low, high) == (-1.0, 1.0) else (x + 1) * ((high - low) / 2) + low


class Discriminator(nn.Module):
    """Pictures (N, 3, R, R) and labels (N,) int64 to scores (N, 1), with a projection on the label's embedding."""

    def __init__(
        self,
        ch: int = 64,
        num_classes: int = 10,
        resolution: int = 32,
        attention: tuple[int, ...] = (),
        num_svs: int = 1,
        sn_eps: float = EPS,
        init: Init = "N02",
        zero_bias: bool = False,
    ) -> None:
        super().__init__()
        widths = [3, *(ch * m for m in _known(DISCRIMINATOR_WIDTHS, resolution))]
        conv = partial(SNConv2d, num_svs=num_svs, eps=sn_eps)
        self.blocks = nn.ModuleList()
        for i, down in enumerate(DISCRIMINATOR_DOWN[resolution]):
            layers: list[nn.Module] = [DBlock(widths[i], widths[i + 1], conv, first=i == 0, down=down)]
            if DISCRIMINATOR_NAMED[resolution][i] in attention:
                layers.append(Attention(widths[i + 1], conv))
            self.blocks.append(nn.ModuleList(layers))
        self.linear = SNLinear(widths[-1], 1, num_svs=num_svs, eps=sn_eps)
        self.embed = SNEmbedding(num_classes, widths[-1], num_svs, sn_eps)
        initialise(self, init, zero_bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for layers in self.blocks:
            for layer in layers:  # type: ignore[attr-defined]
                x = layer(x)
        h = F.relu(x).sum((2, 3))
        return self.linear(h) + (self.embed(y) * h).sum(1, keepdim=True)


def initialise(network: nn.Module, init: Init, zero_bias: bool = False) -> None:
    """Draws every weight of a convolution, linear layer or embedding: N(0, 0.02), orthogonal or Glorot uniform.

    Biases keep torch's own start, uniform within 1 / sqrt(fan-in), or start from 0 (compare_gan).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            if init == "ortho":
                nn.init.orthogonal_(module.weight)
            elif init == "glorot":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.normal_(module.weight, 0, 0.02)
            if zero_bias and getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def settings_of(state: dict[str, Tensor]) -> dict[str, int]:
    """The CIFAR generator's arguments as the shapes of a published state dict tell them.

    Raises ValueError where the state is not of that network: 32 px, labels unshared, latent whole, without attention.
    """
    try:
        wide, dim_z = state["linear.weight"].shape
        num_classes, channels = state["blocks.0.0.bn1.gain.weight"].shape
    except KeyError as error:
        raise ValueError(f"this is no state of the BigGAN CIFAR generator: {error} is not in it") from None
    if wide != channels * 16 or "shared.weight" in state or any(key.startswith("blocks.3.") for key in state):
        raise ValueError("this BigGAN generator has other options than the CIFAR recipe; build it with its own")
    return {"ch": channels // 4, "dim_z": dim_z, "num_classes": num_classes}


def orthogonal_gradient_(network: nn.Module, strength: float, skip: tuple[nn.Parameter, ...] = ()) -> None:
    """Adds the gradient of modified orthogonal regularisation (Brock et al., section 3.1) to each weight matrix's.

    Off in every DiffAugment recipe (strength 0); the published code has it.
    """
    if not strength:
        return
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2 or any(parameter is other for other in skip) or parameter.grad is None:
                continue
            w = parameter.flatten(1)
            gram = w @ w.T
            gram.fill_diagonal_(0)
            parameter.grad += strength * 2 * (gram @ w).view_as(parameter)


def _known(table: dict[int, tuple[int, ...]], resolution: int) -> tuple[int, ...]:
    if resolution not in table:
        raise ValueError(f"BigGAN is here for {' and '.join(map(str, table))} px, not {resolution}")
    return table[resolution]
