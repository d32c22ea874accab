"""The published recipes: CUT, FastCUT, SinCUT, and CycleGAN as CUT's code compares with it."""

from __future__ import annotations

from gengauge.reference.cut import contrastive, cyclegan
from gengauge.reference.cut.losses import LinearSchedule
from gengauge.reference.nets.stylegan2 import translation

CUT = contrastive.Recipe()
FASTCUT = contrastive.Recipe(
    nce_idt=False, lambda_nce=10.0, flip_equivariance=True, schedule=LinearSchedule(n_epochs=150, n_epochs_decay=50)
)
SINCUT = contrastive.Recipe(
    networks="stylegan2",
    lambda_nce=4.0,
    lambda_r1=1.0,
    lambda_identity=1.0,
    nce_layers=translation.TAPS,
    num_patches=1,
    all_negatives=True,
    gan_mode="nonsaturating",
    batch=16,
    lr=2e-3,
    betas=(0.0, 0.99),
    schedule=LinearSchedule(n_epochs=8, n_epochs_decay=8),
    load_size=1024,
    crop_size=64,
    preprocess="zoom_and_patch",
    generator={"ngf": 10, "crop_size": 64},
    discriminator={"ndf": 8, "crop_size": 64},
)
CYCLEGAN = cyclegan.Recipe()
# As published in 2017: no identities unless colours must stay, strided convolutions. Its weights began as N(0, 0.02).
CYCLEGAN_2017 = cyclegan.Recipe(
    lambda_identity=0.0,
    jitter_throughout=True,
    schedule=LinearSchedule(n_epochs=100, n_epochs_decay=100),
    generator={"antialias": False, "antialias_up": False},
    discriminator={"antialias": False},
)
