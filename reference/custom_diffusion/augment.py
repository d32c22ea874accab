"""Resize augmentation: a concept's picture made smaller or larger, words in the caption that say so, and a mask.

Source: Kumari et al. 2023, section 3.2 and appendix; ranges and words are the released code's, in its two variants:
`diffusers` squashes a picture to a square (bilinear), `compvis` crops the central square first (bicubic). The paper's
text speaks of 0.4 to 1.4 times; the code draws from 1/3 to 1 with probability 2/3, from 1.2 to 1.4 with 1/3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Variant = Literal["diffusers", "compvis"]
Empty = Literal["error", "covered"]
CELL = 8  # px of a latent's cell, of Stable Diffusion's autoencoders
SMALL, ENLARGED = 0.6, (1.2, 1.4)
FAR_WORDS, NEAR_WORDS = ("a far away ", "very small "), ("zoomed in ", "close up ")
_FILTERS = {"diffusers": Image.Resampling.BILINEAR, "compvis": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Resize:
    """What is drawn for a picture: its side in px, before that is rounded up to an even number, and where it goes.

    `centre` (row, column) in px is where a small picture lies on the canvas, or what of a large one is shown; `words`
    which of the two phrases is put before the caption. Both are None for a picture between.
    """

    scale: int
    centre: tuple[int, int] | None = None
    words: int | None = None
    flip: bool = False

    @property
    def even_scale(self) -> int:
        """The side in px that the picture gets."""
        return self.scale + self.scale % 2


@dataclass(frozen=True)
class Augmented:
    """A picture (3, R, R) float32 in [-1, 1], its mask (R / cell, R / cell) float32 of 0 and 1, and its caption."""

    picture: Tensor
    mask: Tensor
    caption: str


def draw_resize(size: int, generator: torch.Generator | None = None, flip: bool = False) -> Resize:
    """Draws for a training size in px; with `flip` half of the pictures are mirrored, as `compvis` always does.

    Raises ValueError for a size that is no multiple of 8.
    """
    _check_size(size)
    mirrored = flip and _uniform(0, 1, generator) == 1
    if _uniform(0, 2, generator) < 2:
        scale = _uniform(size // 3, size, generator)
    else:
        scale = _uniform(int(ENLARGED[0] * size), int(ENLARGED[1] * size) - 1, generator)
    even = scale + scale % 2
    if SMALL * size <= even <= size:
        return Resize(scale, flip=mirrored)
    # A small picture stays inside of the canvas, and the shown part inside of a large picture.
    half = min(even, size) // 2
    low, last = half, max(even, size) - half
    centre = _uniform(low, last, generator), _uniform(low, last, generator)
    return Resize(scale, centre, _uniform(0, 1, generator), mirrored)


def template(concept: str, style: bool = False) -> str:
    """The caption of a picture of a concept (`<new1> cat`), or of a picture in a style."""
    return f"painting in the style of {concept}" if style else f"photo of a {concept}"


def augment(
    picture: Image.Image,
    caption: str,
    size: int,
    draws: Resize,
    variant: Variant = "diffusers",
    empty: Empty = "error",
    cell: int = CELL,
) -> Augmented:
    """A picture resized as drawn; `Resize(size)` leaves it whole, which is training without augmentation.

    The mask has cells of `cell` px, as the autoencoder's latents have. That of a small picture leaves out the cells at
    its rim, and at training sizes below nine cells it may hold none: such a mask is refused, or with `covered` holds
    the cells that the picture covers wholly. Raises ValueError for that, for draws that do not fit the size, another
    variant and a size that is no multiple of 8 and of the cell.
    """
    _check_size(size)
    if cell < 1 or size % cell:
        raise ValueError(f"{size} px are no whole number of cells of {cell} px")
    if variant not in get_args(Variant) or empty not in get_args(Empty):
        raise ValueError(f"variants are {', '.join(get_args(Variant))}, empty masks {', '.join(get_args(Empty))}")
    scale = draws.even_scale
    small, large = scale < SMALL * size, scale > size
    picture = _prepared(picture, draws.flip, square=variant == "compvis")
    cells = size // cell
    if not small and not large:
        return Augmented(_resized(picture, size, variant), torch.ones(cells, cells), caption)
    rows, columns = _place(draws, size)
    caption = _words(draws, FAR_WORDS if small else NEAR_WORDS) + caption
    resized = _resized(picture, scale, variant)
    if large:
        return Augmented(resized[:, rows, columns].contiguous(), torch.ones(cells, cells), caption)
    canvas = torch.zeros(3, size, size)
    canvas[:, rows, columns] = resized
    mask = torch.zeros(cells, cells)
    mask[_inner(rows, cell), _inner(columns, cell)] = 1
    if empty == "covered" and not mask.any():
        mask[_covered(rows, cell), _covered(columns, cell)] = 1
    if not mask.any():
        raise ValueError(
            f"a picture of {scale} px at {size} px covers no cell that its mask may hold, so it would have no loss: "
            f"train at {9 * cell} px or more, draw again, or let empty masks be 'covered'"
        )
    return Augmented(canvas, mask, caption)


def class_picture(
    picture: Image.Image, size: int, corner: tuple[float, float] | None = None, flip: bool = False
) -> Tensor:
    """A regularisation picture (3, R, R) in [-1, 1]: the shorter side resized (bilinear), then a square of it.

    `corner` is where the square begins, as shares in [0, 1) of the places that there are by row and by column; without
    it the square is the central one. Raises ValueError for a size that is no multiple of 8 and for other shares.
    """
    _check_size(size)
    picture = _prepared(picture, flip, square=False)
    top, left = class_corner(picture.size, size, corner)
    resized = picture.resize(_covering(picture.size, size), _FILTERS["diffusers"])
    return _tensor(resized.crop((left, top, left + size, top + size)))


def class_corner(picture: tuple[int, int], size: int, corner: tuple[float, float] | None = None) -> tuple[int, int]:
    """Top and left in px of the square that `class_picture` cuts of a resized picture of (width, height); raises so."""
    width, height = _covering(picture, size)
    free = height - size, width - size
    if corner is None:
        top, left = (round(rest / 2) for rest in free)
        return top, left
    if not all(0 <= share < 1 for share in corner):
        raise ValueError(f"a square's corner is given by shares in [0, 1), not {corner}")
    top, left = (int(share * (rest + 1)) for share, rest in zip(corner, free, strict=True))
    return top, left


def shown_from(draws: Resize, size: int) -> tuple[int, int]:
    """Top and left in px of what `augment` shows of a picture that it resizes; 0 for one that is shown whole."""
    if draws.even_scale <= size:
        return 0, 0
    rows, columns = _place(draws, size)
    return rows.start, columns.start


def _covering(picture: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height of a picture whose shorter side is resized."""
    shorter = min(picture)
    width, height = (size if side == shorter else int(size * side / shorter) for side in picture)
    return width, height


