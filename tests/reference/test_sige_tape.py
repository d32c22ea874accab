"""A network written down: every call with its names and shapes, and played back it gives the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.sige.tape import Call, CannotRecord, Ref, Tape, record, replay


class Fn(nn.Module):
    """A network whose forward is a function of itself and its inputs."""

    def __init__(self, forward: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.of = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.of(self, *inputs, **kwargs)


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def played(tape: Tape, network: nn.Module, *inputs: Tensor) -> Tensor:
    """The tape's output, every call made by torch."""
    real = dict(network.named_parameters()) | dict(network.named_buffers())
    values = {index: real[name] for name, index in tape.parameters.items()}
    values |= dict(zip(tape.inputs, inputs, strict=True))
    for call in tape.calls:
        values |= dict(zip(call.outputs, replay(call, values.__getitem__, torch.device("cpu")), strict=True))
    return values[tape.output]


def assert_plays(network: nn.Module, *inputs: Tensor) -> Tape:
    """The tape of a network, which gives what the network does and changes nothing that it is given."""
    network = network.eval()
    before = [value.clone() for value in inputs]
    with torch.no_grad():
        tape = record(network, *inputs)
        ours = played(tape, network, *inputs)
        assert all(torch.equal(*pair) for pair in zip(before, inputs, strict=True))
        assert torch.equal(ours, network(*inputs))
    return tape


def ops(tape: Tape) -> list[str]:
    return [call.op for call in tape.calls]


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_calls_stand_in_order_with_the_modules_that_make_them() -> None:
    block = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), conv(4, 4))
    tape = assert_plays(nn.Sequential(conv(3, 4), block), X)
    assert [(call.op, call.module) for call in tape.calls] == [
        ("conv2d", "0"),
        ("group_norm", "1.0"),
        ("silu", "1.1"),
        ("conv2d", "1.2"),
    ]
    assert set(tape.parameters) == {"0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.2.weight", "1.2.bias"}
    assert tape.names()[tape.parameters["1.2.weight"]] == "1.2.weight"
    first = tape.calls[0]
    assert first.inputs() == [tape.inputs[0], tape.parameters["0.weight"], tape.parameters["0.bias"]]
    assert tape.calls[-1].outputs == (tape.output,)


def test_shapes_of_all_values() -> None:
    tape = assert_plays(nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.Flatten()), X)
    assert tape.shapes[tape.inputs[0]] == (1, 3, 8, 8)
    assert tape.shapes[tape.parameters["0.weight"]] == (5, 3, 3, 3)
    assert [tape.shapes[call.outputs[0]] for call in tape.calls] == [(1, 5, 3, 3), (1, 45)]


def test_what_depends_on_the_picture() -> None:
    def forward(self: Any, x: Tensor, t: Tensor) -> Tensor:
        return self.a(x) + self.l(t.sin())[:, :, None, None]

    tape = assert_plays(Fn(forward, a=conv(3, 4), l=nn.Linear(2, 4)), X, torch.randn(1, 2))
    changing = [call.op for call in tape.calls if call.outputs[0] in tape.changing]
    assert changing == ["conv2d", "add"]
    assert tape.inputs[1] not in tape.changing


def test_constants_made_in_forward_are_calls() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        ramp = torch.arange(x.shape[3], dtype=torch.float32, device=x.device)
        return x * ramp + torch.ones(1) + torch.zeros_like(x)

    tape = assert_plays(Fn(forward), X)
    assert ops(tape)[0] == "arange"
    assert tape.calls[0].inputs() == []


def test_several_outputs_of_a_call() -> None:
    tape = assert_plays(Fn(lambda self, x: torch.cat(x.split([1, 2], 1)[::-1], 1)), X)
    split = tape.calls[0]
    assert [tape.shapes[out] for out in split.outputs] == [(1, 1, 8, 8), (1, 2, 8, 8)]
    assert tape.calls[1].args[0] == (Ref(split.outputs[1]), Ref(split.outputs[0]))


def test_a_named_tuple_of_torch() -> None:
    assert_plays(Fn(lambda self, x: x.max(1).values + torch.sort(x, 1)[0][:, 0]), X)


@pytest.mark.parametrize(
    "returned",
    [
        lambda y: y,
        lambda y: (y, [y]),
        lambda y: [[y], y],
        lambda y: {"sample": y, "other": 3},
        lambda y: {"nested": {"first": [None, (y,)]}},
    ],
)
def test_the_result_is_the_first_tensor_that_is_returned(returned: Callable[[Tensor], Any]) -> None:
    network = Fn(lambda self, x: returned(self.a(x))).eval()
    network.a = conv(3, 4)
    tape = record(network, X)
    with torch.no_grad():
        assert torch.equal(played(tape, network, X), network.a(X))


