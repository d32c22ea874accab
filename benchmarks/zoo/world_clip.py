"""`world-clip64`: a small CLIP of captioned animals; its text encoder is the one of the zoo's text-to-image model.

The text encoder is transformers' `CLIPTextModel`. The image tower, convolutions, serves the training only.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.benchmarks.zoo import captions_tokenizer, contrastive, entries
from gengauge.benchmarks.zoo.captioned_animals import RESOLUTION, animals, rendered
from gengauge.benchmarks.zoo.captioned_pairs import Pairs
from gengauge.benchmarks.zoo.entries import FOLDER

NAME = "world-clip64"
WIDTH = 128
LAYERS, HEADS = 4, 4
PICTURES = 40_000
SEED = 0
BATCH = 128
KIMG = 128
TEST = 1000


class ImageTower(nn.Module):
    """Pictures (N, 3, 64, 64) to features (N, WIDTH)."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, 2, 1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(channels))
        self.convolutions = nn.ModuleList(nn.Conv2d(c, c, 3, 1, 1) for c in channels[1:])
        self.norms = nn.ModuleList(nn.GroupNorm(8, c) for c in channels[1:])
        side = RESOLUTION // 2 ** len(channels)
        self.out = nn.Linear(channels[-1] * side * side, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for down, convolution, norm in zip(self.down, self.convolutions, self.norms, strict=True):
            x = norm(down(x))
            x = x + convolution(F.relu(x))
        return self.out(F.relu(x).flatten(1))


class CLIP(nn.Module):
    """Both towers, with the names that open_clip has for their use."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import CLIPTextModelWithProjection

        self.text = CLIPTextModelWithProjection(text_config())
        self.visual = ImageTower()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, image: Tensor) -> Tensor:
        """Pictures (N, 3, 64, 64) in [-1, 1] to (N, WIDTH), of any length."""
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        """Token ids (N, L) to (N, WIDTH), of any length."""
        return self.text(input_ids=text).text_embeds


def text_config() -> Any:
    """The settings of the text encoder, for transformers."""
    from transformers import CLIPTextConfig

    tokens, _ = captions_tokenizer.vocabulary()
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=captions_tokenizer.LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokens["<|startoftext|>"],
        eos_token_id=tokens["<|endoftext|>"],
        pad_token_id=tokens["<|endoftext|>"],
    )


def load(folder: Path = FOLDER) -> CLIP:
    """The trained CLIP, in eval mode.

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = CLIP()
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.eval().requires_grad_(False)


def text_encoder(folder: Path = FOLDER) -> Any:
    """The text encoder alone, a `CLIPTextModel`: ids (N, 77) to `last_hidden_state` (N, 77, WIDTH)."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(text_config())
    found = load(folder).state_dict()
    # Releases of transformers before 5 have a level `text_model` here; with the projection all have it.
    names = {name: f"text.text_model.{name.removeprefix('text_model.')}" for name in encoder.state_dict()}
    encoder.load_state_dict({name: found[there] for name, there in names.items()})
    return encoder.eval().requires_grad_(False)


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


def make(folder: Path, work: Path, device: str, kimg: float = KIMG, tell: Tell | None = None) -> None:
    """Trains for `kimg` thousand pairs, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=100, log_every=20)
    shown = animals(SEED, range(PICTURES))
    trained = train(
        lambda: contrastive.Training(CLIP(), schedule.iterations, device),
        Pairs(rendered(work, SEED, PICTURES), shown, BATCH, SEED, contrastive.LENGTH),
        work / NAME,
        schedule,
        {"name": NAME, "pictures": PICTURES, "iterations": schedule.iterations},
        seed=SEED,
        device=device,
        keep="CLIP",
        tell=tell or (lambda done, total, doing: None),
    )
    content = {
        "name": NAME,
        "what": "CLIP of this project: transformers' CLIPTextModel and a convolutional image tower, weights in "
        "float16; not a published network",
        "pictures": f"{PICTURES} captioned animals of the embedded world at {RESOLUTION} px, seed {SEED}, none of an "
        "unusual look",
        **entries.about_training(trained, schedule, BATCH, device),
        "parameters_of_the_text_encoder": sum(p.numel() for p in CLIP().text.parameters()),
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    found = contrastive.retrieval(load(folder).to(device), TEST, False, contrastive.LENGTH, device)
    entries.write_card(NAME, folder, {**content, **found})
