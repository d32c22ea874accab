"""The ablation on the embedded world: rank, layer, augmentation, loss, number of pictures, and what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Result
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.papers.gan_warping.comparison import COLUMNS, PROTOCOL
from gengauge.benchmarks.papers.gan_warping.world import RECIPE, Judges, Lesson, held_out, learnt, pixels, plan
from gengauge.benchmarks.zoo import stylegan2_poses

DAY = 24 * 3600.0
LONG = replace(RECIPE, iterations=500, batch=8)
FULL = Lesson(LONG, trunk="vgg")
DEFAULT = "rank 8, layer 4"
LESSONS: dict[str, Lesson] = {
    DEFAULT: FULL,
    **{f"rank {rank}": replace(FULL, recipe=replace(LONG, rank=rank)) for rank in (1, 2, 4, 16, 50)},
    "whole weight": replace(FULL, recipe=replace(LONG, rank=None)),
    **{f"layer {layer}": replace(FULL, recipe=replace(LONG, layers=str(layer))) for layer in (2, 3, 5, 6)},
    "all convolutions, whole weights": replace(FULL, recipe=replace(LONG, rank=None, layers="all")),
    "without augmentation": replace(FULL, recipe=replace(LONG, stylemix=None)),
    "L1": replace(FULL, recipe=replace(LONG, lpips=0.0, l1=1.0)),
    "squared error": replace(FULL, recipe=replace(LONG, lpips=0.0, mse=1.0)),
    "LPIPS-AlexNet": replace(FULL, trunk="alex"),
    "exact warps": replace(FULL, exact=True),
    **{f"{count} pictures": replace(FULL, pictures=count) for count in (8, 20, 50)},
}


@dataclass(frozen=True)
class Settings:
    """A row, the edit that it learns, how, and the number of held-out pictures."""

    row: str
    edit: str
    lesson: Lesson
    held_out: int = 200


def train_row(context: Context) -> object:
    """Trains the row's edit, from where an earlier job left it."""
    s: Settings = context.settings
    return learnt(
        context, s.edit, s.lesson, held_out(stylegan2_poses.load(), (s.edit,), s.held_out, context.seed), every=250
    )


def ablate(context: Context) -> Iterator[Result]:
    """Trains and measures one row."""
    s: Settings = context.settings
    g = stylegan2_poses.load()
    held = held_out(g, (s.edit,), s.held_out, context.seed)
    found = learnt(context, s.edit, s.lesson, held, every=250)
    yield from held.scored(s.row, pixels(g, held.ws, found.changed), Judges(), found.history)


EDIT = "ears"
ROWS = {Row(f"GAN Warping, {name}", EDIT): (EDIT, lesson) for name, lesson in LESSONS.items()}
TABLE = Table(
    "ablation", "What the parts of GAN Warping are worth on the embedded world (own)", COLUMNS, tuple(ROWS), ()
)
EXPERIMENTS = tuple(
    Experiment(
        key=f"ablation-{row.key}",
        table="ablation",
        rows=(row.key,),
        columns=COLUMNS,
        scales={"small": AtScale(Settings(row.key, edit, lesson), 3, Limits(DAY, 8), 1, plan(lesson.trunk))},
        run=ablate,
        train=train_row,
        protocol=(
            *(line for line in PROTOCOL if line[0] != "training"),
            (
                "training",
                "layer 8, rank 50, batch 8, 2,000 iterations, rate 0.05, LPIPS-VGG, entries 8 to 16 mixed",
                (
                    f"layer 4, rank 8, batch 8, {LONG.iterations} iterations, rate {LONG.lr:g}, LPIPS-VGG, entries "
                    f"{stylegan2_poses.INJECT} to 10 mixed, but for what a row names"
                ),
            ),
        ),
    )
    for row, (edit, lesson) in ROWS.items()
)


def _claim(key: str, sentence: str, worse: str, column: str) -> Claim:
    cells = {
        name: Cell(Row(f"GAN Warping, {row}", EDIT).key, column) for name, row in (("full", DEFAULT), ("other", worse))
    }
    return Claim(key, sentence, "ablation", cells, lambda v: v["full"] - v["other"], "dB")


CLAIMS = (
    _claim(
        "ablation-augmentation",
        "Style mixing helps held-out pictures (PSNR of the whole picture).",
        "without augmentation",
        "psnr",
    ),
    _claim(
        "ablation-rank",
        "A higher rank than 8 does not help (PSNR where the edit changes pictures).",
        "rank 50",
        "psnr_changed",
    ),
    _claim(
        "ablation-loss",
        "LPIPS on VGG16 beats L1 (PSNR where the edit changes pictures).",
        "L1",
        "psnr_changed",
    ),
    _claim(
        "ablation-few",
        "Eight pictures do as well as fifty (PSNR where the edit changes pictures).",
        "50 pictures",
        "psnr_changed",
    ),
)
