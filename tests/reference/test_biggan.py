"""BigGAN beyond the goldens: folded resampling, the 128 px form, options, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gengauge.reference.diffaugment import biggan, placement, recipes
from gengauge.reference.nets.biggan import Discriminator, Generator, settings_of
from gengauge.reference.nets.spectral_norm import SNConv2d


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("way", ["up", "down"])
def test_folded_resampling_is_resampling_and_convolution(kernel: int, way: str) -> None:
    torch.manual_seed(0)
    layer = SNConv2d(5, 7, kernel).double().eval()
    x = torch.randn(2, 5, 6, 10, dtype=torch.float64, requires_grad=True)
    folded = layer(x, up=way == "up", down=way == "down")
    plain = layer(F.interpolate(x, scale_factor=2.0)) if way == "up" else F.avg_pool2d(layer(x), 2)
    assert torch.allclose(folded, plain, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(folded)
    for a, b in zip(
        torch.autograd.grad(folded, [x, layer.weight], cotangent),
        torch.autograd.grad(plain, [x, layer.weight], cotangent),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_the_imagenet_networks_work_at_small_width() -> None:
    recipe = recipes.biggan_imagenet(ch=8)
    g, d = recipe.networks()
    z, y = torch.randn(2, g.dim_z), torch.tensor([0, 999])
    pictures = g(z, y)
    assert pictures.shape == (2, 3, 128, 128)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert d(pictures, y).shape == (2, 1)
    assert {name.split(".")[1] for name, _ in g.named_modules() if name.endswith("theta")} == {"3"}  # after 64 px
    assert {name.split(".")[1] for name, _ in d.named_modules() if name.endswith("theta")} == {"0"}


def test_an_orthogonal_start_is_orthogonal() -> None:
    network = Discriminator(ch=2, num_classes=3, init="ortho")
    weight = network.blocks[1][0].conv2.weight.flatten(1)  # type: ignore[index, union-attr]
    assert torch.allclose(weight @ weight.T, torch.eye(len(weight)), atol=1e-5)


def test_the_arguments_are_told_by_a_published_state() -> None:
    arguments = {"ch": 3, "dim_z": 20, "num_classes": 7}
    state = Generator(**arguments).state_dict()
    assert settings_of(state) == arguments
    Generator(**settings_of(state)).load_state_dict(state)
    with pytest.raises(ValueError, match="no state of the BigGAN"):
        settings_of({"w": torch.zeros(1)})
    shared = Generator(**arguments, shared_dim=4).state_dict()
    with pytest.raises(ValueError, match="other options"):
        settings_of(shared)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="32 and 128 px, not 64"):
        Generator(resolution=64)
    with pytest.raises(ValueError, match="cannot be cut into 4"):
        Generator(dim_z=126, hierarchical=True, shared_dim=4)
    with pytest.raises(ValueError, match="shared_dim"):
        Generator(hierarchical=True)
    training = biggan.Training(replace(recipes.biggan_cifar(ch=1), batch=2))
    with pytest.raises(ValueError, match="2 \\* 4 = 8 reals"):
        training.step(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="no 'rotate'"):
        biggan.second_view(
            torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), "rotate", biggan.StepDraws(*[torch.zeros(1)] * 2)
        )


@pytest.mark.parametrize("place", [placement.NONE, placement.REALS_ONLY, placement.D_ONLY, placement.DIFFAUGMENT])
def test_each_placement_augments_what_it_says(place: placement.Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def count(x: torch.Tensor, policy: str, **_: object) -> torch.Tensor:
        seen.append(len(x))
        return x

    monkeypatch.setattr(biggan, "diff_augment", count)
    recipe = replace(recipes.biggan_cifar(ch=1), batch=2, d_steps=1, policy="cutout", placement=place)
    training = biggan.Training(recipe)
    training.step(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    in_d = 2 * (place.reals + place.fakes)
    assert seen == [n for n in (in_d, 2 * place.generator) if n]


def test_the_average_copies_before_its_start_but_not_at_first() -> None:
    recipe = biggan.Recipe(ema_start=3)
    assert [biggan.ema_decay(recipe, i) for i in range(5)] == [0.9999, 0.0, 0.0, 0.9999, 0.9999]


def test_the_memory_layout_changes_rounding_only() -> None:
    recipe = replace(recipes.biggan_cifar(ch=4), batch=4, d_steps=1, policy="translation,cutout")
    reals = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = []
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.manual_seed(0)
        training = biggan.Training(recipe, memory_format=layout)
        losses.append(training.step(reals, torch.arange(4), torch.Generator().manual_seed(1)))
    for name, value in losses[0].items():
        assert torch.isclose(value, losses[1][name], rtol=1e-5, atol=1e-6)
