"""The paper's own tables at its own scale: for each row an experiment, with what differs from the published protocol.

The human study (Table 2) stays published: it cannot be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from gengauge.benchmarks.concept_samples import Sampling
from gengauge.benchmarks.core.experiments import AtScale, Experiment, Limits
from gengauge.benchmarks.core.tables import Column, Row, Table, slug
from gengauge.benchmarks.papers.custom_diffusion import rows
from gengauge.benchmarks.papers.custom_diffusion.methods import (
    ABLATIONS,
    BASE,
    BOOTH,
    CUSTOM,
    DEVIATION,
    INVERSION,
    JOINTLY,
    NORMAL,
    OPTIMISED,
    PAIRED,
    SINGLES,
    WHOLE,
    Drawing,
    Method,
    Settings,
    Subjects,
)
from gengauge.benchmarks.papers.custom_diffusion.rows import CocoSettings
from gengauge.datasets.concept_sets_paper import CONCEPTS, PAIRS, UNRELEASED

DAY = 24 * 3600.0
LIMITS = Limits(14 * DAY, 64)
THREADS = 4
SCENE = ("moongate",)  # of whose alignment the means know nothing
EVERY = Drawing(how=Sampling(steps=50), each=50)
PAIR = Drawing(how=Sampling(steps=200), each=50)
MEAN = "mean"
Protocol = tuple[tuple[str, str, str], ...]

RELEASED = tuple(name for name in CONCEPTS if name not in UNRELEASED)
RELEASED_ROW = f"mean over the {len(RELEASED)} released datasets"
RELEASED_METHODS = (*SINGLES, *ABLATIONS[:-1])
RELEASED_COLUMNS = (
    Column(
        "text_alignment",
        f"CLIPScore with CLIP ViT-B/32, 2.5*max(cos,0), mean over {len(RELEASED) - 1} datasets without Moongate",
        "1",
        "higher",
    ),
    Column(
        "image_alignment_clip",
        f"mean pairwise cosine of CLIP ViT-B/32 image features, mean over the same {len(RELEASED) - 1} datasets",
        "1",
        "higher",
    ),
    Column(
        "kid",
        f"KID against real validation images of the class (times 1000), mean over all {len(RELEASED)} datasets",
        "1e-3",
        "lower",
    ),
)
RELEASED_TABLE = Table(
    "single-released",
    "Single concept, means over the datasets whose pictures are released (own)",
    RELEASED_COLUMNS,
    tuple(Row(method.name, RELEASED_ROW) for method in RELEASED_METHODS),
    (),
    ("single", "ablation", "per-dataset"),
)

PROTOCOL: Protocol = (
    (
        "training",
        "2 GPUs, 4 pictures of the concept and of its class each a step or 2 and 2 (the two released codes differ)",
        "the diffusers code's composition, 4 and 4 a step; all new tokens learn; float32",
    ),
    (
        "authors' deltas",
        "their own trainings",
        "the authors' deltas where custom-diffusion/models has them (a value's note says so), else trained here",
    ),
    (
        "sampling",
        "float16 by autocast, seed 42 for the first picture",
        "on a GPU the same, else float32; noise by seed and picture's number, whatever the batch",
    ),
    (
        "baselines",
        "Textual Inversion and DreamBooth by their authors' settings; fine-tune all by this method's recipe",
        (
            "settings not told: those of their papers; Textual Inversion with one caption and no mirroring, its token "
            "before the class's word, as which it begins where that is one token; DreamBooth's rare word likewise, "
            f"none for the moongate; the whole U-Net tuned at a rate of {WHOLE.recipe.lr if WHOLE.recipe else 0:g}"
        ),
    ),
    ("rows", "one training each", "one training and one set of samples; the interval is over prompts or data sets"),
)
KID: Protocol = (
    (
        "KID",
        "500 real validation pictures (not published), 1000 samples, mean of 100 subsets of 500",
        (
            "the user's own real pictures of each class; 1000 samples of their captions, or of 'photo of a CLASS'; all "
            "pairs at once, which has the same expectation"
        ),
    ),
)
PAIRING: Protocol = (
    ("pairs", "steps and pictures a prompt not told; 50 a prompt in a single table", "200 steps, 50 pictures a prompt"),
    ("image alignment of a pair", "how two are averaged is not told", "the unweighted mean of both concepts'"),
    (
        "merge",
        "about 1000 captions in the paper, the first 200 of the released file in the code",
        ("the first 200, solved by QR decompositions in float64; a concept without a token is named by its class"),
    ),
    ("Textual Inversion", "not told how two come together", "tokens learnt one by one, side by side"),
)
CC101: Protocol = (
    ("class pictures", "200, generated", "the same, each by the model from 'photo of a CLASS', 50 steps"),
    ("pictures a prompt", "5 for a concept; not told for a pair", "5"),
)


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """For each row of the published tables that can be measured an experiment, and own means of what is released."""
    known = {table.key: table for table in tables}
    found = [
        *_of(known["single"], _single(known["single"], SINGLES), (*PROTOCOL, *KID)),
        *_of(known["ablation"], _single(known["ablation"], ABLATIONS), (*PROTOCOL, *KID)),
        *_of(known["per-dataset"], _single(known["per-dataset"], (*SINGLES, BASE)), (*PROTOCOL, *KID)),
        *_of(
            known["token"],
            _single(known["token"], (replace(CUSTOM, released=False), NORMAL), leave_out=True),
            (
                *PROTOCOL,
                *KID,
                ("V* from a normal distribution", "which is not told", f"mean 0, deviation {DEVIATION:g}, as new rows"),
            ),
        ),
        *_of(RELEASED_TABLE, _single(RELEASED_TABLE, RELEASED_METHODS, only=RELEASED), (*PROTOCOL, *KID)),
        *_of(known["multi"], _pairs(known["multi"]), (*PROTOCOL, *PAIRING)),
        *_of(known["per-composition"], _pairs(known["per-composition"]), (*PROTOCOL, *PAIRING)),
    ]
    for key in ("cc101-single", "cc101-multi", "cc101-single-readme", "cc101-multi-readme"):
        extra = (*PROTOCOL, *CC101, *(PAIRING[1:] if "multi" in key else ()))
        found += _of(known[key], _customconcept101(known[key], pairs="multi" in key), extra)
    return (*found, *_coco(known["coco"]))


# -- rows as settings --------------------------------------------------------------------------------------------------


def _single(
    table: Table, methods: Sequence[Method], leave_out: bool = False, only: tuple[str, ...] = tuple(CONCEPTS)
) -> Iterator[Settings]:
    """Rows of a concept, or of the mean over all of them; with `leave_out` the scene is in no mean at all."""
    by_name = {method.name: method for method in methods}
    for each in table.rows:
        name = concept_name(each.setting)
        method = by_name[each.method]
        names = (name,) if name in CONCEPTS else tuple(n for n in only if not (leave_out and n in SCENE))
        columns = tuple(column.key for column in table.columns if method is not BASE or column.key == "kid")
        yield Settings(
            each.key, columns, method, Subjects("paper", names), SCENE if name not in CONCEPTS else (), EVERY
        )


def _pairs(table: Table) -> Iterator[Settings]:
    by_name = {method.name: method for method in (*PAIRED, BOOTH)}
    for each in table.rows:
        name = "+".join(concept_name(part) for part in each.setting.split(" + "))
        known = tuple("+".join(pair) for pair in PAIRS)
        names = (name,) if name in known else known
        yield Settings(
            each.key,
            tuple(column.key for column in table.columns),
            by_name[each.method],
            Subjects("paper", names, pairs=True),
            drawing=PAIR,
        )


def _customconcept101(table: Table, pairs: bool) -> Iterator[Settings]:
    methods = (INVERSION, BOOTH, CUSTOM, OPTIMISED, JOINTLY)
    by_name = {m.name: replace(m, released=False, prior="none" if m is INVERSION else "generated") for m in methods}
    for each in table.rows:
        steps = 50 if each.setting.startswith("50 ") else 200
        yield Settings(
            each.key,
            tuple(column.key for column in table.columns),
            by_name[each.method],
            Subjects("customconcept101", pairs=pairs),
            drawing=Drawing(how=Sampling(steps=steps), each=5),
        )


def concept_name(setting: str) -> str:
    """A concept's name of how tables call it: "Wooden Pot (4 images)" is `wooden_pot`."""
    return setting.partition(" (")[0].strip().lower().replace(" ", "_")


