"""A user's guides: stroke paintings and edits with their masks, in the published file or as pictures, and composites.

The published code keeps the pixels whose mask is exactly 1.0. Here a mask says what may change, as in the paper:
`editable` is True there, whichever way a file puts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.pictures_set import MAX_FILE_BYTES, open_rgb
from gengauge.datasets.sets import Array, DataNotFound

SAVE = "save it by torch.save([mask, image], path), both (3, H, W) floats in [0, 1], 1 in the mask for pixels to keep"
Order = Literal["mask, image", "image, mask"]
COMPOSITE_FOLDERS = ("original", "composite", "mask")


@dataclass(frozen=True, eq=False)
class Guide:
    """What sampling starts from: `picture` (3, H, W) float32 in [0, 1], and where it may change, bool (3, H, W)."""

    picture: Tensor
    editable: Tensor


@dataclass(frozen=True, eq=False)
class Composite:
    """A picture and the same with something pasted in, (3, H, W) float32 in [0, 1]; `pasted` bool (3, H, W)."""

    name: str
    original: Tensor
    composite: Tensor
    pasted: Tensor


def read_mask_and_image(path: Path, order: Order = "mask, image") -> Guide:
    """A guide in the file that the published code reads: a list of mask and image, in this order (its README errs).

    Both are (3, H, W) floats in [0, 1]. Pixels where the mask is exactly 1.0 are kept and all others may change, each
    channel for itself. Nothing that the file may carry beside tensors is run.

    Raises FileNotFoundError; UnsafeCheckpoint or DamagedCheckpoint for a file of another kind; ValueError naming what
    must be changed for other shapes, kinds or ranges, and where the two seem to be in the other order.
    """
    if order not in get_args(Order):
        raise ValueError(f"the order is {order!r}; it is one of {', '.join(map(repr, get_args(Order)))}")
    tensors = read_tensors(path)
    if set(tensors) != {"0", "1"}:
        raise ValueError(f"{path} holds {len(tensors)} tensors ({', '.join(list(tensors)[:4])}), not two; {SAVE}")
    mask, image = (tensors[key] for key in (("0", "1") if order == "mask, image" else ("1", "0")))
    for name, x in (("mask", mask), ("image", image)):
        _check_part(path, name, x)
    if mask.shape != image.shape:
        raise ValueError(f"{path} has a mask {tuple(mask.shape)} of an image {tuple(image.shape)}; {SAVE}")
    if _is_binary(image) and not _is_binary(mask):
        raise ValueError(
            f"{path} seems to hold mask and image in another order than {order!r}: what would be the image has the "
            f"values 0 and 1 only, and the mask has others; name the other order, or {SAVE}"
        )
    keep = mask == 1.0  # before any rounding
    if not keep.any() and mask.any():
        raise ValueError(
            f"{path} has a mask with values up to {mask.max().item():.3g} and no 1.0, so that nothing would be kept; "
            f"make it (mask == mask.max()).float(), or zeros where everything may change, and {SAVE}"
        )
    return Guide(image.detach().float(), ~keep)


def read_painting(picture: Path, white_is_editable: Path | None = None) -> Guide:
    """A guide in picture files: a painting or an edited photograph, and a mask whose white pixels may change.

    The mask is black and white, of the picture's size and without loss (PNG); without one everything may change.
    Transparency is dropped from both. Raises FileNotFoundError, and ValueError naming a file that is damaged, of
    another size, or no such mask.
    """
    pixels = _read_rgb(picture)
    if white_is_editable is None:
        return Guide(_floats(pixels), torch.ones(3, *pixels.shape[:2], dtype=torch.bool))
    return Guide(_floats(pixels), _read_white(white_is_editable, picture, pixels))


class Composites:
    """A folder with `original/`, `composite/` and `mask/`: pictures by one name in each; white is what was pasted.

    Raises DataNotFound where folders or pictures are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remedy = f"make a folder with {', '.join(f'{part}/NAME.png' for part in COMPOSITE_FOLDERS)} for every NAME"
        self._files = {part: _by_stem(folder / part) for part in COMPOSITE_FOLDERS}
        self.names = tuple(sorted(self._files["composite"]))
        if not self.names:
            raise DataNotFound("composites", [folder / "composite"], remedy)
        missing = [
            f"{part}/{name}.png" for part in COMPOSITE_FOLDERS for name in self.names if name not in self._files[part]
        ]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataNotFound(f"part of the composites ({', '.join(missing[:5])}{more})", [folder], remedy)

    def __len__(self) -> int:
        return len(self.names)

    def composite(self, index: int) -> Composite:
        """Raises IndexError, and ValueError naming a file that is damaged, of another size, or no mask."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside a set of {len(self)} composites")
        name = self.names[index]
        original, composite, mask = (self._files[part][name] for part in COMPOSITE_FOLDERS)
        before, after = _read_rgb(original), _read_rgb(composite)
        _check_size(original, before, composite, after)
        return Composite(name, _floats(before), _floats(after), _read_white(mask, composite, after))


def _check_part(path: Path, name: str, x: Tensor) -> None:
    if x.ndim == 2 or (x.ndim == 3 and len(x) == 1):
        raise ValueError(
            f"{path} has a {name} {tuple(x.shape)}, which has no three channels; give it some by "
            f"{name}.expand(3, -1, -1).clone(), and {SAVE}"
        )
    if x.ndim != 3 or len(x) != 3 or not x.numel():
        raise ValueError(f"{path} has a {name} {tuple(x.shape)}, not (3, H, W); {SAVE}")
    if not x.is_floating_point():
        whole = f"{name}.float() / 255" if name == "image" else f"({name} == {name}.max()).float()"
        way = f"{name}.float()" if x.dtype == torch.bool else whole
        raise ValueError(f"{path} has a {name} of {x.dtype}, not of floats; make it {way}, and {SAVE}")
    if x.layout != torch.strided or x.is_meta:
        raise ValueError(f"{path} has a {name} that is no plain tensor; {SAVE}")
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{path} has a {name} with values from {low:.3g} to {high:.3g}, not in [0, 1]; {SAVE}")


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def _by_stem(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("[!.]*.png"))}


def _read_rgb(file: Path) -> Array:
    """(H, W, 3) uint8."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such picture")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{file} has more than {MAX_FILE_BYTES // 2**20} MiB")
    return np.array(open_rgb(file.read_bytes(), str(file)))


def _read_white(file: Path, of: Path, pixels: Array) -> Tensor:
    """Where a mask picture is white: bool (3, H, W)."""
    mask = _read_rgb(file)
    _check_size(file, mask, of, pixels)
    white = (mask == 255).all(2)
    if not (white | (mask == 0).all(2)).all():
        other = int((~(white | (mask == 0).all(2))).sum())
        raise ValueError(
            f"{file} has {other} pixels that are neither black nor white; threshold it, and save it without loss as PNG"
        )
    if not white.any():
        raise ValueError(f"{file} has no white pixel, so that nothing may change; paint white what may")
    return torch.from_numpy(white).expand(3, -1, -1).clone()


def _check_size(a: Path, first: Array, b: Path, second: Array) -> None:
    if first.shape != second.shape:
        sizes = [f"{x.shape[1]} x {x.shape[0]}" for x in (first, second)]
        raise ValueError(f"{a} is {sizes[0]} pixels and {b} is {sizes[1]}; bring them to one size")


def _floats(pixels: Array) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)
