"""The word claim: a sentence of the paper made checkable, and its verdict from repeated seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from gengauge.benchmarks.core.statistics import Interval, t_interval

Verdict = Literal["holds", "fails", "undecided"]

MIN_SEEDS = 2
METHOD = (
    "95 % Student's t interval of the margin over seeds that measured every cell, "
    f"at least {MIN_SEEDS} of them (one of exact numbers)"
)


@dataclass(frozen=True)
class Cell:
    """A measured value that a claim speaks of, by the keys of its row and column."""

    row: str
    column: str


@dataclass(frozen=True)
class Claim:
    """A sentence and its margin: an expression over the named cells, above zero where the sentence is true.

    The margin is formed within a seed, so that what the seeds share (training pictures, reference) cancels. Of `exact`
    numbers, which depend on no seed, one is enough.
    """

    key: str
    sentence: str
    table: str
    cells: Mapping[str, Cell]
    margin: Callable[[Mapping[str, float]], float]
    unit: str = "1"
    exact: bool = False


@dataclass(frozen=True)
class Judgement:
    """A claim's verdict with the interval it rests on; `reason` says why it is undecided."""

    claim: Claim
    verdict: Verdict
    interval: Interval | None
    reason: str = ""


def judge(claim: Claim, values: Mapping[tuple[int, str, str], float]) -> Judgement:
    """The verdict on a claim from final values by (seed, row, column).

    `holds` if the 95 % interval of the margin lies above zero, `fails` if it lies below, else `undecided`; always
    `undecided` from one seed, but where the numbers are exact: then the margin itself decides. With two the interval is
    honest but very wide (Student's t with one degree of freedom: 12.7 standard errors either way), so that only large
    and steady margins are decided.
    """
    margins = []
    for seed in sorted({seed for seed, _, _ in values}):
        terms = {name: values.get((seed, cell.row, cell.column), math.nan) for name, cell in claim.cells.items()}
        if all(math.isfinite(term) for term in terms.values()):
            margins.append(claim.margin(terms))
    if not margins:
        return Judgement(claim, "undecided", None, "no seed measured all that it speaks of")
    interval = t_interval(margins)
    if claim.exact:
        return Judgement(claim, "holds" if min(margins) > 0 else "fails", interval)
    if len(margins) < MIN_SEEDS:
        return Judgement(claim, "undecided", interval, f"{len(margins)} of the {MIN_SEEDS} seeds that a verdict needs")
    if interval.low > 0:
        return Judgement(claim, "holds", interval)
    if interval.high < 0:
        return Judgement(claim, "fails", interval)
    return Judgement(claim, "undecided", interval, "the interval holds zero")
