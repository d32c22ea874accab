"""Frames of records for the tests of comparisons, baselines and their reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Measurement, Paper
from gengauge.benchmarks.core.records import Record, to_frame, to_table
from gengauge.benchmarks.core.tables import Column

FID = Column("fid", "A distance", "1", "lower")
RECALL = Column("recall", "A share", "%", "higher")
SHIFT = Column("shift", "Something to look at", "1", "none")
MACS = Column("macs", "Operations", "G", "lower", True)
WEIGHTS = Column("weights", "Values", "1", "none", True)
SECONDS = Column("seconds", "A time", "s", "lower")
SPEEDUP = Column("speedup", "How many times as fast", "x", "higher")
FAULTS = Column("faults", "Page faults", "1", "lower")

RECORD = Record(
    paper="p", table="t", row="a", column="fid", value=1.0, unit="1", low=None, high=None, interval="", samples=None,
    step=None, note="", experiment="quality", seed=0, scale="quick", status="ok", reason="", data="world",
    device="cpu (one)", threads=1, dtype="float32", seconds=1.0, peak_mebibytes=1.0, versions='{"python": "3"}',
    code="1", digest="d", time="2026-01-01T00:00:00Z",
)  # fmt: skip


def _nothing(context: Context) -> Iterator[Measurement]:
    yield from ()


def _experiment(key: str, columns: tuple[Column, ...], timed: bool) -> Experiment:
    return Experiment(key, "t", ("a",), columns, {"quick": AtScale(None, 1, Limits(1, 1))}, _nothing, timed=timed)


PAPER = Paper(
    "p", "P", "A paper", "nowhere", (),
    (
        _experiment("quality", (FID, RECALL, SHIFT, MACS, WEIGHTS), False),
        _experiment("speed", (SECONDS, SPEEDUP, FAULTS), True),
    ),
)  # fmt: skip
TIMED = (SECONDS, SPEEDUP, FAULTS)


def record(column: Column, value: float, seed: int = 0, row: str = "a", **others: object) -> Record:
    """A value of one of the paper's columns."""
    experiment = "speed" if column in TIMED else "quality"
    made = replace(RECORD, column=column.key, unit=column.unit, experiment=experiment, row=row, value=value, seed=seed)
    return replace(made, **others)  # type: ignore[arg-type]


def frame(*records: Record) -> pd.DataFrame:
    """Records as `read_records` gives them."""
    return to_frame(to_table(list(records)))


def over_seeds(column: Column, *values: float, row: str = "a") -> list[Record]:
    """A value a seed."""
    return [record(column, value, seed, row) for seed, value in enumerate(values)]
