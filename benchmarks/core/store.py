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


class OlderCode(UserWarning):
    """Records by older code or libraries are left out of a frame, since numbers of two programs are not averaged."""


class NewerSchema(ValueError):
    """A part was written by a later version of gengauge."""


def write_part(folder: Path, name: str, records: list[Record]) -> Path:
    """Writes one part, whole or not at all: to a hidden file beside it, flushed to the disk, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    path, hidden = folder / f"{name}.parquet", folder / f".{name}.{os.getpid()}.tmp"
    try:
        with hidden.open("wb") as stream:
            pq.write_table(to_table(records), stream, write_page_checksum=True)
            stream.flush()
            os.fsync(stream.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    return path


def read_records(folder: Path | str, every_attempt: bool = False) -> pd.DataFrame:
    """The records of a run folder (`out/quick`) or of its `records` folder, one row each, sorted.

    Of a job that ran more than once the newest attempt counts, and of a table only what the newest code measured (an
    `OlderCode` warning says what that leaves out); with `every_attempt` everything does. A part that cannot be read is
    named in a `DamagedPart` warning and moved to `records/damaged/`; the others are read. A part of a newer schema
    raises ValueError: update gengauge to read it. Raises FileNotFoundError without such a folder.

    The folder may also be one Parquet file; it stays where it is, and ValueError says what is wrong with it.
    """
    folder = Path(folder)
    folder = folder / "records" if (folder / "records").is_dir() else folder
    if folder.is_file():
        parts = [_read_file(folder)]
    elif folder.is_dir():
        parts = [table for path in sorted(folder.glob("*.parquet")) if (table := _read_part(path)) is not None]
    else:
        raise FileNotFoundError(f"{folder} is no folder of records; `gengauge run` makes one")
    if not parts:
        return empty_frame()
    frame = to_frame(pa.concat_tables(parts))
    return (
        (frame if every_attempt else _current(frame))
        .sort_values(list(IDENTITY), kind="stable", na_position="first")
        .reset_index(drop=True)
    )


def _current(frame: pd.DataFrame) -> pd.DataFrame:
    """What counts: of each table, scale, data and device the records of the newest code and libraries, of them the
    newest attempt at each job, of a row of the user's own only those of its newest method."""
    table = ["paper", "table", "scale", "data", "device"]
    generation = frame["code"] + frame["versions"]
    newest = frame.assign(generation=generation).sort_values("time").groupby(table)["generation"].transform("last")
    newest = newest.reindex(frame.index)
    counts = generation == newest
    counts[counts] = frame.loc[counts, "method"] == newest_methods(frame[counts])
    if not counts.all():
        older = frame.loc[~counts, "digest"].nunique()
        warnings.warn(
            f"{older} jobs by older code, libraries or methods are left out; run them again to have them", OlderCode, 3
        )
    return newest_attempts(frame[counts])


def newest_methods(frame: pd.DataFrame) -> pd.Series:
    """For each record the newest method of its row, seeds taken together; other methods' records are of another row."""
    row = ["paper", "table", "scale", "data", "device", "experiment", "row"]
    return frame.sort_values("time").groupby(row)["method"].transform("last").reindex(frame.index)


def newest_attempts(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each job that ran more than once the records of its newest attempt."""
    job = ["experiment", "paper", "table", "scale", "data", "device", "row", "seed"]
    return frame[frame["time"] == frame.groupby(job)["time"].transform("max")]


def _read_part(path: Path) -> pa.Table | None:
    try:
        return _read_file(path)
    except NewerSchema:
        raise
    except ValueError as error:
        _set_aside(path, str(error.__cause__))
        return None


def _read_file(path: Path) -> pa.Table:
    """A part as a table of `SCHEMA`, also one of an older schema. Raises ValueError for what is none."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        version = int((table.schema.metadata or {}).get(b"gengauge_schema", b"0"))
        if version == 1 and table.schema.names == SCHEMA.names[:-3]:
            table = table.append_column(SCHEMA.field("repetitions"), pa.array([[]] * len(table), SCHEMA.types[-3]))
        if version in (1, 2) and table.schema.names == SCHEMA.names[:-2]:
            for name in SCHEMA.names[-2:]:
                table = table.append_column(SCHEMA.field(name), pa.array([""] * len(table)))
        if version <= SCHEMA_VERSION:
            if table.schema.names != SCHEMA.names:
                raise ValueError("its columns are not those of a record")
            return table.cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the system's, not the file's: no permission, too many open files
        raise ValueError(f"{path} is no part of a record store: {error}") from error
    raise NewerSchema(f"{path} has schema {version}, this gengauge reads up to {SCHEMA_VERSION}; update gengauge")


def _set_aside(path: Path, why: str) -> None:
    aside = path.parent / "damaged" / path.name
    try:
        aside.parent.mkdir(exist_ok=True)
        path.replace(aside)
        what = f"set aside as {aside}"
    except OSError as error:
        what = f"left in place ({error.strerror})"
    warnings.warn(f"{path} is damaged and was {what}: {why.splitlines()[0]}", DamagedPart, stacklevel=4)
