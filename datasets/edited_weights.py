"""Edited generators of GAN Warping: published files of whole weights, and files of the factors that were learnt.

A published file maps parameters' names to their new values, `synthesis.L8_276_645.weight` for one. A file of factors is
safetensors that holds `LAYER.weight_lambda` (O, r, k, k) and `LAYER.weight_context` (r, I) instead, to be multiplied
and added to the base's weight, and what tells whether a base is the one that it was learnt on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.saving import write_checkpoint, write_tensors
from gengauge.datasets.unpickling import DamagedCheckpoint, reading

FORMAT, VERSION = "gengauge low-rank edit", "1"
LAMBDA, CONTEXT = ".weight_lambda", ".weight_context"


@dataclass(frozen=True, eq=False)
class Factors:
    """What is added to a layer's weight (O, I, k, k): `weight_lambda` (O, r, k, k) times `weight_context` (r, I)."""

    weight_lambda: Tensor
    weight_context: Tensor

    @property
    def rank(self) -> int:
        return len(self.weight_context)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, I, k, k), that of the weight they are for."""
        out, _, *kernel = self.weight_lambda.shape
        return out, self.weight_context.shape[1], *kernel


@dataclass(frozen=True, eq=False)
class LowRankEdit:
    """An edit as it was learnt. Raises ValueError for parts that do not go together.

    `factors` and `fingerprints`, those of the base's weights, are by the layer's dotted name; `tensors` are other
    parameters (bias, noise_strength) by their full names, whole. All factors have one rank. `generator` is the base's
    name, for people.
    """

    generator: str
    factors: Mapping[str, Factors]
    fingerprints: Mapping[str, str]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("a low-rank edit has the factors of at least one layer")
        for layer, pair in self.factors.items():
            a, d = pair.weight_lambda, pair.weight_context
            if a.ndim != 4 or d.ndim != 2 or a.shape[1] != len(d) or not a.numel() or not d.numel():
                raise ValueError(
                    f"the factors of {layer} are {tuple(a.shape)} and {tuple(d.shape)}, not (O, r, k, k) and (r, I)"
                )
            if f"{layer}.weight" in self.tensors:
                raise ValueError(f"{layer}.weight is there whole and as factors")
            if pair.rank != self.rank:
                raise ValueError(f"the factors of {layer} are of rank {pair.rank}, and others of rank {self.rank}")
            if not re.fullmatch("[0-9a-f]{64}", self.fingerprints.get(layer, "")):
                raise ValueError(f"there is no fingerprint of the weight that {layer} was learnt on")
            _check_numbers({layer + LAMBDA: a, layer + CONTEXT: d})
        _check_numbers(self.tensors)

    @property
    def rank(self) -> int:
        return next(iter(self.factors.values())).rank


def read_edited_weights(path: Path) -> dict[str, Tensor]:
    """The new values of parameters by name, float32, as GAN Warping and this module publish them; nothing else is run.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint naming the file.
    """
    tensors = read_tensors(path)
    with reading(path):
        if any(name.endswith((LAMBDA, CONTEXT)) for name in tensors):
            raise DamagedCheckpoint("it holds factors, not whole weights; read it by read_low_rank_edit")
        if not tensors or "" in tensors:
            raise DamagedCheckpoint("it holds no parameters by name")
        _check_numbers(tensors)
    return {name: tensor.float() for name, tensor in tensors.items()}


def write_edited_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes new values of parameters in the published form, float32; `path` changes at the end only.

    A generator takes them by `load_state_dict(torch.load(path, weights_only=True), strict=False)`. Raises ValueError
    for what is no parameter, OSError where the file cannot be made.
    """
    if not tensors or "" in tensors:
        raise ValueError("an edit has at least one parameter, each with a name")
    _check_numbers(tensors)
    write_checkpoint(path, {name: _own(tensor) for name, tensor in tensors.items()})


def is_low_rank_edit(path: Path) -> bool:
    """Whether a file holds factors, not whole weights, as far as its beginning tells. Raises FileNotFoundError."""
    with reading(path), path.open("rb") as stream:
        if stream.read(9)[8:] != b"{":
            return False
    with reading(path), safe_open(path, "pt") as archive:
        return (archive.metadata() or {}).get("format") == FORMAT


