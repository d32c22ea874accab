"""StyleGAN2 beyond the goldens: architectures, recipes, regularisers' turns, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gengauge.reference.diffaugment import recipes, stylegan2
from gengauge.reference.nets.stylegan2 import ops
from gengauge.reference.nets.stylegan2.discriminator import Discriminator
from gengauge.reference.nets.stylegan2.generator import Generator

WIDTH = {"channel_base": 128, "channel_max": 8}


def tiny(recipe: stylegan2.Recipe, **more: object) -> stylegan2.Recipe:
    """A recipe with small networks of 16 px and batch 4."""
    return replace(
        recipe,
        batch=4,
        generator={"z_dim": 8, "w_dim": 8, "img_resolution": 16, "synthesis_kwargs": WIDTH},
        discriminator={"img_resolution": 16, **WIDTH},
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_architecture_has_its_layers_and_second_derivatives(architecture: str) -> None:
    torch.manual_seed(0)
    g = Generator(8, 0, 8, 16, synthesis_kwargs={**WIDTH, "architecture": architecture})
    d = Discriminator(img_resolution=16, architecture=architecture, **WIDTH)  # type: ignore[arg-type]
    names = {name for name, _ in g.named_parameters()}
    assert ("synthesis.b8.torgb.weight" in names) == (architecture == "skip")
    assert ("synthesis.b8.skip.weight" in names) == (architecture == "resnet")
    names = {name for name, _ in d.named_parameters()}
    assert ("b8.fromrgb.weight" in names) == (architecture == "skip")
    assert ("b16.skip.weight" in names) == (architecture == "resnet")
    pictures = g(torch.randn(4, 8)).requires_grad_()
    assert pictures.shape == (4, 3, 16, 16)
    (gradient,) = torch.autograd.grad(d(pictures).sum(), pictures, create_graph=True)
    gradient.square().sum().backward()
    grad = d.b16.conv0.weight.grad  # type: ignore[union-attr]
    assert grad is not None
    assert grad.abs().sum() > 0


def test_a_label_changes_the_picture_and_the_score() -> None:
    torch.manual_seed(0)
    g = Generator(8, 3, 8, 16, synthesis_kwargs=WIDTH).eval()
    d = Discriminator(3, 16, **WIDTH)  # type: ignore[arg-type]
    z, c = torch.randn(4, 8), torch.eye(3)[[0, 1, 2, 0]]
    assert not torch.equal(g(z, c, noise_mode="const"), g(z, c.roll(1, 0), noise_mode="const"))
    x = torch.randn(4, 3, 16, 16)
    assert not torch.equal(d(x, c), d(x, c.roll(1, 0)))


def test_noise_comes_from_the_generator_that_is_given() -> None:
    torch.manual_seed(0)
    g = Generator(8, 0, 8, 16, synthesis_kwargs=WIDTH).eval()
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(1.0)
    z = torch.randn(2, 8)
    a, b, c = (g(z, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("recipe", "turns"),
    [
        (recipes.stylegan2_tf("low-shot"), [["Gmain", "Dboth"]] * 5),
        (
            recipes.stylegan2_pytorch("low-shot", 16),
            [["Gmain", "Greg", "Dmain", "Dreg"], *[["Gmain", "Dmain"]] * 3, ["Gmain", "Greg", "Dmain"]],
        ),
        (recipes.stylegan2_pytorch("cifar", 16), [["Gmain", "Dmain", "Dreg"], *[["Gmain", "Dmain"]] * 4]),
    ],
    ids=["tf", "pytorch-low_shot", "pytorch-cifar"],
)
def test_the_phases_take_turns_as_published(
    recipe: stylegan2.Recipe, turns: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = stylegan2.Training(tiny(recipe))
    run, seen = training._run, []

    def note(phase: str, *args: object) -> dict[str, torch.Tensor]:
        seen.append(phase)
        return run(phase, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_run", note)
    for expected in turns:
        seen.clear()
        losses = training.step(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64))
        assert seen == expected
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_lazy_regularisation_lowers_the_rate() -> None:
    training = stylegan2.Training(tiny(recipes.stylegan2_pytorch("cifar", 16)))
    for side, share in (("G", 4 / 5), ("D", 16 / 17)):
        group = training.optimisers[side].param_groups[0]
        assert group["lr"] == pytest.approx(0.0025 * share)
        assert group["betas"] == pytest.approx((0.0, 0.99**share))


def test_the_average_has_the_half_life_of_the_recipe() -> None:
    tf = recipes.stylegan2_tf("cifar")
    assert stylegan2.ema_beta(tf, 999_999) == 0
    assert stylegan2.ema_beta(tf, 1_000_000) == pytest.approx(0.5 ** (32 / 1_000_000))
    port = recipes.stylegan2_pytorch("cifar")
    assert stylegan2.ema_beta(port, 64_000) == pytest.approx(0.5 ** (64 / 3_200))
    assert stylegan2.ema_beta(port, 10**9) == pytest.approx(0.5 ** (64 / 500_000))


def test_style_mixing_is_drawn_for_each_sample_in_the_tensorflow_recipe() -> None:
    torch.manual_seed(0)
    recipe = tiny(recipes.stylegan2_tf("low-shot"))
    g, _ = recipe.networks()
    z = torch.randn(64, 8)
    _, ws = stylegan2.make_pictures(g, z, None, recipe, generator=torch.Generator().manual_seed(0))
    lengths = {(sample == sample[0]).all(1).sum().item() for sample in ws}
    assert len(lengths) > 2
    per_batch = replace(recipe, mixing_per="batch")
    _, ws = stylegan2.make_pictures(g, z, None, per_batch, generator=torch.Generator().manual_seed(0))
    assert len({(sample == sample[0]).all(1).sum().item() for sample in ws}) == 1


def test_recipes_have_known_names() -> None:
    for make in (recipes.stylegan2_tf, recipes.stylegan2_pytorch):
        with pytest.raises(ValueError, match=r"no recipe 'low_shot'; there are .*low-shot"):
            make("low_shot")  # type: ignore[arg-type, operator]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="channel_base 64 leaves no channels at 128 px"):
        Generator(8, 0, 8, 128, synthesis_kwargs={"channel_base": 64})
    with pytest.raises(ValueError, match="4, 8, 16"):
        Generator(img_resolution=24)
    g = Generator(8, 0, 8, 16, synthesis_kwargs=WIDTH)
    with pytest.raises(ValueError, match=r"z must be \(N, 8\)"):
        g(torch.randn(2, 9))
    with pytest.raises(ValueError, match=r"ws must be \(N, 6, 8\)"):
        g.synthesis(torch.randn(2, 5, 8))
    d = Discriminator(img_resolution=16, **WIDTH)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pictures must be \(N, 3, 16, 16\)"):
        d(torch.randn(4, 3, 8, 8))
    with pytest.raises(ValueError, match="groups of 4"):
        d(torch.randn(5, 3, 16, 16))
    with pytest.raises(ValueError, match="one way only"):
        ops.conv2d_resample(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3), torch.ones(4, 4), up=2, down=2)
