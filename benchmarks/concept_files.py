"""What `gengauge concept` reads: folders and lists of concepts' pictures, captions and prompts."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gengauge.benchmarks.training.concept_batches import Captioned, Concept
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.unpickling import DamagedCheckpoint, reading
from gengauge.reference.custom_diffusion.augment import template

LISTING, CAPTIONS = "images.txt", "caption.txt"
MAX_TEXT_BYTES = 2**26


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


def captioned(folder: Path, caption: str) -> tuple[Captioned, ...]:
    """The pictures of a folder with its captions, or with this one where it has none.

    Raises OSError and ValueError for a folder without pictures or lists that do not match.
    """
    lists = folder / LISTING, folder / CAPTIONS
    if not any(path.is_file() for path in lists):
        return tuple(Captioned(path, caption) for path in list_pictures(folder))
    names, texts = (_lines(path) for path in lists)
    if len(names) != len(texts) or not names:
        raise ValueError(f"{lists[0]} names {len(names)} pictures, and {lists[1]} holds {len(texts)} captions")
    return tuple(Captioned(_listed(folder, name), text) for name, text in zip(names, texts, strict=True))


def read_concepts_list(path: Path, only: Sequence[str] = ()) -> list[Concept]:
    """Concepts of a published list, such as CustomConcept101's `dataset.json`: prompts and folders by name.

    Of each, `instance_prompt` ("photo of a <new1> cat"), `instance_data_dir`, and where there are class pictures
    `class_prompt` and `class_data_dir`; folders are relative to the file's or to where the command runs. `only` are
    names of picture folders to take. Raises OSError and ValueError naming the file.
    """
    content = read_json(path, list)
    found = []
    for number, each in enumerate(content, 1):
        if not isinstance(each, dict) or not all(isinstance(value, str) for value in each.values()):
            raise ValueError(f"{path}: entry {number} holds no prompts and folders by name")
        if lacking := [key for key in ("instance_prompt", "instance_data_dir") if key not in each]:
            raise ValueError(f"{path}: entry {number} lacks {lacking[0]}")
        if only and Path(each["instance_data_dir"]).name not in only:
            continue
        prompt, folder = each["instance_prompt"].strip(), _relative(path, each["instance_data_dir"])
        token = re.search(r"<[^<>\s]+>", prompt)
        others = _relative(path, each["class_data_dir"]) if each.get("class_data_dir") else None
        class_prompt = each.get("class_prompt", "").strip()
        if others is not None and not class_prompt:
            raise ValueError(f"{path}: entry {number} has class pictures and no class_prompt")
        found.append(
            read_concept(
                folder,
                class_prompt,
                token[0] if token else None,
                class_folder=others,
                class_prompt=class_prompt,
                prompt=prompt,
            )
        )
    if not found:
        raise ValueError(f"{path} holds no concept{' of ' + ', '.join(only) if only else ''}")
    return found


def read_prompts(path: Path, fill: Sequence[str] = ()) -> list[str]:
    """Prompts of a file, one a line; `{}`, or `{0}` and `{1}`, become the texts of `fill` ("<new1> cat").

    Raises OSError, and ValueError naming the file for one without prompts and for slots that nothing fills.
    """
    found = [line.strip() for line in _lines(path) if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no prompts")
    return [filled(line, fill) for line in found]


def filled(prompt: str, fill: Sequence[str]) -> str:
    """A prompt whose slots hold the texts. Raises ValueError for a slot that nothing fills."""

    def text(slot: re.Match[str]) -> str:
        number = int(slot[1] or 0)
        if number >= len(fill):
            raise ValueError(f"the prompt {prompt!r} has a slot {slot[0]} that nothing fills: give --fill")
        return fill[number]

    return re.sub(r"\{(\d*)\}", text, prompt)


def read_captions(path: Path, count: int | None = None) -> list[str]:
    """Common captions of a file, one a line, for `merge`: the first `count`.

    Raises OSError, and ValueError for fewer.
    """
    found = [line.strip() for line in _lines(path) if line.strip()]
    if not found or (count is not None and len(found) < count):
        raise ValueError(f"{path} holds {len(found)} captions, not {count or 'one or more'}")
    return found[:count]


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


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TEXT_BYTES // 2**20} MiB: it is no list of lines")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason})") from None
    # Captions from the web hold other signs that Python takes for ends of lines.
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds. Raises FileNotFoundError, and DamagedCheckpoint for another kind and for no JSON."""
    with reading(path):
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DamagedCheckpoint(f"it is larger than {MAX_TEXT_BYTES // 2**20} MiB")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise DamagedCheckpoint("its brackets are nested too deep") from None
        if not isinstance(content, kind):
            raise DamagedCheckpoint(f"it holds no {'list' if kind is list else 'values by name'}")
        return content


def _listed(folder: Path, name: str) -> Path:
    """The file that a list names: beside the list, where the command runs, or in `images` beside it, as retrieved."""
    places = (folder / name, Path(name), folder / "images" / Path(name).name)
    for place in places:
        if name.strip() and place.is_file():
            return place
    raise FileNotFoundError(f"{folder / LISTING} names {name!r}, which is no file there, nor in images beside it")


def _relative(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.is_dir() else Path(name)
