"""What a customised text-to-image model adds to the model that it was made from (Kumari et al. 2023, section 3).

A delta holds new weights of the U-Net, whole or as factors of their change, under diffusers' names, and the input
embeddings of new tokens. Its files are read and written by `delta_files`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

TENSORS_SAMPLED, VALUES_SAMPLED = 4, 64


@dataclass(frozen=True, eq=False)
class Delta:
    """A customisation. Raises ValueError for parts that do not go together, and for values that are not finite.

    `weights` are new values of the U-Net's weights; `factors` are (u (out, r), v (r, in)), whose product is added to
    the weight of that name; r may be 0. `tokens` are a token's input embeddings, one (width,) a text encoder: one for
    Stable Diffusion 1 and 2, two for XL; their order is that of training. `text_encoders` are new weights of those
    that were trained too, under `text_encoder` and `text_encoder_2`. `base` holds samples of the weights that the delta
    was learnt on, as `samples` takes them, or nothing.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    factors: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    text_encoders: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    base: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights and not self.factors and not self.tokens:
            raise ValueError("a delta has at least one weight or token")
        if twice := self.weights.keys() & self.factors.keys():
            raise ValueError(f"{min(twice)} is there whole and as factors")
        for name, (u, v) in self.factors.items():
            if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[0]:
                raise ValueError(f"the factors of {name} are {tuple(u.shape)} and {tuple(v.shape)}, not (O, r), (r, I)")
            check_numbers({f"{name} (u)": u, f"{name} (v)": v})
        check_numbers(self.weights)
        widths = {token: tuple(map(tuple, (vector.shape for vector in each))) for token, each in self.tokens.items()}
        for token, shapes in widths.items():
            check_token(token)
            if not shapes or any(len(shape) != 1 or shape == (0,) for shape in shapes):
                raise ValueError(f"the embeddings of {token} are {shapes}; there is one (width,) a text encoder")
            if shapes != next(iter(widths.values())):
                raise ValueError(f"the embeddings of {token} are {shapes}, and others {next(iter(widths.values()))}")
            check_numbers({f"{token} ({i})": vector for i, vector in enumerate(self.tokens[token])})
        for state in self.text_encoders.values():
            check_numbers(state)
        check_numbers(self.base)

    @property
    def names(self) -> list[str]:
        """The U-Net's weights that change."""
        return [*self.weights, *self.factors]

    @property
    def numbers(self) -> int:
        """How many numbers it takes to store, samples of the base left out."""
        tensors = [*self.weights.values(), *(part for pair in self.factors.values() for part in pair)]
        tensors += [vector for each in self.tokens.values() for vector in each]
        tensors += [tensor for state in self.text_encoders.values() for tensor in state.values()]
        return sum(tensor.numel() for tensor in tensors)


def shapes(delta: Delta) -> dict[str, tuple[int, ...]]:
    """The shapes of the U-Net's weights that change."""
    return {name: tuple(tensor.shape) for name, tensor in delta.weights.items()} | {
        name: (len(u), v.shape[1]) for name, (u, v) in delta.factors.items()
    }


def whole(delta: Delta, base: Mapping[str, Tensor]) -> Delta:
    """The delta with every weight whole, float32: the base's plus the product of the factors.

    Raises ValueError as `check_fits` does, for another base included.
    """
    if not delta.factors:
        return delta
    check_fits(delta, base)
    dense = {
        name: base[name].detach().float().to(u.device) + u.float() @ v.float() for name, (u, v) in delta.factors.items()
    }
    return replace(delta, weights={**delta.weights, **dense}, factors={})


def renamed(delta: Delta, names: Mapping[str, str]) -> Delta:
    """The delta with some tokens called otherwise, so that two with the same names can be used together.

    Raises ValueError for a token that it does not have, and where two would have one name.
    """
    if unknown := names.keys() - delta.tokens.keys():
        raise ValueError(f"the delta has no token {min(unknown)}; it has {', '.join(delta.tokens) or 'none'}")
    tokens = {names.get(token, token): each for token, each in delta.tokens.items()}
    if len(tokens) != len(delta.tokens):
        raise ValueError(f"two tokens would have the same name: {', '.join(names.get(t, t) for t in delta.tokens)}")
    return replace(delta, tokens=tokens)


def samples(base: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A few values of a few of the named weights, in their own type: what tells one base from another.

    A hash would tell a model from its own copy in half precision. Raises ValueError naming a weight that is missing.
    """
    ordered = sorted(names)
    if missing := [name for name in ordered if name not in base]:
        raise ValueError(f"the base has no {missing[0]}")
    return {ordered[i]: _sample(base[ordered[i]]) for i in _spread(len(ordered), TENSORS_SAMPLED).tolist()}


def check_fits(delta: Delta, base: Mapping[str, Tensor], any_base: bool = False) -> None:
    """Checks that a delta is for the U-Net whose state dict is `base`.

    Raises ValueError naming a weight that the base does not have or has in another shape and, unless `any_base`, one
    that does not have the values on which the delta was learnt, up to the rounding of the coarser of both types.
    """
    for name, shape in shapes(delta).items():
        if name not in base:
            raise ValueError(f"the delta changes {name}, which this U-Net does not have; load the model it is for")
        if tuple(base[name].shape) != shape:
            raise ValueError(
                f"the delta has {name} as {shape}, this U-Net as {tuple(base[name].shape)}; load the model it is for"
            )
    for name, expected in () if any_base else delta.base.items():
        if name not in base:
            raise ValueError(f"the delta was learnt beside {name}, which this U-Net does not have")
        found = _sample(base[name])
        rounding = max(torch.finfo(tensor.dtype).eps for tensor in (expected, found))
        if found.shape != expected.shape or bool(
            (found.double() - expected.double()).abs().max() > 2 * rounding * expected.double().abs().max()
        ):
            raise ValueError(
                f"the delta was learnt on another {name} than this U-Net's; load the model it is for, or say any_base"
            )


def check_token(token: str) -> None:
    """Raises ValueError for a name that no prompt, or no file's name, could hold."""
    if not re.fullmatch(r"[^\s/\\+\x00-\x1f]{1,100}", token) or set(token) == {"."}:
        raise ValueError(f"{token!r} is no name of a token: it has no blanks, slashes or plus signs")


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming a tensor that is no plain floats, or that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not plain floats")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinity")


def _sample(weight: Tensor) -> Tensor:
    values = weight.detach().reshape(-1)
    return values[_spread(len(values), VALUES_SAMPLED).to(values.device)].cpu().clone()


def _spread(count: int, most: int) -> Tensor:
    """At most so many places of 0..count - 1, evenly spread, the first and the last among them."""
    chosen = min(count, most)
    return torch.arange(chosen) * (count - 1) // max(chosen - 1, 1)
