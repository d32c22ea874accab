"""Strokes of colour by hand-made cases: what counts as drawn, what is cleaned away, and what is no layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gengauge.reference.gan_warping.strokes import GREY, read_strokes

RED = (200, 10, 10, 255)


def layer(*boxes: tuple[slice, slice, tuple[int, ...]]) -> np.ndarray[Any, Any]:
    """A transparent layer (24, 24, 4) with rectangles painted on it."""
    rgba = np.zeros((24, 24, 4), np.uint8)
    for rows, columns, colour in boxes:
        rgba[rows, columns] = colour
    return rgba


def test_colours_are_wanted_grey_is_kept_and_the_rest_is_free() -> None:
    top, left, right = slice(0, 10), slice(0, 8), slice(12, 24)
    ours = read_strokes(layer((top, left, RED), (top, right, (GREY, GREY, GREY, 255))))
    expected = np.zeros((24, 24), np.uint8)
    expected[top, left] = 1  # as far as the edge of the picture
    assert np.array_equal(ours.color_mask, expected)
    assert np.array_equal(ours.color, expected[..., None] * np.array(RED[:3], np.uint8))
    assert np.array_equal(
        ours.background_mask, np.where(np.indices((24, 24))[1] >= 12, 1, 0) * (np.arange(24) < 10)[:, None]
    )
    assert {array.dtype for array in ours} == {np.dtype(np.uint8)}


def test_holes_in_grey_are_filled_and_thin_colours_left_out() -> None:
    grey = (GREY, GREY, GREY, 255)
    whole = slice(0, 24)
    ours = read_strokes(
        layer((whole, whole, grey), (slice(8, 12), slice(8, 12), RED), (slice(16, 21), slice(3, 8), RED))
    )
    assert ours.background_mask[8:12, 8:12].all()
    assert not ours.color_mask[8:12, 8:12].any()
    assert not ours.background_mask[16:21, 3:8].any()
    assert ours.color_mask.sum() == ours.color_mask[16:21, 3:8].sum() == 25
    assert not read_strokes(layer((slice(4, 8), whole, RED))).color_mask.any()


def test_half_transparent_colours_are_not_drawn_and_transparent_grey_is_kept() -> None:
    box = slice(4, 20), slice(4, 20)
    assert not read_strokes(layer((*box, (*RED[:3], 254)))).color_mask.any()
    assert read_strokes(layer((*box, (GREY, GREY, GREY, 0)))).background_mask[box].all()
    assert not read_strokes(layer((*box, (GREY, GREY, GREY + 1, 255)))).background_mask.any()


@pytest.mark.parametrize(
    "rgba",
    [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 4), np.uint8)],
)
def test_what_is_no_layer_is_refused(rgba: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"strokes are uint8 \(H, W, 4\), red, green, blue and opacity, not"):
        read_strokes(rgba)
