"""The mechanism study that stands in for DiffAugment's tables at quick scale.

It shows the method's mechanism, not its numbers: a small GAN learns from 64 pictures with the
augmentation at four places, and what the discriminator memorises, what leaks and what comes out is measured.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Need,
    Picture,
    Plan,
    PlannedNetwork,
    Result,
)
from gengauge.benchmarks.core.tables import Column
from gengauge.benchmarks.evaluate import Score, score
from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.metrics.leakage import leakage
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo.small_gan import RESOLUTION, Discriminator, Generator
from gengauge.datasets import world
from gengauge.datasets.folder import list_pictures, load_square
from gengauge.reference.diffaugment import placement as placements
from gengauge.reference.diffaugment.augment import diff_augment
from gengauge.reference.diffaugment.placement import Placement, discriminator_loss, generator_loss
from gengauge.reference.nets.inception import Inception2015

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

REFERENCE_SEED = 1_000_000  # far from any training seed, so that no training picture is among the reference's
FEWEST_REFERENCES = 128
MOST_PICTURES = 10_000  # of a larger folder as many are drawn, the same for every seed
# The published policy of the BigGAN CIFAR runs, and the rows of the paper's ablation of placements under it.
POLICY = "translation,cutout"
ROWS: dict[str, tuple[str, Placement]] = {
    "none": ("biggan-baseline@translation-cutout", placements.NONE),
    "reals-only": ("augment-reals-only@translation-cutout", placements.REALS_ONLY),
    "d-only": ("augment-d-only-reals-and-fakes-not-through-g@translation-cutout", placements.D_ONLY),
    "diffaugment": ("diffaugment-reals-fakes-g@translation-cutout", placements.DIFFAUGMENT),
}


@dataclass(frozen=True)
class Settings:
    """The mechanism study: training pictures, networks, recipe, and how many pictures measure the outcome."""

    placement: str
    pictures: int = 64
    policy: str = POLICY
    latent: int = 64
    generator_width: int = 32
    discriminator_width: int = 24
    batch: int = 16
    d_steps: int = 2
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.99)
    ema: float = 0.99
    steps: int = 500
    curve_points: int = 10
    samples: int = 96
    references: int = 224


USUAL = Settings("none")

COLUMNS = (
    Column(
        "fid", f"FID (Inception 2015, clean resizing), {USUAL.samples} samples against fresh pictures", "1", "lower"
    ),
    Column(
        "kid", f"KID (Inception 2015, clean resizing), {USUAL.samples} samples against fresh pictures", "1", "lower"
    ),
    Column("d_gap", "Mean D score of training pictures minus that of fresh pictures: memorisation", "1", "lower"),
    Column(
        "leakage",
        "Share of samples with marks of the augmentation; 0 as untouched reals, 1 as augmented ones",
        "1",
        "lower",
    ),
    Column("d_train", "Mean D score of training pictures", "1", "none"),
    Column("d_fresh", "Mean D score of fresh pictures", "1", "none"),
    Column("d_fake", "Mean D score of samples", "1", "none"),
)

PROTOCOL = (
    (
        "network",
        "BigGAN, 4.3 and 4.2 million parameters",
        "a small convolutional GAN of this project, without normalisation in D",
    ),
    (
        "training pictures",
        "50,000 of CIFAR-10",
        f"{USUAL.pictures} at {RESOLUTION} px, of the embedded world or of --data",
    ),
    (
        "schedule",
        "250,000 generator steps, batch 50, 4 D steps",
        f"{USUAL.steps} generator steps, batch {USUAL.batch}, {USUAL.d_steps} D steps",
    ),
    (
        "reference",
        "the 10,000 test pictures",
        f"{USUAL.references} fresh pictures of the world, or all of --data that were not trained on (of 10,000)",
    ),
    (
        "samples",
        "10,000, generator in train mode, best snapshot by FID",
        f"{USUAL.samples} of the last EMA generator in eval mode (FID of so few is biased upward, alike in all rows)",
    ),
)


def study(context: Context) -> Iterator[Result]:
    """Trains the small GAN under one placement; curves of D's scores, then FID, KID, gap and leakage."""
    s: Settings = context.settings
    row, placement = ROWS[s.placement]

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        return diff_augment(x, s.policy, generator=generator)

    data = Data.of(context)
    yield from augmented(context, data, row, placement, augment, s.placement)
    if context.seed == 0 and s.placement == "none":
        yield Picture(row, "training", grid(data.train[:48].numpy(), 12, zoom=2), "48 of the training pictures")


