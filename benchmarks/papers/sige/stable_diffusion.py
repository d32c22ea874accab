"""The parts of Stable Diffusion v1 that SIGE's tables speak of: its U-Net, and the two halves of its autoencoder.

They work on pictures of 512 x 1024 px, that is on latents of 64 x 128; the U-Net on two at once, for guidance.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gengauge.benchmarks.papers.sige.networks import NETWORKS, Network
from gengauge.reference.nets.latent_diffusion import stable_diffusion_autoencoder, stable_diffusion_unet
from gengauge.reference.sige import masks, policy

PICTURE = (512, 1024)
LATENT = (4, 64, 128)
TEXT = (77, 768)  # tokens and channels


@dataclass(frozen=True)
class LatentNetwork(Network):
    """A network around latents: edits are drawn on pictures of `picture` px (H, W), whatever it works on itself.

    `text` (tokens, channels) is given beside the latent and the time, where there is one.
    """

    picture: tuple[int, int] = PICTURE
    text: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.picture

    @property
    def labels(self) -> bool:
        return False

    def times(self, device: str | torch.device = "cpu") -> tuple[Tensor, ...]:
        times = (torch.zeros(self.images, device=device),) if self.timed else ()
        return (*times, torch.empty(self.images, *self.text, device=device)) if self.text is not None else times


def _unet(_: bool) -> nn.Module:
    return stable_diffusion_unet()


def _half(name: str, _: bool) -> nn.Module:
    return stable_diffusion_autoencoder().get_submodule(name)


# Their masks are those of inpainting, and the encoder's those of editing: inpainting encodes the original alone.
STABLE_DIFFUSION: dict[str, LatentNetwork] = {
    network.key: network
    for network in (
        LatentNetwork(
            "sd-unet",
            "Stable Diffusion U-Net",
            _unet,
            LATENT,
            True,
            policy.stable_diffusion(),
            masks.STABLE_DIFFUSION_INPAINTING,
            "",
            images=2,
            swish_is_product=False,
            text=TEXT,
        ),
        LatentNetwork(
            "sd-decoder",
            "Stable Diffusion decoder",
            partial(_half, "decoder"),
            LATENT,
            False,
            policy.stable_diffusion_autoencoder(),
            masks.STABLE_DIFFUSION_INPAINTING,
            "",
        ),
        LatentNetwork(
            "sd-encoder",
            "Stable Diffusion encoder",
            partial(_half, "encoder"),
            (3, *PICTURE),
            False,
            policy.stable_diffusion_autoencoder(),
            masks.STABLE_DIFFUSION_IMG2IMG,
            "",
        ),
    )
}
# All networks whose operations are counted.
COUNTED: Mapping[str, Network] = ChainMap(NETWORKS, STABLE_DIFFUSION)  # type: ignore[arg-type]
