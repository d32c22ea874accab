"""Baselines: the numbers of a run as a text file for git, a line a metric, that `compare` reads again.

The first line is a header: name, date, code, versions, machine, scales. Then come blocks: a line that says under what
the metrics after it were measured (scale, data, device, threads, type), and a line for each of them. All are JSON, in a
fixed order, so that a diff shows which metrics moved. Whole numbers are exact, others have twelve digits, repetitions
five, and of more than 20 of them the medians of 20 blocks, which is what is compared.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gengauge.benchmarks.core.changes import MAX_BLOCKS
from gengauge.benchmarks.core.records import Record, to_frame, to_table

FORMAT = 1
SUFFIX = ".jsonl"
CONTEXT = {"scale": str, "data": str, "device": str, "threads": int, "dtype": str}


@dataclass(frozen=True)
class Baseline:
    """A baseline read: its header, and its values as a frame of records."""

    header: Mapping[str, Any]
    frame: pd.DataFrame


def dump(frame: pd.DataFrame, name: str, date: str) -> str:
    """The final values of a frame of records as a baseline's text. Raises ValueError where there are none."""
    final = frame[frame["step"].isna() & (frame["status"] == "ok") & (frame["column"] != "")]
    if final.empty:
        raise ValueError("there are no measured values to keep as a baseline")
    metrics = 0
    body: list[str] = []
    for context, block in final.groupby(list(CONTEXT), sort=True):
        body.append(_line({key: kind(v) for (key, kind), v in zip(CONTEXT.items(), context, strict=True)}))
        names = ["paper", "table", "row", "column", "experiment", "unit", "settings"]
        for key, seeds in block.groupby(names, sort=True):
            *metric, experiment, unit, settings = map(str, key)
            by_seed = {str(r["seed"]): r for r in seeds.sort_values("seed").to_dict("records")}
            line: dict[str, Any] = {"metric": "/".join(metric), "unit": unit, "experiment": experiment}
            line |= {"settings": settings} if settings else {}
            line["values"] = {seed: _printed(r["value"], 12) for seed, r in by_seed.items()}
            samples = {seed: int(r["samples"]) for seed, r in by_seed.items() if not pd.isna(r["samples"])}
            repetitions = {seed: _short(r["repetitions"]) for seed, r in by_seed.items() if len(r["repetitions"])}
            body.append(_line(line | ({"samples": samples} if samples else {}) | _some("repetitions", repetitions)))
            metrics += 1
    header = {
        "gengauge_baseline": FORMAT,
        "name": name,
        "date": date,
        "metrics": metrics,
        "scales": sorted(set(map(str, final["scale"]))),
        "devices": sorted(set(map(str, final["device"]))),
        "code": sorted(set(map(str, final["code"]))),
        "versions": [json.loads(v) for v in sorted(set(map(str, final["versions"])))],
    }
    return "\n".join([_line(header), *body, ""])


def load(text: str, source: str) -> Baseline:
    """The baseline in a text; `source` names it in errors.

    Raises ValueError naming source and line of what is damaged, and for a newer format.
    """
    lines = text.splitlines()
    header = _parsed(lines[0] if lines else "", f"{source}:1")
    if header.get("gengauge_baseline") != FORMAT:
        found = header.get("gengauge_baseline")
        newer = isinstance(found, int) and found > FORMAT
        raise ValueError(
            f"{source}:1: format {found}, this gengauge reads up to {FORMAT}; update gengauge"
            if newer
            else f"{source}:1: this is no header of a baseline; `gengauge baseline save` writes one"
        )
    for key in ("name", "date", "metrics", "scales", "devices", "code", "versions"):
        if not isinstance(header.get(key), int if key == "metrics" else str if key in ("name", "date") else list):
            raise ValueError(f"{source}:1: the header lacks {key!r}")
    records: list[Record] = []
    context: dict[str, Any] | None = None
    metrics: dict[tuple[Any, ...], int] = {}
    for number, line in enumerate(lines[1:], 2):
        where = f"{source}:{number}"
        entry = _parsed(line, where)
        if "metric" not in entry:
            context = _context(entry, where)
            continue
        if context is None:
            raise ValueError(f"{where}: a metric before the line that tells scale, data and device")
        identity = (*context.values(), *(str(entry.get(key)) for key in ("metric", "unit", "experiment", "settings")))
        if identity in metrics:
            raise ValueError(f"{where}: {entry['metric']} stands in line {metrics[identity]} already")
        metrics[identity] = number
        records += _records(entry, context, header, where)
    if len(metrics) != header["metrics"]:
        raise ValueError(
            f"{source}:{len(lines)}: {len(metrics)} metrics, where the header promises {header['metrics']}; "
            "the file is cut short or was edited by hand"
        )
    return Baseline(header, to_frame(to_table(records)))


