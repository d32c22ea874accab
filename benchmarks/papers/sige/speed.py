"""The timed experiments: dense ways and the sparse engine on edits, of one network, in one process, in alternation."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Axis,
    Context,
    Experiment,
    Limits,
    Measurement,
    Plan,
    Result,
    Scale,
)
from gengauge.benchmarks.core.tables import Column, Row, Table, slug
from gengauge.benchmarks.machine import all_cores
from gengauge.benchmarks.papers.sige.counting import count_dense, count_sparse
from gengauge.benchmarks.papers.sige.crossing import crossing
from gengauge.benchmarks.papers.sige.edits import ALL, EDITS, SHIPPED, SQUARE, Edit
from gengauge.benchmarks.papers.sige.networks import NETWORKS, Network
from gengauge.benchmarks.timing import Ratio, Samples, Way, alternate, ratio, working_bytes
from gengauge.reference.sige.engine import Engine

DenseWay = Literal["eager", "channels_last", "bfloat16", "autocast", "compile"]
DENSE: dict[DenseWay, Row] = {
    "eager": Row("Dense", "eager, contiguous, as published"),
    "channels_last": Row("Dense", "channels_last"),
    "bfloat16": Row("Dense", "channels_last, bfloat16"),
    "autocast": Row("Dense", "channels_last, autocast to bfloat16"),
    "compile": Row("Dense", "channels_last, torch.compile"),
}
FLOAT32: tuple[DenseWay, ...] = ("eager", "channels_last", "compile")
FULL = Row("SIGE", "full pass on the original")
# Lines of the curves only.
SparseWay = Literal["fast", "direct", "bfloat16"]
SPARSE: dict[SparseWay, str] = {
    "fast": "SIGE",
    "direct": "SIGE, direct convolutions",
    "bfloat16": "SIGE, bfloat16",
}
SPARSE_LINE, MACS_LINE, PRODUCTS_LINE = Row("SIGE"), Row("Bound by direct MACs"), Row("Bound by Winograd's products")
LINES = (SPARSE_LINE, MACS_LINE, PRODUCTS_LINE)
QUICK_EDITS = (SHIPPED, SQUARE, Edit("square of 30%", 0.30), ALL)
SPARSE_REPEATS = 3  # of a round: they are short
MEBI = 2**20
AREA = Axis("edited pixels (%)", steps_per_unit=100, log=True, about="Against the edited share of the pixels")


@dataclass(frozen=True)
class Settings:
    """What is timed of a network, by key, densely and by the sparse engine."""

    network: str
    edits: tuple[Edit, ...] = QUICK_EDITS
    dense: tuple[DenseWay, ...] = ("eager", "channels_last", "bfloat16")
    sparse: tuple[SparseWay, ...] = ("fast", "bfloat16")
    rounds: int = 3


SPEED = Column(
    "speedup", "Time of the dense eager pass divided by this row's, round by round, the median", "x", "higher"
)
COLUMNS = (
    Column("seconds", "One forward pass, the median of repeats in alternation with the other rows", "s", "lower"),
    SPEED,
    Column("against_dense", "Time of the quickest dense float32 way divided by this row's", "x", "none"),
    Column(
        "against_all",
        "Time of the engine with all pixels touched divided by this row's: what sparsity gives, and not the arithmetic",
        "x",
        "none",
    ),
    Column("edited", "Edited share of the pixels after the first dilation, the papers' edit size", "%", "none"),
    Column("mask_share", "Making masks and tile indices, as a share of the sparse pass that follows", "%", "none"),
    Column(
        "stops_paying",
        "Edited share of the pixels from which on this row is quicker than the sparse engine (of the same type of "
        "numbers), on the straight line "
        "between the two measured edits that enclose it; 100 where it is at no edit, 0 where it is at all",
        "%",
        "none",
    ),
    Column(
        "pays_at", "The largest measured edit up to which the sparse engine is quicker; 0 where at none", "%", "none"
    ),
    Column("lost_at", "The measured edit after it, where this row is quicker; 100 where there is none", "%", "none"),
    Column("page_faults", "Minor page faults of a pass, the median", "1", "none"),
    Column("cache", "Memory of the original's maps and statistics", "MiB", "none"),
    Column("packed", "Memory of weights laid out anew, for all edits of this table together", "MiB", "none"),
    Column(
        "memory",
        "Peak memory: weights, laid-out weights and cache, and the most that tensors made in a pass hold at once",
        "MiB",
        "none",
    ),
)
EVERY = ("seconds", "speedup", "against_dense", "page_faults", "memory")
OF_DENSE = (*EVERY, "stops_paying", "pays_at", "lost_at")
OF_COMPILED = tuple(column for column in OF_DENSE if column != "memory")
OF_FULL = (*EVERY, "cache", "packed")
OF_SPARSE = (*OF_FULL, "against_all", "edited", "mask_share")
PROTOCOL = (
    ("machine", "RTX 3090, Apple M1 Pro: GPU and CPU", "the machine at hand: the seconds are not comparable"),
    ("weights", "trained", "random, which does not change the time"),
    (
        "picture and edits",
        "photographs and label maps with an edit each",
        "random pictures, changed in every pixel of the shipped edit's mask or of a centred square and nowhere else",
    ),
    ("repeats", "200 after 200 to warm up, the mean", "few, in alternation with the other rows, the median"),
    ("input of the sparse pass", "the original picture itself", "the edited one"),
    ("sparse engine", "the released one", "this project's, with the same policy and masks"),
)


def sparse_row(edit: Edit, way: SparseWay = "fast") -> Row:
    """The row of the sparse engine on an edit."""
    return Row(SPARSE[way], edit.name)


def rows_of(s: Settings) -> dict[Row, tuple[str, ...]]:
    """The rows that an experiment measures, with their columns."""
    rows: dict[Row, tuple[str, ...]] = {DENSE[way]: OF_COMPILED if way == "compile" else OF_DENSE for way in s.dense}
    rows[FULL] = OF_FULL
    return rows | {sparse_row(edit, way): OF_SPARSE for way in s.sparse for edit in s.edits}


SHORT = {slug(edit.name) for edit in EDITS if edit.share is None or edit.share < 0.2}


@dataclass
class _Sparse:
    """An edit: the engine and the two pictures as a user has them, and what masks and tile indices took, every time."""

    engine: Engine
    network: Network
    original: Tensor
    edited: Tensor
    seconds: list[float] = field(default_factory=list)
    edited_share: float = math.nan

    def mask(self) -> None:
        """Makes masks and tile indices anew: the engine knows one edit at a time."""
        started = time.perf_counter()
        masks = self.network.recipe.from_pair(self.original, self.edited)
        self.engine.set_masks(masks.levels)
        if self.original.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - started)
        self.edited_share = masks.ratio

    def run(self) -> Tensor:
        return self.engine.sparse(self.edited)


@dataclass(frozen=True, eq=False)
class Given:
    """What other ways than those here are made of: the network, its inputs by edit, and what it gives for the original.

    `edited` are pictures and masks (H, W) of where each differs from the original.
    """

    module: nn.Module
    original: Tensor
    times: tuple[Tensor, ...]
    edited: Mapping[Edit, tuple[Tensor, Tensor]]
    output: object


@dataclass(frozen=True, eq=False)
class Timed:
    """Times by row; and by row the bytes of weights and of a pass, the edits, and why a way could not be had."""

    samples: Mapping[str, Samples]
    weights: int
    held: Mapping[str, int]
    working: Mapping[str, int]
    edits: Mapping[str, _Sparse]
    engines: Mapping[SparseWay, Engine]
    failed: Mapping[str, str]


Others = Callable[[Given], Mapping[str, Way]]


def timed(context: Context, s: Settings, others: Others | None = None) -> Timed:
    """Times every row of the settings, and `others`, in alternation."""
    network = NETWORKS[s.network]
    total = 2 * len(rows_of(s)) + s.rounds * sum(_repeats(row.key) for row in rows_of(s))
    done = 0

    def tell(steps: int, doing: str) -> None:
        context.progress(min(done + steps, total), total, doing)

    tell(0, "building the network")
    generator = torch.Generator().manual_seed(context.seed)
    picture = network.original_input(generator)
    module = network.build(True).eval().requires_grad_(False).to(context.device)
    times, original = network.times(context.device), picture.to(context.device)
    ways: dict[str, Way] = {}
    failed: dict[str, str] = {}
    weights = _bytes_of(module)
    held: dict[str, int] = {}
    working: dict[str, int] = {}
    dense_output: list[object] = []
    for dense in s.dense:
        row = DENSE[dense].key
        tell(0, f"warming up: {row}")
        made = dense_way(dense, module, original, times)
        if dense == "eager":
            made = _remembering(made, dense_output)
        try:
            if dense == "compile":
                made()
            else:
                with all_cores():
                    working[row] = working_bytes(made, context.device)
        except Exception as error:  # a compiler that is missing or gives up is no fault of the others
            if dense != "compile":
                raise
            failed[row] = f"torch.compile does not work here: {str(error).splitlines()[0]}"
            continue
        ways[row] = made
        held[row] = weights // 2 if dense == "bfloat16" else weights
        done += 2

    if others is not None:
        tell(0, "preparing other ways")
        masks = {edit: edit.mask(network.shipped, *network.size).to(original.device) for edit in s.edits}
        inputs = {edit: (network.edited_input(original, mask), mask) for edit, mask in masks.items()}
        with all_cores():
            ways.update(others(Given(module, original, times, inputs, dense_output[-1])))
        total += s.rounds * sum(_repeats(row) for row in ways if row not in held)
    engines = {way: sparse_engine(way, module, network) for way in s.sparse}
    edits: dict[str, _Sparse] = {}
    for way, engine in engines.items():
        tell(0, "laying out weights, keeping the original's maps")
        mine = original.bfloat16() if way == "bfloat16" else original
        with all_cores():
            full_output = engine.full(mine, *times)
        check_agreement(f"the engine's full pass ({SPARSE[way]})", full_output, dense_output[-1])
        for edit in s.edits:
            row = sparse_row(edit, way).key
            tell(0, f"warming up: {row}")
            edited = network.edited_input(original, edit.mask(network.shipped, *network.size)).to(mine.dtype)
            edits[row] = _Sparse(engine, network, mine, edited)
            edits[row].mask()
            if edit == s.edits[0]:  # where nothing differs, tiles must give what is there
                with all_cores():
                    check_agreement(f"{row}, of the original itself", engine.sparse(mine), full_output)
            packed = engine.weight_bytes
            with all_cores():  # a first pass may lay out weights in another way
                working[row] = working_bytes(edits[row].run, context.device)
            working[row] -= engine.weight_bytes - packed
            edits[row].seconds.clear()  # the first time is no measure
            ways[row] = edits[row].run
            done += 2
    ways[FULL.key] = lambda: engines["fast"].full(original, *times)
    with all_cores():
        working[FULL.key] = working_bytes(ways[FULL.key], context.device)
    samples = alternate(
        ways, s.rounds, _repeats, context.device, lambda row: edits[row].mask() if row in edits else None, tell
    )
    return Timed(samples, weights, held, working, edits, engines, failed)


def speed(context: Context) -> Iterator[Result]:
    """Times every row, then sets the times against each other."""
    s: Settings = context.settings
    found = timed(context, s)
    samples, edits, working = found.samples, found.edits, found.working
    for dense in s.dense:
        if (row := DENSE[dense].key) in found.failed:
            yield from (Measurement(row, column, math.nan, missing=found.failed[row]) for column in OF_COMPILED)
    best = quickest(s, samples)
    everything = all_pixels(s)
    for row, mine in samples.items():
        yield from common(row, mine, samples[DENSE["eager"].key], samples[best])
        if row in found.held:
            if row in working:
                yield Measurement(row, "memory", (found.held[row] + working[row]) / MEBI)
            continue
        engine = edits[row].engine if row in edits else found.engines["fast"]
        kept = engine.cache_bytes, engine.weight_bytes
        yield Measurement(row, "cache", kept[0] / MEBI)
        yield Measurement(row, "packed", kept[1] / MEBI)
        # What the full pass makes anew is its cache.
        own = working[row] + sum(kept) - (kept[0] if row == FULL.key else 0)
        yield Measurement(row, "memory", (found.weights + own) / MEBI)
        if row in edits:
            yield against(row, "against_all", ratio(samples[everything], mine))
            yield Measurement(row, "edited", 100 * edits[row].edited_share)
            masking = statistics.median(edits[row].seconds)
            yield Measurement(row, "mask_share", 100 * masking / mine.median, samples=len(edits[row].seconds))
    yield from _crossings(s, samples, edits)
    yield from _curves(s, samples, edits)


def quickest(s: Settings, samples: Mapping[str, Samples]) -> str:
    """The row of the quickest dense float32 way."""
    rows = (DENSE[way].key for way in s.dense if way in FLOAT32 and DENSE[way].key in samples)
    return min(rows, key=lambda row: samples[row].median)


def all_pixels(s: Settings) -> str:
    """The engine's row with all pixels touched."""
    return sparse_row(ALL).key if ALL in s.edits else FULL.key


