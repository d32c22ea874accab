"""The released transformers measured on SPair-71k and on CUB, by the published protocol and by others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Need,
    Picture,
    Plan,
    Result,
    Scale,
)
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.metrics.pck import ALPHAS, Average, bootstrap, pck
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.gangealing.evaluation import Protocol, Transfers, congealed, left_in_place, transfer
from gengauge.benchmarks.papers.gangealing.figures import averages, transferred_points
from gengauge.benchmarks.papers.gangealing.kept import kept_transfers
from gengauge.benchmarks.papers.gangealing.loading import (
    RELEASED,
    Checkpoint,
    load_file,
    load_published,
    weights_key,
)
from gengauge.benchmarks.papers.gangealing.plans import planned
from gengauge.benchmarks.papers.gangealing.scores import RESAMPLES, measurements
from gengauge.benchmarks.papers.gangealing.sets import CUB, Pairs, SPair, batches, distinct, needs, scaled
from gengauge.datasets.key_points import KeyPointSet
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN

DAY = 24 * 3600.0
BATCH = 50  # pairs
SHOWN = 4  # pairs in the report
AVERAGED = 500  # pictures at most
AVERAGES: dict[Average, str] = {"points": "all points of all pairs alike", "pairs": "mean of the pairs' own"}
SCORED: dict[str, tuple[Average, int]] = {
    f"pck_{round(100 * alpha):02d}" + ("_pairs" if average == "pairs" else ""): (average, i)
    for average in AVERAGES
    for i, alpha in enumerate(ALPHAS)
}
COLUMNS = tuple(
    Column(
        key,
        f"PCK-Transfer at {ALPHAS[i]:g} of the box's (SPair-71k) or picture's (CUB) longer side, {AVERAGES[average]}",
        "%",
        "higher",
    )
    for key, (average, i) in SCORED.items()
)


@dataclass(frozen=True)
class Settings:
    """A released model by its name, and the pairs that it is measured on; `subject` is how the tables call them.

    `num_heads` and `base_channels` are those that the model must have, None where any will do.
    """

    name: str
    subject: str
    pairs: Pairs
    protocol: Protocol
    num_heads: int | None = 1
    base_channels: int | None = 512
    batch: int = BATCH
    resamples: int = RESAMPLES


@dataclass(frozen=True, eq=False)
class Opened:
    """All that a row needs: the set, its pairs (n, 2), and the networks on the device."""

    found: KeyPointSet
    pairs: Tensor
    network: ComposedSTN
    classifier: ResnetClassifier | None


def published_row(context: Context) -> Iterator[Result]:
    """The row of the paper: key points, over all pairs alike, at 0.1."""
    s: Settings = context.settings
    opened = open_row(s, context, load_published(s.name))
    found = transfers(s, context, opened, s.protocol)
    row = Row("GANgealing", s.subject).key
    (measured,) = measurements(row, found.hits(), {"pck": ("points", 0)}, context.seed, s.resamples)
    yield replace(measured, note=f"{measured.note}; {_mirrored(found)}")
    if context.seed == 0:
        yield from _figures(s, context, opened, found)


def protocols(context: Context) -> Iterator[Result]:
    """The same transfers counted in other ways, those without mirrored pictures, and no transfer at all."""
    s: Settings = context.settings
    opened = open_row(s, context, load_published(s.name))
    published = transfers(s, context, opened, s.protocol)
    plain = transfers(s, context, opened, replace(s.protocol, flips=False))
    rows = {
        PUBLISHED: published.hits(),
        CORRECTED: published.hits("corrected"),
        PLAIN: plain.hits(),
        LEFT: left_in_place(plain).hits(),
    }
    for method, found in rows.items():
        yield from measurements(Row(method, s.subject).key, found, SCORED, context.seed, s.resamples)


def measure_file(context: Context, path: Path) -> Mapping[str, tuple[float, float]]:
    """PCK of the transformer in the user's file, with its deviation over re-samplings of the pairs."""
    s: Settings = replace(context.settings, num_heads=None, base_channels=None)
    opened = open_row(s, context, load_file(path))
    found = _transferred(s, context, opened, s.protocol).hits()
    spread = bootstrap(found, np.random.default_rng(context.seed), s.resamples)
    return {"pck": (float(pck(found)[0]), float(spread.deviation[0]))}


def open_row(s: Settings, context: Context, checkpoint: Checkpoint) -> Opened:
    """All that is needed, so that what is missing is told before hours of work.

    Raises DataNotFound, WeightsNotFound, and ValueError for a set or a checkpoint that does not fit.
    """
    network = checkpoint.transformer(s.pairs.size, s.num_heads, s.base_channels)
    classifier = checkpoint.classifier(s.pairs.size) if network.num_heads > 1 else None
    found, pairs = open_pairs(s, context)
    found.usable_permutation()  # told now and not after hours
    device = torch.device(context.device)
    return Opened(found, pairs, network.to(device), None if classifier is None else classifier.to(device))


def open_pairs(s: Settings, context: Context) -> tuple[KeyPointSet, Tensor]:
    """The set and its pairs (n, 2). Raises DataNotFound, and ValueError for a set without a point in common."""
    found = s.pairs.open(context.data)
    pairs = s.pairs.pairs(found, context.seed)
    visible = found.key_points[pairs][..., 2] != 0
    if not visible.all(1).any():
        raise ValueError(f"no pair of {found.name} has a key point in common, so that there is nothing to measure")
    return found, pairs


