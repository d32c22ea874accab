"""Sets of concepts, from small trees of the published formats whose words and pictures are made here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gengauge.benchmarks.metrics.alignment import without_modifiers
from gengauge.datasets import concept_sets_paper as paper
from gengauge.datasets.catalogue import DATA_SETS, data_set
from gengauge.datasets.concept_sets import ConceptSet, SetConcept, read_custom_concept101, with_token
from gengauge.datasets.concept_sets_dreambench import read_dreambench
from gengauge.datasets.concept_sets_files import (
    CocoCaption,
    captioned_pictures,
    check_slots,
    filled,
    inside,
    read_captions,
    read_coco_captions,
    read_concept_list,
    read_lines,
)
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.unpickling import DamagedCheckpoint

BOTH = ("dataset.json", "dataset_multiconcept.json")


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (2, 2), (i, 0, 0)).save(folder / f"{i}.png")


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def entry(name: str, what: str, token: str = "<new1>", prompts: str = "things") -> dict[str, str]:
    return {
        "instance_prompt": f"photo of a {token} {what} ",
        "class_prompt": what,
        "instance_data_dir": f"./benchmark_dataset/{name}",
        "class_data_dir": f"./regularization/{what}",
        "prompt_filename": f"prompts/{prompts}.txt",
    }


def pair(first: dict[str, str], second: dict[str, str], prompts: str = "both") -> list[dict[str, str]]:
    return [first, second, {"prompt_filename_compose": f"prompts/{prompts}.txt"}]


# -- CustomConcept101 --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 101 concepts and 101 pairs with the oddities of the published one; two concepts have class pictures."""
    root = tmp_path_factory.mktemp("repository") / "customconcept101"
    names = {f"thing_{i}": f"thing {i % 50}" for i in range(101)}
    listed = [entry(name, what) for name, what in names.items()]
    listed[3]["instance_prompt"] = "photo of <new1> thing 3"
    listed[4]["class_prompt"] = "four"
    pairs = [pair(listed[i], entry(f"thing_{100 - i}", f"thing {(100 - i) % 50}", "<new2>")) for i in range(50)]
    pairs += [pair(listed[i], entry("thing_50", "thing 0", "<new2>")) for i in range(49)]
    pairs += [
        pair(listed[8], entry("thing_9", "sofa", "<new2>")),
        pair(listed[1], entry("thing_51", "thing 1", "<new2>")),
    ]
    written(root / BOTH[0], listed)
    written(root / BOTH[1], pairs)
    lines = [f"the {{}} of day {i} " for i in range(19)]
    written(root / "prompts" / "things.txt", "\n".join(["a café and a {}, {}", "", *lines, " ", ""]))
    written(root / "prompts" / "both.txt", "\n".join(["{0} and {0}", *(f"{{1}} near {{0}}, {i}" for i in range(11))]))
    for name in names:
        pictures(root / "benchmark_dataset" / name, 3)
    pictures(root / "benchmark_dataset" / "thing_7", 2)
    (root / "benchmark_dataset" / "thing_7" / "2.png").unlink()
    pictures(root / "regularization" / "thing 1", 1)
    return root


