"""The quality rows at paper scale: PSNR and LPIPS of sparse against dense results, FID and mIoU, on published edits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Need,
    Plan,
    Progress,
    Result,
)
from gengauge.benchmarks.core.tables import Column, Table
from gengauge.benchmarks.evaluate import read_statistics
from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.psnr import psnr, to_common_size
from gengauge.benchmarks.metrics.segmentation import confusion, mean_iou
from gengauge.benchmarks.needs import data_need, weights_need
from gengauge.benchmarks.papers.sige.editing import DDIM, DISTILLED, Results, edit_churches, edit_label_maps
from gengauge.benchmarks.papers.sige.loading import PUBLISHED, load_published
from gengauge.benchmarks.papers.sige.networks import NETWORKS
from gengauge.benchmarks.segmenters import load_segmenter, segment
from gengauge.benchmarks.training.launch import together
from gengauge.benchmarks.training.processes import join
from gengauge.datasets.catalogue import data_folder, data_set
from gengauge.datasets.cityscapes import CLASSES, train_ids
from gengauge.datasets.edits import CHURCH, CITYSCAPES, ChurchEdits, CityscapesEdits
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound

Array = np.ndarray[Any, Any]
Way = Literal["dense", "sparse"]
Compare = Callable[[Array, Array], float]

CHURCH_STATISTICS = "lsun_church_clean_trainfull_256.npz"
CHURCH_REMEDY = (
    f"download https://www.cs.cmu.edu/~clean-fid/stats/{CHURCH_STATISTICS} into the data folder "
    "(clean-fid's statistics of LSUN churches)"
)
DRN_KEY = "drn-d-105-cityscapes"
OWN = (
    Column("psnr_truth", "PSNR of results against the photograph, mean over those that have one", "dB", "higher"),
    Column("lpips_truth", "LPIPS 0.1 (AlexNet) of results against the photograph, mean", "1", "lower"),
    Column("psnr_original", "PSNR of sparse results against the dense network's, mean", "dB", "higher"),
    Column("lpips_original", "LPIPS 0.1 (AlexNet) of sparse results against the dense network's, mean", "1", "lower"),
)
PROTOCOL = (
    ("grey levels", "of the released scripts", "rounded to the nearest"),
    ("identical pictures", "PSNR with one value changed by 1 (GauGAN)", "the same, for all networks"),
    ("photographs of label maps", "not told", "of the results whose edited map is the real one"),
)


@dataclass(frozen=True)
class Settings:
    """The network by key, and the rows of its dense and its sparse results."""

    network: str
    dense_row: str
    sparse_row: str


@dataclass
class Scores:
    """What results of one way gather: distances to truth and to the dense results, features, and labels found."""

    truth: dict[str, list[float]] = field(default_factory=lambda: {"psnr": [], "lpips": []})
    original: dict[str, list[float]] = field(default_factory=lambda: {"psnr": [], "lpips": []})
    features: list[Array] = field(default_factory=list)
    matrix: Array = field(default_factory=lambda: np.zeros((CLASSES, CLASSES), np.int64))


def fidelity(context: Context) -> Iterator[Result]:
    """Edits the whole set, dense and sparse, in as many processes as the job has, and scores both."""
    s: Settings = context.settings
    labels, inception = NETWORKS[s.network].labels, load_network("inception")
    scores, no_segmenter = together(
        edit_and_score, (s, context.data, context.device), context.processes, context.progress
    )
    photographs = CityscapesEdits(_root(CITYSCAPES, context.data)).folder / "images" if labels else None
    reference, missing = _reference(photographs, context.data, inception, context.device)
    for way, row in (("dense", s.dense_row), ("sparse", s.sparse_row)):
        yield from _measurements(row, scores[way], way == "sparse", reference, missing, labels, no_segmenter)  # type: ignore[index]


def edit_and_score(s: Settings, root: Path | None, device: str, tell: Progress) -> tuple[dict[Way, Scores], str]:
    """Scores of the dense and the sparse results of a set, and why there is no segmenter; processes share the edits.

    Raises WeightsNotFound, DataNotFound and ValueError as what it loads.
    """
    group, device = join(device)
    network = NETWORKS[s.network]
    inception, lpips = load_network("inception"), lpips_of_pictures(device)
    module = load_published(network.build(True), PUBLISHED[s.network])
    results: Iterable[Results]
    segment, no_segmenter = _segmenter(device) if network.labels else (None, "")
    if network.labels:
        maps = CityscapesEdits(_root(CITYSCAPES, root), size=network.size)
        mine = group.share(range(len(maps)))
        results = edit_label_maps(module, network.policy, network.recipe, maps, device, mine)
    else:
        churches = ChurchEdits(_root(CHURCH, root), network.size[0])
        mine = group.share(range(len(churches)))
        sampling = DISTILLED if s.network == "pd-128" else DDIM

        def stepped(image: int, step: int) -> None:
            tell(image, len(mine), f"step {step} of church {image + 1} of {len(mine)}")

        results = edit_churches(module, network.policy, network.recipe, churches, device, sampling, stepped, mine)
    found = score_results(results, lpips, inception, device, lambda done: tell(done, len(mine), "edits"), segment)
    return merged(group.gathered([found])), no_segmenter


def merged(parts: Sequence[Mapping[Way, Scores]]) -> dict[Way, Scores]:
    """Scores of parts of a set as those of the whole."""
    out: dict[Way, Scores] = {"dense": Scores(), "sparse": Scores()}
    for part in parts:
        for way, more in part.items():
            mine = out[way]
            for metric in mine.truth:
                mine.truth[metric] += more.truth[metric]
                mine.original[metric] += more.original[metric]
            mine.features += more.features
            mine.matrix += more.matrix
    return out


def score_results(
    results: Iterable[Results],
    lpips: Compare,
    inception: FeatureNetwork,
    device: str,
    tell: Callable[[int], None] = lambda done: None,
    segment: Callable[[Array], Array] | None = None,
) -> dict[Way, Scores]:
    """Scores of the dense and the sparse results, one picture after the other."""
    scores: dict[Way, Scores] = {"dense": Scores(), "sparse": Scores()}
    for number, result in enumerate(results):
        pictures: dict[Way, Array] = {"dense": result.dense, "sparse": result.sparse}
        for way, picture in pictures.items():
            mine = scores[way]
            mine.features.append(extract(_batch(picture), inception, device=device)[0])
            if segment is not None and result.labels is not None:
                mine.matrix += confusion(segment(picture), train_ids(result.labels), CLASSES)
            if result.truth is not None:
                _compare(mine.truth, picture, result.truth, lpips)
            if way == "sparse":
                _compare(mine.original, picture, result.dense, lpips)
        tell(number + 1)
    return scores


def lpips_of_pictures(device: str) -> Compare:
    """LPIPS of two pictures uint8 (H, W, 3), both taken to the smaller size. Raises WeightsNotFound."""
    network = load_lpips("alex", device)

    def compare(a: Array, b: Array) -> float:
        x, y = (_batch(picture).to(device).float() / 127.5 - 1 for picture in to_common_size(a, b))
        return float(network(x, y))

    return compare


def _segmenter(device: str) -> tuple[Callable[[Array], Array] | None, str]:
    """DRN-D-105: pictures uint8 (H, W, 3) to classes (H, W); or why there is none."""
    try:
        network = load_segmenter(DRN_KEY)
    except WeightsNotFound as error:
        return None, f"the weights of DRN-D-105 are not there. To get them: {error.remedy}"
    return lambda picture: segment(network, _batch(picture), device)[0], ""


def _compare(into: dict[str, list[float]], a: Array, b: Array, lpips: Compare) -> None:
    into["psnr"].append(psnr(a, b, identical="one-level"))
    into["lpips"].append(lpips(a, b))


def _batch(picture: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]


def _measurements(
    row: str,
    scores: Scores,
    sparse: bool,
    reference: Gaussian | None,
    missing: str,
    labels: bool,
    no_segmenter: str,
) -> Iterator[Measurement]:
    count = len(scores.features)
    if reference is None:
        yield Measurement(row, "fid", math.nan, missing=missing)
    else:
        yield Measurement(row, "fid", frechet_distance(reference, fit(np.stack(scores.features))), samples=count)
    if labels and no_segmenter:
        yield Measurement(row, "miou", math.nan, missing=no_segmenter)
    elif labels:
        yield Measurement(row, "miou", mean_iou(scores.matrix), samples=count)
    for name, values in (("truth", scores.truth), ("original", scores.original)):
        if name == "original" and not sparse:
            continue
        for metric, found in values.items():
            column = f"{metric}_{name}"
            if found:
                yield Measurement(row, column, statistics.fmean(found), samples=len(found))
            else:
                yield Measurement(row, column, math.nan, missing="the set has no photograph of any result")


def _reference(
    photographs: Path | None, root: Path | None, inception: FeatureNetwork, device: str
) -> tuple[Gaussian | None, str]:
    """What FID compares with: the photographs of Cityscapes, or clean-fid's statistics of all LSUN churches."""
    if photographs is not None:
        pictures = list_pictures(photographs)
        return fit(features(pictures, inception, device=device)), ""
    file = None if root is None else root / CHURCH_STATISTICS
    if file is None or not file.is_file():
        return None, f"{CHURCH_STATISTICS} is not there. To get it: {CHURCH_REMEDY}"
    return read_statistics(file, inception.dimensions), ""


