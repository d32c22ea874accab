"""Published checkpoints of translation: which generator a state dict is of, and its tensors by the network's names.

Read are files of CUT's code and of CycleGAN's, old and new, saved from a GPU or a CPU; and the DRN that judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gengauge.reference.nets.blurpool import STRIDE, Downsample, Upsample, binomial_filter
from gengauge.reference.nets.drn import DRN, BasicBlock, Bottleneck, DRNConfig
from gengauge.reference.nets.published import COUNTER, PARALLEL, STATISTICS, some
from gengauge.reference.nets.stylegan2.translation import StyleTranslator, channels_of_generator
from gengauge.reference.nets.translation_resnet import ResnetGenerator

Generator = ResnetGenerator | StyleTranslator
NAMES = ("G", "F", "D", "G_A", "G_B", "D_A", "D_B")  # of networks, in the files `EPOCH_net_NAME.pth`
WRAPPED = "state_dict."  # DRN's trainer keeps other things beside the state dict
COMPILED = "_orig_mod."  # torch.compile's wrapper
WIDEST = 4096  # ngf; more is not looked for
CROPS = (64, 128, 32, 256, 512, 1024, 16, 8, 4)  # px; SinCUT's first


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator by the words of `Recipe`: which network, and its keyword arguments."""

    networks: Literal["resnet", "stylegan2"]
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Generator:
        """The network with initial weights from torch's global generator."""
        return ResnetGenerator(**self.arguments) if self.networks == "resnet" else StyleTranslator(**self.arguments)


def bare_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the names of wrappers: `module.` of parallel networks, which CPU-saved files have, and the trainer's.

    Raises ValueError for a tensor without values.
    """
    inside = {name.removeprefix(WRAPPED): value for name, value in state.items() if name.startswith(WRAPPED)}
    out = {}
    for name, value in (inside or state).items():
        while name.startswith((PARALLEL, COMPILED)):
            name = name.removeprefix(PARALLEL).removeprefix(COMPILED)
        if value.ndim and not value.numel():
            raise ValueError(f"{name} is empty: the file is damaged or of no network")
        out[name] = value
    return out


def published_config(state: Mapping[str, Tensor]) -> GeneratorConfig:
    """The generator that a state dict is of, read off names and shapes.

    Of SinCUT's generators several pairs of `ngf` and `crop_size` make the same network, of which one is given; whether
    noise is injected stands nowhere: with two blocks, which is `smallstylegan2`, it is not. Raises ValueError naming
    what is missing for either kind.
    """
    state = bare_state(state)
    if "encoder.convs.1.0.weight" in state:
        return GeneratorConfig("stylegan2", _style_arguments(state))
    return GeneratorConfig("resnet", _resnet_arguments(state))


def from_published(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A published state dict under the names of `network`, which may be on torch's meta device.

    Wrappers' names are dropped, and so are the running statistics that instance normalisation had in old checkpoints.
    Batch normalisation without its counter of batches, which nothing reads in evaluation, gets one. Tensors are shared.

    Raises ValueError naming what is missing, in excess, of another shape, no plain tensor of numbers or not finite.
    """
    state = bare_state(state)
    expected = network.state_dict()
    unused = {
        f"{name}.{part}"
        for name, module in network.named_modules()
        if isinstance(module, nn.InstanceNorm2d)
        for part in (*STATISTICS, COUNTER)
    } - expected.keys()
    for name in expected:
        if name.endswith(f".{COUNTER}"):
            state.setdefault(name, torch.tensor(0))
    missing = [name for name in expected if name not in state]
    excess = sorted(state.keys() - expected.keys() - unused)
    if missing or excess:
        wrong = "; ".join(part for part in (some("missing", missing), some("in excess", excess)) if part)
        raise ValueError(f"this is no checkpoint of {type(network).__name__} as configured: {wrong}")
    for name, wanted in expected.items():
        value = state[name]
        if value.layout != torch.strided or value.is_meta or value.is_complex():
            raise ValueError(f"{name} is no plain tensor of numbers")
        if value.shape != wanted.shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, the network needs {tuple(wanted.shape)}")
        if name.rpartition(".")[2] == "filt" and not torch.allclose(value[:1, 0], _filter_of(network, name)):
            raise ValueError(f"{name} is another filter than the binomial one of the published code")
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite: the training diverged, or the file is damaged")
    return {name: state[name] for name in expected}


def _filter_of(network: nn.Module, name: str) -> Tensor:
    """What the buffer `filt` of a blur holds for each channel, (1, k, k)."""
    module = network.get_submodule(name.rpartition(".")[0])
    assert isinstance(module, Downsample | Upsample)
    size = module.filt.shape[2]
    return binomial_filter(size)[None] * (STRIDE**2 if isinstance(module, Upsample) else 1)


