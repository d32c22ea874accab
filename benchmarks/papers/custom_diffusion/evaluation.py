"""Scores of units of work: alignment with prompts and pictures, KID of the class, FID on COCO; each is kept.

A score is kept beside its samples under a digest of what made it, this code included, so that the rows of several
tables compute it once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gengauge.benchmarks.concept_samples import SAMPLES
from gengauge.benchmarks.core.experiments import Context
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.clip import Encoder, picture_features, text_features
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.machine import versions
from gengauge.benchmarks.metrics.alignment import image_alignment, text_alignment
from gengauge.benchmarks.metrics.frechet import fit, frechet_distance
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.benchmarks.papers.custom_diffusion import loading
from gengauge.benchmarks.papers.custom_diffusion.keeping import digest, files_digest, kept, turn
from gengauge.benchmarks.papers.custom_diffusion.methods import Settings
from gengauge.benchmarks.papers.custom_diffusion.naming import Subject, asked
from gengauge.benchmarks.papers.custom_diffusion.units import Learnt, Workshop
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.concept_sets import ConceptSet, SetConcept, SetPair
from gengauge.datasets.concept_sets_files import read_coco_captions
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound

Array = np.ndarray[Any, Any]
THOUSAND = 1000  # KID is printed times this
BASE = Learnt(None, "base", "not fine-tuned")


@dataclass(frozen=True)
class Value:
    """A score of one subject, with a 95 % interval where it has one, and how many samples it is of."""

    value: float
    low: float
    high: float
    interval: str
    samples: int


class Evaluation:
    """A row's subjects, judges and workshop; what is missing is told when it is made, before anything is trained."""

    def __init__(self, context: Context, found: ConceptSet | None = None) -> None:
        """Raises DataNotFound, WeightsNotFound, and ValueError for files that are damaged or do not go together."""
        s: Settings = context.settings
        self.context, self.s = context, s
        self.found = loading.read_set(s.subjects, context.data) if found is None else found
        self.subjects = subjects_of(s, self.found)
        self.missing = self._missing()
        self._look_for_training()
        self.workshop = Workshop(context, self.found)  # before the judges: it finds this process's own GPU
        self.judges = loading.open_judges(s.columns, self.workshop.device)
        self._targets: dict[tuple[str, str], Array] = {}
        self._learnt: dict[str, Learnt] = {}  # of one subject at a time: a whole U-Net has 3.4 GB
        self.sources: dict[str, str] = {}

    def _missing(self) -> dict[str, str]:
        """Why KID cannot be had. Raises DataNotFound or WeightsNotFound where a row is of nothing else."""
        self.inception: FeatureNetwork | None = None
        if "kid" not in self.s.columns:
            return {}
        try:
            for each in self.subjects:
                assert isinstance(each, SetConcept)
                loading.validation(each, self.context.data)
            self.inception = loading.open_inception()
        except (DataNotFound, WeightsNotFound) as error:
            if len(self.s.columns) == 1:
                raise
            return {"kid": str(error)}
        return {}

    def _look_for_training(self) -> None:
        """Raises where class pictures or common captions are missing that a training or merge will ask for."""
        s = self.s
        if s.method.recipe is None:
            return
        for subject in self.taught():
            pair = isinstance(subject, SetPair)
            parts = [subject.first, subject.second] if isinstance(subject, SetPair) else [subject]
            jointly = pair and s.method.pairing == "joint"
            whole = loading.released([each.name for each in parts], s.method, self.context.data)
            if whole is not None and (jointly or not pair):
                continue
            for number, each in enumerate(parts):
                trained = jointly or (number > 0 and s.method.pairing == "sequential")
                own = None if trained else loading.released([each.name], s.method, self.context.data)
                if s.method.prior == "real" and own is None:
                    loading.class_pictures(each, s.class_pictures)
            if pair and s.method.pairing == "merged":
                loading.common_captions(self.found, s.merging.captions, self.context.data)

    # -- units ---------------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """The columns that can be had."""
        return [column for column in self.s.columns if column not in self.missing]

    def scored(self, column: str) -> list[Subject]:
        """The subjects that a column's value is of."""
        return [each for each in self.subjects if column == "kid" or each.name not in self.s.left_out]

    def asked_of(self, subject: Subject) -> list[str]:
        """The columns that a subject counts in."""
        return [column for column in self.columns if subject in self.scored(column)]

    def taught(self) -> list[Subject]:
        """The subjects that must be learnt: KID of what learns tokens alone is the pretrained model's."""
        if not self.s.columns:  # a row of something else than scores
            return self.subjects
        nothing = {"kid"} if self.s.method.tokens_alone else set()
        return [each for each in self.subjects if set(self.asked_of(each)) - nothing]

    def learnt(self, subject: Subject) -> Learnt:
        """What the row's method learns of a subject; `sources` then tells where it came from."""
        if subject.name not in self._learnt:
            self._learnt.clear()
            self._learnt[subject.name] = self.workshop.learnt(subject, self.s.method)
            self.sources[subject.name] = self._learnt[subject.name].origin
        return self._learnt[subject.name]

    def samples(self, subject: Subject) -> Path:
        """The folder of samples of a subject's prompts."""
        prompts = asked(subject, self.s.method)
        return self.workshop.sampled(subject.name, self.learnt(subject), prompts, self.s.drawing)

    def values(self, subject: Subject, columns: Sequence[str]) -> dict[str, Value]:
        """A subject's scores by column; of a pair `image_alignment_...` is the mean of both targets'."""
        out: dict[str, Value] = {}
        for kind in ("clip", "dino"):
            if any(column.endswith(f"_{kind}") or f"_{kind}_" in column for column in columns) or (
                kind == "clip" and "text_alignment" in columns
            ):
                found = self.alignment(subject, kind)
                count = len(next(iter(found.values()))) * self.s.drawing.each
                out |= {column: _over_prompts(each, count) for column, each in found.items()}
        if "kid" in columns:
            assert isinstance(subject, SetConcept)
            out["kid"] = self.kid(subject)
        return {column: out[column] for column in columns}

    def alignment(self, subject: Subject, kind: str) -> dict[str, list[float]]:
        """A list over prompts by column: alignment with text, by CLIP alone, and with each concept's pictures."""
        encoder, folder, plain = self.judges.of(kind), self.samples(subject), subject.plain_prompts()
        both = [subject.first, subject.second] if isinstance(subject, SetPair) else [subject]
        pictures = [files_digest(list(each.pictures)) for each in both]
        key = digest(kind, self.judges.digests[kind], plain, pictures, code_version(), sorted(versions().items()))

        def make() -> dict[str, list[float]]:
            files = list_pictures(folder / SAMPLES)
            own = picture_features(files, encoder, progress=self._side(f"{subject.name}: samples, {kind}"))
            parts = np.split(own, len(plain))
            out = {}
            if kind == "clip":
                texts = text_features(plain, encoder)
                out["text_alignment"] = [text_alignment(a, b[None]).score for a, b in zip(parts, texts, strict=True)]
            found = [[image_alignment(part, self._target(each, kind, encoder)) for part in parts] for each in both]
            out[f"image_alignment_{kind}"] = np.mean(found, 0).tolist()
            if len(both) > 1:
                out |= {f"image_alignment_{kind}_target{n}": each for n, each in enumerate(found, 1)}
            return out

        with turn(folder):
            return kept(folder / f"{kind}-{key}.json", make)

    def kid(self, concept: SetConcept) -> Value:
        """1000 KID of samples by plain captions of the class to real pictures of it.

        Where tokens alone were learnt such samples are those of the pretrained model.
        """
        assert self.inception is not None
        real, count = loading.validation(concept, self.context.data), self.s.drawing.of_class
        learnt = BASE if self.s.method.tokens_alone else self.learnt(concept)
        prompts = [real[i % len(real)][1] for i in range(count)]
        folder = self._singly(f"{concept.name}-class", learnt, prompts)
        theirs = [path for path, _ in real]

        def make() -> dict[str, float]:
            a, b = self._features(theirs, concept.name), self._features(list_pictures(folder / SAMPLES), concept.name)
            found = kid(a, b, self.context.seed)
            return {"value": found.value, "low": found.low, "high": found.high}

        found = self._kept(folder, "kid", theirs, make)
        low, value, high = (THOUSAND * found[name] for name in ("low", "value", "high"))
        return Value(value, low, high, "95 % jackknife over pictures", count)

    def fid(self, learnt: Learnt, name: str, captions: Sequence[str], real: list[Path]) -> float:
        """FID of samples of captions, one each, to real pictures."""
        self.inception = self.inception or loading.open_inception()
        folder = self._singly(f"{name}-coco", learnt, captions)

        def make() -> dict[str, float]:
            pictures = list_pictures(folder / SAMPLES)
            return {"value": frechet_distance(*(fit(self._features(each, name)) for each in (real, pictures)))}

        return float(self._kept(folder, "fid", real, make)["value"])

    def _singly(self, name: str, learnt: Learnt, prompts: Sequence[str]) -> Path:
        return self.workshop.sampled(name, learnt, prompts, replace(self.s.drawing, each=1))

    def _kept(self, folder: Path, what: str, real: list[Path], make: Any) -> dict[str, Any]:
        assert self.inception is not None
        told = self.inception.digest, files_digest(real), self.context.seed, code_version(), sorted(versions().items())
        with turn(folder):
            return kept(folder / f"{what}-{digest(*told)}.json", make)

    def _features(self, files: list[Path], name: str) -> Array:
        assert self.inception is not None
        progress = self._side(f"{name}: features")
        return features(files, self.inception, device=self.context.device, progress=progress)

    def _target(self, concept: SetConcept, kind: str, encoder: Encoder) -> Array:
        if (kind, concept.name) not in self._targets:
            self._targets[kind, concept.name] = picture_features(list(concept.pictures), encoder)
        return self._targets[kind, concept.name]

    def _side(self, what: str) -> Any:
        return lambda done, total: self.context.progress(done, total, what)


