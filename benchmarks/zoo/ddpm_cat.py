"""`ddpm-cat32`: a small DDPM U-Net of the embedded world's cats at 32 px, for papers that need a diffusion prior.

Not a published network: it stands in for the published ones where a run must work anywhere.
"""

from __future__ import annotations


from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sdedit.training import Recipe

NAME = "ddpm-cat32"
RESOLUTION = 32
SPECIES = "cat"
PICTURES = 30_000
SEED = 0
BATCH = 32
CONFIG = UNetConfig(RESOLUTION, 32, (1, 2, 4), 1, (8,), temb_ch=128, num_groups=16)
RECIPE = Recipe(CONFIG, batch=BATCH, lr=4e-4, clip=1.0, ema=0.999, bfloat16=True)
