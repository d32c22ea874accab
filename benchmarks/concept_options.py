"""Options of `gengauge concept` that several commands share, and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gengauge.benchmarks.terminal import DeviceName

# What is slow to import comes when it is needed, as in the commands.
if TYPE_CHECKING:
    import torch

    from gengauge.benchmarks.training.concept_batches import Concept


class TrainedName(str, Enum):
    """What is trained."""

    kv = "kv"
    crossattn = "crossattn"
    all = "all"
    tokens = "tokens"


class MethodName(str, Enum):
    """The method whose settings are taken."""

    custom_diffusion = "custom_diffusion"
    textual_inversion = "textual_inversion"
    dreambooth = "dreambooth"


class CodeName(str, Enum):
    """The published code whose way is taken."""

    diffusers = "diffusers"
    compvis = "compvis"


class WeightingName(str, Enum):
    """The weight of a concept's loss."""

    official_x4 = "official_x4"
    mean = "mean"


class EmptyName(str, Enum):
    """What becomes of a mask without a cell."""

    error = "error"
    covered = "covered"


class LayoutName(str, Enum):
    """The layout of a delta's file."""

    delta = "delta"
    compvis = "compvis"
    diffusers = "diffusers"
    gengauge = "gengauge"


class TypeName(str, Enum):
    """The type of numbers."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Model = Annotated[Path, typer.Argument(help="Folder of diffusers, that of Stable Diffusion 1.4 for one.")]
Device = Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")]
LayoutOption = Annotated[
    LayoutName | None,
    typer.Option(
        help="delta: the published delta.bin; compvis: delta*.ckpt; diffusers: pytorch_custom_diffusion_weights; "
        "gengauge: safetensors. By default the file's name tells."
    ),
]


def concepts_of(
    pictures: list[Path],
    category: list[str],
    token: list[str] | None,
    no_token: bool,
    class_pictures: list[Path],
    class_prompt: list[str],
    style: bool,
    listed: Path | None,
    only: list[str] | None,
) -> list[Concept]:
    """The concepts of `train`'s options. Raises ValueError for options that do not go together, and what reading does.

    `pictures`, `category` and what else is given once a concept are in one order.
    """
    from gengauge.benchmarks.concept_files import read_concept, read_concepts_list

    if (listed is None) == (not pictures):
        raise ValueError("give concepts by --pictures and --category, or a list of them by --concepts")
    if listed is not None:
        if category or token or no_token or class_pictures or class_prompt or style:
            raise ValueError("with --concepts the list tells all of the concepts; choose of it by --only")
        return read_concepts_list(listed, only or ())
    count = len(pictures)
    if no_token and token:
        raise ValueError("--token and --no-token do not go together")
    tokens: list[str | None] = [None] * count if no_token else [*(token or [f"<new{i + 1}>" for i in range(count)])]
    for option, given in (("--category", category), ("--token", tokens)):
        if len(given) != count:
            raise ValueError(f"{count} times --pictures and {len(given)} times {option}: give both once a concept")
    for option, some in (("--class-pictures", class_pictures), ("--class-prompt", class_prompt)):
        if len(some) not in (0, count):
            raise ValueError(f"{count} times --pictures and {len(some)} times {option}: give both once a concept")
    return [
        read_concept(
            pictures[i],
            category[i],
            tokens[i],
            style=style,
            class_folder=class_pictures[i] if class_pictures else None,
            class_prompt=class_prompt[i] if class_prompt else None,
        )
        for i in range(count)
    ]


def with_rare_words(concepts: Sequence[Concept], words: Sequence[str]) -> list[Concept]:
    """The concepts with a rare word for each new token, as DreamBooth has it: "sks" by default for a single one.

    Raises ValueError for another number of words than concepts, and as `with_rare_word`.
    """
    from gengauge.benchmarks.concept_files import with_rare_word
    from gengauge.reference.custom_diffusion.training import RARE_WORD

    words = words or ([RARE_WORD] if len(concepts) == 1 else [])
    if len(words) != len(concepts):
        raise ValueError(f"{len(concepts)} concepts and {len(words)} times --rare-word: give it once a concept")
    return [with_rare_word(concept, word) for concept, word in zip(concepts, words, strict=True)]


def type_of(name: TypeName) -> torch.dtype:
    """The type of a name."""
    import torch

    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name.value]
