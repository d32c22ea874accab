"""Where the augmentation is applied, and one step of hinge training of either network under a placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Placement:
    """Which pictures pass through T: reals and fakes in D's step, fakes in G's step (paper, section 3.1)."""

    reals: bool
    fakes: bool
    generator: bool


NONE = Placement(reals=False, fakes=False, generator=False)
REALS_ONLY = Placement(reals=True, fakes=False, generator=False)
D_ONLY = Placement(reals=True, fakes=True, generator=False)
DIFFAUGMENT = Placement(reals=True, fakes=True, generator=True)


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean relu(1 - D(real)) + mean relu(1 + D(fake)), of scores of any shape."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean D(fake)."""
    return -fake.mean()


def discriminator_loss(
    discriminator: Network, reals: Tensor, fakes: Tensor, placement: Placement, augment: Network
) -> Tensor:
    """D's loss of a batch; reals and fakes (N, C, H, W) get draws of their own. Fakes must come without gradient.

    D sees both in one pass, fakes first, as in the BigGAN code.
    """
    reals = augment(reals) if placement.reals else reals
    fakes = augment(fakes) if placement.fakes else fakes
    fake_scores, real_scores = discriminator(torch.cat([fakes, reals])).split([len(fakes), len(reals)])
    return hinge_discriminator_loss(real_scores, fake_scores)


def generator_loss(discriminator: Network, fakes: Tensor, placement: Placement, augment: Network) -> Tensor:
    """G's loss of a batch of fakes (N, C, H, W); the gradient passes through T where the placement says so."""
    return hinge_generator_loss(discriminator(augment(fakes) if placement.generator else fakes))
