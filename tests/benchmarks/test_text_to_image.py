"""The zoo's small text-to-image model: its pictures and captions, its parts, and that it can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.benchmarks.features.clip import picture_features, text_features
from gengauge.benchmarks.zoo import (
    captioned_animals,
    captions_tokenizer,
    contrastive,
    pictured_attributes,
    text_to_image,
    world_autoencoder,
    world_clip,
    world_diffusion,
    world_open_clip,
)
from gengauge.benchmarks.zoo.captioned_animals import UNNATURAL, animals, caption, in_style, pictures, rendered
from gengauge.benchmarks.zoo.captioned_pairs import Pairs, scaled, set_rate
from gengauge.datasets import world

ENTRIES = (world_clip, world_open_clip, world_autoencoder, text_to_image)
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.NAME)


def captions(seed: int, count: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [caption(each, random) for each in animals(seed, range(count), unusual=True)]


# Pictures and captions


def test_what_is_unusual_is_left_out_unless_asked_for() -> None:
    def unusual(scene: world.Scene) -> bool:
        strange = scene.fur_colour in UNNATURAL and scene.pattern != "plain"
        return strange or scene.eye_colour not in world.NATURAL_EYE_COLOURS

    scenes = [each.scene for each in animals(0, range(300))]
    scenes += [each.other for each in animals(0, range(300)) if each.other is not None]
    assert not any(unusual(scene) for scene in scenes)
    assert any(scene.fur_colour in UNNATURAL for scene in scenes)
    assert sum(unusual(each.scene) for each in animals(0, range(300), unusual=True)) > 50


def test_an_animal_depends_on_its_seed_and_index_only() -> None:
    alone, (_, among) = animals(3, [7]), animals(3, [2, 7])
    assert alone == [among]
    assert animals(4, [7]) != alone
    (given,) = animals(3, [7], species="fox", background="night")
    assert (given.scene.species, given.scene.background) == ("fox", "night")
    with pytest.raises(ValueError, match="species: 'horse' is not one of"):
        animals(3, [7], species="horse")


def test_a_pair_is_two_halves_with_one_background() -> None:
    pair = next(each for each in animals(0, range(50)) if each.framing == "pair" and each.style == "photo")
    assert pair.other is not None
    assert pair.other.background_colour == pair.scene.background_colour
    (made,) = pictures([pair])
    left, right = (world.to_uint8(world.render([scene], 64).images[0]) for scene in (pair.scene, pair.other))
    assert torch.equal(made[..., :32], left[..., :32])
    assert torch.equal(made[..., 32:], right[..., 32:])
    told = caption(pair, np.random.default_rng(0))
    assert pair.scene.species in told.split(" and ")[0]
    assert pair.other.species in told.split(" and ")[1]


def test_styles_take_the_colour_away() -> None:
    (made,) = pictures(animals(0, [7], fur_colour="blue"))
    assert torch.equal(in_style(made, "photo"), made)
    red, green, blue = in_style(made, "black and white photo")
    assert torch.equal(red, green)
    assert torch.equal(green, blue)
    assert red.float().std() > 10
    red, green, blue = in_style(made, "sepia photo").float()
    assert (red >= green).all()
    assert (green >= blue).all()
    with pytest.raises(ValueError, match="style: 'cubism' is not one of photo, black and white photo, sepia photo"):
        in_style(made, "cubism")


def test_captions_tell_what_is_seen_and_no_other() -> None:
    random = np.random.default_rng(0)
    for each in animals(5, range(400)):
        told, scene = caption(each, random), each.scene
        words = told.replace(",", "").split()
        if each.other is not None:
            continue
        assert [species for species in world.SPECIES if species in words] == [scene.species]
        assert [a for a in ("collar", "hat", "glasses") if a in words] in ([], [scene.accessory])
        for word, framing in (("far", "far"), ("small", "far"), ("zoomed", "near"), ("close", "near")):
            assert word not in words or each.framing == framing
        assert ("sepia" in words) == (each.style == "sepia photo")
        assert ("black and white" in told) == (each.style == "black and white photo")
        if scene.background == "bricks" and "brick" in told:
            assert f"{scene.background_colour} " in told
    assert captioned_animals.with_articles("a orange cat and a dog") == "an orange cat and a dog"


def test_rendered_pictures_are_kept_and_made_anew_where_they_changed(tmp_path: Path) -> None:
    made = rendered(tmp_path, 0, 10).clone()  # it is mapped to the file, into which this test writes
    assert torch.equal(made, pictures(animals(0, range(10))))
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    assert torch.equal(rendered(tmp_path, 0, 10), made)
    assert file.stat().st_mtime_ns == before
    np.save(file, np.zeros_like(made.numpy()))
    assert torch.equal(rendered(tmp_path, 0, 10), made)
    assert rendered(tmp_path, 0, 4, unusual=True).shape == (4, 3, 64, 64)


# The tokenizer


def test_every_word_of_a_caption_is_one_token() -> None:
    tokenizer = captions_tokenizer.tokenizer()
    for text in captions(9, 500):
        words = text.replace(",", " ,").split()
        assert len(tokenizer(text).input_ids) == len(words) + 2 <= contrastive.LENGTH
    for word in captions_tokenizer.RARE:
        assert tokenizer.tokenize(word) == [f"{word}</w>"]
        assert word not in captions_tokenizer.WORDS


def test_the_tokenizers_files_are_clips(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    captions_tokenizer.write(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    tokens, _ = captions_tokenizer.vocabulary()
    assert len(tokenizer) == len(tokens) == len(set(tokens.values()))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokens) - 1  # open_clip looks for the largest
    assert tokenizer.model_max_length == 77
    ids = captions_tokenizer.ids(tokenizer, ["a cat", "A CAT", "naïve zebras, 9 <€>"])
    assert ids.shape == (3, 77)
    assert torch.equal(ids[0], ids[1])
    assert tokenizer.decode(ids[2], skip_special_tokens=True).replace(" ", "") == "naïvezebras,9<€>"
    assert len(captions_tokenizer.ids(tokenizer, ["a cat " * 99])[0]) == 77
    assert tokenizer.add_tokens(["<new1>"]) == 1
    assert tokenizer.convert_tokens_to_ids("<new1>") == len(tokens)


# Batches, and the contrastive loss


def test_a_batch_depends_on_the_iteration_only() -> None:
    shown = animals(0, range(20))
    pairs = Pairs(pictures(shown), shown, 6, 1, 40, empty=0.5)
    one = pairs.start(0, "cpu")
    next(one)
    (inputs, ids), (again, same) = next(one), next(pairs.start(1, "cpu"))
    assert torch.equal(inputs, again)
    assert torch.equal(ids, same)
    assert inputs.shape == (6, 3, 64, 64)
    assert -1 <= inputs.min() < -0.5 < 0.5 < inputs.max() <= 1
    empty = torch.cat([next(pairs.start(i, "cpu"))[1] for i in range(20)])[:, 1] == ids.max()
    assert 0.3 < empty.float().mean() < 0.7
    with pytest.raises(ValueError, match="19 pictures cannot be those of 20 animals"):
        Pairs(pictures(shown)[:19], shown, 6, 1, 40)


def test_the_rate_rises_and_falls() -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    rates = []
    for i in range(100):
        set_rate(optimiser, 0.5, i, 100, 10)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.05)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


class Given(nn.Module):
    """Towers that give features as they were learnt, one a picture and one a text."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.found, self.read = nn.Parameter(features.clone()), nn.Parameter(features.clone())
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, image: Tensor) -> Tensor:
        return self.found * 1.0

    def encode_text(self, text: Tensor) -> Tensor:
        return self.read * 1.0


