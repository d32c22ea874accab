"""Unpaired sets as CUT and CycleGAN read them: folders trainA, trainB, testA, testB, and their augmentation in Pillow.

Which picture is cut where is decided by `draw` and done by `apply`, so that the same choices give the same picture.
Sizes are in px; where a size is a pair it is (width, height), as Pillow has it.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.datasets.pictures_set import FolderSet
from gengauge.datasets.sets import DataNotFound

Preprocess = Literal[
    "none", "resize", "resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "scale_shortside",
    "scale_shortside_and_crop", "zoom_and_patch",
]  # fmt: skip
Phase = Literal["train", "test", "val"]
Direction = Literal["AtoB", "BtoA"]
Size = tuple[int, int]
SKIPPING = "GENGAUGE_SKIP_DAMAGED=1, or `UnpairedFolders(..., skip_damaged=True)`"
BASE = 4  # sides are rounded to multiples of it after all else, for the networks halve them twice
SMALLEST_ZOOM = 1 / 3
CROPS = 100_000  # of the single picture of SinCUT in what it calls an epoch
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Transform:
    """How a picture is made ready; the defaults are CUT's for training.

    - resize: squashed to `load_size` squared, or half as high with `half_height` (GTA to Cityscapes)
    - scale_width: to the width `load_size`, but at least `crop_size` high
    - scale_shortside: enlarged until the shorter side is `load_size`; larger pictures stay
    - zoom: width and height shrunk by factors, but not below `crop_size`
    - crop: a square of `crop_size`; patch: the same on a grid of such squares
    `mirrored` says whether `draw` mirrors half of the pictures. SinCUT resamples bilinearly.
    """

    preprocess: Preprocess = "resize_and_crop"
    load_size: int = 286
    crop_size: int = 256
    mirrored: bool = True
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    half_height: bool = False

    @property
    def crops(self) -> bool:
        return self.preprocess.endswith("crop")


def evaluation(how: Transform) -> Transform:
    """What pictures are tested with: squashed to `crop_size` and not mirrored; SinCUT's in their own size."""
    if how.preprocess == "zoom_and_patch":
        return replace(how, preprocess="none", mirrored=False)
    return replace(how, load_size=how.crop_size, mirrored=False)


@dataclass(frozen=True)
class Choices:
    """What is random: the crop's left upper corner, mirroring, zoom factors of width and height, and a patch.

    A patch is the cell `patch` (modulo their number, counted down the columns) of a grid whose corner is `start`.
    """

    corner: Size = (0, 0)
    flip: bool = False
    zoom: tuple[float, float] = (1.0, 1.0)
    patch: int = 0
    start: Size = (0, 0)


def resized(how: Transform, size: Size, zoom: tuple[float, float] = (1.0, 1.0)) -> Size:
    """The size that a picture of a size is resampled to before it is cropped."""
    width, height = size
    if how.preprocess.startswith("resize"):
        return how.load_size, how.load_size // 2 if how.half_height else how.load_size
    if how.preprocess.startswith("scale_width"):
        if width == how.load_size and height >= how.crop_size:
            return size
        return how.load_size, int(max(how.load_size * height / width, how.crop_size))
    if how.preprocess.startswith("scale_shortside"):
        shorter = min(size)
        if shorter >= how.load_size:
            return size
        scale = how.load_size / shorter
        return round(width * scale), round(height * scale)
    if how.preprocess.startswith("zoom"):
        return round(max(how.crop_size, width * zoom[0])), round(max(how.crop_size, height * zoom[1]))
    return size


def draw(how: Transform, size: Size, random: np.random.Generator) -> Choices:
    """Random choices for a picture of a size. Raises ValueError where it is smaller than its crop."""
    zoom = random.uniform(SMALLEST_ZOOM, 1.0), random.uniform(SMALLEST_ZOOM, 1.0)
    width, height = resized(how, size, zoom)
    crop = how.crop_size
    corner = start = (0, 0)
    if how.crops:
        _check_room((width, height), crop)
        corner = int(random.integers(width - crop + 1)), int(random.integers(height - crop + 1))
    if how.preprocess.startswith("zoom"):
        _check_room((width, height), crop)
        start = int(random.integers(width % crop + 1)), int(random.integers(height % crop + 1))
    flip = how.mirrored and bool(random.random() < 0.5)
    return Choices(corner, flip, zoom, int(random.integers(CROPS)), start)