# -- experiments -------------------------------------------------------------------------------------------------------


def _of(table: Table, settings: Iterable[Settings], protocol: Protocol) -> Iterator[Experiment]:
    columns = {column.key: column for column in table.columns}
    for s in settings:
        yield Experiment(
            key=slug(f"{table.key} {s.row}"),
            table=table.key,
            rows=(s.row,),
            columns=tuple(columns[key] for key in s.columns),
            scales={"paper": AtScale(s, 1, LIMITS, THREADS, rows.plan(s))},
            run=rows.row,
            generates=("paper",),
            check=rows.check,
            protocol=protocol,
            reads=rows.reads,
            train=None if s.method.recipe is None else rows.train,
        )


def _coco(table: Table) -> Iterator[Experiment]:
    by_name = {method.name: method for method in (CUSTOM, BOOTH, BASE)}
    for each in table.rows:
        method = by_name[each.method]
        names = () if method is BASE else (concept_name(each.setting),)
        s = CocoSettings(Settings(each.key, ("fid",), method, Subjects("paper", names), drawing=EVERY))
        yield Experiment(
            key=slug(f"coco {each.key}"),
            table=table.key,
            rows=(each.key,),
            columns=table.columns,
            scales={"paper": AtScale(s, 1, LIMITS, THREADS, rows.coco_plan(s))},
            run=rows.coco_row,
            generates=("paper",),
            check=rows.check_of,
            protocol=(
                *PROTOCOL,
                (
                    "COCO",
                    "number and year of pictures not told",
                    (f"the first captions of {rows.COCO} validation pictures, and those: FID is higher than of more"),
                ),
            ),
            reads=rows.reads_of,
            train=None if method is BASE else rows.coco_train,
        )
