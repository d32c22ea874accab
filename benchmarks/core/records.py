"""The word record: one measured value with all that is needed to understand and repeat it, and its schema on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa

SCHEMA_VERSION = 3  # 1 had no repetitions, and 2 no settings and method; they are read as if there had been none

Status = Literal["ok", "failed", "timeout", "memory", "unavailable"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class Record:
    """One row of the results frame.

    A job that gave no value leaves one record for each of its rows, with an empty `column`, no `value`, its `status`
    and the `reason`. `step` is empty for final values. `low` and `high` bound the value within its seed, by the method
    named in `interval`. `digest` identifies the job (experiment, rows, seed, scale, settings, data, device, code).

    `repetitions` are the single measurements that `value` sums up, in its unit and in the order they were taken, where
    one thing was measured again and again, as times are; empty elsewhere. They stay in the record, so that a frame has
    one row a value: `frame.explode("repetitions")` gives a row each.

    `settings` is a digest of the experiment's settings alone, empty where there are none to tell of: a number of other
    settings is no change of the code. `method` is that of the user's own that a row is of, with a digest of its
    sources; it is empty for the papers' rows.
    """

    paper: str
    table: str
    row: str
    column: str
    value: float | None
    unit: str
    low: float | None
    high: float | None
    interval: str
    samples: int | None
    step: int | None
    note: str
    experiment: str
    seed: int
    scale: str
    status: Status
    reason: str
    data: str
    device: str
    threads: int
    dtype: str
    seconds: float
    peak_mebibytes: float
    versions: str
    code: str
    digest: str
    time: str
    repetitions: tuple[float, ...] = ()
    settings: str = ""
    method: str = ""


def ended_well(status: str, column: str) -> bool:
    """Whether a record is no reason to run its job again: a value, or a single value that could not be had here.

    A record without a column speaks of the whole job.
    """
    return status == "ok" or (status == "unavailable" and bool(column))


_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "Status": pa.string(),
    "float | None": pa.float64(),
    "int | None": pa.int64(),
    "tuple[float, ...]": pa.list_(pa.float64()),
}
SCHEMA = pa.schema(
    [pa.field(f.name, _TYPES[str(f.type)], nullable="None" in str(f.type)) for f in fields(Record)],
    metadata={"gengauge_schema": str(SCHEMA_VERSION)},
)
IDENTITY = ("paper", "table", "row", "column", "seed", "scale", "data", "device", "step")


def to_table(records: list[Record]) -> pa.Table:
    """Records as an Arrow table of `SCHEMA`."""
    return pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)


def empty_frame() -> pd.DataFrame:
    """A frame with the records' columns and types, and no rows."""
    return to_frame(SCHEMA.empty_table())


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Arrow table to a tidy pandas frame: nullable integers stay integers, texts are strings, repetitions tuples."""
    types: dict[pa.DataType, Any] = {pa.int64(): pd.Int64Dtype()}
    frame = table.to_pandas(types_mapper=types.get)
    frame["repetitions"] = pd.Series([tuple(map(float, r)) for r in frame["repetitions"]], frame.index, dtype=object)
    return frame
