"""Transformers on the touched pixels only: which values of a program can be made row by row, and how.

A transformer works on tokens, one a pixel. Linear layers, norms over channels, activations and sums treat every token
for itself, so they are computed for touched pixels alone; in attention only the queries are, while keys and values are
those of the whole picture (Li et al. 2023, section on attention). Rows are (N, touched, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from gengauge.kernels.tile_conv import EditedMap, Touched
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.program import NORMS, Program
from gengauge.reference.sige.tape import Call, Ref, Tape

Size = tuple[int, int]
VIEWS = ("view", "reshape", "flatten", "unflatten")
POINTWISE = ("gelu", "silu", "relu", "sigmoid", "tanh", "mish")
ARITHMETIC = ("add", "mul", "sub", "div", "__radd__", "__rmul__")
ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Layout:
    """How a value holds the pixels of a map: its axes (P: all pixels in a row; h, d: heads and their width)."""

    axes: str  # NCHW, NHWC, NCP, NPC, NPhd or NhPd
    size: Size


class TokenPlan:
    """What of a program can be made of touched rows, and which such values must be kept whole."""

    def __init__(self, program: Program, policy: Policy) -> None:
        self.program, self.policy = program, policy
        self.tape = program.tape
        self.layouts: dict[int, Layout] = {}
        for call in self.tape.calls:
            self._lay_out(call)
        self.kept: dict[int, Layout] = {}  # made of rows, but read as a whole
        self._rows: dict[int, bool] = {}
        self._demanded: set[tuple[str, int]] = set()
        for step in program.steps:
            for part in step.parts:
                if policy.block(step) is not None and step.kernel == 1 and step.stride == 1 and not part.doubled:
                    self._demand_rows(part.value)
                else:
                    self._demand_whole(part.value)
            for side in (step.gamma, step.beta, step.residual):
                if side is not None:
                    self._demand_whole(side.value)
        self._demand_whole(self.tape.output)

    def rowwise(self, value: int) -> bool:
        """Whether a value can be made for touched pixels alone, at less than the cost of the whole."""
        value = self.program.resolve(value)
        if value not in self._rows:
            self._rows[value] = False  # of what is not laid out
            self._rows[value] = self._rowwise(value)
        return self._rows[value]

    def row_calls(self) -> list[int]:
        """Calls that run on touched rows only."""
        rows = {value for kind, value in self._demanded if kind == "rows"}
        both = {value for kind, value in self._demanded if kind == "whole" and value not in self.kept}
        return sorted({self.program.producers[value] for value in rows - both})

    def sizes(self) -> dict[Size, int]:
        """The maps on which rows are computed, and the edge of their tiles."""
        found: dict[Size, int] = {}
        for kind, value in self._demanded:
            if kind == "rows":
                block = self.block(value)
                assert block is not None
                found[self.layouts[value].size] = block
        return found

    def block(self, value: int) -> int | None:
        """The edge of the tiles in which a value's rows are computed."""
        value = self.program.resolve(value)
        call = self.tape.calls[self.program.producers[value]]
        return self.policy.tokens(call.module, self.layouts[value].size)

    # -- layouts -------------------------------------------------------------------------------------------------------

    def _lay_out(self, call: Call) -> None:
        tape, resolve = self.tape, self.program.resolve
        first = call.args[0] if call.args else None
        if not isinstance(first, Ref) or call.outputs[0] not in tape.changing:
            return
        before = self.layouts.get(resolve(first.index))
        shape = tape.shapes[call.outputs[0]]
        axes: str | None
        if before is not None and call.op in ("permute", "transpose", *VIEWS):
            axes = self._moved(call, before, shape)
        elif before is not None and (call.op in POINTWISE or call.op in NORMS):
            axes = before.axes
        elif call.op in ("linear", "layer_norm"):  # on the last axis, which must be the channels alone
            if before is None or before.axes not in ("NPC", "NHWC") or not _on_channels(call, tape.shapes[first.index]):
                return
            axes = before.axes
        elif before is not None and call.op in ("chunk", "split"):
            axes = before.axes if before.axes == "NPC" and _last_axis(call, 3) else None
        elif call.op in ARITHMETIC or call.op == ATTENTION:
            found = [self.layouts.get(resolve(i)) for i in call.inputs() if resolve(i) in tape.changing]
            axes = found[0].axes if found and found[0] is not None and all(found) else None
            before = found[0] if found else None
            if call.op != ATTENTION and any(lay != before for lay in found):
                axes = None
        else:
            axes = None
        if axes is None and len(shape) == 4 and call.op not in ("permute", "transpose", *VIEWS, ATTENTION):
            axes, before = "NCHW", Layout("NCHW", (shape[2], shape[3]))
        if axes is not None and before is not None:
            self.layouts.update((out, Layout(axes, before.size)) for out in call.outputs)

    @staticmethod
    def _moved(call: Call, before: Layout, shape: torch.Size) -> str | None:
        pixels = before.size[0] * before.size[1]
        rest = call.args[1:]
        if call.op == "permute":
            order = tuple(rest[0]) if len(rest) == 1 else tuple(rest)
            return {("NCHW", (0, 2, 3, 1)): "NHWC", ("NHWC", (0, 3, 1, 2)): "NCHW"}.get((before.axes, order))
        if call.op == "transpose":
            swaps = {"NCP": "NPC", "NPC": "NCP", "NPhd": "NhPd", "NhPd": "NPhd"}
            return swaps.get(before.axes) if sorted(axis % len(shape) for axis in rest) == [1, 2] else None
        if before.axes == "NHWC":
            return "NPC" if len(shape) == 3 and shape[1] == pixels else None
        if before.axes == "NCHW":
            return "NCP" if len(shape) == 3 and shape[2] == pixels else None
        if before.axes == "NCP":
            return "NCHW" if tuple(shape[2:]) == before.size else None
        if before.axes == "NPC" and len(shape) == 4:
            return "NHWC" if tuple(shape[1:3]) == before.size else "NPhd" if shape[1] == pixels else None
        return "NPC" if before.axes == "NPhd" and len(shape) == 3 and shape[1] == pixels else None

    # -- demands -------------------------------------------------------------------------------------------------------

    def _rowwise(self, value: int) -> bool:
        """Whether there is something behind a value that is worth computing for touched pixels alone."""
        if value in self.program.by_output or value not in self.program.producers or value not in self.layouts:
            return False
        call = self.tape.calls[self.program.producers[value]]
        if call.module and self.policy.tokens(call.module, self.layouts[value].size) is None:
            return False
        inputs = [i for i in self.program.inputs_of(call) if i in self.tape.changing]
        size = self.layouts[value].size
        if any(i in self.layouts and self.layouts[i].size != size for i in inputs):
            return False
        if (call.op in ARITHMETIC and call.kwargs) or (call.op == ATTENTION and not _for_each_query(self.tape, call)):
            return False
        if call.op in ("linear", ATTENTION):
            query = inputs[0]
            return query in self.layouts and self._sides_known(call)
        known = all(i in self.layouts for i in inputs) and self._sides_known(call)
        passes = call.op in (*POINTWISE, *ARITHMETIC, *VIEWS, "permute", "transpose", "layer_norm", "chunk", "split")
        return known and (passes or call.op in NORMS) and any(self.rowwise(i) for i in inputs)

    def _sides_known(self, call: Call) -> bool:
        """Whether what does not change is the same for every pixel."""
        if call.op not in ARITHMETIC:
            return True
        value = call.outputs[0]
        axes = self.layouts[value].axes
        still = [arg for arg in call.args if isinstance(arg, Ref) and arg.index not in self.tape.changing]
        channel_last = axes in ("NPC", "NHWC")
        for arg in still:
            shape = self.tape.shapes[arg.index]
            alike = prod(shape[:-1]) == 1 if channel_last else len(shape) == 4 and prod(shape[2:]) == 1
            if shape.numel() != 1 and not alike:
                return False
        return axes in ("NPC", "NHWC", "NCHW")

    def _demand_whole(self, value: int) -> None:
        value = self.program.resolve(value)
        if ("whole", value) in self._demanded or value not in self.tape.changing:
            return
        self._demanded.add(("whole", value))
        if value in self.program.by_output or value not in self.program.producers:
            return
        call = self.tape.calls[self.program.producers[value]]
        kept = call.op in ("add", "__radd__") or (call.op == "linear" and self.policy.keeps_keys)
        if kept and self.rowwise(value) and self.layouts[value].axes in ("NPC", "NCHW"):
            self.kept[value] = self.layouts[value]
            self._demand_rows(value)
            return
        for source in self.program.inputs_of(call):
            self._demand_whole(source)

    def _demand_rows(self, value: int) -> None:
        value = self.program.resolve(value)
        if ("rows", value) in self._demanded or value not in self.tape.changing:
            return
        if not self.rowwise(value):
            self._demand_whole(value)
            return
        self._demanded.add(("rows", value))
        call = self.tape.calls[self.program.producers[value]]
        inputs = self.program.inputs_of(call)
        for place, source in enumerate(inputs):
            if call.op == ATTENTION and place > 0:
                self._demand_whole(source)
            else:
                self._demand_rows(source)