def transfers(s: Settings, context: Context, opened: Opened, protocol: Protocol) -> Transfers:
    """The points of all pairs, kept for the other tables that ask for the same."""
    networks = [network for network in (opened.network, opened.classifier) if network is not None]
    return kept_transfers(
        context.work / "transfers",
        f"{s.name}-{context.device}",
        lambda: _transferred(s, context, opened, protocol),
        *networks,
        opened.found,
        opened.pairs,
        protocol,
        waiting=lambda: context.progress(0, len(opened.pairs), f"{s.subject}: another job transfers the same points"),
    )


def _transferred(s: Settings, context: Context, opened: Opened, protocol: Protocol) -> Transfers:
    total = len(opened.pairs)

    def tell(done: int) -> None:
        context.progress(done, total, f"{s.subject}: {done} of {total} pairs")

    pairs = batches(opened.found, opened.pairs, s.batch)
    order = opened.found.usable_permutation()
    return transfer(opened.network, pairs, protocol, order, opened.classifier, tell)


def _figures(s: Settings, context: Context, opened: Opened, found: Transfers) -> Iterator[Picture]:
    """Some pairs with their points, and the average picture before and after."""
    row = Row("GANgealing", s.subject).key
    some = np.linspace(0, len(found) - 1, min(SHOWN, len(found))).round().astype(int)
    a, b = (opened.found.pictures(opened.pairs[some, side].numpy()) for side in (0, 1))
    yield Picture(
        row,
        "pairs",
        transferred_points(a, b, found.of(some)),
        f"Pairs of {s.subject}: points of the left picture, and on the right one where they come (dots) and where they "
        "belong (rings)",
    )
    chosen = distinct(opened.found)
    chosen = chosen[:: -(-len(chosen) // AVERAGED)]
    before, after = torch.zeros(2, 3, s.pairs.size, s.pairs.size, device=context.device)
    for start in range(0, len(chosen), s.batch):
        pictures = scaled(opened.found, chosen[start : start + s.batch]).to(context.device)
        after += congealed(opened.network, pictures, s.protocol, s.pairs.size, opened.classifier).sum(0)
        before += pictures.sum(0)
        context.progress(start + len(pictures), len(chosen), f"{s.subject}: averaging")
    mean = averages(before.cpu() / len(chosen), after.cpu() / len(chosen))
    yield Picture(
        row, "average", mean, f"The average of {len(chosen)} pictures of {s.subject}, as they are and congealed"
    )


def _mirrored(found: Transfers) -> str:
    return f"of {len(found)} pairs {int((found.pick > 0).sum())} with a mirrored picture"


def check(settings: Settings, root: Path | None) -> None:
    """Refuses a published set that is not whole."""
    settings.pairs.check(root)


def reads(settings: Settings, root: Path) -> Path | None:
    """The part of a folder of data sets that a row reads."""
    return settings.pairs.find(root)


def _plan(s: Settings) -> Plan:
    def all_needs(data: Path | None) -> tuple[Need, ...]:
        return weights_need(weights_key(s.name)), *needs(s.pairs, data)

    network = planned(lambda: ComposedSTN(supersize=s.pairs.size, num_heads=s.num_heads or 1), s.pairs.size)
    return Plan((network,), all_needs)


def _settings(name: str, subject: str, pairs: Pairs) -> Settings:
    how = RELEASED[name]
    protocol = Protocol(how.iters, how.padding_mode, both_ways=pairs.both_ways)
    return Settings(name, subject, pairs, protocol, how.num_heads)


PUBLISHED = "GANgealing"
CORRECTED = "GANgealing, visibility permuted with the labels"
PLAIN = "GANgealing, without mirrored pictures"
LEFT = "Points left in place"
METHODS = (PUBLISHED, CORRECTED, PLAIN, LEFT)
CATEGORIES = {"bicycle": "Bicycle", "cat": "Cat", "dog": "Dog", "tvmonitor": "TV"}
ROWS = {
    "spair": [_settings(name, subject, SPair(name)) for name, subject in CATEGORIES.items()],
    "cub": [_settings("cub", "CUB", CUB())],
}
PROTOCOLS = Table(
    "protocols",
    "PCK-Transfer of the released transformers under other protocols (own)",
    COLUMNS,
    tuple(Row(method, s.subject) for rows in ROWS.values() for s in rows for method in METHODS),
    (),
    ("spair", "cub"),
)


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """For each category the row of the paper, and the own rows beside it."""
    published = {table.key: table.columns for table in tables}
    out = []
    for table, rows in ROWS.items():
        for s in rows:
            scales: dict[Scale, AtScale] = {"paper": AtScale(s, 1, Limits(7 * DAY, 16), 4, _plan(s))}
            out.append(
                Experiment(
                    key=table if table == s.name else f"{table}-{s.name}",
                    table=table,
                    rows=(Row(PUBLISHED, s.subject).key,),
                    columns=published[table],
                    scales=scales,
                    run=published_row,
                    check=check,
                    reads=reads,
                    measure=measure_file,
                )
            )
            out.append(
                Experiment(
                    key=f"protocols-{s.name}",
                    table="protocols",
                    rows=tuple(Row(method, s.subject).key for method in METHODS),
                    columns=COLUMNS,
                    scales=scales,
                    run=protocols,
                    check=check,
                    reads=reads,
                )
            )
    return tuple(out)
