"""A method of the user's own in Custom Diffusion's tables: any way to teach a pipeline one concept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gengauge.benchmarks.core.experiments import Context, Measurement, Result
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.core.tables import Table
from gengauge.benchmarks.methods import work_of
from gengauge.benchmarks.papers.custom_diffusion.comparison import EXPERIMENTS, METHOD, SHARE, TABLE, Settings, drawn
from gengauge.benchmarks.papers.custom_diffusion.lessons import Kept
from gengauge.benchmarks.papers.custom_diffusion.world import KID, Model, prompts
from gengauge.benchmarks.protocols import Concept
from gengauge.benchmarks.zoo import text_to_image
from gengauge.benchmarks.zoo.concept_deltas import SEED
from gengauge.benchmarks.zoo.personal_concepts import CAT, class_pictures, trained_pictures

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def compare(context: Context, own: Own) -> Iterator[Result]:
    """The row of a cat with a look of its own, taught by the pictures that teach the declared rows."""
    s: Settings = context.settings
    model, asked = Model(context.device), prompts(s.sampling.prompts, context.seed)
    pipeline = text_to_image.pipeline(model.folder).to(context.device)
    context.progress(0, 1, f"{own.row}: learning")
    kept = any(isinstance(source, Kept) for _, source in s.sources)  # the zoo's were taught once
    model.pipeline, phrase = customised(
        own, own.method.customise(pipeline, taught(SEED if kept else context.seed), work_of(context, own))
    )
    yield from drawn(context, model, asked, own.row, [phrase], None)
    yield Measurement(own.row, SHARE.key, changed(text_to_image.pipeline(model.folder).unet, model.pipeline.unet))
    yield Measurement(own.row, KID.key, model.kid(None, CAT, s.sampling, context.seed), samples=s.sampling.captions)


def taught(seed: int) -> Concept:
    """What teaches the concept of a seed."""
    of_class, captions = class_pictures(CAT.species, seed)
    return Concept(trained_pictures(CAT, seed), CAT.species, of_class, tuple(captions))


def customised(own: Own, found: object) -> tuple[Any, str]:
    """What `customise` returned, looked at. Raises ValueError naming the method."""
    expected = "expected a pipeline of diffusers and the phrase that names the concept"
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], str):
        raise ValueError(f"`customise` of {own.spec} returned {type(found).__name__}; {expected}")
    pipeline, phrase = found
    if lacking := [part for part in PARTS if getattr(pipeline, part, None) is None]:
        raise ValueError(f"`customise` of {own.spec} returned a pipeline without {', '.join(lacking)}; {expected}")
    if not phrase.strip() or "{" in phrase or "}" in phrase:
        raise ValueError(f"`customise` of {own.spec} returned the phrase {phrase!r}; {expected}")
    return pipeline, phrase


@torch.no_grad()
def changed(before: torch.nn.Module, after: torch.nn.Module) -> float:
    """Numbers of a network that are others or new, in percent of those that it had."""
    old = {name: value.float().cpu() for name, value in before.named_parameters()}
    differ = 0
    for name, value in after.named_parameters():
        was, now = old.get(name), value.float().cpu()
        same = was is not None and was.shape == now.shape and torch.equal(was, now)
        differ += 0 if same else now.numel()
    return 100 * differ / sum(value.numel() for value in old.values())


OPENINGS = tuple(Opening(e.key, compare) for e in EXPERIMENTS if e.table == TABLE.key and METHOD.key in e.rows)
_OWN_MODEL = "its rows customise Stable Diffusion from the user's files; `world` takes a method"
_CLOSED = {
    "single-released": _OWN_MODEL,
    "world-live": "its training is a short one; `world` takes a method",
    "world-ranks": "its rows compress what Custom Diffusion has learnt",
    "world-pair": "a method is taught one concept; `world` takes one",
    "world-ablation": "its rows leave out parts of Custom Diffusion",
    "counts": "it counts what Custom Diffusion trains and stores",
}


def closed(published: tuple[Table, ...]) -> dict[str, str]:
    """Why the other tables take no method."""
    return {**{table.key: _OWN_MODEL for table in published}, **_CLOSED}
