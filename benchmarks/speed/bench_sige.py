"""SIGE's hot parts: tiles out of maps and into them, convolutions on tiles, masks, and a sparse pass of DDPM.

The tests run them at a tiny size; `make bench` at the sizes of the 256 px network.
"""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.benchmarks.papers.sige.edits import SQUARE
from gengauge.benchmarks.papers.sige.networks import NETWORKS
from gengauge.kernels import tiles
from gengauge.kernels.tile_conv import ConvWay, EditedMap, Prologue, Source, TileConv, Touched
from gengauge.kernels.ways import Way
from gengauge.reference.nets.ddpm_unet import CHURCH_256, DDPMUNet
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import masks, policy
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.masks import MaskRecipe
from gengauge.reference.sige.tiling import Tiling

TINY = UNetConfig(32, 32, (1, 2), 1, (16,), temb_ch=64)
TINY_MASKS = MaskRecipe(eps=0.01, dilation_before=1, dilation=1, min_size=(16, 16))
BLOCK = Tiling(6, 3, 1, 1)  # the published tiles of a 3x3 convolution


pytestmark = pytest.mark.usefixtures("one_thread")


def touched(size: int) -> Touched:
    mask = masks.dilate(masks.centred_square(0.012, size, size), 5)
    return Touched(BLOCK.corners(mask), BLOCK.tile, (size, size))


def a_map(full_size: bool, layout: torch.memory_format = torch.channels_last) -> torch.Tensor:
    size, channels = (256, 128) if full_size else (32, 16)
    x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=layout)


@pytest.mark.parametrize("way", [way for way in get_args(Way) if way in ("torch", "native")])
def test_gather(benchmark: BenchmarkFixture, full_size: bool, way: Way) -> None:
    x = a_map(full_size, torch.contiguous_format)
    corners = touched(x.shape[-1]).corners - 1
    scale, shift = (torch.randn(1, x.shape[1], 1, 1) for _ in range(2))
    out = benchmark(
        lambda: tiles.gather(x, corners, BLOCK.window, scale=scale, shift=shift, activation="swish", way=way)
    )
    assert out.shape == (len(corners), x.shape[1], BLOCK.window, BLOCK.window)


@pytest.mark.parametrize("way", [way for way in get_args(Way) if way in ("torch", "native")])
def test_scatter(benchmark: BenchmarkFixture, full_size: bool, way: Way) -> None:
    x = a_map(full_size, torch.contiguous_format)
    corners = touched(x.shape[-1]).corners
    made = torch.randn(len(corners), x.shape[1], BLOCK.tile, BLOCK.tile)
    out = benchmark(lambda: tiles.scatter(made, x, corners, way=way))
    assert out.shape == x.shape


@pytest.mark.parametrize("way", [*get_args(ConvWay), "conv2d"])
def test_convolution_on_tiles(benchmark: BenchmarkFixture, full_size: bool, way: ConvWay) -> None:
    """The same tiles by each way, against torch's convolution of tiles that are gathered already."""
    x = a_map(full_size)
    channels, size = x.shape[1], x.shape[-1]
    where = touched(size)
    weight, bias = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5), torch.randn(channels)
    if way not in get_args(ConvWay):
        made = tiles.gather(x, where.corners - 1, BLOCK.window).contiguous(memory_format=torch.channels_last)
        assert torch.isfinite(benchmark(lambda: F.conv2d(made, weight, bias))).all()
        return
    conv = TileConv(weight, bias, padding=1)
    out = EditedMap(x, torch.empty(1, where.count, channels), where)
    benchmark(lambda: conv([Source(x, 0, channels)], Prologue(), where, out, way=way))
    assert torch.isfinite(out.news).all()


def engine_of(full_size: bool) -> tuple[Engine, torch.Tensor, torch.Tensor, MaskRecipe]:
    """An engine that has seen an original, an edit of 1.2 %, and the recipe of its masks."""
    config = CHURCH_256 if full_size else TINY
    recipe = masks.DDPM if full_size else TINY_MASKS
    network = NETWORKS["ddpm-256"]
    original = torch.rand(1, 3, config.resolution, config.resolution, generator=torch.Generator().manual_seed(0)) - 0.5
    edited = network.edited_input(original, masks.centred_square(SQUARE.share or 0, *original.shape[2:]))
    engine = Engine(DDPMUNet(config, fused=True).eval(), policy.ddpm(64 if full_size else 32))
    engine.full(original, torch.zeros(1))
    return engine, original, edited, recipe


def test_masks_and_tile_indices(benchmark: BenchmarkFixture, full_size: bool) -> None:
    engine, original, edited, recipe = engine_of(full_size)
    benchmark(lambda: engine.set_masks(recipe.from_pair(original, edited).levels))
    assert engine.touched


def test_sparse_pass_of_ddpm(benchmark: BenchmarkFixture, full_size: bool) -> None:
    engine, original, edited, recipe = engine_of(full_size)
    engine.set_masks(recipe.from_pair(original, edited).levels)
    out = benchmark(lambda: engine.sparse(edited))
    assert out.shape == original.shape
    assert torch.isfinite(out).all()
