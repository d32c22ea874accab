"""Custom Diffusion's hot parts, ours and the published operations: a training step, the merge and the compression.

The published code took 0.39 CPU seconds a step on one thread in networks of Stable Diffusion's topology of which the
U-Net has 8.6 million weights (128 px, two pictures of the concept and two of its class), where a product of float32
matrices ran at 176 GFLOP/s. Forms are timed in alternation, in one process, and must give the same losses and weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from gengauge.benchmarks.training.concept_batches import Captioned, Concept, ConceptBatches, Intake
from gengauge.reference.custom_diffusion.compress import compress, reconstruct
from gengauge.reference.custom_diffusion.losses import noised
from gengauge.reference.custom_diffusion.merge import merge
from gengauge.reference.custom_diffusion.models import SD_SCALING, Models
from gengauge.reference.custom_diffusion.tokens import add_rows, table
from gengauge.reference.custom_diffusion.training import Draws, Recipe, Training

pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN = "<new1>"
ROUNDS, STEPS = 13, 5  # steps of a round; chance decides how many pictures of a step must be encoded
PUBLISHED_STEP = 0.39 * 176  # s, times the GFLOP/s of float32 matrices on the machine of this time
# Class pictures to each that a training draws: it has 200, and 250 steps of two.
CLASS_SHARE = 200 / 500
SD_SHAPES = [(side, 768) for side, number in ((320, 10), (640, 10), (1280, 12)) for _ in range(number)]


# ----------------------------------------------------------------------------------------------------------------------
# Networks and pictures


@dataclass(frozen=True)
class Size:
    """Networks and pictures of one size; `vae`, `unet` and `text` are arguments of diffusers' and transformers'."""

    side: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, int]


def vae_of(*channels: int, **others: int) -> dict[str, Any]:
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
    }
    return {"block_out_channels": channels, "latent_channels": 4, **blocks, **others}


TINY = Size(
    80,
    {
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    vae_of(4, 4, 4, 4, layers_per_block=1, norm_num_groups=2),
    {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
)
# The networks in which the published code was timed.
MIDDLE = Size(
    128,
    {
        "block_out_channels": (32, 64, 128, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    },
    vae_of(32, 64, 64, 64, layers_per_block=2, norm_num_groups=8),
    {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4},
)
WEIGHTS = {"unet": 8_605_284, "vae": 1_732_679, "text_encoder": 445_120}  # of MIDDLE, before it has a new token
# Stable Diffusion 1.
LARGE = Size(
    512,
    {"cross_attention_dim": 768, "attention_head_dim": 8},
    vae_of(128, 256, 512, 512, layers_per_block=2),
    {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
)


def build(size: Size, device: str = "cpu") -> Models:
    """Networks with random weights; the text encoder's table ends with the new token's row."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    end = size.text["vocab_size"] - 1
    with torch.device(device):
        text = CLIPTextModel(CLIPTextConfig(**size.text, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end))
        unet, vae = UNet2DConditionModel(sample_size=size.side // 8, **size.unet), AutoencoderKL(**size.vae)
    models = Models(unet, text, vae)
    if size is MIDDLE:
        numbers = {name: sum(p.numel() for p in network.parameters()) for name, network in models.parts().items()}
        assert numbers == WEIGHTS
    add_rows(text, [0])
    return models


class Words:
    """A tokenizer: each new word has the next id, the new token the last."""

    model_max_length = 77

    def __init__(self, size: Size) -> None:
        self.begin, self.end, self.new = (size.text["vocab_size"] + offset for offset in (-2, -1, 0))
        self.known = {TOKEN: self.new}

    def __call__(self, captions: list[str], max_length: int, **settings: object) -> Words:
        self.input_ids = torch.full((len(captions), max_length), self.end)
        for row, caption in zip(self.input_ids, captions, strict=True):
            ids = [self.begin, *(self.known.setdefault(word, len(self.known)) for word in caption.split())]
            row[: len(ids)] = torch.tensor(ids)
        return self


def write_concept(folder: Path, side: int, own: int, others: int) -> Concept:
    """Square pictures of coarse noise, as pictures that a model made are square."""
    random = np.random.default_rng(0)

    def written(name: str, caption: str) -> Captioned:
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / name)
        return Captioned(folder / name, caption)

    pictures = [written(f"{i}.png", f"photo of a {TOKEN} cat") for i in range(own)]
    of_class = [written(f"class{i}.png", "photo of a cat") for i in range(others)]
    return Concept(tuple(pictures), TOKEN, tuple(of_class))