# Largest difference allowed, as a share of the largest value: what is timed must be right.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def check_agreement(what: str, ours: Tensor, expected: object) -> None:
    """Raises RuntimeError where a pass that is to be timed gives another result than it should."""
    assert isinstance(expected, Tensor)
    difference = (ours.float() - expected.float()).abs().max().item()
    if not difference <= AGREEMENT[ours.dtype] * expected.float().abs().max().item():
        raise RuntimeError(f"{what} differs by {difference:.3g} from what it should be: its time would mean nothing")


def _remembering(way: Way, outputs: list[object]) -> Way:
    """A way that keeps its last output."""

    def run() -> object:
        outputs[:] = [way()]
        return outputs[0]

    return run


def sparse_engine(way: SparseWay, module: nn.Module, network: Network) -> Engine:
    """The engine on a network; in bfloat16 it has weights of its own."""
    if way == "bfloat16":
        return Engine(copy.deepcopy(module).bfloat16(), network.policy)
    return Engine(module, network.policy, way)


def dense_way(way: DenseWay, module: nn.Module, picture: Tensor, times: tuple[Tensor, ...]) -> Way:
    """The dense network as a user would run it; all but `eager` have weights of their own."""
    if way == "eager":
        return _under_no_grad(module, picture, times)
    mine = copy.deepcopy(module).to(memory_format=torch.channels_last)
    picture = picture.contiguous(memory_format=torch.channels_last)
    if way == "bfloat16":
        return _under_no_grad(mine.bfloat16(), picture.bfloat16(), times)
    if way == "autocast":
        plain = _under_no_grad(mine, picture, times)

        def cast_as_it_goes() -> object:
            with torch.autocast(picture.device.type, torch.bfloat16):
                return plain()

        return cast_as_it_goes
    return _under_no_grad(torch.compile(mine) if way == "compile" else mine, picture, times)  # type: ignore[arg-type]


