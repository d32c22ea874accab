"""The exact denoiser of a finite set of pictures: what a perfectly trained prior of that set would tell."""

from __future__ import annotations

import torch
from torch import Tensor

from gengauge.reference.sdedit.schedule import DDPM, VPSchedule


class ExactDenoiser:
    """The best denoiser of the distribution that gives each of `pictures` (M, C, H, W) the same probability.

    Called with noisy pictures (N, C, H, W) at steps t (N,) it tells their noise, as a trained network would.
    """

    def __init__(self, pictures: Tensor, schedule: VPSchedule = DDPM) -> None:
        self.pictures, self.abar = pictures, schedule.abar64.to(pictures.device)
        self._rows = pictures.flatten(1)
        self._squares = self._rows.square().sum(1)

    def clean(self, x: Tensor, t: Tensor) -> Tensor:
        """The mean of the pictures that `x` may have been made of, each weighed by its probability, as x."""
        abar = self.abar[t.long()][:, None]
        signal, share, variance = (factor.to(x.dtype) for factor in (abar.sqrt(), abar, 1 - abar))
        # -|x - sqrt(abar) y|^2 / (2 (1 - abar)), without what all y share.
        closeness = signal * (x.flatten(1) @ self._rows.T) - 0.5 * share * self._squares
        return (torch.softmax(closeness / variance, 1) @ self._rows).view(x.shape)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        signal, deviation = self._factors(x, t)
        return (x - signal * self.clean(x, t)) / deviation

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The gradient of the noisy distribution's log density, as x."""
        signal, deviation = self._factors(x, t)
        return (signal * self.clean(x, t) - x) / deviation**2

    def _factors(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of the clean picture and of the noise in `x`, (N, 1, 1, 1); made in float64, for abar is near 1 at first."""
        abar = self.abar[t.long()].view(-1, 1, 1, 1)
        return abar.sqrt().to(x.dtype), (1 - abar).sqrt().to(x.dtype)
