"""What GANgealing is used for, against closed forms: transformers whose similarity, or flow, is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.reference.gangealing import correspondence
from gengauge.reference.gangealing.blending import LIGHT, blend
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.congealing import (
    Congealed,
    Settings,
    average,
    congeal,
    congeal_each,
    flow_scores,
)
from gengauge.reference.gangealing.correspondence import Inversion, correspond, invert
from gengauge.reference.gangealing.dataset import congeal_dataset, quality, squared_up
from gengauge.reference.gangealing.losses import smooth_enough
from gengauge.reference.gangealing.propagation import coordinate_map, dot, edit_each, propagate, template_of
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer, Warped

pytestmark = pytest.mark.usefixtures("one_thread")

FLOW = 64
TURNED = (0.4, 0.8, 0.1, -0.15)  # angle, scale, shift
OTHER = (-0.3, 0.7, -0.12, 0.05)
WIDE = (0.2, 0.9, 0.5, 0.0)
RED = (1.0, -1.0, -1.0)


def matrix_of(angle: float, scale: float, x: float, y: float) -> Tensor:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[cos, -sin, x], [sin, cos, y]])


def moved(matrix: Tensor, places: Tensor) -> Tensor:
    """Places (..., 2) by a matrix (2, 3)."""
    return places @ matrix[:, :2].T + matrix[:, 2]


def undone(matrix: Tensor, places: Tensor) -> Tensor:
    return (places - matrix[:, 2]) @ torch.linalg.inv(matrix[:, :2]).T


def inverse(angle: float, scale: float, x: float, y: float) -> Tensor:
    """The matrix of the inverse."""
    linear = torch.linalg.inv(matrix_of(angle, scale, x, y)[:, :2])
    return torch.cat([linear, -linear @ torch.tensor([[x], [y]])], 1)


def known(*warps: tuple[float, float, float, float], flow: bool = True) -> Any:
    """A transformer that warps every picture by a head's angle, scale and shift, with no residual flow."""
    build = ComposedSTN if flow else lambda *size, **more: SpatialTransformer("similarity", *size, **more)
    network = build(FLOW, num_heads=len(warps), base_channels=16).eval()
    head: Any = (network.similarity if isinstance(network, ComposedSTN) else network).warp_head
    raw = [[math.atanh(angle / math.pi), math.log(scale), x, y] for angle, scale, x, y in warps]
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor(raw).T.flatten())  # parameter by parameter
    return network


def stirred() -> ComposedSTN:
    """A transformer whose similarity and flow depend on the picture."""
    torch.manual_seed(0)
    network = ComposedSTN(FLOW, base_channels=16).eval()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "warp_head.linear" in name or "flow_out.2.weight" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=source))
    return network


class BrightSide(ResnetClassifier):
    """Four logits: cluster 1 where the lower half is brighter, mirrored where the left one is. Two: only the latter."""

    def __init__(self, logits: int = 4) -> None:
        super().__init__(FLOW, num_heads=logits, base_channels=16)

    def forward(self, x: Tensor) -> Tensor:
        low = x[:, :, FLOW // 2 :].mean((1, 2, 3)) > x[:, :, : FLOW // 2].mean((1, 2, 3))
        left = x[..., : FLOW // 2].mean((1, 2, 3)) > x[..., FLOW // 2 :].mean((1, 2, 3))
        found = low + 2 * left if self.num_heads == 4 else left.long()
        return F.one_hot(found, self.num_heads).float()


def places(width: int, height: int | None = None) -> Tensor:
    """Where a picture's pixels are, (H, W, 2) in [-1, 1] from edge to edge."""
    height = height or width
    y, x = torch.meshgrid(
        (2 * torch.arange(height) + 1) / height - 1, (2 * torch.arange(width) + 1) / width - 1, indexing="ij"
    )
    return torch.stack([x, y], -1)


def colours(where: Tensor) -> Tensor:
    """A smooth picture, brighter right and below, at places (..., 2): (3, ...)."""
    x, y = where.unbind(-1)
    return torch.stack(
        [0.4 * torch.sin(2 * x + 0.5 * y), 0.3 * x + 0.4 * torch.sin(y), 0.3 * x * y + 0.2 * x + 0.1 * y]
    )


def picture(size: int = FLOW) -> Tensor:
    return colours(places(size))[None]


def sampled(x: Tensor, matrix: Tensor, size: int) -> Tensor:
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), [len(x), 3, size, size], align_corners=False)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_px(where: Tensor, size: int) -> Tensor:
    """Places in [-1, 1] in px from the centre of the first pixel."""
    return ((where + 1) * size - 1) / 2


def centre(mask: Tensor) -> Tensor:
    """The centre (x, y) of a mask (H, W), in px."""
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in mask.shape), indexing="ij")
    return torch.stack([(x * mask).sum(), (y * mask).sum()]) / mask.sum()


def by_hand(matrix: Tensor, delta: Tensor) -> Congealed:
    """A picture congealed by a similarity (2, 3) and a residual flow (F, F, 2)."""
    side = len(delta)
    grid = moved(matrix, places(side) + delta)
    warped = Warped(torch.zeros(1, 3, side, side), grid[None], matrix[None], delta[None])
    return Congealed(warped, torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64))


