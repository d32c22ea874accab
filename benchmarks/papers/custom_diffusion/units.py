"""Units of work at the paper's own scale: what a method learns of a concept or a pair, and samples of it.

Both are kept in the folder of trainings by a digest of what makes them, so that rows of several tables share them and
a job that was stopped goes on. Another version of this code goes on with them too, as with any training.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gengauge.benchmarks.concept_files import with_rare_word
from gengauge.benchmarks.concept_models import open_model
from gengauge.benchmarks.concept_samples import SAMPLES, sample
from gengauge.benchmarks.core.experiments import Context, Progress
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.machine import device_name
from gengauge.benchmarks.papers.custom_diffusion import loading
from gengauge.benchmarks.papers.custom_diffusion.keeping import digest, files_digest, model_digest, turn
from gengauge.benchmarks.papers.custom_diffusion.merging import merged, tokens_of
from gengauge.benchmarks.papers.custom_diffusion.methods import Drawing, Method
from gengauge.benchmarks.papers.custom_diffusion.naming import Subject, alone, begins, named, named_pair
from gengauge.benchmarks.training.concept_batches import Captioned, Concept
from gengauge.benchmarks.training.customisation import train_concepts
from gengauge.benchmarks.training.launch import launch
from gengauge.benchmarks.training.loop import history
from gengauge.benchmarks.training.processes import Processes, join
from gengauge.datasets.concept_sets import ConceptSet, SetConcept, SetPair
from gengauge.datasets.concept_sets_files import read_json
from gengauge.datasets.delta_files import read_delta, write_delta
from gengauge.datasets.deltas import Delta, samples
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.saving import write_text
from gengauge.reference.custom_diffusion.augment import template
from gengauge.reference.custom_diffusion.models import of_pipeline
from gengauge.reference.custom_diffusion.tokens import single_ids, table
from gengauge.reference.custom_diffusion.training import Recipe

DELTA, ABOUT = "delta.safetensors", "about.json"
EARLIER = {"processes": 1, "code": ["of an earlier version"]}  # which kept neither
EVERY = 50  # iterations between two states
CLASS_SEED = 1_000_000  # added for class pictures, so that no sample begins as the noise of one that taught


@dataclass(frozen=True, eq=False)
class Learnt:
    """What was learnt (None: nothing), a digest of all that made it, where it came from, and what it took.

    `history` is that of one training; those of several are told by the `source` of what they made together.
    """

    delta: Delta | None
    digest: str
    source: str = "trained here"
    seconds: float = 0.0
    history: str = ""

    @property
    def origin(self) -> str:
        """Where it came from, with what is to be told of its training."""
        return f"{self.source} ({self.history})" if self.history else self.source


@dataclass(frozen=True, eq=False)
class Wanted:
    """Samples of prompts that a model with a delta is to draw into a folder."""

    prompts: Sequence[str]
    folder: Path
    drawing: Drawing
    delta: Delta | None


class Workshop:
    """A row's model, opened once, and where its deltas and samples are kept."""

    def __init__(self, context: Context, found: ConceptSet) -> None:
        """Raises DataNotFound for a model that is missing, and what `open_model` raises."""
        self.context, self.s, self.found = context, context.settings, found
        self.folder = context.work / "custom-diffusion"
        self.processes, self.device = join(context.device)
        self.model = open_model(loading.find(loading.MODEL, context.data))
        self.digest = model_digest(self.model.unet, self.model.text_encoder, self.model.vae)
        self.base = {name: each.detach() for name, each in self.model.unet.named_parameters()}

    def fresh(self) -> Any:
        """A copy of the model that may be changed."""
        return copy.deepcopy(self.model)

    def tell(self, done: int, total: int, doing: str) -> None:
        self.context.progress(done, total, doing)

    # -- learning ------------------------------------------------------------------------------------------------------

    def learnt(self, subject: Subject, method: Method) -> Learnt:
        """What a method learns of a concept or pair: trained, merged, or the authors' own delta."""
        if method.recipe is None:
            return Learnt(None, "base", "not fine-tuned")
        names = subject.name.split("+") if isinstance(subject, SetPair) else [subject.name]
        if len(names) < 2 or method.pairing == "joint":
            path = loading.released(names, method, self.context.data)
            if path is not None:
                return Learnt(read_delta(path), files_digest([path]), f"the authors' delta {path.name}")
        if isinstance(subject, SetConcept):
            return self.trained(named(subject, method), method, method.recipe)
        pair = named_pair(subject, method)
        both = (pair.first, pair.second)
        if method.pairing == "joint":
            assert method.joint is not None
            return self.trained(pair, method, method.joint)
        # Single concepts are those of the tables of single ones, whatever their tokens are called in the pair.
        first = self.learnt(subject.first, method)
        assert first.delta is not None
        if method.pairing == "sequential":
            return self._on_top(pair, method, first)
        second = self.learnt(alone(subject.second), method)
        assert second.delta is not None
        deltas = [first.delta, second.delta]
        source = f"{first.origin} and {second.origin}" if first.origin != second.origin else first.origin
        if method.pairing == "side by side":
            whole = Delta(tokens=tokens_of(deltas, both), base=first.delta.base)
            return Learnt(whole, digest(first.digest, second.digest, "side by side"), source)
        captions = loading.common_captions(self.found, self.s.merging.captions, self.context.data)
        pipeline = self.fresh()
        pipeline.to(self.device)
        whole = merged(pipeline, deltas, both, captions, self.s.merging)
        key = digest(first.digest, second.digest, repr(self.s.merging), captions)
        return Learnt(whole, key, f"{source}, merged")

    def trained(self, subject: Subject, method: Method, recipe: Recipe, fresh: bool = False) -> Learnt:
        """A concept or pair trained from the pretrained model; with `fresh` in a folder that no other row shares."""
        begin = begins(method, self.model.tokenizer, subject.category if isinstance(subject, SetConcept) else "")
        concepts, beside = self._concepts(subject, method), "timed" if fresh else ""
        return self._train(subject.name, concepts, method, recipe, begin, beside)

    def _on_top(self, pair: SetPair, method: Method, first: Learnt) -> Learnt:
        """The second concept learnt by the model that knows the first."""
        assert method.recipe is not None
        assert first.delta is not None
        words = method.begin_as[1:] if pair.first.token else method.begin_as
        found = self._train(
            pair.name,
            self._concepts(pair.second, method),
            method,
            method.recipe,
            words,
            first.digest,
            replace(first.delta, tokens=tokens_of([first.delta], [pair.first])),
        )
        assert found.delta is not None
        tokens = {**tokens_of([first.delta], [pair.first]), **found.delta.tokens}
        base = samples(self.base, found.delta.weights)
        source = found.origin if first.origin == found.origin else f"{first.origin}, then {found.origin}"
        return replace(found, delta=Delta(found.delta.weights, tokens, base=base), source=source, history="")

    def _train(
        self,
        name: str,
        concepts: Sequence[Concept],
        method: Method,
        recipe: Recipe,
        begin: Sequence[str],
        beside: str = "",
        start: Delta | None = None,
    ) -> Learnt:
        intake = replace(self.s.intake, augment=method.augment and self.s.intake.augment)
        seen = [[(each.caption, each.path) for each in (*c.pictures, *c.class_pictures)] for c in concepts]
        captions = [[caption for caption, _ in each] for each in seen]
        contents = [files_digest([path for _, path in each]) for each in seen]
        key = digest(
            *(repr(recipe), repr(intake), list(begin), method.normal, [c.token for c in concepts], captions, contents),
            *(self.digest, self.context.seed, beside),
        )
        folder = self.folder / "deltas" / f"{name}-{key}"

        def waiting() -> None:
            self.tell(0, recipe.iterations, f"{name}: another job trains the same")

        with turn(folder, waiting) if self.processes.main else nullcontext():
            self.processes.wait()  # others look after the first has its turn
            there = (folder / DELTA).is_file()
            self.processes.wait()  # all look before the first writes
            if not there:
                pipeline = self.fresh()
                if method.normal is not None:
                    _draw_rows(pipeline, begin, method.normal, self.context.seed)
                if start is not None:
                    apply_to_pipeline(pipeline, start)
                delta, trained = train_concepts(
                    recipe,
                    of_pipeline(pipeline),
                    pipeline.tokenizer,
                    concepts,
                    folder / "training",
                    {"unit": key},
                    seed=self.context.seed,
                    device=self.device,
                    intake=intake,
                    begin_as=begin,
                    every=max(1, min(EVERY, recipe.iterations // 5)),
                    processes=self.processes,
                    tell=lambda done, total, doing: self.tell(done, total, f"{name}: {doing}"),
                    code=code_version(),
                )
                if self.processes.main:
                    about = {"seconds": trained.seconds, "device": device_name(self.device), "recipe": repr(recipe)}
                    about |= {key: trained.about[key] for key in ("processes", "code")}
                    write_text(folder / ABOUT, json.dumps(about, indent=1))
                    write_delta(folder / DELTA, delta)
                    shutil.rmtree(folder / "training")  # optimisers' states take twice the room of what they learn
                self.processes.wait()
            content = {**EARLIER, **read_json(folder / ABOUT)}
            seconds, told = float(content["seconds"]), history(content, code_version())
            return Learnt(read_delta(folder / DELTA), key, seconds=seconds, history=told)

    def _concepts(self, subject: Subject, method: Method) -> list[Concept]:
        """What a training is given. Words in place of tokens are given in order to the concepts that have one."""
        words = iter(method.words)
        out = []
        for each in [subject] if isinstance(subject, SetConcept) else [subject.first, subject.second]:
            pictures = tuple(Captioned(path, each.caption) for path in each.pictures)
            concept = Concept(pictures, each.token, self.class_pictures(each, method))
            out.append(with_rare_word(concept, next(words)) if method.words and each.token else concept)
        return out

    def class_pictures(self, concept: SetConcept, method: Method) -> tuple[Captioned, ...]:
        """Pictures of a concept's class: none, real ones, or such as the model makes of "photo of a cat"."""
        if method.prior == "none":
            return ()
        if method.prior == "real":
            return loading.class_pictures(concept, self.s.class_pictures)
        prompt, drawing = template(concept.category), self.s.class_drawing
        how = replace(drawing.how, seed=drawing.how.seed + CLASS_SEED)
        drawing = replace(drawing, how=how, each=self.s.class_pictures)
        folder = self.sampled(f"class-{concept.category}", Learnt(None, "base"), [prompt], drawing)
        return tuple(Captioned(path, prompt) for path in list_pictures(folder / SAMPLES))

    # -- samples -------------------------------------------------------------------------------------------------------

    def sampled(self, name: str, learnt: Learnt, prompts: Sequence[str], drawing: Drawing) -> Path:
        """The folder with samples of prompts, `drawing.each` of one; those that are there already stay."""
        total, half = len(prompts) * drawing.each, drawing.autocast and self.device == "cuda"
        how = replace(drawing.how, seed=drawing.how.seed + self.context.seed)
        key = digest(learnt.digest, list(prompts), drawing.each, how, half, self.digest, self.device)
        folder = self.folder / "samples" / f"{name.replace(' ', '_')}-{key}"
        wanted = Wanted(prompts, folder, replace(drawing, how=how), learnt.delta)

        def waiting() -> None:
            self.tell(0, total, f"{name}: another job draws the same samples")

        def tell(done: int, total: int, doing: str) -> None:
            self.tell(done, total, f"{name}: samples, {doing}")

        with turn(folder, waiting) if self.processes.main else nullcontext():
            self.processes.wait()
            left = total - len(list((folder / SAMPLES).glob("*.png")))
            self.processes.wait()  # all count before one draws
            if left and self.context.processes > 1:
                launch(_draw_together, (self.context.data, wanted, self.device), self.context.processes, tell)
            elif left:
                _draw(self.fresh(), wanted, self.device, tell, self.processes)
        return folder


def _draw_together(data: Path | None, wanted: Wanted, device: str, tell: Progress) -> None:
    """What each of the processes does that were launched for samples."""
    processes, device = join(device)
    _draw(open_model(loading.find(loading.MODEL, data)), wanted, device, tell, processes)


def _draw(model: Any, wanted: Wanted, device: str, tell: Progress, processes: Processes) -> None:
    drawing = wanted.drawing
    with torch.autocast("cuda", torch.float16) if drawing.autocast and device == "cuda" else nullcontext():
        sample(
            model,
            wanted.prompts,
            wanted.folder,
            drawing.how,
            count=drawing.each,
            delta=wanted.delta,
            batch=drawing.batch,
            device=device,
            tell=lambda what, done, total: tell(done, total, what),
            processes=processes,
        )


@torch.no_grad()
def _draw_rows(pipeline: Any, words: Sequence[str], deviation: float, seed: int) -> None:
    """Draws the rows of the words that tokens begin as anew; no caption holds those words."""
    rows: Tensor = table(pipeline.text_encoder).weight
    generator = torch.Generator().manual_seed(seed)
    for index in single_ids(pipeline.tokenizer, words):
        rows[index] = deviation * torch.randn(rows.shape[1], generator=generator)
