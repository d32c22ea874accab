"""SDEdit in latents: strength and t0 as diffusers counts them, its scheduler's own steps, masks, types, refusals.

Most tests have the networks alone, tiny and random; others a whole pipeline of diffusers, saved to disk and loaded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from gengauge.reference.sdedit.editing import PAPER, PUBLISHED, Behaviour, Step, edit, from_noise
from gengauge.reference.sdedit.latent import (
    decode,
    downsampling,
    edit_latent,
    encode,
    guided_network,
    img2img_levels,
    img2img_run,
    latent_mask,
    least_strength,
    noise_network,
    round_trip,
    scheduler_levels,
    strength_at,
    t0_at,
)
from gengauge.reference.sdedit.schedule import DDPM, posterior_variance

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDTH = 16  # of the text


class Parts:
    """A pipeline of networks alone; a prompt's text is random numbers seeded by its characters."""

    def __init__(self, unet: Any, vae: Any, scheduler: Any) -> None:
        self.unet, self.vae, self.scheduler = unet, vae, scheduler

    def encode_prompt(
        self,
        prompt: list[str],
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        def text(prompts: list[str]) -> Tensor:
            rows = [torch.randn(8, WIDTH, generator=seeded(sum(each.encode()))) for each in prompts]
            return torch.stack(rows).to(device, self.unet.dtype)

        return text(prompt), text(negative_prompt) if negative_prompt is not None else None


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def networks(in_channels: int = 4, **settings: Any) -> tuple[Any, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=4,
            in_channels=in_channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
            **settings,
        )
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8,) * 4,
            norm_num_groups=4,
            sample_size=32,
        )
    return unet.eval(), vae.eval()


def ddpm(**settings: Any) -> Any:
    return diffusers.DDPMScheduler(**{**SD, "clip_sample": False, **settings})