def augmented(
    context: Context, data: Data, row: str, placement: Placement, augmentation: Augmentation, about: str
) -> Iterator[Result]:
    """A row of the small GAN trained with an augmentation at a placement, with all columns."""
    s: Settings = context.settings
    generator = torch.Generator(context.device).manual_seed(context.seed)
    g, d, ema = _networks(s, context.device)
    optimise_g = torch.optim.Adam(g.parameters(), s.learning_rate, s.betas, fused=True)
    optimise_d = torch.optim.Adam(d.parameters(), s.learning_rate, s.betas, fused=True)
    reals, fresh = (_to_range(p).to(context.device) for p in (data.train, data.reference[: s.references]))
    probe = torch.randn(s.samples, s.latent, generator=generator, device=context.device)

    def augment(x: Tensor) -> Tensor:
        return augmentation(x, generator)

    def latents() -> Tensor:
        return torch.randn(s.batch, s.latent, generator=generator, device=context.device)

    for step in range(1, s.steps + 1):
        for _ in range(s.d_steps):
            chosen = torch.randint(len(reals), (s.batch,), generator=generator, device=context.device)
            with torch.no_grad():
                fakes = g(latents())
            optimise_d.zero_grad()
            discriminator_loss(d, reals[chosen], fakes, placement, augment).backward()
            optimise_d.step()
        d.requires_grad_(False)
        optimise_g.zero_grad()
        generator_loss(d, g(latents()), placement, augment).backward()
        optimise_g.step()
        d.requires_grad_(True)
        _follow(ema, g, s.ema)
        if step % max(1, s.steps // s.curve_points) == 0:
            yield from _scores(row, d, reals, fresh, _sample(ema, probe), step)
        if step % 10 == 0:
            context.progress(step, s.steps + s.samples, f"training step {step}")

    samples = _sample(ema, probe)
    final = list(_scores(row, d, reals, fresh, samples, None))
    yield from final
    mean = {m.column: m.value for m in final}
    yield Measurement(row, "d_gap", mean["d_train"] - mean["d_fresh"], samples=len(fresh))
    yield _leakage(row, samples, fresh, augment(fresh))
    yield from scored(context, data, row, to_uint8(samples.cpu()), about)


def scored(context: Context, data: Data, row: str, samples: Tensor, about: str) -> Iterator[Result]:
    """FID and KID of samples (N, 3, 32, 32) uint8, and a picture of some."""
    s: Settings = context.settings
    mine = extract(
        samples,
        data.network,
        device=context.device,
        progress=lambda done, total: context.progress(s.steps + done, s.steps + total, "Inception features"),
    )
    fid, kid = score(data.features, mine, data.network, ("fid", "kid"))
    yield _measurement(row, "fid", fid, len(samples))
    yield _measurement(row, "kid", kid, len(samples))
    if context.seed == 0:
        yield Picture(
            row, "samples", grid(samples[:48].numpy(), 12, zoom=2), f"48 samples of the GAN trained with: {about}"
        )


def _leakage(row: str, samples: Tensor, fresh: Tensor, augmented: Tensor) -> Measurement:
    try:
        return Measurement(row, "leakage", leakage(samples, fresh, augmented), samples=len(samples))
    except ValueError as error:  # on some pictures the marks tell nothing; the other numbers stand
        return Measurement(row, "leakage", math.nan, missing=str(error))


def _measurement(row: str, column: str, found: Score, samples: int) -> Measurement:
    assert found.value is not None
    return Measurement(row, column, found.value, found.low, found.high, found.interval, samples, note=found.note)


def check(settings: Settings, data: Path | None) -> None:
    """Refuses a folder with too few pictures before any job starts."""
    if data is not None:
        found, least = len(list_pictures(data)), settings.pictures + FEWEST_REFERENCES
        if found < least:
            raise ValueError(
                f"{data} holds {found} pictures; the study trains on {settings.pictures} and needs "
                f"{FEWEST_REFERENCES} others as reference, {least} in all"
            )


@dataclass(frozen=True, eq=False)
class Data:
    """Training and reference pictures, both (N, 3, 32, 32) uint8, and the reference's features by a network.

    The reference of the world is the same for all seeds. Of a folder, a seed's permutation takes the training pictures
    and leaves the rest; features are computed for the whole folder, so that every seed finds them in the cache.
    """

    train: Tensor
    reference: Tensor
    features: np.ndarray[Any, Any]
    network: FeatureNetwork

    @classmethod
    def of(cls, context: Context) -> Data:
        """Those of a job. Raises WeightsNotFound, and as `check` does."""
        s: Settings = context.settings
        network = load_network("inception")

        def progress(done: int, total: int) -> None:
            context.progress(0, total + s.steps, f"reference features {done} of {total}, once for all jobs")

        if context.data is None:
            train = world.pictures(context.seed, range(s.pictures), RESOLUTION)
            reference = world.pictures(REFERENCE_SEED, range(s.references), RESOLUTION)
            return cls(
                train, reference, features(reference, network, device=context.device, progress=progress), network
            )
        check(s, context.data)
        paths = list_pictures(context.data)
        if len(paths) > MOST_PICTURES:
            drawn = np.random.default_rng(0).permutation(len(paths))[:MOST_PICTURES]
            paths = [paths[i] for i in sorted(drawn)]
        pictures = load_square(paths, RESOLUTION)
        every = features(pictures, network, device=context.device, progress=progress)
        order = np.random.default_rng(context.seed).permutation(len(pictures))
        chosen, rest = order[: s.pictures], order[s.pictures :]
        return cls(pictures[chosen], pictures[rest], every[rest], network)


def _networks(s: Settings, device: str) -> tuple[Generator, Discriminator, Generator]:
    g, d = Generator(s.latent, s.generator_width), Discriminator(s.discriminator_width)
    for network in (g, d):
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return g, d, copy.deepcopy(g).eval().requires_grad_(False)


@torch.no_grad()
def _follow(ema: torch.nn.Module, source: torch.nn.Module, decay: float) -> None:
    """Moves the average towards the source: parameters and buffers alike."""
    for mean, now in zip(ema.state_dict().values(), source.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


@torch.no_grad()
def _sample(generator: Generator, latents: Tensor) -> Tensor:
    return torch.cat([generator(z) for z in latents.split(64)])


@torch.no_grad()
def _scores(
    row: str, d: Discriminator, reals: Tensor, fresh: Tensor, samples: Tensor, step: int | None
) -> Iterator[Measurement]:
    for column, pictures in (("d_train", reals), ("d_fresh", fresh), ("d_fake", samples)):
        mean = torch.cat([d(p) for p in pictures.split(64)]).mean()
        yield Measurement(row, column, float(mean), samples=len(pictures), step=step)


def _to_range(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


def _plan(settings: Settings) -> Plan:
    return Plan(
        networks=(
            PlannedNetwork(
                "small GAN, generator",
                lambda: Generator(settings.latent, settings.generator_width),
                lambda: (torch.empty(1, settings.latent),),
            ),
            PlannedNetwork(
                "small GAN, discriminator",
                lambda: Discriminator(settings.discriminator_width),
                lambda: (torch.empty(1, 3, RESOLUTION, RESOLUTION),),
            ),
            PlannedNetwork("Inception 2015", lambda: Inception2015().eval(), lambda: (torch.empty(1, 3, 299, 299),)),
        ),
        needs=lambda data: (
            Need("pictures", data or Path("embedded world"))
            if data is None or data.exists()
            else Need("pictures", None, (str(data),), "give a folder of pictures with --data"),
            weights_need("inception"),
        ),
    )


def _experiment(placement: str, seeds: int) -> Experiment:
    settings = Settings(placement)
    return Experiment(
        key=placement,
        table="placements",
        rows=(ROWS[placement][0],),
        columns=COLUMNS,
        scales={"quick": AtScale(settings, seeds, Limits(seconds=1800, gibibytes=6), plan=_plan(settings))},
        run=study,
        check=check,
        protocol=PROTOCOL,
    )


def _cells(column: str, **rows: str) -> dict[str, Cell]:
    return {name: Cell(ROWS[row][0], column) for name, row in rows.items()}


CLAIMS = (
    Claim(
        "fid",
        "With few pictures, DiffAugment has a lower FID than no augmentation.",
        "placements",
        _cells("fid", none="none", ours="diffaugment"),
        lambda v: v["none"] - v["ours"],
    ),
    Claim(
        "kid",
        "With few pictures, DiffAugment has a lower KID than no augmentation.",
        "placements",
        _cells("kid", none="none", ours="diffaugment"),
        lambda v: v["none"] - v["ours"],
    ),
    Claim(
        "memorisation",
        "DiffAugment keeps the discriminator from memorising: its gap between training and fresh pictures is smaller.",
        "placements",
        _cells("d_gap", none="none", ours="diffaugment"),
        lambda v: v["none"] - v["ours"],
    ),
    Claim(
        "leak",
        "Augmenting the reals only makes the generator reproduce the augmentation; DiffAugment leaks less.",
        "placements",
        _cells("leakage", reals="reals-only", ours="diffaugment"),
        lambda v: v["reals"] - v["ours"],
    ),
    Claim(
        "blind",
        "Augmenting in the discriminator's step only blinds it to samples as they are: it scores them higher than with "
        "DiffAugment.",
        "placements",
        _cells("d_fake", d_only="d-only", ours="diffaugment"),
        lambda v: v["d_only"] - v["ours"],
    ),
    Claim(
        "unbalance",
        "Augmenting in the discriminator's step only ends worse than DiffAugment (FID).",
        "placements",
        _cells("fid", d_only="d-only", ours="diffaugment"),
        lambda v: v["d_only"] - v["ours"],
    ),
)


EXPERIMENTS = (
    _experiment("none", 6),
    _experiment("diffaugment", 6),
    _experiment("reals-only", 3),
    _experiment("d-only", 3),
)
