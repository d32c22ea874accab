"""The adversarial losses and gradient penalties of DiffAugment's code bases."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """mean relu(1 - D(real)) and mean relu(1 + D(fake)), of scores of any shape (BigGAN)."""
    return F.relu(1 - real).mean(), F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean D(fake)."""
    return -fake.mean()


def logistic_discriminator_loss(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """mean softplus(-D(real)) and mean softplus(D(fake)) (StyleGAN2; the BigGAN code calls it dcgan)."""
    return F.softplus(-real).mean(), F.softplus(fake).mean()


def logistic_generator_loss(fake: Tensor) -> Tensor:
    """mean softplus(-D(fake)): the non-saturating loss."""
    return F.softplus(-fake).mean()


def squared_gradient(scores: Tensor, pictures: Tensor) -> Tensor:
    """R1 before its weight: |d sum(scores) / d picture|^2 for each picture (N,), differentiable (Mescheder 2018)."""
    (gradient,) = torch.autograd.grad(scores.sum(), pictures, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def path_lengths(pictures: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| of each picture (N,), differentiable (StyleGAN2, equation 4).

    pictures (N, C, H, W) made from ws (N, layers, D); noise y of the pictures' shape, standard normal; it is divided by
    sqrt(H W), and the squared norms are averaged over layers.
    """
    height, width = pictures.shape[2:]
    (gradient,) = torch.autograd.grad((pictures * noise / math.sqrt(height * width)).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def path_length_penalty(lengths: Tensor, mean: Tensor, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """(length - mean)^2 of each picture; the running mean, first moved by `decay`, passes gradients and is returned."""
    mean = mean.lerp(lengths.mean(), decay)
    return (lengths - mean).square(), mean


DISCRIMINATOR_LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "hinge": hinge_discriminator_loss,
    "dcgan": logistic_discriminator_loss,
}
GENERATOR_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": hinge_generator_loss,
    "dcgan": logistic_generator_loss,
}
