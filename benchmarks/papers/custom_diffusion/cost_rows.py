"""The rows of cost and of which weights move, as experiments at the paper's own scale.

Three points of Figure 21 and the smallest file that is quoted have no settings that are told: they stay published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gengauge.benchmarks.core.experiments import AtScale, Experiment, Limits, Plan
from gengauge.benchmarks.core.tables import Row, Table, slug
from gengauge.benchmarks.papers.custom_diffusion import costs, rows
from gengauge.benchmarks.papers.custom_diffusion.costs import (
    ChangeSettings,
    CompressedSettings,
    FileSettings,
    MergeSettings,
    ShareSettings,
    TimeSettings,
)
from gengauge.benchmarks.papers.custom_diffusion.methods import (
    BOOTH,
    CUSTOM,
    INVERSION,
    OPTIMISED,
    WHOLE,
    Method,
    Settings,
    Subjects,
)
from gengauge.benchmarks.papers.custom_diffusion.published import LIMITS, PROTOCOL, RELEASED, THREADS

CONCEPT, PAIR = "cat", "wooden_pot+cat"
FILE = "per concept"
MEMORY = Row(CUSTOM.name, "training on 2 GPUs").key
TIMED: dict[Method, str] = {CUSTOM: "2 A100", BOOTH: "4 A100", INVERSION: "2 A100", WHOLE: "4 A100"}
SMALL = Limits(3600, 16)
SIZES = (("file", "that of the released code", "the same layout, written with zeros"),)
COMPRESSED = (("compressed", "one concept or several, not told", f"the mean over {len(RELEASED)} released concepts"),)
TIMES = (("machine", "2 or 4 A100", "one device of this machine, a whole batch in one step"),)
CHANGES = (
    (
        "weights that move",
        "one training or several, not told; values read off bars",
        f"the mean over {len(RELEASED)} released concepts, of layers with their biases",
    ),
)


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """For each row of both tables that can be measured an experiment."""
    known = {table.key: table for table in tables}
    cost, change = known["cost"], known["weight-change"]
    small = Row("Custom Diffusion, compressed", "per concept, ratio 0.6").key
    merge = Row(OPTIMISED.name, "closed-form merge").key
    own = Row(CUSTOM.name, FILE).key
    booth = Row(BOOTH.name, FILE).key
    kinds = {kind: Row("Fine-tuning all weights", kind).key for kind in costs.KINDS}
    share = Row("Stable Diffusion U-Net", "cross-attention layers").key
    network = Plan((rows.NETWORK,))
    every = _learnt("", WHOLE, RELEASED, False)
    return (
        _made(cost, (own,), ("file_size",), FileSettings(own, "file_size", "kv", 1), costs.file_size, network, SIZES),
        _made(
            cost, (booth,), ("file_size_gb",), FileSettings(booth, "file_size_gb", "all", 0), costs.file_size, network,
            SIZES,
        ),
        _learning(
            cost, (small,), ("file_size",), CompressedSettings(_learnt(small, CUSTOM, RELEASED)), costs.compressed,
            (*PROTOCOL, *COMPRESSED),
        ),
        *(_timed(cost, method, machine) for method, machine in TIMED.items()),
        _learning(
            cost, (merge,), ("merge_time",), MergeSettings(_learnt(merge, OPTIMISED, (PAIR,), pairs=True)),
            costs.merge_time, TIMES, timed=True,
        ),
        _learning(
            change, tuple(kinds.values()), ("weight_change",), ChangeSettings(every, kinds), costs.weight_change,
            (*PROTOCOL, *CHANGES),
        ),
        _made(change, (share,), ("parameter_share",), ShareSettings(share), costs.parameter_share, network, ()),
    )  # fmt: skip


def _learnt(row: str, method: Method, names: tuple[str, ...], released: bool = True, pairs: bool = False) -> Settings:
    chosen = method if released else replace(method, released=False)
    return Settings(row, (), chosen, Subjects("paper", names, pairs))


def _timed(table: Table, method: Method, machine: str) -> Experiment:
    row = Row(method.name, machine).key
    memory = MEMORY if method == CUSTOM else ""
    columns = ("training_time", "memory") if memory else ("training_time",)
    return _learning(
        table,
        (row, memory) if memory else (row,),
        columns,
        TimeSettings(_learnt(row, method, (CONCEPT,), released=False), memory),
        costs.training_time,
        (*PROTOCOL, *TIMES),
        timed=True,
        without=frozenset({(row, "memory"), (memory, "training_time")}) if memory else frozenset(),
    )


def _learning(
    table: Table,
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    settings: Any,
    run: Callable[..., Any],
    protocol: tuple[tuple[str, str, str], ...],
    **others: Any,
) -> Experiment:
    """A row for which concepts are learnt."""
    return _made(
        table,
        keys,
        columns,
        settings,
        run,
        rows.plan(settings.of),
        protocol,
        limits=LIMITS,
        threads=THREADS,
        check=rows.check_of,
        reads=rows.reads_of,
        **others,
    )


def _made(
    table: Table,
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    settings: Any,
    run: Callable[..., Any],
    plan: Plan,
    protocol: tuple[tuple[str, str, str], ...],
    limits: Limits = SMALL,
    threads: int = 1,
    **others: Any,
) -> Experiment:
    return Experiment(
        key=slug(f"{table.key} {keys[0]}"),
        table=table.key,
        rows=keys,
        columns=tuple(column for column in table.columns if column.key in columns),
        scales={"paper": AtScale(settings, 1, limits, threads, plan)},
        run=run,
        protocol=protocol,
        **others,
    )
