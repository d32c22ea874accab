"""`world-diffusion64`: the zoo's small text-to-image model of captioned animals, for Custom Diffusion.

A U-Net on latents of `world-autoencoder64` under the text encoder of `world-clip64`, with Stable Diffusion's noise
schedule; it predicts noise, and knows the empty caption, for guidance. All three make a `StableDiffusionPipeline`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.benchmarks.zoo import (
    captions_tokenizer,
    entries,
    pictured_attributes,
    world_autoencoder,
    world_clip,
    world_diffusion,
)
from gengauge.benchmarks.zoo.captioned_animals import RESOLUTION, animals, caption, pictures, rendered
from gengauge.benchmarks.zoo.captioned_pairs import Pairs
from gengauge.benchmarks.zoo.entries import FOLDER, FRESH_SEED

NAME = "world-diffusion64"
PARTS = (world_clip.NAME, world_autoencoder.NAME)  # what it was trained with, and works with alone
PICTURES, SEED = world_clip.PICTURES, 2  # the pictures are those of the text encoder, the draws others
BATCH = 32
KIMG = 256
EMPTY = 0.1  # share of empty captions
STEPS, GUIDANCE = 25, 3.0  # of the samples that the card tells of
CHECKED = 200  # samples whose attributes are read


def load(folder: Path = FOLDER) -> Any:
    """The trained U-Net, in eval mode.

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = world_diffusion.build()
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


def pipeline(folder: Path = FOLDER) -> Any:
    """The model as a `StableDiffusionPipeline` with DDIM; parts that `folder` has not are the zoo's own.

    Raises FileNotFoundError, or ValueError for weights that are not those of their card or parts of another training.
    """
    from diffusers import StableDiffusionPipeline

    for name, digest in card(folder)["parts"].items():
        if entries.read_card(name, place(folder, name))["sha256"] != digest:
            raise ValueError(f"{place(folder, name) / name}.safetensors is another than {NAME} was trained with")
    made = StableDiffusionPipeline(
        vae=world_autoencoder.load(place(folder, world_autoencoder.NAME)),
        text_encoder=world_clip.text_encoder(place(folder, world_clip.NAME)),
        tokenizer=captions_tokenizer.tokenizer(),
        unet=load(folder),
        scheduler=world_diffusion.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def write_pipeline(target: Path, folder: Path = FOLDER) -> None:
    """Writes the model into a folder laid out as Stable Diffusion's are, in float32. Raises OSError."""
    pipeline(folder).save_pretrained(target)
    captions_tokenizer.write(target / "tokenizer")  # the files by which releases of transformers before 5 know it


@torch.no_grad()
def sample(
    made_by: Any,
    prompts: Sequence[str],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    device: str = "cpu",
    batch: int = 50,
) -> Iterator[Tensor]:
    """Batches of pictures uint8 (N, 3, 64, 64), one a prompt."""
    generator = torch.Generator(device).manual_seed(seed)
    made_by = made_by.to(device)
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        found = made_by(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="pt"
        ).images
        yield to_uint8(found.float().cpu() * 2 - 1)


def make(
    folder: Path, work: Path, device: str, kimg: float = KIMG, samples: int = 1000, tell: Tell | None = None
) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`.

    Text encoder and autoencoder are those of `folder`, or, where it has none, the zoo's own.
    """
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=200, log_every=20)
    autoencoder = world_autoencoder.load(place(folder, world_autoencoder.NAME))
    encoder = world_clip.text_encoder(place(folder, world_clip.NAME))
    parts = {name: entries.read_card(name, place(folder, name))["sha256"] for name in PARTS}
    latents = _latents(autoencoder, work, parts[world_autoencoder.NAME], device)
    shown = animals(world_clip.SEED, range(PICTURES))
    trained = train(
        lambda: world_diffusion.Training(schedule.iterations, encoder, autoencoder.config.scaling_factor, device),
        Pairs(latents, shown, BATCH, SEED, captions_tokenizer.LENGTH, EMPTY),
        work / NAME,
        schedule,
        {"name": NAME, "pictures": PICTURES, "iterations": schedule.iterations, "parts": parts},
        seed=SEED,
        device=device,
        keep="UNet_ema",
        tell=tell or (lambda done, total, doing: None),
    )
    content = {
        "name": NAME,
        "what": "UNet2DConditionModel of diffusers, small, EMA weights in float16; not a published network",
        "pictures": f"{PICTURES} captioned animals of the embedded world at {RESOLUTION} px, seed {world_clip.SEED}, "
        "none of an unusual look",
        **entries.about_training(trained, schedule, BATCH, device),
        "parts": parts,
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    entries.write_card(NAME, folder, {**content, **about_samples(folder, samples, device)})


def about_samples(folder: Path, samples: int, device: str = "cpu") -> dict[str, Any]:
    """What the card says of samples: distances to fresh pictures, whose captions they have, and what they show."""
    made_by = pipeline(folder)
    random = np.random.default_rng(0)
    one, other = (animals(FRESH_SEED + i, range(samples)) for i in range(2))
    made = sample(made_by, [caption(each, random) for each in one], steps=STEPS, device=device)
    found = entries.distances_to(pictures(one), pictures(other), made, samples, device)
    asked = pictured_attributes.prompts(min(CHECKED, samples))
    seen = torch.cat(list(sample(made_by, [text for text, _ in asked], 1, STEPS, device=device)))
    right = pictured_attributes.shares([wanted for _, wanted in asked], seen)
    return {**found, "sampling_steps": STEPS, "guidance": GUIDANCE, "shown_as_asked": right}


def place(folder: Path, name: str) -> Path:
    """Where a part lies: in the folder, or in the zoo."""
    return folder if (folder / f"{name}.json").is_file() else FOLDER


def _latents(autoencoder: Any, work: Path, digest: str, device: str) -> Tensor:
    """Moments of the latents of all pictures, from a file in `work` that is made where it is not there."""
    file = work / f"latents-{world_clip.SEED}-{PICTURES}-{digest[:12]}.npy"
    if not file.is_file():
        shown = rendered(work, world_clip.SEED, PICTURES)
        hidden = file.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(hidden, world_autoencoder.moments(autoencoder.to(device), shown, device).numpy())
        hidden.replace(file)
    return torch.from_numpy(np.load(file, mmap_mode="c"))
