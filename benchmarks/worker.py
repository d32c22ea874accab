"""A job's own process: carries out one experiment and writes its records once, at the end."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture, Progress, Unavailable
from gengauge.benchmarks.core.records import Record, Status, ended_well
from gengauge.benchmarks.core.store import write_part
from gengauge.benchmarks.jobs import Job, settings_digest
from gengauge.benchmarks.machine import device_name, exact_float32, utc_now, versions
from gengauge.benchmarks.pictures import write_png
from gengauge.benchmarks.training.launch import end_with_parent, launch
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound


def work(job: Job, out: Path, pipe: Connection) -> None:
    """The process's main function: runs the job, leaves its part in `out/records`, its log in `out/logs`.

    Sends (done, total, doing) through `pipe` while it runs and the final (status, reason) at its end.
    """
    end_with_parent()
    log = out / "logs" / f"{job.digest}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    status: Status = "ok"
    reason = ""
    started, utc = time.perf_counter(), utc_now()
    measurements: list[Measurement] = []
    try:
        measurements.extend(_carry_out(job, out, pipe))  # what came before an exception is kept
        _check_complete(job, measurements)
    except (Unavailable, WeightsNotFound, DataNotFound) as missing:
        status, reason = "unavailable", str(missing)
    except MemoryError:
        status, reason = "memory", traceback.format_exc()
    except torch.OutOfMemoryError as error:
        status, reason = "memory", str(error)
    except Exception as error:  # noqa: BLE001 - whatever an experiment raises becomes its record
        traceback.print_exc()
        status, reason = "failed", "".join(traceback.format_exception_only(error)).strip()
    sys.stdout.flush()
    sys.stderr.flush()
    if status == "failed":
        reason = f"{reason}\n{last_lines(log)}"
    records = make_records(job, status, reason, measurements, time.perf_counter() - started, peak_mebibytes(job), utc)
    wrong = [r for r in records if not ended_well(r.status, r.column)]
    write_part(out / "records", f"{job.digest}-{utc.replace(':', '')}", records)
    pipe.send((wrong[-1].status, wrong[-1].reason) if wrong else ("ok", ""))
    pipe.close()


def make_records(
    job: Job, status: Status, reason: str, measurements: list[Measurement], seconds: float, peak: float, utc: str
) -> list[Record]:
    """The records of a job: one a measurement and, where the job as a whole did not end well, one a row that says so.

    A value that is not finite becomes a failed record, one that could not be had (`missing`) an unavailable one.
    """
    experiment, at = job.declared()
    columns = {column.key: column for column in experiment.columns}

    def record(m: Measurement, status: Status, reason: str) -> Record:
        return Record(
            paper=job.paper.key,
            table=experiment.table,
            row=m.row,
            column=m.column,
            value=m.value if math.isfinite(m.value) else None,
            unit=columns[m.column].unit if m.column else "",
            low=m.low,
            high=m.high,
            interval=m.interval,
            samples=m.samples,
            step=m.step,
            note=m.note,
            repetitions=m.repetitions,
            settings=settings_digest(at),
            method="" if job.method is None else f"{job.method.spec} {job.method.digest}",
            experiment=experiment.key,
            seed=job.seed,
            scale=job.scale,
            status=status,
            reason=reason,
            data=job.data_name,
            device=device_name(job.device),
            threads=at.threads,
            dtype=getattr(at.settings, "dtype", "float32"),
            seconds=seconds,
            peak_mebibytes=peak,
            versions=json.dumps(versions()),
            code=job.code,
            digest=job.digest,
            time=utc,
        )

    out = []
    for m in measurements:
        if m.missing:
            out.append(record(m, "unavailable", m.missing))
        elif math.isfinite(m.value):
            out.append(record(m, "ok", ""))
        else:
            out.append(record(m, "failed", f"{m.column} came out as {m.value}"))
    if status != "ok":
        out += [record(Measurement(row, "", math.nan), status, reason) for row in experiment.rows]
    return out


def _check_complete(job: Job, measurements: list[Measurement]) -> None:
    experiment, _ = job.declared()
    have = {(m.row, m.column) for m in measurements if m.step is None}
    have |= experiment.without
    lacking = [f"{row}/{c.key}" for row in experiment.rows for c in experiment.columns if (row, c.key) not in have]
    if lacking:
        raise ValueError(f"{experiment.key} ended without a value for {', '.join(lacking)}, which it declares")


def _carry_out(job: Job, out: Path, pipe: Connection) -> Iterator[Measurement]:
    experiment, at = job.declared()
    _settle_arithmetic(at.threads)
    torch.manual_seed(job.seed)

    def progress(done: int, total: int, doing: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            pipe.send((done, total, doing))

    work = out / "training"
    context = Context(at.settings, job.seed, job.scale, job.device, job.data, work, progress, job.digest, job.processes)
    if job.processes > 1 and experiment.train is not None:  # `run` then finds the training done
        launch(train_share, (job, work), job.processes, progress)
    for result in experiment.run(context):
        if isinstance(result, Picture):
            write_png(out / "pictures" / job.digest / f"{result.row}.{result.name}.png", result.pixels, result.alt)
        else:
            _check(result, experiment)
            yield result


def train_share(job: Job, work: Path, tell: Progress) -> None:
    """The long part of a job's experiment, in `work`: alone, or as one of the processes that were launched for it."""
    experiment, at = job.declared()
    assert experiment.train is not None
    _settle_arithmetic(at.threads)
    experiment.train(Context(at.settings, job.seed, job.scale, job.device, job.data, work, tell, job.digest))


def _settle_arithmetic(threads: int) -> None:
    exact_float32()
    torch.set_num_threads(threads)


def _check(m: Measurement, experiment: Experiment) -> None:
    if m.row not in experiment.rows or m.column not in {c.key for c in experiment.columns}:
        raise ValueError(f"{experiment.key} measured {m.row}/{m.column}, which it does not declare")


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a job's log, empty where there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-count:])


def peak_mebibytes(job: Job) -> float:
    """The most memory this process held: on the GPU where the job ran there, else resident.

    NaN for a job of several processes, whose long parts were in the others.
    """
    if job.processes > 1:
        return math.nan
    if job.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
