"""Batches of reals for training: which pictures come when, mirrored by chance, in [-1, 1] or [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets.sets import PictureSet

Order = Callable[[int, int], Iterator[int]]


class Batches:
    """Batches of a set in an order (see `datasets/subsets`: a function of length and seed to endless indices).

    What batch k holds depends on the seed, k and the batch size only, so a training that resumes sees the pictures that
    it would have seen. With `zoom` each picture is a central square whose side is a share, drawn from that range, of
    the largest one's, by the set's own `zoomed`. Of several processes each takes its share of the batch. The next batch
    is read ahead.
    """

    def __init__(
        self,
        pictures: PictureSet,
        order: Order,
        seed: int,
        batch: int,
        mirror: bool,
        value_range: tuple[float, float] = (-1.0, 1.0),
        process: int = 0,
        processes: int = 1,
        zoom: tuple[float, float] | None = None,
    ) -> None:
        if batch % processes:
            raise ValueError(f"a batch of {batch} cannot be shared by {processes} processes; choose a divisor")
        self.pictures, self.order, self.seed, self.batch, self.mirror = pictures, order, seed, batch, mirror
        self.low, self.high = value_range
        self.process, self.processes = process, processes
        self.labels, self.zoom = pictures.labels, zoom

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(reals (batch / processes, 3, R, R), labels (batch / processes,) int64) from an iteration on, without end."""
        indices = self.order(len(self.pictures), self.seed)
        _skip(indices, iteration * self.batch)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._read, indices, iteration)
            while True:
                reals, labels = ahead.result()
                iteration += 1
                ahead = pool.submit(self._read, indices, iteration)
                yield self._to_range(reals.to(device, non_blocking=True)), labels.to(device, non_blocking=True)

    def _read(self, indices: Iterator[int], iteration: int) -> tuple[Tensor, Tensor]:
        share = slice(self.process, None, self.processes)
        mine = np.fromiter(islice(indices, self.batch), np.int64, self.batch)[share]
        random = np.random.default_rng((self.seed, iteration))
        flips = random.random(self.batch)[share]
        if self.zoom is None:
            reals = self.pictures.pictures(mine)
        else:
            sides = random.uniform(*self.zoom, self.batch)[share].tolist()
            reals = self.pictures.zoomed(mine, sides)  # type: ignore[attr-defined]
        if self.mirror:
            flip = torch.from_numpy(flips < 0.5).view(-1, 1, 1, 1)
            reals = torch.where(flip, reals.flip(3), reals)
        labels = np.zeros(len(mine), np.int64) if self.labels is None else self.labels[mine]
        return reals, torch.from_numpy(labels)

    def _to_range(self, reals: Tensor) -> Tensor:
        return reals.float() * ((self.high - self.low) / 255) + self.low


def _skip(indices: Iterator[int], count: int) -> None:
    next(islice(indices, count, count), None)
