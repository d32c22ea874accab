"""Training states on disk: a safetensors file and a JSON file in one folder, put in place in one step.

A state is `FOLDER/step-00001000/state.safetensors` with `about.json` beside it, which has the tensors' sha256. The two
newest are kept, so that one remains if the newest cannot be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KEPT = 2
_DAMAGE = (OSError, ValueError, KeyError, SafetensorError)


@dataclass(frozen=True)
class State:
    """A training state: tensors by name, and what JSON holds (iteration, configuration, curve, versions)."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def save(folder: Path, iteration: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Writes a state and removes all but the newest two; a kill at any moment leaves the states before it whole.

    Raises OSError naming the folder where there is no space or no permission; nothing is removed then.
    """
    target = folder / f"step-{iteration:08d}"
    hidden = folder / f".step-{iteration:08d}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        file = hidden / "state.safetensors"
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, file)
        content = {**about, "iteration": iteration, "sha256": _digest(file)}
        (hidden / "about.json").write_text(json.dumps(content, indent=1))
        for written in hidden.iterdir():
            _flush(written)
        shutil.rmtree(target, ignore_errors=True)
        hidden.replace(target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise OSError(
            f"the training state cannot be written to {target} ({error}); free space or choose another folder, "
            "then the same command goes on from the state before"
        ) from error
    for old in _steps(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path) -> State | None:
    """The newest state, None where there is none. Damaged ones must have been set aside (`tidy`)."""
    steps = _steps(folder)
    return _read(steps[-1]) if steps else None


def tidy(folder: Path) -> None:
    """Removes what a kill left half written, and sets damaged states aside as `damaged-step-...`.

    For the one process that may write. A damaged state left in place would count as one of the newest.
    """
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in _steps(folder):
        try:
            _read(step)
        except _DAMAGE as error:
            aside = folder / f"damaged-{step.name}"
            shutil.rmtree(aside, ignore_errors=True)
            step.replace(aside)
            warnings.warn(
                f"{step} is damaged ({error}) and was set aside as {aside.name}; training goes on from the state "
                "before it, or anew where there is none",
                stacklevel=2,
            )


def _read(step: Path) -> State:
    about = json.loads((step / "about.json").read_text())
    file = step / "state.safetensors"
    if _digest(file) != about["sha256"]:
        raise ValueError("the tensors are not those that were written")
    return State(load_file(file), about)


def gather(
    networks: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer], scalars: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a training by name: `G.conv.weight`, `adam.G.0.exp_avg`, `scalar.path_mean`."""
    out = {f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            out |= {f"adam.{name}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    return out | {f"scalar.{name}": value for name, value in scalars.items()}


def scatter(
    tensors: Mapping[str, Tensor],
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    scalars: Mapping[str, Tensor],
) -> None:
    """Puts what `gather` took back into its places. Raises ValueError for a state of other networks."""
    for name, network in networks.items():
        mine = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        try:
            network.load_state_dict(mine)
        except RuntimeError as error:
            raise ValueError(f"the training state is of another network {name}: {error}") from None
    for name, optimiser in optimisers.items():
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if match := re.fullmatch(rf"adam\.{name}\.(\d+)\.(.+)", key):
                like = parameters[int(match[1])]
                if value.shape == like.shape:  # in the parameter's own layout, which fused steps rely on
                    value = torch.empty_like(like, requires_grad=False).copy_(value)
                state.setdefault(int(match[1]), {})[match[2]] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    for name, value in scalars.items():
        value.copy_(tensors[f"scalar.{name}"])


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def _digest(file: Path) -> str:
    hasher = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            hasher.update(block)
    return hasher.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
