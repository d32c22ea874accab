"""Training StyleGAN2 with DiffAugment: the TensorFlow recipe of the paper's numbers, and the PyTorch port's.

The two differ in nearly everything but the network. `tf`: R1 at every step, of raw or augmented reals, no path length,
style mixing drawn per sample. `pytorch`: lazy regularisation in phases of their own, path length, mixing per batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.diffaugment.augment import Draws, diff_augment
from gengauge.reference.diffaugment.losses import path_length_penalty, path_lengths, squared_gradient
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.stylegan2.discriminator import Discriminator
from gengauge.reference.nets.stylegan2.generator import Generator

Average = Callable[[Iterable[nn.Parameter]], None]
Phase = Literal["Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth"]


@dataclass(frozen=True)
class Recipe:
    """How a StyleGAN2 is trained; the defaults are those of the TensorFlow code, which made the paper's numbers.

    An interval of 0 puts a regulariser into the main phase of every step; k > 0 gives it a phase of its own every k
    steps, weighed by k, with Adam's rate and betas adjusted. `r1_of` says whether R1's gradient is taken with respect
    to the reals before or after T. `ema_kimg` is the average's half-life in thousands of reals; with `ema_rampup` it is
    at most that share of the reals seen, and with `ema_start_kimg` the average copies before. `generator` and
    `discriminator` are keyword arguments of the networks.
    """

    policy: str = ""
    code: Literal["tf", "pytorch"] = "tf"
    batch: int = 32
    lr: float = 0.002
    betas: tuple[float, float] = (0.0, 0.99)
    adam_eps: float = 1e-8
    r1_gamma: float = 1.0
    r1_of: Literal["raw", "augmented"] = "augmented"
    r1_interval: int = 0
    pl_weight: float = 0.0
    pl_interval: int = 0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    style_mixing: float = 0.9
    mixing_per: Literal["sample", "batch"] = "sample"
    ema_kimg: float = 10.0
    ema_rampup: float | None = None
    ema_start_kimg: float = 10.0
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)

    def networks(self) -> tuple[Generator, Discriminator]:
        return Generator(**self.generator), Discriminator(**self.discriminator)


@dataclass(frozen=True)
class PictureDraws:
    """What is random in making and judging one batch; what is None comes from the generator that the phase is given.

    Mixing takes place where `mix_u` is below the probability: layers from `mix_cutoff` on take their w from `mix_z`;
    both have no dimension or, per sample, (N,). `noise` maps `b4.conv1` ... to (N, 1, r, r); `augment` are T's draws;
    `path` (N, C, H, W) is the noise of the path length, standard normal.
    """

    mix_cutoff: Tensor | None = None
    mix_u: Tensor | None = None
    mix_z: Tensor | None = None
    noise: Mapping[str, Tensor] | None = None
    augment: Sequence[Draws] | None = None
    path: Tensor | None = None


NOTHING = PictureDraws()


def make_pictures(
    g: Generator,
    z: Tensor,
    c: Tensor | None,
    recipe: Recipe,
    draws: PictureDraws = NOTHING,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Pictures (N, C, R, R) of latents with style mixing, and their ws (N, num_ws, w_dim)."""
    ws = g.mapping(z, c)
    if recipe.style_mixing > 0:
        shape = (len(z),) if recipe.mixing_per == "sample" else ()
        u, cutoff, other = draws.mix_u, draws.mix_cutoff, draws.mix_z
        if cutoff is None:
            cutoff = torch.randint(1, g.num_ws, shape, generator=generator, device=z.device)
        if u is None:
            u = torch.rand(shape, generator=generator, device=z.device)
        if other is None:
            other = torch.randn(z.shape, generator=generator, device=z.device)
        first = torch.where(u < recipe.style_mixing, cutoff, g.num_ws).view(-1, 1, 1)
        layer = torch.arange(g.num_ws, device=z.device).view(1, -1, 1)
        ws = torch.where(layer < first, ws, g.mapping(other, c, skip_w_avg_update=True))
    return g.synthesis(ws, "random", draws.noise, generator), ws


