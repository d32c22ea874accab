"""Attention, augmentation and training of Custom Diffusion against tensors of the published code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from custom_diffusion_files import (
    PAPER,
    compvis_unet,
    diffusers_names,
    model_file,
    models_of,
    told,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from goldens import assert_close, files, folder, load, prefixes, under
from PIL import Image
from torch import Tensor

from gengauge.reference.custom_diffusion.attention import (
    FirstTokenStopped,
    cross_attentions,
    stop_first_token,
    trained_names,
)
from gengauge.reference.custom_diffusion.augment import FAR_WORDS, NEAR_WORDS, Resize, Variant, augment
from gengauge.reference.custom_diffusion.losses import masked_loss, noised, p_losses, scaled_linear_abar
from gengauge.reference.custom_diffusion.tokens import add_rows, table
from gengauge.reference.custom_diffusion.training import Draws, Recipe, Training, joined
from gengauge.reference.nets.latent_diffusion import UNET

pytestmark = pytest.mark.usefixtures("one_thread")
# What `test_custom_diffusion_files.py` reads.
ELSEWHERE = ("merge_", "svd_", "clip_metrics", "kid_cleanfid", "ddim_")
TABLE = "text_encoder.text_model.embeddings.token_embedding.weight"
DECAY = 0.01
READ: set[Path] = set()  # the files that gave a test item


def of_kind(prefix: str) -> list[Path]:
    found = files(PAPER, prefix)
    READ.update(found)
    return found


def items(prefix: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", of_kind(prefix), ids=lambda path: path.stem)


@items("model_")
def test_models(path: Path) -> None:
    tensors, _ = load(path)
    models = models_of(path)
    count = sum(value.numel() for value in tensors.values())
    decoder = [p for n, p in models.vae.named_parameters() if n.startswith(("decoder.", "post_quant_conv."))]
    if not any(name.startswith("vae.decoder.") for name in tensors):
        count += sum(parameter.numel() for parameter in decoder)
    assert count == sum(p.numel() for network in models.parts().values() for p in network.parameters())
    names = trained_names(dict(models.unet.named_parameters()))
    assert len(names) == 2 * len(cross_attentions(models.unet))
    ids = torch.arange(len(tensors[TABLE]))[None, -5:]
    assert models.text_encoder(ids)[0].shape == (1, 5, tensors[TABLE].shape[1])


@items("attn_processor")
def test_attention_and_its_gradients(path: Path) -> None:
    golden, _ = load(path)
    state = under(golden, "attn2.")
    inner = state["to_q.weight"].shape[0]
    size = told(path).get("dim_head", 8)
    attention = Attention(
        state["to_q.weight"].shape[1],
        state["to_k.weight"].shape[1],
        heads=inner // size,
        dim_head=size,
        processor=FirstTokenStopped(),
    )
    attention.load_state_dict(state)

    def gradients() -> dict[str, Tensor]:
        attention.zero_grad()
        text = golden["encoder_hidden_states"].clone().requires_grad_(True)
        out = attention(golden["hidden_states"], text)
        assert_close(out.detach(), golden["out"], 1e-6)
        out.backward(golden["grad_output"])
        found = {f"attn2.{name}": value.grad for name, value in attention.named_parameters()}
        return {
            name: value for name, value in {**found, "encoder_hidden_states": text.grad}.items() if value is not None
        }

    ours, wanted = gradients(), under(golden, "grad.")
    assert set(ours) == set(wanted)
    for name, value in wanted.items():
        assert_close(ours[name], value, 1e-5)
    assert not ours["encoder_hidden_states"][:, 0].any()
    attention.set_processor(AttnProcessor2_0())
    plain = gradients()
    for name, value in under(golden, "contrast_no_stop_grad.").items():
        assert_close(plain[name], value, 1e-5)
        assert (ours[name] - value).abs().max() > 1e-3


@items("unet_kv_delta")
def test_replaced_keys_and_values(path: Path) -> None:
    golden, _ = load(path)
    unet = models_of(model_file(path)).unet
    delta = under(golden, "delta.unet.")
    as_processors = {
        name.replace(".processor.", ".").replace("_custom_diffusion", ""): value
        for name, value in under(golden, "attn_procs_file.").items()
    }
    assert set(delta) == set(as_processors) == set(trained_names(dict(unet.named_parameters())))

    @torch.no_grad()
    def out() -> Tensor:
        return unet(golden["sample"], golden["timesteps"], golden["encoder_hidden_states"]).sample

    assert_close(out(), golden["out_pretrained"], 1e-5)
    stop_first_token(unet)
    assert_close(out(), golden["out_pretrained"], 1e-5)
    for replaced in (delta, as_processors):
        unet.load_state_dict(replaced, strict=False)
        assert_close(out(), golden["out_finetuned"], 1e-5)
    assert (out() - golden["out_pretrained"]).abs().max() > 1e-4


@items("augment_")
def test_augmentation(path: Path) -> None:
    golden, _ = load(path)
    variant: Variant = "compvis" if "compvis" in path.stem else "diffusers"
    picture = Image.fromarray(golden["image_u8"].numpy())
    captions = bytes(golden["captions_utf8"].tolist()).decode().split("\n")
    phrases = {phrase: index for pair in (FAR_WORDS, NEAR_WORDS) for index, phrase in enumerate(pair)}
    # The caption alone is what all share when the phrases are gone; compvis keeps no draw of which phrase it is.
    begun = [next((phrase for phrase in phrases if each.startswith(phrase)), "") for each in captions]
    (caption,) = {each.removeprefix(phrase) for each, phrase in zip(captions, begun, strict=True)}
    cases = sorted(prefixes(golden, ".mask"), key=lambda name: int(name.removeprefix("case")))
    assert len(cases) == len(captions)
    for case, wanted, phrase in zip(cases, captions, begun, strict=True):
        mine = under(golden, f"{case}.")
        _, scale, *centre = mine["draws_randint"].tolist()
        words = phrases.get(phrase)
        if "draw_choice" in mine:
            assert int(mine["draw_choice"]) == (-1 if words is None else words)
        draws = Resize(scale, (centre[0], centre[1]) if centre else None, words)
        made = augment(picture, caption, len(mine["mask"]) * 8, draws, variant)
        assert made.caption == wanted
        assert torch.equal(made.mask, mine["mask"].float())
        if "scale" in mine:
            assert draws.even_scale == int(mine["scale"])
        image = mine["instance_image"] if "instance_image" in mine else mine["image_hwc"].permute(2, 0, 1)
        assert_close(made.picture, image, 1e-6)


def with_pictures(path: Path) -> dict[str, Tensor]:
    """A training's tensors; the file of the bug has its pictures in that of the fix."""
    golden, _ = load(path)
    fixed = path.with_name(path.name.replace("official_bug", "fixed"))
    more = load(fixed)[0] if fixed != path and fixed.exists() else {}
    return {**{key: value for key, value in more.items() if key.endswith(".pixel_values")}, **golden}


