"""SDEdit: noise is added to a guide up to time t0, then taken away again by the prior's reverse process.

`edit` is variance-preserving (algorithms 4 and 5), `edit_ve` variance-exploding (algorithms 1 to 3). Pictures are
(N, C, H, W). `editable` is bool and broadcastable to them, True where the picture may change; None is everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gengauge.reference.sdedit.schedule import FACES, LEAST_VARIANCE, Levels, VESchedule

Network = Callable[[Tensor, Tensor], Tensor]
Variance = Literal["small", "large"]
KeptNoise = Literal["once", "fresh"]
# From a noisy picture and the number of its level: mean and standard deviation of the picture one level cleaner.
Reverse = Callable[[Tensor, int], tuple[Tensor, Tensor | float]]


@dataclass(frozen=True)
class Behaviour:
    """Where the published code and the paper's algorithms differ; the defaults are the code's.

    `variance` of a step: the posterior's (small) or beta (large). `kept_noise`: of pixels that are kept, one for the
    whole repeat or that of the step, which edited pixels are given too. `last_noise`: whether the last step adds noise.
    `clamp`: whether the clean picture that the network sees is cut to [-1, 1], which neither does.
    """

    variance: Variance = "small"
    kept_noise: KeptNoise = "once"
    last_noise: bool = False
    clamp: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("variance", Variance), ("kept_noise", KeptNoise)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(get_args(kind))}")


@dataclass(frozen=True, eq=False)
class Made:
    """A reverse step, called as one, with the levels that it is of, and its behaviour where it follows one."""

    step: Reverse
    levels: Levels
    behaviour: Behaviour | None = None

    def __call__(self, x: Tensor, i: int) -> tuple[Tensor, Tensor | float]:
        return self.step(x, i)


PUBLISHED = Behaviour()
PAPER = Behaviour("large", "fresh", last_noise=True)


@dataclass(frozen=True, eq=False)
class Step:
    """What a callback is given after a step: its number and how many there are in all repeats, and the pictures."""

    number: int
    total: int
    x: Tensor


Callback = Callable[[Step], None]


@torch.no_grad()
def edit(
    reverse: Reverse,
    guide: Tensor,
    levels: Levels,
    editable: Tensor | None = None,
    *,
    repeats: int = 1,
    behaviour: Behaviour | None = None,
    noises: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Edits guides in [-1, 1]; the result is not cut to that range.

    `reverse` is made by `from_noise`, `from_score` or `from_learned_variance`, of the same levels; without `behaviour`
    its own is followed, else the published one. Every repeat (K in the paper) starts
    from the last one's result in editable pixels. `noises` are the draws in order, each as the guide: for every repeat
    one for the start and one a step, the unused last one too; without them they come from the generator.

    Kept pixels end with the noise of the first level, 1 % for DDPM's schedule, as in the published code; `paste` puts
    the original back. Raises ValueError for a guide or mask of the wrong kind, and for a step of other levels or of
    another behaviour.
    """
    _check(guide, editable, repeats)
    behaviour = _agreed(reverse, levels, behaviour)
    draw = _draws(guide, noises, generator)
    abar = levels.abar.tolist()
    clean = x = guide
    for repeat in range(repeats):
        noise = draw()
        x = math.sqrt(abar[-1]) * clean + math.sqrt(1 - abar[-1]) * noise
        for done, i in enumerate(reversed(range(len(levels))), 1):
            mean, deviation = reverse(x, i)
            z = draw()
            edited = mean + deviation * z if i or behaviour.last_noise else mean
            held = noise if behaviour.kept_noise == "once" else z
            x = _where(editable, edited, lambda i=i, held=held: _noised(guide, abar[i], held))  # type: ignore[misc]
            _report(callback, repeat * len(levels) + done, repeats * len(levels), x)
        clean = _where(editable, x, lambda: guide)
    return x


