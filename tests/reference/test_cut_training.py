"""CUT's training beyond the goldens: presets, keys without gradients, draws, schedules, pools, resuming, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gengauge.benchmarks.training.checkpoint import load_newest
from gengauge.benchmarks.training.loop import Schedule, Trained, read_log, train
from gengauge.datasets.unpaired import Transform, UnpairedBatches, UnpairedFolders
from gengauge.reference.cut import contrastive, cyclegan
from gengauge.reference.cut.losses import ImagePool, LinearSchedule, PoolDraws, gan_loss
from gengauge.reference.cut.patches import PatchSampleF, draw_patches, patch_nce
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, CYCLEGAN_2017, FASTCUT, SINCUT
from gengauge.reference.nets.translation_resnet import ResnetGenerator, as_published

NETWORKS: dict[str, Any] = {"generator": {"n_blocks": 4, "ngf": 2}, "discriminator": {"ndf": 2}}
TINY = replace(CUT, nce_layers=(0, 4, 8, 12), nc=8, num_patches=12, **NETWORKS)
TINY_FAST = replace(FASTCUT, nce_layers=(0, 4, 8, 12), nc=8, num_patches=12, **NETWORKS)
TINY_SIN = replace(
    SINCUT, nc=8, batch=2, generator={"ngf": 1, "crop_size": 16}, discriminator={"ndf": 1, "crop_size": 16}
)
TINY_CYCLE = replace(CYCLEGAN, pool_size=3, **NETWORKS)
PRESETS = {"cut": TINY, "fastcut": TINY_FAST, "sincut": TINY_SIN}


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(recipe: contrastive.Recipe, **more: Any) -> contrastive.Training:
    torch.manual_seed(0)
    return contrastive.Training(recipe, **more)


def reals(recipe: contrastive.Recipe, seed: int = 0) -> Tensor:
    side = 16 if recipe.networks == "stylegan2" else 32
    return torch.rand(2 * recipe.batch, 3, side, side, generator=seeded(seed)) * 2 - 1


# ----------------------------------------------------------------------------------------------------------------------
# The published recipes


def test_the_presets_are_the_published_ones() -> None:
    shared: dict[str, Any] = {"lambda_gan": 1.0, "nc": 256, "temperature": 0.07}
    unpaired = shared | {
        **{"all_negatives": False, "num_patches": 256, "nce_layers": (0, 4, 8, 12, 16), "gan_mode": "lsgan"},
        **{"lr": 2e-4, "betas": (0.5, 0.999), "batch": 1, "load_size": 286, "crop_size": 256},
        **{"lambda_r1": 0.0, "lambda_identity": 0.0},
    }
    single = shared | {
        **{"all_negatives": True, "num_patches": 1, "nce_layers": (0, 2, 4), "gan_mode": "nonsaturating"},
        **{"lr": 2e-3, "betas": (0.0, 0.99), "batch": 16, "load_size": 1024, "crop_size": 64},
        **{"lambda_r1": 1.0, "lambda_identity": 1.0},
    }
    table: list[tuple[contrastive.Recipe, dict[str, Any], tuple[int, int]]] = [
        (CUT, {"nce_idt": True, "lambda_nce": 1.0, "flip_equivariance": False, **unpaired}, (200, 200)),
        (FASTCUT, {"nce_idt": False, "lambda_nce": 10.0, "flip_equivariance": True, **unpaired}, (150, 50)),
        (SINCUT, {"nce_idt": True, "lambda_nce": 4.0, "flip_equivariance": False, **single}, (8, 8)),
    ]
    for recipe, values, epochs in table:
        assert {key: getattr(recipe, key) for key in values} == values
        assert (recipe.schedule.n_epochs, recipe.schedule.n_epochs_decay) == epochs
    assert (SINCUT.generator["ngf"], SINCUT.discriminator["ndf"], SINCUT.preprocess) == (10, 8, "zoom_and_patch")
    assert (CYCLEGAN.lambda_a, CYCLEGAN.lambda_b, CYCLEGAN.lambda_identity, CYCLEGAN.pool_size) == (10, 10, 0.5, 50)
    assert (CYCLEGAN.lr, CYCLEGAN.betas, CYCLEGAN.gan_mode) == (2e-4, (0.5, 0.999), "lsgan")
    assert not CYCLEGAN_2017.generator["antialias"]
    assert [recipe.schedule.epochs for recipe in (CUT, FASTCUT, SINCUT)] == [400, 200, 16]
    # Iterations on horse2zebra, whose larger side has 1334 pictures, and of SinCUT.
    assert 1334 * CUT.schedule.epochs == 533_600
    assert 1334 * FASTCUT.schedule.epochs == 266_800
    assert 100_000 // SINCUT.batch * SINCUT.schedule.epochs == 100_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_patches": 0}, "at least one place"),
        ({"nce_layers": ()}, "at least one place"),
        ({"nce_idt": False, "lambda_identity": 1.0}, "only made with nce_idt"),
        ({"all_negatives": True, "num_patches": 1}, "no negatives"),
    ],
)
def test_recipes_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CUT, **changes)


@pytest.mark.parametrize(
    ("build", "giga"),
    [
        (lambda: contrastive.Training(CUT, device="meta"), 322.63),  # the keys' pass and the positives' product less
        (lambda: contrastive.Training(replace(CUT, as_published=True), device="meta"), 357.10),
        (lambda: contrastive.Training(replace(FASTCUT, as_published=True), device="meta"), 190.85),
        # Without a pool, which must look at its pictures.
        (lambda: cyclegan.Training(replace(CYCLEGAN, pool_size=0), device="meta"), 624.90),
        (lambda: cyclegan.Training(replace(CYCLEGAN, pool_size=0, lambda_identity=0.0), device="meta"), 433.21),
    ],
    ids=["cut", "cut-published", "fastcut", "cyclegan", "cyclegan-no-identity"],
)
def test_operations_of_a_step_at_128_px(build: Callable[[], Any], giga: float) -> None:
    """In thousand millions of floating-point operations, as counted of the published code where it is not ours."""
    with torch.device("meta"):
        training = build()
    with FlopCounterMode(display=False) as counter:
        training.step(torch.empty(2, 3, 128, 128, device="meta"))
    assert round(counter.get_total_flops() / 1e9, 2) == giga


def test_the_rate_falls_once_an_epoch_and_never_below_nothing() -> None:
    schedule = LinearSchedule(2, 3)
    assert [round(schedule.factor(i), 12) for i in range(8)] == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    training = built(replace(TINY, schedule=schedule), iterations_per_epoch=2)
    rates = []
    for _ in range(6):
        training.step(reals(TINY), generator=seeded())
        rates += sorted({group["lr"] for o in training.optimisers.values() for group in o.param_groups})
    assert rates == pytest.approx([2e-4] * 4 + [1.5e-4] * 2)
    training.iteration = 6  # as where a training goes on from a state
    training.step(reals(TINY), generator=seeded())
    assert training.optimisers["F"].param_groups[0]["lr"] == pytest.approx(1e-4)
    plain = built(replace(TINY, schedule=schedule))
    plain.iteration = 1000
    plain.step(reals(TINY), generator=seeded())
    assert plain.optimisers["G"].param_groups[0]["lr"] == 2e-4


# ----------------------------------------------------------------------------------------------------------------------
# Steps


@pytest.mark.parametrize("name", PRESETS)
def test_keys_without_gradients_give_the_same_numbers(name: str) -> None:
    recipe = PRESETS[name]
    lean, published = built(replace(recipe, keys="without_gradients")), built(replace(recipe, keys="published"))
    for i in range(3):
        ours = lean.step(reals(recipe, i), generator=seeded(i))
        theirs = published.step(reals(recipe, i), generator=seeded(i))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for part, network in lean.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, published.networks[part].state_dict()[key]), f"{part}.{key}"


@pytest.mark.parametrize("name", PRESETS)
def test_keys_that_are_reused_give_the_same_numbers_up_to_rounding(name: str) -> None:
    recipe = PRESETS[name]
    lean, reused = built(replace(recipe, keys="without_gradients")), built(recipe)
    passes = []
    for training in (lean, reused):
        count = [0]
        first = training.g.get_submodule("model.1" if recipe.networks == "resnet" else "encoder.convs.1")
        first.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        passes.append(count)
    saved = 0
    for i in range(3):
        before = [count[0] for count in passes]
        ours = lean.step(reals(recipe, i), generator=seeded(i))
        theirs = reused.step(reals(recipe, i), generator=seeded(i))
        saved += sum(now[0] - then for now, then in zip(passes[:1], before[:1], strict=True))
        saved -= sum(now[0] - then for now, then in zip(passes[1:], before[1:], strict=True))
        for key in ours:
            assert theirs[key] == pytest.approx(ours[key].item(), rel=1e-5 if i == 0 else 1e-3), key
    assert saved == {"cut": 3, "sincut": 3, "fastcut": 3 - flips(3)}[name]  # CUT's keys of A and B are one pass


def flips(steps: int) -> int:
    """How many of the steps of the test above are mirrored."""
    return sum(bool(torch.rand((), generator=seeded(i)) < 0.5) for i in range(steps))


def test_a_generator_whose_pictures_depend_on_each_other_reuses_nothing() -> None:
    networks = {"generator": {**NETWORKS["generator"], "norm": "batch"}}
    ways = [built(replace(TINY, keys=keys, **networks)) for keys in ("without_gradients", "reused")]
    found = [training.step(reals(TINY), generator=seeded()) for training in ways]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def gradients(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Of all weights; biases may be noise."""
    return {
        f"{name}.{key}": value.grad
        for name, network in networks.items()
        for key, value in network.named_parameters()
        if value.grad is not None and key.endswith("weight")
    }


