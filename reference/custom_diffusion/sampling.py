"""DDIM as the latent diffusion code runs it: with eta 1 it is what the paper calls its DDPM sampler.

Source: Song et al. 2021, equation 12; Kumari et al. 2023 sample with 200 steps (50 in section 4.1), eta 1 and a
guidance scale of 6. A network is network(x (N, C, H, W), t (N,)) -> noise as x; `guided_network` of
`reference.sdedit.latent` makes one of a U-Net with classifier-free guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class DDIMSchedule:
    """The steps of a sampling, ascending: all (S,), of float64 but for the times.

    `abar` is the signal's share at a step's time, `abar_before` that at which the step ends, `sigmas` the standard
    deviations of the fresh noise.
    """

    times: Tensor
    abar: Tensor
    abar_before: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.times)


def uniform_schedule(abar: Tensor, steps: int, eta: float = 1.0) -> DDIMSchedule:
    """The published "uniform" times 1, 1 + k, 1 + 2 k, ..., k = T // steps; the last step ends at time 0, not clean.

    Where `steps` does not divide T = len(abar) there are more than `steps`. Raises ValueError for steps that do not fit
    T, and for eta outside [0, 1].
    """
    total = len(abar)
    if not 0 < steps < total:
        raise ValueError(f"{steps} steps do not fit a schedule of {total}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in [0, 1]: 0 adds no noise, 1 is DDPM")
    times = torch.arange(0, total, total // steps) + 1
    if times[-1] >= total:
        raise ValueError(
            f"with {steps} steps the last time is {int(times[-1])} of {total}; take a number that divides it"
        )
    now = abar.double()[times]
    before = torch.cat([abar[:1].double(), now[:-1]])
    return DDIMSchedule(times, now, before, eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt())


@torch.no_grad()
def sample(
    network: Network,
    x: Tensor,
    schedule: DDIMSchedule,
    *,
    noises: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Latents of x (N, C, H, W), noise of variance 1, by all steps from the last: as x.

    `noises` are the draws in order, each as `x`; without them they come from the generator, one a step also where eta
    is 0, as published, so that draws that follow agree. The callback gets a step's number from 0 and the latents.
    Raises ValueError for too few noises, for noises of another shape, and where the network overflows.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"the start is (N, C, H, W) floats, not {x.dtype} {tuple(x.shape)}")
    given = None if noises is None else iter(noises)
    for number, i in enumerate(reversed(range(len(schedule)))):
        now, then, sigma = (float(each[i]) for each in (schedule.abar, schedule.abar_before, schedule.sigmas))
        eps = network(x, torch.full((len(x),), int(schedule.times[i]), device=x.device))
        clean = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        x = math.sqrt(then) * clean + math.sqrt(1 - then - sigma**2) * eps + sigma * _noise(x, given, generator)
        if not bool(torch.isfinite(x).all()):
            raise ValueError(
                f"step {number} gives values that are no finite numbers; is the network in half precision?"
            )
        if callback is not None:
            callback(number, x)
    return x


def with_ddim(pipeline: Any) -> Any:
    """Gives a pipeline of diffusers this sampler, whose step takes eta, and returns the pipeline.

    Stable Diffusion's own scheduler, PNDM, has no eta and says nothing where it is given one. The call is then
    pipeline(..., num_inference_steps=200, guidance_scale=6, eta=1); with a number of steps that divides the schedule's
    its times are those of `uniform_schedule`. Raises ValueError for a scheduler without variances.
    """
    from diffusers import DDIMScheduler

    if getattr(pipeline.scheduler, "betas", None) is None:
        raise ValueError(f"{type(pipeline.scheduler).__name__} has no betas: it is of no variance-preserving diffusion")
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        clip_sample=False,
        thresholding=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        rescale_betas_zero_snr=False,
    )
    return pipeline


def _noise(x: Tensor, given: Any, generator: torch.Generator | None) -> Tensor:
    if given is None:
        device = generator.device if generator is not None else x.device
        return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    noise = next(given, None)
    if noise is None or noise.shape != x.shape:
        raise ValueError(
            f"each step needs a noise {tuple(x.shape)}, not {None if noise is None else tuple(noise.shape)}"
        )
    return noise.to(x)
