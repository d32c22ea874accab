"""What happens to ws on the way to pictures: style mixing as augmentation, GANSpace's directions."""

from __future__ import annotations

import torch
from torch import Tensor

PUBLISHED_MIX = (8, 16)


def mix(ws: Tensor, others: Tensor, entries: tuple[int, int]) -> Tensor:
    """ws (N, num_ws, w_dim) whose entries from the first up to the second come from `others`.

    As published nothing happens where there are fewer entries. Wang et al. 2022, section 3.2 (augmentation).
    """
    if ws.shape != others.shape:
        raise ValueError(f"ws of one shape are mixed, not {tuple(ws.shape)} and {tuple(others.shape)}")
    start, end = entries
    out = ws.clone()
    out[:, start:end] = others[:, start:end]
    return out


def move_along(ws: Tensor, direction: Tensor, strengths: Tensor, entries: tuple[int, int]) -> Tensor:
    """ws (N, num_ws, w_dim) moved by strengths (K,) along a direction (w_dim,), in some entries: (N, K, num_ws, w_dim).

    Source: Härkönen et al., NeurIPS 2020; `direction` is a row of `pcs_scaled`.
    """
    start, end = entries
    if not 0 <= start < end <= ws.shape[1] or direction.shape != ws.shape[2:]:
        raise ValueError(
            f"{start} to {end} must lie within {ws.shape[1]} entries, and a direction be ({ws.shape[2]},), "
            f"not {tuple(direction.shape)}"
        )
    out = ws[:, None].repeat(1, len(strengths), 1, 1)
    out[:, :, start:end] += strengths[:, None, None] * direction
    return out


def strengths(strength: float, frames: int = 10) -> Tensor:
    """Evenly spaced strengths (frames,) from 0 to the last."""
    return torch.linspace(0, strength, frames)