@pytest.mark.parametrize("name", [*PRESETS, "cyclegan"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_is_the_published_one_up_to_rounding(name: str, batch: int) -> None:
    found = []
    for published in (True, False):
        recipe: Any = TINY_CYCLE if name == "cyclegan" else PRESETS[name]
        more: dict[str, Any] = {} if name == "cyclegan" else {"misread": True}  # as the operations of torch do here
        more |= {"num_patches": 2} if name == "sincut" else {}
        recipe = replace(recipe, batch=batch, as_published=published, **more)
        torch.manual_seed(0)
        module: Any = cyclegan if name == "cyclegan" else contrastive
        training = module.Training(recipe, memory_format=torch.contiguous_format)
        x = torch.rand(2 * batch, 3, *[16 if name == "sincut" else 32] * 2, generator=seeded()) * 2 - 1
        losses = training.step(x, generator=seeded())
        found.append((losses, gradients(training.networks)))
    (theirs, their_gradients), (ours, our_gradients) = found
    assert ours.keys() == theirs.keys()
    assert our_gradients.keys() == their_gradients.keys()
    for key, value in theirs.items():
        assert ours[key].item() == pytest.approx(value.item(), rel=1e-5), key
    for key, gradient in their_gradients.items():
        assert (our_gradients[key] - gradient).abs().max() <= 2e-4 * gradient.abs().max(), key


def test_the_published_form_makes_each_pass_on_its_own() -> None:
    passes: dict[bool, list[tuple[str, int]]] = {}
    for published in (True, False):
        training = built(replace(TINY, as_published=published))
        seen = passes.setdefault(published, [])
        for name, network in (("G", training.g), ("D", training.d)):
            index = "model.1" if name == "G" else "model.0"
            network.get_submodule(index).register_forward_hook(
                lambda _, inputs, __, name=name, seen=seen: seen.append((name, len(inputs[0])))
            )
        training.step(reals(TINY), generator=seeded())
    assert passes[True] == [("G", 2), *[("D", 1)] * 3, *[("G", 1)] * 4]
    assert passes[False] == [("G", 2), ("D", 2), ("D", 1), ("G", 2)]


@pytest.mark.parametrize("misread", [False, True])
def test_the_gradient_of_taps_of_one_picture(misread: bool) -> None:
    """As differences tell it, unless `misread`: then as torch has it in the published code on a CPU."""
    recipe = replace(TINY, nce_layers=(12,), misread=misread)
    g, _, f = (network.double() for network in built(recipe).networks.values())
    assert isinstance(g, ResnetGenerator)
    assert isinstance(f, PatchSampleF)
    source, target = reals(TINY).double().chunk(2)
    weight = g.get_parameter("model.12.conv_block.5.weight")
    step = torch.randn(weight.shape, generator=seeded(), dtype=torch.float64) * 1e-6

    with torch.no_grad():
        keys = g.encode(source, recipe.nce_layers)  # which do not follow the weight below

    def loss() -> Tensor:
        return contrastive.contrast(g, f, source, target, recipe, places=[torch.arange(0, 64, 3)], keys=keys)[0]

    (gradient,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        before = weight.clone()
        weight.copy_(before + step)
        above = loss()
        weight.copy_(before - step)
        difference = ((above - loss()) / 2).item()
    if not misread:
        assert (gradient * step).sum().item() == pytest.approx(difference, rel=1e-4)
    else:
        weight.data.copy_(before)
        as_published(g)
        assert torch.allclose(gradient, torch.autograd.grad(loss(), weight)[0], rtol=1e-8)
        assert (gradient * step).sum().item() != pytest.approx(difference, rel=1e-1)


def test_taps_of_a_whole_pass_are_those_of_encoding() -> None:
    for arguments, taps in (({}, (0, 4, 8, 12)), ({"antialias": False, "antialias_up": False}, (4, 8))):
        g = ResnetGenerator(4, 2, **arguments)  # type: ignore[arg-type]
        x = torch.randn(1, 3, 32, 32, generator=seeded())
        with torch.no_grad():
            out, found = g.with_taps(x, taps)
            assert torch.equal(out, g(x))
            assert all(torch.equal(a, b) for a, b in zip(found, g.encode(x, taps), strict=True))


def test_keys_without_gradients_save_memory() -> None:
    def kept(recipe: contrastive.Recipe) -> int:
        """The bytes that one contrastive term keeps for its backward pass."""
        g, _, f = recipe.build()
        seen: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        source, target = reals(recipe).requires_grad_(False).chunk(2)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = contrastive.contrast(g, f, source, target, recipe, generator=seeded())
        assert loss.requires_grad
        return sum(seen.values())

    assert kept(TINY) < 0.7 * kept(replace(TINY, keys="published"))


@pytest.mark.parametrize("name", PRESETS)
def test_draws_that_are_given_are_those_of_the_generator(name: str) -> None:
    recipe = PRESETS[name]
    drawn, given = built(recipe), built(recipe)
    for training in (drawn, given):
        for module in training.g.modules():
            if type(module).__name__ == "NoiseInjection":
                nn.init.ones_(module.weight)  # type: ignore[arg-type]
    x = reals(recipe)
    source = seeded(5)
    flip = bool(torch.rand((), generator=source) < 0.5) if recipe.flip_equivariance else None
    noise = None
    if recipe.networks == "stylegan2":
        noise = [torch.randn(2 * recipe.batch, 1, 16, 16, generator=source)]
    sizes = [tuple(tap.shape[2:]) for tap in given.g.encode(x, recipe.nce_layers)]
    terms = 2 if recipe.nce_idt else 1
    places = [p for _ in range(terms) for p in draw_patches(sizes, recipe.num_patches, source, "cpu")]  # type: ignore[arg-type]
    ours = drawn.step(x, generator=seeded(5))
    theirs = given.step(x, draws=contrastive.Draws(flip, places, noise))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_flip_mirrors_the_input_and_the_features_back() -> None:
    training = built(TINY_FAST)
    a, b = reals(TINY_FAST).chunk(2)
    with torch.no_grad():
        plain = contrastive.translate(training.g, a.flip(3), None)
        flipped = contrastive.translate(training.g, a, None, flip=True)
        assert plain.identity is None
        assert plain.keys() is None
        assert torch.equal(plain.fake, flipped.fake)
        assert torch.allclose(contrastive.translate(training.g, a, b, flip=True).fake, flipped.fake, atol=1e-6)
        # The tap of the picture itself is mirrored without a trace.
        recipe = replace(TINY_FAST, nce_layers=(0,), num_patches=38 * 38)
        f = PatchSampleF([3], 8)
        places = [torch.arange(38 * 38)]
        straight = contrastive.contrast(training.g, f, a, b, recipe, False, places)
        mirrored = contrastive.contrast(training.g, f, a, b.flip(3), recipe, True, places)
    assert mirrored.item() == pytest.approx(straight.item(), rel=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_moves_every_network_and_d_sees_no_gradient_of_g(name: str) -> None:
    training = built(PRESETS[name])
    before = {part: [p.clone() for p in network.parameters()] for part, network in training.networks.items()}
    found = training.step(reals(PRESETS[name]), generator=seeded())
    assert training.iteration == 1
    assert all(value.ndim == 0 and torch.isfinite(value) and not value.requires_grad for value in found.values())
    for part, network in training.networks.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[part], network.parameters(), strict=True)), part
    expected = {"D_fake", "D_real", "D", "G_GAN", "NCE", "G"}
    expected |= {"NCE_Y"} if PRESETS[name].nce_idt else set()
    expected |= {"D_R1", "idt"} if name == "sincut" else set()
    assert found.keys() == expected


def test_the_small_generator_has_fewer_taps_than_are_asked_for() -> None:
    """Of three taps it has two; their sum is divided by three all the same, as in the published code."""
    small = {**TINY_SIN.generator, "n_blocks": 2, "inject_noise": False}
    recipe = replace(TINY_SIN, generator=small, nce_layers=(0, 2, 4))
    pair = replace(recipe, nce_layers=(0, 2))
    places = [torch.tensor([3]), torch.tensor([5]), torch.tensor([7]), torch.tensor([9])]
    found = [built(r).step(reals(r), draws=contrastive.Draws(places=places)) for r in (recipe, pair)]
    for key in ("NCE", "NCE_Y"):
        assert found[0][key] == pytest.approx(found[1][key].item() * 2 / 3, rel=1e-6)


def test_the_terms_are_averaged_and_the_weight_is_linear() -> None:
    found = built(TINY).step(reals(TINY), generator=seeded())
    assert found["G"] == pytest.approx((found["G_GAN"] + (found["NCE"] + found["NCE_Y"]) / 2).item(), rel=1e-6)
    double = built(replace(TINY, lambda_nce=2.0)).step(reals(TINY), generator=seeded())
    assert double["NCE"] == pytest.approx(2 * found["NCE"].item(), rel=1e-6)


def test_without_the_contrastive_loss_f_stays_and_nothing_breaks() -> None:
    training = built(replace(TINY, lambda_nce=0.0))
    before = [p.clone() for p in training.f.parameters()]
    found = training.step(reals(TINY), generator=seeded())
    assert found["G"] == found["G_GAN"]
    assert all(torch.equal(a, b) for a, b in zip(before, training.f.parameters(), strict=True))
    without_mlp = built(replace(TINY, use_mlp=False))
    assert set(without_mlp.optimisers) == {"G", "D"}
    assert torch.isfinite(without_mlp.step(reals(TINY), generator=seeded())["G"])


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_step_refuses_another_batch(count: int) -> None:
    for training in (built(TINY), cyclegan.Training(TINY_CYCLE)):
        with pytest.raises(ValueError, match=f"1 reals of A and as many of B after them, not {count}"):
            training.step(torch.zeros(count, 3, 32, 32))


def test_gradients_are_averaged_before_each_optimiser() -> None:
    for training, expected in (
        (built(TINY), ["D", "G", "F"]),
        (cyclegan.Training(TINY_CYCLE), ["G_A", "G_B", "D_A", "D_B"]),
    ):
        sizes = {tuple(p.data_ptr() for p in n.parameters()): name for name, n in training.networks.items()}
        called: list[str] = []

        def average(parameters: Iterable[nn.Parameter], sizes: Any = sizes, called: list[str] = called) -> None:
            given = list(parameters)
            assert any(p.grad is not None for p in given)
            pointers = tuple(p.data_ptr() for p in given)
            for own, name in sizes.items():
                if own and any(pointers[i : i + len(own)] == own for i in range(len(pointers))):
                    called.append(name)

        training.step(reals(TINY), generator=seeded(), average=average)
        assert called == expected


# ----------------------------------------------------------------------------------------------------------------------
# PatchNCE, F, losses, pools


def test_patch_nce_by_hand() -> None:
    q, k = (torch.nn.functional.normalize(torch.randn(6, 4, generator=seeded(i)), dim=1) for i in (0, 1))
    loss = patch_nce(q, k, 2, temperature=0.5)
    together = patch_nce(q, k, 2, temperature=0.5, all_negatives=True)
    for i in range(6):
        group = range(0, 3) if i < 3 else range(3, 6)
        for mine, keys in ((loss, group), (together, range(6))):
            scores = {j: math.exp((q[i] @ k[j]).item() / 0.5) for j in keys}
            assert mine[i].item() == pytest.approx(-math.log(scores[i] / sum(scores.values())), abs=1e-5)


@pytest.mark.parametrize("fill", [-10.0, -1.0, 0.0])
@pytest.mark.parametrize("all_negatives", [True, False])
def test_patch_nce_is_the_published_one_in_values_and_gradients(fill: float, all_negatives: bool) -> None:
    found = []
    for apart in (True, False):
        q, k = (
            torch.nn.functional.normalize(torch.randn(12, 4, generator=seeded(i)), dim=1).requires_grad_()
            for i in (0, 1)
        )
        loss = patch_nce(q, k, 3, all_negatives=all_negatives, fill=fill, apart=apart)
        loss.sum().backward()
        assert k.grad is None
        found.append((loss, q.grad))
    (theirs, their_gradient), (ours, our_gradient) = found
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert our_gradient is not None
    assert their_gradient is not None
    assert torch.allclose(our_gradient, their_gradient, rtol=1e-4, atol=1e-4)


def test_groups_of_pictures_have_their_own_places() -> None:
    f = PatchSampleF([3], 8)
    maps = torch.randn(4, 3, 5, 5, generator=seeded())
    places = torch.stack([torch.randperm(25, generator=seeded(i))[:6] for i in range(2)])
    together = f([maps], [places])[0]
    apart = [f([maps[2 * i : 2 * i + 2]], [places[i]])[0] for i in range(2)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-6)


def test_patch_nce_refuses_rows_of_another_batch() -> None:
    rows = torch.zeros(6, 4)
    for batch in (0, 4, 5):
        with pytest.raises(ValueError, match=f"6 rows cannot be those of {batch} pictures"):
            patch_nce(rows, rows, batch)
    with pytest.raises(ValueError, match="rows of one shape"):
        patch_nce(rows, rows[:3], 1)


def test_f_refuses_other_maps() -> None:
    f = PatchSampleF([3, 4], 8)
    maps = [torch.zeros(1, 3, 5, 5), torch.zeros(1, 4, 5, 5)]
    places = [torch.arange(3)] * 2
    for features, where in ((maps[:1], places[:1]), (maps[::-1], places), (maps, places[:1])):
        with pytest.raises(ValueError, match="of the taps"):
            f(features, where)
    assert [tuple(out.shape) for out in f(maps, places)] == [(3, 8), (3, 8)]
    assert [tuple(out.shape) for out in f(maps, None)] == [(1, 8, 5, 5)] * 2


def test_places_are_distinct_and_at_most_all() -> None:
    few, all_of_them = draw_patches([(10, 10), (3, 3)], 20, seeded(), "cpu")
    assert len(set(few.tolist())) == 20
    assert sorted(all_of_them.tolist()) == list(range(9))


def test_an_unknown_loss() -> None:
    with pytest.raises(ValueError, match="'hinge'"):
        gan_loss(torch.zeros(1), True, "hinge")  # type: ignore[arg-type]


def test_the_pool_gives_back_earlier_fakes() -> None:
    pool = ImagePool(2)
    fakes = torch.arange(4.0).view(4, 1, 1, 1)
    assert torch.equal(pool.query(fakes[:2]), fakes[:2])
    out = pool.query(fakes[2:], draws=[PoolDraws(0.9, 0), PoolDraws(0.1, -1)])
    assert out.flatten().tolist() == [0, 3]
    assert pool.pictures.flatten().tolist() == [2, 1]
    with pytest.raises(ValueError, match="no draw left"):
        pool.query(fakes[:1], draws=[])
    with pytest.raises(ValueError, match="the pool holds pictures"):
        pool.query(torch.zeros(1, 1, 2, 2))
    again = ImagePool(2)
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.pictures, pool.pictures)
    assert torch.equal(again.query(fakes, seeded()), pool.query(fakes, seeded()))
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    assert not ImagePool(0).query(x * 2).requires_grad


def test_half_of_the_fakes_come_from_the_pool() -> None:
    pool = ImagePool(5)
    generator = seeded()
    pool.query(torch.full((5, 1, 1, 1), -1.0))
    new = [pool.query(torch.full((1, 1, 1, 1), float(i)), generator).item() == i for i in range(400)]
    assert 0.42 < sum(new) / len(new) < 0.58


def test_identities_cost_nothing_where_they_are_not_weighed() -> None:
    training = cyclegan.Training(replace(TINY_CYCLE, lambda_identity=0.0))
    found = training.step(reals(TINY), generator=seeded())
    assert found.keys() == {"G_A", "G_B", "cycle_A", "cycle_B", "G", "D_A", "D_B"}
    parts = sum(found[key] for key in ("G_A", "G_B", "cycle_A", "cycle_B"))
    assert found["G"] == pytest.approx(parts.item(), rel=1e-6)  # type: ignore[union-attr]


# ----------------------------------------------------------------------------------------------------------------------
# In the one training loop


@pytest.fixture
def folders(tmp_path: Path) -> UnpairedFolders:
    random = np.random.default_rng(0)
    for side, count in (("A", 3), ("B", 5)):
        folder = tmp_path / "set" / f"train{side}"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (40, 44, 3), np.uint8)).save(folder / f"{i}.png")
    return UnpairedFolders(tmp_path / "set")


