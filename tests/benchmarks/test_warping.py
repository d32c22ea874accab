"""Training of GAN Warping's edits: batches of epochs, resuming with the same losses, two processes, what is learnt."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gengauge.benchmarks.training.checkpoint import load_newest
from gengauge.benchmarks.training.loop import Diverged, Trained, read_log
from gengauge.benchmarks.training.processes import Processes, join
from gengauge.benchmarks.training.warping import EditedPictures, train_edit
from gengauge.reference.gan_warping.low_rank import Update, render
from gengauge.reference.gan_warping.training import ColourWeights, Recipe
from gengauge.reference.gan_warping.warps import normalised_grid, pixel_grid, warp, with_corners
from gengauge.reference.nets.stylegan2.generator import Generator

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 16
RECIPE = Recipe(layers="2", rank=2, stylemix=(3, 6), l1=1.0, lpips=0.0, batch=2, iterations=8, lr=0.05)
# Nothing random but the start: what two processes learn is what one does.
STILL = replace(RECIPE, stylemix=None, batch=4, rates="constant")


def generator(**more: Any) -> Generator:
    torch.manual_seed(0)
    g = Generator(
        8,
        0,
        8,
        SIDE,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 128, "channel_max": 8, **more},
    )
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.1)
    return g.eval().requires_grad_(False)


def ws_of(g: Generator, count: int, seed: int = 1) -> Tensor:
    return g.mapping(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), None)


def grids(count: int, x: float = 10.0) -> Tensor:
    """The middle of each picture moved to the right."""
    rows = with_corners(torch.tensor([[7.0, 7, x, 7]]), (SIDE, SIDE))
    return normalised_grid(pixel_grid(rows, (SIDE, SIDE))).expand(count, -1, -1, -1)


def run(work: Path, recipe: Recipe = RECIPE, pictures: int = 5, **more: Any) -> tuple[Update, Trained]:
    options: dict[str, Any] = {"config": {"a": 1}, "seed": 3, "device": "cpu", "every": 3, "labels": grids(pictures)}
    options |= more
    g = options.pop("g", None) or generator()
    labels, config = options.pop("labels"), options.pop("config")
    return train_edit(recipe, g, ws_of(g, pictures), labels, work, config, **options)


# ----------------------------------------------------------------------------------------------------------------------
# Batches


def numbered(count: int, batch: int, seed: int = 0, **more: int) -> EditedPictures:
    numbers = torch.arange(float(count))
    return EditedPictures(numbers.view(-1, 1, 1), -numbers, batch, seed, **more)


def drawn(source: EditedPictures, start: int, count: int) -> list[list[int]]:
    found = []
    for ws, labels in islice(source.start(start, "cpu"), count):
        assert torch.equal(ws[:, 0, 0], -labels)  # each picture with what belongs to it
        found.append(ws[:, 0, 0].int().tolist())
    return found


def test_an_epoch_has_whole_batches_of_different_pictures_and_each_has_its_order() -> None:
    found = drawn(numbered(7, 3), 0, 12)
    epochs = [found[i] + found[i + 1] for i in range(0, 12, 2)]
    for epoch in epochs:
        assert len(set(epoch)) == 6
        assert set(epoch) <= set(range(7))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    left_out = {next(iter(set(range(7)) - set(epoch))) for epoch in epochs}
    assert len(left_out) > 1  # the rest is not always the same picture
    assert found != drawn(numbered(7, 3, seed=1), 0, 12)
    whole = drawn(numbered(4, 4), 0, 3)
    assert all(sorted(batch) == [0, 1, 2, 3] for batch in whole)


@pytest.mark.parametrize("iteration", [0, 1, 2, 3, 7])
def test_batches_do_not_depend_on_where_they_start(iteration: int) -> None:
    assert drawn(numbered(7, 3), iteration, 4) == drawn(numbered(7, 3), 0, iteration + 4)[iteration:]


def test_processes_share_a_batch() -> None:
    parts = [drawn(numbered(9, 4, process=i, processes=2), 0, 5) for i in (0, 1)]
    for whole, first, second in zip(drawn(numbered(9, 4), 0, 5), *parts, strict=True):
        assert len(first) == len(second) == 2
        assert sorted(first + second) == sorted(whole)


def test_pictures_that_fill_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="an edit of 7 pictures fills no batch of 8: edit more pictures, or take"):
        numbered(7, 8)
    with pytest.raises(ValueError, match="an edit of 0 pictures"):
        numbered(0, 1)
    with pytest.raises(ValueError, match="4 cannot be shared by 3 processes"):
        numbered(7, 4, processes=3)
    with pytest.raises(ValueError, match="not 3 and 2"):
        EditedPictures(torch.zeros(3, 1, 1), torch.zeros(2), 1, 0)
    bad = torch.zeros(3, 1, 1)
    bad[1] = torch.nan
    for ws, labels, message in ((bad, -bad[:, 0, 0].nan_to_num(), "ws"), (bad.nan_to_num(), bad, "warp or strokes")):
        with pytest.raises(ValueError, match=f"picture 1's {message} hold"):
            EditedPictures(ws, labels, 1, 0)


# ----------------------------------------------------------------------------------------------------------------------
# Training


class Killed(BaseException):
    """What a training does not expect."""


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_training_that_was_killed_goes_on_as_if_it_was_not(tmp_path: Path, stop: int) -> None:
    def kill(done: int, total: int, doing: str) -> None:
        if done == stop:
            raise Killed

    expected, whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "parts", tell=kill)
    found, parts = run(tmp_path / "parts")
    assert [line["iteration"] for line in read_log(tmp_path / "whole")] == list(range(1, 9))
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")
    assert all(torch.equal(value, parts.last[name]) for name, value in whole.last.items())
    states = [load_newest(tmp_path / name) for name in ("whole", "parts")]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert all(torch.equal(value, states[1].tensors[name]) for name, value in states[0].tensors.items())
    # What comes back is what was learnt, done with learning.
    assert all(torch.equal(value, whole.last[name]) for name, value in expected.state_dict().items())
    assert all(torch.equal(value, found.tensors()[name]) for name, value in expected.tensors().items())
    assert not any(parameter.requires_grad for parameter in expected.parameters())


def test_a_finished_training_is_read_and_another_one_refused(tmp_path: Path) -> None:
    first, _ = run(tmp_path)
    again, _ = run(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert len(read_log(tmp_path)) == RECIPE.iterations
    strokes = torch.zeros(5, 5, SIDE, SIDE)
    others: tuple[tuple[Recipe, dict[str, Any]], ...] = (
        (replace(RECIPE, lr=0.1), {}),
        (RECIPE, {"config": {"a": 2}}),
        (RECIPE, {"colours": ColourWeights(), "labels": strokes}),
    )
    for recipe, more in others:
        with pytest.raises(ValueError, match="another configuration"):
            run(tmp_path, recipe, **more)


@pytest.mark.parametrize(
    "recipe",
    [replace(RECIPE, rank=None, layers="all"), replace(RECIPE, kind="all", layers="all", only_weight=False)],
    ids=["whole weights", "all parameters"],
)
def test_every_kind_of_update_is_kept(tmp_path: Path, recipe: Recipe) -> None:
    found, trained = run(tmp_path, recipe)
    state = load_newest(tmp_path)
    assert state is not None
    assert {name for name, _ in found.named_parameters()} == set(trained.last)
    assert all(torch.isfinite(value).all() for value in trained.last.values())
    base = generator().state_dict()
    assert all((value - base[name]).any() for name, value in found.tensors().items())


def test_strokes_colour_held_out_pictures(tmp_path: Path) -> None:
    g = generator(use_noise=False)
    strokes = torch.zeros(8, 5, SIDE, SIDE)
    strokes[:, :3], strokes[:, 3, :8] = 1.0, 1
    strokes[:, 4, 8:] = 1
    recipe = replace(RECIPE, layers="4", rank=None, iterations=40, only_weight=False)
    update, _ = run(tmp_path, recipe, 8, g=g, labels=strokes, colours=ColourWeights())
    ws = ws_of(g, 8, seed=99)
    base, made = render(g, ws), render(g, ws, update.tensors())
    assert (made[:, :, :8] - 1).abs().mean() < 0.9 * (base[:, :, :8] - 1).abs().mean()
    log = read_log(tmp_path)
    assert log[-1]["L1_color"] < log[0]["L1_color"]
    assert log[0]["L1_background"] == pytest.approx(0, abs=1e-6)


def test_the_loss_falls_and_held_out_pictures_get_nearer_to_their_warps(tmp_path: Path) -> None:
    g = generator(use_noise=False)
    recipe = replace(RECIPE, layers="all", rank=6, batch=8, iterations=80, lr=0.02)
    update, _ = run(tmp_path, recipe, 16, g=g, every=80)
    losses = [line["L1"] for line in read_log(tmp_path)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    ws = ws_of(g, 32, seed=99)
    base, made = render(g, ws), render(g, ws, update.tensors())
    target = warp(base, grids(32))
    before, after = ((one - target).abs().mean((1, 2, 3)) for one in (base, made))
    assert after.mean() < 0.8 * before.mean()
    assert (after < before).float().mean() > 0.9


def test_a_training_that_diverges_says_so_once(tmp_path: Path) -> None:
    def broken(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3)) * float("nan")

    with pytest.raises(Diverged, match="the training diverged: LPIPS is nan at iteration 1"):
        run(tmp_path, replace(RECIPE, lpips=1.0), distance=broken)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000000"]
    # In the middle of a training, by a rate at which a bias makes squares overflow.
    high = replace(RECIPE, layers="4", rank=None, only_weight=False, lr=1e30, mse=1.0)
    with pytest.raises(Diverged, match=r"diverged: MSE is (nan|inf) at iteration [2-8]$"):
        run(tmp_path / "high", high)


def test_bad_input_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    for changes, message in (
        ({"pictures": 1}, "fills no batch of 2"),
        ({"recipe": replace(RECIPE, layers="9")}, "within 0 and 4"),
        ({"recipe": replace(RECIPE, lpips=1.0)}, "needs its network"),
        ({"labels": grids(4)}, "not 5 and 4"),
        ({"labels": grids(5)[:, :8]}, "size of what is compared, 16 x 16"),
        ({"processes": Processes(0, 3)}, "cannot be shared by 3"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "bad", **changes)
    assert not (tmp_path / "bad" / "log.jsonl").exists()


def two(work: Path) -> Update:
    """The training of `STILL` by the processes that there are."""
    group, device = join("cpu")
    return run(work, STILL, g=generator(use_noise=False), device=device, processes=group)[0]


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    launch = [*(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    one = two(tmp_path / "one")
    found = [torch.load(tmp_path / f"two.{i}.pt", weights_only=True) for i in (0, 1)]
    for name, value in one.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), "the processes' weights went apart"
        torch.testing.assert_close(found[0][name], value, rtol=0, atol=1e-4)
    assert one.factors()["synthesis.b8.conv1.weight_lambda"].abs().max() > 0.1


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    torch.save(two(folder).state_dict(), folder.with_name(f"{folder.name}.{os.environ['RANK']}.pt"))
