"""What a network does, written down once: every torch function it calls, in order, and what flows between them.

The network runs on meta tensors under a torch function mode: nothing is computed, nothing is kept, and the network need
not know. What its Python code decides on the way (sizes, branches) is fixed on the tape, so a tape belongs to one set
of input shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode


class CannotRecord(ValueError):
    """The network does something that a tape cannot hold; the message names it."""


@dataclass(frozen=True)
class Ref:
    """A tensor on the tape: the `index`-th value."""

    index: int


@dataclass(frozen=True)
class Call:
    """One call of a torch function; tensors among the arguments stand as `Ref`."""

    op: str  # the function's plain name, without the underscore of an in-place form
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    in_place: bool
    module: str  # the published name of the innermost module that was running

    def inputs(self) -> list[int]:
        """Indices of the tensors among the arguments, in order."""
        found: list[int] = []
        _each(found.append, (self.args, self.kwargs))
        return found

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)


@dataclass(frozen=True)
class Tape:
    """The calls of one forward pass.

    `inputs` are the indices of the tensors given to the network in order (the first is the picture), `parameters` the
    indices of its parameters and buffers by published name, `shapes` every value's shape, `output` the result.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    parameters: dict[str, int]
    shapes: tuple[torch.Size, ...]
    output: int
    changing: frozenset[int]  # values that depend on the picture

    def names(self) -> dict[int, str]:
        """The published name of each parameter, by index."""
        return {index: name for name, index in self.parameters.items()}


def record(network: nn.Module, *inputs: Any, **kwargs: Any) -> Tape:
    """The tape of `network(*inputs, **kwargs)`; the first input is the picture that edits change.

    Of the tensors among the inputs only shapes and types matter. The result is the first tensor of what the network
    returns. Raises CannotRecord where the network changes a tensor through a view of it, or returns no tensor.
    """
    with torch.inference_mode(False):  # in-place changes are seen by versions, which inference tensors have not
        return _record(network, inputs, kwargs)


