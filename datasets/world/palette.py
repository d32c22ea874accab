"""Palette: the named colours of fur, eyes, accessories and backgrounds as sRGB triples from 0 to 255."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Fur:
    """A coat: its main colour, the colour of its markings, and the light colour of muzzle, chest and inner parts."""

    base: Colour
    marking: Colour
    light: Colour
    nose: Colour


FUR: dict[str, Fur] = {
    "black": Fur((52, 50, 56), (122, 116, 120), (112, 106, 110), (24, 22, 26)),
    "grey": Fur((136, 138, 146), (74, 76, 86), (212, 212, 216), (70, 62, 70)),
    "white": Fur((238, 236, 232), (168, 150, 132), (252, 250, 248), (206, 132, 136)),
    "cream": Fur((232, 208, 168), (182, 132, 78), (250, 240, 222), (150, 92, 84)),
    "ginger": Fur((224, 132, 54), (154, 74, 22), (252, 228, 196), (178, 92, 84)),
    "golden": Fur((214, 166, 84), (140, 92, 34), (246, 224, 176), (58, 44, 40)),
    "brown": Fur((134, 88, 54), (70, 42, 26), (214, 180, 140), (44, 32, 30)),
    "chocolate": Fur((88, 56, 40), (172, 128, 94), (176, 134, 104), (30, 22, 22)),
    "blue": Fur((66, 122, 214), (26, 58, 138), (186, 218, 250), (30, 42, 92)),
    "pink": Fur((242, 142, 182), (192, 70, 126), (254, 222, 234), (160, 52, 98)),
    "green": Fur((92, 178, 92), (34, 104, 58), (208, 240, 196), (28, 74, 44)),
    "purple": Fur((146, 96, 198), (82, 44, 138), (222, 200, 244), (64, 32, 104)),
}
FUR_COLOURS: tuple[str, ...] = tuple(FUR)
NATURAL_FUR_COLOURS: tuple[str, ...] = FUR_COLOURS[:8]

EYES: dict[str, Colour] = {
    "brown": (122, 72, 34),
    "amber": (226, 148, 32),
    "yellow": (238, 212, 62),
    "green": (104, 178, 74),
    "blue": (88, 164, 228),
    "grey": (150, 164, 172),
    "red": (214, 46, 42),
    "purple": (160, 84, 214),
}
EYE_COLOURS: tuple[str, ...] = tuple(EYES)
NATURAL_EYE_COLOURS: tuple[str, ...] = EYE_COLOURS[:6]

ACCESSORY: dict[str, Colour] = {
    "red": (206, 40, 44),
    "orange": (240, 132, 30),
    "yellow": (246, 208, 50),
    "green": (40, 148, 76),
    "blue": (44, 92, 200),
    "purple": (132, 58, 170),
    "pink": (240, 120, 170),
    "black": (36, 36, 42),
    "white": (244, 244, 240),
}
ACCESSORY_COLOURS: tuple[str, ...] = tuple(ACCESSORY)

BACKGROUND: dict[str, Colour] = {
    "beige": (222, 206, 178),
    "sky blue": (150, 200, 232),
    "mint": (166, 214, 184),
    "lavender": (190, 178, 226),
    "rose": (232, 178, 186),
    "teal": (64, 138, 142),
    "navy": (44, 58, 104),
    "grey": (150, 152, 156),
    "yellow": (240, 214, 122),
    "brick red": (164, 80, 64),
}
BACKGROUND_COLOURS: tuple[str, ...] = tuple(BACKGROUND)

EAR_PINK: Colour = (226, 156, 152)
INK: Colour = (34, 26, 28)
MOUTH_RED: Colour = (112, 34, 42)
TONGUE: Colour = (234, 116, 124)
TOOTH: Colour = (250, 248, 240)
BRASS: Colour = (236, 196, 74)
