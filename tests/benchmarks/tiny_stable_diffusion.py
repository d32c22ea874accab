"""A Stable Diffusion of a few thousand random weights as a folder of diffusers, a CLIP, and coloured pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from letters_tokenizer import BOS, EOS, VOCABULARY, letters_tokenizer
from PIL import Image

WIDTH, SIDE = 32, 64
WIDTHS, PROJECTED = (16, 24), 12  # of SDXL's text encoders, and of the second one's pooled text
PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")


def write_stable_diffusion(folder: Path, seed: int = 0, prediction: str = "epsilon", in_channels: int = 4) -> Path:
    """Writes a model for pictures of 64 px, in the layout of Stable Diffusion 1, whose tokenizer knows letters."""
    import diffusers

    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=WIDTH,
        attention_head_dim=2, sample_size=SIDE // 8, in_channels=in_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = autoencoder()
    encoder = text_encoder("CLIPTextModel", WIDTH)
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


def write_stable_diffusion_xl(folder: Path, seed: int = 0) -> Path:
    """Writes a model in the layout of Stable Diffusion XL; its encoders call 2 the end of text, as published ones."""
    import diffusers

    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=sum(WIDTHS),
        attention_head_dim=2, sample_size=SIDE // 8, use_linear_projection=True, transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + PROJECTED,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    encoders = [
        text_encoder(kind, width, eos=2, projection_dim=PROJECTED)
        for kind, width in zip(("CLIPTextModel", "CLIPTextModelWithProjection"), WIDTHS, strict=True)
    ]
    words = folder / "words"
    words.mkdir(parents=True)
    first, second = letters_tokenizer(words), letters_tokenizer(words)
    second.pad_token = "a"  # as SDXL's second tokenizer fills up with a word
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=unet, vae=autoencoder(scaling_factor=0.13025, force_upcast=False), text_encoder=encoders[0],
        text_encoder_2=encoders[1], tokenizer=first, tokenizer_2=second, add_watermarker=False,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def autoencoder(**settings: Any) -> Any:
    """An AutoencoderKL of cells of 8 px."""
    import diffusers

    sides = (4, 4, 4, 4)
    return diffusers.AutoencoderKL(
        block_out_channels=sides, norm_num_groups=2, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **settings,
    )  # fmt: skip


def text_encoder(kind: str, width: int, eos: int = EOS, **settings: Any) -> Any:
    """A text encoder of a class of transformers."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY), hidden_size=width, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=BOS, eos_token_id=eos, pad_token_id=EOS, **settings,
    )  # fmt: skip
    encoder = getattr(transformers, kind)(config)
    for name, parameter in encoder.named_parameters():
        # A norm that has not been trained gives features that sum to zero.
        if "final_layer_norm" in name:
            parameter.data = 1 + torch.randn(width)
    return encoder


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
        if getattr(pipeline, part, None) is not None
        for name, value in getattr(pipeline, part).named_parameters()
    }
