"""Training CUT, FastCUT and SinCUT: one generator, one discriminator, and the projection F of PatchNCE (section 3).

Where paper and code differ this follows the code: the two contrastive terms are averaged, and so are the taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.cut.external import ExternalBank
from gengauge.reference.cut.losses import (
    LINEAR_400,
    GANMode,
    LinearSchedule,
    adam,
    fastest_format,
    gan_loss,
    halves,
    place,
    set_rate,
)
from gengauge.reference.cut.patches import TEMPERATURE, PatchSampleF, draw_patches, patch_nce
from gengauge.reference.diffaugment.losses import squared_gradient
from gengauge.reference.nets.patchgan import PatchDiscriminator
from gengauge.reference.nets.stylegan2.translation import StyleDiscriminator, StyleTranslator
from gengauge.reference.nets.translation_resnet import TAPS, ResnetGenerator, as_published, misread_gradients

Average = Callable[[Iterable[nn.Parameter]], None]
Generator = ResnetGenerator | StyleTranslator


@dataclass(frozen=True)
class Recipe:
    """How a one-sided translation is trained; the defaults are CUT's.

    `nce_idt` adds the contrastive term between B and its own translation, and halves both. `flip_equivariance` mirrors
    the generator's input at every second step by chance, and the features of its output back. `lambda_r1` and
    `lambda_identity` (of the L1 distance between B and its translation) are SinCUT's. `generator` and `discriminator`
    are keyword arguments of the networks that `networks` names.

    `keys` says how the features of the sources are made, the same numbers in any way: "published" records gradients
    that nothing uses, "without_gradients" saves that memory, and "reused" takes them from the pass that made the
    translation, up to rounding, where the input was not mirrored. Other passes are made together where a picture's
    numbers do not depend on its batch. `as_published` makes every pass on its own, records the keys' gradients and uses
    the published code's operations: for comparing speed.

    On a CPU, torch's instance norm (2.15) misreads the gradient of taps 12 and 16 where the batch is one picture, and
    so the published code trains otherwise there than on a GPU. `misread` follows it: for comparing numbers.

    `negatives` are those of the picture itself, of a bank of other pictures, or both (the paper's ablation, see
    `external`). `load_size`, `crop_size` (px) and `preprocess` are for whoever reads the pictures.

    Raises ValueError where the numbers do not go together.
    """

    networks: Literal["resnet", "stylegan2"] = "resnet"
    nce_idt: bool = True
    lambda_gan: float = 1.0
    lambda_nce: float = 1.0
    lambda_r1: float = 0.0
    lambda_identity: float = 0.0
    flip_equivariance: bool = False
    nce_layers: tuple[int, ...] = TAPS
    num_patches: int = 256
    nc: int = 256  # channels of F
    use_mlp: bool = True
    temperature: float = TEMPERATURE
    all_negatives: bool = False
    gan_mode: GANMode = "lsgan"
    batch: int = 1
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    schedule: LinearSchedule = LINEAR_400
    load_size: int = 286
    crop_size: int = 256
    preprocess: str = "resize_and_crop"
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    keys: Literal["published", "without_gradients", "reused"] = "reused"
    misread: bool = False
    as_published: bool = False
    negatives: Literal["internal", "external", "both"] = "internal"

    def __post_init__(self) -> None:
        if self.num_patches < 1 or not self.nce_layers:
            raise ValueError("the contrastive loss needs at least one place of at least one tap")
        if self.lambda_identity and not self.nce_idt:
            raise ValueError("lambda_identity weighs the translation of B, which is only made with nce_idt")
        if self.all_negatives and self.num_patches * self.batch < 2:
            raise ValueError("one place of one picture has no negatives; give more places or a larger batch")

    def build(self) -> tuple[Generator, nn.Module, PatchSampleF]:
        """G, D and F with the recipe's initial weights, from torch's global generator."""
        g: Generator
        d: nn.Module
        if self.networks == "resnet":
            g, d = ResnetGenerator(**self.generator), PatchDiscriminator(**self.discriminator)
        else:
            g, d = StyleTranslator(**self.generator), StyleDiscriminator(**self.discriminator)
        return g, d, PatchSampleF(g.tap_channels(self.nce_layers), self.nc, self.use_mlp)


@dataclass(frozen=True)
class Translated:
    """A's translation and B's own, (N, 3, H, W); where they were asked for, the taps of both sources in one batch."""

    fake: Tensor
    identity: Tensor | None = None
    taps: Sequence[Tensor] | None = None

    def keys(self, of_b: bool = False) -> list[Tensor] | None:
        """The taps of A or of B, without gradient."""
        count = len(self.fake)
        return None if self.taps is None else [(tap[count:] if of_b else tap[:count]).detach() for tap in self.taps]

    def all_keys(self) -> list[Tensor] | None:
        """The taps of A and of B after them, without gradient."""
        return None if self.taps is None else [tap.detach() for tap in self.taps]


@dataclass(frozen=True)
class Draws:
    """What is random in one step; what is None comes from the generator that the step is given.

    `places`: flat indices (P,) int64 of each tap, of the contrastive term and after them of the identity's. `noise`: of
    each doubling layer of a StyleGAN2-based generator, (N, 1, h, w), N being A's pictures and, with `nce_idt`, B's.
    """

    flip: bool | None = None
    places: Sequence[Tensor] | None = None
    noise: Sequence[Tensor] | None = None


NOTHING = Draws()


def translate(
    g: Generator,
    real_a: Tensor,
    real_b: Tensor | None,
    flip: bool = False,
    noise: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
    taps: Sequence[int] = (),
) -> Translated:
    """A's translation and B's, where there is a B, (N, 3, H, W) each, mirrored with `flip`; in one pass of G."""
    reals = real_a if real_b is None else torch.cat([real_a, real_b])
    reals = reals.flip(3) if flip else reals
    more = (noise, generator) if isinstance(g, StyleTranslator) else ()
    fakes, found = g.with_taps(reals, taps, *more)
    identity = None if real_b is None else fakes[len(real_a) :]
    return Translated(fakes[: len(real_a)], identity, found if taps else None)


def contrast(
    g: Generator,
    f: PatchSampleF,
    source: Tensor,
    target: Tensor,
    recipe: Recipe,
    flip: bool = False,
    places: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
    keys: Sequence[Tensor] | None = None,
    terms: int = 1,
    bank: ExternalBank | None = None,
) -> Tensor:
    """The weighed contrastive losses (terms,) of translations `target` against their `source`, (terms N, 3, H, W) both.

    The mean over rows, summed over the taps that G has and divided by the number of those that were asked for, which
    only differs for `smallstylegan2`. With `flip` the target is mirrored and its features are mirrored back.
    `keys` are the source's taps where they are known. `places` are each tap's of the first term, then of the next. The
    `bank` gives the negatives of one term from other pictures, and takes up the source.
    """
    with nullcontext() if recipe.as_published or recipe.keys == "published" else torch.no_grad():
        keys = g.encode(source, recipe.nce_layers) if keys is None else keys
        if places is None:
            sizes = [(tap.shape[2], tap.shape[3]) for tap in keys] * terms
            places = draw_patches(sizes, recipe.num_patches, generator, source.device)
        if terms > 1:
            places = [torch.stack(list(places[i :: len(keys)])) for i in range(len(keys))]
        keys = f(keys, places)
    # As the published code's passes of one picture each; where its operations run, torch does this by itself.
    misread = recipe.misread and source.is_cpu and len(source) == terms
    with misread_gradients(g) if misread else nullcontext():
        queries = [tap.flip(3) if flip else tap for tap in g.encode(target, recipe.nce_layers)]
    external: Sequence[Tensor | None] = [None] * len(keys)
    if bank is not None:
        external = bank.negatives(recipe.num_patches, generator)
        bank.add(source, places)
    internal = recipe.negatives != "external"
    groups = terms if recipe.all_negatives else len(source)
    losses = [
        patch_nce(q, k, groups, recipe.temperature, apart=recipe.as_published, external=e, internal=internal)
        .view(terms, -1)
        .mean(1)
        for q, k, e in zip(f(queries, places), keys, external, strict=True)
    ]
    return torch.stack(losses).sum(0) * (recipe.lambda_nce / len(recipe.nce_layers))


def discriminator_loss(d: nn.Module, real: Tensor, fake: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """D's loss `D` of reals and of fakes (N, 3, H, W), which pass no gradient; its parts; R1 where it is weighed."""
    real, fake = real.detach().requires_grad_(recipe.lambda_r1 > 0), fake.detach()
    if getattr(d, "independent", False) and not recipe.as_published and not recipe.lambda_r1:
        of_fake, scores = d(torch.cat([fake, real])).split([len(fake), len(real)])
    else:
        of_fake, scores = d(fake), d(real)
    out = {"D_fake": gan_loss(of_fake, False, recipe.gan_mode).mean()}
    out["D_real"] = gan_loss(scores, True, recipe.gan_mode).mean()
    out["D"] = (out["D_fake"] + out["D_real"]) / 2
    if recipe.lambda_r1 > 0:
        out["D_R1"] = squared_gradient(scores, real).mean() * (recipe.lambda_r1 / 2)
        out["D"] = out["D"] + out["D_R1"]
    return out


