"""Training GANgealing: a spatial transformer T and the target's latent code, supervised by a frozen generator.

A picture x = G(w) is warped towards y = G(w'), whose first layers have the learnt code instead of w: the same object in
the pose that all pictures are to have. Source: Peebles et al. 2022, section 3, clusters as in section 3.3; where paper
and code differ this follows the code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gengauge.reference.gangealing.latents import DirectionInterpolator
from gengauge.reference.gangealing.losses import best_cluster, by_cluster, flow_identity, of_cluster, total_variation
from gengauge.reference.gangealing.schedules import EMA_DECAY, PUBLISHED, Annealing, WarmRestarts, psi, rate_factor
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer, Warped
from gengauge.reference.gangealing.warps import BilinearDownsample, Padding
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.perceptual import Kind, PerceptualLoss
from gengauge.reference.nets.stylegan2.rosinality import Generator

Average = Callable[[Iterable[nn.Parameter]], None]
Transformer = ComposedSTN | SpatialTransformer


@dataclass(frozen=True)
class Recipe:
    """How an alignment is trained; the defaults are those of the published command line at its total batch of 40.

    `transforms` "similarity" trains without a flow, and takes no weight of its regularisers. Psi is annealed for
    `annealing` iterations, after which the rates follow `schedule`. `sample_from_full_res` warps the generator's
    picture instead of the one that T sees. With `flips`, for clusters, a picture may also be aligned mirrored.
    `generator` and `transformer` are keyword arguments of the networks.

    Raises ValueError where the numbers do not go together.
    """

    loss: Kind = "vgg_ssl"
    transforms: Literal["both", "similarity"] = "both"
    tv_weight: float = 1000.0
    flow_identity_weight: float = 1.0
    ndirs: int = 1
    inject_index: int = 5
    num_heads: int = 1
    flips: bool = False
    sample_from_full_res: bool = False
    padding_mode: Padding = "reflection"
    batch: int = 40
    lr: float = 1e-3
    ll_lr: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    annealing: int = 150_000
    anneal: Annealing = "cosine"
    schedule: WarmRestarts = PUBLISHED
    iterations: int = 1_500_000
    ema_decay: float = EMA_DECAY
    freeze_ll: bool = False
    generator: dict[str, Any] = field(default_factory=dict)
    transformer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.transforms == "similarity" and (self.tv_weight or self.flow_identity_weight):
            raise ValueError("a similarity has no flow: set tv_weight and flow_identity_weight to 0")
        if self.flips and self.num_heads == 1:
            raise ValueError("flips are chosen with clusters; set num_heads to 2 or more")
        if min(self.num_heads, self.batch, self.ndirs) < 1 or self.annealing < 0:
            raise ValueError("num_heads, batch and ndirs are 1 or more, and annealing is not negative")

    def build(self) -> Transformer:
        """T with its initial weights, which are those of the identity, from torch's global generator."""
        arguments = {**self.transformer, "num_heads": self.num_heads}
        if self.transforms == "similarity":
            return SpatialTransformer("similarity", **arguments)
        return ComposedSTN(**arguments)


@dataclass(frozen=True)
class Draws:
    """What is random in one step; what is None comes from the generator that the step is given.

    `z` (N, D); `noise` and `target_noise` are maps (N or N K, 1, r, r) a layer of the two passes of G, of K heads.
    """

    z: Tensor | None = None
    noise: Sequence[Tensor] | None = None
    target_noise: Sequence[Tensor] | None = None


NOTHING = Draws()


@dataclass(frozen=True)
class Made:
    """Generated pictures (N, 3, R, R), the smaller ones that T sees (N, 3, S, S), and targets (N K, 3, S, S)."""

    full: Tensor
    seen: Tensor
    target: Tensor


@dataclass(frozen=True)
class Aligned:
    """Distances (N, clusters) of aligned pictures to their targets, the nearest cluster (N,) and all that was warped.

    `delta` (N, F, F, 2) is the nearest cluster's residual flow, None for a similarity alone.
    """

    distances: Tensor
    nearest: Tensor
    found: Tensor
    delta: Tensor | None
    warped: Warped


def make_pictures(
    g: Generator,
    ll: DirectionInterpolator,
    size: int,
    mix: float,
    z: Tensor,
    draws: Draws = NOTHING,
    generator: torch.Generator | None = None,
) -> Made:
    """Pictures of z and their targets, brought to `size`. The two get noise of their own: with the same, T learns it.

    Gradients flow through G into the code. Raises ValueError for a size that the generator's is no multiple of.
    """
    with torch.no_grad():
        w = g.style(z)
        full = g.synthesis(g.latents([w]), draws.noise, generator=generator)
    target = g.synthesis(ll(w, mix), draws.target_noise, generator=generator)
    return Made(full, smaller(full, size), smaller(target, size))


def smaller(x: Tensor, size: int) -> Tensor:
    """Pictures (N, 3, R, R) brought down to (N, 3, size, size) by a tent. Raises ValueError for a fraction of R."""
    if x.shape[-1] % size:
        raise ValueError(f"pictures of {x.shape[-1]} px cannot be brought to {size} px; choose a divisor")
    stride = x.shape[-1] // size
    return x if stride == 1 else BilinearDownsample(stride, x.shape[1]).to(x.device)(x)


