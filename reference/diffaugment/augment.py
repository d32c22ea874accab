"""DiffAugment's augmentations: color, translation and cutout, with explicit or generated draws.

Source: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020, section 3 and the
authors' PyTorch and TensorFlow files, which agree draw for draw. Nothing is clamped; the fill value is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Draws = Mapping[str, Tensor]

TRANSLATION_RATIO = 1 / 8
CUTOUT_RATIO = 1 / 2


def brightness(x: Tensor, u: Tensor) -> Tensor:
    """Adds u - 0.5 to a picture: x (N, C, H, W), u (N, 1, 1, 1) in [0, 1)."""
    return x + (u - 0.5)


def saturation(x: Tensor, u: Tensor) -> Tensor:
    """Stretches each pixel by 2u about its mean over channels."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * (u * 2) + mean


def contrast(x: Tensor, u: Tensor) -> Tensor:
    """Stretches a picture by u + 0.5 about its mean over channels and pixels."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (u + 0.5) + mean


def translation(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """out[h, w] = x[h + rows, w + columns], 0 outside: positive shifts move the picture up and left.

    x (N, C, H, W); rows and columns int64 (N, 1, 1), at most `shift_limits` either way.
    """
    n, channels, height, width = x.shape
    # A frame of zeros around the picture takes every index that falls outside; one flat gather then does it all.
    row = (torch.arange(height, device=x.device)[None, :, None] + rows + 1).clamp(0, height + 1)
    column = (torch.arange(width, device=x.device)[None, None, :] + columns + 1).clamp(0, width + 1)
    index = (row * (width + 2) + column).view(n, 1, height * width).expand(-1, channels, -1)
    return F.pad(x, (1, 1, 1, 1)).flatten(2).gather(2, index).view_as(x)


def cutout(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiplies a window of `cutout_size` about (rows, columns) by 0; what lies outside the picture is clipped."""
    height, width = x.shape[2:]
    size = cutout_size(height, width)
    row = torch.arange(height, device=x.device)[None, :, None] - (rows - size[0] // 2)
    column = torch.arange(width, device=x.device)[None, None, :] - (columns - size[1] // 2)
    cut = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    return x * (~cut)[:, None].to(x.dtype)


def shift_limits(height: int, width: int) -> tuple[int, int]:
    """The largest shifts in rows and columns: an eighth of the side, rounded half up."""
    return int(height * TRANSLATION_RATIO + 0.5), int(width * TRANSLATION_RATIO + 0.5)


def cutout_size(height: int, width: int) -> tuple[int, int]:
    """The cut window's rows and columns: half of the side, rounded half up."""
    return int(height * CUTOUT_RATIO + 0.5), int(width * CUTOUT_RATIO + 0.5)


def draw(
    policy: str,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[dict[str, Tensor]]:
    """The draws of a policy for pictures of `shape` (N, C, H, W): one mapping a part, in the published order.

    Uniforms (N, 1, 1, 1) in `dtype` are named `brightness_u`, `saturation_u`, `contrast_u`; integers (N, 1, 1) int64
    `translation_x`, `translation_y`, `cutout_x`, `cutout_y`, where x counts rows and y columns, as published.
    The generator must be on `device`.
    """
    n, _, height, width = shape

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (n, 1, 1), generator=generator, device=device)

    draws: list[dict[str, Tensor]] = []
    for part in parts(policy):
        if part == "color":
            draws.append(
                {
                    f"{name}_u": torch.rand(n, 1, 1, 1, generator=generator, dtype=dtype, device=device)
                    for name in ("brightness", "saturation", "contrast")
                }
            )
        elif part == "translation":
            limits = shift_limits(height, width)
            draws.append(
                {f"translation_{axis}": integers(-limit, limit) for axis, limit in zip("xy", limits, strict=True)}
            )
        else:
            # The centre of an even window may lie one past the last pixel.
            draws.append(
                {
                    f"cutout_{axis}": integers(0, length - size % 2)
                    for axis, length, size in zip("xy", (height, width), cutout_size(height, width), strict=True)
                }
            )
    return draws


def parts(policy: str) -> list[str]:
    """The parts of a policy such as `color,translation,cutout`, in order; a part may repeat, the empty policy has none.

    Raises ValueError for a part that does not exist.
    """
    names = policy.split(",") if policy else []
    for name in names:
        if name not in ("color", "translation", "cutout"):
            raise ValueError(
                f"policy {policy!r}: there is no augmentation {name!r}; there are color, translation, cutout"
            )
    return names


def diff_augment(
    x: Tensor,
    policy: str = "color,translation,cutout",
    *,
    generator: torch.Generator | None = None,
    draws: Sequence[Draws] | None = None,
    channels_first: bool = True,
) -> Tensor:
    """T(x): the parts of the policy from left to right, with independent draws for each picture of the batch.

    x is (N, C, H, W) floating point, or (N, H, W, C) with `channels_first=False`; gradients flow through. `draws` (see
    `draw`) replaces the generator. The result of a policy is contiguous; the empty policy returns x itself.
    Raises ValueError for an unknown part, draws that do not fit the policy, or x of another shape.
    """
    names = parts(policy)
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"diff_augment takes a floating-point batch of four dimensions, not {x.dtype} {tuple(x.shape)}"
        )
    if not names:
        return x
    if not channels_first:
        x = x.permute(0, 3, 1, 2)
    if draws is None:
        draws = draw(policy, x.shape, generator, x.dtype, x.device)
    if len(draws) != len(names):
        raise ValueError(
            f"policy {policy!r} has {len(names)} parts and takes as many mappings of draws, not {len(draws)}"
        )
    for name, values in zip(names, draws, strict=True):
        if name == "color":
            x = brightness(x, values["brightness_u"])
            x = saturation(x, values["saturation_u"])
            x = contrast(x, values["contrast_u"])
        elif name == "translation":
            x = translation(x, values["translation_x"], values["translation_y"])
        else:
            x = cutout(x, values["cutout_x"], values["cutout_y"])
    if not channels_first:
        x = x.permute(0, 2, 3, 1)
    return x.contiguous()