@pytest.fixture
def parts() -> Parts:
    return Parts(*networks(), ddpm())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny img2img pipeline on disk, as published ones lie there."""
    folder = tmp_path_factory.mktemp("pipeline")
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=WIDTH,
                intermediate_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8,
                bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1,
                pad_token_id=len(vocabulary) - 1,
            )
        )
    unet, vae = networks()
    diffusers.StableDiffusionImg2ImgPipeline(
        vae, encoder, tokenizer, unet, ddpm(), None, None, requires_safety_checker=False
    ).save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture
def whole(folder: Path) -> Any:
    pipeline = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(count: int = 2, size: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(seed))


def noises(count: int, number: int, size: int = 4, seed: int = 2) -> list[Tensor]:
    return list(torch.randn(number, count, 4, size, size, generator=seeded(seed)))


# -- strength and t0 ---------------------------------------------------------------------------------------------------

SCHEDULERS = {
    "ddpm": ("DDPMScheduler", {}),
    "ddpm-linspace": ("DDPMScheduler", {"timestep_spacing": "linspace"}),
    "ddpm-trailing": ("DDPMScheduler", {"timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"steps_offset": 1}),
    "ddim-trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "pndm": ("PNDMScheduler", {"steps_offset": 1, "skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler-karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "dpm-trailing": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
}


def scheduler(name: str) -> Any:
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind)(**SD, **settings)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_and_start_are_those_of_the_pipelines(name: str, whole: Any) -> None:
    inpainting = diffusers.StableDiffusionInpaintPipeline(**whole.components)
    for pipeline in (whole, inpainting):
        pipeline.scheduler = scheduler(name)
        for steps in (7, 20, 50, 100):
            for strength in (0.15, 0.29, 0.5, 0.58, 0.75, 0.999, 1.0):
                before = dict(vars(pipeline.scheduler))
                run = img2img_run(pipeline.scheduler, strength, steps)
                assert all(vars(pipeline.scheduler)[key] is value for key, value in before.items())
                pipeline.scheduler.set_timesteps(steps)
                timesteps, count = pipeline.get_timesteps(steps, strength, "cpu")
                assert run.steps == count
                assert run.timesteps == tuple(timesteps.tolist())
                assert run.start == timesteps[0]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_level_has_the_noise_that_the_scheduler_adds(name: str) -> None:
    theirs = scheduler(name)
    levels = img2img_levels(theirs, 0.6, 20)
    assert (levels.abar.diff() < 0).all()
    assert len(levels) in (11, 12, 13)  # those that are asked twice are there once
    theirs.set_timesteps(20)
    start = torch.tensor([img2img_run(theirs, 0.6, 20).start], dtype=theirs.timesteps.dtype)
    signal, noise = (
        theirs.add_noise(*(torch.full((1,), value) for value in pair), start) for pair in ((1.0, 0.0), (0.0, 1.0))
    )
    ratio = (noise / signal).double().square()  # that of Euler's is over a signal of 1
    assert torch.allclose(1 / (1 + ratio), levels.abar[-1:], rtol=1e-4)


def test_what_is_known_of_a_strength_of_a_half() -> None:
    plain, offset = ddpm(), ddpm(steps_offset=1)
    assert (img2img_run(plain, 0.5, 50).steps, img2img_run(plain, 0.5, 50).start) == (25, 480)
    assert img2img_run(offset, 0.5, 50).start == 481
    assert img2img_run(plain, 0.5, 1000).start == 499  # as t = 500 of the published code
    assert img2img_run(ddpm(timestep_spacing="trailing"), 0.5, 50).start == 499
    pndm = img2img_run(scheduler("pndm"), 0.5, 50)
    assert (pndm.steps, len(pndm.timesteps), pndm.start) == (25, 26, 501)
    assert img2img_run(plain, 0.58, 50).steps == 28  # 50 * 0.58 is 28.999...


def test_the_least_strength_runs_one_step() -> None:
    plain = ddpm()
    for steps in (1, 2, 3, 7, 49, 50, 93, 98, 1000):
        least = least_strength(steps)
        assert least == pytest.approx(1 / steps)
        assert img2img_run(plain, least, steps).steps == 1
        with pytest.raises(ValueError, match="take at least"):
            img2img_run(plain, math.nextafter(least, 0), steps)
    for strength in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"strength"):
            img2img_run(plain, strength, 50)
    with pytest.raises(ValueError, match="at least one"):
        img2img_run(plain, 0.5, 0)


@pytest.mark.parametrize(
    ("t0", "index"), [(0.1, 98), (0.2, 259), (0.3, 418), (0.4, 567), (0.45, 638), (0.5, 707), (0.6, 839)]
)
def test_the_strength_with_the_noise_of_the_papers_t0(t0: float, index: int) -> None:
    strength = strength_at(t0, ddpm())
    assert strength * 1000 == pytest.approx(index, abs=1.5)
    assert t0_at(strength, ddpm()) == pytest.approx(t0, abs=1e-9)
    below, above = (scheduler_levels(ddpm(), time).abar[-1] for time in (strength - 0.001, strength + 0.001))
    assert above < DDPM.abar64[round(1000 * t0) - 1] < below


@pytest.mark.parametrize("name", ["ddpm", "ddim", "ddpm-trailing", "euler", "pndm"])
@pytest.mark.parametrize("t0", [0.2, 0.5, 0.7])
def test_the_strength_of_a_run_of_few_steps_is_the_nearest(name: str, t0: float) -> None:
    theirs = scheduler(name)
    strength = strength_at(t0, theirs, 50)
    count = img2img_run(theirs, strength, 50).steps
    assert strength == pytest.approx(count / 50)
    got = t0_at(strength, theirs, 50)
    for other in {max(count - 1, 1), min(count + 1, 50)}:
        assert abs(got - t0) <= abs(t0_at(min(other + 0.5, 50) / 50, theirs, 50) - t0) + 2e-3
    assert got == pytest.approx(t0, abs=0.01)


def test_noise_that_a_schedule_never_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more noise than the scheduler ever adds; the most is that of t0 = 0\.7"):
        strength_at(0.9, ddpm())
    noisier = ddpm(rescale_betas_zero_snr=True)
    assert strength_at(1.0, noisier) <= 1
    with pytest.raises(ValueError, match="more noise than the other"):
        t0_at(1.0, noisier)
    with pytest.raises(ValueError, match="t0 is 0"):
        strength_at(0, ddpm())
    with pytest.raises(ValueError, match=r"the strength is 1\.5"):
        t0_at(1.5, ddpm())


# -- levels and steps --------------------------------------------------------------------------------------------------


def exact(theirs: Any) -> Any:
    """A scheduler with its tables in float64, so that its own steps are no rounder than ours."""
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    return theirs


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("steps", "strength"), [(1000, 0.5), (1000, 1.0), (50, 0.5), (7, 1.0)])
def test_a_step_is_ddpms(spacing: str, prediction: str, steps: int, strength: float) -> None:
    theirs = exact(ddpm(timestep_spacing=spacing, prediction_type=prediction))
    levels = img2img_levels(theirs, strength, steps)
    x, told = torch.randn(2, 2, 4, 4, 4, generator=seeded(), dtype=torch.float64)

    class Unet(torch.nn.Module):
        dtype = torch.float64

        def forward(self, latents: Tensor, t: Tensor, return_dict: bool) -> tuple[Tensor]:
            return (told,)

    reverse = from_noise(guided_network(Unet(), theirs, {}), levels)
    theirs.set_timesteps(steps)
    for i in {0, 1, len(levels) // 2, len(levels) - 1}:
        t = int(levels.times[i])
        mean, deviation = reverse(x, i)
        z = torch.randn(x.shape, generator=seeded(3), dtype=torch.float64)
        want = theirs.step(told, t, x, generator=seeded(3)).prev_sample
        # Where nothing is left to draw diffusers draws a hundred-millionth of it, but at timestep 0.
        got = mean + deviation * z if t else mean
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_step_is_ddpms_in_its_own_float32(variance: str) -> None:
    theirs = ddpm(variance_type=f"fixed_{variance}")
    levels = scheduler_levels(theirs, 0.5)
    assert levels.times.tolist() == list(range(500))
    x, eps = torch.randn(2, 2, 4, 4, 4, generator=seeded())
    reverse = from_noise(lambda x, t: eps, levels, Behaviour(variance=variance))  # type: ignore[arg-type]
    for i in range(500):
        mean, deviation = reverse(x, i)
        z = torch.randn(x.shape, generator=seeded(3))
        want = theirs.step(eps, i, x, generator=seeded(3)).prev_sample
        # The scheduler forms a step from rounded shares, between which little is left at the first levels.
        atol = 5e-6 if i > 20 else 5e-5
        assert torch.allclose(mean + deviation * z if i else mean, want, rtol=0, atol=atol)


def test_levels_up_to_a_time() -> None:
    table = ddpm().alphas_cumprod.double()
    levels = scheduler_levels(ddpm(), 0.5, 20)
    assert len(levels) == 20
    assert (levels.times[0], levels.times[-1]) == (0, 499)
    assert torch.equal(levels.abar, table[levels.times.long()])
    assert torch.allclose((1 - levels.betas).cumprod(0), levels.abar, rtol=1e-12)
    assert torch.equal(levels.small, posterior_variance(levels.betas, levels.abar))
    trained = np.linspace(1e-4, 0.02, 100)
    own = scheduler_levels(diffusers.DDPMScheduler(num_train_timesteps=100, trained_betas=trained))
    assert torch.allclose(own.betas, torch.from_numpy(trained), rtol=2e-3)  # from ratios of float32
    assert torch.allclose(own.abar, (1 - torch.from_numpy(trained)).cumprod(0), rtol=1e-5)


def test_levels_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"t0 is 1\.2"):
        scheduler_levels(ddpm(), 1.2)
    with pytest.raises(ValueError, match="below the first"):
        scheduler_levels(ddpm(), 1e-4)
    with pytest.raises(ValueError, match="there are 10 steps"):
        scheduler_levels(ddpm(), 0.01, 11)
    with pytest.raises(ValueError, match="beyond the schedule"):
        img2img_levels(ddpm(steps_offset=1), 1.0, 1000)
    assert img2img_levels(ddpm(steps_offset=1), 0.5, 1000).times[-1] == 500
    with pytest.raises(ValueError, match="terminal SNR of 0"):
        scheduler_levels(ddpm(rescale_betas_zero_snr=True))
    assert len(scheduler_levels(ddpm(rescale_betas_zero_snr=True), 0.999)) == 999
    with pytest.raises(ValueError, match="no alphas_cumprod"):
        scheduler_levels(diffusers.FlowMatchEulerDiscreteScheduler())


# -- whole pipelines of diffusers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guidance_scale", "negative"), [(1.0, None), (3.0, None), (3.0, ["dog", "b"])])
@pytest.mark.parametrize("offset", [0, 1])
def test_the_result_is_that_of_diffusers_img2img_with_ddpm(
    whole: Any, guidance_scale: float, negative: list[str] | None, offset: int
) -> None:
    whole.scheduler = ddpm(steps_offset=offset)
    latents = encode(whole, pictures())
    told: list[int] = []

    def note(pipeline: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        told.append(int(timestep))
        return values

    want = whole(
        ["cat", "red"],
        latents,
        strength=0.6,
        num_inference_steps=20,
        guidance_scale=guidance_scale,
        negative_prompt=negative,
        generator=seeded(4),
        output_type="latent",
        callback_on_step_end=note,
    ).images
    assert tuple(told) == img2img_run(whole.scheduler, 0.6, 20).timesteps
    levels = img2img_levels(whole.scheduler, 0.6, 20)
    network = noise_network(whole, ["cat", "red"], guidance_scale=guidance_scale, negative_prompt=negative)
    got = edit(from_noise(network, levels), latents, levels, generator=seeded(4))
    assert torch.allclose(got, want, rtol=0, atol=2e-4)
    assert (got - latents).abs().mean() > 0.1


def test_a_pipeline_from_disk_edits(whole: Any) -> None:
    def run(prompt: str) -> Tensor:
        return edit_latent(whole, pictures(), prompt, strength=0.5, steps=8, noises=noises(2, 5))

    one = run("a cat")
    assert one.shape == pictures().shape
    assert (one - run("a dog")).abs().max() > 1e-5
    whole.to(torch.bfloat16)
    coarse = run("a cat")
    assert coarse.dtype == torch.float32
    assert 0 < (one - coarse).abs().mean() < 0.01


def test_a_pipeline_starts_one_later_than_its_scheduler_alone(whole: Any) -> None:
    """It sets the offset of the scheduler that it is made with."""
    own, alone = ddpm(), ddpm()
    diffusers.StableDiffusionImg2ImgPipeline(**{**whole.components, "scheduler": own})
    assert img2img_run(alone, 0.5, 50).start == 480
    assert img2img_run(own, 0.5, 50).start == 481


# -- editing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [PUBLISHED, PAPER])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_edit_on_the_latents(parts: Parts, behaviour: Behaviour, repeats: int, masked: bool) -> None:
    guide, drawn, steps = pictures(), noises(2, 7 * repeats), list[Step]()
    editable = torch.zeros(32, 32, dtype=torch.bool)
    editable[:9, 8:20] = True  # two rows of latents, and two columns
    got = edit_latent(
        parts,
        guide,
        ["cat", "dog"],
        t0=0.4,
        steps=6,
        guidance_scale=2.0,
        editable=editable if masked else None,
        repeats=repeats,
        behaviour=behaviour,
        noises=drawn,
        callback=steps.append,
    )
    levels = scheduler_levels(parts.scheduler, 0.4, 6)
    network = noise_network(parts, ["cat", "dog"], guidance_scale=2.0)
    latents = encode(parts, guide)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, 1:3] = True
    want = edit(
        from_noise(network, levels, behaviour),
        latents,
        levels,
        mask if masked else None,
        repeats=repeats,
        behaviour=behaviour,
        noises=drawn,
    )
    if masked:
        assert (want - latents)[..., ~mask].abs().min() > 0
        want = torch.where(mask, want, latents)  # without the noise of the first level
    assert torch.equal(got, decode(parts, want))
    assert [step.number for step in steps] == list(range(1, 6 * repeats + 1))
    assert steps[0].x.shape == latents.shape
    assert steps[-1].total == 6 * repeats


def test_kept_pixels(parts: Parts) -> None:
    guide = pictures()
    editable = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    editable[1, :, 10:20, 10:20] = True
    settings: dict[str, Any] = {"strength": 0.8, "steps": 10, "editable": editable, "noises": noises(2, 9)}
    plain = edit_latent(parts, guide, **settings)
    assert torch.equal(plain[0], round_trip(parts, guide)[0])  # nothing was editable there
    assert not torch.equal(plain[1], round_trip(parts, guide)[1])
    kept = edit_latent(parts, guide, keep_pixels=True, **settings)
    assert torch.equal(kept, torch.where(editable, plain, guide))
    everywhere = edit_latent(parts, guide, **{**settings, "editable": torch.ones(32, 32, dtype=torch.bool)})
    assert torch.equal(everywhere, edit_latent(parts, guide, keep_pixels=True, **{**settings, "editable": None}))


def test_pictures_do_not_meet(parts: Parts) -> None:
    guide, drawn = pictures(3), noises(3, 6)
    editable = torch.rand(3, 1, 32, 32, generator=seeded(9)) < 0.01
    prompts = ["cat", "dog", ""]
    together = edit_latent(parts, guide, prompts, strength=0.5, steps=10, editable=editable, noises=drawn)
    for i, prompt in enumerate(prompts):
        one = slice(i, i + 1)
        alone = edit_latent(
            parts,
            guide[one],
            prompt,
            strength=0.5,
            steps=10,
            editable=editable[one],
            noises=[noise[one] for noise in drawn],
        )
        assert torch.allclose(together[one], alone, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_the_bits(parts: Parts, dtype: torch.dtype) -> None:
    guide = pictures()
    want = edit_latent(parts, guide, "cat", t0=0.5, steps=5, noises=noises(2, 6))
    parts.unet.to(dtype), parts.vae.to(dtype)
    states: list[Step] = []
    got = edit_latent(parts, guide.to(dtype), "cat", t0=0.5, steps=5, noises=noises(2, 6), callback=states.append)
    assert got.dtype == torch.float32
    assert all(step.x.dtype == torch.float32 for step in states)
    assert 0 < (got - want).abs().max() < 0.05
    parts.vae.float()  # what overflows may be kept apart
    assert edit_latent(parts, guide, "cat", t0=0.5, steps=5).isfinite().all()


def test_the_generator_decides(parts: Parts) -> None:
    def run(seed: int) -> Tensor:
        return edit_latent(parts, pictures(), "cat", t0=0.3, steps=3, generator=seeded(seed))

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))


def test_more_noise_leaves_less_of_the_guide(parts: Parts) -> None:
    guide = pictures()
    latents = encode(parts, guide)
    far = []
    for t0 in (0.01, 0.1, 0.4, 0.9):
        states: list[Step] = []
        edit_latent(parts, guide, t0=t0, steps=5, generator=seeded(), callback=states.append)
        far.append((states[-1].x - latents).norm().item())
    assert far == sorted(far)


def test_guidance(parts: Parts) -> None:
    x, t = torch.randn(2, 4, 4, 4, generator=seeded()), torch.full((2,), 300.0)
    towards, away, nothing = (noise_network(parts, prompt, guidance_scale=1.0)(x, t) for prompt in ("cat", "dog", ""))
    assert torch.allclose(noise_network(parts, "cat")(x, t), nothing + 7.5 * (towards - nothing), atol=1e-5)
    avoided = noise_network(parts, "cat", guidance_scale=2.0, negative_prompt=["dog", ""])(x, t)
    base = torch.stack([away[0], nothing[1]])
    assert torch.allclose(avoided, base + 2 * (towards - base), atol=1e-5)
    assert noise_network(parts, "cat")(x.double(), t.double()).dtype == torch.float64


def test_predictions_of_another_kind(parts: Parts) -> None:
    x, t = torch.randn(2, 4, 4, 4, generator=seeded()), torch.full((2,), 300.0)
    plain = noise_network(parts, "cat")(x, t)
    abar = parts.scheduler.alphas_cumprod[300]
    for kind, want in (
        ("v_prediction", abar.sqrt() * plain + (1 - abar).sqrt() * x),
        ("sample", (x - abar.sqrt() * plain) / (1 - abar).sqrt()),
    ):
        parts.scheduler = ddpm(prediction_type=kind)
        assert torch.allclose(noise_network(parts, "cat")(x, t), want, atol=1e-5)


def test_a_unet_that_is_told_more_than_text() -> None:
    """As SDXL: pooled text and sizes, nested in one argument."""
    told: list[dict[str, Any]] = []

    class Unet(torch.nn.Module):
        dtype = torch.float32

        def forward(self, latents: Tensor, t: Tensor, return_dict: bool, **given: Any) -> tuple[Tensor]:
            told.append({**given, "t": t})
            return (latents * given["added"]["sizes"].view(-1, 1, 1, 1),)

    network = guided_network(
        Unet(),
        ddpm(),
        {"text": torch.ones(2, 3), "added": {"sizes": torch.tensor([[2.0], [3.0]])}},
        {"text": torch.zeros(1, 3), "added": {"sizes": torch.ones(1, 1)}},
        guidance_scale=2.0,
    )
    x = torch.randn(2, 4, 4, 4, generator=seeded())
    assert torch.allclose(network(x, torch.full((2,), 5.0)), x * torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
    assert told[0]["text"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert told[0]["t"].tolist() == [5.0] * 4
    with pytest.raises(ValueError, match="2 prompts for 3 pictures"):
        network(torch.zeros(3, 4, 4, 4), torch.full((3,), 5.0))


# -- the autoencoder ---------------------------------------------------------------------------------------------------


def test_the_round_trip(parts: Parts) -> None:
    guide = pictures(size=48)
    latents = encode(parts, guide)
    assert latents.shape == (2, 4, 6, 6)
    mean = parts.vae.encode(2 * guide - 1).latent_dist.mean
    assert torch.allclose(latents, 0.18215 * mean, atol=1e-6)
    back = round_trip(parts, guide)
    assert torch.allclose(back, (parts.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)
    assert not back.requires_grad
    assert torch.equal(back, round_trip(parts, guide))  # nothing is drawn
    parts.vae.register_to_config(shift_factor=0.1)
    assert torch.allclose(encode(parts, guide), 0.18215 * (mean - 0.1), atol=1e-6)
    assert torch.allclose(round_trip(parts, guide), back, atol=1e-5)


def test_a_latent_pixel_is_editable_where_any_of_its_pixels_is() -> None:
    editable = torch.rand(3, 1, 40, 24, generator=seeded()) < 0.02
    got = latent_mask(editable)
    assert (got.dtype, got.shape) == (torch.bool, (3, 1, 5, 3))
    assert torch.equal(got, editable.view(3, 1, 5, 8, 3, 8).any(5).any(3))
    assert torch.equal(latent_mask(editable[0, 0]), got[0, 0])
    assert latent_mask(editable, 4).shape == (3, 1, 10, 6)
    with pytest.raises(ValueError, match="must be bool"):
        latent_mask(editable.float())
    with pytest.raises(ValueError, match="multiples of 8"):
        latent_mask(editable[..., 1:, :])


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (torch.rand(2, 3, 32, 36), "multiples of 8"),
        (torch.rand(3, 32, 32), "are .N, 3, H, W."),
        (torch.rand(2, 1, 32, 32), "are .N, 3, H, W."),
        (torch.rand(0, 3, 32, 32), "are .N, 3, H, W."),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "uint8"),
        (2 * torch.rand(2, 3, 32, 32) - 1, "bring them to"),
        (torch.full((2, 3, 32, 32), math.nan), "bring them to"),
    ],
)
def test_guides_that_are_refused(parts: Parts, guide: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit_latent(parts, guide, t0=0.5)
    with pytest.raises(ValueError, match=message):
        round_trip(parts, guide)


@pytest.mark.parametrize(
    "editable",
    [
        torch.ones(32, 32),
        torch.ones(32, 24, dtype=torch.bool),
        torch.ones(4, 4, dtype=torch.bool),
        torch.ones(3, 1, 32, 32, dtype=torch.bool),
        torch.ones(2, 3, 32, 32, dtype=torch.bool),
        torch.ones(2, 32, 32, dtype=torch.bool),
    ],
)
def test_masks_that_are_refused(parts: Parts, editable: Tensor) -> None:
    with pytest.raises(ValueError, match="the mask is"):
        edit_latent(parts, pictures(), t0=0.5, editable=editable)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either t0 or strength"),
        ({"t0": 0.5, "strength": 0.5}, "either t0 or strength"),
        ({"t0": 0.0}, "t0 is 0"),
        ({"t0": 1.1}, "t0 is 1.1"),
        ({"t0": 0.0001}, "take at least 0.001"),
        ({"strength": 0.0}, "strength is 0"),
        ({"strength": 0.01}, "take at least 0.02"),
        ({"strength": 0.5, "steps": 0}, "at least one"),
        ({"t0": 0.5, "steps": 0}, "0 were asked for"),
        ({"t0": 0.5, "guidance_scale": 0.5}, "at least 1"),
        ({"t0": 0.5, "guidance_scale": math.nan}, "at least 1"),
        ({"t0": 0.5, "guidance_scale": 1.0, "negative_prompt": "dog"}, "no effect"),
        ({"t0": 0.5, "prompt": ["cat"] * 3}, "3 prompts for 2 pictures"),
        ({"t0": 0.5, "prompt": []}, "a prompt is text"),
        ({"t0": 0.5, "prompt": [1, 2]}, "a prompt is text"),
        ({"t0": 0.5, "prompt": ["cat"] * 2, "negative_prompt": ["dog"] * 3}, "2 prompts and 3 negative"),
        ({"t0": 0.5, "behaviour": Behaviour(clamp=True)}, "without clamp"),
        ({"t0": 0.5, "repeats": 0}, "0 repeats"),
        ({"t0": 0.5, "noises": []}, "too few"),
    ],
)
def test_settings_that_are_refused(parts: Parts, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit_latent(parts, pictures(), **settings)


def test_pipelines_that_are_refused(parts: Parts) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            edit_latent(parts, pictures(), t0=0.5, steps=2)

    plain = parts.unet
    parts.unet, _ = networks(in_channels=9)
    refused("StableDiffusionInpaintPipeline")
    parts.unet, _ = networks(in_channels=8)
    refused("takes 8 channels")
    parts.unet, _ = networks(time_cond_proj_dim=8)
    refused("guided_network")
    parts.unet = plain
    parts.scheduler.register_to_config(prediction_type="flow")
    refused("predicts 'flow'")
    parts.scheduler = ddpm()
    with torch.no_grad():
        parts.vae.decoder.conv_out.bias.fill_(math.inf)
    refused("keep it in float32")
    assert downsampling(parts.vae) == 8
