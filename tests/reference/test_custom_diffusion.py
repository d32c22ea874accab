"""Custom Diffusion's training by itself: what is selected, tokens, augmentation, losses, steps, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor, nn

from gengauge.benchmarks.training.loop import Schedule, train
from gengauge.reference.custom_diffusion import losses, models, tokens
from gengauge.reference.custom_diffusion.attention import (
    FirstTokenStopped,
    cross_attentions,
    stop_first_token,
    trained_names,
)
from gengauge.reference.custom_diffusion.augment import (
    FAR_WORDS,
    NEAR_WORDS,
    Augmented,
    Resize,
    augment,
    class_picture,
    draw_resize,
    template,
)
from gengauge.reference.custom_diffusion.training import (
    COMPVIS_JOINT,
    COMPVIS_SINGLE,
    DREAMBOOTH,
    FACES,
    JOINT,
    SINGLE,
    TEXTUAL_INVERSION,
    Draws,
    Recipe,
    Training,
    joined,
    scaled_rate,
)
from gengauge.reference.nets.latent_diffusion import stable_diffusion_unet, stable_diffusion_xl_unet

WIDTH, LENGTH, WORDS = 16, 6, 12


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text_encoder() -> nn.Module:
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return transformers.CLIPTextModel(config).eval()


def tiny(**settings: Any) -> models.Models:
    """Random networks: latents of 4x4 for pictures of 8x8 px."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    return models.Models(unet, text_encoder(), vae.eval(), **settings)


def batch(count: int = 4, seed: int = 3, words: int = WORDS) -> tuple[Tensor, Tensor]:
    """Pictures with masks, and ids, of which picture k has the word WORDS + k where there is one."""
    pictures = torch.rand(count, 3, 8, 8, generator=seeded(seed)) * 2 - 1
    masks = torch.ones(count, 1, 4, 4)
    masks[0, :, 2:] = 0
    ids = torch.randint(2, WORDS, (count, LENGTH), generator=seeded(seed))
    ids[:, 0], ids[:, -1] = 0, 1
    for index in range(min(count, words - WORDS)):
        ids[index, 2] = WORDS + index
    return joined(pictures, masks), ids


def drawn(count: int = 4, seed: int = 5) -> Draws:
    make = seeded(seed)
    first, second = (torch.randn(count, 4, 4, 4, generator=make) for _ in range(2))
    return Draws(first, second, torch.randint(0, 1000, (count,), generator=make))


# -- attention ---------------------------------------------------------------------------------------------------------


def test_published_counts_of_what_is_trained() -> None:
    with torch.device("meta"):
        unets = {
            "kv": (stable_diffusion_unet(), 32, 19_169_280, 859_520_964),
            "crossattn": (stable_diffusion_unet(), 80, 43_962_560, 859_520_964),
            "xl": (stable_diffusion_xl_unet(), 140, 340_787_200, 2_567_463_684),
        }
    for which, (unet, tensors, numbers, whole) in unets.items():
        named = dict(unet.named_parameters())
        found = trained_names(named, "crossattn" if which == "crossattn" else "kv")
        assert len(found) == tensors
        assert sum(named[name].numel() for name in found) == numbers
        assert sum(value.numel() for value in named.values()) == whole
        assert found == [name for name in named if name in found]
        assert trained_names(named, "all") == list(named)
        assert len(cross_attentions(unet)) == (70 if which == "xl" else 16)


def test_names_that_are_no_u_net_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train by 'kv'"):
        trained_names(["conv.weight", "attn1.to_k.weight"])
    with pytest.raises(ValueError, match="kv, crossattn, all, not 'lora'"):
        trained_names(["x.attn2.to_k.weight"], "lora")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no cross-attention named attn2"):
        stop_first_token(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qk_norm": "layer_norm", "rescale_output_factor": 2.0, "residual_connection": True},
        {"cross_attention_norm": "layer_norm", "bias": True},
    ],
    ids=["plain", "norms", "cross_norm"],
)
def test_the_processor_computes_what_the_stock_one_does(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 6, heads=2, dim_head=4, **settings)
    states, text = torch.randn(2, 5, 8), torch.randn(2, 7, 6, requires_grad=True)
    mask = torch.zeros(2, 1, 7)
    mask[:, :, 5:] = -10_000.0
    for bias in (None, mask):
        wanted = attention(states, text, attention_mask=bias)
        stock = attention.processor
        attention.set_processor(FirstTokenStopped())
        out = attention(states, text, attention_mask=bias)
        assert torch.allclose(out, wanted, atol=1e-6)
        (gradient,) = torch.autograd.grad(out.square().sum(), text)
        assert not gradient[:, 0].any()
        assert gradient[:, 1:5].any(-1).all()
        attention.set_processor(stock)


