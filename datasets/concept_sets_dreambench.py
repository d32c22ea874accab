"""DreamBench, the set of DreamBooth (Ruiz et al. 2023): 30 subjects, 25 prompts for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.concept_sets import TOKEN, ConceptSet, SetConcept, pictures_of, unknown
from gengauge.datasets.concept_sets_files import read_lines
from gengauge.datasets.sets import DataNotFound

LIST = "prompts_and_classes.txt"
SUBJECTS, PROMPTS = 30, 25
PICTURES = range(4, 7)  # of a subject
LIVING = frozenset({"cat", "dog"})  # the classes of the nine living subjects, which have prompts of their own
TABLE, OBJECTS, ALIVE = "subject_name,class", "Object Prompts", "Live Subject Prompts"
# A line of Python as published, of which nothing is run.
_PROMPT = re.compile(r"""(?P<quote>['"])(?P<text>.*)(?P=quote)\s*\.format\(unique_token,\s*class_token\),?""")
_SUBJECT = re.compile(r"(?P<name>[\w-]+)\s*,\s*(?P<category>\w[\w -]*)")


def read_dreambench(folder: Path, only: Sequence[str] = (), token: str | None = TOKEN) -> ConceptSet:
    """The 30 subjects, or those named in `only`; `folder` is `dataset` of google/dreambooth, or the repository.

    The published templates have a slot for the token and one for the class, side by side, which here are one slot `{}`.
    21 subjects are objects and nine live (cats and dogs); each kind has prompts of its own. The set tells no captions:
    they are "photo of a <new1> dog".

    Raises DataNotFound naming what is missing, ValueError naming the line that is not as published. Other numbers of
    pictures than 4 to 6 are told in `odd`.
    """
    places = [folder, folder / "dataset"]
    place = next((each for each in places if (each / LIST).is_file()), None)
    remedy = data_set("dreambench").remedy
    if place is None:
        raise DataNotFound(f"{LIST} of DreamBench", places, remedy)
    subjects, objects, alive = read_dreambench_list(place / LIST)
    if not set(only) <= set(subjects):
        raise ValueError(unknown("DreamBench", only, subjects))
    if not only and len(subjects) != SUBJECTS:
        raise ValueError(f"{place / LIST} lists {len(subjects)} subjects, where there are {SUBJECTS}; get it again")
    found = []
    for name, category in subjects.items():
        if only and name not in only:
            continue
        prompts = alive if category in LIVING else objects
        caption = f"photo of a {token} {category}" if token else f"photo of a {category}"
        found.append(SetConcept(name, category, pictures_of(place / name), prompts, caption, token))
    missing = [each.name for each in found if not each.pictures]
    if missing:
        raise DataNotFound(
            f"pictures of {', '.join(missing)} of DreamBench",
            [place],
            f"{remedy}; or name the subjects wanted, and no others",
        )
    odd = [
        f"{each.name} has {len(each.pictures)} pictures, published are {PICTURES[0]} to {PICTURES[-1]}"
        for each in found
        if len(each.pictures) not in PICTURES
    ]
    return ConceptSet("DreamBench", tuple(found), odd=tuple(odd))


def read_dreambench_list(path: Path) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """What `prompts_and_classes.txt` says: classes by subject, prompts of objects, prompts of what lives.

    Raises FileNotFoundError, and ValueError naming file and line.
    """
    lines = [line.strip() for line in read_lines(path)]
    lacking = next((each for each in (TABLE, OBJECTS, ALIVE) if each not in lines), None)
    if lacking is not None:
        raise ValueError(f"{path} has no line {lacking!r}: it is no list of DreamBench; get it again")
    subjects: dict[str, str] = {}
    for number in range(lines.index(TABLE) + 1, len(lines)):
        if not lines[number]:
            break
        row = _SUBJECT.fullmatch(lines[number])
        if row is None or row["name"] in subjects:
            raise ValueError(f"{path}, line {number + 1}: {lines[number]!r} is no subject and its class, or one again")
        subjects[row["name"]] = row["category"]
    if not subjects:
        raise ValueError(f"{path} lists no subjects; get it again")
    return subjects, _prompts(path, lines, OBJECTS), _prompts(path, lines, ALIVE)


def _prompts(path: Path, lines: Sequence[str], title: str) -> tuple[str, ...]:
    found: list[str] = []
    for number in range(lines.index(title) + 1, len(lines)):
        line = lines[number]
        if line == "]":
            break
        if not line or line == "prompt_list = [":
            continue
        prompt = _PROMPT.fullmatch(line)
        text = prompt["text"].strip() if prompt else ""
        if text.count("{0} {1}") != 1 or len(re.findall(r"[{}]", text)) != 4:
            raise ValueError(
                f"{path}, line {number + 1}: {line!r} is no prompt with the slots {{0}} {{1}}; get it again"
            )
        found.append(text.replace("{0} {1}", "{}"))
    if len(found) != PROMPTS:
        raise ValueError(f"{path} has {len(found)} {title}, where there are {PROMPTS}; get it again")
    return tuple(found)
