"""A method of the user's own in SDEdit's tables: any edit of strokes and of composites."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Result, Unavailable
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.methods import returned, work_of
from gengauge.benchmarks.papers.sdedit import compositing, strokes
from gengauge.benchmarks.papers.sdedit.priors import PRIORS
from gengauge.benchmarks.papers.sdedit.runs import Scores
from gengauge.benchmarks.protocols import Prior
from gengauge.reference.sdedit.schedule import DDPM
from gengauge.reference.sdedit.strokes import strokes as simulated


def of_strokes(context: Context, own: Own) -> Iterator[Result]:
    """The row of simulated strokes of the published number of colours."""
    s: strokes.Simulated = context.settings
    prior = prior_of(context, s.sampling.prior)
    real, references = s.pictures.load(context)
    ((_, colours),) = s.rows
    guides = simulated(real, colours)
    results = edited(context, own, guides, None, prior)
    scores = Scores(references, context.device)
    yield from strokes.scored(context, own.row, guides, results, scores, f"Strokes and what {own.row} makes")


def of_composites(context: Context, own: Own) -> Iterator[Result]:
    """The row of composites."""
    s: compositing.Settings = context.settings
    prior = prior_of(context, s.sampling.prior)
    parts = compositing.parts_of(context)
    results = edited(context, own, parts.composite, parts.pasted, prior)
    yield from compositing.scored(own.row, parts, results, load_lpips("vgg", context.device), context.device)
    if context.seed == 0:
        yield compositing.shown(own.row, parts, [results], f"Rows: originals, composites, {own.row}")


def edited(context: Context, own: Own, guides: Tensor, editable: Tensor | None, prior: Prior) -> Tensor:
    """What the method makes of guides, looked at."""
    mask = None if editable is None else editable.clone()
    made = own.method.edit(guides.clone(), mask, prior, work_of(context, own))
    return returned(own, "edit", made, tuple(guides.shape), "uint8")


def prior_of(context: Context, key: str) -> Prior:
    """The table's prior as a method gets it. Raises Unavailable for one that has other levels, and WeightsNotFound."""
    if PRIORS[key].score:
        raise Unavailable(
            f"the prior of this table, {PRIORS[key].name}, is variance-exploding, which methods are not given",
            "run the table at another scale",
        )
    network = PRIORS[key].load(context.device)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x.to(context.device), t.to(context.device)).to(x.device)

    return Prior(noise, DDPM.abar.clone())


OPENINGS = (
    Opening("church", of_strokes, ("lsun-church",)),
    Opening("bedroom", of_strokes, ("lsun-bedroom",)),
    Opening("compositing", of_composites, ("celeba-hq",)),
)
CLOSED = {
    "colours": "its rows are of one method over numbers of colours; `simulated-strokes` takes a method",
    strokes.TABLE.key: "its curves run over t0, which other methods do not have; `simulated-strokes` takes a method",
    "human-strokes": "the strokes are not published",
}
