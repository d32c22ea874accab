"""The eight evaluated edits: the released weights on their test pictures, and the same edits trained here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Picture,
    Plan,
    Result,
    Scale,
)
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.features.edges import load_dexined
from gengauge.benchmarks.features.perceptual import load_lpips, perceptual_loss
from gengauge.benchmarks.generators import Generator
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.metrics.edges import Detector, thinned
from gengauge.benchmarks.metrics.edit_fidelity import COLUMNS, Convention, Fidelity, aggregate
from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.needs import weights_need
from gengauge.benchmarks.papers.gan_warping import scores
from gengauge.benchmarks.papers.gan_warping.figures import sheet
from gengauge.benchmarks.papers.gan_warping.loading import Edit, read_changed, stacked
from gengauge.benchmarks.papers.gan_warping.plans import planned
from gengauge.benchmarks.training.loop import history
from gengauge.benchmarks.training.processes import join
from gengauge.benchmarks.training.warping import grids_of, train_edit
from gengauge.datasets import weights
from gengauge.datasets.edit_folders import signed_pixels
from gengauge.datasets.warp_folders import WarpedPicture
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.gan_warping.low_rank import render
from gengauge.reference.gan_warping.training import Recipe
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.stylegan3 import generator as stylegan3

Array = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
DAY = 24 * 3600.0
SHOWN = 6  # pictures in the report
LAYERS = {"cat_rabbit_face": "1", "house_heaved_ground": "1"}  # of the released scripts, which else edit the eighth
EDITS = (
    "cat_alien_eye",
    "cat_cross_nose",
    "cat_devil_ear",
    "cat_rabbit_face",
    "horse_camel_back",
    "horse_lift_leg",
    "house_curly_roof",
    "house_heaved_ground",
)
OWN = scores.columns("DexiNed")


@dataclass(frozen=True)
class Settings:
    """A published edit, and the recipe of its script; `batch` pictures are rendered at once."""

    edit: Edit
    recipe: Recipe
    batch: int = 4


@dataclass(frozen=True, eq=False)
class Judged:
    """What scores pictures; without edges, why."""

    lpips: LPIPS
    edges: Detector | None
    missing: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Opened:
    """An edit's base on the device, its test pictures and what scores them."""

    base: Generator
    folders: Mapping[str, Path]
    test: Sequence[WarpedPicture]
    ws: Tensor
    judged: Judged

    def made(self, s: Settings, changed: Mapping[str, Tensor]) -> Array:
        """The test pictures (N, R, R, 3) uint8 by the changed base; grey levels are cut, as published."""
        on_device = {name: value.to(self.ws) for name, value in changed.items()}
        with torch.no_grad():
            parts = [render(self.base, ws, on_device, noise_mode="const") for ws in self.ws.split(s.batch)]
        return _grey(torch.cat(parts))

    def scored(self, pictures: Array) -> list[Fidelity]:
        """Each picture against its target, which loses a grey level here and there on its way, as published."""
        targets = _grey(torch.stack([signed_pixels(p.target) for p in self.test if p.target is not None]))
        masks = np.stack([p.mask for p in self.test if p.mask is not None])
        return scores.fidelities(pictures, targets, masks, self.judged.lpips, self.judged.edges)


def open_edit(s: Settings, context: Context) -> Opened:
    """All that a row needs, so that what is missing is told before any work.

    Raises DataNotFound, WeightsNotFound, FileNotFoundError, and ValueError for files that do not go together.
    """
    folders = s.edit.folders(context.data)
    judged = judges(context.device, folders["pretrained"])
    task = s.edit.task(folders)
    base = s.edit.generator(folders)
    test = s.edit.pictures(folders, "test", base.img_resolution)
    where = folders["data"] / task.data / "test"
    for part in ("target", "mask"):
        if any(getattr(picture, part) is None for picture in test):
            raise ValueError(f"{where} has no {part}s, so that nothing can be measured")
    ws = stacked(test, base, where).to(context.device)
    return Opened(base.to(context.device), folders, test, ws, judged)


