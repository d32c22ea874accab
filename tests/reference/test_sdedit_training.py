"""Training of SDEdit's prior beyond the goldens: times, a loss that falls, several processes, bfloat16, resuming."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.checkpoint import load_newest
from gengauge.benchmarks.training.loop import Schedule, Trained, read_log, train
from gengauge.datasets.sets import InMemory
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sdedit.schedule import DDPM
from gengauge.reference.sdedit.training import Recipe, Training, antithetic, draw_times, noise_loss

TINY = Recipe(UNetConfig(8, 8, (1, 2), 1, (4,), temb_ch=16, num_groups=4), batch=8, lr=2e-3)


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(recipe: Recipe = TINY, processes: int = 1) -> Training:
    torch.manual_seed(0)
    return Training(recipe, processes=processes)


def draws(count: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return draw_times(count, 1000, generator, "cpu"), torch.randn(count, 3, 8, 8, generator=generator)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_times_are_antithetic(count: int) -> None:
    times = draw_times(count, 1000, seeded(), "cpu")
    assert (times.dtype, times.shape) == (torch.int64, (count,))
    assert ((times >= 0) & (times < 1000)).all()
    half = count // 2 + 1
    assert torch.equal(times[half:], 999 - times[: count - half])
    drawn = torch.randint(0, 1000, (half,), generator=seeded())
    assert torch.equal(times, antithetic(drawn, 1000)[:count])


def test_times_cover_the_schedule_evenly() -> None:
    times = torch.cat([draw_times(64, 10, seeded(i), "cpu") for i in range(200)])
    assert ((times.bincount() / len(times) - 0.1).abs() < 0.01).all()


def test_the_loss_is_the_sum_over_a_picture_and_the_mean_of_the_batch() -> None:
    x0, e = torch.randn(2, 2, 3, 4, 4, generator=seeded())
    t, abar = torch.tensor([0, 999]), DDPM.abar
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.extend((x, t))
        return torch.zeros_like(x)

    loss = noise_loss(network, x0, t, e, abar)
    assert loss == pytest.approx(e.square().sum().item() / 2, rel=1e-6)
    assert torch.allclose(seen[0][0], x0[0], atol=0.05)  # of the first time nearly all is the picture
    assert torch.allclose(seen[0][1], e[1], atol=0.03)  # of the last nearly all is the noise
    assert seen[1].tolist() == [0.0, 999.0]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_few_steps_on_a_constant_picture_reduce_the_loss(bfloat16: bool) -> None:
    training = built(replace(TINY, bfloat16=bfloat16))
    picture = torch.full((8, 3, 8, 8), 0.5)
    losses = [training.step(picture, generator=seeded(i))["loss"].item() for i in range(60)]
    assert all(loss > 0 for loss in losses)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert training.iteration == 60


def test_bfloat16_is_of_the_products_only() -> None:
    kinds: dict[str, torch.dtype] = {}
    training = built(replace(TINY, bfloat16=True))
    network = training.networks["network"]
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, out, name=name: kinds.__setitem__(name, out.dtype))
    picture = torch.full((8, 3, 8, 8), 0.5)
    found = training.step(picture, draws=draws())
    assert set(kinds.values()) == {torch.bfloat16}
    assert {p.dtype for part in training.networks.values() for p in part.parameters()} == {torch.float32}
    assert {found["loss"].dtype, found["gradient_norm"].dtype} == {torch.float32}
    exact = built().step(picture, draws=draws())
    assert found["loss"] == pytest.approx(exact["loss"].item(), rel=0.02)
    assert found["loss"] != exact["loss"]


def test_draws_that_are_given_are_those_of_the_generator() -> None:
    picture = torch.rand(8, 3, 8, 8, generator=seeded(1))
    drawn, given = (
        built().step(picture, **options)  # type: ignore[arg-type]
        for options in ({"generator": seeded()}, {"draws": draws()})
    )
    assert torch.equal(drawn["loss"], given["loss"])
    assert not torch.equal(built().step(picture, draws=draws(seed=1))["loss"], given["loss"])


def test_gradients_of_several_processes_are_averaged_before_they_are_cut() -> None:
    """Two halves of a batch, averaged, are the whole batch; nothing else of a step is called for."""
    times, noise = draws()
    picture = torch.rand(8, 3, 8, 8, generator=seeded(1))
    recipe = replace(TINY, clip=0.5)
    whole = built(recipe)
    norm = whole.step(picture, draws=(times, noise))["gradient_norm"]
    halves = [built(recipe, processes=2) for _ in range(2)]
    assert [half.batch for half in halves] == [4, 4]
    gradients: list[list[Tensor]] = []
    calls = []

    def keep(parameters: Iterable[nn.Parameter]) -> None:
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])

    def average(parameters: Iterable[nn.Parameter]) -> None:
        calls.append(len(gradients))
        for p, *parts in zip(parameters, *gradients, strict=True):
            p.grad = torch.stack(parts).mean(0)

    for half, part in zip(halves, (slice(0, 4), slice(4, 8)), strict=True):
        half.step(picture[part], draws=(times[part], noise[part]), average=keep)
    again = built(recipe, processes=2)
    found = again.step(picture[:4], draws=(times[:4], noise[:4]), average=average)
    assert calls == [2]
    assert found["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert norm > 0.5
    for name, value in whole.networks["network"].named_parameters():
        other = again.networks["network"].get_parameter(name)
        assert other.grad is not None
        assert value.grad is not None
        assert torch.allclose(other.grad, value.grad, atol=1e-5), name
    total = torch.stack([p.grad.norm() for p in again.networks["network"].parameters() if p.grad is not None]).norm()
    assert total == pytest.approx(0.5, rel=1e-4)


def test_the_average_follows_without_warm_up() -> None:
    training = built(replace(TINY, ema=0.75))
    before = {name: value.clone() for name, value in training.networks["ema"].named_parameters()}
    training.step(torch.zeros(8, 3, 8, 8), draws=draws())
    for name, value in training.networks["network"].named_parameters():
        ours = training.networks["ema"].get_parameter(name)
        assert torch.allclose(ours, 0.75 * before[name] + 0.25 * value, atol=1e-7)
        assert not ours.requires_grad


def test_a_training_that_goes_on_from_a_state_has_the_weights_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (20, 3, 8, 8), generator=seeded(), dtype=torch.uint8)

    def run(folder: Path, iterations: int) -> Trained:
        return train(
            lambda: Training(replace(TINY, clip=1.0)),
            Batches(InMemory(pixels, None, 0, "noise"), epoch_orders, 0, 8, mirror=True),
            folder,
            Schedule(iterations, snapshot_every=10, save_every=2, log_every=1),
            {"name": "tiny"},
            seed=0,
            device="cpu",
            keep="ema",
        )

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "stopped", 3)
    resumed = run(tmp_path / "stopped", 6)
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "whole")
    assert [line["iteration"] for line in read_log(tmp_path / "whole")] == list(range(1, 7))
    assert whole.last.keys() == resumed.last.keys()
    assert all(torch.equal(value, resumed.last[name]) for name, value in whole.last.items())
    states = [load_newest(tmp_path / name) for name in ("whole", "stopped")]
    assert states[0] is not None
    assert states[1] is not None
    assert {name.split(".")[0] for name in states[0].tensors} == {"network", "ema", "adam"}
    for name, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[name]), name
