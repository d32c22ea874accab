"""Text-to-image models of `gengauge concept`: a folder of diffusers as a pipeline, each part of a fixed class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch

from gengauge.datasets.concept_sets_files import read_json
from gengauge.reference.custom_diffusion.conditioning import SIZES
from gengauge.reference.custom_diffusion.losses import Prediction
from gengauge.reference.custom_diffusion.sampling import with_ddim

INDEX = "model_index.json"
SD, XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"


def open_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline of a folder of diffusers with safetensors, on the CPU, with DDIM: Stable Diffusion 1, 2 or XL.

    Each part is read as the class that it must be, so that nothing in the folder chooses code. There is no safety
    checker, which blackens pictures that a metric would count, and no watermark. Raises FileNotFoundError naming what
    is missing, and ValueError for another model, with what could take it, and for a damaged part.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of diffusers: give one that holds {INDEX}")
    index = read_json(folder / INDEX)
    kind = index.get("_class_name")
    if kind not in (SD, XL):
        raise ValueError(
            f"{folder} is a {kind}: here models are a {SD} or {XL}, of Stable Diffusion 1, 2 or XL; compress and "
            "convert take the U-Net of any other"
        )
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "vae": AutoencoderKL}
    tokenizers = ["tokenizer"]
    if kind == XL:
        classes["text_encoder_2"] = CLIPTextModelWithProjection
        tokenizers.append("tokenizer_2")
    parts = {name: _part(folder / name, part, dtype) for name, part in classes.items()}
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise ValueError(f"{folder}: its network predicts {prediction!r}, not {' or '.join(get_args(Prediction))}")
    try:
        words = {name: CLIPTokenizer.from_pretrained(folder / name, local_files_only=True) for name in tokenizers}
        scheduler = DDIMScheduler.from_config(config, clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    except Exception as error:
        raise ValueError(f"{folder}: its tokenizer or scheduler cannot be read: {_first_line(error)}") from error
    _check_parts(folder, parts)
    if kind == XL:
        zeros = index.get("force_zeros_for_empty_prompt", True) is not False
        pipeline = StableDiffusionXLPipeline(
            **parts, **words, scheduler=scheduler, force_zeros_for_empty_prompt=zeros, add_watermarker=False
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts,
            **words,
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


def _check_parts(folder: Path, parts: Mapping[str, Any]) -> None:
    """Raises ValueError where parts do not go together, as those of two models, or are of another kind of model."""
    unet, vae = parts["unet"].config, parts["vae"].config
    widths = [parts[name].config.hidden_size for name in parts if name.startswith("text_encoder")]
    if unet.cross_attention_dim != sum(widths) or unet.in_channels != vae.latent_channels:
        raise ValueError(
            f"{folder}: its U-Net takes text of {unet.cross_attention_dim} and latents of {unet.in_channels} channels, "
            f"and is given {' + '.join(map(str, widths))} and {vae.latent_channels}: it is no text-to-image model, or "
            "parts are of different ones"
        )
    if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        raise ValueError(f"{folder}: its latents are shifted by means of their own, as no model of Stable Diffusion's")
    wanted, projected = None, 0
    if len(widths) == 2:
        wanted = "text_time"
        projected = parts["text_encoder_2"].config.projection_dim + SIZES * (unet.addition_time_embed_dim or 0)
    if unet.addition_embed_type != wanted or (wanted and unet.projection_class_embeddings_input_dim != projected):
        raise ValueError(
            f"{folder}: beside features of text its U-Net is told {unet.addition_embed_type} of "
            f"{unet.projection_class_embeddings_input_dim}, and models of this kind {wanted} of {projected or None}"
        )


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
