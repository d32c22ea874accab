"""Cityscapes in its published folders: prepared for unpaired translation as CUT does, and the truth of its scores.

Sizes are in px; pairs are (width, height), as Pillow has it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL
from filelock import FileLock
from PIL import Image

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.pictures_set import MAX_FILE_BYTES, MAX_PIXELS, open_rgb
from gengauge.datasets.saving import write_text
from gengauge.datasets.sets import Array, DataNotFound

KEY = "cityscapes"
Split = Literal["train", "val"]
Resample = Literal["nearest", "bicubic"]
Size = tuple[int, int]
PUBLISHED_COUNTS: dict[Split, int] = {"train": 2975, "val": 500}
PREPARED_SIZE: Size = (256, 256)
SCORE_SIZE: Size = (256, 128)  # what the segmentation network sees and is judged at
CLASSES, IGNORED = 19, 255
NOTE = "prepared.json"  # lies beside the pictures and tells how they were made
# What `Image.resize` did where no filter was named: nearest in the Pillow 6.1 of CUT's authors, bicubic since Pillow 7.
_FILTERS = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
_PHASES: dict[Split, str] = {"train": "train", "val": "test"}  # the authors' script prepares the val split as test

# The labels that are evaluated, in the order of their train ids 0..18: `labels` in cityscapesscripts/helpers/labels.py
# of mcordts/cityscapesScripts. All others, 0..33, are ignored.
EVALUATED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LABELS = 34


@dataclass(frozen=True)
class Photo:
    """A photograph by its name CITY/CITY_SEQUENCE_FRAME, and its file."""

    name: str
    file: Path


@dataclass(frozen=True)
class Preparation:
    """How a prepared folder was made, as its note tells.

    `names` is a sha256 over the photographs' names in order, `train` and `test` are numbers of pairs. `pillow` is the
    version that wrote the files; another one may encode JPEG otherwise.
    """

    resample: Resample
    size: Size
    train: int
    test: int
    names: str
    pillow: str
    encoding: str = "JPEG, quality 100, no chroma subsampling"

    def same_as(self, other: Preparation) -> bool:
        """Whether both make the same pictures, whatever version of Pillow wrote them."""
        return (self.resample, self.size, self.names) == (other.resample, other.size, other.names)


def find_tree(root: Path) -> Path:
    """The folder that holds `leftImg8bit` and `gtFine`, for itself, the folder around it or `leftImg8bit`.

    Raises DataNotFound.
    """
    places = [root.parent] if root.name == "leftImg8bit" else [root, root / KEY]
    for place in places:
        if (place / "leftImg8bit").is_dir() and (place / "gtFine").is_dir():
            return place
    raise DataNotFound("the folders leftImg8bit and gtFine of Cityscapes", places, data_set(KEY).remedy)


def photos(tree: Path, split: Split) -> list[Photo]:
    """The photographs of a split, by city and name; place i is that of the prepared `i_A.jpg` and `i_B.jpg`.

    Raises DataNotFound where there are none.
    """
    folder, end = tree / "leftImg8bit" / split, "_leftImg8bit.png"
    files = sorted(folder.glob(f"[!.]*/[!.]*{end}"), key=lambda file: file.relative_to(folder).as_posix())
    if not files:
        raise DataNotFound(f"photographs of Cityscapes, split {split}", [folder], data_set(KEY).remedy)
    return [Photo(file.relative_to(folder).as_posix().removesuffix(end), file) for file in files]


def label_files(tree: Path, split: Split, found: Sequence[Photo], *kinds: str) -> list[Path]:
    """The label map of each photograph: of several kinds ("color", "labelIds", "labelTrainIds") the first there is.

    Raises DataNotFound naming the first photograph that has none.
    """
    out = []
    for photo in found:
        files = [tree / "gtFine" / split / f"{photo.name}_gtFine_{kind}.png" for kind in kinds]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise DataNotFound(f"the label map of the photograph {photo.file}", files, data_set(KEY).remedy)
        out.append(file)
    return out


def prepare(
    source: Path,
    target: Path,
    resample: Resample = "nearest",
    progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Makes CUT's unpaired set of Cityscapes: photographs as domain A, colour label maps as B, 256 x 256 px.

    The files are `trainA/i_A.jpg`, `trainB/i_B.jpg` and, of the split val, `testA` and `testB`, i counting the sorted
    photographs of a split from 0. `resample` "nearest" is what the authors' files were made with, "bicubic" what their
    script makes with Pillow 7 and later, where labels get mixed colours. `target` appears when all is written; a run
    that was ended goes on from the pictures it made. `progress` is told (pairs done, pairs in all).

    Returns what `target` holds, without any work where it is this preparation already. Warns where a split has another
    number of photographs than is published. Raises DataNotFound for an incomplete source, FileExistsError where
    `target` holds something else, ValueError naming a damaged picture, OSError naming what cannot be written.
    """
    if resample not in get_args(Resample):
        raise ValueError(f"resample is {' or '.join(get_args(Resample))}, not {resample!r}")
    tree = find_tree(source)
    pictures: list[tuple[str, Path]] = []  # places under the target and the files they come from
    counts = {}
    for split, phase in _PHASES.items():
        found = photos(tree, split)
        colours = label_files(tree, split, found, "color")
        _check_no_more_labels(tree, split, colours)
        for i, (photo, colour) in enumerate(zip(found, colours, strict=True)):
            pictures += [(f"{phase}A/{i}_A.jpg", photo.file), (f"{phase}B/{i}_B.jpg", colour)]
        counts[phase] = len(found)
        if len(found) != PUBLISHED_COUNTS[split]:
            warnings.warn(
                f"{tree} has {len(found)} photographs in the split {split}, {PUBLISHED_COUNTS[split]} are published: "
                "what is prepared is not the published set",
                stacklevel=2,
            )
    plan = Preparation(resample, PREPARED_SIZE, counts["train"], counts["test"], names_digest(tree), PIL.__version__)
    with _writing(target), FileLock(_beside(target, "lock")):
        there = _existing(target, plan)
        if there is not None:
            return there
        _write_all(pictures, target, plan, progress)
    return plan


