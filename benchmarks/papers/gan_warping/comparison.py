"""An ear edit and a nose edit of the embedded world: what held-out cats look like, with and without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Picture,
    Result,
)
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.papers.gan_warping import scores
from gengauge.benchmarks.papers.gan_warping.edits import ABOUT, EDITS
from gengauge.benchmarks.papers.gan_warping.figures import sheet
from gengauge.benchmarks.papers.gan_warping.world import (
    RECIPE,
    Array,
    HeldOut,
    Judges,
    Lesson,
    held_out,
    learnt,
    pixels,
    plan,
)
from gengauge.benchmarks.zoo import stylegan2_poses

COLUMNS = scores.columns()
WATCHED = ("psnr", "psnr_changed", "psnr_unchanged")  # columns of the curves
BASE, METHOD = "Base, not edited", "GAN Warping"
PLAIN, WHOLE = "GAN Warping, without augmentation", "GAN Warping, whole weight"
LESSONS: dict[str, Lesson] = {
    METHOD: Lesson(),
    PLAIN: Lesson(replace(RECIPE, stylemix=None)),
    WHOLE: Lesson(replace(RECIPE, rank=None)),
}
# The whole weight is trained for one edit, for time.
METHODS = {"ears": (METHOD, PLAIN, WHOLE), "nose": (METHOD, PLAIN)}
RANK_SHARE = "14 %"  # of 36,864 values 5,120 are trained, as the table of sizes tells
SHOWN = 8  # pictures in the report


@dataclass(frozen=True)
class Settings:
    """An edit by name, how each row learns it, and the number of held-out pictures."""

    edit: str
    lessons: tuple[tuple[Row, Lesson], ...]
    held_out: int = 50


def compare(context: Context) -> Iterator[Result]:
    """The base as it is, and each row's edit, on the same held-out pictures."""
    s: Settings = context.settings
    g, judges = stylegan2_poses.load(), Judges()
    held = held_out(g, (s.edit,), s.held_out, context.seed)
    yield from held.scored(Row(BASE, s.edit).key, held.base, judges)
    for row, lesson in s.lessons:
        found = learnt(context, s.edit, lesson, held)
        made = pixels(g, held.ws, found.changed)
        yield from held.scored(row.key, made, judges, found.history)
        for point in found.curve:
            for column in WATCHED:
                yield Measurement(row.key, column, point[column], step=int(point["iteration"]), samples=s.held_out)
        if context.seed == 0 and row.method == METHOD:
            yield shown(row.key, held, made, s.edit)


def shown(row: str, held: HeldOut, made: Array, edit: str) -> Picture:
    """Some held-out pictures."""
    return Picture(
        row,
        "held-out",
        sheet(np.stack([held.base, held.targets, made])[:, :SHOWN]),
        f"Cats that no training saw: as the base makes them, as they should be ({ABOUT[edit]}), and as the edited "
        "generator makes them",
    )


def _margin(better: Row, worse: Row, column: str) -> tuple[Mapping[str, Cell], Callable[[Mapping[str, float]], float]]:
    cells = {"better": Cell(better.key, column), "worse": Cell(worse.key, column)}
    return cells, lambda v: v["better"] - v["worse"]


ROWS = {name: tuple(Row(method, name) for method in (BASE, *METHODS[name])) for name in EDITS}
TABLE = Table(
    "world",
    "Edits of the embedded world's cats by their landmarks, on held-out pictures (own)",
    COLUMNS,
    tuple(row for rows in ROWS.values() for row in rows),
    (),
)
PROTOCOL = (
    ("generator", "StyleGAN3-R of 512 px and others", "a StyleGAN2 of the zoo, 64 px, taught by regression"),
    ("edits", "points dragged by a person on about ten samples", "points moved by the world's exact landmarks on ten"),
    (
        "ground truth",
        "pictures warped in the interface; regions drawn by hand",
        "pictures warped by the landmarks of the held-out cats; the region that moves by 1 px or more",
    ),
    (
        "training",
        "layer 8, rank 50, batch 8, 2,000 iterations, rate 0.05, LPIPS-VGG, entries 8 to 16 mixed",
        (
            f"layer {RECIPE.layers}, rank {RECIPE.rank}, batch {RECIPE.batch}, {RECIPE.iterations} iterations, rate "
            f"{RECIPE.lr:g}, LPIPS-AlexNet, which also scores; entries {stylegan2_poses.INJECT} to 10 mixed"
        ),
    ),
    ("edges", "DexiNed", "Canny"),
    (
        "scores",
        "PSNR in a region 4.8 dB below that of the whole picture, chamfer distance of the last picture",
        "corrected: on one scale, and the mean; each seed has other edited and other held-out pictures",
    ),
)
EXPERIMENTS = tuple(
    Experiment(
        key=f"world-{name}",
        table="world",
        rows=tuple(row.key for row in rows),
        columns=COLUMNS,
        scales={
            "quick": AtScale(
                Settings(name, tuple((row, LESSONS[row.method]) for row in rows[1:])), 3, Limits(1800, 6), 1, plan()
            )
        },
        run=compare,
        protocol=PROTOCOL,
    )
    for name, rows in ROWS.items()
)
CLAIMS = (
    *(
        Claim(
            f"follows-{name}",
            f"Held-out pictures follow the edit ({ABOUT[name]}): by PSNR where it changes them, they are nearer to "
            "their warped base than the base is.",
            "world",
            *_margin(Row(METHOD, name), Row(BASE, name), "psnr_changed"),
            "dB",
        )
        for name in EDITS
    ),
    *(
        Claim(
            f"edges-{name}",
            f"So are their edges ({ABOUT[name]}; chamfer distance of Canny's where the edit changes them).",
            "world",
            *_margin(Row(BASE, name), Row(METHOD, name), "chamfer_changed"),
            "px",
        )
        for name in EDITS
    ),
    *(
        Claim(
            f"keeps-{name}",
            f"What the edit must leave it leaves ({ABOUT[name]}): there, its PSNR against the warped base is at most "
            "3 dB below that of the base itself.",
            "world",
            _margin(Row(METHOD, name), Row(BASE, name), "psnr_unchanged")[0],
            lambda v: v["better"] - v["worse"] + 3.0,
            "dB",
        )
        for name in EDITS
    ),
    *(
        Claim(
            f"augmentation-{name}",
            f"Style mixing as augmentation helps held-out pictures ({ABOUT[name]}; PSNR of the whole picture).",
            "world",
            *_margin(Row(METHOD, name), Row(PLAIN, name), "psnr"),
            "dB",
        )
        for name in EDITS
    ),
    Claim(
        "low-rank",
        f"An update of rank {RECIPE.rank}, {RANK_SHARE} of the whole weight's values, gains at least three quarters of "
        f"what the whole weight gains over the base, by PSNR where the edit changes pictures ({ABOUT['ears']}).",
        "world",
        {
            name: Cell(Row(method, "ears").key, "psnr_changed")
            for name, method in (("rank", METHOD), ("base", BASE), ("whole", WHOLE))
        },
        lambda v: (v["rank"] - v["base"]) - 0.75 * (v["whole"] - v["base"]),
        "dB",
    ),
)
