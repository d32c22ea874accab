"""The networks of a text-to-image latent diffusion model, as a training and the files need them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from gengauge.reference.custom_diffusion.losses import Prediction, scaled_linear_abar

SD_SCALING = 0.18215


@dataclass(frozen=True)
class Models:
    """A U-Net of diffusers with what surrounds it; what is cached elsewhere may be None.

    `text_encoder` maps ids (N, L) to features (N, L, D) as the first of its outputs; `vae` is an AutoencoderKL, whose
    latents are multiplied by `scaling_factor`; `abar` (T,) is the schedule's share of signal. Raises ValueError for
    another prediction.
    """

    unet: Any
    text_encoder: Any = None
    vae: Any = None
    abar: Tensor = field(default_factory=scaled_linear_abar)
    scaling_factor: float = SD_SCALING
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"predictions are {' or '.join(get_args(Prediction))}, not {self.prediction!r}")

    def parts(self) -> dict[str, nn.Module]:
        """The networks that there are, by name."""
        found = {"unet": self.unet, "text_encoder": self.text_encoder, "vae": self.vae}
        return {name: network for name, network in found.items() if network is not None}


def of_pipeline(pipeline: Any) -> Models:
    """The models of a StableDiffusionPipeline of diffusers, which are shared, not copied.

    Of the scheduler only its schedule counts. Raises ValueError for a scheduler without a table `alphas_cumprod`, for
    another prediction, and for pipelines with a second text encoder, whose U-Nets are told more than text.
    """
    if getattr(pipeline, "text_encoder_2", None) is not None:
        raise ValueError("a model with two text encoders (SDXL) is not trained here: take one of SD 1 or SD 2")
    scheduler = pipeline.scheduler
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise ValueError(f"{type(scheduler).__name__} has no table alphas_cumprod: give the pipeline a DDIMScheduler")
    return Models(
        pipeline.unet,
        pipeline.text_encoder,
        pipeline.vae,
        scheduler.alphas_cumprod.float(),
        float(pipeline.vae.config.scaling_factor),
        scheduler.config.get("prediction_type", "epsilon"),
    )


@torch.no_grad()
def moments_of(vae: Any, pictures: Tensor) -> Tensor:
    """The posterior of pictures (N, 3, H, W) in [-1, 1]: mean and log variance (N, 2 C, h, w), as a cache holds it."""
    posterior = vae.encode(pictures).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], 1)


def latents_of(moments: Tensor, noise: Tensor, scaling_factor: float = SD_SCALING) -> Tensor:
    """Scaled latents (N, C, h, w) drawn from posteriors (N, 2 C, h, w) by noise like them."""
    mean, logvar = moments.chunk(2, 1)
    return (mean + (0.5 * logvar.clamp(-30.0, 20.0)).exp() * noise) * scaling_factor
