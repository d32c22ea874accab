"""Blending a pasted region into a picture: the classical baselines of compositing (Meng et al. 2022, table 3).

Pictures are (N, 3, H, W) floats in [0, 1]; a mask is bool (H, W) or (N, 1, H, W), True where `pasted` was pasted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

# Burt and Adelson's generating kernel with a = 0.4, near a Gaussian.
KERNEL = (0.05, 0.25, 0.4, 0.25, 0.05)
COARSEST = 4  # px; halving ends before a side of the pyramid's top gets smaller


def laplacian_blend(original: Tensor, pasted: Tensor, mask: Tensor, levels: int | None = None) -> Tensor:
    """The two pictures joined band by band, each band in a seam as wide as its waves (Burt and Adelson 1983).

    `levels` counts the halvings, by default as many as leave 4 px; with 0 the mask is a plain cut. Pixels near the mask
    change on both of its sides. Returns pictures as `original`, clamped to [0, 1]. Raises ValueError for tensors of
    other shapes, kinds or ranges, and where there is nothing left to halve.
    """
    mask = _checked(original, pasted, mask)
    levels = _most_levels(original) if levels is None else levels
    if not 0 <= levels <= max(original.shape[-2:]).bit_length():
        raise ValueError(f"pictures of {tuple(original.shape[-2:])} cannot be halved {levels} times")
    share = mask.to(original.dtype)
    bands = []
    for _ in range(levels):
        halves = [_reduce(x) for x in (original, pasted, share)]
        a, b = (x - _expand(half, x) for x, half in zip((original, pasted), halves, strict=False))
        bands.append(torch.lerp(a, b, share.expand_as(a)))
        original, pasted, share = halves
    out = torch.lerp(original, pasted, share.expand_as(original))
    for band in reversed(bands):
        out = band + _expand(out, band)
    return out.clamp(0, 1)


def poisson_blend(original: Tensor, pasted: Tensor, mask: Tensor, seam: Literal["pasted", "flat"] = "pasted") -> Tensor:
    """The pasted region with the gradients of `pasted` and, at its seam, the colours of `original`.

    Perez et al. 2003, equations 7 and 11, solved exactly (in float64, on the CPU) for the four neighbours of a pixel,
    of which those beyond the picture do not count. Outside of the mask nothing changes. A mask of the whole picture has
    no seam that could tell the colours, so that `pasted` comes back.

    The gradients between a pixel of the mask and one outside are those of `pasted` too, which must go on there. Of a
    finished composite, which is the original there, they would be the seam itself: the composite would come back as it
    is. With `seam` "flat" they are 0, and `pasted` is looked at inside of the mask only.

    Returns pictures as `original`, those pixels of the mask clamped to [0, 1]. Raises ValueError for tensors of other
    shapes, kinds or ranges, and for a composite without `seam` "flat".
    """
    mask = _checked(original, pasted, mask)
    if len(mask) == 1:  # one mask for all: one system with as many right-hand sides
        return _solved(original, pasted, mask[0, 0], seam)
    parts = zip(original.split(1), pasted.split(1), mask[:, 0], strict=True)
    return torch.cat([_solved(a, b, region, seam) for a, b, region in parts])


def _solved(original: Tensor, pasted: Tensor, region: Tensor, seam: str) -> Tensor:
    """`poisson_blend` for pictures with one mask bool (H, W)."""
    inside = region.cpu().numpy().reshape(-1)
    if inside.all() or not inside.any():
        return (pasted if inside.any() else original).clone()
    equal = (original == pasted).all(1)
    if seam == "pasted" and (equal[:, ~region].all(1) & ~equal[:, region].all(1)).any():
        raise ValueError(
            "outside of the mask `pasted` is `original`, so that blending would change nothing; "
            "give what was pasted with its surroundings, or seam='flat'"
        )
    laplacian = _laplacian(*region.shape)[inside]
    known, given = (x.detach().cpu().double().flatten(2).flatten(0, 1).T.numpy() for x in (original, pasted))
    across = laplacian[:, ~inside]  # -1 for each neighbour outside
    right = laplacian[:, inside] @ given[inside] - across @ known[~inside]
    right += across @ given[~inside] if seam == "pasted" else across.sum(1)[:, None] * given[inside]
    found = splu(laplacian[:, inside].tocsc(), permc_spec="MMD_AT_PLUS_A").solve(right)
    values = torch.from_numpy(found.T.copy()).clamp(0, 1).view(*original.shape[:2], -1)
    out = original.clone()
    out[..., region] = values.to(original)
    return out


def _laplacian(height: int, width: int) -> sparse.csr_array:
    """For each pixel, the sum of its differences to the neighbours that it has: (H W, H W), rows of the picture."""
    chain = [_path(length) for length in (height, width)]
    return (sparse.kron(chain[0], sparse.eye_array(width)) + sparse.kron(sparse.eye_array(height), chain[1])).tocsr()


def _path(length: int) -> sparse.dia_array:
    neighbours = np.full(length, 2.0)
    neighbours[0] -= 1
    neighbours[-1] -= 1
    ones = np.ones(length - 1)
    return sparse.diags_array([-ones, neighbours, -ones], offsets=[-1, 0, 1])


def _checked(original: Tensor, pasted: Tensor, mask: Tensor) -> Tensor:
    """The mask as (1 or N, 1, H, W)."""
    for name, x in (("original", original), ("pasted", pasted)):
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or not x.numel():
            raise ValueError(f"`{name}` is (N, 3, H, W) of floats in [0, 1], not {x.dtype} {tuple(x.shape)}")
        low, high = x.min().item(), x.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"`{name}` has values from {low:.3g} to {high:.3g}; bring it to [0, 1]")
    if original.shape != pasted.shape or original.dtype != pasted.dtype:
        raise ValueError(
            f"the pictures differ: {original.dtype} {tuple(original.shape)}, {pasted.dtype} {tuple(pasted.shape)}"
        )
    shape = original.shape
    if mask.dtype != torch.bool or mask.shape not in (shape[-2:], (shape[0], 1, *shape[-2:])):
        raise ValueError(
            f"a mask is bool {tuple(shape[-2:])} or {(shape[0], 1, *shape[-2:])}, not {mask.dtype} {tuple(mask.shape)}"
        )
    return mask[None, None] if mask.ndim == 2 else mask


def _most_levels(pictures: Tensor) -> int:
    return max(0, (min(pictures.shape[-2:]) // COARSEST).bit_length() - 1)


def _reduce(x: Tensor) -> Tensor:
    """Every second pixel of (N, C, H, W) after the kernel, from the first: (N, C, ceil(H / 2), ceil(W / 2))."""
    return _filtered(F.pad(x, (2, 2, 2, 2), mode="replicate"), stride=2)


def _expand(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of the sizes of `_reduce`: pixels set apart by zeros, and the kernel with the gain that makes up."""
    n, channels = x.shape[:2]
    height, width = like.shape[-2:]
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    apart = x.new_zeros(n, channels, 2 * x.shape[2], 2 * x.shape[3])
    apart[..., ::2, ::2] = x
    return 4 * _filtered(apart[..., : height + 4, : width + 4])


def _filtered(x: Tensor, stride: int = 1) -> Tensor:
    taps = torch.tensor(KERNEL, dtype=x.dtype, device=x.device)
    channels = x.shape[1]
    x = F.conv2d(x, taps.view(1, 1, 5, 1).expand(channels, -1, -1, -1), stride=(stride, 1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, 5).expand(channels, -1, -1, -1), stride=(1, stride), groups=channels)