class Rows:
    """Makes the touched rows of values in one pass; `whole` gives a value as a tensor, `affine` a kept norm's."""

    def __init__(
        self,
        plan: TokenPlan,
        whole: Callable[[int], Tensor],
        edited: Callable[[int], EditedMap | None],
        affine: Callable[[Call], tuple[Tensor, Tensor]],
    ) -> None:
        self.plan, self.whole, self.edited, self.affine = plan, whole, edited, affine
        self._made: dict[tuple[int, int], Tensor] = {}

    def of(self, value: int, touched: Touched) -> Tensor:
        """Rows of a value: (N, touched.count, C), or heads (N, touched.count, h, d) and (N, h, touched.count, d)."""
        value = self.plan.program.resolve(value)
        key = value, id(touched)
        if key not in self._made:
            edited = self.edited(value)
            if edited is not None and edited.touched is touched:
                self._made[key] = edited.news
            elif self.plan.rowwise(value):
                self._compute(self.plan.tape.calls[self.plan.program.producers[value]], touched)
            else:
                self._made[key] = self._taken(value, touched)
        return self._made[key]

    def _taken(self, value: int, touched: Touched) -> Tensor:
        """Rows read from the whole value."""
        layout = self.plan.layouts.get(value)
        x = self.whole(value)
        axes = layout.axes if layout is not None else "NCHW"
        if axes == "NCHW":
            x = x.flatten(2).transpose(1, 2)
        elif axes == "NHWC":
            x = x.flatten(1, 2)
        elif axes in ("NCP", "NhPd"):
            x = x.transpose(1, 2)
        out = x.new_zeros(len(x), touched.count, *x.shape[2:])
        out[:, touched.numbers] = x[:, touched.pixels]
        return out.transpose(1, 2) if axes == "NhPd" else out

    def _compute(self, call: Call, touched: Touched) -> None:
        resolve, tape = self.plan.program.resolve, self.plan.tape
        first = resolve(call.args[0].index) if isinstance(call.args[0], Ref) else -1
        out = call.outputs[0]
        results: Sequence[Tensor]
        if call.op in ("permute", "transpose", *VIEWS):
            x = self.of(first, touched)
            before, after = self.plan.layouts[first].axes, self.plan.layouts[out].axes
            if after == "NPhd" and before == "NPC":
                x = x.unflatten(2, tuple(tape.shapes[out][2:]))
            elif {before, after} == {"NPhd", "NhPd"}:
                x = x.transpose(1, 2)
            elif before == "NPhd":
                x = x.flatten(2)
            results = [x]
        elif call.op == ATTENTION:
            query, *others = call.args
            results = [call.function(self.of(query.index, touched), *map(self._still, others), **self._kwargs(call))]
        elif call.op in NORMS:
            scale, shift = self.affine(call)
            results = [self.of(first, touched) * scale[:, None] + shift[:, None]]
        elif call.op in ARITHMETIC:
            results = [call.function(*(self._side(arg, touched) for arg in call.args))]
        else:
            made = call.function(self.of(first, touched), *map(self._still, call.args[1:]), **self._kwargs(call))
            results = made if isinstance(made, (tuple, list)) else [made]
        for index, rows in zip(call.outputs, results, strict=True):
            self._made[index, id(touched)] = rows

    def _side(self, arg: Any, touched: Touched) -> Any:
        if not isinstance(arg, Ref):
            return arg
        if arg.index in self.plan.tape.changing:
            return self.of(arg.index, touched)
        still = self.whole(arg.index)
        return still.flatten(1)[:, None] if still.ndim == 4 else still  # per channel

    def _still(self, arg: Any) -> Any:
        return self.whole(arg.index) if isinstance(arg, Ref) else arg

    def _kwargs(self, call: Call) -> dict[str, Any]:
        return {name: self._still(arg) for name, arg in call.kwargs.items()}


def _on_channels(call: Call, shape: torch.Size) -> bool:
    """Whether a layer norm is over the last axis alone; linear layers always are."""
    if call.op == "linear":
        return True
    over = call.args[1] if len(call.args) > 1 else call.kwargs.get("normalized_shape")
    return over is not None and tuple(over) == (shape[-1],)


def _for_each_query(tape: Tape, call: Call) -> bool:
    """Whether attention treats all queries alike: no causal order, and no mask that differs between them."""
    if len(call.args) > 5 or call.kwargs.get("is_causal"):
        return False
    mask = call.args[3] if len(call.args) > 3 else call.kwargs.get("attn_mask")
    return mask is None or (isinstance(mask, Ref) and len(shape := tape.shapes[mask.index]) >= 2 and shape[-2] == 1)


def _last_axis(call: Call, ndim: int) -> bool:
    axis = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)
    return axis in (-1, ndim - 1)
