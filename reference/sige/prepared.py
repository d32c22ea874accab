"""A network made ready for pictures of one shape: its program, its tiles, its weights, and memory that passes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.kernels.tile_conv import ConvWay, TileConv, Touched, Workspace
from gengauge.reference.sige.policy import FOLLOW, Block, Policy
from gengauge.reference.sige.program import ConvStep, plan
from gengauge.reference.sige.tape import Call, Ref, Tape, record, replace_tensors
from gengauge.reference.sige.tiling import Tiling, grid
from gengauge.reference.sige.tokens import TokenPlan

Size = tuple[int, int]
# Functions that put pixels elsewhere.
DISPLACING = frozenset(
    ["flip", "fliplr", "flipud", "roll", "rot90", "gather", "index_select", "take_along_dim", "grid_sample", "unfold"]
)
DENSE_TILE = 4  # outputs of a tile, along an edge, where a whole map is computed


@dataclass(frozen=True)
class Marks:
    """What an edit touches: of each convolution's output that is computed on tiles, and of the maps of transformers."""

    touched: dict[str, Touched] = field(default_factory=dict)
    tokens: dict[Size, Touched] = field(default_factory=dict)


class Prepared:
    """A network recorded for the shapes of a picture and its further arguments, under a policy.

    Raises ValueError for a network in training mode, and CannotRecord as `record` does.
    """

    def __init__(self, network: nn.Module, policy: Policy, picture: Tensor, *inputs: Any, **kwargs: Any) -> None:
        if network.training:
            raise ValueError("the network is in training mode; call network.eval() first")
        self.kinds = kinds_of(picture, *inputs, **kwargs)
        self.weights = weights_of(network)
        tape = record(network, picture, *inputs, **kwargs)
        self.program = plan(tape)
        self.policy = policy = _where_masks_are(policy, picture, _displaced(tape))
        # Without memory a network can still be counted; where the tiles lie is real then too.
        self.device = picture.device if picture.device.type != "meta" else torch.device("cpu")
        real = dict(network.named_parameters()) | dict(network.named_buffers())
        self.parameters = {index: real[name].detach() for name, index in tape.parameters.items()}
        self.tilings = {step.name: self._tiling(step) for step in self.program.steps}
        self.convs = {step.name: self._conv(step) for step in self.program.steps}
        self.tokens = TokenPlan(self.program, policy)
        self.workspace = Workspace()
        self._grids: dict[tuple[Size, int], Touched] = {}
        self._buffers: dict[int, Tensor] = {}
        self._news: dict[int, Tensor] = {}

    @property
    def has_tiles(self) -> bool:
        """Whether the policy computes anything on tiles."""
        return any(self.tilings.values()) or bool(self.tokens.sizes())

    def marks(self, masks: Mapping[Size, Tensor]) -> Marks:
        """What an edit touches, from its masks: bool (h, w) by size, for every size at which tiles are computed.

        Raises ValueError where a size is missing or a mask has another.
        """
        made: dict[tuple[Size, Tiling, Size], Touched] = {}

        def touched(what: str, size: Size, tiling: Tiling, size_out: Size) -> Touched:
            if size not in masks:
                known = ", ".join(f"{h} x {w}" for h, w in masks)
                raise ValueError(f"{what} works at {size[0]} x {size[1]}, for which there is no mask (of {known})")
            mask = masks[size].to(self.device)
            if tuple(mask.shape) != size:
                raise ValueError(f"the mask for {size} has the shape {tuple(mask.shape)}")
            key = size, tiling, size_out
            if key not in made:
                made[key] = Touched(tiling.corners(mask), tiling.tile, size_out)
            return made[key]

        found: dict[str, Touched] = {}
        for step in self.program.steps:
            tiling = self.tilings[step.name]
            if tiling is None:
                continue
            if self.policy.block(step) == FOLLOW:
                before = self.program.step_making(step.parts[0].value)
                assert before is not None
                found[step.name] = found[before.name]
            else:
                found[step.name] = touched(step.name, step.size_in, tiling, step.size_out)
        sizes = self.tokens.sizes().items()
        return Marks(found, {size: touched("a transformer", size, Tiling(b, 1, 1, 0), size) for size, b in sizes})

    def products(self, way: ConvWay, marks: Marks | None) -> int:
        """Multiplications that the convolutions of a pass really take: Winograd's are fewer than the direct ones."""
        total = 0
        for step in self.program.steps:
            touched = None if marks is None else marks.touched.get(step.name)
            touched = touched or self.grid(step.size_out, step.stride)
            images = self.program.tape.shapes[step.raw][0]
            total += self.convs[step.name].products(way, len(touched.corners) * images, touched.tile)
        return total

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as they are laid out for the native ways."""
        return sum(conv.packed_bytes for conv in self.convs.values())

    def grid(self, size: Size, stride: int) -> Touched:
        """All tiles of a map."""
        key = size, DENSE_TILE // stride or 1
        if key not in self._grids:
            self._grids[key] = Touched(grid(size, key[1], self.device), key[1], size)
        return self._grids[key]

    def buffer(self, value: int, like: Tensor) -> Tensor:
        """The map of a value that is made anew in every pass."""
        if value not in self._buffers:
            self._buffers[value] = self.empty(value, like)
        return self._buffers[value]

    def news(self, value: int, base: Tensor, touched: Touched) -> Tensor:
        """Memory for the touched pixels of a value (N, touched.count, C); the same in every pass, grown as needed."""
        shape = (len(base), touched.count, base.shape[1])
        if value not in self._news or self._news[value].numel() < prod(shape):
            self._news[value] = torch.empty(prod(shape), dtype=base.dtype, device=base.device)
        return self._news[value][: prod(shape)].view(shape)

    def empty(self, value: int, like: Tensor) -> Tensor:
        """A new map for a value."""
        shape = self.program.tape.shapes[value]
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)

    def _tiling(self, step: ConvStep) -> Tiling | None:
        block = self.policy.block(step)
        if block is None:
            return None
        return Tiling(1 if block == FOLLOW else block, step.kernel, step.stride, step.padding)

    def _conv(self, step: ConvStep) -> TileConv:
        return TileConv(
            self.parameters[step.weight],
            None if step.bias is None else self.parameters[step.bias],
            stride=step.stride,
            padding=step.padding,
            groups=step.groups,
        )


def _where_masks_are(policy: Policy, picture: Tensor, displaced: frozenset[int]) -> Policy:
    """The policy where masks of an edit say what changes: on maps that are the picture halved, pixel above pixel.

    Or doubled, as often as the policy says that the network does.
    """
    sizes = {tuple(picture.shape[2:])}
    height, width = picture.shape[2:] if picture.ndim == 4 else (0, 0)
    while height > 1 or width > 1:
        height, width = max(height // 2, 1), max(width // 2, 1)
        sizes.add((height, width))
    for doublings in range(1, policy.doublings + 1):
        sizes.add((picture.shape[2] << doublings, picture.shape[3] << doublings))

    def block(step: ConvStep) -> Block:
        known = step.size_in in sizes and not displaced.intersection(part.value for part in step.parts)
        return policy.block(step) if known else None

    def tokens(name: str, size: Size) -> int | None:
        return policy.tokens(name, size) if size in sizes and not displaced else None

    return replace(policy, block=block, tokens=tokens)


def _displaced(tape: Tape) -> frozenset[int]:
    """Values whose pixels do not lie where those of the picture do: flipped, rolled, transposed, cut out."""
    found: set[int] = set()
    for call in tape.calls:
        if found.intersection(call.inputs()) or (call.outputs[0] in tape.changing and _displaces(tape, call)):
            found.update(call.outputs)
    return frozenset(found)


def _displaces(tape: Tape, call: Call) -> bool:
    first = call.args[0] if call.args else None
    if call.op in DISPLACING or "fft" in call.op:
        return True
    if not isinstance(first, Ref) or len(tape.shapes[first.index]) != 4:
        return False
    before, after = tape.shapes[first.index], tape.shapes[call.outputs[0]]
    if call.op == "__getitem__":  # of a map; of heads and batches the size stays
        return len(after) == 4 and before[2:] != after[2:]
    if call.op in ("transpose", "permute", "swapaxes", "swapdims", "movedim"):
        order = tuple(call.args[1]) if len(call.args) == 2 else tuple(call.args[1:])
        swapped = call.op == "transpose" and sorted(axis % 4 for axis in order) == [2, 3]
        turned = call.op == "permute" and (order.index(3) < order.index(2) if {2, 3} <= set(order) else False)
        return len(after) == 4 and (swapped or turned) and before[1] != 1 and _is_map(tape, first.index)
    return False


def _is_map(tape: Tape, value: int) -> bool:
    """Whether a value of four axes comes from a convolution, a norm or an activation, and not from heads."""
    makers = {out: call for call in tape.calls for out in call.outputs}
    return value not in makers or makers[value].op not in ("view", "reshape", "transpose", "permute", "unflatten")


def weights_of(network: nn.Module) -> tuple[tuple[int, int], ...]:
    """What changes when any weight does, in place or by another tensor."""
    tensors = (*network.parameters(), *network.buffers())
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def kinds_of(*inputs: Any, **kwargs: Any) -> Any:
    """What a recording depends on: shapes, types and devices of tensors, and the values of everything else."""
    return replace_tensors(lambda value: (value.shape, value.dtype, value.device), (inputs, kwargs))
