"""Published numbers: the schema holds for every file, and a line that breaks it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gengauge.benchmarks.core.tables import CSV_FIELDS, PUBLISHED, load_tables, read_published, tables_of
from gengauge.benchmarks.jobs import load_paper
from gengauge.benchmarks.papers import SOURCES

GOOD = "t,Table 1,M,S,fid,FID of all,1,lower,1.50,,,result,the paper,read"


def write(folder: Path, *lines: str) -> Path:
    file = folder / "numbers.csv"
    file.write_text("\n".join([",".join(CSV_FIELDS), *lines]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("*.csv")), ids=lambda file: file.stem)
def test_a_papers_file_follows_the_schema(file: Path) -> None:
    numbers = read_published(file)
    tables = tables_of(numbers)
    assert sum(len(t.published) for t in tables) == len(numbers)
    for table in tables:
        keys = [row.key for row in table.rows]
        assert len(keys) == len(set(keys)), f"two rows of {table.key} are typed alike"


def test_every_paper_has_its_file_and_every_file_its_paper() -> None:
    papers = [load_paper(source) for source in SOURCES]
    assert sorted(p.key for p in papers) == sorted(file.stem for file in PUBLISHED.glob("*.csv"))
    assert len(papers) == 7


def test_a_number_keeps_its_printed_digits_and_its_source() -> None:
    table = next(t for t in load_tables("diffaugment") if t.key == "cifar10")
    number = table.number("biggan-diffaugment@10pct-data", "fid")
    assert number is not None
    assert (number.text, number.value, number.direction, number.confidence) == ("22.40", 22.4, "lower", "read")


def test_what_could_not_be_obtained_is_an_empty_cell_that_says_so() -> None:
    results = next(t for t in load_tables("gan_warping") if t.key == "results")
    assert {n.text for n in results.published} == {""}
    assert {n.confidence for n in results.published} == {"unknown"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("1.50", "1.5O"), "no finite number"),
        (GOOD.replace("1.50", "nan"), "no finite number"),
        (GOOD.replace(",lower", ",down"), "direction is 'down'"),
        (GOOD.replace(",read", ",surely"), "confidence is 'surely'"),
        (GOOD.replace(",result", ",guess"), "kind is 'guess'"),
        (GOOD.replace(",result", ",setting"), "a setting has direction none"),
        (GOOD.replace("1.50,,", "1.50,0.1,"), "a spread needs its kind"),
        (GOOD.replace("1.50", ""), "an empty value has confidence unknown"),
        (GOOD.replace("the paper", ""), "source is empty"),
        (GOOD.replace("t,Table", "T 1,Table"), "is no slug"),
        (GOOD + ",more", "fields are expected"),
        (GOOD.rpartition(",")[0], "fields are expected"),
    ],
)
def test_a_line_that_breaks_the_schema_is_named(tmp_path: Path, line: str, message: str) -> None:
    assert len(read_published(write(tmp_path, GOOD))) == 1
    with pytest.raises(ValueError, match=message) as error:
        read_published(write(tmp_path, GOOD.replace("M,S", "M,other"), line))
    assert "numbers.csv:3" in str(error.value)


def test_the_same_cell_twice_and_a_column_of_two_meanings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="t/m@s/fid stands in the file already"):
        read_published(write(tmp_path, GOOD, GOOD))
    other = GOOD.replace("M,S", "M,other").replace("FID of all", "FID of some")
    with pytest.raises(ValueError, match="column fid is defined in two ways"):
        tables_of(read_published(write(tmp_path, GOOD, other)))


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="the first line must be"):
        read_published(file)
