"""Figures as papers print them, of the points of a table: bars, a metric against a number, one metric against another.

Colours differ in lightness and for the colour-blind, and none stands alone: markers, line styles and hatches differ,
too. A number that stands in for a published one is called so, and so is a published one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from textwrap import fill
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gengauge.benchmarks.core.tables import Column, Row
from gengauge.reports.plots import COLOURS, MARKERS
from gengauge.reports.points import Chosen, Estimate, Numbered, Source, by_number, dominated, tell_left_out
from gengauge.reports.printing import FITTING, SMALL, Look, axis_label, finish, interval, printing, scales, style_of

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo")
PUBLISHED, REMEMBERED = "D", "d"
SAID = "published, hollow"  # of all lines that are measured, too: one entry of the legend
HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "linewidth": 1.0}


def bars(chosen: Chosen, columns: Sequence[str], look: Look = FITTING) -> Figure:
    """A panel a metric, a bar a row and run from zero to the mean, with its interval, its seeds and what is published.

    Raises ValueError for an unknown metric, and where no row has a value of it.
    """
    wanted = [chosen.column(key) for key in columns]
    if look.log_x or look.log_y:
        raise ValueError("bars begin at zero, which has no logarithm; a plot of kind against has no bars")
    rows = [row for row in chosen.rows if any(_any(chosen, row, c, look) for c in wanted)]
    if not rows:
        raise ValueError(f"no row has a value of {', '.join(columns)}; {_have(chosen)}")
    thick = 0.8 / len(chosen.sources)
    with printing():
        size = (
            look.width or 3.2 + 2.6 * len(wanted),
            look.height or 1.3 + len(rows) * (0.16 + 0.2 * len(chosen.sources)),
        )
        figure = Figure(figsize=size, layout="constrained")
        panels: list[Axes] = list(figure.subplots(1, len(wanted), sharey=True, squeeze=False)[0])
        for ax, column in zip(panels, wanted, strict=True):
            for number, source in enumerate(chosen.sources):
                offset = (number - (len(chosen.sources) - 1) / 2) * thick
                _bar(ax, chosen, source, number, rows, column, offset, thick)
            if look.published:
                for place, row in enumerate(rows):
                    _published(ax, chosen, row, column, place)
            ax.set_xlabel(axis_label(column))
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.grid(axis="y", visible=False)
            ax.axvline(0, color="black", linewidth=0.8)
        panels[0].set_yticks(range(len(rows)), [fill(str(row), 38) for row in rows], fontsize=8)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        finish(figure, panels, chosen, look, "bars: mean over seeds with its 95 % t interval, dots the seeds")
    return figure


def _bar(
    ax: Axes, chosen: Chosen, source: Source, number: int, rows: Sequence[Row], column: Column, at: float, thick: float
) -> None:
    found = [(i + at, e) for i, row in enumerate(rows) if (e := source.final(chosen.keys[row], column.key)) is not None]
    if not found:
        return
    places, estimates = zip(*found, strict=True)
    ax.barh(
        places,
        [e.value for e in estimates],
        thick * 0.92,
        color=COLOURS[number % len(COLOURS)],
        hatch=HATCHES[number % len(HATCHES)],
        edgecolor="black",
        linewidth=0.6,
        alpha=0.85,
        label=_called(source, source.label, [column]),
    )
    for place, e in found:
        interval(ax, e, place, "black")
        if len(e.seeds) > 1:
            ax.plot(e.seeds, [place] * len(e.seeds), ".", color="black", markersize=2.5, alpha=0.7)


def _published(ax: Axes, chosen: Chosen, row: Row, column: Column, place: float) -> None:
    if (number := chosen.published(row, column.key)) is not None:
        value, remembered = number
        ax.plot(
            value,
            place,
            REMEMBERED if remembered else PUBLISHED,
            markerfacecolor="white",
            markeredgecolor="black",
            markersize=5.5,
            zorder=5,
            label="published (remembered)" if remembered else "published",
        )


def against(
    chosen: Chosen,
    x: str,
    y: str,
    look: Look = FITTING,
    levels: Chosen | None = None,
) -> Figure:
    """A metric `y` against a number: lines with intervals, published ones hollow and dotted.

    `x` is `setting`, the number in the rows' settings (`setting:WORD` where there are several, as `setting:t0`), or
    `step`, a curve's axis with the band from the lowest to the highest seed, or a metric, against which a row is a
    point of its method's line. `levels` are rows without such a number, shown as lines across. Raises ValueError for an
    unknown metric, rows without a number, and where nothing has both.
    """
    column = chosen.column(y)
    kind, _, word = x.partition(":")
    with printing():
        figure = Figure(figsize=(look.width or 5.6, look.height or 4.2), layout="constrained")
        ax = figure.subplots()
        log = look.log_x
        if kind == "step":
            label, told = chosen.axis.name, "band: from the lowest to the highest seed"
            _curves(ax, chosen, column)
            log = chosen.axis.log if log is None else log
        elif kind == "setting":
            numbered = by_number([row for row in chosen.rows if _any(chosen, row, column, look)] or chosen.rows, word)
            tell_left_out(chosen, numbered.without, f"without a number of {numbered.name}")
            label, told = numbered.name, "bars: 95 % t interval over seeds"
            _lines(ax, chosen, numbered, column, look.published)
        else:
            other = chosen.column(x)
            label, told = axis_label(other), "bars: 95 % t interval over seeds"
            _rows(ax, chosen, other, column)
            lacking = [
                row for row in chosen.rows if not _measured(chosen, row, other) and _measured(chosen, row, column)
            ]
            tell_left_out(chosen, lacking, f"without {x}")
        if not ax.lines:
            raise ValueError(f"no row has a value of {y} at a {x}; {_have(chosen)}")
        ax.set_xlabel(look.x_label or label)
        ax.set_ylabel(look.y_label or axis_label(column))
        scales(ax, bool(log), look.log_y)
        if levels is not None:
            _across(ax, levels, column, len(ax.get_legend_handles_labels()[1]))
        finish(figure, [ax], chosen, look, told)
    return figure


def _curves(ax: Axes, chosen: Chosen, column: Column) -> None:
    several = len(chosen.sources) > 1
    keys = chosen.keys
    drawn = [row for row in chosen.rows if any(source.curve(keys[row], column.key) for source in chosen.sources)]
    for i, row in enumerate(drawn):
        for j, source in enumerate(chosen.sources):
            found = source.curve(keys[row], column.key)
            if not found:
                continue
            steps = [step / chosen.axis.steps_per_unit for step, _ in found]
            name = _called(source, f"{row}, {source.label}" if several else str(row), [column])
            look = style_of(i, j if several else i)
            ax.plot(steps, [e.value for _, e in found], **look, markevery=max(1, len(steps) // 8), label=name)
            low, high = [e.low for _, e in found], [e.high for _, e in found]
            ax.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _lines(ax: Axes, chosen: Chosen, numbered: Numbered, column: Column, published: bool) -> None:
    several = len(chosen.sources) > 1
    remembered: list[bool] = []
    for i, (line, points) in enumerate(numbered.lines.items()):
        drawn = any(_measured(chosen, row, column) for _, row in points)
        for j, source in enumerate(chosen.sources):
            found = [(x, e) for x, row in points if (e := source.final(chosen.keys[row], column.key)) is not None]
            name = _called(source, f"{line}, {source.label}" if several else line, [column])
            _line(ax, [(Estimate(x), e) for x, e in found], style_of(i, j if several else i), name)
        said = [(x, number) for x, row in points if (number := chosen.published(row, column.key)) is not None]
        if published and said:
            hollow = style_of(i, i) | HOLLOW | {"linestyle": ":"}
            x, numbers = zip(*said, strict=True)
            ax.plot(x, [value for value, _ in numbers], **hollow, label=SAID if drawn else f"{line}, published")
            remembered += [flag for _, flag in numbers]
    _call_remembered(ax, remembered)


def _rows(ax: Axes, chosen: Chosen, x: Column, y: Column) -> None:
    several = len(chosen.sources) > 1
    for i, method in enumerate(dict.fromkeys(row.method for row in chosen.rows)):
        keys = [chosen.keys[row] for row in chosen.rows if row.method == method]
        for j, source in enumerate(chosen.sources):
            pairs = [(source.final(key, x.key), source.final(key, y.key)) for key in keys]
            found = sorted(((a, b) for a, b in pairs if a and b), key=lambda pair: pair[0].value)
            name = _called(source, f"{method}, {source.label}" if several else method, [x, y])
            _line(ax, found, style_of(i, j if several else i), name)


def _line(ax: Axes, found: Sequence[tuple[Estimate, Estimate]], look: dict[str, Any], name: str) -> None:
    if not found:
        return
    ax.plot([a.value for a, _ in found], [b.value for _, b in found], **look, label=name)
    for a, b in found:
        interval(ax, a, b.value, look["color"])
        interval(ax, b, a.value, look["color"], upright=True)


def _across(ax: Axes, levels: Chosen, column: Column, first: int) -> None:
    for source in levels.sources:
        for i, row in enumerate(levels.rows, first):
            if (e := source.final(levels.keys[row], column.key)) is not None:
                look = style_of(i, i + 1) | {"marker": "", "linewidth": 1.2}
                several = len(levels.sources) > 1
                name = _called(source, f"{row}, {source.label}" if several else str(row), [column])
                ax.axhline(e.value, **look, label=name)


def trade_off(
    chosen: Chosen,
    x: str,
    y: str,
    look: Look = FITTING,
    front: bool = False,
) -> Figure:
    """One metric against another: a point a row with both intervals, its setting beside it, published points hollow.

    `front` joins the measured points that no other one beats in both. Raises ValueError for an unknown metric, where no
    row has both, and for a front over a metric of which neither direction is better.
    """
    across, up = chosen.column(x), chosen.column(y)
    if front and (without := [c.key for c in (across, up) if c.direction == "none"]):
        raise ValueError(f"a Pareto front needs to know what is better, and of {', '.join(without)} neither is")
    methods = list(dict.fromkeys(row.method for row in chosen.rows))
    drawn = {r.method for r in chosen.rows if _measured(chosen, r, across) and _measured(chosen, r, up)}
    several = len(chosen.sources) > 1
    with printing():
        figure = Figure(figsize=(look.width or 5.6, look.height or 4.6), layout="constrained")
        ax = figure.subplots()
        measured: list[tuple[float, float]] = []
        beside: list[tuple[str, tuple[float, float]]] = []
        remembered: list[bool] = []
        for row in chosen.rows:
            i, key = methods.index(row.method), chosen.keys[row]
            for j, source in enumerate(chosen.sources):
                a, b = source.final(key, x), source.final(key, y)
                if a is None or b is None:
                    continue
                measured.append((a.value, b.value))
                name = _called(source, f"{row.method}, {source.label}" if several else row.method, [across, up])
                style = style_of(i, 0, MARKERS[(j if several else i) % len(MARKERS)]) | {"linestyle": ""}
                _line(ax, [(a, b)], style, name)
                beside.append((row.setting, measured[-1]))
            said = chosen.published(row, x), chosen.published(row, y)
            if look.published and said[0] and said[1]:
                style = style_of(i, 0, MARKERS[i % len(MARKERS)]) | HOLLOW | {"linestyle": ""}
                ax.plot(
                    said[0][0], said[1][0], **style, label=SAID if row.method in drawn else f"{row.method}, published"
                )
                remembered += [said[0][1], said[1][1]]
                beside.append((row.setting, (said[0][0], said[1][0])))
        if not measured:
            raise ValueError(f"no row has both {x} and {y}; {_have(chosen)}")
        halves = [[_any(chosen, row, c, look) for c in (across, up)] for row in chosen.rows]
        tell_left_out(
            chosen, [r for r, half in zip(chosen.rows, halves, strict=True) if sum(half) == 1], "with one of two"
        )
        if front:
            signs = tuple(1 if c.direction == "lower" else -1 for c in (across, up))
            beaten = dominated(measured, cast(tuple[int, int], signs))
            best = sorted(point for point, worse in zip(measured, beaten, strict=True) if not worse)
            ax.plot(*zip(*best, strict=True), "--", color="0.4", linewidth=1.0, zorder=1, label="Pareto front")
        ax.set_xlabel(look.x_label or axis_label(across))
        ax.set_ylabel(look.y_label or axis_label(up))
        scales(ax, bool(look.log_x), look.log_y)
        _call_remembered(ax, remembered)
        if len({text for text, _ in beside}) > 1:  # one setting of all says nothing here
            _write_beside(ax, beside)
        finish(figure, [ax], chosen, look, "bars: 95 % t intervals over seeds")
    return figure


def _call_remembered(ax: Axes, remembered: Sequence[bool]) -> None:
    """Says of published marks that some are remembered, not read."""
    for line in ax.lines:
        if line.get_label() == SAID and any(remembered):
            line.set_label(f"{SAID} ({'' if all(remembered) else 'partly '}remembered)")


def _write_beside(ax: Axes, texts: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Settings beside their points, each in that corner where it hides least of points and of the other texts."""
    ax.autoscale_view()  # else it waits until the figure is drawn
    places = [tuple(ax.transData.transform(point) * 72 / ax.figure.dpi) for _, point in texts]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    for (text, point), (x, y) in zip(texts, places, strict=True):
        if not text:
            continue
        wide, boxes = 0.6 * SMALL * len(text), []
        for right, above in product((True, False), repeat=2):
            left, low = x + 4 if right else x - 4 - wide, y + 3 if above else y - 3 - SMALL
            box = (left, low, left + wide, low + SMALL)
            boxes.append((sum(_overlap(box, other) for other in taken), box, right, above))
        _, box, right, above = min(boxes, key=lambda entry: entry[0])
        taken.append(box)
        ax.annotate(
            text,
            point,
            (4 if right else -4, 3 if above else -3),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if above else "top",
            fontsize=SMALL,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _measured(chosen: Chosen, row: Row, column: Column) -> bool:
    return any(source.final(chosen.keys[row], column.key) is not None for source in chosen.sources)


def _any(chosen: Chosen, row: Row, column: Column, look: Look) -> bool:
    return _measured(chosen, row, column) or (look.published and chosen.published(row, column.key) is not None)


def _have(chosen: Chosen) -> str:
    frames = [source.frame[source.frame["step"].isna()] for source in chosen.sources]
    curves = [source.frame[source.frame["step"].notna()] for source in chosen.sources]

    def keys(parts: Sequence[Any]) -> str:
        return ", ".join(sorted({str(c) for part in parts for c in part["column"]})) or "none"

    return f"{chosen.name} has {keys(frames)}, and over {chosen.axis.name} {keys(curves)}"


def _called(source: Source, name: str, columns: Sequence[Column]) -> str:
    """A legend's name of measured numbers; exact ones stand in for nothing."""
    return f"{name} (stand-in)" if source.stand_in and not all(c.exact for c in columns) else name
