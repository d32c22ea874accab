"""PCK by hand: thresholds, averages, both ways, labels of mirrored pictures, intervals, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gengauge.benchmarks.metrics.pck import Hits, bootstrap, box_lengths, hits, pck, relabelled

TRUTH = np.array([[[0, 0], [10, 0], [0, 10]], [[5, 5], [20, 20], [0, 0]]], np.float32)
# Off by 3, 5, 0 px and by 5, 0, 1 px.
ESTIMATED = TRUTH + np.array([[[3, 0], [3, 4], [0, 0]], [[0, 5], [0, 0], [1, 0]]], np.float32)
SEEN = np.array([[1, 1, 1], [1, 1, 0]])


def test_points_count_within_a_share_of_a_length() -> None:
    found = hits(ESTIMATED, TRUTH, SEEN, 100.0, (0.05, 0.03, 0.01))
    assert found.correct.tolist() == [[3, 2, 1], [2, 1, 1]]  # a distance of just the limit is near enough
    assert found.counted.tolist() == [3, 2]
    assert pck(found) == pytest.approx([100, 60, 40])
    assert pck(found, "pairs") == pytest.approx([100, (200 / 3 + 50) / 2, (100 / 3 + 50) / 2])


def test_each_pair_has_a_length_of_its_own() -> None:
    lengths = box_lengths(np.array([[0, 0, 30, 20], [10, 10, 20, 60]]), np.array([1.0, 2.0]))
    assert lengths.tolist() == [30, 100]
    assert hits(ESTIMATED, TRUTH, SEEN, lengths, (0.1,)).correct.tolist() == [[2], [2]]


def test_both_ways_add_up() -> None:
    there, back = hits(ESTIMATED, TRUTH, SEEN, 100.0, (0.03,)), hits(TRUTH, TRUTH, SEEN, 100.0, (0.03,))
    assert pck(there + back) == pytest.approx([80])
    with pytest.raises(ValueError, match="other pairs"):
        there + hits(TRUTH, TRUTH, SEEN, 100.0, (0.03, 0.1))


def test_a_pair_without_a_point_is_no_pair_for_the_mean() -> None:
    none = np.array([[1, 1, 1], [0, 0, 0]])
    assert pck(hits(ESTIMATED, TRUTH, none, 100.0, (0.03,)), "pairs") == pytest.approx([200 / 3])


def test_labels_of_mirrored_pictures() -> None:
    order, yes, no = np.array([1, 0, 2]), np.array([True, True]), np.array([False, False])
    seen = np.array([[1, 0, 1], [0, 1, 1]])
    points, kept = relabelled(TRUTH, seen, order, np.array([True, False]), no)
    assert np.array_equal(points, np.stack([TRUTH[0][order], TRUTH[1]]))
    assert np.array_equal(kept, seen)  # as published: what can be seen keeps the old labels
    _, permuted = relabelled(TRUTH, seen, order, np.array([True, False]), no, "corrected")
    assert permuted.tolist() == [[0, 1, 1], [0, 1, 1]]
    both, _ = relabelled(TRUTH, seen, order, yes, yes)
    assert np.array_equal(both, TRUTH)
    assert np.array_equal(relabelled(TRUTH, seen, None, yes, no)[0], TRUTH)
    cycle = np.array([1, 2, 0])  # once for each mirrored picture, also where twice is not nothing
    twice, _ = relabelled(TRUTH, seen, cycle, yes, yes)
    assert np.array_equal(twice, TRUTH[:, cycle][:, cycle])


def test_bootstrap_finds_the_spread_of_a_share() -> None:
    random = np.random.default_rng(0)
    right = random.random((400, 1)) < 0.3
    found = Hits(right.astype(np.int64), np.ones(400, np.int64))
    spread = bootstrap(found, np.random.default_rng(1), 2000)
    share = pck(found)[0]
    assert spread.deviation[0] == pytest.approx(math.sqrt(share * (100 - share) / 400), rel=0.1)
    assert spread.low[0] < share < spread.high[0]
    again = bootstrap(found, np.random.default_rng(1), 2000)
    assert np.array_equal(spread.deviation, again.deviation)
    assert bootstrap(Hits(np.array([[1], [0]]), np.array([1, 0])), np.random.default_rng(0), 50).resamples < 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimated": TRUTH[:1]}, "points are two of"),
        ({"visible": SEEN[:, :2]}, "points are two of"),
        ({"visible": 0 * SEEN}, "no pair of pictures has a key point in common"),
        ({"lengths": 0.0}, "px above 0"),
        ({"lengths": np.array([1.0, math.nan])}, "px above 0"),
        ({"lengths": np.ones(3)}, "px above 0"),
        ({"alphas": ()}, "alphas"),
        ({"alphas": (-0.1,)}, "alphas"),
        ({"estimated": TRUTH * math.nan}, "NaN"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"estimated": ESTIMATED, "truth": TRUTH, "visible": SEEN, "lengths": 1.0, "alphas": (0.1,)}
    with pytest.raises(ValueError, match=message):
        hits(**(given | change))


def test_bad_settings() -> None:
    found = hits(ESTIMATED, TRUTH, SEEN, 1.0)
    with pytest.raises(ValueError, match="points or pairs"):
        pck(found, "images")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 re-samplings"):
        bootstrap(found, np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="no permutation"):
        relabelled(TRUTH, SEEN, np.array([0, 0, 1]), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="published or corrected"):
        relabelled(TRUTH, SEEN, None, np.ones(2), np.ones(2), "other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boxes are"):
        box_lengths(np.ones(4))