def judges(device: str, pretrained: Path) -> Judged:
    """LPIPS, and DexiNed where its weights are: as all weights, or with the base generators, as published.

    Raises WeightsNotFound for LPIPS, and what `load_dexined` raises for a file that is there.
    """
    lpips = load_lpips("alex", device)
    file = pretrained / "dexined.pth"
    try:
        found = file if file.is_file() and weights.find("dexined") is None else None
        return Judged(lpips, thinned(load_dexined(found, device)), {})
    except WeightsNotFound as error:
        return Judged(lpips, None, {column: str(error) for column in COLUMNS if column.startswith("chamfer")})


def published_row(context: Context) -> Iterator[Result]:
    """The row of the paper: the released weights, scored as the released evaluator scores them."""
    s: Settings = context.settings
    opened = open_edit(s, context)
    context.progress(0, 2, f"{len(opened.test)} test pictures of {s.edit.name}")
    made = opened.made(s, s.edit.weights(opened.folders, opened.base))
    context.progress(1, 2, "scoring")
    row = Row(METHOD, s.edit.name).key
    yield from scores.measurements(row, opened.scored(made), "published", missing=opened.judged.missing)
    if context.seed == 0:
        yield figure(s, opened, row, made)


def conventions(context: Context) -> Iterator[Result]:
    """The same pictures scored both ways, and those of the base."""
    s: Settings = context.settings
    opened = open_edit(s, context)
    edited = opened.scored(opened.made(s, s.edit.weights(opened.folders, opened.base)))
    rows: dict[str, tuple[list[Fidelity], Convention]] = {
        PUBLISHED: (edited, "published"),
        CORRECTED: (edited, "corrected"),
        UNEDITED: (opened.scored(opened.made(s, {})), "corrected"),
    }
    for method, (found, convention) in rows.items():
        yield from scores.measurements(Row(method, s.edit.name).key, found, convention, missing=opened.judged.missing)


def train_row(context: Context) -> tuple[dict[str, Tensor], str]:
    """The published edit trained from its training pictures, from where an earlier job left it, and its `history`."""
    s: Settings = context.settings
    processes, device = join(context.device)
    distance = perceptual_loss("vgg", device)
    folders = s.edit.folders(context.data)
    base = s.edit.generator(folders).to(device)
    pictures = s.edit.pictures(folders, "train", base.img_resolution)
    ws = stacked(pictures, base, folders["data"] / s.edit.task(folders).data / "train")
    grids = grids_of([picture.points for picture in pictures], base.img_resolution)
    seen = hashlib.sha256(repr(s.recipe).encode())
    for tensor in (ws, grids, *base.state_dict().values()):
        seen.update(tensor.cpu().numpy().tobytes())
    digest = seen.hexdigest()[:12]
    update, trained = train_edit(
        s.recipe,
        base,
        ws,
        grids,
        context.work / f"gan-warping-{s.edit.name}-{digest}-seed{context.seed}",
        {"edit": s.edit.name, "pictures and base": digest},
        seed=context.seed,
        device=device,
        distance=distance,
        processes=processes,
        tell=context.progress,
        code=code_version(),
    )
    return update.tensors(), history(trained.about, code_version())


def retrained(context: Context) -> Iterator[Result]:
    """The edit trained here, by corrected scores."""
    s: Settings = context.settings
    opened = open_edit(s, context)
    changed, told = train_row(context)
    made = opened.made(s, changed)
    row = Row(RETRAINED, s.edit.name).key
    for found in scores.measurements(row, opened.scored(made), missing=opened.judged.missing):
        yield found.noted(told)
    if context.seed == 0:
        yield figure(s, opened, row, made)


def measure_file(context: Context, path: Path) -> Mapping[str, tuple[float, float]]:
    """An edit in the user's file, scored as the row is, with the deviation of its means over pictures.

    The published chamfer distance is one picture's and has none. What is not finite is left out.
    """
    s: Settings = context.settings
    opened = open_edit(s, context)
    found = opened.scored(opened.made(s, read_changed(path, opened.base)))
    told = aggregate(found).published
    out = {}
    for column, value in told.items():
        if math.isfinite(value):
            each = [one.published[column] for one in found]
            error = (
                0.0
                if column.startswith("chamfer")
                else float(np.std(each, ddof=1) / math.sqrt(len(each)))
                if len(each) > 1
                else math.nan
            )
            out[column] = (value, error)
    return out


