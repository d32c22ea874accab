"""One personal concept of the embedded world: alignment and forgetting by what is trained, and at lower ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import (
    AtScale,
    Axis,
    Context,
    Experiment,
    Limits,
    Measurement,
    Picture,
    Result,
)
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.custom_pipeline import compress_delta
from gengauge.benchmarks.papers.custom_diffusion.lessons import Source, Together, learnt
from gengauge.benchmarks.papers.custom_diffusion.world import (
    COLUMNS,
    JUDGE,
    KID,
    Model,
    Sampling,
    measurements,
    plan,
    prompts,
)
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo.concept_deltas import WHOLE as WHOLE_RECIPE
from gengauge.benchmarks.zoo.concept_deltas import Lesson, inversion
from gengauge.benchmarks.zoo.personal_concepts import CAT, CLASS_PICTURES, PICTURES, trained_pictures
from gengauge.datasets.deltas import Delta

SHOWN = 12  # samples in the report
SHARE = Column("share", "Weights that are trained, of the U-Net's", "%", "lower", True)
BASE, INVERSION = Row("Base, asked for any cat"), Row("Textual Inversion")
WHOLE, METHOD = Row("Custom Diffusion w/ fine-tune all"), Row("Custom Diffusion")
LIVE = Lesson((CAT,))
RANKS = (1, 4)
MEGABYTES = Column("megabytes", "Size as float32, of a million bytes each, without the token", "MB", "lower", True)


@dataclass(frozen=True)
class Settings:
    """Rows with where their customisation comes from (None: nothing is learnt), and how samples are drawn."""

    sources: tuple[tuple[Row, Source | None], ...]
    sampling: Sampling = field(default_factory=Sampling)


def compare(context: Context) -> Iterator[Result]:
    """Alignment of samples of the concept, and how far samples of its class have moved from real ones."""
    s: Settings = context.settings
    model, asked = Model(context.device), prompts(s.sampling.prompts, context.seed)
    base = None  # its KID, which is that of tokens alone too: captions without them meet the same weights
    for row, source in s.sources:
        delta = None if source is None else learnt(context, source, model)
        context.progress(0, 1, f"samples of {row}")
        name = CAT.species if delta is None else CAT.phrase
        made = model.sampled([each.filled([name]) for each in asked], delta, s.sampling, context.seed)
        yield from measurements(row.key, model.alignment(asked, made, (CAT,), context.seed), len(made))
        yield Measurement(row.key, SHARE.key, share(model, delta))
        if delta is not None and delta.weights:
            forgotten, note = model.kid(delta, CAT, s.sampling, context.seed), ""
        else:
            base = model.kid(None, CAT, s.sampling, context.seed) if base is None else base
            forgotten, note = base, "" if delta is None else "the base's, whose weights it has"
        yield Measurement(row.key, KID.key, forgotten, samples=s.sampling.captions, note=note)
        if context.seed == 0:
            told = "; ".join(each.filled([name]) for each in asked[:SHOWN])
            yield Picture(row.key, "samples", grid(made[:SHOWN].numpy(), SHOWN // 2, 2), f"{row}: {told}")
    if context.seed == 0 and METHOD in dict(s.sources):
        taught = trained_pictures(CAT, context.seed)
        yield Picture(METHOD.key, "taught", grid(taught.numpy(), PICTURES, 2), "The pictures that taught the concept")


def share(model: Model, delta: Delta | None) -> float:
    """Which share of the U-Net's weights a delta brings, in percent."""
    whole = sum(parameter.numel() for parameter in model.pipeline.unet.parameters())
    return 100 * sum(weight.numel() for weight in delta.weights.values()) / whole if delta else 0.0


