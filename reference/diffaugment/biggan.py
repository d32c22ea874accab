"""Training BigGAN with DiffAugment: the recipe of the CIFAR scripts and one iteration of their loop.

Source: DiffAugment-biggan-cifar, `train_fns.py` and `scripts/`; the ImageNet recipe is that of the compare_gan configs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gengauge.reference.diffaugment.augment import Draws, diff_augment
from gengauge.reference.diffaugment.losses import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES
from gengauge.reference.diffaugment.placement import DIFFAUGMENT, Placement
from gengauge.reference.nets.biggan import Discriminator, Generator, orthogonal_gradient_
from gengauge.reference.nets.ema import update_ema

Average = Callable[[Iterable[nn.Parameter]], None]
Augment = Callable[[Tensor, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a BigGAN is trained; the defaults are the published CIFAR-10 baseline without augmentation.

    `consistency` is the weight of CR's penalty, 0 for none; `consistency_augment` makes its second view: parts of
    `flip,translation` of the augmented reals, or "" for the raw reals themselves. The average
    takes buffers in too, or copies them without `ema_buffers`. `generator` and `discriminator` are keyword arguments of
    the networks.
    """

    policy: str = ""
    placement: Placement = DIFFAUGMENT
    consistency: float = 0.0
    consistency_augment: str = "flip,translation"
    loss: Literal["hinge", "dcgan"] = "hinge"
    batch: int = 50
    d_steps: int = 4
    g_lr: float = 2e-4
    d_lr: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    adam_eps: float = 1e-8
    ema_decay: float = 0.9999
    ema_start: int = 1000
    ema_buffers: bool = True
    ortho: float = 0.0
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)

    def networks(self) -> tuple[Generator, Discriminator]:
        return Generator(**self.generator), Discriminator(**self.discriminator)


@dataclass(frozen=True)
class StepDraws:
    """What is random in one step of either network: z (N, dim_z), y (N,) int64, T's draws, and CR's.

    D's step augments the concatenation [fake; real], fakes first; `flip` (N, 1, 1, 1) is 1 where CR's second view is
    mirrored, `consistency` the draws of its translation. None is drawn from the generator that the step is given.
    """

    z: Tensor
    y: Tensor
    augment: Sequence[Draws] | None = None
    flip: Tensor | None = None
    consistency: Sequence[Draws] | None = None


def draw_step(batch: int, network: Generator, generator: torch.Generator | None, device: str) -> StepDraws:
    """Latents and labels of one step; T's and CR's draws follow from the same generator when they are needed."""
    return StepDraws(
        torch.randn(batch, network.dim_z, generator=generator, device=device),
        torch.randint(network.num_classes, (batch,), generator=generator, device=device),
    )


def second_view(
    augmented: Tensor, raw: Tensor, how: str, draws: StepDraws, generator: torch.Generator | None = None
) -> Tensor:
    """CR's other view of the reals (N, C, H, W): `how` applied to the augmented reals; the raw ones where it is ""."""
    if not how:
        return raw
    parts = how.split(",")
    if unknown := set(parts) - {"flip", "translation"}:
        raise ValueError(f"consistency_augment {how!r}: there is no {unknown.pop()!r}; there are flip, translation")
    x = augmented
    for part in parts:
        if part == "flip":
            flip = draws.flip
            if flip is None:
                flip = torch.randint(2, (len(x), 1, 1, 1), generator=generator, device=x.device)
            x = torch.where(flip > 0, x.flip(3), x)
        else:
            x = diff_augment(x, part, generator=generator, draws=draws.consistency)
    return x


def augmentation(recipe: Recipe, draws: StepDraws, augment: Augment | None = None) -> Augment:
    """T of a step: the recipe's policy with the step's draws, or another one in its place."""
    return augment or (lambda x, generator: diff_augment(x, recipe.policy, generator=generator, draws=draws.augment))


def discriminator_losses(
    g: nn.Module,
    d: nn.Module,
    recipe: Recipe,
    reals: Tensor,
    labels: Tensor,
    draws: StepDraws,
    generator: torch.Generator | None = None,
    augment: Augment | None = None,
) -> dict[str, Tensor]:
    """D's losses of one batch: `D_loss_real`, `D_loss_fake` and, with consistency, its weighed penalty `D_loss_CR`.

    reals (N, C, H, W), labels (N,). Also the scores `real`, `fake` and `real_aug` (N, 1). `augment` is another T than
    the recipe's.
    """
    t = augmentation(recipe, draws, augment)
    with torch.no_grad():
        fakes = g(draws.z, draws.y)
    raw, count = reals, len(fakes)
    place = recipe.placement
    if place.fakes and place.reals:
        # One call on both, so that the draws follow in the published order.
        both = t(torch.cat([fakes, reals]), generator)
        reals = both[count:]
    else:
        if place.reals:
            reals = t(reals, generator)
        elif place.fakes:
            fakes = t(fakes, generator)
        both = torch.cat([fakes, reals])
    classes = torch.cat([draws.y, labels])
    if recipe.consistency:
        both = torch.cat([both, second_view(reals, raw, recipe.consistency_augment, draws, generator)])
        classes = torch.cat([classes, labels])
    fake, real, *second = d(both, classes).split([count, len(raw), *([len(raw)] if recipe.consistency else [])])
    loss_real, loss_fake = DISCRIMINATOR_LOSSES[recipe.loss](real, fake)
    out = {"D_loss_real": loss_real, "D_loss_fake": loss_fake, "real": real, "fake": fake}
    if recipe.consistency:
        out["real_aug"] = second[0]
        out["D_loss_CR"] = recipe.consistency * (second[0] - real).square().mean()
    return out


