"""A small network for tests of SIGE's speed tables, made and edited as DDPM's is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gengauge.benchmarks.papers.sige import networks
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import policy
from gengauge.reference.sige.masks import MaskRecipe

TINY = replace(
    networks.NETWORKS["ddpm-256"],
    key="tiny",
    build=partial(networks._ddpm, UNetConfig(32, 32, (1, 2), 1, (16,), temb_ch=64)),
    shape=(3, 32, 32),
    policy=policy.ddpm(32),
    recipe=MaskRecipe(eps=0.01, dilation_before=1, dilation=1, min_size=(16, 16)),
)
