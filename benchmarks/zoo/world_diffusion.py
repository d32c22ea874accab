"""A small conditional U-Net of diffusers, its noise levels and its training, for the zoo's text-to-image model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.benchmarks.zoo import world_autoencoder, world_clip
from gengauge.benchmarks.zoo.captioned_animals import RESOLUTION
from gengauge.benchmarks.zoo.captioned_pairs import bfloat16, set_rate
from gengauge.reference.nets.ema import update_ema

SIDE = RESOLUTION // 4  # of the latents
CHANNELS = (64, 112)
HEADS = 4
LR, WARM_UP, DECAY, CLIP_NORM, EMA = 8e-4, 200, 0.01, 1.0, 0.999
MIN_SNR = 5.0  # Hang et al., ICCV 2023: errors at low noise weigh less, the picture as a whole is learnt sooner


def build() -> Any:
    """The network of diffusers without its training: cross-attention at 16 and at 8 px."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=world_autoencoder.LATENT_CHANNELS,
        out_channels=world_autoencoder.LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * len(CHANNELS),
        up_block_types=("CrossAttnUpBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=world_clip.WIDTH,
        attention_head_dim=HEADS,
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """DDIM over the noise levels of Stable Diffusion."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Training:
    """A U-Net in training on noise, under texts that a frozen encoder reads."""

    def __init__(self, iterations: int, encoder: Any, scaling_factor: float, device: str = "cpu") -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self.iteration, self.iterations, self.factor = 0, iterations, scaling_factor
        self.encoder, self.unet = encoder.to(device), build().to(device)
        self.ema = copy.deepcopy(self.unet).eval().requires_grad_(False)
        if torch.device(device).type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())  # its backward pass takes half the time of the fused one's
        self.networks: Mapping[str, nn.Module] = {"UNet": self.unet, "UNet_ema": self.ema}
        self.optimisers = {"UNet": torch.optim.AdamW(self.unet.parameters(), LR, (0.9, 0.99), weight_decay=DECAY)}
        self.abar = scheduler().alphas_cumprod.to(device)

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        average: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration on means and standard deviations of latents (N, 8, S, S) and the ids (N, 77) of captions."""
        optimiser, device = self.optimisers["UNet"], reals.device
        set_rate(optimiser, LR, self.iteration, self.iterations, WARM_UP)
        mean, std = reals.chunk(2, 1)
        first, noise = torch.randn((2, *mean.shape), device=device, generator=generator)
        t = torch.randint(len(self.abar), (len(mean),), device=device, generator=generator)
        abar = self.abar[t].view(-1, 1, 1, 1)
        noisy = abar.sqrt() * self.factor * (mean + std * first) + (1 - abar).sqrt() * noise
        with bfloat16(device.type):
            with torch.no_grad():
                context = self.encoder(input_ids=labels).last_hidden_state
            found = self.unet(noisy, t, context).sample
        errors = (found.float() - noise).square().mean((1, 2, 3))
        snr = (abar / (1 - abar)).flatten()
        optimiser.zero_grad()
        (errors * (MIN_SNR / snr).clamp(max=1)).mean().backward()
        average(self.unet.parameters())
        nn.utils.clip_grad_norm_(self.unet.parameters(), CLIP_NORM)
        optimiser.step()
        update_ema(self.ema, self.unet, min(EMA, 1 - 1 / (1 + self.iteration / 10)), buffers=False)
        self.iteration += 1
        return {"loss": errors.mean().detach()}
