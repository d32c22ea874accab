"""The compared methods with their published settings, and what else a row of the paper's own scale chooses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from gengauge.benchmarks.concept_samples import Sampling
from gengauge.benchmarks.training.concept_batches import Intake
from gengauge.reference.custom_diffusion.merge import Variant
from gengauge.reference.custom_diffusion.tokens import RARE_WORDS
from gengauge.reference.custom_diffusion.training import (
    DREAMBOOTH,
    JOINT,
    RARE_WORD,
    SINGLE,
    TEXTUAL_INVERSION,
    Recipe,
)

SetName = Literal["paper", "customconcept101"]
Prior = Literal["real", "generated", "none"]
Pairing = Literal["joint", "merged", "sequential", "side by side"]
CLASS_PICTURES = 200  # of a concept's class
CAPTIONS = 200  # common ones of a merge, those of the released code


@dataclass(frozen=True)
class Method:
    """How a concept is learnt, or two; without a recipe nothing is.

    `pairing` tells how two come together: by one training with the recipe `joint`, merged without training, the second
    learnt on top of the first, or as tokens side by side. `words` name concepts in place of new tokens, as DreamBooth
    does. New tokens begin as `begin_as`, or with `begin_as_class` as the word for the class where that is one token;
    with `normal` their rows are drawn from a normal distribution of that deviation. The authors' own deltas take the
    place of trainings only where `released`.
    """

    name: str
    recipe: Recipe | None = None
    joint: Recipe | None = None
    pairing: Pairing = "joint"
    prior: Prior = "real"
    augment: bool = True
    words: tuple[str, ...] = ()
    begin_as: tuple[str, ...] = RARE_WORDS
    begin_as_class: bool = False
    normal: float | None = None
    released: bool = False

    @property
    def tokens_alone(self) -> bool:
        """Whether all that is learnt is a token, so that plain prompts give what the base gives."""
        return self.recipe is not None and self.recipe.trained == "tokens"


@dataclass(frozen=True)
class Subjects:
    """Concepts of a set by name, or with `pairs` its pairs ("cat+chair"); no names stand for all of them."""

    set: SetName = "paper"
    names: tuple[str, ...] = ()
    pairs: bool = False


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn: `each` of a prompt, `of_class` of plain captions for KID, `batch` at once.

    With `autocast` the networks work in float16 on a GPU, as the published sampler has it.
    """

    how: Sampling = field(default_factory=lambda: Sampling(steps=50))
    each: int = 50
    of_class: int = 1000
    batch: int = 10
    autocast: bool = True


@dataclass(frozen=True)
class Merging:
    """How two deltas become one without training."""

    captions: int = CAPTIONS
    variant: Variant = "diffusers"
    ridge: float = 0.0


@dataclass(frozen=True)
class Settings:
    """A row: a method, what it learns, and how its samples are drawn. Of means of alignment `left_out` are left out.

    `class_drawing` is how the model makes its own pictures of a class where a method takes those.
    """

    row: str
    columns: tuple[str, ...]
    method: Method
    subjects: Subjects
    left_out: tuple[str, ...] = ()
    drawing: Drawing = field(default_factory=Drawing)
    intake: Intake = field(default_factory=Intake)
    merging: Merging = field(default_factory=Merging)
    class_pictures: int = CLASS_PICTURES
    class_drawing: Drawing = field(default_factory=Drawing)


# Rate and steps of the whole U-Net tuned "with our recipe" are not told: DreamBooth's rate, the method's own steps.
_WHOLE = replace(SINGLE, trained="all", lr=DREAMBOOTH.lr)
DEVIATION = 0.02  # of new rows in transformers' CLIP
BASE = Method("Pretrained Stable Diffusion")
CUSTOM = Method("Custom Diffusion", SINGLE, JOINT, released=True)
OPTIMISED = replace(CUSTOM, name="Custom Diffusion (optimization)", pairing="merged")
JOINTLY = replace(CUSTOM, name="Custom Diffusion (joint)")
SEQUENTIAL = replace(CUSTOM, name="Custom Diffusion (sequential)", pairing="sequential")
WHOLE = Method("Custom Diffusion w/ fine-tune all", _WHOLE, replace(_WHOLE, iterations=JOINT.iterations))
INVERSION = Method(
    "Textual Inversion",
    TEXTUAL_INVERSION,
    pairing="side by side",
    prior="none",
    augment=False,
    begin_as_class=True,
)
BOOTH = Method(
    "DreamBooth",
    DREAMBOOTH,
    DREAMBOOTH,
    prior="generated",
    augment=False,
    words=(RARE_WORD, RARE_WORDS[0]),
)
WITHOUT_AUGMENTATION = Method("Custom Diffusion w/o Aug", SINGLE, augment=False)
WITHOUT_CLASS = Method("Custom Diffusion w/o Reg", replace(SINGLE, prior_weight=None), prior="none")
GENERATED = Method("Custom Diffusion w/ Gen", SINGLE, prior="generated")
NORMAL = Method("Custom Diffusion (V* init from normal dist.)", SINGLE, normal=DEVIATION)

SINGLES = (INVERSION, BOOTH, WHOLE, CUSTOM)
PAIRED = (INVERSION, replace(BOOTH, name="DreamBooth (joint)"), OPTIMISED, JOINTLY, SEQUENTIAL, WHOLE)
ABLATIONS = (WITHOUT_AUGMENTATION, WITHOUT_CLASS, GENERATED, CUSTOM)
