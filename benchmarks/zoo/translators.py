"""Translators of label maps to animals on meadows, by CUT, FastCUT and CycleGAN: `cut-meadow64-0` and so on.

Small networks under the published recipes, trained alike; the number at the end is the seed. Only the generator of the
direction that is scored is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.training.loop import Schedule, Tell
from gengauge.benchmarks.training.unpaired import Recipe, train_unpaired
from gengauge.benchmarks.zoo import entries, segmenter
from gengauge.benchmarks.zoo.entries import FOLDER
from gengauge.benchmarks.zoo.meadows import TEST_SEED, Meadows, coloured, scenes
from gengauge.datasets.unpaired import UnpairedFolders
from gengauge.reference.cut.losses import LinearSchedule
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, FASTCUT
from gengauge.reference.nets.translation_resnet import ResnetGenerator

SET = Meadows()
SEEDS = (0, 1, 2)
GENERATOR: dict[str, Any] = {"n_blocks": 6, "ngf": 16}  # six, as CycleGAN has for pictures of 128 px and less
_SMALL: dict[str, Any] = {
    "load_size": 72,
    "crop_size": SET.size,
    "schedule": LinearSchedule(n_epochs=1, n_epochs_decay=1),
    "generator": GENERATOR,
    "discriminator": {"ndf": 16},
}
RECIPES: dict[str, Recipe] = {
    "cut": replace(CUT, **_SMALL),
    "fastcut": replace(FASTCUT, **_SMALL),
    "cyclegan": replace(CYCLEGAN, **_SMALL),
}


@dataclass(frozen=True)
class Translator:
    """One translator of the zoo: its method, a key of `RECIPES`, and the seed of its training."""

    method: str
    seed: int
    KIMG = 2 * SET.training / 1000

    @property
    def NAME(self) -> str:
        return f"{self.method}-meadow{SET.size}-{self.seed}"

    def load(self, folder: Path = FOLDER) -> ResnetGenerator:
        """The trained generator, in eval mode: label maps as pictures (N, 3, H, W) to pictures, both in [-1, 1].

        Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
        """
        network = ResnetGenerator(**GENERATOR)
        network.load_state_dict(entries.read_weights(self.NAME, folder))
        return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def card(self, folder: Path = FOLDER) -> dict[str, Any]:
        """What is known of the trained network."""
        return entries.read_card(self.NAME, folder)

    def make(self, folder: Path, work: Path, device: str, kimg: float = KIMG, tell: Tell | None = None) -> None:
        """Trains for `kimg` thousand iterations, with states in `work`, and writes weights and card into `folder`."""
        exact_float32()
        folders = UnpairedFolders(SET.write(work / "meadows"))
        iterations = max(1, round(kimg * 1000))
        trained = train_unpaired(
            RECIPES[self.method],
            folders,
            work / self.NAME,
            {"name": self.NAME},
            seed=self.seed,
            device=device,
            iterations=iterations,
            every=500,
            tell=tell or (lambda done, total, doing: None),
        )
        content = {
            "name": self.NAME,
            "what": "residual translator of this project, weights in float16; not a published network",
            "pictures": f"{SET.training} label maps and as many pictures of other scenes, animals on meadows of the "
            f"embedded world at {SET.size} px, seed {SET.seed}",
            **entries.about_training(trained, Schedule(iterations, 1, 1), 1, device),
            "parameters": sum(parameter.numel() for parameter in ResnetGenerator(**GENERATOR).parameters()),
            **entries.write_weights(self.NAME, folder, trained.last),
        }
        entries.write_card(self.NAME, folder, content)
        entries.write_card(self.NAME, folder, {**content, **self.about_scores(folder, device)})

    @torch.inference_mode()
    def about_scores(self, folder: Path = FOLDER, device: str = "cpu") -> dict[str, Any]:
        """What the card says of the labels that the zoo's segmenter finds in translations of test scenes."""
        labels = scenes(TEST_SEED, segmenter.TEST, SET.size)[1]
        network = self.load(folder).to(device)
        sources = coloured(labels).float() / 127.5 - 1
        made = torch.cat([to_uint8_truncated(network(part.to(device)).cpu()) for part in sources.split(20)])
        return segmenter.about_labels(segmenter.load(), made, labels, device)


TRANSLATORS = {(method, seed): Translator(method, seed) for method in RECIPES for seed in SEEDS}
