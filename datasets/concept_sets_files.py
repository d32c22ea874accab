"""The small files of concepts: lists of them, prompts and their slots, captions of lines, of folders and of COCO."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gengauge.datasets.folder import list_pictures
from gengauge.datasets.unpickling import DamagedCheckpoint, reading

LISTING, CAPTIONS = "images.txt", "caption.txt"
MAX_TEXT_BYTES = 2**26
MAX_COCO_BYTES = 2**28  # captions_train2017.json has 92 MB
_SLOT = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class ListedConcept:
    """An entry of a list of concepts as it stands there: folders and files are names, which are not looked for.

    `token` is the modifier token of `instance_prompt` ("photo of a <new1> cat"), None where it has none; what the entry
    does not tell is "".
    """

    instance_prompt: str
    instance_data_dir: str
    class_prompt: str = ""
    class_data_dir: str = ""
    prompt_filename: str = ""

    @property
    def token(self) -> str | None:
        found = re.search(r"<[^<>\s]+>", self.instance_prompt)
        return found[0] if found else None


@dataclass(frozen=True)
class CocoCaption:
    """A caption of COCO, on one line; `file` is the name of its picture, None where the file lists no pictures."""

    image_id: int
    caption: str
    file: str | None = None


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, without their ends. Raises FileNotFoundError, and ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TEXT_BYTES // 2**20} MiB: it is no list of lines")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason})") from None
    # Captions from the web hold other signs that Python takes for ends of lines.
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def read_json(path: Path, kind: type = dict, limit: int = MAX_TEXT_BYTES) -> Any:
    """What a JSON file of at most `limit` bytes holds: values by name, or a list.

    Raises FileNotFoundError, and DamagedCheckpoint for another kind and for no JSON.
    """
    with reading(path):
        if path.stat().st_size > limit:
            raise DamagedCheckpoint(f"it is larger than {limit // 2**20} MiB")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise DamagedCheckpoint("its brackets are nested too deep") from None
        if not isinstance(content, kind):
            raise DamagedCheckpoint(f"it holds no {'list' if kind is list else 'values by name'}")
        return content


def read_concept_list(path: Path) -> list[ListedConcept]:
    """The entries of a list of concepts, such as CustomConcept101's `dataset.json` or one for diffusers' training.

    Raises FileNotFoundError, and ValueError naming file and entry.
    """
    return [listed(path, f"entry {number}", each) for number, each in enumerate(read_json(path, list), 1)]


def listed(path: Path, where: str, entry: object) -> ListedConcept:
    """An entry of a list. Raises ValueError naming the file and `where` in it."""
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ValueError(f"{path}: {where} holds no prompts and folders by name")
    found = {name: entry.get(name, "").strip() for name in ListedConcept.__dataclass_fields__}
    for name in ("instance_prompt", "instance_data_dir"):
        if not found[name]:
            raise ValueError(f"{path}: {where} lacks {name}")
    if found["class_data_dir"] and not found["class_prompt"]:
        raise ValueError(f"{path}: {where} has class pictures and no class_prompt")
    return ListedConcept(**found)


def inside(where: object, name: str) -> tuple[str, ...]:
    """The parts of a relative path that the file `where` names. Raises ValueError for one that leads elsewhere."""
    place = PurePosixPath(name.replace("\\", "/"))
    if not place.parts or place.is_absolute() or ".." in place.parts or "\0" in name:
        raise ValueError(f"{where} names {name!r}, which leads out of the folder of the set")
    return place.parts


def read_templates(path: Path) -> list[str]:
    """Prompts of a file, one a line, stripped; empty lines are left out. Raises OSError, ValueError for no prompts."""
    found = [line.strip() for line in read_lines(path) if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no prompts")
    return found


def check_slots(where: object, templates: Iterable[str], slots: Sequence[str]) -> list[str]:
    """Which of the templates lack one of the `slots` ("{}", or "{0}" and "{1}"); each may stand several times.

    Raises ValueError naming `where` and the template for any other slot and for a lone bracket, and where no template
    has a slot at all.
    """
    found = list(templates)
    for template in found:
        other = [each[0] for each in _SLOT.finditer(template) if each[0] not in slots]
        if other or re.search("[{}]", _SLOT.sub("", template)):
            raise ValueError(
                f"{where}: the prompt {template!r} has {other[0] if other else 'a lone bracket'}, where its slots are "
                f"{' and '.join(slots)}"
            )
    if not any(slot in template for template in found for slot in slots):
        raise ValueError(f"{where}: no prompt has a slot {' or '.join(slots)}; are these prompts of another set?")
    return [template for template in found if any(slot not in template for slot in slots)]


def filled(prompt: str, fill: Sequence[str]) -> str:
    """A prompt whose slots `{}`, or `{0}` and `{1}`, hold the texts of `fill` ("<new1> cat").

    Raises ValueError for a slot that nothing fills.
    """

    def text(slot: re.Match[str]) -> str:
        number = int(slot[1] or 0)
        if number >= len(fill):
            raise ValueError(f"the prompt {prompt!r} has a slot {slot[0]} that nothing fills: give a text for it")
        return fill[number]

    return re.sub(r"\{(\d*)\}", text, prompt)


def read_captions(path: Path, count: int | None = None) -> list[str]:
    """Common captions of a file, one a line: the first `count`. Raises OSError, and ValueError for fewer."""
    found = [line.strip() for line in read_lines(path) if line.strip()]
    if not found or (count is not None and len(found) < count):
        raise ValueError(f"{path} holds {len(found)} captions, not {count or 'one or more'}")
    return found[:count]


def captioned_pictures(folder: Path, caption: str) -> list[tuple[Path, str]]:
    """The pictures of a folder, such as of a class, each with its caption, or with this one where it has none.

    Captions stand in `caption.txt` and pictures in `images.txt`, one a line, as retrieval writes them. Raises OSError
    and ValueError for a folder without pictures or lists that do not match.
    """
    lists = folder / LISTING, folder / CAPTIONS
    if not any(path.is_file() for path in lists):
        return [(path, caption) for path in list_pictures(folder)]
    names, texts = (read_lines(path) for path in lists)
    if len(names) != len(texts) or not names:
        raise ValueError(f"{lists[0]} names {len(names)} pictures, and {lists[1]} holds {len(texts)} captions")
    if (empty := next((number for number, text in enumerate(texts, 1) if not text.strip()), None)) is not None:
        raise ValueError(f"{lists[1]}, line {empty}, is empty: each picture has a caption")
    return [(_listed_picture(folder, name), text) for name, text in zip(names, texts, strict=True)]


def read_coco_captions(path: Path) -> list[CocoCaption]:
    """The captions of a file of COCO, such as `captions_val2017.json`, in its order; blanks are made single.

    Empty captions are left out. Raises FileNotFoundError, and ValueError naming file and annotation.
    """
    content = read_json(path, limit=MAX_COCO_BYTES)
    annotations, images = content.get("annotations"), content.get("images", [])
    if not isinstance(annotations, list) or not isinstance(images, list):
        raise ValueError(f"{path} holds no list of annotations, as COCO's captions_val2017.json does")
    files: dict[object, str] = {}
    for each in images:
        name = each.get("file_name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not isinstance(each.get("id"), int):
            raise ValueError(f"{path} lists a picture without id or file_name")
        if inside(path, name) != (name,):
            raise ValueError(f"{path} names {name!r}, which is no file of one folder")
        files[each["id"]] = name
    found = []
    for number, each in enumerate(annotations, 1):
        image, text = (each.get("image_id"), each.get("caption")) if isinstance(each, dict) else (None, None)
        if not isinstance(image, int) or isinstance(image, bool) or not isinstance(text, str):
            raise ValueError(f"{path}: annotation {number} has no caption and image_id; are these captions?")
        if files and image not in files:
            raise ValueError(f"{path}: annotation {number} is of picture {image}, which the file does not list")
        if text.strip():
            found.append(CocoCaption(image, " ".join(text.split()), files.get(image)))
    if not found:
        raise ValueError(f"{path} holds no captions")
    return found


def _listed_picture(folder: Path, name: str) -> Path:
    """The file that a list names: beside the list, where the command runs, or in `images` beside it, as retrieved."""
    places = (folder / name, Path(name), folder / "images" / Path(name).name)
    for place in places:
        if name.strip() and place.is_file():
            return place
    raise FileNotFoundError(f"{folder / LISTING} names {name!r}, which is no file there, nor in images beside it")
