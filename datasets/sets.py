"""Sets of labelled pictures: what each reader of a published set offers, and what it raises where there is none."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = np.ndarray[Any, Any]
Indices: TypeAlias = Sequence[int] | Array


class DataNotFound(OSError):
    """A data set is nowhere: the message names it and the places looked in, `remedy` the step that gets it."""

    def __init__(self, what: str, places: Sequence[object], remedy: str) -> None:
        looked = ", ".join(str(place) for place in places) or "nowhere, for no data folder is given"
        super().__init__(f"{what} not found (looked in: {looked}). To get it: {remedy}")
        self.what, self.places, self.remedy = what, tuple(places), remedy

    def __reduce__(self) -> tuple[Any, ...]:
        # An error of a worker process reaches its parent as a pickle, and would be built from its message alone.
        return type(self), (self.what, self.places, self.remedy)


class PictureSet(Protocol):
    """Square colour pictures of one resolution, read by index; a set without labels has `labels` None, 0 classes."""

    @property
    def name(self) -> str: ...

    @property
    def resolution(self) -> int: ...

    @property
    def labels(self) -> Array | None:
        """Classes as int64 (N,), each in 0..num_classes - 1."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def pictures(self, indices: Indices) -> Tensor:
        """The pictures at `indices` as uint8 (n, 3, R, R), in that order.

        Raises IndexError for an index outside 0..N - 1, ValueError naming a picture that is damaged.
        """


@dataclass(frozen=True, eq=False)
class InMemory:
    """A set that fits in memory: `pixels` uint8 (N, 3, R, R), `labels` int64 (N,) or None. Raises ValueError."""

    pixels: Tensor
    labels: Array | None
    num_classes: int
    name: str

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"{self.name}: pixels are {self.pixels.dtype} {shape}, not uint8 (N, 3, R, R)")
        if self.labels is None:
            if self.num_classes:
                raise ValueError(f"{self.name}: {self.num_classes} classes without labels")
            return
        if self.labels.dtype != np.int64 or self.labels.shape != shape[:1]:
            raise ValueError(
                f"{self.name}: labels are {self.labels.dtype} {self.labels.shape}, not int64 ({shape[0]},)"
            )
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise ValueError(f"{self.name}: a label lies outside 0..{self.num_classes - 1}")

    @property
    def resolution(self) -> int:
        return self.pixels.shape[-1]

    def __len__(self) -> int:
        return len(self.pixels)

    def pictures(self, indices: Indices) -> Tensor:
        return self.pixels[torch.from_numpy(checked(indices, len(self)))]


class Subset:
    """A view of another set: the pictures at `indices`, in that order; an index may come twice.

    The name tells the order too, unless one is given: features are cached by name, and two subsets of one size differ.
    """

    def __init__(self, base: PictureSet, indices: Indices, name: str | None = None) -> None:
        self.base = base
        self.indices = checked(indices, len(base))
        self.name = name or f"{base.name}[{len(self.indices)}-{zlib.crc32(self.indices.tobytes()):08x}]"
        self.resolution, self.num_classes = base.resolution, base.num_classes
        self.labels = None if base.labels is None else base.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def pictures(self, indices: Indices) -> Tensor:
        return self.base.pictures(self.indices[checked(indices, len(self))])


def checked(indices: Indices, count: int) -> Array:
    """Indices as an int64 array (n,). Raises IndexError for one outside 0..count - 1, else TypeError."""
    found = np.asarray(indices)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise TypeError(f"indices are one row of integers, not {found.dtype} {found.shape}")
    bad = found[(found < 0) | (found >= count)] if found.size else found
    if bad.size:
        raise IndexError(f"index {bad[0]} is outside a set of {count} pictures")
    return np.array(found, dtype=np.int64)  # a copy, which the caller cannot change later


def class_indices(labels: Array, where: object) -> tuple[Array, int]:
    """Classes int64 (N,) and their number, from classes (N,) or one-hot rows (N, K) of any numbers.

    The number of classes is K, or the largest class plus one, as the published readers have it. Raises ValueError
    naming `where` the labels come from.
    """
    if labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size and labels.min() >= 0:
        found = labels.astype(np.int64)
        return found, int(found.max()) + 1
    if labels.ndim == 2 and labels.dtype.kind in "iufb" and labels.size:
        if np.array_equal(labels.sum(1), np.ones(len(labels))) and np.isin(labels, (0, 1)).all():
            return labels.argmax(1).astype(np.int64), labels.shape[1]
        raise ValueError(f"{where}: labels of {labels.shape[1]} columns are not one-hot")
    raise ValueError(f"{where}: labels are {labels.dtype} {labels.shape}, neither classes (N,) nor one-hot (N, K)")
