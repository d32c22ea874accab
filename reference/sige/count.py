"""Multiply-accumulate operations, counted as the paper does: by the rules of torchprofile, on the recorded network.

A convolution counts its products; a matrix product the product of its sizes; an elementwise multiplication, an affine
normalisation, a leaky ReLU and an average pooling one an element; everything else nothing. A swish is one
multiplication in the published networks of DDPM and Progressive Distillation (x * sigmoid(x)) and nothing where torch's
own function is called, as in the dense layers of Stable Diffusion's U-Net; on tiles it always is one. Attention counts
its two products and the scaling of the weights.
"""

from __future__ import annotations

from collections import Counter
from math import prod

from torch import nn

from gengauge.reference.sige.policy import FOLLOW, Policy
from gengauge.reference.sige.prepared import Marks, Prepared
from gengauge.reference.sige.program import NORMS, ConvStep, Program
from gengauge.reference.sige.tape import Call, Ref, Tape

# The names under which torchprofile reports.
CONVOLUTION, LINEAR, BMM, MUL = "aten::_convolution", "aten::linear", "aten::bmm", "aten::mul"
LEAKY, POOL = "aten::leaky_relu", "aten::avg_pool2d"

Macs = Counter[str]


def dense_macs(network: nn.Module, tape: Tape, swish_is_product: bool = True) -> Macs:
    """Operations of one forward pass by function; the sum is `total()`."""
    macs: Macs = Counter()
    for call in tape.calls:
        macs.update(_plain(tape, call, swish_is_product))
    macs[MUL] += _size_products(network)
    return +macs


def sparse_macs(network: nn.Module, prepared: Prepared, marks: Marks, swish_is_product: bool = True) -> Macs:
    """Operations of one sparse pass as the published profile mode counts them: windows that overlap count each.

    What depends on the time alone is not evaluated. A kept norm is one multiplication an element, together with the
    per-channel factors that follow it.
    """
    program, policy, plan = prepared.program, prepared.policy, prepared.tokens
    tape = program.tape
    macs: Macs = Counter()
    whole = set(program.whole_map_calls())
    gathers: set[object] = set()  # a trace of the published code counts a product of sizes at each
    for step in program.steps:
        tiling = prepared.tilings[step.name]
        images = tape.shapes[step.raw][0]
        if tiling is None:
            macs.update(_plain(tape, step.call, swish_is_product))
            whole.update((*step.gathered, *step.before))
            continue
        places = marks.touched[step.name]
        products = step.channels_in // step.groups * step.kernel**2 * step.channels_out
        macs[CONVOLUTION] += places.listed * images * places.tile**2 * products
        whole.update(step.before)  # what is up-sampled is made on the whole map before
        window = (places.tile - 1) * step.stride + step.kernel
        _gathered(macs, tape, step, places.listed * images * window**2 * step.channels_in)
        if policy.block(step) != FOLLOW:  # what follows is not gathered again
            gathers.add((tuple(part.value for part in step.parts), tiling))
        gathers.update(part.value for part in (step.gamma, step.beta) if part is not None)
    row_calls = plan.row_calls()
    for index in row_calls:
        call = tape.calls[index]
        height, width = plan.layouts[call.outputs[0]].size
        tokens = marks.tokens[height, width]
        for name, number in _plain(tape, call, swish_is_product).items():
            macs[name] += number * tokens.listed * tokens.tile**2 // (height * width)
    for index in sorted(whole.difference(row_calls)):
        call = tape.calls[index]
        if call.op in NORMS and not policy.norm_is_fresh(call.module):
            macs[MUL] += tape.shapes[call.outputs[0]].numel()
        elif not _continues_kept_norm(program, policy, call):
            macs.update(_plain(tape, call, swish_is_product))
    macs[MUL] += _size_products(network) + len(gathers)
    return +macs


def parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(value.numel() for value in network.parameters())


def _gathered(macs: Macs, tape: Tape, step: ConvStep, elements: int) -> None:
    """What is done to a convolution's windows; the published gathering has a swish of its own, a product."""
    done = {tape.calls[index].op for index in step.gathered}
    if done.intersection(NORMS) or (step.gamma is None and "mul" in done):
        macs[MUL] += elements
    if step.gamma is not None:
        macs[MUL] += elements
    if "silu" in done:
        macs[MUL] += elements
    if "leaky_relu" in done:
        macs[LEAKY] += elements


def _plain(tape: Tape, call: Call, swish_is_product: bool) -> Macs:
    """One call on whole tensors."""
    out = tape.shapes[call.outputs[0]]
    sizes = [tape.shapes[arg.index] for arg in call.args if isinstance(arg, Ref)]
    if call.op == "conv2d":
        return Counter({CONVOLUTION: out.numel() * prod(sizes[1][1:])})
    if call.op == "linear":
        return Counter({LINEAR: out.numel() * sizes[0][-1]})
    if call.op in ("bmm", "matmul", "mm"):
        return Counter({BMM: out.numel() * sizes[0][-1]})
    if call.op == "scaled_dot_product_attention":
        query, key, value = sizes[:3]
        pairs = prod(query[:-1]) * key[-2]
        return Counter({BMM: pairs * (query[-1] + value[-1]), MUL: pairs})
    if call.op in ("mul", "__rmul__") or (call.op == "silu" and swish_is_product):
        return Counter({MUL: out.numel()})
    if call.op in (*NORMS, "layer_norm"):
        weights = [arg for arg in (*call.args[1:], *call.kwargs.values()) if isinstance(arg, Ref)]
        affine = any(tape.names().get(weight.index, "").endswith("weight") for weight in weights)
        return Counter({f"aten::{call.op}": out.numel() if affine else 0})
    if call.op == "leaky_relu":
        return Counter({LEAKY: out.numel()})
    return Counter({POOL: out.numel()}) if call.op == "avg_pool2d" else Counter()


def _continues_kept_norm(program: Program, policy: Policy, call: Call) -> bool:
    """Whether a call multiplies or shifts by channel what a kept norm gave: both are one affine."""
    tape = program.tape
    while call.op in ("mul", "add", "__rmul__", "__radd__"):
        changing = [arg for arg in call.args if isinstance(arg, Ref) and arg.index in tape.changing]
        if len(changing) != 1:
            return False
        before = program.producers.get(program.resolve(changing[0].index))
        if before is None:
            return False
        call = tape.calls[before]
        if call.op in NORMS:
            return not policy.norm_is_fresh(call.module)
    return False


def _size_products(network: nn.Module) -> int:
    """Products of sizes in the published code, each of which a trace counts as one multiplication."""
    return sum(getattr(module, "size_products", 0) for module in network.modules())
