"""Times of several ways to do one thing, taken in alternation, with the page faults and the memory that they cost."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Way = Callable[[], object]


@dataclass
class Samples:
    """What one way took: seconds by round, every repeat, and page faults of every repeat."""

    rounds: list[list[float]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """All repeats."""
        return [second for one in self.rounds for second in one]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How many times quicker one way is than another: the median, lowest and highest over rounds."""

    median: float
    low: float
    high: float


def alternate(
    ways: Mapping[str, Way],
    rounds: int,
    repeats: Callable[[str], int],
    device: str,
    before: Callable[[str], object] = lambda name: None,
    tell: Callable[[int, str], None] = lambda done, doing: None,
) -> dict[str, Samples]:
    """Each way in turn, `repeats` times, in each of the rounds; whatever slows the machine meets all of them.

    `before` is called with a way's name ahead of its repeats, and is not timed. The ways must have run before: a first
    run of a way makes what later ones find. `tell` hears of runs done.
    """
    samples = {name: Samples() for name in ways}
    done = 0
    for _ in range(rounds):
        for name, way in ways.items():
            samples[name].rounds.append([])
            before(name)
            for _ in range(repeats(name)):
                _wait(device)
                faults, started = _faults(), time.perf_counter()
                way()
                _wait(device)
                samples[name].rounds[-1].append(time.perf_counter() - started)
                samples[name].faults.append(_faults() - faults)
                done += 1
                tell(done, name)
    return samples


def ratio(slow: Samples, quick: Samples) -> Ratio:
    """Time of `slow` divided by that of `quick`, round by round."""
    each = [
        statistics.median(a) / statistics.median(b) for a, b in zip(slow.rounds, quick.rounds, strict=True) if a and b
    ]
    return Ratio(statistics.median(each), min(each), max(each))


def working_bytes(way: Way, device: str) -> int:
    """The most memory that tensors made in one run hold at once; those that were there before do not count."""
    if device == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way()
        _wait(device)
        return torch.cuda.max_memory_allocated() - before
    with _Held() as held:
        way()
    return held.most


class _Held(TorchDispatchMode):
    """Follows what torch's functions return: bytes of the storages that are alive, now and at most.

    What a function makes and drops inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._before: dict[int, StorageWeakRef] = {}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            ref = StorageWeakRef(tensor.untyped_storage())
            if ref.cdata not in self._alive:
                self._before[ref.cdata] = ref
        out = func(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for tensor in _tensors(out):
            ref = StorageWeakRef(tensor.untyped_storage())
            if ref.cdata not in self._before:
                self._alive[ref.cdata] = ref, tensor.untyped_storage().nbytes()
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return out


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
