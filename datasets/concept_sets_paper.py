"""The ten concepts and five pairs of Custom Diffusion's own tables (Kumari et al. 2023, section 4 and table 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.concept_sets import TOKEN, ConceptSet, SetConcept, SetPair, pictures_of, unknown
from gengauge.datasets.concept_sets_files import read_templates
from gengauge.datasets.sets import DataNotFound

PROMPTS, PAIR_PROMPTS = 20, 8  # of a file
CAPTIONS = "regularization_captions.txt"


@dataclass(frozen=True)
class Published:
    """What the paper tells of a concept: its class, how many pictures it has, whether it has a modifier token."""

    category: str
    pictures: int
    has_token: bool = True
    prompts: str | None = None  # the name of its file, where that is not the concept's


CONCEPTS: Mapping[str, Published] = {
    "moongate": Published("moongate", 135, has_token=False),
    "barn": Published("barn", 7),
    "tortoise_plushy": Published("tortoise plushy", 12),
    "teddybear": Published("teddybear", 7),
    "wooden_pot": Published("wooden pot", 4, prompts="wooden"),
    "dog": Published("dog", 10),
    "cat": Published("cat", 5),
    "flower": Published("flower", 10),
    "table": Published("table", 4),
    "chair": Published("chair", 4),
}
UNRELEASED = ("flower", "table", "chair")
PAIRS = (
    ("moongate", "dog"),
    ("cat", "chair"),
    ("wooden_pot", "cat"),
    ("wooden_pot", "flower"),
    ("table", "chair"),
)


def read_paper_concepts(data: Path, prompts: Path, only: Sequence[str] = ()) -> ConceptSet:
    """The paper's ten concepts of 20 prompts and five pairs of 8, or the concepts named in `only`.

    `data` is the unpacked data.zip: a folder of pictures a concept, in it or in its folder `data`, and real pictures of
    classes in `real_reg/samples_<concept>` there. It has no pictures of the flower, the table and the chair: name the
    concepts that there are, or add folders of your own. `prompts` is the folder of that name at the top of the authors'
    repository, or the repository. The tokens of a pair are numbered in the order of its concepts; the moongate has
    none. The merge's common captions are `captions`, where the data have them.

    Raises DataNotFound naming what is missing, ValueError naming what is not as published. Other numbers of pictures
    than the paper's are told in `odd`.
    """
    if not set(only) <= set(CONCEPTS):
        raise ValueError(unknown("the paper", only, CONCEPTS))
    names = [name for name in CONCEPTS if not only or name in only]
    roots = [data, data / "data"]
    pictures = {name: pictures_of(_folder(roots, name) or data / name) for name in names}
    missing = [name for name in names if not pictures[name]]
    if missing:
        never = [name for name in missing if name in UNRELEASED]
        raise DataNotFound(
            f"pictures of {', '.join(missing)}",
            roots,
            data_set("custom-diffusion-data").remedy
            + (f" ({', '.join(never)}: not released)" if never else "")
            + "; or name the concepts wanted, and no others",
        )
    files = prompts / "prompts" if (prompts / "prompts").is_dir() else prompts
    concepts = {}
    for name in names:
        known = CONCEPTS[name]
        token = TOKEN if known.has_token else None
        what = f"{token} {known.category}" if token else known.category
        concepts[name] = SetConcept(
            name,
            known.category,
            pictures[name],
            _prompts(files / f"{known.prompts or name}.txt", PROMPTS, token),
            f"photo of a {what}",
            token,
            _folder([place / "real_reg" for place in (*roots, data.parent)], f"samples_{name}"),
        )
    pairs = [
        _pair(concepts[first], concepts[second], _prompts(files / f"{first}_{second}.txt", PAIR_PROMPTS, None))
        for first, second in PAIRS
        if first in concepts and second in concepts
    ]
    odd = [
        f"{name} has {len(pictures[name])} pictures, the paper {CONCEPTS[name].pictures}"
        for name in names
        if len(pictures[name]) != CONCEPTS[name].pictures
    ]
    captions = next((root / CAPTIONS for root in roots if (root / CAPTIONS).is_file()), None)
    return ConceptSet("Custom Diffusion", tuple(concepts.values()), tuple(pairs), tuple(odd), captions)


def _pair(first: SetConcept, second: SetConcept, prompts: tuple[str, ...]) -> SetPair:
    numbered, number = [], 0
    for each in (first, second):
        if each.token is not None:
            number += 1
            token = f"<new{number}>"
            each = replace(each, token=token, caption=each.caption.replace(each.token, token))
        numbered.append(each)
    pair = SetPair(f"{first.name}+{second.name}", numbered[0], numbered[1], prompts)
    pair.generation_prompts()  # a prompt that does not name both is told now
    return pair


def _prompts(path: Path, count: int, token: str | None) -> tuple[str, ...]:
    if not path.is_file():
        raise DataNotFound(f"prompts {path.name}", [path.parent], data_set("custom-diffusion-prompts").remedy)
    found = read_templates(path)
    if len(found) != count:
        raise ValueError(f"{path} holds {len(found)} prompts, where there are {count}; get it again")
    slots = next((each for each in found if re.search(r"[{}]", each)), None)
    if slots is not None:
        raise ValueError(
            f"{path}: the prompt {slots!r} has a slot, which the paper's have not: take the folder prompts at the top "
            "of the repository, not that of customconcept101"
        )
    wrong = next(
        (each for each in found if set(re.findall(r"<[^<>\s]+>", each)) != ({token} if token else set())), None
    )
    if wrong is not None:
        raise ValueError(f"{path}: the prompt {wrong!r} {f'lacks {token}' if token else 'has a token'}; get it again")
    return tuple(found)


def _folder(roots: Sequence[Path], name: str) -> Path | None:
    """The folder of a concept in the first root that has it, however its words are joined."""
    wanted = re.sub(r"[\W_]", "", name)
    for root in roots:
        for place in sorted(root.iterdir()) if root.is_dir() else ():
            if place.is_dir() and re.sub(r"[\W_]", "", place.name).lower() == wanted:
                return place
    return None
