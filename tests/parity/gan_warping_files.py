"""What GAN Warping's parity tests share: the generators that goldens hold."""

from __future__ import annotations

import re
from typing import Any

from goldens import under
from torch import Tensor

from gengauge.reference.nets.stylegan2 import generator as stylegan2
from gengauge.reference.nets.stylegan3 import generator as stylegan3
from gengauge.reference.nets.stylegan3.states import settings_of

Generator = stylegan2.Generator | stylegan3.Generator


def generator_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Generator:
    """The generator of the tensors under `G/`, on the CPU, in evaluation mode and without gradients.

    Its architecture is read from their names and shapes, and, where the metadata names one (`arch`), must be that.
    """
    state = under(tensors, "G/")
    third = any(name.startswith("synthesis.input.") for name in state)
    assert metadata.get("arch", f"stylegan{3 if third else 2}") == f"stylegan{3 if third else 2}"
    network: Generator = (
        stylegan3.Generator(**settings_of(state)) if third else stylegan2.Generator(**_stylegan2_settings(state))
    )
    # Tensors without dimensions are stored with one.
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    scalars = {name for name, shape in shapes.items() if not shape}
    network.load_state_dict({name: value.view(()) if name in scalars else value for name, value in state.items()})
    return network.eval().requires_grad_(False)


def _stylegan2_settings(state: dict[str, Tensor]) -> dict[str, Any]:
    blocks = {int(match[1]) for name in state if (match := re.match(r"synthesis\.b(\d+)\.", name))}
    resolution = max(blocks)
    channels = {size: state[f"synthesis.b{size}.conv1.weight"].shape[0] for size in blocks}
    embedded = state.get("mapping.embed.weight")
    return {
        "z_dim": state["mapping.fc0.weight"].shape[1] - (0 if embedded is None else embedded.shape[0]),
        "c_dim": 0 if embedded is None else embedded.shape[1],
        "w_dim": state["synthesis.b4.conv1.affine.weight"].shape[1],
        "img_resolution": resolution,
        "img_channels": state[f"synthesis.b{resolution}.torgb.weight"].shape[0],
        "mapping_kwargs": {
            "num_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state)
        },
        "synthesis_kwargs": {"channel_base": channels[resolution] * resolution, "channel_max": max(channels.values())},
    }
