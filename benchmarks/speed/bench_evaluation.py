"""FID and KID of two folders, gengauge against clean-fid on the same network in alternation, and the parts.

`make bench` takes two folders of 150 pictures (GENGAUGE_BENCH_PICTURES changes that); the tests take six.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
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

ROUNDS = 2


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_network("inception")


def size(benchmark: BenchmarkFixture) -> int:
    return int(os.environ.get("GENGAUGE_BENCH_PICTURES", "150")) if benchmark.enabled else 6


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
        monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path / f"cache {len(seconds['ours both'])} {len(metrics)}"))
        return [s.value or 0.0 for s in evaluate(real, fake, metrics, network=network)]

    def theirs_kid() -> float:
        np.random.seed(0)  # noqa: NPY002 - clean-fid draws its subsets from the global generator
        return clean_kid(real, fake, model, options)

    calls: list[tuple[str, Callable[[], Any]]] = [
        ("ours fid", lambda: ours(["fid"])),
        ("clean fid", lambda: clean.compute_fid(str(real), str(fake), **options)),
        ("ours both", lambda: ours(["fid", "kid"])),
        ("clean kid", theirs_kid),
    ]
    found: dict[str, Any] = {}

    def alternate() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, call in calls:
                start = time.perf_counter()
                found[name] = call()
                seconds[name].append(time.perf_counter() - start)
        calls.reverse()  # what runs first in one round runs last in the next

    benchmark.pedantic(alternate, rounds=ROUNDS if benchmark.enabled else 1)
    fid, kernel = found["ours both"]
    assert fid == pytest.approx(found["clean fid"], rel=1e-3)  # features of two roundings
    assert kernel == pytest.approx(found["clean kid"], rel=1e-2, abs=1e-4)
    clean_both = [f + k for f, k in zip(seconds["clean fid"], seconds["clean kid"], strict=True)]
    ratios = {
        "fid": [a / b for a, b in zip(seconds["ours fid"], seconds["clean fid"], strict=True)],
        "fid and kid": [a / b for a, b in zip(seconds["ours both"], clean_both, strict=True)],
    }
    benchmark.extra_info |= {"pictures": 2 * count, "seconds": seconds, "ratios": ratios}
    print({name: [round(v, 3) for v in values] for name, values in (seconds | ratios).items()})
    if benchmark.enabled:
        assert median(ratios["fid"]) <= 0.55
        assert median(ratios["fid and kid"]) <= 0.3


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
