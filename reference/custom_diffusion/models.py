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
    latents are multiplied by `scaling_factor`; `abar` (T,) is the schedule's share of signal. `text_encoder_2` is for
    SDXL, a CLIPTextModelWithProjection. Raises ValueError for another prediction, and for a second encoder alone.
    """

    unet: Any
    text_encoder: Any = None
    vae: Any = None
    abar: Tensor = field(default_factory=scaled_linear_abar)
    scaling_factor: float = SD_SCALING
    prediction: Prediction = "epsilon"
    text_encoder_2: Any = None

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"predictions are {' or '.join(get_args(Prediction))}, not {self.prediction!r}")
        if self.text_encoder_2 is not None and self.text_encoder is None:
            raise ValueError("a model with a second text encoder has a first: SDXL's refiner, without, is not trained")

    @property
    def text_encoders(self) -> dict[str, Any]:
        """The text encoders that there are, by name."""
        found = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def parts(self) -> dict[str, nn.Module]:
        """The networks that there are, by name."""
        found = {"unet": self.unet, **self.text_encoders, "vae": self.vae}
        return {name: network for name, network in found.items() if network is not None}


def of_pipeline(pipeline: Any) -> Models:
    """The models of a StableDiffusionPipeline of diffusers, or one of XL, which are shared, not copied.

    Of the scheduler only its schedule counts. Raises ValueError for a scheduler without a table `alphas_cumprod`, and
    as `Models`.
    """
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
        getattr(pipeline, "text_encoder_2", None),
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
