"""A method of the user's own in GAN Warping's tables: any way to teach a generator a warp."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Result
from gengauge.benchmarks.core.openings import Opening, Own
from gengauge.benchmarks.methods import returned, work_of
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.benchmarks.papers.gan_warping import comparison
from gengauge.benchmarks.papers.gan_warping.edits import EDITS
from gengauge.benchmarks.papers.gan_warping.world import Array, Judges, Lesson, held_out, mapped, taught
from gengauge.benchmarks.protocols import Edits
from gengauge.benchmarks.zoo import posed_cats, stylegan2_poses
from gengauge.reference.gan_warping.warps import normalised_grid, warp

PICTURES = Lesson().pictures


def compare(context: Context, own: Own) -> Iterator[Result]:
    """The row of an edit, on the same held-out pictures as the declared rows."""
    s: comparison.Settings = context.settings
    g = stylegan2_poses.load()
    held = held_out(g, (s.edit,), s.held_out, context.seed)
    edits = shown_to(own, s.edit, context)
    found = own.method.warp(stylegan2_poses.load().to(context.device), edits, work_of(context, own))
    made = pictures(own, found, held.ws.to(context.device), posed_cats.RESOLUTION)
    yield from held.scored(own.row, made, Judges())
    if context.seed == 0:
        yield comparison.shown(own.row, held, made, s.edit)


@torch.no_grad()
def shown_to(own: Own, edit: str, context: Context) -> Edits:
    """What teaches a method: the pictures that teach the declared rows."""
    g, found = stylegan2_poses.load(), taught(edit, PICTURES, context.seed)
    ws = mapped(g, found.z)
    before = g.synthesis(ws, noise_mode="const")
    after = warp(before, torch.stack([normalised_grid(grid, exact=True) for grid in found.pixels]))
    return Edits(*(x.to(context.device) for x in (ws, before, after, found.pixels)))


@torch.no_grad()
def pictures(own: Own, generator: object, ws: Tensor, resolution: int) -> Array:
    """What the method's generator makes of ws: (N, R, R, 3) uint8. Raises ValueError naming the method."""
    synthesis = getattr(generator, "synthesis", None)
    if not callable(synthesis):
        raise ValueError(
            f"`warp` of {own.spec} returned {type(generator).__name__}; expected a generator, which has a `synthesis`"
        )
    made = []
    for part in ws.split(64):
        found = synthesis(part, noise_mode="const")
        made.append(returned(own, "warp", found, (len(part), 3, resolution, resolution), "float"))
    return to_uint8(torch.cat(made).clamp(-1, 1)).permute(0, 2, 3, 1).numpy()


OPENINGS = tuple(Opening(f"world-{name}", compare, (name,)) for name in EDITS)
_PARTS = "its rows compose what GAN Warping has learnt; `world` takes a method"
CLOSED = {
    "composition": _PARTS,
    "samples": _PARTS,
    "ablation": "its rows leave out parts of GAN Warping",
    "results": "its rows are the released edits",
    "conventions": "its rows are the released edits",
    "retrained": "its generators are of four families, which methods are not given",
    "networks": "it counts operations of networks",
    "sizes": "it counts what GAN Warping stores",
}
