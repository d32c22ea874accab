"""DDPM's U-Net beside diffusers' UNet2DModel: the same outputs, settings both ways, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gengauge.reference.nets.ddpm_unet import CHURCH_256, DDPMUNet, fuse
from gengauge.reference.nets.diffusers_unet import (
    OLD_ATTENTION,
    diffusers_config,
    from_diffusers,
    to_diffusers,
    unet_config,
)
from gengauge.reference.nets.unet import UNetConfig

TINY = UNetConfig(16, 8, (1, 2, 4), 1, (8,), temb_ch=32, out_ch=6, num_groups=4)
CONFIGS = {
    "attention in the middle": TINY,
    "attention everywhere, two blocks": replace(TINY, attn_resolutions=(16, 8, 4), num_res_blocks=2),
    "one level": replace(TINY, ch_mult=(1,), attn_resolutions=()),
    "other embedding": replace(TINY, temb_ch=20, in_channels=2),
    "odd embedding": UNetConfig(8, 9, (1, 2), 1, (8,), temb_ch=36, num_groups=3),
}


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as diffusers wrote it before its release 0.13."""
    out = dict(state)
    for new, old in OLD_ATTENTION.items():
        out = {name.replace(f".{new}.", f".{old}."): value for name, value in out.items()}
    return out


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_diffusers(name: str) -> None:
    config = CONFIGS[name]
    torch.manual_seed(0)
    network = DDPMUNet(config).eval()
    settings = json.loads(json.dumps(diffusers_config(config)))
    other = diffusers.UNet2DModel.from_config(settings).eval()
    other.load_state_dict(to_diffusers(network.state_dict(), config))
    x = torch.randn(3, config.in_channels, config.resolution, config.resolution)
    t = torch.tensor([0.0, 17.0, 999.0])
    with torch.no_grad():
        assert (network(x, t) - other(x, t).sample).abs().max() <= 1e-5
    assert unet_config(settings) == config
    assert unet_config(dict(other.config)) == config


def test_names_go_both_ways_and_old_ones_are_read() -> None:
    config = CONFIGS["attention everywhere, two blocks"]
    state = DDPMUNet(config).state_dict()
    theirs = to_diffusers(state, config)
    assert theirs["mid_block.attentions.0.to_q.weight"].ndim == 2
    old = old_names(theirs)
    assert "up_blocks.1.attentions.2.proj_attn.bias" in old
    for named in (theirs, old):
        back = from_diffusers(named, config)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], value) for name, value in state.items())


def test_old_names_are_those_of_diffusers(tmp_path: Path) -> None:
    """diffusers itself takes weights under the old names for the same."""
    network = DDPMUNet(TINY).eval()
    old = old_names(to_diffusers(network.state_dict(), TINY))
    (tmp_path / "config.json").write_text(json.dumps(diffusers_config(TINY)))
    save_file({k: v.contiguous() for k, v in old.items()}, tmp_path / "diffusion_pytorch_model.safetensors")
    other = diffusers.UNet2DModel.from_pretrained(tmp_path).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        assert (network(x, t) - other(x, t).sample).abs().max() <= 1e-5


def test_the_published_conversion_is_the_network_of_churches() -> None:
    """Settings as google/ddpm-ema-church-256 has them; what is not there has diffusers' default."""
    settings = {
        "_class_name": "UNet2DModel", "_diffusers_version": "0.1.1", "act_fn": "silu", "attention_head_dim": None,
        "block_out_channels": [128, 128, 256, 256, 512, 512], "center_input_sample": False,
        "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"], "downsample_padding": 0,
        "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 256,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    }  # fmt: skip
    assert unet_config(settings) == CHURCH_256


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name is 'UNet2DConditionModel'"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"freq_shift": 0}, "freq_shift is 0"),
        ({"flip_sin_to_cos": True}, "flip_sin_to_cos is True"),
        ({"downsample_padding": 1}, "downsample_padding is 1"),
        ({"norm_eps": 1e-5}, "norm_eps is 1e-05"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
        ({"attention_head_dim": 8}, "attention_head_dim is 8"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"]}, "down_block_types has 'SkipDown"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types does not mirror"),
        ({"up_block_types": 5}, "up_block_types has 5"),
        ({"block_out_channels": [8, 12, 32]}, "block_out_channels is"),
        ({"block_out_channels": [8, 16]}, "block_out_channels is"),
        ({"block_out_channels": ["8"]}, "block_out_channels is '8'"),
        ({"sample_size": [16, 8]}, "sample_size is"),
        ({"sample_size": None}, "settings are missing: sample_size"),
        ({"norm_num_groups": 0}, "norm_num_groups is 0"),
        ({"attn_norm_num_groups": 2}, "attn_norm_num_groups is 2"),
        ({"num_class_embeds": 10}, "num_class_embeds is 10"),
        ({"new_setting": 1}, "unknown settings: new_setting"),
    ],
)
def test_settings_of_another_network_are_refused_by_name(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        unet_config({**diffusers_config(TINY), **change})


def test_what_diffusers_cannot_express_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="resamp_with_conv is False"):
        diffusers_config(replace(TINY, resamp_with_conv=False))
    with pytest.raises(ValueError, match="ch_mult starts with 2"):
        diffusers_config(replace(TINY, ch_mult=(2, 2, 4)))


def test_tensors_of_another_network_are_refused_by_name() -> None:
    state = DDPMUNet(TINY).state_dict()
    theirs = to_diffusers(state, TINY)
    with pytest.raises(ValueError, match=r"missing: down\.0\.block\.0\.temb_proj\.weight"):
        to_diffusers(fuse(state, TINY), TINY)
    with pytest.raises(ValueError, match="not of this network: strange"):
        from_diffusers({**theirs, "strange": torch.zeros(1)}, TINY)
    del theirs["conv_in.bias"]
    with pytest.raises(ValueError, match=r"missing: conv_in\.bias$"):
        from_diffusers(theirs, TINY)