def _record(network: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Tape:
    recorder = _Recorder()
    parameters = {name: _ghost(value) for name, value in network.named_parameters()}
    parameters |= {name: _ghost(value) for name, value in network.named_buffers()}
    for value in parameters.values():
        recorder.index(value)
    ghosts = replace_tensors(_ghost, inputs)
    ghost_kwargs = replace_tensors(_ghost, kwargs)
    given: list[int] = []
    replace_tensors(lambda value: given.append(recorder.index(value)), (ghosts, ghost_kwargs))
    try:
        with torch.no_grad(), torch.device("meta"), recorder, recorder.following(network):
            returned = torch.func.functional_call(network, parameters, ghosts, ghost_kwargs)
    except CannotRecord:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, LookupError) as error:
        raise CannotRecord(
            f"{type(network).__name__} does not run without the values of its tensors, or has tensors that are neither "
            f"parameters nor buffers ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    outputs = returned_tensors(returned)
    if not outputs:
        raise CannotRecord(f"{type(network).__name__} returns no tensor")
    changing = {given[0]}
    for call in recorder.calls:
        if changing.intersection(call.inputs()):
            changing.update(call.outputs)
    return Tape(
        tuple(recorder.calls),
        tuple(given),
        {name: recorder.index(value) for name, value in parameters.items()},
        tuple(value.shape for value in recorder.values),
        recorder.index(outputs[0]),
        frozenset(changing),
    )


def replay(call: Call, values: Callable[[int], Tensor], device: torch.device) -> Sequence[Tensor]:
    """The tensors that a call gives for the `values` of its inputs; nothing is changed in place."""

    def real(item: Any) -> Any:
        if isinstance(item, Ref):
            return values(item.index)
        if isinstance(item, torch.device):
            return device
        return item

    args, kwargs = _map(real, call.args), _map(real, call.kwargs)
    if call.in_place:
        args = (args[0].clone(), *args[1:])
    with torch.device(device):
        result = call.function(*args, **kwargs)
    return tensors_in(result)


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.values: list[Tensor] = []  # kept, so that an id is never used twice
        self._index: dict[int, int] = {}
        self._running = [""]  # the modules that have not returned yet

    @contextmanager
    def following(self, network: nn.Module) -> Iterator[None]:
        """While this is open, calls know which module of the network they stand in."""
        names = {id(module): name for name, module in network.named_modules()}

        def enter(module: nn.Module, _: Any) -> None:
            self._running.append(names.get(id(module), self._running[-1]))

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            self._running.pop()

        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def index(self, value: Tensor) -> int:
        """The value's place on the tape; a tensor not seen before is a constant of the network."""
        if id(value) not in self._index:
            self._index[id(value)] = len(self.values)
            self.values.append(value)
        return self._index[id(value)]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = [(value, value._version) for value in tensors_in(args, kwargs or {})]
        result = function(*args, **(kwargs or {}))
        outputs = tensors_in(result)
        changed = [value for value, version in before if value._version != version]
        if changed and not (len(outputs) == 1 and all(value is args[0] is outputs[0] for value in changed)):
            raise CannotRecord(f"the network writes into a tensor with {_name(function)}; write it out of place")
        if outputs and not isinstance(result, torch.Size):
            self._write(function, args, kwargs or {}, outputs, bool(changed))
        return result

    def _write(self, function: Any, args: Any, kwargs: Any, outputs: list[Tensor], changed: bool) -> None:
        name = _name(function)
        before = self._names_of((args, kwargs))
        if not changed and all(id(out) in self._index for out in outputs):
            return  # gave back what it was given, as dropout does in evaluation
        if changed:
            self._refuse_views(args[0], name)
            del self._index[id(args[0])]  # from here on the same tensor is another value
            self.values.append(args[0])
            self._index[id(args[0])] = len(self.values) - 1
        plain = name.removesuffix("_") if changed and not name.startswith("__") else name
        call_args, call_kwargs = before
        self.calls.append(
            Call(
                plain,
                function,
                call_args,
                call_kwargs,
                tuple(self.index(out) for out in outputs),
                changed,
                self._running[-1],
            )
        )

    def _names_of(self, arguments: Any) -> Any:
        return replace_tensors(lambda value: Ref(self.index(value)), arguments)

    def _refuse_views(self, value: Tensor, name: str) -> None:
        storage = value.untyped_storage()._cdata
        if any(other is not value and other.untyped_storage()._cdata == storage for other in self.values):
            raise CannotRecord(
                f"the network calls {name} on a tensor that shares its memory with another; write it out of place"
            )


def replace_tensors(with_: Callable[[Tensor], Any], item: Any) -> Any:
    """`item` with `with_(tensor)` in the place of every tensor inside its tuples, lists and dictionaries."""
    return _map(lambda leaf: with_(leaf) if isinstance(leaf, Tensor) else leaf, item)


def tensors_in(*items: Any) -> list[Tensor]:
    """The tensors inside tuples, lists and dictionaries, in order."""
    found: list[Tensor] = []
    replace_tensors(found.append, items)
    return found


def _name(function: Any) -> str:
    """A torch function's plain name; that of an attribute is the attribute's."""
    return function.__name__ if function.__name__ != "__get__" else function.__self__.__name__


def returned_tensors(returned: Any) -> list[Tensor]:
    """The tensors of what a network returns; outputs such as diffusers' are ordered dictionaries with attributes."""
    return tensors_in(dict(returned) if isinstance(returned, dict) else returned)


def _map(function: Callable[[Any], Any], item: Any) -> Any:
    if isinstance(item, torch.Size):
        return item
    if isinstance(item, (tuple, list)):
        return type(item)([_map(function, part) for part in item])
    if isinstance(item, dict):
        # Equal dictionaries may differ in order; tensors are found in one order.
        return {key: _map(function, item[key]) for key in sorted(item, key=str)}
    return function(item)


def _each(visit: Callable[[int], Any], item: Any) -> None:
    _map(lambda leaf: visit(leaf.index) if isinstance(leaf, Ref) else None, item)


def _ghost(value: Tensor) -> Tensor:
    return torch.empty_like(value, device="meta")
