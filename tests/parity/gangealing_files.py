"""What GANgealing's parity tests share: weights hashed from names where goldens store none, and networks of goldens."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from goldens import load, settings, under
from torch import Tensor, nn

from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, published_state
from gengauge.reference.nets.stylegan2.rosinality import Generator

WIDEST = 512  # channels of a network of full size, of which a tiny one has a share
CONSTANT = ("kernel", "kernel_horz", "kernel_vert", "blur_filter", "one_hot")  # buffers that keep their values
# The amplitude and the offset by the first rule that a name fulfils.
CONTAINED = {
    ".noise.weight": (0.1, 0.0),
    "warp_head.linear.weight": (0.02, 0.0),
    "warp_head.linear.bias": (0.05, 0.0),
    "warp_head.flow_out.2.weight": (0.02, 0.0),
}


def amplitude(name: str) -> tuple[float, float]:
    """How far values of a tensor reach, and around what."""
    for part, found in CONTAINED.items():
        if part in name:
            return found
    if name.endswith("modulation.bias"):
        return 0.1, 1.0
    if name.endswith("bias"):
        return 0.05, 0.0
    return (100 * math.sqrt(3), 0.0) if name.startswith("style.") else (math.sqrt(3), 0.0)


def hashed(name: str, shape: torch.Size, salt: int, reach: float, offset: float) -> Tensor:
    """The values of a tensor, float32 of a shape."""
    seed = np.uint32(zlib.crc32(name.encode()) ^ salt)
    x = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1) + seed
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    u = x.astype(np.float64) / 2**32
    return torch.from_numpy((offset + reach * (2 * u - 1)).astype(np.float32)).view(shape)


def fill(
    network: nn.Module, salt: int, prefix: str = "", exceptions: Mapping[str, tuple[float, float]] | None = None
) -> None:
    """Gives a network the recipe's weights; `prefix` stands before its names, `exceptions` go before the rules."""
    state = network.state_dict()
    for name, value in state.items():
        full = prefix + name
        if name.rpartition(".")[2] not in CONSTANT:
            special = [found for part, found in (exceptions or {}).items() if part in full]
            value.copy_(hashed(full, value.shape, salt, *(special[0] if special else amplitude(full))))
    network.load_state_dict(state)


# ----------------------------------------------------------------------------------------------------------------------
# What stands in prose, and networks of a golden's weights

PROSE = {
    "stn": r"get_stn\(\[[^]]*\], (?P<rest>[^)]*)\)",
    "generator": r"Generator\((?P<rest>[^)]*)\)",
    "classifier": r"ResnetClassifier\((?P<rest>(?:[^()]|\([^()]*\))*)\)",
}
POSITIONAL = {"generator": ("size", "style_dim", "n_mlp"), "classifier": ("size",), "stn": ()}


def told(path: Path) -> dict[str, Any]:
    """What is told of a golden in prose: by `settings.json`, else by the sentences of the MANIFEST."""
    found: dict[str, Any] = {}
    manifest = path.parent / "MANIFEST.md"
    section = rf"^## {re.escape(path.stem)}\b(.*?)(?=^## |\Z)"
    if manifest.exists() and (about := re.search(section, manifest.read_text(), re.M | re.S)):
        text = about[1].partition("- Keys")[0]
        if salt := re.search(r"salt\s*=?\s*(\d+)", text):
            found["salt"] = int(salt[1])
        if index := re.search(r"inject_index\s*=\s*(\d+)", text):
            found["inject_index"] = int(index[1])
        if share := re.search(r"(\d+)/512|tables?[ /]*/(\d+)", text):
            found["base_channels"] = int(share[1]) if share[1] else WIDEST // int(share[2])
        for kind, pattern in PROSE.items():
            if call := re.search(pattern, text):
                found[kind] = call_arguments(call["rest"], POSITIONAL[kind])
    return found | settings(path)


def call_arguments(text: str, positional: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a call as prose writes it, remarks in parentheses left out."""
    found = {}
    for i, argument in enumerate(re.sub(r"\([^()]*\)", "", text).split(",")):
        name, equals, value = argument.strip().rpartition("=")
        found[name if equals else positional[i]] = float(value)
    return {name: value if name == "channel_multiplier" else int(value) for name, value in found.items()}


def generator_of(state: dict[str, Tensor], **more: Any) -> Generator:
    """A generator of the sizes of stored weights, with them."""
    widest = state["conv1.conv.weight"].shape[1]
    size = max(value.shape[-1] for name, value in state.items() if name.startswith("noises."))
    channels = {4 << (i + 1): state[f"convs.{2 * i}.conv.weight"].shape[1] for i in range(size.bit_length() - 3)}
    multiplier = 2 * channels[64] // widest if 64 in channels else 2
    network = Generator(
        size,
        style_dim=state["style.1.weight"].shape[1],
        n_mlp=sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in state),
        channel_multiplier=multiplier,
        base_channels=widest,
        **more,
    )
    network.load_state_dict(state)
    return network


def trunk_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of a trunk of stored weights that ends at 4 px."""
    blocks = sum(re.fullmatch(r"convs\.\d+\.conv1\.0\.weight", name) is not None for name in state)
    size, widest = 4 << blocks, state["final_conv.0.weight"].shape[0]
    first = state["convs.0.0.weight"].shape[0]
    stride = state["input_downsample.kernel_horz"].shape[-1] // 2 if "input_downsample.kernel_horz" in state else 1
    published = {4: 1, 8: 1, 16: 1, 32: 1, 64: 1 / 2, 128: 1 / 4, 256: 1 / 8}  # of the widest, for a multiplier of 1
    multiplier = first / widest / published[size] if size > 32 else 0.5
    return {"supersize": size * stride, "channel_multiplier": multiplier, "base_channels": widest, "flow_size": size}


def transformer_of(state: dict[str, Tensor]) -> ComposedSTN:
    """Both transforms with stored weights."""
    first = under(state, "stns.0.")
    network = ComposedSTN(**trunk_of(first), num_heads=first["warp_head.linear.weight"].shape[0] // 4)
    network.load_state_dict(published_state(network, state))
    return network.eval()


def transformer_for(path: Path) -> ComposedSTN:
    """The transformer of a golden: of its own weights, the recipe's, or those of the file that it names."""
    about = told(path)
    named = path.parent / f"{about.get('weights', 'stn_tiny')}.safetensors"
    tensors, _ = load(path)
    if own := under(tensors, "t/"):
        return transformer_of(own)
    if "salt" not in about and named.exists():
        return transformer_of(under(load(named)[0], "t/"))
    if "salt" not in about:
        about = told(named) | about
    assert "salt" in about, f"{path.name} has no weights, and nothing tells which ones it takes"
    side = next(value.shape[-1] for key, value in tensors.items() if key.startswith("img") and key.endswith("_u8"))
    sizes = about.get("stn", {"flow_size": side // 2, "supersize": side})
    network = ComposedSTN(**{"base_channels": about.get("base_channels", WIDEST), **sizes})
    fill(network, about["salt"])
    return network.eval()
