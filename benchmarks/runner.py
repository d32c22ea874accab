"""The runner: leaves out what is finished, gives the rest to an engine, shows progress and sums up."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gengauge.benchmarks.core.records import ended_well
from gengauge.benchmarks.core.store import newest_methods, read_records
from gengauge.benchmarks.engine import Event, run_local
from gengauge.benchmarks.jobs import Job
from gengauge.benchmarks.mirror import RESULTS, STATES, Mirror

RunJobs = Callable[[Sequence[Job], Path, int, Callable[[Event], None]], None]


def run(
    jobs: Sequence[Job],
    out: Path,
    parallel: int,
    force: bool,
    console: Console,
    engine: RunJobs = run_local,
    mirror: Mirror | None = None,
    parts: Sequence[str] = (*STATES, *RESULTS),
) -> Counter[str]:
    """Runs the jobs that `out` does not hold yet (all of them with `force`) and counts how the jobs asked for ended.

    A finished job is one with records of status ok, of the same configuration and code. With a `mirror`, the `parts` of
    its URL are first fetched into `out`, where the work is done, and sent as jobs end.

    Raises OSError naming `out` or the URL where nothing can be written there, or where another run is at work there,
    before any work is done.
    """
    _check_writable(out)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"another run is at work in {out}; wait for it or choose another folder with --out") from None
    try:
        if mirror is None:
            return _run(jobs, out, parallel, force, console, engine, lambda: None)
        mirror.check()
        mirror.fetch(out, parts)
        with mirror.kept(out, parts) as due:
            return _run(jobs, out, parallel, force, console, engine, due.set)
    finally:
        lock.release()


def _run(
    jobs: Sequence[Job],
    out: Path,
    parallel: int,
    force: bool,
    console: Console,
    engine: RunJobs,
    ended: Callable[[], object],
) -> Counter[str]:
    for stale in (out / "records").glob(".*.tmp"):  # of a run that was killed while it wrote
        stale.unlink()
    done = set() if force else finished(out)
    left = [job for job in jobs if job.digest not in done]
    kept = len(jobs) - len(left)
    if kept:
        console.print(f"{kept} of {len(jobs)} jobs are finished already (--force repeats them)")
    counts = Counter({"ok": kept})
    if left:
        with _Display(console, len(left)) as display:

            def tell(event: Event) -> None:
                display.tell(event)
                if event.kind == "end":
                    ended()

            engine(left, out, parallel, tell)
        counts += display.counts
    return counts


def finished(out: Path) -> set[str]:
    """The digests of the jobs of which no record in `out` is a reason to run them again.

    One is that another method of the user's has taken the row since.
    """
    if not (out / "records").is_dir():
        return set()
    frame = read_records(out, every_attempt=True)
    newest = frame[frame["time"] == frame.groupby("digest")["time"].transform("max")]
    well = [ended_well(str(s), str(c)) for s, c in zip(newest["status"], newest["column"], strict=True)]
    left = set(newest.loc[[not w for w in well], "digest"])
    return set(newest["digest"]) - left - set(frame.loc[frame["method"] != newest_methods(frame), "digest"])


def _check_writable(out: Path) -> None:
    try:
        (out / "records").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out / "records"):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {out} ({error.strerror}); choose another folder with --out") from error


class _Display:
    """A bar for all jobs with the time it will end, and one for each that runs; plain lines without a terminal."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.counts: Counter[str] = Counter()
        self.fractions: dict[str, float] = {}
        self.bars: dict[str, TaskID] = {}
        self.started = datetime.now()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> _Display:
        self.progress.start()
        self.all = self.progress.add_task(f"[bold]{self.total} jobs", total=self.total, note="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def tell(self, event: Event) -> None:
        digest = event.job.digest
        if event.kind == "start":
            self.bars[digest] = self.progress.add_task(str(event.job), total=None, note="")
        elif event.kind == "progress":
            self.fractions[digest] = event.done / max(event.total, 1)
            self.progress.update(self.bars[digest], completed=event.done, total=event.total, note=event.doing)
        else:
            self.fractions.pop(digest, None)
            self.progress.remove_task(self.bars.pop(digest))
            self.counts[event.status] += 1
            self._say_end(event)
        completed = self.counts.total() + sum(self.fractions.values())
        self.progress.update(self.all, completed=completed, note=self._ends_at(completed))

    def _say_end(self, event: Event) -> None:
        colour = {"ok": "green", "unavailable": "yellow"}.get(event.status, "red")
        self.console.print(
            f"[{self.counts.total()}/{self.total}] {event.job}: [{colour}]{event.status}[/] in {event.seconds:.1f} s",
            highlight=False,
        )
        if event.status != "ok":
            self.console.print(
                "    " + event.reason.replace("\n", "\n    "), style=colour, markup=False, highlight=False
            )

    def _ends_at(self, completed: float) -> str:
        if not completed:
            return ""
        rest = (datetime.now() - self.started) / completed * (self.total - completed)
        return f"ends about {datetime.now() + rest:%H:%M:%S} ({timedelta(seconds=round(rest.total_seconds()))} left)"
