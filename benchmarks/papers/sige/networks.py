"""The networks that SIGE's tables speak of, each with its policy, its masks and inputs to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import PlannedNetwork
from gengauge.reference.nets import ddpm_unet, pd_unet, spade
from gengauge.reference.nets.pd_unet import PDConfig, PDUNet
from gengauge.reference.nets.spade import SPADEConfig, SPADEGenerator
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import masks, policy
from gengauge.reference.sige.masks import MaskRecipe
from gengauge.reference.sige.policy import Policy

LABEL_BLOCK = 16  # px, of the random label maps: areas, as real ones have


@dataclass(frozen=True)
class Network:
    """A network by the paper's `name`. `build` makes it, fused or plain; `shape` (C, H, W) is its picture's.

    `timed` ones take a time beside the picture. `policy` is the released one, `shipped` its example. MACs are
    compared with those of `original`, the paper's "Original" network. A pass is of `images` pictures at once. The dense
    network's swish is counted where the published code writes it as a product.
    """

    key: str
    name: str
    build: Callable[[bool], nn.Module]
    shape: tuple[int, int, int]
    timed: bool
    policy: Policy
    recipe: MaskRecipe
    shipped: str
    sparse_method: str = "SIGE"
    original: str = ""
    images: int = 1
    swish_is_product: bool = True

    def policy_from(self, threshold: int) -> Policy:
        """The policy with tiles from `threshold` px up. Raises ValueError for a network that counts layers instead."""
        makers = {"ddpm": policy.ddpm, "progressive": policy.progressive_distillation}
        maker = makers.get(self.policy.name.split()[0])
        if maker is None:
            raise ValueError(f"the policy of {self.name} has no threshold")
        return maker(threshold)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures that edits are drawn on."""
        return self.shape[1:]

    @property
    def labels(self) -> bool:
        """Whether its picture is a map of labels."""
        return not self.timed

    def times(self, device: str | torch.device = "cpu") -> tuple[Tensor, ...]:
        """The inputs beside the picture."""
        return (torch.zeros(1, device=device),) if self.timed else ()

    def example(self, device: str | torch.device = "cpu") -> tuple[Tensor, ...]:
        """Inputs of the right shapes, in memory that nobody wrote: the picture and what stands beside it."""
        return (torch.empty(self.images, *self.shape, device=device), *self.times(device))

    def original_input(self, generator: torch.Generator) -> Tensor:
        """A random picture (1, C, H, W): noise, or one-hot labels in blocks without edges."""
        channels, height, width = self.shape
        if not self.labels:
            return torch.rand(1, channels, height, width, generator=generator) * 2 - 1
        blocks = -(-height // LABEL_BLOCK), -(-width // LABEL_BLOCK)
        labels = torch.randint(channels - 1, blocks, generator=generator)
        labels = labels.repeat_interleave(LABEL_BLOCK, 0).repeat_interleave(LABEL_BLOCK, 1)[:height, :width]
        return nn.functional.one_hot(labels, channels).permute(2, 0, 1)[None].float().contiguous()

    def edited_input(self, original: Tensor, mask: Tensor) -> Tensor:
        """The original, changed in every pixel of the mask (H, W) and nowhere else."""
        if self.labels:  # the next label; the last channel is that of edges
            changed = torch.cat([original[:, :-1].roll(1, 1), original[:, -1:]], 1)
        else:
            changed = original - torch.where(original > 0, 0.5, -0.5)
        return torch.where(mask.to(original.device), changed, original).contiguous()

    def planned(self, fused: bool = True) -> PlannedNetwork:
        """For `--dry-run`."""
        return PlannedNetwork(self.name, lambda: self.build(fused).eval(), lambda: self.example("meta"))


def _ddpm(config: UNetConfig, fused: bool) -> nn.Module:
    return ddpm_unet.DDPMUNet(config, fused=fused)


def _distilled(config: PDConfig, fused: bool) -> nn.Module:
    return PDUNet(config)  # published in one form


def _spade(config: SPADEConfig, fused: bool) -> nn.Module:
    return SPADEGenerator(config, fused=fused)


NETWORKS = {
    network.key: network
    for network in (
        Network(
            "ddpm-256",
            "DDPM 256",
            partial(_ddpm, ddpm_unet.CHURCH_256),
            (3, 256, 256),
            True,
            policy.ddpm(),
            masks.DDPM,
            "church-256-eps-0.01",
        ),
        Network(
            "pd-128",
            "Progressive Distillation 128",
            partial(_distilled, pd_unet.CHURCH_128),
            (3, 128, 128),
            True,
            policy.progressive_distillation(),
            masks.PROGRESSIVE_DISTILLATION,
            "church-128-eps-0.02",
        ),
        Network(
            "pd-256",
            "Progressive Distillation 256",
            partial(_distilled, pd_unet.CHURCH_256),
            (3, 256, 256),
            True,
            policy.progressive_distillation(),
            masks.PROGRESSIVE_DISTILLATION,
            "church-256-eps-0.02",
        ),
        Network(
            "gaugan",
            "GauGAN",
            partial(_spade, spade.CITYSCAPES),
            (36, 256, 512),
            False,
            policy.spade(5),
            masks.GAUGAN,
            "cityscapes",
        ),
        Network(
            "gan-compression",
            "GAN Compression",
            partial(_spade, spade.CITYSCAPES_MOBILE),
            (36, 256, 512),
            False,
            policy.spade(4),
            masks.GAUGAN,
            "cityscapes",
            "GAN Compression + SIGE",
            "gaugan",
        ),
    )
}