def test_nested_inputs_and_keywords() -> None:
    network = Fn(lambda self, x, pair, scale=None: x + pair[0]["a"] * scale)
    tape = record(network, X, ({"a": X},), scale=X)
    assert len(tape.inputs) == 3
    assert len(set(tape.inputs)) == 3


def test_dropout_of_evaluation_leaves_no_value_behind() -> None:
    tape = assert_plays(nn.Sequential(conv(3, 4), nn.Dropout(0.5), nn.Identity(), conv(4, 4)), X)
    assert [op for op in ops(tape) if op != "dropout"] == ["conv2d", "conv2d"]


# ----------------------------------------------------------------------------------------------------------------------
# In place


def in_place_sum(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    h += self.b(x)
    h.mul_(2)
    return self.c(h.relu_())


def written_after_use(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    kept = h * 3
    h.add_(1)
    return kept + h


@pytest.mark.parametrize("forward", [in_place_sum, written_after_use])
def test_in_place_calls_make_new_values(forward: Callable[..., Tensor]) -> None:
    tape = assert_plays(Fn(forward, a=conv(3, 4), b=conv(3, 4), c=conv(4, 4)), X)
    changed = [call for call in tape.calls if call.in_place]
    assert changed
    for call in changed:
        assert isinstance(call.args[0], Ref)
        assert call.outputs[0] != call.args[0].index
        assert not call.op.endswith("_") or call.op.startswith("__")


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.LeakyReLU(0.2, inplace=True), nn.Hardswish(inplace=True)],
    ids=lambda layer: type(layer).__name__,
)
def test_activations_in_place_are_not_lost(layer: nn.Module) -> None:
    assert_plays(nn.Sequential(conv(3, 4), layer, conv(4, 4)), X)


def views(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    h[:, :1].mul_(2)
    return h


def reshaped(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    flat = h.flatten(2)
    h += 1
    return flat


@pytest.mark.parametrize("forward", [views, reshaped])
def test_a_change_through_a_view_is_refused(forward: Callable[..., Tensor]) -> None:
    with pytest.raises(CannotRecord, match="out of place"):
        record(Fn(forward, a=conv(3, 4)), X)


def assigned(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    h[:, :1] = 0
    return h * 2


def given_out(self: Any, x: Tensor) -> Tensor:
    h = self.a(x)
    into = torch.empty_like(h)
    torch.mul(h, 2.0, out=into)
    return into + 1


@pytest.mark.parametrize("forward", [assigned, given_out])
def test_what_is_written_otherwise_is_recorded_or_refused(forward: Callable[..., Tensor]) -> None:
    network = Fn(forward, a=conv(3, 4)).eval()
    try:
        tape = record(network, X)
    except CannotRecord:
        return
    with torch.no_grad():
        assert torch.equal(played(tape, network, X), network(X))


# ----------------------------------------------------------------------------------------------------------------------
# What is not needed, and what cannot be


def test_nothing_is_computed_and_the_network_is_as_before() -> None:
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4)).eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    large = torch.empty(1, 3, 2**14, 2**14, device="meta")
    tape = record(network, large)
    assert tape.shapes[tape.output] == (1, 4, 2**14, 2**14)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not network[0]._forward_hooks


def test_no_tensor_is_returned() -> None:
    with pytest.raises(CannotRecord, match="Fn returns no tensor"):
        record(Fn(lambda self, x: {"size": x.shape}), X)


def test_the_identity_has_no_calls() -> None:
    tape = record(nn.Identity(), X)
    assert tape.calls == ()
    assert tape.output == tape.inputs[0]


def test_a_call_that_is_played_changes_nothing_in_place() -> None:
    tape = record(Fn(lambda self, x: self.a(x).add_(1), a=conv(3, 3)), X)
    call: Call = tape.calls[-1]
    given = torch.zeros(1, 3, 8, 8)
    (out,) = replay(call, lambda index: given, torch.device("cpu"))
    assert torch.equal(out, torch.ones_like(given))
    assert not given.any()


def test_functions_of_torch_nn_functional_and_methods_alike() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = F.avg_pool2d(self.a(x), 2)
        h = h.permute(0, 2, 3, 1).contiguous().reshape(1, 16, 4).transpose(1, 2).softmax(-1).unflatten(2, (4, 4))
        h = F.interpolate(h, scale_factor=2, mode="nearest")
        return torch.einsum("nchw,co->nohw", h, self.w.T.contiguous()) - x.mean()

    assert_plays(Fn(forward, a=conv(3, 4), w=nn.Parameter(torch.randn(4, 4))), X)
