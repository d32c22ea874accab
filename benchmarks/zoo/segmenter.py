"""`drn-meadow64`: a narrow DRN that finds the labels of animals on meadows, for the scores of translations.

Not a published network: it plays the DRN-D-22 that CUT's authors trained on Cityscapes and did not release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.metrics.segmentation import class_accuracy, confusion, mean_iou, pixel_accuracy
from gengauge.benchmarks.segmenters import segment
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.benchmarks.zoo import entries, meadows
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.reference.nets.drn import DRN, DRNConfig, normalise

NAME = "drn-meadow64"
RESOLUTION = 64
PICTURES = 6_000
SEED = 7  # none of the translators' training pictures
BATCH = 16
KIMG = 64
LR = 2e-3
CONFIG = DRNConfig("basic", (2, 2, 2, 2), (8, 16, 24, 48, 72, 96, 96, 96))
TEST = 500


def load(folder: Path = FOLDER) -> DRN:
    """The trained network, in eval mode: normalised pictures (N, 3, H, W) to log-probabilities of the world's labels.

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = DRN(CONFIG, meadows.CLASSES)
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


class Training:
    """A segmenter in training by cross entropy, Adam, and a rate that falls evenly to 0 over `iterations`."""

    def __init__(self, config: DRNConfig, classes: int, iterations: int, device: str = "cpu") -> None:
        self.iteration, self.iterations = 0, iterations
        self.network = DRN(config, classes).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks: Mapping[str, nn.Module] = {"DRN": self.network}
        self.optimisers = {"DRN": torch.optim.Adam([p for p in self.network.parameters() if p.requires_grad], LR)}

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        average: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration on pictures (N, 3, H, W) in [0, 1] and their labels (N, H, W) int64."""
        optimiser = self.optimisers["DRN"]
        for group in optimiser.param_groups:
            group["lr"] = LR * (1 - self.iteration / self.iterations)
        loss = F.nll_loss(self.network(normalise(reals)), labels)
        optimiser.zero_grad()
        loss.backward()
        average(self.network.parameters())
        optimiser.step()
        self.iteration += 1
        return {"loss": loss.detach()}


class _Batches:
    """Pictures with their label maps, drawn with replacement and mirrored by chance."""

    def __init__(self, pictures: Tensor, labels: Tensor, seed: int) -> None:
        self.pictures, self.labels, self.seed = pictures, labels, seed

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            random = np.random.default_rng((self.seed, iteration))
            chosen = torch.from_numpy(random.integers(len(self.pictures), size=BATCH))
            flip = torch.from_numpy(random.random(BATCH) < 0.5)
            pictures, labels = self.pictures[chosen].float() / 255, self.labels[chosen].long()
            pictures[flip], labels[flip] = pictures[flip].flip(3), labels[flip].flip(2)
            iteration += 1
            yield pictures.to(device), labels.to(device)


def make(folder: Path, work: Path, device: str, kimg: float = KIMG, tell: Tell | None = None) -> None:
    """Trains for `kimg` thousand pictures, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=500, log_every=50)
    trained = train(
        lambda: Training(CONFIG, meadows.CLASSES, schedule.iterations, device),
        _Batches(*meadows.scenes(SEED, PICTURES, RESOLUTION), SEED),
        work,
        schedule,
        {"name": NAME, "config": repr(CONFIG), "pictures": PICTURES, "iterations": schedule.iterations},
        seed=SEED,
        device=device,
        keep="DRN",
        tell=tell or (lambda done, total, doing: None),
    )
    content = {
        "name": NAME,
        "what": "DRN of this project, narrower than DRN-D-22, weights in float16; not a published network",
        "pictures": f"{PICTURES} animals on meadows of the embedded world at {RESOLUTION} px, seed {SEED}",
        **entries.about_training(trained, schedule, BATCH, device),
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    pictures, labels = meadows.scenes(meadows.TEST_SEED, TEST, RESOLUTION)
    entries.write_card(NAME, folder, {**content, **about_labels(load(folder), pictures, labels, device)})


def about_labels(network: DRN, pictures: Tensor, labels: Tensor, device: str) -> dict[str, Any]:
    """What a card says of the labels (N, H, W) that the segmenter finds in pictures uint8 (N, 3, H, W)."""
    matrix = confusion(segment(network, pictures, device), labels.numpy(), meadows.CLASSES)
    return {
        "test_pictures": len(pictures),
        "miou": round(mean_iou(matrix), 2),
        "pixel_acc": round(pixel_accuracy(matrix), 2),
        "class_acc": round(class_accuracy(matrix), 2),
    }
