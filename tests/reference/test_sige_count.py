"""Operations of Stable Diffusion's U-Net, of which there are no goldens: the published sum."""

from __future__ import annotations

import pytest
import torch

from gengauge.reference.sige.count import BMM, CONVOLUTION, LINEAR, dense_macs, parameters
from gengauge.reference.sige.tape import record

diffusers = pytest.importorskip("diffusers")


def test_stable_diffusion_has_the_published_number_of_operations() -> None:
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
        given = torch.empty(2, 4, 64, 128), torch.empty(2), torch.empty(2, 77, 768)  # 512 x 1024, with guidance
    macs = dense_macs(network, record(network, *given), swish_is_product=False)
    assert parameters(network) == 859_520_964
    assert round(macs.total() / 1e9, 1) == 1854.8
    assert round((macs[CONVOLUTION] + macs[LINEAR] + macs[BMM]) / 1e9, 2) == 1848.53
