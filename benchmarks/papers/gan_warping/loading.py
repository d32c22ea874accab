"""The published edits, edited weights and base generators of GAN Warping, as its archives hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Need
from gengauge.benchmarks.generators import Generator, read_pickled
from gengauge.benchmarks.needs import data_need
from gengauge.benchmarks.training.warping import dense_of
from gengauge.datasets.catalogue import data_folder, data_set
from gengauge.datasets.colour_edits import ColouredPicture
from gengauge.datasets.edited_weights import check_base, is_low_rank_edit, read_edited_weights, read_low_rank_edit
from gengauge.datasets.eval_tasks import EvalTask, read_eval_tasks
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.warp_folders import WarpedPicture, read_warp_folder

PARTS = ("data", "weights", "pretrained")
BASES = {
    "cat": "stylegan3-r-afhqv2cat-512x512.pkl",
    "horse": "stylegan3-r-horse-256x256.pkl",
    "house": "stylegan3-r-house-512x512.pkl",
}
TASKS = "eval_task"


@dataclass(frozen=True)
class Edit:
    """A published edit by the name of its row, such as `cat_alien_eye`, and the files it needs."""

    name: str

    @property
    def base(self) -> str:
        """The key of its base generator."""
        return self.name.partition("_")[0]

    def needs(self, data: Path | None) -> tuple[Need, ...]:
        """The three archives, with the places looked in."""
        return tuple(data_need(f"gan-warping-{part}", data) for part in PARTS)

    def folders(self, data: Path | None) -> dict[str, Path]:
        """Where the parts are. Raises DataNotFound for the first that is not here."""
        return {part: _found(f"gan-warping-{part}", data) for part in PARTS}

    def place(self, data: Path) -> Path | None:
        """The folder of the parts that are here, None where none is."""
        found = {path.parent for part in PARTS if (path := data_set(f"gan-warping-{part}").find(data)) is not None}
        return data if len(found) > 1 else next(iter(found), None)

    def generator(self, folders: Mapping[str, Path]) -> Generator:
        """Its base. Raises FileNotFoundError, and what `read_pickled` raises."""
        return read_pickled(folders["pretrained"] / BASES[self.base])

    def task(self, folders: Mapping[str, Path]) -> EvalTask:
        """Its line in the list of tasks. Raises ValueError where the list has none."""
        path = folders["weights"] / TASKS
        tasks = read_eval_tasks(path)
        mine = [task for task in tasks if self.name in _names(task)]
        if not mine:
            raise ValueError(f"{path} has no task {self.name}; it has {', '.join(task.name for task in tasks)}")
        return mine[0]

    def weights(self, folders: Mapping[str, Path], base: Generator) -> dict[str, Tensor]:
        """The changed parameters. Raises FileNotFoundError, and what `read_changed` raises."""
        return read_changed(_placed(folders["weights"], self.task(folders).weights), base)

    def pictures(self, folders: Mapping[str, Path], split: str, resolution: int) -> list[WarpedPicture]:
        """A split's pictures. Raises what `read_warp_folder` raises."""
        return read_warp_folder(folders["data"] / self.task(folders).data / split, resolution)


def read_changed(path: Path, base: Generator) -> dict[str, Tensor]:
    """The parameters that an edited model changes, dense: from a published `.pth`, or from factors.

    Raises FileNotFoundError, UnsafeCheckpoint, DamagedCheckpoint, ValueError for an edit of another base.
    """
    state = base.state_dict()
    edit = read_low_rank_edit(path) if is_low_rank_edit(path) else read_edited_weights(path)
    try:
        check_base(edit, state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if isinstance(edit, dict):
        return edit
    return dense_of(edit, state)


def stacked(pictures: Iterable[WarpedPicture | ColouredPicture], g: Generator, where: Path) -> Tensor:
    """The latents of pictures (N, num_ws, w_dim). Raises ValueError for those of another generator than `g`."""
    ws = torch.stack([picture.latent for picture in pictures])
    if ws.shape[1:] != (g.num_ws, g.w_dim):
        raise ValueError(f"{where} has latents {tuple(ws.shape[1:])}; this generator takes {(g.num_ws, g.w_dim)}")
    return ws


def _names(task: EvalTask) -> set[str]:
    """What a task may be called: by its own name, by its base and edit, by its file."""
    return {task.name, f"{task.base}_{Path(task.data).name}", Path(task.weights).stem}


def _placed(folder: Path, name: str) -> Path:
    """A file that the list names from the folder above `weights`, or from `weights` itself."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{folder / TASKS} names {name}, which leads out of {folder}")
    return folder.joinpath(*(place.parts[1:] if place.parts[:1] == ("weights",) else place.parts))


def _found(key: str, data: Path | None) -> Path:
    entry, root = data_set(key), data or data_folder()
    path = entry.find(root)
    if path is None:
        raise DataNotFound(entry.what, [root / mark for mark in entry.marks] if root else [], entry.remedy)
    return path
