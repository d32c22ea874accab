"""Single steps of the score-based samplers (Song et al. 2021, appendix D and E), beside which SDEdit's own stand.

Each takes pictures x, their score and a noise, all (N, C, H, W), and times t (N,) in [0, 1] of a schedule of `steps`,
and gives the new pictures and these before the noise was added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.reference.sdedit.schedule import FACES, VESchedule

Stepped = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DiscreteVE:
    """A variance-exploding schedule of `steps` levels, evenly spread in the logarithm."""

    schedule: VESchedule = FACES
    steps: int = 1000

    @property
    def sigmas(self) -> Tensor:
        """(steps,) float32, rising."""
        low, high = math.log(self.schedule.sigma_min), math.log(self.schedule.sigma_max)
        return torch.linspace(low, high, self.steps, dtype=torch.float64).exp().float()

    def sigma(self, t: Tensor) -> Tensor:
        """(N,) at times t (N,), continuous; sigma_min at 0."""
        return self.schedule.sigma_min * (self.schedule.sigma_max / self.schedule.sigma_min) ** t

    def diffusion(self, t: Tensor) -> Tensor:
        """The noise's strength g(t) (N,) of the stochastic differential equation."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.schedule.sigma_max / self.schedule.sigma_min))

    def _pair(self, t: Tensor) -> Stepped:
        """Variances at the level of t and the one below it, (N, 1, 1, 1) each."""
        place = (t * (self.steps - 1)).long()
        sigmas = self.sigmas.to(t.device)
        below = torch.where(place == 0, torch.zeros_like(t), sigmas[place - 1])
        return _wide(sigmas[place]) ** 2, _wide(below) ** 2

    def reverse_diffusion(self, x: Tensor, t: Tensor, score: Tensor, noise: Tensor) -> Stepped:
        """Equation 46: the reverse of the discrete process, with its full variance."""
        now, below = self._pair(t)
        mean = x + (now - below) * score
        return mean + (now - below).sqrt() * noise, mean

    def ancestral(self, x: Tensor, t: Tensor, score: Tensor, noise: Tensor) -> Stepped:
        """Equation 47: the same mean, with the posterior's variance."""
        now, below = self._pair(t)
        mean = x + (now - below) * score
        return mean + (below * (now - below) / now).sqrt() * noise, mean

    def euler_maruyama(self, x: Tensor, t: Tensor, score: Tensor, noise: Tensor) -> Stepped:
        """One step of 1 / steps of the reverse equation."""
        g = _wide(self.diffusion(t))
        mean = x + g**2 * score / self.steps
        return mean + g * math.sqrt(1 / self.steps) * noise, mean


@dataclass(frozen=True)
class DiscreteVP:
    """The variance-preserving schedule of `steps` levels whose betas are linear."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    steps: int = 1000

    @property
    def betas(self) -> Tensor:
        """(steps,) float32."""
        return torch.linspace(self.beta_min / self.steps, self.beta_max / self.steps, self.steps)

    def signal(self, t: Tensor) -> Tensor:
        """The factor of the clean picture (N,) at continuous times t (N,) (equation 29)."""
        return (-0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min).exp()

    def deviation(self, t: Tensor) -> Tensor:
        """The noise's standard deviation (N,) at continuous times t (N,)."""
        return (1 - self.signal(t) ** 2).sqrt()

    def ancestral(self, x: Tensor, t: Tensor, score: Tensor, noise: Tensor) -> Stepped:
        """DDPM's step with its large variance (equation 4)."""
        beta = _wide(self.betas.to(t.device)[(t * (self.steps - 1)).long()])
        mean = (x + beta * score) / (1 - beta).sqrt()
        return mean + beta.sqrt() * noise, mean


def langevin(x: Tensor, score: Tensor, noise: Tensor, snr: float) -> Stepped:
    """A step of Langevin dynamics whose size makes the signal `snr` times the noise, by the batch's mean norms."""
    norms = [side.flatten(1).norm(dim=1).mean() for side in (noise, score)]
    size = 2 * (snr * norms[0] / norms[1]) ** 2
    mean = x + size * score
    return mean + (2 * size).sqrt() * noise, mean


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
