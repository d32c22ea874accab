"""The two published sets of edits, in their published folders: churches with strokes, and label maps of Cityscapes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.pictures_set import MAX_FILE_BYTES, open_rgb
from gengauge.datasets.sets import Array, DataNotFound

CHURCH = "church_outdoor_sdedit"
CITYSCAPES = "cityscapes-edit"
# How many churches, from the first, the published scores compare with ground truth; with the dense model they take all.
CHURCHES_WITH_TRUTH = 423
CITYSCAPES_SIZE = (256, 512)
CITYSCAPES_CLASSES = 35
# What numpy raises on files that are cut short or of another format.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    MemoryError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, eq=False)
class PicturePair:
    """An original picture and its edit by name: (3, S, S) float32 in [-1, 1] each."""

    name: str
    original: Tensor
    edited: Tensor


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Two label maps by the name of their result: labels (H, W) int64 in 0..34, instances (H, W) int32.

    The name ends in the map that is the edited one, `_synthetic` or `_gt`, as the published results' names do.
    """

    name: str
    original_label: Tensor
    original_instance: Tensor
    edited_label: Tensor
    edited_instance: Tensor


class ChurchEdits:
    """church_outdoor_sdedit: `original/`, `edited/` and `gt/` of pictures by one name, `masks/` beside them.

    `root` is the data folder or the set's own. Raises DataNotFound where there is none or a picture lacks its edit.
    """

    def __init__(self, root: Path, size: int = 256) -> None:
        self.folder, self.size = _folder(CHURCH, root, "original"), size
        names = sorted(file.stem for file in (self.folder / "original").glob("[!.]*.png"))
        if not names:
            raise DataNotFound(f"pictures of {CHURCH}", [self.folder / "original"], data_set(CHURCH).remedy)
        _all_there(CHURCH, [self.folder / "edited" / f"{name}.png" for name in names])
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def pair(self, index: int) -> PicturePair:
        """An edit, both pictures prepared as published. Raises ValueError naming a picture that is damaged."""
        name = self.names[index]
        original, edited = (self._picture(part, name) for part in ("original", "edited"))
        return PicturePair(name, prepared(original, self.size), prepared(edited, self.size))

    def truth(self, index: int) -> Array:
        """The ground-truth photograph, uint8 (H, W, 3) as stored.

        Raises DataNotFound where the set has none of this name, ValueError for a damaged one.
        """
        return np.asarray(self._picture("gt", self.names[index]))

    def mask(self, index: int) -> Array:
        """The published mask of the edit, bool (H, W) as stored. Raises DataNotFound or ValueError as `truth`."""
        return _read_mask(CHURCH, self.folder / "masks" / f"{self.names[index]}.npy")

    def _picture(self, part: str, name: str) -> Image.Image:
        return _read_picture(CHURCH, self.folder / part / f"{name}.png")


