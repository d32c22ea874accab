"""What changes during GANgealing's training: psi, from a picture to its target's pose, and the learning rates.

Source: Peebles et al. 2022, section 3 and the training script; iterations are counted from 1 as the code counts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Annealing = Literal["cosine", "linear", "fast_slow"]
# The average's half-life of 10,000 pictures for a batch of 32; the published code keeps it for every batch.
EMA_DECAY = 0.5 ** (32 / 10_000)
FAST_SLOW = 0.3


def psi(iteration: int, num_steps: int, how: Annealing = "cosine", a: float = FAST_SLOW) -> float:
    """How much of a picture's own latent its target keeps at an iteration: from 1 down to 0 after `num_steps`.

    `fast_slow` falls quickly first, the more so for a smaller `a`; no published training uses it. Raises ValueError for
    another schedule.
    """
    if how not in get_args(Annealing):
        raise ValueError(f"psi is annealed by {', '.join(get_args(Annealing))}, not {how!r}")
    if iteration >= num_steps:
        return 0.0
    if how == "cosine":
        return 0.5 * (1 + math.cos(math.pi * iteration / num_steps))
    if how == "linear":
        return 1 - iteration / num_steps
    return a * (num_steps - iteration) / (a * num_steps + iteration)


@dataclass(frozen=True)
class WarmRestarts:
    """Learning rates that fall to 0 along a cosine again and again, each cycle `tm` times as long and `decay` as high.

    The first cycle has `period` iterations and begins when psi is no longer annealed. Loshchilov and Hutter 2017.
    Raises ValueError for numbers that make no schedule.
    """

    period: float = 37_500
    decay: float = 0.9
    tm: int = 2

    def __post_init__(self) -> None:
        if not (self.period > 0 and self.decay > 0 and self.tm >= 1):
            raise ValueError(f"a period and a decay above 0 and a tm of at least 1 make a schedule, not {self}")

    def factor(self, iterations: float) -> float:
        """What a rate is multiplied by after so many iterations of the cycles."""
        cycles = max(0.0, iterations / self.period)
        number = self._cycle(cycles)
        length = self.tm**number
        place = cycles - self._start(number)
        return self.decay**number * (1 + math.cos(math.pi * place / length)) / 2

    def ends(self, annealing: int, iterations: int) -> list[int]:
        """The iterations before `iterations` at which to keep a network: the last of annealing and of each cycle.

        At the end of a cycle the rate is 0 and the network most settled; while psi is annealed it has not fallen.
        """
        found, number = [annealing - 1], 1
        while (at := round(annealing + self.period * self._start(number)) - 1) < iterations:
            found.append(at)
            number += 1
        return found

    def _cycle(self, cycles: float) -> int:
        """The number of a cycle from its place in lengths of the first, rounded where a cycle ends as published."""
        if cycles < 1:
            return 0
        return int(cycles) if self.tm == 1 else int(math.log(cycles * (self.tm - 1) + 1, self.tm))

    def _start(self, number: int) -> float:
        """Where a cycle begins in lengths of the first."""
        return number if self.tm == 1 else (self.tm**number - 1) / (self.tm - 1)


PUBLISHED = WarmRestarts()


def rate_factor(iteration: int, annealing: int, schedule: WarmRestarts = PUBLISHED) -> float:
    """What the rates of iteration 1, 2 ... are multiplied by: they stay while psi is annealed.

    The code sets a rate when an iteration is over, so that the first without annealing still has the full one.
    """
    return schedule.factor(max(0, iteration - 1 - annealing))
