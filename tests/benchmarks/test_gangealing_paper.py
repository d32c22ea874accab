"""GANgealing at paper scale, small: published layouts of sets and checkpoints, from the files to the numbers."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gangealing_files import transformer_for
from gangealing_tiny import (
    BOXES,
    CHANNELS,
    FLOW,
    PAIRS,
    PAPER,
    SIZE,
    SIZES,
    checkpoint,
    nearest_cell,
    transformer,
    write_bicycles,
    write_birds,
    write_checkpoint,
)
from goldens import files, load
from torch import Tensor
from typer.testing import CliRunner

from gengauge.benchmarks import cli
from gengauge.benchmarks.core.experiments import Context, Experiment, Measurement, Picture
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.metrics.pck import pck
from gengauge.benchmarks.papers import gangealing
from gengauge.benchmarks.papers.gangealing import released
from gengauge.benchmarks.papers.gangealing.evaluation import (
    Batch,
    Protocol,
    Transfers,
    congealed,
    left_in_place,
    transfer,
)
from gengauge.benchmarks.papers.gangealing.figures import transferred_points
from gengauge.benchmarks.papers.gangealing.loading import RELEASED, load_file, load_published, weights_key
from gengauge.benchmarks.papers.gangealing.sets import batches, distinct
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.cub import read_cub
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.spair import read_spair
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.gangealing import recipes
from gengauge.reference.gangealing.heads import SimilarityHead
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN

pytestmark = pytest.mark.usefixtures("one_thread")


def experiment_of(key: str) -> Experiment:
    return next(e for e in PAPER.experiments if e.key == key)


def context_of(key: str, work: Path, data: Path | None, **changed: Any) -> Context:
    settings = replace(experiment_of(key).scales["paper"].settings, **changed)
    return Context(settings, 0, "paper", "cpu", data, work, lambda done, total, doing: None)


def run(
    key: str, work: Path, data: Path | None = None, **changed: Any
) -> tuple[dict[tuple[str, str], Measurement], list[Picture]]:
    """What an experiment yields; all that it declares must be among it."""
    experiment = experiment_of(key)
    told: list[tuple[int, int]] = []
    context = context_of(key, work, data, **changed)
    context = replace(context, progress=lambda done, total, doing: told.append((done, total)))
    found = list(experiment.run(context))
    measured = {(m.row, m.column): m for m in found if isinstance(m, Measurement)}
    assert set(measured) == {(r, c.key) for r in experiment.rows for c in experiment.columns}
    for m in measured.values():
        assert m.low is not None
        assert m.high is not None
        assert 0 <= m.low <= m.high <= 100
        assert m.samples
    assert told or key.startswith("protocols")
    assert all(0 < done <= total for done, total in told)
    return measured, [p for p in found if isinstance(p, Picture)]


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a checkpoint where the user's file of a released model would be."""

    def to(name: str, network: ComposedSTN, **changed: Any) -> Path:
        path = write_checkpoint(tmp_path / f"{name}.pt", network, **changed)
        monkeypatch.setenv(weights.WEIGHTS[weights_key(name)].variable, str(path))
        return path

    return to


# ----------------------------------------------------------------------------------------------------------------------
# What the numbers must be, reckoned here from the annotations


