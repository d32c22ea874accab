"""FID and KID of two folders, gengauge against clean-fid on the same network in alternation, and the parts.

`make bench` takes two folders of 500 pictures (GENGAUGE_BENCH_PICTURES changes that); the tests take six.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cleanfid import fid as clean
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from gengauge.benchmarks.evaluate import evaluate
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.metrics.frechet import fit, frechet_distance
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.datasets import weights, world


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_network("inception")


def size(benchmark: BenchmarkFixture) -> int:
    return int(os.environ.get("GENGAUGE_BENCH_PICTURES", "500")) if benchmark.enabled else 6


def folder(path: Path, seed: int, count: int) -> Path:
    path.mkdir()
    for i, picture in enumerate(world.pictures(seed, range(count), 64)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path / f"{i:05}.png")
    return path


def carrier_as_feature_function() -> Callable[[torch.Tensor], torch.Tensor]:
    """The carrier's TorchScript file, run as clean-fid runs its own: grey levels in, features out."""
    file = weights.carried(weights.WEIGHTS["inception"])
    assert file is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(str(file)).eval()
    return lambda x: script.net.layers((x - 128) / 128).view(len(x), -1)


def clean_kid(real: Path, fake: Path, model: Callable[[torch.Tensor], torch.Tensor], options: dict[str, Any]) -> float:
    """What clean-fid's `compute_kid` does with two folders; that function takes no feature extractor."""
    options = {key: value for key, value in options.items() if key != "custom_feat_extractor"}
    features = [clean.get_folder_features(str(folder), model, **options) for folder in (real, fake)]
    return float(clean.kernel_distance(*features))


def test_fid_and_kid_against_clean_fid(
    benchmark: BenchmarkFixture, network: FeatureNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = size(benchmark)
    real, fake = folder(tmp_path / "real", 0, count), folder(tmp_path / "fake", 1, count)
    model = carrier_as_feature_function()
    options: dict[str, Any] = {
        "mode": "clean", "custom_feat_extractor": model, "device": torch.device("cpu"), "verbose": False,
        "num_workers": 0 if not benchmark.enabled else torch.get_num_threads(),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {"ours fid": [], "ours both": [], "clean fid": [], "clean kid": []}

    def ours(metrics: list[Any]) -> list[float]:
        monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path / f"cache{len(seconds['ours both'])}{len(metrics)}"))
        return [s.value or 0.0 for s in evaluate(real, fake, metrics, network=network)]

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = call()
        seconds[name].append(time.perf_counter() - start)
        return found

    def alternate() -> tuple[list[float], list[float]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timed("ours fid", lambda: ours(["fid"]))
            theirs = [timed("clean fid", lambda: clean.compute_fid(str(real), str(fake), **options))]
            mine = timed("ours both", lambda: ours(["fid", "kid"]))
            np.random.seed(0)  # noqa: NPY002 - clean-fid draws its subsets from the global generator
            theirs.append(timed("clean kid", lambda: clean_kid(real, fake, model, options)))
        return mine, theirs

    mine, theirs = benchmark.pedantic(alternate, rounds=1)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-3)  # features of two roundings
    assert mine[1] == pytest.approx(theirs[1], rel=1e-2, abs=1e-4)
    best = {name: min(values) for name, values in seconds.items()}
    benchmark.extra_info |= {name: round(value, 2) for name, value in best.items()}
    benchmark.extra_info["ratio fid"] = round(best["ours fid"] / best["clean fid"], 3)
    benchmark.extra_info["ratio fid and kid"] = round(best["ours both"] / (best["clean fid"] + best["clean kid"]), 3)
    print(dict(benchmark.extra_info))


def test_extraction(benchmark: BenchmarkFixture, network: FeatureNetwork) -> None:
    pictures = world.pictures(0, range(64 if benchmark.enabled else 4), 64)
    found = benchmark.pedantic(lambda: extract(pictures, network), rounds=3 if benchmark.enabled else 1)
    assert found.shape == (len(pictures), 2048)
    benchmark.extra_info["pictures"] = len(pictures)


def test_metrics_of_few_features(benchmark: BenchmarkFixture) -> None:
    count, dimensions = (500, 2048) if benchmark.enabled else (20, 64)
    generator = np.random.default_rng(0)
    x, y = (generator.gamma(1.0, 0.4, (count, dimensions)).astype(np.float32) for _ in range(2))

    def both() -> tuple[float, float]:
        return frechet_distance(fit(x), fit(y)), kid(x, y).value

    distance, kernel = benchmark(both)
    assert distance > 0
    assert abs(kernel) < 0.1
