"""A method of the user's own in GANgealing's tables: any way to find points of one picture in another."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Experiment, Result, Unavailable
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.core.tables import slug
from gengauge.benchmarks.methods import returned, work_of
from gengauge.benchmarks.papers.gangealing import comparison, released
from gengauge.benchmarks.papers.gangealing.evaluation import Way, transfer_by
from gengauge.benchmarks.papers.gangealing.scores import measurements
from gengauge.benchmarks.papers.gangealing.sets import batches
from gengauge.benchmarks.papers.gangealing.world import SCORED
from gengauge.benchmarks.zoo import posed_cats

TAUGHT = 500  # pictures that `fit` gets of the world, others for each seed


def in_world(context: Context, own: Own) -> Iterator[Result]:
    """The row on cats in all poses; a method that learns is taught by other cats."""
    s: comparison.Settings = context.settings
    if getattr(own.method, "fit", None) is not None:
        context.progress(0, s.pairs.count, f"{own.row}: learning")
        taught = posed_cats.pictures(context.seed, range(TAUGHT), s.pairs.size).float() / 127.5 - 1
        own.method.fit(taught, work_of(context, own))
    drawn = s.pairs.drawn(context.seed)
    found = transfer_by(
        way_of(context, own),
        drawn.batches(),
        tell=lambda done: context.progress(done, s.pairs.count, f"{own.row}: {done} pairs"),
    )
    yield from measurements(own.row, drawn.hits(found.estimated_b), SCORED, context.seed)
    if context.seed == 0:
        yield comparison.shown(own.row, drawn, found)


def in_tables(context: Context, own: Own) -> Iterator[Result]:
    """The row on photographs, by the published protocol without mirrored pictures. Raises Unavailable for `fit`."""
    s: released.Settings = context.settings
    if getattr(own.method, "fit", None) is not None:
        raise Unavailable(
            "these tables are of methods that have learnt elsewhere, and teach none",
            "give a method without `fit`, with what it has learnt",
        )
    found, pairs = released.open_pairs(s, context)
    transfers = transfer_by(
        way_of(context, own),
        batches(found, pairs, s.batch),
        s.protocol.both_ways,
        lambda done: context.progress(done, len(pairs), f"{s.subject}: {done} of {len(pairs)} pairs"),
    )
    yield from measurements(own.row, transfers.hits(), {"pck": ("points", 0)}, context.seed, s.resamples)


def way_of(context: Context, own: Own) -> Way:
    """The method's transfer on the device of a job, whose points are looked at."""

    def way(source: Tensor, target: Tensor, points: Tensor) -> Tensor:
        on_device = (x.to(context.device) for x in (source, target, points))
        return returned(own, "transfer", own.method.transfer(*on_device), tuple(points.shape), "float").to(points)

    return way


def openings(experiments: tuple[Experiment, ...]) -> tuple[Opening, ...]:
    """On the world at quick scale, on every subject of the paper beyond it."""
    subjects = {e.key: e.scales["paper"].settings.subject for e in experiments if e.table in released.ROWS}
    return (
        Opening("world", in_world),
        *(Opening(key, in_tables, (slug(subject),)) for key, subject in subjects.items()),
    )


CLOSED = {
    "learning": "it shows one training while it learns; `world` measures what a method has learnt",
    "ablation": "its rows leave out parts of GANgealing",
    "protocols": "its rows count GANgealing's transfers in other ways",
    "counts": "it counts operations of GANgealing's networks",
}
