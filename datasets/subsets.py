"""Which pictures the published codes train on and in which order, exactly: subsets by seed, and endless orders."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gengauge.datasets.sets import Array


def cifar_subset(count: int, total: int = 50000, seed: int = 0) -> Array:
    """The BigGAN code's part of CIFAR: `count` of `total` without repetition, in the order drawn; int64 (count,)."""
    _at_most(count, total)
    return np.random.RandomState(seed).choice(total, count, replace=False).astype(np.int64)


def first(count: int, total: int) -> Array:
    """The TensorFlow code's part: the first `count` in the order of the file; int64 (count,)."""
    _at_most(count, total)
    return np.arange(count, dtype=np.int64)


def shuffled_then_sorted(count: int, total: int, seed: int = 0) -> Array:
    """The PyTorch port's part: a random `count` of `total`, in ascending order; all where there are no more. int64."""
    order = np.arange(total, dtype=np.int64)
    if total > count:
        np.random.RandomState(seed).shuffle(order)
        order = np.sort(order[:count])
    return order


def mirrored(indices: Array) -> tuple[Array, Array]:
    """The port's doubling of a set: indices (2n,), and uint8 (2n,) that is 1 where the picture is to be mirrored."""
    flags = np.repeat(np.array([0, 1], dtype=np.uint8), len(indices))
    return np.tile(np.asarray(indices, dtype=np.int64), 2), flags


def tfrecord_order(total: int) -> Array:
    """Where in a folder's sorted pictures the TensorFlow tool takes the records of its file from; int64 (total,)."""
    order = np.arange(total, dtype=np.int64)
    np.random.RandomState(123).shuffle(order)
    return order


def epoch_orders(total: int, seed: int) -> Iterator[int]:
    """The BigGAN code's order without its end: every picture once an epoch, each epoch in a new order.

    Its first E * total are `multi_epoch_order(total, E, seed)`.
    """
    _some(total)
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(total, generator=generator).tolist()


def multi_epoch_order(total: int, epochs: int, seed: int, start: int = 0, batch: int = 1) -> Array:
    """The BigGAN code's order of a whole training, int64; with `start` iterations of `batch` done, what is left of it.

    The orders of all epochs are drawn from the seed in any case, so that a resumed run goes on where it was.
    """
    _some(total)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(total, generator=generator).numpy() for _ in range(epochs)]
    return np.concatenate([np.empty(0, dtype=np.int64), *orders])[start * batch :]


def infinite_sampler(total: int, seed: int, window: float = 0.5) -> Iterator[int]:
    """The PyTorch port's endless order: a shuffled list gone round and round, each place swapped after its use.

    The partner of a swap lies at most `window` of the list behind; with fewer than two places to choose from, the same
    order comes again and again.
    """
    _some(total)
    random = np.random.RandomState(seed)
    order = np.arange(total)
    random.shuffle(order)
    reach = int(np.rint(total * window))
    while True:
        for i in range(total):
            yield int(order[i])
            if reach >= 2:
                j = (i - random.randint(reach)) % total
                order[i], order[j] = order[j], order[i]


def _at_most(count: int, total: int) -> None:
    if not 0 <= count <= total:
        raise ValueError(f"{count} pictures cannot be taken from a set of {total}")


def _some(total: int) -> None:
    if total < 1:
        raise ValueError(f"there is no order of {total} pictures")