def test_equal_captions_are_right_for_each_others_pictures() -> None:
    features, ids = torch.eye(4), torch.tensor([[1, 2], [1, 3], [1, 4], [1, 4]])
    training = contrastive.Training(Given(features), 10)
    losses = training.step(torch.zeros(4, 3, 64, 64), ids, None)
    logits = torch.exp(torch.tensor(3.0)) * features
    wanted = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    expected = -(wanted * F.log_softmax(logits, 1)).sum(1).mean()
    assert losses["loss"] == pytest.approx(float(expected), rel=1e-3)
    assert losses["right"] == 1.0


# Attributes read off pictures


def test_attributes_of_fresh_pictures_are_read_rightly() -> None:
    shown = animals(41, range(120), unusual=True)
    made = pictures(shown)
    for each, (style, background, colour) in zip(shown, pictured_attributes.backdrops(made), strict=True):
        coloured = each.scene.background in pictured_attributes.PLAINLY_COLOURED
        assert (style, background) == (each.style, each.scene.background)
        assert colour == (each.scene.background_colour if coloured else "")
    near = [i for i, each in enumerate(shown) if each.framing in ("normal", "near") and each.style == "photo"]
    assert len(near) > 60
    assert pictured_attributes.coats(made[near]) == [shown[i].scene.fur_colour for i in near]