# ----------------------------------------------------------------------------------------------------------------------
# The published operations


class EachAnew(ConceptBatches):
    """The same batches, with no posterior kept: the autoencoder sees all pictures of each step, together."""

    def _made(self, *arguments: Any) -> Any:
        return replace(super()._made(*arguments), key=None)


class PublishedAttention:
    """Scores of all places at once; the first token's gradient is masked by products. For self-attention as well."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: Any
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        if encoder_hidden_states is not None:
            learns = torch.ones_like(key)
            learns[:, :1] = 0
            key, value = (learns * x + (1 - learns) * x.detach() for x in (key, value))
        query, key, value = (attn.head_to_batch_dim(x) for x in (query, key, value))
        shares = attn.get_attention_scores(query, key, None)
        out: Tensor = attn.to_out[0](attn.batch_to_head_dim(torch.bmm(shares, value)))
        return out


class PublishedTraining:
    """The published diffusers script's step: the whole token table learns, and other rows' gradients are zeroed."""

    def __init__(self, models: Models, token: int, lr: float) -> None:
        self.models, self.token = models, token
        for network in models.parts().values():
            network.requires_grad_(False)
        models.unet.set_attn_processor(PublishedAttention())
        own = dict(models.unet.named_parameters())
        self.table = table(models.text_encoder).get_parameter("weight")
        self.parameters = [own[name] for name in own if "attn2.to_k" in name or "attn2.to_v" in name] + [self.table]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.parameters, lr, weight_decay=0.01)

    def step(self, latents: Tensor, mask: Tensor, ids: Tensor, draws: Draws) -> Tensor:
        assert draws.noise is not None
        assert draws.times is not None
        x_t = noised(latents, draws.noise, draws.times, self.models.abar)
        predicted = self.models.unet(x_t, draws.times, self.models.text_encoder(ids)[0]).sample
        (own, others), (noise, noise_of_class) = predicted.chunk(2), draws.noise.chunk(2)
        mask = mask.chunk(2)[0]
        instance = (((own - noise) ** 2) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
        loss = instance.mean() + nn.functional.mse_loss(others, noise_of_class)
        loss.backward()
        assert self.table.grad is not None
        self.table.grad[torch.arange(len(self.table)) != self.token] = 0
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.detach()


def published_merge(w0: Tensor, tuned: list[Tensor], c_reg: Tensor, c_targets: list[Tensor]) -> Tensor:
    """One matrix (o, d) by the closed form in float32, row by row of the targets; nothing is kept for the next one."""
    targets = torch.cat(c_targets)
    values = torch.cat([c @ w.T for c, w in zip(c_targets, tuned, strict=True)])
    factors, pivots = torch.linalg.lu_factor(c_reg.T @ c_reg)
    rows = [torch.linalg.lu_solve(factors, pivots, row.unsqueeze(1)).T for row in targets]
    d = torch.cat(rows)
    return w0 + (values.T - w0 @ targets.T) @ torch.inverse(d @ targets.T) @ d


def published_compress(w0: Tensor, tuned: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """One matrix in float32: components while the singular values' sum is not above the ratio."""
    u, s, vh = torch.linalg.svd(tuned - w0, full_matrices=False)
    kept = int((s.cumsum(0) / s.sum() > ratio).nonzero()[0])
    return u[:, :kept] @ s[:kept].diag(), vh[:kept]


# ----------------------------------------------------------------------------------------------------------------------
# Comparison