def subjects_of(s: Settings, found: ConceptSet) -> list[Subject]:
    """A row's concepts or pairs, in order."""
    if s.subjects.pairs:
        return list(loading.pairs_of(s.subjects, found))
    return [found.concept(name) for name in s.subjects.names] if s.subjects.names else list(found.concepts)


def coco(data: Path | None, count: int) -> tuple[list[str], list[Path]]:
    """The first caption of each of `count` of COCO's validation pictures, and those pictures.

    Raises DataNotFound, and ValueError where pictures that captions are of are not there.
    """
    found = read_coco_captions(loading.find("coco-captions", data))
    loading.find("coco-val", data)
    first: dict[int, tuple[str, str]] = {}
    for each in found:
        first.setdefault(each.image_id, (each.caption, each.file or f"{each.image_id:012d}.jpg"))
    chosen = [first[number] for number in sorted(first)[:count]]
    if len(chosen) < count:
        raise ValueError(f"COCO's captions are of {len(chosen)} pictures, and {count} are asked for; get val2017's")
    places = data_set("coco-val").places(data)
    for place in places:
        paths = [place / file for _, file in chosen]
        if all(path.is_file() for path in paths):
            return [caption for caption, _ in chosen], paths
    raise ValueError(f"{places[0]} lacks pictures that the captions are of; get pictures and captions of one year")


def _over_prompts(values: list[float], count: int) -> Value:
    found = t_interval(values)
    if math.isnan(found.low):
        return Value(found.mean, math.nan, math.nan, "", count)
    return Value(found.mean, found.low, found.high, f"95 % t over {len(values)} prompts", count)
