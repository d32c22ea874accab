"""The commands `gengauge plot` and `gengauge history`: figures of runs as papers print them, and of many runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gengauge.benchmarks.compare_cli import Folder, default_folder, records_of

# Commands import what they need when they are called: help and errors of use come at once, not after torch.
if TYPE_CHECKING:
    import pandas as pd

    from gengauge.benchmarks.core.experiments import Paper
    from gengauge.benchmarks.core.history import History, Run, Series

PANELS = 60  # of a figure; what is more is told and left out
EXAMPLES = """Examples:

FID against the share of data: `gengauge plot out/small --table diffaugment/cifar10 --kind against --x setting --y fid
--log-x --out fid.pdf`

Latency against the edited share: `gengauge plot out/quick --table sige/speed-gaugan --kind against
--rows 'sige@s*,sige@a*' --x edited --y seconds --levels 'dense*' --log-x --log-y --out latency.svg`

KID against L2: `gengauge plot out/quick --table sdedit/trade-off --kind trade-off --x l2 --y kid --front --out kid.svg`

Text against image alignment: `gengauge plot out/paper --table custom_diffusion/single --kind trade-off
--x text_alignment --y image_alignment_clip --out alignment.pdf`"""


class PlotKind(str, Enum):
    """What a figure shows."""

    bars = "bars"
    against = "against"
    trade_off = "trade-off"


class OrderName(str, Enum):
    """How the runs of a history are put in order."""

    time = "time"
    given = "given"


class LabelName(str, Enum):
    """What names a run below its points."""

    auto = "auto"
    name = "name"
    code = "code"
    time = "time"


def attach(app: typer.Typer) -> None:
    """Adds the commands to `gengauge`."""
    app.command("plot", epilog=EXAMPLES)(plot_command)
    app.command(
        "history",
        epilog="Examples: `gengauge history --runs out/nightly --table sige/speed-gaugan --out speed.svg`\n\n"
        "In the order of git: `gengauge history $(git log --reverse --format=out/%h) --order given --label name`",
    )(history_command)


Patterns = Annotated[
    list[str] | None,
    typer.Option(
        "--rows",
        help="Rows by key, with * and ?, with commas or repeated; by default those measured, in the paper's order.",
    ),
]


def plot_command(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs' folders, Parquet files or folders, or baselines' names."),
    ],
    table: Annotated[str, typer.Option(help="PAPER/TABLE; `gengauge list` shows them.")],
    out: Annotated[Path, typer.Option(help="FILE.svg, FILE.pdf or FILE.png; repeat the command for another format.")],
    kind: Annotated[
        PlotKind, typer.Option(help="A bar a row; a metric against a number; or one metric against another.")
    ] = PlotKind.bars,
    x: Annotated[
        str | None,
        typer.Option(
            help="against: setting (setting:WORD where settings have several numbers), step, or a metric. trade-off: a "
            "metric."
        ),
    ] = None,
    y: Annotated[list[str] | None, typer.Option(help="The metric; for bars several, with commas or repeated.")] = None,
    rows: Patterns = None,
    levels: Annotated[
        list[str] | None, typer.Option(help="against: rows without such a number, as lines across; as --rows.")
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="trade-off: the Pareto front of the measured points.")] = False,
    published: Annotated[bool, typer.Option(help="Published numbers as hollow marks.")] = True,
    log_x: Annotated[bool | None, typer.Option("--log-x/--linear-x", help="By default a curve's own.")] = None,
    log_y: Annotated[bool, typer.Option("--log-y", help="A logarithmic axis.")] = False,
    title: Annotated[str | None, typer.Option(help="By default the table's; '' for none.")] = None,
    x_label: Annotated[str | None, typer.Option(help="Text of the axis.")] = None,
    y_label: Annotated[str | None, typer.Option(help="Text of the axis.")] = None,
    width: Annotated[float | None, typer.Option(min=1, max=40, help="Inches; by default what fits.")] = None,
    height: Annotated[float | None, typer.Option(min=1, max=60, help="Inches; by default what fits.")] = None,
    folder: Folder = None,
) -> None:
    """Draw a comparison as papers print it, from any records: measured with intervals, and published beside.

    Several runs stand side by side. Numbers that stand in for published ones are called so.
    """
    from gengauge.benchmarks.jobs import load_paper
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.reports import figures
    from gengauge.reports.points import choose
    from gengauge.reports.printing import Look, check, save

    check(out)
    where = folder or default_folder()
    frames: dict[str, pd.DataFrame] = {}
    for run, name in zip(runs, short_names(runs), strict=True):
        frames[name], _ = records_of(run, where)
    papers = [load_paper(source) for source in SOURCES]
    chosen = choose(frames, table, papers, words(rows))
    look = Look(title, width, height, x_label, y_label, log_x, log_y, published)
    metrics = words(y)
    if kind is PlotKind.bars:
        _without(kind, **{"--x": x, "--levels": levels, "--front": front})
        metrics = metrics or [c.key for c in chosen.columns.values() if c.direction != "none"][:3]
        figure = figures.bars(chosen, metrics or list(chosen.columns)[:1], look)
    else:
        if x is None or len(metrics) != 1:
            raise ValueError(
                f"a plot of kind {kind.value} needs --x and one --y; {table} has {', '.join(chosen.columns)}"
            )
        if kind is PlotKind.against:
            _without(kind, **{"--front": front})
            across = choose(frames, table, papers, words(levels)) if levels else None
            figure = figures.against(chosen, x, metrics[0], look, across)
        else:
            _without(kind, **{"--levels": levels})
            figure = figures.trade_off(chosen, x, metrics[0], look, front)
    save(figure, out)
    Console().print(f"Plot: {out}", highlight=False, soft_wrap=True)


def history_command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs' folders, Parquet files or folders, or baselines' names."),
    ] = None,
    folder_of_runs: Annotated[
        Path | None, typer.Option("--runs", help="A folder of them: all that it holds are runs.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="PAPER/TABLE; by default all.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Columns by key, with * and ?.")] = None,
    rows: Patterns = None,
    order: Annotated[
        OrderName, typer.Option(help="By the time of the records, or as given, for instance by git.")
    ] = OrderName.time,
    label: Annotated[LabelName, typer.Option(help="What names a run; auto: its name, or its code.")] = LabelName.auto,
    out: Annotated[Path | None, typer.Option(help="FILE.svg, FILE.pdf or FILE.png; without it only text.")] = None,
    folder: Folder = None,
) -> None:
    """Show metrics over many runs, a small plot each, and mark where their level changed.

    A folder that was run again by newer code is as many runs as there were codes.
    """
    from gengauge.benchmarks.core.change_points import METHOD, fewest
    from gengauge.benchmarks.core.history import history
    from gengauge.benchmarks.jobs import load_paper
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.reports.history import HEADER, figure, label_of, lines, worth
    from gengauge.reports.printing import check, save

    if out is not None:
        check(out)
    where = folder or default_folder()
    found = [run for name in runs or [] for run in read_runs(name, where)]
    if folder_of_runs is not None:
        found += runs_in(folder_of_runs)
    if not found:
        raise ValueError("a history needs runs: name them, or a folder of them with --runs")
    whole = history(found, [load_paper(source) for source in SOURCES], order.value)
    chosen = select(worth(whole), table, words(rows), words(metric))
    changed = lines(whole, chosen)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    if changed:
        shown = Table(*HEADER)
        for line in changed:
            shown.add_row(*(cell.replace("[", r"\[") for cell in line))
        console.print(shown)
    console.print(
        f"{len(whole.runs)} runs, {len(chosen)} metrics with a history, {len(changed)} changes. {METHOD}",
        highlight=False,
    )
    if len(whole.runs) < fewest():
        console.print(f"With noise, changes can be told from {fewest()} runs on.", style="yellow", highlight=False)
    if out is not None:
        if not chosen:
            raise ValueError("no metric was measured in two runs; nothing can be drawn")
        if len(chosen) > PANELS:
            console.print(
                f"{len(chosen) - PANELS} metrics are left out of the figure; --table, --rows and --metric choose",
                style="yellow",
            )
        named = label_of(whole.runs) if label is LabelName.auto else label.value
        save(figure(chosen[:PANELS], whole.runs, named), out)
        console.print(f"Plot: {out}", highlight=False, soft_wrap=True)


def read_runs(name: str, folder: Path) -> tuple[Run, ...]:
    """What a word on the command line means, as runs: every code's of a run's folder, and a baseline as one."""
    from gengauge.benchmarks.core.baselines import SUFFIX
    from gengauge.benchmarks.core.history import runs_of
    from gengauge.benchmarks.core.store import OlderCode, read_records

    if Path(name).exists() and not name.endswith(SUFFIX):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OlderCode)
            return runs_of(name, read_records(name, every_attempt=True))
    return runs_of(name, records_of(name, folder)[0])


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder, or the folder itself where it is one: folders of runs, Parquet files and baselines.

    Raises FileNotFoundError, or ValueError for a folder that holds none.
    """
    from gengauge.benchmarks.core.baselines import SUFFIX

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of runs")
    if (folder / "records").is_dir():
        return list(read_runs(str(folder), folder))
    names = [
        path
        for path in sorted(folder.iterdir())
        if (path / "records").is_dir() or (path.is_file() and path.name.endswith((SUFFIX, ".parquet")))
    ]
    if not names:
        raise ValueError(f"{folder} holds no runs: folders with records, Parquet files or baselines")
    return [run for path in names for run in read_runs(str(path), folder)]