def new_rows(golden: dict[str, Tensor], rows: Tensor) -> int:
    """How many rows a training's table has on top of the model's: what stands before them has decayed only."""
    last = golden.get(f"step0.after.{TABLE}.last12")
    if last is None:
        return 0
    decayed = rows * (1 - golden["step0.lr"] * DECAY)
    fits = [n for n in range(1, len(last)) if torch.allclose(last[:-n], decayed[n - len(last) :], rtol=0, atol=1e-7)]
    assert len(fits) == 1
    return fits[0]


def begun_as(golden: dict[str, Tensor], rows: Tensor, config: dict[str, Any], count: int) -> list[int]:
    """The rows that new tokens began as: told, else those that are nearest after a step of the size of its rate."""
    known: list[int] = config.get("initial_ids", [])[:count]
    rest = golden[f"step0.after.{TABLE}.last12"][len(known) - count :] if len(known) < count else rows[:0]
    return known + torch.cdist(rest, rows).argmin(1).tolist()


def training_of(path: Path, golden: dict[str, Tensor]) -> Training:
    """A training at the golden's start."""
    file = model_file(path)
    models = models_of(file)
    rows = table(models.text_encoder).weight.detach().clone()
    count = new_rows(golden, rows)
    ids = add_rows(models.text_encoder, begun_as(golden, rows, told(file), count)) if count else []
    names = under(golden, "step0.after.unet.")
    (which,) = [
        each for each in ("kv", "crossattn", "all") if set(trained_names(models.unet.state_dict(), each)) == set(names)
    ]
    recipe = Recipe(
        which,
        lr=float(golden["step0.lr"]),
        prior_weight=1.0 if "step0.unet_pred_prior" in golden else None,
        gradients="official_bug" if "official_bug" in path.stem else "all",
    )
    return Training(recipe, models, ids)


