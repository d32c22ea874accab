"""The samplers of SIGE's diffusion benchmarks, which change a picture inside a mask only.

Source: Li et al. 2022 with the `diffusion` benchmark of its code; they start, as SDEdit does, from a noised picture. A
batch is the edited picture (1, C, H, W) or the pair (original, edited) of (2, C, H, W); the network gets it whole, with
the time of every picture (B,) float32. `paired` makes such a network of one that works on one picture after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
LOG_SNR_LIMITS = (-20.0, 20.0)


@dataclass(frozen=True, eq=False)
class Edit:
    """What a sampling holds: outside of `mask` bool (H, W) the picture stays the `original` (1, C, H, W).

    `noise` (1, C, H, W) is the one that the start was made with; the original is noised with it anew at every step.
    """

    original: Tensor
    noise: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.original.shape)
        if len(shape) != 4 or shape[0] != 1 or self.noise.shape != shape:
            raise ValueError(f"original and noise are (1, C, H, W), not {shape} and {tuple(self.noise.shape)}")
        if self.mask.dtype != torch.bool or self.mask.shape != shape[2:]:
            raise ValueError(f"the mask is bool {shape[2:]}, not {self.mask.dtype} {tuple(self.mask.shape)}")


@dataclass(frozen=True, eq=False)
class Step:
    """What a callback gets after a step: its number from 0, its time, the batch, and the network's clean pictures."""

    index: int
    t: int
    x: Tensor
    clean: Tensor


Callback = Callable[[Step], None]


def paired(full: Network, sparse: Network) -> Network:
    """A network of pairs: `full` on the original, which fills its caches, then `sparse` on the edited picture."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([full(x[:1], t[:1]), sparse(x[1:], t[1:])])

    return network


def linear_betas(count: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """The published noise variances, float32 (count,)."""
    return torch.linspace(first, last, count, dtype=torch.float64).float()


def uniform_times(noise_level: int, steps: int) -> list[int]:
    """The published times, ascending: 0, s, 2 s, ... below `noise_level`, with s = noise_level // steps.

    Where `steps` does not divide the level there are more than `steps`. Raises ValueError where s would be 0.
    """
    if not 0 < steps <= noise_level:
        raise ValueError(f"{steps} steps do not fit a noise level of {noise_level}")
    return list(range(0, noise_level, noise_level // steps))


def diffuse(x0: Tensor, t: int, noise: Tensor, betas: Tensor) -> Tensor:
    """Pictures noised to time t: sqrt(abar) x0 + sqrt(1 - abar) noise; t = -1 gives `x0`."""
    kept = _signal_share(betas, t)
    return math.sqrt(kept) * x0 + math.sqrt(1 - kept) * noise


def diffuse_distilled(x0: Tensor, t: int, noise: Tensor, total_steps: int = 8) -> Tensor:
    """Pictures noised to step t of `total_steps` of the cosine schedule."""
    alpha, sigma = _alpha_sigma(cosine_log_snr((t + 1) / total_steps))
    return alpha * x0 + sigma * noise


def cosine_log_snr(u: float) -> float:
    """The log signal-to-noise ratio at u in [0, 1] of the cosine schedule, 20 at 0 and -20 at 1 (Salimans and Ho 2022).

    Raises ValueError for another u.
    """
    if not 0 <= u <= 1:
        raise ValueError(f"the schedule has no place {u} outside 0..1: are there more steps than its total?")
    low, high = LOG_SNR_LIMITS
    offset = math.atan(math.exp(-0.5 * high))
    scale = math.atan(math.exp(-0.5 * low)) - offset
    return -2 * math.log(math.tan(scale * u + offset))


@torch.no_grad()
def sample_ddim(
    network: Network,
    x: Tensor,
    times: Sequence[int],
    betas: Tensor,
    edit: Edit | None = None,
    *,
    eta: float = 0.0,
    noises: Sequence[Tensor] | Tensor | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, equation 12) from `x` (B, C, H, W) at the last of the ascending `times` to a picture.

    The network gives the noise. `noises` are the draws of the steps, each as `x`; without them they come from the
    generator. One is drawn a step also where `eta` is 0, as in the published code, so that draws that follow agree.
    """
    for index, (t, following) in enumerate(_steps(times)):
        now, then = _signal_share(betas, t), _signal_share(betas, following)
        eps = network(x, _time(x, t))
        clean = (x - eps * math.sqrt(1 - now)) / math.sqrt(now)
        fresh = eta * math.sqrt((1 - now / then) * (1 - then) / (1 - now))
        x = math.sqrt(then) * clean + math.sqrt(1 - then - fresh**2) * eps
        x = x + fresh * _noise(x, index, noises, generator)
        x = _hold(x, edit, following, partial(diffuse, betas=betas))
        _report(callback, index, t, x, clean)
    return x