def _under_no_grad(module: nn.Module, picture: Tensor, times: tuple[Tensor, ...]) -> Way:
    def run() -> object:
        with torch.no_grad():
            return module(picture, *times)

    return run


def _repeats(row: str) -> int:
    return SPARSE_REPEATS if row.partition("@")[2] in SHORT else 1


def _bytes_of(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in (*module.parameters(), *module.buffers()))


def common(row: str, found: Samples, eager: Samples, best: Samples) -> Iterator[Measurement]:
    """A row's time, against dense ones, and its page faults."""
    seconds = found.seconds
    what = f"lowest and highest of {len(seconds)} repeats"
    yield Measurement(
        *(row, "seconds", found.median, min(seconds), max(seconds), what, len(seconds)), repetitions=tuple(seconds)
    )
    yield against(row, "speedup", ratio(eager, found))
    yield against(row, "against_dense", ratio(best, found))
    yield Measurement(row, "page_faults", statistics.median(found.faults), samples=len(found.faults))


def against(row: str, column: str, found: Ratio) -> Measurement:
    """A quotient of times, with its spread over rounds."""
    return Measurement(row, column, found.median, found.low, found.high, "lowest and highest of the rounds")


def _crossings(s: Settings, samples: Mapping[str, Samples], edits: Mapping[str, _Sparse]) -> Iterator[Measurement]:
    for way in s.dense:
        row = DENSE[way].key
        if row in samples:
            like: SparseWay = "bfloat16" if way not in FLOAT32 and "bfloat16" in s.sparse else "fast"
            rows = [sparse_row(edit, like).key for edit in s.edits]
            sparse = {100 * edits[r].edited_share: samples[r].median for r in rows}
            found = crossing(sparse, samples[row].median)
            low, high = found.pays_at, found.lost_at
            yield Measurement(row, "stops_paying", found.at, low, high, "the measured edits on either side")
            yield Measurement(row, "pays_at", low)
            yield Measurement(row, "lost_at", high)


