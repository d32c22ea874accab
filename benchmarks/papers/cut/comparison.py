"""Table 1's scores: label scores and FID of CUT, FastCUT and CycleGAN on every data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor, nn

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Picture,
    Result,
    Scale,
)
from gengauge.benchmarks.core.tables import Column, Table
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.papers.cut import sets
from gengauge.benchmarks.papers.cut.loading import load_translator
from gengauge.benchmarks.papers.cut.methods import NAMES, Method, plan, train, trained
from gengauge.benchmarks.papers.cut.scoring import Distances, Tell, label_scores, save_translations, translations
from gengauge.benchmarks.papers.cut.sets import Judge, World
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.training.unpaired import Recipe
from gengauge.benchmarks.zoo import translators
from gengauge.benchmarks.zoo.meadows import Meadows
from gengauge.datasets.folder import load_square
from gengauge.datasets.unpaired import UnpairedFolders
from gengauge.reference.cut.losses import LinearSchedule
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, CYCLEGAN_2017, FASTCUT

DAY = 24 * 3600.0
SHOWN = 8  # pictures of a row in the report
KID = Column("kid", "KID (Inception 2015, pytorch-fid's resizing) against the target's test pictures", "1", "lower")
LABELS = ("miou", "pixel_acc", "class_acc")
PUBLISHED: dict[str, Recipe] = {"cut": CUT, "fastcut": FASTCUT, "cyclegan": CYCLEGAN_2017}
# Between the two scales: wider networks and pictures of twice the side, trained twice as long.
SMALL: dict[str, Any] = {
    "load_size": 143,
    "crop_size": 128,
    "schedule": LinearSchedule(n_epochs=1, n_epochs_decay=1),
    "generator": {"n_blocks": 6, "ngf": 32},
    "discriminator": {"ndf": 32},
}
SMALL_RECIPES: dict[str, Recipe] = {
    "cut": replace(CUT, **SMALL),
    "fastcut": replace(FASTCUT, **SMALL),
    "cyclegan": replace(CYCLEGAN, **SMALL),
}
SMALL_SET = World(Meadows(size=128, training=2000, test=500))


@dataclass(frozen=True)
class Settings:
    """What fills a row: the method, and which columns it has."""

    row: str
    name: str
    method: Method
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Test:
    """The test pictures, the reference's features, and who judges labels where the row has label scores."""

    folders: UnpairedFolders
    distances: Distances
    judge: Judge | None


def open_test(s: Settings, context: Context) -> Test:
    """All that scoring needs, so that what is missing is told before days of training.

    Raises DataNotFound or WeightsNotFound.
    """
    folders = s.method.data.open(context, "test")
    judge = s.method.data.judge(context) if LABELS[0] in s.columns else None
    references = [folders.b.path / file for file in folders.b.files]
    distances = Distances.of(references, load_network("inception"), context.device)
    return Test(folders, distances, judge)


def score(s: Settings, context: Context, translator: nn.Module, test: Test, results: Path) -> Iterator[Measurement]:
    """Translates the test pictures into `results`, and scores them."""
    tell = translating(context)
    made = translations(translator, test.folders, s.method.evaluation, context.device, tell=tell)
    yield from scored(s, context, made, test, results)


def translating(context: Context) -> Tell:
    """Tells how many pictures are translated."""
    return lambda done, total: context.progress(done, total, f"translating: {done} of {total}")


def scored(
    s: Settings, context: Context, made: Iterator[tuple[str, Tensor]], test: Test, results: Path
) -> Iterator[Measurement]:
    """Scores translations of the test pictures, which are written into `results`."""
    pictures = save_translations(made, results)
    note = s.method.data.note(context)
    if test.judge is not None:
        truth = test.judge.truth(test.folders.a.files)
        for found in label_scores(s.row, test.judge.predict(pictures), truth, test.judge.classes):
            yield found.noted(note)
    for found in test.distances.measure(s.row, pictures, s.columns):
        yield found.noted(note)


def compare(context: Context) -> Iterator[Result]:
    """One method on one set: trained or from the zoo, then scored."""
    s: Settings = context.settings
    test = open_test(s, context)
    translator, told = trained(s.method, context)
    results = results_of(s, context)
    for found in score(s, context, translator, test, results):
        yield found.noted(told)
    if context.seed == 0:
        yield shown(s, test.folders, results)


def results_of(s: Settings, context: Context) -> Path:
    """Where translations are kept, as CUT's test script calls the folder."""
    return context.work / "results" / f"{s.row}-{context.scale}-seed{context.seed}" / "fake_B"


def measure_file(context: Context, path: Path) -> dict[str, tuple[float, float]]:
    """The columns of a row for a generator in the user's file, `latest_net_G.pth` or a folder with one."""
    s: Settings = context.settings
    translator = load_translator(path)
    with TemporaryDirectory() as work:
        context = replace(context, work=Path(work))
        found = score(s, context, translator, open_test(s, context), Path(work) / "fake_B")
        return {one.column: (one.value, 0.0) for one in found}


