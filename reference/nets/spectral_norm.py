"""Spectral normalisation as in the BigGAN code: power steps on stored vectors, in eval mode too.

Source: Miyato et al. 2018, algorithm 1; Brock et al. 2019, section 3 for several singular values. Buffers `u0`, `sv0`,
`u1`, ... have the published names and shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The published command line's value; the published classes' own default, 1e-12, was never used.
EPS = 1e-8


def normalise(x: Tensor, eps: float = EPS) -> Tensor:
    """x / max(|x|, eps) along the last dimension."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(eps)


def power_step(weight: Tensor, us: list[Tensor], eps: float = EPS) -> tuple[list[Tensor], list[Tensor]]:
    """One power step for the leading singular vectors of a matrix (out, rest); us are (1, out).

    Returns the new left vectors and the singular values (1, 1), the latter differentiable with respect to the matrix.
    Each vector is made orthogonal to those before it (Gram-Schmidt), after each half step and before normalisation.
    """
    lefts: list[Tensor] = []
    rights: list[Tensor] = []
    with torch.no_grad():
        for u in us:
            right = normalise(_without(u @ weight, rights), eps)
            left = normalise(_without(right @ weight.T, lefts), eps)
            rights.append(right)
            lefts.append(left)
    return lefts, [right @ weight.T @ left.T for left, right in zip(lefts, rights, strict=True)]


def _without(x: Tensor, directions: list[Tensor]) -> Tensor:
    """x (1, D) less its projections on unit vectors (1, D)."""
    for direction in directions:
        x = x - (x @ direction.T) * direction
    return x


class SpectralNorm(nn.Module):
    """Mixin: `normalised()` is the layer's weight divided by its largest singular value, after one power step.

    In training the vectors and values are kept; in eval mode they are not, but the step is made all the same.
    """

    weight: Tensor

    def follow(self, num_svs: int, eps: float) -> None:
        """Adds the buffers for `num_svs` singular values; vectors start from N(0, 1), values from 1."""
        self.num_svs, self.eps = num_svs, eps
        for i in range(num_svs):
            self.register_buffer(f"u{i}", torch.randn(1, self.weight.shape[0]))
            self.register_buffer(f"sv{i}", torch.ones(1))

    def normalised(self) -> Tensor:
        matrix = self.weight.flatten(1)
        us = [self.get_buffer(f"u{i}") for i in range(self.num_svs)]
        lefts, values = power_step(matrix, us, self.eps)
        if self.training:
            with torch.no_grad():
                for i, (left, value) in enumerate(zip(lefts, values, strict=True)):
                    us[i].copy_(left)
                    self.get_buffer(f"sv{i}").copy_(value.reshape(1))
        return self.weight / values[0].reshape(())


class SNConv2d(nn.Conv2d, SpectralNorm):
    """A convolution of stride 1 and same padding with normalised weight, and resampling folded into it.

    `up` doubles its input by nearest neighbours first, `down` averages 2x2 squares of its output. Both are linear, so
    they are one strided convolution with a kernel larger by one, at 4/9 of the multiplications for 3x3. With `folded`
    False they are done one after the other, as the published code does.
    """

    folded = True

    def __init__(
        self, inputs: int, outputs: int, kernel: int, bias: bool = True, num_svs: int = 1, eps: float = EPS
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.follow(num_svs, eps)

    def forward(self, x: Tensor, up: bool = False, down: bool = False) -> Tensor:
        weight = self.normalised()
        pointwise = self.kernel_size == (1, 1)
        if not self.folded:
            x = F.conv2d(F.interpolate(x, scale_factor=2.0) if up else x, weight, self.bias, padding=self.padding)
            return F.avg_pool2d(x, 2) if down else x
        if not (up or down):
            return F.conv2d(x, weight, self.bias, padding=self.padding)
        if pointwise and down:
            return F.conv2d(F.avg_pool2d(x, 2), weight, self.bias)
        if pointwise:
            return F.interpolate(F.conv2d(x, weight, self.bias), scale_factor=2.0)
        if down:
            return F.conv2d(x, _spread(weight) / 4, self.bias, stride=2, padding=1)
        return F.conv_transpose2d(x, _spread(weight.flip(2, 3)).transpose(0, 1), self.bias, stride=2, padding=1)


def _spread(weight: Tensor) -> Tensor:
    """A 3x3 kernel convolved with a 2x2 box: 4x4."""
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


class SNLinear(nn.Linear, SpectralNorm):
    """A linear layer with normalised weight."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, num_svs: int = 1, eps: float = EPS) -> None:
        super().__init__(inputs, outputs, bias)
        self.follow(num_svs, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SNEmbedding(nn.Embedding, SpectralNorm):
    """An embedding with normalised weight; the matrix has a row a class."""

    def __init__(self, classes: int, dimensions: int, num_svs: int = 1, eps: float = EPS) -> None:
        super().__init__(classes, dimensions)
        self.follow(num_svs, eps)

    def forward(self, y: Tensor) -> Tensor:
        return F.embedding(y, self.normalised())