class CityscapesEdits:
    """cityscapes-edit: pairs of a real and a synthetic label map, listed in `meta.csv`.

    With `symmetric` editing, as published, every pair counts twice: first real maps edited into synthetic ones, then
    the other way round. `root` is the data folder or the set's own; `size` (H, W) is what every map must have.

    Raises DataNotFound where there is no such set or files of it are missing, ValueError for a bad `meta.csv`.
    """

    def __init__(self, root: Path, symmetric: bool = True, size: tuple[int, int] = CITYSCAPES_SIZE) -> None:
        self.folder, self.size = _folder(CITYSCAPES, root, "meta.csv"), size
        self.ids = _read_ids(self.folder / "meta.csv")
        self.symmetric = symmetric
        kinds = (f"{kind}_{maps}" for kind in ("gt", "synthetic") for maps in ("labels", "instances"))
        _all_there(
            CITYSCAPES,
            [self.folder / part / f"{ids[part.startswith('synthetic')]}.npy" for part in kinds for ids in self.ids],
        )

    def __len__(self) -> int:
        return len(self.ids) * (2 if self.symmetric else 1)

    def pair(self, index: int) -> LabelPair:
        """An edit. Raises IndexError, and ValueError naming a map that is damaged or has labels of other classes."""
        synthetic_original, (gt, synthetic) = self._entry(index)
        maps = {
            kind: (self._labels(f"{kind}_labels", name), self._instances(f"{kind}_instances", name))
            for kind, name in (("gt", gt), ("synthetic", synthetic))
        }
        first, second = ("synthetic", "gt") if synthetic_original else ("gt", "synthetic")
        return LabelPair(f"{synthetic}_{second}", *maps[first], *maps[second])

    def truth(self, index: int) -> Array:
        """The photograph of the real label map, uint8 (H, W, 3) as stored. Raises DataNotFound, ValueError."""
        gt, _ = self._entry(index)[1]
        return np.asarray(_read_picture(CITYSCAPES, self.folder / "images" / f"{gt}.png"))

    def mask(self, index: int) -> Array:
        """The published mask of the edit, bool (H, W) as stored, one for both ways. Raises DataNotFound, ValueError."""
        _, synthetic = self._entry(index)[1]
        return _read_mask(CITYSCAPES, self.folder / "masks" / f"{synthetic}.npy")

    def _entry(self, index: int) -> tuple[bool, tuple[str, str]]:
        """Whether the synthetic map is the original, and the ids."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside a set of {len(self)} edits")
        return index >= len(self.ids), self.ids[index % len(self.ids)]

    def _labels(self, part: str, name: str) -> Tensor:
        file = self.folder / part / f"{name}.npy"
        labels = read_array(CITYSCAPES, file, "iu", self.size)
        if labels.min() < 0 or labels.max() >= CITYSCAPES_CLASSES:
            bad = labels[(labels < 0) | (labels >= CITYSCAPES_CLASSES)][0]
            raise ValueError(f"{file} has the label {bad}, outside 0..{CITYSCAPES_CLASSES - 1}")
        return torch.from_numpy(labels.astype(np.int64))

    def _instances(self, part: str, name: str) -> Tensor:
        file = self.folder / part / f"{name}.npy"
        instances = read_array(CITYSCAPES, file, "iu", self.size)
        if instances.min() < -(2**31) or instances.max() >= 2**31:
            raise ValueError(f"{file} has an instance number that is no 32-bit integer")
        return torch.from_numpy(instances.astype(np.int32))


def prepared(picture: Image.Image, size: int) -> Tensor:
    """A picture as the published diffusion networks take it: (3, size, size) float32 in [-1, 1].

    The shorter side is scaled to `size` by Pillow's bilinear filter, and the middle is cut out.
    """
    width, height = picture.size
    short = min(width, height)
    if short != size:
        # The longer side is rounded down, as torchvision does.
        width, height = (size if side == short else int(size * side / short) for side in (width, height))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.array(picture.convert("RGB").crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).mul(2).sub(1).contiguous()


def read_array(key: str, file: Path, kinds: str, shape: tuple[int, ...] | None = None) -> Array:
    """An array of a `.npy` file of numpy's dtype `kinds` and of `shape`, or of any (H, W); nothing is unpickled.

    Raises DataNotFound where the file is missing from the set `key`, ValueError naming a bad one.
    """
    _all_there(key, [file])
    try:
        with file.open("rb") as stream:
            if stream.read(6) != b"\x93NUMPY":
                raise ValueError("it does not begin as such a file")
        # A mapping is refused where the file is shorter than its header claims, before any memory is taken.
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except _DAMAGE as error:
        raise ValueError(f"{file} is damaged or no plain array of numpy ({error}); {_again(key)}") from error
    if found.dtype.kind not in kinds or found.ndim != 2 or (shape is not None and found.shape != shape):
        expected = "(H, W)" if shape is None else str(shape)
        names = "bool" if kinds == "b" else "integers"
        raise ValueError(f"{file} holds {found.dtype} {found.shape}, not {names} {expected}; {_again(key)}")
    if found.nbytes > MAX_FILE_BYTES:
        raise ValueError(f"{file} has more than {MAX_FILE_BYTES // 2**20} MiB")
    return np.array(found)


def _read_mask(key: str, file: Path) -> Array:
    return read_array(key, file, "b")


def _read_picture(key: str, file: Path) -> Image.Image:
    _all_there(key, [file])
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{file} has more than {MAX_FILE_BYTES // 2**20} MiB")
    return open_rgb(file.read_bytes(), str(file))


def _read_ids(file: Path) -> tuple[tuple[str, str], ...]:
    """The ids (real, synthetic) of every pair; the first line has the columns' names."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [(reader.line_num, row) for reader in [csv.reader(stream)] for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read ({error}); {_again(CITYSCAPES)}") from error
    if len(rows) < 2:
        raise ValueError(f"{file} lists no pairs; {_again(CITYSCAPES)}")
    for line, row in rows:
        if len(row) < 2:
            raise ValueError(
                f"{file} has {len(row)} column in line {line}, where gt_id,synthetic_id is expected; "
                f"{_again(CITYSCAPES)}"
            )
    pairs = [(line, (row[0].strip(), row[1].strip())) for line, row in rows[1:]]
    for line, ids in pairs:
        bad = next((name for name in ids if not re.fullmatch(r"\w[\w.-]*", name)), None)
        if bad is not None:  # ids become file names, and must not lead out of their folder
            raise ValueError(f"{file} has {bad!r} in line {line}, which is no id; {_again(CITYSCAPES)}")
    return tuple(ids for _, ids in pairs)


def _folder(key: str, root: Path, mark: str) -> Path:
    places = [root / name for name in data_set(key).marks] + [root]
    found = next((place for place in places if (place / mark).exists()), None)
    if found is None:
        raise DataNotFound(data_set(key).what, places, data_set(key).remedy)
    return found


def _all_there(key: str, files: Sequence[Path]) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        names = ", ".join(f"{file.parent.name}/{file.name}" for file in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataNotFound(f"part of {key} ({names}{more})", [missing[0].parent.parent], _again(key))


def _again(key: str) -> str:
    return f"fetch the set again: {data_set(key).remedy}"
