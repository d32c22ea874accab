"""A session of the page from what a person names on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gengauge.benchmarks.warp import open_base
from gengauge.benchmarks.warp_ui.session import Session
from gengauge.benchmarks.warp_ui.settings import Settings
from gengauge.benchmarks.warp_ui.training import trainer
from gengauge.benchmarks.zoo import stylegan2_poses
from gengauge.datasets.edited_weights import is_low_rank_edit, read_edited_weights, read_low_rank_edit
from gengauge.datasets.warp_edits import read_warp_edit


def open_session(
    generator: str | None = None,
    edit: Path | None = None,
    weights: Sequence[Path] = (),
    truncation: float | None = None,
    device: str = "cpu",
) -> Session:
    """A session on a generator of the zoo or a `.pkl`, with an edit to go on with and edits that were trained before.

    The generator and the truncation are those of the edit unless others are given; without an edit, the zoo's and 1.
    Raises what `open_base`, `read_warp_edit` and the readers of weights raise, and ValueError where an edit does not
    go with the generator.
    """
    document = None if edit is None else read_warp_edit(edit)
    if truncation is None:
        truncation = 1.0 if document is None else document.truncation
    base = open_base(generator or (stylegan2_poses.NAME if document is None else document.generator))
    network, recipe = base.network.to(device), base.recipe()
    train = trainer(network, base.name, recipe, truncation, device)
    session = Session(network, base.name, train, Settings.of(recipe), truncation, device)
    for file in weights:
        try:
            if is_low_rank_edit(file):
                learnt = read_low_rank_edit(file)
                session.add_factors(file.stem, learnt.note or f"rank {learnt.rank}, of {file.name}", learnt)
            else:
                session.add_weights(file.stem, f"whole weights, of {file.name}", read_edited_weights(file))
        except ValueError as error:
            raise ValueError(f"{file} cannot be mixed in: {error}") from None
    if document is not None:
        session.open_document(document)
    return session