def generator_phase(
    g: Generator,
    d: Discriminator,
    z: Tensor,
    c: Tensor | None,
    recipe: Recipe,
    *,
    main: bool,
    path: bool,
    draws: tuple[PictureDraws, PictureDraws] = (NOTHING, NOTHING),
    path_mean: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """G's losses: `loss` (N, 1), the non-saturating loss, and with `path` the weighed `reg` (N / shrink,).

    Also `scores` of the fakes, `penalty` before its weight and the new running mean `path_mean`. `draws` are those of
    the main part and of the path length, which makes pictures of its own from the first latents, without T.
    """
    out: dict[str, Tensor] = {}
    if main:
        pictures, _ = make_pictures(g, z, c, recipe, draws[0], generator)
        out["scores"] = d(diff_augment(pictures, recipe.policy, generator=generator, draws=draws[0].augment), c)
        out["loss"] = F.softplus(-out["scores"])
    if path:
        assert path_mean is not None
        count = max(1, len(z) // recipe.pl_batch_shrink)
        few = None if c is None else c[:count]
        pictures, ws = make_pictures(g, z[:count], few, recipe, draws[1], generator)
        noise = draws[1].path
        if noise is None:
            noise = torch.randn(pictures.shape, generator=generator, device=pictures.device)
        out["penalty"], out["path_mean"] = path_length_penalty(
            path_lengths(pictures, ws, noise), path_mean, recipe.pl_decay
        )
        out["reg"] = out["penalty"] * recipe.pl_weight
    return out


def discriminator_phase(
    g: Generator,
    d: Discriminator,
    reals: Tensor,
    real_c: Tensor | None,
    z: Tensor,
    c: Tensor | None,
    recipe: Recipe,
    *,
    main: bool,
    r1: bool,
    draws: tuple[PictureDraws, PictureDraws] = (NOTHING, NOTHING),
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """D's losses: `loss` (N, 1), the logistic loss, and with `r1` the weighed `reg` (N,), gamma / 2 times `penalty`.

    Also the scores `real` and `fake` (N, 1). reals (N, C, R, R); `draws` are those of the fakes and of the reals.
    """
    out: dict[str, Tensor] = {}
    if main:
        with torch.no_grad():
            fakes, _ = make_pictures(g, z, c, recipe, draws[0], generator)
        out["fake"] = d(diff_augment(fakes, recipe.policy, generator=generator, draws=draws[0].augment), c)
    raw = reals.detach().requires_grad_(r1)
    seen = diff_augment(raw, recipe.policy, generator=generator, draws=draws[1].augment)
    if r1 and recipe.r1_of == "augmented":
        seen = seen.detach().requires_grad_()
    out["real"] = d(seen, real_c)
    if main:
        out["loss"] = F.softplus(out["fake"]) + F.softplus(-out["real"])
    if r1:
        out["penalty"] = squared_gradient(out["real"], raw if recipe.r1_of == "raw" else seen)
        out["reg"] = out["penalty"] * (recipe.r1_gamma / 2)
    return out


def ema_beta(recipe: Recipe, seen: int) -> float:
    """The average's decay for one batch after `seen` reals; 0, a copy, before it starts."""
    if seen < recipe.ema_start_kimg * 1000:
        return 0.0
    half_life = recipe.ema_kimg * 1000
    if recipe.ema_rampup is not None:
        half_life = min(half_life, seen * recipe.ema_rampup)
    return 0.5 ** (recipe.batch / max(half_life, 1e-8))


class Training:
    """A StyleGAN2 in training: networks, their average and optimisers; `step` makes one iteration of the recipe."""

    def __init__(
        self,
        recipe: Recipe,
        device: str = "cpu",
        networks: tuple[Generator, Discriminator] | None = None,
        processes: int = 1,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.batch = recipe.batch // processes
        g, d = networks or recipe.networks()
        for network in (g, d):
            network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        self.g, self.d = g.train(), d.train()
        self.g_ema = copy.deepcopy(g).eval().requires_grad_(False)
        self.networks: dict[str, nn.Module] = {"G": self.g, "D": self.d, "G_ema": self.g_ema}
        self.path_mean = torch.zeros([], device=device)
        self.optimisers = {
            "G": self._adam(self.g, recipe.pl_interval),
            "D": self._adam(self.d, recipe.r1_interval),
        }

    def _adam(self, network: nn.Module, interval: int) -> torch.optim.Adam:
        # A lazy regulariser adds a step every `interval`; the rate is lowered so that as much happens in the same time.
        share = interval / (interval + 1) if interval else 1.0
        betas = (self.recipe.betas[0] ** share, self.recipe.betas[1] ** share)
        return torch.optim.Adam(network.parameters(), self.recipe.lr * share, betas, self.recipe.adam_eps, fused=True)

    def scalars(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside networks and optimisers."""
        return {"path_mean": self.path_mean}

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        average: Average = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration: G's phases, then D's, each on latents of its own; the average before (`tf`) or after.

        reals (batch, C, R, R) in [-1, 1], labels (batch,) int64, of several processes each its share of
        the batch. `average` is called on gradients before each step of
        an optimiser, for several processes. Returns mean losses as tensors of no dimension.
        """
        r = self.recipe
        if len(reals) != self.batch or len(labels) != self.batch:
            raise ValueError(f"an iteration takes {self.batch} reals with labels, not {len(reals)} and {len(labels)}")
        seen = self.iteration * r.batch
        if r.code == "tf":
            update_ema(self.g_ema, self.g, ema_beta(r, seen), buffers=False)
        real_c = self._one_hot(labels)
        means: dict[str, Tensor] = {}
        for phase, gain in self._phases():
            z = torch.randn(self.batch, self.g.z_dim, generator=generator, device=self.device)
            c = None
            if real_c is not None:
                c = real_c[torch.randperm(len(real_c), generator=generator, device=self.device)]
            found = self._run(phase, reals, real_c, z, c, generator)
            if "path_mean" in found:
                self.path_mean.copy_(found.pop("path_mean").detach())
            network = self.g if phase[0] == "G" else self.d
            optimiser = self.optimisers[phase[0]]
            optimiser.zero_grad()
            total = sum((found[name].mean() for name in ("loss", "reg") if name in found), torch.zeros(()).to(reals))
            (total * gain).backward()
            average(network.parameters())
            if r.code == "pytorch":
                _finite_gradients_(network)
            optimiser.step()
            means |= {f"{phase[0]}_{name}": v.detach().mean() for name, v in found.items() if name in ("loss", "reg")}
            means |= {f"score_{name}": v.detach().mean() for name, v in found.items() if name in ("real", "fake")}
        self.iteration += 1
        if r.code == "pytorch":
            update_ema(self.g_ema, self.g, ema_beta(r, seen), buffers=False)
        return means

    def _phases(self) -> list[tuple[Phase, float]]:
        """The phases of this iteration with the weight of their losses."""
        r = self.recipe
        phases: list[tuple[Phase, float]] = []
        for side, weight, interval in (("G", r.pl_weight, r.pl_interval), ("D", r.r1_gamma, r.r1_interval)):
            if weight and not interval:
                phases.append((f"{side}both", 1.0))  # type: ignore[arg-type]
            else:
                phases.append((f"{side}main", 1.0))  # type: ignore[arg-type]
                if weight and self.iteration % interval == 0:
                    phases.append((f"{side}reg", float(interval)))  # type: ignore[arg-type]
        return phases

    def _run(
        self,
        phase: Phase,
        reals: Tensor,
        real_c: Tensor | None,
        z: Tensor,
        c: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        main, regularise = phase[1:] in ("main", "both"), phase[1:] in ("reg", "both")
        self.g.requires_grad_(phase[0] == "G")
        self.d.requires_grad_(phase[0] == "D")
        if phase[0] == "G":
            return generator_phase(
                self.g,
                self.d,
                z,
                c,
                self.recipe,
                main=main,
                path=regularise,
                path_mean=self.path_mean,
                generator=generator,
            )
        return discriminator_phase(
            self.g, self.d, reals, real_c, z, c, self.recipe, main=main, r1=regularise, generator=generator
        )

    def _one_hot(self, labels: Tensor) -> Tensor | None:
        return F.one_hot(labels, self.g.c_dim).float() if self.g.c_dim else None


def _finite_gradients_(network: nn.Module) -> None:
    for parameter in network.parameters():
        if parameter.grad is not None:
            torch.nan_to_num_(parameter.grad, nan=0, posinf=1e5, neginf=-1e5)
