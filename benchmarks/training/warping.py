"""Training of GAN Warping's edits: latents and their warps or colours in, the changed layers out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.training.loop import Schedule, Snapshot, Tell, Trainable, Trained, train
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.edited_weights import CONTEXT, LAMBDA, Factors, LowRankEdit, fingerprint
from gengauge.datasets.sets import Array
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.gan_warping.low_rank import StyleGenerator, Update, dense_weight
from gengauge.reference.gan_warping.training import ColourWeights, Distance, Recipe, Training
from gengauge.reference.gan_warping.warps import normalised_grid, pixel_grid, with_corners


class SquareGenerator(StyleGenerator, Protocol):
    """A style-based generator that knows the side in px of its pictures."""

    img_resolution: int


class EditedPictures:
    """Batches of edited pictures: each epoch in another order, without the rest that fills no batch."""

    def __init__(self, ws: Tensor, labels: Tensor, batch: int, seed: int, process: int = 0, processes: int = 1) -> None:
        """ws (N, num_ws, w_dim) and what `Training.step` takes beside them (N, ...).

        Raises ValueError for values that are no finite numbers, and for fewer pictures than a batch, where the
        published code stops without a word.
        """
        if len(ws) != len(labels):
            raise ValueError(f"each picture has ws and a warp, not {len(ws)} and {len(labels)}")
        if len(ws) < batch:
            raise ValueError(
                f"an edit of {len(ws)} pictures fills no batch of {batch}: edit more pictures, or take a smaller batch"
            )
        if batch % processes:
            raise ValueError(f"a batch of {batch} cannot be shared by {processes} processes; choose a divisor")
        for what, values in (("ws", ws), ("warp or strokes", labels)):
            bad = ~torch.isfinite(values.reshape(len(values), -1)).all(1)
            if bool(bad.any()):
                raise ValueError(f"picture {int(bad.nonzero()[0])}'s {what} hold values that are no finite numbers")
        self.ws, self.labels, self.batch, self.seed = ws, labels, batch, seed
        self.share = slice(process, None, processes)

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(ws, labels) of the batches from an iteration on, without end."""
        batches = self._batches(epoch_orders(len(self.ws), self.seed))
        for indices in islice(batches, iteration, None):
            mine = torch.tensor(indices[self.share])
            yield self.ws[mine].to(device), self.labels[mine].to(device)

    def _batches(self, order: Iterator[int]) -> Iterator[list[int]]:
        while True:
            epoch = list(islice(order, len(self.ws)))
            for start in range(0, len(epoch) - self.batch + 1, self.batch):
                yield epoch[start : start + self.batch]


def train_edit(
    recipe: Recipe,
    g: StyleGenerator,
    ws: Tensor,
    labels: Tensor,
    work: Path,
    config: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    distance: Distance | None = None,
    colours: ColourWeights | None = None,
    every: int = 500,
    snapshot: Callable[[Trainable], Snapshot] | None = None,
    processes: Processes | None = None,
    tell: Tell = lambda done, total, doing: None,
    code: str = "",
) -> tuple[Update, Trained]:
    """Trains an edit of `g`, frozen on `device`, to the end of its iterations, with states in `work`.

    ws (N, num_ws, w_dim) of the edited pictures; labels their grids (N, h, w, 2), or with `colours` their strokes
    (N, 5, H, W). The trained update, on the CPU, and what `train` tells of the training. Raises what `train`, the
    recipe's parts and `EditedPictures` raise.
    """
    group = processes or Processes()
    batches = EditedPictures(ws, labels, recipe.batch, seed, group.index, group.count)

    def build() -> Training:
        return Training(recipe, g, distance, device, colours)

    found = train(
        build,
        batches,
        work,
        Schedule(recipe.iterations, every, every, max(1, every // 20)),
        {
            **config,
            "recipe": repr(recipe),
            "colours": repr(colours),
            "pictures": _fingerprint(ws, labels),
            "weights": _fingerprint(*g.synthesis.parameters()),
        },
        seed=seed,
        device=device,
        snapshot=snapshot,
        keep="update",
        processes=group,
        tell=tell,
        code=code,
    )
    update = build().update.cpu()
    update.load_state_dict(found.last)
    return update.requires_grad_(False), found


def grids_of(points: Sequence[Array], resolution: int, crop_bars: bool = False) -> Tensor:
    """The grids (N, R, R, 2) of pictures' points (M, 4), corners pinned; of cars (N, 3R/4, R, 2), without their bars.

    Raises what `pixel_grid` raises.
    """
    size = (resolution * 3 // 4 if crop_bars else resolution, resolution)
    return torch.stack(
        [normalised_grid(pixel_grid(with_corners(torch.from_numpy(rows), size), size)) for rows in points]
    )


def latents(seeds: Sequence[int], z_dim: int) -> Tensor:
    """z (N, z_dim) of seeds, as NVIDIA's tools draw them."""
    return torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, z_dim) for seed in seeds])).float()


@torch.no_grad()
def sample_ws(g: StyleGenerator, seeds: Sequence[int], truncation: float, device: str) -> Tensor:
    """ws (N, num_ws, w_dim) of seeds."""
    return g.mapping(latents(seeds, g.z_dim).to(device), None, truncation_psi=truncation)


def stored(update: Update, g: StyleGenerator, name: str, note: str = "") -> LowRankEdit:
    """The factors of an update of `g` as a file keeps them. Raises ValueError for an update of whole weights."""
    learnt = update.factors()
    names = [key.removesuffix(LAMBDA) for key in learnt if key.endswith(LAMBDA)]
    if not names:
        raise ValueError("an update of whole weights has no factors; keep its weights")
    factors = {layer: Factors(learnt[layer + LAMBDA], learnt[layer + CONTEXT]) for layer in names}
    others = {key: value for key, value in learnt.items() if not key.endswith((LAMBDA, CONTEXT))}
    base = {layer: fingerprint(g.get_submodule(layer).get_parameter("weight").cpu()) for layer in names}
    return LowRankEdit(name, factors, base, others, note)


def dense_of(edit: LowRankEdit, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All parameters that an edit changes, dense, from the base's (`check_base` tells whether they go together)."""
    out = dict(edit.tensors)
    for name, found in edit.factors.items():
        weight = base[f"{name}.weight"]
        factors = found.weight_lambda.to(weight), found.weight_context.to(weight)
        out[f"{name}.weight"] = dense_weight(weight, *factors)
    return out


def _fingerprint(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(x.detach().cpu().contiguous().numpy().tobytes() for x in tensors)).hexdigest()