def from_noise(network: Network, levels: Levels, behaviour: Behaviour = PUBLISHED) -> Reverse:
    """The reverse step of a network that tells the noise: network(x, t (N,) float32) as x."""
    return _ancestral(lambda x, i: network(x, _time(x, levels.times[i].item())), levels, behaviour)


def from_score(score: Network, levels: Levels, behaviour: Behaviour = PAPER) -> Reverse:
    """The reverse step of a network that tells the score: score(x, t (N,)) as x, t in (0, 1] with continuous levels."""

    def noise(x: Tensor, i: int) -> Tensor:
        return -math.sqrt(1 - levels.abar[i].item()) * score(x, _time(x, levels.times[i].item()))

    return _ancestral(noise, levels, behaviour)


def _ancestral(noise: Callable[[Tensor, int], Tensor], levels: Levels, behaviour: Behaviour) -> Reverse:
    """DDPM's reverse step (Ho et al. 2020, algorithm 2), of what tells the noise from a picture and its level."""

    def reverse(x: Tensor, i: int) -> tuple[Tensor, float]:
        beta, abar = levels.betas[i].item(), levels.abar[i].item()
        eps = noise(x, i)
        if eps.shape != x.shape:
            more = "; where it tells the variance too, take from_learned_variance" if len(eps.shape) == 4 else ""
            raise ValueError(f"the network gave {tuple(eps.shape)} for pictures of {tuple(x.shape)}{more}")
        if behaviour.clamp:
            clean = ((x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
            eps = (x - math.sqrt(abar) * clean) / math.sqrt(1 - abar)
        mean = (x - beta / math.sqrt(1 - abar) * eps) / math.sqrt(1 - beta)
        variance = max(levels.small[i].item(), LEAST_VARIANCE) if behaviour.variance == "small" else beta
        return mean, math.sqrt(variance)

    return Made(reverse, levels, behaviour)


def from_learned_variance(
    network: Network, levels: Levels, gradient: Network | None = None, clamp: bool = True
) -> Reverse:
    """The reverse step of a network that also tells the variance, guided by a classifier (Dhariwal and Nichol 2021).

    network(x, t) is (N, 2 C, H, W): the noise, then where between the small (-1) and the large (1) log variance it
    lies. `gradient`(x, t) as x is that of the log probability of the class, times the scale of guidance.
    """
    before = torch.cat([torch.ones_like(levels.abar[:1]), levels.abar[:-1]])
    # The first would be log 0, and takes the second's where there is one.
    small = torch.cat([levels.small[1:2], levels.small[1:]]).log() if len(levels) > 1 else levels.betas.log()

    def reverse(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        beta, abar, last = levels.betas[i].item(), levels.abar[i].item(), before[i].item()
        t = _time(x, levels.times[i].item())
        eps, share = network(x, t).chunk(2, 1)
        share = (share + 1) / 2
        variance = (share * math.log(beta) + (1 - share) * small[i].item()).exp()
        clean = math.sqrt(1 / abar) * x - math.sqrt(1 / abar - 1) * eps
        if clamp:
            clean = clean.clamp(-1, 1)
        mean = (beta * math.sqrt(last) * clean + (1 - last) * math.sqrt(1 - beta) * x) / (1 - abar)
        if gradient is not None:
            mean = mean + variance * gradient(x, t)
        return mean, variance.sqrt()

    return Made(reverse, levels)


@torch.no_grad()
def edit_ve(
    score: Network,
    guide: Tensor,
    schedule: VESchedule = FACES,
    editable: Tensor | None = None,
    *,
    t0: float = 0.45,
    steps: int = 1000,
    repeats: int = 1,
    noises: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Edits guides in [0, 1] with score(x, sigma (N,) float32) as x, as NCSN++ gives it; no corrector.

    The published SDEdit has no such code: this is the paper's text (algorithms 1 to 3). Arguments as of `edit`; noises
    are fresh at every step and shared by edited and kept pixels. Kept pixels end with the noise of the first step.
    """
    _check(guide, editable, repeats)
    draw = _draws(guide, noises, generator)
    sigmas = schedule.sigmas(t0, steps)
    x = guide
    for repeat in range(repeats):
        x = _where(editable, x, lambda: guide) + sigmas[-1] * draw()
        for n in range(steps, 0, -1):
            variance = sigmas[n] ** 2 - sigmas[n - 1] ** 2
            z = draw()
            edited = x + variance * score(x, _time(x, sigmas[n])) + math.sqrt(variance) * z
            x = _where(editable, edited, lambda n=n, z=z: guide + sigmas[n] * z)  # type: ignore[misc]
            _report(callback, (repeat + 1) * steps - n + 1, repeats * steps, x)
    return x


def paste(original: Tensor, edited: Tensor, editable: Tensor | None) -> Tensor:
    """The edited picture with the original's pixels where nothing was to be edited."""
    return _where(editable, edited, lambda: original)


def in_type(network: Network, dtype: torch.dtype) -> Network:
    """A network that works in another type, for a sampler that goes on in its own: bfloat16 or float16."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        return network(x.to(dtype), t).to(x.dtype)

    return call


def _agreed(reverse: Reverse, levels: Levels, behaviour: Behaviour | None) -> Behaviour:
    """The behaviour to follow. Raises ValueError where the step was made for something else."""
    if not isinstance(reverse, Made):
        return behaviour or PUBLISHED
    if len(reverse.levels) != len(levels) or not torch.equal(reverse.levels.abar, levels.abar):
        raise ValueError(f"the reverse step is of {len(reverse.levels)} other levels than these {len(levels)}")
    if behaviour is not None and reverse.behaviour not in (None, behaviour):
        raise ValueError(f"the reverse step follows {reverse.behaviour}, this edit {behaviour}")
    return behaviour or reverse.behaviour or PUBLISHED


def _noised(picture: Tensor, abar: float, noise: Tensor) -> Tensor:
    return math.sqrt(abar) * picture + math.sqrt(1 - abar) * noise


def _where(editable: Tensor | None, edited: Tensor, kept: Callable[[], Tensor]) -> Tensor:
    return edited if editable is None else torch.where(editable, edited, kept())


def _time(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)


def _report(callback: Callback | None, number: int, total: int, x: Tensor) -> None:
    if callback is not None:
        callback(Step(number, total, x))


def _draws(like: Tensor, noises: Iterable[Tensor] | None, generator: torch.Generator | None) -> Callable[[], Tensor]:
    if noises is None:
        device = generator.device if generator is not None else like.device
        kind = like.dtype if like.dtype == torch.float64 else torch.float32
        return lambda: torch.randn(like.shape, generator=generator, device=device, dtype=kind).to(like)
    given: Iterator[Tensor] = iter(noises)

    def following() -> Tensor:
        noise = next(given, None)
        if noise is None or noise.shape != like.shape:
            raise ValueError(
                f"noises must be {tuple(like.shape)} each, one for a repeat's start and one a step; got "
                + ("too few" if noise is None else f"one of {tuple(noise.shape)}")
            )
        return noise.to(like)

    return following


def _check(guide: Tensor, editable: Tensor | None, repeats: int) -> None:
    if guide.ndim != 4 or not guide.is_floating_point():
        raise ValueError(f"a guide is (N, C, H, W) floating point, not {guide.dtype} {tuple(guide.shape)}")
    if not bool(guide.isfinite().all()):
        raise ValueError("the guide has values that are no finite numbers")
    if repeats < 1:
        raise ValueError(f"{repeats} repeats; at least one is needed")
    if editable is None:
        return
    if editable.dtype != torch.bool:
        raise ValueError(f"the mask is {editable.dtype}; it must be bool, True where the picture may change")
    try:
        fits = torch.broadcast_shapes(editable.shape, guide.shape) == guide.shape and editable.ndim >= 2
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"the mask {tuple(editable.shape)} does not fit guides of {tuple(guide.shape)}")