def square(name: str, places: list[tuple[float, float]]) -> Tensor:
    """Places of a picture in its padded square, by the published preparation."""
    width, height = SIZES[name]
    scale = SIZE / max(width, height)
    offset = torch.tensor([(SIZE - round(width * scale)) // 2, (SIZE - round(height * scale)) // 2])
    return torch.tensor(places) * scale + offset


def expected_hits(estimate: Any, alpha: float) -> tuple[list[int], list[int]]:
    """For each pair how many points come near and how many there are, by an estimate of the target's points."""
    correct, counted = [], []
    for index, (source, target, points) in enumerate(PAIRS):
        a = square(source, [places[0] for places in points.values()])
        b = square(target, [places[1] for places in points.values()])
        longest = 30 * SIZE / max(SIZES[target])  # the target's box is 10 x 30 px
        distances = (estimate(index, a) - b).norm(dim=1)
        assert (distances / (alpha * longest) - 1).abs().min() > 1e-4  # none of them hangs on rounding
        correct.append(int((distances <= alpha * longest).sum()))
        counted.append(len(points))
    return correct, counted


def rounded(matrix_a: Tensor, matrix_b: Tensor, places: Tensor) -> Tensor:
    """Transfer by two similarities (2, 3), through the cells of a flow that does nothing, with the published scales."""
    inside = (2 * places / (SIZE - 1) - 1) * (SIZE - 1) / SIZE
    aligned = (inside - matrix_a[:, 2]) @ torch.linalg.inv(matrix_a[:, :2]).T
    cells = nearest_cell(aligned)
    # The published quirk: cells are scaled by the picture's size, and what lies beyond the outer cells is theirs.
    back = ((2 * cells / (FLOW - 1) - 1) * (SIZE - 1) / SIZE).clamp(-1 + 1 / FLOW, 1 - 1 / FLOW)
    there = back @ matrix_b[:, :2].T + matrix_b[:, 2]
    return (there * SIZE / (SIZE - 1) + 1) * (SIZE - 1) / 2


IDENTITY = torch.eye(2, 3)


def test_a_transformer_that_does_nothing_rounds_points_to_its_cells(tmp_path: Path, give: Any) -> None:
    data = write_bicycles(tmp_path / "data")
    give("bicycle", transformer())
    found, pictures = run("spair-bicycle", tmp_path / "work", data)
    correct, counted = expected_hits(lambda index, a: rounded(IDENTITY, IDENTITY, a), 0.1)
    assert 0 < sum(correct) < sum(counted)
    (measured,) = found.values()
    assert measured.value == pytest.approx(100 * sum(correct) / sum(counted))
    assert measured.samples == 3
    assert "0 with a mirrored picture" in measured.note
    assert [p.name for p in pictures] == ["pairs", "average"]
    assert pictures[0].pixels.shape == (3 * 256, 2 * 256, 3)
    before, after = np.split(pictures[1].pixels.astype(int), 2, 1)
    assert np.abs(before - after).mean() < 30  # nothing moves; the flow's sampling only smooths
    others, _ = run("protocols-bicycle", tmp_path / "work", data)
    for column, alpha in (("pck_10", 0.1), ("pck_05", 0.05), ("pck_01", 0.01)):
        left, _ = expected_hits(lambda index, a: a, alpha)
        moved, _ = expected_hits(lambda index, a: rounded(IDENTITY, IDENTITY, a), alpha)
        for row, right in (("points-left-in-place", left), ("gangealing", moved)):
            assert others[f"{row}@bicycle", column].value == pytest.approx(100 * sum(right) / sum(counted))
            mean = 100 * np.mean([one / all_of for one, all_of in zip(right, counted, strict=True)])
            assert others[f"{row}@bicycle", f"{column}_pairs"].value == pytest.approx(mean)


def test_points_follow_the_similarities_of_their_pictures(tmp_path: Path, give: Any) -> None:
    """Three iterations, reflected edges: the settings that the released bicycles are evaluated with."""
    data = write_bicycles(tmp_path / "data")
    network = transformer(posed=0.1)
    give("bicycle", network)
    found, _ = run("protocols-bicycle", tmp_path / "work", data)
    pictures = read_spair(data, "bicycle", size=SIZE).pictures(range(6)).float() / 127.5 - 1
    with torch.no_grad():
        matrices = network.similarity(pictures, iters=3, padding_mode="reflection").matrix
    assert matrices is not None
    assert (matrices - IDENTITY).abs().max() > 0.05
    assert matrices.std(0).max() > 0.01  # each picture has its own

    def moved(index: int, a: Tensor) -> Tensor:
        return rounded(matrices[2 * index], matrices[2 * index + 1], a)

    for column, alpha in (("pck_10", 0.1), ("pck_05", 0.05)):
        correct, counted = expected_hits(moved, alpha)
        value = found["gangealing-without-mirrored-pictures@bicycle", column].value
        assert value == pytest.approx(100 * sum(correct) / sum(counted))
    # The points themselves, of which few come near: nothing was learnt.
    context = context_of("spair-bicycle", tmp_path / "work", data)
    settings: released.Settings = context.settings
    opened = released.open_row(settings, context, load_published("bicycle"))
    kept = released.transfers(settings, context, opened, replace(settings.protocol, flips=False))
    seen = kept.visible_a[0] != 0
    assert seen.all()
    start = square("a", [places[0] for places in PAIRS[0][2].values()])
    assert np.abs(kept.estimated_b[0] - moved(0, start).numpy()).max() < 2e-3
    assert np.abs(kept.estimated_b[0] - start.numpy()).max() > 3


def test_birds_are_paired_at_random_and_measured_both_ways(tmp_path: Path, give: Any) -> None:
    data = write_birds(tmp_path / "data")
    give("cub", transformer())
    found, pictures = run("cub", tmp_path / "work", data)
    points = read_cub(data, SIZE).key_points
    pairs = released.CUB(count=5, size=SIZE).pairs(read_cub(data, SIZE), 0)
    assert pairs.shape == (5, 2)
    right = counted = 0
    for a, b in pairs.tolist():
        for start, goal in ((a, b), (b, a)):
            seen = (points[start, :, 2] * points[goal, :, 2]) != 0
            distances = (rounded(IDENTITY, IDENTITY, points[start, :, :2]) - points[goal, :, :2]).norm(dim=1)[seen]
            right += int((distances <= 0.1 * SIZE).sum())
            counted += len(distances)
    assert counted == 5 * 2 * 13
    assert 0 < right < counted
    assert found["gangealing@cub", "pck"].value == pytest.approx(100 * right / counted)
    assert f"average of {len(BOXES)} pictures" in pictures[1].alt


def test_another_seed_pairs_birds_anew_and_changes_no_bicycles(tmp_path: Path) -> None:
    birds = read_cub(write_birds(tmp_path / "cub"), 16)
    pairs = released.CUB(count=50)
    assert torch.equal(pairs.pairs(birds, 0), pairs.pairs(birds, 0))
    assert not torch.equal(pairs.pairs(birds, 0), pairs.pairs(birds, 1))
    bicycles = read_spair(write_bicycles(tmp_path / "spair"), "bicycle", size=16)
    assert released.SPair("bicycle").pairs(bicycles, 1).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert distinct(bicycles) == [0, 1, 3]  # a, bb, ccc of a-bb, a-ccc, ccc-bb


# ----------------------------------------------------------------------------------------------------------------------
# The evaluation on its own

MEASURED = re.compile(
    r"pck/flip(?P<flip>[01])_both(?P<both>[01])_perm(?P<perm>[01])(?:_iters(?P<iters>\d+))?"
    r"(?:_(?P<padding>border|reflection|zeros))?(?P<drop>_dropLastPair)?"
)


def goldens() -> list[Any]:
    named = [(path, name) for path in files("gangealing", "10_pck") for name in load(path)[0]]
    return [pytest.param(path, name, id=f"{path.stem}-{name[4:]}") for path, name in named if name[:4] == "pck/"]


def batch_of(tensors: dict[str, Tensor], keep: slice) -> Batch:
    """A golden's pairs."""
    sides = {}
    for side in "AB":
        images = tensors[f"batch/imgs{side}_u8"][keep]
        lengths = torch.full((len(images),), float(images.shape[-1]))
        if f"batch/thresh{side}" in tensors:
            lengths = (tensors[f"batch/thresh{side}"] * tensors[f"batch/scale{side}"])[keep]
        sides[side] = (images.float() / 255 - 0.5) / 0.5, tensors[f"batch/kps{side}"][keep], lengths
    (a, of_a, long_a), (b, of_b, long_b) = sides["A"], sides["B"]
    return Batch(a, b, of_a, of_b, long_a, long_b)


@pytest.mark.parametrize(("path", "name"), goldens())
def test_the_evaluation_gives_what_the_published_script_printed(path: Path, name: str) -> None:
    tensors, _ = load(path)
    said = MEASURED.fullmatch(name)
    assert said is not None
    protocol = Protocol(int(said["iters"] or 1), said["padding"] or "border", said["flip"] == "1", said["both"] == "1")
    permutation = tensors["permutation"] if said["perm"] == "1" else None
    last = -1 if said["drop"] else None
    # Batch by batch, as pairs come from a set.
    count = len(tensors["batch/kpsA"][:last])
    parts = [batch_of(tensors, slice(i, i + 1)) for i in range(count)]
    alphas = tuple(round(alpha, 6) for alpha in tensors["alphas"].tolist())
    found = transfer(transformer_for(path), parts, protocol, permutation).hits(alphas=alphas)
    assert len(found) == count
    assert pck(found) / 100 == pytest.approx(tensors[name].numpy(), abs=1e-6)


def hand_made(pick: int, order: list[int]) -> Transfers:
    """One pair of three points, the last of which only b has; estimates are right where a's labels are permuted."""
    points = np.array([[[10, 10], [20, 10], [0, 0]]], np.float32)
    return Transfers(
        estimated_a=points[:, :0],
        estimated_b=points[:, order],
        points_a=points[:, order],
        points_b=points[:, order],
        visible_a=np.array([[1, 1, 0]], np.float32),
        visible_b=np.array([[1, 1, 1]], np.float32),
        lengths_a=np.array([10], np.float32),
        lengths_b=np.array([10], np.float32),
        order=np.array([order]),
        pick=np.array([pick]),
    )


def test_visibility_follows_the_labels_only_where_it_is_corrected() -> None:
    """Labels 1 and 2 change places, so that a's point 2, which is nowhere, counts as published and 1 does not."""
    found = hand_made(1, [0, 2, 1])
    assert found.hits().counted.tolist() == found.hits("corrected").counted.tolist() == [2]
    wrong = replace(found, estimated_b=found.estimated_b + np.array([[[0, 0], [9, 9], [0, 0]]], np.float32))
    assert wrong.hits(alphas=(0.1,)).correct.tolist() == [[1]]
    assert wrong.hits("corrected", (0.1,)).correct.tolist() == [[2]]
    as_given = hand_made(0, [0, 1, 2])
    assert as_given.hits().correct.tolist() == as_given.hits("corrected").correct.tolist()


def mirrored_pair() -> Batch:
    """A picture and its mirror image, with two points that a mirror exchanges."""
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    a = torch.tensor([[[30.0, 40.0, 1.0], [70.0, 44.0, 1.0]]])
    b = a.flip(1) * torch.tensor([-1.0, 1.0, 1.0]) + torch.tensor([SIZE - 1.0, 0.0, 0.0])
    length = torch.tensor([float(SIZE)])
    return Batch(x, x.flip(3), a, b, length, length)


def test_mirrored_pictures_are_found_where_that_is_asked_for() -> None:
    network = transformer()
    torch.nn.init.normal_(network.get_parameter("stns.1.warp_head.flow_out.2.weight"), std=0.01)
    pair, order = mirrored_pair(), torch.tensor([1, 0])
    searched = transfer(network, [pair], Protocol(), order)
    assert searched.pick.tolist() in ([1], [2])  # one of them, so that both are the same picture
    # Points meet their own: a small flow moves them by less than a tenth of the picture.
    assert pck(searched.hits(), "points")[0] == 100
    plain = transfer(network, [pair], Protocol(flips=False), order)
    assert plain.pick.tolist() == [0]
    assert plain.points_a.tolist() == pair.points_a[..., :2].tolist()
    assert left_in_place(plain).hits(alphas=(0.1,)).correct.tolist() == [[2 * (abs(97.0 - 70) <= 12.8)]]


def test_both_ways_add_up_and_points_left_in_place_go_both_ways() -> None:
    pair = mirrored_pair()
    there = transfer(transformer(), [pair], Protocol(flips=False))
    both = transfer(transformer(), [pair, pair], Protocol(flips=False, both_ways=True))
    assert there.estimated_a.shape == (1, 0, 2)
    assert both.hits().counted.tolist() == [4, 4]
    left = left_in_place(both)
    assert np.array_equal(left.estimated_a, both.points_b)
    assert np.array_equal(left.estimated_b, both.points_a)
    assert both.of(np.array([1])).hits().counted.tolist() == [4]


def test_a_classifier_chooses_among_heads(tmp_path: Path) -> None:
    saved = load_file(write_checkpoint(tmp_path / "x.pt", transformer(num_heads=2), classes=4))
    network, classifier = saved.transformer(SIZE), saved.classifier(SIZE)
    assert classifier is not None
    assert (network.num_heads, classifier.clusters) == (2, 2)
    head = network.similarity.warp_head
    assert isinstance(head, SimilarityHead)
    with torch.no_grad():
        head.linear.bias.view(4, 2)[2, 1] = 0.25  # the second head moves by an eighth of the side
    pair = mirrored_pair()
    for cluster, shift in ((0, 0.0), (1, 0.25)):
        with torch.no_grad():
            classifier.to_logits.weight.zero_()
            classifier.to_logits.get_parameter("bias").copy_(torch.eye(4)[cluster])
        found = congealed(network, pair.a, Protocol(flips=False), SIZE, classifier)
        moved = round(shift * SIZE / 2)
        assert (found - pair.a.roll(-moved, 3))[..., 20:-20, 20:-20].abs().mean() < 0.25
        assert found.shape == pair.a.shape
    assert transfer(network, [pair], Protocol(), classifier=classifier).pick.shape == (1,)
    for other in (None, load_file(write_checkpoint(tmp_path / "y.pt", transformer(), classes=6)).classifier(SIZE)):
        with pytest.raises(ValueError, match="2 heads needs a classifier"):
            transfer(network, [pair], Protocol(), classifier=other)


def test_a_figure_shows_where_points_came_and_where_they_belong() -> None:
    grey = torch.full((1, 3, SIZE, SIZE), 128, dtype=torch.uint8)
    left_half = grey.clone()
    left_half[..., : SIZE // 2] = 0
    found = replace(hand_made(1, [0, 2, 1]), estimated_b=np.array([[[60, 60], [0, 0], [90, 90]]], np.float32))
    drawn = transferred_points(left_half, grey, found)
    assert drawn.shape == (256, 512, 3)
    # a is mirrored, and its point 1 is one that it does not have: 2 of 3 are drawn, twice as large as in the picture.
    assert drawn[100, 200].max() == 0
    assert drawn[100, 30].tolist() == [128] * 3
    for x, y in ((21, 21), (41, 21), (256 + 121, 121), (256 + 181, 181)):
        assert np.ptp(drawn[y, x].astype(int)) > 100, (x, y)
    assert drawn[1, 1].tolist() == drawn[1, 257].tolist() == [128] * 3


def test_a_similarity_alone_rounds_nothing() -> None:
    similarity, pair = transformer(posed=0.1).similarity, mirrored_pair()
    with torch.no_grad():
        a, b = (similarity(x, iters=3).matrix for x in (pair.a, pair.b))
    assert a is not None
    assert b is not None
    places = 2 * pair.points_a[0, :, :2] / (SIZE - 1) - 1
    places = places * (SIZE - 1) / SIZE
    expected = (places - a[0, :, 2]) @ torch.linalg.inv(a[0, :, :2]).T @ b[0, :, :2].T + b[0, :, 2]
    expected = (expected * SIZE / (SIZE - 1) + 1) * (SIZE - 1) / 2
    found = transfer(similarity, [pair], Protocol(iters=3, flips=False))
    assert np.abs(found.estimated_b[0] - expected.numpy()).max() < 1e-3
    assert congealed(similarity, pair.a, Protocol(flips=False), SIZE).shape == pair.a.shape
    with pytest.raises(ValueError, match="a similarity alone does not have"):
        transfer(similarity, [pair], Protocol())


def test_nothing_to_transfer_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        transfer(transformer(), [], Protocol())
    pair = mirrored_pair()
    hidden = replace(pair, points_a=pair.points_a * torch.tensor([1.0, 1, 0]))
    with pytest.raises(ValueError, match="key point in common"):
        transfer(transformer(), [hidden], Protocol()).hits()
    with pytest.raises(ValueError, match="permutation of 2 points"):
        transfer(transformer(), [pair], Protocol(), torch.arange(3))


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def same(network: torch.nn.Module, state: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], value) for name, value in state.items())


@pytest.mark.parametrize("wrapped", [False, True])
def test_networks_come_back_from_a_checkpoint(wrapped: bool, tmp_path: Path) -> None:
    content = checkpoint(transformer(posed=1.0, num_heads=2), classes=4)
    if wrapped:
        for part in ("t_ema", "g_ema", "ll", "classifier"):
            content[part] = {f"module.{name}": value for name, value in content[part].items()}
    torch.save(content, tmp_path / "0150000.pt")
    before = torch.get_rng_state()
    saved = load_file(tmp_path / "0150000.pt")
    networks = {
        "t_ema": saved.transformer(SIZE),
        "classifier": saved.classifier(SIZE),
        "g_ema": saved.generator(),
        "ll": saved.learner(5, 12),
    }
    assert torch.equal(torch.get_rng_state(), before)
    for part, network in networks.items():
        assert network is not None
        state = {name.removeprefix("module."): value for name, value in content[part].items()}
        assert same(network, state), part
        assert not network.training
    assert not any(name.startswith(("t.", "t_optim", "args")) for name in saved.tensors)
    assert load_file(write_checkpoint(tmp_path / "x.pt", transformer())).classifier(SIZE) is None


def test_a_checkpoint_serves_pictures_of_any_size_and_may_be_bare(tmp_path: Path) -> None:
    network = transformer(posed=1.0)
    torch.save(network.state_dict(), tmp_path / "t.pt")
    bare = load_file(tmp_path / "t.pt")
    x = torch.rand(1, 3, FLOW, FLOW)
    with torch.no_grad():
        for size in (FLOW, SIZE, 2 * SIZE):
            assert torch.equal(bare.transformer(size)(x).grid, network(x).grid)
            large = bare.transformer(size)(torch.rand(1, 3, size, size)).image
            assert large.shape == (1, 3, FLOW, FLOW)
    with pytest.raises(ValueError, match=r"t\.pt: its generator: it holds no g_ema, but stns"):
        bare.generator()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_ema": {}}, r"it holds no t_ema, but g_ema, ll; .*fetch it again"),
        ({"t_ema": {"stns.0.convs.0.0.weight": torch.ones(2)}}, "final_linear.weight is missing"),
        ({"t_ema": "NaN"}, r"stns\.1\.final_conv\.1\.bias has values that are not finite"),
        ({"t_ema": "lacks"}, r"missing: stns\.1\.final_conv\.1\.bias"),
        ({"t_ema": "shape"}, r"stns\.1\.final_conv\.1\.bias has the shape \(3,\)"),
        ({"t_ema": "excess"}, r"in excess: stns\.2\.bias"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_names_the_file(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    name = "stns.1.final_conv.1.bias"
    state = transformer().state_dict()
    spoilt = {
        "NaN": {**state, name: state[name] * math.nan},
        "lacks": {k: v for k, v in state.items() if k != name},
        "shape": {**state, name: torch.zeros(3)},
        "excess": {**state, "stns.2.bias": torch.zeros(3)},
    }
    change = {k: spoilt[v] if isinstance(v, str) else v for k, v in change.items()}
    saved = load_file(write_checkpoint(tmp_path / "cat.pt", transformer(), **change))
    with pytest.raises(ValueError, match=rf"cat\.pt: .*{message}"):
        saved.transformer(SIZE)


def test_other_heads_other_widths_and_small_pictures_are_refused(tmp_path: Path) -> None:
    saved = load_file(write_checkpoint(tmp_path / "cat.pt", transformer(num_heads=2)))
    for arguments, message in (
        ((SIZE, 1, CHANNELS), r"cat\.pt: its transformer has num_heads 2, not 1; give"),
        ((SIZE, 2, 512), r"cat\.pt: its transformer has base_channels 16, not 512; give"),
        ((32, 2), r"cat\.pt: its flow has 64 px, which pictures of 32 px .*larger"),
        ((96, 2), r"cat\.pt: its flow has 64 px, which pictures of 96 px"),
    ):
        with pytest.raises(ValueError, match=message):
            saved.transformer(*arguments)  # type: ignore[arg-type]


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "cat.pt", transformer())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedCheckpoint, match=r"cat\.pt"):
        load_file(path)
    path.write_text("<html>404</html>")
    with pytest.raises(DamagedCheckpoint, match=r"cat\.pt cannot be read: it is no checkpoint"):
        load_file(path)
    torch.save({"model": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"cat\.pt: it holds no t_ema, but model"):
        load_file(path).transformer()
    with pytest.raises(FileNotFoundError):
        load_file(tmp_path / "none.pt")
    many = {f"style.{i}.weight": torch.zeros(2, 2) for i in range(1, 30)}
    torch.save({"g_ema": {**many, "to_rgbs.0.bias": torch.zeros(1), "conv1.conv.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="which is no network's"):
        load_file(path).generator()


class Call:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made-by-a-checkpoint",)


def test_options_that_ask_for_more_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = checkpoint(transformer())
    content["args"].ckpt = Call()
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UnsafeCheckpoint, match=r"x\.pt is refused: it asks for posix\.mkdir"):
        load_file(tmp_path / "x.pt")
    assert not (tmp_path / "made-by-a-checkpoint").exists()


def test_the_catalogue_names_every_released_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(RELEASED) == 9
    for name in RELEASED:
        monkeypatch.delenv(weights.WEIGHTS[weights_key(name)].variable, raising=False)
        with pytest.raises(WeightsNotFound) as caught:
            load_published(name)
        file = f"{name.replace('-', '_')}.pt"
        assert f"wget http://efrosgans.eecs.berkeley.edu/gangealing/pretrained/{file}, and set" in caught.value.remedy
    with pytest.raises(KeyError, match="no released model 'zebra'"):
        load_published("zebra")
    assert weights.WEIGHTS["gangealing-simclr-vgg-phase150"].by_hand


def test_released_models_are_built_as_their_recipes_say() -> None:
    for name, recipe in {
        **{"bicycle": recipes.BICYCLES, "tvmonitor": recipes.TVS, "cat": recipes.CATS, "dog": recipes.DOGS},
        **{"celeba": recipes.CELEBA, "car": recipes.CARS, "horse": recipes.HORSES},
    }.items():
        how = RELEASED[name]
        assert how.padding_mode == recipe.padding_mode
        assert how.num_heads == recipe.num_heads
        assert how.inject_index == recipe.inject_index
        assert how.num_fp16_res == recipe.generator.get("num_fp16_res", 0)


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def test_transfers_are_shared_by_the_tables_and_made_again_where_anything_differs(
    tmp_path: Path, give: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, work = write_bicycles(tmp_path / "data"), tmp_path / "work"
    give("bicycle", transformer(posed=1.0))
    made: list[bool] = []
    kept = released._transferred

    def counting(*arguments: Any) -> Transfers:
        made.append(arguments[-1].flips)
        return kept(*arguments)

    monkeypatch.setattr(released, "_transferred", counting)
    first, _ = run("spair-bicycle", work, data)
    others, _ = run("protocols-bicycle", work, data)
    assert made == [True, False]
    assert others["gangealing@bicycle", "pck_10"].value == first["gangealing@bicycle", "pck"].value
    (file, *_) = sorted((work / "transfers").glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
    file.write_bytes(file.read_bytes()[:200])
    again, _ = run("spair-bicycle", work, data)
    assert again == first
    assert made == [True, False, True]
    give("bicycle", transformer(posed=1.0, seed=7))
    run("spair-bicycle", work, data)
    assert made[3:] == [True]
    assert len(list((work / "transfers").glob("*.npz"))) == 3


def test_a_transformer_in_a_file_is_measured(tmp_path: Path, give: Any) -> None:
    data = write_bicycles(tmp_path / "data")
    path = give("bicycle", transformer(posed=1.0))
    measure = experiment_of("spair-bicycle").measure
    assert measure is not None
    found = measure(context_of("spair-bicycle", Path(), data), path)
    row, _ = run("spair-bicycle", tmp_path / "work", data)
    assert found["pck"][0] == row["gangealing@bicycle", "pck"].value
    assert found["pck"][1] > 0
    assert not Path("transfers").exists()


def test_what_does_not_fit_is_told_before_any_transfer(
    tmp_path: Path, give: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "transfer", lambda *_: pytest.fail("points were transferred"))
    data = write_bicycles(tmp_path / "data")
    with pytest.raises(WeightsNotFound, match=r"wget .*bicycle\.pt"):
        run("spair-bicycle", tmp_path / "work", data)
    give("bicycle", transformer(num_heads=2))
    with pytest.raises(ValueError, match=r"gangealing-bicycle \(.*bicycle\.pt\): .*num_heads 2, not 1"):
        run("spair-bicycle", tmp_path / "work", data)
    give("bicycle", transformer())
    with pytest.raises(ValueError, match="base_channels 16, not 512"):
        run("spair-bicycle", tmp_path / "work", data, base_channels=512)
    for nowhere in (None, tmp_path / "elsewhere"):
        with pytest.raises(DataNotFound, match=r"SPair-71k\.tar\.gz"):
            run("spair-bicycle", tmp_path / "work", nowhere)
    small = replace(experiment_of("spair-bicycle").scales["paper"].settings.pairs, size=32)
    with pytest.raises(ValueError, match="pictures of 32 px"):
        run("spair-bicycle", tmp_path / "work", data, pairs=small)
    none = write_bicycles(tmp_path / "none", [("a", "bb", {})])
    with pytest.raises(ValueError, match="no pair of spair-bicycle-test has a key point in common"):
        run("spair-bicycle", tmp_path / "work", none)
    give("cub", transformer())
    with pytest.raises(ValueError, match="no pair of cub-val has a key point in common"):
        run("cub", tmp_path / "work", write_birds(tmp_path / "hidden", visible=0))
    with pytest.raises(DataNotFound, match=r"val_cub_cleaned\.mat"):
        run("cub", tmp_path / "work", tmp_path / "elsewhere")


def test_sets_that_are_not_whole_are_refused_at_paper_scale(tmp_path: Path) -> None:
    data = write_bicycles(tmp_path / "data")
    by_key = {e.key: e for e in gangealing.PAPER.experiments}
    for key in ("spair-cat", "protocols-cat"):
        with pytest.raises(ValueError, match="has 3 test pairs, the published set 12234; unpack it again"):
            by_key[key].check(by_key[key].scales["paper"].settings, data)
        by_key[key].check(by_key[key].scales["paper"].settings, tmp_path / "elsewhere")  # told as missing later
        by_key[key].check(by_key[key].scales["paper"].settings, None)
    experiment = experiment_of("spair-bicycle")
    experiment.check(experiment.scales["paper"].settings, data)
    reads = experiment.reads
    assert reads is not None
    assert reads(experiment.scales["paper"].settings, data) == data / "SPair-71k"
    assert reads(experiment_of("cub").scales["paper"].settings, data) is None
    birds = write_birds(tmp_path / "birds")
    assert reads(experiment_of("cub").scales["paper"].settings, birds) == birds  # the list lies beside the tree


def test_every_row_of_the_paper_that_is_of_this_method_is_filled() -> None:
    filled = {(e.table, row) for e in gangealing.PAPER.experiments if "paper" in e.scales for row in e.rows}
    for table in ("spair", "cub"):
        rows = [row for row in gangealing.PAPER.table(table).rows if row.method == "GANgealing"]
        assert {(table, row.key) for row in rows} <= filled
    assert {("protocols", row.key) for row in gangealing.PAPER.table("protocols").rows} <= filled


# ----------------------------------------------------------------------------------------------------------------------
# By the command line


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command with the small paper in the place of the real one."""
    script = (
        "from gengauge.benchmarks import papers; papers.SOURCES = ('gangealing_tiny:PAPER',); "
        "from gengauge.benchmarks.cli import main; main()"
    )
    variables = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parent), **(environment or {})}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=variables, check=False
    )


def test_the_command_fills_rows_and_tells_what_is_missing(tmp_path: Path, give: Any) -> None:
    data = write_bicycles(tmp_path / "data")
    path = give("bicycle", transformer(posed=1.0))
    options = ["--scale", "paper", "--device", "cpu", "--data", str(data), "--out", str(tmp_path / "out")]
    rows = [f"gangealing/{row}" for row in ("spair/gangealing@bicycle", "protocols/gangealing@bicycle", "cub")]
    done = command("run", *rows, *options)
    assert done.returncode == cli.UNAVAILABLE, done.stdout + done.stderr
    frame = read_records(tmp_path / "out")
    measured = frame[frame["status"] == "ok"]
    assert set(measured["row"]) >= {"gangealing@bicycle", "points-left-in-place@bicycle"}
    assert len(measured) == 1 + 4 * 6
    missing = frame[frame["status"] != "ok"]
    assert set(missing["status"]) == {"unavailable"}
    assert missing["reason"].str.contains("wget http://efrosgans").all()
    assert set(missing["row"]) == {"gangealing@cub"}
    pictures = sorted(file.name for file in (tmp_path / "out").rglob("*.png"))
    assert pictures == ["gangealing@bicycle.average.png", "gangealing@bicycle.pairs.png"]
    written = command("report", str(tmp_path / "out"))
    assert written.returncode == 0, written.stderr
    (page,) = (tmp_path / "out").rglob("*.html")
    text = page.read_text()
    assert "Points left in place (Bicycle)" in text
    assert "37.5" in text  # the published number beside
    own = command("measure", "gangealing/spair/gangealing@bicycle", str(path), "--device", "cpu", "--data", str(data))
    assert own.returncode == 0, own.stderr
    value = measured.loc[measured["column"] == "pck", "value"].item()
    assert f"{value:.5g} +-" in own.stdout


def test_a_dry_run_counts_the_network_and_names_what_it_needs() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        cli.app, ["run", "gangealing/spair", "--scale", "paper", "--dry-run", "--device", "cpu"], catch_exceptions=False
    )
    assert "43,054,278 parameters" in result.stdout
    assert "gangealing-tvmonitor" in result.stdout
    assert "needs    spair-71k" in result.stdout


def test_a_batch_of_pairs_is_what_the_set_holds(tmp_path: Path) -> None:
    found = read_spair(write_bicycles(tmp_path), "bicycle", size=SIZE)
    assert found.pairs is not None
    parts = list(batches(found, found.pairs, 2))
    assert [len(part.a) for part in parts] == [2, 1]
    assert parts[0].b.shape == (2, 3, SIZE, SIZE)
    assert -1 <= parts[0].a.min() < -0.5 < 0.5 < parts[0].a.max() <= 1
    assert torch.equal(parts[1].points_b[0], found.key_points[5])
    assert parts[1].lengths_b.tolist() == found.thresholds([5]).tolist()