def test_the_whole_set_is_read_and_its_oddities_are_told(whole: Path) -> None:
    found = read_custom_concept101(whole.parent, whole)
    assert read_custom_concept101(whole, whole / "benchmark_dataset") == found
    assert (len(found.concepts), len(found.pairs)) == (101, 101)
    first = found.concept("thing_1")
    assert first.category == "thing 1"
    assert first.pictures == tuple(whole / "benchmark_dataset" / "thing_1" / f"{i}.png" for i in range(3))
    assert first.class_folder == whole / "regularization" / "thing 1"
    assert found.concept("thing_2").class_folder is None
    assert (first.token, first.caption) == ("<new1>", "photo of a <new1> thing 1")
    assert first.prompts[:2] == ("a café and a {}, {}", "the {} of day 0")
    assert len(first.prompts) == 20
    assert first.generation_prompts()[0] == "a café and a <new1> thing 1, <new1> thing 1"
    assert first.plain_prompts()[:2] == ["a café and a thing 1, thing 1", "the thing 1 of day 0"]
    both = found.pairs[2]
    assert (both.name, both.first.token, both.second.token) == ("thing_2+thing_98", "<new1>", "<new2>")
    assert both.second.caption == "photo of a <new2> thing 48"
    assert both.generation_prompts()[1] == "<new2> thing 48 near <new1> thing 2, 0"
    assert both.plain_prompts()[1] == "thing 48 near thing 2, 0"
    assert found.pairs[99].second.category == "sofa"
    assert found.concept("thing_9").category == "thing 9"
    assert set(found.odd) == {
        "thing_7 has 2 pictures, published are 3 to 15",
        "thing_4 is trained as 'photo of a <new1> thing 4', and its class is 'four'",
        "prompts/both.txt has the prompt '{0} and {0}'",
        "pair 100 takes thing_9 as 'sofa', whose class is 'thing 9'",
    }
    with pytest.raises(KeyError, match="no concept thing_x; it has thing_"):
        found.concept("thing_x")


def test_plain_prompts_are_those_that_text_alignment_takes(whole: Path) -> None:
    found = read_custom_concept101(whole, whole, only=("thing_1", "thing_99"))
    for each in (*found.concepts, *found.pairs):
        assert [without_modifiers(prompt) for prompt in each.generation_prompts()] == each.plain_prompts()
    literal = SetConcept("cat", "cat", (), ("<new1> cat  in a bag", "a bag like <new1>"), "photo of a <new1> cat")
    assert literal.generation_prompts() == ["<new1> cat  in a bag", "a bag like <new1>"]
    assert literal.plain_prompts() == ["cat in a bag", "a bag like"]


def copied(whole: Path, root: Path) -> Path:
    """The lists and prompts of the set, with the pictures of the few concepts that tests name."""
    for name in (*BOTH, "prompts/things.txt", "prompts/both.txt"):
        written(root / name, (whole / name).read_text(encoding="utf-8"))
    for i in (1, 5, 99):
        pictures(root / "benchmark_dataset" / f"thing_{i}", 3)
    return root


def test_a_part_is_read_where_it_is_named(whole: Path, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    found = read_custom_concept101(root, root, only=("thing_99", "thing_1"))
    assert [each.name for each in found.concepts] == ["thing_1", "thing_99"]
    assert [each.name for each in found.pairs] == ["thing_1+thing_99"]
    with pytest.raises(DataNotFound, match=r"98 of 101 concepts.*\(thing_0, thing_2, .* and 90 more\)") as caught:
        read_custom_concept101(root, root)
    assert data_set("customconcept101").remedy in caught.value.remedy
    assert "name the concepts wanted" in caught.value.remedy
    with pytest.raises(DataNotFound, match=r"1 of 2 concepts.*\(thing_2\)"):
        read_custom_concept101(root, root, only=("thing_1", "thing_2"))
    with pytest.raises(ValueError, match="no concept thing1; it has thing_1"):
        read_custom_concept101(root, root, only=("thing1",))
    with pytest.raises(DataNotFound, match=r"dataset\.json.*git clone"):
        read_custom_concept101(tmp_path / "none", root)


def edited(root: Path, name: str, change: Callable[[Any], Any]) -> None:
    content = json.loads((root / name).read_text(encoding="utf-8"))
    written(root / name, change(content))


@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        (BOTH[0], lambda c: c[:100], "lists 100 concepts, where there are 101"),
        (BOTH[0], lambda c: [*c[:100], c[5]], "lists the folder thing_5 twice"),
        (BOTH[1], lambda c: c[:3], "lists 3 pairs, where there are 101"),
        (BOTH[0], lambda c: {"concepts": c}, "it holds no list"),
    ],
)
def test_a_whole_set_has_its_counts(
    whole: Path, tmp_path: Path, name: str, change: Callable[[Any], Any], cause: str
) -> None:
    root = copied(whole, tmp_path)
    edited(root, name, change)
    with pytest.raises(ValueError, match=cause) as caught:
        read_custom_concept101(root, whole)
    assert str(root / name) in str(caught.value)


