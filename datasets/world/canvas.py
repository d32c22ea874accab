"""Canvas: the pixels of a batch while they are painted, layer over layer, with labels.

Speed decides the form of this file. Planes are painted one at a time and in place, so that no operation is large enough
for torch's thread pool, and what only some pictures or only a part of every picture needs is painted on cut-outs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gengauge.datasets.world.pose import Pose

LABELS: tuple[str, ...] = ("background", "body", "head", "ears", "eyes", "muzzle", "nose", "mouth", "accessory")
"""Names of the label map's values: label k is ``LABELS[k]``."""
BACKGROUND, BODY, HEAD, EARS, EYES, MUZZLE, NOSE, MOUTH, ACCESSORY = range(len(LABELS))


@dataclass(frozen=True, slots=True)
class Canvas:
    """Colours, labels and head coordinates of N pictures at the same number of points each.

    ``rgb`` (three planes) and ``labels`` are painted in place, ``animal`` collects how much of each pixel the animal
    covers; ``body`` and ``head`` are the coverages of the torso and of the part of the head that no ear hides. ``u``
    and ``v`` are the points in the turned head's coordinates, in head radii. All are float32 (N, H, W). ``pixels``
    (N, 1, 1) is a head radius in pixels.
    """

    rgb: tuple[Tensor, Tensor, Tensor]
    labels: Tensor
    animal: Tensor
    body: Tensor
    head: Tensor
    u: Tensor
    v: Tensor
    pixels: Tensor

    def paint(self, alpha: Tensor, colour: Tensor, label: int | None = None, shade: Tensor | None = None) -> None:
        """Lay ``colour`` (3, N, ...) times ``shade`` over the picture with opacity ``alpha``; label the solid part."""
        for plane, tone in zip(self.rgb, colour, strict=True):
            shaded = tone if shade is None else tone * shade
            plane.add_((shaded - plane).mul_(alpha))
        if label is not None:
            self.mark(alpha, label)

    def mark(self, alpha: Tensor, label: int) -> None:
        """Give the pixels that ``alpha`` in [0, 1] covers by more than half the label."""
        # 1 above a half and 0 elsewhere; a masked write takes ten times as long.
        chosen = (alpha - 0.5).mul_(1e9).clamp_(0.0, 1.0)
        self.labels.add_((label - self.labels).mul_(chosen))


def canvas(p: Pose, x: Tensor, y: Tensor, side: int, rgb: tuple[Tensor, Tensor, Tensor]) -> Canvas:
    """A canvas over the points ``x`` (N or 1, 1, W) and ``y`` (N or 1, H or 1, 1), in pixels of ``side`` a side."""
    pixels = p.n.radius * side
    bx = (x - p.n.x * side) / pixels
    by = (y - p.n.y * side) / pixels
    u = (bx * p.n.cos + by * p.n.sin).contiguous()
    v = (by * p.n.cos - bx * p.n.sin).contiguous()
    labels, animal, body, head = (torch.zeros(u.shape) for _ in range(4))
    return Canvas(rgb, labels, animal, body, head, u, v, pixels)


def paint_some(c: Canvas, p: Pose, rows: Sequence[int], *painters: Callable[[Canvas, Pose], None]) -> None:
    """Run the painters on these pictures of the batch only."""
    if not rows:
        return
    if len(rows) == len(p.scenes):
        for painter in painters:
            painter(c, p)
        return
    index = torch.tensor(rows)
    part = _cut(c, lambda plane: plane.index_select(0, index), c.pixels[index])
    some = p.take(rows)
    for painter in painters:
        painter(part, some)
    for whole, painted in zip(_painted(c), _painted(part), strict=True):
        whole.index_copy_(0, index, painted)


def paint_near(
    c: Canvas, p: Pose, centre: tuple[Tensor, Tensor], reach: Tensor, *painters: Callable[[Canvas, Pose], None]
) -> None:
    """Run the painters on the square of every picture within ``reach`` head radii of the head point ``centre``.

    The square may be larger than asked for or end at the canvas, so painters must not depend on its borders.
    """
    n, height, width = c.u.shape
    if height == 1:
        # Single points, which are not neighbours; or one row of pixels, which is as well painted whole.
        for painter in painters:
            painter(c, p)
        return
    side = int((c.pixels * reach).max() * 2.0) + 3
    rows, columns = min(side, height), min(side, width)
    # Where the centre lies, in pixels from the canvas's first pixel.
    du, dv = centre[0] - c.u[:, :1, :1], centre[1] - c.v[:, :1, :1]
    left = ((du * p.n.cos - dv * p.n.sin) * c.pixels - side / 2).round().long()
    top = ((du * p.n.sin + dv * p.n.cos) * c.pixels - side / 2).round().long()
    if n == 1 and (int(top) > height or int(top) + side < 0):
        return
    if rows * columns >= 0.8 * height * width:
        for painter in painters:
            painter(c, p)
        return
    left, top = left.clamp(0, width - columns), top.clamp(0, height - rows)
    first = torch.arange(n)[:, None, None] * (height * width) + top * width + left
    index = (first + (torch.arange(rows)[:, None] * width + torch.arange(columns))).flatten()
    part = _cut(c, lambda plane: plane.view(-1).index_select(0, index).view(n, rows, columns), c.pixels)
    for painter in painters:
        painter(part, p)
    for whole, painted in zip(_painted(c), _painted(part), strict=True):
        whole.view(-1).index_copy_(0, index, painted.view(-1))


def _cut(c: Canvas, cut: Callable[[Tensor], Tensor], pixels: Tensor) -> Canvas:
    red, green, blue = (cut(plane) for plane in c.rgb)
    labels, animal, body, head, u, v = (cut(plane) for plane in (c.labels, c.animal, c.body, c.head, c.u, c.v))
    return Canvas((red, green, blue), labels, animal, body, head, u, v, pixels)


def _painted(c: Canvas) -> tuple[Tensor, ...]:
    return (*c.rgb, c.labels, c.animal)
