"""The filtered leaky ReLU: the native way equals the definition, forward and backward, and the definition its parts."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.kernels import native
from gengauge.kernels.filtered_lrelu import filtered_lrelu
from gengauge.kernels.ways import Way

CASES = 60
CLOSE = 1e-6  # float32 against float64, of the largest sum

needs_native = pytest.mark.skipif(native.library() is None, reason=native.reason())


@dataclass(frozen=True)
class Case:
    """Arguments of one call."""

    x: Tensor
    fu: Tensor | None
    fd: Tensor | None
    b: Tensor | None
    options: dict[str, Any]

    def to(self, dtype: torch.dtype) -> Case:
        x, fu, fd, b = (None if t is None else t.to(dtype) for t in (self.x, self.fu, self.fd, self.b))
        assert x is not None
        return Case(x, fu, fd, b, self.options)


def case(seed: int) -> Case:
    """Maps of one pixel and more planes than a vector has elements, filters of any length, crops and wide borders."""
    choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    up, down = choice.choice([1, 2, 4, 3]), choice.choice([1, 2, 4, 3])
    up_taps, down_taps = choice.choice([None, 1, 2, 5, 6 * up]), choice.choice([None, 1, 5, 6 * down])
    shape = (choice.choice([1, 2]), choice.choice([1, 3, 16, 21]), choice.randint(1, 14), choice.randint(1, 14))

    def eighths(*shape: int) -> Tensor:
        """Whose sums of products are exact, so that all sides find the same values below zero and beyond the clamp."""
        return torch.randint(-16, 17, shape, generator=generator) / 8

    fu = None if up_taps is None else eighths(up_taps)
    fd = None if down_taps is None else torch.rand((down_taps,) * choice.choice([1, 2]), generator=generator)
    room = (up_taps or 1) + (down_taps or 1)
    padding = tuple(choice.randint(-side * up // 4, 3) + room for side in (shape[3], shape[3], shape[2], shape[2]))
    options = {
        "up": up,
        "down": down,
        "padding": padding if choice.random() < 0.8 else room,
        "clamp": choice.choice([None, 0.5003, 3.0003]),  # never met exactly, where versions of torch differ
        "slope": choice.choice([0.2, 1.0, 0.0]),
        "gain": choice.choice([2**0.5, 1.0]),
    }
    b = None if choice.random() < 0.2 else eighths(shape[1])
    return Case(eighths(*shape), fu, fd, b, options)


def crops(given: Case) -> Case:
    """The same with the map cut at its edges before it is filtered."""
    lost = sum(0 if f is None else len(f) - 1 for f in (given.fu, given.fd))
    sides = [side * given.options["up"] - lost - 1 for side in (given.x.shape[3], given.x.shape[2])]
    edges = [-max(side, 0) // 2 for side in sides]
    wide = [max(0, -side) for side in sides]
    return replace(given, options={**given.options, "padding": (edges[0], wide[0], edges[1], wide[1])})


def results(given: Case, way: Way) -> list[Tensor]:
    """The maps, and the gradients of a weighted sum of them by x and b."""
    inputs = [given.x.clone().requires_grad_()]
    if given.b is not None:
        inputs.append(given.b.clone().requires_grad_())
    found = filtered_lrelu(inputs[0], given.fu, given.fd, *inputs[1:], **given.options, way=way)
    probe = torch.rand(found.shape, generator=torch.Generator().manual_seed(1)).to(found.dtype)
    return [found.detach(), *torch.autograd.grad(found, inputs, probe)]


def assert_same(given: Case) -> None:
    # The largest sums when no terms cancel, which those of both signs do.
    x, fu, b = (None if t is None else t.abs() for t in (given.x, given.fu, given.b))
    assert x is not None
    terms = Case(x, fu, given.fd, b, {**given.options, "clamp": None, "slope": 1.0}).to(torch.float64)
    sizes = [value.abs().max().item() for value in results(terms, "torch")]
    wanted = results(given.to(torch.float64), "torch")
    for ours, value, size in zip(results(given, "native"), wanted, sizes, strict=True):
        assert ours.shape == value.shape
        torch.testing.assert_close(ours.double(), value, rtol=0, atol=CLOSE * size)


@needs_native
@pytest.mark.parametrize("seed", range(CASES))
def test_native_is_the_definition(seed: int) -> None:
    assert_same(case(seed))
    assert_same(crops(case(seed)))


@needs_native
@pytest.mark.parametrize("layout", ["channels last", "strided", "offset"])
def test_native_takes_every_layout(layout: str) -> None:
    given = replace(case(0), x=torch.randn(2, 21, 9, 8), b=torch.randn(21))
    x = given.x
    other = {
        "channels last": x.to(memory_format=torch.channels_last),
        "strided": torch.stack([x, x], -1)[..., 1],
        "offset": torch.cat([x[:1], x])[1:],
    }[layout]
    for ours, wanted in zip(results(replace(given, x=other), "native"), results(given, "native"), strict=True):
        assert torch.equal(ours, wanted)


@needs_native
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    given = replace(case(0), x=torch.randn(3, 33, 9, 8), b=torch.randn(33))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(given, "native"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(found[0][0], other[0])
        assert torch.equal(found[0][1], other[1])  # torch itself sums the bias's in another order


@needs_native
def test_only_what_is_asked_for_gets_a_gradient() -> None:
    fu, fd = torch.rand(12), torch.rand(12, 12)
    for wanted in ("x", "b"):
        x, b = torch.randn(1, 2, 8, 8).requires_grad_(wanted == "x"), torch.randn(2).requires_grad_(wanted == "b")
        y = filtered_lrelu(x, fu, fd, b, up=2, down=2, padding=11, way="native")
        y.sum().backward()
        assert (x.grad is not None, b.grad is not None) == (wanted == "x", wanted == "b")
        assert not filtered_lrelu(x.detach(), fu, fd, b.detach(), up=2, down=2, padding=11).requires_grad


@needs_native
def test_what_is_not_finite_stays_near() -> None:
    x = torch.zeros(2, 3, 40, 40)
    x[1, 2, 20, 20] = float("nan")
    fu, fd = torch.rand(12), torch.rand(12, 12)
    found = {
        way: filtered_lrelu(x, fu, fd, torch.ones(3), up=2, down=2, padding=11, clamp=1.0, way=way).isnan()
        for way in ("torch", "native")
    }
    assert torch.equal(found["torch"], found["native"])
    assert 0 < found["native"].sum() < 200


def parts(given: Case) -> Tensor:
    """The definition pixel by pixel: upsampling, the leaky ReLU and downsampling as matrices of each side."""
    left, right, top, bottom = given.options["padding"]
    up, down = given.options["up"], given.options["down"]
    assert given.b is not None
    assert given.fu is not None
    assert given.fd is not None

    def raised(side: int, before: int, after: int) -> Tensor:
        """(middle, side): the sum over k of fu[k] times the padded place i + taps - 1 - k."""
        taps = len(given.fu)  # type: ignore[arg-type]
        matrix = torch.zeros(side * up + before + after - taps + 1, side, dtype=given.x.dtype)
        for i in range(matrix.shape[0]):
            for k in range(taps):
                place = i + taps - 1 - k - before
                if 0 <= place < side * up and place % up == 0:
                    matrix[i, place // up] += up * given.fu[k]  # type: ignore[index]
        return matrix

    x = given.x + given.b[:, None, None]
    x = raised(x.shape[2], top, bottom) @ x @ raised(x.shape[3], left, right).T
    x = torch.where(x > 0, x, given.options["slope"] * x) * given.options["gain"]
    if given.options["clamp"] is not None:
        x = x.clamp(-given.options["clamp"], given.options["clamp"])
    full = given.fd if given.fd.ndim == 2 else given.fd.outer(given.fd)
    windows = x.unfold(2, len(full), down).unfold(3, len(full), down)
    return (windows * full.flip(0, 1)).sum((4, 5))


@pytest.mark.parametrize("full", [False, True])
def test_the_definition_is_its_parts(full: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for up, down, padding in ((2, 2, (11, 12, 9, 10)), (4, 2, (20, 25, 21, 21)), (1, 3, (-1, 9, 8, 4))):
        x, b = torch.randn(2, 3, 6, 7, generator=generator).double(), torch.randn(3, generator=generator).double()
        fu, fd = torch.randn(6 * up).double(), torch.randn((5, 5) if full else (5,), generator=generator).double()
        options = {"up": up, "down": down, "padding": padding, "clamp": 4.0, "slope": 0.2, "gain": 1.3}
        given = Case(x, fu, fd, b, options)
        torch.testing.assert_close(filtered_lrelu(x, fu, fd, b, **options), parts(given), rtol=1e-12, atol=1e-12)


def test_without_filters_it_is_a_clamped_leaky_relu() -> None:
    x, b = torch.randn(2, 3, 5, 5), torch.randn(3)
    wanted = (F.leaky_relu(x + b[:, None, None], 0.2) * 2**0.5).clamp(-1, 1)
    assert torch.equal(filtered_lrelu(x, b=b, clamp=1.0), wanted)
    assert torch.equal(filtered_lrelu(x, b=b, clamp=1.0, padding=-1), wanted[:, :, 1:-1, 1:-1])


def test_gradients_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    fu, fd = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6,), (6, 6)))
    assert torch.autograd.gradcheck(
        lambda x, b: filtered_lrelu(x, fu, fd, b, up=2, down=2, padding=5, clamp=20.0), (x, b)
    )


def test_a_way_that_cannot_serve_says_why() -> None:
    x, b, fu, fd = torch.randn(1, 2, 8, 8), torch.randn(2), torch.rand(12), torch.rand(12, 12)
    options: dict[str, Any] = {"up": 2, "down": 2, "padding": 11}
    with pytest.raises(RuntimeError, match="float64"):
        filtered_lrelu(x.double(), fu, fd, b.double(), **options, way="native")
    assert filtered_lrelu(x.double(), fu, fd, b.double(), **options).dtype == torch.float64
    assert filtered_lrelu(x.bfloat16(), fu, fd, b.bfloat16(), **options).dtype == torch.bfloat16
    if native.library() is None:
        return
    with pytest.raises(RuntimeError, match="it takes float32"):
        filtered_lrelu(x.bfloat16(), fu, fd, b.bfloat16(), **options, way="native")
    with pytest.raises(RuntimeError, match="fu is separable"):
        filtered_lrelu(x, fu.outer(fu), fd, b, **options, way="native")
    wanted = filtered_lrelu(x, fu, fd, b, **options)
    torch.testing.assert_close(filtered_lrelu(x, fu.outer(fu), fd, b, **options), wanted, rtol=1e-5, atol=1e-4)
    # By its filters only the definition has a gradient.
    learnt = fd.clone().requires_grad_()
    filtered_lrelu(x, fu, learnt, b, **options).sum().backward()
    assert learnt.grad is not None
    with pytest.raises(RuntimeError, match="no gradient"):
        filtered_lrelu(x, fu, learnt, b, **options, way="native")


def test_bad_input_is_told() -> None:
    x, fu, b = torch.randn(1, 2, 8, 8), torch.rand(12), torch.rand(2)
    bad: list[tuple[str, Any]] = [
        ("maps are", lambda: filtered_lrelu(x[0])),
        ("maps are", lambda: filtered_lrelu(x, b=torch.rand(3))),
        ("are alike", lambda: filtered_lrelu(x, b=b.double())),
        ("are alike", lambda: filtered_lrelu(x, b=b.to("meta"))),
        ("at least 1", lambda: filtered_lrelu(x, up=0)),
        (r"fu is \(t,\)", lambda: filtered_lrelu(x, torch.rand(2, 3))),
        (r"fd is \(t,\)", lambda: filtered_lrelu(x, fd=torch.rand(0))),
        ("fu is on meta", lambda: filtered_lrelu(x, fu.to("meta"))),
        ("too small", lambda: filtered_lrelu(x, fu)),
        ("too small", lambda: filtered_lrelu(x, padding=(-9, 9, 0, 0))),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()
