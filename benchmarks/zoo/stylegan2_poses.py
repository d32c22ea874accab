"""`stylegan2-poses64`: a StyleGAN2 generator of cats in all poses at 64 px, for GANgealing and GAN Warping.

Not a published network, and not made by a game against a discriminator, which on a few processor cores leaves pictures
too poor to align: it is taught, by regression, the pictures that its latents name (see `posed_cats`). Half of the
lessons mix two latents as style mixing does, so that its first layers hold pose and shape, its last ones colours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.training.loop import Schedule, Tell, step_seed, train
from gengauge.benchmarks.zoo import entries, posed_cats
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.benchmarks.zoo.stylegan2_cat import sample
from gengauge.datasets import world
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.stylegan2 import rosinality
from gengauge.reference.nets.stylegan2.generator import Generator
from gengauge.reference.nets.stylegan2.layers import MappingNetwork

NAME = "stylegan2-poses64"
RESOLUTION = posed_cats.RESOLUTION
SEED = 0
BATCH = 16
KIMG = 144
W_DIM = 128
SYNTHESIS = {"channel_base": 1024, "channel_max": 128}
INJECT = 5  # layers from the first on that hold a cat's layout, GANgealing's own default
LR = 1e-2
MAPPING_LR = 0.3  # its weights are stored a hundred times as large as they act
DECAYED = 0.4  # of the training, at its end, in which the rate falls evenly to 0
EMA = 0.995
SQUARE, PERCEPTUAL = 4.0, 0.3  # weights of the two losses
# Poses spread out while the training goes on, for a network that sees all at once only learns their blur.
SPREAD_FROM, SPREAD_OVER = 0.1, 0.25  # of the training


def load(folder: Path = FOLDER) -> Generator:
    """The trained generator, in eval mode: latents (N, 32) to cats (N, 3, 64, 64) in about [-1, 1].

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = build()
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.eval().requires_grad_(False)


def aligned_form(folder: Path = FOLDER) -> rosinality.Generator:
    """The same under the names that GANgealing's training takes."""
    return rosinality.from_generator(load(folder)).eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


class Teaching:
    """A generator taught pictures by their latents: square error and LPIPS on AlexNet.

    Its mapping is taught first, alone, and stays: to find out by pixels what a latent names would take far longer.
    """

    def __init__(self, iterations: int, distance: LPIPS, device: str = "cpu") -> None:
        self.iteration, self.iterations, self.distance = 0, iterations, distance
        self.g = build()
        teach_mapping(self.g.mapping)
        self.g.to(device)
        self.ema = copy.deepcopy(self.g).eval().requires_grad_(False)
        self.networks: Mapping[str, nn.Module] = {"G": self.g, "G_ema": self.ema}
        self.optimisers = {"G": torch.optim.Adam(self.g.synthesis.parameters(), LR, (0.9, 0.99))}

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
        """One iteration on pictures (N, 3, R, R) in [-1, 1], `labels` (2, N, 32) being latents of layout and look."""
        optimiser = self.optimisers["G"]
        left = (self.iterations - self.iteration) / (DECAYED * self.iterations)
        for group in optimiser.param_groups:
            group["lr"] = LR * min(1.0, left)
        with torch.no_grad():
            layout, look = (self.ema.mapping(z, None) for z in labels)
        with torch.autocast(reals.device.type, torch.bfloat16):
            made = self.g.synthesis(torch.cat([layout[:, :INJECT], look[:, INJECT:]], 1), "random", None, generator)
            perceptual = self.distance(made, reals).mean()
        square = (made.float() - reals).square().mean()
        optimiser.zero_grad()
        (SQUARE * square + PERCEPTUAL * perceptual).backward()
        average(self.g.synthesis.parameters())
        optimiser.step()
        update_ema(self.ema, self.g, min(EMA, 1 - 1 / (1 + self.iteration / 10)), buffers=False)
        self.iteration += 1
        return {"square": square.detach(), "perceptual": perceptual.detach().float()}


class Lessons:
    """Pictures of latents, drawn ahead: half of them have the layout of one latent and the look of another."""

    def __init__(self, iterations: int) -> None:
        self.wide_from = max(1.0, SPREAD_OVER * iterations)

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._draw, iteration)
            while True:
                pictures, latents = ahead.result()
                iteration += 1
                ahead = pool.submit(self._draw, iteration)
                yield pictures.to(device), latents.to(device)

    def _draw(self, iteration: int) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(step_seed(SEED, 1, iteration))  # with 0 the step's noise
        layout, other = torch.randn(2, BATCH, posed_cats.Z_DIM, generator=random)
        look = torch.where(torch.arange(BATCH)[:, None] % 2 == 0, other, layout)
        spread = min(1.0, SPREAD_FROM + (1 - SPREAD_FROM) * iteration / self.wide_from)
        made = world.render(posed_cats.named_by(layout, look, spread), RESOLUTION).images
        return made, torch.stack([layout, look])


def make(
    folder: Path, work: Path, device: str, kimg: float = KIMG, samples: int = 1000, tell: Tell | None = None
) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=500, log_every=50)
    distance = load_lpips("alex", device)
    trained = train(
        lambda: Teaching(schedule.iterations, distance, device),
        Lessons(schedule.iterations),
        work,
        schedule,
        {"name": NAME, "iterations": schedule.iterations},
        seed=SEED,
        device=device,
        tell=tell or (lambda done, total, doing: None),
    )
    content = {
        "name": NAME,
        "what": "StyleGAN2 generator of this project, taught by regression and not against a discriminator, EMA "
        "weights in float16; not a published network",
        "pictures": f"cats of the embedded world in all poses at {RESOLUTION} px, drawn anew for every lesson, "
        f"seed {SEED}; of one expression, eye colour and light, while those of the distances have many",
        **entries.about_training(trained, schedule, BATCH, device),
        "parameters": sum(parameter.numel() for parameter in build().parameters()),
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    fresh = [posed_cats.pictures(entries.FRESH_SEED + i, range(samples), RESOLUTION) for i in range(2)]
    found = entries.distances_to(fresh[0], fresh[1], sample(load(folder), samples, device), samples, device)
    entries.write_card(NAME, folder, {**content, **found})


def teach_mapping(mapping: MappingNetwork, iterations: int = 3000, batch: int = 256) -> None:
    """Teaches a mapping to hold what latents name, to be read off w by a linear layer that is not kept."""
    random = torch.Generator().manual_seed(SEED)
    wanted = posed_cats.attributes(torch.randn(1, posed_cats.Z_DIM))
    read = nn.Linear(W_DIM, wanted.shape[1])
    rates = {MAPPING_LR: mapping.parameters(), LR: read.parameters()}
    optimiser = torch.optim.Adam([{"params": list(of), "lr": rate} for rate, of in rates.items()])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, iterations)
    for _ in range(iterations):
        z = torch.randn(batch, posed_cats.Z_DIM, generator=random)
        loss = (read(mapping(z, None)[:, 0]) - posed_cats.attributes(z)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()


def build() -> Generator:
    return Generator(
        z_dim=posed_cats.Z_DIM,
        w_dim=W_DIM,
        img_resolution=RESOLUTION,
        mapping_kwargs={"num_layers": 3},
        synthesis_kwargs=SYNTHESIS,
    )