def test_shares_of_attributes_count_what_was_asked() -> None:
    asked = [("blue", "bricks", "teal"), ("white", "night", "")]
    right = {"scale": 0.3, "x": 0.5, "y": 0.5}
    (blue,) = animals(0, [7], fur_colour="blue", background="bricks", background_colour="teal", **right)
    (black,) = animals(0, [7], fur_colour="black", background="night", **right)
    found = pictured_attributes.shares(asked, pictures([blue, black]))
    assert found == {"coat": 0.5, "background": 1.0, "background_colour": 1.0}
    for text, (coat, _, colour) in pictured_attributes.prompts(20):
        assert text.startswith(("photo of a ", "photo of an "))
        assert coat in text
        assert colour in text


# Trainings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All four networks, made in a folder by two steps of training each."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        for entry in ENTRIES:
            patch.setattr(entry, "PICTURES", 40)
            patch.setattr(entry, "BATCH", 4)
        patch.setattr(text_to_image, "STEPS", 2)
        for entry in ENTRIES[:3]:
            patch.setattr(entry, "TEST", 10)
            entry.make(folder, folder / "training", "cpu", kimg=0.008)
        text_to_image.make(folder, folder / "training", "cpu", kimg=0.008, samples=4)
        yield folder


@each_entry
def test_a_network_can_be_made_again_and_its_card_tells_all(made: Path, entry: Any) -> None:
    card = entry.card(made)
    assert (card["name"], card["iterations"], card["batch"], card["kimg"]) == (entry.NAME, 2, 4, 0.008)
    assert card["bytes"] == (made / f"{entry.NAME}.safetensors").stat().st_size < 8_000_000
    assert "40 captioned animals" in card["pictures"]
    assert card.keys() >= {"parameters", "seconds", "device", "threads", "begun", "ended", "versions", "sha256"}
    network = entry.load(made)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    # The same command goes on from its state, which is the end, and writes the same weights.
    entry.make(made, made / "training", "cpu", kimg=0.008, **({"samples": 4} if entry is text_to_image else {}))
    assert entry.card(made)["sha256"] == card["sha256"]
    with pytest.raises(FileNotFoundError):
        entry.load(made / "nowhere")


def test_the_cards_hold_figures(made: Path) -> None:
    for entry in (world_clip, world_open_clip):
        card = entry.card(made)
        assert card["pairs"] == 10
        assert 0 <= card["caption_of_a_picture_in_1"] <= card["caption_of_a_picture_in_5"] <= 1
    card = world_autoencoder.card(made)
    assert card["scaling_factor"] == world_autoencoder.load(made).config.scaling_factor > 0
    assert 5 < card["psnr"] < 60
    card = text_to_image.card(made)
    assert 0 < card["fid_of_fresh_pictures"] < card["fid"]
    assert card["shown_as_asked"].keys() == {"coat", "background", "background_colour"}
    assert set(card["parts"]) == {world_clip.NAME, world_autoencoder.NAME}