def apply(picture: Image.Image, how: Transform, choices: Choices) -> Image.Image:
    """The picture made ready: resampled, cropped, rounded to multiples of 4 px a side, mirrored.

    Raises ValueError for a picture smaller than its crop, and for a crop that leaves the picture.
    """
    kind = _FILTERS[how.resample]
    picture = _resize(picture, resized(how, picture.size, choices.zoom), kind)
    crop = how.crop_size
    if how.crops:
        picture = _cut(picture, choices.corner, crop)
    elif how.preprocess.startswith("zoom"):
        _check_room(picture.size, crop)
        rows = picture.height // crop
        cell = choices.patch % (picture.width // crop * rows)
        column, row = divmod(cell, rows)
        picture = _cut(picture, (choices.start[0] + column * crop, choices.start[1] + row * crop), crop)
    picture = _resize(picture, (_rounded(picture.width), _rounded(picture.height)), kind)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if choices.flip else picture


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) float32 in [-1, 1]."""
    grey = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return (grey.float() / 255 - 0.5) / 0.5


class UnpairedFolders:
    """The pictures of `rootA` and `rootB`, A and B being two folders of one phase, sorted by the text of their paths.

    With the direction "BtoA" the two change places: what is called A here, and is translated, are the pictures of B.
    Where there is no testA the set's valA and valB are its test pictures. A damaged picture is an error when it is
    read; with `skip_damaged` every picture is decoded once here, and those that cannot be are named in a warning and
    left out. Raises DataNotFound (an OSError) naming both folders looked in, ValueError for a folder without pictures.
    """

    def __init__(
        self, root: Path, phase: Phase = "train", skip_damaged: bool = False, direction: Direction = "AtoB"
    ) -> None:
        self.root, self.phase = root, phase
        sides = "AB" if direction == "AtoB" else "BA"
        self.a, self.b = (FolderSet(_side(root, phase, side), 1, name=f"{phase}{side}") for side in sides)
        if skip_damaged:
            _leave_out_damaged(self.a)
            _leave_out_damaged(self.b)

    def __len__(self) -> int:
        """The pictures of an epoch: as many as the larger side has."""
        return max(len(self.a), len(self.b))

    def fingerprint(self) -> str:
        """A name of what both sides hold: their files in order and a digest of the contents."""
        hasher = hashlib.sha256()
        for side in (self.a, self.b):
            for file in side.files:
                hasher.update(f"{side.name} {file}\n".encode() + hashlib.sha256(side.read(file)).digest())
        return hasher.hexdigest()[:16]

    def check(self) -> None:
        """Decodes every picture once. Raises ValueError naming all that are damaged."""
        damaged = [f"{side.path / file}" for side in (self.a, self.b) for file in _damage(side)]
        if damaged:
            named = ", ".join(damaged[:5]) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
            raise ValueError(f"damaged pictures: {named}; replace or remove them, or leave them out: {SKIPPING}")

    def picture(self, side: Literal["A", "B"], index: int) -> Image.Image:
        """A picture in its own size, RGB. Raises IndexError, ValueError naming a damaged file."""
        return (self.a if side == "A" else self.b).original(index)

    def file(self, side: Literal["A", "B"], index: int) -> str:
        """The name of a picture's file relative to its folder."""
        return (self.a if side == "A" else self.b).files[index]


