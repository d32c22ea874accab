"""The published networks of SIGE with their weights, in the fused form, from either form of the published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gengauge.datasets import weights
from gengauge.reference.nets import ddpm_unet, spade
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.published import fit_running_statistics, published_state
from gengauge.reference.nets.spade import SPADEGenerator


@dataclass(frozen=True)
class Published:
    """Where a network's weights are: `keys` of the plain file and, where there is one, of the fused one.

    `ema`: the file holds averaged weights too, and those are used.
    """

    keys: tuple[str, ...]
    ema: bool = False

    @property
    def found(self) -> str:
        """The key whose file is on this machine, else the first."""
        return next((key for key in self.keys if weights.find(key) is not None), self.keys[0])


PUBLISHED = {
    "ddpm-256": Published(("sige-church256-ddpm", "sige-church256-ddpm-fused"), ema=True),
    "pd-128": Published(("sige-church128-pd",)),
    "gaugan": Published(("sige-spade", "sige-spade-fused")),
    "gan-compression": Published(("sige-gancomp", "sige-gancomp-fused")),
}


def load_published(network: nn.Module, published: Published) -> nn.Module:
    """`network`, in its fused form, with the published weights, in evaluation mode.

    Raises WeightsNotFound, and ValueError for a file of another network.
    """
    load_tensors(network, weights.load(published.found), published.ema)
    return network.eval().requires_grad_(False)


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], ema: bool) -> None:
    """Puts a published file's tensors, of the fused or the plain form, into a network. Raises ValueError."""
    try:
        state = published_state(tensors, network, ema)
    except ValueError as error:
        plain = _plain(network)
        if plain is None:
            raise
        try:
            state = _fused(network, published_state(tensors, plain, ema))
        except ValueError as second:
            raise ValueError(f"{error}; nor of its plain form: {second}") from None
    network.load_state_dict(fit_running_statistics(state, network))


def _plain(network: nn.Module) -> nn.Module | None:
    if isinstance(network, DDPMUNet):
        return DDPMUNet(network.config, fused=False)
    return SPADEGenerator(network.config, fused=False) if isinstance(network, SPADEGenerator) else None


def _fused(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(network, DDPMUNet):
        return ddpm_unet.fuse(state, network.config)
    assert isinstance(network, SPADEGenerator)
    return spade.fuse(state, network.config)
