"""`gengauge warp` and `gengauge warp-points`: an edit from a file of points, and points from landmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.generators import Generator, read_pickled
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.papers.gan_warping import edits
from gengauge.benchmarks.papers.gan_warping.figures import sheet
from gengauge.benchmarks.papers.gan_warping.world import RECIPE, pixels
from gengauge.benchmarks.pictures import write_png
from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.training.warping import sample_ws, stored, train_points
from gengauge.benchmarks.zoo import stylegan2_poses
from gengauge.datasets.edited_weights import write_edited_weights, write_low_rank_edit
from gengauge.datasets.warp_edits import PointedPicture, WarpEdit
from gengauge.reference.gan_warping.landmark_edits import LandmarkEdit, Move
from gengauge.reference.gan_warping.latents import PUBLISHED_MIX
from gengauge.reference.gan_warping.training import Distance, Recipe
from gengauge.reference.nets.perceptual import PerceptualLoss

SHOWN = 8  # samples on the sheet
FIRST_SHOWN = 10_000  # their first seed, beyond what people edit


@dataclass(frozen=True, eq=False)
class Base:
    """A generator, frozen, in eval mode, by the name under which edits of it are kept."""

    name: str
    network: Generator

    def recipe(self) -> Recipe:
        """How its edits are trained unless something else is asked for: as published, or as the zoo's small one."""
        if self.network.num_ws >= PUBLISHED_MIX[1] - 2:  # StyleGAN2 of 256 px has 14
            return Recipe()
        middle = self.network.num_ws // 2
        return replace(RECIPE, stylemix=(middle, self.network.num_ws))


def open_base(name: str) -> Base:
    """The zoo's generator by its name, or NVIDIA's `.pkl` by its path; nothing in the file is executed.

    Raises ValueError for what is neither, and what `read_pickled` raises.
    """
    if name == stylegan2_poses.NAME:
        return Base(name, stylegan2_poses.load())
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{name!r} is no file, and not {stylegan2_poses.NAME}, the generator of the zoo")
    return Base(path.stem, read_pickled(path))


def warp(
    edit: WarpEdit,
    base: Base,
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
    seed: int = 0,
    distance: Distance | None = None,
    tell: Tell = lambda done, total, doing: None,
) -> None:
    """Trains an edit; writes `edit.safetensors` (factors), `edit.pth` (as published) and `samples.png` into `out`.

    States are kept in `out/training`, from where a training that was stopped goes on. `distance` is LPIPS on VGG16
    unless another is given; an edit of whole weights has no factors. Raises ValueError for an edit of another
    resolution and for a folder that holds another edit's training, WeightsNotFound, and what the training raises.
    """
    g = base.network.to(device)
    if edit.resolution != g.img_resolution:
        raise ValueError(f"the edit is of pictures of {edit.resolution} px; {base.name} makes {g.img_resolution} px")
    update = train_points(
        recipe,
        g,
        edit.pictures,
        out / "training",
        truncation=edit.truncation,
        seed=seed,
        device=device,
        distance=distance or PerceptualLoss("lpips", load_lpips("vgg", device)),
        tell=tell,
        code=code_version(),
    )
    changed = update.tensors()
    if recipe.rank is not None:
        write_low_rank_edit(out / "edit.safetensors", stored(update, g, base.name, edit.name))
    write_edited_weights(out / "edit.pth", changed)
    ws = sample_ws(g, range(FIRST_SHOWN, FIRST_SHOWN + SHOWN), edit.truncation, device)
    rows = np.stack([pixels(g, ws), pixels(g, ws, changed)])
    write_png(out / "samples.png", sheet(rows), f"Samples of {base.name}: above as it is, below edited")


def points_of_cats(rule: LandmarkEdit, count: int, first: int, name: str) -> WarpEdit:
    """An edit of the zoo's cats, whose landmarks are known, on the pictures of `count` seeds from `first` on."""
    return edits.pointed(rule, range(first, first + count), stylegan2_poses.NAME, name)


def points_of_detections(rule: LandmarkEdit, path: Path, generator: str, name: str) -> WarpEdit:
    """An edit by landmarks that any detector found on a generator's pictures.

    The file: `{"resolution": 256, "pictures": [{"seed": 3, "landmarks": {"nose": [120.5, 140], ...}}, ...]}`, x and y
    in px. Raises FileNotFoundError, and ValueError naming the file and what is wrong in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        resolution = content["resolution"]
        pictures = [_pointed(rule, one, resolution) for one in content["pictures"]]
        return WarpEdit(generator, resolution, tuple(pictures), name=name)
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} holds no landmarks: {_told(error)}") from None


def read_rule(name: str) -> LandmarkEdit:
    """An edit in words: `ears` or `nose`, or a file.

    The file: `{"moves": [{"landmark": "nose", "start": "nose", "end": "forehead", "by": 0.35}], "pins": ["chin"]}`: the
    nose moves 0.35 times the way from the nose to the forehead, and the chin stays. Raises ValueError.
    """
    if name in edits.EDITS:
        return edits.EDITS[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{name!r} is no file, and none of the edits {', '.join(edits.EDITS)}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        unknown = set(content) - {"moves", "pins"}
        if unknown:
            raise ValueError(f"it has {sorted(unknown)[0]!r}, which is neither moves nor pins")
        moves = tuple(Move(one["landmark"], one["start"], one["end"], float(one["by"])) for one in content["moves"])
        return LandmarkEdit(moves, tuple(content.get("pins", ())))
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is no edit by landmarks: {_told(error)}") from None


def _pointed(rule: LandmarkEdit, picture: Mapping[str, Any], resolution: int) -> PointedPicture:
    found = {name: (float(x), float(y)) for name, (x, y) in picture["landmarks"].items()}
    rows = rule.points(found, resolution).tolist()
    return PointedPicture(picture["seed"], tuple((a, b, c, d) for a, b, c, d in rows))


def _told(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
