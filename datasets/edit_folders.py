"""What the two published kinds of edit folders of GAN Warping share: a counter, latents, pictures by number.

A folder holds one split of an edit, `train`, `val` or `test`. Its pictures are numbered from 0.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.datasets.pictures_set import MAX_FILE_BYTES, open_rgb
from gengauge.datasets.saving import write_checkpoint
from gengauge.datasets.sets import Array
from gengauge.datasets.unpickling import DamagedCheckpoint, reading, torch_load

SPLITS = ("train", "val", "test")
PARTS = ("counter", "latents", "keypoints", "targets", "target_masks", "originals", "masks")
MAX_LATENT_BYTES = 2**24
_MAX_ASPECT = 4  # a picture that is longer is no generator's, and would fill the memory when it is scaled


def signed_pixels(pixels: Array) -> Tensor:
    """A picture (H, W, 3) uint8 as a generator's output, (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div(255).sub(0.5).div(0.5)


def read_counter(folder: Path) -> int:
    """How many pictures a folder says that it has.

    Raises FileNotFoundError where there is no counter, ValueError for one that is no number above 0.
    """
    file = folder / "counter"
    if not file.is_file():
        splits = [name for name in SPLITS if (folder / name / "counter").is_file()]
        more = f"; name one of its folders {', '.join(splits)}" if splits else ""
        raise FileNotFoundError(f"{folder} is no folder of edited pictures: there is no file counter in it{more}")
    with file.open("rb") as stream:
        text = stream.read(64)
    if not re.fullmatch(rb"\s*[0-9]{1,9}\s*", text) or int(text) < 1:
        raise ValueError(f"{file} holds {text[:20]!r}, not the number of pictures, which is 1 or more")
    return int(text)


def check_present(folder: Path, part: str, ending: str, count: int) -> None:
    """Raises FileNotFoundError naming the first of `count` numbered files that a folder lacks."""
    for i in range(count):
        if not (folder / part / f"{i}{ending}").is_file():
            raise FileNotFoundError(
                f"{folder} lacks {part}/{i}{ending}, and its counter says that it has {count} pictures; restore that "
                "file or lower the counter"
            )


def read_latent(file: Path) -> Tensor:
    """The latent of one picture, (num_ws, w_dim) float32, from a file that holds it as (1, num_ws, w_dim).

    Raises FileNotFoundError, UnsafeCheckpoint, or DamagedCheckpoint for anything but such a tensor of finite floats.
    """
    with reading(file):
        sizes = [file.stat().st_size]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                sizes.append(sum(info.file_size for info in archive.infolist()))
        if max(sizes) > MAX_LATENT_BYTES:
            raise DamagedCheckpoint(f"it holds more than {MAX_LATENT_BYTES // 2**20} MiB; a latent is far smaller")
        found = torch_load(file)
        if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta:
            raise DamagedCheckpoint(f"it holds {type(found).__name__}, not one plain tensor")
        shape = tuple(found.shape)
        if len(shape) != 3 or shape[0] != 1 or not found.numel() or not found.is_floating_point():
            raise DamagedCheckpoint(f"it holds {found.dtype} {shape}, not a latent of floats (1, num_ws, w_dim)")
        if found.numel() * 4 > MAX_LATENT_BYTES:  # a view can repeat few values without end
            raise DamagedCheckpoint(f"it holds a tensor {shape}; a latent is far smaller")
        latent = found[0].detach().float().clone()
        if not torch.isfinite(latent).all():
            raise DamagedCheckpoint("it holds NaN or infinity")
        return latent


def check_latents(folder: Path, latents: Sequence[Tensor]) -> None:
    """Raises ValueError naming the first latent of another shape than the first."""
    for i, latent in enumerate(latents):
        if latent.shape != latents[0].shape:
            raise ValueError(
                f"{folder} has latents of several generators: 0 is {tuple(latents[0].shape)}, {i} is "
                f"{tuple(latent.shape)}"
            )


def read_picture(file: Path, shorter_side: int | None = None) -> Array:
    """A picture (H, W, 3) uint8, its shorter side scaled to `shorter_side` by Pillow's bilinear filter.

    Raises FileNotFoundError, ValueError naming a file that is damaged or far longer than wide.
    """
    picture = _open(file)
    width, height = picture.size
    short = min(width, height)
    if shorter_side is not None and short != shorter_side:
        if max(width, height) > _MAX_ASPECT * short:
            raise ValueError(f"{file} is {width} x {height} px, which is no generator's picture")
        # The longer side is rounded down, as torchvision does.
        size = [shorter_side if side == short else int(shorter_side * side / short) for side in (width, height)]
        picture = picture.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return np.array(picture)


def read_soft_mask(file: Path, side: int) -> Array:
    """A grey picture scaled to `side` x `side` px by Pillow's bilinear filter, float32 (side, side) in [0, 1].

    Raises FileNotFoundError, ValueError naming a file that is damaged.
    """
    picture = _open(file).convert("L")
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32) / np.float32(255)


def write_picture(file: Path, pixels: Array) -> None:
    """A picture (H, W, 3) or (H, W) uint8 as PNG. Raises OSError."""
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file)


def write_latent(file: Path, latent: Tensor) -> None:
    """A latent (num_ws, w_dim) in the form that `read_latent` reads. Raises OSError."""
    write_checkpoint(file, latent.detach().float().cpu()[None].clone())


@contextmanager
def written_whole(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder to write into, which takes the place of `folder` at the end, and only if nothing fails.

    Raises FileExistsError where there is something that may not be replaced: anything without `overwrite`, and with it
    what holds more than an edit; OSError where the folder cannot be made.
    """
    folder = folder.resolve()
    _check_replaceable(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    if old.exists():
        raise FileExistsError(f"{old} is an edit whose replacement was interrupted; move it back or away")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir()
        yield hidden
        _check_replaceable(folder, overwrite)  # another process may have written meanwhile
        try:
            if folder.exists():
                folder.rename(old)
            hidden.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    if old.exists():
        shutil.rmtree(old)


def check_picture(name: str, pixels: Array) -> None:
    """Raises ValueError for anything but (H, W, 3) uint8."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"the {name} is {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)")


def check_mask(name: str, mask: Array) -> None:
    """Raises ValueError for anything but (H, W) float32 in [0, 1]."""
    if mask.dtype != np.float32 or mask.ndim != 2 or not mask.size:
        raise ValueError(f"the {name} is {mask.dtype} {mask.shape}, not float32 (H, W)")
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(f"the {name} has values from {mask.min():.3g} to {mask.max():.3g}, not in [0, 1]")


def check_latent(latent: Tensor) -> None:
    """Raises ValueError for anything but (num_ws, w_dim) float32, all finite."""
    if latent.dtype != torch.float32 or latent.ndim != 2 or not latent.numel():
        raise ValueError(f"the latent is {latent.dtype} {tuple(latent.shape)}, not float32 (num_ws, w_dim)")
    if not torch.isfinite(latent).all():
        raise ValueError("the latent holds NaN or infinity")


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} is there already; name another folder, or ask for it to be overwritten")
    other = ["it is a file"] if not folder.is_dir() else sorted({x.name for x in folder.iterdir()} - {*PARTS})
    if other:
        raise FileExistsError(f"{folder} holds more than an edit ({other[0]}) and is not replaced; move that elsewhere")


def _open(file: Path) -> Image.Image:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such picture")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{file} has more than {MAX_FILE_BYTES // 2**20} MiB")
    return open_rgb(file.read_bytes(), str(file))