@torch.no_grad()
def sample_ddpm(
    network: Network,
    x: Tensor,
    times: Sequence[int],
    betas: Tensor,
    edit: Edit | None = None,
    *,
    noises: Sequence[Tensor] | Tensor | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DDPM (Ho et al. 2020, algorithm 2 and equation 7) with its larger variance, beta, and clean pictures clamped.

    Arguments as of `sample_ddim`. A noise is drawn at every step; that of t = 0 is not used.
    """
    for index, (t, following) in enumerate(_steps(times)):
        now, then = _signal_share(betas, t), _signal_share(betas, following)
        beta = 1 - now / then
        eps = network(x, _time(x, t))
        clean = ((x - eps * math.sqrt(1 - now)) / math.sqrt(now)).clamp(-1, 1)
        x = (math.sqrt(then) * beta * clean + math.sqrt(1 - beta) * (1 - then) * x) / (1 - now)
        noise = _noise(x, index, noises, generator)
        x = x + math.sqrt(beta) * noise if t else x
        x = _hold(x, edit, following, partial(diffuse, betas=betas))
        _report(callback, index, t, x, clean)
    return x


@torch.no_grad()
def sample_dpm_solver(
    network: Network,
    x: Tensor,
    times: Sequence[int],
    betas: Tensor,
    edit: Edit | None = None,
    *,
    aligned: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++ (Lu et al. 2022, algorithm 2): second order from two steps; the first step is of first order.

    So is the last one of fewer than ten. Arguments as of `sample_ddim`. In the published code the solver takes the
    noise level of time t + 1 where network and pictures have that of t, and so ends at the level of time 0; `aligned`
    gives it their level, and its end at no noise.
    """
    log_alphas = _clipped_log_alphas(betas)
    previous, h_before = None, math.nan
    for index, (t, following) in enumerate(_steps(times)):
        kept = _signal_share(betas, t)
        clean = (x - network(x, _time(x, t)) * math.sqrt(1 - kept)) / math.sqrt(kept)
        _, sigma, half_snr = _solver_level(betas, log_alphas, t, aligned)
        alpha_then, sigma_then, half_snr_then = _solver_level(betas, log_alphas, following, aligned)
        h = half_snr_then - half_snr
        final = following == -1 and (aligned or len(times) < 10)
        ahead = clean if previous is None or final else clean + 0.5 * (h / h_before) * (clean - previous)
        x = sigma_then / sigma * x - alpha_then * math.expm1(-h) * ahead
        x = _hold(x, edit, following, partial(diffuse, betas=betas))
        _report(callback, index, t, x, clean)
        previous, h_before = clean, h
    return x


@torch.no_grad()
def sample_distilled(
    network: Network,
    x: Tensor,
    times: Sequence[int],
    total_steps: int = 8,
    edit: Edit | None = None,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Progressive Distillation's steps, DDIM on the cosine schedule (Salimans and Ho 2022, appendix B).

    `times` are ascending steps of 0..total_steps - 1. The network gets the log signal-to-noise ratio as its time and
    gives (B, 2 C, H, W): the clean picture, then the noise. Both tell the clean picture; the weight of the first is the
    share of noise. The last step returns it as it is.
    """
    for index, (t, following) in enumerate(_steps(times)):
        log_snr = cosine_log_snr((t + 1) / total_steps)
        alpha, sigma = _alpha_sigma(log_snr)
        alpha_then, sigma_then = _alpha_sigma(cosine_log_snr((following + 1) / total_steps))
        direct, eps = network(x, _time(x, log_snr)).chunk(2, 1)
        clean = (sigma**2 * direct + alpha**2 * (x - sigma * eps) / alpha).clamp(-1, 1)
        x = clean if t == 0 else alpha_then * clean + sigma_then * (x - alpha * clean) / sigma
        x = _hold(x, edit, following, partial(diffuse_distilled, total_steps=total_steps))
        _report(callback, index, t, x, clean)
    return x


def _steps(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each time, from the last, with the one that follows it; -1 stands for the end. Raises ValueError."""
    times = [int(t) for t in times]
    if not times or times[0] < 0 or any(a >= b for a, b in pairwise(times)):
        raise ValueError(f"times must ascend from 0 or above: {times}")
    return zip(reversed(times), reversed([-1, *times[:-1]]), strict=True)


def _hold(x: Tensor, edit: Edit | None, t: int, noised: Callable[[Tensor, int, Tensor], Tensor]) -> Tensor:
    """The batch with the original's pixels of time t outside of the mask; in a pair the original is wholly replaced."""
    if edit is None:
        return x
    original = noised(edit.original, t, edit.noise).to(x.dtype)
    held = torch.where(edit.mask, x[-1:], original)
    return held if len(x) == 1 else torch.cat([original, held])


def _report(callback: Callback | None, index: int, t: int, x: Tensor, clean: Tensor) -> None:
    if callback is not None:
        callback(Step(index, t, x, clean))


def _time(x: Tensor, t: float) -> Tensor:
    if x.ndim != 4 or len(x) not in (1, 2):
        raise ValueError(f"a batch is (1, C, H, W) or a pair (2, C, H, W), not {tuple(x.shape)}")
    return torch.full((len(x),), t, dtype=torch.float32, device=x.device)


def _noise(
    x: Tensor, index: int, noises: Sequence[Tensor] | Tensor | None, generator: torch.Generator | None
) -> Tensor:
    if noises is not None:
        return noises[index].to(x)
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def _signal_share(betas: Tensor, t: int) -> float:
    """abar, the share of signal in the variance at time t; 1 at t = -1."""
    if not -1 <= t < len(betas):
        raise ValueError(f"time {t} lies outside -1..{len(betas) - 1}")
    return (1 - betas[: t + 1]).double().prod().item()


def _alpha_sigma(log_snr: float) -> tuple[float, float]:
    """The factors of signal and noise: the roots of sigmoid(log_snr) and sigmoid(-log_snr)."""
    return 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr))


