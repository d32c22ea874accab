"""A network's tape, read as convolutions with what surrounds them.

A convolution takes in what stands before it as far as it works pixel by pixel: concatenation, nearest up-sampling,
normalisation with known statistics, per-channel and per-pixel affine maps, an activation, zero padding. It takes in the
sum that follows it. What is left are a few functions (attention, pooling) that run on whole maps by torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gengauge.reference.sige.tape import Call, Ref, Tape

ACTIVATIONS = {"silu": "swish", "relu": "relu", "leaky_relu": "leaky_relu"}
NORMS = ("group_norm", "batch_norm", "instance_norm")
VIEWS = frozenset(
    ["chunk", "split", "view", "reshape", "flatten", "unflatten", "permute", "transpose", "unsqueeze", "squeeze"]
) | {"contiguous", "expand", "T", "mT", "unbind", "__getitem__"}


@dataclass(frozen=True)
class Part:
    """`channels` channels from `start` of a value that is a map; with `doubled`, up-sampled by repeating pixels."""

    value: int
    start: int
    channels: int
    doubled: bool = False


@dataclass(frozen=True)
class ChannelOp:
    """A step of the affine before a convolution: `norm` by a call, `multiply` or `add` by a value or number."""

    kind: Literal["norm", "multiply", "add"]
    operand: Call | Ref | float


@dataclass(frozen=True)
class ConvStep:
    """One convolution with its surroundings; `output` is the value it makes, after the sum with `residual`."""

    name: str  # as published, without ".weight"
    call: Call
    weight: int
    bias: int | None
    kernel: int
    stride: int
    padding: int  # zeros on the left and top
    groups: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    channels_in: int
    channels_out: int
    parts: tuple[Part, ...]
    channel_ops: tuple[ChannelOp, ...]  # from the parts to the convolution
    gamma: Part | None
    beta: Part | None
    activation: str
    negative_slope: float
    residual: Part | None
    raw: int  # the convolution's own output
    output: int
    position: int  # of the last call taken in; the steps' order
    gathered: tuple[int, ...]  # calls taken in, nearer to the convolution than any up-sampling
    before: tuple[int, ...]  # calls taken in beyond an up-sampling


@dataclass(frozen=True)
class Program:
    """The convolutions of a tape in order, by the value they make."""

    tape: Tape
    steps: tuple[ConvStep, ...]
    aliases: dict[int, int]  # values that are others under a new name
    producers: dict[int, int]  # which call makes a value
    by_output: dict[int, ConvStep] = field(default_factory=dict)

    def resolve(self, value: int) -> int:
        """The value behind names."""
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def step_making(self, value: int) -> ConvStep | None:
        """The convolution whose output a value is."""
        return self.by_output.get(value)

    def inputs_of(self, call: Call) -> list[int]:
        """The values that a call takes, behind their names."""
        return [self.resolve(value) for value in call.inputs()]

    def needed(self, roots: list[int]) -> list[int]:
        """Changing calls outside of convolutions that must run to make `roots` from convolutions' outputs, in order."""
        found: set[int] = set()
        queue = [self.resolve(root) for root in roots]
        seen = set(queue)
        while queue:
            value = queue.pop()
            if value in self.by_output or value not in self.tape.changing or value not in self.producers:
                continue
            call = self.producers[value]
            found.add(call)
            for source in self.inputs_of(self.tape.calls[call]):
                if source not in seen:
                    seen.add(source)
                    queue.append(source)
        return sorted(found)

    def whole_map_calls(self) -> list[int]:
        """Calls outside of convolutions that the steps and the result need: they run on whole maps, by torch."""
        roots = [self.tape.output]
        for step in self.steps:
            parts = (*step.parts, step.gamma, step.beta, step.residual)
            roots += [part.value for part in parts if part is not None]
        return self.needed(roots)

    def listing(self, but: Collection[int] = ()) -> dict[str, int]:
        """How often each function runs on whole maps, views and the calls `but` left out."""
        calls = (self.tape.calls[index] for index in self.whole_map_calls() if index not in but)
        return dict(Counter(call.op for call in calls if call.op not in VIEWS))


def plan(tape: Tape) -> Program:
    """The program of a tape. Raises ValueError where the network is in training mode."""
    return _Planner(tape).program()