def read_low_rank_edit(path: Path) -> LowRankEdit:
    """The edit of a file that `write_low_rank_edit` wrote; `check_base` tells which generator it is for.

    Raises FileNotFoundError or DamagedCheckpoint naming the file.
    """
    if not is_low_rank_edit(path):
        raise DamagedCheckpoint(f"{path} is no file of factors ({FORMAT}); whole weights: read_edited_weights")
    with reading(path):
        with safe_open(path, "pt") as archive:
            told = archive.metadata()
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no dict
        if told.get("version") != VERSION:
            raise DamagedCheckpoint(f"its version is {told.get('version')!r}, and this gengauge reads {VERSION}")
        layers = [name.removesuffix(LAMBDA) for name in tensors if name.endswith(LAMBDA)]
        halves = {name.removesuffix(CONTEXT) for name in tensors if name.endswith(CONTEXT)} ^ {*layers}
        if halves:
            raise DamagedCheckpoint(f"it holds one of the two factors of {min(halves)}")
        try:
            fingerprints = json.loads(told.get("base", ""))
        except RecursionError:
            fingerprints = None
        if not isinstance(fingerprints, dict) or not all(isinstance(text, str) for text in fingerprints.values()):
            raise DamagedCheckpoint("it does not tell which weights it was learnt on")
        _check_numbers(tensors)
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        factors = {layer: Factors(tensors.pop(layer + LAMBDA), tensors.pop(layer + CONTEXT)) for layer in layers}
        edit = LowRankEdit(told.get("generator", ""), factors, fingerprints, tensors, told.get("note", ""))
        if told.get("rank") != str(edit.rank):
            raise DamagedCheckpoint(f"it says rank {told.get('rank')!r} and holds factors of rank {edit.rank}")
        return edit


def write_low_rank_edit(path: Path, edit: LowRankEdit) -> None:
    """Writes factors and what is known of them as safetensors, float32; `path` changes at the end only.

    Raises OSError where the file cannot be made.
    """
    tensors = {name: _own(tensor) for name, tensor in edit.tensors.items()}
    for layer, pair in edit.factors.items():
        tensors |= {layer + LAMBDA: _own(pair.weight_lambda), layer + CONTEXT: _own(pair.weight_context)}
    told = {"format": FORMAT, "version": VERSION, "generator": edit.generator, "rank": str(edit.rank)}
    told |= {"base": json.dumps({layer: edit.fingerprints[layer] for layer in edit.factors}), "note": edit.note}
    write_tensors(path, tensors, told)


def fingerprint(weight: Tensor) -> str:
    """The sha256 of a weight: its shape as text, and its values as float32 in C order, little endian."""
    values = _own(weight).contiguous()
    data = values.numpy().astype("<f4", copy=False).tobytes()
    return hashlib.sha256(f"{tuple(values.shape)}".encode() + data).hexdigest()


def check_base(edit: LowRankEdit | Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Checks that an edit is for the generator whose state dict is `base`.

    Raises ValueError naming the parameter that the base lacks or has in another shape and, for factors, whose value is
    not that which they were learnt on.
    """
    if not isinstance(edit, LowRankEdit):
        _check_shapes({name: tuple(tensor.shape) for name, tensor in edit.items()}, base)
        return
    weights = {f"{layer}.weight": pair.weight_shape for layer, pair in edit.factors.items()}
    _check_shapes(weights | {name: tuple(tensor.shape) for name, tensor in edit.tensors.items()}, base)
    for layer, expected in edit.fingerprints.items():
        if layer in edit.factors and (found := fingerprint(base[f"{layer}.weight"])) != expected:
            raise ValueError(
                f"the edit was learnt on another {layer}.weight than this generator's ({expected[:12]}..., not "
                f"{found[:12]}...); load the generator it is for, {edit.generator or 'which the file does not name'}"
            )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, Tensor]) -> None:
    for name, shape in shapes.items():
        if name not in base:
            raise ValueError(f"the edit changes {name}, which this generator does not have; load the one it is for")
        if tuple(base[name].shape) != shape:
            raise ValueError(f"the edit has {name} as {shape}, and this generator as {tuple(base[name].shape)}")


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not plain floats")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinity")


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().clone()
