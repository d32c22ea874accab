"""What `gengauge concept` reads: folders and lists of concepts' pictures, captions and prompts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gengauge.benchmarks.training.concept_batches import Captioned, Concept
from gengauge.datasets.concept_sets_files import captioned_pictures, filled, read_concept_list, read_templates
from gengauge.reference.custom_diffusion.augment import template


def read_concept(
    folder: Path,
    category: str,
    token: str | None = None,
    *,
    style: bool = False,
    class_folder: Path | None = None,
    class_prompt: str | None = None,
    prompt: str | None = None,
) -> Concept:
    """A concept of a folder of pictures: "photo of a <new1> cat", or what `prompt` says, is the caption of each.

    A folder with `images.txt` and `caption.txt`, a picture and its caption a line, has captions of its own, as
    retrieved class pictures have; class pictures without are captioned "photo of a cat", or by `class_prompt`. Raises
    OSError and ValueError for a folder without pictures or lists that do not match.
    """
    what = f"{token} {category}" if token else category
    others: tuple[Captioned, ...] = ()
    if class_folder is not None:
        others = captioned(class_folder, class_prompt or template(category, style))
    return Concept(captioned(folder, prompt or template(what, style)), token, others)


def with_rare_word(concept: Concept, word: str) -> Concept:
    """The concept with a word of the vocabulary where its captions have its new token, which it then has no more.

    DreamBooth names a concept so (Ruiz et al. 2023). Raises ValueError for no single word, and for a caption that holds
    neither.
    """
    if not re.fullmatch(r"\S+", word):
        raise ValueError(f"{word!r} is no word that could stand for a concept")
    pictures = []
    for each in concept.pictures:
        caption = each.caption.replace(concept.token, word) if concept.token else each.caption
        if word not in caption.split():
            raise ValueError(f"{each.path}: the caption {each.caption!r} holds no {concept.token or word}")
        pictures.append(Captioned(each.path, caption))
    return Concept(tuple(pictures), None, concept.class_pictures)


def captioned(folder: Path, caption: str) -> tuple[Captioned, ...]:
    """The pictures of a folder with its captions, or with this one where it has none.

    Raises OSError and ValueError for a folder without pictures or lists that do not match.
    """
    return tuple(Captioned(*each) for each in captioned_pictures(folder, caption))


def read_concepts_list(path: Path, only: Sequence[str] = ()) -> list[Concept]:
    """Concepts of a published list, such as CustomConcept101's `dataset.json`: prompts and folders by name.

    Of each, `instance_prompt` ("photo of a <new1> cat"), `instance_data_dir`, and where there are class pictures
    `class_prompt` and `class_data_dir`; folders are relative to the file's or to where the command runs. `only` are
    names of picture folders to take. Raises OSError and ValueError naming the file.
    """
    found = []
    for each in read_concept_list(path):
        if only and Path(each.instance_data_dir).name not in only:
            continue
        found.append(
            read_concept(
                _relative(path, each.instance_data_dir),
                each.class_prompt,
                each.token,
                class_folder=_relative(path, each.class_data_dir) if each.class_data_dir else None,
                class_prompt=each.class_prompt,
                prompt=each.instance_prompt,
            )
        )
    if not found:
        raise ValueError(f"{path} holds no concept{' of ' + ', '.join(only) if only else ''}")
    return found


def read_prompts(path: Path, fill: Sequence[str] = ()) -> list[str]:
    """Prompts of a file, one a line; `{}`, or `{0}` and `{1}`, become the texts of `fill` ("<new1> cat").

    Raises OSError, and ValueError naming the file for one without prompts and for slots that nothing fills.
    """
    return [filled(line, fill) for line in read_templates(path)]


def check_new(path: Path, overwrite: bool = False) -> None:
    """Makes the folder of a file to write. Raises OSError where it cannot be, or the file is there and is to stay."""
    if path.exists() and (path.is_dir() or not overwrite):
        raise FileExistsError(f"{path} is there already; choose another name, or say --overwrite for a file")
    check_writable(path.parent)


def check_writable(folder: Path) -> None:
    """Makes a folder. Raises OSError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror or error}); choose another folder") from error


def _relative(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.is_dir() else Path(name)
