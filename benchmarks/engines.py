"""Which engine runs a selection, and on which device: this machine's, or a Ray cluster's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gengauge.benchmarks.terminal import DeviceName, device_of

if TYPE_CHECKING:
    from gengauge.benchmarks.engine import Event
    from gengauge.benchmarks.jobs import Job


class EngineName(str, Enum):
    """Where jobs run."""

    local = "local"
    ray = "ray"


@dataclass(frozen=True)
class Engine:
    """An engine that is ready: `run` takes jobs, output folder, how many side by side and who is told.

    `parallel` is how many it runs side by side by default, None where that is the cluster's to say; `where` names it.
    """

    run: Callable[[Sequence[Job], Path, int, Callable[[Event], None]], None]
    device: str
    parallel: int | None
    where: str


@contextmanager
def opened(name: EngineName, device: DeviceName, address: str | None = None, url: str = "") -> Iterator[Engine]:
    """The engine of a name within the context. `address` and `url`, where states are kept, are for Ray.

    Raises ValueError where it or the device is not to be had, naming what is missing.
    """
    if name is EngineName.local:
        if address is not None:
            raise ValueError("--address is for --engine ray; give both, or neither")
        from gengauge.benchmarks.engine import run_local
        from gengauge.benchmarks.machine import available_cores

        where = device_of(device)
        yield Engine(run_local, where, 1 if where == "cuda" else min(8, available_cores()), "")
        return
    try:
        from gengauge.benchmarks import ray_engine
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise ValueError('--engine ray needs the package ray: pip install "gengauge[cluster]"') from None
    with ray_engine.connected(address):
        run = partial(ray_engine.run_on_ray, url=url)
        yield Engine(run, ray_engine.cluster_device(device.value), None, ray_engine.about_cluster())