def printed(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as a baseline would keep it, to the same digits, so that equal numbers stay equal; and what failed."""
    bad = frame[frame["status"] != "ok"]
    if len(bad) == len(frame):
        return frame
    kept = load(dump(frame, "", ""), "").frame
    return pd.concat([kept, bad], ignore_index=True) if len(bad) else kept


def write_baseline(folder: Path, name: str, text: str) -> Path:
    """Writes a baseline's text to `folder/name.jsonl`, whole or not at all.

    Raises ValueError for a name that is none of a file, and OSError, with the way out, where one cannot write there.
    """
    path, hidden = baseline_path(folder, name), folder / f".{name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            hidden.write_text(text, encoding="utf-8")
            hidden.replace(path)
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}), where an installed package may be read-only; "
            "choose a folder of yours with --dir"
        ) from error
    return path


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises FileNotFoundError, or ValueError naming file and line."""
    try:
        return load(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{line}: this is no text") from error


def baseline_path(folder: Path, name: str) -> Path:
    """Where a baseline of a name lies. Raises ValueError for a name that would lead elsewhere."""
    if not name or name.startswith(".") or any(not (c.isalnum() or c in "-_.") for c in name):
        raise ValueError(f"a baseline's name has letters, digits, '-', '_' and '.', not {name!r}")
    return folder / f"{name}{SUFFIX}"


def baseline_names(folder: Path) -> list[str]:
    """The names of the baselines in a folder, sorted; none where there is no folder."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"[!.]*{SUFFIX}"))


def _some(key: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found} if found else {}


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False)


def _printed(value: float, digits: int) -> float | int:
    if float(value).is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.{digits}g}")


def _short(repetitions: Sequence[float]) -> list[float | int]:
    blocks = np.array_split(np.asarray(repetitions, np.float64), min(len(repetitions), MAX_BLOCKS))
    return [_printed(float(np.median(block)), 5) for block in blocks]


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: this is no line of a baseline: {error}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: this is no line of a baseline: {line[:40]!r}")
    return entry


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number here")


def _context(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key, kind in CONTEXT.items():
        if type(entry.get(key)) is not kind:
            raise ValueError(f"{where}: neither a metric nor scale, data, device, threads and dtype ({key!r} is wrong)")
    return {key: entry[key] for key in CONTEXT}


def _records(
    entry: Mapping[str, Any], context: Mapping[str, Any], header: Mapping[str, Any], where: str
) -> Iterator[Record]:
    parts = str(entry["metric"]).split("/", 2)
    row, _, column = parts[-1].rpartition("/")  # a row of the user's own may hold a slash
    if len(parts) != 3 or not row or not column:
        raise ValueError(f"{where}: a metric is PAPER/TABLE/ROW/COLUMN, not {entry['metric']!r}")
    for key in ("unit", "experiment", "settings"):
        if not isinstance(entry.get(key, "" if key == "settings" else None), str):
            raise ValueError(f"{where}: {entry['metric']} lacks its {key}")
    values = entry.get("values")
    samples, repetitions = entry.get("samples", {}), entry.get("repetitions", {})
    if not (isinstance(values, dict) and values and isinstance(samples, dict) and isinstance(repetitions, dict)):
        raise ValueError(f"{where}: {entry['metric']} lacks its values by seed")
    for seed, value in values.items():
        found = repetitions.get(seed, [])
        count = samples.get(seed)
        if not (
            seed.isdecimal()
            and isinstance(found, list)
            and all(map(_is_number, [value, *found]))
            and (count is None or type(count) is int)
        ):
            raise ValueError(f"{where}: {entry['metric']} has no finite numbers at seed {seed}")
        yield Record(
            paper=parts[0],
            table=parts[1],
            row=row,
            column=column,
            value=float(value),
            unit=entry["unit"],
            low=None,
            high=None,
            interval="",
            samples=count,
            step=None,
            note="",
            experiment=entry["experiment"],
            seed=int(seed),
            status="ok",
            reason="",
            seconds=math.nan,
            peak_mebibytes=math.nan,
            versions=json.dumps(header["versions"][-1] if header["versions"] else {}),
            code=", ".join(map(str, header["code"])),
            digest="",
            time=header["date"],
            repetitions=tuple(map(float, found)),
            settings=entry.get("settings", ""),
            **context,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
