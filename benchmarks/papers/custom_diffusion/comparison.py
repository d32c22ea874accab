"""A personal concept of the embedded world: alignment and forgetting by what is trained, at lower ranks, and live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from gengauge.benchmarks.papers.custom_diffusion.lessons import Kept, Source, Together, learnt, lesson_of
from gengauge.benchmarks.papers.custom_diffusion.world import (
    COLUMNS,
    JUDGE,
    KID,
    Asked,
    Model,
    Sampling,
    measurements,
    plan,
    prompts,
)
from gengauge.benchmarks.pictures import grid
from gengauge.benchmarks.zoo.concept_deltas import RECIPE, Lesson, inversion
from gengauge.benchmarks.zoo.concept_deltas import WHOLE as WHOLE_RECIPE
from gengauge.benchmarks.zoo.personal_concepts import CAT, CLASS_PICTURES, DOG, PICTURES, Personal, trained_pictures
from gengauge.datasets.deltas import Delta

SHOWN = 12  # samples in the report
SHARE = Column("share", "Weights that are trained, of the U-Net's", "%", "lower", True)
BASE, INVERSION = Row("Base, asked for any cat"), Row("Textual Inversion")
WHOLE, METHOD = Row("Custom Diffusion w/ fine-tune all"), Row("Custom Diffusion")
ANY_DOG, TRAINED_HERE = Row("Base, asked for any dog"), Row("Custom Diffusion, trained in this run")
LIVE, DOGS = Lesson((CAT,)), Lesson((DOG,))
SHORT = replace(RECIPE, iterations=60, lr=2e-3)  # what a minute or two has room for
RANKS = (1, 4)
MEGABYTES = Column("megabytes", "Size as float32, of a million bytes each, without the token", "MB", "lower", True)


@dataclass(frozen=True)
class Settings:
    """Rows with where their customisation comes from (None: nothing is learnt), how samples are drawn, and of what."""

    sources: tuple[tuple[Row, Source | None], ...]
    sampling: Sampling = field(default_factory=Sampling)
    concepts: tuple[Personal, ...] = (CAT,)


def aligned(context: Context) -> Iterator[Result]:
    """Alignment of samples of the concepts."""
    s: Settings = context.settings
    model, asked = Model(context.device), prompts(s.sampling.prompts, context.seed, len(s.concepts))
    for row, source in s.sources:
        delta, told = (None, "") if source is None else learnt(context, source, model)
        yield from _row(context, model, asked, row, delta, told)


def compare(context: Context) -> Iterator[Result]:
    """Alignment of samples of a concept, and how far samples of its class have moved from real ones."""
    s: Settings = context.settings
    (concept,) = s.concepts
    model, asked = Model(context.device), prompts(s.sampling.prompts, context.seed)
    base = None  # its KID, which is that of tokens alone too: captions without them meet the same weights
    for row, source in s.sources:
        delta, told = (None, "") if source is None else learnt(context, source, model)
        yield from _row(context, model, asked, row, delta, told)
        yield Measurement(row.key, SHARE.key, share(model, delta))
        if delta is not None and delta.weights:
            forgotten, note = model.kid(delta, concept, s.sampling, context.seed), told
        else:
            base = model.kid(None, concept, s.sampling, context.seed) if base is None else base
            forgotten, note = base, "" if delta is None else "the base's, whose weights it has"
        yield Measurement(row.key, KID.key, forgotten, samples=s.sampling.captions, note=note)


def _row(
    context: Context, model: Model, asked: Sequence[Asked], row: Row, delta: Delta | None, told: str
) -> Iterator[Result]:
    concepts = context.settings.concepts
    names = [each.species if delta is None else each.phrase for each in concepts]
    yield from drawn(context, model, asked, row.key, names, delta, told)
    if context.seed == 0 and row in (METHOD, TRAINED_HERE):
        taught = trained_pictures(concepts[0], context.seed)
        yield Picture(row.key, "taught", grid(taught.numpy(), PICTURES, 2), "The pictures that taught the concept")


def drawn(
    context: Context,
    model: Model,
    asked: Sequence[Asked],
    row: str,
    names: Sequence[str],
    delta: Delta | None,
    note: str = "",
) -> Iterator[Result]:
    """The alignment of a row's samples, in whose prompts concepts have these names; of seed 0 also some of them."""
    s: Settings = context.settings
    context.progress(0, 1, f"samples of {row}")
    made = model.sampled([each.filled(names) for each in asked], delta, s.sampling, context.seed)
    yield from measurements(row, model.alignment(asked, made, s.concepts, context.seed), len(made), note)
    if context.seed == 0:
        told = "; ".join(each.filled(names) for each in asked[:SHOWN])
        yield Picture(row, "samples", grid(made[:SHOWN].numpy(), SHOWN // 2, 2), f"{row}: {told}")


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
    delta, told = learnt(context, source, model)
    base = dict(model.pipeline.unet.named_parameters())
    deltas = {at_rank(rank): compress_delta(delta, base, rank=rank) for rank in RANKS} | {FULL: delta}
    for done, (row, each) in enumerate(deltas.items()):
        context.progress(done, len(deltas), f"samples of {row}")
        made = model.sampled([text.filled([CAT.phrase]) for text in asked], each, s.sampling, context.seed)
        found = model.alignment(asked, made, (CAT,), context.seed)
        yield from measurements(row.key, found, len(made), told)
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
LIVE_TABLE = Table(
    "world-live",
    f"A dog of the embedded world with a look of its own, learnt from {PICTURES} pictures while this ran (own)",
    COLUMNS,
    (ANY_DOG, TRAINED_HERE),
    (),
)
Sources = tuple[tuple[Row, Source | None], ...]
# What is trained at small, and kept in the zoo for quick.
SOURCES: tuple[tuple[Sources, Sources], ...] = (
    (((METHOD, LIVE),), ((METHOD, Kept("cat-kv")),)),
    (((WHOLE, replace(LIVE, recipe=WHOLE_RECIPE)),), ((WHOLE, Kept("cat-all")),)),
    (((BASE, None), (INVERSION, inversion(CAT))), ((BASE, None), (INVERSION, Kept("cat-tokens")))),
)
MANY = Sampling(prompts=200, captions=500, real=500, steps=50)
PROTOCOL = (
    ("model", "Stable Diffusion 1.4, 512 px", "the zoo's text-to-image model, 64 px, of the embedded world"),
    (
        "concepts",
        "ten, of photos",
        f"a cat and a dog of unusual looks, {PICTURES} pictures each",
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
    lesson = lesson_of(source)
    r = lesson.recipe
    names = " and ".join(concept.species for concept in lesson.concepts)
    told = (
        f"{r.iterations} steps of {r.batch} pictures"
        + (f" and {r.batch} of the class, both weighed alike" if r.prior_weight else ", none of the class")
        + f", rate {r.lr:g}; tokens begin as the species"
        + ("" if lesson.intake.augment else "; pictures are not resized")
        + ("; once, for the zoo: seeds are of samples" if source != lesson else "; other pictures for each seed")
    )
    published = {
        "tokens": "5,000 steps of 8 pictures, rate 0.04; the token begins as its class",
        "all": "rate and steps not told",
    }.get(r.trained, "250 steps of 4 and 4, or 500 for two concepts, rate 8e-5; tokens begin as rare words")
    made_of = "the model's own" if lesson.generated else "of the world, with its captions"
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
            f"one sample of {how.prompts} prompts, {how.steps} steps with eta 0, scale {how.guidance:g}; "
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
    # First, since it takes longest.
    Experiment(
        key="world-live",
        table="world-live",
        rows=(ANY_DOG.key, TRAINED_HERE.key),
        columns=COLUMNS,
        scales={
            "quick": at_scale(
                Settings(
                    ((ANY_DOG, None), (TRAINED_HERE, replace(DOGS, recipe=SHORT))),
                    concepts=(DOG,),
                ),
                seeds=1,
            ),
            "small": at_scale(Settings(((ANY_DOG, None), (TRAINED_HERE, DOGS)), MANY, (DOG,))),
        },
        run=aligned,
        protocol=PROTOCOL,
    ),
    *(
        Experiment(
            key="-".join(("world", *(row.key for row, _ in trained))),
            table="world",
            rows=tuple(row.key for row, _ in trained),
            columns=COMPARED,
            scales={
                "quick": at_scale(Settings(kept), inception=True),
                "small": at_scale(Settings(trained, MANY), inception=True),
            },
            run=compare,
            protocol=PROTOCOL,
        )
        for trained, kept in SOURCES
    ),
    Experiment(
        key="world-ranks",
        table="world-ranks",
        rows=tuple(row.key for row in RANK_TABLE.rows),
        columns=RANK_TABLE.columns,
        without=frozenset((OVER_RANKS.key, column.key) for column in RANK_TABLE.columns),
        scales={
            "quick": at_scale(Settings(((OVER_RANKS, Kept("cat-kv")),))),
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
    "the share of samples that show the concept": (COLUMNS[4], 10.0),
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
    near(
        "learns",
        "Image alignment is higher with keys and values tuned than that of the base.",
        *("world", METHOD, BASE, COLUMNS[1]),
    ),
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