class _Planner:
    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.names = tape.names()
        self.producers = {out: i for i, call in enumerate(tape.calls) for out in call.outputs}
        self.aliases = dict(self._aliases())
        self.uses: Counter[int] = Counter()
        for call in tape.calls:
            self.uses.update(set(map(self.resolve, call.inputs())))
        self.uses[self.resolve(tape.output)] += 1
        self.convs = [i for i, call in enumerate(tape.calls) if self._is_conv(call)]
        self.sums = self._sums()
        self.made = {self._output(i) for i in self.convs}

    def program(self) -> Program:
        steps: list[ConvStep] = []
        named: Counter[str] = Counter()
        for step in sorted((self._step(i) for i in self.convs), key=lambda step: step.position):
            named[step.name] += 1  # a module may be called more than once
            steps.append(replace(step, name=f"{step.name}#{named[step.name]}") if named[step.name] > 1 else step)
        return Program(self.tape, tuple(steps), self.aliases, self.producers, {step.output: step for step in steps})

    # -- reading the tape ----------------------------------------------------------------------------------------------

    def resolve(self, value: int) -> int:
        while value in self.aliases:
            value = self.aliases[value]
        return value

    def producer(self, value: int) -> Call | None:
        index = self.producers.get(value)
        return None if index is None else self.tape.calls[index]

    def changing(self, item: Any) -> bool:
        return isinstance(item, Ref) and item.index in self.tape.changing

    def _aliases(self) -> Iterator[tuple[int, int]]:
        for call in self.tape.calls:
            if not call.args or not self.changing(call.args[0]) or len(call.outputs) != 1:
                continue
            factor = call.args[1] if len(call.args) == 2 else None
            if (
                (call.op == "dropout" and not call.argument(2, "training", True))
                or (call.op in ("contiguous", "clone", "detach") and len(call.args) == 1)
                or (call.op in ("div", "mul", "truediv") and isinstance(factor, (int, float)) and factor == 1)
            ):
                yield call.outputs[0], call.args[0].index

    def _is_conv(self, call: Call) -> bool:
        if call.op != "conv2d" or not self.changing(call.args[0]):
            return False
        weight, bias = call.args[1], call.argument(2, "bias", None)
        shape = self.tape.shapes[weight.index]
        stride, padding, dilation = (
            _pair(call.argument(i, name, default))
            for i, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
        )
        return (
            weight.index in self.names
            and (bias is None or bias.index in self.names)
            and len(self.tape.shapes[call.args[0].index]) == 4
            and shape[2] == shape[3]
            and dilation == (1, 1)
            and stride is not None
            and stride[0] == stride[1]
            and padding is not None
            and padding[0] == padding[1]
        )

    def _sums(self) -> dict[int, int]:
        """Which addition (a call) each convolution (a call) takes in."""
        taken: dict[int, int] = {}
        of_output = {self.tape.calls[i].outputs[0]: i for i in self.convs}
        for index, call in enumerate(self.tape.calls):
            if call.op not in ("add", "__add__", "__radd__") or call.kwargs or len(call.args) != 2:
                continue
            if not all(self.changing(arg) for arg in call.args):
                continue
            sides = [self.resolve(arg.index) for arg in call.args]
            if self.tape.shapes[sides[0]] != self.tape.shapes[sides[1]] or sides[0] == sides[1]:
                continue
            if any(self._is_product(side) for side in sides):
                continue  # x * (1 + gamma) + beta: a modulation, which the next convolution takes in
            candidates = [of_output[s] for s in sides if s in of_output and self.uses[s] == 1]
            if candidates:  # the larger kernel has the larger tiles; the shortcut's lie within them
                taken[max(candidates, key=lambda i: (self._kernel(i), i))] = index
        return taken

    def _is_product(self, value: int) -> bool:
        call = self.producer(value)
        return call is not None and call.op in ("mul", "__rmul__") and all(self.changing(arg) for arg in call.args)

    def _kernel(self, conv: int) -> int:
        return self.tape.shapes[self.tape.calls[conv].args[1].index][2]

    def _output(self, conv: int) -> int:
        return self.tape.calls[self.sums.get(conv, conv)].outputs[0]

    def doubles(self, call: Call) -> bool:
        """Whether a call repeats every pixel of a map two by two."""
        if call.op != "interpolate" or not self.changing(call.args[0]):
            return False
        small, large = self.tape.shapes[call.args[0].index], self.tape.shapes[call.outputs[0]]
        return (
            call.argument(3, "mode", "nearest") == "nearest"
            and len(small) == 4
            and tuple(large[2:]) == (2 * small[2], 2 * small[3])
        )

    def part(self, value: int, doubled: bool = False) -> Part:
        """A value as channels of a map that is there: a slice, or up-sampled, where it is no more than that."""
        value = self.resolve(value)
        start, channels = 0, self.tape.shapes[value][1]
        call = self.producer(value)
        if call is not None and value not in self.made and not doubled and self.doubles(call):
            doubled, value = True, self.resolve(call.args[0].index)
            call = self.producer(value)
        if call is not None and value not in self.made and call.op in ("chunk", "split"):
            cut = _slice(self, value)
            if cut is not None:
                start, value = cut[0], self.resolve(call.args[0].index)
        return Part(value, start, channels, doubled)

    # -- one convolution -----------------------------------------------------------------------------------------------

    def _step(self, index: int) -> ConvStep:
        call = self.tape.calls[index]
        weight = call.args[1].index
        bias = call.argument(2, "bias", None)
        stride, padding = (_pair(call.argument(i, n, d)) for i, n, d in ((3, "stride", 1), (4, "padding", 0)))
        assert stride is not None
        assert padding is not None
        sum_call = self.sums.get(index)
        residual = None
        if sum_call is not None:
            sides = [self.resolve(arg.index) for arg in self.tape.calls[sum_call].args]
            residual = self.part(next(side for side in sides if side != call.outputs[0]))
        shapes = self.tape.shapes
        before = _Before(self, self.resolve(call.args[0].index), padding[0])
        first = before.parts[0]
        size = shapes[first.value][2:]
        return ConvStep(
            name=self.names[weight].removesuffix(".weight"),
            call=call,
            weight=weight,
            bias=None if bias is None else bias.index,
            kernel=shapes[weight][2],
            stride=stride[0],
            padding=before.padding,
            groups=call.argument(6, "groups", 1),
            size_in=(size[0] << first.doubled, size[1] << first.doubled),
            size_out=(shapes[call.outputs[0]][2], shapes[call.outputs[0]][3]),
            channels_in=sum(part.channels for part in before.parts),
            channels_out=shapes[weight][0],
            parts=before.parts,
            channel_ops=tuple(reversed(before.ops)),
            gamma=before.gamma,
            beta=before.beta,
            activation=before.activation or "identity",
            negative_slope=before.slope,
            residual=residual,
            raw=call.outputs[0],
            output=self._output(index),
            position=index if sum_call is None else sum_call,
            gathered=tuple(before.gathered),
            before=tuple(before.beyond),
        )


