"""Table 1's last columns: seconds an iteration and memory of training, in one process in alternation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Measurement, Plan, Result, Scale
from gengauge.benchmarks.core.tables import Column, Table
from gengauge.benchmarks.papers.cut.methods import NAMES
from gengauge.benchmarks.timing import alternate, ratio, working_bytes
from gengauge.benchmarks.training.unpaired import Recipe, training_of
from gengauge.reference.cut import contrastive, cyclegan
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, FASTCUT

GIGA = 1e9
TAKEN = 6  # iterations whose memory is looked at
RECIPES: dict[str, Recipe] = {"cut": CUT, "fastcut": FASTCUT, "cyclegan": CYCLEGAN}


@dataclass(frozen=True)
class Settings:
    """The width of all networks, the side of the random pictures (px), and how often each method takes its turn."""

    width: int = 64
    side: int = 256
    rounds: int = 10
    repeats: int = 3

    def recipe(self, method: str) -> Recipe:
        sizes: dict[str, Any] = {"generator": {"ngf": self.width}, "discriminator": {"ndf": self.width}}
        return replace(RECIPES[method], crop_size=self.side, **sizes)


OWN = (
    Column("time_ratio", "Seconds an iteration divided by those of CycleGAN, round by round, the median", "1", "lower"),
    Column("memory_ratio", "Memory in training divided by CycleGAN's", "1", "lower"),
)
PROTOCOL = (
    ("CycleGAN", "not told which: with or without identities, antialiased or not", "CUT's repository's default"),
    ("time", "a running mean over training, without the reading of pictures", "random pictures, the median"),
    (
        "memory",
        "of the GPU",
        "weights, Adam's state, and the most that tensors made in an iteration hold at once; on a GPU as torch tells",
    ),
)
QUICK = (
    ("size", "64 channels, 256 px", "16 channels, 64 px: seconds and bytes are not comparable, ratios roughly"),
    ("machine", "a GPU", "one thread of a CPU"),
)


def rows_of() -> dict[str, str]:
    """The row of each method."""
    return {method: f"{method}@training" for method in NAMES}


def cost(context: Context) -> Iterator[Result]:
    """Seconds and memory of an iteration of every method."""
    s: Settings = context.settings
    torch.manual_seed(context.seed)
    generator = torch.Generator(context.device).manual_seed(context.seed)
    trainings = {method: training_of(s.recipe(method), context.device) for method in NAMES}
    reals = torch.rand(2, 3, s.side, s.side, generator=generator, device=context.device) * 2 - 1

    def step(training: contrastive.Training | cyclegan.Training) -> None:
        training.step(reals, None, generator)

    ways = {method: lambda t=training: step(t) for method, training in trainings.items()}
    for way in ways.values():
        way()  # the optimisers' states are made
    memory = {
        method: _held(training) + _working(training, ways[method], context.device)
        for method, training in trainings.items()
    }
    total = s.rounds * s.repeats * len(ways)
    samples = alternate(
        ways,
        s.rounds,
        lambda name: s.repeats,
        context.device,
        tell=lambda done, doing: context.progress(done, total, f"{NAMES[doing]}, iteration"),
    )
    for method, row in rows_of().items():
        mine, base = samples[method], samples["cyclegan"]
        spread = statistics.quantiles(mine.seconds, n=10)
        yield Measurement(
            row,
            "seconds_per_iteration",
            mine.median,
            spread[0],
            spread[-1],
            "first and last decile of repeats",
            len(mine.seconds),
            repetitions=tuple(mine.seconds),
        )
        yield Measurement(row, "memory", memory[method] / GIGA)
        against = ratio(mine, base)
        yield Measurement(
            row, "time_ratio", against.median, against.low, against.high, "lowest and highest of rounds", s.rounds
        )
        yield Measurement(row, "memory_ratio", memory[method] / memory["cyclegan"])


def _working(training: contrastive.Training | cyclegan.Training, way: Callable[[], object], device: str) -> int:
    """The most of several iterations, since mirrored ones hold more."""
    found = []
    for _ in range(TAKEN):
        for optimiser in training.optimisers.values():
            optimiser.zero_grad()  # the gradients that an iteration makes are counted in it
        found.append(working_bytes(way, device))
    return max(found)


def _held(training: contrastive.Training | cyclegan.Training) -> int:
    """Bytes of weights and of the optimisers' states."""
    tensors = [value for network in training.networks.values() for value in network.state_dict().values()]
    for optimiser in training.optimisers.values():
        for state in optimiser.state.values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def experiment(tables: tuple[Table, ...]) -> Experiment:
    """All methods at once, since they are compared."""
    published = {column.key: column for column in next(t for t in tables if t.key == "comparison").columns}
    scales: dict[Scale, AtScale] = {
        "quick": AtScale(Settings(16, 64, 6, 2), 2, Limits(1800, 6), 1, Plan(), QUICK),
        "small": AtScale(Settings(64, 128), 2, Limits(7200, 16), 1, Plan(), (QUICK[0],)),
        "paper": AtScale(Settings(), 2, Limits(7200, 32), 8, Plan()),
    }
    return Experiment(
        key="cost",
        table="comparison",
        rows=tuple(rows_of().values()),
        columns=(published["seconds_per_iteration"], published["memory"], *OWN),
        scales=scales,
        run=cost,
        protocol=PROTOCOL,
        timed=True,
    )


def _claim(key: str, quick: str, slow: str, column: str, what: str) -> Claim:
    return Claim(
        key,
        f"{NAMES[quick]} {what} than {NAMES[slow]} in training.",
        "comparison",
        {"quick": Cell(f"{quick}@training", column), "slow": Cell(f"{slow}@training", column)},
        lambda v: v["slow"] - v["quick"],
    )


CLAIMS = tuple(
    _claim(f"{what}-{quick}-{slow}", quick, slow, column, text)
    for what, column, text in (
        ("time", "time_ratio", "takes less time an iteration"),
        ("memory", "memory_ratio", "takes less memory"),
    )
    for quick, slow in (("fastcut", "cut"), ("cut", "cyclegan"), ("fastcut", "cyclegan"))
)