def replaced(field: str, value: object) -> Callable[[Any], Any]:
    """A list whose second concept, or whose second pair's first, has another value; None takes it away."""

    def change(content: Any) -> Any:
        target = content[1] if isinstance(content[1], dict) else content[1][2 if "compose" in field else 0]
        target.pop(field)
        if value is not None:
            target[field] = value
        return content

    return change


@pytest.mark.parametrize(
    ("name", "field", "value", "cause"),
    [
        (BOTH[0], "instance_data_dir", "../../secrets", "names '../../secrets', which leads out of the folder"),
        (BOTH[0], "instance_data_dir", "/etc", "names '/etc', which leads out"),
        (BOTH[0], "instance_data_dir", "benchmark_dataset\\..\\..\\x", "leads out of the folder"),
        (BOTH[0], "instance_data_dir", "a\0b", "leads out of the folder"),
        (BOTH[0], "class_data_dir", "./regularization/../..", "leads out of the folder"),
        (BOTH[0], "prompt_filename", "../things.txt", "leads out of the folder"),
        (BOTH[0], "prompt_filename", "prompts/none.txt", "there is no such file"),
        (BOTH[0], "prompt_filename", None, "thing_1 names no file of prompts"),
        (BOTH[0], "prompt_filename", 7, "entry 2 holds no prompts and folders by name"),
        (BOTH[0], "instance_prompt", None, "entry 2 lacks instance_prompt"),
        (BOTH[0], "class_prompt", None, "entry 2 has class pictures and no class_prompt"),
        (BOTH[1], "instance_data_dir", "x/../../y", "leads out of the folder"),
        (BOTH[1], "instance_data_dir", "x/thing_999", "pair 2: dataset.json has no concept thing_999"),
        (BOTH[1], "instance_prompt", "photo of a <new2> thing 1", "both concepts of pair 2 have the token <new2>"),
        (BOTH[1], "prompt_filename_compose", None, "pair 2 lacks prompt_filename_compose"),
        (BOTH[1], "prompt_filename_compose", "/etc/passwd", "leads out of the folder"),
    ],
)
def test_hostile_and_damaged_lists_are_named(
    whole: Path, tmp_path: Path, name: str, field: str, value: object, cause: str
) -> None:
    root = copied(whole, tmp_path)
    edited(root, name, replaced(field, value))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(cause)):
        read_custom_concept101(root, root, only=("thing_1", "thing_99"))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("content", [b'[{"instance_prompt": ', b"\xff\xfe[]", b"[" * 100_000, b"[1]", b"[[1, 2, 3]]"])
def test_lists_that_are_none_are_named(whole: Path, tmp_path: Path, name: str, content: bytes) -> None:
    root = copied(whole, tmp_path)
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(root / name))):
        read_custom_concept101(root, root, only=("thing_1",))
    if not content.startswith(b"[1") and not content.startswith(b"[[1"):
        with pytest.raises(DamagedCheckpoint, match=r"is damaged|nested too deep"):
            read_concept_list(root / name)


@pytest.mark.parametrize(
    ("name", "line", "cause"),
    [
        ("things", "a {1} alone", "'a {1} alone' has {1}, where its slots are {}"),
        ("things", "a {", "has a lone bracket"),
        ("things", "a {} {0.__class__}", "has {0.__class__}"),
        ("both", "{0} and {2}", "has {2}, where its slots are {0} and {1}"),
        ("both", "{} and {1}", "has {}, where its slots are {0} and {1}"),
        ("things", "", "holds 19 prompts, where there are 20"),
        ("both", "", "holds 11 prompts, where there are 12"),
    ],
)
def test_prompts_with_other_slots_are_named(whole: Path, tmp_path: Path, name: str, line: str, cause: str) -> None:
    root = copied(whole, tmp_path)
    path = root / "prompts" / f"{name}.txt"
    written(path, "\n".join([*path.read_text(encoding="utf-8").strip().splitlines()[:-1], line]))
    with pytest.raises(ValueError, match=re.escape(cause)) as caught:
        read_custom_concept101(root, root, only=("thing_1", "thing_99"))
    assert str(path) in str(caught.value)


