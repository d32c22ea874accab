"""Noise schedules: DDPM's table in native or fewer steps, the paper's continuous form, the variance-exploding one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEAST_VARIANCE = 1e-20  # where the posterior's variance is 0, so that it has a logarithm


@dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels of a run of N steps, from the cleanest: all (N,) float64.

    `betas` is a step's variance, `abar` the signal's share of the variance after it, `small` the posterior's variance
    (Ho et al. 2020, equation 7), and `times` is what the network is told.
    """

    betas: Tensor
    abar: Tensor
    small: Tensor
    times: Tensor

    def __len__(self) -> int:
        return len(self.betas)


@dataclass(frozen=True)
class VPSchedule:
    """`steps` variances from `first` to `last`, linear (Ho et al. 2020, section 4)."""

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    @cached_property
    def betas64(self) -> Tensor:
        """(steps,) float64."""
        return torch.linspace(self.first, self.last, self.steps, dtype=torch.float64)

    @cached_property
    def betas(self) -> Tensor:
        """(steps,) float32, as the published sampler takes them."""
        return self.betas64.float()

    @cached_property
    def abar(self) -> Tensor:
        """Share of the signal in the variance (steps,): the published sampler's running product, in float32."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def abar64(self) -> Tensor:
        """The same (steps,) in float64."""
        return (1 - self.betas64).cumprod(0)

    @cached_property
    def small(self) -> Tensor:
        """The posterior's variances (steps,) float64; the first is 0. In float32 the second would be 2e-4 off."""
        return posterior_variance(self.betas64, self.abar64)

    def levels(self, t0: float = 1.0, steps: int | None = None) -> Levels:
        """The levels up to time t0, the native ones or, with `steps`, that many of them evenly spread.

        Native ones are the published code's, in its precision: betas and shares in float32. Those that are asked for
        by number are made of the shares' ratios (Nichol and Dhariwal 2021, section 4), which keeps the noise of each
        time, in float64; the last level is always among them, and with two or more the first.

        Raises ValueError for t0 outside (0, 1], one below the first step, and for more steps than there are.
        """
        native = native_steps(t0, self.steps)
        if steps is None:
            first = slice(native)
            return Levels(
                self.betas[first].double(),
                self.abar[first].double(),
                self.small[first],
                torch.arange(native, dtype=torch.float64),
            )
        if not 0 < steps <= native:
            raise ValueError(f"there are {native} steps up to t0 = {t0}; {steps} were asked for")
        chosen = torch.linspace(native - 1, 0, steps, dtype=torch.float64).round().long().flip(0)
        abar = self.abar64[chosen]
        before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        betas = 1 - abar / before
        return Levels(betas, abar, posterior_variance(betas, abar), chosen.double())


DDPM = VPSchedule()


def native_steps(t0: float, steps: int) -> int:
    """How many of a schedule's steps lie below time t0. Raises ValueError for t0 outside (0, 1] or below the first."""
    if not 0 < t0 <= 1:
        raise ValueError(f"t0 is {t0}; it must lie in (0, 1]: near 0 keeps the guide, 1 forgets it")
    if round(t0 * steps) == 0:
        raise ValueError(f"t0 = {t0} lies below the first of {steps} steps; take at least {1 / steps}")
    return round(t0 * steps)


def posterior_variance(betas: Tensor, abar: Tensor) -> Tensor:
    """beta_i (1 - abar_{i-1}) / (1 - abar_i), with abar_{-1} = 1 (Ho et al. 2020, equation 7)."""
    before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    return betas * (1 - before) / (1 - abar)


def continuous_levels(t0: float, steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Levels:
    """The levels of the paper's algorithms 4 and 5: beta(t) = beta_min + t (beta_max - beta_min), dt = t0 / steps.

    The network is told t in (0, t0]. Raises ValueError for t0 outside (0, 1] or steps so large that one has more than
    the whole variance.
    """
    if not 0 < t0 <= 1:
        raise ValueError(f"t0 is {t0}; it must lie in (0, 1]")
    if steps < 1 or steps != int(steps):
        raise ValueError(f"{steps} steps; at least one is needed, and whole ones")
    times = torch.arange(1, steps + 1, dtype=torch.float64) * (t0 / steps)
    betas = (beta_min + times * (beta_max - beta_min)) * (t0 / steps)
    if betas[-1] >= 1:
        raise ValueError(f"{steps} steps are too few for t0 = {t0}: a step's variance would be {betas[-1]:.2f}")
    abar = (1 - betas).cumprod(0)
    return Levels(betas, abar, posterior_variance(betas, abar), times)


@dataclass(frozen=True)
class VESchedule:
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t, and 0 at t = 0 (section 2 and algorithm 1).

    `sigma_max` is 380 for LSUN churches, 378 for bedrooms, 348 for FFHQ and CelebA-HQ at 256 px, 1348 for FFHQ at 1024.
    """

    sigma_max: float = 348.0
    sigma_min: float = 0.01

    def sigma(self, t: float) -> float:
        """The noise's standard deviation at time t in [0, 1], for pictures in [0, 1]."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t if t > 0 else 0.0

    def sigmas(self, t0: float, steps: int) -> list[float]:
        """Those of times 0, t0 / steps, ..., t0. Raises ValueError for t0 outside (0, 1] and for no steps."""
        if not 0 < t0 <= 1:
            raise ValueError(f"t0 is {t0}; it must lie in (0, 1]")
        if steps < 1:
            raise ValueError(f"{steps} steps; at least one is needed")
        return [self.sigma(t0 * n / steps) for n in range(steps + 1)]

    def error_bound(self, t0: float, score: float, values: int, delta: float = 0.01) -> float:
        """What proposition 1 says that the squared distance stays below with probability 1 - delta, guide to result.

        `score` bounds the score's squared norm everywhere, `values` is how many a picture has. The bound is of the
        noise of the way back alone: where the score is 0 it holds from the guide with its noise at t0, and the guide
        itself is about twice as far.
        """
        variance = self.sigma(t0) ** 2
        unlikely = math.log(delta)
        return variance * (score * variance + values + 2 * math.sqrt(-values * unlikely) - 2 * unlikely)


FACES = VESchedule(348.0)
