"""Training CycleGAN (Zhu et al., ICCV 2017), the baseline of CUT's tables, as CUT's code does it.

Two generators, two discriminators: G_A makes B of A and is judged by D_A, G_B makes A of B and is judged by D_B. CUT's
code gives it its own networks, antialiased and of Xavier's weights, which the published CycleGAN is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.cut.losses import (
    LINEAR_400,
    GANMode,
    ImagePool,
    LinearSchedule,
    PoolDraws,
    adam,
    fastest_format,
    gan_loss,
    halves,
    place,
    set_rate,
)
from gengauge.reference.nets.patchgan import PatchDiscriminator
from gengauge.reference.nets.translation_resnet import ResnetGenerator, as_published

Average = Callable[[Iterable[nn.Parameter]], None]
SIDES = ("A", "B")


@dataclass(frozen=True)
class Recipe:
    """How a two-sided translation is trained; the defaults are those of CUT's code.

    `lambda_a` and `lambda_b` weigh the cycles, `lambda_identity` the identities relative to them: without it the
    generators see no picture of their own target. `pool_size` is the number of earlier fakes that D may be shown.

    CUT's code cuts pictures at random until the rate falls, the code of 2017 `jitter_throughout`.

    `as_published` makes every pass on its own and uses the published code's operations; otherwise pictures whose
    numbers do not depend on their batch go through a network together.
    """

    lambda_a: float = 10.0
    lambda_b: float = 10.0
    lambda_identity: float = 0.5
    pool_size: int = 50
    gan_mode: GANMode = "lsgan"
    batch: int = 1
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    schedule: LinearSchedule = LINEAR_400
    load_size: int = 286
    crop_size: int = 256
    preprocess: str = "resize_and_crop"
    jitter_throughout: bool = False
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    as_published: bool = False

    def build(self) -> dict[str, nn.Module]:
        """G_A, G_B, D_A and D_B with the recipe's initial weights, from torch's global generator."""
        generators = {f"G_{side}": ResnetGenerator(**self.generator) for side in SIDES}
        return generators | {f"D_{side}": PatchDiscriminator(**self.discriminator) for side in SIDES}


@dataclass(frozen=True)
class Translations:
    """What the generators make of a batch, (N, 3, H, W) each; `idt` only where identities are weighed.

    fake_b = G_A(A), rec_a = G_B(fake_b), fake_a = G_B(B), rec_b = G_A(fake_a), idt_a = G_A(B), idt_b = G_B(A).
    """

    fake_b: Tensor
    rec_a: Tensor
    fake_a: Tensor
    rec_b: Tensor
    idt_a: Tensor | None = None
    idt_b: Tensor | None = None


def translate(
    g_a: nn.Module, g_b: nn.Module, real_a: Tensor, real_b: Tensor, identities: bool, together: bool = False
) -> Translations:
    """Both cycles of a batch, and with `identities` what each generator makes of its own target.

    With `together` a generator takes the reals of both sides in one pass.
    """
    if identities and together:
        count = len(real_a)
        of_a, of_b = g_a(torch.cat([real_a, real_b])), g_b(torch.cat([real_b, real_a]))
        fake_b, idt_a, fake_a, idt_b = of_a[:count], of_a[count:], of_b[:count], of_b[count:]
        return Translations(fake_b, g_b(fake_b), fake_a, g_a(fake_a), idt_a, idt_b)
    fake_b = g_a(real_a)
    rec_a = g_b(fake_b)
    fake_a = g_b(real_b)
    rec_b = g_a(fake_a)
    if not identities:
        return Translations(fake_b, rec_a, fake_a, rec_b)
    return Translations(fake_b, rec_a, fake_a, rec_b, g_a(real_b), g_b(real_a))


def generator_loss(
    d_a: nn.Module, d_b: nn.Module, real_a: Tensor, real_b: Tensor, made: Translations, recipe: Recipe
) -> dict[str, Tensor]:
    """The loss `G` of both generators and its parts under the published names."""
    out = {
        "G_A": gan_loss(d_a(made.fake_b), True, recipe.gan_mode).mean(),
        "G_B": gan_loss(d_b(made.fake_a), True, recipe.gan_mode).mean(),
        "cycle_A": F.l1_loss(made.rec_a, real_a) * recipe.lambda_a,
        "cycle_B": F.l1_loss(made.rec_b, real_b) * recipe.lambda_b,
    }
    if made.idt_a is not None and made.idt_b is not None:
        out["idt_A"] = F.l1_loss(made.idt_a, real_b) * (recipe.lambda_b * recipe.lambda_identity)
        out["idt_B"] = F.l1_loss(made.idt_b, real_a) * (recipe.lambda_a * recipe.lambda_identity)
    return out | {"G": torch.stack(list(out.values())).sum()}


def discriminator_loss(d: nn.Module, real: Tensor, fake: Tensor, mode: GANMode, together: bool = False) -> Tensor:
    """Half the sum of the losses of reals and of fakes, which pass no gradient; with `together` in one pass of D."""
    fake = fake.detach()
    of_real, of_fake = d(torch.cat([real, fake])).chunk(2) if together else (d(real), d(fake))
    return (gan_loss(of_real, True, mode).mean() + gan_loss(of_fake, False, mode).mean()) / 2


class Training:
    """Both sides in training; `step` makes one published iteration: the generators first, then the discriminators.

    The pools of earlier fakes are among the networks, since a training goes on with them.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str = "cpu",
        networks: dict[str, nn.Module] | None = None,
        processes: int = 1,
        iterations_per_epoch: int | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.batch, self.iterations_per_epoch = recipe.batch // processes, iterations_per_epoch
        built = networks or recipe.build()
        self.g = built["G_A"], built["G_B"]
        self.d = built["D_A"], built["D_B"]
        for network in built.values():
            place(network, device, memory_format or fastest_format(device))
            if recipe.as_published:
                as_published(network)
        self.pools = {f"pool_{side}": ImagePool(recipe.pool_size).to(device) for side in SIDES}
        self.networks: dict[str, nn.Module] = {**built, **self.pools}
        self.optimisers = {
            name: adam(chain.from_iterable(network.parameters() for network in pair), recipe.lr, recipe.betas, device)
            for name, pair in (("G", self.g), ("D", self.d))
        }

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: Iterator[PoolDraws] | None = None,
        average: Average = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration on reals (2 batch, 3, H, W) in [-1, 1], those of A before those of B; labels are not looked at.

        `draws` are the pools', first of the fakes of B; without them they come from the generator. `average` is called
        on gradients before each step of an optimiser. Returns the losses as numbers without gradient. Raises ValueError
        for another number of pictures.
        """
        r, (d_a, d_b) = self.recipe, self.d
        real_a, real_b = halves(reals, self.batch)
        set_rate(self.optimisers.values(), r.lr, r.schedule, self.iteration, self.iterations_per_epoch)
        together = not r.as_published and all(network.independent for network in (*self.g, *self.d))
        made = translate(*self.g, real_a, real_b, r.lambda_identity > 0, together)
        for d in self.d:
            d.requires_grad_(False)
        losses = generator_loss(d_a, d_b, real_a, real_b, made, r)
        self._update(losses["G"], "G", self.g, average)
        for d in self.d:
            d.requires_grad_(True)
        fake_b = self.pools["pool_B"].query(made.fake_b, generator, draws)
        losses["D_A"] = discriminator_loss(d_a, real_b, fake_b, r.gan_mode, together)
        fake_a = self.pools["pool_A"].query(made.fake_a, generator, draws)
        losses["D_B"] = discriminator_loss(d_b, real_a, fake_a, r.gan_mode, together)
        self._update(losses["D_A"] + losses["D_B"], "D", self.d, average)
        self.iteration += 1
        return {name: value.detach() for name, value in losses.items()}

    def _update(self, loss: Tensor, name: str, pair: tuple[nn.Module, nn.Module], average: Average) -> None:
        self.optimisers[name].zero_grad()
        loss.backward()
        average(chain.from_iterable(network.parameters() for network in pair))
        self.optimisers[name].step()
