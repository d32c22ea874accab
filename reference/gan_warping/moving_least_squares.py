"""Moving least squares: a smooth deformation of the plane that takes some points to others.

Source: Schaefer, McPhail and Warren, SIGGRAPH 2006, equations 5 (affine), 6 (similarity) and 8 (rigid), as GAN Warping
uses them: backwards, from each pixel of the warped picture to its place in the source.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Kind = Literal["affine", "similarity", "rigid"]
EPSILON = 1e-8  # px^2, so that a pixel on a control point has a finite weight
MAX_COORDINATE = 2**15 - 1  # the published code keeps points as 16-bit integers
_FLAT = 1e-12  # of the squared trace: a determinant below it is zero but for rounding
_ON_POINT = 2.0**31 - 1  # the weight of a control point on which the moved point lies
_BAND = 2**20  # weights that are held at once


def deformation(
    source: Tensor, target: Tensor, size: tuple[int, int], kind: Kind = "affine", alpha: float = 1.0
) -> Tensor:
    """For each pixel of a warped picture its place (2, H, W) float32, x and y in px, in the source.

    `source` and `target` (N, 2) are the control points, x and y in px, before and after the warp; fractions are cut
    off. Weights fall with distance to the power of -2 `alpha`. The affine kind needs points that are not all on one
    line: where they are, it becomes a translation by the weighted mean of the points' displacements, for the whole
    picture, as in the published code (which finds this out for some lines only, and returns noise for others). So do
    the others where all targets are one.

    Computed in float64: in float32 the published code loses up to 1e-5 px. Raises ValueError for bad points.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"a deformation is {', '.join(get_args(Kind))}, not {kind!r}")
    p, q = _pairs(source, target)
    p, q = p.floor(), q.floor()
    _checked_alpha(alpha)
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"a picture has at least one pixel, not {height} by {width}")
    # Nothing depends on where the origin is, and moments lose less when it is among the points.
    origin = p.mean(0)
    x, y = (
        torch.arange(n, dtype=torch.float64, device=p.device) - o for n, o in ((width, origin[0]), (height, origin[1]))
    )
    rows = max(1, _BAND // (width * len(p)))
    means = torch.cat([_means(p - origin, q - origin, x, part, alpha) for part in y.split(rows)], 1)
    moments = _moments(means, x, y[:, None])
    if _on_one_line(p) if kind == "affine" else bool((p == p[0]).all()):
        places = moments.q + moments.u
    else:
        places = _affine(moments) if kind == "affine" else _similar(moments, rigid=kind == "rigid")
    # On a target the means are its own but for the epsilon, and differences of moments nothing but rounding.
    places = torch.where(_on_targets(p, size), moments.q, places)
    return (places + origin[:, None, None]).float()


def move_points(points: Tensor, source: Tensor, target: Tensor, alpha: float = 1.0) -> Tensor:
    """Points (M, 2) of the source picture moved forwards by the affine deformation: (M, 2) float64, x and y in px.

    Control points go exactly where they should. Raises ValueError for bad points, and for control points on one line.
    """
    _checked_alpha(alpha)
    points, (q, p) = _checked(points, "moved"), _pairs(source, target)
    w = (p[:, None] - points).square().sum(-1).pow(-alpha).nan_to_num(posinf=_ON_POINT)
    w = w / w.sum(0)
    centre_p, centre_q = w.T @ p, w.T @ q
    from_p, from_q = p[:, None] - centre_p, q[:, None] - centre_q
    moment = torch.einsum("nm,nma,nmb->mab", w, from_p, from_p)
    mixed = torch.einsum("nm,nma,nmb->mab", w, from_p, from_q)
    if (torch.linalg.det(moment) <= _FLAT * moment.diagonal(dim1=1, dim2=2).sum(1).square()).any():
        raise ValueError("control points on one line determine no affine deformation; add one beside it")
    return ((points - centre_p)[:, None] @ torch.linalg.solve(moment, mixed))[:, 0] + centre_q


class _Moments(NamedTuple):
    """Of each pixel, float64: its offset `u` (2, H, W) from the targets' weighted centre, the sources' centre `q`.

    `xx`, `xy`, `yy` (H, W) are second moments of the targets around their centre, `mixed` (4, H, W) those of targets
    with sources: xx, xy, yx, yy.
    """

    u: Tensor
    q: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    mixed: Tensor


def _means(p: Tensor, q: Tensor, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Weighted means (11, H, W) of the points and of their products, for pixels at columns x and rows y."""
    # Weights are made in place, and their sums by one matrix product, which reads them once.
    w = (p[:, :1] - x).square()[:, None] + ((p[:, 1:] - y).square() + EPSILON)[:, :, None]
    w = w.reciprocal_() if alpha == 1 else w.pow_(-alpha)
    products = [p[:, i] * b[:, j] for b, i, j in ((p, 0, 0), (p, 0, 1), (p, 1, 1))]
    products += [p[:, i] * q[:, j] for i in (0, 1) for j in (0, 1)]
    rows = torch.stack([torch.ones_like(p[:, 0]), *p.T, *q.T, *products])
    sums = (rows @ w.flatten(1)).view(-1, len(y), len(x))
    return sums[1:] / sums[0]


def _moments(means: Tensor, x: Tensor, y: Tensor) -> _Moments:
    p, q, (xx, xy, yy), mixed = means.split([2, 2, 3, 4])
    u = torch.stack([x - p[0], y - p[1]])
    outer = (p[:, None] * q).flatten(0, 1)
    return _Moments(u, q, xx - p[0] ** 2, xy - p[0] * p[1], yy - p[1] ** 2, mixed - outer)


def _affine(m: _Moments) -> Tensor:
    determinant = m.xx * m.yy - m.xy**2
    a, b = (m.yy * m.u[0] - m.xy * m.u[1]) / determinant, (m.xx * m.u[1] - m.xy * m.u[0]) / determinant
    return m.q + a * m.mixed[:2] + b * m.mixed[2:]


def _similar(m: _Moments, rigid: bool) -> Tensor:
    along, across = m.mixed[0] + m.mixed[3], m.mixed[2] - m.mixed[1]
    u, v = m.u
    out = torch.stack([u * along + v * across, v * along - u * across])
    if not rigid:
        return m.q + out / (m.xx + m.yy)
    length = out.norm(dim=0)
    return m.q + torch.where(length > 0, out * (m.u.norm(dim=0) / length), m.u)


def _on_one_line(p: Tensor) -> bool:
    offset = p - p[0]
    direction = offset[offset.square().sum(1).argmax()]
    return bool((offset[:, 0] * direction[1] == offset[:, 1] * direction[0]).all())


def _on_targets(p: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels (H, W) lie on a target."""
    on = torch.zeros(size, dtype=torch.bool, device=p.device)
    x, y = p.long().T
    inside = (x >= 0) & (y >= 0) & (x < size[1]) & (y < size[0])
    on[y[inside], x[inside]] = True
    return on


def _pairs(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and sources, checked."""
    p, q = _checked(target, "target"), _checked(source, "source")
    if len(p) != len(q):
        raise ValueError(f"each control point has a source and a target, not {len(q)} and {len(p)}")
    return p, q


def _checked_alpha(alpha: float) -> None:
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is above 0 and finite, not {alpha}")


def _checked(points: Tensor, what: str) -> Tensor:
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"{what} points must be (N, 2), x and y, with at least one row, not {tuple(points.shape)}")
    points = points.double()
    if not bool(torch.isfinite(points).all()) or bool((points.abs() > MAX_COORDINATE).any()):
        raise ValueError(f"{what} points must be numbers of px within -{MAX_COORDINATE} and {MAX_COORDINATE}")
    return points