@pytest.mark.parametrize(
    "build",
    [
        lambda: contrastive.Training(TINY, iterations_per_epoch=5),
        lambda: contrastive.Training(TINY_FAST, iterations_per_epoch=5),
        lambda: cyclegan.Training(TINY_CYCLE, iterations_per_epoch=5),
    ],
    ids=["cut", "fastcut", "cyclegan"],
)
def test_a_training_that_goes_on_has_the_weights_of_one_that_was_not_stopped(
    build: Callable[[], Any], folders: UnpairedFolders, tmp_path: Path
) -> None:
    def run(folder: Path, iterations: int) -> Trained:
        name = "G" if isinstance(build(), contrastive.Training) else "G_A"
        return train(
            build,
            UnpairedBatches(folders, Transform(load_size=36, crop_size=32), 0, 1),  # type: ignore[arg-type]
            folder,
            Schedule(iterations, snapshot_every=100, save_every=3, log_every=1),
            {"name": "tiny"},
            seed=0,
            device="cpu",
            keep=name,
        )

    whole = run(tmp_path / "whole", 7)
    run(tmp_path / "stopped", 4)
    resumed = run(tmp_path / "stopped", 7)
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "whole")
    assert all(torch.equal(value, resumed.last[name]) for name, value in whole.last.items())
    states = [load_newest(tmp_path / name) for name in ("whole", "stopped")]
    assert states[0] is not None
    assert states[1] is not None
    for key, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[key]), key


def test_a_few_steps_lower_the_contrastive_loss() -> None:
    recipe = replace(TINY, lr=2e-3, lambda_gan=0.0)
    training = built(recipe)
    x = reals(recipe)
    losses = [training.step(x, generator=seeded(i))["NCE"].item() for i in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_sincut_is_not_shared_by_processes() -> None:
    with pytest.raises(ValueError, match="with several the loss is another"):
        contrastive.Training(SINCUT, "meta", processes=2)
