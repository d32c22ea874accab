"""SIGE's masks beyond the goldens: shape of the dilation, ranks, levels of tiny edits, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from gengauge.reference.sige import masks
from gengauge.reference.sige.masks import centred_square, difference_mask, dilate, downsample, edit_ratio


def random_mask(*shape: int, share: float = 0.02) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) < share


def by_shifts(mask: Tensor, rows: int, columns: int) -> Tensor:
    """The definition of the published dilation, pixel by pixel."""
    out = mask.clone()
    for h, w in mask.nonzero().tolist():
        out[max(h - rows, 0) : h + rows + 1, w] = True
        out[h, max(w - columns, 0) : w + columns + 1] = True
    return out


@pytest.mark.parametrize("radius", [0, 1, 4, (3, 1), (0, 7), (40, 2)])
@pytest.mark.parametrize("shape", [(17, 23), (1, 9), (9, 1)])
def test_the_dilation_is_a_plus(radius: int | tuple[int, int], shape: tuple[int, int]) -> None:
    mask = random_mask(*shape, share=0.05)
    rows, columns = (radius, radius) if isinstance(radius, int) else radius
    assert torch.equal(dilate(mask, radius), by_shifts(mask, rows, columns))


def test_one_pixel_grows_into_a_plus_and_no_square() -> None:
    mask = torch.zeros(7, 7, dtype=torch.bool)
    mask[3, 3] = True
    assert int(dilate(mask, 2).sum()) == 9
    assert not dilate(mask, 2)[2, 2]


@pytest.mark.parametrize("radius", [2, (3, 1)])
def test_every_rank_is_dilated_alike(radius: int | tuple[int, int]) -> None:
    mask = random_mask(2, 3, 12, 20)
    out = dilate(mask, radius)
    for i in range(2):
        assert torch.equal(dilate(mask[i], radius), out[i])
        for j in range(3):
            assert torch.equal(dilate(mask[i, j], radius), out[i, j])


def test_the_mask_given_stays_as_it_was() -> None:
    mask = random_mask(16, 16)
    before = mask.clone()
    downsample(dilate(mask, 3), (4, 4), 1)
    dilate(mask, 0).fill_(True)
    assert torch.equal(mask, before)


def test_a_difference_in_any_channel_counts_at_every_rank() -> None:
    a = torch.zeros(1, 3, 8, 8)
    b = a.clone()
    b[0, 1, 2, 3] = 0.5
    b[0, 2, 4, 4] = -0.5
    b[0, 0, 0, 0] = 0.02  # no more than eps
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2, 3] = expected[4, 4] = True
    assert torch.equal(difference_mask(a, b, 0.02), expected)
    assert torch.equal(difference_mask(a[0], b[0], 0.02), expected)
    assert difference_mask(a[0, 1], b[0, 1], 0.02).nonzero().tolist() == [[2, 3]]


def test_bytes_do_not_wrap_around_and_bool_maps_differ() -> None:
    a, b = torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([[255, 255]], dtype=torch.uint8)
    assert difference_mask(a, b, 200).tolist() == [[True, False]]
    assert difference_mask(a > 0, b > 0, 0.5).tolist() == [[True, False]]


def test_every_level_has_a_pixel_and_covers_what_is_wholly_edited() -> None:
    mask = centred_square(0.1, 64, 96)
    levels = downsample(mask, (4, 6), 0)
    assert list(levels) == [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]
    assert torch.equal(levels[64, 96], mask)
    for (h, w), level in levels.items():
        blocks = mask.reshape(h, 64 // h, w, 96 // w)
        assert level.any()
        assert level[blocks.all(3).all(1)].all()
        assert not level[~blocks.any(3).any(1)].any()


def test_a_tiny_edit_makes_a_deep_level_whole() -> None:
    """One pixel of 1024 has a share below 1e-3, and the published limit falls below 0."""
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[100, 100] = True
    levels = downsample(mask, (8, 8), 0)
    assert [int(level.sum()) for level in levels.values()] == [1, 1, 1, 1, 1, 64]


def test_sides_that_cannot_be_halved_evenly() -> None:
    assert list(downsample(random_mask(37, 51), (4, 4), 1)) == [(37, 51), (18, 25), (9, 12), (4, 6)]
    # One side goes on below its smallest size for as long as the other has not reached its own.
    assert list(downsample(centred_square(0.5, 16, 64), (8, 8), 1)) == [(16, 64), (8, 32), (4, 16), (2, 8)]


@pytest.mark.parametrize("fraction", [0.001, 0.012, 0.15, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [(64, 64), (32, 128), (128, 32), (7, 9)])
def test_a_centred_square_has_the_share_asked_for(fraction: float, size: tuple[int, int]) -> None:
    height, width = size
    if fraction * height * width < 0.25:
        with pytest.raises(ValueError, match="less than one"):
            centred_square(fraction, height, width)
        return
    mask = centred_square(fraction, height, width)
    rows, columns = mask.any(1), mask.any(0)
    assert int(mask.sum()) == int(rows.sum()) * int(columns.sum())
    assert abs(edit_ratio(mask) - fraction) * height * width <= max(height, width)
    top, bottom = rows.nonzero()[[0, -1], 0].tolist()
    assert abs(top - (height - 1 - bottom)) <= 1


def test_a_recipe_does_it_all() -> None:
    original = torch.rand(1, 3, 32, 32)
    edited = original.clone()
    edited[..., 10:14, 5:9] += 0.3
    recipe = dataclasses.replace(masks.DDPM, min_size=(8, 8))
    ours = recipe.from_pair(original, edited)
    assert int(ours.raw.sum()) == 16
    assert torch.equal(ours.dilated, dilate(ours.raw, 5))
    assert ours.ratio == edit_ratio(ours.dilated)
    assert {size: level.tolist() for size, level in ours.levels.items()} == {
        size: level.tolist() for size, level in downsample(ours.dilated, (8, 8), 1).items()
    }
    assert {recipe.from_mask(ours.raw).ratio, ours.ratio} == {ours.ratio}


EMPTY = torch.zeros(16, 16, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference_mask(torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)), r"\(3, 8, 8\) and \(3, 8, 9\)"),
        (lambda: difference_mask(torch.zeros(8, 8), torch.zeros(1, 8, 8)), "two alike"),
        (lambda: difference_mask(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)), r"not \(2, 3, 8, 8\)"),
        (lambda: difference_mask(torch.zeros(8), torch.zeros(8)), r"not \(8,\)"),
        (lambda: difference_mask(torch.zeros(0, 8), torch.zeros(0, 8)), r"not \(0, 8\)"),
        (lambda: difference_mask(torch.zeros(8, 8), torch.full((8, 8), torch.nan)), "second picture has 64 values"),
        (lambda: difference_mask(torch.full((8, 8), torch.inf), torch.zeros(8, 8)), "first picture has 64 values"),
        (lambda: difference_mask(torch.zeros(8, 8), torch.zeros(8, 8), -1), "negative"),
        (lambda: difference_mask(torch.zeros(8, 8), torch.zeros(8, 8), float("nan")), "eps is nan"),
        (lambda: dilate(torch.zeros(8, 8), 1), "a mask is bool"),
        (lambda: dilate(EMPTY[0], 1), "a mask is bool"),
        (lambda: dilate(EMPTY, -1), "negative"),
        (lambda: dilate(EMPTY, (1, -1)), "negative"),
        (lambda: downsample(EMPTY, (4, 4), 1), "nothing is edited"),
        (lambda: downsample(~EMPTY[None], (4, 4), 1), r"\(H, W\)"),
        (lambda: downsample(~EMPTY, (0, 4), 1), "at least"),
        (lambda: downsample(~EMPTY[:1], (1, 1), 1), "cannot be halved"),
        (lambda: masks.DDPM.from_mask(EMPTY), "nothing is edited"),
        (lambda: masks.GAUGAN.from_pair(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16)), "nothing is edited"),
        (lambda: centred_square(0, 8, 8), "above 0"),
        (lambda: centred_square(1.5, 8, 8), "above 0"),
        (lambda: centred_square(0.001, 8, 8), "less than one"),
    ],
)
def test_wrong_use_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_masks() -> None:
    mask = random_mask(64, 96)
    ours, theirs = masks.DDPM.from_mask(mask), masks.DDPM.from_mask(mask.cuda())
    assert all(torch.equal(ours.levels[size], level.cpu()) for size, level in theirs.levels.items())
