"""GANgealing's training beyond the goldens: recipes, schedules, starts, resuming, losses, bad input."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gengauge.benchmarks.training.alignment import NoPictures
from gengauge.benchmarks.training.checkpoint import load_newest
from gengauge.benchmarks.training.loop import Schedule, Trained, read_log, train
from gengauge.reference.gangealing import losses, recipes, schedules
from gengauge.reference.gangealing.blending import Bands, blend, composite
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.classifier_training import ClassifierRecipe, ClassifierTraining
from gengauge.reference.gangealing.latents import DirectionInterpolator, kmeans_plus_plus
from gengauge.reference.gangealing.pca import incremental_pca
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer
from gengauge.reference.gangealing.splatting import splat
from gengauge.reference.gangealing.starting import learner, sample_w
from gengauge.reference.gangealing.training import Draws, Recipe, Training, smaller
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.perceptual import PerceptualLoss, _TapDistance, from_torchvision
from gengauge.reference.nets.stylegan2.rosinality import Generator

SIZE = 64
TINY = Recipe(
    loss="lpips",
    ndirs=2,
    inject_index=4,
    batch=2,
    annealing=2,
    schedule=schedules.WarmRestarts(4.0),
    generator={"size": SIZE, "style_dim": 8, "n_mlp": 1, "base_channels": 8},
    transformer={"flow_size": SIZE, "base_channels": 8},
)
CLUSTERS = replace(TINY, num_heads=2, flips=True, sample_from_full_res=True)
SIMILARITY = replace(TINY, transforms="similarity", tv_weight=0.0, flow_identity_weight=0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Pixels(PerceptualLoss):
    """Means of small squares instead of features: what is learnt is not looked at."""

    def by_layer(self, a: Tensor, b: Tensor) -> list[Tensor]:
        return self.between(self.features(a), self.features(b))

    def features(self, x: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(x, 4)]

    def between(self, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        return [(x - y).square().mean((1, 2, 3)) for x, y in zip(a, b, strict=True)]


def built(recipe: Recipe = TINY, **more: Any) -> Training:
    torch.manual_seed(0)
    g = Generator(**recipe.generator)
    ll = DirectionInterpolator(
        torch.linalg.qr(torch.randn(g.style_dim, recipe.ndirs)).Q.T,
        torch.zeros(1, g.style_dim),
        g.n_latent,
        recipe.inject_index,
        recipe.num_heads,
    )
    return Training(recipe, g, ll, _LOSS, **more)


torch.manual_seed(0)
_NETWORK = LPIPS("vgg")
_LOSS = Pixels("lpips", _NETWORK)


# ----------------------------------------------------------------------------------------------------------------------
# Recipes and schedules


def test_the_presets_are_the_published_ones() -> None:
    # loss, tv, directions, inject, padding, heads
    table = {
        "CATS_SSL": ("vgg_ssl", 1000, 1, 5, "border", 1),
        "CATS": ("lpips", 2500, 1, 5, "border", 1),
        "DOGS": ("lpips", 2500, 1, 5, "border", 1),
        "BICYCLES": ("lpips", 2500, 1, 5, "reflection", 1),
        "TVS": ("lpips", 2500, 1, 5, "reflection", 1),
        "CARS": ("lpips", 2500, 5, 6, "reflection", 4),
        "CELEBA": ("lpips", 2500, 512, 6, "border", 1),
    }
    for name, values in table.items():
        r: Recipe = getattr(recipes, name)
        assert (r.loss, r.tv_weight, r.ndirs, r.inject_index, r.padding_mode, r.num_heads) == values, name
        assert (r.lr, r.ll_lr, r.batch, r.annealing, r.iterations) == (1e-3, 1e-2, 40, 150_000, 1_500_000)
        assert (r.schedule.period, r.schedule.decay, r.schedule.tm) == (37_500, 0.9, 2)
        assert (r.flips, r.sample_from_full_res) == (name == "CARS", name == "CARS")
        assert r.generator.get("num_fp16_res", 0) == (4 if name in ("BICYCLES", "TVS") else 0)
    assert recipes.CELEBA.generator["size"] == recipes.CELEBA.transformer["supersize"] == 128
    assert schedules.PUBLISHED.ends(150_000, 1_500_000)[-1] == recipes.STOP
    with torch.device("meta"):
        assert sum(p.numel() for p in recipes.CATS.build().parameters()) == 43_054_278
        assert sum(p.numel() for p in recipes.CARS.build().parameters()) == 51_052_440


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": "similarity"}, "a similarity has no flow"),
        ({"flips": True}, "set num_heads"),
        ({"batch": 0}, "1 or more"),
        ({"annealing": -1}, "not negative"),
    ],
)
def test_recipes_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Recipe(), **changes)


def test_rates_stay_and_then_fall_again_and_again() -> None:
    s = schedules.WarmRestarts(10, 0.5)
    assert [schedules.rate_factor(i, 5, s) for i in (1, 5, 6)] == [1, 1, 1]
    assert schedules.rate_factor(11, 5, s) == pytest.approx(0.5)  # half of the first cycle
    assert schedules.rate_factor(16, 5, s) == pytest.approx(0.5)  # the second cycle begins
    assert schedules.rate_factor(26, 5, s) == pytest.approx(0.25)
    assert s.ends(5, 100) == [4, 14, 34, 74]
    even = schedules.WarmRestarts(10, 0.5, 1)
    assert [even.factor(i) for i in (0, 5, 10, 25)] == pytest.approx([1, 0.5, 0.5, 0.125])
    assert even.ends(5, 30) == [4, 14, 24]
    with pytest.raises(ValueError, match="make a schedule"):
        schedules.WarmRestarts(0)
    for how in ("cosine", "linear", "fast_slow"):
        found = [schedules.psi(i, 10, how) for i in range(12)]  # type: ignore[arg-type]
        assert found[0] == 1
        assert found[10:] == [0, 0]
        assert found == sorted(found, reverse=True)
    with pytest.raises(ValueError, match="annealed by"):
        schedules.psi(1, 10, "other")  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------------
# Steps


@pytest.mark.parametrize("recipe", [TINY, CLUSTERS, SIMILARITY], ids=["both", "clusters", "similarity"])
def test_steps_train_what_they_should(recipe: Recipe) -> None:
    training = built(recipe)
    before = {k: v.clone() for k, v in training.g.state_dict().items()}
    names = {"perceptual", "full", "psi"} | (set() if recipe is SIMILARITY else {"tv", "flow_identity"})
    for i in range(4):
        out = training.step(generator=seeded(i))
        assert set(out) == names
        assert all(math.isfinite(float(value)) for value in out.values())
    assert out["psi"] == 0
    assert training.rates()["T"] == pytest.approx(1e-3 * training.recipe.schedule.factor(2))
    assert all(torch.equal(v, before[k]) for k, v in training.g.state_dict().items())
    head = "warp_head.linear.weight" if recipe is SIMILARITY else "stns.0.warp_head.linear.weight"
    now, mean = training.t.get_parameter(head), training.t_ema.get_parameter(head)
    assert training.ll.coefficients.abs().min() > 0
    assert 0 < mean.abs().max() < 0.1 * now.abs().max()
    assert not any(p.requires_grad for p in training.t_ema.parameters())


def test_a_frozen_code_stays() -> None:
    training = built(replace(TINY, freeze_ll=True))
    training.step(generator=seeded())
    assert not training.ll.coefficients.any()
    assert set(training.optimisers) == {"T"}


def test_draws_replace_the_generator() -> None:
    z = torch.randn(2, 8, generator=seeded(5))
    noise = [torch.randn(2, 1, 4 << ((i + 1) // 2), 4 << ((i + 1) // 2), generator=seeded(i)) for i in range(9)]
    draws = Draws(z, noise, noise)
    first, second = (built().step(generator=seeded(s), draws=draws)["full"] for s in (0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, built().step(generator=seeded(0))["full"])


def test_gradients_are_averaged_before_the_steps() -> None:
    seen: list[int] = []

    def average(parameters: Iterable[nn.Parameter]) -> None:
        seen.append(sum(1 for p in parameters if p.grad is not None))

    training = built()
    training.step(generator=seeded(), average=average)
    assert seen == [sum(1 for _ in training.t.parameters()), 1]


def run(folder: Path, iterations: int, recipe: Recipe) -> Trained:
    schedule = Schedule(iterations, snapshot_every=100, save_every=2, log_every=1)
    return train(lambda: built(recipe), NoPictures(), folder, schedule, {"a": 1}, seed=3, device="cpu", keep="T_ema")


@pytest.mark.parametrize("recipe", [TINY, CLUSTERS], ids=["both", "clusters"])
def test_a_training_that_was_killed_goes_on_as_if_it_was_not(tmp_path: Path, recipe: Recipe) -> None:
    whole = run(tmp_path / "whole", 4, recipe)
    run(tmp_path / "parts", 2, recipe)
    parts = run(tmp_path / "parts", 4, recipe)
    assert all(torch.equal(whole.last[k], parts.last[k]) for k in whole.last)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")
    a, b = (load_newest(tmp_path / name) for name in ("whole", "parts"))
    assert a is not None
    assert b is not None
    assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def test_what_does_not_belong_together_is_told() -> None:
    training = built()
    for change, message in (
        ({"num_heads": 2}, "2 heads have as many codes"),
        ({"loss": "vgg_ssl"}, "perceptual loss is vgg_ssl"),
    ):
        with pytest.raises(ValueError, match=message):
            Training(replace(TINY, **change), training.g, training.ll, _LOSS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose a divisor"):
        Training(TINY, training.g, training.ll, _LOSS, processes=3)
    with pytest.raises(ValueError, match="choose a divisor"):
        smaller(torch.zeros(1, 3, 96, 96), 64)
    assert isinstance(SIMILARITY.build(), SpatialTransformer)
    assert isinstance(TINY.build(), ComposedSTN)


def test_a_classifier_learns_the_nearest_cluster() -> None:
    training = built(CLUSTERS)
    training.step(generator=seeded())
    before = {k: v.clone() for k, v in training.t.state_dict().items()}
    classifier = ResnetClassifier(SIZE, num_heads=4, base_channels=8)
    parts = (training.g, training.t, training.ll, _LOSS)
    how = ClassifierRecipe(schedule=schedules.WarmRestarts(500))
    learning = ClassifierTraining(CLUSTERS, *parts, classifier, how)
    draws = Draws(torch.randn(2, 8, generator=seeded(1)))
    found = [learning.step(generator=seeded(2), draws=draws) for _ in range(40)]
    assert found[-1]["cross_entropy"] < 0.5 * found[0]["cross_entropy"]
    assert found[-1]["accuracy"] == 1
    assert all(torch.equal(v, before[k]) for k, v in training.t.state_dict().items())
    assert learning.optimisers["classifier"].param_groups[0]["lr"] == pytest.approx(1e-3 * how.schedule.factor(39))
    with pytest.raises(ValueError, match="4 clusters have as many classes, not 2"):
        ClassifierTraining(CLUSTERS, *parts, ResnetClassifier(SIZE, num_heads=2, base_channels=8))


# ----------------------------------------------------------------------------------------------------------------------
# The start: directions, codes, centres


def test_a_learner_begins_at_the_mean() -> None:
    torch.manual_seed(0)
    g = Generator(**TINY.generator)
    found = learner(g, 2, 4, generator=seeded(), samples=200)
    assert torch.equal(found.codes(), found.lat_mean)
    w = torch.randn(3, 8, generator=seeded())
    target = found(w, 0.25)
    assert torch.allclose(target[:, 0], 0.75 * found.lat_mean + 0.25 * w, atol=1e-6)
    assert torch.equal(target[:, 4], w)
    assert torch.equal(found(w, 1.0), w[:, None].expand(-1, 10, -1))
    with pytest.raises(ValueError, match=r"latents are \(N, 8\)"):
        found(w[0], 0.5)
    with pytest.raises(ValueError, match="needs a perceptual loss"):
        learner(g, 2, 4, num_heads=2, samples=200)


def test_several_codes_begin_where_pictures_differ() -> None:
    torch.manual_seed(0)
    g = Generator(**TINY.generator)
    first, again = (learner(g, 8, 4, 3, _LOSS, generator=seeded(), samples=200, cluster_samples=30) for _ in range(2))
    codes = first.codes()
    assert torch.equal(codes, again.codes())
    assert torch.pdist(codes).min() > 0.01
    generator = seeded()
    sample_w(g, 200, generator)
    w = sample_w(g, 30, generator)
    assert (codes[:, None] - w).norm(dim=2).amin(1).max() < 1e-4  # with all directions the codes are samples


def test_centres_are_far_from_each_other() -> None:
    points = torch.tensor([0.0, 0.1, 10.0, 10.1, 30.0])
    found = kmeans_plus_plus(3, 5, lambda i: (points - points[i]).abs(), seeded(1))
    assert {round(points[i].item() / 10) for i in found.indices} == {0, 1, 3}
    assert len(found.probabilities) == 2
    assert all(p.sum() == pytest.approx(1) for p in found.probabilities)
    alike = kmeans_plus_plus(2, 4, lambda i: torch.zeros(4), seeded())
    assert alike.probabilities[0].tolist() == [0.25] * 4
    with pytest.raises(ValueError, match="3 centres"):
        kmeans_plus_plus(3, 2, lambda i: points)
    with pytest.raises(ValueError, match="must be samples"):
        kmeans_plus_plus(2, 5, lambda i: points, picks=(5,))
    with pytest.raises(ValueError, match="distances are"):
        kmeans_plus_plus(2, 5, lambda i: points[:3])


def test_directions_of_one_batch_are_exact() -> None:
    x = torch.randn(60, 6, generator=seeded()) * torch.arange(1, 7)
    found = incremental_pca(x, 6, 60)
    centred = x.double() - x.double().mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred / 59).flip(0)
    assert torch.allclose(found.explained_variance, values)
    assert torch.allclose(incremental_pca(x, 6, 7).explained_variance, values)  # nothing is forgotten
    assert (found.components.gather(1, found.components.abs().argmax(1, keepdim=True)) > 0).all()
    for rows, count, batch in ((x, 7, None), (x[:3], 4, None), (x, 4, 2), (x[0], 1, None)):
        with pytest.raises(ValueError, match="components"):
            incremental_pca(rows, count, batch)


# ----------------------------------------------------------------------------------------------------------------------
# Losses


def test_losses_by_cluster() -> None:
    # Two pictures, two heads, mirrored ones after them.
    found = losses.by_cluster(torch.arange(8.0), 2, flips=True)
    assert found.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    lowest, which = losses.best_cluster(torch.tensor([[3.0, 1, 1], [0, 2, 2]]))
    assert (lowest.tolist(), which.tolist()) == ([1, 0], [1, 0])
    assert losses.of_cluster(torch.arange(8), torch.tensor([2, 1]), 2, flips=True).tolist() == [4, 3]
    for bad in (
        lambda: losses.by_cluster(torch.zeros(6), 2, flips=True),
        lambda: losses.best_cluster(torch.zeros(3)),
        lambda: losses.total_variation(torch.zeros(2, 3, 3)),
        lambda: losses.total_variation(torch.zeros(2, 1, 3, 2)),
        lambda: losses.flow_identity(torch.zeros(2, 3, 3, 3)),
        lambda: losses.cluster_accuracy(torch.zeros(2, 3), torch.zeros(2, 4)),
        lambda: losses.cluster_accuracy(torch.zeros(2, 3), torch.zeros(2, 3), 4),
        lambda: losses.smooth_enough(torch.zeros(3), 1.5),
        lambda: losses.smooth_enough(torch.zeros(0), 0.5),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - each says what it takes
            bad()


def test_the_self_supervised_trunk_comes_by_torchvisions_names() -> None:
    state = {name.split(".", 2)[2]: v for name, v in _NETWORK.state_dict().items() if name.startswith("net.")}
    other = LPIPS("vgg")
    other.load_state_dict(from_torchvision({k: v + 1 for k, v in state.items()}, other))
    assert torch.equal(other.get_parameter("net.slice3.10.bias"), _NETWORK.get_parameter("net.slice3.10.bias") + 1)
    with pytest.raises(ValueError, match="not the features of a VGG16"):
        from_torchvision({"0.weight": torch.zeros(1)}, other)
    loss = PerceptualLoss("vgg_ssl", other).train()
    assert not other.training
    with pytest.raises(ValueError, match="one shape"):
        loss(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="pictures are"):
        loss(torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="lpips or vgg_ssl"):
        PerceptualLoss("l2", other)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["lpips", "vgg_ssl"])
def test_distances_of_two_batches_are_those_of_their_features(kind: Any) -> None:
    """The gradient is written out for two batches; torch makes that of features."""
    loss = PerceptualLoss(kind, _NETWORK)
    a, b = (torch.rand(2, 3, 48, 32, generator=seeded(i)).mul(2).sub(1).requires_grad_() for i in range(2))
    found, wanted = loss.by_layer(a, b), loss.between(loss.features(a), loss.features(b))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    probe = torch.tensor([0.3, -2.0])
    ours, theirs = (torch.autograd.grad((loss.total(parts) * probe).sum(), (a, b)) for parts in (found, wanted))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4 * y.abs().max().item())
    (alone,) = torch.autograd.grad((loss(a, b.detach()) * probe).sum(), a)
    torch.testing.assert_close(alone, ours[0], rtol=0, atol=1e-5 * alone.abs().max().item())


@pytest.mark.parametrize("weights", [None, torch.rand(4, generator=torch.Generator().manual_seed(2)).double()])
def test_gradients_of_a_taps_distance(weights: Tensor | None) -> None:
    x, y = (torch.randn(2, 4, 3, 5, generator=seeded(i)).double().requires_grad_() for i in range(2))
    assert torch.autograd.gradcheck(lambda a, b: _TapDistance.apply(a, b, weights), (x, y))
    with torch.no_grad():
        x[:, :, 1, 2] = 0  # a place where nothing is active, as ReLU leaves some
    gradient = torch.autograd.grad(_TapDistance.apply(x, y, weights).sum(), (x, y))
    assert all(part.isfinite().all() for part in gradient)


# ----------------------------------------------------------------------------------------------------------------------
# Splatting and blending


def test_splats_do_not_depend_on_chunks_and_pass_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    coords = torch.rand(2, 40, 2, generator=seeded()) * 20 - 2
    values = torch.rand(2, 40, 3, generator=seeded(1), requires_grad=True)
    whole = splat(coords, values, 1.3, (12, 16))
    monkeypatch.setattr("gengauge.kernels.splatting._MOST_VALUES", 2000)
    assert torch.allclose(splat(coords, values, 1.3, (12, 16), way="torch"), whole, atol=1e-6)
    whole.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
    assert not splat(torch.full((1, 1, 2), -3.0), torch.ones(1, 1, 1), 5.0, (4, 4)).any()
    assert splat(torch.zeros(1, 0, 2), torch.zeros(1, 0, 1), 1.0, (4, 4), "soft").shape == (1, 1, 4, 4)
    for change in ({"sigma": 0.0}, {"values": torch.zeros(2, 39, 3)}, {"coords": torch.zeros(2, 40, 3)}):
        with pytest.raises(ValueError, match=r"sigma is|points are"):
            splat(**{"coords": coords, "values": values, "sigma": 1.0, "size": (4, 4), **change})  # type: ignore[arg-type]


def test_blending_whole_pictures_changes_nothing() -> None:
    edit, background = torch.rand(2, 1, 3, 20, 24, generator=seeded()).unbind()
    whole = torch.ones(1, 1, 20, 24)
    for put in (composite, blend):
        assert torch.allclose(put(edit, background, whole), edit, atol=1e-5)
        assert torch.allclose(put(edit, background, 0 * whole), background, atol=1e-5)
        assert torch.allclose(put(edit, background, whole, 0.5), (edit + background) / 2, atol=1e-5)
        with pytest.raises(ValueError, match="belong together"):
            put(edit, background, whole[..., :3])
    assert torch.allclose(blend(edit, background, whole, bands=Bands(1)), edit)
    with pytest.raises(ValueError, match="odd number"):
        Bands(taps=4)
