"""SinCUT: a translation learnt from one picture a side. The paper has no numbers of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import (
    AtScale,
    Context,
    Experiment,
    Limits,
    Measurement,
    Picture,
    Result,
)
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.features.networks import load_network
from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.papers.cut.comparison import DAY, reads, train_row
from gengauge.benchmarks.papers.cut.methods import Method, plan, trained
from gengauge.benchmarks.papers.cut.scoring import Distances, translations
from gengauge.benchmarks.papers.cut.sets import Folders
from gengauge.datasets.unpaired import Choices, apply, to_tensor
from gengauge.reference.cut.recipes import SINCUT
from gengauge.reference.nets.stylegan2.translation import StyleTranslator

CROPS = 300  # of each picture, for the distance between pictures
TRANSLATED, SOURCE = Row("SinCUT"), Row("Source as it is")
COLUMNS = (
    Column(
        "fid_crops", f"FID (pytorch-fid's resizing) between {CROPS} crops of 64 px of a picture and of the target",
        "1", "lower",
    ),
    Column("identity", "L1 distance between the target and its own translation, values in [-1, 1]", "1", "lower"),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The method and the row that it fills."""

    method: Method
    row: str = TRANSLATED.key


def single(context: Context) -> Iterator[Result]:
    """Trains on crops of the pair, translates the whole picture, and compares crops."""
    s: Settings = context.settings
    folders = s.method.data.open(context, "train")  # what is tested is what was trained on
    if len(folders.a) != 1 or len(folders.b) != 1:
        raise ValueError(
            f"{folders.root} has {len(folders.a)} and {len(folders.b)} pictures in trainA and trainB; SinCUT takes "
            "one of each"
        )
    inception = load_network("inception")
    translator, told = trained(s.method, context)
    assert isinstance(translator, StyleTranslator)
    generator = torch.Generator(context.device).manual_seed(context.seed)
    how = s.method.evaluation
    ((_, made),) = translations(translator, folders, how, context.device, generator)
    source, target = (to_tensor(apply(folders.picture(side, 0), how, Choices())) for side in ("A", "B"))
    with torch.inference_mode():
        itself = translator(target[None].to(context.device), None, generator).cpu()
    distances = Distances.of(_crops(_grey(target), context.seed), inception, context.device)
    for row, picture, note in ((TRANSLATED, made, told), (SOURCE, _grey(source), "")):
        for found in distances.measure(row.key, _crops(picture, context.seed + 1), ("fid",)):
            yield Measurement(row.key, "fid_crops", found.value, samples=CROPS, note=found.note).noted(note)
    yield Measurement(TRANSLATED.key, "identity", float((itself - target).abs().mean()), samples=1, note=told)
    for name, picture, what in (
        ("source", _grey(source), "The source"),
        ("target", _grey(target), "The target"),
        ("translation", made, "What SinCUT makes of the source"),
    ):
        yield Picture(TRANSLATED.key, name, picture.permute(1, 2, 0).contiguous().numpy(), what)


def _grey(picture: Tensor) -> Tensor:
    return to_uint8_truncated(picture)


def _crops(picture: Tensor, seed: int) -> Tensor:
    """Random crops (CROPS, 3, 64, 64) of a picture uint8 (3, H, W)."""
    side, random = SINCUT.crop_size, np.random.default_rng(seed)
    tops, lefts = (random.integers(size - side + 1, size=CROPS) for size in picture.shape[1:])
    return torch.stack(
        [picture[:, top : top + side, left : left + side] for top, left in zip(tops, lefts, strict=True)]
    )


TABLE = Table(
    "single-image", "SinCUT on a pair of pictures (own; the paper shows pictures)", COLUMNS, (TRANSLATED, SOURCE), ()
)
# 100,000 iterations as published take hours on a GPU.
SMALL = Method(SINCUT, Folders("single_image"), iterations=4_000)
PAPER = Method(SINCUT, Folders("single_image_monet_etretat"))


EXPERIMENT = Experiment(
    key="single-image",
    table="single-image",
    rows=(TRANSLATED.key, SOURCE.key),
    columns=COLUMNS,
    scales={
        "small": AtScale(
            Settings(SMALL),
            1,
            Limits(DAY, 16),
            2,
            plan(SMALL),
            (("training", "100,000 iterations", f"{SMALL.iterations:,} iterations, the rate constant"),),
        ),
        "paper": AtScale(Settings(PAPER), 1, Limits(30 * DAY, 32), 8, plan(PAPER)),
    },
    run=single,
    reads=reads,
    train=train_row,
    without=frozenset({(SOURCE.key, "identity")}),
)
