"""How a table samples and scores a generator, and how a discriminator is judged: the rules of its code base."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.features.resize import Mode
from gengauge.benchmarks.features.stream import stream_features
from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.papers.diffaugment.rows import Protocol, Run
from gengauge.benchmarks.training.loop import step_seed
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.sets import PictureSet
from gengauge.reference.diffaugment import biggan
from gengauge.reference.diffaugment.augment import diff_augment
from gengauge.reference.nets.biggan import BatchNorm
from gengauge.reference.nets.biggan import Generator as BigGAN
from gengauge.reference.nets.spectral_norm import SpectralNorm
from gengauge.reference.nets.stylegan2.generator import Generator as StyleGAN2

Array = np.ndarray[Any, Any]
MODE: Mode = "legacy_tensorflow"  # the published Inception graphs resize inside, TensorFlow 1's way
DRAWN, ACCUMULATED = 0, 1  # what a sampling's seed is mixed with: for its batches, and for statistics before them


def score(
    g: nn.Module,
    run: Run,
    inception: FeatureNetwork,
    reference: Gaussian | None,
    seed: int,
    device: str,
    group: Processes | None = None,
) -> dict[str, float]:
    """`fid` and, with a classifier and where the table has it, `is` with `is_std`, of one set of samples.

    Several processes make the samples together; only the first needs the reference and returns anything.
    """
    group = group or Processes()
    mine = group.share(range(math.ceil(run.protocol.samples / run.protocol.batch)))
    found = [extract(made.cpu(), inception, MODE, device) for made in samples(g, run, mine, seed, device, group)]
    together = group.gathered(found)
    return _scores(np.concatenate(together), run, inception, reference) if reference is not None else {}


def score_pictures(
    pictures: Iterator[Tensor], run: Run, inception: FeatureNetwork, reference: Gaussian, device: str
) -> dict[str, float]:
    """The same of pictures in batches, of which the first ones count, as many as the protocol has."""
    return _scores(stream_features(pictures, inception, MODE, device), run, inception, reference)


def _scores(features: Array, run: Run, inception: FeatureNetwork, reference: Gaussian) -> dict[str, float]:
    p = run.protocol
    features = features[: p.samples]
    out = {"fid": frechet_distance(reference, fit(features, p.ddof))}
    if p.inception_score and inception.probabilities is not None:
        with torch.inference_mode():
            where = next(inception.network.parameters()).device
            probabilities = inception.probabilities(torch.from_numpy(features).to(where)).double().cpu().numpy()
        splits = min(p.is_splits, len(probabilities))
        out["is"], out["is_std"] = inception_score(probabilities, splits, p.is_borders)
    return out


@torch.no_grad()
def samples(
    g: nn.Module, run: Run, batches: Iterable[int], seed: int, device: str, group: Processes | None = None
) -> Iterator[Tensor]:
    """Batches of samples by ascending number: uint8, or float32 grey levels where the protocol does not round.

    A batch has noise of its own and is the same whichever others are made beside it. A BigGAN under the CIFAR protocol
    is in training mode, as published: its batch norms take the batch's statistics, and its power vectors move on from
    batch to batch. It is a copy that samples, so that the training's own vectors stay.
    """
    p = run.protocol
    generator = torch.Generator(device)
    g = copy.deepcopy(g)
    if isinstance(g, BigGAN):
        g.train()
        if p.statistics == "accumulated":
            accumulate_statistics(g, p, seed, device, group)
            g.eval()
        make: Callable[[], Tensor] = partial(_biggan_batch, g, p.batch, generator, device)
    else:
        assert isinstance(g, StyleGAN2)
        g.eval()
        make = partial(_stylegan2_batch, g, p.batch, generator, device)
    done = 0
    for number in batches:
        _move_on(g, number - done)
        generator.manual_seed(step_seed(seed, DRAWN, number))
        yield grey_levels(make(), run)
        done = number + 1


def _move_on(g: nn.Module, batches: int) -> None:
    """Moves power vectors as so many batches would that other processes make; in eval mode they stay."""
    layers = [module for module in g.modules() if isinstance(module, SpectralNorm)] if g.training else []
    for _ in range(batches):
        for layer in layers:
            layer.normalised()


def _biggan_batch(g: BigGAN, batch: int, generator: torch.Generator, device: str) -> Tensor:
    draws = biggan.draw_step(batch, g, generator, device)
    return g(draws.z, draws.y)


def _stylegan2_batch(g: StyleGAN2, batch: int, generator: torch.Generator, device: str) -> Tensor:
    z = torch.randn(batch, g.z_dim, generator=generator, device=device)
    return g(z, None, generator=generator)


def accumulate_statistics(
    g: BigGAN, protocol: Protocol, seed: int, device: str, group: Processes | None = None
) -> None:
    """Sets each batch norm's statistics to the means of its batches' moments over many samples (compare_gan).

    Several processes share the batches.
    """
    group = group or Processes()
    norms = [module for module in g.modules() if isinstance(module, BatchNorm)]
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[0].mean((0, 2, 3)).cpu(), inputs[0].var((0, 2, 3), unbiased=False).cpu()

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    count = math.ceil(protocol.accumulated / protocol.batch)
    generator, done, mine = torch.Generator(device), 0, []
    for number in group.share(range(count)):
        _move_on(g, number - done)
        generator.manual_seed(step_seed(seed, ACCUMULATED, number))
        _biggan_batch(g, protocol.batch, generator, device)
        mine.append([seen[norm] for norm in norms])
        done = number + 1
    _move_on(g, count - done)
    for handle in handles:
        handle.remove()
    # In the order of the batches, so that sums are rounded alike in any number of processes.
    for norm, *moments in zip(norms, *group.gathered(mine), strict=True):
        norm.stored_mean.copy_(sum(mean for mean, _ in moments) / count)
        norm.stored_var.copy_(sum(variance for _, variance in moments) / count)


@torch.no_grad()
def d_accuracy(
    d: nn.Module, run: Run, pictures: PictureSet, seed: int, device: str, augment: biggan.Augment | None = None
) -> float:
    """The share of real pictures whose score, augmented as in training and in eval mode, is above 0."""
    generator = torch.Generator(device).manual_seed(seed)
    chosen = np.arange(len(pictures))
    low, high = run.value_range
    policy = run.recipe.policy if _augments_reals(run) else ""
    before, right = d.training, 0
    d.eval()
    for part in np.array_split(chosen, math.ceil(len(chosen) / run.recipe.batch)):
        reals = pictures.pictures(part).to(device).float() * ((high - low) / 255) + low
        reals = augment(reals, generator) if augment else diff_augment(reals, policy, generator=generator)
        if isinstance(run.recipe, biggan.Recipe):
            assert pictures.labels is not None
            scores = d(reals, torch.from_numpy(pictures.labels[part]).to(device))
        else:
            # Its minibatch deviation needs whole groups; the last pictures are repeated to fill one.
            full = torch.cat([reals, reals[-1:].expand(-len(reals) % 4, -1, -1, -1)])
            scores = d(full)[: len(reals)]
        right += int((scores > 0).sum())
    d.train(before)
    return right / len(chosen)


def _augments_reals(run: Run) -> bool:
    return not isinstance(run.recipe, biggan.Recipe) or run.recipe.placement.reals


def grey_levels(pictures: Tensor, run: Run) -> Tensor:
    low, high = run.value_range
    if run.protocol.rounded:
        return to_uint8((pictures - low) * (2 / (high - low)) - 1 if (low, high) != (-1.0, 1.0) else pictures)
    return (pictures - low) * (255 / (high - low))


def generator_of(run: Run, state: dict[str, Any], device: str) -> nn.Module:
    g = run.recipe.networks()[0]
    g.load_state_dict(state)
    return g.to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
