"""What an edit changes: few layers of a generator, each by an update of low rank; and how edits add up.

Source: Wang et al., SIGGRAPH 2022, section 3.2: weight = W0 + lambda * context, of which both factors are trained.
Works for every generator whose `synthesis` names its layers as StyleGAN2 (`b8.conv0`) or StyleGAN3 (`L8_276_645`) does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

Kind = Literal["conv", "affine", "all"]
RANK = 50


class StyleGenerator(Protocol):
    """What the method needs of a generator: latents to ws (N, num_ws, w_dim), ws to pictures (N, 3, R, R)."""

    z_dim: int
    w_dim: int
    num_ws: int

    @property
    def mapping(self) -> nn.Module: ...

    @property
    def synthesis(self) -> nn.Module: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def get_submodule(self, target: str) -> nn.Module: ...


def layers(generator: StyleGenerator, kind: Kind = "conv") -> list[str]:
    """Names of the layers that an edit may change, in order: convolutions, the affine maps of their styles, or both.

    StyleGAN3's last one makes the picture; StyleGAN2's `torgb` are left out. Raises ValueError for another kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"layers are {', '.join(get_args(Kind))}, not {kind!r}")
    found = [n for n, _ in generator.named_modules() if ".L" in n or (".b" in n and ".conv" in n)]
    return [n for n in found if kind == "all" or n.endswith(".affine") == (kind == "affine")]


def selected(names: Sequence[str], which: str | int) -> list[str]:
    """The layers that an index, a range with both ends (`3-5`) or `all` selects. Raises ValueError for another text."""
    if which == "all":
        return list(names)
    first, dash, last = str(which).partition("-")
    try:
        start, end = int(first), int(last if dash else first)
    except ValueError:
        start = end = -1
    if not 0 <= start <= end < len(names):
        raise ValueError(
            f"layers are an index, a range such as 3-5, or all, within 0 and {len(names) - 1}, not {which!r}"
        )
    return list(names[start : end + 1])


def dense_weight(weight: Tensor, weight_lambda: Tensor, weight_context: Tensor) -> Tensor:
    """W0 (O, I, k, k) and the factors (O, r, k, k) and (r, I): the changed weight (O, I, k, k)."""
    return weight + torch.einsum("or...,ri->oi...", weight_lambda, weight_context)


class LayerUpdate(nn.Module):
    """The change of one layer: factors, or with rank None the weight itself; biases too unless `only_weight`.

    The context is drawn from N(0, 1) by torch's generator, lambda begins at 0, so the first picture is the base's.
    """

    base: Tensor

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        rank: int | None = RANK,
        only_weight: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if rank is not None and rank < 1:
            raise ValueError(f"a rank is 1 or more, or None for the whole weight, not {rank}")
        self.name = name
        weight = layer.get_parameter("weight").detach()
        self.register_buffer("base", weight, persistent=False)
        if rank is None:
            self.weight = nn.Parameter(weight.clone())
        else:
            outputs, inputs, *kernel = weight.shape
            drawn = torch.randn(rank, inputs, generator=generator, device=generator.device if generator else None)
            self.weight_context = nn.Parameter(drawn.to(weight))
            self.weight_lambda = nn.Parameter(weight.new_zeros(outputs, rank, *kernel))
        self.others: list[str] = []
        if not only_weight:
            for key, value in layer.named_parameters(recurse=False):
                if key != "weight":
                    self.register_parameter(key, nn.Parameter(value.detach().clone()))
                    self.others.append(key)

    def tensors(self) -> dict[str, Tensor]:
        """The layer's changed parameters by their names in the generator."""
        whole = "weight" in self._parameters
        weight = self.weight if whole else dense_weight(self.base, self.weight_lambda, self.weight_context)
        return {f"{self.name}.weight": weight} | {f"{self.name}.{key}": self.get_parameter(key) for key in self.others}


class Update(nn.Module):
    """The changes of several layers of a generator."""

    def __init__(
        self,
        g: StyleGenerator,
        names: Sequence[str],
        rank: int | None = RANK,
        only_weight: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            LayerUpdate(name, g.get_submodule(name), rank, only_weight, generator) for name in names
        )

    def tensors(self) -> dict[str, Tensor]:
        """All changed parameters, dense, by their names in the generator: what the published files hold."""
        out: dict[str, Tensor] = {}
        for layer in self.layers:
            assert isinstance(layer, LayerUpdate)
            out |= layer.tensors()
        return out

    def factors(self) -> dict[str, Tensor]:
        """What is trained, by the layers' names in the generator: `NAME.weight_lambda`, `NAME.weight_context`, ..."""
        return {f"{layer.name}.{key}": value for layer in self.layers for key, value in layer.named_parameters()}


def render(g: StyleGenerator, ws: Tensor, changed: Mapping[str, Tensor] | None = None, **noise: Any) -> Tensor:
    """Pictures of ws (N, num_ws, w_dim), by the base or with some parameters changed; gradients reach those.

    `noise` is what StyleGAN2's synthesis takes: `noise_mode`, `noise`, `generator`.
    """
    if not changed:
        return g.synthesis(ws, **noise)
    return functional_call(g.synthesis, _of_synthesis(changed), (ws,), noise)


def feature(
    g: StyleGenerator, name: str, ws: Tensor, changed: Mapping[str, Tensor] | None = None, **noise: Any
) -> Tensor:
    """The output of a layer (N, C, h, w) on the way to the pictures of ws."""
    found: list[Tensor] = []
    handle = g.get_submodule(name).register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        render(g, ws, changed, **noise)
    finally:
        handle.remove()
    return found[0]


def compose(
    base: Mapping[str, Tensor], edits: Sequence[Mapping[str, Tensor]], scales: Sequence[float]
) -> dict[str, Tensor]:
    """The parameters that edits change, each moved away from the base's by the sum of the edits' scaled differences.

    Source: section 3.3 and the released interface. Raises ValueError for tensors that the base does not have, of
    another shape or with values that are no numbers, and where the numbers of edits and scales differ.
    """
    if len(edits) != len(scales) or not all(map(math.isfinite, scales)):
        raise ValueError(f"each edit has a finite scale, not {len(edits)} and {list(scales)}")
    out: dict[str, Tensor] = {}
    for edit, scale in zip(edits, scales, strict=True):
        check_fits(base, edit)
        for name, value in edit.items():
            out[name] = out.get(name, base[name]) + scale * (value.to(base[name]) - base[name])
    return out


def check_fits(base: Mapping[str, Tensor], edit: Mapping[str, Tensor]) -> None:
    """Raises ValueError where an edit is not of this base: unknown names, other shapes, numbers that are none."""
    for name, value in edit.items():
        if name not in base:
            raise ValueError(f"the edit changes {name}, which this generator does not have: it is of another base")
        if value.shape != base[name].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(base[name].shape)}"
            raise ValueError(f"the edit's {name} is {shapes}: it is of another base")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"the edit's {name} holds values that are no finite numbers")


def _of_synthesis(changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bad = [name for name in changed if not name.startswith("synthesis.")]
    if bad:
        raise ValueError(f"{bad[0]} is no parameter of the synthesis")
    return {name.removeprefix("synthesis."): value for name, value in changed.items()}
