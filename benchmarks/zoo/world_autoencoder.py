"""`world-autoencoder64`: a small AutoencoderKL of diffusers for captioned animals, 64 px to latents of 16 x 16 x 4.

It learns pictures of unusual looks too: in a latent diffusion model the autoencoder must hold what a concept brings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.benchmarks.zoo import entries
from gengauge.benchmarks.zoo.captioned_animals import RESOLUTION, animals, pictures, rendered
from gengauge.benchmarks.zoo.captioned_pairs import bfloat16, scaled, set_rate
from gengauge.benchmarks.zoo.entries import FOLDER, FRESH_SEED
from gengauge.benchmarks.zoo.world_open_clip import PICTURES, SEED
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.lpips import LPIPS

NAME = "world-autoencoder64"
CHANNELS, LATENT_CHANNELS = (32, 64, 64), 4
BATCH = 16
KIMG = 36
LR, WARM_UP, EMA = 2e-3, 50, 0.998
PERCEPTUAL, KL = 0.3, 3e-4  # weights of the losses beside L1; KL is a mean over the latent's elements
TEST = 500


def build(scaling_factor: float = 1.0) -> Any:
    """The network of diffusers without its training."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        scaling_factor=scaling_factor,
    )


def load(folder: Path = FOLDER) -> Any:
    """The trained autoencoder, in eval mode; its `config.scaling_factor` gives latents a variance of 1.

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = build(card(folder)["scaling_factor"])
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


class Training:
    """An autoencoder in training by L1, LPIPS on AlexNet and a little KL divergence from the normal distribution."""

    def __init__(self, iterations: int, distance: LPIPS, device: str = "cpu") -> None:
        self.iteration, self.iterations, self.distance = 0, iterations, distance
        self.ae = build().to(device)
        self.ema = copy.deepcopy(self.ae).eval().requires_grad_(False)
        self.networks: Mapping[str, nn.Module] = {"AE": self.ae, "AE_ema": self.ema}
        self.optimisers = {"AE": torch.optim.Adam(self.ae.parameters(), LR, (0.9, 0.99))}

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
        """One iteration on pictures (N, 3, H, W) in [-1, 1]; labels are not looked at."""
        optimiser = self.optimisers["AE"]
        set_rate(optimiser, LR, self.iteration, self.iterations, WARM_UP)
        with bfloat16(reals.device.type):
            posterior = self.ae.encode(reals).latent_dist
            made = self.ae.decode(posterior.sample(generator)).sample
            perceptual = self.distance(made, reals).mean()
        absolute = (made.float() - reals).abs().mean()
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        optimiser.zero_grad()
        (absolute + PERCEPTUAL * perceptual + KL * kl).backward()
        average(self.ae.parameters())
        optimiser.step()
        update_ema(self.ema, self.ae, min(EMA, 1 - 1 / (1 + self.iteration / 10)), buffers=False)
        self.iteration += 1
        return {"absolute": absolute.detach(), "perceptual": perceptual.detach().float(), "kl": kl.detach()}


class _Batches:
    """Pictures drawn with replacement, mirrored by chance."""

    def __init__(self, shown: Tensor) -> None:
        self.shown = shown

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            random = np.random.default_rng((SEED, iteration))
            made = scaled(self.shown[torch.from_numpy(random.integers(len(self.shown), size=BATCH))])
            flip = torch.from_numpy(random.random(BATCH) < 0.5).view(-1, 1, 1, 1)
            iteration += 1
            yield torch.where(flip, made.flip(3), made).to(device), torch.zeros(BATCH)


@torch.inference_mode()
def moments(network: Any, shown: Tensor, device: str = "cpu", batch: int = 100) -> Tensor:
    """Mean and standard deviation of the latents of pictures uint8 (N, 3, 64, 64): (N, 8, 16, 16) float16, unscaled."""
    out = []
    for part in shown.split(batch):
        with bfloat16(device):
            found = network.encode(scaled(part).to(device)).latent_dist
        out.append(torch.cat([found.mean, found.std], 1).half().cpu())
    return torch.cat(out)


def make(folder: Path, work: Path, device: str, kimg: float = KIMG, tell: Tell | None = None) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=200, log_every=20)
    distance = load_lpips("alex", device)
    shown = rendered(work, SEED, PICTURES, unusual=True)
    trained = train(
        lambda: Training(schedule.iterations, distance, device),
        _Batches(shown),
        work / NAME,
        schedule,
        {"name": NAME, "pictures": PICTURES, "iterations": schedule.iterations},
        seed=SEED,
        device=device,
        keep="AE_ema",
        tell=tell or (lambda done, total, doing: None),
    )
    network = build().to(device).eval()
    network.load_state_dict(trained.last)
    mean, std = moments(network, shown[:2000], device).float().chunk(2, 1)
    latents = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED))
    content = {
        "name": NAME,
        "what": "AutoencoderKL of diffusers, small, EMA weights in float16; not a published network",
        "pictures": f"{PICTURES} captioned animals of the embedded world at {RESOLUTION} px, seed {SEED}, unusual "
        "looks included",
        **entries.about_training(trained, schedule, BATCH, device),
        "scaling_factor": round(1 / float(latents.std()), 4),
        "means_of_the_latents": [round(float(value), 3) for value in latents.mean((0, 2, 3))],
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    entries.write_card(NAME, folder, {**content, **_about_copies(load(folder).to(device), distance, device)})


@torch.inference_mode()
def _about_copies(network: Any, distance: LPIPS, device: str) -> dict[str, Any]:
    """What the card says of fresh pictures and their decoded latents."""
    psnr, perceptual = [], []
    for part in scaled(pictures(animals(FRESH_SEED, range(TEST), unusual=True))).split(50):
        made = network.decode(network.encode(part.to(device)).latent_dist.mode()).sample.clamp(-1, 1)
        squares = (made - part.to(device)).square().flatten(1).mean(1)
        psnr.append(10 * torch.log10(4 / squares))
        perceptual.append(distance(made, part.to(device)))
    return {
        "test_pictures": TEST,
        "psnr": round(float(torch.cat(psnr).mean()), 2),
        "lpips_alex": round(float(torch.cat(perceptual).mean()), 4),
    }
