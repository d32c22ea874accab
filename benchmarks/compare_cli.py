"""The commands `gengauge compare`, `ingest` and `baseline ...`: what a change moved."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# Commands import what they need when they are called: help and errors of use come at once, not after torch.
if TYPE_CHECKING:
    import pandas as pd

    from gengauge.benchmarks.core.comparison import Change, Verdict
    from gengauge.benchmarks.core.thresholds import Thresholds

MOVED, NOTHING_COMPARED = 1, 3  # as FAILED and UNAVAILABLE of the other commands
EXIT_STATUS = (
    "Exit status: 0 nothing that --fail-on names, 1 something that it names, 2 wrong use, 3 nothing could be compared."
)
SHOWN = 12

baseline = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Keep the numbers of a run as a text file, to compare later runs with it.",
)
Folder = Annotated[
    Path | None, typer.Option("--dir", help="Folder of baselines; by default reports/baselines of the package.")
]


def attach(app: typer.Typer) -> None:
    """Adds the commands to `gengauge`."""
    app.command(
        "compare",
        epilog="Example: `gengauge compare main out/quick --markdown comment.md --junit compare.xml`\n\n"
        'What matters stands in pyproject.toml, by PAPER/TABLE/ROW/COLUMN: `[tool.gengauge.compare]`, `"*/seconds" = '
        f'"5%"`; the last pattern that matches counts.\n\n{EXIT_STATUS}',
    )(compare_command)
    app.command("ingest", epilog="Example: `gengauge ingest .benchmarks/speed.json --out out/quick`")(ingest_command)
    app.add_typer(baseline, name="baseline")


def compare_command(
    before: Annotated[
        str,
        typer.Argument(metavar="BASELINE", help="A run's folder, a Parquet file or folder, or a baseline's name."),
    ],
    after: Annotated[str, typer.Argument(metavar="CANDIDATE", help="Likewise, what is to be judged.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Verdicts that end with status 1: worse (the default), unclear, incomparable, or none; with commas, "
            "or repeated."
        ),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every metric, also those that stayed.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the comparison for a pull request.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all numbers as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, a test case a metric.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The pyproject.toml with [tool.gengauge.compare]; by default the one here or above."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Tell what moved between two runs beyond the noise, speed and quality.

    Every metric is better, worse, the same (the interval of its change lies within what matters), unclear, or
    incomparable, for instance since it was measured on another device.
    """
    from gengauge.benchmarks.core.baselines import printed
    from gengauge.benchmarks.core.comparison import compare
    from gengauge.benchmarks.jobs import load_paper
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.reports import comparison as reports

    failing = verdicts_of(fail_on)
    thresholds = read_thresholds(config or _pyproject())
    where = folder or default_folder()
    (first, kept), (second, also_kept) = records_of(before, where), records_of(after, where)
    if kept != also_kept:
        first, second = (first, printed(second)) if kept else (printed(first), second)
    changes = compare(first, second, [load_paper(source) for source in SOURCES], thresholds)
    sides = reports.side_of(before, first), reports.side_of(after, second)
    for path, text in (
        (markdown, lambda: reports.markdown(changes, *sides)),
        (as_json, lambda: reports.as_json(changes, *sides)),
        (junit, lambda: reports.junit(changes, failing)),
        (html, lambda: reports.page(changes, *sides)),
    ):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a log of CI takes whole lines
    _show(console, changes, show_all)
    found = reports.counts(changes)
    if any(found[verdict] for verdict in failing):
        raise typer.Exit(MOVED)
    if found["incomparable"] == len(changes):
        console.print("Nothing could be compared: is this the right baseline?", style="yellow")
        raise typer.Exit(NOTHING_COMPARED)


