"""From control points to warped pictures: sampling grids, the training's warp and the interface's preview.

Control points are rows x_src, y_src, x_dst, y_dst in px; a row that ends where it begins pins a point. Source: Wang et
al., SIGGRAPH 2022, section 3.1, and the released code, whose off-by-half sampling is kept unless `exact` is asked for.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.reference.gan_warping.moving_least_squares import Kind, deformation

Size = tuple[int, int]  # height and width
OUTSIDE = -1.0  # the grey of a car's bars


def with_corners(points: Tensor, size: Size) -> Tensor:
    """Control points (N, 4) with the picture's four corners pinned, appended as (N + 4, 4)."""
    h, w = size
    corners = [[x, y, x, y] for x, y in ((0, 0), (0, h - 1), (w - 1, 0), (w - 1, h - 1))]
    return torch.cat([points, torch.tensor(corners, dtype=points.dtype, device=points.device)])


def pixel_grid(points: Tensor, size: Size, kind: Kind = "affine") -> Tensor:
    """The source place (2, H, W) float32, x and y in px, of each pixel that control points (N, 4) warp.

    Each destination gets its exact source; of rows with one destination the last holds. Raises ValueError for points
    that are no numbers, and for destinations outside of the picture (of which the published code wraps some around).
    """
    if points.ndim != 2 or points.shape[1] != 4:
        raise ValueError(f"control points are rows x_src, y_src, x_dst, y_dst, not {tuple(points.shape)}")
    grid = deformation(points[:, :2], points[:, 2:], size, kind)
    points = points.double().floor()
    x, y = points[:, 2].long(), points[:, 3].long()
    outside = (x < 0) | (y < 0) | (x >= size[1]) | (y >= size[0])
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"control point {row} ends at {int(x[row])}, {int(y[row])}, outside of the picture of {size[1]} x {size[0]}"
        )
    for source, column, line in zip(points[:, :2], x.tolist(), y.tolist(), strict=True):
        grid[:, line, column] = source.float()
    return grid


def normalised_grid(pixels: Tensor, size: Size | None = None, exact: bool = False) -> Tensor:
    """A grid (2, H, W) in px as (h, w, 2) in [-1, 1] for `warp`, resized to `size` by OpenCV's Lanczos filter.

    As published a place is counted from the first pixel's centre to the last's, while `warp` counts from edge to edge:
    a warp that moves nothing shifts by up to half a pixel at the borders. `exact` counts as `warp` does.
    """
    h, w = pixels.shape[1:]
    if exact:
        grid = torch.stack([(2 * pixels[0] + 1) / w - 1, (2 * pixels[1] + 1) / h - 1], -1)
    else:
        grid = torch.stack([2 * pixels[0] / max(w - 1, 1) - 1, 2 * pixels[1] / max(h - 1, 1) - 1], -1)
    if size is None or size == (h, w):
        return grid
    resized = cv2.resize(grid.cpu().numpy(), (size[1], size[0]), interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(resized).to(pixels.device)


def warp(pictures: Tensor, grids: Tensor, crop_bars: bool = False) -> Tensor:
    """Pictures (N, C, H, W) at the places of grids (N, h, w, 2): (N, C, h, w), bilinearly, reflected at the borders.

    `crop_bars` is for cars of 4:3 on a square canvas: the grid holds for the middle three quarters of the rows, and
    the bars above and below become black. Raises ValueError where the numbers of pictures and grids differ, and for
    grids of cars of another size.
    """
    if len(pictures) != len(grids):
        raise ValueError(f"each picture has a grid, not {len(pictures)} and {len(grids)}")
    if not crop_bars:
        return F.grid_sample(pictures, grids.to(pictures.dtype), "bilinear", "reflection", align_corners=False)
    top, height = pictures.shape[2] // 8, pictures.shape[2] * 3 // 4
    if grids.shape[1:3] != (height, pictures.shape[3]):
        wanted = f"{height} x {pictures.shape[3]}"
        raise ValueError(f"without its bars a car is {wanted}, which a grid of {tuple(grids.shape[1:3])} does not fit")
    out = torch.full_like(pictures, OUTSIDE)
    out[:, :, top : top + height] = warp(pictures[:, :, top : top + height], grids)
    return out


def remap(picture: np.ndarray[Any, Any], pixels: Tensor) -> np.ndarray[Any, Any]:
    """A picture (H, W, 3) uint8 at the places of a grid (2, H, W) in px: the ground truth of evaluations.

    Bicubic, at exact pixel centres, reflected at the borders. Versions of OpenCV differ by one grey level.
    """
    x, y = pixels.cpu().numpy()
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))


def preview(picture: np.ndarray[Any, Any], points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A picture (H, W, 3) uint8 as control points (N, 4) warp it, its corners pinned. Raises what `pixel_grid` does."""
    size = picture.shape[:2]
    rows = torch.as_tensor(np.asarray(points, np.float64).reshape(-1, 4))
    return remap(picture, pixel_grid(with_corners(rows, (size[0], size[1])), (size[0], size[1])))
