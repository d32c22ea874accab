"""The points of a plot: which rows and numbers are chosen out of frames, and what an error names."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import toy_paper
from frames import FID, PAPER, frame, over_seeds, record

from gengauge.benchmarks.core.tables import Row
from gengauge.reports.points import Chosen, by_number, choose, dominated


def toy(**others: object) -> list[object]:
    return [
        record(toy_paper.COLUMN, value, 0, row, paper="toy", table="toys", experiment="good", **others)
        for row, value in (("better", 5.0), ("plain", 10.0), ("mine", 3.0))
    ]


def test_rows_stand_in_the_papers_order_with_those_of_the_user_last() -> None:
    chosen = choose({"a": frame(*toy())}, "toy/toys", [toy_paper.PAPER])  # type: ignore[arg-type]
    assert [str(row) for row in chosen.rows] == ["Plain", "Better", "mine"]
    assert chosen.title == "Table 1: toys"
    assert chosen.columns["score"].direction == "lower"
    assert chosen.published(Row("Plain"), "score") == (10.5, False)
    assert chosen.published(Row("mine"), "score") is None


def test_rows_that_are_asked_for_may_be_published_only() -> None:
    chosen = choose({"a": frame(*toy())}, "toy/toys", [toy_paper.PAPER], ["else*", "plain"])  # type: ignore[arg-type]
    assert [str(row) for row in chosen.rows] == ["Plain", "Elsewhere"]
    with pytest.raises(ValueError, match=r"matches 'plian'; it has plain, better, elsewhere, mine"):
        choose({"a": frame(*toy())}, "toy/toys", [toy_paper.PAPER], ["plian"])  # type: ignore[arg-type]


def test_a_published_number_of_another_unit_is_not_set_beside() -> None:
    chosen = choose({"a": frame(*toy(unit="%"))}, "toy/toys", [toy_paper.PAPER])  # type: ignore[arg-type]
    assert chosen.columns["score"].unit == "%"
    assert chosen.published(Row("Plain"), "score") is None


def test_any_frame_will_do_and_what_is_missing_is_named() -> None:
    runs = {"a": frame(*over_seeds(FID, 1.0, 3.0), replace(record(FID, 9.0, row="b"), column="", status="failed"))}
    chosen = choose(runs, "p/t")
    assert (chosen.title, [str(row) for row in chosen.rows], list(chosen.columns)) == ("p/t", ["a"], ["fid"])
    with pytest.raises(ValueError, match="there are p/t"):
        choose(runs, "p/u", [PAPER])
    with pytest.raises(ValueError, match="p/t has no metric 'FID'; it has fid"):
        chosen.column("FID")


def test_a_cell_is_the_mean_over_seeds_and_one_seed_has_its_own_interval() -> None:
    frames = {"a": frame(*over_seeds(FID, 1.0, 3.0), record(FID, 5.0, row="b", low=4.0, high=7.0))}
    (source,) = choose(frames, "p/t").sources
    both, one = source.final("a", "fid"), source.final("b", "fid")
    assert both is not None
    assert one is not None
    assert (both.value, both.seeds) == (2.0, (1.0, 3.0))
    assert (one.low, one.value, one.high) == (4.0, 5.0, 7.0)
    assert source.final("c", "fid") is None


def test_a_curve_runs_from_the_lowest_to_the_highest_seed() -> None:
    points = [record(FID, value, seed, step=step) for seed, step, value in ((0, 1, 1.0), (1, 1, 3.0), (0, 2, 5.0))]
    (source,) = choose({"a": frame(*points)}, "p/t").sources
    assert [(s, e.low, e.value, e.high) for s, e in source.curve("a", "fid")] == [
        (1, 1.0, 2.0, 3.0),
        (2, 5.0, 5.0, 5.0),
    ]


def test_labels_say_what_differs() -> None:
    here, there = frame(record(FID, 1.0)), frame(record(FID, 2.0), record(FID, 3.0, device="cuda"))

    def labels(chosen: Chosen) -> list[str]:
        return [source.label for source in chosen.sources]

    assert labels(choose({"a": here}, "p/t")) == ["measured"]
    assert labels(choose({"a": here, "b": here}, "p/t")) == ["a", "b"]
    assert labels(choose({"b": there}, "p/t")) == ["cpu (one)", "cuda"]


def rows(*settings: str) -> list[Row]:
    return [Row("A", setting) for setting in settings]


@pytest.mark.parametrize(
    ("settings", "word", "name", "lines"),
    [
        (["100% data", "10% data", "all"], "", "data (%)", {"A": [10, 100]}),
        (["FFHQ 30k", "FFHQ 1k", "Cat 5k"], "", "number in the setting", {"A (FFHQ)": [1e3, 3e4], "A (Cat)": [5e3]}),
        (["DDPM 256, 11.5% edit", "DDPM 256, 3.78% edit"], "", "edit (%)", {"A (DDPM 256)": [3.78, 11.5]}),
        (["t0 = 0.1, K = 1", "t0 = 1, K = 1", "t0 = 1, K = 3"], "t0", "t0", {"A (K = 1)": [0.1, 1], "A (K = 3)": [1]}),
        (["t0 = 0.1, K = 1", "t0 = 0.1, K = 3"], "k", "K", {"A (t0 = 0.1)": [1, 3]}),
        (["2 A100", "4 A100"], "", "A100", {"A": [2, 4]}),
        (["rank 1", "rank 16", "whole"], "", "rank", {"A": [1, 16]}),
    ],
)  # fmt: skip
def test_the_number_in_a_setting(settings: list[str], word: str, name: str, lines: dict[str, list[float]]) -> None:
    found = by_number(rows(*settings), word)
    assert found.name == name
    assert {line: [x for x, _ in points] for line, points in found.lines.items()} == lines
    assert len(found.without) == len(settings) - sum(map(len, found.lines.values()))


def test_settings_without_such_a_number_name_the_others() -> None:
    with pytest.raises(ValueError, match=r"no number of 'z' in the settings of 2 rows; there are 't0', 'K'"):
        by_number(rows("t0 = 1, K = 2", "t0 = 2, K = 2"), "z")
    with pytest.raises(ValueError, match="there are none"):
        by_number(rows("Obama", ""))


def test_a_point_is_beaten_by_one_that_is_as_good_in_both_and_better_in_one() -> None:
    points = [(1.0, 3.0), (2.0, 2.0), (2.0, 3.0), (3.0, 1.0)]
    assert dominated(points, (1, 1)) == [False, False, True, False]
    assert dominated(points, (1, -1)) == [False, True, True, True]
    assert dominated([(1.0, 1.0), (1.0, 1.0)], (1, 1)) == [False, False]
    assert math.isfinite(sum(map(sum, points)))
