"""Features of CLIP and DINO for alignment metrics: pictures prepared as CLIP's and DINO's own codes do, and texts.

Networks come from a folder or file of the user's; nothing is downloaded. An encoder is a few functions, so that a
metric, or a test, can bring one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gengauge.benchmarks.features.extract import CPU_BATCH, GPU_BATCH
from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.folder import read_picture

Array = np.ndarray[Any, Any]
Mean = tuple[float, float, float]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Preparation:
    """How a picture comes to a network: bicubic to `resize` px on its shorter side, the middle `crop` px, normalised.

    As torchvision's Resize (of a Pillow image), CenterCrop, ToTensor and Normalize, bit by bit.
    """

    resize: int
    crop: int
    mean: Mean
    std: Mean

    def __call__(self, picture: Array) -> Tensor:
        """(H, W, 3) uint8 to (3, crop, crop) float32. Raises ValueError for another array."""
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise ValueError(f"a picture is (H, W, 3) uint8, not {picture.shape} {picture.dtype}")
        short = min(picture.shape[:2])
        height, width = (int(self.resize * side / short) for side in picture.shape[:2])
        image = Image.fromarray(picture)
        if short != self.resize:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
        middle = np.array(image.crop((left, top, left + self.crop, top + self.crop)))
        x = torch.from_numpy(middle).permute(2, 0, 1).contiguous().float() / 255
        return (x - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


CLIP = Preparation(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO = Preparation(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network for features. `name` says which, and in which precision it works.

    `pictures` maps prepared pictures (N, 3, H, W) to (N, D); `texts` maps token ids (N, L), which `tokenize` makes of
    strings, to (N, D), and is None where there is no text.
    """

    name: str
    prepare: Callable[[Array], Tensor]
    pictures: Callable[[Tensor], Tensor]
    tokenize: Callable[[Sequence[str]], Tensor] | None = None
    texts: Callable[[Tensor], Tensor] | None = None
    device: str = "cpu"


