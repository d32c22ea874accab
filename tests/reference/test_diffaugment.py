"""DiffAugment beyond the goldens: draws, refusals, and where the placements let gradients through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gengauge.reference.diffaugment import placement as placements
from gengauge.reference.diffaugment.augment import diff_augment, draw, parts
from gengauge.reference.diffaugment.placement import Placement, discriminator_loss, generator_loss


def test_a_generator_makes_the_draws_repeatable_and_each_picture_gets_its_own() -> None:
    x = torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1)
    first, again = (diff_augment(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(picture.flatten().tolist()) for picture in first}) == 6


def test_draws_given_are_the_draws_used() -> None:
    x = torch.randn(4, 3, 12, 10)
    policy = "color,cutout,translation,color"
    draws = draw(policy, x.shape, torch.Generator().manual_seed(1))
    assert torch.equal(
        diff_augment(x, policy, draws=draws), diff_augment(x, policy, generator=torch.Generator().manual_seed(1))
    )


def test_the_empty_policy_returns_the_pictures_themselves() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert diff_augment(x, "") is x
    assert parts("") == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    assert diff_augment(torch.randn(2, 3, 8, 8, dtype=dtype)).dtype == dtype


def test_gradients_flow_through_every_part() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    draws = draw("color,translation,cutout", x.shape, torch.Generator().manual_seed(0), torch.float64)
    assert torch.autograd.gradcheck(lambda y: diff_augment(y, draws=draws), (x,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diff_augment(torch.zeros(2, 3, 8, 8), "color,blur"), "no augmentation 'blur'; there are color"),
        (lambda: diff_augment(torch.zeros(3, 8, 8)), "four dimensions"),
        (lambda: diff_augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), "floating-point"),
        (lambda: diff_augment(torch.zeros(2, 3, 8, 8), "color", draws=[]), "has 1 parts"),
    ],
)
def test_wrong_use_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


class Count:
    """An augmentation that adds 1 and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().mean().item())
        return x + 1


@pytest.mark.parametrize(
    ("placement", "in_d", "in_g"),
    [
        (placements.NONE, [], []),
        (placements.REALS_ONLY, [5.0], []),
        (placements.D_ONLY, [5.0, 0.5], []),
        (placements.DIFFAUGMENT, [5.0, 0.5], [0.5]),
    ],
)
def test_each_placement_augments_what_it_says(placement: Placement, in_d: list[float], in_g: list[float]) -> None:
    reals, fakes = torch.full((2, 3, 4, 4), 5.0), torch.full((2, 3, 4, 4), 0.5, requires_grad=True)

    def discriminator(x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))

    augment = Count()
    loss = discriminator_loss(discriminator, reals, fakes.detach(), placement, augment)
    assert augment.seen == in_d
    assert loss.item() == pytest.approx(1 + 0.5 + (1 if placement.fakes else 0))
    augment = Count()
    generator_loss(discriminator, fakes, placement, augment).backward()
    assert augment.seen == in_g
    assert fakes.grad is not None
    assert fakes.grad.sum().item() == pytest.approx(-1)
