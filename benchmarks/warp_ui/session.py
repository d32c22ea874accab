"""What a person does on the page, with no web in it: samples, points on them, a training, samples of what it made."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.training.warping import SquareGenerator, dense_of, sample_ws
from gengauge.benchmarks.warp_ui.background import Background, Progress
from gengauge.benchmarks.warp_ui.settings import Settings
from gengauge.datasets.edited_weights import LowRankEdit, check_base, write_edited_weights, write_low_rank_edit
from gengauge.datasets.warp_edits import MAX_SEED, Point, PointedPicture, WarpEdit, read_warp_edit, write_warp_edit
from gengauge.reference.gan_warping.low_rank import compose, layers, render
from gengauge.reference.gan_warping.warps import preview

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Train = Callable[[Sequence[PointedPicture], Settings, Tell], LowRankEdit]
FileKind = Literal["pth", "safetensors"]
MOST_AT_ONCE = 16  # pictures that are made in one call
MOST_POINTS = 200  # of one picture
MOST_PICTURES = 500  # of one edit
_KEPT = 512  # pictures of the generator as it is
_FAR = 1e15  # whole numbers of any length come in JSON, and do not fit into a float
_TOGETHER = 4  # pictures that go through the network at once


class Unknown(LookupError):
    """There is no trained edit of a number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no trained edit {number}; it may have been forgotten")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained edit: its name, what is known of it, the new values of parameters, and factors where they are known."""

    name: str
    about: str
    tensors: Mapping[str, Tensor]
    factors: LowRankEdit | None = None


