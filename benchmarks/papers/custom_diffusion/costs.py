"""What Custom Diffusion costs: bytes of its files, time and memory of training, time of a merge, which weights move.

Sizes and shares depend on no weights and are exact; times and memory are this machine's.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Measurement, Result
from gengauge.benchmarks.custom_pipeline import compress_delta
from gengauge.benchmarks.papers.custom_diffusion import loading
from gengauge.benchmarks.papers.custom_diffusion.counts import MEGA, UNETS, weights
from gengauge.benchmarks.papers.custom_diffusion.evaluation import Evaluation
from gengauge.benchmarks.papers.custom_diffusion.merging import merged
from gengauge.benchmarks.papers.custom_diffusion.methods import Settings
from gengauge.benchmarks.papers.custom_diffusion.naming import alone, named_pair
from gengauge.benchmarks.papers.custom_diffusion.rows import counted
from gengauge.datasets.concept_sets import SetConcept, SetPair
from gengauge.datasets.delta_files import write_delta
from gengauge.datasets.deltas import Delta, whole
from gengauge.reference.custom_diffusion.attention import Which, trained_names

GIGA = 1e9
TEXT_WIDTH = 768  # of a token's embedding
KINDS = {"cross-attention layers": ".attn2.", "self-attention layers": ".attn1.", "other layers": ""}


@dataclass(frozen=True)
class FileSettings:
    """A row of what is stored of a concept, by what is trained; `tokens` new words. `unet` is a name of `UNETS`."""

    row: str
    column: str
    which: Which
    tokens: int
    unet: str = "Stable Diffusion 1"


def file_size(context: Context) -> Iterator[Result]:
    """The bytes of the published layout's file, written with zeros: numbers take the same room whatever they are."""
    s: FileSettings = context.settings
    shapes = weights(UNETS[s.unet])
    zeros = {name: torch.zeros(shapes[name]) for name in trained_names(shapes, s.which)}
    delta = Delta(zeros, {f"<new{n + 1}>": (torch.zeros(TEXT_WIDTH),) for n in range(s.tokens)})
    unit = MEGA if s.column == "file_size" else GIGA
    yield Measurement(s.row, s.column, bytes_of(delta, context.work) / unit, note="delta.bin, float32")


def bytes_of(delta: Delta, work: Path) -> int:
    """The size of a delta's file in the published layout, which is written and removed."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / "delta.bin"
        write_delta(path, delta)
        return path.stat().st_size


@dataclass(frozen=True)
class CompressedSettings:
    """The customisation that is made smaller, and the share of the singular values' sum that is kept."""

    of: Settings
    ratio: float = 0.6


def compressed(context: Context) -> Iterator[Result]:
    """The size of a customisation whose changes are factors, the mean over concepts."""
    s: CompressedSettings = context.settings
    made = Evaluation(replace(context, settings=s.of))
    sizes, told = [], []
    for subject in made.subjects:
        learnt = made.learnt(subject)
        delta = learnt.delta
        assert delta is not None
        told.append(learnt.history)
        sizes.append(bytes_of(compress_delta(delta, made.workshop.base, ratio=s.ratio), context.work) / MEGA)
    note = "; ".join([f"{min(sizes):.3g} to {max(sizes):.3g}", *counted(told)])
    yield Measurement(s.of.row, "file_size", statistics.mean(sizes), samples=len(sizes), note=note)


# -- times -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeSettings:
    """A training that is timed, in a folder of its own; `memory` is the row that tells the GPU's, "" for none."""

    of: Settings
    memory: str = ""


def training_time(context: Context) -> Iterator[Result]:
    """Minutes of a training of one concept from the first step, and what it holds of a GPU's memory at most."""
    s: TimeSettings = context.settings
    made = Evaluation(replace(context, settings=s.of))
    (subject,) = made.subjects
    assert isinstance(subject, SetConcept)
    method, on_gpu = s.of.method, context.device == "cuda"
    assert method.recipe is not None
    made.workshop.class_pictures(subject, method)  # not timed
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = torch.cuda.max_memory_allocated() if on_gpu else 0
    learnt = made.workshop.trained(subject, method, method.recipe, fresh=True)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    told = f"{method.recipe.iterations} iterations on one device"
    yield Measurement(s.of.row, "training_time", learnt.seconds / 60, samples=1, note=told).noted(learnt.history)
    if not s.memory:
        return
    if not on_gpu:
        yield Measurement(s.memory, "memory", math.nan, missing="memory of a GPU is measured with --device cuda")
    elif peak == started:
        yield Measurement(
            s.memory, "memory", math.nan, missing="the training was done before; take another folder with --out"
        )
    else:
        yield Measurement(s.memory, "memory", peak / GIGA, samples=1, note="on one GPU")