def _root(key: str, root: Path | None) -> Path:
    if root is None:
        raise DataNotFound(data_set(key).what, [], data_set(key).remedy)
    return root


def _plan(network: str) -> Plan:
    labels = NETWORKS[network].labels

    def needs(data: Path | None) -> tuple[Need, ...]:
        root = data or data_folder()
        out = [
            data_need(CITYSCAPES if labels else CHURCH, data),
            weights_need(PUBLISHED[network].found),
            weights_need("inception"),
            weights_need("lpips-alex"),
        ]
        if labels:
            out.append(weights_need(DRN_KEY))
        else:
            file = None if root is None else root / CHURCH_STATISTICS
            where = file if file is not None and file.is_file() else None
            out.append(
                Need(
                    "statistics of LSUN churches for FID",
                    where,
                    (str(file) if file else "no data folder: give --data DIR",),
                    CHURCH_REMEDY,
                )
            )
        return tuple(out)

    return Plan((NETWORKS[network].planned(),), needs)


ROWS = (
    Settings("ddpm-256", "original@ddpm-256", "sige@ddpm-256"),
    Settings("pd-128", "original@progressive-distillation-128", "sige@progressive-distillation-128"),
    Settings("gaugan", "original@gaugan", "sige@gaugan"),
    Settings("gan-compression", "gan-compression@gaugan", "gan-compression-sige@gaugan"),
)


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """One experiment a network, for the rows of the figure that tells quality."""
    published = {column.key: column for column in next(t for t in tables if t.key == "edits").columns}
    out = []
    for s in ROWS:
        labels = NETWORKS[s.network].labels
        columns = (published["fid"], *((published["miou"],) if labels else ()), *OWN)
        out.append(
            Experiment(
                key=f"fidelity-{s.network}",
                table="edits",
                rows=(s.dense_row, s.sparse_row),
                columns=columns,
                scales={"paper": AtScale(s, 1, Limits(14 * 24 * 3600, 64), threads=8, plan=_plan(s.network))},
                run=fidelity,
                generates=("paper",),
                protocol=PROTOCOL,
                reads=lambda settings, root: data_set(CITYSCAPES if NETWORKS[settings.network].labels else CHURCH).find(
                    root
                ),
                without=frozenset((s.dense_row, c) for c in ("psnr_original", "lpips_original")),
            )
        )
    return tuple(out)
