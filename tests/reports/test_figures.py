"""Printed figures by their artists: what is drawn where, how it is called, and the files that are written."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import numpy as np
import pytest
import toy_paper
from frames import FID, MACS, record
from frames import frame as framed
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from gengauge.benchmarks.core.experiments import Axis, Experiment, Paper
from gengauge.benchmarks.core.records import Record
from gengauge.benchmarks.core.tables import Column, PublishedNumber, tables_of
from gengauge.reports import figures
from gengauge.reports.plots import COLOURS
from gengauge.reports.points import Chosen, LeftOut, choose
from gengauge.reports.printing import Look, save

KID = Column("kid", "Another distance", "1", "lower")
KINDS = ("A", "10% data"), ("A", "100% data"), ("A + B", "10% data"), ("A + B", "100% data"), ("Real", "")
NUMBERS = {"A": (40.0, 10.0), "A + B": (20.0, 9.0)}


def published(method: str, setting: str, value: float, confidence: Any = "read") -> PublishedNumber:
    return PublishedNumber(
        "t",
        "Table 1: shares",
        method,
        setting,
        "fid",
        "FID",
        "1",
        "lower",
        str(value),
        "",
        "",
        "result",
        "it",
        confidence,
    )


(TABLE,) = tables_of(
    [
        published(m, s, NUMBERS.get(m, (1.0, 1.0))[s == "100% data"], "memory" if m == "Real" else "read")
        for m, s in KINDS
    ]
)
EXPERIMENT: Experiment = replace(
    toy_paper.PAPER.experiments[0], key="quality", table="t", columns=(FID, KID, MACS), axis=Axis("t0", 100, log=True)
)
PAPER = Paper("p", "P", "A paper", "nowhere", (TABLE,), (EXPERIMENT,))


def records(scale: str = "quick", factor: float = 1.0) -> list[Record]:
    """Every row's FID and KID at two seeds, and exact operations; the KID of what is real is unknown."""
    out = []
    for place, (method, setting) in enumerate(KINDS):
        row = TABLE.rows[place].key
        for seed in (0, 1):
            value = NUMBERS.get(method, (1.0, 1.0))[setting == "100% data"] * factor + seed
            out.append(record(FID, value, seed, row, scale=scale))
            out += [record(KID, 1 / value, seed, row, scale=scale)] if setting else []
        out.append(record(MACS, 5.0 + place, 0, row, scale=scale))
    return out


def chosen(*patterns: str, scale: str = "quick", runs: int = 1) -> Chosen:
    frames = {f"run{i}": framed(*records(scale, 1 + i / 10)) for i in range(runs)}
    return choose(frames, "p/t", [PAPER], patterns)


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def line(ax: Axes, label: str) -> Any:
    (found,) = (one for one in ax.lines if one.get_label() == label)
    return found


def test_a_bar_begins_at_zero_and_ends_at_the_mean_with_its_interval_and_seeds() -> None:
    figure = figures.bars(chosen(), ["fid"])
    (ax,) = figure.axes
    (bars,) = (c for c in ax.containers if isinstance(c, BarContainer))
    assert [(bar.get_x(), bar.get_width()) for bar in bars][:2] == [(0, 40.5), (0, 10.5)]
    assert len([c for c in ax.containers if isinstance(c, ErrorbarContainer)]) == 5
    seeds = [tuple(one.get_xdata()) for one in ax.lines if one.get_marker() == "."]
    assert (40.0, 41.0) in seeds
    assert [text.get_text() for text in ax.get_yticklabels()][:2] == ["A (10% data)", "A (100% data)"]
    assert ax.get_xlabel() == "fid, lower is better"
    assert figure.get_suptitle() == "Table 1: shares"


def test_published_numbers_and_stand_ins_are_named_as_such() -> None:
    figure = figures.bars(chosen(), ["fid"])
    assert legend(figure) == ["measured (stand-in)", "published", "published (remembered)"]
    (ax,) = figure.axes
    marks = [one for one in ax.lines if one.get_label() == "published"]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [40, 10, 20, 9]
    assert {to_hex(mark.get_markerfacecolor()) for mark in marks} == {"#ffffff"}
    assert legend(figures.bars(chosen(scale="paper"), ["fid"]))[0] == "measured"
    assert legend(figures.bars(chosen(), ["macs"])) == ["measured"]  # exact numbers stand in for nothing
    assert legend(figures.bars(chosen(), ["fid"], Look(published=False))) == ["measured (stand-in)"]
    assert "scale quick" in figure.legends[0].get_title().get_text()


