"""What commands share on a terminal: the device asked for, and progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID


class DeviceName(str, Enum):
    """Where the work is done."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def device_of(name: DeviceName) -> str:
    """The device of a name, `auto` being the first of a GPU and the CPU. Raises ValueError for one that is not here."""
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is DeviceName.auto:
        return next(device for device, there in found.items() if there)
    if not found[name.value]:
        raise ValueError(f"--device {name.value}: torch finds none here; `gengauge doctor` shows what there is")
    return name.value


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields tell(what, done, total), which shows a bar for each `what`; quiet where the output is no terminal."""
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(side: str, done: int, total: int) -> None:
            if side not in tasks:
                tasks[side] = progress.add_task(side, total=total)
            progress.update(tasks[side], completed=done)

        yield tell