def shown(s: Settings, folders: UnpairedFolders, results: Path) -> Picture:
    """The first test pictures above their translations."""
    side = s.method.recipe.crop_size
    first = list(range(min(SHOWN, len(folders.a))))
    paths = [folders.a.path / folders.a.files[i] for i in first]
    mine = [(results / folders.a.files[i]).with_suffix(".png") for i in first]
    sheet = np.concatenate([load_square(files, side).numpy() for files in (paths, mine)])
    zoom = max(1, 128 // side)
    return Picture(s.row, "translations", grid(sheet, len(first), zoom), f"Sources, and what {s.name} makes of them")


STAND_IN = (
    ("data", "Cityscapes, 2,975 photographs and label maps", "animals on meadows of the embedded world, 1,000 of each"),
    ("network", "9 blocks, 64 channels, 256 px", "6 blocks, 16 channels, 64 px"),
    ("training", "400 epochs (CUT), 200 (FastCUT)", "2,000 iterations, the rate falling over the second half, alike"),
    ("CycleGAN", "as published in 2017, presumably", "CUT's repository's: antialiased, with identities"),
    ("segmenter", "DRN-D-22, trained on photographs at 256 x 128 px", "a narrow DRN, trained on the world at 64 px"),
    ("FID", "500 pictures of each side", "128 of each side: biased upward, alike in all rows"),
)
SMALL_PROTOCOL = (
    ("data", "Cityscapes, 2,975 photographs and label maps", "animals on meadows of the embedded world, 2,000 of each"),
    ("network", "9 blocks, 64 channels, 256 px", "6 blocks, 32 channels, 128 px"),
    ("training", "400 epochs (CUT), 200 (FastCUT)", "4,000 iterations, the rate falling over the second half, alike"),
    *STAND_IN[3:5],
)
PROTOCOL = (("snapshot", "users report that only the best epoch has the printed FID", "the last one"),)
SEGMENTER = (
    (
        "segmenter",
        "DRN-D-22 that the authors trained at 256 x 128 px and did not release",
        "the DRN-D-22 of your file: only the order of methods can be expected to hold",
    ),
)
BASELINE = (("start of CycleGAN's weights", "normal, deviation 0.02", "Xavier with gain 0.02, as all of CUT's code"),)
SETS = {"cityscapes": sets.CITYSCAPES, "cat-dog": sets.CAT2DOG, "horse-zebra": sets.HORSE2ZEBRA}


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """One experiment a method and data set."""
    published = {column.key: column for column in next(t for t in tables if t.key == "comparison").columns}
    out = []
    for setting, data in SETS.items():
        for key, name in NAMES.items():
            keys = (*LABELS, "fid", "kid") if data.labels else ("fid", "kid")
            row = f"{key}@{setting}"
            more = (*PROTOCOL, *(SEGMENTER if data.labels else ()), *(BASELINE if key == "cyclegan" else ()))
            paper = Method(PUBLISHED[key], data)
            scales: dict[Scale, AtScale] = {
                "paper": AtScale(Settings(row, name, paper, keys), 1, Limits(60 * DAY, 64), 8, plan(paper), more)
            }
            if data.labels:
                quick = Method(translators.RECIPES[key], World(translators.SET), zoo=key)
                small = Method(SMALL_RECIPES[key], SMALL_SET)
                scales["quick"] = AtScale(
                    Settings(row, name, quick, keys), len(translators.SEEDS), Limits(1800, 6), 1, plan(quick), STAND_IN
                )
                scales["small"] = AtScale(
                    Settings(row, name, small, keys), 2, Limits(2 * DAY, 16), 2, plan(small), SMALL_PROTOCOL
                )
            out.append(
                Experiment(
                    key=f"{setting}-{key}",
                    table="comparison",
                    rows=(row,),
                    columns=tuple(published.get(k, KID) for k in keys),
                    scales=scales,
                    run=compare,
                    check=check,
                    reads=reads,
                    train=train_row,
                    measure=measure_file,
                )
            )
    return tuple(out)


def train_row(context: Context) -> object:
    """The long part of a row alone."""
    return train(context.settings.method, context)


def reads(settings: Settings, root: Path) -> Path | None:
    """The part of a folder of data sets that a row reads."""
    data = settings.method.data
    if isinstance(data, World):
        return None
    return root if data.labels and data.find(root) else data.find(root)


def check(settings: Settings, root: Path | None) -> None:
    """Refuses a published set that is not whole."""
    if not isinstance(settings.method.data, World):
        settings.method.data.check(root)


def _label_cells(column: str) -> dict[str, Cell]:
    return {"cut": Cell("cut@cityscapes", column), "cyclegan": Cell("cyclegan@cityscapes", column)}


CLAIMS = (
    *(
        Claim(
            f"label-{column.replace('_', '-')}",
            f"On label maps to photographs, CUT scores above CycleGAN ({what}).",
            "comparison",
            _label_cells(column),
            lambda v: v["cut"] - v["cyclegan"],
            "%",
        )
        for column, what in (("miou", "mean IoU"), ("pixel_acc", "pixel accuracy"), ("class_acc", "class accuracy"))
    ),
    Claim(
        "label-fid",
        "On label maps to photographs, CUT has a lower FID than CycleGAN.",
        "comparison",
        _label_cells("fid"),
        lambda v: v["cyclegan"] - v["cut"],
    ),
)
