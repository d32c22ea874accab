"""`gengauge concept`: Custom Diffusion on a folder of diffusers: open, train, merge, compress, convert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gengauge.benchmarks.concept_files import check_writable
from gengauge.benchmarks.concept_models import open_model
from gengauge.benchmarks.custom_pipeline import compress_delta, merge_deltas, text_parts
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.training.concept_batches import Concept, Intake
from gengauge.benchmarks.training.customisation import train_concepts
from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.delta_files import Layout, layout_of, read_delta, write_delta
from gengauge.datasets.deltas import Delta, whole
from gengauge.datasets.diffusers_folder import read_network_folder
from gengauge.reference.custom_diffusion.merge import MergeReport, Variant
from gengauge.reference.custom_diffusion.models import of_pipeline
from gengauge.reference.custom_diffusion.tokens import RARE_WORDS
from gengauge.reference.custom_diffusion.training import (
    COMPVIS_JOINT,
    COMPVIS_SINGLE,
    DREAMBOOTH,
    JOINT,
    SINGLE,
    TEXTUAL_INVERSION,
    Recipe,
)

Method = Literal["custom_diffusion", "textual_inversion", "dreambooth"]
DELTA = "delta.safetensors"
EVERY = 50  # iterations between two states at most


# -- training ----------------------------------------------------------------------------------------------------------


def recipe_for(concepts: Sequence[Concept], intake: Intake, method: Method = "custom_diffusion") -> Recipe:
    """The published recipe for concepts in a composition: without class pictures there is no prior.

    Raises ValueError for another method, for a baseline in the composition compvis, and for class pictures where the
    method has no prior.
    """
    if method not in get_args(Method):
        raise ValueError(f"methods are {' or '.join(get_args(Method))}, not {method!r}")
    prior = any(concept.class_pictures for concept in concepts)
    if method != "custom_diffusion":
        if intake.composition == "compvis":
            raise ValueError(f"{method} is trained in the composition diffusers; compvis is Custom Diffusion's")
        if method == "dreambooth":
            return DREAMBOOTH if prior else replace(DREAMBOOTH, prior_weight=None)
        if prior:
            raise ValueError("Textual Inversion changes no weight, so it takes no class pictures")
        return TEXTUAL_INVERSION
    if intake.composition == "compvis":
        count = len(concepts)
        if count == 1:
            return COMPVIS_SINGLE
        return replace(COMPVIS_JOINT, concepts=count, batch=COMPVIS_JOINT.batch // count * count or count)
    recipe = SINGLE if len(concepts) == 1 else JOINT
    return recipe if prior else replace(recipe, prior_weight=None)


def train(
    pipeline: Any,
    concepts: Sequence[Concept],
    out: Path,
    recipe: Recipe,
    intake: Intake,
    *,
    begin_as: Sequence[str] = RARE_WORDS,
    checkpointing: bool = False,
    eight_bit: bool = False,
    seed: int = 42,
    device: str = "cpu",
    processes: Processes | None = None,
    tell: Tell = lambda done, total, doing: None,
) -> Delta:
    """Trains concepts on a pipeline of `open_model` and writes `delta.safetensors` into `out`; the delta.

    States are in `out/training`, from where a training that was stopped goes on. Raises OSError for an `out` that
    cannot be written to, before anything is read, and what `train_concepts` raises.
    """
    check_writable(out)
    delta, _ = train_concepts(
        recipe,
        of_pipeline(pipeline),
        text_parts(pipeline)[1],
        concepts,
        out / "training",
        {},
        seed=seed,
        device=device,
        intake=intake,
        begin_as=begin_as,
        checkpointing=checkpointing,
        eight_bit=eight_bit,
        every=max(1, min(EVERY, recipe.iterations // 5)),
        processes=processes,
        tell=tell,
        code=code_version(),
    )
    if processes is None or processes.main:
        write_delta(out / DELTA, delta)
    return delta


# -- deltas ------------------------------------------------------------------------------------------------------------


def merge(
    model: Path,
    paths: Sequence[Path],
    categories: Sequence[str],
    captions: Sequence[str],
    out: Path,
    *,
    variant: Variant = "diffusers",
    ridge: float = 0.0,
    device: str = "cpu",
    layout: Layout | None = None,
) -> MergeReport:
    """Merges deltas, each of its category, and writes what comes of it; how well it went.

    Tokens are called <new1>, <new2>, ... in the order of the deltas. Raises what `open_model`, `read_delta`,
    `merge_deltas` and `write_delta` raise.
    """
    deltas = [read_delta(path) for path in paths]
    pipeline = open_model(model)
    pipeline.to(device)
    merged, report = merge_deltas(
        pipeline.unet,
        *text_parts(pipeline),
        deltas,
        categories,
        captions,
        variant=variant,
        ridge=ridge,
    )
    write_delta(out, merged, layout)
    return report


def compress(
    model: Path,
    path: Path,
    out: Path,
    *,
    ratio: float | None = None,
    rank: int | None = None,
    layout: Layout | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[int, int]:
    """Writes a delta with its changes as factors; how many numbers it held and holds.

    `model` is any folder of diffusers with the U-Net, that of XL too. Raises what `compress_delta` and the readers and
    writers raise.
    """
    delta = read_delta(path)
    small = compress_delta(delta, _unet_weights(model), ratio=ratio, rank=rank)
    write_delta(out, small, layout, dtype=dtype)
    return delta.numbers, small.numbers


def convert(
    path: Path,
    out: Path,
    layout: Layout | None = None,
    *,
    model: Path | None = None,
    dense: bool = False,
    tokens: Sequence[str] | None = None,
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Delta:
    """Writes a delta in another layout, or with `dense` its factors as whole weights; the delta that was written.

    Factors become whole where the layout takes no others; that needs the `model` they are of. `tokens` and `layers` are
    as for `read_delta`. Raises ValueError for factors without a model, and what readers and writers raise.
    """
    delta = read_delta(path, tokens, layers)
    if delta.factors and (dense or (layout or layout_of(out)) == "diffusers"):
        if model is None:
            raise ValueError(f"{path} holds factors; to make whole weights of them, give the model that they change")
        delta = whole(delta, _unet_weights(model))
    write_delta(out, delta, layout, dtype=dtype, layers=layers)
    return delta


def _unet_weights(folder: Path) -> dict[str, Tensor]:
    """The U-Net's weights, of any model. Raises what `read_network_folder` raises."""
    return read_network_folder(folder)[1]
