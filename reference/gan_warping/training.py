"""Training an edit: the changed generator is to make what warped pictures of the base look like, or coloured ones.

There is no discriminator: a step renders ws of the edited pictures, their fine styles replaced by those of random
latents, by both generators, warps the base's and compares. Source: Wang et al., SIGGRAPH 2022, section 3.2 and 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gengauge.reference.gan_warping.latents import PUBLISHED_MIX, mix
from gengauge.reference.gan_warping.low_rank import (
    RANK,
    Kind,
    StyleGenerator,
    Update,
    feature,
    layers,
    render,
    selected,
)
from gengauge.reference.gan_warping.warps import warp

Average = Callable[[Iterable[nn.Parameter]], None]
Distance = Callable[[Tensor, Tensor], Tensor]  # of two batches (N, 3, H, W) in [-1, 1]: (N,)
Rates = Literal["karras", "constant"]


@dataclass(frozen=True)
class Recipe:
    """How an edit is trained; the defaults are those of most released scripts.

    `layers` is an index, a range or `all` of those that `kind` names; `rank` None trains whole weights. `stylemix` are
    the entries of ws that get random styles, None for no augmentation. `target_layer` compares the features of that
    layer instead of pictures. `lpips` weighs a distance that is given to the training. `crop_bars` is for cars.
    Raises ValueError where the numbers do not go together.
    """

    layers: str = "8"
    rank: int | None = RANK
    kind: Kind = "conv"
    only_weight: bool = True
    stylemix: tuple[int, int] | None = PUBLISHED_MIX
    l1: float = 0.0
    mse: float = 0.0
    lpips: float = 1.0
    target_layer: int | None = None
    crop_bars: bool = False
    batch: int = 8
    iterations: int = 2000
    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    rates: Rates = "karras"
    rampup: float = 0.05
    rampdown: float = 0.5

    def __post_init__(self) -> None:
        if self.batch < 1 or self.iterations < 1 or not self.lr > 0:
            raise ValueError("batch and iterations are 1 or more, and the rate is above 0")
        if not all(0 <= x < math.inf for x in (self.l1, self.mse, self.lpips)) or not self.l1 + self.mse + self.lpips:
            raise ValueError("no loss is negative, and one of l1, mse and lpips is above 0")
        if self.target_layer is not None and self.lpips:
            raise ValueError("LPIPS compares pictures, not features: set lpips to 0 where a target_layer is given")
        if self.rates not in get_args(Rates):
            raise ValueError(f"rates are {' or '.join(get_args(Rates))}, not {self.rates!r}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.rates == "constant":
            return self.lr
        return karras_rate(step, self.iterations, self.lr, self.rampup, self.rampdown)


@dataclass(frozen=True)
class ColourWeights:
    """Weights of a colour edit's two losses: inside of the strokes, and where nothing may change."""

    colour: float = 8.0
    background: float = 1.0


@dataclass(frozen=True)
class Draws:
    """What is random in a step; what is None comes from the generator that the step is given.

    `z` (N, z_dim); `noise` and `base_noise` are StyleGAN2's maps for the changed generator and for the base.
    """

    z: Tensor | None = None
    noise: Mapping[str, Tensor] | None = None
    base_noise: Mapping[str, Tensor] | None = None


NOTHING = Draws()


def karras_rate(step: int, iterations: int, lr: float, rampup: float = 0.05, rampdown: float = 0.25) -> float:
    """A rate that rises evenly for the first share of a training and falls along a cosine for the last one."""
    t = step / iterations
    ramp = min(1.0, (1.0 - t) / rampdown) if rampdown else 1.0
    ramp = 0.5 - 0.5 * math.cos(ramp * math.pi)
    return lr * (ramp * min(1.0, t / rampup) if rampup else ramp)