def test_self_attention_stops_nothing() -> None:
    torch.manual_seed(0)
    attention = Attention(8, heads=2, dim_head=4)
    states = torch.randn(2, 5, 8, requires_grad=True)
    gradients = []
    for processor in (attention.processor, FirstTokenStopped()):
        attention.set_processor(processor)
        gradients += torch.autograd.grad(attention(states).square().sum(), states)
    assert torch.allclose(*gradients, atol=1e-6)


def test_attention_over_maps_is_refused() -> None:
    attention = Attention(8, heads=2, dim_head=4, norm_num_groups=2, processor=FirstTokenStopped())
    with pytest.raises(ValueError, match="leave this attention its own processor"):
        attention(torch.randn(1, 8, 2, 2))


# -- tokens ------------------------------------------------------------------------------------------------------------


def tokenizer() -> Any:
    known = ["<s>", "</s>", "ktn", "pll", "ucd", "cat", "a", "of", "photo", "x", "y", "z"]
    assert len(known) == WORDS
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="x"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="x")


def test_the_two_published_orders() -> None:
    assert tokens.initial_words(3) == ["ktn", "pll", "ucd"]
    assert tokens.initial_words(1, "compvis") == tokens.initial_words(1) == ["ktn"]
    assert tokens.initial_words(2, "compvis") == ["pll", "ktn"]
    assert tokens.initial_words(3, "compvis") == ["ucd", "pll", "ktn"]
    assert tokens.initial_words(4, words=("a", "b", "c", "d", "e")) == ["a", "b", "c", "d"]
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"{count} new tokens need as many rare words"):
            tokens.initial_words(count)
    with pytest.raises(ValueError, match="orders are diffusers or compvis"):
        tokens.initial_words(1, "webui")  # type: ignore[arg-type]


