"""Text and image alignment of features, and the encoders that the features come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from letters_tokenizer import BOS, EOS, VOCABULARY, letters_tokenizer
from PIL import Image

from gengauge.benchmarks.features import clip
from gengauge.benchmarks.features.clip import (
    CLIP,
    DINO,
    Encoder,
    load_dino,
    load_open_clip,
    load_transformers_clip,
    picture_features,
    text_features,
)
from gengauge.benchmarks.metrics.alignment import image_alignment, text_alignment, without_modifiers
from gengauge.datasets.unpickling import DamagedCheckpoint

SMALL_OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    "quick_gelu": True,
}


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def pictures(count: int, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (40 + 7 * i, 50, 3), dtype=np.uint8) for i in range(count)]


# -- alignment ---------------------------------------------------------------------------------------------------------


def test_text_alignment_is_cosine_and_clip_score() -> None:
    features = np.array([[2.0, 0], [0, 3], [-1, 0], [1, 1]])
    found = text_alignment(features, np.array([[5.0, 0]]))
    assert found.cosines.tolist() == pytest.approx([1, 0, -1, math.sqrt(0.5)])
    assert found.scores.tolist() == pytest.approx([2.5, 0, 0, 2.5 * math.sqrt(0.5)])
    assert found.cosine == pytest.approx(math.sqrt(0.5) / 4)
    assert found.score == pytest.approx(2.5 * (1 + math.sqrt(0.5)) / 4)
    each = text_alignment(features, features[::-1])
    assert each.cosines[0] == pytest.approx(math.sqrt(0.5))


def test_image_alignment_is_the_mean_of_all_pairs() -> None:
    a, b = drawn(7, 5), drawn(4, 5, seed=1)
    pairs = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x in a for y in b]
    assert image_alignment(a, b) == pytest.approx(np.mean(pairs), abs=1e-14)
    assert image_alignment(a[:1] * 3, a[:1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (drawn(3, 4), drawn(2, 5), "dimensions|each picture has one text"),
        (drawn(3, 4) * np.nan, drawn(3, 4), "finite"),
        (drawn(3, 4), np.zeros((3, 4)), "has length 0"),
        (drawn(0, 4), drawn(3, 4), "finite"),
        (drawn(4), drawn(3, 4), "finite"),
    ],
)
def test_features_without_an_alignment(a: Any, b: Any, match: str) -> None:
    for function in (image_alignment, text_alignment):
        with pytest.raises(ValueError, match=match):
            function(a, b)


def test_each_picture_has_one_text() -> None:
    with pytest.raises(ValueError, match="each picture has one text"):
        text_alignment(drawn(4, 3), drawn(2, 3))


def test_prompts_are_measured_without_their_modifier_tokens() -> None:
    assert without_modifiers("photo of a <new1> cat with <new12> pot") == "photo of a cat with pot"
    assert without_modifiers("<new1> cat") == "cat"
    assert without_modifiers("a sks cat, <new1>", ["sks"]) == "a cat, <new1>"
    assert without_modifiers("a <v1> cat <v1>2", ["<v1>", "<v1>2"]) == "a cat"
    assert without_modifiers(" a  cat ", []) == "a cat"
    with pytest.raises(ValueError, match="says nothing but its modifier tokens"):
        without_modifiers("<new1>")


# -- pictures and texts to features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preparation", [CLIP, DINO])
@pytest.mark.parametrize("size", [(70, 90), (224, 224), (225, 224), (300, 31), (256, 256), (512, 500)])
def test_pictures_are_prepared_as_by_torchvision(preparation: clip.Preparation, size: tuple[int, int]) -> None:
    from torchvision import transforms  # type: ignore[import-untyped]

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = transforms.Compose(
        [
            transforms.Resize(preparation.resize, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(preparation.crop),
            transforms.ToTensor(),
            transforms.Normalize(preparation.mean, preparation.std),
        ]
    )
    assert torch.equal(preparation(picture), theirs(Image.fromarray(picture)))
    with pytest.raises(ValueError, match="a picture is"):
        preparation(picture[..., 0])


def counting() -> tuple[Encoder, list[int]]:
    """An encoder of means of a picture's channels, and of lengths of texts, with the sizes of its batches."""
    sizes: list[int] = []

    def encode(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x.mean((2, 3)) if x.ndim == 4 else x.float()

    return Encoder("means", CLIP, encode, lambda texts: torch.tensor([[len(t), 1] for t in texts]), encode), sizes


def test_every_picture_and_text_is_encoded_once(tmp_path: Path) -> None:
    encoder, sizes = counting()
    seen: list[tuple[int, int]] = []
    arrays = pictures(5)
    found = picture_features(arrays, encoder, batch=2, progress=lambda *done: seen.append(done))
    assert sizes == [2, 2, 1]
    assert seen == [(2, 5), (4, 5), (5, 5)]
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    assert np.array_equal(picture_features(paths, encoder), found)
    assert found.dtype == np.float32
    sizes.clear()
    texts = text_features(["a", "bbb", "a", "bbb", "cc"], encoder)
    assert texts[:, 0].tolist() == [1, 3, 1, 3, 2]
    assert sizes == [3]


def test_what_has_no_features(tmp_path: Path) -> None:
    encoder, _ = counting()
    with pytest.raises(ValueError, match="nothing to extract features of"):
        picture_features([], encoder)
    with pytest.raises(ValueError, match="has no features of text"):
        text_features(["a"], Encoder("DINO", DINO, encoder.pictures))
    broken = Encoder("broken", CLIP, lambda x: x.mean((2, 3)) / 0)
    with pytest.raises(ValueError, match="broken gives features of 0 to 1 that are not finite"):
        picture_features(pictures(2), broken)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png"):
        picture_features([tmp_path / "a.png"], encoder)


# -- networks from files -----------------------------------------------------------------------------------------------


def test_a_clip_of_transformers(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    layer = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **layer,
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": 12,
            "eos_token_id": EOS,
            "bos_token_id": BOS,
        },
        vision_config={**layer, "image_size": 32, "patch_size": 16},
        projection_dim=6,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    letters_tokenizer(tmp_path).save_pretrained(tmp_path)
    encoder = load_transformers_clip(tmp_path)
    assert encoder.name == f"CLIP of {tmp_path.name} (float32)"
    array = pictures(1)[0]
    ours = picture_features([array], encoder)
    with torch.no_grad():
        prepared = clip.Preparation(32, 32, CLIP.mean, CLIP.std)(array)[None]
        theirs = model(pixel_values=prepared, input_ids=torch.tensor([[BOS, EOS]])).image_embeds.numpy()
    assert np.allclose(ours / np.linalg.norm(ours), theirs, atol=1e-6)
    long = text_features(["a b c d e f g h i j k l m n", "a b c d e f g h i j k l"], encoder)
    assert np.allclose(long[0], long[1])
    assert not np.allclose(*text_features(["a b", "b a"], encoder))
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_transformers_clip(tmp_path / "nothing")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as a CLIP of transformers"):
        load_transformers_clip(tmp_path)


def test_a_clip_in_openais_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's file is half precision and holds three numbers beside the weights."""
    import open_clip  # type: ignore[import-untyped]

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", SMALL_OPEN_CLIP)
    torch.manual_seed(0)
    model = open_clip.create_model("small", pretrained=None)
    state = {name: value.half() for name, value in model.state_dict().items() if name != "attn_mask"}
    torch.save({**state, "input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)}, tmp_path / "a.pt")
    encoder = load_open_clip(tmp_path / "a.pt", "small")
    assert picture_features(pictures(2), encoder).shape == (2, 16)
    texts = text_features(["a cat", "a dog", "a cat"], encoder)
    assert np.array_equal(texts[0], texts[2])
    assert not np.allclose(texts[0], texts[1])
    with pytest.raises(ValueError, match="open_clip knows no architecture 'tiny'"):
        load_open_clip(tmp_path / "a.pt", "tiny")
    torch.save({name: value for name, value in state.items() if "ln_final" not in name}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt holds no weights of small: Missing key.*ln_final"):
        load_open_clip(tmp_path / "b.pt", "small")
    (tmp_path / "c.pt").write_bytes(b"<html>")
    with pytest.raises(DamagedCheckpoint, match=r"c\.pt cannot be read"):
        load_open_clip(tmp_path / "c.pt", "small")


def test_dino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    torch.manual_seed(0)

    def small(*_: Any, **__: Any) -> Any:
        return timm.models.vision_transformer.VisionTransformer(
            patch_size=32, embed_dim=8, depth=1, num_heads=2, num_classes=0
        )

    model = small().eval()
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    monkeypatch.setattr(timm, "create_model", small)
    encoder = load_dino(tmp_path / "dino.pth")
    array = pictures(1)[0]
    with torch.no_grad():
        assert np.allclose(picture_features([array], encoder), model.forward_features(DINO(array)[None])[:, 0])
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no weights of vit_small_patch16_224"):
        load_dino(tmp_path / "other.pth")


def test_dino_as_published_has_the_names_of_the_network() -> None:
    """Those of `dino_deitsmall16_pretrain.pth`: 150 tensors, 21,665,664 numbers."""
    import timm

    with torch.device("meta"):
        state = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0).state_dict()
    assert len(state) == 150
    assert sum(value.numel() for value in state.values()) == 21_665_664
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.11.attn.qkv.bias",
        "norm.weight",
    } <= state.keys()
