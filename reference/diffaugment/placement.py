"""Where the augmentation is applied: the placements of the paper's ablation (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.reference.diffaugment.losses import hinge_discriminator_loss, hinge_generator_loss

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Placement:
    """Which pictures pass through T: reals and fakes in D's step, fakes in G's step."""

    reals: bool
    fakes: bool
    generator: bool


NONE = Placement(reals=False, fakes=False, generator=False)
REALS_ONLY = Placement(reals=True, fakes=False, generator=False)
D_ONLY = Placement(reals=True, fakes=True, generator=False)
DIFFAUGMENT = Placement(reals=True, fakes=True, generator=True)


def discriminator_loss(
    discriminator: Network, reals: Tensor, fakes: Tensor, placement: Placement, augment: Network
) -> Tensor:
    """D's hinge loss of a batch; reals and fakes (N, C, H, W) get draws of their own. Fakes must come without gradient.

    D sees both in one pass, fakes first, as in the BigGAN code.
    """
    reals = augment(reals) if placement.reals else reals
    fakes = augment(fakes) if placement.fakes else fakes
    fake_scores, real_scores = discriminator(torch.cat([fakes, reals])).split([len(fakes), len(reals)])
    return sum(hinge_discriminator_loss(real_scores, fake_scores), torch.zeros((), device=reals.device))


def generator_loss(discriminator: Network, fakes: Tensor, placement: Placement, augment: Network) -> Tensor:
    """G's hinge loss of a batch of fakes (N, C, H, W); the gradient passes through T where the placement says so."""
    return hinge_generator_loss(discriminator(augment(fakes) if placement.generator else fakes))