@dataclass(frozen=True)
class MergeSettings:
    """A pair whose deltas are merged `repeats` times."""

    of: Settings
    repeats: int = 3


def merge_time(context: Context) -> Iterator[Result]:
    """Seconds from two deltas in memory to one: encoding of captions and targets, and all matrices; median."""
    s: MergeSettings = context.settings
    made = Evaluation(replace(context, settings=s.of))
    (pair,) = made.subjects
    assert isinstance(pair, SetPair)
    shop, method = made.workshop, s.of.method
    own = named_pair(pair, method)
    deltas = [shop.learnt(pair.first, method).delta, shop.learnt(alone(pair.second), method).delta]
    captions = loading.common_captions(made.found, s.of.merging.captions, context.data)
    pipeline = shop.fresh()
    pipeline.to(context.device)
    parts = [delta for delta in deltas if delta is not None]
    seconds = _times(
        lambda: merged(pipeline, parts, (own.first, own.second), captions, s.of.merging), s.repeats, context.device
    )
    yield Measurement(s.of.row, "merge_time", statistics.median(seconds), samples=len(seconds), note=pair.name)


def _times(call: Callable[[], Any], repeats: int, device: str) -> list[float]:
    out = []
    for number in range(repeats + 1):  # the first finds nothing warm
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            out.append(time.perf_counter() - started)
    return out


# -- which weights move ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangeSettings:
    """Concepts that the whole network learns, and the rows by kind of layer."""

    of: Settings
    rows: Mapping[str, str] = field(default_factory=dict)


def weight_change(context: Context) -> Iterator[Result]:
    """||w' - w|| / ||w|| of each layer that has weights, averaged over layers of a kind, then over concepts."""
    s: ChangeSettings = context.settings
    made = Evaluation(replace(context, settings=s.of))
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    told = []
    for subject in made.subjects:
        learnt = made.learnt(subject)
        delta = learnt.delta
        assert delta is not None
        told.append(learnt.history)
        base = {name: made.workshop.base[name] for name in delta.names}
        for kind, each in changes(base, whole(delta, base).weights).items():
            found[kind].append(statistics.mean(each))
    note = "; ".join(counted(told))
    for kind, values in found.items():
        yield Measurement(s.rows[kind], "weight_change", statistics.mean(values), samples=len(values), note=note)


def changes(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """How far each layer moved, relative to its length, by its kind; biases count with their layer's weight.

    Raises ValueError where a kind of layer has none.
    """
    layers: dict[str, list[str]] = {}
    for name in tuned:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    out: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for names in layers.values():
        moved = math.fsum(float((tuned[name].double() - base[name].double()).square().sum()) for name in names)
        length = math.fsum(float(base[name].double().square().sum()) for name in names)
        if length > 0:
            kind = next(kind for kind, part in KINDS.items() if part in names[0])
            out[kind].append(math.sqrt(moved / length))
    if empty := [kind for kind, values in out.items() if not values]:
        raise ValueError(f"no weight of {empty[0]} was tuned: the whole network is")
    return out


@dataclass(frozen=True)
class ShareSettings:
    """A row of the share of cross-attention; `unet` is a name of `UNETS`."""

    row: str
    unet: str = "Stable Diffusion 1"


def parameter_share(context: Context) -> Iterator[Result]:
    """The share of cross-attention of a U-Net's values, exact."""
    s: ShareSettings = context.settings
    shapes = weights(UNETS[s.unet])
    part = sum(shapes[name].numel() for name in trained_names(shapes, "crossattn"))
    yield Measurement(s.row, "parameter_share", 100 * part / sum(shape.numel() for shape in shapes.values()))
