"""GANgealing's networks and warps beyond the goldens: exact counts, batches, repeated use, gradients, bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gengauge.benchmarks.zoo import stylegan2_cat
from gengauge.reference.gangealing.classifier import ResnetClassifier, trunk_of
from gengauge.reference.gangealing.flips import forward_with_flip, mirror
from gengauge.reference.gangealing.heads import FlowHead, SimilarityHead, similarity_matrices, squared
from gengauge.reference.gangealing.points import (
    congeal_points,
    match_flows,
    nearest_index,
    normalise,
    transfer_matched,
    transfer_points,
    uncongeal_points,
    unnormalise,
)
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer, published_state
from gengauge.reference.gangealing.warps import (
    BilinearDownsample,
    MipmapWarp,
    affine_grid,
    identity_grid,
    mip_levels,
    mipmap,
    out_of_bounds,
    resize_grid,
    warp,
)
from gengauge.reference.nets.stylegan2 import generator as nvidia
from gengauge.reference.nets.stylegan2.rosinality import Generator, channels_of, from_generator
from gengauge.reference.nets.stylegan2.translation import StyleTranslator

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"flow_size": 64, "supersize": 128, "base_channels": 16}


def ghost(build: Callable[[], nn.Module]) -> nn.Module:
    """A network that computes nothing, for counts."""
    with torch.device("meta"):
        return build()


def draws(*shape: int, seed: int = 0) -> Tensor:
    """Numbers of a normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(network: nn.Module, amount: float = 0.05, seed: int = 0) -> Any:
    """A network whose last layers are not the identity's any more."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "warp_head.linear" in name or "flow_out.2.weight" in name:
                parameter.copy_(amount * torch.randn(parameter.shape, generator=source))
    return network.eval()


def transformer(num_heads: int = 1, amount: float = 0.05) -> ComposedSTN:
    torch.manual_seed(0)
    return stirred(ComposedSTN(**SMALL, num_heads=num_heads), amount)


# ----------------------------------------------------------------------------------------------------------------------
# Exact counts


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: Generator(256), 30_034_338),
        (lambda: Generator(128), 29_328_669),
        (lambda: Generator(64, 32, 2, base_channels=16), 30_904),
        (lambda: Generator(64, 64, 4, base_channels=64), 409_240),
        (lambda: ComposedSTN(128, 256), 43_054_278),
        (lambda: ComposedSTN(128, 256, num_heads=4), 51_052_440),
        (lambda: ComposedSTN(64, 128, base_channels=16), 128_286),
        (lambda: ComposedSTN(64, 128, base_channels=64), 1_040_166),
        (lambda: SpatialTransformer("similarity", 128), 22_424_644),
        (lambda: SpatialTransformer("flow", 128), 20_629_634),
        (lambda: ResnetClassifier(128, num_heads=8), 18_293_320),
    ],
)
def test_parameters(build: Callable[[], nn.Module], count: int) -> None:
    assert sum(p.numel() for p in ghost(build).parameters()) == count


def test_channels() -> None:
    assert [channels_of(4 << i) for i in range(9)] == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert [channels_of(size, 0.5) for size in (32, 64, 128, 256)] == [512, 128, 64, 32]
    with pytest.raises(ValueError, match="leave none at 1024 px"):
        channels_of(1024, 0.5, 16)


def test_shared_layers_keep_sincuts_names() -> None:
    state = ghost(StyleTranslator).state_dict()
    assert state["encoder.convs.1.1.bias"].shape[0] == 1
    assert not any(".skip." in name for name in state if name.startswith("encoder.convs.3"))


# ----------------------------------------------------------------------------------------------------------------------
# The generator


def small_generator(**more: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(32, 24, 2, base_channels=8, **more).eval()


@torch.no_grad()
def test_generator_makes_each_picture_by_itself() -> None:
    g, z = small_generator(), draws(3, 24)
    noise = [draws(3, 1, *g.noises.get_buffer(f"noise_{i}").shape[2:], seed=i) for i in range(g.num_layers)]
    together = g([z], noise=noise)
    alone = torch.cat([g([z[i : i + 1]], noise=[n[i : i + 1] for n in noise]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert torch.equal(together, g([z], noise=noise))


@torch.no_grad()
def test_noise_is_drawn_from_the_given_generator() -> None:
    g, z = small_generator(), draws(2, 24)
    for name, parameter in g.named_parameters():
        if name.endswith("noise.weight"):
            parameter.fill_(0.3)

    def made(seed: int) -> Tensor:
        return g([z], generator=torch.Generator().manual_seed(seed))

    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))
    assert torch.equal(g([z], randomize_noise=False), g([z], randomize_noise=False))


@torch.no_grad()
def test_mixing() -> None:
    g, z = small_generator(), draws(2, 2, 24)
    w = [g.style(each) for each in z]
    mixed = g.latents(w, 3)
    assert torch.equal(mixed[:, :3], w[0][:, None].expand(-1, 3, -1))
    assert torch.equal(mixed[:, 3:], w[1][:, None].expand(-1, g.n_latent - 3, -1))
    assert torch.equal(g.latents(w, g.n_latent), g.latents(w[:1]))
    drawn = g.latents(w, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, g.latents(w, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g([draws(2, 512)]), r"z must be \(N, 24\), not \(2, 512\)"),
        (lambda g: g([draws(2, 512)], input_is_latent=True), "styles are"),
        (lambda g: g.latents([draws(1, 24)] * 3), "one or two styles"),
        (lambda g: g.latents([draws(1, 24)] * 2, 99), "within 0 to 8"),
        (lambda g: g([draws(1, 24)], truncation=0.5), "truncation_latent"),
        (lambda g: g([draws(1, 24)] * 2, truncation=0.5, truncation_latent=draws(1, 24)), "one style"),
        (lambda g: g([draws(1, 24)], noise=[draws(1, 1, 4, 4)]), "7 layers take as many noise maps, not 1"),
        (lambda g: g.synthesis(draws(1, 7, 24)), r"W\+ is \(N, 8, 24\)"),
    ],
)
def test_what_a_generator_refuses(call: Callable[[Generator], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(small_generator())


def test_sizes_that_a_generator_refuses() -> None:
    with pytest.raises(ValueError, match="not 48"):
        Generator(48)


def test_pre_normalised_layers_make_nearly_the_same() -> None:
    plain, normalised = small_generator(), small_generator(num_fp16_res=2)
    assert [layer.conv.normalize for layer in normalised.convs] == [False] * 2 + [True] * 4  # type: ignore[union-attr]
    normalised.load_state_dict(plain.state_dict())
    z = draws(2, 24)
    with torch.no_grad():
        a, b = (g([z], randomize_noise=False) for g in (plain, normalised))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_half_precision_is_for_a_gpu() -> None:
    g = small_generator(num_fp16_res=2, run_fp32=False)
    assert g([draws(1, 24)]).dtype == torch.float32


# ----------------------------------------------------------------------------------------------------------------------
# Warps


@pytest.mark.parametrize("size", [64, 48, 50])
def test_the_identity_leaves_a_picture_as_it_is(size: int) -> None:
    x = draws(2, 3, size, size)
    out = MipmapWarp()(x, identity_grid(size).expand(2, -1, -1, -1))
    torch.testing.assert_close(out, x, rtol=0, atol=1e-4)


def test_one_level_is_a_plain_warp() -> None:
    x, grid = draws(1, 3, 32, 32), affine_grid(torch.tensor([[[0.3, 0.1, 0.1], [-0.1, 0.3, 0.0]]]), 40)
    assert not mip_levels(grid, 32).any()
    assert torch.equal(MipmapWarp()(x, grid), warp(x, grid))


def test_levels_of_a_uniform_shrinking() -> None:
    for shrink, level in ((2.0, 1.0), (4.0, 2.0), (100.0, 2.5)):
        grid = affine_grid(torch.eye(2, 3)[None] * shrink, 64)
        found = mip_levels(grid, 65)  # the spacing is then `shrink` px to a pixel
        torch.testing.assert_close(found, torch.full_like(found, level), rtol=0, atol=1e-4)


def test_pictures_in_a_batch_do_not_change_each_other() -> None:
    x = draws(2, 3, 64, 64)
    grid = affine_grid(torch.stack([torch.eye(2, 3) * 0.5, torch.eye(2, 3) * 3]), 32)
    warper = MipmapWarp()
    together = warper(x, grid, "reflection")
    for i in range(2):
        alone = warper(x[i : i + 1], grid[i : i + 1], "reflection")
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


def test_gradients_of_a_warp() -> None:
    x = draws(1, 2, 16, 16).double().requires_grad_()
    matrix = torch.tensor([[[1.7, 0.3, 0.1], [-0.2, 1.9, 0.05]]], dtype=torch.float64, requires_grad=True)
    warper = MipmapWarp().double()
    assert torch.autograd.gradcheck(lambda x, m: warper(x, affine_grid(m, 5), "zeros"), (x, matrix))


def test_a_constant_stays_constant() -> None:
    x = torch.full((1, 3, 48, 48), 0.7)
    torch.testing.assert_close(mipmap(x, 4, MipmapWarp().blur_filter), torch.full((1, 3, 4, 48, 48), 0.7))
    torch.testing.assert_close(BilinearDownsample(4, 3)(x), torch.full((1, 3, 12, 12), 0.7))


def test_resized_grids() -> None:
    grid = identity_grid(64)
    assert resize_grid(grid, 64) is grid
    inner = slice(4, -4)
    torch.testing.assert_close(resize_grid(grid, 32)[:, inner, inner], identity_grid(32)[:, inner, inner])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BilinearDownsample(3, 3), "by 2, 4, 6, ..., not by 3"),
        (lambda: BilinearDownsample(4, 3)(draws(1, 3, 30, 32)), "30 x 32 px are no multiples of 4"),
        (lambda: mipmap(draws(1, 3, 32, 16), 2, MipmapWarp().blur_filter), "square pictures, not 32 x 16"),
        (lambda: mipmap(draws(1, 3, 4, 4), 5, MipmapWarp().blur_filter), "has no 5 mip levels"),
        (lambda: MipmapWarp()(draws(1, 3, 32, 16), identity_grid(8)), "square, not 32 x 16"),
        (lambda: MipmapWarp()(draws(2, 3, 16, 16), identity_grid(8)), "2 pictures cannot be warped by 1 grids"),
    ],
)
def test_what_warps_refuse(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_leaving_the_picture() -> None:
    inside = affine_grid(torch.eye(2, 3)[None] * 0.9, 32)
    aside = affine_grid(torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]), 32)
    assert out_of_bounds(torch.cat([inside, aside]), 32).tolist() == [False, True]
    assert out_of_bounds(inside, 32, torch.tensor([[32.0, 16.0]])).tolist() == [True]


# ----------------------------------------------------------------------------------------------------------------------
# Heads and transformers


def test_heads_start_at_the_identity() -> None:
    x = draws(2, 3, 128, 128)
    network = ComposedSTN(**SMALL, num_heads=2)
    with torch.no_grad():
        found = network(x)
    assert found.matrix is not None
    assert found.delta is not None
    torch.testing.assert_close(found.matrix, torch.eye(2, 3).expand(4, -1, -1))
    assert not found.delta.any()
    torch.testing.assert_close(found.grid, identity_grid(64).expand(4, -1, -1, -1))


def test_layouts_of_heads() -> None:
    similarity, flow = SimilarityHead(5, 3), FlowHead(4, 3)
    with torch.no_grad():
        similarity.linear.bias.copy_(torch.arange(12.0) / 20)
        raw = (torch.arange(12.0) / 20).view(4, 3).T  # parameter by parameter
        torch.testing.assert_close(similarity(draws(1, 5) * 0), similarity_matrices(raw))
        flow.flow_out[2].bias.copy_(torch.arange(6.0))  # type: ignore[union-attr,operator]
        coarse = flow.coarse_flow(torch.zeros(1, 4, 8, 8))
        assert coarse[0, :, 3, 3].tolist() == [[0, 1], [2, 3], [4, 5]]  # head by head


@torch.no_grad()
def test_heads_by_policy_are_those_of_all() -> None:
    network, x = transformer(3), draws(2, 3, 128, 128)
    every = network(x, iters=2)
    assert every.image.shape == (6, 3, 64, 64)
    for head in range(3):
        policy = torch.eye(3)[[head, head]]
        chosen = network(x, iters=2, policy=policy)
        torch.testing.assert_close(chosen.image, every.image[head::3], rtol=0, atol=1e-4)
        torch.testing.assert_close(chosen.grid, every.grid[head::3], rtol=0, atol=1e-5)
    modulo = torch.eye(6)[[4, 1]]  # with flips a classifier has twice as many
    torch.testing.assert_close(
        network(x, policy=modulo).image, network(x, policy=torch.eye(3)[[1, 1]]).image, rtol=0, atol=0
    )


@torch.no_grad()
def test_a_batch_is_its_pictures() -> None:
    network, x = transformer(), draws(3, 3, 128, 128)
    together = network(x, iters=2, padding_mode="reflection")
    for i in range(3):
        alone = network(x[i : i + 1], iters=2, padding_mode="reflection")
        torch.testing.assert_close(together.image[i : i + 1], alone.image, rtol=0, atol=1e-4)
        torch.testing.assert_close(together.grid[i : i + 1], alone.grid, rtol=0, atol=1e-5)
    assert torch.equal(together.image, network(x, iters=2, padding_mode="reflection").image)


@torch.no_grad()
def test_partial_warps() -> None:
    network, x = transformer(), draws(2, 3, 128, 128)
    none = network(x, alpha=torch.zeros(2))
    torch.testing.assert_close(none.grid, identity_grid(64).expand(2, -1, -1, -1))
    whole = network(x, alpha=torch.ones(2))
    torch.testing.assert_close(whole.grid, network(x).grid)


@torch.no_grad()
def test_sources_and_resolutions() -> None:
    network, x = transformer(), draws(1, 3, 64, 64)
    source = torch.nn.functional.interpolate(x, size=192, mode="bilinear")
    found = network(x, source, output_resolution=96)
    assert found.image.shape == (1, 3, 96, 96)
    assert found.grid.shape == (1, 96, 96, 2)
    assert found.delta is not None
    assert found.delta.shape == (1, 64, 64, 2)


def test_gradients_reach_every_parameter() -> None:
    network = transformer(2).train()
    found = network(draws(1, 3, 64, 64))
    assert found.delta is not None
    (found.image.square().sum() + found.delta.square().sum()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@torch.no_grad()
def test_a_similarity_refines_itself() -> None:
    network = transformer().similarity
    x = draws(1, 3, 128, 128)
    found = network(x, iters=3)
    assert len(found.iterates) == 3
    again = network(warp_head_of(network, x, found.iterates[0]))
    first, second = squared(found.iterates[0]), squared(found.iterates[1])
    assert again.matrix is not None
    torch.testing.assert_close(first @ squared(again.matrix), second, rtol=0, atol=1e-5)


def warp_head_of(network: SpatialTransformer, x: Tensor, matrix: Tensor) -> Tensor:
    """A picture as the second iteration sees it."""
    return network.warp_head.warper(x, affine_grid(matrix, network.flow_size))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t(draws(1, 3, 32, 32)), r"with S 64 or 128, not \(1, 3, 32, 32\)"),
        (lambda t: t(draws(1, 3, 192, 192)), "with S 64 or 128"),
        (lambda t: t(draws(1, 3, 128, 64)), "with S 64 or 128"),
        (lambda t: t(draws(1, 1, 64, 64)), r"pictures are \(N, 3, S, S\)"),
        (lambda t: t(draws(2, 3, 64, 64), draws(1, 3, 64, 64)), "2 pictures have as many sources, not 1"),
        (lambda t: t(draws(1, 3, 64, 64), iters=0), "at least once"),
        (lambda t: t.flow(draws(1, 3, 64, 64), iters=2), "a flow is regressed once"),
        (lambda t: t(draws(2, 3, 64, 64), policy=torch.eye(3)), "a policy for 2 pictures"),
    ],
)
def test_what_transformers_refuse(call: Callable[[ComposedSTN], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(transformer())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flow_size": 32}, "a flow of at least 64 px"),
        ({"flow_size": 96}, "not 96"),
        ({"flow_size": 64, "supersize": 100}, "a multiple of flow_size 64, not 100"),
        ({"flow_size": 64, "supersize": 192}, "by 2, 4, 6, ..., not by 3"),
        ({"flow_size": 64, "flow_downsample": 6}, "1, 2, ... 16 times"),
    ],
)
def test_sizes_that_transformers_refuse(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComposedSTN(**arguments, base_channels=16)  # type: ignore[arg-type]


def test_a_checkpoint_fits_any_supersize() -> None:
    state = ComposedSTN(64, 256, base_channels=16).state_dict()
    for supersize in (64, 128, 256):
        other = ComposedSTN(64, supersize, base_channels=16)
        other.load_state_dict(published_state(other, state))
        assert all(torch.equal(other.state_dict()[name], state[name]) for name, _ in other.named_parameters())


@torch.no_grad()
def test_flips() -> None:
    network, x = transformer(), draws(3, 3, 128, 128)
    found = forward_with_flip(network, x, padding_mode="reflection")
    other = forward_with_flip(network, mirror(x), padding_mode="reflection")
    assert torch.equal(found.mirrored, ~other.mirrored)
    assert torch.equal(found.warped.image, other.warped.image)
    # The grid samples the pictures as they were given.
    again = network.flow.warp_head.warper(x, found.warped.grid, "reflection")
    torch.testing.assert_close(again, found.warped.image, rtol=0, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Points


def test_normalised_points() -> None:
    points = draws(2, 5, 2) * 50
    for size in (64, 100):
        torch.testing.assert_close(unnormalise(normalise(points, size), size), points)
    # Of one size: the centre of a pixel is where a grid has it.
    torch.testing.assert_close(normalise(torch.arange(8.0), 8), identity_grid(8)[0, 0, :, 0])


def test_nearest_entries() -> None:
    grid = identity_grid(16)
    places = grid[:, [3, 0, 15], [5, 0, 15]] + 0.02
    assert nearest_index(places, grid).tolist() == [[[5, 3], [0, 0], [15, 15]]]
    assert nearest_index(torch.tensor([[[-4.0, 0.1]]]), grid)[0, 0, 0] == 0


@torch.no_grad()
def test_a_similarity_takes_points_there_and_back() -> None:
    network, x = transformer().similarity, draws(2, 3, 128, 128)
    points = 20 + 80 * torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(1))
    warped = network(x, iters=2)
    there = congeal_points(warped, points, 128)
    torch.testing.assert_close(uncongeal_points(warped, there, 128), points, rtol=0, atol=1e-3)
    torch.testing.assert_close(transfer_points(network, x, x, points, 2), points, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_smooth_flow_takes_points_there_and_back_up_to_the_grid() -> None:
    network, x = transformer(amount=0.002), draws(1, 3, 128, 128)
    points = 30 + 60 * torch.rand(1, 20, 2, generator=torch.Generator().manual_seed(1))
    back = transfer_points(network, x, x, points)
    assert (back - points).abs().max() < 4  # px, at two to an entry


@torch.no_grad()
def test_matching_tells_the_order_of_points() -> None:
    network, a, b = transformer(), draws(4, 3, 128, 128), draws(4, 3, 128, 128, seed=1)
    points, permutation = draws(4, 3, 2).abs() * 10, torch.tensor([1, 0, 2])
    found = match_flows(network, a, b, points, points, permutation)
    plain = match_flows(network, a, b, points, points)
    assert torch.equal(found.points_a, plain.points_a.gather(1, found.order[:, :, None].expand(-1, -1, 2)))
    changed = (found.pick == 1) | (found.pick == 2)
    assert torch.equal(found.order, torch.where(changed[:, None], permutation, torch.arange(3)))
    assert torch.equal(found.points_b, plain.points_b)


@torch.no_grad()
@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("most", [32, 3])
def test_matched_pairs_are_not_warped_again(num_heads: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both ways points come to the same places, of few pictures at a time as of all."""
    monkeypatch.setattr("gengauge.reference.gangealing.points.MOST_PICTURES", most)
    network, a, b = transformer(num_heads, 0.2), draws(4, 3, 128, 128), draws(4, 3, 128, 128, seed=1)
    policies = (None, None) if num_heads == 1 else (torch.eye(3)[[0, 1, 2, 0]], torch.eye(3)[[2, 0, 1, 1]])
    points = torch.rand(2, 4, 6, 2, generator=torch.Generator().manual_seed(2)) * 127
    found = match_flows(network, a, b, points[0], points[1], None, 2, *policies, "reflection")
    assert len(found.pick.unique()) > 1
    there = transfer_points(network, found.a, found.b, found.points_a, 2, *policies, "reflection")
    back = transfer_points(network, found.b, found.a, found.points_b, 2, *policies[::-1], "reflection")
    assert (transfer_matched(found) - there).abs().max() < 1e-3
    assert (transfer_matched(found, back=True) - back).abs().max() < 1e-3
    for of, warped, policy in ((found.a, found.warped_a, policies[0]), (found.b, found.warped_b, policies[1])):
        alone = network(of, iters=2, policy=policy, padding_mode="reflection")
        assert warped is not None
        assert (warped.grid - alone.grid).abs().max() < 1e-5
        assert len(warped.iterates) == 2
    with pytest.raises(ValueError, match="use transfer_points"):
        transfer_matched(replace(found, warped_b=None))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, x: transfer_points(transformer(2), x, x, draws(2, 3, 2), 1, torch.eye(2)), "of 2 heads"),
        (lambda t, x: match_flows(t, x, x[:, :, :64, :64], draws(2, 3, 2), draws(2, 3, 2)), "of one shape"),
        (lambda t, x: match_flows(t.similarity, x, x, draws(2, 3, 2), draws(2, 3, 2)), "has no flow"),
        (lambda t, x: transfer_points(t, x, x[:, :, :64, :64], draws(2, 3, 2)), "of one shape"),
        (lambda t, x: transfer_points(t, x, x, draws(2, 3, 3)), r"points of 2 pictures are \(2, P, 2\)"),
        (lambda t, x: transfer_points(t, x, x, draws(1, 3, 2)), "points of 2 pictures"),
        (lambda t, x: transfer_points(t.flow, x, x, draws(2, 3, 2)), "by a similarity"),
        (
            lambda t, x: match_flows(t, x, x, draws(2, 3, 2), draws(2, 3, 2), torch.arange(4)),
            "a permutation of 3 points",
        ),
    ],
)
def test_what_points_refuse(call: Callable[[ComposedSTN, Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(transformer(), draws(2, 3, 128, 128))


# ----------------------------------------------------------------------------------------------------------------------
# The classifier


def small_classifier(num_heads: int = 6) -> ResnetClassifier:
    torch.manual_seed(0)
    return ResnetClassifier(64, num_heads=num_heads, supersize=128, base_channels=16).eval()


@torch.no_grad()
def test_clusters_part_the_pictures() -> None:
    network, x = small_classifier(), draws(8, 3, 128, 128)
    clusters = [network.select(x, i) for i in range(network.clusters)]
    assert sorted(torch.cat([cluster.index for cluster in clusters]).tolist()) == list(range(8))
    images, classes, mirrored = network.upright(x)
    for i, cluster in enumerate(clusters):
        assert (classes[cluster.index] == i).all()
        assert torch.equal(cluster.images, images[cluster.index])
        assert torch.equal(cluster.mirrored, mirrored[cluster.index])
    logits = network(x)
    torch.testing.assert_close(logits[2:3], network(x[2:3]), rtol=0, atol=1e-5)
    each, policy, flips = network.upright_as_each(x)
    assert each.shape == (24, 3, 128, 128)
    assert torch.equal(policy, torch.eye(3).repeat(8, 1))
    for i in range(3):
        assert torch.equal(flips[:, i], network.upright_as(x, i)[1])
        assert torch.equal(each[i::3], network.upright_as(x, i)[0])


def test_a_classifier_starts_from_a_similarity() -> None:
    similarity, network = transformer().similarity, small_classifier()
    before = network.state_dict()["to_logits.weight"].clone()
    network.load_state_dict(trunk_of(network, similarity.state_dict()))
    state = network.state_dict()
    assert torch.equal(state["convs.1.conv1.0.weight"], similarity.state_dict()["convs.1.conv1.0.weight"])
    assert torch.equal(state["to_logits.weight"], before)


def test_what_a_classifier_refuses() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        small_classifier(5).upright(draws(1, 3, 128, 128))
    with pytest.raises(ValueError, match="with S 64 or 128"):
        small_classifier()(draws(1, 3, 96, 96))


def test_the_zoos_generator_makes_the_same_pictures_under_these_names() -> None:
    theirs = stylegan2_cat.load()
    mine = from_generator(theirs)
    z = torch.randn(3, theirs.z_dim, generator=torch.Generator().manual_seed(0))
    w = theirs.mapping(z, None)
    assert torch.allclose(mine.style(z), w[:, 0], atol=1e-5)
    with torch.no_grad():
        expected = theirs.synthesis(w, "const")
        found = mine([z], randomize_noise=False)
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    with pytest.raises(ValueError, match="only unconditional"):
        from_generator(nvidia.Generator(8, 3, 8, 8))
