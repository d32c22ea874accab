"""Methods of the user's own: how they are found and checked, their rows, and what says why there is none."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import toy_paper
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli, methods
from gengauge.benchmarks.core.openings import Own
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.jobs import load_paper, select
from gengauge.benchmarks.methods import conform, digest_of, find, load, members, returned, template
from gengauge.benchmarks.papers import SOURCES
from gengauge.benchmarks.protocols import CONTRACTS

assert toy_paper.OPEN.contract is not None
CONTRACT = toy_paper.OPEN.contract
Writer = Callable[..., str]
GOOD = """
class BoxMix:
    def score(self, seed, bonus):
        return bonus - seed
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Writes modules into the current folder; what was imported from there is forgotten each time, and in the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)

    def write(text: str, name: str = "mine") -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        for made in set(sys.modules) - before:
            if str(getattr(sys.modules[made], "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[made]
        return name

    yield write
    write("")


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, arguments, catch_exceptions=False)


# ----------------------------------------------------------------------------------------------------------------------
# Found


@pytest.mark.parametrize(
    ("text", "attribute", "row"),
    [
        (GOOD, "BoxMix", "box-mix"),
        (GOOD + "it = BoxMix()", "it", "it"),
        (GOOD + "BoxMix.name = 'Box & Mix 2'", "BoxMix", "box-mix-2"),
        (GOOD + "class Space:\n    Inner = BoxMix", "Space.Inner", "inner"),
        ("def score(seed, bonus):\n    return seed", "score", "score"),
        ("def score(seed, bonus):\n    return seed\nscore.name = 'fast'", "score", "fast"),
        ("class HTTPScore:\n    def score(self, *values):\n        return 1.0", "HTTPScore", "http-score"),
    ],
)
def test_a_class_an_object_and_a_function_are_methods(write: Writer, text: str, attribute: str, row: str) -> None:
    source, method = find(f"{write(text)}:{attribute}", "toy", CONTRACT)
    assert source.name == row
    assert isinstance(method.score(1, 2.0), float | int)


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("", "mine", "'mine' is no package.module:attribute, and no entry point of gengauge.methods"),
        ("", "mine:", "is not of the form package.module:attribute"),
        ("", "nowhere:It", "nowhere cannot be imported from .*: ModuleNotFoundError: No module named 'nowhere'"),
        ("\n1 / 0", "mine:It", r"mine cannot be imported .*ZeroDivisionError: division by zero \(mine.py, line 2\)"),
        ("def f(:", "mine:It", r"mine cannot be imported .*SyntaxError"),
        (GOOD, "mine:Boxmix", "mine has no 'Boxmix'; it has BoxMix"),
        ("class It:\n    def __init__(self, size): ...", "mine:It", r"It\(\) makes no method; it is called without"),
        ("class It: ...", "mine:It", "mine:It is no method for toy: it has no `score`. Expected: def score"),
        ("class It:\n    score = 3", "mine:It", "has a `score` that cannot be called, int. Expected: def score"),
        (
            "class It:\n    def score(self, seed): ...",
            "mine:It",
            r"takes \(seed\) where it is given \(seed, bonus\): too many .*Expected: def score\(self, seed: int, bonus",
        ),
        (
            GOOD + "    def learn(self, count, more): ...",
            "mine:BoxMix",
            r"has a `learn` that takes \(count, more\) where it is given \(count\): missing a required argument",
        ),
        ("def other(seed, bonus): ...", "mine:other", "has no `score`.*`gengauge method toy` prints a template"),
        (GOOD + "BoxMix.name = 3", "mine:BoxMix", "its `name` is 3; a row is named by a text"),
        (GOOD + "BoxMix.name = '?'", "mine:BoxMix", "a row is named by a text with letters or digits"),
    ],
)
def test_what_is_wrong_with_a_method_is_said(write: Writer, text: str, spec: str, words: str) -> None:
    write(text)
    with pytest.raises(ValueError, match=words):
        find(spec, "toy", CONTRACT)