def test_new_words_stand_at_the_end_and_begin_as_rare_ones() -> None:
    words, encoder = tokenizer(), text_encoder()
    before = tokens.table(encoder).weight.detach().clone()
    state = torch.random.get_rng_state()
    ids = tokens.add_modifier_tokens(words, encoder, ["<new1>", "<new2>", "<new3>"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ids == [12, 13, 14]
    assert words("photo of a <new2> cat")["input_ids"] == [8, 7, 6, 13, 5]
    after = tokens.table(encoder).weight
    assert torch.equal(after, torch.cat([before, before[2:5]]))
    assert encoder.config.vocab_size == 15
    assert torch.equal(encoder(torch.tensor([[0, 13, 1]]))[0], encoder(torch.tensor([[0, 3, 1]]))[0])
    more = tokens.add_modifier_tokens(words, encoder, ["<new4>"], initial=["cat"], order="compvis")
    assert more == [15]
    assert torch.equal(tokens.table(encoder).weight[15], before[5])


def test_words_that_cannot_be_new_tokens_change_nothing() -> None:
    words, encoder = tokenizer(), text_encoder()
    cases = {
        "already has 'cat'": (["<new1>", "cat"], None),
        "already has '<new1>'": (["<new1>", "<new1>"], None),
        "'photo of' is 2 tokens": (["<new1>"], ["photo of"]),
        "2 new tokens need as many rare words, of which there are 1": (["<new1>", "<new2>"], ["ktn"]),
    }
    for message, (new, initial) in cases.items():
        with pytest.raises(ValueError, match=message):
            tokens.add_modifier_tokens(words, encoder, new, initial)
    assert len(words) == len(tokens.table(encoder).weight) == WORDS
    tokens.add_words(words, ["<new1>"])
    with pytest.raises(ValueError, match="the tokenizer knows 13 tokens and the text encoder 12"):
        tokens.add_modifier_tokens(words, encoder, ["<new2>"])
    with pytest.raises(ValueError, match="12 is none of them"):
        tokens.add_rows(encoder, [3, 12])
    with pytest.raises(ValueError, match="no new token was named"):
        tokens.add_rows(encoder, [])
    with pytest.raises(ValueError, match="it is no CLIP text encoder"):
        tokens.table(nn.Linear(2, 2))


def test_encoders_of_both_levels() -> None:
    """Before release 5 of transformers, everything stood one level lower."""
    encoder = text_encoder()
    old = nn.Module()
    old.text_model = encoder
    plain = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    classic = {f"text_model.{name}": value for name, value in plain.items()}
    for network in (encoder, old):
        own = network.state_dict()
        for state in (plain, {**classic, "text_model.embeddings.position_ids": torch.arange(6)}):
            renamed = tokens.renamed_for(network, state)
            assert set(renamed) == set(own)
            assert all(torch.equal(renamed[name], own[name]) for name in own)
    assert tokens.add_rows(old, [2]) == [12]
    projected = transformers.CLIPTextModelWithProjection(encoder.config)
    state = {**classic, "text_projection.weight": torch.zeros(1)}
    assert set(tokens.renamed_for(projected, state)) == set(projected.state_dict())


def test_rows_of_a_gradient_that_are_kept() -> None:
    gradient = torch.arange(1.0, 13).view(6, 2)
    tokens.keep_rows(gradient, [5, 3])
    assert gradient.tolist() == [[0, 0]] * 3 + [[7, 8], [0, 0], [11, 12]]
    assert tokens.trained_ids([7, 8, 9]) == [7, 8, 9]
    assert tokens.trained_ids([7, 8, 9], "official_bug") == [7]
    with pytest.raises(ValueError, match="all or official_bug"):
        tokens.trained_ids([7], "first")  # type: ignore[arg-type]


# -- augmentation ------------------------------------------------------------------------------------------------------


def photo(width: int = 50, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_draws_are_those_of_the_published_ranges() -> None:
    generator = seeded(0)
    draws = [draw_resize(96, generator, flip=True) for _ in range(1500)]
    shrunk = [each for each in draws if each.scale <= 96]
    grown = [each for each in draws if each.scale > 96]
    assert len(shrunk) / len(draws) == pytest.approx(2 / 3, abs=0.04)
    assert {min(each.scale for each in shrunk), max(each.scale for each in shrunk)} == {32, 96}
    assert {min(each.scale for each in grown), max(each.scale for each in grown)} == {115, 133}
    assert sum(each.flip for each in draws) / len(draws) == pytest.approx(0.5, abs=0.05)
    placed = [each for each in draws if each.centre is not None]
    assert all((each.even_scale < 57.6 or each.even_scale > 96) == (each.centre is not None) for each in draws)
    assert {each.words for each in placed} == {0, 1}
    for each in placed:
        assert augment(photo(), "x", 96, each).mask.any()
    edges = {(e.centre[0] - 16, 80 - e.centre[0]) for e in placed if e.centre is not None and e.even_scale == 32}
    assert min(low for low, _ in edges) >= 0
    assert min(high for _, high in edges) >= 0
    again = seeded(0)
    assert [draw_resize(96, again, flip=True) for _ in range(20)] == draws[:20]
    assert not any(draw_resize(96, generator).flip for _ in range(20))


def test_a_small_picture_lies_on_grey_and_its_mask_inside_of_it() -> None:
    made = augment(photo(), "photo of a cat", 96, Resize(40, (30, 50), 1))
    assert made.caption == f"{FAR_WORDS[1]}photo of a cat"
    inside = torch.zeros(96, 96, dtype=torch.bool)
    inside[10:50, 30:70] = True
    assert not made.picture[:, ~inside].any()
    assert made.picture[:, inside].abs().mean() > 0.1
    cells = made.mask.bool().repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert cells.any()
    assert not cells[~inside].any()
    assert made.mask.sum() == 9  # cells 2 to 4 of 1 to 5, and 4 to 6 of 3 to 7


def test_a_large_picture_shows_a_part() -> None:
    whole = augment(photo(), "x", 96, Resize(96))
    assert whole.caption == "x"
    assert whole.mask.all()
    parts = [augment(photo(), "x", 96, Resize(119, centre, 0)) for centre in ((48, 48), (72, 72))]
    assert all(part.caption == f"{NEAR_WORDS[0]}x" and part.mask.all() for part in parts)
    shown = [part.picture for part in parts]
    assert torch.equal(shown[0][:, 24:, 24:], shown[1][:, :-24, :-24])


def test_variants_squash_or_crop() -> None:
    wide = Image.new("RGB", (90, 30), (255, 0, 0))
    wide.paste((0, 0, 255), (30, 0, 60, 30))
    cropped = augment(wide, "x", 24, Resize(24), "compvis").picture
    assert torch.equal(cropped, torch.tensor([-1.0, -1, 1]).view(3, 1, 1).expand(3, 24, 24))
    squashed = augment(wide, "x", 24, Resize(24)).picture
    assert squashed[0, 0].tolist()[:7] == [1.0] * 7
    assert squashed[2, 0, 12] == 1
    flipped = augment(photo(), "x", 48, Resize(48, flip=True)).picture
    assert torch.allclose(flipped, augment(photo(), "x", 48, Resize(48)).picture.flip(2), atol=1 / 127)
    assert template("<new1> cat") == "photo of a <new1> cat"
    assert template("<new1> art", style=True) == "painting in the style of <new1> art"


def test_an_empty_mask_is_refused_or_filled() -> None:
    draws = Resize(22, (11, 32), 0)
    with pytest.raises(ValueError, match="train at 72 px or more, draw again, or let empty masks be 'covered'"):
        augment(photo(), "x", 64, draws)
    made = augment(photo(), "x", 64, draws, empty="covered")
    assert made.mask.nonzero().tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]
    with pytest.raises(ValueError, match="covers no cell"):
        augment(photo(), "x", 24, Resize(8, (8, 8), 0), empty="covered")


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (Resize(40), "needs a centre"),
        (Resize(40, (19, 40), 0), "does not fit"),
        (Resize(120, (48, 73), 0), "does not fit"),
        (Resize(120, (48, 72)), "which words tell the size is 0 or 1, not None"),
        (Resize(120, (48, 72), 2), "which words tell the size is 0 or 1, not 2"),
    ],
)
def test_draws_that_do_not_fit(draws: Resize, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment(photo(), "x", 96, draws)


def test_sizes_and_words_that_augmentation_refuses() -> None:
    calls: list[Callable[[], Augmented | Resize | Tensor]] = [
        lambda: augment(photo(), "x", 90, Resize(90)),
        lambda: draw_resize(100),
        lambda: class_picture(photo(), 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="a multiple of 8 px"):
            call()
    with pytest.raises(ValueError, match="variants are diffusers, compvis"):
        augment(photo(), "x", 96, Resize(96), "webui")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty masks error, covered"):
        augment(photo(), "x", 96, Resize(96), empty="whole")  # type: ignore[arg-type]


def test_class_pictures_are_squares_of_resized_ones() -> None:
    picture = photo(100, 40)
    centre = class_picture(picture, 40)
    corners = [class_picture(picture, 40, (0.0, share)) for share in (0.0, 0.999)]
    whole = torch.from_numpy(np.array(picture, np.float32) / 127.5 - 1).permute(2, 0, 1)
    assert torch.allclose(centre, whole[:, :, 30:70], atol=1e-6)
    assert torch.allclose(corners[0], whole[:, :, :40], atol=1e-6)
    assert torch.allclose(corners[1], whole[:, :, 60:], atol=1e-6)
    assert torch.allclose(class_picture(picture, 40, flip=True), whole[:, :, 30:70].flip(2), atol=1e-6)
    assert class_picture(photo(30, 77), 16).shape == (3, 16, 16)
    with pytest.raises(ValueError, match=r"shares in \[0, 1\)"):
        class_picture(picture, 40, (0.0, 1.0))


# -- losses ------------------------------------------------------------------------------------------------------------


def test_the_masked_loss_is_four_means() -> None:
    output, wanted = torch.randn(2, 4, 4, 4, generator=seeded(0)), torch.zeros(2, 4, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, 1:3, 1:3], mask[1, :, :, 0] = 1, 1
    means = torch.stack([output[0, :, 1:3, 1:3].square().mean(), output[1, :, :, 0].square().mean()])
    assert torch.allclose(losses.masked_errors(output, wanted, mask), 4 * means)
    assert torch.allclose(losses.masked_errors(output, wanted, mask, "mean"), means)
    ones = torch.ones_like(mask)
    assert torch.allclose(losses.masked_loss(output, wanted, ones, "mean"), losses.prior_loss(output, wanted))
    assert losses.masked_loss(output, wanted, torch.zeros_like(mask)).isnan()
    with pytest.raises(ValueError, match="weightings are official_x4 or mean"):
        losses.masked_loss(output, wanted, mask, "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="masks are"):
        losses.masked_loss(output, wanted, ones.expand(2, 4, 4, 4))


def test_targets_give_back_the_latents() -> None:
    abar, t = losses.scaled_linear_abar(), torch.tensor([3, 700])
    x0, noise = torch.randn(2, 2, 4, 3, 3, generator=seeded(0))
    x = losses.noised(x0, noise, t, abar)
    assert losses.target(x0, noise, t, abar) is noise
    v = losses.target(x0, noise, t, abar, "v_prediction")
    kept = abar[t].view(-1, 1, 1, 1)
    assert torch.allclose(kept.sqrt() * x - (1 - kept).sqrt() * v, x0, atol=1e-5)
    assert torch.allclose((1 - kept).sqrt() * x + kept.sqrt() * v, noise, atol=1e-5)
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    assert torch.allclose(abar, scheduler.alphas_cumprod, atol=1e-6)
    assert torch.allclose(scheduler.get_velocity(x0, noise, t), v, atol=1e-5)
    with pytest.raises(ValueError, match="epsilon or v_prediction, not 'sample'"):
        losses.target(x0, noise, t, abar, "sample")  # type: ignore[arg-type]


# -- training ----------------------------------------------------------------------------------------------------------


def with_tokens(recipe: Recipe, count: int = 3, **settings: Any) -> Training:
    networks = tiny(**settings)
    return Training(recipe, networks, tokens.add_rows(networks.text_encoder, range(2, 2 + count)) if count else ())


def test_rates_are_scaled_as_published() -> None:
    assert scaled_rate() == pytest.approx(4e-5)  # the README on one GPU
    assert scaled_rate(processes=2) == pytest.approx(8e-5)
    assert scaled_rate(prior=False) == pytest.approx(2e-5)
    assert scaled_rate(5e-6, processes=2, accumulate=3) == pytest.approx(1.2e-4)
    assert scaled_rate(batch=4, processes=2, code="compvis") == pytest.approx(8e-5)
    with pytest.raises(ValueError, match="codes are diffusers or compvis"):
        scaled_rate(code="webui")  # type: ignore[arg-type]
    assert SINGLE.lr == JOINT.lr == COMPVIS_SINGLE.lr == COMPVIS_JOINT.lr == scaled_rate(processes=2)
    assert FACES.lr == scaled_rate(5e-6, processes=2)
    assert [Recipe(warmup=4, lr=1.0).rate(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert SINGLE.rate(0) == SINGLE.rate(249) == 8e-5
    # Textual Inversion scales its rate by the pictures of a step: 4 a GPU, two GPUs.
    assert TEXTUAL_INVERSION.lr == pytest.approx(scaled_rate(5e-3, 4, 2, code="compvis"))
    assert TEXTUAL_INVERSION.batch == 4 * 2


@pytest.mark.parametrize("bug", [False, True])
def test_three_tokens_learn_or_the_first_alone(bug: bool) -> None:
    training = with_tokens(Recipe(gradients="official_bug" if bug else "all"))
    assert training.table is not None
    before = training.table.detach().clone()
    training.step(*batch(6, words=15), draws=drawn(6))
    decayed = before * (1 - training.recipe.lr * training.recipe.weight_decay)
    moved = (training.table.detach() - decayed).abs().max(1).values
    learnt = [12] if bug else [12, 13, 14]
    assert (moved[learnt] > 1e-6).all()
    rest = [row for row in range(15) if row not in learnt]
    assert torch.equal(training.table.detach()[rest], decayed[rest])
    assert not torch.equal(decayed[rest], before[rest])
    unet, rows = training.delta()
    assert rows is not None
    assert rows.shape == (3, WIDTH)
    assert list(unet) == trained_names(dict(training.models.unet.named_parameters()))


def test_decay_may_spare_the_rows_that_do_not_learn() -> None:
    plain, sparing = with_tokens(Recipe(weight_decay=0.1)), with_tokens(Recipe(weight_decay=0.1, decay="trained"))
    assert sparing.table is not None
    assert plain.table is not None
    before = sparing.table.detach().clone()
    for training in (plain, sparing):
        for index in range(2):
            training.step(*batch(6, words=15), draws=drawn(6, index))
    assert torch.equal(sparing.table[:12], before[:12])
    assert not torch.equal(plain.table[:12], before[:12])
    assert torch.allclose(sparing.table[12:], plain.table[12:], atol=1e-6)
    assert not torch.equal(sparing.table[12:], before[12:])


def test_what_is_frozen_stays_and_has_no_gradient() -> None:
    training = with_tokens(Recipe(trained="crossattn"))
    before = {n: p.clone() for n, p in training.models.unet.named_parameters()}
    text = {n: p.clone() for n, p in training.models.text_encoder.named_parameters() if "token" not in n}
    found = training.step(*batch(), draws=drawn())
    assert set(found) == {"loss", "instance", "prior", "gradient_norm"}
    assert float(found["loss"]) == pytest.approx(float(found["instance"] + found["prior"]))
    for name, parameter in training.models.unet.named_parameters():
        learns = ".attn2." in name
        assert parameter.requires_grad == (parameter.grad is not None) == learns
        assert torch.equal(parameter, before[name]) != learns
    own = dict(training.models.text_encoder.named_parameters())
    assert all(torch.equal(own[name], value) and own[name].grad is None for name, value in text.items())
    assert all(p.grad is None for p in training.models.vae.parameters())


@pytest.mark.parametrize("stop", [False, True])
def test_tokens_learn_alone(stop: bool) -> None:
    """Textual Inversion: one step of AdamW on the rows of new tokens, by the gradient that they have beside weights."""
    recipe = replace(TEXTUAL_INVERSION, stop_first_token=stop, lr=1e-2)
    alone, beside = with_tokens(recipe, 2), with_tokens(replace(recipe, trained="all"), 2)
    before = {(k, n): p.clone() for k, part in alone.models.parts().items() for n, p in part.named_parameters()}
    for training in (alone, beside):
        training.gradients(*batch(4, words=14), draws=drawn())
    assert alone.table is not None
    assert beside.table is not None
    assert alone.table.grad is not None
    assert torch.equal(alone.table.grad, beside.table.grad)
    assert alone.table.grad.abs().amax(1).nonzero().flatten().tolist() == [12, 13]
    rows = alone.table.detach()[12:].clone()
    expected = rows * (1 - 1e-2 * 0.01) - 1e-2 * alone.table.grad[12:].sign()  # the first step of Adam
    alone.update()
    assert torch.allclose(alone.table.detach()[12:], expected, atol=1e-5)
    assert alone.parameters == [alone.table]
    for key, part in alone.models.parts().items():
        for name, parameter in part.named_parameters():
            learns = parameter is alone.table
            assert (parameter.grad is not None) == learns
            assert torch.equal(parameter[:12], before[key, name][:12])
            assert torch.equal(parameter, before[key, name]) != learns
    unet, vectors = alone.delta()
    assert not unet
    assert vectors is not None
    assert vectors.shape == (2, WIDTH)


def test_dreambooth_learns_the_whole_u_net_and_no_word() -> None:
    training = with_tokens(DREAMBOOTH, 0)
    assert set(training.unet_parameters) == set(dict(training.models.unet.named_parameters()))
    text = {n: p.clone() for n, p in training.models.text_encoder.named_parameters()}
    assert set(training.step(*batch(), draws=drawn())) == {"loss", "instance", "prior", "gradient_norm"}
    assert all(torch.equal(p, text[n]) for n, p in training.models.text_encoder.named_parameters())


def test_the_first_token_may_learn() -> None:
    gradients = []
    for stop in (True, False):
        training = with_tokens(Recipe(stop_first_token=stop), 0)
        found = training.gradients(*batch(), draws=drawn())
        gradients.append((found["loss"], [p.grad for p in training.unet_parameters.values()]))
    (loss, stopped), (same, plain) = gradients
    assert torch.allclose(loss, same, atol=1e-5)
    assert all(not torch.allclose(a, b, rtol=0.01) for a, b in zip(stopped, plain, strict=True) if a is not None)


def test_cached_posteriors_and_features_are_as_good() -> None:
    reals, ids = batch()
    wanted = with_tokens(SINGLE, 0).step(reals, ids, draws=drawn())
    training = with_tokens(SINGLE, 0)
    moments = models.moments_of(training.models.vae, reals[:, :3])
    cached = joined(moments, reals[:, 3:, ::2, ::2])
    assert cached.shape == (4, 9, 4, 4)
    with torch.no_grad():
        features = training.models.text_encoder(ids)[0]
    alone = models.Models(tiny().unet)
    found = Training(SINGLE, alone).step(cached, features, draws=drawn())
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5)


def test_parts_of_a_compvis_batch_are_added() -> None:
    reals, ids = batch()
    recipe = replace(COMPVIS_JOINT, batch=4)
    both = with_tokens(recipe, 0).gradients(reals, ids, draws=drawn())["loss"]
    draws, single = drawn(), replace(COMPVIS_SINGLE, batch=2)
    assert draws.vae_noise is not None
    assert draws.noise is not None
    assert draws.times is not None
    halves = [
        with_tokens(single, 0).gradients(
            reals[part], ids[part], draws=Draws(draws.vae_noise[part], draws.noise[part], draws.times[part])
        )["loss"]
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert float(both) == pytest.approx(float(sum(halves)), rel=1e-5)
    assert "prior" not in with_tokens(single, 0).step(reals, ids, draws=drawn())


def test_weights_of_the_losses() -> None:
    reals, ids = batch()
    found = {
        key: with_tokens(recipe, 0).gradients(reals, ids, draws=drawn())
        for key, recipe in {
            "published": SINGLE,
            "mean": Recipe(weighting="mean"),
            "half": Recipe(prior_weight=0.5),
            "none": Recipe(prior_weight=0.0),
        }.items()
    }
    one = found["published"]
    assert torch.allclose(found["mean"]["instance"] * 4, one["instance"])
    assert torch.allclose(found["half"]["loss"], one["instance"] + one["prior"] / 2)
    assert torch.allclose(found["none"]["loss"], one["instance"])


def test_networks_of_v() -> None:
    reals, ids = batch()
    predicted = with_tokens(SINGLE, 0, prediction="v_prediction").predict(reals, ids, draws=drawn())
    plain = with_tokens(SINGLE, 0).predict(reals, ids, draws=drawn())
    assert torch.equal(predicted.output, plain.output)
    assert torch.equal(plain.wanted, drawn().noise)
    assert not torch.allclose(predicted.wanted, plain.wanted, atol=0.1)
    with pytest.raises(ValueError, match="predictions are epsilon or v_prediction"):
        tiny(prediction="sample")


def test_a_concept_is_learnt() -> None:
    """The same batch and draws again and again: the loss falls."""
    training = with_tokens(Recipe(trained="crossattn", lr=5e-3, weight_decay=0.0), 1)
    found = [float(training.step(*batch(words=13), draws=drawn())["loss"]) for _ in range(12)]
    assert found[-1] < 0.97 * found[0]
    assert training.iteration == 12


def test_clipping_bounds_the_step() -> None:
    for clip, bound in ((1e-9, 1e-2), (None, float("inf"))):
        training = with_tokens(Recipe(clip=clip, lr=1.0, weight_decay=0.0), 0)
        norm = training.step(*batch(), draws=drawn())["gradient_norm"]
        assert norm > 1e-3
        left = torch.stack([p.grad.norm() for p in training.unet_parameters.values() if p.grad is not None]).norm()
        assert left <= bound
        assert (clip is None) == torch.allclose(left, norm)


def test_weights_of_the_u_net_decay_too() -> None:
    after = []
    for decay in (0.0, 0.5):
        training = with_tokens(Recipe(weight_decay=decay, lr=1e-2), 0)
        before = [p.detach().clone() for p in training.unet_parameters.values()]
        training.step(*batch(), draws=drawn())
        after.append([p.detach() for p in training.unet_parameters.values()])
    for start, plain, decayed in zip(before, *after, strict=True):
        assert torch.allclose(plain - decayed, start * 5e-3, atol=1e-6)


def test_half_precision_keeps_weights_and_losses_whole() -> None:
    whole, half = (with_tokens(Recipe(bfloat16=bfloat16), 1) for bfloat16 in (False, True))
    wanted, found = (training.step(*batch(words=13), draws=drawn()) for training in (whole, half))
    assert half.predict(*batch(words=13), draws=drawn()).output.dtype == torch.bfloat16
    assert found["loss"].dtype == torch.float32
    assert found["loss"] != wanted["loss"]
    assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), rel=0.02)
    assert all(p.dtype == torch.float32 for p in half.parameters)


def test_randomness_is_the_generator() -> None:
    runs = [with_tokens(SINGLE, 0).step(*batch(), seeded(seed))["loss"] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


class _Batches:
    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield batch(seed=iteration, words=13)
            iteration += 1


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    def run(work: Path, iterations: int) -> dict[str, Tensor]:
        schedule = Schedule(iterations, 10, 2, 1)
        return train(
            lambda: with_tokens(SINGLE, 1), _Batches(), work, schedule, {}, seed=0, device="cpu", keep="delta"
        ).last

    whole = run(tmp_path / "whole", 4)
    assert set(whole) == {f"unet.{n}" for n in trained_names(tiny().unet.state_dict())} | {
        "text_encoder.token_embedding.weight"
    }
    run(tmp_path / "cut", 2)
    resumed = run(tmp_path / "cut", 4)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert not torch.equal(
        whole["text_encoder.token_embedding.weight"][12], resumed["text_encoder.token_embedding.weight"][2]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "1 or more"),
        ({"lr": 0.0}, "above 0"),
        ({"trained": "lora"}, "kv or crossattn or all"),
        ({"weighting": "sum"}, "official_x4 or mean"),
        ({"gradients": "one"}, "all or official_bug"),
        ({"decay": "none"}, "all or trained"),
        ({"prior_weight": -1.0}, "no weight is negative"),
        ({"clip": 0.0}, "no weight is negative"),
        ({"concepts": 2}, "set it to None"),
        ({"concepts": 3, "prior_weight": None}, "no 3 equal parts"),
    ],
)
def test_recipes_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_batches_that_are_refused() -> None:
    pictures, masks = torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 4, 4)
    for bad in (masks[:1], masks[:, :, :3], torch.ones(2, 1, 4, 2), torch.ones(2, 2, 4, 4)):
        with pytest.raises(ValueError, match="whole numbers of pixels to a cell"):
            joined(pictures, bad)
    with pytest.raises(ValueError, match="a mask is empty"):
        joined(pictures, masks * torch.tensor([1.0, 0]).view(2, 1, 1, 1))
    reals, ids = batch()
    training = with_tokens(SINGLE, 1)
    with pytest.raises(ValueError, match="no 2 equal parts"):
        training.step(reals[:3], ids[:3])
    with pytest.raises(ValueError, match="a batch is pictures of 3 channels or posteriors of 8"):
        training.step(reals[:, 1:], ids)
    with pytest.raises(ValueError, match="tokens learn through the text encoder"):
        training.step(reals, torch.zeros(4, LENGTH, WIDTH))
    alone = Training(SINGLE, models.Models(tiny().unet))
    with pytest.raises(ValueError, match="pictures need the autoencoder"):
        alone.step(reals, ids)
    cached = joined(torch.zeros(4, 8, 4, 4), torch.ones(4, 1, 4, 4))
    with pytest.raises(ValueError, match="ids need the text encoder"):
        alone.step(cached, ids)


def test_models_that_cannot_be_trained() -> None:
    networks = tiny()
    for bad in ([12], [-1], [3, 3]):
        with pytest.raises(ValueError, match="new tokens are different ones"):
            Training(SINGLE, networks, bad)
    with pytest.raises(ValueError, match="which the models lack"):
        Training(SINGLE, models.Models(networks.unet), [3])
    with pytest.raises(ValueError, match="nothing to train by 'tokens'"):
        Training(TEXTUAL_INVERSION, networks)
    with pytest.raises(ValueError, match=r"torch\.float16: weights are trained in float32"):
        Training(SINGLE, models.Models(tiny().unet.half()))


def test_models_of_a_pipeline() -> None:
    networks = tiny()
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
    parts = {"unet": networks.unet, "text_encoder": networks.text_encoder, "vae": networks.vae}
    found = models.of_pipeline(SimpleNamespace(**parts, scheduler=scheduler))
    assert found.parts() == networks.parts()
    assert found.prediction == "v_prediction"
    assert found.scaling_factor == networks.vae.config.scaling_factor == models.SD_SCALING
    assert torch.equal(found.abar, scheduler.alphas_cumprod)
    with pytest.raises(ValueError, match="no table alphas_cumprod: give the pipeline a DDIMScheduler"):
        models.of_pipeline(SimpleNamespace(**parts, scheduler=SimpleNamespace()))
    second = models.of_pipeline(SimpleNamespace(**parts, scheduler=scheduler, text_encoder_2=networks.text_encoder))
    assert list(second.parts()) == ["unet", "text_encoder", "text_encoder_2", "vae"]
    parts["text_encoder"] = None
    with pytest.raises(ValueError, match="SDXL's refiner"):
        models.of_pipeline(SimpleNamespace(**parts, scheduler=scheduler, text_encoder_2=networks.text_encoder))


def test_latents_of_a_posterior() -> None:
    networks = tiny()
    pictures = torch.rand(2, 3, 8, 8, generator=seeded(0)) * 2 - 1
    moments = models.moments_of(networks.vae, pictures)
    posterior = networks.vae.encode(pictures).latent_dist
    noise = torch.randn(2, 4, 4, 4, generator=seeded(1))
    wanted = (posterior.mean + posterior.std * noise) * 0.18215
    assert torch.allclose(models.latents_of(moments, noise), wanted, atol=1e-6)
