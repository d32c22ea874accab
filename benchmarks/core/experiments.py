"""The words paper, experiment, scale and measurement: what a paper module declares and the runner carries out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from gengauge.benchmarks.core.claims import Claim
from gengauge.benchmarks.core.openings import Contract, Opening
from gengauge.benchmarks.core.tables import Column, Table

Scale = Literal["quick", "small", "paper"]
SCALES: tuple[Scale, ...] = ("quick", "small", "paper")


class Unavailable(Exception):
    """Something that an experiment needs is not on this machine; `remedy` is the command or step that would get it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy

    def __str__(self) -> str:
        return f"{self.reason}. To get it: {self.remedy}"


@dataclass(frozen=True)
class Measurement:
    """One measured value. `step` is None for the final value and for a point of a curve its place (see `Axis`).

    `missing` says why there is no value (`value` is NaN then), where the rest of the job went well. `repetitions` are
    the single measurements that a time sums up, in the order they were taken.
    """

    row: str
    column: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    samples: int | None = None
    step: int | None = None
    note: str = ""
    missing: str = ""
    repetitions: tuple[float, ...] = ()

    def noted(self, note: str) -> Measurement:
        """The same with a note behind its own; an empty one adds nothing."""
        return replace(self, note="; ".join(filter(None, (self.note, note))))


@dataclass(frozen=True)
class Picture:
    """A picture for the report, (H, W, 3) uint8; `alt` says in words what it shows."""

    row: str
    name: str
    pixels: np.ndarray[Any, Any]
    alt: str


Result = Measurement | Picture


class Progress(Protocol):
    """Called by an experiment with the steps done, the steps in all and what it is doing."""

    def __call__(self, done: int, total: int, doing: str) -> None: ...


@dataclass(frozen=True)
class Context:
    """What a running experiment is given; `data` is the user's folder or None, `progress` a callback.

    `work` is a folder that outlives the job, shared by the jobs of a run: a long training keeps its states there and
    goes on from them when the job is started again. `job` is the digest of the job, for what no other may find there.
    So many `processes` may be launched to generate together, each on a device of its own kind.
    """

    settings: Any
    seed: int
    scale: Scale
    device: str
    data: Path | None
    work: Path
    progress: Progress
    job: str = ""
    processes: int = 1


@dataclass(frozen=True)
class Need:
    """Data or weights of a plan: found at `where`, or missing with the places looked in and the step that gets it."""

    what: str
    where: Path | None
    looked_in: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class PlannedNetwork:
    """A network of a plan: `build` makes the module, `inputs` its example arguments, both under the meta device."""

    name: str
    build: Callable[[], Any]
    inputs: Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Plan:
    """What `--dry-run` shows of an experiment: networks to build on the meta device, data and weights needed."""

    networks: tuple[PlannedNetwork, ...] = ()
    needs: Callable[[Path | None], tuple[Need, ...]] = lambda data: ()


@dataclass(frozen=True)
class Limits:
    """What one job may take before it is stopped: wall-clock seconds and GiB of resident memory."""

    seconds: float
    gibibytes: float


@dataclass(frozen=True)
class AtScale:
    """How an experiment runs at one scale.

    `settings` is a frozen dataclass, `seeds` the number that its verdict needs. `threads` are fixed here, not taken
    from the machine, since rounding depends on them: the numbers are the same for any number of jobs side by side.
    `protocol` names what differs from the published protocol at this scale only.
    """

    settings: Any
    seeds: int
    limits: Limits
    threads: int = 1
    plan: Plan = field(default_factory=Plan)
    protocol: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Axis:
    """What the curves of an experiment run over: `name` with its unit; a step is one of `steps_per_unit` of a unit."""

    name: str
    steps_per_unit: int = 1
    log: bool = False
    about: str = ""  # how a report calls the curves


TRAINING = Axis("training step", about="Over training")


@dataclass(frozen=True)
class Experiment:
    """One function that fills some rows of one table at the scales it declares.

    `columns` are the metrics it measures, those of the published table and its own. `protocol` names each difference
    from the published protocol, at every scale, as (subject, published, here). A `timed` experiment runs alone on the
    machine. `without` are the (row, column) that a row does not have, as a dense network has no cache; a row without
    any column is a line of the curves, which run over `axis`.

    `check` looks at the user's data before any job starts and raises ValueError for what the experiment cannot use.
    `reads` tells which part of a folder of data sets it reads (None: the part is not there), by default all of it.
    `train` is the long part of `run` alone, for `gengauge train` in several processes: `run` finds it done. At the
    scales of `generates`, what `run` generates is shared out over the context's processes, too. `measure` gives mean
    and standard deviation of what a network in the user's file has by the same protocol, for `gengauge measure`.
    """

    key: str
    table: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    scales: Mapping[Scale, AtScale]
    run: Callable[[Context], Iterator[Result]]
    check: Callable[[Any, Path | None], None] = lambda settings, data: None
    protocol: tuple[tuple[str, str, str], ...] = ()
    timed: bool = False
    axis: Axis = TRAINING
    without: frozenset[tuple[str, str]] = frozenset()
    reads: Callable[[Any, Path], Path | None] | None = None
    train: Callable[[Context], object] | None = None
    generates: tuple[Scale, ...] = ()
    measure: Callable[[Context, Path], Mapping[str, tuple[float, float]]] | None = None


@dataclass(frozen=True)
class Paper:
    """A paper of the suite. One without experiments has published numbers only, and `list` says so.

    `about` tells in the report what the experiments are and what they are not, one paragraph a scale. `preload` are
    heavy modules that jobs import late, so that a run imports them once for all of its jobs.

    A method of the user's own that offers what `contract` asks may stand at `openings`; `closed` tells by TABLE, or by
    TABLE/EXPERIMENT, why it may not stand elsewhere.
    """

    key: str
    name: str
    title: str
    venue: str
    tables: tuple[Table, ...]
    experiments: tuple[Experiment, ...] = ()
    claims: tuple[Claim, ...] = ()
    about: Mapping[Scale, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    contract: Contract | None = None
    openings: tuple[Opening, ...] = ()
    closed: Mapping[str, str] = field(default_factory=dict)

    def table(self, key: str) -> Table:
        """The table of a key; ValueError naming the tables there are."""
        for table in self.tables:
            if table.key == key:
                return table
        raise ValueError(f"{self.key} has no table {key!r}; it has {', '.join(t.key for t in self.tables)}")