def generator_loss(
    g: nn.Module,
    d: nn.Module,
    recipe: Recipe,
    draws: StepDraws,
    generator: torch.Generator | None = None,
    augment: Augment | None = None,
) -> dict[str, Tensor]:
    """G's loss `G_loss` of one batch, with the pictures `G_z` before T and their scores `fake`."""
    pictures = g(draws.z, draws.y)
    seen = pictures
    if recipe.placement.generator:
        seen = augmentation(recipe, draws, augment)(pictures, generator)
    scores = d(seen, draws.y)
    return {"G_loss": GENERATOR_LOSSES[recipe.loss](scores), "G_z": pictures, "fake": scores}


def ema_decay(recipe: Recipe, iteration: int) -> float:
    """The average's decay at an iteration: 0 before `ema_start`, except that iteration 0 already has the full decay.

    That exception is the published code's (`if itr and itr < start`).
    """
    return 0.0 if 0 < iteration < recipe.ema_start else recipe.ema_decay


class Training:
    """A BigGAN in training: networks, their average and optimisers; `step` makes one published iteration.

    `augment` is another T than that of the recipe's policy.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str = "cpu",
        networks: tuple[nn.Module, nn.Module] | None = None,
        processes: int = 1,
        memory_format: torch.memory_format = torch.channels_last,
        augment: Augment | None = None,
    ) -> None:
        self.recipe, self.device, self.iteration, self.augment = recipe, device, 0, augment
        self.batch = recipe.batch // processes
        g, d = networks or recipe.networks()
        # The average too works in training mode, by the batch's statistics, as the published evaluation does.
        self.networks = {"G": g, "D": d, "G_ema": copy.deepcopy(g).requires_grad_(False)}
        for network in self.networks.values():
            network.to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
        rates = {"G": recipe.g_lr, "D": recipe.d_lr}
        self.optimisers = {
            name: torch.optim.Adam(self.networks[name].parameters(), rate, recipe.betas, recipe.adam_eps, fused=True)
            for name, rate in rates.items()
        }

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        draws: Sequence[StepDraws] | None = None,
        average: Average = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration: `d_steps` of D on a part of the reals each, one of G, then the average.

        reals (batch * d_steps, C, H, W), labels (batch * d_steps,), of several processes
        each its share. `draws` holds those of each D step and of G's;
        without it they come from the generator. `average` is called on gradients before each step of an optimiser,
        for several processes. Returns the losses of the last D step and of G, as tensors of no dimension.
        """
        g, d, ema = self.networks.values()
        r = self.recipe
        if len(reals) != self.batch * r.d_steps or len(labels) != len(reals):
            raise ValueError(
                f"an iteration takes {self.batch} * {r.d_steps} = {self.batch * r.d_steps} reals with their labels, "
                f"not {len(reals)} and {len(labels)}"
            )
        if draws is None:
            draws = [draw_step(self.batch, g, generator, self.device) for _ in range(r.d_steps + 1)]  # type: ignore[arg-type]
        d.requires_grad_(True)
        g.requires_grad_(False)
        parts = zip(reals.split(self.batch), labels.split(self.batch), draws, strict=False)
        for part, classes, mine in parts:
            self.optimisers["D"].zero_grad()
            found = discriminator_losses(g, d, r, part, classes, mine, generator, self.augment)
            losses = {name: value for name, value in found.items() if name.startswith("D_")}
            sum(losses.values(), torch.zeros((), device=self.device)).backward()
            orthogonal_gradient_(d, r.ortho)
            average(d.parameters())
            self.optimisers["D"].step()
        d.requires_grad_(False)
        g.requires_grad_(True)
        self.optimisers["G"].zero_grad()
        loss = generator_loss(g, d, r, draws[-1], generator, self.augment)["G_loss"]
        loss.backward()
        orthogonal_gradient_(g, r.ortho, tuple(g.shared.parameters()))  # type: ignore[union-attr]
        average(g.parameters())
        self.optimisers["G"].step()
        update_ema(ema, g, ema_decay(r, self.iteration), r.ema_buffers)
        self.iteration += 1
        return {name: value.detach() for name, value in {**losses, "G_loss": loss}.items()}