def compressed(context: Context) -> Iterator[Result]:
    """Alignment with the changes of all keys and values at a rank, and whole."""
    s: Settings = context.settings
    model, asked = Model(context.device), prompts(s.sampling.prompts, context.seed)
    ((_, source),) = s.sources
    assert source is not None
    delta = learnt(context, source, model)
    base = dict(model.pipeline.unet.named_parameters())
    deltas = {at_rank(rank): compress_delta(delta, base, rank=rank) for rank in RANKS} | {FULL: delta}
    for done, (row, each) in enumerate(deltas.items()):
        context.progress(done, len(deltas), f"samples of {row}")
        made = model.sampled([text.filled([CAT.phrase]) for text in asked], each, s.sampling, context.seed)
        found = model.alignment(asked, made, (CAT,), context.seed)
        yield from measurements(row.key, found, len(made))
        numbers = sum(u.numel() + v.numel() for u, v in each.factors.values()) + sum(
            weight.numel() for weight in each.weights.values()
        )
        yield Measurement(row.key, MEGABYTES.key, 4 * numbers / 1e6)
        if row != FULL:
            rank = RANKS[done]
            yield from (Measurement(OVER_RANKS.key, column, value, step=rank) for column, value in found.items())


def at_rank(rank: int) -> Row:
    """The row of a rank."""
    return Row(METHOD.method, f"rank {rank}")


FULL, OVER_RANKS = Row(METHOD.method, "whole"), Row(METHOD.method, "by rank")
COMPARED = (*COLUMNS, KID, SHARE)
TABLE = Table(
    "world",
    f"A cat of the embedded world with a look of its own, learnt from {PICTURES} pictures (own)",
    COMPARED,
    (BASE, INVERSION, WHOLE, METHOD),
    (),
)
RANK_TABLE = Table(
    "world-ranks",
    "The same with the changes of keys and values at a rank (own)",
    (*COLUMNS, MEGABYTES),
    (*map(at_rank, RANKS), FULL, OVER_RANKS),
    (),
)
SOURCES: tuple[tuple[tuple[Row, Source | None], ...], ...] = (
    ((METHOD, LIVE),),
    ((WHOLE, replace(LIVE, recipe=WHOLE_RECIPE)),),
    ((BASE, None), (INVERSION, inversion(CAT))),
)
MANY = Sampling(prompts=200, captions=500, real=500, steps=50)
PROTOCOL = (
    ("model", "Stable Diffusion 1.4, 512 px", "the zoo's text-to-image model, 64 px, of the embedded world"),
    (
        "concepts",
        "ten, of photos",
        f"a cat (alone) and a dog (with the cat) of unusual looks, {PICTURES} pictures each",
    ),
    (
        "alignment",
        "CLIP ViT-B/32; pictures of the training",
        f"{JUDGE}, which has seen unusual looks; pictures that no training saw",
    ),
)


def training(source: Source | None) -> tuple[tuple[str, str, str], ...]:
    """How trainings of a source differ from the published ones."""
    if isinstance(source, Together):
        return tuple(dict.fromkeys(line for part in source.parts for line in training(part)))
    if source is None:
        return ()
    r = source.recipe
    names = " and ".join(concept.species for concept in source.concepts)
    told = (
        f"{r.iterations} steps of {r.batch} pictures"
        + (f" and {r.batch} of the class, both weighed alike" if r.prior_weight else ", none of the class")
        + f", rate {r.lr:g}, bfloat16; the token begins as {source.begin_as or 'the species'!r}"
        + ("" if source.intake.augment else "; pictures are not resized")
        + "; other pictures for each seed"
    )
    published = {
        "tokens": "5,000 steps of 8 pictures, rate 0.04; the token begins as its class",
        "all": "rate and steps not told",
    }.get(r.trained, "250 steps of 4 and 4, or 500 for two concepts, rate 8e-5; tokens begin as rare words")
    made_of = "the model's own" if source.generated else "of the world, with its captions"
    class_pictures = ("class pictures", "200 retrieved by CLIP", f"{CLASS_PICTURES} {made_of}")
    own = (f"training ({names}, {r.trained})", published, told)
    return (own, class_pictures) if r.prior_weight else (own,)


