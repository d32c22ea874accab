"""What SDEdit's experiments share: pictures and their strokes, a run over many guides, and the two distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Measurement, Need, Progress, Scale
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.metrics.faithfulness import l2_norm
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.needs import data_need
from gengauge.benchmarks.papers.sdedit.priors import PRIORS
from gengauge.benchmarks.training.launch import launch
from gengauge.benchmarks.training.loop import step_seed
from gengauge.benchmarks.training.processes import Processes, join
from gengauge.benchmarks.zoo import ddpm_cat
from gengauge.benchmarks.zoo.entries import FRESH_SEED
from gengauge.datasets import world
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.lsun import LMDBSet
from gengauge.datasets.sets import DataNotFound
from gengauge.reference.sdedit.editing import Behaviour, Network, Step, edit, edit_ve, from_noise
from gengauge.reference.sdedit.schedule import DDPM, VESchedule

WORLD = "world"
SHARED: tuple[Scale, ...] = ("small", "paper")  # where guides are several batches
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How guides are edited: the prior by key, t0, K (`repeats`), and at most `batch` pictures at once.

    `steps_per_unit` is how many steps a run from t0 = 1 would take: 1,000 are DDPM's own. With `clamp` the clean
    picture that the network sees is cut to [-1, 1], which the published code does not do.
    """

    prior: str
    t0: float = 0.5
    steps_per_unit: int = 1000
    repeats: int = 1
    clamp: bool = False
    batch: int = 64

    @property
    def steps(self) -> int:
        return max(1, round(self.t0 * self.steps_per_unit))


@dataclass(frozen=True)
class Pictures:
    """Where guides are made from: the `source` (the world, or a data set by key), and how many of its pictures.

    Every seed paints `count` pictures; the realism of all results is measured against `references`. Those of a data
    set are brought to `resolution` px.
    """

    source: str
    count: int
    references: int
    resolution: int = 256

    def load(self, context: Context) -> tuple[Tensor, Tensor]:
        """The pictures of this seed and the references, uint8 (count, 3, R, R) and (references, 3, R, R).

        Of the world each seed paints its own pictures, none of the references; of a data set the first ones, which
        are references too, as published. Raises DataNotFound, and ValueError for a set with too few pictures.
        """
        if self.source == WORLD:

            def fresh(first: int, count: int) -> Tensor:
                return world.pictures(
                    FRESH_SEED, range(first, first + count), ddpm_cat.RESOLUTION, species=ddpm_cat.SPECIES
                )

            return fresh(self.references + context.seed * self.count, self.count), fresh(0, self.references)
        entry = data_set(self.source)
        place = entry.find(context.data)
        if place is None:
            raise DataNotFound(entry.what, [context.data or "no data folder"], entry.remedy)
        lmdb = LMDBSet(place, self.resolution, limit=self.references, resample="bilinear")
        if len(lmdb) < self.references:
            raise ValueError(f"{place} holds {len(lmdb)} pictures; {self.references} are needed")
        pictures = lmdb.pictures(range(self.references))
        return pictures[: self.count], pictures

    def needs(self, data: Path | None) -> tuple[Need, ...]:
        """For `--dry-run`."""
        return (Need("pictures", Path("embedded world")),) if self.source == WORLD else (data_need(self.source, data),)


