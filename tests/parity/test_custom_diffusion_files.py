"""Custom Diffusion's merge, compression, files, sampler and metrics against tensors of the published code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from custom_diffusion_files import PAPER, compvis_unet, model_file, text_encoder_of, told
from goldens import assert_close, files, load, under
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from gengauge.benchmarks.features.clip import CLIP, DINO, Encoder, picture_features, transformers_clip
from gengauge.benchmarks.metrics.alignment import image_alignment, text_alignment
from gengauge.benchmarks.metrics.kernel import kernel_distance
from gengauge.datasets.delta_files import read_delta, write_delta
from gengauge.datasets.deltas import Delta, whole
from gengauge.reference.custom_diffusion.compress import compress, reconstruct, stored_numbers
from gengauge.reference.custom_diffusion.merge import feature_rows, in_order, merge, prepare, text_features
from gengauge.reference.custom_diffusion.sampling import sample, uniform_schedule, with_ddim
from gengauge.reference.custom_diffusion.tokens import add_rows, table
from gengauge.reference.sdedit.latent import guided_network

pytestmark = pytest.mark.usefixtures("one_thread")
SOLVED, SINGLE, CONSTRAINT = 1e-10, 2e-6, 1e-5
FEATURES, PIPELINE, END_TO_END = 1e-5, 1e-6, 1e-3
SVD, SAMPLED, SCHEDULE = 1e-5, 2e-3, 1e-6
Ids = list[list[int]]
Encode = Callable[[Tensor], Tensor]
INPUTS, CLIP_FEATURES, SCORES, KID = 1e-6, 1e-4, 1e-5, 1e-6


def items(prefix: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files(PAPER, prefix), ids=lambda path: path.stem)


# -- merge -------------------------------------------------------------------------------------------------------------


@items("merge_direct")
def test_the_merge_of_one_matrix(path: Path) -> None:
    golden, _ = load(path)
    constraint = prepare(golden["C_reg"], golden["C_target"])
    merged = constraint.solve(golden["W0"], golden["V_target"])
    assert_close(merged, golden["W_merged_f64"], SOLVED)
    assert_close(merged, golden["W_merged_f32"].double(), SINGLE)
    assert_close(golden["C_target"].double() @ merged.T, golden["V_target"].double(), CONSTRAINT)


@items("merge_direct")
def test_the_residuals_of_a_merge(path: Path) -> None:
    """One concept with the golden's values: of the constraint about 0, of common captions as printed."""
    golden, _ = load(path)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    # A concept's weights that give the values: the published code gets these the other way round.
    tuned = torch.linalg.lstsq(golden["C_target"].double(), golden["V_target"].double()).solution.T
    _, report = merge({name: golden["W0"]}, [{name: tuned}], golden["C_reg"], [golden["C_target"].double()])
    printed = golden["printed_mean_residuals"].double()
    assert report.target_residual <= CONSTRAINT
    assert report.drift == pytest.approx(float(printed[1]), rel=1e-4)


def captions_of(golden: dict[str, Tensor]) -> tuple[Ids, Ids, list[int]]:
    """Token ids without padding of the captions and of the target prompts, and those of "photo of a".

    The concepts' own tokens have the highest ids, so what stands before them in every second prompt is its prefix; that
    of a style has more words.
    """
    keys = ("reg_caption_ids", "target_prompt_ids")
    regular, targets = ([[i for i in row if i >= 0] for row in golden[key].tolist()] for key in keys)
    prefixes = [ids[1 : ids.index(max(ids))] for ids in targets[1::2]]
    return regular, targets, next((prefix for prefix in prefixes if len(prefix) == 3), [-1])


@items("merge_pipeline")
def test_features_and_their_rows(path: Path) -> None:
    golden, _ = load(path)
    encoder, texts = tuned_encoder(path, golden)
    for key, ids in (("C_reg", texts[0]), ("C_target", texts[1])):
        # Words stand for ids, so that the rule for captions, which is of letters, can be followed.
        captions = ["photo of a thing" if row[1:4] == texts[2] else "another thing" for row in ids]
        assert_close(text_features(encoder, ids, captions, ids[0][-1]), golden[key], FEATURES)
        padded = [row + [row[-1]] * 3 for row in ids]
        single = [feature_rows(encoder(torch.tensor([row]))[0], row, row[-1], row[1:4] == texts[2]) for row in padded]
        assert_close(torch.cat(single), golden[key], FEATURES)


