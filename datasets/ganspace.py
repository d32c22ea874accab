"""Directions of GANSpace (Härkönen et al. 2020) in the files by which GAN Warping moves latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets.numpy_files import read_npz
from gengauge.datasets.sets import Array
from gengauge.datasets.unpickling import DamagedCheckpoint, reading

MAX_BYTES = 2**26
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class GANSpace:
    """Principal directions in W, float32: `pcs` (K, w_dim), a unit direction a row; `scale` (K,), the standard
    deviations along them; `pcs_scaled` (K, w_dim), their products."""

    pcs: Tensor
    scale: Tensor
    pcs_scaled: Tensor


def read_ganspace(path: Path) -> GANSpace:
    """The directions of an `.npz` file with `pcs`, `scale` and `pcs_scaled`.

    Raises FileNotFoundError, UnsafeCheckpoint, or DamagedCheckpoint for arrays of other shapes or kinds, with NaN or
    infinity, or whose products are not `pcs_scaled`.
    """
    arrays = read_npz(path, ("pcs", "scale", "pcs_scaled"), MAX_BYTES)
    with reading(path):
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        pcs, scale, scaled = arrays["pcs"], arrays["scale"], arrays["pcs_scaled"]
        if pcs.ndim != 2 or not pcs.size or scale.shape != pcs.shape[:1] or scaled.shape != pcs.shape:
            raise DamagedCheckpoint(f"it holds {shapes}, not (K, w_dim), (K,) and (K, w_dim)")
        if any(array.dtype != np.float32 for array in arrays.values()):
            raise DamagedCheckpoint(f"it holds {shapes}, not float32")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise DamagedCheckpoint("it holds NaN or infinity")
        off = np.abs(pcs.astype(np.float64) * scale[:, None] - scaled).max()
        if off > _ROUNDING * max(1.0, float(np.abs(scaled).max())):
            raise DamagedCheckpoint(f"its pcs_scaled is not pcs times scale (they differ by {off:.3g})")
        return GANSpace(_tensor(pcs), _tensor(scale), _tensor(scaled))


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
