"""`gengauge warp` and `gengauge warp-points`: an edit from a file of points, and points from landmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.features.perceptual import perceptual_loss
from gengauge.benchmarks.generators import Generator, read_pickled
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.papers.gan_warping import edits
from gengauge.benchmarks.papers.gan_warping.figures import sheet
from gengauge.benchmarks.papers.gan_warping.loading import stacked
from gengauge.benchmarks.papers.gan_warping.world import RECIPE, pixels
from gengauge.benchmarks.pictures import write_png
from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.training.warping import grids_of, sample_ws, stored, train_edit
from gengauge.benchmarks.zoo import stylegan2_poses
from gengauge.datasets.colour_edits import ColouredPicture, read_colour_folder
from gengauge.datasets.edit_folders import signed_pixels
from gengauge.datasets.edited_weights import write_edited_weights, write_low_rank_edit
from gengauge.datasets.warp_edits import PointedPicture, WarpEdit
from gengauge.datasets.warp_folders import read_warp_folder
from gengauge.reference.gan_warping.landmark_edits import LandmarkEdit, Move
from gengauge.reference.gan_warping.latents import PUBLISHED_MIX
from gengauge.reference.gan_warping.training import ColourWeights, Distance, Recipe

SHOWN = 8  # samples on the sheet
EVERY = 20  # iterations between two states at least: the loop tells of each then
FIRST_SHOWN = 10_000  # their first seed, beyond what people edit


@dataclass(frozen=True, eq=False)
class Base:
    """A generator, frozen, in eval mode, by the name under which edits of it are kept."""

    name: str
    network: Generator

    def recipe(self) -> Recipe:
        """How its edits are trained unless something else is asked for: as most released scripts do.

        A StyleGAN2 of less than 256 px has too few ws for that: as the zoo's.
        """
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
    edit: WarpEdit | Path,
    base: Base,
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
    seed: int = 0,
    distance: Distance | None = None,
    tell: Tell = lambda done, total, doing: None,
) -> None:
    """Trains an edit; writes `edit.safetensors` (factors), `edit.pth` (as published) and `samples.png` into `out`.

    `edit` is one of points, or the folder of a published one, warped or coloured. States are kept in `out/training`,
    from where a training that was stopped goes on. `distance` is LPIPS on VGG16 unless another is given; an edit of
    whole weights has no factors. Raises ValueError for an edit of another generator and for a folder that holds another
    edit's training, WeightsNotFound, and what readers and the training raise.
    """
    g = base.network.to(device)
    colours = None
    if isinstance(edit, WarpEdit):
        if edit.resolution != g.img_resolution:
            raise ValueError(
                f"the edit is of pictures of {edit.resolution} px; {base.name} makes {g.img_resolution} px"
            )
        ws = sample_ws(g, [picture.seed for picture in edit.pictures], edit.truncation, device)
        labels = grids_of([picture.rows() for picture in edit.pictures], g.img_resolution, recipe.crop_bars)
        if all(tuple(point[:2]) == tuple(point[2:]) for picture in edit.pictures for point in picture.points):
            raise ValueError("no point of the edit moves, so that there is nothing to learn")
    elif (edit / "masks").is_dir():
        coloured = read_colour_folder(edit)
        ws = stacked(coloured, g, edit)
        labels, colours = torch.stack([strokes_of(picture) for picture in coloured]), ColourWeights()
    else:
        warped = read_warp_folder(edit, g.img_resolution, recipe.crop_bars)
        ws = stacked(warped, g, edit)
        labels = grids_of([picture.points for picture in warped], g.img_resolution, recipe.crop_bars)
    if distance is None and colours is None and recipe.lpips:
        distance = perceptual_loss("vgg", device)
    update, _ = train_edit(
        recipe,
        g,
        ws,
        labels,
        out / "training",
        {"base": base.name},
        seed=seed,
        device=device,
        distance=distance,
        colours=colours,
        every=max(EVERY, recipe.iterations // 10),
        tell=tell,
        code=code_version(),
    )
    changed = update.tensors()
    if recipe.rank is not None:
        write_low_rank_edit(out / "edit.safetensors", stored(update, g, base.name))
    write_edited_weights(out / "edit.pth", changed)
    shown = sample_ws(g, range(FIRST_SHOWN, FIRST_SHOWN + SHOWN), getattr(edit, "truncation", 1.0), device)
    rows = np.stack([pixels(g, shown), pixels(g, shown, changed)])
    write_png(out / "samples.png", sheet(rows), f"Samples of {base.name}: above as it is, below edited")


def strokes_of(picture: ColouredPicture) -> Tensor:
    """What a colour edit's training takes of a picture, (5, H, W)."""
    masks = torch.from_numpy(np.stack([picture.color_mask, picture.background_mask]))
    return torch.cat([signed_pixels(picture.color), masks])


def points_of_cats(rule: LandmarkEdit, count: int, first: int, name: str) -> WarpEdit:
    """An edit of the zoo's cats, whose landmarks are known, on `count` pictures from the seed `first` on.

    Raises ValueError for an edit that next to no cat can have.
    """
    return edits.pointed(rule, edits.editable(rule, first, count), stylegan2_poses.NAME, name)


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
        if not isinstance(content, dict):
            raise ValueError("it holds no values by name")
        unknown = set(content) - {"moves", "pins"}
        if unknown:
            raise ValueError(f"it has {sorted(unknown)[0]!r}, which is neither moves nor pins")
        pins = content.get("pins", [])
        if not isinstance(pins, list) or not isinstance(content["moves"], list):
            raise ValueError("moves and pins are lists")
        return LandmarkEdit(tuple(map(_move, content["moves"])), tuple(pins))
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is no edit by landmarks: {_told(error)}") from None


def _move(content: Mapping[str, Any]) -> Move:
    move = Move(content["landmark"], content["start"], content["end"], float(content["by"]))
    unknown = set(content) - {"landmark", "start", "end", "by"}
    if unknown:
        raise ValueError(f"a move has {min(unknown)!r}, which is none of landmark, start, end and by")
    return move


def _pointed(rule: LandmarkEdit, picture: Mapping[str, Any], resolution: int) -> PointedPicture:
    found = {name: (float(x), float(y)) for name, (x, y) in picture["landmarks"].items()}
    rows = rule.points(found, resolution).tolist()
    return PointedPicture(picture["seed"], tuple((a, b, c, d) for a, b, c, d in rows))


def _told(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
