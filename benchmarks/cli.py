"""The command `gengauge`."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column as TableColumn
from rich.table import Table

from gengauge.benchmarks import compare_cli, concept_cli, method_cli, plot_cli
from gengauge.benchmarks.core.version import __version__
from gengauge.benchmarks.engines import EngineName, opened
from gengauge.benchmarks.terminal import DeviceName, bars, device_of

# Commands import what they need when they are called: help and errors of use come at once, not after torch.
if TYPE_CHECKING:
    from gengauge.benchmarks.core.experiments import Experiment, Scale
    from gengauge.benchmarks.core.tables import PublishedNumber
    from gengauge.benchmarks.dry_run import JobPlan

FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130
EXIT_STATUS = (
    "Exit status: 0 all ended well, 1 something failed, 2 wrong use, 3 nothing failed but something was unavailable."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Measure image generation and editing papers the way their authors did.\n\nExample: "
    "`gengauge run diffaugment && gengauge report`",
)
app.add_typer(concept_cli.app, name="concept")


class ScaleName(str, Enum):
    """How faithfully a row is run."""

    quick = "quick"
    small = "small"
    paper = "paper"


class Prepared(str, Enum):
    """What `prepare` prepares."""

    cityscapes = "cityscapes"


class LabelResampling(str, Enum):
    """How label maps are resampled."""

    nearest = "nearest"
    bicubic = "bicubic"


class ModeName(str, Enum):
    """How pictures are resized for the feature network."""

    clean = "clean"
    legacy_pytorch = "legacy_pytorch"
    legacy_tensorflow = "legacy_tensorflow"


class FeaturesName(str, Enum):
    """The feature network."""

    inception = "inception"
    efficientnet_lite0 = "efficientnet-lite0"


class PrecisionName(str, Enum):
    """The arithmetic of the feature network; below float32 on a GPU only."""

    float32 = "float32"
    tf32 = "tf32"
    bf16 = "bf16"


def main() -> None:
    """Entry point: errors that a user can mend end with one line instead of a traceback."""
    console = Console(stderr=True)
    warnings.showwarning = lambda message, *_: console.print(f"warning: {message}", style="yellow", markup=False)
    try:
        app()
    except (ValueError, OSError) as error:
        unavailable = hasattr(error, "remedy")  # weights that are nowhere: not a mistake of the user's
        style, status = ("yellow", UNAVAILABLE) if unavailable else ("red", USAGE)
        console.print(f"gengauge: {error}", style=style, markup=False, highlight=False)
        raise SystemExit(status) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Typer has made this of a KeyboardInterrupt
            console.print("gengauge: interrupted; the same command goes on from its last state", style="yellow")
        raise


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command("list", epilog="Example: `gengauge list diffaugment`")
def list_command(paper: Annotated[str | None, typer.Argument(help="A paper's key, to see its rows.")] = None) -> None:
    """Show papers, tables and rows, and what can run here and at which scale."""
    from gengauge.benchmarks.jobs import load_paper
    from gengauge.benchmarks.papers import SOURCES

    console = Console()
    if not console.is_terminal:
        console = Console(width=250)  # a pipe or file takes whole lines
    papers = [load_paper(source) for source in SOURCES]
    if paper is None:
        table = Table()
        for name in ("paper/table", "title", "rows", "numbers", "runs here at"):
            table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=None if name == "title" else len(name))
        for p in papers:
            for t in p.tables:
                mine = [e for e in p.experiments if e.table == t.key]
                table.add_row(
                    f"{p.key}/{t.key}",
                    t.title,
                    str(len(t.rows)),
                    str(sum(bool(n.text) for n in t.published)),
                    _scales(mine),
                )
            table.add_section()
        console.print(table)
        console.print("`gengauge list PAPER` shows a paper's rows.", markup=False)
        console.print(LACKING, markup=False)
        return
    chosen = next((p for p in papers if p.key == paper), None)
    if chosen is None:
        raise ValueError(f"there is no paper {paper!r}; there are {', '.join(p.key for p in papers)}")
    for t in chosen.tables:
        table = Table(
            TableColumn("row", overflow="fold"),
            *(c.key for c in t.columns),
            "runs here at",
            title=f"{chosen.key}/{t.key}: {t.title}",
            title_justify="left",
        )
        for row in t.rows:
            numbers = [t.number(row.key, c.key) for c in t.columns]
            mine = [e for e in chosen.experiments if e.table == t.key and row.key in e.rows]
            table.add_row(row.key, *(_printed(n) for n in numbers), _scales(mine))
        console.print(table)
    console.print("* remembered, not read. Sources stand in the report.", markup=False)
    console.print(LACKING, markup=False)


@app.command(
    "run",
    epilog="Example: `gengauge run diffaugment/placements --scale quick --seeds 2`\n\n"
    "A row of your own: `gengauge run gangealing/world --method my_method:MyMethod`\n\n"
    f"On a Ray cluster, kept at a URL: `gengauge run --scale small --engine ray --address auto --out s3://bucket/small`\n\n{EXIT_STATUS}",
)
def run_command(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[PAPER[/TABLE[/ROW]]]...", help="What to run; everything by default.")
    ] = None,
    scale: Annotated[
        ScaleName, typer.Option(help="quick: minutes on two cores; small: one GPU; paper: as published.")
    ] = ScaleName.quick,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each experiment; by default what its verdict needs.")
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Jobs side by side; by default one a core (at most 8; fewer with --num-processes), on a GPU one, on "
            "Ray as fit.",
        ),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="local: processes of this machine; ray: a cluster, also of one machine.")
    ] = EngineName.local,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto", help="With --engine ray: the cluster; by default $RAY_ADDRESS, then here."
        ),
    ] = None,
    num_processes: Annotated[
        int,
        typer.Option(
            min=1, help="Processes that share the training and generation of a job, each with a GPU if it is on GPUs."
        ),
    ] = 1,
    data: Annotated[
        Path | None,
        typer.Option(help="At quick your pictures; else the folder of data sets, by default $GENGAUGE_DATA."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Output folder, by default out/SCALE; or a URL of fsspec, such as s3://bucket/run."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat finished jobs.")] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:ATTRIBUTE",
            help="A method of your own, or an entry point of gengauge.methods: it gets a row in the tables that are "
            "run. `gengauge method PAPER` prints what it must offer. May be repeated.",
        ),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Of the tables, the rows of --method only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build the networks without memory, show what is needed, run nothing.")
    ] = False,
) -> None:
    """Run experiments and keep their records. Started again, it repeats only what is not finished."""
    from gengauge.benchmarks import dry_run as planning
    from gengauge.benchmarks.jobs import select
    from gengauge.benchmarks.mirror import RESULTS, STATES, Mirror, is_url, working_folder
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.benchmarks.runner import run as run_jobs
    from gengauge.benchmarks.training.launch import check_room

    console = Console()
    size: Scale = scale.value
    url = out if out is not None and is_url(out) else ""
    mirror = Mirror(url) if url else None
    folder = working_folder(url) if url else Path(out or f"out/{size}")
    idle = [t for t in targets or [] if not select(SOURCES, [t], size, 1, "cpu", None)]
    shut = method_cli.tell_closed(console, method or [], alone, targets or [], size)
    with opened(engine, device, address, url) as ready:
        where = ready.device
        if engine is EngineName.local:
            check_room(num_processes, where)
        chosen = select(SOURCES, targets or [], size, seeds, where, data, num_processes, method or [], alone)
        if idle or not (chosen or shut):
            console.print(
                f"unavailable at scale {size}: {', '.join(idle) or 'everything'}; {_elsewhere(idle or targets or [])}",
                style="yellow",
                markup=False,
            )
        if not chosen:
            raise typer.Exit(UNAVAILABLE)
        if dry_run:
            _print_plans(console, planning.plan(chosen, data))
            return
        each = max(job.processes for job in chosen)  # a job's processes have a core each
        parallel = jobs or (max(1, ready.parallel // each) if ready.parallel else len(chosen))
        console.print(
            f"{len(chosen)} jobs at scale {size} on {where}{ready.where and f' of {ready.where}'}, "
            f"{parallel if jobs or ready.parallel else 'as many as fit'} side by side, into {out or folder}",
            highlight=False,
            soft_wrap=True,
        )
        parts = RESULTS if engine is EngineName.ray else (*STATES, *RESULTS)  # Ray's nodes look after states
        counts = run_jobs(chosen, folder, parallel, force, console, ready.run, mirror, parts)
    console.print(
        f"{', '.join(f'{n} {status}' for status, n in counts.items() if n)}. Records: {folder / 'records'}"
        f"{f' and {url}' if url else ''}. Report: gengauge report {folder}",
        highlight=False,
        soft_wrap=True,
    )
    bad = set(counts) - {"ok"} - {status for status, n in counts.items() if not n}
    if bad or idle or shut:
        raise typer.Exit(UNAVAILABLE if bad <= {"unavailable"} else FAILED)


@app.command(
    "train",
    epilog="Example: `gengauge train diffaugment/cifar10/biggan@10pct-data --scale small --data ~/data`\n\n"
    "On several GPUs: `gengauge train diffaugment/cifar10/biggan@10pct-data --scale paper --num-processes 2`",
)
def train_command(
    targets: Annotated[list[str], typer.Argument(metavar="PAPER/TABLE/ROW...", help="Whose networks to train.")],
    scale: Annotated[ScaleName, typer.Option(help="small: one GPU; paper: as published.")] = ScaleName.small,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each row; by default what its verdict needs.")
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
    data: Annotated[
        Path | None, typer.Option(help="The folder of published data sets; by default $GENGAUGE_DATA.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder, that of `run`; by default out/SCALE.")] = None,
    num_processes: Annotated[
        int, typer.Option(min=1, help="Processes that share each training, each with a GPU where it is on GPUs.")
    ] = 1,
) -> None:
    """Train the networks of rows, and measure their snapshots, without filling the table: `run` then finds them done.

    Stopped at any moment, the same command goes on from the last state.
    """
    from gengauge.benchmarks.jobs import select
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.benchmarks.trainer import train_rows
    from gengauge.benchmarks.training.launch import check_room

    console = Console()
    size: Scale = scale.value
    folder = out or Path("out") / size
    if out is not None and ":/" in str(out):
        raise ValueError("`gengauge train` writes into a folder; `gengauge run --out URL` trains, too, and keeps a URL")
    where = device_of(device)
    check_room(num_processes, where)
    chosen = select(SOURCES, targets, size, seeds, where, data, num_processes)
    if not chosen:
        console.print(f"nothing of {', '.join(targets)} runs at scale {size}; {_elsewhere(targets)}", style="yellow")
        raise typer.Exit(UNAVAILABLE)
    wrong = train_rows(chosen, folder, console)
    for name, error in wrong.items():
        told = "trains nothing that outlives its job; `gengauge run` does it" if error is None else str(error)
        console.print(f"{name}: {told}", style=None if error is None else "red", markup=False)
    console.print(f"{len(chosen) - len(wrong)} trained, in {folder / 'training'}", highlight=False)
    errors = [error for error in wrong.values() if error is not None]
    if errors:
        raise typer.Exit(UNAVAILABLE if all(hasattr(error, "remedy") for error in errors) else FAILED)


@app.command(
    "measure",
    epilog="Example: `gengauge measure diffaugment/cifar10/biggan-diffaugment@10pct-data "
    "DiffAugment-biggan-cifar10-0.1.pth --data ~/data`",
)
def measure_command(
    target: Annotated[str, typer.Argument(metavar="PAPER/TABLE/ROW", help="The row whose protocol measures.")],
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A published .pth or .pkl, or a training's state.safetensors (its best)."),
    ],
    scale: Annotated[ScaleName, typer.Option(help="paper: the published protocol.")] = ScaleName.paper,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the samples.")] = 0,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
    data: Annotated[Path | None, typer.Option(help="The folder of published data sets.")] = None,
) -> None:
    """Measure a network that you have by the protocol of a row, and set it beside the published number."""
    from gengauge.benchmarks.jobs import select
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.benchmarks.trainer import context_of

    jobs = select(SOURCES, [target], scale.value, 1, device_of(device), data)
    able = [job for job in jobs if job.declared()[0].measure is not None]
    if not able:
        raise ValueError(f"{target} can measure no file at scale {scale.value}; {_elsewhere([target])}")
    if len(able) > 1:
        first = able[0].declared()[0]
        name = f"{able[0].paper.key}/{first.table}/{first.rows[0]}"
        raise ValueError(f"{target} names {len(able)} rows; name one, for instance {name}")
    (job,) = able
    experiment, _ = job.declared()
    assert experiment.measure is not None
    with bars() as tell:
        context = context_of(job, Path(), lambda done, total, doing: tell(doing, done, total), seed)
        found = experiment.measure(context, checkpoint)
    published = job.paper.table(experiment.table)
    table = Table(
        "metric",
        "measured" if scale is ScaleName.paper else "measured (stand-in)",
        "published",
        "source",
        title=f"{checkpoint} by {experiment.rows[0]}, scale {scale.value}",
    )
    row = experiment.rows[0]
    columns = dict.fromkeys((*published.columns, *experiment.columns))
    asked = [c for c in columns if c.key in found or published.number(row, c.key) is not None]
    for column in asked:
        number = published.number(row, column.key)
        value = found.get(column.key)
        spread = f" +- {value[1]:.3g}" if value and value[1] else ""
        table.add_row(
            column.key,
            f"{value[0]:.5g}{spread}" if value else "unavailable",
            _printed(number),
            f"{number.source} ({number.confidence})" if number else "",
        )
    Console().print(table)
    if any(column.key not in found for column in asked):
        raise typer.Exit(UNAVAILABLE)


@app.command("report", epilog="Example: `gengauge report out/quick`")
def report_command(
    run: Annotated[Path, typer.Argument(help="A run's output folder.")] = Path("out/quick"),
    out: Annotated[Path | None, typer.Option(help="Where to write; by default RUN/report.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="A folder of earlier runs (also Parquet files, baselines), to show over time.")
    ] = None,
) -> None:
    """Write the report of a run: one self-contained page, and Markdown, CSV and LaTeX tables."""
    from gengauge.benchmarks.core.store import read_records
    from gengauge.benchmarks.gallery import GALLERY_TEXT, gallery
    from gengauge.benchmarks.jobs import load_paper
    from gengauge.benchmarks.papers import SOURCES
    from gengauge.reports import build_report

    papers = [load_paper(source) for source in SOURCES]
    past = None if history is None else plot_cli.past_of(run, history, papers)
    page = build_report(read_records(run), papers, run, out or run / "report", gallery(), GALLERY_TEXT, past)
    Console().print(f"Report: {page}", highlight=False)


@app.command(
    "eval",
    epilog="Example: `gengauge eval photos/ samples/ --metrics fid,kid --mode clean`\n\n"
    "REAL may be a .npz file with `mu` and `sigma`. Exit status: 0, or 3 where a metric asked for by name was missing.",
)
def eval_command(
    real: Annotated[Path, typer.Argument(help="Folder of real pictures, or .npz statistics.")],
    fake: Annotated[Path, typer.Argument(help="Folder of generated pictures.")],
    metrics: Annotated[str | None, typer.Option(help="Any of fid, kid, is, pr, with commas; all by default.")] = None,
    mode: Annotated[ModeName, typer.Option(help="Resizing: clean-fid, pytorch-fid or TensorFlow 1.")] = ModeName.clean,
    features: Annotated[
        FeaturesName, typer.Option(help="Feature network; only inception gives FID.")
    ] = FeaturesName.inception,
    weights: Annotated[Path | None, typer.Option(help="Your own file of the network's weights.")] = None,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
    precision: Annotated[
        PrecisionName, typer.Option(help="Below float32 the numbers are no published FID.")
    ] = PrecisionName.float32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score generated pictures against real ones: FID, KID, Inception Score, precision and recall."""
    from gengauge.benchmarks.evaluate import METRICS, evaluate
    from gengauge.benchmarks.features.networks import load_network

    names = metrics.split(",") if metrics else list(METRICS)
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"there is no metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    chosen = [metric for metric in METRICS if metric in names]
    network = load_network(features.value, weights)
    with bars() as tell:
        scores = evaluate(
            real,
            fake,
            chosen,
            mode.value,
            network,
            device_of(device),
            precision.value,
            lambda side, done, total: tell(f"features, {side}", done, total),
        )
    if as_json:
        print(json.dumps([asdict(score) for score in scores], indent=2))
    else:
        table = Table(
            "metric",
            "value",
            "interval",
            title=f"{fake} against {real} ({mode.value}, {features.value}, {precision.value})",
        )
        table.add_column("", overflow="fold")  # a remedy may hold an address, which must be whole
        for s in scores:
            bounds = f"[{s.low:.5g}, {s.high:.5g}] {s.interval}" if s.low is not None and s.high is not None else ""
            table.add_row(
                s.name, "unavailable" if s.value is None else f"{s.value:.6g}", bounds.replace("[", r"\["), s.note
            )
        Console().print(table)
    if metrics and any(s.value is None for s in scores):
        raise typer.Exit(UNAVAILABLE)


