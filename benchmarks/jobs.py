"""Jobs: the smallest pieces of work, chosen from the papers by `PAPER[/TABLE[/ROW]]` and named by a digest."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gengauge.benchmarks
import gengauge.datasets
import gengauge.kernels
import gengauge.reference
from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Measurement, Paper, Result, Scale
from gengauge.benchmarks.core.openings import Opening
from gengauge.benchmarks.core.version import __version__
from gengauge.benchmarks.machine import source_digest, versions
from gengauge.benchmarks.methods import MethodSource, find, load
from gengauge.datasets.catalogue import data_folder
from gengauge.datasets.weights import overrides

WORLD = "embedded world"
HASHED_BYTES = 2**30


@dataclass(frozen=True)
class Job:
    """One experiment at one seed and scale.

    `source` is where its paper is declared, as `module:attribute`; `data_name` and `code` identify data and sources.
    `processes` share its training and what it generates. With a `method` it is that method's row which is measured, by
    the experiment's code.
    """

    source: str
    experiment: str
    seed: int
    scale: Scale
    device: str
    data: Path | None
    data_name: str
    code: str
    digest: str
    processes: int = 1
    method: MethodSource | None = None

    @property
    def paper(self) -> Paper:
        return load_paper(self.source)

    def declared(self) -> tuple[Experiment, AtScale]:
        """The experiment and how it runs at this job's scale."""
        experiment = next(e for e in self.paper.experiments if e.key == self.experiment)
        if self.method is not None:
            experiment = own_experiment(self.paper, experiment, self.method)
        return experiment, experiment.scales[self.scale]

    def __str__(self) -> str:
        experiment, _ = self.declared()
        what = experiment.key if self.method is None else experiment.rows[0]
        return f"{self.paper.key}/{experiment.table} {what} seed {self.seed}"


def load_paper(source: str) -> Paper:
    """The paper at `module:attribute`. Raises ValueError where there is none."""
    module, _, attribute = source.partition(":")
    paper = getattr(importlib.import_module(module), attribute, None)
    if not isinstance(paper, Paper):
        raise ValueError(f"{source} is no Paper")
    return paper


def select(
    sources: Iterable[str],
    targets: Sequence[str],
    scale: Scale,
    seeds: int | None,
    device: str,
    data: Path | None,
    processes: int = 1,
    methods: Sequence[str] = (),
    alone: bool = False,
) -> list[Job]:
    """The jobs that fill the rows asked for; all of them without a target.

    A target is `PAPER`, `PAPER/TABLE` or `PAPER/TABLE/ROW`, by key. An experiment that fills several rows runs where
    one of them is asked for. Seeds are 0 to `seeds` - 1, by default as many as the experiment declares; first all
    experiments at seed 0, then at seed 1, so that a run cut short has something of everything. Beyond quick scale the
    data are by default those of $GENGAUGE_DATA. So many `processes` share the training of each job that has one, and
    what it generates.

    `methods` of the user's own (see `benchmarks.methods`) are measured at the openings of what is chosen: beside the
    declared rows, or `alone`.

    Raises ValueError for a target that names nothing, listing what there is, for data that an experiment refuses and
    for a method that does not offer what its paper asks.
    """
    chosen = _chosen(sources, targets)
    if data is not None and not data.exists():
        raise FileNotFoundError(f"--data {data}: there is no such file or folder")
    if data is None and scale != "quick":  # quick has the embedded world
        data = data_folder()
    code = code_version()
    identities: dict[Path | None, str] = {}

    def identity(at: AtScale, experiment: Experiment) -> str:
        if data is None and scale != "quick":
            return "no data folder"
        part = data if data is None or experiment.reads is None else experiment.reads(at.settings, data)
        if part is None and data is not None:
            return f"nothing of it in {data.resolve().name}"
        if part not in identities:
            identities[part] = data_identity(part)
        return identities[part]

    pieces: list[tuple[str, Experiment, MethodSource | None]] = []
    if not alone:
        pieces += [(source, experiment, None) for source, _, experiment in chosen]
    pieces += _own_rows(chosen, methods)
    jobs = []
    for source, experiment, method in pieces:
        at = experiment.scales.get(scale)
        if at is None:
            continue
        experiment.check(at.settings, data)
        name = identity(at, experiment)
        trained = processes if experiment.train is not None else 1
        shared = processes if scale in experiment.generates else trained
        for seed in range(at.seeds if seeds is None else seeds):
            digest = _digest(source, experiment, at, seed, scale, device, name, code, trained, method)
            jobs.append(Job(source, experiment.key, seed, scale, device, data, name, code, digest, shared, method))
    return sorted(jobs, key=lambda job: job.seed)