class _Before:
    """Walks up from a convolution's input and takes in what works pixel by pixel."""

    def __init__(self, planner: _Planner, value: int, padding: int) -> None:
        self.planner = planner
        self.padding = padding
        self.ops: list[ChannelOp] = []  # from the convolution upwards
        self.gamma: Part | None = None
        self.beta: Part | None = None
        self.activation: str | None = None
        self.slope = 0.0
        self.doubled = False
        self.gathered: list[int] = []
        self.beyond: list[int] = []
        self.cut: tuple[int, int] | None = None  # start and number of the channels that are used
        while True:
            step = self._above(value)
            if step is None:
                break
            value = step
        self.parts = self._parts(value)

    def _take(self, value: int) -> None:
        (self.beyond if self.doubled else self.gathered).append(self.planner.producers[value])

    def _above(self, value: int) -> int | None:
        """What `value` is made from, where that can be taken in."""
        planner = self.planner
        call = planner.producer(value)
        if call is None or value in planner.made or value not in planner.tape.changing:
            return None
        above = call.args[0] if call.args else None
        if call.op in NORMS or call.op in ("add", "mul", "__radd__", "__rmul__"):
            return self._affine(call, value)
        if not isinstance(above, Ref) or not planner.changing(above):
            return None
        if call.op == "pad" and self._pads(call):
            return planner.resolve(above.index)
        untouched = not (self.ops or self.gamma or self.activation)
        if call.op in ACTIVATIONS and untouched:
            self.activation = ACTIVATIONS[call.op]
            self.slope = float(call.argument(1, "negative_slope", 0.01)) if call.op == "leaky_relu" else 0.0
        elif not self.doubled and planner.doubles(call):
            self._take(value)
            self.doubled = True
            return planner.resolve(above.index)
        elif call.op in ("chunk", "split") and self.cut is None and not self.ops and not self.gamma:
            cut = _slice(planner, value)
            if cut is None:
                return None
            self.cut = cut
        else:
            return None
        self._take(value)
        return planner.resolve(above.index)

    def _affine(self, call: Call, value: int) -> int | None:
        planner, shapes = self.planner, self.planner.tape.shapes
        if self.cut is not None:
            return None
        if call.op in NORMS:
            if not planner.changing(call.args[0]):
                return None
            if call.op == "batch_norm" and call.argument(5, "training", False):
                raise ValueError(
                    f"{call.module}: batch normalisation takes the statistics of its input; the engine needs running "
                    "ones (network.eval(), track_running_stats=True)"
                )
            self.ops.append(ChannelOp("norm", call))
            self._take(value)
            return planner.resolve(call.args[0].index)
        if call.kwargs or len(call.args) != 2:
            return None
        sides = list(call.args)
        changing = [side for side in sides if planner.changing(side)]
        if len(changing) == 1:
            other = sides[1 - sides.index(changing[0])]
            per_channel = isinstance(other, (int, float)) or (
                isinstance(other, Ref)
                and len(shapes[other.index]) == 4
                and shapes[other.index][2:] == (1, 1)
                and shapes[other.index][1] == shapes[value][1]
            )
            if not per_channel or shapes[changing[0].index] != shapes[value]:
                return None
            kind: Literal["multiply", "add"] = "multiply" if "mul" in call.op else "add"
            self.ops.append(ChannelOp(kind, other if isinstance(other, Ref) else float(other)))
            self._take(value)
            return planner.resolve(changing[0].index)
        return self._modulation(call, value)

    def _modulation(self, call: Call, value: int) -> int | None:
        """value = x * (1 + gamma) + beta, of maps."""
        planner, shapes = self.planner, self.planner.tape.shapes
        if "add" not in call.op or self.gamma is not None or self.ops or self.doubled:
            return None
        for product, beta in (call.args, call.args[::-1]):
            times = planner.producer(planner.resolve(product.index))
            if times is None or times.op not in ("mul", "__rmul__") or len(times.args) != 2 or times.kwargs:
                continue
            for x, factor in (times.args, times.args[::-1]):
                if not planner.changing(x) or not planner.changing(factor):
                    continue
                plus = planner.producer(planner.resolve(factor.index))
                if plus is None or plus.op not in ("add", "__radd__") or len(plus.args) != 2 or plus.kwargs:
                    continue
                gamma = next((arg for arg in plus.args if planner.changing(arg)), None)
                if gamma is None or not any(isinstance(arg, (int, float)) and arg == 1 for arg in plus.args):
                    continue
                if not shapes[x.index] == shapes[gamma.index] == shapes[beta.index] == shapes[value]:
                    continue
                self.gamma, self.beta = self._part(gamma.index), self._part(beta.index)
                for taken in (value, product.index, factor.index):
                    self._take(planner.resolve(taken))
                return planner.resolve(x.index)
        return None

    def _pads(self, call: Call) -> bool:
        """Zero padding, the same on the left and top; that on the right and bottom follows from the output's size."""
        sides = call.args[1]
        zeros = call.argument(2, "mode", "constant") == "constant" and not call.argument(3, "value", None)
        first = not (self.ops or self.activation or self.gamma or self.doubled or self.cut or self.padding)
        if not zeros or len(sides) != 4 or sides[0] != sides[2] or min(sides) < 0 or not first:
            return False
        self.padding += sides[0]
        return True

    def _parts(self, value: int) -> tuple[Part, ...]:
        planner = self.planner
        call = planner.producer(value)
        alone = (self._part(value),)
        if call is None or call.op != "cat" or value in planner.made or self.cut is not None:
            return alone
        items = call.args[0]
        if call.argument(1, "dim", 0) != 1 or len(items) > 3 or not all(planner.changing(item) for item in items):
            return alone
        parts = []
        for item in items:
            parts.append(planner.part(item.index, self.doubled))
        self._take(value)
        return tuple(parts)

    def _part(self, value: int) -> Part:
        part = self.planner.part(value, self.doubled)
        if self.cut is None:
            return part
        start, channels = self.cut
        return Part(part.value, part.start + start, channels, part.doubled)


def _slice(planner: _Planner, value: int) -> tuple[int, int] | None:
    """First channel and number of channels of an output of `chunk` or `split` along the channels."""
    call = planner.producer(value)
    if call is None or call.argument(2, "dim", 0) != 1 or len(planner.tape.shapes[value]) != 4:
        return None
    place = call.outputs.index(value)
    widths = [planner.tape.shapes[out][1] for out in call.outputs]
    return sum(widths[:place]), widths[place]


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else None
