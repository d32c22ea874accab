"""Batches of Custom Diffusion's training: pictures of concepts and of their classes, resized and captioned."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from gengauge.benchmarks.training.concept_captions import Captions, Sizes
from gengauge.benchmarks.training.loop import step_seed
from gengauge.datasets.folder import read_picture
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.custom_diffusion.augment import (
    CELL,
    FAR_WORDS,
    NEAR_WORDS,
    SMALL,
    Empty,
    Resize,
    augment,
    class_corner,
    class_picture,
    draw_resize,
    shown_from,
)
from gengauge.reference.custom_diffusion.models import Models, moments_of
from gengauge.reference.custom_diffusion.training import Recipe, joined

Composition = Literal["diffusers", "compvis"]
LEAST_CELLS = {"error": 3, "covered": 2}  # of the smallest picture that has a cell in its mask wherever it lies
KEPT_BYTES = 2**29  # of concepts' decoded pictures
DRAWS = 2**31  # the number of no process: draws of pictures have seeds of their own


@dataclass(frozen=True)
class Captioned:
    """A picture's file and its caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Concept:
    """What is learnt: its pictures, the token that is new in their captions (or None), and pictures of its class."""

    pictures: tuple[Captioned, ...]
    token: str | None = None
    class_pictures: tuple[Captioned, ...] = ()


@dataclass(frozen=True)
class Intake:
    """How pictures become batches of `size` px, a multiple of 8; the autoencoder's cells are `cell` px wide.

    `composition` `diffusers`: so many pictures of concepts, and with a prior as many of classes behind them;
    `compvis`: an equal part of the batch for each concept, in which both kinds are mixed by chance, about one to one.
    It is the way of resizing too, and the order in which tokens begin as rare words. With `augment` concepts' pictures
    are resized at random, with words in the caption; with `flip` half of all pictures are mirrored, as `compvis` always
    does; class pictures are cut to a random square of theirs, or with `centre_crop` the central one, as `compvis`
    always does. What `empty` masks are told by `augment`.
    """

    size: int = 512
    composition: Composition = "diffusers"
    augment: bool = True
    flip: bool = False
    centre_crop: bool = False
    empty: Empty = "error"
    cell: int = CELL

    def __post_init__(self) -> None:
        if self.composition not in get_args(Composition) or self.empty not in get_args(Empty):
            raise ValueError(
                f"compositions are {' or '.join(get_args(Composition))}, empty masks {' or '.join(get_args(Empty))}"
            )
        if self.cell < 1 or self.size < CELL or self.size % CELL or self.size % self.cell:
            raise ValueError(f"a training size is a multiple of {CELL} px and of the cell's, not {self.size}")
        smallest = self.size // 3 + self.size // 3 % 2
        least = {empty: cells * self.cell for empty, cells in LEAST_CELLS.items()}
        if self.augment and smallest < least[self.empty]:
            raise ValueError(
                f"at {self.size} px a picture is made as small as {smallest} px, too small for a mask: train at "
                f"{3 * least[self.empty]} px or more, without augmentation, or with empty masks 'covered' at "
                f"{3 * least['covered']} px or more"
            )

    @property
    def mirrors(self) -> bool:
        """Whether half of the pictures are mirrored."""
        return self.flip or self.composition == "compvis"


@dataclass(frozen=True)
class _Item:
    """A place in a batch."""

    captioned: Captioned
    of_class: bool


@dataclass(frozen=True)
class _Prepared:
    """A picture (3, R, R), None where its posterior is known by `key`, with its mask (R / 8, R / 8) and caption.

    Without a key the picture comes once only. `sizes` are what SDXL is told of it.
    """

    key: Hashable | None
    picture: Tensor | None
    mask: Tensor
    caption: str
    sizes: Sizes


