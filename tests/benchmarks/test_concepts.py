"""`gengauge concept`: a tiny Stable Diffusion learns two concepts, which are merged, compressed, sampled and scored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from concept_commands import done, refused
from PIL import Image
from safetensors.torch import load_file
from tiny_stable_diffusion import parameters, write_clip, write_pictures, write_stable_diffusion
from torch import nn

from gengauge.benchmarks.concept_files import read_concept, read_concepts_list, read_prompts
from gengauge.benchmarks.concept_models import open_model
from gengauge.benchmarks.concept_options import with_rare_words
from gengauge.benchmarks.concept_samples import Sampling, sample, score
from gengauge.benchmarks.concepts import recipe_for
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline
from gengauge.benchmarks.features.clip import load_transformers_clip, picture_features, text_features
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.training.concept_batches import Intake
from gengauge.datasets.delta_files import read_delta
from gengauge.datasets.folder import list_pictures
from gengauge.reference.custom_diffusion.training import (
    COMPVIS_SINGLE,
    DREAMBOOTH,
    JOINT,
    SINGLE,
    TEXTUAL_INVERSION,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("--iterations", "3", "--batch", "2", "--rate", "0.01", "--empty-masks", "covered", "--device", "cpu")


@dataclass(frozen=True)
class Made:
    """What the module's tests share: the model, folders of pictures, captions, a CLIP, and two trained concepts."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("concepts")
    write_stable_diffusion(root / "sd")
    write_clip(root / "clip")
    for seed, (name, count) in enumerate((("cat", 3), ("pot", 4), ("cats", 5))):
        write_pictures(root / name, count, seed)
    letters = [f"a {x}{y} of {z}" for x in "abcdefg" for y in "hijkl" for z in "mnop"]
    (root / "captions.txt").write_text("\n".join(letters) + "\n")
    reg = ("--class-pictures", root / "cats")
    told = done(
        *("train", root / "sd", "--pictures", root / "cat", "--category", "cat", *reg, "--out", root / "one"),
        *("--begin-as", "k", *SHORT),
    )
    assert told.endswith("8 weights, tokens <new1>")
    done(
        *("train", root / "sd", "--pictures", root / "pot", "--category", "pot", "--out", root / "two"),
        *("--begin-as", "k", "--token", "<pot>", *SHORT),
    )
    return Made(root)


# -- training ----------------------------------------------------------------------------------------------------------


def test_training_again_changes_nothing_and_other_settings_are_refused_the_folder(made: Made) -> None:
    before = read_delta(made.one)
    same = ("train", made.sd, "--pictures", made.cat, "--category", "cat", "--class-pictures", made.cats)
    done(*same, "--out", made.one, "--begin-as", "k", *SHORT)
    after = read_delta(made.one)
    assert all(torch.equal(weight, before.weights[name]) for name, weight in after.weights.items())
    assert torch.equal(after.tokens["<new1>"][0], before.tokens["<new1>"][0])
    assert "another configuration" in refused(*same, "--out", made.one, "--begin-as", "x", *SHORT)


def test_a_published_list_of_concepts(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.cats, tmp_path / "reg" / "images")
    (tmp_path / "reg" / "images.txt").write_text("elsewhere/0.png\nelsewhere/1.png\n")
    (tmp_path / "reg" / "caption.txt").write_text("some cats\u2028asleep\nmy cat")
    entries = [
        {
            "instance_prompt": "photo of a <new1> cat",
            "class_prompt": "cat",
            "instance_data_dir": str(made.cat),
            "class_data_dir": "reg",
        },
        {"instance_prompt": "photo of a <new1> pot", "class_prompt": "pot", "instance_data_dir": str(made.pot)},
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(entries))
    cat, pot = read_concepts_list(path)
    assert [each.caption for each in cat.class_pictures] == ["some cats\u2028asleep", "my cat"]
    assert cat.class_pictures[0].path == tmp_path / "reg" / "images" / "0.png"
    assert cat.token == pot.token == "<new1>"
    assert not pot.class_pictures
    assert "two concepts have the token" in refused("train", made.sd, "--concepts", path, "--out", tmp_path, *SHORT)
    chosen = ("--concepts", path, "--only", "cat", "--begin-as", "k")
    assert "tokens <new1>" in done("train", made.sd, *chosen, "--out", tmp_path / "out", *SHORT)
    assert "no concept of dog" in refused("train", made.sd, "--concepts", path, "--only", "dog", "--out", tmp_path)


