"""`--dry-run`: the networks of a selection on the meta device, with parameters and MACs, and what they need."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from gengauge.benchmarks.core.experiments import Need, PlannedNetwork
from gengauge.benchmarks.jobs import Job


@dataclass(frozen=True)
class Counted:
    """A network's parameters and the multiply-accumulates of one forward pass of its example input."""

    name: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class JobPlan:
    """What one experiment of a selection would build and needs."""

    title: str
    rows: tuple[str, ...]
    seeds: int
    networks: tuple[Counted, ...]
    needs: tuple[Need, ...]


def plan(jobs: Sequence[Job], data: Path | None) -> list[JobPlan]:
    """The plan of each experiment among the jobs; its networks are built on the meta device, which costs no memory."""
    plans = []
    for key in dict.fromkeys((job.source, job.experiment, job.method) for job in jobs):
        mine = [job for job in jobs if (job.source, job.experiment, job.method) == key]
        experiment, at = mine[0].declared()
        networks = tuple(count(network) for network in at.plan.networks)
        title = f"{mine[0].paper.key}/{experiment.table} {experiment.key}"
        plans.append(JobPlan(title, experiment.rows, len(mine), networks, at.plan.needs(data)))
    return plans


@functools.cache
def count(planned: PlannedNetwork) -> Counted:
    """Builds a network on the meta device and counts it; a MAC is half of torch's FLOP count (matrix products and
    convolutions only)."""
    with torch.device("meta"), torch.no_grad():
        network = planned.build().requires_grad_(False)
        counter = FlopCounterMode(display=False)
        with counter:
            network(*planned.inputs())
    return Counted(planned.name, sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
