"""A user's folder of Custom Diffusion's own scale, of a few thousand weights, and its experiments cut to a step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_stable_diffusion import write_clip, write_pictures, write_stable_diffusion
from torch import nn

from gengauge.benchmarks.core.experiments import Experiment
from gengauge.benchmarks.features.clip import Encoder, Preparation, load_transformers_clip
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.papers import custom_diffusion
from gengauge.benchmarks.papers.custom_diffusion import cost_rows, published
from gengauge.benchmarks.papers.custom_diffusion.methods import Drawing, Method, Settings
from gengauge.benchmarks.training.concept_batches import Intake
from gengauge.datasets.concept_sets_paper import CONCEPTS, PAIRS

HAVE = ("moongate", "dog", "cat", "chair")
MEAN = ("moongate", "dog", "cat")  # that means are over
PAIRED = ("moongate+dog", "cat+chair")
LISTED, BOTH = ("cat_1", "sofa_1"), "cat_1+sofa_1"
RARE = ("k", "x", "y")
SIZE, EACH, OF_CLASS, COCO = 64, 1, 4, 5
CLIP_FILE, DINO_FILE = "clip/ViT-B-32.pt", "dino/dino_deitsmall16_pretrain.pth"


def write_tree(root: Path) -> Path:
    """All that the rows ask for, of four of the paper's concepts and two of CustomConcept101."""
    write_stable_diffusion(root / "stable-diffusion-v1-4")
    code = root / "custom-diffusion"
    for seed, name in enumerate(HAVE):
        write_pictures(code / "data" / name, 2, seed)
        regular = code / "data" / "real_reg" / f"samples_{name}"
        write_pictures(regular / "images", 3, 10 + seed)
        _write(regular / "images.txt", "\n".join(f"elsewhere/{i}.png" for i in range(3)))
        _write(regular / "caption.txt", "\n".join(f"some {name} {letter}" for letter in "abc"))
        write_pictures(code / "validation" / name, 3, 20 + seed, (32, 32))
        known = CONCEPTS[name]
        what = f"<new1> {known.category}" if known.has_token else known.category
        _write(code / "prompts" / f"{known.prompts or name}.txt", _lines(f"{what} and", 20))
    for first, second in PAIRS:
        if {first, second} <= set(HAVE):
            _write(code / "prompts" / f"{first}_{second}.txt", _lines(f"{first} near a {second} in", 8))
    captions = [f"a {x}{y} of {z}" for x in "abcdefg" for y in "hijkl" for z in "mnop"]
    _write(code / "data" / "regularization_captions.txt", "\n".join(captions))
    _write_customconcept101(code / "customconcept101")
    for name in (CLIP_FILE, DINO_FILE):
        _write(root / name, name)
    write_clip(root / "clip" / "tiny")
    _write_coco(root / "coco")
    return root


def encoders(root: Path) -> dict[str, Any]:
    """What stands for `load_open_clip`, `load_dino` and `load_network`."""
    grey = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    network = FeatureNetwork("inception", "FID", 8, 12, grey, lambda x, mode: x / 128 - 1, None, "grey levels")
    small = Preparation(8, 8, (0.0,) * 3, (1.0,) * 3)
    return {
        "load_open_clip": lambda path, device: load_transformers_clip(root / "clip" / "tiny", device),
        "load_dino": lambda path, device: Encoder("colours", small, lambda x: x.mean((2, 3)) + 0.1, device=device),
        "load_network": lambda name: network,
    }


def _write_customconcept101(folder: Path) -> None:
    entries = []
    for seed, (name, token) in enumerate(zip(LISTED, ("<new1>", "<new2>"), strict=True)):
        category = name.partition("_")[0]
        write_pictures(folder / "benchmark_dataset" / name, 3, 30 + seed)
        entries.append(
            {
                "instance_prompt": f"photo of a {token} {category}",
                "class_prompt": category,
                "instance_data_dir": f"./benchmark_dataset/{name}",
                "class_data_dir": f"./regularization/{category}",
                "prompt_filename": "prompts/things.txt",
            }
        )
    pair = [*entries, {"prompt_filename_compose": "prompts/both.txt"}]
    listed = [{**each, "instance_prompt": each["instance_prompt"].replace("<new2>", "<new1>")} for each in entries]
    _write(folder / "dataset.json", json.dumps(listed))
    _write(folder / "dataset_multiconcept.json", json.dumps([pair]))
    _write(folder / "prompts" / "things.txt", _lines("a {} in", 20))
    _write(folder / "prompts" / "both.txt", _lines("{0} by {1} in", 12))


def _write_coco(folder: Path) -> None:
    write_pictures(folder / "val2017", COCO, 40, (32, 32))
    images = [{"id": i + 1, "file_name": f"{i}.png"} for i in range(COCO)]
    notes = [{"image_id": i % COCO + 1, "caption": f"a thing {'abcdefghij'[i]}"} for i in range(2 * COCO)]
    _write(folder / "annotations" / "captions_val2017.json", json.dumps({"images": images, "annotations": notes}))


def _lines(start: str, count: int) -> str:
    return "\n".join(f"{start} {'abcdefghijklmnopqrst'[i]}" for i in range(count)) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# -- experiments -------------------------------------------------------------------------------------------------------


def short(method: Method) -> Method:
    """The method with a step of training, tokens that begin as letters, and letters for DreamBooth's words."""
    recipes: Mapping[str, Any] = {
        name: replace(recipe, iterations=1, batch=2, lr=0.01)
        for name, recipe in (("recipe", method.recipe), ("joint", method.joint))
        if recipe is not None
    }
    return replace(method, **recipes, begin_as=RARE, words=RARE[:2] if method.words else ())


def cut(s: Settings) -> Settings:
    """A row's settings for the tree: of its concepts or pairs those that are there."""
    drawing = Drawing(replace(s.drawing.how, steps=1), EACH, OF_CLASS, batch=20)
    names = s.subjects.names
    if s.subjects.set != "paper":
        names = (BOTH,) if s.subjects.pairs else LISTED
    elif len(names) > 1 and s.method.pairing == "merged":
        names = PAIRED[1:]  # letters of the other's category are more than this model's text has dimensions
    elif len(names) > 1:
        names = tuple(name for name in names if name in (PAIRED if s.subjects.pairs else MEAN))
    return replace(
        s,
        method=short(s.method),
        subjects=replace(s.subjects, names=names),
        drawing=drawing,
        intake=Intake(SIZE, empty="covered"),
        merging=replace(s.merging, captions=140),
        class_pictures=2,
        class_drawing=drawing,
    )


def tiny(experiment: Experiment) -> Experiment:
    """The experiment with what it does cut short."""
    at = experiment.scales["paper"]
    s = at.settings
    if isinstance(s, Settings):
        s = cut(s)
    elif hasattr(s, "of"):
        s = replace(s, of=cut(s.of), **({"captions": COCO} if hasattr(s, "captions") else {}))
    return replace(experiment, scales={"paper": replace(at, settings=s, threads=1)})


ALL = tuple(
    each for make in (published.experiments, cost_rows.experiments) for each in make(custom_diffusion.PAPER.tables)
)
OWN = () if published.RELEASED_TABLE in custom_diffusion.PAPER.tables else (published.RELEASED_TABLE,)
PAPER = replace(
    custom_diffusion.PAPER,
    tables=(*custom_diffusion.PAPER.tables, *OWN),
    experiments=tuple(map(tiny, ALL)),
    claims=(),
)