def names_digest(source: Path) -> str:
    """A sha256 over the names of a tree's photographs in order, which a preparation of it has as `names`."""
    tree, names = find_tree(source), hashlib.sha256()
    for split, phase in _PHASES.items():
        for i, photo in enumerate(photos(tree, split)):
            names.update(f"{phase} {i} {photo.name}\n".encode())
    return names.hexdigest()


def read_preparation(folder: Path) -> Preparation | None:
    """How a folder was prepared; None where nothing tells it, as in the authors' own.

    Raises ValueError for a note that is not of this module.
    """
    note = folder / NOTE
    if not note.is_file():
        return None
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        found = Preparation(**{**content, "size": tuple(content["size"])})
        if found.resample not in get_args(Resample):
            raise ValueError(f"resample {found.resample!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{note} does not tell how the pictures were made ({error}); remove the folder") from error
    return found


class CityscapesTruth:
    """The true classes of a split's photographs, resampled to `size` by the nearest pixel, in the prepared order.

    They come from `labelTrainIds`, or from `labelIds` where those are missing. `source` is as in `find_tree`. Raises
    DataNotFound naming the first photograph without labels.
    """

    def __init__(self, source: Path, split: Split = "val", size: Size = SCORE_SIZE) -> None:
        tree = find_tree(source)
        self.size, found = size, photos(tree, split)
        self.names = tuple(photo.name for photo in found)
        self.files = label_files(tree, split, found, "labelTrainIds", "labelIds")

    def __len__(self) -> int:
        return len(self.files)

    def map(self, index: int) -> Array:
        """Classes uint8 (H, W) of a photograph, each 0..18 or 255 where it does not count.

        Raises IndexError, and ValueError naming a file that is damaged or has other labels.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside a set of {len(self)} label maps")
        return read_train_ids(self.files[index], self.size)

    def map_of(self, file: str) -> Array:
        """The map of a prepared picture or of its translation by file name. Raises as `place_of` and `map`."""
        return self.map(self.place_of(file))

    def place_of(self, file: str) -> int:
        """The place of a prepared picture by its file name: 10 of `10_A.jpg` or `10_B.png`.

        Sorted file names are in another order than places. Raises ValueError for another kind of name, or for a place
        that the split does not have.
        """
        place, _, side = Path(file).stem.partition("_")
        if not (place.isascii() and place.isdecimal()) or side not in ("", "A", "B"):
            raise ValueError(f"{file} is no name of a prepared picture, such as 10_A.jpg")
        if int(place) >= len(self):
            raise ValueError(f"{file} has no label map: the split has {len(self)} of them, counted from 0")
        return int(place)


def read_train_ids(file: Path, size: Size | None = None) -> Array:
    """Classes uint8 (H, W), 0..18 or 255 where they do not count, of a published map of label ids or train ids.

    With `size` the map is resampled to it by the nearest pixel. Raises ValueError naming a file that is damaged, of
    another kind or with labels that there are not.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES // 2**20} MiB")
        with Image.open(io.BytesIO(file.read_bytes()), formats=("PNG",)) as picture:
            if picture.mode != "L" or picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"it is no map of labels but a picture {picture.mode} {picture.size}")
            ids = np.array(picture if size is None else picture.resize(size, Image.Resampling.NEAREST))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as a map of labels ({error}); fetch the set again") from error
    trained = file.stem.endswith("TrainIds")
    highest = (CLASSES if trained else _LABELS) - 1
    bad = ids[(ids > highest) & (ids != IGNORED)]
    if bad.size:
        raise ValueError(f"{file} has the label {bad[0]}, outside 0..{highest}; fetch the set again")
    return ids if trained else train_ids(ids)


