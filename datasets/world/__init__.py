"""The embedded world: seeded pictures of animal faces with labels, landmarks, captions and exact edits.

``scene(seed, index)`` draws named attributes, ``render`` turns scenes into pictures of any size from 16 to 512 pixels,
``caption`` says what a scene shows, ``edit`` renders one scene before and after a change. Everything is computed from
integers and basic arithmetic, so the same seed gives the same pictures everywhere.
"""

from gengauge.datasets.world.canvas import LABELS
from gengauge.datasets.world.captions import caption
from gengauge.datasets.world.landmarks import LANDMARKS
from gengauge.datasets.world.palette import (
    ACCESSORY_COLOURS,
    BACKGROUND_COLOURS,
    EYE_COLOURS,
    FUR_COLOURS,
    NATURAL_EYE_COLOURS,
    NATURAL_FUR_COLOURS,
)
from gengauge.datasets.world.rendering import MAX_SIZE, MIN_SIZE, Edit, Rendering, edit, pictures, render, to_uint8
from gengauge.datasets.world.scenes import (
    ACCESSORIES,
    ATTRIBUTES,
    BACKGROUNDS,
    CATEGORIES,
    EXPRESSIONS,
    PATTERNS,
    RANGES,
    SPECIES,
    Scene,
    scene,
    scenes,
)

__all__ = [
    "ACCESSORIES",
    "ACCESSORY_COLOURS",
    "ATTRIBUTES",
    "BACKGROUNDS",
    "BACKGROUND_COLOURS",
    "CATEGORIES",
    "EXPRESSIONS",
    "EYE_COLOURS",
    "FUR_COLOURS",
    "LABELS",
    "LANDMARKS",
    "MAX_SIZE",
    "MIN_SIZE",
    "NATURAL_EYE_COLOURS",
    "NATURAL_FUR_COLOURS",
    "PATTERNS",
    "RANGES",
    "SPECIES",
    "Edit",
    "Rendering",
    "Scene",
    "caption",
    "edit",
    "pictures",
    "render",
    "scene",
    "scenes",
    "to_uint8",
]
