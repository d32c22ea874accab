"""Rendering: scenes to pictures, label maps and landmarks, batch by batch and as edits of one scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gengauge.datasets.world import accessories, body, face
from gengauge.datasets.world.anatomy import EXPRESSION_MOODS, SPECIES_ANATOMY
from gengauge.datasets.world.backgrounds import backgrounds
from gengauge.datasets.world.canvas import Canvas, canvas, paint_near, paint_some
from gengauge.datasets.world.fur import coat
from gengauge.datasets.world.landmarks import LANDMARKS, head_points, unhidden
from gengauge.datasets.world.pose import Pose, pose
from gengauge.datasets.world.scenes import Scene, changed_scene, scenes

MIN_SIZE, MAX_SIZE = 16, 512
# Pictures are painted in jobs of at most this many pixels: small enough for a core's cache, and for torch to run every
# operation in the calling thread (it splits them from 32768 elements on, and waits longer than it gains).
_JOB_PIXELS = (1 << 15) - 1


@dataclass(frozen=True, slots=True)
class Rendering:
    """N pictures of S x S pixels with what they show.

    ``images`` (N, 3, S, S) float32 RGB in [-1, 1]; ``labels`` (N, S, S) uint8, indices into ``LABELS``; ``landmarks``
    (N, L, 2) float32, (x, y) in pixels with the top left pixel's centre at (0.5, 0.5), in the order of ``LANDMARKS``;
    ``visible`` (N, L) bool, False for landmarks outside the frame or hidden behind another part,
    an accessory or the turned head.
    """

    images: Tensor
    labels: Tensor
    landmarks: Tensor
    visible: Tensor


@dataclass(frozen=True, slots=True)
class Edit:
    """One scene before and after a change of attributes, each as a rendering of one picture.

    ``changed`` (S, S) bool is True exactly where the pictures differ in 8 bits per channel.
    """

    before: Rendering
    after: Rendering
    changed: Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 from 0 to 255, rounded to the nearest; any shape."""
    return images.add(1.0).mul_(127.5).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)


def render(scenes: Sequence[Scene], size: int) -> Rendering:
    """Draw every scene at ``size`` x ``size`` pixels; what a scene looks like does not depend on the others.

    Raises ValueError for no scenes or for a size outside 16 to 512.
    """
    if not scenes:
        raise ValueError("render needs at least one scene")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size: {size} is not from {MIN_SIZE} to {MAX_SIZE}")
    n = len(scenes)
    images, labels = torch.empty(n, 3, size, size), torch.empty(n, size, size, dtype=torch.uint8)
    landmarks, visible = torch.empty(n, len(LANDMARKS), 2), torch.empty(n, len(LANDMARKS), dtype=torch.bool)

    with torch.inference_mode():
        for some, rows in _jobs(n, size):
            rgb, labels[some, rows] = _picture(pose(scenes[some]), rows, size)
            for k, plane in enumerate(rgb):
                images[some, k, rows] = plane
        run = _JOB_PIXELS // (4 * len(LANDMARKS))
        for some in (slice(start, start + run) for start in range(0, n, run)):
            landmarks[some], visible[some] = _landmarks(pose(scenes[some]), size)
    return Rendering(images, labels, landmarks, visible)


def _jobs(n: int, size: int) -> list[tuple[slice, slice]]:
    """Pictures and rows to paint at once: whole pictures while some fit a job, bands of one picture where none does."""
    if size * size <= _JOB_PIXELS:
        run = _JOB_PIXELS // (size * size)
        return [(slice(start, min(start + run, n)), slice(0, size)) for start in range(0, n, run)]
    band = _JOB_PIXELS // size
    bands = [slice(top, min(top + band, size)) for top in range(0, size, band)]
    return [(slice(k, k + 1), rows) for k in range(n) for rows in bands]