def train_ids(ids: Array) -> Array:
    """Label ids 0..255, of any shape and integer type, as classes uint8: 0..18 or 255 where they do not count."""
    table = np.full(256, IGNORED, np.uint8)
    table[list(EVALUATED_IDS)] = np.arange(CLASSES)
    return table[ids]


def _check_no_more_labels(tree: Path, split: Split, colours: Sequence[Path]) -> None:
    """A missing photograph would move the places of all that follow."""
    left = set((tree / "gtFine" / split).glob("[!.]*/[!.]*_gtFine_color.png")) - set(colours)
    if left:
        file = min(left)
        name = file.name.removesuffix("_gtFine_color.png")
        place = tree / "leftImg8bit" / split / file.parent.name / f"{name}_leftImg8bit.png"
        raise DataNotFound(f"the photograph of the label map {file}", [place], data_set(KEY).remedy)


def _write_all(
    pictures: Sequence[tuple[str, Path]],
    target: Path,
    plan: Preparation,
    progress: Callable[[int, int], None] | None,
) -> None:
    part = _beside(target, "part")
    begun = None
    if part.exists():
        try:
            begun = read_preparation(part)
        except ValueError:  # what is in there is made again
            begun = None
        if begun != plan:
            shutil.rmtree(part)
    for folder in {Path(place).parent for place, _ in pictures}:
        (part / folder).mkdir(parents=True, exist_ok=True)
    write_text(part / NOTE, json.dumps(asdict(plan), indent=1) + "\n")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        work = [pool.submit(_write, file, part / place, plan) for place, file in pictures]
        try:
            for done, one in enumerate(work, 1):
                one.result()
                if progress is not None and done % 2 == 0:
                    progress(done // 2, len(work) // 2)
        finally:
            pool.shutdown(cancel_futures=True)
    if target.exists():
        target.rmdir()  # `_existing` found it empty
    part.rename(target)


def _write(file: Path, place: Path, plan: Preparation) -> None:
    if place.is_file():
        return
    picture = open_rgb(file.read_bytes(), str(file)).resize(plan.size, _FILTERS[plan.resample])
    hidden = place.with_suffix(".tmp")
    picture.save(hidden, format="JPEG", subsampling=0, quality=100)
    hidden.replace(place)


def _existing(target: Path, plan: Preparation) -> Preparation | None:
    """What `target` holds where that is the plan already. Raises FileExistsError where it holds anything else."""
    if not target.exists():
        return None
    there = read_preparation(target) if target.is_dir() else None
    if there is None:
        if target.is_dir() and not any(target.iterdir()):
            return None
        raise FileExistsError(f"{target} is there and holds no prepared Cityscapes; name another folder")
    if not there.same_as(plan):
        what = f"resample {there.resample}, {there.train} and {there.test} pairs"
        raise FileExistsError(f"{target} holds another preparation ({what}); remove it or name another folder")
    for phase, count in (("train", there.train), ("test", there.test)):
        for side in "AB":
            found = sum(1 for _ in (target / f"{phase}{side}").glob(f"*_{side}.jpg"))
            if found != count:
                raise FileExistsError(
                    f"{target / f'{phase}{side}'} has {found} of its {count} pictures; remove {target}"
                )
    return there


def _beside(target: Path, kind: str) -> Path:
    """A hidden file or folder of the same disk, so that the result is moved into place in one step."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{kind}")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Names the target in whatever the system refuses: no space, no permission."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of our own, which name all there is to name
            raise
        raise OSError(
            f"{target} cannot be prepared ({error}); what was written is kept beside it, and the same command goes on"
        ) from error
