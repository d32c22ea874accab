"""Faithfulness: by hand, against the LPIPS package, what a region hides, refusals."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import lpips as package
import pytest
import torch
from torch import Tensor

from gengauge.benchmarks.metrics.faithfulness import l2_norm, masked_lpips, squared_l2
from gengauge.datasets import weights, world
from gengauge.reference.nets.lpips import LPIPS, Trunk, from_carrier_keys


def pictures(seed: int, count: int = 3) -> Tensor:
    return world.pictures(seed, range(count), 32).float() / 255


A, B = pictures(0), pictures(1)
INSIDE = torch.zeros(32, 32, dtype=torch.bool)
INSIDE[4:14, 6:20] = True


@functools.cache
def network(trunk: Trunk = "vgg") -> LPIPS:
    lpips = LPIPS(trunk)
    lpips.load_state_dict(from_carrier_keys(weights.load(f"lpips-{trunk}")))
    return lpips.eval().requires_grad_(False)


def test_by_hand() -> None:
    a = torch.zeros(2, 3, 4, 5)
    b = a.clone()
    b[0, 0, 0, 0], b[0, 2, 3, 4], b[1] = 0.6, 0.8, 0.5
    assert l2_norm(a, b).tolist() == pytest.approx([1.0, 60**0.5 / 2])
    assert squared_l2(a, b).tolist() == pytest.approx([1.0, 15])
    region = torch.zeros(4, 5, dtype=torch.bool)
    region[0] = True
    assert l2_norm(a, b, region).tolist() == pytest.approx([0.6, 15**0.5 / 2])
    assert l2_norm(a, b, ~region).tolist() == pytest.approx([0.8, 45**0.5 / 2])
    channel = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    channel[:, 2] = True
    assert l2_norm(a, b, channel).tolist() == pytest.approx([0.8, 20**0.5 / 2])


def test_inside_and_outside_make_the_whole() -> None:
    regions = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.3
    whole = squared_l2(A, B)
    assert whole.dtype == torch.float64
    assert torch.allclose(squared_l2(A, B, regions) + squared_l2(A, B, ~regions), whole)
    assert torch.equal(l2_norm(A, A), torch.zeros(3).double())
    assert torch.allclose(l2_norm(A, B) ** 2, whole)
    assert torch.allclose(l2_norm(A.double(), B.double()), l2_norm(A, B), rtol=1e-6)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_the_map_is_that_of_the_package(trunk: Trunk) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by its old arguments
        theirs = package.LPIPS(net=trunk, pnet_rand=True, spatial=True, verbose=False).eval()
    state = network(trunk).state_dict()
    theirs.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    a, b = (torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2))
    with torch.no_grad():
        assert torch.allclose(network(trunk).spatial(a, b)[:, None], theirs(a, b), rtol=1e-4, atol=1e-6)


def test_without_a_region_masked_lpips_is_lpips() -> None:
    nothing = torch.zeros(32, 32, dtype=torch.bool)
    whole = network()(2 * A - 1, 2 * B - 1)
    assert torch.allclose(masked_lpips(network(), A, B, nothing, "composite"), whole, rtol=1e-5)
    # VGG's taps halve the sides, so that bilinear growth keeps the mean of their maps.
    assert torch.allclose(masked_lpips(network(), A, B, nothing), whole, rtol=1e-4)


def test_what_changes_inside_hardly_counts() -> None:
    edited = torch.where(INSIDE, B, A)
    assert torch.equal(masked_lpips(network(), A, edited, INSIDE, "composite"), torch.zeros(3))
    leaked = masked_lpips(network(), A, edited, INSIDE)
    assert (leaked < 0.5 * masked_lpips(network(), A, edited, ~INSIDE)).all()
    outside = torch.where(INSIDE, A, B)
    for masking in ("map", "composite"):
        assert (masked_lpips(network(), A, outside, INSIDE, masking) > leaked).all()  # type: ignore[arg-type]
    both = masked_lpips(network(), A, B, INSIDE, "composite")
    assert torch.equal(both, masked_lpips(network(), A, outside, INSIDE, "composite"))


def test_each_picture_has_a_region_of_its_own() -> None:
    regions = torch.stack([INSIDE, ~INSIDE, INSIDE.T])[:, None]
    for masking in ("map", "composite"):
        together = masked_lpips(network(), A, B, regions, masking)  # type: ignore[arg-type]
        for i in range(3):
            alone = masked_lpips(network(), A[i : i + 1], B[i : i + 1], regions[i, 0], masking)  # type: ignore[arg-type]
            assert torch.allclose(together[i : i + 1], alone, rtol=1e-5)
    small = torch.rand(2, 3, 32, 32) * 0.01
    shared = masked_lpips(network(), small, small.flip(0), INSIDE)
    assert shared.shape == (2,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l2_norm(A, B[:2]), r"alike, not \(3, 3, 32, 32\) and \(2, 3, 32, 32\)"),
        (lambda: l2_norm(A[0], B[0]), r"\(3, 32, 32\) and"),
        (lambda: l2_norm(2 * A - 1, B), r"values from -0.*to 1; bring them to \[0, 1\]"),
        (lambda: l2_norm((255 * A).byte(), (255 * B).byte()), "torch.uint8; divide grey levels by 255"),
        (lambda: l2_norm(A, torch.full_like(B, torch.nan)), "values from nan"),
        (lambda: l2_norm(A, B, INSIDE.float()), r"is bool \(32, 32\), \(3, 1, 32, 32\).*torch.float32"),
        (lambda: l2_norm(A, B, INSIDE[:5]), r"not torch.bool \(5, 32\)"),
        (lambda: l2_norm(A, B, INSIDE.expand(2, 1, -1, -1)), r"not torch.bool \(2, 1, 32, 32\)"),
        (lambda: masked_lpips(LPIPS(), A, B, torch.ones(32, 32, dtype=torch.bool)), "nothing is left"),
        (lambda: masked_lpips(LPIPS(), A, B, INSIDE.expand(3, 3, -1, -1)), r"not \(3, 3, 32, 32\)"),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
