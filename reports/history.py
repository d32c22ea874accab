"""Histories of metrics as figures and as text: a small plot a metric, with the places where its level changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Literal, get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gengauge.benchmarks.core.change_points import METHOD
from gengauge.benchmarks.core.history import Change, History, Run, Series
from gengauge.reports import plots
from gengauge.reports.content import number
from gengauge.reports.plots import COLOURS
from gengauge.reports.printing import printing
from gengauge.reports.text import pipe

Label = Literal["name", "code", "time"]
LABELS: tuple[Label, ...] = get_args(Label)
ACROSS = 3  # panels side by side
MOST = 24  # panels of a table in the report
TICKS = 12  # runs named under a panel at most
BETTER, WORSE, MOVED = COLOURS[2], COLOURS[4], COLOURS[6]
HEADER = ("metric", "since run", "code", "before", "after", "change", "verdict")


def label_of(runs: Sequence[Run]) -> Label:
    """What tells runs apart: their names, or their code where one name stands for several."""
    return "name" if max(Counter(run.name for run in runs).values()) == 1 else "code"


def labels(runs: Sequence[Run], label: Label) -> list[str]:
    """The runs' names for an axis: the last part of a path, the code's digest, or the day and hour."""
    if label == "name":
        return [run.name.rstrip("/").rsplit("/", 1)[-1] for run in runs]
    if label == "code":
        return [run.code.rsplit("+", 1)[-1][:8] for run in runs]
    return [run.time[:16].replace("T", " ") for run in runs]


def worth(found: History) -> tuple[Series, ...]:
    """The series of at least two runs, those that changed first. Left out is what neither changed nor has a better
    direction, and what is exact and stayed."""
    many = [s for s in found.series if len(s.points) > 1]
    moved = [s for s in many if s.changes]
    return (*moved, *(s for s in many if not s.changes and s.direction != "none" and s.kind != "exact"))


def verdict(series: Series, change: Change) -> str:
    """`better`, `worse`, or `moved` where neither direction is better."""
    if series.direction == "none":
        return "moved"
    return "better" if (change.after > change.before) == (series.direction == "higher") else "worse"


def told(change: Change) -> str:
    """By how much a level changed, as `+12%`; what was before and after where that was zero."""
    if math.isnan(change.share):
        return f"{number(change.before)} to {number(change.after)}"
    return f"{100 * change.share:+.3g}%"


def lines(found: History, chosen: Sequence[Series]) -> list[list[str]]:
    """The changes of some series of a history as lines of a table, in the order of `HEADER`."""
    names = labels(found.runs, label_of(found.runs))
    out = []
    for series in chosen:
        unit = "" if series.context.unit == "1" else f" {series.context.unit}"
        for change in series.changes:
            run = series.points[change.place].run
            out.append(
                [
                    series.name,
                    names[run],
                    found.runs[run].code,
                    number(change.before) + unit,
                    number(change.after) + unit,
                    told(change),
                    verdict(series, change),
                ]
            )
    return out


def draw(figure: Figure, series: Sequence[Series], runs: Sequence[Run], label: Label, across: int = ACROSS) -> None:
    """A panel a series: each run's value with its interval, levels as steps, changes as dashed lines with their size.

    Between runs lies one step, however long it took.
    """
    grid = figure.subplots(-(-len(series) // across), across, squeeze=False, sharex=True)
    panels: list[Axes] = list(grid.flat)
    names = labels(runs, label)
    several = len({(s.context.scale, s.context.data, s.context.device) for s in series if s.context.device}) > 1
    for ax, one in zip(panels, series, strict=False):
        _panel(ax, one)
        where = f"\n{one.context.scale}, {one.context.device}" if several and one.context.device else ""
        ax.set_title("\n".join(wrap(one.name, 42)) + where, fontsize=7)
        ax.set_xlim(-0.5, len(runs) - 0.5)
    every = -(-len(names) // TICKS)
    for ax in panels[: len(series)]:
        ax.set_xticks(range(0, len(names), every), names[::every], rotation=60, ha="right", fontsize=6)
    for ax in panels[len(series) :]:
        ax.remove()
    for ax in panels[max(0, len(series) - across) : len(series)]:
        ax.tick_params(labelbottom=True)


def _panel(ax: Axes, series: Series) -> None:
    x = [point.run for point in series.points]
    y = [point.value for point in series.points]
    ax.plot(x, y, "-o", color=COLOURS[0], markersize=3, linewidth=1.0)
    for point in series.points:
        if math.isfinite(point.low) and math.isfinite(point.high):
            ax.plot([point.run] * 2, [point.low, point.high], "-", color=COLOURS[0], linewidth=1.2, alpha=0.5)
    places = [0, *(change.place for change in series.changes), len(x)]
    levels = [series.changes[0].before, *(c.after for c in series.changes)] if series.changes else []
    for begin, end, level in zip(places, places[1:], levels, strict=False):
        ax.plot([x[begin] - 0.4, x[end - 1] + 0.4], [level] * 2, "-", color=MOVED, linewidth=2.5, alpha=0.6, zorder=1)
    for change in series.changes:
        said = verdict(series, change)
        colour = {"better": BETTER, "worse": WORSE, "moved": MOVED}[said]
        at = (x[change.place - 1] + x[change.place]) / 2
        ax.axvline(at, color=colour, linestyle="--" if said == "worse" else ":", linewidth=1.3)
        ax.annotate(
            f" {told(change)} {said}", (at, 1.0), xycoords=("data", "axes fraction"), va="top", fontsize=6, color=colour
        )
    better = "" if series.direction == "none" else f"{series.direction} is better"
    unit = "" if series.context.unit == "1" else series.context.unit
    ax.set_ylabel(", ".join(filter(None, (unit, better))), fontsize=6)
    ax.tick_params(axis="y", labelsize=6)
    ax.yaxis.set_major_locator(MaxNLocator(4))


def figure(series: Sequence[Series], runs: Sequence[Run], label: Label, across: int = ACROSS) -> Figure:
    """A history for print."""
    with printing():
        made = Figure(figsize=size_of(len(series), across), layout="constrained")
        draw(made, series, runs, label, across)
        made.suptitle(f"{len(runs)} runs, {runs[0].time[:10]} to {runs[-1].time[:10]}", fontsize=9)
    return made


def by_table(found: History) -> dict[str, tuple[Series, ...]]:
    """What is worth showing of each PAPER/TABLE, at most `MOST` series each, tables with changes first."""
    groups: dict[str, list[Series]] = {}
    for one in worth(found):
        groups.setdefault("/".join(one.metric[:2]), []).append(one)
    ordered = sorted(groups.items(), key=lambda item: not any(one.changes for one in item[1]))
    return {table: tuple(series[:MOST]) for table, series in ordered}


def svg(series: Sequence[Series], runs: Sequence[Run], name: str) -> str:
    """A history for a page, as `plots` makes them; `name` tells it from the page's other plots."""
    return plots.svg(lambda figure: draw(figure, series, runs, label_of(runs)), size_of(len(series)), name)


def markdown(found: History) -> str:
    """Runs and changes as a section of the report's Markdown."""
    runs = [[run.name, run.code, run.time[:16].replace("T", " ")] for run in found.runs]
    changed = lines(found, found.series)
    out = ["## History", "", *pipe(["run", "code", "last record (UTC)"], runs), "", METHOD, ""]
    out += [*pipe(HEADER, changed), ""] if changed else ["No metric changed its level.", ""]
    return "\n".join(out)


def size_of(panels: int, across: int = ACROSS) -> tuple[float, float]:
    """Width and height of a figure of so many panels, in inches."""
    return 2.9 * min(across, max(panels, 1)), 0.9 + 1.75 * -(-panels // across)