def test_several_runs_stand_side_by_side_and_differ_without_colour() -> None:
    figure = figures.bars(chosen(runs=3), ["fid", "kid"])
    assert len(figure.axes) == 2
    containers = [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]
    assert len({bar[0].get_hatch() for bar in containers}) == 3
    first = sorted((bar[0].get_y(), bar[0].get_y() + bar[0].get_height()) for bar in containers)
    assert all(below[1] <= above[0] + 1e-9 for below, above in pairwise(first))
    assert [name for name in legend(figure) if "run" in name] == [f"run{i} (stand-in)" for i in range(3)]


def test_bars_have_no_logarithm() -> None:
    with pytest.raises(ValueError, match="begin at zero"):
        figures.bars(chosen(), ["fid"], Look(log_x=True))


def test_a_metric_against_the_number_in_the_setting_with_published_lines_beside() -> None:
    with pytest.warns(LeftOut, match=r"without a number of data \(%\): real$"):
        figure = figures.against(chosen(), "setting", "fid", Look(log_x=True))
    (ax,) = figure.axes
    assert line(ax, "A (stand-in)").get_xydata().tolist() == [[10, 40.5], [100, 10.5]]
    said = next(one for one in ax.lines if one.get_label() == "published, hollow")
    assert said.get_xydata().tolist() == [[10, 40], [100, 10]]
    assert said.get_linestyle() == ":"
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("data (%)", "fid, lower is better")


def test_rows_that_are_published_only_have_published_lines_only() -> None:
    part = [r for r in records() if r.row.startswith("a@")]
    figure = figures.against(choose({"a": framed(*part)}, "p/t", [PAPER], ["a@*", "a-b*"]), "setting", "fid")
    assert legend(figure) == ["A (stand-in)", "A + B, published", "published, hollow"]


def test_a_metric_against_a_curves_step_with_the_band_over_seeds() -> None:
    row = TABLE.rows[0].key
    points = [record(FID, v + seed, seed, row, step=step) for seed in (0, 1) for step, v in ((10, 4.0), (50, 2.0))]
    figure = figures.against(choose({"a": framed(*points)}, "p/t", [PAPER]), "step", "fid")
    (ax,) = figure.axes
    assert line(ax, "A (10% data) (stand-in)").get_xydata().tolist() == [[0.1, 4.5], [0.5, 2.5]]
    (band,) = ax.collections
    assert band.get_paths()[0].get_extents().extents.tolist() == [0.1, 2, 0.5, 5]
    assert (ax.get_xlabel(), ax.get_xscale()) == ("t0", "log")  # as the experiment's axis says


def test_a_metric_against_a_metric_with_a_level_across() -> None:
    with pytest.warns(LeftOut, match="without kid: real$"):
        figure = figures.against(chosen(), "kid", "fid", levels=chosen("real"))
    (ax,) = figure.axes
    assert line(ax, "A (stand-in)").get_ydata().tolist() == [40.5, 10.5]
    assert set(line(ax, "Real (stand-in)").get_ydata()) == {1.5}


def test_a_trade_off_has_both_intervals_settings_beside_and_the_front() -> None:
    with pytest.warns(LeftOut, match="with one of two: real$"):
        figure = figures.trade_off(chosen(), "macs", "kid", front=True)
    (ax,) = figure.axes
    assert sorted({text.get_text() for text in ax.texts}) == ["10% data", "100% data"]
    assert legend(figure) == ["A (stand-in)", "A + B (stand-in)", "Pareto front"]
    front = line(ax, "Pareto front").get_xydata()
    assert front[:, 0].tolist() == [5.0]  # fewest operations and the least KID
    figure = figures.trade_off(chosen("a*"), "fid", "kid", front=True)
    assert len(line(figure.axes[0], "Pareto front").get_xydata()) == 4
    assert len([c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]) == 8


