"""Customisations of the zoo's model by where they come from: trained, kept in the zoo, side by side, or merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengauge.benchmarks.core.experiments import Context
from gengauge.benchmarks.custom_pipeline import merge_deltas
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.papers.custom_diffusion.world import Model
from gengauge.benchmarks.training.loop import history
from gengauge.benchmarks.training.processes import join
from gengauge.benchmarks.zoo import text_to_image
from gengauge.benchmarks.zoo.captioned_animals import animals, caption
from gengauge.benchmarks.zoo.concept_deltas import CUSTOMISATIONS, Lesson, teach
from gengauge.datasets.deltas import Delta

CAPTIONS, _CAPTIONED = 200, 9_500_000  # common captions that a merge is to leave alone, and the seed of their animals


@dataclass(frozen=True)
class Kept:
    """A customisation that the zoo keeps: its lesson was taught once, at seed 0."""

    key: str

    @property
    def lesson(self) -> Lesson:
        """What was taught."""
        return CUSTOMISATIONS[self.key].lesson


@dataclass(frozen=True)
class Together:
    """Several customisations in one: new tokens side by side, or weights merged without training."""

    parts: tuple[Lesson | Kept, ...]
    merged: bool = False


Source = Lesson | Kept | Together


def lesson_of(source: Lesson | Kept) -> Lesson:
    """What is or was taught."""
    return source.lesson if isinstance(source, Kept) else source


def learnt(context: Context, source: Source, model: Model) -> tuple[Delta, str]:
    """The delta of a source, and the `history` of its training, which goes on from where an earlier job left it.

    Raises what the training raises, and what `Customisation.load` does.
    """
    if isinstance(source, Kept):
        kept = CUSTOMISATIONS[source.key]
        return kept.load(text_to_image.place(model.folder, kept.NAME)), ""
    if isinstance(source, Lesson):
        processes, device = join(context.device)
        delta, trained = teach(
            source,
            context.work,
            seed=context.seed,
            device=device,
            folder=model.folder,
            processes=processes,
            tell=context.progress,
            code=code_version(),
        )
        return delta, history(trained.about, code_version())
    found = [learnt(context, part, model) for part in source.parts]
    deltas = [delta for delta, _ in found]
    species = [[each.species for each in lesson_of(part).concepts] for part in source.parts]
    told = "; ".join(f"{' and '.join(names)}: {each}" for names, (_, each) in zip(species, found, strict=True) if each)
    if not source.merged:
        return Delta(tokens={token: each for delta in deltas for token, each in delta.tokens.items()}), told
    return merged(model, deltas, [each for names in species for each in names]), told


def merged(model: Model, deltas: Sequence[Delta], categories: Sequence[str]) -> Delta:
    """Deltas of one concept each as one, by the closed form; the model's own captions are to change least."""
    random = np.random.default_rng(_CAPTIONED)
    captions = [caption(each, random) for each in animals(_CAPTIONED, range(CAPTIONS))]
    pipeline = model.pipeline
    found, _ = merge_deltas(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer, deltas, categories, captions)
    return found