def past_of(run: Path, folder: Path, papers: Sequence[Paper]) -> History:
    """The history of a run and of the earlier ones in a folder, which may hold it, too."""
    from gengauge.benchmarks.core.history import history

    earlier = [one for one in runs_in(folder) if Path(one.name).resolve() != run.resolve()]
    return history([*earlier, *read_runs(str(run), folder)], papers)


def select(series: tuple[Series, ...], table: str | None, rows: list[str], metrics: list[str]) -> tuple[Series, ...]:
    """The series of a table, of rows and of columns by patterns. Raises ValueError naming what there is."""
    from fnmatch import fnmatchcase

    def narrowed(mine: tuple[Series, ...], what: str, patterns: list[str], key: int | slice) -> tuple[Series, ...]:
        def of(one: Series) -> str:
            return "/".join(one.metric[key]) if isinstance(key, slice) else one.metric[key]

        for pattern in patterns:
            if not any(fnmatchcase(of(one), pattern) for one in mine):
                there = ", ".join(dict.fromkeys(map(of, mine))) or "none"
                raise ValueError(f"no {what} with a history matches {pattern!r}; there are {there}")
        return tuple(s for s in mine if not patterns or any(fnmatchcase(of(s), p) for p in patterns))

    series = narrowed(series, "table", [table] if table else [], slice(2))
    return narrowed(narrowed(series, "row", rows, 2), "metric", metrics, 3)


def words(texts: list[str] | None) -> list[str]:
    """Words given with commas or repeated."""
    return [word.strip() for text in texts or [] for word in text.split(",") if word.strip()]


def short_names(runs: list[str]) -> list[str]:
    """The runs' names for a legend: the last part of each path, or all of it where two would be alike.

    Raises ValueError where one run is named twice.
    """
    if len(set(runs)) < len(runs):
        raise ValueError(f"a run is named twice: {', '.join(runs)}")
    last = [run.rstrip("/").rsplit("/", 1)[-1] for run in runs]
    return last if len(set(last)) == len(last) else list(runs)


def _without(kind: PlotKind, **options: object) -> None:
    if given := [name for name, value in options.items() if value]:
        raise ValueError(f"{', '.join(given)} means nothing for a plot of kind {kind.value}")
