"""Blending: cases known in closed form, a dense linear solve, what stays as it was, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gengauge.datasets import world
from gengauge.reference.sdedit.blending import laplacian_blend, poisson_blend

Blend = Callable[[Tensor, Tensor, Tensor], Tensor]
BLENDS = [laplacian_blend, poisson_blend]


def cats(count: int, size: int = 32, seed: int = 0) -> Tensor:
    return world.pictures(seed, range(count), size).double() / 255


def square(height: int, width: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 4 : height // 2 + 2, width // 3 : width - 3] = True
    return mask


def blob(height: int, width: int, seed: int = 0) -> Tensor:
    """A mask of several pieces, some of them at the border."""
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.6


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [(32, 32), (17, 29), (1, 9), (6, 1), (2, 2)])
def test_an_empty_and_a_full_mask(blend: Blend, size: tuple[int, int]) -> None:
    a, b = torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    empty = torch.zeros(size, dtype=torch.bool)
    assert torch.allclose(blend(a, b, empty), a, atol=1e-12)
    assert torch.allclose(blend(a, b, ~empty), b, atol=1e-12)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("mask", [square(17, 29), blob(17, 29)])
def test_a_picture_blended_into_itself_stays(blend: Blend, mask: Tensor) -> None:
    a = torch.rand(2, 3, 17, 29, dtype=torch.float64)
    assert torch.allclose(blend(a, a, mask), a, atol=1e-12)


@pytest.mark.parametrize("blend", BLENDS)
def test_each_picture_has_a_mask_of_its_own(blend: Blend) -> None:
    a, b = cats(3), cats(3, seed=1)
    masks = torch.stack([square(32, 32), blob(32, 32), torch.zeros(32, 32, dtype=torch.bool)])[:, None]
    together = blend(a, b, masks)
    for i in range(3):
        alone = blend(a[i : i + 1], b[i : i + 1], masks[i, 0])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-12)
    shared = blend(a, b, masks[0, 0])
    assert torch.allclose(shared[:1], together[:1], atol=1e-12)
    assert torch.allclose(blend(a[:1], b[:1], masks[:1]), together[:1], atol=1e-12)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kind_and_inputs_are_kept(blend: Blend, dtype: torch.dtype) -> None:
    a, b, mask = cats(2).to(dtype), cats(2, seed=1).to(dtype), square(32, 32)
    before = a.clone(), b.clone(), mask.clone()
    out = blend(a, b, mask)
    assert out.dtype == dtype
    assert out.shape == a.shape
    assert 0 <= out.min() <= out.max() <= 1
    assert all(torch.equal(x, y) for x, y in zip((a, b, mask), before, strict=True))
    assert torch.allclose(out.double(), blend(a.double(), b.double(), mask), atol=1e-6)


# Poisson


@pytest.mark.parametrize("mask", [square(32, 32), blob(32, 32)])
def test_poisson_removes_a_shift_of_each_channel(mask: Tensor) -> None:
    a = 0.2 + 0.4 * cats(2)
    shifted = a + torch.tensor([0.3, -0.15, 0.05]).view(3, 1, 1).double()
    assert torch.allclose(poisson_blend(a, shifted, mask), a, atol=1e-12)


def test_poisson_without_gradients_of_its_own_is_harmonic() -> None:
    # Planes are harmonic: without gradients to keep, the region becomes the plane that its seam shows.
    y, x = torch.meshgrid(torch.arange(12.0).double(), torch.arange(15.0).double(), indexing="ij")
    plane = (0.1 + 0.03 * y + 0.02 * x).expand(1, 3, 12, 15)
    mask = torch.zeros(12, 15, dtype=torch.bool)
    mask[3:9, 4:11] = True
    assert torch.allclose(poisson_blend(plane, torch.full_like(plane, 0.5), mask), plane, atol=1e-12)


def test_poisson_keeps_the_laplacian_of_the_source_and_all_outside() -> None:
    a, b, mask = 0.3 + 0.4 * cats(1), 0.4 + 0.2 * cats(1, seed=1), square(32, 32)
    out = poisson_blend(a, b, mask)
    assert torch.equal(out[..., ~mask], a[..., ~mask])
    assert out[..., mask].min() > 0
    assert out[..., mask].max() < 1  # nothing was clamped

    def laplacian(x: Tensor) -> Tensor:
        return 4 * x[..., 1:-1, 1:-1] - x[..., :-2, 1:-1] - x[..., 2:, 1:-1] - x[..., 1:-1, :-2] - x[..., 1:-1, 2:]

    inner = mask[1:-1, 1:-1]
    assert torch.allclose(laplacian(out)[..., inner], laplacian(b)[..., inner], atol=1e-12)
    # Where the original's seam is the source's but for a constant, the source's gradients are kept as they are.
    a = torch.where(mask, a, b + 0.1)
    kept = poisson_blend(a, b, mask)
    assert torch.allclose(kept.diff(dim=3), b.diff(dim=3), atol=1e-12)


def test_poisson_of_a_finished_composite() -> None:
    a = torch.full((1, 3, 16, 16), 0.3).double()
    mask = square(16, 16)
    texture = 0.1 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pasted = torch.where(mask, 0.7 + texture, a)
    with pytest.raises(ValueError, match="or seam='flat'"):
        poisson_blend(a, pasted, mask)
    out = poisson_blend(a, pasted, mask, seam="flat")
    # The colour becomes the surroundings', the texture stays, and what lies outside is not looked at.
    assert (out - a).abs().max() < 0.1
    inner = mask[:, 1:] & mask[:, :-1]
    change = (out - pasted).diff(dim=3)[..., inner].abs().mean()
    assert change < 0.5 * texture.diff(dim=3)[..., inner].abs().mean()
    elsewhere = torch.where(mask, pasted, torch.rand_like(a))
    assert torch.equal(poisson_blend(a, elsewhere, mask, seam="flat"), out)
    shifted = torch.where(mask, a + 0.4, a)
    assert torch.allclose(poisson_blend(a, shifted, mask, seam="flat"), a, atol=1e-12)


def dense(a: Tensor, b: Tensor, mask: Tensor, seam: str) -> Tensor:
    """Equation 7 written pixel by pixel, for one channel (H, W)."""
    height, width = mask.shape
    places = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
    number = {place: i for i, place in enumerate(places)}
    matrix, right = np.zeros((len(places),) * 2), np.zeros(len(places))
    for (y, x), i in number.items():
        for q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= q[0] < height and 0 <= q[1] < width):
                continue
            matrix[i, i] += 1
            right[i] += b[y, x] - b[q] if q in number or seam == "pasted" else 0
            if q in number:
                matrix[i, number[q]] -= 1
            else:
                right[i] += a[q]
    out = a.clone()
    for place, value in zip(places, np.linalg.solve(matrix, right), strict=True):
        out[place] = value
    return out.clamp(0, 1)


@pytest.mark.parametrize("size", [(7, 9), (1, 8), (5, 1)])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("seam", ["pasted", "flat"])
def test_poisson_is_the_dense_solution(size: tuple[int, int], seed: int, seam: Any) -> None:
    a, b = torch.rand(2, 1, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = blob(*size, seed)
    out = poisson_blend(a, b, mask, seam)
    for channel in range(3):
        expected = dense(a[0, channel], b[0, channel], mask, seam)
        assert torch.allclose(out[0, channel], expected, atol=1e-12)


# Laplacian pyramid


def test_without_levels_the_pyramid_is_a_plain_cut() -> None:
    a, b, mask = cats(2), cats(2, seed=1), blob(32, 32)
    assert torch.equal(laplacian_blend(a, b, mask, levels=0), torch.where(mask, b, a))


def test_the_pyramid_smooths_the_seam_and_leaves_what_is_far() -> None:
    dark, light = torch.full((1, 3, 64, 64), 0.2).double(), torch.full((1, 3, 64, 64), 0.8).double()
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, 32:] = True
    profiles = [laplacian_blend(dark, light, mask, levels)[0, 0, 30] for levels in range(5)]
    steps = [profile.diff().abs().max().item() for profile in profiles]
    assert steps[0] == pytest.approx(0.6)
    assert steps == sorted(steps, reverse=True)  # the more levels, the softer
    for profile in profiles[:4]:
        assert (profile.diff() >= -1e-12).all()
        assert profile[0].item() == pytest.approx(0.2)
        assert profile[-1].item() == pytest.approx(0.8)
    assert profiles[2][31].item() + profiles[2][32].item() == pytest.approx(1, abs=0.1)


def test_fine_bands_mix_in_a_narrow_seam() -> None:
    # A pattern of single pixels lives in the finest band: it ends within three pixels of the mask's edge.
    pattern = 0.5 + 0.2 * (-1.0) ** torch.arange(64).double().expand(1, 3, 64, 64)
    flat = torch.full_like(pattern, 0.5)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, 32:] = True
    out = laplacian_blend(flat, pattern, mask)[0, 0, 30]
    assert (out[:28] - 0.5).abs().max() < 0.01
    assert (out[36:] - pattern[0, 0, 30, 36:]).abs().max() < 0.01


def test_by_default_halving_ends_at_4_px() -> None:
    a, b, mask = cats(1), cats(1, seed=1), square(32, 32)
    assert torch.equal(laplacian_blend(a, b, mask), laplacian_blend(a, b, mask, levels=3))


A, MASK = torch.rand(2, 3, 8, 9), square(8, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, A[:1], MASK), "the pictures differ"),
        ((A, A.double(), MASK), "the pictures differ"),
        ((A[0], A[0], MASK), r"`original` is \(N, 3, H, W\)"),
        ((A, (A * 255).byte(), MASK), "`pasted` is.*uint8"),
        ((2 * A - 1, A, MASK), r"bring it to \[0, 1\]"),
        ((A, torch.full_like(A, torch.nan), MASK), "`pasted` has values from nan"),
        ((A, A, MASK.float()), "a mask is bool"),
        ((A, A, MASK.T), r"not torch.bool \(9, 8\)"),
        ((A, A, MASK.expand(2, 3, -1, -1)), r"not torch.bool \(2, 3, 8, 9\)"),
        ((A, A, MASK.expand(1, 1, -1, -1)), r"not torch.bool \(1, 1, 8, 9\)"),
    ],
)
@pytest.mark.parametrize("blend", BLENDS)
def test_refusals(blend: Blend, arguments: tuple[Tensor, Tensor, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blend(*arguments)


@pytest.mark.parametrize("levels", [-1, 9])
def test_levels_that_are_not_there_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=f"cannot be halved {levels} times"):
        laplacian_blend(A, A, MASK, levels)
