"""The projector: its schedules, what it finds again, that pictures do not meet, refusals."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from gengauge.benchmarks.zoo import stylegan2_cat
from gengauge.datasets import world
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.stylegan2.generator import Generator
from gengauge.reference.sdedit.projector import (
    Recipe,
    latent_statistics,
    lpips_features,
    pattern,
    pixel_features,
    project,
    rate_factor,
)

FEW = Recipe(steps=12, draws=200)


@functools.cache
def network() -> Generator:
    return stylegan2_cat.load()


def cats(count: int) -> Tensor:
    return world.pictures(77, range(count), 32, species="cat").float() / 127.5 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("space", ["w", "w+"])
@pytest.mark.parametrize("noise_maps", [True, False])
def test_a_few_steps_come_nearer(space: str, noise_maps: bool) -> None:
    told: list[Tensor] = []
    recipe = dataclasses.replace(FEW, space=space, noise_maps=noise_maps)
    before = {name: value.clone() for name, value in network().state_dict().items()}
    targets = cats(3)
    found = project(network(), targets, recipe=recipe, generator=seeded(), callback=lambda step, far: told.append(far))
    assert len(told) == 12
    assert (found.distances < 0.7 * told[0]).all()
    assert torch.allclose(found.distances, (found.pictures - targets).square().mean((1, 2, 3)), atol=1e-6)
    assert found.ws.shape == (3, network().num_ws, network().w_dim)
    assert (found.ws.std(1).max() < 1e-6) == (space == "w")  # one w for all layers, or one for each
    assert all(torch.equal(before[name], value) for name, value in network().state_dict().items())
    assert all(parameter.grad is None for parameter in network().parameters())
    if noise_maps:
        assert found.noise["b32.conv1"].shape == (3, 1, 32, 32)
        assert len(found.noise) == 7
        for noise in found.noise.values():
            assert noise.mean((1, 2, 3)).abs().max() < 1e-5
            assert torch.allclose(noise.square().mean((1, 2, 3)), torch.ones(3), atol=1e-4)
        again = network().synthesis(found.ws, "random", found.noise)
    else:
        assert not found.noise
        again = network().synthesis(found.ws, "const")
    assert torch.allclose(again, found.pictures, atol=1e-6)


def test_a_picture_of_the_generator_is_found_again() -> None:
    z = torch.randn(2, network().z_dim, generator=seeded(5))
    targets = network()(z, noise_mode="const")
    recipe = Recipe(steps=100, draws=500, noise_maps=False)
    found = project(network(), targets, recipe=recipe, generator=seeded())
    start = (network().synthesis(network().mapping.w_avg.expand(2, network().num_ws, -1), "const") - targets).square()
    assert (found.distances < 0.05 * start.mean((1, 2, 3))).all()


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    a, b, c = (project(network(), cats(2), recipe=FEW, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(a.ws, b.ws)
    assert torch.equal(a.pictures, b.pictures)
    assert not torch.equal(a.ws, c.ws)


def test_pictures_do_not_meet() -> None:
    recipe = dataclasses.replace(FEW, noise_maps=False, latent_noise=0.0)
    together = project(network(), cats(3), recipe=recipe, generator=seeded())
    alone = project(network(), cats(3)[1:2], recipe=recipe, generator=seeded())
    # Adam makes rounding larger: it divides a gradient by its own size.
    assert (together.ws[1:2] - alone.ws).abs().mean() < 0.01 * (together.ws[:1] - alone.ws).abs().mean()
    assert torch.allclose(together.pictures[1:2], alone.pictures, atol=0.02)


def test_other_features_lead_elsewhere() -> None:
    def blue(pictures: Tensor) -> Tensor:
        return pixel_features(pictures[:, 2:])

    found = project(network(), cats(2), blue, FEW, generator=seeded())
    assert torch.allclose(found.distances, (found.pictures - cats(2))[:, 2].square().mean((1, 2)), atol=1e-6)


def test_features_of_lpips_are_its_distance_and_have_a_gradient() -> None:
    torch.manual_seed(0)
    lpips = LPIPS("alex").eval().requires_grad_(False)
    for i in range(5):
        lpips.get_parameter(f"lin{i}.model.1.weight").abs_()
    features = lpips_features(lpips)
    a, b = cats(3), cats(6)[3:]
    assert torch.allclose((features(a) - features(b)).square().sum(1), lpips(a, b), atol=1e-6)
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    (features(flat) - features(a[:1])).square().sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_larger_pictures_are_reduced_for_the_features() -> None:
    tiny = Generator(8, 0, 8, 512, synthesis_kwargs={"channel_base": 1024, "channel_max": 4})
    tiny.eval().requires_grad_(False)
    seen: list[tuple[int, ...]] = []

    def watched(pictures: Tensor) -> Tensor:
        seen.append(tuple(pictures.shape))
        return pixel_features(pictures)

    found = project(tiny, torch.zeros(1, 3, 512, 512), watched, Recipe(steps=1, draws=10), generator=seeded())
    assert set(seen) == {(1, 3, 256, 256)}
    assert found.pictures.shape == (1, 3, 512, 512)


def test_the_rate_rises_and_falls_as_published() -> None:
    recipe = Recipe()
    places = {0.0: 0.0, 0.025: 0.5, 0.05: 1.0, 0.5: 1.0, 0.75: 1.0, 0.875: 0.5}
    for done, factor in places.items():
        assert rate_factor(done, recipe) == pytest.approx(factor, abs=1e-12)
    assert rate_factor(0.999, recipe) < 1e-4


def test_mean_and_spread_of_latents() -> None:
    mean, spread = latent_statistics(network(), 4000, seeded())
    w = network().mapping(torch.randn(4000, 64, generator=seeded()), None)[:, 0]
    assert torch.allclose(mean, w.mean(0), atol=1e-5)
    assert spread == pytest.approx((w - w.mean(0)).norm(dim=1).square().mean().sqrt().item(), rel=1e-4)
    assert (mean - network().mapping.w_avg).norm() < 0.1 * spread


def test_the_penalty_tells_noise_from_patterns() -> None:
    white = torch.randn(2, 1, 32, 32, generator=seeded())
    ones = torch.ones(2, 1, 32, 32)
    # Constant maps: 1 along each of two axes, at 32, 16 and 8 px, for each of two maps.
    assert pattern(ones).item() == pytest.approx(12)
    assert pattern(ones[..., :8, :8]).item() == pytest.approx(4)
    assert pattern(ones[..., :4, :4]).item() == pytest.approx(4)
    assert pattern(white).item() < 0.1
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 1, 32, 32)
    assert pattern(stripes).item() == pytest.approx(2)  # halved, they vanish
    assert pattern(white).item() == pytest.approx(pattern(white[:1]).item() + pattern(white[1:]).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "recipe", "message"),
    [
        (torch.zeros(2, 3, 16, 16), FEW, r"\(N, 3, 32, 32\) in \[-1, 1\], not torch.float32 \(2, 3, 16, 16\)"),
        (torch.zeros(0, 3, 32, 32), FEW, r"\(0, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), FEW, "uint8"),
        (torch.full((1, 3, 32, 32), torch.inf), FEW, "not finite"),
        (torch.zeros(1, 3, 32, 32), Recipe(steps=0), "0 steps"),
        (torch.zeros(1, 3, 32, 32), Recipe(draws=1), "1 draws"),
        (torch.zeros(1, 3, 32, 32), Recipe(rampup=0), "above 0"),
    ],
)
def test_refusals(targets: Tensor, recipe: Recipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project(network(), targets, recipe=recipe)


def test_a_generator_with_labels_is_refused() -> None:
    labelled = Generator(8, 4, 8, 8, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    with pytest.raises(ValueError, match="labels of 4 dimensions"):
        project(labelled, torch.zeros(1, 3, 8, 8), recipe=FEW)
