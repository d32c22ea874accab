"""Published sets of concepts to customise a model by, and CustomConcept101 (Kumari et al. 2023).

The pictures and prompts are the user's: none comes with this package. The paper's own ten concepts are read by
`concept_sets_paper`, DreamBench by `concept_sets_dreambench`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gengauge.datasets.catalogue import data_set
from gengauge.datasets.concept_sets_files import (
    ListedConcept,
    check_slots,
    filled,
    inside,
    listed,
    read_concept_list,
    read_json,
    read_templates,
)
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.sets import DataNotFound

TOKEN = "<new1>"
CONCEPTS, PAIRS = 101, 101
PROMPTS, PAIR_PROMPTS = 20, 12  # of a file
PICTURES = range(3, 16)  # of a concept
IMAGES, CHECKOUT, REGULARIZATION = "benchmark_dataset", "customconcept101", "regularization"


@dataclass(frozen=True)
class SetConcept:
    """A concept of a set: its pictures, and the prompts that it is evaluated with.

    `category` is its class ("wooden pot"). `token` is its modifier token, None where it is learnt without. `caption` is
    that of its pictures in training. `prompts` are templates as read: a slot `{}` is where token and category go; in
    the paper's own prompts both stand there already. `class_folder` holds pictures of its class, None where there are
    none.
    """

    name: str
    category: str
    pictures: tuple[Path, ...]
    prompts: tuple[str, ...]
    caption: str
    token: str | None = TOKEN
    class_folder: Path | None = None

    @property
    def what(self) -> str:
        """What fills a slot when pictures are generated: "<new1> cat"."""
        return f"{self.token} {self.category}" if self.token else self.category

    def generation_prompts(self) -> list[str]:
        """The prompts that pictures are generated from."""
        return [filled(prompt, (self.what,)) for prompt in self.prompts]

    def plain_prompts(self) -> list[str]:
        """The same without the token, as text alignment is measured with them."""
        return [_without(prompt, self.token) for prompt in self.generation_prompts()]


@dataclass(frozen=True)
class SetPair:
    """Two concepts of a set that are composed; `prompts` have slots `{0}` and `{1}`, or name both categories."""

    name: str
    first: SetConcept
    second: SetConcept
    prompts: tuple[str, ...]

    def generation_prompts(self) -> list[str]:
        """The prompts that pictures are generated from: tokens stand before the categories.

        Raises ValueError for a prompt without slots that does not name a category.
        """
        both = (self.first, self.second)
        out = []
        for prompt in self.prompts:
            text = filled(prompt, [each.what for each in both])
            for each in both if text == prompt else ():
                text = with_token(text, each.category, each.token)
            out.append(text)
        return out

    def plain_prompts(self) -> list[str]:
        """The same without the tokens, as text alignment is measured with them."""
        plain = (self.first.category, self.second.category)
        return [_without(filled(prompt, plain), None) for prompt in self.prompts]


@dataclass(frozen=True)
class ConceptSet:
    """A set that is whole, or the part of it that was asked for. `odd` says what is unusual and can be worked with.

    `captions` is the set's file of common captions for the merge, None where it has none.
    """

    name: str
    concepts: tuple[SetConcept, ...]
    pairs: tuple[SetPair, ...] = ()
    odd: tuple[str, ...] = ()
    captions: Path | None = None

    def concept(self, name: str) -> SetConcept:
        """The concept of a name. Raises KeyError naming those that are near it."""
        known = {each.name: each for each in self.concepts}
        if name not in known:
            raise KeyError(unknown(self.name, [name], known))
        return known[name]


def with_token(prompt: str, category: str, token: str | None) -> str:
    """A prompt with the token before each mention of the category, whole words in any case.

    Raises ValueError where the prompt does not name the category.
    """
    found, count = re.subn(
        rf"(?<!\w)({re.escape(category)})(?!\w)",
        lambda match: f"{token} {match[0]}" if token else match[0],
        prompt,
        flags=re.IGNORECASE,
    )
    if not count:
        raise ValueError(f"the prompt {prompt!r} does not name {category!r}, so the token has no place in it")
    return found


def unknown(what: str, wanted: Iterable[str], known: Iterable[str]) -> str:
    """A line that says which names a set does not have, and those it has that are near them."""
    names = list(known)
    lacking = [name for name in wanted if name not in names]
    near = difflib.get_close_matches(lacking[0], names, 5, 0.4) or names[:5]
    return f"{what} has no concept {', '.join(lacking)}; it has {', '.join(near)} and others"


def pictures_of(folder: Path) -> tuple[Path, ...]:
    """The pictures of a concept's folder, () where there is no such folder or it is empty."""
    try:
        return tuple(list_pictures(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ()


def read_custom_concept101(
    checkout: Path, images: Path, only: Sequence[str] = (), regularization: Path | None = None
) -> ConceptSet:
    """CustomConcept101: 101 concepts of 20 prompts, and 101 pairs of 12, or the concepts named in `only`, whole.

    `checkout` is the folder `customconcept101` of the authors' repository, or the repository, with `dataset.json`,
    `dataset_multiconcept.json` and `prompts`; `images` the unpacked `benchmark_dataset`. A concept's name is that of
    its picture folder. Pictures of classes, which are not published, are looked for in `regularization`, by default
    beside `images`. With `only`, pairs are those whose concepts are both in it.

    Raises DataNotFound naming what is missing, and ValueError naming what is damaged, leads out of the folders, or is
    not as published. What is odd in the published files (a pair with another class than its pictures', a prompt that
    leaves out one of two concepts) is told in `odd`.
    """
    checkout, images = _checkout(checkout), images / IMAGES if (images / IMAGES).is_dir() else images
    classes = regularization or images.parent / REGULARIZATION
    entries = read_concept_list(checkout / "dataset.json")
    names = [_folder(checkout, each) for each in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not (only or len(names) == CONCEPTS):
        lists = f"the folder {twice[0]} twice" if twice else f"{len(names)} concepts, where there are {CONCEPTS}"
        raise ValueError(f"{checkout / 'dataset.json'} lists {lists}; get it again, or name the concepts wanted")
    if not set(only) <= set(names):
        raise ValueError(unknown("CustomConcept101", only, names))
    odd: list[str] = []
    templates = _Templates(checkout, odd)
    found = {
        name: _concept(checkout, entry, name, images, classes, templates)
        for name, entry in zip(names, entries, strict=True)
        if not only or name in only
    }
    missing = [name for name, concept in found.items() if not concept.pictures]
    if missing:
        raise DataNotFound(
            f"pictures of {len(missing)} of {len(found)} concepts of CustomConcept101 ({_few(missing)})",
            [images],
            f"{data_set('customconcept101').remedy}; or name the concepts wanted, and no others",
        )
    for name, concept in found.items():
        if len(concept.pictures) not in PICTURES:
            odd.append(f"{name} has {len(concept.pictures)} pictures, published are {PICTURES[0]} to {PICTURES[-1]}")
        if not concept.caption.endswith(concept.what):
            odd.append(f"{name} is trained as {concept.caption!r}, and its class is {concept.category!r}")
    pairs = _pairs(checkout, found, names, not only, templates)
    return ConceptSet("CustomConcept101", tuple(found.values()), tuple(pairs), tuple(odd))


class _Templates:
    """Reads each file of prompts once, checks it, and keeps what is odd."""

    def __init__(self, checkout: Path, odd: list[str]) -> None:
        self.checkout, self.odd = checkout, odd
        self.known: dict[str, tuple[str, ...]] = {}

    def read(self, where: str, name: str, slots: Sequence[str], count: int) -> tuple[str, ...]:
        if name not in self.known:
            if not name:
                raise ValueError(f"{where} names no file of prompts")
            path = self.checkout.joinpath(*inside(where, name))
            found = read_templates(path)
            if len(found) != count:
                raise ValueError(f"{path} holds {len(found)} prompts, where there are {count}; get it again")
            self.odd += [f"{name} has the prompt {each!r}" for each in check_slots(path, found, slots)]
            self.known[name] = tuple(found)
        return self.known[name]


def _checkout(folder: Path) -> Path:
    places = [folder, folder / CHECKOUT]
    found = next((place for place in places if (place / "dataset.json").is_file()), None)
    if found is None:
        raise DataNotFound("dataset.json of CustomConcept101", places, data_set("customconcept101-prompts").remedy)
    return found


def _folder(checkout: Path, entry: ListedConcept) -> str:
    return inside(checkout / "dataset.json", entry.instance_data_dir)[-1]


def _concept(
    checkout: Path, entry: ListedConcept, name: str, images: Path, classes: Path, templates: _Templates
) -> SetConcept:
    path = checkout / "dataset.json"
    if not entry.class_prompt:
        raise ValueError(f"{path}: {name} lacks class_prompt")
    class_folder = None
    if entry.class_data_dir:
        parts = inside(path, entry.class_data_dir)
        place = classes.joinpath(*(parts[1:] if parts[0] == REGULARIZATION else parts))
        class_folder = place if place.is_dir() else None
    return SetConcept(
        name,
        entry.class_prompt,
        pictures_of(images / name),
        templates.read(f"{path}: {name}", entry.prompt_filename, ("{}",), PROMPTS),
        entry.instance_prompt,
        entry.token,
        class_folder,
    )


def _pairs(
    checkout: Path, found: dict[str, SetConcept], names: Sequence[str], whole: bool, templates: _Templates
) -> list[SetPair]:
    path = checkout / "dataset_multiconcept.json"
    content = read_json(path, list)
    if whole and len(content) != PAIRS:
        raise ValueError(f"{path} lists {len(content)} pairs, where there are {PAIRS}; get it again")
    pairs = []
    for number, each in enumerate(content, 1):
        if not isinstance(each, list) or len(each) != 3 or not isinstance(each[2], dict):
            raise ValueError(f"{path}: pair {number} is no list of two concepts and a file of prompts")
        entries = [listed(path, f"pair {number}", entry) for entry in each[:2]]
        both = [_folder(checkout, entry) for entry in entries]
        if not set(both) <= set(names):
            raise ValueError(f"{path}: pair {number}: " + unknown("dataset.json", both, names))
        if not set(both) <= set(found):
            continue
        file = each[2].get("prompt_filename_compose")
        if not isinstance(file, str):
            raise ValueError(f"{path}: pair {number} lacks prompt_filename_compose")
        first, second = (
            replace(
                found[name],
                category=entry.class_prompt or found[name].category,
                caption=entry.instance_prompt,
                token=entry.token,
            )
            for name, entry in zip(both, entries, strict=True)
        )
        if first.token is not None and first.token == second.token:
            raise ValueError(f"{path}: both concepts of pair {number} have the token {first.token}")
        templates.odd += [
            f"pair {number} takes {each.name} as {each.category!r}, whose class is {found[each.name].category!r}"
            for each in (first, second)
            if each.category != found[each.name].category
        ]
        prompts = templates.read(f"{path}: pair {number}", file.strip(), ("{0}", "{1}"), PAIR_PROMPTS)
        pairs.append(SetPair("+".join(both), first, second, prompts))
    return pairs


def _without(prompt: str, token: str | None) -> str:
    return " ".join((prompt.replace(token, " ") if token else prompt).split())


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
