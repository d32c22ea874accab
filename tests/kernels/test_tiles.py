"""The moves of tiles: every way equals the definition, the definition does what is said, bad input is told."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge import kernels
from gengauge.kernels import native, ways
from gengauge.kernels.definition import ACTIVATIONS
from gengauge.kernels.tiles import (
    gather,
    scatter,
    scatter_gather,
    scatter_map,
    scatter_with_block_residual,
    tile_indices,
)
from gengauge.kernels.ways import Way

CASES = 60
INTERPRETED = range(0, CASES, 3)  # the interpreter takes a quarter of a second a case
# What one rounding in the stored type may differ by, relative to numbers of at least 1; float32's is the promise.
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


class Draw:
    """Random tensors and settings of one case."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.choice.choice([*CLOSE])
        self.layout = self.choice.choice(
            ["contiguous", "channels_last", "channels_last slice", "transposed", "stepped"]
        )
        self.n, self.c = self.choice.choice([(1, 1), (1, 5), (2, 3), (3, 20), (1, 33)])
        self.h, self.w = self.choice.randint(1, 17), self.choice.randint(1, 17)
        self.block = self.pair(1, 7)
        self.tile = self.pair(1, 4)

    def pair(self, least: int, most: int) -> tuple[int, int]:
        return self.choice.randint(least, most), self.choice.randint(least, most)

    def tensor(self, n: int, c: int, h: int, w: int) -> Tensor:
        """(n, c, h, w) in the case's type and memory layout."""
        if self.layout == "channels_last slice":
            return self.normal(n, h, w, c + 2).permute(0, 3, 1, 2)[:, 1:-1]
        if self.layout == "transposed":
            return self.normal(n, c, w, h).transpose(2, 3)
        if self.layout == "stepped":
            return self.normal(n, 2 * c, h, 3 * w)[:, ::2, :, 1::3]
        if self.layout == "channels_last":
            return self.normal(n, c, h, w).contiguous(memory_format=torch.channels_last)
        return self.normal(n, c, h, w)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def broadcast(self) -> Tensor | None:
        """A tensor over any of the map's axes, or none."""
        if self.choice.random() < 0.3:
            return None
        n, c, h, w = (self.choice.choice([1, size]) for size in (self.n, self.c, self.h, self.w))
        found = self.tensor(n, c, h, w)
        return found.float() if self.choice.random() < 0.5 else found

    def then(self) -> dict[str, Any]:
        return {
            "scale": self.broadcast(),
            "shift": self.broadcast(),
            "activation": self.choice.choice(ACTIVATIONS),
            "negative_slope": 0.2,
            "activation_first": self.choice.random() < 0.5,
        }

    def corners(self) -> Tensor:
        """Up to nine, many of them partly or wholly outside."""
        found = [(self.choice.randint(-5, self.h + 2), self.choice.randint(-5, self.w + 2)) for _ in range(9)]
        return torch.tensor(found[: self.choice.randint(0, 9)], dtype=self.index_type()).reshape(-1, 2)

    def grid(self, tile: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        """Corners of tiles that do not overlap once scattered, as many as may be."""
        start = self.pair(-6, 2)
        found = [
            (start[0] + stride[0] * tile[0] * i, start[1] + stride[1] * tile[1] * j)
            for i in range(self.h // tile[0] + 3)
            for j in range(self.w // tile[1] + 3)
            if self.choice.random() < 0.6
        ]
        return torch.tensor(found, dtype=self.index_type()).reshape(-1, 2)

    def index_type(self) -> torch.dtype:
        return self.choice.choice([torch.int32, torch.int64])


def results(seed: int, way: Way) -> dict[str, Tensor]:
    """What each function gives for the case of a seed."""
    draw = Draw(seed)
    base = draw.tensor(draw.n, draw.c, draw.h, draw.w)
    offset, stride = draw.pair(0, 2), draw.pair(1, 3)
    main, short = draw.grid(draw.tile, stride), draw.grid(draw.tile, (1, 1))
    tiles = draw.tensor(draw.n * len(main), draw.c, *draw.tile)
    short_tiles = draw.tensor(draw.n * len(short), draw.c, *draw.tile)
    residual, corners, step = draw.broadcast(), draw.corners(), {"offset": offset, "stride": stride}
    short_base = draw.tensor(draw.n, draw.c, draw.h, draw.w)
    tile_map = scatter_map(main, (draw.h, draw.w), draw.tile, **step)
    in_place = base.clone()
    scatter(tiles, in_place, main, **step, out=in_place, way=way)
    return {
        "gather": gather(base, corners, draw.block, **draw.then(), way=way),
        "scatter_gather": scatter_gather(tiles, base, tile_map, corners, draw.block, **draw.then(), way=way),
        "scatter": scatter(tiles, base, main, **step, residual=residual, way=way),
        "in place": in_place,
        "blocks": scatter_with_block_residual(tiles, base, main, short_tiles, short_base, short, **step, way=way),
    }


def assert_same(seed: int, way: Way, truncated: float = 1.0) -> None:
    """A way gives what the definition gives; `truncated` widens the limit of bfloat16."""
    ours, wanted = results(seed, way), results(seed, "torch")
    for name, expected in wanted.items():
        found = ours[name]
        assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride()), name
        limit = CLOSE[expected.dtype] * expected.double().abs().clamp(min=1)
        limit = limit * truncated if expected.dtype == torch.bfloat16 else limit
        assert ((found.double() - expected.double()).abs() <= limit).all(), (way, seed, name)


needs_native = pytest.mark.skipif(native.library() is None, reason=native.reason())


@needs_native
@pytest.mark.parametrize("seed", range(CASES))
def test_native_is_the_definition(seed: int) -> None:
    assert_same(seed, "native")


@needs_native
def test_native_with_several_threads_and_enough_work_to_share() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 40, 40, generator=generator).contiguous(memory_format=torch.channels_last)
    indices = tile_indices(torch.ones(40, 40), 6, 4, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ours = gather(x, indices, 6, activation="swish", way="native")
    finally:
        torch.set_num_threads(before)
    assert (ours - gather(x, indices, 6, activation="swish", way="torch")).abs().max() <= 1e-6


@needs_native
@pytest.mark.parametrize("dtype", [*CLOSE])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_native_at_the_ends_of_the_numbers(dtype: torch.dtype, activation: Any) -> None:
    few = [0.0, -0.0, 1e-7, 6e-8, 3e-5, 88.5, -88.5, -103.9, 1e4, -1e4, 65504.0, float("inf"), float("nan")]
    values = torch.cat([torch.tensor(few), torch.linspace(-30, 30, 4001)]).to(dtype).reshape(1, 1, 1, -1)
    for x in (values, values.transpose(1, 3).contiguous(memory_format=torch.channels_last)):
        block = (1, x.shape[3])
        common = {"activation": activation, "scale": torch.ones(1, 1, 1, 1), "shift": torch.zeros(1, 1, 1, 1)}
        ours, wanted = (
            gather(x, torch.zeros(1, 2, dtype=torch.int32), block, **common, way=way).double()
            for way in cast(list[Way], ["native", "torch"])
        )
        torch.testing.assert_close(ours, wanted, rtol=max(CLOSE[dtype], 1e-6), atol=2e-7, equal_nan=True)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_triton_is_the_definition_under_its_interpreter() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [*map(str, INTERPRETED)]


def test_gather_pads_with_zeros_after_affine_and_activation() -> None:
    x = torch.full((1, 2, 4, 4), 3.0)
    shift = torch.ones(1, 1, 1, 1)
    out = gather(x, torch.tensor([[-1, 2]]), (2, 3), shift=shift, activation="sigmoid")
    inside = torch.sigmoid(torch.tensor(4.0))
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]) * inside
    torch.testing.assert_close(out, expected.expand(1, 2, 2, 3))


