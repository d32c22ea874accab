"""The user's files for the paper's own scale: Stable Diffusion, concepts with prompts, judges, and pictures of classes.

Whatever is missing is told before anything is trained, with the step that gets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gengauge.benchmarks.core.experiments import Need
from gengauge.benchmarks.features.clip import Encoder, load_dino, load_open_clip
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.needs import data_need, weights_need
from gengauge.benchmarks.papers.custom_diffusion.methods import Method, Settings, Subjects
from gengauge.benchmarks.training.concept_batches import Captioned
from gengauge.datasets import weights
from gengauge.datasets.catalogue import data_set
from gengauge.datasets.concept_sets import ConceptSet, SetConcept, SetPair, read_custom_concept101
from gengauge.datasets.concept_sets_files import captioned_pictures, read_captions
from gengauge.datasets.concept_sets_paper import CAPTIONS, read_paper_concepts
from gengauge.datasets.delta_files import FILES
from gengauge.datasets.download import file_sha256
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.custom_diffusion.augment import template

MODEL, MODELS = "stable-diffusion-v1-4", "custom-diffusion-models"
DATA = {
    "paper": ("custom-diffusion-data", "custom-diffusion-prompts"),
    "customconcept101": ("customconcept101", "customconcept101-prompts"),
}
VALIDATION = "custom-diffusion-validation"
CLIP, DINO = "clip-vit-b-32", "dino-vits16"  # weights
Told = Callable[[str], None]


def find(key: str, data: Path | None) -> Path:
    """Where a set or file lies in the user's folder. Raises DataNotFound with the step that gets it."""
    entry = data_set(key)
    place = entry.find(data)
    if place is None:
        looked = [data / mark for mark in entry.marks] if data else ["no data folder: give --data DIR"]
        raise DataNotFound(f"{entry.key}: {entry.what}", looked, entry.remedy)
    return place


def judge(key: str) -> Path:
    """The file of a network that judges alignment. Raises WeightsNotFound with the step that gets it."""
    place = weights.find(key)
    if place is None:
        remedy = weights.remedy(key)
        raise WeightsNotFound(f"weights {key!r} ({weights.WEIGHTS[key].what}) were not found: {remedy}", remedy)
    return place


def needs(s: Settings, data: Path | None) -> tuple[Need, ...]:
    """All that a row needs; what it takes only where it is there (released deltas) is left out."""
    keys = [MODEL, *DATA[s.subjects.set]]
    if s.method.pairing == "merged" and s.subjects.pairs and s.subjects.set != "paper":
        keys.append("custom-diffusion-data")  # common captions
    if "kid" in s.columns:
        keys.append(VALIDATION)
    networks = [
        *([CLIP] if set(s.columns) - {"kid"} else ()),
        *([DINO] if any("dino" in column for column in s.columns) else ()),
        *(["inception"] if "kid" in s.columns else ()),
    ]
    return (*(data_need(key, data) for key in keys), *map(weights_need, networks))


# -- concepts ----------------------------------------------------------------------------------------------------------


def read_set(subjects: Subjects, data: Path | None) -> ConceptSet:
    """The concepts and pairs that are asked for. Raises DataNotFound, and ValueError for what is not as published."""
    only = subjects.names
    if subjects.pairs:
        only = tuple(dict.fromkeys(name for pair in subjects.names for name in pair.split("+")))
    pictures, prompts = (find(key, data) for key in DATA[subjects.set])
    if subjects.set == "paper":
        return read_paper_concepts(pictures, prompts, only)
    return read_custom_concept101(prompts.parent, pictures, only)


def pairs_of(subjects: Subjects, found: ConceptSet) -> tuple[SetPair, ...]:
    """The pairs that are asked for, in order. Raises ValueError for one that the set does not have."""
    known = {pair.name: pair for pair in found.pairs}
    if unknown := [name for name in subjects.names if name not in known]:
        raise ValueError(f"{found.name} has no pair {unknown[0]}; it has {', '.join(known)}")
    return tuple(known[name] for name in subjects.names or known)