class Training:
    """The training of one edit, warped or coloured.

    As published the two generators draw StyleGAN2's noise independently. Randomness of the start, the factors'
    context, comes from torch's global generator.
    """

    def __init__(
        self,
        recipe: Recipe,
        g: StyleGenerator,
        distance: Distance | None = None,
        device: str | torch.device = "cpu",
        colours: ColourWeights | None = None,
    ) -> None:
        """`distance` is the perceptual one; without `colours` the edit is a warp.

        Raises ValueError for layers that the generator does not have, an augmentation that has no entries to mix, and
        a perceptual loss without a distance.
        """
        if recipe.stylemix is not None and not 0 <= recipe.stylemix[0] < min(recipe.stylemix[1], g.num_ws):
            raise ValueError(
                f"this generator has {g.num_ws} ws, so that mixing entries {recipe.stylemix[0]} to "
                f"{recipe.stylemix[1]} changes nothing; choose others, or None to train without it"
            )
        if recipe.lpips and colours is None and distance is None:
            raise ValueError("a loss with LPIPS needs its network; give one, or set lpips to 0")
        self.recipe, self.g, self.distance, self.colours = recipe, g, distance, colours
        self.iteration = 0
        names = selected(layers(g, recipe.kind), recipe.layers)
        self.target_layer = None if recipe.target_layer is None else selected(layers(g), recipe.target_layer)[0]
        self.update = Update(g, names, recipe.rank, recipe.only_weight).to(device)
        self.layout = _channels_last(g)
        self.networks: Mapping[str, nn.Module] = {"update": self.update}
        self.optimisers = {"update": torch.optim.Adam(self.update.parameters(), recipe.rate(0), recipe.betas)}

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        average: Average = lambda parameters: None,
        draws: Draws = NOTHING,
    ) -> dict[str, Tensor]:
        """One iteration: the losses, weighted.

        `reals` are ws (N, num_ws, w_dim) of edited pictures; `labels` their grids (N, h, w, 2), or for a colour edit
        (N, 5, H, W): the colours in [-1, 1], the strokes' mask and that of what stays.
        """
        optimiser = self.optimisers["update"]
        for group in optimiser.param_groups:
            group["lr"] = self.recipe.rate(self.iteration)
        losses = self.losses(*self.pictures(reals, generator, draws), labels)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        average(self.update.parameters())
        optimiser.step()
        self.iteration += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def pictures(
        self, ws: Tensor, generator: torch.Generator | None = None, draws: Draws = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """Pictures (or features) of ws with other fine styles: the changed generator's and the base's, unwarped."""
        if self.recipe.stylemix is not None:
            z = draws.z
            if z is None:
                z = torch.randn(len(ws), self.g.z_dim, generator=generator, device=ws.device)
            with torch.no_grad():
                ws = mix(ws, self.g.mapping(z, None), self.recipe.stylemix)
        with full_precision(self.g.synthesis):
            made = self._made(ws, self.update.tensors(), noise=draws.noise, generator=generator)
        with torch.no_grad():
            base = self._made(ws, None, noise=draws.base_noise, generator=generator)
        return made, base

    def losses(self, made: Tensor, base: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted losses by name; terms without a weight are left out.

        Raises ValueError for labels of another shape.
        """
        if self.colours is not None:
            if labels.shape != (len(made), 5, *made.shape[2:]):
                wanted = (len(made), 5, *made.shape[2:])
                raise ValueError(f"strokes must be {wanted}: colours and two masks, not {tuple(labels.shape)}")
            colours, strokes, kept = labels[:, :3], labels[:, 3:4], labels[:, 4:5]
            # Means are over all pixels, not over a mask's, as published.
            return {
                "L1_color": self.colours.colour * (made * strokes - colours * strokes).abs().mean(),
                "L1_background": self.colours.background * (made * kept - base * kept).abs().mean(),
            }
        with torch.no_grad():
            target = warp(base, labels, self.recipe.crop_bars)
        if target.shape != made.shape:
            sides = " x ".join(map(str, made.shape[2:]))
            raise ValueError(f"grids must be of the size of what is compared, {sides}, not {tuple(labels.shape[1:3])}")
        r, out = self.recipe, {}
        if r.l1:
            out["L1"] = r.l1 * (made - target).abs().mean()
        if r.mse:
            out["MSE"] = r.mse * (made - target).square().mean()
        if r.lpips:
            assert self.distance is not None
            out["LPIPS"] = r.lpips * self.distance(made, target).mean()
        return out

    def _made(self, ws: Tensor, changed: Mapping[str, Tensor] | None, **noise: Any) -> Tensor:
        changed = {**self.layout, **(changed or {})}
        if self.target_layer is None:
            return render(self.g, ws, changed, **noise)
        return feature(self.g, self.target_layer, ws, changed, **noise)


def _channels_last(g: StyleGenerator) -> dict[str, Tensor]:
    """StyleGAN2's first map, laid out so that in it and all maps made of it a pixel's channels lie side by side.

    The same values, for a CPU, whose transposed convolutions take a third of the time so.
    """
    const = dict(g.synthesis.named_parameters()).get("b4.const")
    if const is None or const.device.type != "cpu":
        return {}
    return {"synthesis.b4.const": const.detach().permute(1, 2, 0).contiguous().permute(2, 0, 1)}


@contextmanager
def full_precision(synthesis: nn.Module) -> Iterator[None]:
    """The blocks that would work in half precision on a GPU work in single precision, as the trained generator does."""
    half = [module for module in synthesis.modules() if getattr(module, "use_fp16", False)]
    for module in half:
        module.use_fp16 = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in half:
            module.use_fp16 = True  # type: ignore[assignment]