def _clipped_log_alphas(betas: Tensor) -> Tensor:
    """log alpha of every time, float64, without the times of a half log-SNR below -5.1, as in the published solver."""
    log_alphas = 0.5 * torch.log(1 - betas).double().cumsum(0)
    half_snr = log_alphas - 0.5 * torch.log(-torch.expm1(2 * log_alphas))
    return log_alphas[half_snr >= -5.1]


def _solver_level(betas: Tensor, log_alphas: Tensor, t: int, aligned: bool) -> tuple[float, float, float]:
    """alpha, sigma and half the log signal-to-noise ratio that the solver takes for time t."""
    if aligned:
        kept = _signal_share(betas, t)
        log_alpha = 0.5 * math.log(kept)
    else:
        # Times become (t + 1) / 1000 + 1 / N in units of which the table has N knots; the straight pieces between the
        # knots, and the last two beyond them, are the published interpolation. With N = 1000 this is knot t + 1.
        count = len(log_alphas)
        place = ((t + 1) / 1000 + 1 / count) * count - 1
        knot = min(max(math.floor(place + 1e-6), 0), count - 2)
        pair = log_alphas[knot : knot + 2].tolist()
        log_alpha = pair[0] + (place - knot) * (pair[1] - pair[0])
    variance = -math.expm1(2 * log_alpha)
    half_snr = log_alpha - 0.5 * math.log(variance) if variance else math.inf
    return math.exp(log_alpha), math.sqrt(variance), half_snr
