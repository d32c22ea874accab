"""The report: what it says, its formats, and what a browser makes of the page."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import toy_paper
from PIL import Image
from rich.console import Console

from gengauge.benchmarks.core.records import empty_frame
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.gallery import GALLERY_TEXT, gallery
from gengauge.benchmarks.jobs import select
from gengauge.benchmarks.runner import run
from gengauge.reports import build_report
from gengauge.reports.content import compose, number

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy paper that ended well, and one of its bad jobs, with its report."""
    out = tmp_path_factory.mktemp("run")
    jobs = select([toy_paper.SOURCE], [], "quick", None, "cpu", None)
    bad = [j for j in select(["toy_paper:BAD"], [], "quick", None, "cpu", None) if j.experiment in ("fails", "lacks")]
    run([*jobs, *bad], out, 2, False, Console(file=io.StringIO()))
    papers = [toy_paper.paper(*toy_paper.PAPER.experiments, *toy_paper.BAD.experiments[1:])]
    build_report(read_records(out), papers, out, out / "report", gallery()[:2], GALLERY_TEXT)
    return out


def browse(page: Path, *options: str, folder: Path) -> tuple[str, str]:
    """Opens a page in headless Chromium: its DOM and what it logged to the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine; on Debian: apt-get install chromium"
)


def test_the_first_screen_counts_jobs_and_claims(whole: Path) -> None:
    report = compose(read_records(whole), [toy_paper.PAPER])
    assert report.summary.statuses == {"ok": 6, "failed": 1, "unavailable": 1}
    assert report.summary.verdicts == {"holds": 1, "undecided": 0, "fails": 0}
    page = (whole / "report" / "index.html").read_text()
    assert "<b>6</b> of 8 jobs ended well" in page
    assert "<b>1</b> claims hold" in page


def test_published_stands_beside_measured_with_its_interval(whole: Path) -> None:
    report = compose(read_records(whole), [toy_paper.PAPER])
    (table,) = report.papers[0].measured
    assert table.stand_in
    cell = table.cells["plain", "score"]
    assert cell.values == (10.0, 11.0, 12.0)
    assert str(cell) == "11.00 [8.516, 13.48] (3 seeds)"
    markdown = (whole / "report" / "report.md").read_text()
    assert "| Plain | 10.5 | 11.00 [8.516, 13.48] (3 seeds) |" in markdown
    assert "| Better is lower. | holds | 4.900 [4.652, 5.148], 3 seeds |" in markdown
    assert "RuntimeError: the toy broke" in markdown


def test_tables_as_csv_and_latex(whole: Path) -> None:
    (csv,), (tex,) = (list((whole / "report" / "tables").glob(f"*.{kind}")) for kind in ("csv", "tex"))
    frame = pd.read_csv(csv).set_index("row")
    assert frame.loc["Plain", "mean"] == 11
    assert frame.loc["Better", "published"] == 5.25
    assert frame.loc["Better", "seeds"] == 3
    text = tex.read_text()
    assert text.count(r"\\") == 3
    assert r"\begin{tabular}{lrr}" in text


def test_text_is_escaped_and_nothing_is_fetched(whole: Path) -> None:
    page = (whole / "report" / "index.html").read_text()
    assert "A Paper of &lt;Toys&gt;" in page
    assert "Toys &amp; nothing else." in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "@import" not in page
    assert "<script" not in page


def test_every_picture_has_an_alternative_text_and_ids_are_unique(whole: Path) -> None:
    page = (whole / "report" / "index.html").read_text()
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) >= 3
    assert all(re.search(r'alt="[^"]+"', image) for image in images)
    assert 'alt="a grey square"' in page
    assert page.count('role="img" aria-label="') >= 2
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:xlink:href="#|url\(#|<a href="#)([^")]+)', page):
        assert target in ids


def test_a_frame_without_records_is_refused() -> None:
    with pytest.raises(ValueError, match="no records to report"):
        compose(empty_frame(), [toy_paper.PAPER])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (0.04567, "0.0457"),
        (5.4321, "5.432"),
        (363.385, "363.4"),
        (12345.6, "12346"),
        (3e-7, "3.000e-07"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert number(value) == text


@browser
def test_the_page_opens_in_a_browser_without_a_word_on_its_console(whole: Path, tmp_path: Path) -> None:
    dom, console = browse(whole / "report" / "index.html", "--dump-dom", folder=tmp_path)
    assert "gengauge report" in dom
    assert dom.count('class="plot"') == 2
    assert console == ""


@browser
def test_a_word_on_the_console_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('broken')</script>")
    assert "broken" in browse(page, "--dump-dom", folder=tmp_path)[1]


@browser
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_a_phone_and_a_desk(whole: Path, tmp_path: Path, width: int) -> None:
    """In a frame, since a window cannot be as narrow as a phone; the framed page reports its own width."""
    page = (whole / "report" / "index.html").read_text()
    script = (
        "<script>addEventListener('load', () => parent.postMessage([document.documentElement.scrollWidth, innerWidth, "
        "[...document.images].every(i => i.naturalWidth > 0)], '*'))</script>"
    )
    (tmp_path / "inner.html").write_text(page.replace("</head>", script + "</head>").replace('loading="lazy"', ""))
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<title>waiting</title>"
        "<script>addEventListener('message', e => document.title = JSON.stringify(e.data))</script>"
        f'<iframe src="inner.html" width="{width}" height="800" style="border: 0"></iframe>'
    )
    dom, _ = browse(outer, "--dump-dom", "--window-size=1300,900", "--virtual-time-budget=5000", folder=tmp_path)
    found = re.search(r"<title>(\[.*?\])</title>", dom)
    assert found is not None
    content, window, loaded = json.loads(found.group(1))
    assert window == width
    assert content <= window
    assert loaded


@browser
def test_light_and_dark_differ(whole: Path, tmp_path: Path) -> None:
    grey = []
    for name, options in (("light", ()), ("dark", ("--force-dark-mode", "--blink-settings=preferredColorScheme=0"))):
        file = tmp_path / f"{name}.png"
        browse(
            whole / "report" / "index.html",
            f"--screenshot={file}",
            "--window-size=900,700",
            *options,
            folder=tmp_path / name,
        )
        with Image.open(file) as picture:
            grey.append(picture.convert("L").getpixel((3, 3)))
    assert grey[0] > 200
    assert grey[1] < 60