def test_prompts_that_are_no_text_are_named(whole: Path, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    path = root / "prompts" / "things.txt"
    path.write_bytes("a café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"things\.txt is no text in UTF-8"):
        read_custom_concept101(root, root, only=("thing_1",))
    written(path, "\n".join(["<new1> cat"] * 20))
    with pytest.raises(ValueError, match=r"no prompt has a slot \{\}; are these prompts of another set"):
        read_custom_concept101(root, root, only=("thing_1",))
    written(path, "\n\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_custom_concept101(root, root, only=("thing_1",))


# -- the paper's concepts ----------------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The repository with the data unpacked in it: no pictures of three concepts, and a folder of another spelling."""
    for name, known in paper.CONCEPTS.items():
        what = f"<new1> {known.category}" if known.has_token else known.category
        lines = [f"{what} on hill {i} " for i in range(20)]
        written(tmp_path / "prompts" / f"{known.prompts or name}.txt", "\n".join(lines))
        if name not in paper.UNRELEASED:
            pictures(tmp_path / "data" / name, 2 if name == "moongate" else known.pictures)
    for first, second in paper.PAIRS:
        what = [paper.CONCEPTS[name].category for name in (first, second)]
        lines = [f"A {what[1].capitalize()} beside the {what[0]}, {i}" for i in range(8)]
        written(tmp_path / "prompts" / f"{first}_{second}.txt", "\n".join(lines))
    (tmp_path / "data" / "tortoise_plushy").rename(tmp_path / "data" / "Tortoise Plushy")
    pictures(tmp_path / "real_reg" / "samples_cat", 1)
    written(tmp_path / "data" / "regularization_captions.txt", "a hill\n\na house\n")
    return tmp_path


def test_the_released_concepts_are_read(released: Path) -> None:
    names = [name for name in paper.CONCEPTS if name not in paper.UNRELEASED]
    found = paper.read_paper_concepts(released, released, only=names)
    assert paper.read_paper_concepts(released / "data", released / "prompts", only=names) == found
    assert [each.name for each in found.concepts] == names
    assert [each.name for each in found.pairs] == ["moongate+dog", "wooden_pot+cat"]
    assert found.odd == ("moongate has 2 pictures, the paper 135",)
    assert found.captions is not None
    assert read_captions(found.captions) == ["a hill", "a house"]
    cat, moongate = found.concept("cat"), found.concept("moongate")
    assert cat.class_folder == released / "real_reg" / "samples_cat"
    assert (moongate.token, moongate.class_folder, moongate.caption) == (None, None, "photo of a moongate")
    assert len(found.concept("tortoise_plushy").pictures) == 12
    assert cat.generation_prompts()[0] == "<new1> cat on hill 0"
    assert found.concept("wooden_pot").plain_prompts()[19] == "wooden pot on hill 19"
    assert moongate.generation_prompts() == moongate.plain_prompts()
    gate, pot = found.pairs
    assert gate.generation_prompts()[0] == "A <new1> Dog beside the moongate, 0"
    assert pot.generation_prompts()[0] == "A <new2> Cat beside the <new1> wooden pot, 0"
    assert pot.plain_prompts()[0] == "A Cat beside the wooden pot, 0"
    assert (pot.first.caption, pot.second.caption) == ("photo of a <new1> wooden pot", "photo of a <new2> cat")


def test_ten_concepts_and_five_pairs_with_pictures_of_ones_own(released: Path) -> None:
    with pytest.raises(DataNotFound, match=r"pictures of flower, table, chair not found") as caught:
        paper.read_paper_concepts(released, released)
    assert "(flower, table, chair: not released); or name the concepts wanted" in caught.value.remedy
    for name in paper.UNRELEASED:
        pictures(released / "data" / name, paper.CONCEPTS[name].pictures)
    found = paper.read_paper_concepts(released, released)
    assert (len(found.concepts), len(found.pairs)) == (10, 5)
    assert all(len(each.prompts) == 20 for each in found.concepts)
    assert all(len(each.prompts) == 8 for each in found.pairs)
    with pytest.raises(ValueError, match="the paper has no concept wooden; it has wooden_pot"):
        paper.read_paper_concepts(released, released, only=("wooden",))


@pytest.mark.parametrize(
    ("name", "lines", "cause"),
    [
        ("cat", ["<new1> cat"] * 19, "holds 19 prompts, where there are 20"),
        ("cat", ["<new1> cat"] * 19 + ["a cat"], "the prompt 'a cat' lacks <new1>"),
        ("cat", ["a {}"] * 20, "has a slot, which the paper's have not"),
        ("moongate", ["<new1> moongate"] * 20, "the prompt '<new1> moongate' has a token"),
        ("wooden_pot_cat", ["a cat in a wooden pottery"] * 8, "does not name 'wooden pot'"),
        ("wooden_pot_cat", ["a cat in a wooden pot"] * 7, "holds 7 prompts, where there are 8"),
    ],
)
def test_prompts_that_are_not_the_papers_are_named(released: Path, name: str, lines: list[str], cause: str) -> None:
    written(released / "prompts" / f"{name}.txt", "\n".join(lines))
    with pytest.raises(ValueError, match=re.escape(cause)):
        paper.read_paper_concepts(released, released, only=("cat", "wooden_pot", "moongate"))


def test_missing_prompts_say_how_to_get_them(released: Path) -> None:
    (released / "prompts" / "wooden.txt").unlink()
    with pytest.raises(DataNotFound, match=r"prompts wooden\.txt") as caught:
        paper.read_paper_concepts(released, released, only=("wooden_pot",))
    assert caught.value.remedy == data_set("custom-diffusion-prompts").remedy
    with pytest.raises(DataNotFound, match="pictures of cat"):
        paper.read_paper_concepts(released / "none", released, only=("cat",))


# -- DreamBench --------------------------------------------------------------------------------------------------------


def dreambench_list(subjects: list[tuple[str, str]], objects: int = 25, alive: int = 25, bad: str = "") -> str:
    def prompts(kind: str, count: int) -> list[str]:
        lines = [f"'a {{0}} {{1}} {kind} {i}'.format(unique_token, class_token)," for i in range(count)]
        return ["prompt_list = [", *lines[:-1], bad or lines[-1].removesuffix(","), "]", ""]

    rows = [",".join(row) for row in subjects]
    head = ["Classes", "", "subject_name,class", *rows, "", "Prompts", ""]
    return "\n".join(
        [*head, "Object Prompts", "", *prompts("seen", objects), "Live Subject Prompts", "", *prompts("met", alive)]
    )


SUBJECTS = [("bear_plushie", "stuffed animal"), ("dog2", "dog"), *((f"can{i}", "can") for i in range(28))]


def test_dreambench_is_read(tmp_path: Path) -> None:
    written(tmp_path / "dataset" / "prompts_and_classes.txt", dreambench_list(SUBJECTS))
    for name, _ in SUBJECTS[:-1]:
        pictures(tmp_path / "dataset" / name, 3 if name == "can1" else 4)
    with pytest.raises(DataNotFound, match="pictures of can27 of DreamBench"):
        read_dreambench(tmp_path)
    pictures(tmp_path / "dataset" / "can27", 6)
    found = read_dreambench(tmp_path / "dataset")
    assert read_dreambench(tmp_path) == found
    assert len(found.concepts) == 30
    assert found.odd == ("can1 has 3 pictures, published are 4 to 6",)
    bear, dog = found.concepts[:2]
    assert bear.generation_prompts()[24] == "a <new1> stuffed animal seen 24"
    assert (dog.prompts[0], dog.plain_prompts()[0]) == ("a {} met 0", "a dog met 0")
    assert dog.caption == "photo of a <new1> dog"
    (alone,) = read_dreambench(tmp_path, only=("dog2",), token=None).concepts
    assert alone.generation_prompts() == alone.plain_prompts() == dog.plain_prompts()
    with pytest.raises(ValueError, match="DreamBench has no concept dog; it has dog2"):
        read_dreambench(tmp_path, only=("dog",))
    with pytest.raises(DataNotFound, match=r"git clone https://github\.com/google/dreambooth"):
        read_dreambench(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (dreambench_list(SUBJECTS[:29]), "lists 29 subjects, where there are 30"),
        (dreambench_list([]), "lists no subjects"),
        (dreambench_list([*SUBJECTS, ("dog2", "dog")]), "'dog2,dog' is no subject and its class, or one again"),
        (dreambench_list([("../dog", "dog")]), "line 4: '../dog,dog' is no subject"),
        (dreambench_list(SUBJECTS, objects=24), "has 24 Object Prompts, where there are 25"),
        (dreambench_list(SUBJECTS, alive=26), "has 26 Live Subject Prompts, where there are 25"),
        (dreambench_list(SUBJECTS, bad="'a {0} cat'.format(unique_token, class_token)"), "is no prompt with the slots"),
        (dreambench_list(SUBJECTS, bad="'a {0} {1}, {2}'.format(unique_token, class_token)"), "is no prompt with the"),
        (dreambench_list(SUBJECTS, bad="__import__('os').system('x')"), "line 64: \"__import__('os')"),
        ("subject_name,class\ndog,dog\n", "has no line 'Object Prompts'"),
    ],
)
def test_a_damaged_list_of_dreambench_is_named(tmp_path: Path, text: str, cause: str) -> None:
    path = written(tmp_path / "prompts_and_classes.txt", text)
    with pytest.raises(ValueError, match=re.escape(cause)) as caught:
        read_dreambench(tmp_path)
    assert str(path) in str(caught.value)


# -- captions and small files ------------------------------------------------------------------------------------------


def test_pictures_of_classes_with_captions_of_their_own(tmp_path: Path) -> None:
    pictures(tmp_path / "images", 2)
    assert [text for _, text in captioned_pictures(tmp_path, "photo of a cat")] == ["photo of a cat"] * 2
    written(tmp_path / "images.txt", "./elsewhere/images/1.png\n0.png\n")
    written(tmp_path / "caption.txt", "my cat\u2028asleep\r\ncats\n")
    found = captioned_pictures(tmp_path, "photo of a cat")
    assert found == [(tmp_path / "images" / "1.png", "my cat\u2028asleep"), (tmp_path / "images" / "0.png", "cats")]
    written(tmp_path / "images.txt", "9.png\n0.png\n")
    with pytest.raises(FileNotFoundError, match=r"images\.txt names '9\.png'"):
        captioned_pictures(tmp_path, "")
    written(tmp_path / "caption.txt", "one\n")
    with pytest.raises(ValueError, match=r"names 2 pictures, and .* holds 1 captions"):
        captioned_pictures(tmp_path, "")
    (tmp_path / "caption.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"caption\.txt: there is no such file"):
        captioned_pictures(tmp_path, "")


def coco(**changes: object) -> dict[str, object]:
    images = [{"id": 7, "file_name": "000007.jpg"}, {"id": 5, "file_name": "000005.jpg"}]
    texts = [(5, "A hill. \n"), (7, " Two\n houses"), (5, " "), (5, "a  hill")]
    annotations = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)]
    return {"info": {}, "images": images, "annotations": annotations, **changes}


def test_captions_of_coco(tmp_path: Path) -> None:
    path = written(tmp_path / "captions_val2017.json", coco())
    found = read_coco_captions(path)
    assert found[1] == CocoCaption(7, "Two houses", "000007.jpg")
    assert [each.caption for each in found] == ["A hill.", "Two houses", "a hill"]
    content = coco()
    del content["images"]
    assert {each.file for each in read_coco_captions(written(path, content))} == {None}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (coco(annotations={"a": 1}), "holds no list of annotations"),
        (coco(annotations=[]), "holds no captions"),
        (
            coco(annotations=[{"image_id": 5, "bbox": []}]),
            "annotation 1 has no caption and image_id; are these captions",
        ),
        (coco(annotations=[7]), "annotation 1 has no caption"),
        (coco(annotations=[{"image_id": 8, "caption": "x"}]), "is of picture 8, which the file does not list"),
        (coco(images=[{"id": 5, "file_name": "../../x.jpg"}]), "names '../../x.jpg', which leads out"),
        (coco(images=[{"id": 5, "file_name": "a/x.jpg"}]), "names 'a/x.jpg', which is no file of one folder"),
        (coco(images=[{"id": "5", "file_name": "x.jpg"}]), "lists a picture without id or file_name"),
        ([], "it holds no values by name"),
        ('{"annotations": [', "is damaged"),
    ],
)
def test_damaged_captions_of_coco_are_named(tmp_path: Path, content: object, cause: str) -> None:
    path = written(tmp_path / "captions_val2017.json", content)
    with pytest.raises(ValueError, match=re.escape(cause)) as caught:
        read_coco_captions(path)
    assert str(path) in str(caught.value)