def at_scale(s: Settings, inception: bool = False, seeds: int = 3) -> AtScale:
    """Seeds of settings, with what they need and how they differ from the published ones."""
    lines = dict.fromkeys(line for _, source in s.sources for line in training(source))
    return AtScale(
        *(s, seeds, Limits(7200, 8), 1),
        plan=plan(inception),
        protocol=(*lines, *sampling(s.sampling, inception)),
    )


def sampling(how: Sampling, kid: bool) -> tuple[tuple[str, str, str], ...]:
    """How samples, and with `kid` those of the class, differ from the published ones."""
    drawn = (
        "sampling",
        "50 samples of 20 prompts, 50 or 200 steps of DDIM with eta 1, scale 6",
        (
            f"one sample of {how.prompts} prompts, {how.steps} steps with eta 0, scale {how.guidance:g}, bfloat16; "
            "the same noise for all rows of a seed"
        ),
    )
    distance = (
        "KID",
        "1000 samples to 500 real pictures, in subsets",
        f"{how.captions} samples to {how.real} pictures of the world, over all pairs",
    )
    return (drawn, distance) if kid else (drawn,)


EXPERIMENTS = (
    *(
        Experiment(
            key="-".join(("world", *(row.key for row, _ in rows))),
            table="world",
            rows=tuple(row.key for row, _ in rows),
            columns=COMPARED,
            scales={
                "small": at_scale(Settings(rows, MANY), inception=True),
            },
            run=compare,
            protocol=PROTOCOL,
        )
        for rows in SOURCES
    ),
    Experiment(
        key="world-ranks",
        table="world-ranks",
        rows=tuple(row.key for row in RANK_TABLE.rows),
        columns=RANK_TABLE.columns,
        without=frozenset((OVER_RANKS.key, column.key) for column in RANK_TABLE.columns),
        scales={
            "small": at_scale(Settings(((OVER_RANKS, LIVE),), MANY)),
        },
        run=compressed,
        protocol=PROTOCOL,
        axis=Axis("rank", log=True, about="Over the rank"),
    ),
)


def near(key: str, sentence: str, table: str, one: Row, other: Row, column: Column, slack: float = 0.0) -> Claim:
    """A claim that one row's value is not below another's by more than the slack, in the column's unit."""
    return Claim(
        key,
        sentence,
        table,
        {"one": Cell(one.key, column.key), "other": Cell(other.key, column.key)},
        lambda v: v["one"] - v["other"] + slack,
        column.unit,
    )


# What a claim speaks of, by word, and how much of it counts as nothing.
SPOKEN = {
    "text alignment": (COLUMNS[0], 0.05),
    "image alignment": (COLUMNS[1], 0.02),
    "the share of samples that show the concept": (COLUMNS[3], 10.0),
}


def close(key: str, sentence: str, table: str, one: Row, other: Row) -> tuple[Claim, ...]:
    """A claim for each thing spoken of: {} in the sentence, with its slack behind."""
    return tuple(
        near(
            f"{key}-{column.key.partition('_')[0]}",
            f"{sentence.format(what)} (at most {slack:g} lower).",
            *(table, one, other, column, slack),
        )
        for what, (column, slack) in SPOKEN.items()
    )


CLAIMS = (
    *close("tuned", "Keys and values tuned match the whole U-Net tuned in {}", "world", METHOD, WHOLE),
    near(
        "forgets-less",
        "The KID of the concept's class is lower with keys and values tuned than with the whole U-Net tuned.",
        *("world", WHOLE, METHOD, KID),
    ),
    *close(
        f"rank-{RANKS[1]}",
        f"Changes at rank {RANKS[1]} match whole ones in {{}}",
        "world-ranks",
        at_rank(RANKS[1]),
        FULL,
    ),
)