def _curves(s: Settings, samples: Mapping[str, Samples], edits: Mapping[str, _Sparse]) -> Iterator[Measurement]:
    """Speed-up against edited area: measured, as it would be if time went as MACs or as products, and dense ways."""

    def point(row: str, percent: float, value: float) -> Measurement:
        return Measurement(row, SPEED.key, value, step=round(percent * AREA.steps_per_unit))

    eager, dense = samples[DENSE["eager"].key], count_dense(s.network)
    ends = []
    for edit in s.edits:
        row = sparse_row(edit).key
        yield point(SPARSE_LINE.key, 100 * edits[row].edited_share, ratio(eager, samples[row]).median)
    for edit in EDITS:
        found = count_sparse(s.network, edit)
        assert found.products is not None
        ends.append(100 * found.edited)
        yield point(MACS_LINE.key, 100 * found.edited, dense.macs / found.macs)
        yield point(PRODUCTS_LINE.key, 100 * found.edited, dense.convolutions / found.products)
    for way in s.dense:
        if (row := DENSE[way].key) in samples and way != "eager":
            value = ratio(eager, samples[row]).median
            yield from (point(row, percent, value) for percent in (min(ends), max(ends)))


# ----------------------------------------------------------------------------------------------------------------------
# Declarations

THREADS = (1, 2)