def _chosen(sources: Iterable[str], targets: Sequence[str]) -> list[tuple[str, Paper, Experiment]]:
    """The experiments that targets mean, each once, with their papers and where these are declared."""
    papers = {load_paper(source).key: (source, load_paper(source)) for source in sources}
    chosen: dict[tuple[str, str], tuple[str, Paper, Experiment]] = {}
    for target in targets or list(papers):
        key, table, row = [*target.split("/", 2), "", ""][:3]
        if key not in papers:
            raise ValueError(f"there is no paper {key!r}; there are {', '.join(papers)}")
        source, paper = papers[key]
        if table:
            rows = [r.key for r in paper.table(table).rows]
            rows += [r for e in paper.experiments if e.table == table for r in e.rows if r not in rows]
            if row and row not in rows:
                raise ValueError(f"{key}/{table} has no row {row!r}; it has {', '.join(rows)}")
        for experiment in paper.experiments:
            if (not table or experiment.table == table) and (not row or row in experiment.rows):
                chosen[key, experiment.key] = (source, paper, experiment)
    return list(chosen.values())


# -- methods of the user's own -----------------------------------------------------------------------------------------


def opening_of(paper: Paper, experiment: Experiment) -> Opening | None:
    """The place for a user's method that is measured as an experiment measures, None where there is none."""
    return next((each for each in paper.openings if each.experiment == experiment.key), None)


def own_experiment(paper: Paper, experiment: Experiment, method: MethodSource) -> Experiment:
    """A method's own row, with all that the experiment declares; nothing of the user's is imported before it runs."""
    opening, contract = opening_of(paper, experiment), paper.contract
    assert opening is not None
    assert contract is not None
    rows = tuple(f"{method.name}@{setting}" if setting else method.name for setting in opening.settings)

    def run(context: Context) -> Iterator[Result]:
        own = load(method, paper.key, contract, experiment.table, rows)
        for result in opening.run(context, own):
            if isinstance(result, Measurement):  # so that records tell what was measured
                yield result.noted(f"by {own.spec}, sources {own.digest}")
            else:
                yield result

    columns = tuple(c for c in experiment.columns if not opening.columns or c.key in opening.columns)
    return replace(
        experiment, rows=rows, columns=columns, run=run, without=frozenset(), train=None, generates=(), measure=None
    )


def _own_rows(
    chosen: Sequence[tuple[str, Paper, Experiment]], methods: Sequence[str]
) -> Iterator[tuple[str, Experiment, MethodSource]]:
    """Each method at each opening of what is chosen. Raises ValueError as `find` does, and for a row that is taken."""
    taken: dict[tuple[str, str, str], str] = {}
    for spec in dict.fromkeys(methods):
        found: dict[str, MethodSource] = {}
        for source, paper, experiment in chosen:
            if paper.contract is None or opening_of(paper, experiment) is None:
                continue
            if paper.key not in found:
                found[paper.key], _ = find(spec, paper.key, paper.contract)
            own = own_experiment(paper, experiment, found[paper.key])
            declared = {r.key for r in paper.table(own.table).rows}
            declared |= {r for e in paper.experiments if e.table == own.table for r in e.rows}
            for row in own.rows:
                other = "the paper" if row in declared else taken.get((paper.key, own.table, row), spec)
                if other != spec:
                    raise ValueError(
                        f"--method {spec}: {paper.key}/{own.table} has a row {row!r} already, of {other}; give the "
                        "method a `name` of its own"
                    )
                taken[paper.key, own.table, row] = spec
            yield source, own, found[paper.key]


