"""The generators that CUT's authors released, scored by this protocol: no training is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Need, Plan, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.cut import sets
from gengauge.benchmarks.papers.cut.comparison import (
    DAY,
    KID,
    LABELS,
    PUBLISHED,
    SEGMENTER,
    Settings,
    check,
    open_test,
    reads,
    score,
    shown,
)
from gengauge.benchmarks.papers.cut.loading import load_published
from gengauge.benchmarks.papers.cut.methods import NAMES, Method
from gengauge.benchmarks.papers.cut.sets import Folders

# The validation pictures that the authors prepared; those of one's own preparation give other scores.
SETS: dict[str, tuple[str, Folders]] = {
    "cityscapes": ("Cityscapes", sets.CITYSCAPES_VAL),
    "cat2dog": ("Cat->Dog", sets.CAT2DOG),
    "horse2zebra": ("Horse->Zebra", sets.HORSE2ZEBRA),
}


@dataclass(frozen=True)
class Released(Settings):
    """A row of a released generator, `weights` being its key in the catalogue."""

    weights: str = ""


def released(context: Context) -> Iterator[Result]:
    """Scores one released generator."""
    s: Released = context.settings
    translator = load_published(s.weights)
    test = open_test(s, context)
    results = context.work / "results" / s.row / "fake_B"
    yield from score(s, context, translator, test, results)
    yield shown(s, test.folders, results)


def _rows() -> Iterator[tuple[Row, Released]]:
    for key, (name, data) in SETS.items():
        for method in ("cut", "fastcut"):
            row = Row(f"{NAMES[method]}, released", name)
            columns = (*(LABELS if data.labels else ()), "fid", "kid")
            yield row, Released(row.key, NAMES[method], Method(PUBLISHED[method], data), columns, f"{method}-{key}")


def _plan(s: Released) -> Plan:
    def needs(data: Path | None) -> tuple[Need, ...]:
        return weights_need(s.weights), *s.method.data.needs(data)

    return Plan(needs=needs)


ROWS = dict(_rows())


def table_and_experiments(tables: tuple[Table, ...]) -> tuple[Table, tuple[Experiment, ...]]:
    """The table of the released generators, and an experiment for each."""
    published = {column.key: column for column in next(t for t in tables if t.key == "comparison").columns}
    columns: tuple[Column, ...] = tuple(published.get(key, KID) for key in (*LABELS, "fid", "kid"))
    table = Table(
        "released", "The released generators, scored by this protocol (own)", columns, tuple(ROWS), (), ("comparison",)
    )
    experiments = tuple(
        Experiment(
            key=f"released-{s.weights}",
            table="released",
            rows=(row.key,),
            columns=tuple(published.get(key, KID) for key in s.columns),
            scales={"paper": AtScale(s, 1, Limits(DAY, 16), 4, _plan(s), SEGMENTER if LABELS[0] in s.columns else ())},
            run=released,
            check=check,
            reads=reads,
        )
        for row, s in ROWS.items()
    )
    return table, experiments