def generator_loss(
    networks: tuple[Generator, nn.Module, PatchSampleF],
    real_a: Tensor,
    real_b: Tensor,
    made: Translated,
    recipe: Recipe,
    flip: bool = False,
    places: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
    banks: Mapping[str, ExternalBank] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """The loss `G` of G and F and its parts; `made` is what `translate` made of the reals."""
    g, d, f = networks
    fake, identity = made.fake, made.identity
    taps = len(f.channels)
    zero = fake.new_zeros(())
    out = {"G_GAN": zero, "NCE": zero}
    if recipe.lambda_gan > 0:
        out["G_GAN"] = gan_loss(d(fake), True, recipe.gan_mode).mean() * recipe.lambda_gan
    both = zero
    together = g.independent and not recipe.as_published and not banks
    if recipe.lambda_nce > 0 and identity is not None and together:
        sources, targets = torch.cat([real_a, real_b]), torch.cat([fake, identity])
        found = contrast(g, f, sources, targets, recipe, flip, places, generator, made.all_keys(), terms=2)
        out["NCE"], out["NCE_Y"] = found
        both = found.mean()
    elif recipe.lambda_nce > 0:
        mine, others = (None, None) if places is None else (places[:taps], places[taps:])
        out["NCE"] = both = contrast(g, f, real_a, fake, recipe, flip, mine, generator, made.keys(), 1, banks.get("A"))[
            0
        ]
        if identity is not None:
            known, bank = made.keys(of_b=True), banks.get("B")
            out["NCE_Y"] = contrast(g, f, real_b, identity, recipe, flip, others, generator, known, 1, bank)[0]
            both = (out["NCE"] + out["NCE_Y"]) / 2
    out["G"] = out["G_GAN"] + both
    if identity is not None and recipe.lambda_identity > 0:
        out["idt"] = F.l1_loss(identity, real_b) * recipe.lambda_identity
        out["G"] = out["G"] + out["idt"]
    return out


class Training:
    """G, D and F in training; `step` makes one published iteration: D first, then G with F.

    `iterations_per_epoch` tells when the learning rate falls; without it the rate stays. The memory format is by
    default what the device is fastest in.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str = "cpu",
        networks: tuple[Generator, nn.Module, PatchSampleF] | None = None,
        processes: int = 1,
        iterations_per_epoch: int | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        if processes > 1 and recipe.all_negatives:
            raise ValueError(
                "negatives of the whole batch are those of one process: with several the loss is another; start one"
            )
        self.recipe, self.device, self.iteration = recipe, device, 0
        self.batch, self.iterations_per_epoch = recipe.batch // processes, iterations_per_epoch
        self.g, self.d, self.f = networks or recipe.build()
        self.networks: dict[str, nn.Module] = {"G": self.g, "D": self.d, "F": self.f}
        sides = ("A", "B") if recipe.nce_idt else ("A",)
        self.banks: dict[str, ExternalBank] = {}
        if recipe.negatives != "internal":
            self.banks = {side: ExternalBank(self.g, self.f, recipe.nce_layers) for side in sides}
        self.networks |= {f"bank_{side}": bank for side, bank in self.banks.items()}
        for network in self.networks.values():
            place(network, device, memory_format or fastest_format(device, recipe.networks))
            if recipe.as_published:
                as_published(network)
        self.optimisers = {
            name: adam(network.parameters(), recipe.lr, recipe.betas, device)
            for name, network in self.networks.items()
            if any(parameter.requires_grad for parameter in network.parameters())  # F without layers has none
        }

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: Draws = NOTHING,
        average: Average = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration on reals (2 batch, 3, H, W) in [-1, 1], those of A before those of B; labels are not looked at.

        `average` is called on gradients before each step of an optimiser, for several processes. Returns the losses as
        numbers without gradient. Raises ValueError for another number of pictures.
        """
        r = self.recipe
        real_a, real_b = halves(reals, self.batch)
        set_rate(self.optimisers.values(), r.lr, r.schedule, self.iteration, self.iterations_per_epoch)
        flip = False
        if r.flip_equivariance:
            flip = draws.flip if draws.flip is not None else _coin(generator)
        # Mirrored, the picture has other features: strided blurs are not symmetric.
        reused = r.keys == "reused" and not r.as_published and not flip and self.g.independent
        taps = r.nce_layers if reused else ()
        made = translate(self.g, real_a, real_b if r.nce_idt else None, flip, draws.noise, generator, taps)
        self.d.requires_grad_(True)
        losses = discriminator_loss(self.d, real_b, made.fake, r)
        self._update(losses["D"], ["D"], average)
        self.d.requires_grad_(False)
        networks = self.g, self.d, self.f
        losses |= generator_loss(networks, real_a, real_b, made, r, flip, draws.places, generator, self.banks)
        self._update(losses["G"], ["G", "F"], average)
        for bank in self.banks.values():
            bank.follow(self.g, self.f)
        self.iteration += 1
        return {name: value.detach() for name, value in losses.items()}

    def _update(self, loss: Tensor, names: Sequence[str], average: Average) -> None:
        optimisers = [(self.networks[name], self.optimisers[name]) for name in names if name in self.optimisers]
        for _, optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for network, optimiser in optimisers:
            average(network.parameters())
            optimiser.step()


def _coin(generator: torch.Generator | None) -> bool:
    device = "cpu" if generator is None else generator.device
    return bool(torch.rand((), generator=generator, device=device) < 0.5)