def ingest_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON of pytest-benchmark.")],
    out: Annotated[Path, typer.Option(help="The run's folder to add them to.")] = Path("out/speed"),
    seed: Annotated[
        int, typer.Option(min=0, help="Tells runs of the same benchmarks apart; of several files the first's.")
    ] = 0,
) -> None:
    """Take the timings of pytest-benchmark into the records of a run, as paper `speed`.

    Several files count as repeated runs of the same benchmarks, each a seed.
    """
    from gengauge.benchmarks.ingest import ingest

    for number, file in enumerate(files):
        records = ingest(file, out, seed + number)
        rounds = sum(len(record.repetitions) for record in records)
        Console().print(f"{file}: {len(records)} timings of {rounds} rounds, into {out}", highlight=False)


@baseline.command("save", epilog="Example: `gengauge baseline save main out/quick`")
def save_command(
    name: Annotated[str, typer.Argument(help="The baseline's name.")],
    run: Annotated[Path, typer.Argument(help="A run's folder, or a Parquet file or folder.")],
    folder: Folder = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a baseline of this name.")] = False,
) -> None:
    """Keep a run's numbers under a name, as a text file for git."""
    from gengauge.benchmarks.core.baselines import baseline_path, dump, write_baseline
    from gengauge.benchmarks.core.store import read_records
    from gengauge.benchmarks.machine import utc_now

    where = folder or default_folder()
    if baseline_path(where, name).exists() and not overwrite:
        raise ValueError(f"{baseline_path(where, name)} is there already; --overwrite replaces it")
    path = write_baseline(where, name, dump(read_records(run), name, utc_now()))
    Console().print(f"Baseline: {path}", highlight=False, soft_wrap=True)


@baseline.command("list", epilog="Example: `gengauge baseline list`")
def list_command(folder: Folder = None) -> None:
    """Show the baselines there are."""
    from gengauge.benchmarks.core.baselines import baseline_names, baseline_path, read_baseline

    where = folder or default_folder()
    names = baseline_names(where)
    if not names:
        Console().print(f"no baselines in {where}; `gengauge baseline save NAME RUN` keeps one", highlight=False)
        return
    table = Table("name", "date", "scales", "metrics", "device", "code")
    for name in names:
        header = read_baseline(baseline_path(where, name)).header
        lists = (", ".join(map(str, header[key])) for key in ("scales", "devices", "code"))
        scales, devices, code = lists
        table.add_row(name, header["date"][:16].replace("T", " "), scales, str(header["metrics"]), devices, code)
    Console().print(table)


@baseline.command("show", epilog="Example: `gengauge baseline show main`")
def show_command(name: Annotated[str, typer.Argument(help="The baseline's name.")], folder: Folder = None) -> None:
    """Show a baseline's numbers."""
    from gengauge.benchmarks.core.baselines import read_baseline
    from gengauge.reports.comparison import measured

    found = read_baseline(_named(name, folder or default_folder()))
    header = found.header
    console = Console()
    for key in ("name", "date", "scales", "devices", "code", "versions"):
        console.print(f"{key}: {header[key]}", markup=False, highlight=False)
    table = Table("metric", "mean", "seeds", "repetitions")
    names = ["paper", "table", "row", "column", "scale", "data", "device", "unit"]
    for metric, values in found.frame.groupby(names, sort=True):
        table.add_row(
            "/".join(map(str, metric[:4])),
            measured(float(values["value"].mean()), str(metric[-1])),
            str(len(values)),
            str(sum(map(len, values["repetitions"])) or ""),
        )
    console.print(table)


def default_folder() -> Path:
    """`reports/baselines` of the checkout, or of the installed package."""
    from importlib import resources

    return Path(str(resources.files("gengauge.reports"))) / "baselines"


def verdicts_of(texts: list[str] | None) -> frozenset[Verdict]:
    """What `--fail-on` names; `worse` without it. Raises ValueError for anything else."""
    allowed: dict[str, Verdict] = {"worse": "worse", "unclear": "unclear", "incomparable": "incomparable"}
    words = [word.strip() for text in texts or ["worse"] for word in text.split(",")]
    if words == ["none"]:
        return frozenset()
    if unknown := [word for word in words if word not in allowed]:
        raise ValueError(f"--fail-on takes worse, unclear and incomparable, or none alone, not {unknown[0]!r}")
    return frozenset(allowed[word] for word in words)