@app.command("align", epilog="Example: `gengauge align photos/ --model cat --draw whiskers.png --out out/aligned`")
def align_command(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    out: Annotated[Path, typer.Option(help="A new folder for what is made.")],
    model: Annotated[
        str, typer.Option(help="A released model of GANgealing, a transformer of the zoo, or a checkpoint.")
    ],
    draw: Annotated[
        Path | None, typer.Option(help="A square picture with transparency, drawn on the average: put on all pictures.")
    ] = None,
    maps: Annotated[bool, typer.Option("--maps", help="Colour every picture by what corresponds.")] = False,
    flips: Annotated[bool, typer.Option(help="Mirror a picture where that aligns it better.")] = True,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
) -> None:
    """Align a folder of pictures with GANgealing, and carry a drawing to all of them."""
    from gengauge.benchmarks.align import align, open_model, read_template

    template = None if draw is None else read_template(draw)
    opened = open_model(model, flips)
    with bars() as tell:
        count = align(
            opened, pictures, out, template, maps, device_of(device), lambda done, total: tell("pictures", done, total)
        )
    Console().print(f"{out}: {count} pictures, average.png, pictures.csv", highlight=False, soft_wrap=True)


@app.command(
    "warp-points",
    epilog="Example: `gengauge warp-points ears --pictures 10 --out ears.json`\n\nWith another generator: `gengauge "
    "warp-points nose.json --landmarks found.json --generator cats.pkl --out edit.json`",
)
def warp_points_command(
    edit: Annotated[str, typer.Argument(help="`ears`, `nose`, or a JSON file that says which landmarks move or stay.")],
    out: Annotated[Path, typer.Option(help="The file of points to write, for `gengauge warp` and `warp-ui`.")],
    landmarks: Annotated[
        Path | None,
        typer.Option(help="JSON file of landmarks that a detector found; without it the zoo's cats, whose are known."),
    ] = None,
    generator: Annotated[str, typer.Option(help="With --landmarks: the generator of those pictures.")] = "",
    pictures: Annotated[int, typer.Option(min=1, help="Without --landmarks: how many cats.")] = 10,
    first: Annotated[int, typer.Option(min=0, max=2**31, help="Without --landmarks: the first cat's seed.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Make an edit of GAN Warping from landmarks: points on a generator's pictures, and where they are to go."""
    from gengauge.benchmarks.warp import points_of_cats, points_of_detections, read_rule
    from gengauge.datasets.warp_edits import write_warp_edit

    if (landmarks is None) == bool(generator):
        raise ValueError("--landmarks and --generator go together: the landmarks of that generator's pictures")
    rule, name = read_rule(edit), Path(edit).stem
    if landmarks is None:
        found = points_of_cats(rule, pictures, first, name)
    else:
        found = points_of_detections(rule, landmarks, generator, name)
    write_warp_edit(out, found, overwrite=overwrite)
    Console().print(f"{out}: {len(found.pictures)} pictures with points", highlight=False, soft_wrap=True)


@app.command("warp", epilog="Example: `gengauge warp ears.json --out out/ears`")
def warp_command(
    edit: Annotated[
        Path,
        typer.Argument(
            help="A file of points, by hand, `warp-points` or `warp-ui`; or the folder of a published edit, warped "
            "(data/cat/alien_eye/train) or coloured."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the edited weights and some samples.")],
    generator: Annotated[
        str | None, typer.Option(help="NVIDIA's .pkl or the zoo's generator; by default the one that the file names.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Index of the edited layer, or a range such as 3-5.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Rank of the update; 0 trains the whole weight.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps of training.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures a step, at most as many as are edited.")] = None,
    rate: Annotated[float | None, typer.Option(help="The learning rate at its highest.")] = None,
    augment: Annotated[bool, typer.Option(help="Mix in random fine styles.")] = True,
    crop_bars: Annotated[
        bool,
        typer.Option("--crop-bars", help="The pictures are cars of 4:3 between black bars, and so are the points."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
) -> None:
    """Train a generator to make all its pictures as a few of them are warped.

    Settings are those of most released scripts; some edit another layer. The zoo's small generator has its own.
    """
    from dataclasses import replace

    from gengauge.benchmarks.warp import open_base, warp
    from gengauge.datasets.warp_edits import WarpEdit, read_warp_edit

    found = edit if edit.is_dir() else read_warp_edit(edit)
    named = generator or (found.generator if isinstance(found, WarpEdit) else "")
    if not named:
        raise ValueError("a folder does not tell its generator: give --generator")
    base = open_base(named)
    asked: dict[str, Any] = {"layers": layer, "iterations": iterations, "batch": batch, "lr": rate}
    recipe = replace(
        base.recipe(), crop_bars=crop_bars, **{key: value for key, value in asked.items() if value is not None}
    )
    if rank is not None:
        recipe = replace(recipe, rank=rank or None)
    if not augment:
        recipe = replace(recipe, stylemix=None)
    with bars() as tell:
        warp(
            found,
            base,
            recipe,
            out,
            device_of(device),
            seed,
            tell=lambda done, total, doing: tell("training", done, total),
        )
    Console().print(f"{out}: edited weights and samples.png", highlight=False, soft_wrap=True)


@app.command(
    "warp-ui",
    epilog="Example: `gengauge warp-ui`\n\nGo on with an edit, beside one that was trained before: `gengauge warp-ui "
    "--edit ears.json --weights out/nose/edit.safetensors`",
)
def warp_ui_command(
    edit: Annotated[Path | None, typer.Option(help="A file of points to go on with.")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="A trained edit, .pth or .safetensors, to mix in; may be repeated.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(help="NVIDIA's .pkl or the zoo's generator; by default the edit's, without an edit the zoo's."),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(min=-2, max=2, help="Psi of the samples; by default the edit's, without one 1.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes any free one.")] = 7860,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
) -> None:
    """Warp samples of a generator by dragging points on a page, train, and browse what comes of it.

    The page is served to this machine alone, until Ctrl-C. Its edit is kept while the command runs: save it there.
    """
    import webbrowser

    from gengauge.benchmarks.warp_ui.opening import open_session
    from gengauge.benchmarks.warp_ui.server import serve

    session = open_session(generator, edit, weights or (), truncation, device_of(device))

    def ready(url: str) -> None:
        Console().print(f"{session.name} at {url} (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        if open_browser:
            webbrowser.open(url)

    serve(session, port, ready)


@app.command("prepare", epilog="Example: `gengauge prepare cityscapes --data ~/data`")
def prepare_command(
    what: Annotated[Prepared, typer.Argument(help="The set to prepare.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder of published data sets; by default $GENGAUGE_DATA.")
    ] = None,
    resample: Annotated[
        LabelResampling, typer.Option(help="nearest: as the authors' files were made; bicubic: Pillow 7 and later.")
    ] = LabelResampling.nearest,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default where `run` finds it.")] = None,
) -> None:
    """Prepare a published data set as a paper does: of Cityscapes, the unpaired folders that CUT reads."""
    from gengauge.datasets.catalogue import data_folder
    from gengauge.datasets.cityscapes import prepare

    root = data or data_folder()
    if root is None:
        raise ValueError("no data folder: give --data DIR or set GENGAUGE_DATA")
    target = out or root / f"{what.value}-cut"
    with bars() as tell:
        made = prepare(root, target, resample.value, lambda done, total: tell("pairs", done, total))
    Console().print(
        f"{target}: {made.train} training and {made.test} test pictures a side, {made.resample}",
        highlight=False,
        soft_wrap=True,
    )


@app.command("zoo", epilog="Example: `gengauge zoo stylegan2-cat32 --make out/zoo --kimg 48`")
def zoo_command(
    name: Annotated[str | None, typer.Argument(help="The network; without one all cards are shown.")] = None,
    make: Annotated[Path | None, typer.Option(help="Train it anew and write weights and card here.")] = None,
    kimg: Annotated[
        float | None,
        typer.Option(min=0.016, help="With --make: thousands of training pictures, by default as the card."),
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")] = DeviceName.auto,
) -> None:
    """Show the cards of the small networks that come with the package, or make one of them again."""
    from gengauge.benchmarks.zoo.entries import FOLDER
    from gengauge.benchmarks.zoo.networks import networks as all_networks

    networks = all_networks()
    if name is not None and name not in networks:
        raise ValueError(f"the zoo has no {name!r}; it has {', '.join(networks)}")
    if kimg is not None and make is None:
        raise ValueError("--kimg says for how long to train; give --make DIR with it")
    if make is not None:
        if name is None:
            raise ValueError(f"name the network to make: {', '.join(networks)}")
        with bars() as tell:

            def tell_training(done: int, total: int, doing: str) -> None:
                tell("training", done, total)

            entry = networks[name]
            entry.make(
                make, make / "training", device_of(device), entry.KIMG if kimg is None else kimg, tell=tell_training
            )
    for shown in networks if name is None else [name]:
        table = Table("", "", title=shown, show_header=False)
        for key, value in networks[shown].card(make or FOLDER).items():
            table.add_row(key, str(value))
        Console().print(table)


@app.command("doctor", epilog="Example: `gengauge doctor --data ~/data`")
def doctor_command(
    data: Annotated[
        Path | None, typer.Option(help="The folder of published data sets; by default $GENGAUGE_DATA.")
    ] = None,
) -> None:
    """Tell what this machine has: versions, devices, space, weights, data, and how to get what is missing."""
    from gengauge.benchmarks.doctor import examine

    table = Table("", "", "state")
    table.add_column("", overflow="fold")
    colours = {"ok": "green", "missing": "yellow", "info": "default"}
    group = ""
    for f in examine(data):
        if f.group != group:
            table.add_section()
        table.add_row(
            f.group if f.group != group else "",
            f.subject,
            f"[{colours[f.state]}]{'' if f.state == 'info' else f.state}[/]",
            f.detail.replace("[", r"\["),
        )
        group = f.group
    Console().print(table)


compare_cli.attach(app)
method_cli.attach(app)
plot_cli.attach(app)


def _scales(experiments: list[Experiment]) -> str:
    """The scales of experiments, with a mark at those that lack data or weights here."""
    out = []
    for scale in ("quick", "small", "paper"):
        mine = [e.scales[scale] for e in experiments if scale in e.scales]
        if mine:
            lacking = any(need.where is None for at in mine for need in at.plan.needs(None))
            out.append(f"{scale} (-)" if lacking else scale)
    return ", ".join(out) or "published only"


LACKING = "(-) data or weights are missing here: `gengauge run PAPER/TABLE --scale SCALE --dry-run` names them."


def _elsewhere(targets: list[str]) -> str:
    """At which scales targets run, for one at which they do not."""
    from gengauge.benchmarks.core.experiments import SCALES
    from gengauge.benchmarks.jobs import select
    from gengauge.benchmarks.papers import SOURCES

    there = [scale for scale in SCALES if select(SOURCES, targets, scale, 1, "cpu", None)]
    if there:
        return f"it runs at {', '.join(there)}: give --scale. `gengauge list PAPER` shows the rows."
    return "published numbers only. `gengauge list` shows what runs at which scale."


def _printed(n: PublishedNumber | None) -> str:
    return "" if n is None else n.text + ("*" if n.confidence == "memory" else "")


def _print_plans(console: Console, plans: list[JobPlan]) -> None:
    for p in plans:
        console.print(
            f"\n[bold]{p.title}[/]: {p.seeds} seed{'s' * (p.seeds != 1)}, fills {', '.join(p.rows)}", highlight=False
        )
        for network in p.networks:
            console.print(
                f"  network  {network.name}: {network.parameters:,} parameters, {network.macs:,} MACs a forward pass",
                highlight=False,
                soft_wrap=True,
            )
        for need in p.needs:
            state = (
                f"found at {need.where}"
                if need.where
                else f"MISSING, looked in {', '.join(need.looked_in)}; {need.remedy}"
            )
            console.print(f"  needs    {need.what}: {state}", markup=False, highlight=False, soft_wrap=True)
