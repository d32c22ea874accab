"""A method of the user's own in CUT's tables: any training of a translator from two sets of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Result
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.methods import callable_of, returned, work_of
from gengauge.benchmarks.papers.cut import comparison
from gengauge.benchmarks.papers.cut.scoring import translated
from gengauge.datasets.unpaired import Choices, Transform, UnpairedFolders, apply


def compare(context: Context, own: Own) -> Iterator[Result]:
    """The row of a data set: trained, and scored on its test pictures as the declared rows are."""
    s: comparison.Settings = replace(context.settings, row=own.row, name=own.row)
    how = s.method.evaluation
    test = comparison.open_test(s, context)
    folders = s.method.data.open(context, "train")
    context.progress(0, 1, f"{own.row}: reading pictures")
    sources, targets = (every(folders, side, how) for side in ("A", "B"))
    trained = callable_of(own, "train", own.method.train(sources, targets, work_of(context, own)))

    def translate(picture: Image.Image) -> Tensor:
        x = as_taught(picture, how)[None]
        return returned(own, "train", trained(x), tuple(x.shape), "uint8")[0]

    results = comparison.results_of(s, context)
    made = translated(translate, test.folders, comparison.translating(context))
    yield from comparison.scored(s, context, made, test, results)
    if context.seed == 0:
        yield comparison.shown(s, test.folders, results)


def as_taught(picture: Image.Image, how: Transform) -> Tensor:
    """A picture as uint8 (3, H, W), in the size in which test pictures are translated."""
    return torch.from_numpy(np.array(apply(picture, how, Choices()))).permute(2, 0, 1).contiguous()


def every(folders: UnpairedFolders, side: Literal["A", "B"], how: Transform) -> Tensor:
    """All pictures of a side, uint8 (N, 3, H, W)."""
    count = len(folders.a if side == "A" else folders.b)
    return torch.stack([as_taught(folders.picture(side, i), how) for i in range(count)])


OPENINGS = tuple(Opening(f"{setting}-cut", compare, (setting,)) for setting in comparison.SETS)
CLOSED = {
    "comparison/cost": "one iteration of a training is timed, which a method does not show",
    "learning": "it shows one training while it learns; `comparison` measures what a method has learnt",
    "bounds": "it tells between what the scores lie",
    "ablation": "its rows leave out parts of CUT",
    "counts": "it counts operations of CUT's networks",
    "released": "its rows are the released generators",
    "single-image": "a pair of pictures is no set of sources and targets",
}