def test_textual_inversion_and_dreambooth_are_trained_as_baselines(made: Made, tmp_path: Path) -> None:
    cat = ("train", made.sd, "--pictures", made.cat, "--category", "cat", *SHORT)
    told = done(*cat, "--trained", "tokens", "--begin-as", "k", "--out", tmp_path / "ti")
    assert told.endswith("0 weights, tokens <new1>")
    draw = ("sample", made.sd, "--prompt", "a <new1> cat", "--steps", 1, "--device", "cpu")
    done(*draw, "--delta", tmp_path / "ti", "--out", tmp_path / "drawn")
    for layout in ("delta.bin", "delta_epoch=000001.ckpt", "again.safetensors"):
        done("convert", tmp_path / "ti", tmp_path / layout)
        assert torch.equal(
            read_delta(tmp_path / layout).tokens["<new1>"][0], read_delta(tmp_path / "ti").tokens["<new1>"][0]
        )
    merge = ("merge", made.sd, tmp_path / "ti", tmp_path / "ti", "--category", "cat", "--category", "pot")
    assert "tokens alone can be used together" in refused(
        *merge, "--captions", made.root / "captions.txt", "--out", tmp_path / "no.bin", "--device", "cpu"
    )
    booth = (*cat, "--method", "dreambooth", "--class-pictures", made.cats)
    assert "weights, tokens none" in done(*booth, "--rare-word", "ab", "--out", tmp_path / "db")
    weights = read_delta(tmp_path / "db").weights
    assert set(weights) == set(dict(open_model(made.sd).unet.named_parameters()))
    concept = read_concept(made.cat, "cat", "<new1>", class_folder=made.cats)
    assert with_rare_words([concept], ())[0].pictures[0].caption == "photo of a sks cat"
    assert with_rare_words([concept], ["x"])[0].class_pictures == concept.class_pictures
    assert "2 concepts and 1 times --rare-word" in refused(
        *(*booth, "--pictures", made.pot, "--category", "pot", "--class-pictures", made.cats),
        *("--rare-word", "x", "--out", tmp_path / "no"),
    )
    assert "holds no sks" in refused(*booth, "--no-token", "--out", tmp_path / "no")
    assert "is no word" in refused(*booth, "--rare-word", "two words", "--out", tmp_path / "no")
    assert "others have new tokens" in refused(*cat, "--rare-word", "x", "--out", tmp_path / "no")
    assert "no concept has a token" in refused(*cat, "--no-token", "--trained", "tokens", "--out", tmp_path / "no")


def test_recipes_are_the_published_ones(made: Made) -> None:
    cat = read_concept(made.cat, "cat", "<new1>", class_folder=made.cats)
    alone = read_concept(made.pot, "pot", "<new2>")
    mixed = Intake(composition="compvis")
    assert recipe_for([cat], Intake()) == SINGLE
    assert recipe_for([cat, alone], Intake()) == JOINT
    assert recipe_for([alone], Intake()).prior_weight is None
    assert recipe_for([cat], mixed) == COMPVIS_SINGLE
    three = recipe_for([cat] * 3, mixed)
    assert (three.concepts, three.batch, three.iterations) == (3, 6, 550)
    assert recipe_for([alone], Intake(), "textual_inversion") == TEXTUAL_INVERSION
    assert recipe_for([cat], Intake(), "dreambooth") == DREAMBOOTH
    assert recipe_for([alone], Intake(), "dreambooth").prior_weight is None
    with pytest.raises(ValueError, match="takes no class pictures"):
        recipe_for([cat], Intake(), "textual_inversion")
    with pytest.raises(ValueError, match="compvis is Custom Diffusion's"):
        recipe_for([alone], mixed, "dreambooth")
    with pytest.raises(ValueError, match="methods are custom_diffusion or"):
        recipe_for([alone], mixed, "lora")  # type: ignore[arg-type]
    assert cat.pictures[0].caption == "photo of a <new1> cat"
    assert (
        read_concept(made.cat, "ink", "<new1>", style=True).pictures[0].caption == "painting in the style of <new1> ink"
    )


# -- deltas ------------------------------------------------------------------------------------------------------------