def read_thresholds(file: Path | None) -> Thresholds:
    """The thresholds in `[tool.gengauge.compare]` of a pyproject.toml; the defaults where there is no file or section.

    Raises ValueError naming the file and the pattern of what is none.
    """
    from gengauge.benchmarks.core.thresholds import Threshold, Thresholds

    section: Any = {} if file is None else _toml(file)
    for key in ("tool", "gengauge", "compare"):
        section = section.get(key, {})
        if not isinstance(section, dict):
            raise ValueError(f"{file}: [tool.gengauge.compare] is no table")
    patterns = []
    for pattern, text in section.items():
        try:
            patterns.append((pattern, Threshold.parse(text)))
        except ValueError as error:
            raise ValueError(f"{file}: [tool.gengauge.compare] {pattern!r}: {error}") from None
    return Thresholds(tuple(patterns))


def _toml(file: Path) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _pyproject() -> Path | None:
    here = Path.cwd()
    return next((path for f in (here, *here.parents) if (path := f / "pyproject.toml").is_file()), None)


def _named(name: str, folder: Path) -> Path:
    from gengauge.benchmarks.core.baselines import baseline_names, baseline_path

    path = baseline_path(folder, name)
    if not path.is_file():
        known = ", ".join(baseline_names(folder)) or "none"
        raise FileNotFoundError(f"there is no baseline {name!r} in {folder} (there are: {known}), and no such path")
    return path


def records_of(name: str, folder: Path) -> tuple[pd.DataFrame, bool]:
    """The records that a word on the command line means, and whether they are a baseline's text.

    Raises FileNotFoundError naming the baselines there are, and ValueError for a run without records.
    """
    from gengauge.benchmarks.core.baselines import SUFFIX, baseline_names, read_baseline
    from gengauge.benchmarks.core.store import read_records

    path = Path(name)
    if path.is_file() and path.name.endswith(SUFFIX):
        return read_baseline(path).frame, True
    if path.exists():
        frame = read_records(path)
        if frame.empty:
            raise ValueError(f"{path} holds no records; `gengauge run` makes them")
        return frame, False
    if "/" in name:
        known = ", ".join(baseline_names(folder)) or "none"
        raise FileNotFoundError(f"{name} is no run's folder, no Parquet file and no baseline; baselines: {known}")
    return read_baseline(_named(name, folder)).frame, True


def _show(console: Console, changes: tuple[Change, ...], show_all: bool) -> None:
    from gengauge.benchmarks.core.comparison import VERDICTS
    from gengauge.reports.comparison import HEADER, cells, counts, incomparable

    colours = {"worse": "red", "better": "green", "unclear": "yellow", "incomparable": "default", "same": "default"}
    found = counts(changes)
    table = Table("verdict", *HEADER)
    table.columns[1].overflow = "fold"
    hidden = 0
    for verdict in VERDICTS:
        mine = [change for change in changes if change.verdict == verdict]
        shown = mine if show_all or verdict in ("worse", "better") else mine[:SHOWN] if verdict == "unclear" else []
        hidden += len(mine) - len(shown)
        for change in shown:
            line = [cell.replace("[", r"\[") for cell in cells(change)]
            table.add_row(f"[{colours[verdict]}]{verdict}[/]", *line)
    if table.row_count:
        console.print(table)
    if not show_all:
        for why, count, metric in incomparable(changes)[:SHOWN]:
            console.print(f"incomparable, {count}: {why} (for instance {metric})", markup=False, highlight=False)
    told = ", ".join(f"[{colours[v]}]{n} {v}[/]" for v, n in found.items())
    console.print(told + ("; --all shows every metric" if hidden else ""), highlight=False)