def test_a_front_needs_a_better_direction() -> None:
    frames = {"a": framed(*records())}
    with pytest.raises(ValueError, match="of fid, kid neither is"):
        figures.trade_off(choose(frames, "p/t"), "fid", "kid", front=True)  # without the paper nobody knows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: figures.bars(chosen(), ["is"]), "p/t has no metric 'is'; it has fid, kid, macs"),
        (lambda: figures.bars(chosen("real"), ["kid"]), "no row has a value of kid; p/t has fid, kid, macs"),
        (lambda: figures.against(chosen(), "step", "fid"), "no row has a value of fid at a step; p/t has fid"),
        (lambda: figures.against(chosen(), "setting:edit", "fid"), r"no number of 'edit' .* there are 'data \(%\)'"),
        (lambda: figures.trade_off(chosen("real"), "fid", "kid"), "no row has both fid and kid"),
    ],
)
def test_what_cannot_be_drawn_names_what_there_is(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_logarithm_needs_values_above_zero() -> None:
    frames = {"a": framed(record(FID, 0.0, row="a@10pct-data"), record(FID, 1.0, row="a@100pct-data"))}
    with pytest.raises(ValueError, match="the y axis has values that are not above zero"):
        figures.against(choose(frames, "p/t", [PAPER]), "setting", "fid", Look(log_y=True))


def test_twenty_eight_lines_differ_without_colour() -> None:
    looks = [figures.style_of(i, i) for i in range(28)]
    assert len({(look["marker"], look["linestyle"]) for look in looks}) == 28


def test_colours_differ_in_lightness_and_for_the_colour_blind() -> None:
    """By relative luminance, of which five colours have no more than three steps, and, as dichromats see them (Viénot
    1999), by distance; the rest is for markers, line styles and hatches."""
    rgb = np.array([to_rgb(c) for c in COLOURS[:5]])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert np.ptp(luminance) > 0.2
    assert all(abs(luminance[i] - luminance[i + 1]) > 0.05 for i in range(2))
    for matrix in (
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],  # protanopia
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],  # deuteranopia
    ):
        seen = linear @ np.array(matrix).T
        assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 0.1


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_a_file_is_written_and_the_same_figure_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / "new" / f"{i}{suffix}" for i in range(2)]
    for file in files:
        save(figures.bars(chosen(runs=2), ["fid"]), file)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    if suffix == ".svg":
        text = first.decode()
        assert re.search(r"<text [^>]*>A \(10% data\)</text>", text)  # text stays text
        assert "<dc:date>" not in text
    elif suffix == ".pdf":
        assert first.startswith(b"%PDF")
        assert b"/FontFile2" in first  # TrueType, embedded
        assert b"/Type3" not in first
        assert b"CreationDate" not in first
    else:
        with Image.open(files[0]) as picture:
            assert picture.info["dpi"][0] == pytest.approx(300, abs=0.1)
            assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_the_users_own_settings_do_not_matter(tmp_path: Path) -> None:
    save(figures.bars(chosen(), ["fid"]), tmp_path / "a.svg")
    with matplotlib.pyplot.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        save(figures.bars(chosen(), ["fid"]), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.gif: a plot is written as \.svg, \.pdf, \.png"):
        save(Figure(), tmp_path / "a.gif")


def test_texts_beside_points_keep_off_each_other() -> None:
    figure = figures.trade_off(chosen("a@*", "a-b@*"), "kid", "fid")
    corners = {text.get_text(): (text.get_ha(), text.get_va()) for text in figure.axes[0].texts}
    assert set(corners) == {"10% data", "100% data"}
    ax = Figure().subplots()
    ax.plot([0, 1], [0, 1], "o")
    figures._write_beside(ax, [("a long setting", (0.5, 0.5)), ("another setting", (0.51, 0.5))])
    first, second = ((text.get_ha(), text.get_va()) for text in ax.texts)
    assert first != second


def test_units_stand_in_labels() -> None:
    assert figures.axis_label(Column("seconds", "A time", "s", "lower")) == "seconds (s), lower is better"
    assert figures.axis_label(Column("edited", "A share", "%", "none")) == "edited (%)"