def tuned_encoder(path: Path, golden: dict[str, Tensor]) -> tuple[Encode, tuple[Ids, Ids, list[int]]]:
    """The golden's text encoder with both concepts' tokens, and its token ids as `captions_of` gives them."""
    model = model_file(path)
    network = text_encoder_of(under(load(model)[0], "text_encoder."), told(model))
    tokens = list(in_order(concepts(golden, "modifier_token")).values())
    assert all(torch.equal(a, b) for a, b in zip(tokens, golden["merged.modifier_tokens"], strict=True))
    rows = add_rows(network, [0] * len(tokens))
    with torch.no_grad():
        table(network).weight[rows] = torch.stack(tokens)

    def encode(ids: Tensor) -> Tensor:
        return network(ids)[0]

    return encode, captions_of(golden)


def concepts(golden: dict[str, Tensor], part: str) -> list[dict[str, Tensor]]:
    count = 1 + max(int(found[1]) for key in golden if (found := re.match(r"delta(\d+)\.", key)))
    return [under(golden, f"delta{number}.{part}.") for number in range(count)]


def by_concept(golden: dict[str, Tensor], rows: Tensor) -> list[Tensor]:
    """The target rows of each concept, whose two prompts have as many rows each."""
    _, targets, prefix = captions_of(golden)
    counts = [len(ids) - 1 - 3 * (ids[1:4] == prefix) for ids in targets]
    return list(rows.split([a + b for a, b in zip(counts[::2], counts[1::2], strict=True)]))


@items("merge_pipeline")
def test_the_merge_of_all_matrices(path: Path) -> None:
    golden, _ = load(path)
    base, tuned = under(golden, "W0."), concepts(golden, "unet")
    solved, rows = under(golden, "W_merged_f64."), by_concept(golden, golden["C_target"])
    constraint = prepare(golden["C_reg"], golden["C_target"])
    for name, values in under(golden, "target_values.").items():
        ours = torch.cat([c @ each[name].T for c, each in zip(rows, tuned, strict=True)])
        assert_close(ours, values, FEATURES)
        # The golden's values are rounded to single precision, which the features' condition makes larger.
        assert_close(constraint.solve(base[name], values), solved[name].double(), PIPELINE)
    merged, report = merge(base, tuned, golden["C_reg"], rows)
    assert merged.keys() == solved.keys() == under(golden, "W_merged_f32.").keys()
    for name, weight in merged.items():
        assert_close(weight, solved[name].double(), END_TO_END)
        assert_close(weight, golden[f"W_merged_f32.{name}"].double(), END_TO_END)
    assert report.target_residual < 1e-9
    # From the captions on.
    encoder, (regular, targets, prefix) = tuned_encoder(path, golden)
    marked = [["photo of a" if row[1:4] == prefix else "" for row in ids] for ids in (regular, targets)]
    c_reg, c_target = (
        text_features(encoder, ids, captions, ids[0][-1])
        for ids, captions in zip((regular, targets), marked, strict=True)
    )
    merged, _ = merge(base, tuned, c_reg, by_concept(golden, c_target))
    for name, weight in merged.items():
        assert_close(weight, solved[name].double(), END_TO_END)


# -- compression -------------------------------------------------------------------------------------------------------


@items("svd_")
def test_compression_by_the_share_of_singular_values(path: Path, tmp_path: Path) -> None:
    golden, _ = load(path)
    base, tuned = under(golden, "pretrained."), under(golden, "finetuned.")
    token = torch.ones(int(golden["full_numbers"]) - sum(weight.numel() for weight in tuned.values()))
    ratios = sorted({found[1] for key in golden if (found := re.match(r"ratio(\d+(?:\.\d+)?)\.", key))})
    assert ratios
    for ratio in ratios:
        factors = compress(base, tuned, ratio=float(ratio))
        assert {name: u.shape[1] for name, (u, _) in factors.items()} == {
            name: int(rank) for name, rank in under(golden, f"ratio{ratio}.rank.").items()
        }
        rebuilt = under(golden, f"ratio{ratio}.W_reconstructed.")
        for name, weight in reconstruct(base, factors).items():
            assert_close(weight, rebuilt[name], SVD)
        assert stored_numbers(factors, [token]) == int(golden[f"ratio{ratio}.stored_numbers"])
        # The published layout of such a file, read back.
        content = {name: {"u": u, "v": v} for name, (u, v) in factors.items()}
        torch.save({"unet": content, "modifier_token": {"<new1>": token}}, tmp_path / "compressed_delta.bin")
        read = read_delta(tmp_path / "compressed_delta.bin")
        assert read.numbers == int(golden[f"ratio{ratio}.stored_numbers"])
        for name, weight in whole(read, base).weights.items():
            assert_close(weight, rebuilt[name], SVD)


# -- files -------------------------------------------------------------------------------------------------------------