def picture_features(
    pictures: Sequence[Path] | Sequence[Array],
    encoder: Encoder,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Features (N, D) float32 of picture files, or of arrays (H, W, 3) uint8 of any sizes, each encoded once.

    Raises ValueError naming a picture that cannot be read, and where features are not finite.
    """

    def encode(start: int, end: int) -> Tensor:
        read = [read_picture(each) if isinstance(each, Path) else each for each in pictures[start:end]]
        return encoder.pictures(torch.stack([encoder.prepare(each) for each in read]).to(encoder.device))

    return _batched(encode, len(pictures), encoder, batch, progress)


def text_features(
    texts: Sequence[str], encoder: Encoder, batch: int | None = None, progress: Progress | None = None
) -> Array:
    """Features (N, D) float32 of texts, cut at the network's length; texts that are equal are encoded once.

    Raises ValueError for an encoder of pictures only, and where features are not finite.
    """
    if encoder.tokenize is None or encoder.texts is None:
        raise ValueError(f"{encoder.name} has no features of text; take a CLIP")
    network, tokenize, once = encoder.texts, encoder.tokenize, list(dict.fromkeys(texts))

    def encode(start: int, end: int) -> Tensor:
        return network(tokenize(once[start:end]).to(encoder.device))

    place = {text: i for i, text in enumerate(once)}
    return _batched(encode, len(once), encoder, batch, progress)[[place[text] for text in texts]]


def transformers_clip(model: Any, tokenizer: Any = None, name: str = "CLIP", device: str = "cpu") -> Encoder:
    """An encoder of a CLIPModel of transformers; texts need its tokenizer, or ids already."""
    model = model.to(device).eval()
    size = int(model.config.vision_config.image_size)

    def tokenize(texts: Sequence[str]) -> Tensor:
        length = int(model.config.text_config.max_position_embeddings)
        return tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids

    return Encoder(
        f"{name} ({model.dtype})".replace("torch.", ""),
        Preparation(size, size, CLIP.mean, CLIP.std),
        lambda x: _projected(model.get_image_features(pixel_values=x.to(model.dtype))),
        None if tokenizer is None else tokenize,
        lambda ids: _projected(model.get_text_features(input_ids=ids)),
        device,
    )


def load_transformers_clip(folder: Path, device: str = "cpu") -> Encoder:
    """The encoder of a folder as `CLIPModel.save_pretrained` and its tokenizer write it, in float32.

    Raises FileNotFoundError where the folder has no settings, and ValueError for what is no CLIP.
    """
    from transformers import CLIPModel, CLIPTokenizer

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no CLIP of transformers: there is no config.json in it")
    try:
        model, told = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(f"{folder} cannot be read as a CLIP of transformers: {error}") from error
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{folder} is no whole CLIP: {len(missing)} tensors are missing (first: {missing[0]})")
    return transformers_clip(model.float(), tokenizer, f"CLIP of {folder.name}", device)


def load_open_clip(path: Path, architecture: str = "ViT-B-32-quickgelu", device: str = "cpu") -> Encoder:
    """The encoder of a checkpoint file of OpenAI (`ViT-B-32.pt`) or of open_clip, in float32; none of its code is run.

    OpenAI's networks are those with `-quickgelu`, LAION's those without. Raises FileNotFoundError, UnsafeCheckpoint or
    DamagedCheckpoint for the file, and ValueError for an unknown architecture or weights of another.
    """
    import open_clip

    if architecture not in open_clip.list_models():
        raise ValueError(f"open_clip knows no architecture {architecture!r}; ViT-B-32-quickgelu is that of OpenAI's")
    state = {
        name.removeprefix("state_dict.").removeprefix("module."): each for name, each in read_tensors(path).items()
    }
    for name in ("input_resolution", "context_length", "vocab_size"):  # numbers that OpenAI's file holds beside
        state.pop(name, None)
    model = open_clip.create_model(architecture, pretrained=None, precision="fp32")
    _load(model, {name: each.float() for name, each in state.items()}, path, architecture)
    model = model.to(device).eval()
    size = int(model.visual.image_size[0])
    return Encoder(
        f"CLIP {architecture} of {path.name} (float32)",
        Preparation(size, size, CLIP.mean, CLIP.std),
        model.encode_image,
        lambda texts: open_clip.get_tokenizer(architecture)(list(texts)),
        model.encode_text,
        device,
    )


def load_dino(path: Path, architecture: str = "vit_small_patch16_224", device: str = "cpu") -> Encoder:
    """The encoder of DINO's published weights (`dino_deitsmall16_pretrain.pth`): the class token, (N, 384), float32.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint for the file, ValueError for weights of another.
    """
    import timm

    model = timm.create_model(architecture, pretrained=False, num_classes=0)
    _load(model, read_tensors(path), path, architecture)
    return Encoder(f"DINO {architecture} of {path.name} (float32)", DINO, model.to(device).eval(), device=device)


def _load(model: nn.Module, state: dict[str, Tensor], path: Path, architecture: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(f"{path} holds no weights of {architecture}: {reason[0].strip()[:200]}") from None


def _projected(found: Any) -> Tensor:
    """Features in the shared space, which transformers returns as they are or, since release 5, beside others."""
    return found if isinstance(found, Tensor) else found.pooler_output


@torch.inference_mode()
def _batched(
    encode: Callable[[int, int], Tensor], count: int, encoder: Encoder, batch: int | None, progress: Progress | None
) -> Array:
    if not count:
        raise ValueError("there is nothing to extract features of")
    size = batch or (CPU_BATCH if encoder.device == "cpu" else GPU_BATCH)
    out = []
    for start in range(0, count, size):
        end = min(start + size, count)
        features = encode(start, end).float().cpu()
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"{encoder.name} gives features of {start} to {end - 1} that are not finite")
        out.append(features.numpy())
        if progress is not None:
            progress(end, count)
    return np.concatenate(out)
