"""Projection of pictures into a StyleGAN2: the optimisation of StyleGAN2-ADA, a baseline of Meng et al. 2022 (table 2).

Source: Karras et al. 2020 ("Analyzing and Improving the Image Quality of StyleGAN", section 5.2) with the settings of
StyleGAN2-ADA's released projector. That one searches W, with one w for all layers; Meng et al. name W+, with one a
layer, and else the default settings. Each picture has its own latents and noise maps, and none changes another's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.stylegan2.generator import Generator

# Pictures (N, 3, R, R) in [-1, 1] to features (N, D), whose squared distance is to be small.
Features = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor], None]
LARGEST = 256  # px; larger pictures are reduced before the features
SMALLEST_MAP = 8  # px; down to this size noise maps must look like noise


@dataclass(frozen=True)
class Recipe:
    """How a picture is projected; the defaults are the published ones."""

    steps: int = 1000
    space: Literal["w", "w+"] = "w+"
    lr: float = 0.1
    rampup: float = 0.05  # share of the steps in which the rate rises to lr
    rampdown: float = 0.25  # share of the steps, at the end, in which it falls to 0
    latent_noise: float = 0.05  # of the latents at the start, in units of their spread
    noise_until: float = 0.75  # share of the steps after which the latents get no noise
    draws: int = 10_000  # latents that mean and spread are taken from
    noise_maps: bool = True  # whether the generator's noise maps are found too; else its constant ones are used
    noise_weight: float = 1e5  # of the penalty on noise maps that do not look like noise


@dataclass(frozen=True, eq=False)
class Projection:
    """What was found: `ws` (N, num_ws, w_dim), `noise` by layer (N, 1, r, r), or empty for the generator's constant
    maps, the `pictures` (N, 3, R, R) that they make, about [-1, 1], and their `distances` (N,) in the features.
    """

    ws: Tensor
    noise: dict[str, Tensor]
    pictures: Tensor
    distances: Tensor


def pixel_features(pictures: Tensor) -> Tensor:
    """(N, 3 H W), whose squared distance is the mean squared difference of pixels; where there are no weights."""
    return pictures.flatten(1) / math.sqrt(pictures[0].numel())


def lpips_features(network: LPIPS) -> Features:
    """Features whose squared distance is that LPIPS distance; the published projector takes LPIPS on VGG16.

    The network must be in eval mode on the pictures' device.
    """

    def features(pictures: Tensor) -> Tensor:
        parts = []
        for i, tap in enumerate(network.taps(pictures)):
            head = network.get_parameter(f"lin{i}.model.1.weight")[0].clamp_min(0)
            # The length of an empty feature has no gradient, which `normalize`, unlike a root, takes as 0.
            unit = F.normalize(tap, dim=1, eps=1e-10)
            parts.append((unit * head.sqrt() / math.sqrt(tap[0, 0].numel())).flatten(1))
        return torch.cat(parts, 1)

    return features


def project(
    network: Generator,
    targets: Tensor,
    features: Features = pixel_features,
    recipe: Recipe = Recipe(),
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Projection:
    """Finds latents of an unconditional generator whose pictures are near `targets` (N, 3, R, R) in [-1, 1].

    All draws (latents, noise maps, and a noise a step) come from the generator, which is on the targets' device, as the
    network is. The network's parameters are left alone. `callback` gets each step's number from 0 and the distances
    (N,) of the noisy latents. Raises ValueError for targets of another shape, values that are not finite, a network
    with labels, or a recipe without steps.
    """
    _check(network, targets, recipe)
    mean, spread = latent_statistics(network, recipe.draws, generator, targets.device)
    layers = network.num_ws if recipe.space == "w+" else 1
    w = mean.repeat(len(targets), layers, 1).requires_grad_()
    noise = _draw_maps(network, len(targets), generator, targets.device) if recipe.noise_maps else {}
    found = [w, *noise.values()]
    adam = torch.optim.Adam(found, recipe.lr, betas=(0.9, 0.999))
    with torch.no_grad():
        wanted = features(_reduced(targets))

    def synthesise(w: Tensor) -> Tensor:
        ws = w.expand(-1, network.num_ws, -1)
        return network.synthesis(ws, "random", noise) if noise else network.synthesis(ws, "const")

    def distance(pictures: Tensor) -> Tensor:
        return (features(_reduced(pictures)) - wanted).square().sum(1)

    for step in range(recipe.steps):
        done = step / recipe.steps
        adam.param_groups[0]["lr"] = recipe.lr * rate_factor(done, recipe)
        scale = spread * recipe.latent_noise * max(0.0, 1 - done / recipe.noise_until) ** 2
        drawn = torch.randn(w.shape, generator=generator, device=w.device)
        distances = distance(synthesise(w + scale * drawn))
        loss = distances.sum()
        if noise:
            loss = loss + recipe.noise_weight * torch.stack([pattern(x) for x in noise.values()]).sum()
        for x, gradient in zip(found, torch.autograd.grad(loss, found), strict=True):
            x.grad = gradient
        adam.step()
        _normalise_(noise)
        if callback is not None:
            callback(step, distances.detach())
    with torch.no_grad():
        pictures = synthesise(w)
        ws = w.detach().expand(-1, network.num_ws, -1).clone()
        return Projection(ws, {name: x.detach() for name, x in noise.items()}, pictures, distance(pictures))


@torch.no_grad()
def latent_statistics(
    network: Generator, draws: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> tuple[Tensor, float]:
    """The mean (w_dim,) of mapped latents, and their spread: the root of the mean squared distance to it.

    The spread is one number, of whole vectors and not a dimension.
    """
    z = torch.randn(draws, network.z_dim, generator=generator, device=device)
    w = network.mapping(z, None, skip_w_avg_update=True)[:, 0].double()
    mean = w.mean(0)
    return mean.float(), (w - mean).square().sum(1).mean().sqrt().item()


def rate_factor(done: float, recipe: Recipe) -> float:
    """The learning rate at a share `done` in [0, 1) of the steps: a straight rise, and at the end half a cosine."""
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / recipe.rampdown))
    return fall * min(1.0, done / recipe.rampup)


def pattern(noise: Tensor) -> Tensor:
    """How far maps (N, 1, r, r) are from white noise: squared correlations with themselves one pixel on, summed.

    Along both axes, at the map's size and at each half of it down to 8 px; borders wrap around; a map for itself.
    """
    total = noise.new_zeros(())
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean((1, 2, 3)).square().sum()
        if noise.shape[2] <= SMALLEST_MAP:
            return total
        noise = F.avg_pool2d(noise, 2)


def _draw_maps(
    network: Generator, count: int, generator: torch.Generator | None, device: torch.device
) -> dict[str, Tensor]:
    """White noise for every layer that takes it, by the names of `SynthesisNetwork`."""
    shapes = {
        name.removesuffix(".noise_const"): buffer.shape
        for name, buffer in network.synthesis.named_buffers()
        if name.endswith(".noise_const")
    }
    return {
        name: torch.randn(count, 1, *shape, generator=generator, device=device).requires_grad_()
        for name, shape in shapes.items()
    }


@torch.no_grad()
def _normalise_(noise: dict[str, Tensor]) -> None:
    """Brings every map to mean 0 and mean square 1, in place."""
    for x in noise.values():
        x -= x.mean((1, 2, 3), keepdim=True)
        x *= x.square().mean((1, 2, 3), keepdim=True).rsqrt()


def _reduced(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, (LARGEST, LARGEST), mode="area") if pictures.shape[2] > LARGEST else pictures


def _check(network: Generator, targets: Tensor, recipe: Recipe) -> None:
    size = network.img_resolution
    if targets.ndim != 4 or targets.shape[1:] != (3, size, size) or not targets.is_floating_point() or not len(targets):
        raise ValueError(f"targets are (N, 3, {size}, {size}) in [-1, 1], not {targets.dtype} {tuple(targets.shape)}")
    if not torch.isfinite(targets).all():
        raise ValueError("targets hold values that are not finite")
    if network.c_dim:
        raise ValueError(f"the generator takes labels of {network.c_dim} dimensions; projection is without")
    if recipe.steps < 1 or recipe.draws < 2:
        raise ValueError(f"{recipe.steps} steps and {recipe.draws} draws are too few")
    if min(recipe.rampup, recipe.rampdown, recipe.noise_until) <= 0:
        raise ValueError("the shares of the steps in which rate and noise change must be above 0")