def published_drn(state: Mapping[str, Tensor]) -> DRN:
    """A DRN of the configuration that a state dict tells, on torch's meta device: fill it from `from_published`.

    Raises ValueError where it is of no DRN of the kind D for segmentation.
    """
    state = bare_state(state)
    single = [f"base.{i}.0.weight" for i in (1, 2, 7, 8)]
    stages = [_indices(state, f"base.{i}.", ".conv1.weight") for i in range(3, 7)]
    missing = [name for name in ("base.0.0.weight", *single, "seg.weight") if name not in state]
    missing += [f"base.{i}.0.conv1.weight" for i, stage in enumerate(stages, 3) if not stage]
    if missing:
        raise ValueError(f"this is no checkpoint of a DRN-D for segmentation: {some('missing', missing)}")
    bottleneck = "base.3.0.conv3.weight" in state
    kind = Bottleneck if bottleneck else BasicBlock
    last = "conv3" if bottleneck else "conv2"
    inner = [_length(state, f"base.{i}.0.{last}.weight") // kind.expansion for i in range(3, 7)]
    widths = [_length(state, name) for name in single]
    config = DRNConfig(
        "bottleneck" if bottleneck else "basic",
        tuple(len(stage) for stage in stages),  # type: ignore[arg-type]
        (*widths[:2], *inner, *widths[2:]),  # type: ignore[arg-type]
    )
    with torch.device("meta"):
        return DRN(config, _length(state, "seg.weight"))


def _resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = _indices(state, "model.", ".conv_block.1.weight")
    kernels = sorted(i for i in _indices(state, "model.", ".weight") if state[f"model.{i}.weight"].ndim == 4)
    if not blocks or not kernels or kernels[0] != 1 or blocks != list(range(blocks[0], blocks[0] + len(blocks))):
        wanted = some("missing", [n for n in ("model.1.weight", "model.12.conv_block.1.weight") if n not in state])
        raise ValueError(
            "this is no generator: neither the residual one (model.1.weight, model.N.conv_block...) nor SinCUT's "
            f"(encoder.convs.1.0.weight){'; ' + wanted if wanted else ''}"
        )
    first = state["model.1.weight"]
    return {
        "n_blocks": len(blocks),
        "ngf": first.shape[0],
        "input_nc": first.shape[1],
        "output_nc": _length(state, f"model.{kernels[-1]}.weight"),
        "norm": "batch" if "model.2.weight" in state else "instance",
        # The second convolution of a block comes one place later where there is dropout.
        "dropout": _is_kernel(state, f"model.{blocks[0]}.conv_block.6.weight"),
        "antialias": "model.7.filt" in state,
        "antialias_up": f"model.{blocks[-1] + 1}.filt" in state,
    }


def _style_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = _indices(state, "encoder.convs.", ".conv1.0.weight")
    down = [i for i in blocks if f"encoder.convs.{i}.conv2.0.kernel" in state]
    last = max(_indices(state, "decoder.convs.", ".0.weight"), default=-1)
    first = state["encoder.convs.1.0.weight"]
    if last < 0 or first.ndim != 4 or blocks != list(range(2, 2 + len(blocks))):
        raise ValueError("this is no generator of SinCUT: its encoder or decoder is not whole")
    widths = [first.shape[0], *(_length(state, f"encoder.convs.{i}.conv2.1.weight") for i in down)]
    ngf, crop = _nominal(widths)
    n_blocks = 2 * (len(blocks) - len(down))
    return {
        "ngf": ngf,
        "n_blocks": n_blocks,
        "num_downsampling": len(down),
        "crop_size": crop,
        "input_nc": first.shape[1],
        "output_nc": _length(state, f"decoder.convs.{last}.0.weight"),
        "inject_noise": n_blocks != 2,
    }


def _nominal(widths: list[int]) -> tuple[int, int]:
    """(ngf, crop_size) that give the encoder these channels, from its first layer on."""
    for crop in CROPS:
        if crop >> (len(widths) - 1) < 4:
            continue
        for ngf in range(1, min(2 * max(widths), WIDEST) + 1):
            table = channels_of_generator(ngf)
            if table[crop] > widths[0] > 0:
                break
            if [table[crop >> i] for i in range(len(widths))] == widths:
                return ngf, crop
    raise ValueError(f"this is no generator of SinCUT: none has layers of {widths} channels")


def _indices(state: Mapping[str, Tensor], before: str, after: str) -> list[int]:
    """The numbers that stand between the two parts of names, ascending."""
    inside = {n[len(before) : -len(after)] for n in state if n.startswith(before) and n.endswith(after)}
    return sorted(int(number) for number in inside if number.isascii() and number.isdecimal() and len(number) < 9)


def _length(state: Mapping[str, Tensor], name: str) -> int:
    """The number of outputs of a layer. Raises ValueError where it is missing or no kernel."""
    if not _is_kernel(state, name):
        raise ValueError(f"{name} is missing or no kernel of a convolution")
    return state[name].shape[0]


def _is_kernel(state: Mapping[str, Tensor], name: str) -> bool:
    return name in state and state[name].ndim == 4