def kept(golden: dict[str, Tensor], kind: str, named: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a step's stored tensors of a kind (`grad.`, `after.`) and of ours; all of ours have one."""
    pairs, left = [], set(named)
    for name, value in under(golden, kind).items():
        if name.startswith(TABLE):
            ours = named["text_encoder.token_embedding.weight"]
            pairs.append((ours[:4] if name.endswith(".first4") else ours[-12:], value))
            left.discard("text_encoder.token_embedding.weight")
        else:
            pairs.append((named[name], value))
            left.remove(name)
    assert not left
    return pairs


@items("train_")
def test_training(path: Path) -> None:
    golden = with_pictures(path)
    training = training_of(path, golden)
    models = training.models
    trained = dict(training.networks["delta"].named_parameters())
    frozen = {
        name: parameter.clone()
        for part, network in models.parts().items()
        for name, parameter in ((f"{part}.{n}", p) for n, p in network.named_parameters())
        if not parameter.requires_grad
    }
    bug = training.recipe.gradients == "official_bug"
    for index in range(len(prefixes(golden, ".loss"))):
        mine = under(golden, f"step{index}.")
        reals = joined(mine["pixel_values"], mine["mask"])
        draws = Draws(mine["vae_noise"], mine["noise"], mine["timesteps"])
        with torch.no_grad():
            predicted = training.predict(reals, mine["input_ids"], draws=draws)
        half = len(mine["unet_pred"])
        assert_close(predicted.output[:half], mine["unet_pred"], 1e-5)
        assert torch.equal(predicted.mask[:half], mine["mask"][:half])
        if "unet_pred_prior" in mine:
            assert_close(predicted.output[half:], mine["unet_pred_prior"], 1e-5)
        losses = training.gradients(reals, mine["input_ids"], draws=draws)
        assert_close(losses["loss"], mine["loss"], 1e-5)
        if "prior_loss" in mine:
            assert_close(losses["prior"], mine["prior_loss"], 1e-5)
        gradients = {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
        assert set(gradients) == set(trained)
        for ours, wanted in kept(mine, "grad.", gradients):
            assert_close(ours, wanted, 5e-6)
        for network in models.parts().values():
            assert sum(p.grad is not None for p in network.parameters()) == sum(
                p.requires_grad for p in network.parameters()
            )
        if training.table is not None:
            assert training.table.grad is not None
            learnt = training.table.grad.any(1).nonzero().flatten().tolist()
            assert set(learnt) <= set(training.tokens[:1] if bug else training.tokens)
            present = set(training.tokens) & set(mine["input_ids"].flatten().tolist())
            assert set(learnt) == (present & set(training.tokens[:1]) if bug else present)
        assert training.recipe.rate(training.iteration) == pytest.approx(float(mine["lr"]), rel=1e-6)
        assert_close(training.update(), mine["grad_norm_before_clip"], 1e-5)
        for ours, wanted in kept(mine, "after.", trained):
            assert_close(ours.detach(), wanted, 1e-5)
            assert (ours.detach().double() - wanted.double()).abs().mean() <= 1e-7
    for part, network in models.parts().items():
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                assert torch.equal(parameter, frozen[f"{part}.{name}"])


@items("compvis_p_losses")
def test_losses_of_latent_diffusion(path: Path) -> None:
    golden, _ = load(path)
    unet = compvis_unet(golden, told(path).get("num_heads", 2)).requires_grad_(False)
    stop_first_token(unet)
    for name in trained_names(dict(unet.named_parameters())):
        unet.get_parameter(name).requires_grad_(True)
    abar, t = scaled_linear_abar(steps=len(golden["alphas_cumprod"])), golden["t"].long()
    assert_close(abar, golden["alphas_cumprod"], 1e-6)
    x = noised(golden["x_start"], golden["noise"], t, abar)
    assert_close(x, golden["x_noisy"], 1e-5)
    out = unet(x, t, golden["cond"]).sample
    assert_close(out.detach(), golden["model_output"], 1e-5)
    losses = p_losses(out, golden["noise"], golden["mask"], t, abar)
    assert_close(losses["loss"].detach(), golden["loss"], 1e-5)
    assert_close(losses["loss_simple"].detach(), golden["loss_simple"], 1e-5)
    assert_close(losses["loss_vlb"].detach(), golden["loss_vlb_unweighted_term"], 1e-5)
    assert torch.equal(masked_loss(out, golden["noise"], golden["mask"]), losses["loss"])
    losses["loss"].backward()
    named = diffusers_names(golden, unet)
    wanted = {named[name]: value for name, value in under(golden, f"grad.{UNET}").items()}
    found = {name: p.grad for name, p in unet.named_parameters() if p.grad is not None}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert_close(found[name], value, 1e-5)


def test_every_golden_is_read() -> None:
    theirs = {path for prefix in ELSEWHERE for path in files(PAPER, prefix)}
    assert set(folder(PAPER).glob("*.safetensors")) == READ | theirs