# ----------------------------------------------------------------------------------------------------------------------
# Congealing


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize(("side", "size"), [(64, 64), (64, 100), (128, 128), (256, 256), (384, 384)])
def test_pictures_of_any_size_are_sampled_where_the_similarity_says(flow: bool, side: int, size: int) -> None:
    x = torch.cat([picture(side), draws(1, 3, side, side).clamp(-1, 1)])
    found = congeal(known(TURNED, flow=flow), x, output_resolution=size)
    assert found.image.shape == (2, 3, size, size)
    # A flow's grid is resized from its own resolution, which ends at the centres of its outermost entries.
    inner = slice(size // FLOW, size - size // FLOW) if flow and size != FLOW else slice(None)
    expected = sampled(x, matrix_of(*TURNED), size)
    torch.testing.assert_close(found.image[..., inner, inner], expected[..., inner, inner], rtol=0, atol=2e-4)
    assert not found.mirrored.any()
    assert not found.cluster.any()


def test_iterations_multiply_and_alpha_goes_part_of_the_way() -> None:
    x, network = picture(), known(TURNED, flow=False)
    square = torch.cat([matrix_of(*TURNED), torch.tensor([[0.0, 0.0, 1.0]])])
    found = congeal(network, x, Settings(iters=3))
    torch.testing.assert_close(found.warped.matrix, (square @ square @ square)[None, :2])
    half = congeal(network, x.repeat(3, 1, 1, 1), alpha=torch.tensor([0.0, 0.5, 1.0]))
    middle = (torch.eye(2, 3) + matrix_of(*TURNED)) / 2
    for i, matrix in enumerate([torch.eye(2, 3), middle, matrix_of(*TURNED)]):
        torch.testing.assert_close(half.image[i : i + 1], sampled(x, matrix, FLOW), rtol=0, atol=1e-5)
    assert torch.equal(congeal(network, x, alpha=0.5).image, half.image[1:2])


def test_another_source_and_its_padding() -> None:
    warp = (0.2, 0.9, 0.6, 0.0)
    seen, source = draws(1, 3, FLOW, FLOW), draws(1, 3, FLOW, FLOW, seed=1)
    grid = F.affine_grid(matrix_of(*warp)[None], [1, 3, FLOW, FLOW], align_corners=False)
    for padding in ("zeros", "border", "reflection"):
        found = congeal(known(warp), seen, Settings(padding_mode=padding), source)
        expected = F.grid_sample(source, grid, "bilinear", padding, align_corners=False)
        torch.testing.assert_close(found.image, expected, rtol=0, atol=1e-4)
    # Of any size: a smooth picture of 150 px has at its places what its formula gives.
    found = congeal(known(TURNED), seen, source=picture(150))
    at = moved(matrix_of(*TURNED), places(FLOW))
    inside = at.abs().amax(-1) < 0.98
    torch.testing.assert_close(found.image[0][:, inside], colours(at)[:, inside], rtol=0, atol=0.01)


def test_a_classifier_chooses_heads_and_mirrors() -> None:
    network, classifier = known(TURNED, OTHER), BrightSide()
    upright = torch.cat([picture(), picture().flip(2)])  # brighter below, above
    x = torch.cat([upright, upright.flip(3)])
    found = congeal(network, x, Settings(classifier=classifier, flips=True))
    assert found.mirrored.tolist() == [False, False, True, True]
    assert found.cluster.tolist() == [1, 0, 1, 0]
    expected = torch.cat(
        [sampled(upright[:1], matrix_of(*OTHER), FLOW), sampled(upright[1:], matrix_of(*TURNED), FLOW)]
    )
    torch.testing.assert_close(found.image, expected.repeat(2, 1, 1, 1), rtol=0, atol=1e-4)
    # Grid and matrix lead to the pictures as they were given.
    again = F.grid_sample(x, found.warped.grid, "bilinear", "border", align_corners=False)
    torch.testing.assert_close(again, found.image, rtol=0, atol=1e-4)
    mirror = torch.tensor([[-1.0], [1.0]])
    torch.testing.assert_close(found.warped.matrix[2:], mirror * torch.stack([matrix_of(*OTHER), matrix_of(*TURNED)]))
    # A cluster can be asked for; the classifier then only tells what to mirror.
    asked = congeal(network, x[2:3], Settings(classifier=classifier, cluster=1))
    assert (asked.cluster.item(), asked.mirrored.item()) == (1, True)
    # A classifier of as many logits as heads tells no flips.
    heads = congeal(network, x, Settings(classifier=BrightSide(2)))
    assert heads.cluster.tolist() == [0, 0, 1, 1]
    assert not heads.mirrored.any()
    # Of one head two logits are a picture and its mirror image.
    alone = congeal(known(TURNED, flow=False), x, Settings(classifier=BrightSide(2)))
    assert alone.mirrored.tolist() == [False, False, True, True]
    # What a transformer regresses is regressed of the upright picture.
    noise = x + draws(4, 3, FLOW, FLOW, seed=3) / 8
    one, other = (congeal(stirred(), y, Settings(2, classifier=BrightSide(2))) for y in (noise, noise.flip(3)))
    assert torch.equal(one.mirrored, ~other.mirrored)
    torch.testing.assert_close(one.image, other.image, rtol=0, atol=1e-4)
    part = found.part(torch.tensor([2, 1]))
    assert part.cluster.tolist() == [1, 0]
    assert part.mirrored.tolist() == [True, False]


def test_flips_by_the_smoother_flow() -> None:
    network, x, settings = stirred(), draws(4, 3, FLOW, FLOW), Settings(flips=True, iters=2)
    found, other = congeal(network, x, settings), congeal(network, x.flip(3), settings)
    assert torch.equal(found.mirrored, ~other.mirrored)
    assert torch.equal(found.image, other.image)
    as_given, as_mirrored = congeal(network, x, Settings(2)).score, congeal(network, x.flip(3), Settings(2)).score
    assert torch.equal(found.mirrored, as_mirrored > as_given)
    assert torch.equal(found.score, torch.maximum(as_given, as_mirrored))
    # The matrices of a picture and of its mirror image are those of one another, left and right exchanged.
    assert found.warped.matrix is not None
    mirror = torch.tensor([[-1.0], [1.0]])
    torch.testing.assert_close(other.warped.matrix, mirror * found.warped.matrix)
    assert torch.equal(found.warped.iterates[-1], found.warped.matrix)
    # Nothing of the way is the upright picture.
    none = congeal(network, x, settings, alpha=0.0)
    turned = torch.where(found.mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    torch.testing.assert_close(none.image, turned, rtol=0, atol=1e-4)
    picked = found.part(torch.tensor([2, 0]))
    assert torch.equal(picked.image, found.image[[2, 0]])
    assert torch.equal(picked.score, found.score[[2, 0]])
    assert len(found.part(found.mirrored)) == int(found.mirrored.sum())


# ----------------------------------------------------------------------------------------------------------------------
# Scores and means


def test_the_score_is_minus_the_flows_variation() -> None:
    rows = torch.arange(8.0)[:, None].expand(8, 8)
    steep = by_hand(torch.eye(2, 3), torch.stack([0.5 * rows, 0 * rows], -1))
    # Differences of 0.5 down, in one of two components: 0.5^2 / 2 / 2; none across.
    assert steep.score.item() == pytest.approx(-0.0625)
    steeper = by_hand(torch.eye(2, 3), torch.stack([3 * rows, 0 * rows], -1))
    assert steeper.score.item() == pytest.approx(-(3 - 0.5) / 2)  # beyond the loss's knee


def test_pictures_strictly_above_a_quantile_are_kept() -> None:
    network, x = stirred(), draws(6, 3, FLOW, FLOW)
    scores = flow_scores(network, (x[i : i + 4] for i in (0, 4)))
    torch.testing.assert_close(scores, torch.cat([congeal(network, one[None]).score for one in x]))
    order = scores.argsort(descending=True).tolist()
    assert sorted(order[:3]) == smooth_enough(scores, 0.5).tolist()
    assert sorted(order[:5]) == smooth_enough(scores, 1.0).tolist()  # the lowest is the quantile itself
    assert smooth_enough(scores, 0.0).tolist() == []


def test_the_average_of_one_picture_warped_is_that_picture() -> None:
    warps = [TURNED, OTHER, (0.1, 0.75, 0.1, 0.1), (-0.5, 0.6, 0.0, -0.1)]
    size, x = 128, picture(128) + 0.3 * torch.sin(9 * places(128).sum(-1))
    # Each picture shows, at the place that its similarity leads to, what x has in the common frame.
    given = [sampled(x, inverse(*warp), size) for warp in warps]
    congealed = [
        congeal(known(warp), one, output_resolution=size).image for warp, one in zip(warps, given, strict=True)
    ]
    mean = average(iter(congealed))
    assert mean.count == 4
    assert mean.image.dtype == torch.float32
    aligned, not_aligned = ((one - x[0]).abs().mean() for one in (mean.image, average(given).image))
    assert aligned < 0.005
    assert not_aligned > 0.1
    # Batches do not matter, nor does what float32 would lose in a long sum.
    together = average([torch.cat(congealed[:3]), congealed[3]])
    torch.testing.assert_close(together.image, mean.image, rtol=0, atol=1e-7)
    large = torch.tensor([2.0**24, 1.0, 1.0, -(2.0**24)]).view(4, 1, 1, 1)
    assert average([large]).image.item() == average(large.split(1)).image.item() == 0.5


def test_batches_are_taken_one_by_one() -> None:
    taken = []

    def batches() -> Iterator[Tensor]:
        for i in range(2):
            taken.append(i)
            yield picture()

    stream = congeal_each(known(TURNED), batches(), output_resolution=32)
    assert next(stream).image.shape == (1, 3, 32, 32)
    assert taken == [0]
    assert len(list(stream)) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Datasets


def outside(matrix: Tensor, width: int, height: int, size: int) -> bool:
    """More than 2.5 % of the samples of `size` px, on an axis, beyond the centres of the true picture's last pixels."""
    side = max(width, height)
    at = moved(matrix, places(size)) * side / 2
    beyond = at.abs() > torch.tensor([(width - 1) / 2, (height - 1) / 2])
    return bool((beyond.float().mean((0, 1)) > 0.025).any())


@pytest.mark.parametrize("flow", [True, False])
def test_datasets_are_sampled_from_their_own_pixels(flow: bool) -> None:
    warp = (0.3, 0.6, 0.05, -0.02)
    sizes = [(200, 160), (90, 120), (64, 64), (400, 110)]
    pictures = [colours(places(width, height)) for width, height in sizes]
    entries = list(congeal_dataset(known(warp, flow=flow), iter(pictures), Settings(), 80))
    assert len(entries) == 4
    for entry, (width, height) in zip(entries, sizes, strict=True):
        assert entry.effective_resolution == pytest.approx(0.6 * min(width, height), rel=1e-5)
        assert entry.outside == outside(matrix_of(*warp), width, height, 80)
        assert entry.kept == (0.6 * min(width, height) >= 60 and not entry.outside)
        # Of the padded square the middle is the picture; its formula is that of the picture's own places.
        at = moved(matrix_of(*warp), places(80)) * max(width, height) / torch.tensor([width, height])
        inside = (at.abs() < 0.9).all(-1)
        torch.testing.assert_close(entry.image[:, inside], colours(at)[:, inside], rtol=0, atol=0.02)
    assert [entry.kept for entry in entries] == [True, False, False, False]
    assert [entry.outside for entry in entries] == [False, False, False, True]
    few = congeal_dataset(known(warp, flow=flow), pictures[1:3], output_resolution=80, least=38)
    assert [entry.kept for entry in few] == [True, True]
    # The finest detail is that of the picture, not of what the network sees of it.
    noise = draws(1, 3, 150, 150)
    (entry,) = congeal_dataset(known(warp, flow=flow), noise)
    torch.testing.assert_close(entry.image[None], sampled(noise, matrix_of(*warp), 256), rtol=0, atol=1e-3)


def test_which_axis_leaves_the_picture_matters() -> None:
    # Aside to 0.9 of the square and down to 0.6: within a wide picture, not within a high one.
    network, x = known((0.0, 0.6, 0.3, 0.0)), torch.zeros(3, 44, 64)
    assert [entry.outside for entry in congeal_dataset(network, [x, x.mT])] == [False, True]
    both = congeal(network, picture().repeat(2, 1, 1, 1))
    assert quality(both, torch.tensor([[44, 64], [64, 44]])).outside.tolist() == [True, False]


def test_the_published_limit_is_192_of_256_pixels() -> None:
    pictures = [torch.zeros(3, side, side) for side in (191, 192)]
    entries = congeal_dataset(known((0.0, 1.0, 0.0, 0.0)), pictures)
    assert [(entry.kept, tuple(entry.image.shape)) for entry in entries] == [
        (False, (3, 256, 256)),
        (True, (3, 256, 256)),
    ]


def test_quality_is_told_of_each_picture_of_a_batch() -> None:
    bounds = torch.tensor([[64, 64], [64, 30], [30, 64], [200, 180]])
    found = quality(congeal(known(TURNED), picture().repeat(4, 1, 1, 1)), bounds)
    expected = [outside(matrix_of(*TURNED), *pair, FLOW) for pair in bounds.tolist()]
    assert found.outside.tolist() == expected
    assert {True, False} == set(expected)
    torch.testing.assert_close(found.effective_resolution, 0.8 * torch.tensor([64.0, 30.0, 30.0, 180.0]))
    assert found.enough(50).tolist() == [not expected[0], False, False, not expected[3]]


def test_datasets_with_flips() -> None:
    warp, x = (0.2, 0.7, 0.1, 0.0), colours(places(100))
    told = list(congeal_dataset(known(warp), [x, x.flip(2)], Settings(classifier=BrightSide(2)), 64))
    assert [entry.mirrored for entry in told] == [False, True]
    torch.testing.assert_close(told[0].image, told[1].image, rtol=0, atol=1e-5)
    assert told[1].effective_resolution == pytest.approx(70, rel=1e-5)
    # By the flow, which then bends nothing.
    network, noise = stirred(), draws(3, 3, 100, 100)
    both = [list(congeal_dataset(network, side, Settings(flips=True), 256)) for side in (noise, noise.flip(3))]
    for i, (one, other) in enumerate(zip(*both, strict=True)):
        assert one.mirrored != other.mirrored
        torch.testing.assert_close(one.image, other.image, rtol=0, atol=1e-4)
        assert one.effective_resolution < 256  # so that pixels are not mixed
        torch.testing.assert_close(one.image[None], sampled(noise[i : i + 1], one.matrix, 256), rtol=0, atol=1e-4)


def test_squares() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert squared_up(x)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert squared_up(x.mT)[0, 0].tolist() == [[0, 3, 3], [1, 4, 4], [2, 5, 5]]
    assert squared_up(torch.ones(1, 3, 2, 9)).shape == (1, 3, 9, 9)


# ----------------------------------------------------------------------------------------------------------------------
# Edits


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize(("side", "resolution"), [(64, 32), (64, 150), (256, 128)])
def test_a_dot_lands_where_the_similarity_sends_it(flow: bool, side: int, resolution: int) -> None:
    template = dot(0.7, 0.35, 0.1, RED, resolution)
    x = picture(side)
    overlay = propagate(congeal(known(TURNED, flow=flow), x), template, side)
    expected = in_px(moved(matrix_of(*TURNED), torch.tensor([0.4, -0.3])), side)
    mask = overlay.mask[0, 0]
    torch.testing.assert_close(centre(mask), expected, rtol=0, atol=0.02 * side)
    radius, sigma = 0.1 * 0.8 * side, max(0.75 * 0.8 * side / resolution, 0.5)
    # A spot at the rim reaches two sigmas further.
    assert 0.95 * math.pi * radius**2 < mask.sum() < math.pi * (radius + 2 * sigma) ** 2
    at, away = expected.round().long(), (expected + radius + 2 * sigma + 2).long()
    assert mask[at[1], at[0]] == 1
    assert mask[away[1], away[0]] == 0
    edited = overlay.over(x)
    torch.testing.assert_close(edited[0, :, at[1], at[0]], torch.tensor(RED), rtol=0, atol=1e-5)
    nothing = (mask == 0).expand(1, 3, -1, -1)
    assert torch.equal(edited[nothing], x[nothing])
    half = overlay.over(x, opacity=0.5)
    torch.testing.assert_close(half, (edited + x) / 2)
    assert torch.equal(overlay.over(x, 0.5, LIGHT), blend(overlay.edit, x, overlay.mask, 0.5, LIGHT))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_spots_join_at_every_scale(scale: float) -> None:
    template = torch.ones(4, 40, 40)
    overlay = propagate(congeal(known((0.5, scale, 0.0, 0.0)), picture()), template, FLOW)
    there = undone(matrix_of(0.5, scale, 0.0, 0.0), places(FLOW)).abs().amax(-1)
    # All of the frame but its last half pixel of the template's 40; the flow's grid ends half an entry before it, too.
    assert (overlay.mask[0, 0][there < 0.96] == 1).all()
    reach = math.sqrt(2) * (2 * 0.75 * scale * FLOW / 40 + 1)  # px, of a turned window
    assert (overlay.mask[0, 0][there > 1 + reach / (scale * FLOW / 2)] == 0).all()


def test_a_single_pixel_is_a_spot_of_the_sigma_asked_for() -> None:
    template = torch.zeros(4, 21, 21)
    template[:, 10, 10] = 0.5
    overlay = propagate(congeal(known(TURNED), picture(128)), template, 128, sigma=4.0)
    middle = in_px(moved(matrix_of(*TURNED), torch.zeros(2)), 128)
    torch.testing.assert_close(centre(overlay.mask[0, 0]), middle, rtol=0, atol=0.2)
    # The integral of a Gaussian of height 0.5 within two sigmas on either axis.
    assert overlay.mask.sum().item() == pytest.approx(0.5 * 2 * math.pi * 4**2 * 0.9545**2, rel=0.05)
    assert overlay.mask.max() < 0.5


def test_mirrored_pictures_have_mirrored_edits() -> None:
    template = torch.cat([coordinate_map(64)[:3], dot(0.6, 0.3, 0.15, RED, 64)[3:]])
    classifier = Settings(classifier=BrightSide(2))
    for network, x, settings in (
        (known(TURNED), picture(), classifier),
        (known(TURNED, flow=False), picture(), classifier),
        (stirred(), draws(3, 3, FLOW, FLOW), Settings(flips=True)),
    ):
        plain, mirrored = (
            propagate(congeal(network, one, settings), template, FLOW).over(one) for one in (x, x.flip(3))
        )
        assert (plain - x).abs().amax() > 0.5
        torch.testing.assert_close(mirrored, plain.flip(3), rtol=0, atol=1e-3)


def test_clusters_have_templates_of_their_own() -> None:
    template = torch.stack([dot(0.3, 0.3, 0.1, RED, 64), dot(0.6, 0.7, 0.1, (-1.0, 1.0, -1.0), 64)])
    x = torch.cat([picture(), picture().flip(2)])  # clusters 1 and 0
    settings = Settings(classifier=BrightSide())
    overlay = propagate(congeal(known(TURNED, OTHER), x, settings), template, FLOW)
    for i, (warp, place, channel) in enumerate([(OTHER, (0.2, 0.4), 1), (TURNED, (-0.4, -0.4), 0)]):
        expected = in_px(moved(matrix_of(*warp), torch.tensor(place)), FLOW)
        torch.testing.assert_close(centre(overlay.mask[i, 0]), expected, rtol=0, atol=0.5)
        assert overlay.edit[i].flatten(1).amax(1).argmax() == channel
    # One template is for all of them, and a transparent one for none of its cluster.
    both = propagate(congeal(known(TURNED, OTHER), x, settings), template[:1], FLOW)
    assert (both.mask.sum((1, 2, 3)) > 0).all()
    template[1, 3] = 0
    one = propagate(congeal(known(TURNED, OTHER), x, settings), template, FLOW)
    assert (one.mask.sum((1, 2, 3)) > 0).tolist() == [False, True]


@pytest.mark.parametrize("resolution", [None, 200])
def test_a_drawing_on_one_picture_is_carried_to_all(resolution: int | None) -> None:
    side = 128
    place = torch.tensor([0.3, -0.2])
    disc = ((places(side) - place).norm(dim=-1) < 0.15).float()
    drawing = torch.cat([torch.tensor([0.2, -0.6, 0.9])[:, None, None].expand(3, side, side), disc[None]])
    drawing[:3, disc == 0] = 1  # white where nothing is drawn, which must not brighten the edge
    template = template_of(congeal(known(TURNED), picture(side)), drawing, resolution)
    size = resolution or FLOW
    assert template.shape == (4, size, size)
    expected = in_px(undone(matrix_of(*TURNED), place), size)
    torch.testing.assert_close(centre(template[3]), expected, rtol=0, atol=0.3)
    drawn = template[:3, template[3] > 0]
    torch.testing.assert_close(drawn, torch.tensor([[0.2], [-0.6], [0.9]]).expand_as(drawn), rtol=0, atol=1e-4)
    assert template[3].sum().item() == pytest.approx(math.pi * (0.15 / 0.8 * size / 2) ** 2, rel=0.1)
    # To the same picture it comes back, to another it goes by both similarities.
    for warp in (TURNED, OTHER):
        mask = propagate(congeal(known(warp), picture(side)), template, side).mask[0, 0]
        there = in_px(moved(matrix_of(*warp), undone(matrix_of(*TURNED), place)), side)
        torch.testing.assert_close(centre(mask), there, rtol=0, atol=0.5)


def test_a_drawing_on_a_mirrored_picture() -> None:
    settings, x = Settings(classifier=BrightSide(2)), picture().flip(3)
    drawing = dot(0.3, 0.6, 0.1, RED, FLOW)  # where that picture has it
    template = template_of(congeal(known(TURNED), x, settings), drawing)
    expected = in_px(undone(matrix_of(*TURNED), torch.tensor([0.4, 0.2])), FLOW)
    torch.testing.assert_close(centre(template[3]), expected, rtol=0, atol=0.3)


def test_nothing_is_drawn_beyond_a_picture() -> None:
    warp = (0.2, 0.9, 0.7, 0.0)
    template = template_of(congeal(known(warp), picture()), torch.ones(4, FLOW, FLOW))
    there = moved(matrix_of(*warp), places(FLOW)).abs().amax(-1)
    assert (template[3][there < 1 - 1 / FLOW] > 0.999).all()
    assert (template[3][there > 1 + 1 / FLOW] == 0).all()
    assert (there > 1 + 1 / FLOW).any()


def test_frames_are_edited_one_by_one() -> None:
    network, template = stirred(), dot(0.5, 0.5, 0.2, RED, 64)
    frames = [draws(1, 3, FLOW, FLOW, seed=i) for i in range(3)]
    taken = []

    def video() -> Iterator[Tensor]:
        for i, frame in enumerate(frames):
            taken.append(i)
            yield frame

    stream = edit_each(network, video(), template, opacity=0.7)
    first = next(stream)
    assert taken == [0]
    rest = list(stream)
    again = list(edit_each(network, frames[::-1], template, opacity=0.7))[::-1]
    for one, other, frame in zip([first, *rest], again, frames, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, frame)
    (shown,) = edit_each(known(TURNED), frames[:1], template, opacity=0.7)
    at = in_px(moved(matrix_of(*TURNED), torch.zeros(2)), FLOW).round().long()
    expected = 0.3 * frames[0][0, :, at[1], at[0]] + 0.7 * torch.tensor(RED)
    torch.testing.assert_close(shown[0, :, at[1], at[0]], expected)


def test_the_coordinate_map_has_a_colour_a_place() -> None:
    shown = coordinate_map(65)
    assert torch.equal(shown[3], torch.ones(65, 65))
    assert shown[:3].abs().max() <= 1
    assert shown[:3, 32, 32].tolist() == [1, 1, 1]
    right, left = shown[:3, 32, -1], shown[:3, 32, 0]
    assert right[0] == 1
    assert right[1:].max() < -0.9
    torch.testing.assert_close(left, torch.stack([right[1], right[0], right[0]]))  # cyan
    assert shown.diff(dim=1).abs().max() < 0.2
    assert shown.diff(dim=2).abs().max() < 0.2
    # No two places of a coarse map share a colour, but beyond the circle, where the saturation ends.
    coarse = coordinate_map(12)[:3][:, places(12).norm(dim=-1) < 1].T
    distances = torch.cdist(coarse, coarse) + 10 * torch.eye(len(coarse))
    assert distances.min() > 0.02
    # Carried to a picture it shows where each pixel is in the common frame.
    overlay = propagate(congeal(known(TURNED), picture()), coordinate_map(128), FLOW)
    at = in_px(moved(matrix_of(*TURNED), torch.tensor([0.5, 0.0])), FLOW).round().long()
    torch.testing.assert_close(overlay.edit[0, :, at[1], at[0]], torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=0.1)


# ----------------------------------------------------------------------------------------------------------------------
# Dense correspondence


def between(warp_a: tuple[float, ...], warp_b: tuple[float, ...], size: int) -> tuple[Tensor, Tensor]:
    """The place in b of each pixel of a, in px (S, S, 2), and how far from the middle it is in frame and b (S, S)."""
    framed = undone(matrix_of(*warp_a), places(size))
    there = moved(matrix_of(*warp_b), framed)
    return in_px(there, size), torch.maximum(framed.abs().amax(-1), there.abs().amax(-1))


@pytest.mark.parametrize(
    ("flow", "inversion", "tolerance"), [(False, "nearest", 2e-3), (True, "refined", 2e-3), (True, "nearest", 2.2)]
)
def test_similarities_correspond_in_closed_form(flow: bool, inversion: Inversion, tolerance: float) -> None:
    a, b = (congeal(known(warp, flow=flow), picture(128)) for warp in (TURNED, WIDE))
    found = correspond(a, b, 128, inversion)
    expected, furthest = between(TURNED, WIDE, 128)
    margin = 2 / FLOW if inversion == "nearest" and flow else 1e-4
    assert found.valid[0][furthest < 1 - margin].all()
    assert not found.valid[0][furthest > 1 + margin].any()
    # Some of what is in the frame is not in b.
    assert (undone(matrix_of(*TURNED), places(128)).abs().amax(-1)[furthest > 1 + margin] < 1).any()
    valid = found.valid[0] & (furthest < 1 - margin)
    assert 0.2 < valid.float().mean() < 0.95
    assert (found.points[0] - expected)[valid].abs().max() < tolerance
    pixels = in_px(places(128), 128)
    torch.testing.assert_close(found.flow[0], found.points[0] - pixels, rtol=0, atol=1e-4)
    torch.testing.assert_close(in_px(found.grid, 128), found.points, rtol=0, atol=1e-3)
    # Brought onto a, a picture has at a's pixels what it has at their places.
    brought = found.sample(picture(200))
    there = colours((2 * expected + 1) / 128 - 1)
    assert (brought[0] - there)[:, valid].abs().max() < 0.05 * max(tolerance, 0.2)


def test_a_picture_and_its_mirror_image_correspond() -> None:
    settings = Settings(classifier=BrightSide(2))
    a, b = (congeal(known(TURNED), x, settings) for x in (picture(), picture().flip(3)))
    found = correspond(a, b, FLOW, "refined")
    pixels = in_px(places(FLOW), FLOW)
    expected = torch.stack([FLOW - 1 - pixels[..., 0], pixels[..., 1]], -1)
    assert found.valid.float().mean() > 0.4
    assert (found.points[0] - expected)[found.valid[0]].abs().max() < 1e-2
    torch.testing.assert_close(found.sample(picture().flip(3))[:, :, found.valid[0]], picture()[:, :, found.valid[0]])


def bent(x: Tensor, by: float) -> Tensor:
    return x + by * torch.sin(math.pi * x)


def straightened(y: Tensor, by: float) -> Tensor:
    """The inverse of `bent`, by halving intervals."""
    low, high = torch.full_like(y, -1.5, dtype=torch.float64), torch.full_like(y, 1.5, dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        above = bent(middle, by) > y
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low


def test_refined_inverts_a_smooth_flow_better_than_the_nearest_entry() -> None:
    by, side, size = 0.15, 32, 96
    at, matrix = places(side), matrix_of(0.3, 0.9, 0.05, 0.0)
    a, b = by_hand(matrix, bent(at, by) - at), by_hand(matrix_of(*OTHER), bent(at, -0.1) - at)
    framed = straightened(undone(matrix, places(size)), by).float()
    expected = in_px(moved(matrix_of(*OTHER), bent(framed, -0.1)), size)
    inner = framed.abs().amax(-1) < 1 - 1 / side
    errors = {}
    for inversion in ("nearest", "refined"):
        found = correspond(a, b, size, inversion)
        assert found.valid[0][inner].all()
        errors[inversion] = (found.points[0] - expected).norm(dim=-1)[inner]
    # An entry is 3 px, and 0.7 of it in b.
    assert errors["nearest"].mean() > 0.5
    assert errors["refined"].mean() < 0.04  # what linear interpolation of both flows loses
    assert errors["refined"].max() < 0.1 * errors["nearest"].max()


def test_what_has_no_inverse_is_not_valid() -> None:
    side = 32
    at = places(side)
    folded = torch.stack([0.6 * torch.sin(3 * math.pi * at[..., 0]), 0 * at[..., 0]], -1)
    points = 0.95 * at.reshape(1, -1, 2)
    _, off = invert(folded[None], points)
    assert off.abs().max() > 2 / side
    found = correspond(by_hand(torch.eye(2, 3), folded), by_hand(torch.eye(2, 3), 0 * at), side, "refined")
    assert 0 < found.valid.float().mean() < 0.9
    smooth = 0.05 * torch.sin(math.pi * at)
    # Beyond the frame the flow goes on as at its edge.
    beyond, off = invert(torch.full((1, 8, 8, 2), 0.3), torch.tensor([[[-0.9, 0.9]]]))
    torch.testing.assert_close(beyond, torch.tensor([[[-1.2, 0.6]]]))
    assert off.abs().max() < 1e-6
    back, off = invert(smooth[None], points)
    assert off.abs().max() < 1e-5
    assert (back - straightened(points, 0.05)).abs().max() < 1e-3


def test_points_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = stirred()
    a, b = (congeal(network, draws(2, 3, FLOW, FLOW, seed=i)) for i in range(2))
    whole = correspond(a, b, 40)
    monkeypatch.setattr(correspondence, "_MOST_DISTANCES", 2 * FLOW**2 * 7)
    parts = correspond(a, b, 40)
    # Rounding may choose another of two entries that are as near.
    assert (whole.points == parts.points).float().mean() > 0.99
    alone = correspond(a.part(torch.tensor([1])), b.part(torch.tensor([1])), 40)
    assert (whole.points[1:] == alone.points).float().mean() > 0.99


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


NETWORK = known(TURNED)
HEADS = known(TURNED, OTHER)
FOUND = congeal(NETWORK, picture())
TEMPLATE = dot(0.5, 0.5, 0.2, RED, 32)


def spoilt(x: Tensor, *at: int) -> Tensor:
    out = x.clone()
    out[at] = torch.nan
    return out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: congeal(NETWORK, picture(32)), "32 px do not go into 64 px; scale them to 64 px"),
        (lambda: congeal(NETWORK, picture(100)), "100 px do not go into 64"),
        (lambda: congeal(NETWORK, picture(192)), "192 px do not go into 64 px"),
        (lambda: congeal(NETWORK, picture()[0]), r"\(N, 3, S, S\), square and at least one, not \(3, 64, 64\)"),
        (lambda: congeal(NETWORK, picture()[:0]), "at least one"),
        (lambda: congeal(NETWORK, picture()[..., :32]), "pad or crop them"),
        (lambda: congeal(NETWORK, torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), r"bytes are x / 127.5 - 1"),
        (lambda: congeal(NETWORK, spoilt(picture().repeat(3, 1, 1, 1), 1, 0, 5)), r"pictures \[1\] of a batch of 3"),
        (lambda: congeal(NETWORK, picture(), source=picture().repeat(2, 1, 1, 1)), "as many sources, not 2"),
        (lambda: congeal(NETWORK, picture(), alpha=1.5), r"alpha is one number in \[0, 1\]"),
        (lambda: congeal(NETWORK, picture(), alpha=torch.zeros(2)), r"one a picture \(1,\)"),
        (lambda: congeal(NETWORK.flow, picture()), "a flow alone does not congeal"),
        (lambda: congeal(NETWORK.similarity, picture(), Settings(flips=True)), "give a classifier of flips"),
        (lambda: congeal(NETWORK.similarity, picture()).score, "leaves no flow to score"),
        (lambda: congeal(HEADS, picture()), "one of 2 heads is chosen by the settings' classifier or cluster"),
        (lambda: congeal(HEADS, picture(), Settings(cluster=2)), "heads are 0 to 1, and 2 is none"),
        (
            lambda: congeal(NETWORK, picture(), Settings(classifier=BrightSide())),
            "has 1 logits, or 2 with flips, not 4",
        ),
        (lambda: flow_scores(NETWORK, []), "no pictures to score"),
        (lambda: average([]), "no pictures to average"),
        (lambda: average([picture(), picture(32)]), r"are \(n, 3, 64, 64\), not \(1, 3, 32, 32\)"),
        (lambda: average([picture()[0]]), r"are \(n, C, H, W\)"),
        (lambda: average([spoilt(picture(), 0, 2, 3)]), "not finite"),
        (lambda: list(congeal_dataset(NETWORK, [picture()[0], picture()])), r"picture 1: .*\(3, H, W\)"),
        (lambda: list(congeal_dataset(NETWORK, [picture()[0].byte()])), "picture 0: .*float in .*uint8"),
        (lambda: list(congeal_dataset(NETWORK, [picture()[0, :2]])), "picture 0: .*square"),
        (lambda: list(congeal_dataset(NETWORK, [spoilt(picture()[0], 1)])), "picture 0: .*not finite"),
        (lambda: quality(FOUND, torch.ones(2, 2)), r"bounds of 1 pictures are \(1, 2\) px above 0"),
        (lambda: quality(congeal(NETWORK, picture(), alpha=0.5), torch.ones(1, 2)), "without alpha"),
        (lambda: propagate(FOUND, TEMPLATE[:3], 64), "not 3: add an alpha"),
        (lambda: propagate(FOUND, TEMPLATE[:, :16], 64), "a template is square"),
        (lambda: propagate(FOUND, 0 * TEMPLATE, 64), "transparent everywhere"),
        (lambda: propagate(FOUND, 255 * TEMPLATE, 64), r"alpha is in \[0, 1\], not 0 to 255"),
        (lambda: propagate(FOUND, spoilt(TEMPLATE, 3), 64), "finite floats"),
        (lambda: propagate(FOUND, TEMPLATE.byte(), 64), "finite floats"),
        (lambda: propagate(congeal(NETWORK, picture(), alpha=0.5), TEMPLATE, 64), "congeal them without"),
        (
            lambda: propagate(
                congeal(known(TURNED, OTHER, OTHER), picture(), Settings(cluster=2)), TEMPLATE.repeat(2, 1, 1, 1), 64
            ),
            "2 templates are too few: there are pictures of cluster 2",
        ),
        (lambda: propagate(FOUND, TEMPLATE, 64).over(picture(128)), "belong together"),
        (lambda: template_of(FOUND, TEMPLATE[None]), r"a drawing is \(4, S, S\)"),
        (lambda: template_of(FOUND, 0 * TEMPLATE), "the drawing is transparent"),
        (lambda: template_of(congeal(NETWORK, picture().repeat(2, 1, 1, 1)), TEMPLATE), "not on 2; take a `part`"),
        (lambda: template_of(FOUND, dot(0.02, 0.02, 0.02, RED, 64)), "outside of what the common frame has"),
        (lambda: dot(2.0, 0.5, 0.1, RED), "covers no pixel"),
        (lambda: correspond(FOUND, congeal(NETWORK, picture().repeat(2, 1, 1, 1)), 64), "1 and 2 of them"),
        (lambda: correspond(FOUND, congeal(NETWORK, picture(), alpha=0.5), 64), "on the way only"),
        (lambda: correspond(FOUND, congeal(NETWORK.similarity, picture()), 64), "flows of 64 and None px"),
        (lambda: correspond(FOUND, FOUND, 64).sample(picture().repeat(2, 1, 1, 1)), "1 pictures"),
    ],
)
def test_what_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
