"""The priors that experiments edit with, by key: the zoo's, the exact one of a picture set, or a published network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Need, PlannedNetwork
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.sdedit.loading import PUBLISHED, load_published
from gengauge.benchmarks.zoo import ddpm_cat
from gengauge.datasets import weights, world
from gengauge.reference.nets.ddpm_unet import CHURCH_256, DDPMUNet
from gengauge.reference.nets.ncsnpp import FACES_256, NCSNpp
from gengauge.reference.sdedit.editing import Network
from gengauge.reference.sdedit.exact import ExactDenoiser

EXACT_PICTURES = 2000


@dataclass(frozen=True)
class Prior:
    """A prior of the table's data. `weights` are keys of the same network from several places; the first found serves.

    Where none is found a person is told how to get the first.

    A `score` one is variance-exploding: it tells the score of pictures in [0, 1] at a noise level. The others tell the
    noise of pictures in [-1, 1] at a step of 1,000.
    """

    name: str
    resolution: int
    weights: tuple[str, ...] = ()
    score: bool = False
    build: Callable[[], nn.Module] | None = None

    @property
    def found(self) -> str:
        """The key whose file is on this machine, else the first."""
        return next((key for key in self.weights if weights.find(key) is not None), self.weights[0])

    def load(self, device: str) -> Network:
        """The network on a device. Raises WeightsNotFound, and ValueError for a file of another network."""
        if self is ZOO:
            return ddpm_cat.load().to(device)
        if self is EXACT:
            return exact_denoiser(device)
        network = load_published(self.found).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.requires_grad_(False)

    def planned(self) -> tuple[PlannedNetwork, ...]:
        """For `--dry-run`."""
        if self.build is None:
            return ()

        def inputs() -> tuple[Tensor, Tensor]:
            return torch.empty(1, 3, self.resolution, self.resolution), torch.ones(1)

        return (PlannedNetwork(self.name, lambda: self.build().eval(), inputs),)  # type: ignore[misc]

    def needs(self) -> tuple[Need, ...]:
        """The weights, where there are any."""
        return (weights_need(self.found),) if self.weights else ()


def exact_denoiser(device: str) -> ExactDenoiser:
    """The exact denoiser of pictures that the zoo's prior was trained on."""
    pictures = world.pictures(ddpm_cat.SEED, range(EXACT_PICTURES), ddpm_cat.RESOLUTION, species=ddpm_cat.SPECIES)
    return ExactDenoiser(pictures.to(device).float() / 127.5 - 1)


def _ddpm(key: str, what: str) -> Prior:
    # SDEdit's own files are no longer to be had.
    keys = (f"ddim-{key}", f"sdedit-{key}", f"ddpm-ema-{key}-256")
    return Prior(
        f"DDPM U-Net, {what}", 256, tuple(k for k in keys if k in PUBLISHED), build=lambda: DDPMUNet(CHURCH_256)
    )


ZOO = Prior("small DDPM U-Net, cats", ddpm_cat.RESOLUTION, build=lambda: DDPMUNet(ddpm_cat.CONFIG))
EXACT = Prior(f"exact denoiser of {EXACT_PICTURES} cats", ddpm_cat.RESOLUTION)
PRIORS = {
    "zoo": ZOO,
    "exact": EXACT,
    "church": _ddpm("church", "LSUN churches"),
    "bedroom": _ddpm("bedroom", "LSUN bedrooms"),
    "faces": Prior("NCSN++, FFHQ", 256, ("ncsnpp-ffhq-256",), score=True, build=lambda: NCSNpp(FACES_256)),
}
