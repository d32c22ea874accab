"""Edge probabilities of pictures by DexiNed with its published weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gengauge.datasets import weights
from gengauge.reference.nets.dexined import MEAN_BGR, MULTIPLE, DexiNed, fold_batch_norm

Array = np.ndarray[Any, Any]

CPU_BATCH, GPU_BATCH = 1, 8


def load_dexined(path: Path | None = None, device: str = "cpu") -> Callable[[Array], Array]:
    """DexiNed as a function of pictures (N, H, W, 3) uint8 RGB to edge probabilities (N, H, W) float32 in [0, 1].

    `path` overrides where the weights are looked for. They have no published digest: instead they must have exactly
    the names and shapes of the published file and finite values.

    Raises WeightsNotFound naming the places searched, UnsafeCheckpoint or DamagedCheckpoint for a bad file, ValueError
    for weights of another network. The function raises ValueError for other arrays.
    """
    network = fold_batch_norm(dexined_of(weights.load("dexined", path))).to(device)
    batch = GPU_BATCH if torch.device(device).type == "cuda" else CPU_BATCH

    def probabilities(pictures: Array) -> Array:
        return edge_probabilities(network, pictures, batch)

    return probabilities


def dexined_of(state: dict[str, Tensor]) -> DexiNed:
    """DexiNed with weights by name, in eval mode. Raises ValueError for others, naming the first that is wrong."""
    with torch.device("meta"):
        network = DexiNed().eval().requires_grad_(False)
    expected = {name: value for name, value in network.state_dict().items() if not _is_counter(name)}
    given = {name: value for name, value in state.items() if not _is_counter(name)}
    missing, unknown = [n for n in expected if n not in given], [n for n in given if n not in expected]
    if missing or unknown:
        raise ValueError(
            f"these are no weights of DexiNed: {len(missing)} of {len(expected)} tensors are missing (first: "
            f"{missing[:1]}), {len(unknown)} unknown (first: {unknown[:1]})"
        )
    for name, value in given.items():
        if value.shape != expected[name].shape or not value.is_floating_point():
            raise ValueError(
                f"these are no weights of DexiNed: {name} is {value.dtype} {tuple(value.shape)}, "
                f"not floats {tuple(expected[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"the weights of DexiNed are damaged: {name} holds values that are not finite")
        if name.endswith("running_var") and (value < 0).any():
            raise ValueError(f"the weights of DexiNed are damaged: the variance {name} is negative somewhere")
    counters = {name: torch.tensor(0) for name in network.state_dict() if _is_counter(name)}
    network.load_state_dict({name: value.float() for name, value in given.items()} | counters, assign=True)
    return network


@torch.no_grad()
def edge_probabilities(network: DexiNed, pictures: Array, batch: int = CPU_BATCH) -> Array:
    """Edge probabilities (N, H, W) float32 of pictures (N, H, W, 3) uint8 RGB, by the network's last output.

    Sides that are no multiple of 16 are filled up by reflection at the right and at the bottom, and the result is
    cropped. That is ours: the published code takes multiples of 16 only. Raises ValueError for other arrays.
    """
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or not pictures.size:
        raise ValueError(f"pictures are uint8 (N, H, W, 3), not {pictures.dtype} {pictures.shape}")
    height, width = pictures.shape[1:3]
    device = next(network.parameters()).device
    mean = torch.tensor(MEAN_BGR, device=device).view(1, 3, 1, 1)
    filled = np.pad(pictures, ((0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)), mode="reflect")
    out = []
    for start in range(0, len(filled), batch):
        # A picture in memory has its channels last already, which is what the network wants.
        x = torch.from_numpy(filled[start : start + batch]).to(device).permute(0, 3, 1, 2).flip(1).float() - mean
        logits = network(x)[-1]
        out.append(logits.sigmoid()[:, 0, :height, :width].cpu().numpy())
    return np.concatenate(out)


def _is_counter(name: str) -> bool:
    """How many batches a batch norm has seen is of no use in inference."""
    return name.endswith("num_batches_tracked")
