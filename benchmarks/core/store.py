"""The record store: append-only Parquet parts in a folder, read as one tidy frame."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gengauge.benchmarks.core.records import IDENTITY, SCHEMA, SCHEMA_VERSION, Record, empty_frame, to_frame, to_table


class DamagedPart(UserWarning):
    """A part of the store could not be read; the message names it and where it was set aside."""


def write_part(folder: Path, name: str, records: list[Record]) -> Path:
    """Writes one part, whole or not at all: to a hidden file beside it, flushed to the disk, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    path, hidden = folder / f"{name}.parquet", folder / f".{name}.{os.getpid()}.tmp"
    try:
        with hidden.open("wb") as stream:
            pq.write_table(to_table(records), stream)
            stream.flush()
            os.fsync(stream.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    return path


def read_records(folder: Path | str, every_attempt: bool = False) -> pd.DataFrame:
    """The records of a run folder (`out/quick`) or of its `records` folder, one row each, sorted.

    Of a job that ran more than once the newest attempt counts, unless `every_attempt`. A part that cannot be read is
    named in a `DamagedPart` warning and moved to `records/damaged/`; the others are read. A part of a newer schema
    raises ValueError: update gengauge to read it. Raises FileNotFoundError without such a folder.
    """
    folder = Path(folder)
    folder = folder / "records" if (folder / "records").is_dir() else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of records; `gengauge run` makes one")
    parts = [table for path in sorted(folder.glob("*.parquet")) if (table := _read_part(path)) is not None]
    if not parts:
        return empty_frame()
    frame = to_frame(pa.concat_tables(parts))
    if not every_attempt:
        # A job's identity without its code: a run with changed code supersedes the older one.
        job = ["experiment", "paper", "table", "row", "seed", "scale", "data", "device"]
        newest = frame.groupby(job, dropna=False)["time"].transform("max")
        frame = frame[frame["time"] == newest]
    return frame.sort_values(list(IDENTITY), kind="stable", na_position="first").reset_index(drop=True)


def _read_part(path: Path) -> pa.Table | None:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        _set_aside(path, str(error))
        return None
    version = int((table.schema.metadata or {}).get(b"gengauge_schema", b"0"))
    if version > SCHEMA_VERSION:
        raise ValueError(f"{path} has schema {version}, this gengauge reads up to {SCHEMA_VERSION}; update gengauge")
    if table.schema.names != SCHEMA.names:
        _set_aside(path, "its columns are not those of a record")
        return None
    return table.cast(SCHEMA)


def _set_aside(path: Path, why: str) -> None:
    aside = path.parent / "damaged" / path.name
    try:
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
        what = f"set aside as {aside}"
    except OSError as error:
        what = f"left in place ({error.strerror})"
    warnings.warn(f"{path} is damaged and was {what}: {why.splitlines()[0]}", DamagedPart, stacklevel=4)
