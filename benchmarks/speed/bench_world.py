"""Pictures a second of the embedded world, with labels and landmarks."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.datasets import world


@pytest.mark.parametrize("size", [32, 64, 128])
def test_rendering(benchmark: BenchmarkFixture, size: int) -> None:
    count = 2000 * 32**2 // size**2 if benchmark.enabled else 4
    scenes = world.scenes(0, range(count))
    rendering = benchmark.pedantic(lambda: world.render(scenes, size), rounds=3 if benchmark.enabled else 1)
    assert rendering.images.shape == (count, 3, size, size)
    benchmark.extra_info["pictures"] = count
