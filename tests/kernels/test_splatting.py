"""Spots in pictures: every way equals the definition, forward and backward, and the definition does what is said."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from gengauge.kernels import native, ways
from gengauge.kernels.splatting import spots
from gengauge.kernels.ways import Way

CASES = 40
INTERPRETED = range(0, CASES, 8)  # the interpreter takes a millisecond a point and channel
CLOSE = 1e-6  # of the largest sum

needs_native = pytest.mark.skipif(native.library() is None, reason=native.reason())


def case(seed: int) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Points in and outside, none or one among the cases, in several layouts, spots narrow and wider than pictures."""
    choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    count, channels = choice.choice([(1, 3), (2, 1), (3, 5), (1, 17), (2, 0)])
    points, size = choice.choice([0, 1, 2, 33]), (choice.randint(1, 23), choice.randint(1, 31))
    coords = torch.rand(count, 2, points, generator=generator).transpose(1, 2) * 40 - 5
    if choice.random() < 0.3:
        coords = coords.round()  # windows that end on a pixel
    values = torch.randn(count, points, 2 * channels, generator=generator)[..., ::2]
    sigmas = torch.rand(count, generator=generator) * choice.choice([0.3, 2.0, 9.0]) + 0.05
    return coords, values, sigmas, size


def results(given: tuple[Tensor, Tensor, Tensor, tuple[int, int]], way: Way) -> list[Tensor]:
    """The sums, and the gradient of a weighted mean of them by the values."""
    coords, values, sigmas, size = given
    values = values.clone().requires_grad_()
    found = spots(coords, values, sigmas, size, way=way)
    probe = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    if not found.requires_grad:  # of no points
        return [found, torch.zeros_like(values)]
    (gradient,) = torch.autograd.grad(found, values, probe)
    return [found.detach(), gradient]


def assert_same(given: tuple[Tensor, Tensor, Tensor, tuple[int, int]], way: Way) -> None:
    for ours, wanted in zip(results(given, way), results(given, "torch"), strict=True):
        assert ours.shape == wanted.shape
        assert ours.dtype == wanted.dtype
        limit = CLOSE * wanted.abs().max().item() if wanted.numel() else 0.0
        torch.testing.assert_close(ours, wanted, rtol=0, atol=limit)


@needs_native
@pytest.mark.parametrize("seed", range(CASES))
def test_native_is_the_definition(seed: int) -> None:
    assert_same(case(seed), "native")


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    coords, values = torch.rand(2, 900, 2, generator=generator) * 30, torch.randn(2, 900, 3, generator=generator)
    given = (coords, values, torch.tensor([1.2, 2.0]), (29, 31))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(given, "native")
        torch.set_num_threads(threads)
        found = results(given, "native")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@needs_native
def test_what_is_not_finite_stays_in_its_window() -> None:
    coords = torch.tensor([[[float("nan"), 2.0], [3.0, 3.0], [12.0, 3.0], [float("inf"), 1.0], [20.0, float("nan")]]])
    values = torch.tensor([1.0, float("nan"), float("inf"), 2.0, float("nan")])[None, :, None]
    for way in cast(list[Way], ["torch", "native"]):
        found = spots(coords, values, torch.tensor([1.0]), (8, 24), way=way)
        columns = torch.arange(24)
        in_first, in_second = (columns - 3).abs() <= 2, (columns - 12).abs() <= 2
        assert found[0, 0, 3].isnan().equal(in_first)
        assert found[0, 0, 3].isinf().equal(in_second)
        assert found[0, 1].isfinite().all()
        assert not found[:, :, :, 15:].any()


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_triton_is_the_definition_under_its_interpreter() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [*map(str, INTERPRETED)]


def test_a_spot() -> None:
    """One point between pixels, in full."""
    found = spots(torch.tensor([[[2.5, 1.0]]]), torch.tensor([[[3.0]]]), torch.tensor([0.5]), (4, 6), way="torch")
    across = torch.exp(-2 * (torch.tensor([1.0, 2, 3, 4]) - 2.5).square())
    down = torch.exp(-2 * (torch.tensor([0.0, 1, 2]) - 1).square())
    expected = torch.zeros(4, 6)
    expected[:3, 1:5] = down[:, None] * across
    torch.testing.assert_close(found, torch.stack([3 * expected, expected])[None])


def test_gradients_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    coords = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 6
    values = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    sigmas = torch.tensor([0.7, 1.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: spots(coords, x, sigmas, (5, 7)), (values,))


def test_gradients_by_places_take_the_definition() -> None:
    coords, values, sigmas, size = case(3)
    coords = coords.clone().requires_grad_()
    spots(coords, values, sigmas, size).sum().backward()
    assert coords.grad is not None
    with pytest.raises(RuntimeError, match="no gradient"):
        spots(coords, values, sigmas, size, way="native")


def test_a_way_that_cannot_serve_says_why() -> None:
    coords, values, sigmas, size = torch.rand(1, 2, 2), torch.rand(1, 2, 3), torch.ones(1), (4, 4)
    with pytest.raises(RuntimeError, match="float64"):
        spots(coords.double(), values.double(), sigmas.double(), size, way="native")
    assert spots(coords.double(), values.double(), sigmas.double(), size).dtype == torch.float64
    half = (coords.bfloat16(), values.bfloat16(), sigmas.bfloat16())
    assert spots(*half, size).dtype == torch.bfloat16
    if native.library() is not None:
        with pytest.raises(RuntimeError, match="it takes float32"):
            spots(*half, size, way="native")
    if not ways.interpreted():
        with pytest.raises(RuntimeError, match="cuda"):
            spots(coords, values, sigmas, size, way="triton")


def test_bad_input_is_told() -> None:
    coords, values, sigmas, size = torch.rand(1, 2, 2), torch.rand(1, 2, 3), torch.ones(1), (4, 4)
    bad: list[tuple[str, Any]] = [
        ("points are", lambda: spots(coords[0], values, sigmas, size)),
        ("points are", lambda: spots(torch.rand(1, 2, 3), values, sigmas, size)),
        ("points are", lambda: spots(coords, values[:, :1], sigmas, size)),
        ("have one type", lambda: spots(coords, values.double(), sigmas, size)),
        ("on one device", lambda: spots(coords, values.to("meta"), sigmas, size)),
        ("as many sigmas", lambda: spots(coords, values, torch.ones(2), size)),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()


@needs_native
def test_spots_wider_than_the_picture_take_no_more_than_the_picture() -> None:
    """Points of a huge sigma weigh alike everywhere; the definition's window ends where the picture does."""
    coords, values = torch.rand(2, 300, 2) * 10, torch.rand(2, 300, 3)
    for sigma in (50.0, 1e6):
        given = coords, values, torch.full((2,), sigma), (11, 12)
        torch.testing.assert_close(spots(*given, way="torch"), spots(*given, way="native"), rtol=1e-5, atol=1e-5)
        assert spots(*given, way="torch")[:, -1].min() > 299 * 0.9


if __name__ == "__main__":
    for one in INTERPRETED:
        assert_same(case(one), "triton")
        print(one)
