"""`gengauge concept`: Custom Diffusion on a folder of diffusers: open, train, merge, compress, convert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from gengauge.benchmarks.concept_files import check_writable, read_json
from gengauge.benchmarks.custom_pipeline import compress_delta, merge_deltas
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.training.concept_batches import Concept, Intake
from gengauge.benchmarks.training.customisation import train_concepts
from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.delta_files import Layout, layout_of, read_delta, write_delta
from gengauge.datasets.deltas import Delta, whole
from gengauge.datasets.diffusers_folder import read_network_folder
from gengauge.reference.custom_diffusion.losses import Prediction
from gengauge.reference.custom_diffusion.merge import MergeReport, Variant
from gengauge.reference.custom_diffusion.models import of_pipeline
from gengauge.reference.custom_diffusion.sampling import with_ddim
from gengauge.reference.custom_diffusion.tokens import RARE_WORDS
from gengauge.reference.custom_diffusion.training import COMPVIS_JOINT, COMPVIS_SINGLE, JOINT, SINGLE, Recipe

INDEX, DELTA = "model_index.json", "delta.safetensors"
EVERY = 50  # iterations between two states at most


# -- models ------------------------------------------------------------------------------------------------------------


def open_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A StableDiffusionPipeline, with DDIM, of a folder of diffusers with safetensors; SD 1.x and 2.x, on the CPU.

    Each part is read as the class that it must be, so that nothing in the folder chooses code. There is no safety
    checker: it blackens pictures that a metric would count. Raises FileNotFoundError naming what is missing, and
    ValueError for another model, with what could take it, and for a damaged part.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of diffusers: give one that holds {INDEX}")
    kind = read_json(folder / INDEX).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(
            f"{folder} is a {kind}: here models are StableDiffusionPipelines, of Stable Diffusion 1 or 2; compress and "
            "convert take the U-Net of any other"
        )
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    parts = {
        name: _part(folder / name, part, dtype)
        for name, part in (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel), ("vae", AutoencoderKL))
    }
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise ValueError(f"{folder}: its network predicts {prediction!r}, not {' or '.join(get_args(Prediction))}")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler = DDIMScheduler.from_config(config, clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    except Exception as error:
        raise ValueError(f"{folder}: its tokenizer or scheduler cannot be read: {_first_line(error)}") from error
    unet, width = parts["unet"].config, parts["text_encoder"].config.hidden_size
    if unet.cross_attention_dim != width or unet.in_channels != parts["vae"].config.latent_channels:
        raise ValueError(
            f"{folder}: its U-Net takes text of {unet.cross_attention_dim} and latents of {unet.in_channels} channels, "
            f"and is given {width} and {parts['vae'].config.latent_channels}: it is no text-to-image model, or parts "
            "are of different ones"
        )
    pipeline = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return with_ddim(pipeline)


def _part(folder: Path, part: Any, dtype: torch.dtype) -> Any:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no {part.__name__}: there is no config.json in it")
    try:
        with _quiet():
            network, told = part.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, output_loading_info=True
            )
    except Exception as error:
        raise ValueError(
            f"{folder} cannot be read as a {part.__name__} with safetensors: {_first_line(error)}"
        ) from error
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{folder} lacks {len(missing)} tensors of its {part.__name__} (first: {missing[0]})")
    return network.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of transformers, which show up where the output is no terminal too."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _unet_weights(folder: Path) -> dict[str, Tensor]:
    """The U-Net's weights, of any model. Raises what `read_network_folder` raises."""
    return read_network_folder(folder)[1]


# -- training ----------------------------------------------------------------------------------------------------------


def recipe_for(concepts: Sequence[Concept], intake: Intake) -> Recipe:
    """The published recipe for concepts in a composition: without class pictures there is no prior."""
    if intake.composition == "compvis":
        count = len(concepts)
        if count == 1:
            return COMPVIS_SINGLE
        return replace(COMPVIS_JOINT, concepts=count, batch=COMPVIS_JOINT.batch // count * count or count)
    recipe = SINGLE if len(concepts) == 1 else JOINT
    return recipe if any(concept.class_pictures for concept in concepts) else replace(recipe, prior_weight=None)


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
        pipeline.tokenizer,
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
        pipeline.text_encoder,
        pipeline.tokenizer,
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
