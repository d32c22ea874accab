"""Several processes in one training or generation: who this is, and how they share and average (accelerate)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that work together; `accelerator` is None where it is alone."""

    index: int = 0
    count: int = 1
    accelerator: Any = None

    @property
    def main(self) -> bool:
        return self.index == 0

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces gradients by their means over processes; in one message, since there are many small ones."""
        if self.accelerator is None:
            return
        self.average_tensors([p.grad for p in parameters if p.grad is not None])

    def average_tensors(self, tensors: list[Tensor]) -> None:
        """Replaces tensors by their means over processes."""
        if self.accelerator is None or not tensors:
            return
        flat = self.accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def mean_of(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of this process's share of a batch as those of the whole batch: their means over processes."""
        if self.accelerator is None:
            return dict(losses)
        # By name: the order in which a process met its losses is not the others' business.
        means = {
            name: losses[name].detach().to(self.accelerator.device, torch.float32, copy=True) for name in sorted(losses)
        }
        self.average_tensors(list(means.values()))
        return {name: means[name] for name in losses}

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """The parts of some work that are this process's: each `count`-th."""
        return parts[self.index :: self.count]

    def gathered(self, made: Sequence[T]) -> list[T]:
        """What all processes made of their shares, in the order of the parts; picklable, tensors on the CPU."""
        if self.accelerator is None:
            return list(made)
        from accelerate.utils import gather_object

        by_process: list[Sequence[T]] = gather_object([made])
        total = sum(map(len, by_process))
        return [by_process[number % self.count][number // self.count] for number in range(total)]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def join(device: str) -> tuple[Processes, str]:
    """The processes that `launch` or accelerate's launcher started, and this one's device; one where they did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(), device
    from accelerate import Accelerator, InitProcessGroupKwargs

    # The main process measures snapshots while the others wait, longer than the usual limit.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[patience])
    # Accelerate made this process's GPU the current one, which "cuda" means.
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator), accelerator.device.type
