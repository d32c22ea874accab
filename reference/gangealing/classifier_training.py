"""Training the classifier that tells a picture's cluster, and whether to mirror it, when the clusters are learnt.

Its truth is which cluster brings a generated picture nearest to its target. Source: Peebles et al. 2022, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.latents import DirectionInterpolator
from gengauge.reference.gangealing.losses import cluster_accuracy
from gengauge.reference.gangealing.schedules import WarmRestarts
from gengauge.reference.gangealing.training import NOTHING, Draws, Recipe, Transformer, align, make_pictures
from gengauge.reference.nets.perceptual import PerceptualLoss
from gengauge.reference.nets.stylegan2.rosinality import Generator

CLASSIFIER_SCHEDULE = WarmRestarts(period=50_000)


@dataclass(frozen=True)
class ClassifierRecipe:
    """How the classifier is trained, as published; the rate falls from the first iteration on."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: WarmRestarts = CLASSIFIER_SCHEDULE
    iterations: int = 55_000


class ClassifierTraining:
    """A classifier in training; G, the averaged T, the codes and the perceptual loss are frozen and not saved.

    `recipe` is the one that T was trained by. Raises ValueError for a classifier of another number of classes.
    """

    def __init__(
        self,
        recipe: Recipe,
        g: Generator,
        t: Transformer,
        ll: DirectionInterpolator,
        loss: PerceptualLoss,
        classifier: ResnetClassifier,
        how: ClassifierRecipe | None = None,
        device: str = "cpu",
        processes: int = 1,
    ) -> None:
        classes = recipe.num_heads * (2 if recipe.flips else 1)
        if classifier.num_heads != classes:
            raise ValueError(f"{classes} clusters have as many classes, not {classifier.num_heads}")
        if recipe.batch % processes:
            raise ValueError(f"a batch of {recipe.batch} cannot be shared by {processes} processes; choose a divisor")
        self.recipe, self.how, self.device, self.iteration = recipe, how or ClassifierRecipe(), device, 0
        self.batch = recipe.batch // processes
        self.g, self.t, self.ll = g, t, ll
        for network in (g, t, ll):
            network.to(device).requires_grad_(False).eval()
        self.loss, self.classifier = loss.to(device), classifier.to(device).train()
        self.networks: dict[str, nn.Module] = {"classifier": self.classifier}
        fused = torch.device(device).type == "cuda"
        adam = torch.optim.Adam(list(classifier.parameters()), self.how.lr, self.how.betas, fused=fused)
        self.optimisers = {"classifier": adam}

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor | None = None,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: Draws = NOTHING,
        average: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration; no real picture is looked at. Returns the cross entropy and the accuracy, numbers."""
        for group in self.optimisers["classifier"].param_groups:
            group["lr"] = self.how.lr * self.how.schedule.factor(self.iteration)
        z = draws.z
        if z is None:
            z = torch.randn(self.batch, self.g.z_dim, generator=generator, device=self.device)
        with torch.no_grad():
            made = make_pictures(self.g, self.ll, self.t.flow_size, 0.0, z, draws, generator)
            aligned = align(self.t, self.loss, made, self.recipe)
        logits = self.classifier(made.seen)
        entropy = F.cross_entropy(logits, aligned.found)
        self.classifier.zero_grad(set_to_none=True)
        entropy.backward()
        average(self.classifier.parameters())
        self.optimisers["classifier"].step()
        self.iteration += 1
        return {"cross_entropy": entropy.detach(), "accuracy": cluster_accuracy(logits.detach(), aligned.distances)}