@items("unet_kv_delta")
def test_diffusers_names_of_a_delta(path: Path, tmp_path: Path) -> None:
    golden, _ = load(path)
    weights, file = under(golden, "delta.unet."), under(golden, "attn_procs_file.")
    assert weights
    save_file(file, tmp_path / "theirs.safetensors")
    torch.save({**file, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor": {}}, tmp_path / "theirs.bin")
    for theirs in ("theirs.safetensors", "theirs.bin"):
        read = read_delta(tmp_path / theirs)
        assert read.weights.keys() == weights.keys()
        assert all(torch.equal(read.weights[name], weights[name]) for name in weights)
    write_delta(tmp_path / "ours.bin", Delta(weights), "diffusers")
    stored = torch.load(tmp_path / "ours.bin", weights_only=True)
    assert {name for name, value in stored.items() if isinstance(value, Tensor)} == file.keys()
    assert all(torch.equal(stored[name], file[name]) for name in file)


@items("merge_pipeline")
def test_a_published_delta_file(path: Path, tmp_path: Path) -> None:
    golden, _ = load(path)
    unets, tokens = (concepts(golden, part) for part in ("unet", "modifier_token"))
    for unet, words in zip(unets, tokens, strict=True):
        torch.save({"unet": unet, "modifier_token": words}, tmp_path / "delta.bin")
        read = read_delta(tmp_path)
        assert [*read.weights] == [*unet]
        assert all(torch.equal(read.weights[name], unet[name]) for name in unet)
        assert {token: each[0].tolist() for token, each in read.tokens.items()} == {
            token: vector.tolist() for token, vector in words.items()
        }


# -- sampling ----------------------------------------------------------------------------------------------------------


def weights_of(golden: dict[str, Tensor], path: Path) -> Path:
    """The file of the U-Net that a sampling was made with: named by the settings, else of the text's width."""
    if name := told(path).get("weights"):
        return path.parent / f"{name}.safetensors"
    fitting = []
    for file in files(PAPER, "compvis_p_losses"):
        tensors, _ = load(file)
        keys = next(value for key, value in tensors.items() if key.endswith("attn2.to_k.weight"))
        if keys.shape[1] == golden["cond"].shape[-1]:
            fitting.append(file)
    assert len(fitting) == 1, f"{path.name} fits {len(fitting)} U-Nets; name one in settings.json as weights"
    return fitting[0]


@items("ddim_")
def test_sampling(path: Path) -> None:
    from diffusers import DDIMScheduler

    golden, _ = load(path)
    weights = weights_of(golden, path)
    tensors, _ = load(weights)
    steps, eta, scale = len(golden["ddim_timesteps_ascending"]), float(golden["eta"]), float(golden["scale"])
    schedule = uniform_schedule(tensors["alphas_cumprod"], steps, eta)
    assert torch.equal(schedule.times, golden["ddim_timesteps_ascending"])
    assert_close(schedule.abar.float(), golden["ddim_alphas"], 0)
    assert_close(schedule.abar_before.float(), golden["ddim_alphas_prev"], 0)
    assert_close(schedule.sigmas.float(), golden["ddim_sigmas"], SCHEDULE)
    unet = compvis_unet(tensors, told(weights).get("num_heads", 2)).eval().requires_grad_(False)
    text = ({"encoder_hidden_states": golden[name]} for name in ("cond", "uncond"))
    network = guided_network(unet, DDIMScheduler(), *text, guidance_scale=scale)
    out = sample(network, golden["x_T"], schedule, noises=golden["noise_in_call_order"])
    assert_close(out, golden["out"], SAMPLED)


@items("ddim_")
def test_sampling_by_the_scheduler_that_pipelines_are_given(path: Path) -> None:
    from diffusers import PNDMScheduler

    golden, _ = load(path)
    weights = weights_of(golden, path)
    tensors, _ = load(weights)
    published = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True}
    pipeline = type("Pipeline", (), {"scheduler": PNDMScheduler(**published)})()
    scheduler = with_ddim(pipeline).scheduler
    scheduler.set_timesteps(len(golden["ddim_timesteps_ascending"]))
    assert torch.equal(scheduler.timesteps.flip(0), golden["ddim_timesteps_ascending"])
    unet = compvis_unet(tensors, told(weights).get("num_heads", 2)).eval().requires_grad_(False)
    text = ({"encoder_hidden_states": golden[name]} for name in ("cond", "uncond"))
    network = guided_network(unet, scheduler, *text, guidance_scale=float(golden["scale"]))
    x = golden["x_T"]
    for t, noise in zip(scheduler.timesteps, golden["noise_in_call_order"], strict=True):
        told_noise = network(x, t.expand(len(x)))
        x = scheduler.step(told_noise, t, x, eta=float(golden["eta"]), variance_noise=noise).prev_sample
    assert_close(x, golden["out"], SAMPLED)


# -- metrics -----------------------------------------------------------------------------------------------------------


def clip_of(golden: dict[str, Tensor], path: Path) -> CLIPModel:
    """The CLIP of a golden, its sizes from the tensors."""
    state = under(golden, "clip.")
    vocabulary, hidden = state["text_model.embeddings.token_embedding.weight"].shape
    patch = state["vision_model.embeddings.patch_embedding.weight"]
    positions = len(state["vision_model.embeddings.position_embedding.weight"]) - 1

    def shared(part: str, width: int) -> dict[str, int]:
        layers = 1 + max(int(f[1]) for key in state if (f := re.match(rf"{part}\.encoder\.layers\.(\d+)\.", key)))
        return {
            "hidden_size": width,
            "intermediate_size": len(state[f"{part}.encoder.layers.0.mlp.fc1.weight"]),
            "num_hidden_layers": layers,
            "num_attention_heads": told(path).get("heads", width // 8),
            "projection_dim": len(state["text_projection.weight"]),
        }

    text = shared("text_model", hidden) | {
        "vocab_size": vocabulary,
        "max_position_embeddings": len(state["text_model.embeddings.position_embedding.weight"]),
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    size = int(patch.shape[-1] * positions**0.5)
    vision = shared("vision_model", len(patch)) | {"image_size": size, "patch_size": patch.shape[-1]}
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=len(state["text_projection.weight"]))
    )
    model.load_state_dict(state)
    return model


def pictures_of(golden: dict[str, Tensor], kind: str) -> list[np.ndarray]:  # type: ignore[type-arg]
    pictures = under(golden, f"{kind}_image_u8.")
    return [pictures[str(i)].numpy() for i in range(len(pictures))]


@items("clip_metrics")
def test_text_and_image_alignment(path: Path) -> None:
    golden, _ = load(path)
    encoder = transformers_clip(clip_of(golden, path))
    assert encoder.texts is not None
    generated, targets = (picture_features(pictures_of(golden, kind), encoder, batch=2) for kind in ("gen", "ref"))
    with torch.no_grad():
        texts = encoder.texts(golden["text_ids"])
    for ours, key in ((generated, "gen_image"), (targets, "ref_image"), (texts.numpy(), "text")):
        # The published code normalises some of them.
        theirs = golden[f"{key}_features"]
        lengths = theirs.norm(dim=1, keepdim=True)
        mine = torch.from_numpy(ours)
        if (lengths - 1).abs().max() < 1e-5:
            mine = mine / mine.norm(dim=1, keepdim=True)
        assert_close(mine, theirs, CLIP_FEATURES)
    found = text_alignment(generated, texts.numpy())
    assert_close(torch.from_numpy(found.scores), golden["text_alignment_per_image"].double(), SCORES)
    assert found.score == pytest.approx(float(golden["text_alignment_mean"]), abs=SCORES)
    assert found.scores.std() == pytest.approx(float(golden["text_alignment_std"]), abs=SCORES)
    assert image_alignment(generated, targets) == pytest.approx(float(golden["image_alignment"]), abs=SCORES)


@items("clip_metrics")
def test_inputs_of_clip_and_dino(path: Path) -> None:
    golden, _ = load(path)
    pictures = pictures_of(golden, "gen")
    checked = 0
    for key, value in golden.items():
        if found := re.fullmatch(r"(clip|dino)_input_\d+\.gen(\d+)\.first_channel(?:_every(\d+))?", key):
            every = int(found[3] or 1)
            prepared = (CLIP if found[1] == "clip" else DINO)(pictures[int(found[2])])
            assert_close(prepared[0, ::every, ::every], value, INPUTS)
            checked += 1
    assert checked


@items("clip_metrics")
def test_image_alignment_in_other_features(path: Path) -> None:
    golden, _ = load(path)
    # What the golden has in place of DINO: means over a grid of squares of its input.
    side = DINO.crop // int((golden["dino_standin_gen_features"].shape[1] / 3) ** 0.5)
    pooled = Encoder("grid", DINO, lambda x: torch.nn.functional.avg_pool2d(x, side).flatten(1))
    generated, targets = (picture_features(pictures_of(golden, kind), pooled) for kind in ("gen", "ref"))
    unit = generated / np.linalg.norm(generated, axis=1, keepdims=True)
    theirs = golden["dino_standin_gen_features"]
    ours = unit if (theirs.norm(dim=1) - 1).abs().max() < 1e-5 else generated
    assert_close(torch.from_numpy(ours), theirs, CLIP_FEATURES)
    assert image_alignment(generated, targets) == pytest.approx(float(golden["dino_standin_alignment"]), abs=SCORES)


@items("kid_cleanfid")
def test_kernel_distance(path: Path) -> None:
    golden, _ = load(path)
    first, second = (golden[name].numpy() for name in ("feats1", "feats2"))
    draws = golden["index_draws_in_call_order"].numpy()
    indices = [(a, b) for b, a in zip(draws[::2], draws[1::2], strict=True)]
    assert kernel_distance(first, second, indices) == pytest.approx(float(golden["kid"]), abs=KID)
