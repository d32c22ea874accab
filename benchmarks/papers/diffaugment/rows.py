"""Which row of DiffAugment's tables is trained how, and measured by which protocol, at paper scale and at small scale.

Source: scripts and run files of the three published code bases (BigGAN on CIFAR, StyleGAN2 in TensorFlow, compare_gan
on ImageNet); each table follows one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from gengauge.reference.diffaugment import biggan, placement, recipes, stylegan2
from gengauge.reference.diffaugment.placement import Placement

Recipe = biggan.Recipe | stylegan2.Recipe


@dataclass(frozen=True)
class Protocol:
    """How a table measures a generator.

    `samples` pictures in batches of `batch` against `reference`: the test split, all of the data set, or the training
    pictures themselves. `statistics` says where the generator's batch norms take theirs: from the batch (training
    mode, the BigGAN code), or from an accumulation over `accumulated` samples (compare_gan); StyleGAN2 has none.
    `rounded` pictures are grey levels, the others real numbers. The best snapshot by FID, chosen on the reported metric
    as published, is measured `repeats` times. With `d_accuracy` D is judged on training and test pictures too.
    """

    samples: int
    batch: int
    reference: Literal["test", "all", "train"]
    statistics: Literal["batch", "accumulated", "none"]
    is_splits: int = 10
    is_borders: Literal["equal", "even"] = "equal"
    ddof: int = 1
    rounded: bool = True
    repeats: int = 1
    accumulated: int = 0
    inception_score: bool = True
    d_accuracy: bool = False


@dataclass(frozen=True)
class Run:
    """The training that fills one row: data, subset, recipe, schedule in iterations, protocol.

    `fraction` of the pictures, or `count` of them where the table names a number; `subset` is the code base's rule.
    `zoom` is the range of a training square's side as a share of the largest central square's, None for whole pictures.
    """

    data: str
    resolution: int
    recipe: Recipe
    iterations: int
    snapshot_every: int
    protocol: Protocol
    fraction: float = 1.0
    count: int | None = None
    subset: Literal["random", "first"] = "first"
    mirror: bool = True
    value_range: tuple[float, float] = (-1.0, 1.0)
    zoom: tuple[float, float] | None = None
    log_every: int = 100
    dtype: str = "float32"

    @property
    def reals_per_iteration(self) -> int:
        """Reals that one iteration takes, in all processes together."""
        return self.recipe.batch * (self.recipe.d_steps if isinstance(self.recipe, biggan.Recipe) else 1)


CIFAR_BIGGAN = Protocol(samples=10_000, batch=50, reference="test", statistics="batch", repeats=5, d_accuracy=True)
CIFAR_STYLEGAN2 = Protocol(
    samples=10_000, batch=50, reference="test", statistics="none", is_borders="even", repeats=5, d_accuracy=True
)
FULL_SET = Protocol(samples=50_000, batch=32, reference="all", statistics="none", inception_score=False)
LOW_SHOT = Protocol(samples=5_000, batch=32, reference="train", statistics="none", inception_score=False)
IMAGENET = Protocol(
    samples=50_000,
    batch=64,
    reference="test",
    statistics="accumulated",
    is_splits=1,
    rounded=False,
    repeats=3,
    accumulated=204_800,
)

FRACTIONS = {"100pct-data": 1.0, "20pct-data": 0.2, "10pct-data": 0.1}
ALL_PARTS = "color,translation,cutout"
# Iterations of BigGAN's scripts: epochs * pictures / 200.
CIFAR_ITERATIONS = {
    "cifar10": {1.0: 250_000, 0.2: 250_000, 0.1: 125_000},
    "cifar100": {1.0: 500_000, 0.2: 250_000, 0.1: 125_000},
}
PLACEMENTS: dict[str, Placement | None] = {
    "biggan-baseline": None,
    "augment-reals-only": placement.REALS_ONLY,
    "augment-d-only-reals-and-fakes-not-through-g": placement.D_ONLY,
    "diffaugment-reals-fakes-g": placement.DIFFAUGMENT,
}
POLICIES = {
    "color-translation-cutout": ALL_PARTS,
    "translation-cutout": "translation,cutout",
    "translation": "translation",
}
LOW_SHOT_SETS = {
    "100-shot-obama": ("100-shot-obama", 300),
    "100-shot-grumpy-cat": ("100-shot-grumpy_cat", 300),
    "100-shot-panda": ("100-shot-panda", 300),
    "animalface-cat-160": ("AnimalFace-cat", 500),
    "animalface-dog-389": ("AnimalFace-dog", 500),
}


def paper_runs() -> dict[tuple[str, str], Run]:
    """(table, row) to the run that fills it at paper scale: every row whose method is in this project."""
    runs: dict[tuple[str, str], Run] = {}
    for data in ("cifar10", "cifar100"):
        for setting, fraction in FRACTIONS.items():
            for consistent in (False, True):
                for augmented in (False, True):
                    method = f"{'cr-' if consistent else ''}biggan{'-diffaugment' if augmented else ''}"
                    runs[data, f"{method}@{setting}"] = cifar_biggan(data, fraction, consistent, augmented)
            for augmented in (False, True):
                method = f"stylegan2-unconditional{'-diffaugment' if augmented else ''}"
                runs[data, f"{method}@{setting}"] = cifar_stylegan2(data, fraction, augmented)
    for method, place in PLACEMENTS.items():
        for setting, policy in POLICIES.items():
            runs["placements", f"{method}@{setting}"] = placed(place, policy)
    for data in ("ffhq", "lsun-cat"):
        for count in (30_000, 10_000, 5_000, 1_000):
            for augmented in (False, True):
                row = f"stylegan2{'-diffaugment' if augmented else ''}@{data}-{count // 1000}k"
                runs["few-images", row] = full_set(data, count, augmented)
    for augmented in (False, True):
        suffix = "-diffaugment" if augmented else ""
        runs["ffhq-full", f"stylegan2{suffix}@ffhq-70k"] = full_set("ffhq", None, augmented)
        for setting, (data, kimg) in LOW_SHOT_SETS.items():
            row = f"stylegan2-no-pre-training{suffix}@{setting}"
            runs["low-shot", row] = low_shot(data, kimg, augmented, batch=16)
            runs["low-shot-earlier", row] = low_shot(data, kimg, augmented, batch=32)
        for setting, fraction in (("100pct-data", 1.0), ("50pct-data", 0.5), ("25pct-data", 0.25)):
            runs["imagenet", f"biggan{suffix}@{setting}"] = imagenet(fraction, augmented)
    for setting, fraction in FRACTIONS.items():
        runs["slides", f"stylegan2@cifar-10-{setting}"] = cifar_stylegan2("cifar10", fraction, False)
    return runs


def cifar_biggan(data: str, fraction: float, consistent: bool, augmented: bool) -> Run:
    """BigGAN on CIFAR, as its scripts have it."""
    policy = "translation,cutout" if augmented else ""
    second_view = "flip,translation"
    if consistent and augmented:
        # With all data T is cutout alone; with less, T is whole and the second view is the raw picture.
        policy, second_view = ("cutout", second_view) if fraction == 1 else (policy, "")
    recipe = replace(
        recipes.biggan_cifar(10 if data == "cifar10" else 100),
        policy=policy,
        consistency=10.0 if consistent else 0.0,
        consistency_augment=second_view,
    )
    return Run(
        data,
        32,
        recipe,
        CIFAR_ITERATIONS[data][fraction],
        snapshot_every=4000,
        protocol=CIFAR_BIGGAN,
        fraction=fraction,
        subset="random",
    )


def placed(place: Placement | None, policy: str) -> Run:
    """A row of the ablation of placements: CIFAR-10, all data."""
    run = cifar_biggan("cifar10", 1.0, False, False)
    if place is None:
        return run
    return replace(run, recipe=replace(recipes.biggan_cifar(), policy=policy, placement=place))


def cifar_stylegan2(data: str, fraction: float, augmented: bool) -> Run:
    """Unconditional StyleGAN2 on CIFAR, `run_cifar.py`: 25 million pictures, half-life of the average a million."""
    policy = ("color,cutout" if fraction == 1 else ALL_PARTS) if augmented else ""
    recipe = replace(recipes.stylegan2_tf("cifar"), policy=policy)
    return Run(data, 32, recipe, _iterations(25_000, 32), _iterations(200, 32), CIFAR_STYLEGAN2, fraction)


def full_set(data: str, count: int | None, augmented: bool) -> Run:
    """StyleGAN2 on FFHQ or LSUN-Cat at 256 px, `run_ffhq.py` and `run_few_shot.py`."""
    recipe = replace(recipes.stylegan2_tf("few-images"), policy=ALL_PARTS if augmented else "")
    return Run(data, 256, recipe, _iterations(25_000, 32), _iterations(100, 32), FULL_SET, count=count)


def low_shot(data: str, kimg: int, augmented: bool, batch: int) -> Run:
    """StyleGAN2 on a hundred pictures or few more, `run_low_shot.py`; R1 of raw reals. Batch 32: the preprint."""
    recipe = replace(recipes.stylegan2_tf("low-shot"), policy=ALL_PARTS if augmented else "", batch=batch)
    return Run(data, 256, recipe, _iterations(kimg, batch), _iterations(100, batch), LOW_SHOT)


def imagenet(fraction: float, augmented: bool) -> Run:
    """BigGAN on ImageNet at 128 px, the compare_gan configurations."""
    recipe = recipes.biggan_imagenet()
    if augmented:
        recipe = replace(recipe, policy="translation", d_lr=4e-4 if fraction == 1 else 2e-4)
    iterations = {1.0: 250_000, 0.5: 150_000, 0.25: 60_000}[fraction]
    return Run(
        "imagenet",
        128,
        recipe,
        iterations,
        2500,
        IMAGENET,
        fraction,
        value_range=(0.0, 1.0),
        zoom=(math.sqrt(0.5), 1.0),
    )


def small_runs() -> dict[tuple[str, str], Run]:
    """BigGAN on subsets of CIFAR-10, meant for half an hour on one GPU: the baseline and DiffAugment at each fraction.

    Half the width, a short schedule, snapshots at its start, middle and end.
    """
    runs = {}
    for setting, fraction in FRACTIONS.items():
        for augmented in (False, True):
            run = cifar_biggan("cifar10", fraction, False, augmented)
            narrow = recipes.biggan_cifar(ch=32)
            runs["cifar10", f"biggan{'-diffaugment' if augmented else ''}@{setting}"] = replace(
                run,
                recipe=replace(narrow, policy=run.recipe.policy),
                iterations=2000,
                snapshot_every=1000,
                protocol=replace(run.protocol, samples=5000, repeats=1),
            )
    return runs


def _iterations(kimg: int, batch: int) -> int:
    return -(-kimg * 1000 // batch)