def test_an_entry_point_names_a_method(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    write(GOOD)
    there = EntryPoints(
        EntryPoint(name, value, methods.GROUP) for name, value in (("Mixed Boxes", "mine:BoxMix"), ("module", "mine"))
    )
    monkeypatch.setattr(methods, "entry_points", lambda group: there.select(group=group))
    source, _ = find("Mixed Boxes", "toy", CONTRACT)
    assert source.name == "mixed-boxes"
    with pytest.raises(
        ValueError, match=r"entry point module of gengauge.methods is mine, not package.module:attribute"
    ):
        find("module", "toy", CONTRACT)
    with pytest.raises(
        ValueError, match=r"no entry point of gengauge.methods has that name; there are Mixed Boxes, mod"
    ):
        find("boxes", "toy", CONTRACT)


def test_the_digest_is_that_of_all_own_sources(write: Writer, tmp_path: Path) -> None:
    write("def value(): ...", "far")
    write("def helper():\n    import far", "near")
    write("", "stranger")
    write("from near import helper" + GOOD)

    def digest() -> str:
        import mine

        return digest_of(mine)

    first = digest()
    (tmp_path / "stranger.py").write_text("x = 1")
    assert digest() == first
    (tmp_path / "far.py").write_text("x = 1")
    assert digest() != first
    package = tmp_path / "boxes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write("from boxes import sizes\n" + GOOD, "boxes/mix")
    (package / "sizes.py").write_text("")
    source, _ = find("boxes.mix:BoxMix", "toy", CONTRACT)
    (package / "sizes.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"the sources of boxes\.mix:BoxMix have changed since the run began"):
        load(source, "toy", CONTRACT, "toys", ("box-mix",))


def test_what_a_method_returns_is_looked_at() -> None:
    import torch

    own = Own("mine:It", "toys", ("it",), "", None)
    good = torch.zeros(2, 3, dtype=torch.uint8)
    assert returned(own, "edit", good, (2, None), "uint8") is not None
    for value, kind, words in (
        (None, "uint8", r"`edit` of mine:It returned NoneType, no tensor; expected a tensor \(2, any\) uint8"),
        (good[0], "uint8", r"returned a tensor \(3,\); expected"),
        (good.float(), "uint8", "returned a tensor of float32; expected"),
        (good, "float", "returned a tensor of uint8; expected a tensor .* of floats"),
        (good.float() / 0, "float", "returned values that are not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            returned(own, "edit", value, (2, None), kind)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------------
# Contracts


def test_every_paper_has_a_contract_and_says_of_each_table_whether_it_takes_a_method() -> None:
    papers = [load_paper(source) for source in SOURCES]
    assert [paper.contract for paper in papers] == [CONTRACTS[paper.key] for paper in papers]
    for paper in papers:
        experiments = {e.key: e for e in paper.experiments}
        tables = {table.key for table in paper.tables}
        opened = {experiments[opening.experiment].table for opening in paper.openings}
        assert opened
        assert {e.table for e in paper.experiments} <= opened | set(paper.closed)
        for place in paper.closed:
            table, _, experiment = place.partition("/")
            assert table in tables
            assert not experiment or experiments[experiment].table == table
        for opening in paper.openings:
            columns = {c.key for c in experiments[opening.experiment].columns}
            assert set(opening.columns) <= columns


@pytest.mark.parametrize("paper", CONTRACTS)
def test_a_printed_template_is_a_method(write: Writer, paper: str) -> None:
    contract = CONTRACTS[paper]
    printed = call("method", paper)
    assert printed.exit_code == 0
    assert f"{paper}/" in printed.stderr
    name = f"template_of_{paper}"
    write(printed.stdout, name)
    source, method = find(f"{name}:MyMethod", paper, contract)
    assert source.name == "my-method"
    conform(method, paper, contract, "template")
    assert set(members(contract)) >= {*contract.required, *contract.one_of}
    style = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,I", f"{name}.py"]
    assert subprocess.run(style, check=False, capture_output=True).returncode == 0


def test_a_template_of_another_paper_names_what_lacks(write: Writer) -> None:
    write(template("cut", CONTRACTS["cut"], "comparison"))
    with pytest.raises(ValueError, match=r"no method for gan_warping: it has no `warp`. Expected: def warp"):
        find("mine:MyMethod", "gan_warping", CONTRACTS["gan_warping"])
    assert call("method", "diffaugment").exit_code == 0
    with pytest.raises(ValueError, match="there is no paper 'nothing'"):
        call("method", "nothing")


def test_a_network_of_torch_can_be_a_method() -> None:
    class Points(nn.Module):
        def transfer(self, source: Tensor, target: Tensor, points: Tensor) -> Tensor:
            return points

    conform(Points(), "gangealing", CONTRACTS["gangealing"], "mine:Points")


# ----------------------------------------------------------------------------------------------------------------------
# Rows


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy paper in the place of all others."""
    monkeypatch.setattr("gengauge.benchmarks.papers.SOURCES", ("toy_paper:OPEN", "toy_paper:BARE"))


OPTIONS = ["--seeds", "1", "--device", "cpu", "--out", "out"]


@pytest.mark.usefixtures("toy")
def test_a_methods_row_stands_beside_the_others_in_records_and_report(write: Writer, tmp_path: Path) -> None:
    write(GOOD)
    done = call("run", "toy/toys", "--method", "mine:BoxMix", *OPTIONS, "--seeds", "2")
    assert done.exit_code == 0, done.stdout
    assert "6 jobs" in done.stdout
    assert "toy/toys box-mix seed 1: ok" in done.stdout
    frame = read_records(tmp_path / "out")
    own = frame[(frame["row"] == "box-mix") & frame["step"].isna()]
    assert own["value"].tolist() == [100.0, 99.0]
    assert set(own["method"]) == {f"mine:BoxMix {note[-12:]}" for note in own["note"]}
    assert set(frame.loc[frame["row"] != "box-mix", "method"]) == {""}
    assert set(own["experiment"]) == {"good"}  # under which columns, protocol and timing are known
    assert own["note"].str.fullmatch(r"measured; by mine:BoxMix, sources [0-9a-f]{12}").all()
    assert frame["code"].nunique() == 1
    assert len(list(tmp_path.glob("out/pictures/*/box-mix.square.png"))) == 2
    assert call("report", "out").exit_code == 0
    written = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "| box-mix (own method) |  | 99.50" in written
    assert "| Plain | 10.5 | 10.50" in written
    assert "box-mix (own method)" in (tmp_path / "out" / "report" / "index.html").read_text()

    write(GOOD.replace("bonus - seed", "bonus + 1"))
    done = call("run", "toy", "--method", "mine:BoxMix", *OPTIONS, "--seeds", "2")
    assert "4 of 6 jobs are finished already" in done.stdout
    frame = read_records(tmp_path / "out")
    assert frame[(frame["row"] == "box-mix") & frame["step"].isna()]["value"].tolist() == [101.0, 101.0]


@pytest.mark.usefixtures("toy")
@pytest.mark.filterwarnings("ignore::gengauge.benchmarks.core.store.OlderCode")
def test_a_row_has_seeds_of_one_version_of_its_method_only(write: Writer, tmp_path: Path) -> None:
    def run(seeds: int) -> list[float]:
        done = call("run", "toy", "--method", "mine:BoxMix", "--alone", *OPTIONS, "--seeds", str(seeds))
        assert done.exit_code == 0, done.stdout
        frame = read_records(tmp_path / "out")
        return frame[(frame["row"] == "box-mix") & frame["step"].isna()]["value"].tolist()

    write(GOOD)
    assert run(2) == [100.0, 99.0]
    write(GOOD.replace("bonus - seed", "bonus + 1"))
    assert run(1) == [101.0]  # of seed 1 there is an older version's value only
    write(GOOD)
    assert run(2) == [100.0, 99.0]  # though these jobs were finished once
    (method,) = set(read_records(tmp_path / "out")["method"])
    assert method.startswith("mine:BoxMix ")


def test_the_other_commands_know_a_methods_rows(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gengauge.benchmarks.papers.SOURCES", ("toy_paper:SEVERAL",))
    write(GOOD)
    done = call("run", "toy/toys/plain", "--method", "mine:BoxMix", *OPTIONS)
    assert done.exit_code == 0, done.stdout
    (tmp_path / "mine.py").unlink()  # nothing imports it any more
    assert "toy/toys/box-mix@10pct/score" in call("compare", "out", "out", "--all").stdout
    done = call("plot", "out", "--table", "toy/toys", "--kind", "bars", "--out", "bars.svg")
    assert done.exit_code == 0, done.stdout
    assert "box-mix (10pct)" in (tmp_path / "bars.svg").read_text()
    assert call("baseline", "save", "main", "out", "--dir", ".").exit_code == 0
    assert call("compare", "main", "out", "--dir", ".").exit_code == 0
    assert call("history", "main.jsonl", "out", "--out", "history.svg").exit_code == 0
    assert call("report", "out", "--history", ".").exit_code == 0
    assert "box-mix@20pct (own method)" in (tmp_path / "out" / "report" / "report.md").read_text()


def test_rows_of_methods_alone_and_of_several_methods(write: Writer) -> None:
    write(GOOD)
    write(GOOD.replace("BoxMix", "Ring"), "others")

    def chosen(*specs: str, alone: bool = True, targets: tuple[str, ...] = ("toy",)) -> list[str]:
        jobs = select(["toy_paper:OPEN"], targets, "quick", 1, "cpu", None, methods=specs, alone=alone)
        return [job.declared()[0].rows[0] for job in jobs]

    assert chosen("mine:BoxMix", "others:Ring") == ["box-mix", "ring"]
    assert chosen("mine:BoxMix", "mine:BoxMix") == ["box-mix"]
    assert chosen("mine:BoxMix", alone=False) == ["plain", "better", "box-mix"]
    assert chosen("mine:BoxMix", targets=("toy/toys/better",)) == []
    write(GOOD.replace("BoxMix", "Plain"), "taken")
    with pytest.raises(ValueError, match="toy/toys has a row 'plain' already, of the paper; give the method a `name`"):
        chosen("taken:Plain")
    write(GOOD.replace("BoxMix", "Elsewhere"), "taken")
    with pytest.raises(ValueError, match="has a row 'elsewhere' already, of the paper"):  # with published numbers only
        chosen("taken:Elsewhere")
    write(GOOD, "same")
    with pytest.raises(ValueError, match="has a row 'box-mix' already, of mine:BoxMix"):
        chosen("mine:BoxMix", "same:BoxMix")


def test_digests_of_jobs_tell_methods_apart(write: Writer) -> None:
    write(GOOD)

    def digests(*specs: str) -> list[str]:
        return [job.digest for job in select(["toy_paper:OPEN"], ["toy"], "quick", 1, "cpu", None, methods=specs)]

    without, first = digests(), digests("mine:BoxMix")
    assert first[:2] == without
    assert digests("mine:BoxMix") == first
    write(GOOD + "# edited")
    second = digests("mine:BoxMix")
    assert second[:2] == without
    assert second[2] != first[2]


@pytest.mark.usefixtures("toy")
def test_where_a_method_gets_no_row_and_why(write: Writer, tmp_path: Path) -> None:
    write(GOOD)
    options = ["--method", "mine:BoxMix", *OPTIONS]
    done = call("run", "toy/toys/better", *options)
    assert done.exit_code == cli.UNAVAILABLE
    assert (
        "no row for mine:BoxMix in toy/toys at scale quick: it is better already; of this table's rows" in done.stdout
    )
    assert set(read_records(tmp_path / "out")["row"]) == {"better"}
    done = call("run", "toy/toys/better", *options, "--alone")
    assert done.exit_code == cli.UNAVAILABLE
    done = call("run", "toy/toys", *options, "--scale", "small")
    assert done.exit_code == cli.UNAVAILABLE
    assert "at scale small: it takes a method at quick: give --scale" in done.stdout
    done = call("run", "bare", *options)
    assert done.exit_code == cli.UNAVAILABLE
    assert "in bare at scale quick: published numbers only" in done.stdout
    for arguments, words in (
        (["run", *options], "--method needs a place: PAPER"),
        (["run", "toy", "--alone"], "--alone is for the rows of --method"),
        (["run", "toy", "--method", "mine:None"], "mine has no 'None'; it has BoxMix"),
    ):
        with pytest.raises(ValueError, match=words):
            call(*arguments)


@pytest.mark.usefixtures("toy")
def test_a_plan_has_the_methods_row(write: Writer) -> None:
    write(GOOD)
    done = call("run", "toy/toys", "--method", "mine:BoxMix", "--dry-run", "--device", "cpu")
    assert "fills box-mix" in done.stdout
    assert "fills plain" in done.stdout


@pytest.mark.usefixtures("toy")
def test_a_method_that_breaks_is_a_record_and_the_others_go_on(write: Writer, tmp_path: Path) -> None:
    write("class It:\n    def score(self, seed, bonus):\n        return [][seed]")
    done = call("run", "toy/toys", "--method", "mine:It", *OPTIONS)
    assert done.exit_code == cli.FAILED
    frame = read_records(tmp_path / "out")
    assert frame[frame["row"] == "it"]["reason"].str.contains("IndexError").any()
    assert (frame[frame["row"] == "plain"]["status"] == "ok").all()


def test_the_readmes_method_gets_its_row_by_the_command_line(write: Writer, tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "NearestPatch" in b)
    (words,) = re.findall(r"^    gengauge (run .*NearestPatch)  # the table", readme, re.MULTILINE)
    write(block, "my_method")
    command = [
        sys.executable,
        "-m",
        "gengauge.benchmarks",
        *words.split(),
        "--alone",
        "--seeds",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert call("report").exit_code == 0
    (line,) = (
        line
        for line in (tmp_path / "out" / "quick" / "report" / "report.md").read_text().splitlines()
        if "nearest-patch (own method)" in line
    )
    frame = read_records(tmp_path / "out" / "quick").set_index("column")
    assert frame.loc["pck_10", "value"] > 12  # points left in place: 8
    assert f"{frame.loc['pck_10', 'value']:.4g}"[:4] in line
