"""GAN Warping beyond the goldens: what each part must do by its definition, by hand-made answers, and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gengauge.reference.gan_warping import moving_least_squares
from gengauge.reference.gan_warping.landmark_edits import LandmarkEdit, Move
from gengauge.reference.gan_warping.latents import mix, move_along, strengths
from gengauge.reference.gan_warping.low_rank import (
    Update,
    check_fits,
    compose,
    dense_weight,
    feature,
    layers,
    render,
    selected,
)
from gengauge.reference.gan_warping.moving_least_squares import Kind, deformation, move_points
from gengauge.reference.gan_warping.training import (
    ColourWeights,
    Draws,
    Recipe,
    Training,
    full_precision,
    karras_rate,
)
from gengauge.reference.gan_warping.warps import normalised_grid, pixel_grid, preview, remap, warp, with_corners
from gengauge.reference.nets.stylegan2 import generator as stylegan2
from gengauge.reference.nets.stylegan3 import generator as stylegan3

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS: tuple[Kind, ...] = get_args(Kind)
SIZE = (19, 23)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def close(a: Tensor, b: Tensor, atol: float) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=atol)


# ----------------------------------------------------------------------------------------------------------------------
# Moving least squares


def pixels(size: tuple[int, int] = SIZE) -> Tensor:
    """The place (2, H, W), x and y, of each pixel."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    return torch.stack([x, y])


