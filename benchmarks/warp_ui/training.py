"""The page's training: an edit's pictures to the factors of a layer, in this process."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gengauge.benchmarks.features.perceptual import perceptual_loss
from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.training.warping import SquareGenerator, grids_of, sample_ws, stored, train_edit
from gengauge.benchmarks.warp_ui.session import Train
from gengauge.benchmarks.warp_ui.settings import Settings
from gengauge.datasets.edited_weights import LowRankEdit
from gengauge.datasets.warp_edits import PointedPicture
from gengauge.reference.gan_warping.training import Distance, Recipe

_EVERY = 20  # iterations between two states: the loop tells of each iteration then, so that a training ends when asked


def trainer(
    generator: SquareGenerator,
    name: str,
    recipe: Recipe,
    truncation: float = 1.0,
    device: str = "cpu",
    distance: Callable[[], Distance | None] | None = None,
) -> Train:
    """A training of a generator on `device` for `Session`: what `recipe` says but for what the person sets.

    `distance` is called by every training; by default it loads LPIPS on VGG16. The training raises WeightsNotFound
    where that is nowhere, and what `train_edit` raises.
    """

    # Its own: rendering with other weights swaps them inside a network, which a session does while this one trains.
    generator = copy.deepcopy(generator)

    def train(pictures: Sequence[PointedPicture], settings: Settings, tell: Tell) -> LowRankEdit:
        tell(0, settings.iterations, "getting ready")
        found = perceptual_loss("vgg", device) if distance is None else distance()
        ws = sample_ws(generator, [picture.seed for picture in pictures], truncation, device)
        grids = grids_of([picture.rows() for picture in pictures], generator.img_resolution)
        with tempfile.TemporaryDirectory(prefix="gengauge-warp-") as folder:
            update, _ = train_edit(
                settings.applied(recipe),
                generator,
                ws,
                grids,
                Path(folder),
                {},
                seed=0,
                device=device,
                distance=found,
                every=_EVERY,
                tell=tell,
            )
        return stored(update, generator, name)

    return train