class ConceptBatches:
    """Batches of concepts: posteriors with masks, and captions, as `Training.step` takes them.

    What a batch holds depends on the seed and its number alone, to the last bit, so that a training that resumes has
    the losses that it would have had. The autoencoder sees a picture that chance leaves as it is once; captions become
    labels by `Captions`. The next batch's pictures are read ahead.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        intake: Intake,
        recipe: Recipe,
        models: Models,
        tokenizer: Any,
        tokens: Mapping[str, int],
        seed: int,
        device: str = "cpu",
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """`models` have an autoencoder and a text encoder; `tokens` are the ids of those that learn, none for none.

        `tokenizer` is a list of both for SDXL. Reads all pictures. Raises ValueError naming a picture that is damaged
        or whose caption lacks the token, where concepts, recipe and composition do not go together, and for the
        composition compvis with SDXL, whose code has no such model.
        """
        check_composition(concepts, intake, recipe, processes)
        self.concepts, self.intake, self.recipe, self.models = list(concepts), intake, recipe, models
        self.tokens, self.seed, self.device = dict(tokens), seed, torch.device(device)
        self.process, self.processes = process, processes
        self.parts = 1 if recipe.prior_weight is None else 2
        if intake.composition == "compvis":
            self.parts = len(concepts)
        self.captions = Captions(models, tokenizer, tokens, self.device, recipe.bfloat16)
        if intake.composition == "compvis" and models.text_encoder_2 is not None:
            raise ValueError("the compvis code has no model of two text encoders: take the composition diffusers")
        self._check_captions()
        self._decoded: dict[Path, Image.Image] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}  # (width, height)
        self._look_at_pictures()
        for network in (models.vae, *models.text_encoders.values()):
            network.to(self.device).requires_grad_(False).eval()
        self._posteriors: dict[Hashable, Tensor] = {}

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(posteriors with masks (N, 2 C + 1, h, w), labels as of `Captions.labels`), without end."""
        items = islice(self._batches(), iteration, None)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._prepare, items, iteration)
            while True:
                prepared = ahead.result()
                iteration += 1
                ahead = pool.submit(self._prepare, items, iteration)
                masks = torch.stack([each.mask for each in prepared]).unsqueeze(1)
                labels = self.captions.labels([each.caption for each in prepared], [each.sizes for each in prepared])
                yield joined(self._moments(prepared), masks.to(self.device)), labels

    # -- which pictures come when --------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[list[_Item]]:
        if self.intake.composition == "compvis":
            return self._mixed()
        return self._side_by_side()

    def _side_by_side(self) -> Iterator[list[_Item]]:
        own = [_Item(each, False) for concept in self.concepts for each in concept.pictures]
        others = [_Item(each, True) for concept in self.concepts for each in concept.class_pictures]
        order = epoch_orders(max(len(own), len(others)), self.seed)
        while True:
            chosen = list(islice(order, self.recipe.batch))
            behind = [others[i % len(others)] for i in chosen] if self.parts == 2 else []
            yield [own[i % len(own)] for i in chosen] + behind

    def _mixed(self) -> Iterator[list[_Item]]:
        each = self.recipe.batch // len(self.concepts)
        orders = [
            epoch_orders(2 * len(concept.class_pictures) or len(concept.pictures), step_seed(self.seed, DRAWS, number))
            for number, concept in enumerate(self.concepts)
        ]
        while True:
            yield [
                self._of_mixture(concept, i)
                for concept, order in zip(self.concepts, orders, strict=True)
                for i in islice(order, each)
            ]

    def _of_mixture(self, concept: Concept, i: int) -> _Item:
        # Of 2 n places the published code gives n + 1 to the class and n - 1 to the concept.
        count = len(concept.class_pictures)
        if count and i <= count:
            return _Item(concept.class_pictures[i % count], True)
        return _Item(concept.pictures[i % len(concept.pictures)], False)

    # -- what becomes of them ------------------------------------------------------------------------------------------

    def _prepare(self, batches: Iterator[list[_Item]], iteration: int) -> list[_Prepared]:
        """The pictures of this process. All processes make the draws of the whole batch."""
        items = next(batches)
        generator = torch.Generator().manual_seed(step_seed(self.seed, DRAWS + 1, iteration))
        draws = [self._draw(item, generator) for item in items]
        part = len(items) // self.parts
        mine = [i for start in range(0, len(items), part) for i in range(start, start + part)[self._share()]]
        return [self._made(items[i], *draws[i]) for i in mine]

    def _share(self) -> slice:
        return slice(self.process, None, self.processes)

    def _draw(self, item: _Item, generator: torch.Generator) -> tuple[Resize, tuple[float, float] | None]:
        """How a picture is resized and mirrored, and which square of a class picture is taken."""
        intake = self.intake
        if not item.of_class and intake.augment:
            return draw_resize(intake.size, generator, intake.mirrors), None
        flip = intake.mirrors and bool(torch.randint(2, (), generator=generator) == 1)
        top, left = torch.rand(2, generator=generator).tolist()
        whole = intake.centre_crop or intake.composition == "compvis" or self._square(item.captioned.path)
        return Resize(intake.size, flip=flip), None if whole or not item.of_class else (top, left)

    def _made(self, item: _Item, resize: Resize, corner: tuple[float, float] | None) -> _Prepared:
        size, path, caption = self.intake.size, item.captioned.path, item.captioned.caption
        whole = corner is None and SMALL * size <= resize.even_scale <= size
        key = (path, item.of_class, resize.flip) if whole else None
        mask = torch.ones(size // self.intake.cell, size // self.intake.cell)
        width, height = self._sizes[path]
        cut_class = item.of_class and self.intake.composition == "diffusers"
        cut = class_corner((width, height), size, corner) if cut_class else shown_from(resize, size)
        sizes = (height, width, *cut, size, size)
        if key in self._posteriors:
            return _Prepared(key, None, mask, caption, sizes)
        picture = self._decoded.get(path) or _picture(path)
        if cut_class:
            return _Prepared(key, class_picture(picture, size, corner, resize.flip), mask, caption, sizes)
        made = augment(*(picture, caption, size, resize, self.intake.composition, self.intake.empty, self.intake.cell))
        return _Prepared(key, made.picture, made.mask, made.caption, sizes)

    def _square(self, path: Path) -> bool:
        return self._sizes[path][0] == self._sizes[path][1]

    def _moments(self, prepared: Sequence[_Prepared]) -> Tensor:
        """Posteriors (N, 2 C, h, w). Those that are kept are made one by one: their bits tell nothing of a batch."""
        for each in prepared:
            if each.key is not None and each.key not in self._posteriors:
                assert each.picture is not None
                self._posteriors[each.key] = self._encode(each.picture.unsqueeze(0))[0]
        passing = [each.picture for each in prepared if each.key is None and each.picture is not None]
        fresh = iter(self._encode(torch.stack(passing)) if passing else ())
        return torch.stack([next(fresh) if each.key is None else self._posteriors[each.key] for each in prepared])

    def _encode(self, pictures: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            return moments_of(self.models.vae, pictures.to(self.device)).float()

    # -- checks --------------------------------------------------------------------------------------------------------

    def _check_captions(self) -> None:
        words = (*FAR_WORDS, *NEAR_WORDS) if self.intake.augment else ("",)
        for each in dict.fromkeys(each for concept in self.concepts for each in concept.class_pictures):
            if taken := [token for token in self.tokens if token in each.caption]:
                raise ValueError(
                    f"{each.path}: the caption of a class picture, {each.caption!r}, holds the token {taken[0]}, which "
                    "the concept's pictures alone are to teach"
                )
        for concept in self.concepts:
            if concept.token is None:
                continue
            for each in dict.fromkeys(concept.pictures):
                if concept.token not in each.caption:
                    raise ValueError(
                        f"{each.path}: the caption {each.caption!r} does not hold the token {concept.token}, which "
                        "would learn nothing from the picture"
                    )
            captions = list(dict.fromkeys(each.caption for each in concept.pictures))
            if (caption := self.captions.lost(concept.token, captions, words)) is not None:
                raise ValueError(
                    f"the token {concept.token} is lost from the caption {caption!r}: it stands beyond the "
                    f"{self.captions.length} tokens that the text encoder takes, or within another word"
                )

    def _look_at_pictures(self) -> None:
        """Reads every picture, so that a damaged one is told before the training, and keeps some."""
        own = {each.path for concept in self.concepts for each in concept.pictures}
        others = {each.path for concept in self.concepts for each in concept.class_pictures}
        paths, held = [*sorted(own), *sorted(others - own)], 0
        with ThreadPoolExecutor(4) as pool:
            for start in range(0, len(paths), 16):
                part = paths[start : start + 16]
                for path, picture in zip(part, pool.map(_picture, part), strict=True):
                    self._sizes[path] = picture.size
                    held += 3 * picture.width * picture.height
                    if path in own and held <= KEPT_BYTES:
                        self._decoded[path] = picture


def check_composition(concepts: Sequence[Concept], intake: Intake, recipe: Recipe, processes: int) -> None:
    if not concepts or not all(concept.pictures for concept in concepts):
        raise ValueError("a training has one concept or more, each with pictures")
    classes = sum(len(concept.class_pictures) for concept in concepts)
    parts = 1
    if intake.composition == "compvis":
        parts = len(concepts)
        if recipe.prior_weight is not None or recipe.concepts != parts:
            raise ValueError(f"the composition compvis has no prior weight, and here {parts} parts of a batch")
        if any(len(concept.class_pictures) == 1 for concept in concepts):
            raise ValueError("the composition compvis mixes in two class pictures or more, or none")
    elif recipe.concepts != 1:
        raise ValueError("the composition diffusers mixes concepts in one batch: its recipe has 1 part, not more")
    elif (recipe.prior_weight is None) == bool(classes):
        raise ValueError(
            "class pictures and a prior weight go together: give both, or set the weight to None for a training on the "
            "concept alone"
        )
    if (recipe.batch // parts) % processes:
        raise ValueError(f"{recipe.batch // parts} pictures of a step cannot be shared by {processes} processes")


def _picture(path: Path) -> Image.Image:
    return Image.fromarray(read_picture(path))