def run_edit(
    network: Network,
    s: Sampling,
    guides: Tensor,
    seed: int,
    device: str = "cpu",
    editable: Tensor | None = None,
    tell: Tell = lambda done, total: None,
    group: Processes | None = None,
) -> Tensor:
    """Edits guides uint8 (N, 3, R, R) to uint8 on the CPU; `editable` bool (N, 1, R, R).

    Each batch has noise of its own, so that several processes, which share the batches, make what one makes.
    """
    prior, group = PRIORS[s.prior], group or Processes()
    generator = torch.Generator(device)
    mine = group.share(range(math.ceil(len(guides) / s.batch)))
    made = []
    for before, number in enumerate(mine):
        part = slice(number * s.batch, (number + 1) * s.batch)
        guide = guides[part].to(device).float() / 255
        mask = None if editable is None else editable[part].to(device)
        generator.manual_seed(step_seed(seed, 0, number))

        def told(step: Step, before: int = before) -> None:
            tell(before * step.total + step.number, len(mine) * step.total)

        if prior.score:
            found = edit_ve(
                network,
                guide,
                VESchedule(),
                mask,
                t0=s.t0,
                steps=s.steps,
                repeats=s.repeats,
                generator=generator,
                callback=told,
            )
            found = 2 * found - 1
        else:
            behaviour = Behaviour(clamp=s.clamp)
            levels = DDPM.levels(s.t0, None if s.steps_per_unit == DDPM.steps else s.steps)
            reverse = from_noise(network, levels, behaviour)
            found = edit(
                reverse,
                2 * guide - 1,
                levels,
                mask,
                repeats=s.repeats,
                behaviour=behaviour,
                generator=generator,
                callback=told,
            )
        made.append(to_uint8(found.cpu()))
    return torch.cat(group.gathered(made))


class Editor:
    """Edits guides by the seed of a job, in as many processes as it has."""

    def __init__(self, context: Context, *priors: str) -> None:
        """Loads priors by key, so that one that is missing is told at once; raises what their `load` raises."""
        self.context = context
        self.networks = {key: PRIORS[key].load(context.device) for key in priors}

    def __call__(self, s: Sampling, guides: Tensor, tell: Tell, editable: Tensor | None = None) -> Tensor:
        """Results uint8 (N, 3, R, R) on the CPU of guides uint8 (N, 3, R, R); `editable` bool (N, 1, R, R)."""
        seed, device = self.context.seed, self.context.device
        count = min(self.context.processes, math.ceil(len(guides) / s.batch))
        if count < 2:
            return run_edit(self.networks[s.prior], s, guides, seed, device, editable, tell)
        arguments = (s, guides, seed, device, editable)
        return launch(_edit_together, arguments, count, lambda done, total, doing: tell(done, total))


def _edit_together(
    s: Sampling, guides: Tensor, seed: int, device: str, editable: Tensor | None, tell: Progress
) -> Tensor:
    group, device = join(device)
    network = PRIORS[s.prior].load(device)
    return run_edit(network, s, guides, seed, device, editable, lambda done, total: tell(done, total, ""), group)


class Scores:
    """KID of results to references uint8 (M, 3, R, R), whose features are computed once for all jobs."""

    def __init__(self, references: Tensor, device: str) -> None:
        self.device, self.inception = device, load_network("inception")
        self.references = features(references, self.inception, device=device)

    def kid(self, row: str, results: Tensor, step: int | None = None) -> Measurement:
        """Of results uint8 (N, 3, R, R)."""
        found = kid(self.references, extract(results, self.inception, device=self.device))
        interval = "95 % jackknife over pictures"
        return Measurement(row, "kid", found.value, found.low, found.high, interval, len(results), step)

    def kid_of_halves(self, row: str) -> Measurement:
        """Of one half of the references to the other: what other real pictures have, where there are no others."""
        half = len(self.references) // 2
        found = kid(self.references[half:], self.references[:half])
        return Measurement(row, "kid", found.value, found.low, found.high, "95 % jackknife over pictures", half)


def l2(row: str, guides: Tensor, results: Tensor, step: int | None = None) -> Measurement:
    """The mean over pictures, uint8 (N, 3, R, R), of the norm of the difference from the guide, pixels in [0, 1]."""
    found = t_interval(l2_norm(guides.float() / 255, results.float() / 255).tolist())
    interval = "95 % t over pictures"
    return Measurement(row, "l2", found.mean, found.low, found.high, interval, found.count, step)


def steps_of(context: Context, total: int) -> Iterator[Callable[[str], Tell]]:
    """For each of `total` parts of a job, what tells its progress."""
    for number in range(total):

        def part(doing: str, before: int = number) -> Tell:
            return lambda done, of: context.progress(
                round(1000 * (before + done / of)), 1000 * total, f"{doing}: step {done} of {of}"
            )

        yield part
