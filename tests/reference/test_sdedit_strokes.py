"""Simulated strokes beyond the goldens: sizes, exact medians, palettes, batches, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter

from gengauge.datasets import world
from gengauge.reference.sdedit.strokes import filter_size, median, reduce_colours, stroke, strokes


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)


def distinct(pixels: np.ndarray[Any, Any]) -> int:
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


@pytest.mark.parametrize(
    ("width", "size"), [(256, 23), (512, 47), (128, 11), (64, 5), (32, 3), (45, 5), (44, 3), (1, 3), (1024, 93)]
)
def test_the_size_of_the_filter(width: int, size: int) -> None:
    assert filter_size(width) == size


def test_the_size_is_the_nearest_odd_number_everywhere() -> None:
    for width in range(24, 700):
        wanted = width * 23 / 256
        assert abs(filter_size(width) - wanted) == min(abs(odd - wanted) for odd in range(3, 80, 2))


@pytest.mark.parametrize(("height", "width", "size"), [(24, 31, 1), (24, 31, 3), (24, 31, 9), (9, 20, 17)])
def test_the_median_is_that_of_a_picture_whose_borders_repeat(height: int, width: int, size: int) -> None:
    pixels = picture(height, width)
    assert np.array_equal(median(pixels, size), median_filter(pixels, size=(size, size, 1), mode="nearest"))


@pytest.mark.parametrize("colours", [1, 2, 6, 50, 256])
def test_a_palette_has_at_most_so_many_colours(colours: int) -> None:
    pixels = picture(24, 31)
    reduced = reduce_colours(pixels, colours)
    assert reduced.shape == pixels.shape
    assert 1 <= distinct(reduced) <= colours
    # No dithering: pixels of one colour stay of one colour.
    blocks = np.repeat(np.repeat(picture(4, 5), 6, 0), 6, 1)
    reduced = reduce_colours(blocks, colours)
    assert np.array_equal(reduced, np.repeat(np.repeat(reduced[::6, ::6], 6, 0), 6, 1))


def test_few_colours_are_kept_and_more_colours_come_nearer() -> None:
    few = np.array([[255, 0, 0], [0, 200, 30], [9, 9, 250]], np.uint8)[np.random.RandomState(0).randint(0, 3, (16, 16))]
    assert np.array_equal(reduce_colours(few, 6), few)
    cat = world.pictures(0, [3], 64)[0].permute(1, 2, 0).numpy()
    errors = [np.abs(stroke(cat, n, 1).astype(int) - cat).mean() for n in (3, 6, 16, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]


def test_the_filter_comes_first() -> None:
    pixels = picture(24, 31)
    assert np.array_equal(stroke(pixels, 6, 5), reduce_colours(median(pixels, 5), 6))
    assert not np.array_equal(stroke(pixels, 6, 5), median(reduce_colours(pixels, 6), 5))
    assert np.array_equal(stroke(pixels), stroke(pixels, 6, 3))


def test_a_batch_is_its_pictures_and_stays_as_it_was() -> None:
    pictures = world.pictures(0, range(4), 32)
    before = pictures.clone()
    out = strokes(pictures, 16)
    assert out.shape == pictures.shape
    assert out.dtype == torch.uint8
    for painted, one in zip(out, pictures, strict=True):
        assert np.array_equal(painted.permute(1, 2, 0).numpy(), stroke(one.permute(1, 2, 0).numpy(), 16))
    assert torch.equal(pictures, before)
    assert torch.equal(strokes(pictures.to(memory_format=torch.channels_last), 16), out)
    assert strokes(pictures[:0]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: median(picture(8, 8), 4), "odd and at least 1, not 4"),
        (lambda: median(picture(8, 8), -1), "not -1"),
        (lambda: median(picture(8, 20), 17), "17 reaches over the whole of a picture of 8 x 20"),
        (lambda: median(picture(8, 8)[..., 0], 3), r"shape \(8, 8\)"),
        (lambda: median(picture(8, 8).astype(np.float32), 3), "uint8, not float32"),
        (lambda: stroke(picture(8, 8).repeat(2, 2)), r"shape \(8, 8, 6\)"),
        (lambda: stroke(picture(0, 8)), r"shape \(0, 8, 3\)"),
        (lambda: stroke(torch.zeros(8, 8, 3, dtype=torch.uint8)), "not Tensor"),  # type: ignore[arg-type]
        (lambda: reduce_colours(picture(8, 8), 0), "1 to 256 colours, not 0"),
        (lambda: reduce_colours(picture(8, 8), 257), "not 257"),
        (lambda: strokes(torch.zeros(2, 3, 8, 8)), r"uint8, not torch.float32"),
        (lambda: strokes(torch.zeros(3, 8, 8, dtype=torch.uint8)), r"\(3, 8, 8\)"),
        (lambda: strokes(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)), r"\(2, 8, 8, 3\)"),
        (lambda: filter_size(0), "at least one pixel"),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
