"""How translations are made and scored: pictures as CUT's test script saves them, FID as pytorch-fid, label scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Measurement
from gengauge.benchmarks.features.cache import features
from gengauge.benchmarks.features.extract import Pictures, extract
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.features.resize import Mode
from gengauge.benchmarks.metrics.frechet import fit, frechet_distance
from gengauge.benchmarks.metrics.kernel import kid
from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.metrics.segmentation import class_accuracy, confusion, mean_iou, pixel_accuracy
from gengauge.datasets.unpaired import Choices, Transform, UnpairedFolders, apply, to_tensor
from gengauge.reference.nets.stylegan2.translation import StyleTranslator

Array = np.ndarray[Any, Any]
Tell = Callable[[int, int], None]
MODE: Mode = "legacy_pytorch"  # of resizing: inside the network, bilinear, not antialiased


def translations(
    network: nn.Module,
    folders: UnpairedFolders,
    how: Transform,
    device: str,
    generator: torch.Generator | None = None,
    tell: Tell = lambda done, total: None,
) -> Iterator[tuple[str, Tensor]]:
    """Each of A's pictures, one at a time, by its file: uint8 (3, H, W), truncated as CUT saves them.

    Noise of a StyleGAN2-based network comes from the generator. Raises ValueError naming a damaged picture, or where
    the network gives values that are not finite.
    """
    network = network.to(device).eval()
    more = (None, generator) if isinstance(network, StyleTranslator) else ()

    def made(picture: Image.Image) -> Tensor:
        x = to_tensor(apply(picture, how, Choices()))[None].to(device)
        return to_uint8_truncated(network(x, *more).cpu())[0]

    return translated(made, folders, tell)


@torch.inference_mode()
def translated(
    translate: Callable[[Image.Image], Tensor], folders: UnpairedFolders, tell: Tell = lambda done, total: None
) -> Iterator[tuple[str, Tensor]]:
    """Each of A's pictures by its file, translated to uint8 (3, H, W). Raises ValueError naming one that cannot be."""
    total = len(folders.a)
    for index in range(total):
        file, picture = folders.file("A", index), folders.picture("A", index)
        try:
            made = translate(picture)
        except ValueError as error:
            raise ValueError(f"{file} in {folders.a.path} cannot be translated: {error}") from error
        yield file, made
        tell(index + 1, total)


def save_translations(found: Iterator[tuple[str, Tensor]], folder: Path) -> list[Path]:
    """Writes translations as PNG under their sources' names, as CUT's results folder `fake_B` has them."""
    out = []
    for file, picture in found:
        path = (folder / file).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(path)
        out.append(path)
    return out


@dataclass(frozen=True)
class Distances:
    """What pictures of the target side are compared with: all files of its test folder, in their own sizes."""

    references: Array
    inception: FeatureNetwork
    device: str

    @classmethod
    def of(cls, references: Pictures, inception: FeatureNetwork, device: str) -> Distances:
        """Features of the references, once for all jobs."""
        return cls(features(references, inception, MODE, device), inception, device)

    def measure(self, row: str, pictures: Pictures, columns: Sequence[str]) -> Iterator[Measurement]:
        """Those of `fid` and `kid` that the row has."""
        mine = extract(pictures, self.inception, MODE, self.device)
        count = len(mine)
        if "fid" in columns:
            few = min(count, len(self.references)) < self.inception.dimensions
            note = f"fewer pictures than the {self.inception.dimensions} dimensions: biased upward" if few else ""
            value = frechet_distance(fit(self.references), fit(mine))
            yield Measurement(row, "fid", value, samples=count, note=note)
        if "kid" in columns:
            found = kid(self.references, mine)
            interval = "95 % jackknife over pictures"
            yield Measurement(row, "kid", found.value, found.low, found.high, interval, count)


def label_scores(
    row: str, predictions: Iterator[Array], labels: Sequence[Array], classes: int
) -> Iterator[Measurement]:
    """Mean IoU (printed as mAP), pixel and class accuracy in percent, from one matrix over all pictures.

    Predictions and labels are (H, W) each, one a picture. Raises ValueError where their numbers differ.
    """
    matrix = np.zeros((classes, classes), np.int64)
    for mine, truth in zip(predictions, labels, strict=True):
        matrix += confusion(mine, truth, classes)
    for column, score in (("miou", mean_iou), ("pixel_acc", pixel_accuracy), ("class_acc", class_accuracy)):
        yield Measurement(row, column, score(matrix), samples=len(labels))