def class_pictures(concept: SetConcept, most: int) -> tuple[Captioned, ...]:
    """Real pictures of a concept's class with their captions. Raises DataNotFound, and as `captioned_pictures`."""
    if concept.class_folder is None:
        raise DataNotFound(
            f"real pictures of the class of {concept.name}",
            [f"real_reg/samples_{concept.name}"],
            f"put some {most} with images.txt and caption.txt there; or take the rows with generated ones",
        )
    found = captioned_pictures(concept.class_folder, template(concept.category))[:most]
    return tuple(Captioned(path, caption) for path, caption in found)


def validation(concept: SetConcept, data: Path | None) -> list[tuple[Path, str]]:
    """Real pictures of a class that samples of it are compared to, with captions.

    Raises DataNotFound for none, and ValueError where one of them is among the class pictures that trainings take.
    """
    root = find(VALIDATION, data)
    folder = root / concept.name
    if not folder.is_dir():
        remedy = data_set(VALIDATION).remedy
        raise DataNotFound(f"real pictures of the class of {concept.name}, for KID", [folder], remedy)
    found = captioned_pictures(folder, template(concept.category))
    taught = [] if concept.class_folder is None else [path for path, _ in captioned_pictures(concept.class_folder, "")]
    sizes = {path.stat().st_size for path in taught}  # most files are told apart by their size
    known = {file_sha256(path) for path in taught} if any(path.stat().st_size in sizes for path, _ in found) else set()
    for path, _ in found:
        if path.stat().st_size in sizes and file_sha256(path) in known:
            raise ValueError(
                f"{path} is among the class pictures in {concept.class_folder}, which trainings see: KID needs others"
            )
    return found


def common_captions(found: ConceptSet, count: int, data: Path | None) -> list[str]:
    """Common captions that a merge leaves alone. Raises DataNotFound where there is no file of them."""
    root = find("custom-diffusion-data", data)
    places = [found.captions, root / CAPTIONS, root / "data" / CAPTIONS]
    for path in places:
        if path is not None and path.is_file():
            return read_captions(path, count)
    raise DataNotFound(f"common captions {CAPTIONS}", places[1:], data_set("custom-diffusion-data").remedy)


def released(names: Sequence[str], method: Method, data: Path | None) -> Path | None:
    """The authors' delta of a concept, or of several learnt together, where the user has it.

    A file or folder is taken whose name says the concepts, in order, and nothing else but "delta" and signs.
    """
    root = data_set(MODELS).find(data) if method.released else None
    wanted = _letters("".join(names))
    for place in sorted(root.iterdir()) if root is not None else ():
        if _letters(place.name.partition(".")[0].replace("delta", "")) != wanted:
            continue
        if place.is_file():
            if place.suffix in (".bin", ".ckpt", ".safetensors"):
                return place
            continue
        inside = [place / name for name in FILES] + sorted(place.rglob("delta*.ckpt"))
        if file := next((path for path in inside if path.is_file()), None):
            return file
    return None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


# -- judges ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judges:
    """What judges alignment, as far as a row asks for it. `digests` tell the files, by "clip" and "dino"."""

    clip: Encoder | None
    dino: Encoder | None
    digests: dict[str, str]

    def of(self, kind: str) -> Encoder:
        """The encoder "clip" or "dino". Raises KeyError for one that the row did not ask for."""
        encoder = {"clip": self.clip, "dino": self.dino}[kind]
        if encoder is None:
            raise KeyError(f"no {kind} was opened")
        return encoder


def open_judges(columns: Sequence[str], device: str) -> Judges:
    """The encoders that columns need. Raises WeightsNotFound, and ValueError for a damaged file."""
    asked = {
        "clip": (CLIP, any(column.startswith(("text", "image_alignment_clip")) for column in columns)),
        "dino": (DINO, any("dino" in column for column in columns)),
    }
    paths = {name: judge(key) for name, (key, wanted) in asked.items() if wanted}
    return Judges(
        load_open_clip(paths["clip"], device=device) if "clip" in paths else None,
        load_dino(paths["dino"], device=device) if "dino" in paths else None,
        {name: file_sha256(path) for name, path in paths.items()},
    )


def open_inception() -> FeatureNetwork:
    """The network of KID and FID. Raises WeightsNotFound."""
    return load_network("inception")
