"""The smallest change of a metric that matters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["exact", "speed", "quality"]


@dataclass(frozen=True)
class Threshold:
    """The smallest change that matters: a fraction of the baseline's value, or an amount in the metric's unit."""

    size: float
    relative: bool

    @staticmethod
    def parse(text: object) -> Threshold:
        """`5%`, or `0.5` in the metric's unit. Raises ValueError for anything else."""
        relative = isinstance(text, str) and text.rstrip().endswith("%")
        try:
            size = float(str(text).rstrip().removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            size = math.nan
        if isinstance(text, bool) or not 0 <= size < math.inf:
            raise ValueError(f"a threshold is a share such as '5%' or an amount such as 0.5, not {text!r}")
        return Threshold(size, relative)

    def __str__(self) -> str:
        return f"{100 * self.size:g}%" if self.relative else f"{self.size:g}"


DEFAULTS: Mapping[Kind, Threshold] = {
    "exact": Threshold(0, True),
    "speed": Threshold(0.05, True),
    "quality": Threshold(0.02, True),
}


@dataclass(frozen=True)
class Thresholds:
    """Thresholds by pattern of PAPER/TABLE/ROW/COLUMN (`*/seconds`); the last that matches counts, as in .gitignore.

    Where none does: 5 % for times, 2 % for quality. An exact number has none.
    """

    patterns: tuple[tuple[str, Threshold], ...] = ()

    def of(self, metric: str, kind: Kind) -> Threshold:
        if kind == "exact":
            return DEFAULTS[kind]
        return next((t for pattern, t in reversed(self.patterns) if fnmatchcase(metric, pattern)), DEFAULTS[kind])
