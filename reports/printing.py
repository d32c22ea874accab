"""What all printed figures share: what may be chosen of their look, colours, axes, legend, and how they are written."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from gengauge.benchmarks.core.tables import Column
from gengauge.reports.plots import COLOURS, MARKERS, STYLE, STYLES
from gengauge.reports.points import Chosen, Estimate, settings_of

# And what is not written to them, since it differs from day to day or from one matplotlib to the next.
FORMATS = {
    ".svg": dict.fromkeys(("Date", "Creator")),
    ".pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    ".png": dict.fromkeys(("Software",)),
}
DOTS = 300  # an inch of a PNG
SMALL = 7.0
PRINT: dict[str, Any] = STYLE | {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), "black"),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "pdf.fonttype": 42,  # TrueType, embedded; the default is refused by some publishers
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Look:
    """What a person may choose of a figure's look; sizes in inches, None for what fits."""

    title: str | None = None
    width: float | None = None
    height: float | None = None
    x_label: str | None = None
    y_label: str | None = None
    log_x: bool | None = None
    log_y: bool = False
    published: bool = True


FITTING = Look()


@contextmanager
def printing() -> Iterator[None]:
    """Matplotlib's settings for a figure that is printed, whatever the user's own are."""
    with matplotlib.rc_context(rc=cast(Any, PRINT)):
        yield


def check(path: Path) -> str:
    """The suffix of a file that a figure can be written to. Raises ValueError for another one."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: a plot is written as {', '.join(FORMATS)}")
    return suffix


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as SVG (text stays text), PDF (fonts inside) or PNG (300 dots an inch), by the file's suffix.

    The same figure gives the same bytes. Raises ValueError for another suffix.
    """
    suffix = check(path)
    stream = io.BytesIO()
    with printing():
        figure.savefig(stream, format=suffix[1:], dpi=DOTS, metadata=cast(Any, FORMATS[suffix]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())


def interval(ax: Axes, e: Estimate, at: float, colour: str, upright: bool = False) -> None:
    """An estimate's interval as a bar with ends, lying or upright; none where it has no bounds."""
    if math.isfinite(e.low) and math.isfinite(e.high):
        bounds = [[max(0.0, e.value - e.low)], [max(0.0, e.high - e.value)]]
        places, how = ([at], [e.value]) if upright else ([e.value], [at]), "yerr" if upright else "xerr"
        ax.errorbar(*places, **cast(Any, {how: bounds}), fmt="none", ecolor=colour, elinewidth=1.1, capsize=2.5)


def style_of(colour: int, style: int, marker: str = "") -> dict[str, Any]:
    """The look of the n-th line: marker and line style follow `style`, so that two lines differ without colour."""
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "linestyle": STYLES[style % len(STYLES)],
        "marker": marker or MARKERS[style % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }


def axis_label(column: Column) -> str:
    """A metric's name with its unit and which way it is better."""
    unit = "" if column.unit == "1" else f" ({column.unit})"
    better = "" if column.direction == "none" else f", {column.direction} is better"
    return f"{column.key}{unit}{better}"


def scales(ax: Axes, log_x: bool, log_y: bool) -> None:
    """Makes axes logarithmic. Raises ValueError where values are not above zero."""
    for log, axis, name in ((log_x, ax.xaxis, "x"), (log_y, ax.yaxis, "y")):
        if not log:
            continue
        data = [v for line in ax.lines for v in cast(Any, line.get_data()[name == "y"])]
        if min(map(float, data)) <= 0:
            raise ValueError(f"the {name} axis has values that are not above zero, which have no logarithm")
        (ax.set_xscale if name == "x" else ax.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def finish(figure: Figure, panels: Sequence[Axes], chosen: Chosen, look: Look, told: str) -> None:
    """Title, and below a legend, a name once, under a line that tells what was measured how."""
    figure.suptitle(fill(chosen.title if look.title is None else look.title, 70), fontsize=10)
    named = {name: handle for ax in panels for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    named = dict(sorted(named.items(), key=lambda item: item[0].startswith(("published", "Pareto"))))  # last
    width = figure.get_size_inches()[0]
    note = fill(f"{settings_of(chosen.sources)}; {told}", int(width * 17))
    across = max(1, min(len(named), int(width * 15 / (max(map(len, named)) + 7))))
    if look.height is None:  # a long legend takes nothing from the plot
        figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(named) // across) - 1))
    legend = figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=across,
        title=note,
        title_fontsize=SMALL,
        fontsize=8,
    )
    legend.get_title().set_multialignment("center")
