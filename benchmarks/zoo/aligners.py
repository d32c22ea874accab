"""GANgealing's transformers of the zoo, trained from `stylegan2-poses64`: a similarity, and a similarity with a flow.

Small networks under the published method. They see no real picture and no landmark.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gengauge.benchmarks.features.perceptual import load_lpips
from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.training.alignment import train_alignment
from gengauge.benchmarks.training.loop import Schedule, Tell
from gengauge.benchmarks.zoo import entries, posed_cats, stylegan2_poses
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.reference.gangealing.recipes import CATS
from gengauge.reference.gangealing.schedules import WarmRestarts
from gengauge.reference.gangealing.training import Recipe, Transformer
from gengauge.reference.nets.perceptual import PerceptualLoss

SEED = 0
SAMPLES = 50_000  # of W, for its mean and directions
BATCH, ITERATIONS, ANNEALING = 8, 5000, 300
ABOUT = f"batch {BATCH}, {ITERATIONS:,} iterations, LPIPS-AlexNet, from a small StyleGAN2 of the zoo"
# A smooth flow changes from pixel to pixel by twice as much where it has half the published 128 px, and is squared.
TV_WEIGHT = CATS.tv_weight / 4


def recipe(iterations: int, annealing: int) -> Recipe:
    """A similarity and a flow by the recipe of the paper's cats, made small: psi falls to 0, then the rate."""
    period = max(1, iterations - annealing)
    return replace(
        CATS,
        batch=BATCH,
        lr=3e-3,
        tv_weight=TV_WEIGHT,
        iterations=iterations,
        annealing=annealing,
        schedule=WarmRestarts(period, 1.0),
        inject_index=stylegan2_poses.INJECT,
        generator={},
        transformer={"flow_size": posed_cats.RESOLUTION, "base_channels": 64},
    )


def similarity_only(both: Recipe) -> Recipe:
    """The same without a flow and its regularisers."""
    return replace(both, transforms="similarity", tv_weight=0.0, flow_identity_weight=0.0)


RECIPES = {"both": recipe(ITERATIONS, ANNEALING)}
RECIPES["similarity"] = similarity_only(RECIPES["both"])
SHORT = replace(similarity_only(recipe(300, 20)), ema_decay=0.98)


def perceptual_loss(device: str) -> PerceptualLoss:
    """LPIPS on AlexNet, many times quicker than the published VGG16. Raises WeightsNotFound."""
    return PerceptualLoss("lpips", load_lpips("alex", device))


@dataclass(frozen=True)
class Aligner:
    """One transformer of the zoo, by the key of its recipe."""

    key: str
    KIMG = ITERATIONS * BATCH / 1000

    @property
    def NAME(self) -> str:
        return f"gangealing-poses64-{self.key}"

    def load(self, folder: Path = FOLDER) -> Transformer:
        """The trained transformer, in eval mode, for pictures (N, 3, 64, 64) in [-1, 1].

        Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
        """
        network = RECIPES[self.key].build()
        network.load_state_dict(entries.read_weights(self.NAME, folder))
        return network.eval().requires_grad_(False)

    def card(self, folder: Path = FOLDER) -> dict[str, Any]:
        """What is known of the trained network."""
        return entries.read_card(self.NAME, folder)

    def make(self, folder: Path, work: Path, device: str, kimg: float = KIMG, tell: Tell | None = None) -> None:
        """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
        exact_float32()
        iterations = max(1, round(kimg * 1000 / BATCH))
        mine = recipe(iterations, round(iterations * ANNEALING / ITERATIONS))
        if self.key == "similarity":
            mine = similarity_only(mine)
        of = stylegan2_poses.card()["sha256"]
        trained = train_alignment(
            mine,
            stylegan2_poses.aligned_form(),
            perceptual_loss(device),
            work / self.NAME,
            {"name": self.NAME, "generator": of},
            samples=SAMPLES,
            seed=SEED,
            device=device,
            every=500,
            tell=tell or (lambda done, total, doing: None),
        )
        content = {
            "name": self.NAME,
            "what": "spatial transformer of this project, weights in float16; not a published network",
            "pictures": f"only those that {stylegan2_poses.NAME} makes",
            "generator_sha256": of,
            **entries.about_training(trained, Schedule(mine.iterations, 1, 1), mine.batch, device),
            "parameters": sum(parameter.numel() for parameter in mine.build().parameters()),
            **entries.write_weights(self.NAME, folder, trained.last),
        }
        entries.write_card(self.NAME, folder, content)


ALIGNERS = {key: Aligner(key) for key in ("similarity", "both")}