def test_latents_are_scaled_to_a_variance_of_one(made: Path) -> None:
    network, shown = world_autoencoder.load(made), pictures(animals(1, range(40), unusual=True))
    mean, std = world_autoencoder.moments(network, shown).float().chunk(2, 1)
    found = network.encode(scaled(shown)).latent_dist
    assert torch.allclose(mean, found.mean, atol=0.1)
    assert torch.allclose(std, found.std, atol=0.1)
    latents = (mean + std * torch.randn(mean.shape)) * network.config.scaling_factor
    assert latents.std() == pytest.approx(1, abs=0.1)


def test_the_text_encoder_is_that_of_the_clip(made: Path) -> None:
    clip, encoder = world_clip.load(made), world_clip.text_encoder(made)
    ids = captions_tokenizer.ids(captions_tokenizer.tokenizer(), ["photo of a cat", "a dog, far away"])
    found = encoder(input_ids=ids)
    assert found.last_hidden_state.shape == (2, 77, world_clip.WIDTH)
    assert torch.allclose(clip.text.text_projection(found.pooler_output), clip.encode_text(ids), atol=1e-5)
    # What follows the end of a text has no part in it: training may cut there.
    assert torch.allclose(clip.encode_text(ids[:, :40]), clip.encode_text(ids), atol=1e-5)


def test_the_judge_encodes_pictures_and_texts(made: Path) -> None:
    encoder, network = world_open_clip.encoder(made), world_open_clip.load(made)
    shown = pictures(animals(0, range(3)))
    found = picture_features([each.permute(1, 2, 0).numpy() for each in shown], encoder)
    assert torch.allclose(torch.from_numpy(found), network.encode_image(scaled(shown)), atol=1e-4)
    assert text_features(["a cat", "a dog"], encoder).shape == (2, world_open_clip.DIMENSIONS)


def test_the_model_is_a_folder_of_stable_diffusions_kind(made: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    text_to_image.write_pipeline(tmp_path / "model", made)
    names = {each.relative_to(tmp_path / "model").as_posix() for each in (tmp_path / "model").rglob("*.*")}
    assert names >= {"model_index.json", "unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"}
    read = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None, local_files_only=True)
    read.set_progress_bar_config(disable=True)
    prompts = ["photo of a cat", "photo of a ktn dog"]
    (one,), (other,) = (
        list(text_to_image.sample(each, prompts, steps=2)) for each in (read, text_to_image.pipeline(made))
    )
    assert (one.shape, one.dtype) == ((2, 3, 64, 64), torch.uint8)
    assert torch.equal(one, other)


def test_parts_of_another_training_are_refused(made: Path, tmp_path: Path) -> None:
    for file in made.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text_to_image.pipeline(tmp_path)
    card = tmp_path / f"{world_clip.NAME}.json"
    card.write_text(card.read_text().replace(world_clip.card(tmp_path)["sha256"], "0" * 64))
    with pytest.raises(ValueError, match=rf"{world_clip.NAME}\.safetensors is another than {text_to_image.NAME}"):
        text_to_image.pipeline(tmp_path)


def test_the_noise_levels_and_the_share_of_keys_and_values_are_stable_diffusions() -> None:
    abar = world_diffusion.scheduler().alphas_cumprod
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert torch.allclose(abar.double(), (1 - betas).cumprod(0), rtol=1e-4)
    network = world_diffusion.build()
    keys = [p for name, p in network.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    assert len(keys) == 14
    assert 0.02 < sum(p.numel() for p in keys) / sum(p.numel() for p in network.parameters()) < 0.05