def table_key(network: str, threads: int) -> str:
    return f"speed-{network}" + (f"-{threads}-threads" if threads > 1 else "")


def _table(network: str, threads: int) -> Table:
    """A table a network and number of threads, all of whose rows are compared with each other."""
    rows = tuple(rows_of(_small(network)))
    name = NETWORKS[network].name
    words = "one thread" if threads == 1 else f"{threads} threads"
    return Table(
        table_key(network, threads),
        f"Latency of {name}, dense against sparse, {words} (this project's own)",
        COLUMNS,
        (*rows, *LINES),
        (),
        ("latency-3090", "latency-m1-gpu", "latency-m1-cpu"),
    )


def _small(network: str) -> Settings:
    return Settings(network, EDITS, tuple(DENSE), ("fast", "direct", "bfloat16"), rounds=5)


def _experiment(key: str, scale: Scale, settings: Settings, threads: int, seeds: int, limits: Limits) -> Experiment:
    rows = rows_of(settings)
    absent = {(row.key, c.key) for row, has in rows.items() for c in COLUMNS if c.key not in has}
    absent |= {(row.key, c.key) for row in LINES for c in COLUMNS}
    return Experiment(
        key=key,
        table=table_key(settings.network, threads),
        rows=tuple(row.key for row in (*rows, *LINES)),
        columns=COLUMNS,
        scales={scale: AtScale(settings, seeds, limits, threads, Plan((NETWORKS[settings.network].planned(),)))},
        run=speed,
        protocol=PROTOCOL,
        timed=True,
        axis=AREA,
        without=frozenset(absent),
    )


TABLES = tuple(_table(network, threads) for threads in THREADS for network in NETWORKS)
EXPERIMENTS = (
    *(
        _experiment(f"speed-{name}-quick", "quick", Settings(name, rounds=2), 1, 1, Limits(seconds=900, gibibytes=14))
        for name in ("ddpm-256", "gaugan")
    ),
    *(
        _experiment(
            f"speed-{name}-small{f'-{threads}-threads' if threads > 1 else ''}",
            "small",
            _small(name),
            threads,
            3,
            Limits(seconds=4 * 3600, gibibytes=24),
        )
        for threads in THREADS
        for name in NETWORKS
    ),
)


def _claims(network: str) -> Iterator[Claim]:
    name, table = NETWORKS[network].name, table_key(network, 1)
    square, every = sparse_row(SQUARE).key, sparse_row(ALL).key
    yield Claim(
        f"faster-{network}",
        f"{name}: with about 1 % edited, sparse is faster than dense as published.",
        table,
        {"speedup": Cell(square, "speedup")},
        lambda v: v["speedup"] - 1,
        unit="x",
    )
    yield Claim(
        f"faster-than-best-{network}",
        f"{name}: with about 1 % edited, sparse is faster than the quickest dense float32 way.",
        table,
        {"speedup": Cell(square, "against_dense")},
        lambda v: v["speedup"] - 1,
        unit="x",
    )
    yield Claim(
        f"faster-than-bfloat16-{network}",
        f"{name}: with about 1 % edited, sparse float32 is faster than dense bfloat16.",
        table,
        {"sparse": Cell(square, "seconds"), "dense": Cell(DENSE["bfloat16"].key, "seconds")},
        lambda v: v["dense"] - v["sparse"],
        unit="s",
    )
    steps = [square, every] if NETWORKS[network].labels else [square, sparse_row(SHIPPED).key, every]
    yield Claim(
        f"grows-{network}",
        f"{name}: the speed-up grows as the edit shrinks.",
        table,
        {str(i): Cell(row, "speedup") for i, row in enumerate(steps)},
        lambda v: min(v[str(i)] - v[str(i + 1)] for i in range(len(v) - 1)),
        unit="x",
    )


CLAIMS = tuple(claim for network in NETWORKS for claim in _claims(network))