def figure(s: Settings, opened: Opened, row: str, made: Array) -> Picture:
    """Some test pictures by the base, as they should be, and edited."""
    targets = np.stack([p.target for p in opened.test if p.target is not None])
    shown = np.stack([opened.made(s, {}), targets, made])[:, :SHOWN]
    # Pages need no more than a few hundred px a picture.
    step = max(1, shown.shape[2] // 256)
    return Picture(
        row,
        "test",
        sheet(shown[:, :, ::step, ::step]),
        f"Test pictures of {s.edit.name}: by the base, as they should be, and by the edited generator",
    )


def _grey(pictures: Tensor) -> Array:
    return to_uint8_truncated(pictures).permute(0, 2, 3, 1).cpu().numpy()


PROTOCOL = (
    ("edges", "DexiNed, pretrained/dexined.pth", "the same; without its weights chamfer distances are missing"),
    ("warps", "float32", "float64: within 1e-5 px"),
)
METHOD, RETRAINED = "GAN Warping", "GAN Warping, trained here"
PUBLISHED, CORRECTED = "GAN Warping, as the released evaluator scores", "GAN Warping, corrected scores"
UNEDITED = "Base, not edited, corrected scores"
CONVENTIONS = Table(
    "conventions",
    "The released edits scored as published and corrected (own)",
    OWN,
    tuple(Row(method, name) for name in EDITS for method in (PUBLISHED, CORRECTED, UNEDITED)),
    (),
    ("results",),
)
TRAINED = Table(
    "retrained",
    "The evaluated edits trained here by the released scripts' settings, corrected scores (own)",
    OWN,
    tuple(Row(RETRAINED, name) for name in EDITS),
    (),
    ("results",),
)


def _settings(name: str) -> Settings:
    return Settings(Edit(name), Recipe(layers=LAYERS.get(name, "8")))


def _reads(s: Settings, data: Path) -> Path | None:
    return s.edit.place(data)


def _plan(s: Settings, *trunks: str) -> Plan:
    resolution = 256 if s.edit.base == "horse" else 512
    network = planned(lambda: stylegan3.Generator(img_resolution=resolution, synthesis_kwargs=stylegan3.CONFIG_R), 512)
    keys = ("lpips-alex", *trunks)
    return Plan((network,), lambda data: (*(weights_need(key) for key in keys), *s.edit.needs(data)))


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """For each edit the row of the paper, and the own rows beside it."""
    (published,) = (table.columns for table in tables if table.key == "results")
    out = []
    for name in EDITS:
        s = _settings(name)
        scales: dict[Scale, AtScale] = {"paper": AtScale(s, 1, Limits(DAY, 24), 4, _plan(s))}
        trained: dict[Scale, AtScale] = {"paper": AtScale(s, 3, Limits(7 * DAY, 32), 4, _plan(s, "lpips-vgg"))}
        out += [
            Experiment(
                key=f"results-{name}",
                table="results",
                rows=(Row(METHOD, name).key,),
                columns=published,
                scales=scales,
                run=published_row,
                protocol=PROTOCOL,
                reads=_reads,
                measure=measure_file,
            ),
            Experiment(
                key=f"conventions-{name}",
                table="conventions",
                rows=tuple(Row(method, name).key for method in (PUBLISHED, CORRECTED, UNEDITED)),
                columns=OWN,
                scales=scales,
                run=conventions,
                protocol=PROTOCOL,
                reads=_reads,
            ),
            Experiment(
                key=f"retrained-{name}",
                table="retrained",
                rows=(Row(RETRAINED, name).key,),
                columns=OWN,
                scales=trained,
                run=retrained,
                protocol=(*PROTOCOL, ("pictures and seeds", "one training, not seeded", "three trainings by seed")),
                reads=_reads,
                train=train_row,
            ),
        ]
    return tuple(out)