def closed_places(sources: Iterable[str], target: str, scale: Scale) -> tuple[dict[str, str], bool]:
    """Why a user's method has no row in tables of a target, by PAPER/TABLE; and whether it has one in any of them."""
    reasons: dict[str, str] = {}
    open_somewhere = False
    chosen = _chosen(sources, [target])
    for table in dict.fromkeys((paper.key, experiment.table) for _, paper, experiment in chosen):
        mine = [(paper, e) for _, paper, e in chosen if (paper.key, e.table) == table]
        paper = mine[0][0]
        opened = {key: e for _, e in mine if opening_of(paper, e) is not None for key in e.scales}
        here = any(scale in e.scales for _, e in mine)
        if scale in opened:
            open_somewhere = True
        elif opened and (here or "/" in target):
            reasons["/".join(table)] = f"it takes a method at {', '.join(opened)}: give --scale"
        elif here or "/" in target:
            keys = [*(f"{e.table}/{e.key}" for _, e in mine), table[1]]
            told = [paper.closed[key] for key in keys if key in paper.closed]
            others = [r for e in paper.experiments if e.table == table[1] and opening_of(paper, e) for r in e.rows]
            if others:
                told.append(f"of this table's rows it takes the protocol of {', '.join(others)}")
            reasons["/".join(table)] = "; ".join(told) or "none of its rows are of methods"
    return reasons, open_somewhere


# ----------------------------------------------------------------------------------------------------------------------


def data_identity(data: Path | None) -> str:
    """A name for the data of a run: the embedded world, or a folder's name with a digest of its files.

    Up to 1 GiB the files' contents count, beyond that their sizes and times. Hidden files do not count. Raises
    FileNotFoundError naming a path that is not there.
    """
    if data is None:
        return WORLD
    if not data.exists():
        raise FileNotFoundError(f"--data {data}: there is no such file or folder")
    files = (
        [p for p in sorted(data.rglob("*")) if p.is_file() and not p.name.startswith(".")] if data.is_dir() else [data]
    )
    whole = sum(p.stat().st_size for p in files) <= HASHED_BYTES
    hasher = hashlib.sha256()
    for p in files:
        content = hashlib.sha256(p.read_bytes()).hexdigest() if whole else f"{p.stat().st_size} {p.stat().st_mtime_ns}"
        hasher.update(f"{p.relative_to(data)}\t{content}\n".encode())
    return f"{data.resolve().name} ({hasher.hexdigest()[:8]})"


def code_version() -> str:
    """The version with a digest of all sources that a result can depend on (reports and tests are left out)."""
    packages = (gengauge.benchmarks, gengauge.reference, gengauge.kernels, gengauge.datasets)
    return f"{__version__}+{source_digest(*(Path(package.__path__[0]) for package in packages))}"


def settings_digest(at: AtScale) -> str:
    """A name for the settings of an experiment at a scale."""
    return hashlib.sha256(_as_text(asdict(at.settings)).encode()).hexdigest()[:8]


def _as_text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _digest(
    source: str,
    experiment: Experiment,
    at: AtScale,
    seed: int,
    scale: Scale,
    device: str,
    data: str,
    code: str,
    processes: int,
    method: MethodSource | None,
) -> str:
    content: dict[str, Any] = {
        "source": source,
        "experiment": experiment.key,
        "table": experiment.table,
        "rows": experiment.rows,
        "settings": asdict(at.settings),
        "threads": at.threads,
        "seed": seed,
        "scale": scale,
        "device": device,
        "data": data,
        "code": code,
        "versions": versions(),
        "weights": overrides(),
    }
    if processes > 1:  # that train: batch norms see a share of a batch each
        content["processes"] = processes
    if method is not None:
        content["method"] = (method.spec, method.digest)
    return hashlib.sha256(_as_text(content).encode()).hexdigest()[:16]