def align(t: Transformer, loss: PerceptualLoss, made: Made, recipe: Recipe) -> Aligned:
    """Pictures warped by all heads, mirrored too with `flips`, against their targets; the nearest cluster of each.

    The columns of `distances` are the heads, and after them the heads for the mirrored pictures.
    """
    seen, source, target = made.seen, made.full if recipe.sample_from_full_res else made.seen, made.target
    if recipe.flips:
        seen, source = (torch.cat([x, x.flip(3)]) for x in (seen, source))
        target = target.repeat(2, 1, 1, 1)
    warped = t(seen, source, padding_mode=recipe.padding_mode)
    distances = by_cluster(loss(warped.image, target), recipe.num_heads, recipe.flips)
    nearest, found = best_cluster(distances)
    delta = warped.delta
    if delta is not None and distances.shape[1] > 1:
        delta = of_cluster(delta, found, recipe.num_heads, recipe.flips)
    return Aligned(distances, nearest, found, delta, warped)


def losses_of(aligned: Aligned, recipe: Recipe) -> dict[str, Tensor]:
    """The loss `full` and its parts `perceptual`, `tv` and `flow_identity` before their weights."""
    out = {"perceptual": aligned.nearest.mean()}
    out["full"] = out["perceptual"]
    if aligned.delta is not None:
        out["tv"] = total_variation(aligned.delta).mean()
        out["flow_identity"] = flow_identity(aligned.delta)
        out["full"] = out["full"] + recipe.tv_weight * out["tv"] + recipe.flow_identity_weight * out["flow_identity"]
    return out


class Training:
    """T and the target's code in training; `step` makes one published iteration.

    G and the perceptual loss are frozen and are no part of what is saved. T's average weighs 0.5^(32 / 10,000) whatever
    the batch, as published.
    """

    def __init__(
        self,
        recipe: Recipe,
        g: Generator,
        ll: DirectionInterpolator,
        loss: PerceptualLoss,
        device: str = "cpu",
        t: Transformer | None = None,
        processes: int = 1,
    ) -> None:
        if len(ll.coefficients) != recipe.num_heads:
            raise ValueError(f"{recipe.num_heads} heads have as many codes, not {len(ll.coefficients)}")
        if loss.kind != recipe.loss:
            raise ValueError(f"the recipe's perceptual loss is {recipe.loss}, not {loss.kind}")
        if recipe.batch % processes:
            raise ValueError(f"a batch of {recipe.batch} cannot be shared by {processes} processes; choose a divisor")
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.batch = recipe.batch // processes
        self.g, self.loss = g.to(device).requires_grad_(False).eval(), loss.to(device)
        self.t, self.ll = (t or recipe.build()).to(device).train(), ll.to(device).train()
        self.t_ema = copy.deepcopy(self.t).requires_grad_(False).eval()
        self.networks: dict[str, nn.Module] = {"T": self.t, "T_ema": self.t_ema, "LL": self.ll}
        fused = torch.device(device).type in ("cpu", "cuda")  # one pass over memory instead of eight
        self.optimisers = {"T": torch.optim.Adam(list(self.t.parameters()), recipe.lr, recipe.betas, fused=fused)}
        if not recipe.freeze_ll:
            self.optimisers["LL"] = torch.optim.Adam([ll.coefficients], recipe.ll_lr, recipe.betas, fused=fused)

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    @property
    def psi(self) -> float:
        """Psi in the next step."""
        return psi(self.iteration + 1, self.recipe.annealing, self.recipe.anneal)

    def rates(self) -> dict[str, float]:
        """The learning rates of the next step by the optimiser's name."""
        factor = rate_factor(self.iteration + 1, self.recipe.annealing, self.recipe.schedule)
        return {"T": self.recipe.lr * factor, "LL": self.recipe.ll_lr * factor}

    def step(
        self,
        reals: Tensor | None = None,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: Draws = NOTHING,
        average: Average = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration; no real picture is looked at.

        `average` is called on gradients before the optimisers' steps, for several processes. Returns the losses and psi
        as numbers without gradient.
        """
        z = draws.z
        if z is None:
            z = torch.randn(self.batch, self.g.z_dim, generator=generator, device=self.device)
        for name, rate in self.rates().items():
            for group in self.optimisers[name].param_groups if name in self.optimisers else ():
                group["lr"] = rate
        mix = self.psi
        made = make_pictures(self.g, self.ll, self.t.flow_size, mix, z, draws, generator)
        losses = losses_of(align(self.t, self.loss, made, self.recipe), self.recipe)
        for network in (self.t, self.ll):
            network.zero_grad(set_to_none=True)
        losses["full"].backward()
        for name, optimiser in self.optimisers.items():
            average(self.networks[name].parameters())
            optimiser.step()
        update_ema(self.t_ema, self.t, self.recipe.ema_decay, buffers=False)
        self.iteration += 1
        out = {name: value.detach() for name, value in losses.items()}
        return out | {"psi": torch.tensor(mix, device=self.device)}
