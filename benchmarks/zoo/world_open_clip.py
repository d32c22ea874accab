"""`world-open-clip64`: a small CLIP of open_clip, for the alignment of the text-to-image model's pictures.

It judges what another network than it guided: architecture, seed and pictures are others than those of `world-clip64`.
As a judge should, it knows unusual looks too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gengauge.benchmarks.features.clip import Encoder, Preparation
from gengauge.benchmarks.machine import exact_float32
from gengauge.benchmarks.training.loop import Schedule, Tell, train
from gengauge.benchmarks.zoo import captions_tokenizer, contrastive, entries
from gengauge.benchmarks.zoo.captioned_animals import RESOLUTION, animals, rendered
from gengauge.benchmarks.zoo.captioned_pairs import Pairs
from gengauge.benchmarks.zoo.entries import FOLDER

NAME = "world-open-clip64"
DIMENSIONS = 128
LENGTH = contrastive.LENGTH
PICTURES = 40_000
SEED = 1
BATCH = 128
KIMG = 160
TEST = 1000
HALF = (0.5, 0.5, 0.5)


def build() -> Any:
    """The network of open_clip without its training: a ResNet with attention pooling and a transformer."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, image_size=RESOLUTION)
    text = CLIPTextCfg(
        context_length=LENGTH, vocab_size=len(captions_tokenizer.vocabulary()[0]), width=128, heads=4, layers=3
    )
    return CLIP(DIMENSIONS, vision, text, quick_gelu=True)


def load(folder: Path = FOLDER) -> Any:
    """The trained network, in eval mode: pictures (N, 3, 64, 64) in [-1, 1], or ids (N, 40), to features (N, 128).

    Raises FileNotFoundError, or ValueError where the weights are not those of the card beside them.
    """
    network = build()
    network.load_state_dict(entries.read_weights(NAME, folder))
    return network.eval().requires_grad_(False)


def encoder(folder: Path = FOLDER, device: str = "cpu") -> Encoder:
    """The trained network for alignment metrics: pictures are resized to 64 px."""
    network, tokenizer = load(folder).to(device), captions_tokenizer.tokenizer()
    return Encoder(
        f"{NAME} (float32)",
        Preparation(RESOLUTION, RESOLUTION, HALF, HALF),
        network.encode_image,
        lambda texts: captions_tokenizer.ids(tokenizer, texts, LENGTH),
        network.encode_text,
        device,
    )


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the trained network."""
    return entries.read_card(NAME, folder)


def make(folder: Path, work: Path, device: str, kimg: float = KIMG, tell: Tell | None = None) -> None:
    """Trains for `kimg` thousand pairs, with states in `work`, and writes weights and card into `folder`."""
    exact_float32()
    schedule = Schedule(max(1, round(kimg * 1000 / BATCH)), snapshot_every=1000, save_every=100, log_every=20)
    shown = animals(SEED, range(PICTURES), unusual=True)
    trained = train(
        lambda: contrastive.Training(build(), schedule.iterations, device),
        Pairs(rendered(work, SEED, PICTURES, unusual=True), shown, BATCH, SEED, LENGTH),
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
        "what": "CLIP of open_clip, small, weights in float16; not a published network",
        "pictures": f"{PICTURES} captioned animals of the embedded world at {RESOLUTION} px, seed {SEED}, unusual "
        "looks included",
        **entries.about_training(trained, schedule, BATCH, device),
        "parameters": sum(parameter.numel() for parameter in build().parameters()),
        **entries.write_weights(NAME, folder, trained.last),
    }
    entries.write_card(NAME, folder, content)
    found = contrastive.retrieval(load(folder).to(device), TEST, True, LENGTH, device)
    entries.write_card(NAME, folder, {**content, **found})