def points(count: int, seed: int = 0, most: int = 18) -> Tensor:
    """Different whole points (count, 2), not on one line."""
    places = torch.randperm((most + 1) ** 2, generator=seeded(seed))[:count]
    return torch.stack([places % (most + 1), places // (most + 1)], 1).double()


def slowly(source: Tensor, target: Tensor, size: tuple[int, int], kind: str, alpha: float = 1.0) -> Tensor:
    """The deformation as the paper's sums, pixel by pixel, in float64."""
    out = torch.empty(2, *size, dtype=torch.float64)
    p, q = target.double(), source.double()
    for y in range(size[0]):
        for x in range(size[1]):
            v = torch.tensor([x, y], dtype=torch.float64)
            w = ((p - v).square().sum(1) + 1e-8) ** -alpha
            w = w / w.sum()
            centre_p, centre_q = (w[:, None] * p).sum(0), (w[:, None] * q).sum(0)
            a, b, u = p - centre_p, q - centre_q, v - centre_p
            if kind == "translation":
                out[:, y, x] = centre_q + u
                continue
            if kind == "affine":
                m = sum(w[i] * torch.outer(a[i], a[i]) for i in range(len(p)))
                n = sum(w[i] * torch.outer(a[i], b[i]) for i in range(len(p)))
                out[:, y, x] = u @ torch.linalg.inv(m) @ n + centre_q
                continue
            turned = torch.stack([-a[:, 1], a[:, 0]], 1)
            f = torch.zeros(2, dtype=torch.float64)
            for i in range(len(p)):
                dot, cross = a[i] @ u, turned[i] @ u
                f += w[i] * torch.stack([b[i, 0] * dot - b[i, 1] * cross, b[i, 1] * dot + b[i, 0] * cross])
            f = f / (w * a.square().sum(1)).sum() if kind == "similarity" else f * (u.norm() / f.norm())
            out[:, y, x] = f + centre_q
    return out


MAPS: dict[str, tuple[tuple[Kind, ...], list[list[float]]]] = {
    "identity": (KINDS, [[1, 0], [0, 1]]),
    "quarter turn": (KINDS, [[0, -1], [1, 0]]),
    "half turn": (KINDS, [[-1, 0], [0, -1]]),
    "similarity": (("affine", "similarity"), [[2, -1], [1, 2]]),
    "mirrored": (("affine",), [[-1, 0], [0, 1]]),
    "affine": (("affine",), [[2, 1], [-1, 3]]),
    "onto a line": (("affine",), [[1, 1], [1, 1]]),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_a_kind_are_reproduced(name: str, kind: Kind) -> None:
    kinds, matrix = MAPS[name]
    a = torch.tensor(matrix, dtype=torch.float64)
    target = torch.cat([points(7), torch.tensor([[-30.0, 4], [200, 90]])])  # some outside of the picture
    source = target @ a.T + torch.tensor([3.0, -8])
    wanted = torch.einsum("ij,jhw->ihw", a, pixels()) + torch.tensor([3.0, -8])[:, None, None]
    found = deformation(source, target, SIZE, kind)
    assert found.dtype == torch.float32
    assert found.shape == (2, *SIZE)
    if kind in kinds:
        close(found, wanted, 2e-5)
    else:
        assert (found - wanted).abs().max() > 1  # what a kind cannot do it does not pretend to


def test_rotations_by_whole_triangles_are_rigid() -> None:
    target = 5 * points(6, most=4)
    a = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    wanted = torch.einsum("ij,jhw->ihw", a, pixels())
    for kind in KINDS:
        close(deformation((target @ a.T).round(), target, SIZE, kind), wanted, 2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_sums_of_the_paper(kind: Kind, alpha: float) -> None:
    source, target = points(9, 1), points(9, 2)
    found = deformation(source, target, SIZE, kind, alpha)
    wanted = slowly(source, target, SIZE, kind, alpha)
    x, y = target.long().T
    # Half a power leaves a hundredth of a pixel between a target and its source, so that `there` is of the rest.
    close(found[:, y, x], source.T, {0.5: 3e-2, 1.0: 1e-5, 2.0: 1e-5}[alpha])
    there = torch.ones(SIZE, dtype=torch.bool)
    there[y, x] = False
    close(found[:, there], wanted[:, there], 2e-4)


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (1, 1), (1, -2), (3, 1), (2, 7), (5, 3)])
def test_points_on_a_line_translate(direction: tuple[int, int]) -> None:
    steps = torch.tensor([0.0, 1, 2, 4], dtype=torch.float64)[:, None]
    target = torch.tensor([3.0, 9]) + steps * torch.tensor(direction)
    source = target + torch.tensor([[1.0, 2], [0, 0], [-3, 1], [2, -2]])
    found = deformation(source, target, SIZE)
    wanted = slowly(source, target, SIZE, "translation")
    x, y = target.long().T
    inside = (x >= 0) & (y >= 0) & (x < SIZE[1]) & (y < SIZE[0])
    wanted[:, y[inside], x[inside]] = source[inside].T
    close(found, wanted, 1e-5)
    # One point beside the line determines a map again.
    beside = torch.cat([target, target[:1] + torch.tensor([[-direction[1], direction[0]]])])
    close(deformation(beside.flip(1), beside, SIZE), pixels().flip(0), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_point_translates_and_so_do_points_on_one_pixel(kind: Kind) -> None:
    target = torch.tensor([[4.0, 7]])
    close(
        deformation(target + torch.tensor([[2.0, -3]]), target, SIZE, kind),
        pixels() + torch.tensor([[[2.0]], [[-3]]]),
        1e-5,
    )
    twice = target.repeat(2, 1)
    source = twice + torch.tensor([[2.0, 0], [4, 6]])
    close(deformation(source, twice, SIZE, kind), pixels() + 3, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_named_twice_counts_twice(kind: Kind) -> None:
    source, target = points(5, 3), points(5, 4)
    again = torch.tensor([0, 1, 2, 3, 4, 2])
    found = deformation(source[again], target[again], SIZE, kind)
    close(found, slowly(source[again], target[again], SIZE, kind), 1e-3)
    assert (found - deformation(source, target, SIZE, kind)).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_sizes(size: tuple[int, int], kind: Kind) -> None:
    target = points(6, 5)
    found = deformation(target + 4, target, size, kind)
    close(found, pixels(size) + 4, 2e-5)


def test_far_points_keep_their_precision() -> None:
    far = moving_least_squares.MAX_COORDINATE
    target = far - points(6, 6)
    found = deformation(target - 2 * far + 18, target, (3, 3))
    close(found, pixels((3, 3)) - 2 * far + 18, 0.02)  # float32 has steps of 1/256 px there
    wide = torch.tensor([[-far, -far], [far, -far], [-far, far], [far, far], [8.0, 8]])
    close(deformation(wide, wide, SIZE), pixels(), 1e-4)


def test_bands_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = points(9, 1), points(9, 2)
    whole = deformation(source, target, SIZE)
    monkeypatch.setattr(moving_least_squares, "_BAND", 2 * 9 * SIZE[1])
    close(deformation(source, target, SIZE), whole, 1e-5)


def test_fractions_are_cut_off_downwards() -> None:
    source, target = points(6, 1) - 3, points(6, 2)
    assert torch.equal(deformation(source + 0.9, target + 0.5, SIZE), deformation(source, target, SIZE))
    assert torch.equal(deformation(source.int(), target.int(), SIZE), deformation(source, target, SIZE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": torch.full((4, 2), math.nan)}, "source points must be numbers"),
        ({"target": torch.full((4, 2), math.inf)}, "target points must be numbers"),
        ({"target": torch.full((4, 2), 32768.0)}, "within -32767 and 32767"),
        ({"source": torch.zeros(3, 2)}, "not 3 and 4"),
        ({"source": torch.zeros(4, 3)}, r"\(N, 2\)"),
        ({"source": torch.zeros(0, 2), "target": torch.zeros(0, 2)}, "at least one row"),
        ({"size": (0, 4)}, "at least one pixel"),
        ({"kind": "projective"}, "affine, similarity, rigid"),
        ({"alpha": 0.0}, "alpha is above 0"),
        ({"alpha": math.nan}, "alpha is above 0"),
    ],
)
def test_what_is_no_deformation_is_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"source": points(4), "target": points(4), "size": SIZE}
    deformation(**good)
    with pytest.raises(ValueError, match=message):
        deformation(**(good | changes))


def test_moving_points_forwards_undoes_an_affine_warp() -> None:
    a = torch.tensor([[2.0, 1], [-1, 3]], dtype=torch.float64)
    target = points(6)
    source = target @ a.T + 5
    places = deformation(source, target, SIZE).double().flatten(1).T
    close(move_points(places, source, target), pixels().flatten(1).T, 1e-4)


def test_moving_points_is_the_deformation_with_the_ends_exchanged() -> None:
    source, target = points(8, 1), points(8, 2)
    grid = pixels().flatten(1).T
    moved = move_points(grid, source, target)
    backwards = deformation(target, source, SIZE).flatten(1).T
    close(moved, backwards, 1e-4)
    close(move_points(source, source, target), target, 1e-6)
    close(move_points(source + 1e-7, source, target), target, 1e-4)
    line = torch.tensor([[0.0, 0], [1, 3], [2, 6]])
    for bad in (line, line[:1], line[:1].repeat(3, 1)):
        with pytest.raises(ValueError, match="on one line"):
            move_points(grid, bad, bad)
    with pytest.raises(ValueError, match="moved points must be numbers"):
        move_points(torch.full((1, 2), math.nan), source, target)
    with pytest.raises(ValueError, match="alpha"):
        move_points(grid, source, target, -1.0)


# ----------------------------------------------------------------------------------------------------------------------
# Warps


ROWS = torch.tensor([[4.0, 5, 9, 7], [14, 3, 11, 3], [2, 12, 2, 12]])


def test_corners_are_pinned_after_the_points() -> None:
    found = with_corners(ROWS, (9, 5))
    assert torch.equal(found[:3], ROWS)
    assert found[3:].tolist() == [[0, 0, 0, 0], [0, 8, 0, 8], [4, 0, 4, 0], [4, 8, 4, 8]]


def test_destinations_get_their_exact_source_and_the_last_row_wins() -> None:
    rows = torch.cat([with_corners(ROWS, SIZE), torch.tensor([[1.7, 1.2, 9.9, 7.1]])])
    found = pixel_grid(rows, SIZE)
    assert found[:, 3, 11].tolist() == [14, 3]
    assert found[:, 7, 9].tolist() == [1, 1]  # whose fractions are cut off
    for x, y in ((0, 0), (22, 0), (0, 18), (22, 18), (2, 12)):
        assert found[:, y, x].tolist() == [x, y]
    still = with_corners(torch.zeros(0, 4), SIZE)
    close(pixel_grid(still, SIZE), pixels(), 1e-5)


@pytest.mark.parametrize("end", [(-1, 3), (3, -1), (23, 3), (3, 19), (-0.5, 3)])
def test_a_destination_outside_is_named(end: tuple[float, float]) -> None:
    rows = torch.cat([ROWS, torch.tensor([[1.0, 1, *end]])])
    with pytest.raises(ValueError, match=r"control point 3 ends at .*outside of the picture of 23 x 19"):
        pixel_grid(rows, SIZE)
    assert torch.isfinite(pixel_grid(rows[:, [2, 3, 0, 1]], SIZE)).all()  # a source may lie anywhere


def test_rows_that_are_none_are_refused() -> None:
    for bad, message in ((ROWS[:, :3], "rows x_src"), (ROWS[0], "rows x_src"), (ROWS * math.nan, "must be numbers")):
        with pytest.raises(ValueError, match=message):
            pixel_grid(bad, SIZE)


def test_a_still_grid_gives_the_picture_back_only_where_it_is_exact() -> None:
    pictures = draw(2, 3, *SIZE)
    still = pixels().float()
    exact = normalised_grid(still, exact=True).expand(2, -1, -1, -1)
    close(warp(pictures, exact), pictures, 1e-5)
    # As published each place is x W / (W - 1) - 1/2, half a pixel off at the borders, where the picture ends.
    ramp = pixels().float()[:, None].expand(-1, 3, -1, -1)
    found = warp(ramp, normalised_grid(still).expand(2, -1, -1, -1))
    for axis, n in enumerate((SIZE[1], SIZE[0])):
        wanted = (pixels()[axis] * n / (n - 1) - 0.5).clamp(0, n - 1)
        close(found[axis, 0], wanted, 1e-5)


def test_a_warp_takes_what_lies_at_the_places() -> None:
    pictures = draw(1, 3, 8, 8)
    moved = normalised_grid(pixels((8, 8)).float() + torch.tensor([2.0, -1])[:, None, None], exact=True)
    found = warp(pictures, moved[None])
    close(found[:, :, 1:, :6], pictures[:, :, :-1, 2:], 1e-5)
    close(found[:, :, 1:, 6:], pictures[:, :, :-1, [7, 6]], 1e-5)  # reflected
    close(found[:, :, 0, :6], pictures[:, :, 0, 2:], 1e-5)
    with pytest.raises(ValueError, match="not 1 and 2"):
        warp(pictures, moved.expand(2, -1, -1, -1))


def test_grids_are_resized_and_sides_of_one_pixel_are_no_division_by_zero() -> None:
    still = pixels((16, 16)).float()
    assert normalised_grid(still, (16, 16)).shape == (16, 16, 2)
    found = normalised_grid(still, (8, 4), exact=True)
    assert found.shape == (8, 4, 2)
    x = (torch.arange(4) + 0.5) / 2 - 1
    close(found[4, 1:3, 0], x[1:3], 0.05)
    assert torch.isfinite(normalised_grid(pixels((1, 5)).float())).all()
    assert torch.isfinite(normalised_grid(pixels((5, 1)).float(), exact=True)).all()


def test_cars_are_warped_without_their_bars() -> None:
    pictures = draw(2, 3, 16, 16)
    still = normalised_grid(pixels((12, 16)).float(), exact=True).expand(2, -1, -1, -1)
    found = warp(pictures, still, crop_bars=True)
    close(found[:, :, 2:14], pictures[:, :, 2:14], 1e-5)
    assert (found[:, :, :2] == -1).all()
    assert (found[:, :, 14:] == -1).all()
    for size in ((16, 16), (12, 12), (6, 8)):
        grid = normalised_grid(pixels(size).float()).expand(2, -1, -1, -1)
        with pytest.raises(ValueError, match="without its bars a car is 12 x 16"):
            warp(pictures, grid, crop_bars=True)


def test_previews_move_what_the_points_say() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    assert np.array_equal(preview(picture, np.zeros((0, 4))), picture)
    assert np.array_equal(remap(picture, pixels().float()), picture)
    found = preview(picture, ROWS.numpy())
    assert found.dtype == np.uint8
    for x0, y0, x1, y1 in ROWS.int().tolist():
        assert np.array_equal(found[y1, x1], picture[y0, x0])
    assert np.array_equal(found[0, 0], picture[0, 0])
    shifted = remap(picture, pixels().float() - torch.tensor([1.0, 0])[:, None, None])
    assert np.array_equal(shifted[:, 1:], picture[:, :-1])
    assert np.array_equal(shifted[:, 0], picture[:, 0])  # the border's pixel is repeated
    with pytest.raises(ValueError, match="outside of the picture"):
        preview(picture, np.array([[1, 1, 40, 1]]))


# ----------------------------------------------------------------------------------------------------------------------
# Low rank


def stylegan2_tiny(**more: Any) -> stylegan2.Generator:
    torch.manual_seed(0)
    g = stylegan2.Generator(
        8, 0, 8, 16, mapping_kwargs={"num_layers": 1}, synthesis_kwargs={"channel_base": 64, "channel_max": 6, **more}
    )
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(parameter, 0.3)
    return g.eval().requires_grad_(False)


def stylegan3_tiny(kernel: int = 3) -> stylegan3.Generator:
    torch.manual_seed(0)
    widths = {"channel_base": 64, "channel_max": 6, "num_layers": 6, "conv_kernel": kernel}
    g = stylegan3.Generator(8, 0, 8, 16, mapping_kwargs={"num_layers": 1}, synthesis_kwargs=widths)
    return g.eval().requires_grad_(False)


GENERATORS: dict[str, Callable[[], Any]] = {
    "stylegan2": stylegan2_tiny,
    "stylegan3": stylegan3_tiny,
    "stylegan3, 1x1": lambda: stylegan3_tiny(1),
}
BOTH = pytest.mark.parametrize("which", GENERATORS)
STYLEGAN2_LAYERS = [f"synthesis.{name}" for name in ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")]


def test_which_layers_there_are() -> None:
    g = stylegan2_tiny()
    assert layers(g) == STYLEGAN2_LAYERS
    assert layers(g, "affine") == [f"{name}.affine" for name in STYLEGAN2_LAYERS]
    assert layers(g, "all") == [name + end for name in STYLEGAN2_LAYERS for end in ("", ".affine")]
    three = stylegan3_tiny()
    assert layers(three) == [f"synthesis.{name}" for name in three.synthesis.layer_names]
    assert len(layers(three, "all")) == 14
    with pytest.raises(ValueError, match="conv, affine, all"):
        layers(g, "bias")  # type: ignore[arg-type]


def test_which_of_them_are_selected() -> None:
    names = list("abcde")
    assert selected(names, "2") == selected(names, 2) == ["c"]
    assert selected(names, "1-3") == ["b", "c", "d"]
    assert selected(names, "4-4") == ["e"]
    assert selected(names, "all") == names
    for bad in ("5", 5, "-1", -1, "3-1", "0-5", "3-", "-", "", "x", "1.5", "1-2-3", "ALL"):
        with pytest.raises(ValueError, match="within 0 and 4"):
            selected(names, bad)


@BOTH
@pytest.mark.parametrize("kind", ["conv", "affine", "all"])
@pytest.mark.parametrize("rank", [None, 1, 5])
@pytest.mark.parametrize("only_weight", [True, False])
def test_an_update_starts_at_the_base_bit_by_bit(which: str, kind: Any, rank: int | None, only_weight: bool) -> None:
    g = GENERATORS[which]()
    ws = g.mapping(draw(2, 8), None)
    base = render(g, ws, noise_mode="const")
    names = layers(g, kind)
    update = Update(g, names, rank, only_weight, seeded(1))
    tensors = update.tensors()
    state = g.state_dict()
    assert {name for name in tensors if name.endswith(".weight")} == {f"{name}.weight" for name in names}
    assert only_weight == (len(tensors) == len(names))
    assert all(torch.equal(value, state[name]) for name, value in tensors.items())
    assert torch.equal(render(g, ws, tensors, noise_mode="const"), base)
    before = {name: value.clone() for name, value in state.items()}
    # Gradients reach the update, all of it but what starts behind a zero, and nothing else.
    render(g, ws, update.tensors(), noise_mode="const").square().sum().backward()
    for name, parameter in update.named_parameters():
        assert parameter.grad is not None, name
        if "weight_context" in name:
            assert not parameter.grad.any()
    assert any(bool(parameter.grad.any()) for parameter in update.parameters() if parameter.grad is not None)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in g.parameters())
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.add_(0.1)
    assert (render(g, ws, update.tensors(), noise_mode="const") - base).abs().max() > 1e-4
    assert all(torch.equal(value, before[name]) for name, value in g.state_dict().items())
    assert torch.equal(render(g, ws, noise_mode="const"), base)


def test_a_dense_weight_is_the_base_and_the_sum_over_the_rank() -> None:
    for kernel in ((), (1, 1), (3, 3)):
        weight, left, right = draw(4, 5, *kernel), draw(4, 2, *kernel, seed=1), draw(2, 5, seed=2)
        found = dense_weight(weight, left, right)
        assert found.shape == weight.shape
        for o in range(4):
            for i in range(5):
                close(found[o, i], weight[o, i] + sum(left[o, d] * right[d, i] for d in range(2)), 1e-6)
        changes = (found - weight).reshape(4, 5, -1).permute(2, 0, 1)
        assert (torch.linalg.matrix_rank(changes, atol=1e-5) <= 2).all()


def test_the_update_is_drawn_from_a_generator_and_has_the_published_size() -> None:
    g = stylegan2_tiny()
    first, again, other = (Update(g, layers(g), 50, generator=seeded(s)).factors() for s in (0, 0, 1))
    name = "synthesis.b8.conv0.weight_context"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert first[name].shape == (50, 6)
    assert float(first[name].detach().std()) == pytest.approx(1, abs=0.15)
    assert first["synthesis.b8.conv0.weight_lambda"].shape == (6, 50, 3, 3)
    assert set(first) == {f"{n}.weight_{part}" for n in STYLEGAN2_LAYERS for part in ("lambda", "context")}
    assert not [key for key in Update(g, layers(g)).state_dict() if "base" in key]  # which the generator has
    for rank in (0, -1):
        with pytest.raises(ValueError, match="1 or more, or None"):
            Update(g, layers(g), rank)


@BOTH
def test_features_are_what_the_layer_makes(which: str) -> None:
    g = GENERATORS[which]()
    ws = g.mapping(draw(2, 8), None)
    names = layers(g)
    update = Update(g, names[2:3], 2, generator=seeded())
    with torch.no_grad():
        update.layers[0].get_parameter("weight_lambda").fill_(0.2)
    tensors = update.tensors()
    before, after = (feature(g, name, ws, tensors, noise_mode="const") for name in (names[1], names[2]))
    assert torch.equal(before, feature(g, names[1], ws, noise_mode="const"))
    assert not torch.equal(after, feature(g, names[2], ws, noise_mode="const"))
    assert after.ndim == 4
    assert not g.get_submodule(names[2])._forward_hooks
    with pytest.raises(ValueError, match="ws must be"):
        feature(g, names[2], ws[:, :1])
    assert not g.get_submodule(names[2])._forward_hooks


def test_only_parameters_of_the_synthesis_are_changed() -> None:
    g = stylegan2_tiny()
    with pytest.raises(ValueError, match=r"mapping\.fc0\.weight is no parameter of the synthesis"):
        render(g, g.mapping(draw(1, 8), None), {"mapping.fc0.weight": torch.zeros(8, 8)})


def test_edits_add_up() -> None:
    base = {"a": draw(3, 3), "b": draw(4, seed=1), "c": draw(2, seed=2)}
    one = {"a": draw(3, 3, seed=3), "b": draw(4, seed=4)}
    two = {"a": draw(3, 3, seed=5), "c": draw(2, seed=6)}
    assert compose(base, [], []) == {}
    for edit in (one, two):
        close(compose(base, [edit], [1.0])["a"], edit["a"], 1e-6)
        assert torch.equal(compose(base, [edit], [0.0])["a"], base["a"])
    found = compose(base, [one, two], [0.5, -2.0])
    assert set(found) == {"a", "b", "c"}
    close(found["a"], base["a"] + 0.5 * (one["a"] - base["a"]) - 2 * (two["a"] - base["a"]), 1e-5)
    close(found["b"], (base["b"] + one["b"]) / 2, 1e-6)
    exchanged = compose(base, [two, one], [-2.0, 0.5])
    for name, value in found.items():
        close(value, exchanged[name], 1e-5)
    kept = {name: value.clone() for name, value in base.items()}
    compose(base, [one, one], [1.0, 1.0])["a"].zero_()
    assert all(torch.equal(value, base[name]) for name, value in kept.items())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"z": torch.zeros(3)}, "changes z, which this generator does not have"),
        ({"a": torch.zeros(3, 2)}, r"a is \(3, 2\), not \(3, 3\)"),
        ({"a": torch.full((3, 3), math.nan)}, "no finite numbers"),
        ({"a": torch.full((3, 3), math.inf)}, "no finite numbers"),
    ],
)
def test_edits_of_another_base_are_refused(edit: dict[str, Tensor], message: str) -> None:
    base = {"a": torch.zeros(3, 3)}
    check_fits(base, base)
    with pytest.raises(ValueError, match=message):
        check_fits(base, edit)
    with pytest.raises(ValueError, match=message):
        compose(base, [base, edit], [1.0, 0.0])
    for scales in ([], [1.0, 2.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite scale"):
            compose(base, [base], scales)


# ----------------------------------------------------------------------------------------------------------------------
# Latents


def test_mixing_takes_some_entries_from_others() -> None:
    ws, others = torch.zeros(2, 6, 3), torch.ones(2, 6, 3)
    assert mix(ws, others, (2, 4))[:, :, 0].tolist() == [[0, 0, 1, 1, 0, 0]] * 2
    assert mix(ws, others, (4, 16))[:, :, 0].tolist() == [[0, 0, 0, 0, 1, 1]] * 2
    assert not mix(ws, others, (8, 16)).any()  # as published
    assert not ws.any()
    with pytest.raises(ValueError, match="one shape"):
        mix(ws, others[:1], (2, 4))


def test_moving_along_a_direction() -> None:
    ws, direction = draw(2, 4, 3), draw(3, seed=1)
    found = move_along(ws, direction, strengths(6.0, 4), (1, 3))
    assert found.shape == (2, 4, 4, 3)
    assert torch.equal(found[:, 0], ws)
    for k, s in enumerate((0.0, 2.0, 4.0, 6.0)):
        close(found[:, k, 1:3], ws[:, 1:3] + s * direction, 1e-6)
    assert torch.equal(found[:, :, [0, 3]], ws[:, None, [0, 3]].expand(-1, 4, -1, -1))
    for entries, way in (((1, 5), direction), ((2, 2), direction), ((-1, 2), direction), ((0, 1), direction[:2])):
        with pytest.raises(ValueError, match="within 4 entries"):
            move_along(ws, way, strengths(1.0), entries)


# ----------------------------------------------------------------------------------------------------------------------
# Training


TINY = Recipe(layers="2", rank=2, stylemix=(3, 6), l1=1.0, lpips=0.0, batch=2, iterations=20, lr=0.1)


def squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean((1, 2, 3))


def grids(count: int, side: int = 16) -> Tensor:
    rows = torch.tensor([[side // 3, side // 3, side // 2, side // 3 + 1]])
    grid = normalised_grid(pixel_grid(with_corners(rows, (side, side)), (side, side)))
    return grid.expand(count, -1, -1, -1)


def built(recipe: Recipe = TINY, which: str = "stylegan2", **more: Any) -> Training:
    g = GENERATORS[which]()
    torch.manual_seed(1)
    return Training(recipe, g, **more)


def ws_of(training: Training, count: int = 2) -> Tensor:
    return training.g.mapping(draw(count, 8, seed=5), None)


def test_rates_rise_and_fall() -> None:
    found = [karras_rate(step, 100, 2.0, 0.1, 0.5) for step in range(101)]
    assert found[0] == 0
    assert found[5] == pytest.approx(1.0)
    assert found[10:51] == pytest.approx([2.0] * 41)
    assert found[75] == pytest.approx(1.0)  # half down the cosine
    assert found[100] == pytest.approx(0, abs=1e-15)
    assert found[10:] == sorted(found[10:], reverse=True)
    assert karras_rate(0, 10, 2.0, 0, 0) == karras_rate(9, 10, 2.0, 0, 0) == 2.0
    assert [replace(TINY, rates="constant").rate(step) for step in (0, 19)] == [0.1, 0.1]
    assert TINY.rate(10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "changes",
    [
        *({"batch": 0}, {"iterations": 0}, {"lr": 0.0}, {"lr": math.nan}, {"rates": "cosine"}),
        *({"l1": 0.0}, {"l1": -1.0}, {"mse": -1.0}, {"l1": math.nan}, {"mse": math.inf}),
        {"lpips": 1.0, "target_layer": 2},
    ],
)
def test_recipes_that_do_not_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"1 or more|no loss is negative|LPIPS compares pictures|rates are"):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stylemix": (6, 16)}, "has 6 ws, so that mixing entries 6 to 16 changes nothing"),
        ({"stylemix": (4, 4)}, "changes nothing"),
        ({"stylemix": (-2, 3)}, "changes nothing"),
        ({"lpips": 1.0}, "needs its network"),
        ({"layers": "5"}, "within 0 and 4"),
        ({"target_layer": 5}, "within 0 and 4"),
        ({"target_layer": -1}, "within 0 and 4"),
        ({"rank": 0}, "1 or more, or None"),
        ({"kind": "bias"}, "conv, affine, all"),
    ],
)
def test_what_this_generator_cannot_be_trained_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(replace(TINY, **changes))


def test_losses_by_hand() -> None:
    recipe = replace(TINY, l1=2.0, mse=3.0, lpips=5.0)
    training = built(recipe, distance=squares)
    made, base = torch.full((2, 3, 16, 16), 0.5), torch.full((2, 3, 16, 16), 0.25)
    found = training.losses(made, base, grids(2))
    assert {k: float(v) for k, v in found.items()} == pytest.approx({"L1": 0.5, "MSE": 3 / 16, "LPIPS": 5 / 16})
    assert set(built().losses(made, base, grids(2))) == {"L1"}
    for labels in (grids(2, 8), grids(1)):
        with pytest.raises(ValueError, match=r"size of what is compared, 16 x 16|each picture has a grid"):
            training.losses(made, base, labels)


def test_colour_losses_by_hand() -> None:
    training = built(colours=ColourWeights(8.0, 2.0))
    made, base = torch.full((2, 3, 16, 16), 0.5), torch.full((2, 3, 16, 16), -0.5)
    labels = torch.zeros(2, 5, 16, 16)
    labels[:, :3] = 1.0
    labels[:, 3, :4] = 1  # a quarter is drawn
    labels[:, 4, 8:] = 1  # a half stays
    found = {k: float(v) for k, v in training.losses(made, base, labels).items()}
    assert found == pytest.approx({"L1_color": 8 * 0.25 * 0.5, "L1_background": 2 * 0.5 * 1.0})
    for bad in (labels[:, :4], labels[:1], labels[..., :8], grids(2)):
        with pytest.raises(ValueError, match=r"strokes must be \(2, 5, 16, 16\)"):
            training.losses(made, base, bad)


def test_the_target_is_the_warped_base_of_the_same_styles() -> None:
    training = built()
    ws, z = ws_of(training), draw(2, 8, seed=9)
    noise = {
        name.removeprefix("synthesis."): torch.zeros(2, 1, r, r)
        for name, r in zip(layers(training.g), (4, 8, 8, 16, 16), strict=True)
    }
    made, base = training.pictures(ws, draws=Draws(z, noise, noise))
    close(made, base, 1e-6)  # nothing is learnt yet
    mixed = ws.clone()
    mixed[:, 3:] = training.g.mapping(z, None)[:, 3:]
    close(base, render(training.g, mixed, noise_mode="none"), 1e-5)
    loss = training.step(ws, grids(2), draws=Draws(z, noise, noise))["L1"]
    close(loss, (made - warp(base, grids(2))).abs().mean().detach(), 1e-6)
    assert torch.equal(ws, ws_of(training))  # the batch is not written into


def test_the_two_generators_draw_noise_of_their_own() -> None:
    training = built(replace(TINY, stylemix=None))
    made, base = training.pictures(ws_of(training), seeded(3))
    assert (made - base).abs().max() > 1e-3
    again = training.pictures(ws_of(training), seeded(3))
    assert torch.equal(made, again[0])
    assert torch.equal(base, again[1])
    three = built(replace(TINY, stylemix=None), "stylegan3")
    made, base = three.pictures(ws_of(three), seeded(3))
    assert torch.equal(made, base)


@BOTH
def test_a_training_is_seeded_and_leaves_the_base_alone(which: str) -> None:
    def run(seed: int) -> tuple[list[float], Training]:
        training = built(TINY, which)
        base = {name: value.clone() for name, value in training.g.synthesis.state_dict().items()}
        ws, labels = ws_of(training), grids(2)
        found = [float(training.step(ws, labels, seeded(seed + i))["L1"]) for i in range(12)]
        assert all(torch.equal(value, base[name]) for name, value in training.g.synthesis.state_dict().items())
        assert training.iteration == 12
        return found, training

    (first, training), (again, other) = run(0), run(0)
    assert first == again
    assert all(torch.equal(a, b) for a, b in zip(training.update.parameters(), other.update.parameters(), strict=True))
    assert first != run(100)[0]
    # The first step's rate is 0.
    one = built(TINY, which)
    start = [value.clone() for value in one.update.parameters()]
    one.step(ws_of(one), grids(2), seeded())
    assert all(torch.equal(a, b) for a, b in zip(start, one.update.parameters(), strict=True))
    one.step(ws_of(one), grids(2), seeded())
    assert not all(torch.equal(a, b) for a, b in zip(start, one.update.parameters(), strict=True))
    assert one.optimisers["update"].param_groups[0]["lr"] == TINY.rate(1)


def test_features_are_compared_where_a_layer_is_given() -> None:
    training = built(replace(TINY, target_layer=2, stylemix=None))
    made, base = training.pictures(ws_of(training), seeded())
    assert made.shape == base.shape == (2, 6, 8, 8)
    assert set(training.step(ws_of(training), grids(2, 8), seeded())) == {"L1"}
    with pytest.raises(ValueError, match="size of what is compared, 8 x 8"):
        training.step(ws_of(training), grids(2, 16), seeded())


def test_gradients_are_averaged_between_backward_and_step() -> None:
    training = built(replace(TINY, rates="constant"))
    seen = []

    def average(parameters: Any) -> None:
        for parameter in parameters:
            seen.append(parameter.grad.clone())
            parameter.grad.zero_()

    before = [value.clone() for value in training.update.parameters()]
    training.step(ws_of(training), grids(2), seeded(), average=average)
    assert any(gradient.any() for gradient in seen)
    assert all(torch.equal(a, b) for a, b in zip(before, training.update.parameters(), strict=True))


def test_the_layout_of_maps_changes_no_value() -> None:
    training = built(replace(TINY, stylemix=None))
    assert set(training.layout) == {"synthesis.b4.const"}
    const = training.g.synthesis.get_parameter("b4.const")
    assert torch.equal(training.layout["synthesis.b4.const"], const)
    ours = training.pictures(ws_of(training), seeded())
    training.layout = {}
    for a, b in zip(ours, training.pictures(ws_of(training), seeded()), strict=True):
        close(a.detach(), b.detach(), 1e-5)
    assert built(which="stylegan3").layout == {}


def test_full_precision_is_a_loan() -> None:
    g = stylegan2_tiny(num_fp16_res=2)
    flags = [getattr(module, "use_fp16", None) for module in g.synthesis.modules()]
    assert flags.count(True) == 2
    with full_precision(g.synthesis):
        assert not any(getattr(module, "use_fp16", False) for module in g.synthesis.modules())
    assert [getattr(module, "use_fp16", None) for module in g.synthesis.modules()] == flags
    with pytest.raises(RuntimeError, match="stopped"), full_precision(g.synthesis):
        raise RuntimeError("stopped")
    assert [getattr(module, "use_fp16", None) for module in g.synthesis.modules()] == flags


# ----------------------------------------------------------------------------------------------------------------------
# Landmark edits


FACE = {"left": (10.0, 20.0), "right": (30.0, 20.0), "nose": (20.0, 30.0), "far": (70.0, 5.0), "bad": (math.nan, 1.0)}


def edit(*moves: Move, pins: tuple[str, ...] = ()) -> list[list[float]]:
    return LandmarkEdit(moves, pins).points(FACE, 64).tolist()


def test_landmarks_move_by_a_share_of_the_way_between_others() -> None:
    assert edit(Move("nose", "left", "right", 0.5), pins=("left", "right")) == [
        [20, 30, 30, 30],
        [10, 20, 10, 20],
        [30, 20, 30, 20],
    ]
    assert edit(Move("left", "nose", "nose", 3.0)) == [[10, 20, 10, 20]]


def test_a_move_ends_at_the_border_on_its_way() -> None:
    assert edit(Move("nose", "nose", "left", 4.0)) == [pytest.approx([20, 30, 0, 10])]
    assert edit(Move("nose", "left", "far", 2.0)) == [pytest.approx([20, 30, 63, 30 - 43 * 15 / 60])]
    # Rounding takes none over it.
    values = np.random.default_rng(0).uniform(-1, 64, (500, 6))
    for x, y, *ends in values[(values[:, :2] >= 0).all(1) & (values[:, :2] <= 63).all(1)]:
        way = {"a": (x, y), "b": (ends[0] * 9, ends[1] * 9), "c": (ends[2], ends[3])}
        row = LandmarkEdit((Move("a", "b", "c", 2.0),)).points(way, 64)[0]
        assert ((row[2:] >= 0) & (row[2:] <= 63)).all()


def test_one_point_a_pixel_and_none_outside() -> None:
    near = FACE | {"beside": (30.4, 20.9)}
    move = Move("left", "left", "right", 1.0)
    rows = LandmarkEdit((move,), ("right", "beside", "nose", "far")).points(near, 64).tolist()
    assert rows == [[10, 20, 30, 20], [20, 30, 20, 30]]
    rows = LandmarkEdit((move, Move("far", "left", "right", 1.0))).points(FACE, 64).tolist()
    assert rows == [[10, 20, 30, 20]]
    with pytest.raises(ValueError, match="lie outside of the picture"):
        edit(Move("far", "left", "right", 1.0), pins=("left",))
    # What comes out can be warped.
    found = LandmarkEdit((move,), ("nose",)).points(FACE, 64)
    assert torch.isfinite(pixel_grid(with_corners(torch.from_numpy(found), (64, 64)), (64, 64))).all()


@pytest.mark.parametrize(
    ("moves", "pins", "message"),
    [
        ((), ("left",), "moves at least one"),
        ((Move("left", "left", "right", 1), Move("left", "left", "nose", 1)), (), "'left' is named twice"),
        ((Move("left", "left", "right", 1),), ("left",), "'left' is named twice"),
        ((Move("left", "left", "right", 1),), ("nose", "nose"), "'nose' is named twice"),
        ((Move("left", "left", "right", math.nan),), (), "'left' moves by nan"),
        ((Move("left", "left", "right", math.inf),), (), "'left' moves by inf"),
        ((Move("ear", "left", "right", 1),), (), "no landmark 'ear' among left, right"),
        ((Move("left", "ear", "right", 1),), (), "no landmark 'ear'"),
        ((Move("left", "left", "right", 1),), ("ear",), "no landmark 'ear'"),
        ((Move("left", "left", "bad", 1),), (), "'bad' is at nan, 1.0"),
        ((Move("left", "left", "right", 1),), ("bad",), "'bad' is at nan, 1.0"),
    ],
)
def test_edits_that_are_none(moves: tuple[Move, ...], pins: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit(*moves, pins=pins)
