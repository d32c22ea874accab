"""A method of the user's own in SIGE's tables: any way to compute an edit's pass when the original's is known."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Measurement, Picture, Result
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.core.tables import Row, Table, slug
from gengauge.benchmarks.methods import callable_of, returned
from gengauge.benchmarks.papers.sige import fidelity_by_area, speed
from gengauge.benchmarks.papers.sige.edits import Edit
from gengauge.benchmarks.timing import Way, ratio
from gengauge.benchmarks.zoo import ddpm_cat
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.sige.masks import EditMasks

Inputs = tuple[Tensor, ...]
Pass = Callable[[Inputs, Tensor], Tensor]
TIMED = ("seconds", "speedup", "against_dense", "against_all", "edited", "page_faults")
COMPARED = ("psnr_edit", "lpips", "first_noise", "last_noise")


def timed(context: Context, own: Own) -> Iterator[Result]:
    """A row an edit, in one process in alternation with dense ways and SIGE's engine, which have rows of their own."""
    s: speed.Settings = replace(context.settings, sparse=("fast",))
    rows = dict(zip(s.edits, own.rows, strict=True))

    def ways(given: speed.Given) -> Mapping[str, Way]:
        run = prepared(own, copy.deepcopy(given.module), (given.original, *given.times))
        expected = cast(Tensor, given.output)
        unchanged = torch.zeros_like(next(iter(given.edited.values()))[1])
        made = checked(own, run((given.original, *given.times), unchanged), expected)
        speed.check_agreement(f"{own.spec}, of the original itself,", made, expected)
        out: dict[str, Way] = {}
        for edit, (picture, mask) in given.edited.items():
            out[rows[edit]] = _way(run, (picture, *given.times), mask)
            checked(own, out[rows[edit]](), expected)  # which warms up, too
        return out

    found = speed.timed(context, s, ways)
    samples = found.samples
    for edit, row in rows.items():
        mine = samples[row]
        yield from speed.common(row, mine, samples[speed.DENSE["eager"].key], samples[speed.quickest(s, samples)])
        yield speed.against(row, "against_all", ratio(samples[speed.all_pixels(s)], mine))
        yield Measurement(row, "edited", 100 * found.edits[speed.sparse_row(edit).key].edited_share)


def compared(context: Context, own: Own) -> Iterator[Result]:
    """The row of fidelity over the edited share, on a small trained network."""
    network = fidelity_by_area.fused(ddpm_cat.load()).to(context.device)
    row = Row(own.row)
    passes = _Passes(own, network)
    for found in fidelity_by_area.compared(context, network, {row: passes}, row):
        if isinstance(found, Picture) or (found.row == own.row and found.column in COMPARED):
            yield found


def prepared(own: Own, network: torch.nn.Module, inputs: Inputs) -> Pass:
    """The method's passes on edits, after its pass on the original."""
    with torch.no_grad():
        return callable_of(own, "prepare", own.method.prepare(network, inputs))


def checked(own: Own, value: object, expected: Tensor) -> Tensor:
    """An output of the method. Raises ValueError naming the method for another shape, and for what is not finite."""
    return returned(own, "prepare", value, tuple(expected.shape), "float").to(expected.device)


def _way(run: Pass, inputs: Inputs, mask: Tensor) -> Way:
    def way() -> object:
        with torch.no_grad():
            return run(inputs, mask)

    return way


@dataclass
class _Passes:
    """The method as a way of `fidelity_by_area`, on a network of its own at each step."""

    own: Own
    network: DDPMUNet
    runs: dict[int, tuple[Pass, Tensor]] = field(default_factory=dict)
    mask: Tensor | None = None

    @torch.no_grad()
    def full(self, x: Tensor, time: Tensor, t: int) -> Tensor:
        self.runs[t] = prepared(self.own, copy.deepcopy(self.network), (x, time)), time
        return self.network(x, time)

    def begin(self, mask: EditMasks) -> None:
        self.mask = mask.dilated

    @torch.no_grad()
    def sparse(self, x: Tensor, t: int) -> Tensor:
        run, time = self.runs[t]
        assert self.mask is not None
        return checked(self.own, run((x, time), self.mask), x)


def openings(tables: tuple[Table, ...]) -> tuple[Opening, ...]:
    """Every timed experiment, and fidelity by area at its scales."""
    out = []
    for e in speed.EXPERIMENTS:
        ((_, at),) = e.scales.items()
        edits: tuple[Edit, ...] = at.settings.edits
        out.append(Opening(e.key, timed, tuple(slug(edit.name) for edit in edits), TIMED))
    return (*out, *(Opening(e.key, compared, columns=COMPARED) for e in fidelity_by_area.EXPERIMENTS))


def closed(tables: tuple[Table, ...]) -> dict[str, str]:
    """The published tables count operations or compare the published networks."""
    counted = "its numbers are exact counts of the published networks and policies"
    return {
        **{table.key: f"{counted}; `speed-...` and `fidelity-by-area` take a method" for table in tables},
        "counts": counted,
    }
