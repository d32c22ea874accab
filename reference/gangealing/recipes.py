"""The published recipes of GANgealing's training scripts: eight processes of five pictures, a batch of 40."""

from __future__ import annotations

from dataclasses import replace

from gengauge.reference.gangealing.training import Recipe

SIZE_256 = {"size": 256}
# The last stop at a rate of 0 within the published 1.5 million iterations; the released networks are of it.
STOP = 1_312_499

CATS_SSL = Recipe(padding_mode="border", generator=SIZE_256, transformer={"supersize": 256})
CATS = replace(CATS_SSL, loss="lpips", tv_weight=2500.0)
DOGS = CATS
# Trained with ADA, whose generators need the normalised modulation in single precision too.
BICYCLES = replace(CATS, padding_mode="reflection", generator={**SIZE_256, "num_fp16_res": 4})
TVS = BICYCLES
CARS = replace(
    CATS,
    ndirs=5,
    inject_index=6,
    padding_mode="reflection",
    num_heads=4,
    flips=True,
    sample_from_full_res=True,
)
HORSES = CARS  # no script of its own is published
CELEBA = replace(CATS, ndirs=512, inject_index=6, generator={"size": 128}, transformer={"supersize": 128})