def test_slots_lines_and_paths(tmp_path: Path) -> None:
    assert filled("a {} by {1}", ["cat", "pot"]) == "a cat by pot"
    with pytest.raises(ValueError, match=r"a slot \{1\} that nothing fills"):
        filled("a {1}", ["cat"])
    assert check_slots("here", ["{0}", "{1} {0}"], ("{0}", "{1}")) == ["{0}"]
    assert with_token("Cats, a Cat, (cat)", "cat", "<v>") == "Cats, a <v> Cat, (<v> cat)"
    assert with_token("a cat", "cat", None) == "a cat"
    assert inside(tmp_path, "./a/./b") == ("a", "b")
    with pytest.raises(ValueError, match="leads out"):
        inside(tmp_path, ".")
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert read_lines(tmp_path / "x.txt") == ["one", "two"]
    with pytest.raises(ValueError, match="holds 2 captions, not 3"):
        read_captions(tmp_path / "x.txt", 3)
    assert read_captions(tmp_path / "x.txt", 1) == ["one"]


def test_the_catalogue_finds_what_the_readers_take(whole: Path, released: Path) -> None:
    assert {entry.key for entry in DATA_SETS if "custom_diffusion" in entry.papers} == {
        "custom-diffusion-data", "custom-diffusion-prompts", "custom-diffusion-models", "customconcept101",
        "customconcept101-prompts", "dreambench", "coco-captions", "coco-val", "stable-diffusion-v1-4",
        "custom-diffusion-validation",
    }  # fmt: skip
    root = released.parent / "root"
    root.mkdir()
    (root / "custom-diffusion").symlink_to(released)
    (released / "customconcept101").symlink_to(whole)
    place = {key: data_set(key).find(root) for key in ("customconcept101", "customconcept101-prompts")}
    images, lists = place["customconcept101"], place["customconcept101-prompts"]
    assert images is not None
    assert lists is not None
    found: ConceptSet = read_custom_concept101(lists.parent, images, only=("thing_1",))
    assert found.concepts[0].class_folder is not None
    data, prompts = (data_set(f"custom-diffusion-{part}").find(root) for part in ("data", "prompts"))
    assert data is not None
    assert prompts is not None
    assert paper.read_paper_concepts(data, prompts, only=("cat",)).concepts[0].class_folder is not None
    assert data_set("custom-diffusion-models").find(root) is None
