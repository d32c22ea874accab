"""Writes a report: one self-contained page, and the same content as Markdown, CSV and LaTeX."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from gengauge.benchmarks.core.change_points import METHOD as CHANGES
from gengauge.benchmarks.core.claims import METHOD
from gengauge.benchmarks.core.experiments import Paper
from gengauge.benchmarks.core.history import History
from gengauge.benchmarks.core.tables import slug
from gengauge.reports import history as histories
from gengauge.reports import plots, text
from gengauge.reports.content import Illustration, MeasuredTable, PaperSection, compose, pivot, sources


@dataclass(frozen=True)
class _Plot:
    svg: Markup
    caption: str
    alt: str


@dataclass(frozen=True)
class _Embedded:
    uri: str
    caption: str
    alt: str


def build_report(
    frame: pd.DataFrame,
    papers: Sequence[Paper],
    run: Path,
    out: Path,
    gallery: Sequence[Illustration] = (),
    gallery_text: str = "",
    history: History | None = None,
) -> Path:
    """Writes the report on `frame` to the folder `out` and returns the page's path, `out/index.html`.

    The page opens from disk without a network: pictures and plots are inside. `run` is the run's folder, whose
    `pictures/<digest>/` hold the sample grids. `history` is shown where it has more than one run. Raises ValueError for
    a frame without records.
    """
    report = compose(frame, papers)
    past = history if history is not None and len(history.runs) > 1 else None
    measured_keys = {section.paper.key for section in report.papers}
    others = [
        f"{p.name} ({'published numbers only' if not p.experiments else 'not run'})"
        for p in papers
        if p.key not in measured_keys
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["sources"] = sources
    templates = resources.files("gengauge.reports") / "templates"
    page = environment.from_string((templates / "page.html").read_text(encoding="utf-8")).render(
        css=Markup((templates / "page.css").read_text(encoding="utf-8")),
        lead="Image generation and editing papers, measured the way their authors did, published beside measured.",
        papers=[section.paper.name for section in report.papers],
        s=report.summary,
        others=others,
        method=METHOD,
        margin=text.margin,
        gallery=[_embed(i) for i in gallery],
        gallery_text=gallery_text,
        history=None if past is None else _history(past),
        sections=[_section(section, frame, run) for section in report.papers],
    )
    tables = out / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for section in report.papers:
        for table in section.measured:
            name = slug(
                f"{section.paper.key} {table.table.key} {table.scale} {table.data} {table.device.split(' ')[0]}"
            )
            (tables / f"{name}.csv").write_text(text.csv(table), encoding="utf-8")
            (tables / f"{name}.tex").write_text(text.latex(table), encoding="utf-8")
    markdown = [text.markdown(report), *([] if past is None else [histories.markdown(past)])]
    (out / "report.md").write_text("\n".join(markdown), encoding="utf-8")
    (out / "published.md").write_text(text.published_markdown(report), encoding="utf-8")
    index = out / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


def _history(past: History) -> dict[str, object]:
    plotted = []
    for number, (table, series) in enumerate(histories.by_table(past).items()):
        moved = ", ".join(one.name for one in series if one.changes) or "no metric"
        alt = f"{table} over {len(past.runs)} runs; {moved} changed level"
        svg = Markup(histories.svg(series, past.runs, f"history-{number}"))
        plotted.append((table, any(one.changes for one in series), _Plot(svg, "", alt)))
    return {
        "runs": past.runs,
        "header": histories.HEADER,
        "changes": histories.lines(past, past.series),
        "plots": plotted,
        "method": CHANGES,
    }


def _section(section: PaperSection, frame: pd.DataFrame, run: Path) -> dict[str, object]:
    tables = []
    for number, table in enumerate(section.measured):
        tables.append(
            {
                "measured": table,
                "parts": [(text.header(part), text.lines(part)) for part in table.parts()],
                "published_metric": {n.column: n.metric for n in table.table.published},
                "plots": _plots(table, f"{section.paper.key}-{number}"),
                "pictures": _pictures(section, table, frame, run),
                "beside": [(t, pivot(t)) for t in table.beside],
            }
        )
    published = [(t, pivot(t)) for t in section.paper.tables if t.published]
    return {"section": section, "tables": tables, "published": published}


def _plots(table: MeasuredTable, name: str) -> list[_Plot]:
    out = []
    for number, part in enumerate(table.parts()):
        svg = plots.comparison(part, f"{name}-bars{number}")
        if svg is None:
            continue
        rows = ", ".join(label for _, label in part.rows)
        means = "; ".join(
            f"{c.key}: " + ", ".join(f"{label} {part.cells[row, c.key]}" for row, label in part.rows)
            for c in part.columns
            if c.direction != "none" and not c.exact
        )
        out.append(
            _Plot(
                Markup(svg),
                "Mean over seeds with its 95 % interval; small dots are the seeds.",
                f"Comparison of {rows}. {means}",
            )
        )
    if svg := plots.curves(table, f"{name}-curves"):
        what = ", ".join(c.column.metric for c in table.curves)
        drawn = ", ".join(dict.fromkeys(line for c in table.curves for line in c.lines))
        out.append(
            _Plot(
                Markup(svg),
                f"{table.axis.about}: mean over seeds, the band from the lowest to the highest.",
                f"Curves over {table.axis.name} of {what}, for {drawn}.",
            )
        )
    return out


def _pictures(section: PaperSection, table: MeasuredTable, frame: pd.DataFrame, run: Path) -> list[_Embedded]:
    """The PNG files that the table's jobs left, in the order of its rows."""
    mine = frame[
        (frame["paper"] == section.paper.key)
        & (frame["table"] == table.table.key)
        & (frame["scale"] == table.scale)
        & (frame["data"] == table.data)
        & (frame["device"] == table.device)
    ]
    out = []
    for row, label in table.rows:
        for digest in dict.fromkeys(mine.loc[mine["row"] == row, "digest"]):
            for path in sorted((run / "pictures" / digest).glob(f"{row}.*.png")):
                with Image.open(path) as picture:
                    alt = str(picture.info.get("Description", label))
                name = path.name.removeprefix(f"{row}.").removesuffix(".png")
                out.append(_embed(Illustration(f"{label}: {name}", alt, path.read_bytes())))
    return out


def _embed(picture: Illustration) -> _Embedded:
    return _Embedded("data:image/png;base64," + base64.b64encode(picture.png).decode(), picture.caption, picture.alt)