class UnpairedBatches:
    """Batches (2 batch, 3, H, W), those of A before those of B, with labels that say nothing (zeros).

    In an epoch each of A's pictures comes by a shuffled order, over again where A is the smaller side, and each of B's
    by chance. What batch k holds depends on the seed, k and the batch size only. After `jitter_epochs` pictures are
    loaded in the size of their crop, as CUT does while the learning rate falls. `epoch` is the number of pictures of an
    epoch, by default as many as the larger side has. Of several processes each takes its share.
    """

    def __init__(
        self,
        folders: UnpairedFolders,
        how: Transform,
        seed: int,
        batch: int,
        jitter_epochs: int | None = None,
        epoch: int | None = None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if batch % processes:
            raise ValueError(
                f"a batch of {batch} cannot be shared by {processes} processes; start one, or a divisor of the batch"
            )
        self.folders, self.how, self.seed, self.batch = folders, how, seed, batch
        self.jitter_epochs, self.epoch = jitter_epochs, epoch or len(folders)
        self.process, self.processes = process, processes
        if self.epoch < batch:
            raise ValueError(f"an epoch of {self.epoch} pictures has no batch of {batch}")

    @property
    def iterations_per_epoch(self) -> int:
        """Whole batches; what is left over is dropped."""
        return self.epoch // self.batch

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(reals, labels) from an iteration on, without end; the next batch is read ahead."""
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.read, iteration)
            while True:
                reals = ahead.result()
                iteration += 1
                ahead = pool.submit(self.read, iteration)
                yield reals.to(device, non_blocking=True), torch.zeros(len(reals), dtype=torch.long, device=device)

    def read(self, iteration: int) -> Tensor:
        """One batch. Raises ValueError naming a picture that is damaged or too small, and for several sizes in one."""
        epoch, place = divmod(iteration, self.iterations_per_epoch)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.epoch)
        random = np.random.default_rng((self.seed, 1, iteration))
        how = self.how
        if self.jitter_epochs is not None and epoch >= self.jitter_epochs:
            how = replace(how, load_size=how.crop_size)
        chosen_a = order[place * self.batch : (place + 1) * self.batch] % len(self.folders.a)
        chosen_b = random.integers(len(self.folders.b), size=self.batch)
        seeds = random.integers(2**63, size=(2, self.batch))
        made: list[Tensor] = []
        for pictures, chosen, own in ((self.folders.a, chosen_a, seeds[0]), (self.folders.b, chosen_b, seeds[1])):
            decoded: dict[int, Image.Image] = {}  # SinCUT cuts a whole batch from one large picture
            for i in range(self.process, self.batch, self.processes):
                index = int(chosen[i])
                if index not in decoded:
                    decoded[index] = pictures.original(index)
                picture = decoded[index]
                try:
                    choices = draw(how, picture.size, np.random.default_rng(own[i]))
                    made.append(to_tensor(apply(picture, how, choices)))
                except ValueError as error:
                    raise ValueError(f"{pictures.files[index]} in {pictures.path}: {error}") from None
        sizes = {tuple(one.shape[1:]) for one in made}
        if len(sizes) > 1:
            raise ValueError(f"pictures of {sorted(sizes)} px make no batch; choose a preprocess that crops or resizes")
        return torch.stack(made)


def _side(root: Path, phase: Phase, side: str) -> Path:
    names = ["test", "val"] if phase == "test" else [phase]
    places = [root / f"{name}{side}" for name in names]
    for place in places:
        if place.is_dir():
            return place
    what = f"the folder {phase}{side} of an unpaired set"
    raise DataNotFound(what, places, f"put the pictures of side {side} there; the other side's lie beside it")


def _damage(pictures: FolderSet) -> dict[str, str]:
    """What is wrong with each damaged picture, by file."""

    def told(index: int) -> str:
        try:
            pictures.original(index)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(pictures.files, pool.map(told, range(len(pictures))), strict=True))
    return {file: wrong for file, wrong in found.items() if wrong}


def _leave_out_damaged(pictures: FolderSet) -> None:
    """Raises ValueError where no picture is left."""
    damage, count = _damage(pictures), len(pictures)
    if not damage:
        return
    if len(damage) == count:
        raise ValueError(f"{pictures.path} has no picture that can be read: {next(iter(damage.values()))}")
    pictures.files = [file for file in pictures.files if file not in damage]
    warnings.warn(
        f"{len(damage)} damaged of {count} pictures in {pictures.path} are left out: {', '.join(damage)}",
        stacklevel=3,
    )


def _check_room(size: Size, crop: int) -> None:
    if min(size) < crop:
        raise ValueError(f"a picture of {size[0]} x {size[1]} px is smaller than its crop of {crop} px")


def _cut(picture: Image.Image, corner: Size, crop: int) -> Image.Image:
    _check_room(picture.size, crop)
    box = (*corner, corner[0] + crop, corner[1] + crop)
    if min(corner) < 0 or box[2] > picture.width or box[3] > picture.height:
        raise ValueError(f"the crop {box} leaves a picture of {picture.width} x {picture.height} px")
    return picture.crop(box)


def _resize(picture: Image.Image, size: Size, kind: Image.Resampling) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, kind)


def _rounded(side: int) -> int:
    """The nearest multiple of 4, of two equally near ones the multiple of 8."""
    return max(BASE, round(side / BASE) * BASE)