def _check_size(size: int) -> None:
    if size < CELL or size % CELL:
        raise ValueError(f"a training size is a multiple of {CELL} px, not {size}")


def _uniform(low: int, high: int, generator: torch.Generator | None) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _place(draws: Resize, size: int) -> tuple[slice, slice]:
    """Rows and columns of the canvas that a small picture takes, or of a large picture that are shown."""
    outer, inner = max(draws.even_scale, size), min(draws.even_scale, size)
    if draws.centre is None:
        raise ValueError(f"a picture of {draws.even_scale} px at {size} px needs a centre, which was not drawn")
    starts = [middle - inner // 2 for middle in draws.centre]
    if not all(0 <= start <= outer - inner for start in starts):
        raise ValueError(f"a centre {draws.centre} does not fit a picture of {draws.even_scale} px at {size} px")
    rows, columns = (slice(start, start + inner) for start in starts)
    return rows, columns


def _words(draws: Resize, phrases: tuple[str, str]) -> str:
    if draws.words not in (0, 1):
        raise ValueError(f"which words tell the size is 0 or 1, not {draws.words}")
    return phrases[draws.words]


def _inner(pixels: slice, cell: int) -> slice:
    """The cells inside of a stretch of pixels, one left out at each end, as published."""
    return slice(pixels.start // cell + 1, pixels.stop // cell - 1)


def _covered(pixels: slice, cell: int) -> slice:
    """The cells that a stretch of pixels covers wholly."""
    return slice(-(-pixels.start // cell), pixels.stop // cell)


def _prepared(picture: Image.Image, flip: bool, square: bool) -> Image.Image:
    picture = picture.convert("RGB")
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if square:
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return picture


def _resized(picture: Image.Image, side: int, variant: Variant) -> Tensor:
    return _tensor(picture.resize((side, side), _FILTERS[variant]))


def _tensor(picture: Image.Image) -> Tensor:
    """A picture (3, H, W) float32 in [-1, 1], by the published arithmetic x / 127.5 - 1."""
    pixels = np.array(picture, dtype=np.uint8).astype(np.float32)
    return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1)).permute(2, 0, 1).contiguous()
