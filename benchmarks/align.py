"""`gengauge align`: a folder of pictures in a transformer's common frame, and an edit drawn there on all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.papers.gangealing.loading import RELEASED, SIZE, Released, load_file, load_published
from gengauge.benchmarks.pictures import write_png
from gengauge.benchmarks.zoo import posed_cats
from gengauge.benchmarks.zoo.aligners import ALIGNERS
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.squares import fitted
from gengauge.reference.gangealing.congealing import Congealed, Settings, average, congeal
from gengauge.reference.gangealing.propagation import coordinate_map, propagate
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.training import Transformer

_BATCH = 16
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Model:
    """A transformer in eval mode, the side in px that pictures are brought to for it, and how it is applied."""

    network: Transformer
    size: int
    settings: Settings


def open_model(name: str, flips: bool = True) -> Model:
    """A released model by its name, one of the zoo by its name, or a file of the published layout.

    With `flips` pictures are mirrored where that leaves the smoother flow; a classifier of the file goes before that.
    Raises ValueError for what is neither, WeightsNotFound, and what `load_file` raises.
    """
    zoo = {aligner.NAME: aligner for aligner in ALIGNERS.values()}
    if name in zoo:
        network = zoo[name].load()
        return Model(network, posed_cats.RESOLUTION, Settings(3, flips=flips and isinstance(network, ComposedSTN)))
    if name in RELEASED:
        checkpoint, how = load_published(name), RELEASED[name]
    elif Path(name).is_file():
        checkpoint, how = load_file(Path(name)), Released()
    else:
        known = ", ".join((*RELEASED, *zoo))
        raise ValueError(f"{name!r} is no file and none of the models {known}")
    settings = Settings(how.iters, how.padding_mode, flips, checkpoint.classifier(SIZE))
    return Model(checkpoint.transformer(SIZE), SIZE, settings)


def read_template(path: Path) -> Tensor:
    """A drawing in the common frame, a square picture with transparency, as (4, T, T), colours in [-1, 1].

    Raises ValueError for a picture without transparency and for one that is damaged or not square.
    """
    try:
        with Image.open(path) as picture:
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                raise ValueError("it has no transparency: where nothing is drawn it must be transparent")
            pixels = np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no drawing ({error})") from None
    if pixels.shape[0] != pixels.shape[1]:
        raise ValueError(f"{path} is {pixels.shape[1]} x {pixels.shape[0]} px; a drawing in the common frame is square")
    found = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    return torch.cat([found[:3] * 2 - 1, found[3:]])


def align(
    model: Model,
    folder: Path,
    out: Path,
    drawing: Tensor | None = None,
    maps: bool = False,
    device: str = "cpu",
    tell: Tell = lambda done, total: None,
) -> int:
    """Writes aligned pictures into `out`, their average, a table; edited pictures and maps where asked. How many.

    `aligned/`, `edited/` and `maps/` have the folder's names with .png added. Pictures are scaled and padded to the
    model's side by their own edges, as published. A map shows by its colours what corresponds.

    Raises ValueError for an `out` that holds files, for a damaged picture and for a drawing that does not fit.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds files already; choose another folder")
    paths = list_pictures(folder)
    network = model.network.to(device)
    classifier = model.settings.classifier
    settings = replace(model.settings, classifier=None if classifier is None else classifier.to(device))
    templates = {"edited": drawing, "maps": coordinate_map() if maps else None}
    rows: list[tuple[str, str, bool, int]] = []

    def aligned() -> Iterator[Tensor]:
        for start in range(0, len(paths), _BATCH):
            part = paths[start : start + _BATCH]
            x = _read(part, model.size).to(device)
            found = congeal(network, x, settings, output_resolution=model.size)
            names = [f"{path.relative_to(folder).as_posix()}.png" for path in part]
            _write(out / "aligned", names, found.image, "aligned")
            for kind, template in templates.items():
                if template is not None:
                    _write(out / kind, names, propagate(found, template, model.size).over(x), kind)
            rows.extend(_rows(names, found))
            tell(len(rows), len(paths))
            yield found.image

    mean = average(aligned())
    write_png(out / "average.png", _pixels(mean.image[None])[0], f"The average of {mean.count} aligned pictures")
    text = io.StringIO()
    csv.writer(text).writerows([("picture", "smoothness", "mirrored", "cluster"), *rows])
    (out / "pictures.csv").write_text(text.getvalue())
    return mean.count


def _read(paths: Sequence[Path], size: int) -> Tensor:
    """Pictures (N, 3, size, size) in [-1, 1]."""
    pixels = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                pixels.append(fitted(picture, size, "border"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as a picture ({error}); replace or remove it") from error
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _pixels(pictures: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return to_uint8(pictures.clamp(-1, 1)).permute(0, 2, 3, 1).cpu().numpy()


def _write(folder: Path, names: Sequence[str], pictures: Tensor, kind: str) -> None:
    for name, pixels in zip(names, _pixels(pictures), strict=True):
        write_png(folder / name, pixels, f"{name.removesuffix('.png')}, {kind}")


def _rows(names: Sequence[str], found: Congealed) -> Iterator[tuple[str, str, bool, int]]:
    scores = [""] * len(found) if found.warped.delta is None else [f"{score:.6g}" for score in found.score.tolist()]
    yield from zip(names, scores, found.mirrored.tolist(), found.cluster.tolist(), strict=True)
