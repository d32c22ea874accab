"""The ablation of CUT: identity, number of negatives, layers, and where negatives come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Experiment, Limits, Scale
from gengauge.benchmarks.core.tables import Table
from gengauge.benchmarks.papers.cut import sets
from gengauge.benchmarks.papers.cut.comparison import (
    DAY,
    KID,
    LABELS,
    PROTOCOL,
    SEGMENTER,
    STAND_IN,
    Settings,
    check,
    compare,
    measure_file,
    reads,
    train_row,
)
from gengauge.benchmarks.papers.cut.methods import Method, plan
from gengauge.benchmarks.papers.cut.sets import World
from gengauge.benchmarks.zoo import translators
from gengauge.reference.cut import contrastive
from gengauge.reference.cut.recipes import CUT

LAST = (16,)  # the last of the published taps
DEFAULT = "cut-default-id-255-neg-all-layers-internal"
VARIANTS: Mapping[str, dict[str, Any]] = {
    DEFAULT: {},
    "cut-no-id": {"nce_idt": False},
    "cut-no-id-15-neg": {"nce_idt": False, "num_patches": 16},
    "cut-no-id-15-neg-last-layer": {"nce_idt": False, "num_patches": 16, "nce_layers": LAST},
    "cut-last-layer-only": {"nce_layers": LAST},
    "cut-internal-and-external": {"negatives": "both"},
    "cut-external-only": {"negatives": "external"},
    "cut-external-only-last-layer": {"negatives": "external", "nce_layers": LAST},
}
EXTERNAL = (
    (
        "external negatives",
        "a bank of features by a slow copy of the encoder, of which no code was published",
        "from the description: 4,096 rows a layer and side, momentum 0.999, as many negatives as internal ones",
    ),
)


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """One experiment a variant and data set."""
    published = {column.key: column for column in next(t for t in tables if t.key == "ablation").columns}
    own = {column.key: column for column in next(t for t in tables if t.key == "comparison").columns}
    out = []
    for setting, data in {"cityscapes": sets.CITYSCAPES, "horse-zebra": sets.HORSE2ZEBRA}.items():
        for variant, changes in VARIANTS.items():
            keys = ("fid", "miou", *LABELS[1:], "kid") if data.labels else ("fid", "kid")
            row = f"{variant}@{setting}"
            more = EXTERNAL if "negatives" in changes else ()
            paper = Method(replace(CUT, **changes), data)
            protocol = (*PROTOCOL, *(SEGMENTER if data.labels else ()), *more)
            scales: dict[Scale, AtScale] = {
                "paper": AtScale(
                    Settings(row, variant, paper, keys), 1, Limits(60 * DAY, 64), 8, plan(paper), protocol
                ),
            }
            if data.labels:
                recipe = translators.RECIPES["cut"]
                assert isinstance(recipe, contrastive.Recipe)
                small = Method(replace(recipe, **changes), World(translators.SET))
                scales["small"] = AtScale(
                    Settings(row, variant, small, keys), 3, Limits(DAY, 8), 1, plan(small), (*STAND_IN, *more)
                )
            out.append(
                Experiment(
                    key=f"ablation-{setting}-{variant}",
                    table="ablation",
                    rows=(row,),
                    columns=tuple(published.get(key) or own.get(key, KID) for key in keys),
                    scales=scales,
                    run=compare,
                    check=check,
                    reads=reads,
                    train=train_row,
                    measure=measure_file,
                )
            )
    return tuple(out)


def _claim(key: str, sentence: str, worse: str, column: str = "miou") -> Claim:
    sign = 1 if column == "miou" else -1
    return Claim(
        key,
        sentence,
        "ablation",
        {"default": Cell(f"{DEFAULT}@cityscapes", column), "other": Cell(f"{worse}@cityscapes", column)},
        lambda v: sign * (v["default"] - v["other"]),
        "%" if column == "miou" else "1",
    )


CLAIMS = (
    _claim("internal", "Internal negatives give a higher mean IoU than external ones.", "cut-external-only"),
    _claim("internal-fid", "Internal negatives give a lower FID than external ones.", "cut-external-only", "fid"),
    _claim(
        "without-external", "Adding external negatives to internal ones lowers mean IoU.", "cut-internal-and-external"
    ),
    _claim("identity", "The identity term raises mean IoU.", "cut-no-id"),
    _claim("identity-fid", "The identity term lowers FID.", "cut-no-id", "fid"),
    _claim("layers", "All layers give a higher mean IoU than the last alone.", "cut-last-layer-only"),
    _claim("layers-fid", "All layers give a lower FID than the last alone.", "cut-last-layer-only", "fid"),
)