class Session:
    """One person's work on one generator. Its methods may be called from several threads at once."""

    def __init__(
        self,
        generator: SquareGenerator,
        name: str,
        train: Train,
        defaults: Settings,
        truncation: float = 1.0,
        device: str = "cpu",
    ) -> None:
        """A generator in eval mode on `device`, frozen; `name` tells people and edits' files which it is."""
        self.generator, self.name, self.truncation, self.device = generator, name, truncation, device
        self.resolution = generator.img_resolution
        self.layers = layers(generator)
        self.defaults = defaults
        self.training = Background()
        self._train = train
        self._base = dict(_state(generator))
        self._edit: tuple[PointedPicture, ...] = ()
        self._trained: dict[int, Trained] = {}
        self._made = 0
        self._pictures: OrderedDict[int, Pixels] = OrderedDict()
        self._lock = threading.RLock()  # of what is kept
        self._network = threading.Lock()  # one rendering at a time: another would only slow both

    # What the generator makes

    def pictures(self, seeds: Sequence[int], mix: Mapping[int, float] | None = None) -> Pixels:
        """Samples (N, R, R, 3) of seeds, by the generator as it is or moved by trained edits at strengths in [0, 1].

        Raises ValueError for too many seeds, unknown edits and strengths that are none.
        """
        if not 1 <= len(seeds) <= MOST_AT_ONCE:
            raise ValueError(f"from 1 to {MOST_AT_ONCE} pictures are made at once, not {len(seeds)}")
        seeds = [_seed(seed) for seed in seeds]
        if mix:
            return self._render(seeds, self.mixed(mix))
        with self._lock:
            kept = {seed: self._pictures[seed] for seed in seeds if seed in self._pictures}
        missing = [seed for seed in dict.fromkeys(seeds) if seed not in kept]
        if missing:
            kept |= dict(zip(missing, self._render(missing, None), strict=True))
            with self._lock:
                self._pictures.update((seed, kept[seed]) for seed in missing)
                while len(self._pictures) > _KEPT:
                    self._pictures.popitem(last=False)
        return np.stack([kept[seed] for seed in seeds])

    @torch.no_grad()
    def _render(self, seeds: Sequence[int], changed: Mapping[str, Tensor] | None) -> Pixels:
        ws = sample_ws(self.generator, seeds, self.truncation, self.device)
        with self._network:
            made = [render(self.generator, part, changed, noise_mode="const") for part in ws.split(_TOGETHER)]
        return to_uint8_truncated(torch.cat(made).float()).permute(0, 2, 3, 1).cpu().numpy()

    # The edit

    def warped(self, seed: int, points: Any) -> Pixels:
        """The picture of a seed as points warp it, (R, R, 3). Raises ValueError naming the point that cannot be."""
        rows = self._points(points)
        return preview(self.pictures([seed])[0], np.array(rows, np.float64).reshape(-1, 4))

    @property
    def edit(self) -> tuple[PointedPicture, ...]:
        """The pictures that were chosen, some of which may have no points yet."""
        with self._lock:
            return self._edit

    def set_edit(self, pictures: Sequence[tuple[int, Any]]) -> None:
        """Takes seeds and their points, rows x_src, y_src, x_dst, y_dst in px, in place of those that were there.

        Raises ValueError naming the picture and the point that cannot be; then nothing changes.
        """
        if len(pictures) > MOST_PICTURES:
            raise ValueError(f"an edit has at most {MOST_PICTURES} pictures, not {len(pictures)}")
        found = tuple(PointedPicture(_seed(seed), self._points(points)) for seed, points in pictures)
        if len({picture.seed for picture in found}) < len(found):
            raise ValueError("a seed is there twice; put its points into one picture")
        if any(picture.points for picture in found):
            self._document(found)
        with self._lock:
            self._edit = found

    def document(self, name: str = "") -> WarpEdit:
        """The edit as its file holds it: the pictures with points. Raises ValueError where none has any."""
        return self._document(self.edit, name)

    def _document(self, pictures: Sequence[PointedPicture], name: str = "") -> WarpEdit:
        pointed = tuple(picture for picture in pictures if picture.points)
        if not pointed:
            raise ValueError("no picture has points yet: there is nothing to save")
        return WarpEdit(self.name, self.resolution, pointed, self.truncation, name)

    def open_document(self, document: WarpEdit) -> None:
        """Takes an edit in place of the one that was there. Raises ValueError for one of another generator.

        A file may name its generator by a path: folders and the ending do not count.
        """
        mine = {"generator": self.name, "resolution": self.resolution, "truncation": self.truncation}
        for key, value in mine.items():
            theirs = getattr(document, key)
            if theirs != value and not (key == "generator" and Path(theirs).stem == self.name):
                raise ValueError(
                    f"the edit is for the {key} {theirs}, and this page shows {value}; "
                    f"start the page with the {key} of the edit"
                )
        self.set_edit([(picture.seed, picture.points) for picture in document.pictures])

    def document_text(self, name: str = "") -> str:
        """The edit's file as text. Raises ValueError where no picture has points."""
        document = self.document(name)
        return _through_a_file(lambda path: write_warp_edit(path, document)).decode()

    def open_text(self, text: str) -> None:
        """Takes the edit of a file's text. Raises ValueError telling what is wrong in it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "edit.json")
            path.write_text(text, encoding="utf-8")
            try:
                document = read_warp_edit(path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), "the file")) from None
        self.open_document(document)

    def _points(self, points: Any) -> tuple[Point, ...]:
        if not isinstance(points, Sequence) or isinstance(points, str) or len(points) > MOST_POINTS:
            raise ValueError(f"the points of a picture are a list of at most {MOST_POINTS} rows")
        rows = []
        for i, row in enumerate(points):
            if not isinstance(row, Sequence) or len(row) != 4 or not all(_inside(x, self.resolution) for x in row):
                raise ValueError(
                    f"point {i + 1} is not four numbers from 0 to {self.resolution - 1}: from x, from y, to x, to y"
                )
            rows.append((float(row[0]), float(row[1]), float(row[2]), float(row[3])))
        return tuple(rows)

    # The training and what it made

    def start_training(self, name: str, settings: Settings) -> None:
        """Trains on the pictures with points, in the background (see `training`); what it makes joins `trained`.

        Raises ValueError for too few pictures or a layer that is not there, Busy where a training runs.
        """
        pictures = [picture for picture in self.edit if picture.points]
        if len(pictures) < settings.batch:
            raise ValueError(
                f"{len(pictures)} pictures have points, and a batch takes {settings.batch}: "
                "warp more pictures, or choose a smaller batch"
            )
        if settings.layer >= len(self.layers):
            raise ValueError(f"the layer must be from 0 to {len(self.layers) - 1}, not {settings.layer}")

        def work(tell: Tell) -> None:
            learnt = self._train(pictures, settings, tell)
            about = (
                f"{len(pictures)} pictures, {self.layers[settings.layer].removeprefix('synthesis.')}, "
                f"rank {settings.rank}, {settings.iterations} iterations"
            )
            self.add_factors(name, about, learnt)

        self.training.start(work)

    def progress(self) -> Progress:
        """How far the training is."""
        return self.training.progress()

    def add_factors(self, name: str, about: str, learnt: LowRankEdit) -> int:
        """Adds an edit that was learnt on this generator; its number. Raises ValueError for one of another."""
        check_base(learnt, self._base)
        return self._add(Trained(name, about, dense_of(learnt, self._base), learnt))

    def add_weights(self, name: str, about: str, tensors: Mapping[str, Tensor]) -> int:
        """Adds an edit of whole parameters; its number. Raises ValueError where this generator has no such ones."""
        check_base(tensors, self._base)
        return self._add(Trained(name, about, dict(tensors)))

    def _add(self, trained: Trained) -> int:
        with self._lock:
            self._made += 1
            self._trained[self._made] = trained
            return self._made

    @property
    def trained(self) -> dict[int, Trained]:
        """Trained edits by their numbers."""
        with self._lock:
            return dict(self._trained)

    def one(self, number: int) -> Trained:
        """A trained edit by its number. Raises Unknown."""
        with self._lock:
            if number not in self._trained:
                raise Unknown(number)
            return self._trained[number]

    def forget(self, number: int) -> None:
        """Drops a trained edit. Raises Unknown where there is none of the number."""
        with self._lock:
            if self._trained.pop(number, None) is None:
                raise Unknown(number)

    def mixed(self, mix: Mapping[int, float]) -> dict[str, Tensor]:
        """The parameters that trained edits change, at strengths in [0, 1]. Raises Unknown, or ValueError."""
        trained = self.trained
        for number, scale in mix.items():
            if number not in trained:
                raise Unknown(number)
            if not _number(scale) or not 0 <= scale <= 1:
                raise ValueError(f"a strength must be a number from 0 to 1, not {scale!r}")
        return compose(self._base, [trained[number].tensors for number in mix], [float(x) for x in mix.values()])

    def export(self, number: int, kind: FileKind) -> bytes:
        """A trained edit's file: `pth` holds whole weights as published, `safetensors` the factors.

        Raises Unknown where there is no such edit, ValueError where its factors are not known.
        """
        trained = self.one(number)
        if kind == "pth":
            return _through_a_file(lambda path: write_edited_weights(path, trained.tensors))
        factors = trained.factors
        if factors is None:
            raise ValueError(f"{trained.name} is of whole weights; its factors are not known")
        return _through_a_file(lambda path: write_low_rank_edit(path, factors))

    def export_mix(self, mix: Mapping[int, float]) -> bytes:
        """A published file of the parameters that a mix of edits changes. Raises Unknown, ValueError."""
        if not mix:
            raise ValueError("no trained edit is switched on: there is nothing to export")
        changed = self.mixed(mix)
        return _through_a_file(lambda path: write_edited_weights(path, changed))

    def close(self) -> None:
        """Ends a training that runs, at its next step."""
        self.training.cancel()
        self.training.wait(10)


def _state(generator: Any) -> Mapping[str, Tensor]:
    found: Mapping[str, Tensor] = generator.state_dict()
    return found


def _seed(seed: Any) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"a seed must be a whole number from 0 to {MAX_SEED}, not {seed!r}")
    return seed


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR


def _inside(value: Any, resolution: int) -> bool:
    return _number(value) and 0 <= value < resolution


def _through_a_file(write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made")
        write(path)
        return path.read_bytes()