def compare(benchmark: BenchmarkFixture, calls: Mapping[str, Callable[[], Any]], rounds: int, per: int = 1) -> float:
    """CPU seconds of calls by turns; how many times more the second takes than the first, of all rounds together.

    `per` is how many equal parts a call has, whose seconds are told.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}

    def alternate() -> None:
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append((time.process_time() - start) / per)

    benchmark.pedantic(alternate, rounds=rounds)
    ours, other = seconds.values()
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    low, middle, high = torch.tensor(ratios).quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    total = sum(other) / sum(ours)
    benchmark.extra_info |= {"seconds": seconds, "ratios": ratios}
    means = ", ".join(f"{name} {sum(each) / len(each):.4f} s" for name, each in seconds.items())
    print(f"\n{benchmark.name}: {means}; {total:.2f} times, by round {middle:.2f} [{low:.2f}, {high:.2f}]")
    return total


def gigaflops(side: int = 1024, rounds: int = 10) -> float:
    """The rate of a product of float32 matrices, for comparison with times of other machines."""
    a, b = torch.randn(2, side, side)
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - start)
    return 2 * side**3 / median(seconds) / 1e9


def drawn(step: int, pictures: int, side: int) -> Draws:
    generator = torch.Generator().manual_seed(step)
    vae_noise, noise = torch.randn(2, pictures, 4, side // 8, side // 8, generator=generator)
    return Draws(vae_noise, noise, torch.randint(0, 1000, (pictures,), generator=generator))


# ----------------------------------------------------------------------------------------------------------------------


def test_step(benchmark: BenchmarkFixture, full_size: bool, tmp_path: Path) -> None:
    """Steps with all that they need: pictures read, resized and encoded, captions, both passes, AdamW.

    Class pictures are new as often as in a training of 250 steps, whose 200 are encoded once.
    """
    size = MIDDLE if full_size else TINY
    recipe, words = Recipe(batch=2, lr=4e-5), Words(size)
    rounds = ROUNDS if full_size else 1
    others = round(CLASS_SHARE * rounds * STEPS * recipe.batch)
    concept = write_concept(tmp_path, size.side, min(8, others), others)
    models = build(size)
    copies = {"ours": models, "published": deepcopy(models)}

    def batches(name: str) -> Iterator[tuple[Tensor, Tensor]]:
        kind = ConceptBatches if name == "ours" else EachAnew
        made = kind([concept], Intake(size.side), recipe, copies[name], words, {TOKEN: words.new}, seed=0)
        return made.start(0, "cpu")

    sources = {name: batches(name) for name in copies}  # before the trainings, since it freezes all weights
    training = Training(recipe, replace(models, vae=None), [words.new])
    copies["published"].vae.to(memory_format=torch.contiguous_format)  # whatever layout our batches chose
    published = PublishedTraining(copies["published"], words.new, recipe.lr)
    numbers = {name: count() for name in copies}
    drawing = partial(drawn, pictures=2 * recipe.batch, side=size.side)

    def ours() -> Tensor:
        return training.step(*next(sources["ours"]), draws=drawing(next(numbers["ours"])))["loss"]

    def others_step() -> Tensor:
        batch, ids = next(sources["published"])
        draws = drawing(next(numbers["published"]))
        (mean, logvar), mask = batch[:, :-1].chunk(2, 1), batch[:, -1:]
        assert draws.vae_noise is not None
        latents = (mean + (0.5 * logvar).exp() * draws.vae_noise) * SD_SCALING
        return published.step(latents, mask, ids, draws)

    forms = {"ours": ours, "published": others_step}
    for _ in range(2):
        first, second = (form() for form in forms.values())
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    for own, other in zip(training.parameters, published.parameters, strict=True):
        # Where a gradient is about 0 Adam's step, of the rate's size, follows its rounding.
        assert (own - other).abs().max() <= 1e-5
        assert (own - other).abs().mean() <= 1e-7

    def several(form: Callable[[], Tensor]) -> list[Tensor]:
        return [form() for _ in range(STEPS if full_size else 1)]

    calls = {name: partial(several, form) for name, form in forms.items()}
    ratio = compare(benchmark, calls, rounds, per=STEPS)
    for source in sources.values():
        source.close()  # type: ignore[attr-defined]
    if full_size:
        rate, seconds = gigaflops(), benchmark.extra_info["seconds"]["ours"]
        benchmark.extra_info["gflops"] = rate
        faster = PUBLISHED_STEP / (sum(seconds) / len(seconds) * rate)
        print(f"float32 matrices at {rate:.0f} GFLOP/s: {faster:.2f} times as fast as the published code's step")
        assert faster >= 1.3
        assert ratio >= 1.3


def test_merge(benchmark: BenchmarkFixture, full_size: bool) -> None:
    """Two concepts in all 32 key and value matrices of Stable Diffusion, in float64; 200 captions of 12 rows."""
    shapes, rows = (SD_SHAPES, 2400) if full_size else ([(6, 16)] * 2, 60)
    random = torch.Generator().manual_seed(0)
    d = shapes[0][1]
    spread = torch.logspace(0, -1.5, d)  # text's features are longer in some directions than in others
    c_reg = torch.randn(rows, d, generator=random) * spread
    c_targets = [torch.randn(number, d, generator=random) * spread for number in (6, 4)]
    names = [f"{i}.attn2.to_k.weight" for i in range(len(shapes))]
    base = {name: torch.randn(shape, generator=random) / d**0.5 for name, shape in zip(names, shapes, strict=True)}
    tuned = [
        {name: w0 + 0.01 * torch.randn(w0.shape, generator=random) / d**0.5 for name, w0 in base.items()}
        for _ in c_targets
    ]

    def ours() -> dict[str, Tensor]:
        return merge(base, tuned, c_reg, c_targets)[0]

    def published() -> dict[str, Tensor]:
        return {name: published_merge(base[name], [each[name] for each in tuned], c_reg, c_targets) for name in names}

    for (name, own), other in zip(ours().items(), published().values(), strict=True):
        moved = (own - base[name]).abs().max()
        assert (own - other).abs().max() <= 1e-2 * moved  # float32 and an inverse of A
    ratio = compare(benchmark, {"ours": ours, "published": published}, 5 if full_size else 1)
    if full_size:
        assert median(benchmark.extra_info["seconds"]["ours"]) <= 5
        assert ratio >= 1


def test_compression(benchmark: BenchmarkFixture, full_size: bool) -> None:
    """The changes of all matrices as factors, by the published rule: ours in float64."""
    shapes = SD_SHAPES if full_size else [(6, 16)] * 2
    random = torch.Generator().manual_seed(0)
    base = {f"{i}": torch.randn(shape, generator=random) / shape[1] ** 0.5 for i, shape in enumerate(shapes)}
    tuned = {name: w0 + 0.01 * torch.randn(w0.shape, generator=random) for name, w0 in base.items()}

    def ours() -> dict[str, tuple[Tensor, Tensor]]:
        return compress(base, tuned, ratio=0.6)

    def published() -> dict[str, tuple[Tensor, Tensor]]:
        return {name: published_compress(base[name], tuned[name], 0.6) for name in base}

    found, other = ours(), published()
    again = reconstruct(base, found)
    for name, (u, v) in other.items():
        assert u.shape == found[name][0].shape
        torch.testing.assert_close(base[name] + u @ v, again[name], rtol=0, atol=1e-5)
    compare(benchmark, {"ours": ours, "published": published}, 3 if full_size else 1)


def test_training_of_stable_diffusion(benchmark: BenchmarkFixture, full_size: bool, tmp_path: Path) -> None:
    """A training of 250 steps at 512 px, four pictures of the concept and four of its class, in bfloat16 on a GPU."""
    if full_size and not torch.cuda.is_available():
        pytest.skip("250 steps of Stable Diffusion take hours without a GPU")
    size, steps, device = (LARGE, 250, "cuda") if full_size else (TINY, 2, "cpu")
    words = Words(size)
    recipe = Recipe(iterations=steps, bfloat16=full_size)
    concept = write_concept(tmp_path, size.side, 8 if full_size else 2, 200 if full_size else 2)
    models = build(size, device)
    batches = ConceptBatches(
        [concept], Intake(size.side), recipe, models, words, {TOKEN: words.new}, seed=0, device=device
    )
    training = Training(recipe, replace(models, vae=None), [words.new], device)
    source = batches.start(0, device)
    generator = torch.Generator(device).manual_seed(0)

    seconds: list[float] = []

    def train() -> Tensor:
        start = time.perf_counter()
        for _ in range(steps):
            loss = training.step(*next(source), generator)["loss"]
        found = loss.cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
        return found

    loss = benchmark.pedantic(train, rounds=1)
    source.close()  # type: ignore[attr-defined]
    assert bool(torch.isfinite(loss))
    if full_size:
        print(f"\n{benchmark.name}: {seconds[0]:.1f} s for {steps} steps on {torch.cuda.get_device_name()}")
