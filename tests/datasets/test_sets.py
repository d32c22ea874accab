"""Sets of pictures, views of them, their labels, and the published subsets and orders."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from gengauge.datasets import subsets
from gengauge.datasets.sets import InMemory, PictureSet, Subset, class_indices


def small(count: int = 5, labels: bool = True) -> InMemory:
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return InMemory(pixels, np.arange(count) % 3 if labels else None, 3 if labels else 0, "small")


def test_a_set_in_memory_and_views_of_it() -> None:
    whole: PictureSet = small()
    assert (len(whole), whole.resolution) == (5, 2)
    assert whole.pictures([]).shape == (0, 3, 2, 2)
    view = Subset(whole, np.array([4, 0, 4]))
    assert view.labels is not None
    assert view.labels.tolist() == [1, 0, 1]
    assert view.pictures([0, 2, 1])[:, 0, 0, 0].tolist() == [4, 4, 0]
    nested: PictureSet = Subset(view, [1], "one")
    assert (nested.name, nested.num_classes, nested.resolution, len(nested)) == ("one", 3, 2, 1)
    assert nested.pictures(range(1))[0, 0, 0, 0] == 0
    assert Subset(whole, [0, 1]).name != Subset(whole, [1, 0]).name
    assert Subset(small(labels=False), [1]).labels is None


def test_indices_outside_a_set_are_named() -> None:
    whole = small()
    for bad in ([0, 5], [-1], np.array([7])):
        with pytest.raises(IndexError, match="outside a set of 5"):
            whole.pictures(bad)
    with pytest.raises(IndexError, match="index 9"):
        Subset(whole, [0, 9])
    for bad in (np.array([True, False]), np.array([[1]]), np.array([0.5])):
        with pytest.raises(TypeError, match="row of integers"):
            whole.pictures(bad)


def test_a_set_whose_parts_disagree_is_refused() -> None:
    good = small()
    for pixels, labels, classes, cause in (
        (good.pixels.float(), good.labels, 3, "not uint8"),
        (good.pixels[:, :, :1], good.labels, 3, "not uint8"),
        (good.pixels, None, 3, "without labels"),
        (good.pixels, np.arange(4), 5, "not int64"),
        (good.pixels, np.zeros(5, np.int32), 3, "not int64"),
        (good.pixels, np.arange(5), 4, r"outside 0\.\.3"),
    ):
        with pytest.raises(ValueError, match=cause):
            InMemory(pixels, labels, classes, "bad")


def test_labels_of_either_form() -> None:
    assert [
        part.tolist() if isinstance(part, np.ndarray) else part for part in class_indices(np.array([2, 0]), "x")
    ] == [
        [2, 0],
        3,
    ]
    found, classes = class_indices(np.eye(4, dtype=np.float32)[[3, 1]], "x")
    assert (found.tolist(), classes, found.dtype) == ([3, 1], 4, np.int64)
    for bad in (
        np.array([-1]),
        np.array([0.5]),
        np.ones((2, 2)),
        np.array([[2, -1]]),
        np.zeros((1, 1, 1)),
        np.array([]),
    ):
        with pytest.raises(ValueError, match="here: labels"):
            class_indices(bad, "here")


def test_subsets_are_distinct_pictures_in_their_published_order() -> None:
    drawn = subsets.cifar_subset(20, 50, seed=3)
    assert len(set(drawn.tolist())) == 20
    assert drawn.tolist() != sorted(drawn)
    assert subsets.first(3, 10).tolist() == [0, 1, 2]
    ordered = subsets.shuffled_then_sorted(20, 50, 3)
    assert ordered.tolist() == sorted(set(ordered.tolist()))
    assert subsets.shuffled_then_sorted(50, 5).tolist() == [0, 1, 2, 3, 4]
    indices, flags = subsets.mirrored(np.array([7, 3]))
    assert (indices.tolist(), flags.tolist(), flags.dtype) == ([7, 3, 7, 3], [0, 0, 1, 1], np.uint8)
    assert sorted(subsets.tfrecord_order(9)) == list(range(9))
    for take in (subsets.cifar_subset, subsets.first):
        with pytest.raises(ValueError, match="11 pictures cannot be taken from a set of 10"):
            take(11, 10)


def test_orders_show_every_picture_and_resume() -> None:
    whole = subsets.multi_epoch_order(7, 3, 5)
    for epoch in range(3):
        assert sorted(whole[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert subsets.multi_epoch_order(7, 3, 5, start=2, batch=4).tolist() == whole[8:].tolist()
    assert len(subsets.multi_epoch_order(7, 3, 5, start=9, batch=4)) == 0
    assert list(islice(subsets.epoch_orders(7, 5), 21)) == whole.tolist()
    endless = list(islice(subsets.infinite_sampler(8, 1), 400))
    assert set(endless) == set(range(8))
    assert endless[:8] != endless[8:16]
    fixed = list(islice(subsets.infinite_sampler(8, 1, window=0.0), 16))
    assert fixed[:8] == fixed[8:]
    assert list(islice(subsets.infinite_sampler(1, 0), 3)) == [0, 0, 0]
    for order in (subsets.epoch_orders, subsets.infinite_sampler):
        with pytest.raises(ValueError, match="no order of 0"):
            next(order(0, 0))
