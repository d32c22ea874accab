"""Takes pytest-benchmark's JSON into the record store, so that speed and quality lie in one frame."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from gengauge.benchmarks.core.records import Record
from gengauge.benchmarks.core.store import write_part
from gengauge.benchmarks.core.tables import slug

PAPER, EXPERIMENT, SCALE, COLUMN = "speed", "pytest-benchmark", "bench", "seconds"


def ingest(file: Path, out: Path, seed: int = 0) -> list[Record]:
    """Writes the rounds in a file of pytest-benchmark as a part of the run folder `out`, and returns the records.

    The same file again replaces its part. Raises as `records_of`.
    """
    records = records_of(file, seed)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    write_part(out / "records", f"pytest-benchmark-{digest}-{seed}", records)
    return records


def records_of(file: Path, seed: int = 0) -> list[Record]:
    """The records in a file of pytest-benchmark: paper `speed`, a table a file of benchmarks, a row a benchmark.

    The value is the median of the rounds, which are the repetitions, in seconds. Where a benchmark tells in
    `extra_info["seconds"]` what each of several forms took, round by round, each form is a row instead; `threads` and
    `device` there are kept. `seed` tells several runs of the same benchmarks apart. Raises FileNotFoundError, and
    ValueError for what is no such file or holds no single rounds.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        benchmarks, machine, time = found["benchmarks"], found["machine_info"], found["datetime"]
        started = datetime.fromisoformat(time.replace("Z", "+00:00"))
        commit = found.get("commit_info") or {}
        described = isinstance(benchmarks, list) and isinstance(machine, dict) and isinstance(commit, dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON of pytest-benchmark ({type(error).__name__}: {error})") from error
    if not described:
        raise ValueError(f"{file} is no JSON of pytest-benchmark: benchmarks or machine_info are something else")
    if not benchmarks:
        raise ValueError(f"{file} holds no benchmark")
    utc = started if started.tzinfo else started.replace(tzinfo=timezone.utc)
    shared = {
        "versions": json.dumps(
            {"python": str(machine.get("python_version", "")), "pytest-benchmark": str(found.get("version", ""))}
        ),
        "code": _code(commit),
        "time": utc.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    records: list[Record] = []
    names: dict[tuple[str, str], str] = {}
    for number, benchmark in enumerate(benchmarks):
        where = f"{file}: benchmark {number}"
        try:
            name = str(benchmark["fullname"])
            where = f"{file}: {name}"
            extra = benchmark.get("extra_info") or {}
            forms = dict(_forms(benchmark, extra, where))
            info = extra if isinstance(extra, dict) else {}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}: no benchmark of pytest-benchmark ({type(error).__name__}: {error})") from error
        table, row = _place(name)
        for form, seconds in forms.items():
            full = f"{row}-{slug(form)}" if form else row
            if names.setdefault((table, full), name + form) != name + form:
                full += "-" + hashlib.sha256((name + form).encode()).hexdigest()[:6]
            records.append(_record(table, full, seconds, info, machine, seed, name, shared))
    return records


def _forms(benchmark: Mapping[str, Any], extra: Any, where: str) -> Iterator[tuple[str, Sequence[float]]]:
    """Seconds of each round, by form; of a benchmark without forms under an empty name."""
    told = extra.get("seconds") if isinstance(extra, dict) else None
    if isinstance(told, dict) and told and all(isinstance(v, list) and v for v in told.values()):
        forms = {str(form): seconds for form, seconds in told.items()}
    else:
        stats = benchmark.get("stats") or {}
        if not stats.get("data"):
            raise ValueError(
                f"{where} has no single rounds: write the file with --benchmark-json FILE, or with --benchmark-save "
                "NAME --benchmark-save-data"
            )
        forms = {"": stats["data"]}
    for form, seconds in forms.items():
        good = (isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) and s >= 0 for s in seconds)
        if not all(good):
            raise ValueError(f"{where} has rounds that are no seconds")
        yield form, [float(s) for s in seconds]


def _place(fullname: str) -> tuple[str, str]:
    """Table and row: `sige` and `gather-fast` of `benchmarks/speed/bench_sige.py::test_gather[fast]`."""
    file, _, name = fullname.rpartition(".py::")
    stem = re.sub(r"^(bench|test|benchmark)_", "", Path(file).name) if file else PAPER
    words = re.sub(r"(^|::)(test|bench)_", r"\1", name or fullname)
    return slug(stem) or PAPER, slug(words) or "benchmark"


def _code(commit: Mapping[str, Any]) -> str:
    identity = str(commit.get("id") or "")[:12] or "unknown"
    return f"{identity}+changes" if commit.get("dirty") else identity


def _record(
    table: str,
    row: str,
    seconds: Sequence[float],
    info: Mapping[str, Any],
    machine: Mapping[str, Any],
    seed: int,
    name: str,
    shared: Mapping[str, str],
) -> Record:
    cpu = machine.get("cpu")
    processor = cpu.get("brand_raw") if isinstance(cpu, dict) else None
    threads = info.get("threads")
    identity = json.dumps([name, row, seed, shared["code"], shared["time"]])
    return Record(
        paper=PAPER,
        table=table,
        row=row,
        column=COLUMN,
        value=median(seconds),
        unit="s",
        low=min(seconds),
        high=max(seconds),
        interval=f"lowest and highest of {len(seconds)} rounds",
        samples=len(seconds),
        step=None,
        note=name,
        experiment=EXPERIMENT,
        seed=seed,
        scale=SCALE,
        status="ok",
        reason="",
        data="",
        device=str(info.get("device") or f"cpu ({processor or machine.get('machine') or 'unknown'})"),
        threads=threads if isinstance(threads, int) else 0,  # pytest-benchmark does not tell
        dtype="",
        seconds=math.fsum(seconds),
        peak_mebibytes=math.nan,
        digest=hashlib.sha256(identity.encode()).hexdigest()[:16],
        repetitions=tuple(seconds),
        **shared,
    )
