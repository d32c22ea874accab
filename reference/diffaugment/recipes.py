"""The published recipes by name, without augmentation: `dataclasses.replace(recipe, policy=...)` adds DiffAugment.

`tf` is the TensorFlow code, whose numbers the paper has; `pytorch` is the port, which by its own README does not
reproduce them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from gengauge.reference.diffaugment import biggan, stylegan2


def biggan_cifar(num_classes: int = 10, ch: int = 64) -> biggan.Recipe:
    """BigGAN at 32 px, the scripts of DiffAugment-biggan-cifar."""
    common = {"ch": ch, "num_classes": num_classes}
    return biggan.Recipe(generator=common, discriminator=common)


def biggan_imagenet(ch: int = 96) -> biggan.Recipe:
    """BigGAN at 128 px, the compare_gan configuration of the baseline: pictures in [0, 1], orthogonal start."""
    common = {
        "ch": ch,
        "resolution": 128,
        "num_classes": 1000,
        "attention": (64,),
        "sn_eps": 1e-12,
        "init": "ortho",
        "zero_bias": True,
    }
    generator = {
        **common,
        "dim_z": 120,
        "shared_dim": 128,
        "hierarchical": True,
        "unit_gain": False,
        "output_range": (0.0, 1.0),
    }
    return biggan.Recipe(
        batch=2048,
        d_steps=2,
        g_lr=1e-4,
        d_lr=5e-4,
        ema_start=40_000,
        ema_buffers=False,
        generator=generator,
        discriminator=common,
    )


def stylegan2_tf(data: Literal["cifar", "few-images", "low-shot"]) -> stylegan2.Recipe:
    """StyleGAN2 as in `run_cifar.py` (32 px), `run_ffhq.py` and `run_few_shot.py`, or `run_low_shot.py` (256 px)."""
    recipes = {
        "cifar": (32, 2048, 32, 0.1, 1000.0),
        "few-images": (256, 8192, 32, 1.0, 10.0),
        "low-shot": (256, 16384, 16, 10.0, 10.0),
    }
    resolution, fmap_base, batch, gamma, ema_kimg = recipes[_known(data, recipes)]
    return stylegan2.Recipe(
        code="tf",
        batch=batch,
        r1_gamma=gamma,
        r1_of="raw" if data == "low-shot" else "augmented",
        ema_kimg=ema_kimg,
        ema_start_kimg=ema_kimg,
        generator={"img_resolution": resolution, "synthesis_kwargs": {"channel_base": 2 * fmap_base}},
        discriminator={"img_resolution": resolution, "channel_base": 2 * fmap_base},
    )


def stylegan2_pytorch(cfg: Literal["low-shot", "cifar"], resolution: int | None = None) -> stylegan2.Recipe:
    """StyleGAN2 as in the PyTorch port's `--cfg=low_shot` (its default) and `--cfg=cifar`."""
    half = {"num_fp16_res": 4, "conv_clamp": 256.0}
    cifar = _known(cfg, ("low-shot", "cifar")) == "cifar"
    size = {"img_resolution": resolution or (32 if cifar else 256)}
    return stylegan2.Recipe(
        code="pytorch",
        batch=64 if cifar else 8,
        lr=0.0025 if cifar else 0.002,
        r1_gamma=0.01 if cifar else 10.0,
        r1_of="raw",
        r1_interval=16,
        # Without a penalty (cifar) the interval still lowers Adam's rate, as published.
        pl_weight=0.0 if cifar else 2.0,
        pl_interval=4,
        style_mixing=0.0 if cifar else 0.9,
        mixing_per="batch",
        ema_kimg=500.0 if cifar else 10.0,
        ema_rampup=0.05 if cifar else None,
        ema_start_kimg=0.0,
        generator={
            **size,
            "mapping_kwargs": {"num_layers": 2},
            "synthesis_kwargs": {"channel_base": 32768, **half},
        },
        discriminator={
            **size,
            "channel_base": 32768,
            **half,
            **({"architecture": "orig", "epilogue_kwargs": {"mbstd_group_size": 32}} if cifar else {}),
        },
    )


def _known(name: str, names: Iterable[str]) -> str:
    if name not in names:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(names)}")
    return name
