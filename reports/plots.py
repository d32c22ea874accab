"""Plots of a report as SVG text for a page: colours that survive colour blindness, ink that follows light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from textwrap import wrap
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from gengauge.reports.content import MeasuredTable

# Okabe and Ito 2008, in an order that also differs in lightness; the line styles tell them apart in grey print.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
IN_A_LINE = 6  # panels side by side at most; more would be too small to read
INK = "#010203"  # replaced by the page's own text colour
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gengauge",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


def comparison(table: MeasuredTable, name: str) -> str | None:
    """A panel a metric: each row's mean with its interval, its seeds as small dots. None without values.

    Exact numbers have no interval, and stand in the table.
    """
    columns = [
        c
        for c in table.columns
        if c.direction != "none"
        and not c.exact
        and any(table.cells[row, c.key].interval is not None for row, _ in table.rows)
    ]
    if not columns:
        return None

    lines = -(-len(columns) // IN_A_LINE)
    across = -(-len(columns) // lines)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, across, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for ax in panels[len(columns) :]:
            ax.remove()
        for ax, column in zip(panels[: len(columns)], columns, strict=True):
            for y, (row, _) in enumerate(table.rows):
                cell = table.cells[row, column.key]
                if cell.interval is None:
                    continue
                colour = COLOURS[y % len(COLOURS)]
                ax.plot(cell.values, [y + 0.22] * len(cell.values), ".", color=colour, alpha=0.6, markersize=4)
                if cell.interval.count > 1:
                    ax.plot([cell.interval.low, cell.interval.high], [y, y], color=colour, linewidth=2.2)
                ax.plot(cell.interval.mean, y, MARKERS[y % len(MARKERS)], color=colour, markersize=6)
            title = f"{column.key}{_unit(column.unit)}, {column.direction} is better"
            ax.set_title("\n".join(wrap(title, 24)) if lines > 1 or across > 4 else title, fontsize=9)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.grid(axis="y", visible=False)
        for ax in grid[:, 0]:
            ax.set_yticks(range(len(table.rows)), [short(label) for _, label in table.rows])
        panels[0].invert_yaxis()

    return svg(draw, (max(8.0, 2.4 + 1.9 * across), lines * (0.9 + 0.42 * len(table.rows))), name)


def curves(table: MeasuredTable, name: str) -> str | None:
    """A panel a column over its axis: mean over seeds, the band from the lowest to the highest. None without curves.

    A row has the colour that it has in `comparison`, unless its curves have more lines than that can tell apart.
    """
    if not table.curves:
        return None
    drawn = list(dict.fromkeys(name for curve in table.curves for name in curve.lines))
    order = list(dict.fromkeys([*(name for _, name in table.rows), *drawn]))
    colours = {name: i for i, name in enumerate(order if len(order) <= len(COLOURS) else drawn)}
    axis = table.axis

    def draw(figure: Figure) -> None:
        # Parts of one thing, as scores of different pictures, stand on one scale; metrics on their own.
        parts = {(c.column.unit, c.column.direction) for c in table.curves}
        shared = len(parts) == 1 and parts.pop()[1] == "none"
        axes: list[Axes] = list(figure.subplots(1, len(table.curves), sharey=shared, squeeze=False)[0])
        for ax, curve in zip(axes, table.curves, strict=True):
            for row, line in curve.lines.items():
                i = colours[row]
                steps, mean, low, high = zip(*line, strict=True)
                marker = "." if len(steps) < 10 else ""
                ax.plot(steps, mean, STYLES[i % 4], marker=marker, color=COLOURS[i % len(COLOURS)], label=short(row))
                ax.fill_between(steps, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.15, linewidth=0)
            ax.set_title("\n".join(wrap(curve.column.metric, 42)), fontsize=9)
            ax.set_xlabel(axis.name)
            if axis.log:
                ax.set_xscale("log")
                ax.xaxis.set_major_formatter(ScalarFormatter())
            else:
                ax.xaxis.set_major_locator(MaxNLocator(4, integer=axis.steps_per_unit == 1))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

    lines = max(len(curve.lines) for curve in table.curves)
    size = (max(2.9 * len(table.curves), 6.0 if len(table.curves) == 1 else 0) + 0.4, 2.5 + 0.1 * lines)
    return svg(draw, size, name)


def short(label: str, length: int = 46) -> str:
    """A row's name, cut at a word where it is too long for a plot."""
    if len(label) <= length:
        return label
    return label[:length].rsplit(" ", 1)[0].rstrip(",(") + " ..."


def _unit(unit: str) -> str:
    return "" if unit == "1" else f" ({unit})"


def svg(draw: Callable[[Figure], None], size: tuple[float, float], name: str) -> str:
    """SVG for inlining: ids get the name as prefix, several can stand on one page; ink is the page's `currentColor`."""
    with matplotlib.rc_context(rc=cast(Any, STYLE)):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="plot"', text, count=1)