def test_tiles_of_every_pixel_make_the_dense_convolution() -> None:
    """Gather, convolve without padding, scatter: the ordinary convolution, at stride 1 and 2, in two images."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 12, 20, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    for stride, block in ((1, 6), (2, 5)):
        dense = F.conv2d(x, weight, stride=stride, padding=1)
        indices = tile_indices(torch.ones(12, 20), block, 4, 1)
        out = F.conv2d(gather(x, indices, block), weight, stride=stride)
        landed = scatter(out, torch.zeros_like(dense), indices, offset=1, stride=stride)
        torch.testing.assert_close(landed, dense)


def test_scatter_gather_is_scatter_then_gather() -> None:
    draw = Draw(0)
    draw.dtype, draw.h, draw.w = torch.float32, 12, 13
    base = draw.tensor(draw.n, draw.c, 12, 13)
    indices = draw.grid((4, 4), (1, 1))
    tiles = draw.tensor(draw.n * len(indices), draw.c, 4, 4)
    tile_map = scatter_map(indices, (12, 13), 4, offset=1)
    fused = scatter_gather(tiles, base, tile_map, indices, 6, activation="swish")
    apart = gather(scatter(tiles, base, indices, offset=1), indices, 6, activation="swish")
    torch.testing.assert_close(fused, apart)


def test_no_tiles_change_nothing() -> None:
    x, none = torch.randn(2, 3, 5, 6), torch.zeros(0, 2, dtype=torch.int32)
    assert torch.equal(tile_indices(torch.zeros(5, 6, dtype=torch.bool), 3, 2, 1), none)
    for way in ("torch", "auto"):
        assert gather(x, none, 4, way=way).shape == (0, 3, 4, 4)
        assert torch.equal(scatter(torch.zeros(0, 3, 2, 2), x, none, way=way), x)
        nowhere = scatter_map(none, (5, 6), 2)
        corner = torch.zeros(1, 2, dtype=torch.int32)
        assert torch.equal(scatter_gather(torch.zeros(0, 3, 2, 2), x, nowhere, corner, (5, 6), way=way), x)


def test_tile_indices_with_negative_and_overhanging_corners() -> None:
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[0, 0] = mask[4, 6] = True
    found = tile_indices(mask, (3, 2), (2, 3), (1, 0)).tolist()
    expected = [[h, w] for h in range(-1, 5 + 1, 2) for w in range(0, 7, 3) if mask[max(h, 0) : h + 3, w : w + 2].any()]
    assert found == expected


def test_gradients_take_the_definition() -> None:
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    indices = torch.tensor([[-1, 0]])
    gather(x, indices, 3).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == 2 * 6
    with pytest.raises(RuntimeError, match="no gradient"):
        gather(x, indices, 3, way="native")


def test_a_way_that_cannot_serve_says_why() -> None:
    x, indices = torch.randn(1, 2, 4, 4), torch.tensor([[0, 0]])
    with pytest.raises(RuntimeError, match="float64"):
        gather(x.double(), indices, 3, way="native")
    assert gather(x.double(), indices, 3).dtype == torch.float64
    with pytest.raises(ValueError, match="one of auto"):
        gather(x, indices, 3, way=cast(Way, "cuda"))
    if not ways.interpreted():
        with pytest.raises(RuntimeError, match="cuda"):
            gather(x, indices, 3, way="triton")
    assert set(kernels.available()) == {"torch", "native", "triton"}
    assert all(state.startswith(("yes", "no: ")) for state in kernels.available().values())


@needs_native
def test_a_map_that_names_what_is_not_there_is_an_error() -> None:
    x, indices = torch.randn(1, 2, 4, 4), torch.tensor([[0, 0]])
    tile_map = scatter_map(indices, (4, 4), 3)
    with pytest.raises(IndexError, match="tile_map"):
        scatter_gather(torch.randn(1, 2, 2, 2), x, tile_map, indices, 4, way="native")


def test_bad_input_is_told() -> None:
    x, indices = torch.randn(2, 3, 8, 8), torch.tensor([[0, 0], [4, 4]])
    tiles = torch.randn(4, 3, 4, 4)
    bad: list[tuple[str, Any]] = [
        ("x must be", lambda: gather(x[0], indices, 4)),
        ("x must be", lambda: gather(x.int(), indices, 4)),
        ("indices must be", lambda: gather(x, indices.float(), 4)),
        ("indices must be", lambda: gather(x, indices.flatten(), 4)),
        ("block must be at least 1", lambda: gather(x, indices, 0)),
        ("block must be an integer", lambda: gather(x, indices, cast(int, 2.5))),
        ("block must be an integer", lambda: gather(x, indices, cast(Any, (1, 2, 3)))),
        ("scale must have", lambda: gather(x, indices, 4, scale=torch.ones(1, 2, 1, 1))),
        ("shift must have", lambda: gather(x, indices, 4, shift=torch.ones(3))),
        ("activation=", lambda: gather(x, indices, 4, activation=cast(Any, "gelu"))),
        ("tiles must be", lambda: scatter(tiles[:, :2], x, indices)),
        ("tiles must be", lambda: scatter(tiles.double(), x, indices)),
        ("tiles must hold", lambda: scatter(tiles[:3], x, indices)),
        ("stride must be", lambda: scatter(tiles, x, indices, stride=0)),
        ("residual must have", lambda: scatter(tiles, x, indices, residual=torch.ones(1, 3, 4, 4))),
        ("out must be", lambda: scatter(tiles, x, indices, out=x[:1])),
        ("tile_map must be", lambda: scatter_gather(tiles, x, torch.zeros(8, 8, 2, dtype=torch.int32), indices, 4)),
        ("tile_map must be", lambda: scatter_gather(tiles, x, torch.zeros(8, 8, 3), indices, 4)),
        ("shortcut_tiles must", lambda: scatter_with_block_residual(tiles, x, indices, tiles[:1], x, indices)),
        ("mask must be", lambda: tile_indices(x[0], 4, 4)),
        ("padding must be", lambda: tile_indices(x[0, 0], 4, 4, -1)),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()


if __name__ == "__main__":
    for one in INTERPRETED:
        # The interpreter cuts bfloat16 off where a GPU rounds, here twice, and once before a cancellation.
        assert_same(one, "triton", truncated=8.0)
        print(one)