def edit(scene: Scene, size: int, **changes: Any) -> Edit:
    """Render ``scene`` as it is and with the attributes in ``changes`` replaced.

    Raises TypeError for an unknown attribute, ValueError for a value that is not allowed or a bad size.
    """
    before = render([scene], size)
    after = render([changed_scene(scene, **changes)], size)
    changed = (to_uint8(before.images[0]) != to_uint8(after.images[0])).any(dim=0)
    return Edit(before, after, changed)


def pictures(seed: int, indices: Iterable[int], size: int, **fixed: Any) -> Tensor:
    """Only the pictures of ``scenes(seed, indices, **fixed)``: uint8 (N, 3, size, size)."""
    return to_uint8(render(scenes(seed, indices, **fixed), size).images)


def _picture(p: Pose, rows: slice, size: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """These rows of every picture as three planes (N, H, size) in [-1, 1], and of its label map (N, H, size)."""
    x = (torch.arange(size, dtype=torch.float32) + 0.5)[None, None, :]
    y = (torch.arange(rows.start, rows.stop, dtype=torch.float32) + 0.5)[None, :, None]
    c = canvas(p, x, y, size, backgrounds(p.scenes, x, y, size))
    _paint(c, p)
    slope = c.u * (p.n.light_x * p.n.cos + p.n.light_y * p.n.sin) + c.v * (
        p.n.light_y * p.n.cos - p.n.light_x * p.n.sin
    )
    shade = slope.clamp_(-1.4, 1.4).mul_(0.26 * p.n.light_strength).mul_(c.animal).add_(1.0)
    for plane, tint in zip(c.rgb, (0.06, 0.012, -0.072), strict=True):
        gain = p.n.brightness * (1.0 + tint * p.n.warmth)
        plane.mul_(gain).mul_(shade).clamp_(0.0, 1.0).mul_(2.0).sub_(1.0)
    return c.rgb, c.labels


def _paint(c: Canvas, p: Pose) -> None:
    """All layers from back to front."""

    def rows(wanted: Callable[[Scene], bool]) -> list[int]:
        return [k for k, s in enumerate(p.scenes) if wanted(s)]

    fur = coat(c, p)
    body.torso(c, p, fur)
    paint_some(c, p, rows(lambda s: s.accessory == "collar"), accessories.collar)
    in_front = body.ears(c, p, fur)
    body.head(c, p, fur, in_front)
    paint_some(c, p, rows(lambda s: SPECIES_ANATOMY[s.species].cheek > 0), body.cheeks)
    paint_near(c, p, *face.eyes_square(p), face.eyes)
    paint_some(c, p, rows(lambda s: EXPRESSION_MOODS[s.expression].brow > 0), face.brows)
    paint_near(c, p, *face.muzzle_square(p), face.muzzle, face.mouth, face.nose)
    paint_some(c, p, rows(lambda s: SPECIES_ANATOMY[s.species].teeth > 0), face.teeth)
    paint_some(c, p, rows(lambda s: SPECIES_ANATOMY[s.species].whiskers > 0), face.whiskers)
    paint_some(c, p, rows(lambda s: s.accessory == "glasses"), accessories.glasses)
    paint_some(c, p, rows(lambda s: s.accessory == "hat"), accessories.hat)


def _landmarks(p: Pose, size: int) -> tuple[Tensor, Tensor]:
    u, v, towards = head_points(p)
    x = (u * p.n.cos - v * p.n.sin) * p.n.radius + p.n.x
    y = (u * p.n.sin + v * p.n.cos) * p.n.radius + p.n.y
    # What can be seen is found by painting the landmarks themselves, at a size that does not depend on the picture's.
    c = canvas(
        p, x * MAX_SIZE, y * MAX_SIZE, MAX_SIZE, (torch.zeros(u.shape), torch.zeros(u.shape), torch.zeros(u.shape))
    )
    _paint(c, p)
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    visible = unhidden(c.labels[:, 0]) & inside[:, 0] & towards
    return torch.stack([x[:, 0], y[:, 0]], dim=-1) * size, visible
