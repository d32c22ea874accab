"""A Stable Diffusion of a few thousand random weights as a folder of diffusers, a CLIP, and coloured pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from letters_tokenizer import BOS, EOS, VOCABULARY, letters_tokenizer
from PIL import Image

WIDTH, SIDE = 32, 64
PARTS = ("unet", "text_encoder", "vae")


def write_stable_diffusion(folder: Path, seed: int = 0, prediction: str = "epsilon", in_channels: int = 4) -> Path:
    """Writes a model for pictures of 64 px, in the layout of Stable Diffusion 1, whose tokenizer knows letters."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=WIDTH,
        attention_head_dim=2, sample_size=SIDE // 8, in_channels=in_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    sides = (4, 4, 4, 4)
    vae = diffusers.AutoencoderKL(
        block_out_channels=sides, norm_num_groups=2, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS,
        )
    )  # fmt: skip
    for name, parameter in encoder.named_parameters():
        # A norm that has not been trained gives features that sum to zero.
        if "final_layer_norm" in name:
            parameter.data = 1 + torch.randn(WIDTH)
    words = folder / "words"
    words.mkdir(parents=True)
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        prediction_type=prediction,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=encoder, tokenizer=letters_tokenizer(words), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """Writes a random CLIP of transformers for pictures of 32 px."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    layer = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40, "eos_token_id": EOS, "bos_token_id": BOS}
    config = CLIPConfig(
        text_config={**layer, **words},
        vision_config={**layer, "image_size": 32, "patch_size": 16},
        projection_dim=6,
    )
    CLIPModel(config).save_pretrained(folder)
    letters_tokenizer(folder).save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (80, 70)) -> Path:
    """Writes pictures of noise in one colour, `size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    colour = random.integers(40, 216, 3)
    for i in range(count):
        pixels = colour + random.integers(-40, 40, (size[1], size[0], 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def parameters(pipeline: Any) -> dict[str, torch.Tensor]:
    """Copies of all weights by name."""
    return {
        f"{part}.{name}": value.detach().clone()
        for part in PARTS
        for name, value in getattr(pipeline, part).named_parameters()
    }
