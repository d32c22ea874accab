"""Scores of generated pictures against real ones: every metric from features that are computed once."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.extract import Precision
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.features.resize import Mode
from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.benchmarks.metrics.precision_recall import precision_recall
from gengauge.datasets import weights
from gengauge.datasets.folder import list_pictures

Array = np.ndarray[Any, Any]
Metric = Literal["fid", "kid", "is", "pr"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Score:
    """One score under its full name (`FID`, `FD-EfficientNetLite0`, ...), or why it could not be had (`value` None)."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    direction: str = "lower"
    note: str = ""


def score(
    real: Array | Gaussian, fake: Array, network: FeatureNetwork, metrics: Sequence[Metric] = METRICS
) -> list[Score]:
    """Scores of features (N, D) of generated pictures against those of real ones, or against saved statistics.

    Statistics serve FID only. With fewer pictures than feature dimensions FID is biased upward, and its note says so.
    """
    suffix = "" if network.name == "inception" else network.distance.removeprefix("FD")
    out: list[Score] = []
    for metric in metrics:
        if metric == "fid":
            a, b = real if isinstance(real, Gaussian) else fit(real), fit(fake)
            few = min(x.count for x in (a, b) if x.count is not None) < network.dimensions
            note = f"fewer pictures than the {network.dimensions} dimensions: biased upward" if few else ""
            out.append(Score(network.distance, frechet_distance(a, b), note=note))
        elif metric == "is":
            out.append(_inception_score(fake, network, f"IS{suffix}"))
        elif isinstance(real, Gaussian):
            out.append(Score(metric.upper() + suffix, None, note="needs the real pictures, not only their statistics"))
        elif metric == "kid":
            found = kid(real, fake)
            out.append(Score(f"KID{suffix}", found.value, found.low, found.high, "95 % jackknife over pictures"))
        else:
            precision, recall = precision_recall(real, fake)
            out += [
                Score(f"{name}{suffix}", value, direction="higher", note="k = 3")
                for name, value in (("precision", precision), ("recall", recall))
            ]
    return out


def evaluate(
    real: Path,
    fake: Path,
    metrics: Sequence[Metric] = METRICS,
    mode: Mode = "clean",
    network: FeatureNetwork | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Score]:
    """Scores the pictures under `fake` against those under `real`, or against statistics in a .npz file.

    Features are computed once for all metrics and cached by content. Raises ValueError or OSError naming a folder
    without pictures, a damaged picture, or statistics that do not fit.
    """
    network = network or load_network("inception")

    def of(folder: Path, side: str) -> Array:
        tell = None if progress is None else lambda done, total: progress(side, done, total)
        return features(list_pictures(folder), network, mode, device, precision, tell)

    known = read_statistics(real, network.dimensions) if real.suffix == ".npz" else None
    return score(known if known is not None else of(real, "real"), of(fake, "fake"), network, metrics)


def read_statistics(path: Path, dimensions: int) -> Gaussian:
    """Mean and covariance from a .npz file with `mu` and `sigma`, the format of pytorch-fid and clean-fid.

    Raises FileNotFoundError, or ValueError for a file without them or of other dimensions.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
    except FileNotFoundError:
        raise
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no statistics: arrays `mu` and `sigma` are expected ({error})") from error
    if mean.shape != (dimensions,) or covariance.shape != (dimensions, dimensions):
        raise ValueError(
            f"{path} has mu {mean.shape} and sigma {covariance.shape}; these features have {dimensions} dimensions"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path} holds values that are not finite")
    return Gaussian(mean, covariance)


def _inception_score(fake: Array, network: FeatureNetwork, name: str) -> Score:
    if network.probabilities is None:
        return Score(
            name,
            None,
            direction="higher",
            note=f"these weights have no classifier; {weights.remedy('inception-logits')}",
        )
    if len(fake) < 10:
        return Score(name, None, direction="higher", note="ten splits need at least 10 pictures")
    with torch.inference_mode():
        parameter = next(network.network.parameters())
        probabilities = network.probabilities(torch.from_numpy(fake).to(parameter.device)).double().cpu().numpy()
    mean, std = inception_score(probabilities, 10)
    return Score(name, mean, mean - std, mean + std, "mean +- standard deviation over 10 splits", "higher")
