"""Held-out cats of the embedded world for an edit, with what they should look like, and trainings of edits on them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Measurement, Plan
from gengauge.benchmarks.features.perceptual import load_lpips, perceptual_loss
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.metrics.edges import canny_edges
from gengauge.benchmarks.metrics.edit_fidelity import aggregate
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.gan_warping.edits import EDITS, Warps, editable, together, warps
from gengauge.benchmarks.papers.gan_warping.plans import planned
from gengauge.benchmarks.papers.gan_warping.scores import fidelities, measurements
from gengauge.benchmarks.training.loop import Snapshot, Trainable, history
from gengauge.benchmarks.training.processes import join
from gengauge.benchmarks.training.warping import train_edit
from gengauge.benchmarks.zoo import posed_cats, stylegan2_poses
from gengauge.reference.gan_warping.low_rank import StyleGenerator, Update, render
from gengauge.reference.gan_warping.training import Recipe
from gengauge.reference.gan_warping.warps import normalised_grid, remap
from gengauge.reference.nets.lpips import LPIPS, Trunk
from gengauge.reference.nets.stylegan2.generator import Generator

Array = np.ndarray[Any, Any]
MOVED = 1.0  # px that a warp takes a pixel at least, for it to belong to the changed region
RECIPE = Recipe(layers="4", rank=8, stylemix=(stylegan2_poses.INJECT, 10), batch=4, iterations=150, lr=0.02)
FIRST_HELD_OUT = 10_000  # seeds below are edited, seeds from here on are held out


@dataclass(frozen=True)
class Lesson:
    """How an edit of the world is learnt: by which recipe, from how many pictures, with which trunk of LPIPS.

    `exact` samples warps without the published half pixel (see `normalised_grid`).
    """

    recipe: Recipe = RECIPE
    pictures: int = 10
    trunk: Trunk = "alex"
    exact: bool = False


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pictures that no training sees: ws (N, num_ws, w_dim), as the base makes them, warped, and what the warp moves.

    `base` and `targets` are (N, R, R, 3) uint8; `masks` (N, R, R) of 0 and 1.
    """

    ws: Tensor
    base: Array
    targets: Array
    masks: Array

    def scored(self, row: str, pictures: Array, judges: Judges, note: str = "") -> Iterator[Measurement]:
        """The row's values for pictures (N, R, R, 3) uint8 of these ws, with a note."""
        found = fidelities(pictures, self.targets, self.masks, judges.lpips, canny_edges)
        return (one.noted(note) for one in measurements(row, found))


class Judges:
    """The network that scores pictures, opened when it is needed."""

    @functools.cached_property
    def lpips(self) -> LPIPS:
        """Raises WeightsNotFound."""
        return load_lpips("alex", "cpu")


def held_out(g: Generator, names: tuple[str, ...], count: int, seed: int) -> HeldOut:
    """Cats that are held out, others for each seed, and their ground truth under one edit or several together."""
    first = FIRST_HELD_OUT + 2 * seed * count  # twice, for some cannot be edited and the next ones are taken
    found = warps(names, editable(together([EDITS[name] for name in names]), first, count))
    ws = mapped(g, found.z)
    base = pixels(g, ws)
    targets = np.stack([remap(one, grid) for one, grid in zip(base, found.pixels, strict=True)])
    still = torch.stack(torch.meshgrid(*map(torch.arange, found.pixels.shape[2:]), indexing="xy"))
    moved = (found.pixels - still).norm(dim=1) >= MOVED
    return HeldOut(ws, base, targets, moved.float().numpy())


@dataclass(frozen=True, eq=False)
class Learnt:
    """A trained edit: its factors, the changed weights by name, how held-out pictures fared meanwhile, `history`."""

    update: Update
    changed: Mapping[str, Tensor]
    curve: tuple[Mapping[str, float], ...]
    history: str


@torch.no_grad()
def mapped(g: Generator, z: Tensor) -> Tensor:
    """ws of latents, without truncation."""
    device = next(g.parameters()).device
    return g.mapping(z.to(device), None)


@torch.no_grad()
def pixels(g: StyleGenerator, ws: Tensor, changed: Mapping[str, Tensor] | None = None) -> Array:
    """Pictures (N, R, R, 3) uint8 of ws by the base or an edited generator, with constant noise."""
    on_device = {name: value.to(ws) for name, value in (changed or {}).items()}
    made = [render(g, part, on_device, noise_mode="const") for part in ws.split(64)]
    return to_uint8(torch.cat(made).clamp(-1, 1)).permute(0, 2, 3, 1).cpu().numpy()


def taught(name: str, pictures: int, seed: int) -> Warps:
    """The pictures of a seed that teach an edit, and how they are warped.

    Raises ValueError for a seed whose pictures are held out.
    """
    if 2 * (seed + 1) * pictures > FIRST_HELD_OUT:
        raise ValueError(f"seed {seed} would be taught by pictures that are held out; choose a smaller one")
    return warps((name,), editable(EDITS[name], 2 * seed * pictures, pictures))


def learnt(context: Context, name: str, lesson: Lesson, watched: HeldOut, every: int = 50) -> Learnt:
    """The edit that a lesson teaches the zoo's generator, from where an earlier job left it.

    The seed chooses which pictures are edited. The curve is of held-out pictures. Raises what the training raises.
    """
    processes, device = join(context.device)
    g = stylegan2_poses.load().to(device)
    found = taught(name, lesson.pictures, context.seed)
    config = {
        "edit": name,
        "lesson": repr(lesson),
        "generator": stylegan2_poses.card()["sha256"],
        "warps": hashlib.sha256(found.pixels.numpy().tobytes()).hexdigest()[:12],
        "watched": hashlib.sha256(watched.targets.tobytes()).hexdigest()[:12],
    }
    digest = hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()[:12]

    def snapshot(training: Trainable) -> Snapshot:
        def measure(iteration: int) -> dict[str, float]:
            tensors = cast(Update, training.networks["update"]).tensors()
            made = pixels(g, watched.ws.to(device), tensors)
            return dict(aggregate(fidelities(made, watched.targets, watched.masks, None, None)).corrected)

        return measure

    update, trained = train_edit(
        lesson.recipe,
        g,
        mapped(g, found.z),
        torch.stack([normalised_grid(grid, exact=lesson.exact) for grid in found.pixels]),
        context.work / f"gan-warping-{digest}-seed{context.seed}",
        config,
        seed=context.seed,
        device=device,
        distance=perceptual_loss(lesson.trunk, device) if lesson.recipe.lpips else None,
        every=every,
        snapshot=snapshot,
        processes=processes,
        tell=context.progress,
        code=code_version(),
    )
    return Learnt(update, update.tensors(), tuple(trained.curve), history(trained.about, code_version()))


def plan(*trunks: Trunk) -> Plan:
    """What trainings on the world need."""
    keys = dict.fromkeys(f"lpips-{trunk}" for trunk in ("alex", *trunks))
    return Plan(
        (planned(stylegan2_poses.build, posed_cats.Z_DIM),), lambda data: tuple(weights_need(key) for key in keys)
    )
