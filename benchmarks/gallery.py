"""The embedded world as pictures of the report: a sheet of scenes, and scenes with labels, landmarks and edits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from gengauge.benchmarks.pictures import grid
from gengauge.datasets import world
from gengauge.reports import Illustration

Array = np.ndarray[Any, Any]
SEED = 2022
SIZE = 160
GALLERY_TEXT = (
    "Every picture is drawn by a seeded renderer from named attributes, and comes with its label map, landmarks, "
    "attributes and caption. It is a stand-in for real pictures: a method that works here has shown its mechanism, not "
    "its published numbers."
)
# One colour a label, background first; distinct in hue and lightness.
LABEL_COLOURS = np.array(
    [
        (232, 232, 232),
        (0, 114, 178),
        (230, 159, 0),
        (204, 121, 167),
        (0, 158, 115),
        (86, 180, 233),
        (213, 94, 0),
        (240, 228, 66),
        (90, 90, 90),
        (120, 60, 160),
        (0, 0, 0),
        (150, 110, 70),
    ],
    np.uint8,
)
CHANGES: tuple[dict[str, Any], ...] = (
    {"expression": "laughing"},
    {"accessory": "hat"},
    {"pattern": "striped"},
    {"background": "night"},
)


def gallery() -> list[Illustration]:
    """A sheet of 32 scenes, then four scenes as picture, labels, landmarks, edit and changed area."""
    sheet = grid(world.pictures(SEED, range(32), 96).numpy(), 8)
    out = [
        Illustration("32 scenes at 96 px, as drawn.", "A sheet of 32 animal faces on varied backgrounds.", _png(sheet))
    ]
    for index, changes in enumerate(CHANGES):
        scene = world.scene(SEED, index)
        if all(getattr(scene, name) == value for name, value in changes.items()):
            changes = {"background": "plain"}
        edit = world.edit(scene, SIZE, **changes)
        before, after = _pixels(edit.before.images), _pixels(edit.after.images)
        changed = np.where(edit.changed.numpy()[..., None], np.uint8(255), np.uint8(40)).repeat(3, 2)
        labels = LABEL_COLOURS[edit.before.labels[0].numpy() % len(LABEL_COLOURS)]
        marked = _with_landmarks(before, edit.before.landmarks[0], edit.before.visible[0])
        strip = np.concatenate([before, labels, marked, after, changed], 1)
        what = ", ".join(f"{name} changed to {value}" for name, value in changes.items())
        caption = world.caption(scene)
        parts = f"From left: picture, labels, landmarks (hollow: hidden), {what}, changed area."
        alt = f"{caption}. Shown with its label map, its landmarks, and edited: {what}."
        out.append(Illustration(f"{caption}. {parts}", alt, _png(strip)))
    return out


def _with_landmarks(pixels: Array, landmarks: Tensor, visible: Tensor) -> Array:
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    for (x, y), seen in zip(landmarks.tolist(), visible.tolist(), strict=True):
        box = (x - 3, y - 3, x + 3, y + 3)
        draw.ellipse(box, fill=(255, 0, 160) if seen else None, outline=(255, 255, 255), width=1)
    return np.asarray(picture)


def _pixels(images: Tensor) -> Array:
    return world.to_uint8(images)[0].permute(1, 2, 0).numpy()


def _png(pixels: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()