def test_two_concepts_are_merged(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    options = ("--category", "cat", "--category", "pot", "--captions", made.root / "captions.txt", "--device", "cpu")
    told = done("merge", made.sd, made.one, made.two, *options, "--out", out)
    assert "tokens <new1>, <new2>" in told
    merged, parts = read_delta(out), [read_delta(made.one), read_delta(made.two)]
    assert torch.equal(merged.tokens["<new2>"][0], parts[1].tokens["<pot>"][0])
    pipeline = open_model(made.sd)
    apply_to_pipeline(pipeline, merged)
    ids = pipeline.tokenizer("<new2> pot")["input_ids"]
    with torch.no_grad():
        features = pipeline.text_encoder(torch.tensor([ids]))[0][0, 1:]
    for name, weight in merged.weights.items():
        assert torch.allclose(features @ weight.T, features @ parts[1].weights[name].T, atol=1e-3)
    assert "is there already" in refused("merge", made.sd, made.one, made.two, *options, "--out", out)
    few = (*options, "--first", "500", "--out", tmp_path / "no.bin")
    assert "holds 140 captions, not 500" in refused("merge", made.sd, made.one, made.two, *few)
    assert "2 deltas with 1 categories" in refused(
        *("merge", made.sd, made.one, made.two, "--category", "cat", *options[4:], "--out", tmp_path / "no.bin")
    )


def test_deltas_are_compressed_and_made_whole_again(made: Made, tmp_path: Path) -> None:
    small = tmp_path / "small.bin"
    assert "672 numbers of 2,080" in done("compress", made.sd, made.one, "--rank", 2, "--out", small)
    assert "numbers of 2,080" in done("compress", made.sd, made.one, "--out", tmp_path / "ratio.safetensors")
    delta, factors = read_delta(made.one), read_delta(small)
    assert set(factors.factors) == set(delta.weights)
    full = tmp_path / "full.bin"
    done("compress", made.sd, made.one, "--rank", 99, "--out", full)
    back = tmp_path / "back.bin"
    assert "give the model" in refused("convert", full, back, "--whole")
    done("convert", full, back, "--whole", "--model", made.sd)
    for name, weight in read_delta(back).weights.items():
        assert torch.allclose(weight, delta.weights[name], atol=1e-6)
    # diffusers' layout has no factors, so they become whole without being told to.
    assert "give the model" in refused("convert", full, tmp_path / "pytorch_custom_diffusion_weights.bin")
    assert "give a ratio or a rank" in refused(
        *("compress", made.sd, made.one, "--rank", 2, "--ratio", 0.5, "--out", tmp_path / "no.bin")
    )


def test_a_delta_goes_through_all_layouts(made: Made, tmp_path: Path) -> None:
    first = read_delta(made.one)
    path = made.one
    for name in (
        "delta.bin",
        "delta_epoch=000003.ckpt",
        "a/pytorch_custom_diffusion_weights.bin",
        "b/pytorch_custom_diffusion_weights.safetensors",
        "delta.safetensors",
    ):
        done("convert", path, tmp_path / name, "--layers", 1)
        path = tmp_path / name
        found = read_delta(path, layers=1)
        assert {name: w.shape for name, w in found.weights.items()} == {n: w.shape for n, w in first.weights.items()}
        assert all(torch.equal(weight, first.weights[name]) for name, weight in found.weights.items())
        assert torch.equal(found.tokens["<new1>"][0], first.tokens["<new1>"][0])
    done("convert", made.two, tmp_path / "two.ckpt", "--layers", 1)
    done(
        "convert", tmp_path / "two.ckpt", tmp_path / "two.bin", "--layers", 1, "--token", "<pot>", "--dtype", "float16"
    )
    assert [*read_delta(tmp_path / "two.bin").tokens] == ["<pot>"]
    half = (tmp_path / "two.bin").stat().st_size
    done("convert", made.two, tmp_path / "full.bin")
    assert half < (tmp_path / "full.bin").stat().st_size


def test_a_delta_for_another_model_is_refused(made: Made, tmp_path: Path) -> None:
    other = write_stable_diffusion(tmp_path / "other", seed=1)
    draw = ("sample", other, "--delta", made.one, "--prompt", "a <new1> cat", "--steps", 1, "--device", "cpu")
    assert "was learnt on another" in refused(*draw, "--out", tmp_path / "out")
    done(*draw, "--any-base", "--out", tmp_path / "out")
    assert "was learnt on another" in refused("compress", other, made.one, "--out", tmp_path / "no.bin")
    assert "was learnt on another" in refused(
        *("merge", other, made.one, made.two, "--category", "cat", "--category", "pot", "--device", "cpu"),
        *("--captions", made.root / "captions.txt", "--out", tmp_path / "no.bin"),
    )


# -- samples -----------------------------------------------------------------------------------------------------------


def drawn(folder: Path) -> list[Any]:
    return [np.asarray(Image.open(path)) for path in list_pictures(folder / "samples")]


def test_samples_depend_on_the_seed_alone_and_go_on(made: Made, tmp_path: Path) -> None:
    options = ("--delta", made.one, "--prompt", "a <new1> cat", "--prompt", "a cat", "--count", 2, "--steps", 4)
    command = ("sample", made.sd, *options, "--device", "cpu")
    assert "4 pictures made, 4 in all" in done(*command, "--out", tmp_path / "a")
    first = drawn(tmp_path / "a")
    assert first[0].shape == (64, 64, 3)
    assert len({picture.tobytes() for picture in first}) == 4
    texts = json.loads((tmp_path / "a" / "prompts.json").read_text())
    assert [*texts.values()] == ["a <new1> cat"] * 2 + ["a cat"] * 2
    gone = list_pictures(tmp_path / "a" / "samples")[1]
    gone.unlink()
    assert "1 pictures made, 4 in all" in done(*command, "--out", tmp_path / "a", "--batch", 1)
    for one, other in zip(first, drawn(tmp_path / "a"), strict=True):
        # Batches of other sizes round otherwise, and grey levels are cut.
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    for changed in (("--seed", 1), ("--guidance", 1), ("--eta", 0), ("--strength", 0.5)):
        assert "samples of other prompts, settings or weights" in refused(*command, *changed, "--out", tmp_path / "a")
        folder = tmp_path / str(changed[0])
        done(*command, *changed, "--out", folder)
        assert not np.array_equal(drawn(folder)[0], first[0]), changed


def test_sampling_is_ddim_with_the_models_own_noise_levels(made: Made, tmp_path: Path) -> None:
    for prediction in ("epsilon", "v_prediction"):
        folder = made.sd if prediction == "epsilon" else write_stable_diffusion(tmp_path / "v", 0, prediction)
        file = folder / "scheduler" / "scheduler_config.json"
        if prediction == "v_prediction":
            file.write_text(json.dumps({**json.loads(file.read_text()), "timestep_spacing": "trailing"}))
        pipeline = open_model(folder)
        assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
        assert pipeline.scheduler.config.prediction_type == prediction
        assert pipeline.safety_checker is None
        pipeline.scheduler.set_timesteps(50)
        assert pipeline.scheduler.timesteps.tolist() == list(range(981, 0, -20))
    before = parameters(pipeline)
    sample(pipeline, ["a cat"], tmp_path / "out", Sampling(steps=2, size=32))
    assert drawn(tmp_path / "out")[0].shape == (32, 32, 3)
    assert all(torch.equal(value, before[name]) for name, value in parameters(pipeline).items())


def test_prompts_with_slots_and_tokens(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(" {} on the beach \r\n\n{0} beside {1}\n")
    assert read_prompts(file, ["<new1> cat", "<new2> pot"]) == [
        "<new1> cat on the beach",
        "<new1> cat beside <new2> pot",
    ]
    draw = ("sample", made.sd, "--out", tmp_path / "out", "--device", "cpu")
    assert "a slot {1} that nothing fills" in refused(*draw, "--prompts", file, "--fill", "cat")
    assert "says <new2>, which the delta does not have; it has <new1>" in refused(
        *draw, "--delta", made.one, "--prompt", "a <new2>"
    )
    assert "which is in no delta" in refused(*draw, "--prompt", "a <new1>")
    assert "--prompts" in refused(*draw)
    assert "none of them empty" in refused(*draw, "--prompt", " ")
    file.write_text("\n\n")
    assert "holds no prompts" in refused(*draw, "--prompts", file)
    assert not (tmp_path / "out" / "samples").exists()


# -- scores ------------------------------------------------------------------------------------------------------------


def grey_levels() -> FeatureNetwork:
    features = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    return FeatureNetwork("inception", "FID", 8, 12, features, lambda x, mode: x / 128 - 1, None, "grey levels")


def test_samples_are_scored(made: Made, tmp_path: Path) -> None:
    write_pictures(tmp_path / "made" / "samples", 4, 9, (32, 32))
    prompts = {"0": "a <new1> cat", "1": "a <new1> cat", "2": "<new2> pot", "3": "the pot"}
    (tmp_path / "made" / "prompts.json").write_text(json.dumps(prompts))
    clip = load_transformers_clip(made.clip)
    found = {
        each.name: each
        for each in score(tmp_path / "made", [made.cat, made.pot], clip, real=made.cats, network=grey_levels())
    }
    pictures = picture_features(list_pictures(tmp_path / "made" / "samples"), clip)
    texts = text_features(["a cat", "a cat", "pot", "the pot"], clip)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (pictures, texts)]
    cosines = (unit[0] * unit[1]).sum(1)
    assert found["text alignment (cosine)"].value == pytest.approx(cosines.mean(), abs=1e-6)
    assert found["text alignment (2.5 max(cos, 0))"].value == pytest.approx(
        2.5 * np.maximum(cosines, 0).mean(), abs=1e-6
    )
    assert found["text alignment (cosine)"].interval == "95 % t over 3 prompts"
    for name in ("cat", "pot"):
        theirs = picture_features(list_pictures(made.root / name), clip)
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        assert found[f"image alignment (CLIP, {name})"].value == pytest.approx((unit[0] @ theirs.T).mean(), abs=1e-6)
    mean = np.mean([found[f"image alignment (CLIP, {name})"].value for name in ("cat", "pot")])
    assert found["image alignment (CLIP)"].value == pytest.approx(mean)
    assert found["KID"].value is not None
    told = done(
        *("score", tmp_path / "made", "--targets", made.cat, "--clip", made.clip, "--device", "cpu", "--json"),
    )
    named = {each["name"]: each["value"] for each in json.loads(told)}
    assert named["image alignment (CLIP)"] == found["image alignment (CLIP, cat)"].value
    assert "text alignment (cosine)" in done("score", tmp_path / "made", "--clip", made.clip, "--device", "cpu")
    (tmp_path / "made" / "samples" / "3.png").unlink()
    command = ("score", tmp_path / "made", "--clip", made.clip, "--device", "cpu")
    assert "3 is a prompt without a picture" in refused(*command)
    (tmp_path / "made" / "prompts.json").write_text(json.dumps({"0": "a", "1": "b"}))
    assert "2 is a picture without a prompt" in refused(*command)
    (tmp_path / "made" / "prompts.json").write_text(json.dumps({"0": "a", "1": "b", "2": "<new1>"}))
    assert "nothing but its modifier tokens" in refused(*command)


def test_tokens_of_other_names_are_left_out_of_the_text(made: Made, tmp_path: Path) -> None:
    options = ("--prompt", "a <pot> pot", "--steps", 1, "--device", "cpu")
    done("sample", made.sd, "--delta", made.two, *options, "--out", tmp_path)
    clip = load_transformers_clip(made.clip)
    found = {each.name: each.value for each in score(tmp_path, [], clip)}
    pictures = picture_features(list_pictures(tmp_path / "samples"), clip)
    text = text_features(["a pot"], clip)
    cosine = float((pictures @ text.T).item() / np.linalg.norm(pictures) / np.linalg.norm(text))
    assert found["text alignment (cosine)"] == pytest.approx(cosine, abs=1e-6)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_pictures_and_captions_that_cannot_be_taken(made: Made, tmp_path: Path) -> None:
    begin = ("train", made.sd, "--category", "cat", "--out", tmp_path / "out", "--begin-as", "k", *SHORT)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused(*begin, "--pictures", tmp_path / "empty")
    assert "there is no such folder" in refused(*begin, "--pictures", tmp_path / "nothing")
    damaged = Path(shutil.copytree(made.cat, tmp_path / "damaged"))
    (damaged / "1.png").write_bytes(b"no picture")
    assert "1.png cannot be read as a picture" in refused(*begin, "--pictures", damaged)
    (damaged / "images.txt").write_text("0.png\n2.png\n")
    assert "caption.txt: there is no such file" in refused(*begin, "--pictures", damaged)
    (damaged / "caption.txt").write_text("a <new1> cat\n")
    assert "names 2 pictures" in refused(*begin, "--pictures", damaged)
    (damaged / "caption.txt").write_text("a <new1> cat\na cat\n")
    assert "'a cat' does not hold the token <new1>" in refused(*begin, "--pictures", damaged)
    (damaged / "images.txt").write_text("0.png\nmissing.png\n")
    assert "names 'missing.png'" in refused(*begin, "--pictures", damaged)
    (damaged / "caption.txt").write_bytes(b"\xff\xfe\n\n")
    assert "no text in UTF-8" in refused(*begin, "--pictures", damaged)
    cat = (*begin, "--pictures", made.cat)
    assert "vocabulary already has 'ab'" in refused(*cat, "--token", "ab")
    assert "too small for a mask" in refused(*cat, "--empty-masks", "error")
    assert "2 times --token" in refused(*cat, "--token", "<a>", "--token", "<b>")
    assert "do not go together" in refused(*cat, "--token", "<a>", "--no-token")
    assert "2 times --class-pictures" in refused(*cat, *("--class-pictures", made.cats) * 2)
    assert "1 times --category" in refused(*cat, "--pictures", made.pot)
    assert "--concepts" in refused(*begin)
    assert not (tmp_path / "out" / "training").exists()


def test_lists_that_are_none_are_told(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    for text, match in (
        ("{", "is damaged"),
        ("{}", "holds no list"),
        ("[]", "holds no concept"),
        ("[3]", "entry 1 holds no prompts"),
        ('[{"instance_prompt": "a <new1>"}]', "entry 1 lacks instance_data_dir"),
        ('[{"instance_prompt": "a", "instance_data_dir": "x", "class_data_dir": "y"}]', "no class_prompt"),
        ("[" * 100_000, "nested too deep"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=match) as caught:
            read_concepts_list(path)
        assert str(path) in str(caught.value)


def test_models_that_cannot_be_taken(made: Made, tmp_path: Path) -> None:
    assert "is no folder of diffusers" in refused_model(tmp_path / "nothing")
    assert "there is no such file" in refused_model(made.clip)
    folder = Path(shutil.copytree(made.sd, tmp_path / "sd"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusion3Pipeline"}))
    assert "is a StableDiffusion3Pipeline" in refused_model(folder)
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionXLPipeline"}))
    assert "text_encoder_2 holds no CLIPTextModelWithProjection" in refused_model(folder)
    # No part is of a class that the folder chooses.
    hostile = {**index, "unet": ["evil", "Evil"]}
    (folder / "model_index.json").write_text(json.dumps(hostile))
    (folder / "unet" / "evil.py").write_text("raise SystemExit('the folder ran code')")
    assert type(open_model(folder).unet).__name__ == "UNet2DConditionModel"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert "with safetensors" in refused_model(folder)
    weights.write_bytes(b"damaged")
    assert str(folder / "unet") in refused_model(folder)
    shutil.copy(made.sd / "unet" / weights.name, weights)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "sample"}')
    assert "predicts 'sample'" in refused_model(folder)
    shutil.rmtree(folder / "vae")
    assert "holds no AutoencoderKL" in refused_model(folder)
    inpainting = write_stable_diffusion(tmp_path / "inpainting", in_channels=9)
    assert "latents of 9 channels, and is given 32 and 4" in refused_model(inpainting)


def refused_model(folder: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        open_model(folder)
    return str(caught.value)


def test_where_nothing_can_be_written(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    begin = ("train", made.sd, "--pictures", made.cat, "--category", "cat", *SHORT)
    assert f"{out} cannot be written to" in refused(*begin, "--out", out)

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    for command in (
        (*begin, "--out", tmp_path / "a"),
        ("compress", made.sd, made.one, "--out", tmp_path / "a" / "small.bin"),
        ("convert", made.one, tmp_path / "a" / "delta.bin"),
        ("sample", made.sd, "--prompt", "a cat", "--out", tmp_path / "a"),
    ):
        assert f"{tmp_path / 'a'} cannot be written to (Permission denied)" in refused(*command)


def test_every_command_has_help_with_an_example_and_comes_without_torch() -> None:
    for command in ("train", "merge", "compress", "convert", "sample", "score"):
        assert f"Example: gengauge concept {command}" in done(command, "--help")
    code = (
        "import sys, gengauge.benchmarks.concept_cli; "
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
