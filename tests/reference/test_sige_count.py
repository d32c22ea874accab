"""Operations of Stable Diffusion's networks, of which there are no goldens: the published sums."""

from __future__ import annotations

import pytest
import torch

from gengauge.reference.nets.latent_diffusion import stable_diffusion_autoencoder, stable_diffusion_unet
from gengauge.reference.sige import policy
from gengauge.reference.sige.count import BMM, CONVOLUTION, LINEAR, MUL, dense_macs, parameters
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.masks import STABLE_DIFFUSION_IMG2IMG, centred_square
from gengauge.reference.sige.tape import record

diffusers = pytest.importorskip("diffusers")


def test_stable_diffusion_has_the_published_number_of_operations() -> None:
    with torch.device("meta"):
        network = stable_diffusion_unet().eval()
        given = torch.empty(2, 4, 64, 128), torch.empty(2), torch.empty(2, 77, 768)  # 512 x 1024, with guidance
    macs = dense_macs(network, record(network, *given), swish_is_product=False)
    assert parameters(network) == 859_520_964
    assert round(macs.total() / 1e9, 1) == 1854.8
    assert round((macs[CONVOLUTION] + macs[LINEAR] + macs[BMM]) / 1e9, 2) == 1848.53


def test_its_decoder_and_encoder_have_the_published_numbers_of_operations() -> None:
    with torch.device("meta"):
        network = stable_diffusion_autoencoder().eval()
        latent, picture = torch.empty(1, 4, 64, 128), torch.empty(1, 3, 512, 1024)
    # Unlike the U-Net's, their swish is written as a product.
    assert round(dense_macs(network.decoder, record(network.decoder, latent)).total() / 1e9, 1) == 2550.8
    assert round(dense_macs(network.encoder, record(network.encoder, picture)).total() / 1e9, 1) == 1152.1
    assert (parameters(network.decoder), parameters(network.encoder)) == (49_490_179, 34_163_592)


def test_keys_and_values_of_the_autoencoder_are_made_for_touched_tokens_alone() -> None:
    with torch.device("meta"):
        decoder = stable_diffusion_autoencoder().decoder.eval()
        latent = torch.empty(1, 4, 64, 128)
    engine = Engine(decoder, policy.stable_diffusion_autoencoder())
    engine.prepare(latent)
    marks = engine.set_masks(STABLE_DIFFUSION_IMG2IMG.from_mask(centred_square(0.05, 512, 1024)).levels)
    macs, touched = engine.macs(), marks.tokens[64, 128].listed * 16
    assert macs[LINEAR] == 4 * touched * 512**2  # queries, keys, values, and what follows attention
    assert macs[BMM] == 2 * touched * 64 * 128 * 512
    assert {step.size_out for step in engine.program.steps if engine.tiling(step)} == {
        (64 << k, 128 << k) for k in range(4)
    }


def test_on_tiles_a_swish_is_a_product_in_every_network() -> None:
    with torch.device("meta"):
        decoder = stable_diffusion_autoencoder().decoder.eval()
        latent = torch.empty(1, 4, 64, 128)
    engine = Engine(decoder, policy.stable_diffusion_autoencoder())
    engine.prepare(latent)
    engine.set_masks(STABLE_DIFFUSION_IMG2IMG.from_mask(centred_square(0.05, 512, 1024)).levels)
    dense = 128 * 512 * 1024  # before the last convolution
    assert engine.macs()[MUL] - engine.macs(swish_is_product=False)[MUL] == dense
