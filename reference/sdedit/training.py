"""Training the prior: noise estimation as in DDPM and DDIM. SDEdit itself trains nothing.

(Ho et al. 2020, equation 14, with the released code of DDIM: Adam, clipped gradients, an average without warm-up.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gengauge.reference.nets.ddpm_unet import CHURCH_256, DDPMUNet
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sdedit.schedule import DDPM, VPSchedule

Average = Callable[[Iterable[nn.Parameter]], None]


@dataclass(frozen=True)
class Recipe:
    """How a prior is trained; the defaults are those of the LSUN networks at 256 px, which were not clipped.

    `clip` is the largest norm of the gradient, or None. With `bfloat16` the network's convolutions and products run in
    that type; weights, averages and the loss stay in float32.
    """

    network: UNetConfig = CHURCH_256
    batch: int = 64
    lr: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    clip: float | None = None
    ema: float = 0.999
    bfloat16: bool = False
    schedule: VPSchedule = DDPM


def draw_times(count: int, steps: int, generator: torch.Generator | None, device: str | torch.device) -> Tensor:
    """Times (count,) int64 of one iteration, antithetic: half of them and one drawn, the others mirrored."""
    half = torch.randint(0, steps, (count // 2 + 1,), generator=generator, device=device)
    return antithetic(half, steps)[:count]


def antithetic(half: Tensor, steps: int) -> Tensor:
    """Times (n,) and after them their mirror images."""
    return torch.cat([half, steps - 1 - half])


def noise_loss(network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, e: Tensor, abar: Tensor) -> Tensor:
    """The squared error of the noise, summed over a picture (Ho et al. 2020, equation 14), mean of the batch.

    x0 (N, C, H, W) in [-1, 1], t (N,) int64 from 0, e as x0, abar (T,) the schedule's.
    """
    kept = abar[t].view(-1, 1, 1, 1)
    x = x0 * kept.sqrt() + e * (1 - kept).sqrt()
    return (e - network(x, t.float()).float()).square().sum((1, 2, 3)).mean()


class Training:
    """A noise network in training, with its average `ema` and its optimiser; `step` makes one published iteration."""

    def __init__(
        self,
        recipe: Recipe,
        device: str = "cpu",
        network: nn.Module | None = None,
        processes: int = 1,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.batch = recipe.batch // processes
        network = network or DDPMUNet(recipe.network)
        self.networks = {"network": network, "ema": copy.deepcopy(network).requires_grad_(False)}
        for part in self.networks.values():
            part.to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
        adam = torch.optim.Adam(network.parameters(), recipe.lr, recipe.betas, recipe.adam_eps, fused=True)
        self.optimisers = {"network": adam}
        self.abar = recipe.schedule.abar.to(device)

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: tuple[Tensor, Tensor] | None = None,
        average: Average = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration on pictures (batch, C, H, W) in [-1, 1]; labels are not looked at.

        `draws`: times (batch,) int64 and noises as the pictures; without them they come from the generator. `average`
        is called on the gradients, for several processes. Returns the loss and the gradient's norm before it is cut.
        """
        network, ema = self.networks.values()
        if draws is None:
            times = draw_times(len(reals), len(self.abar), generator, self.device)
            draws = times, torch.randn(reals.shape, generator=generator, device=self.device)
        t, e = draws
        self.optimisers["network"].zero_grad()
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.recipe.bfloat16):
            loss = noise_loss(network, reals, t, e, self.abar)
        loss.backward()
        average(network.parameters())
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.recipe.clip or float("inf"))
        self.optimisers["network"].step()
        update_ema(ema, network, self.recipe.ema)
        self.iteration += 1
        return {"loss": loss.detach(), "gradient_norm": norm}
