"""SDEdit in the latents of Stable Diffusion (Rombach et al. 2022), with the networks of a pipeline of diffusers.

`edit_latent` runs `editing.edit` on the latents. Its noise levels are the pipeline's scheduler's, at times up to t0 of
that schedule or at those that diffusers' img2img and inpainting take at a strength. Where two schedules are compared,
equal means an equal share of signal (abar): t0 = 0.5 of DDPM's schedule is a strength of 0.71 for Stable Diffusion.

A scheduler is any of diffusers' with a table `alphas_cumprod`; it is read, never changed. Nothing here imports
diffusers: a pipeline is what has the parts of `LatentPipeline`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.reference.sdedit.editing import PUBLISHED, Behaviour, Callback, Network, edit, from_noise, paste
from gengauge.reference.sdedit.schedule import DDPM, Levels, VPSchedule, native_steps, posterior_variance

PREDICTIONS = ("epsilon", "v_prediction", "sample")
# What a U-Net is given besides latents and times, by argument's name: tensors of one or N rows, or such mappings.
Conditions = Mapping[str, Any]


class LatentPipeline(Protocol):
    """What is used of diffusers' StableDiffusionPipeline, StableDiffusionImg2ImgPipeline and those like them."""

    unet: Any
    vae: Any
    scheduler: Any

    def encode_prompt(
        self,
        prompt: Any,
        device: Any,
        num_images_per_prompt: Any,
        do_classifier_free_guidance: Any,
        negative_prompt: Any = None,
    ) -> Any:
        """Text for prompts and for negative prompts, (N, L, D) each; the second may be None without guidance."""


# -- strength and t0 ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Img2ImgRun:
    """What diffusers' img2img and inpainting run at a strength.

    `steps` is how many of the asked steps, `timesteps` what the U-Net is told, in order. These are more than the steps
    where a scheduler asks the network twice (Heun, PNDM), and not whole where it spreads them so (Euler).
    """

    steps: int
    timesteps: tuple[float, ...]

    @property
    def start(self) -> float:
        """The timestep whose noise the picture is given first; at strength 1 inpainting starts from noise alone."""
        return self.timesteps[0]


def img2img_run(scheduler: Any, strength: float, steps: int = 50) -> Img2ImgRun:
    """The part of `steps` steps that is run: the last min(int(steps * strength), steps), as the pipelines count.

    The scheduler itself spreads the steps, with its spacing and offset. Take the pipeline's own: those of Stable
    Diffusion set its `steps_offset` to 1 when they are made, so that they start one timestep later. The product is
    cut, not rounded, and cut as a float: 50 * 0.58 gives 28 steps. Raises ValueError for a strength outside (0, 1] or
    so small that nothing would run, and for more steps than the scheduler has.
    """
    least = least_strength(steps)
    if not 0 < strength <= 1:
        raise ValueError(f"the strength is {strength}; it must lie in (0, 1]")
    if strength < least:
        raise ValueError(f"of {steps} steps none is run at strength {strength}; take at least {least}")
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    count = min(int(steps * strength), steps)
    skipped = (steps - count) * getattr(own, "order", 1)
    return Img2ImgRun(count, tuple(own.timesteps[skipped:].tolist()))


def least_strength(steps: int) -> float:
    """The smallest strength at which a step is run. Raises ValueError for no steps."""
    if steps < 1:
        raise ValueError(f"{steps} steps; at least one is needed")
    return _strength_of_count(1, steps)


def strength_at(t0: float, scheduler: Any, steps: int | None = None, prior: VPSchedule = DDPM) -> float:
    """The strength in (0, 1] that adds as much noise as time t0 of `prior`, to compare with the paper's settings.

    It is a time of the scheduler's schedule, between its levels if need be. With `steps`, it is the strength at which
    an img2img of that many steps starts nearest to it. Raises ValueError for t0 outside (0, 1], and for more noise than
    the scheduler ever adds.
    """
    _check_time(t0)
    wanted = float(_spread_at(prior.abar64, t0))
    spreads = _spreads(_table(scheduler))
    if wanted > spreads[-1]:
        most = t0_at(1.0, scheduler, prior=prior)
        raise ValueError(f"t0 = {t0} has more noise than the scheduler ever adds; the most is that of t0 = {most:.4f}")
    if steps is None:
        return float(np.interp(wanted, spreads, np.arange(len(spreads)))) / (len(spreads) - 1)
    strengths = [_strength_of_count(count, steps) for count in range(1, steps + 1)]
    starts = [_start_spread(scheduler, strength, steps) for strength in strengths]
    return min(zip(strengths, starts, strict=True), key=lambda pair: abs(pair[1] - wanted))[0]


def t0_at(strength: float, scheduler: Any, steps: int | None = None, prior: VPSchedule = DDPM) -> float:
    """The time of `prior` in (0, 1] that has as much noise as the strength: the inverse of `strength_at`.

    With `steps`, the noise is what an img2img of that many steps really starts with. Raises ValueError for a strength
    outside (0, 1], and for more noise than the prior ever has.
    """
    _check_time(strength, "the strength")
    table = _table(scheduler)
    noise = _spread_at(table, strength) if steps is None else _start_spread(scheduler, strength, steps)
    spreads = _spreads(prior.abar64)
    if noise > spreads[-1]:
        raise ValueError(f"strength {strength} adds more noise than the other schedule ever has")
    return float(np.interp(noise, spreads, np.arange(len(spreads)))) / prior.steps


def scheduler_levels(scheduler: Any, t0: float = 1.0, steps: int | None = None) -> Levels:
    """The scheduler's levels up to time t0 of its own schedule, all or `steps` of them evenly spread.

    Raises ValueError as `VPSchedule.levels` does, and for a level without signal (a terminal SNR of 0).
    """
    native = native_steps(t0, len(_table(scheduler)))
    if steps is not None and not 0 < steps <= native:
        raise ValueError(f"there are {native} steps up to t0 = {t0}; {steps} were asked for")
    chosen = torch.linspace(native - 1, 0, steps or native, dtype=torch.float64).round().flip(0)
    return _levels(scheduler, chosen)


def img2img_levels(scheduler: Any, strength: float, steps: int = 50) -> Levels:
    """The levels that diffusers' img2img goes through at this strength, each once.

    Raises ValueError as `img2img_run` does, for timesteps beyond the schedule (an offset does that where all of its
    steps are taken), and for a level without signal.
    """
    times = torch.tensor(img2img_run(scheduler, strength, steps).timesteps, dtype=torch.float64).unique()
    if times[-1] > len(_table(scheduler)) - 1:
        raise ValueError(f"timestep {times[-1]:g} is beyond the schedule's {len(_table(scheduler))}; take fewer steps")
    return _levels(scheduler, times)


def _levels(scheduler: Any, times: Tensor) -> Levels:
    abar = _abar_at(scheduler, times)
    if abar[-1] <= 0:
        raise ValueError("the schedule's last level has no signal (a terminal SNR of 0); take t0 or strength below 1")
    betas = 1 - abar / torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    return Levels(betas, abar, posterior_variance(betas, abar), times)


def _table(scheduler: Any) -> Tensor:
    """The scheduler's abar (T,) float64 on the CPU."""
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise ValueError(f"{type(scheduler).__name__} has no alphas_cumprod: it is of no variance-preserving diffusion")
    return torch.as_tensor(table).detach().double().cpu()


def _abar_at(scheduler: Any, times: Tensor) -> Tensor:
    """abar (K,) float64 at timesteps (K,): between whole ones sigma is straight, as Euler's scheduler takes it."""
    table = _table(scheduler)
    if bool((times == times.round()).all()):
        return table[times.long()]
    sigmas = np.interp(times, np.arange(len(table)), ((1 - table) / table).sqrt())
    return torch.from_numpy(1 / (1 + sigmas**2))


def _spreads(abar: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The noise's deviation (T + 1,) after 0, 1, ..., T steps of a schedule with abar (T,)."""
    return np.concatenate([[0.0], (1 - abar).sqrt().numpy()])


def _spread_at(abar: Tensor, t0: float) -> float:
    spreads = _spreads(abar)
    return float(np.interp(t0 * len(abar), np.arange(len(spreads)), spreads))


def _start_spread(scheduler: Any, strength: float, steps: int) -> float:
    start = img2img_run(scheduler, strength, steps).start
    # An offset can ask for one more timestep than there are.
    start = min(start, len(_table(scheduler)) - 1)
    return math.sqrt(1 - _abar_at(scheduler, torch.tensor([start], dtype=torch.float64)).item())


def _strength_of_count(count: int, steps: int) -> float:
    """The least strength at which so many steps are run: the quotient, or the next float where the product falls."""
    strength = count / steps
    return strength if int(steps * strength) == count else math.nextafter(strength, 1.0)


def _check_time(t0: float, name: str = "t0") -> None:
    if not 0 < t0 <= 1:
        raise ValueError(f"{name} is {t0}; it must lie in (0, 1]")


# -- the U-Net as a network that tells the noise -----------------------------------------------------------------------


def noise_network(
    pipeline: LatentPipeline,
    prompt: str | Sequence[str],
    *,
    guidance_scale: float = 7.5,
    negative_prompt: str | Sequence[str] | None = None,
) -> Network:
    """The pipeline's U-Net as network(x (N, C, H, W) latents, t (N,) of one timestep) -> noise as x, for `from_noise`.

    `prompt` is one for all pictures or one each. Guidance (Ho and Salimans 2021) moves the answer away from that for
    `negative_prompt`, by default the empty one, both in one pass of 2 N; at a scale of 1 there is none. The U-Net works
    in its own type, and the answer is in that of x.

    Raises ValueError for U-Nets that need more than text, predictions other than `PREDICTIONS`, a scale below 1, and a
    negative prompt that would have no effect.
    """
    _check_unet(pipeline)
    if not 1 <= guidance_scale < math.inf:
        raise ValueError(f"the guidance scale is {guidance_scale}; it must be at least 1, which is no guidance")
    guided = guidance_scale > 1
    if negative_prompt is not None and not guided:
        raise ValueError("a negative prompt has no effect without guidance; take a guidance_scale above 1")
    prompts, negatives = _prompts(prompt), _prompts("" if negative_prompt is None else negative_prompt)
    count = max(len(prompts), len(negatives))
    if {len(prompts), len(negatives)} - {1, count}:
        raise ValueError(f"{len(prompts)} prompts and {len(negatives)} negative ones; give one or as many")
    with torch.no_grad():
        text, negative_text = pipeline.encode_prompt(
            prompt=prompts * (count // len(prompts)),
            device=_device(pipeline),
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=negatives * (count // len(negatives)) if guided else None,
        )
    without = {"encoder_hidden_states": negative_text} if guided else None
    return guided_network(
        pipeline.unet, pipeline.scheduler, {"encoder_hidden_states": text}, without, guidance_scale=guidance_scale
    )


def guided_network(
    unet: Any,
    scheduler: Any,
    conditions: Conditions,
    without: Conditions | None = None,
    *,
    guidance_scale: float = 7.5,
) -> Network:
    """What `noise_network` is made of, for U-Nets that are told more than text, such as SDXL's sizes and pooled text.

    `conditions` are the U-Net's further arguments, of one row for all pictures or one each, `without` those that
    guidance moves away from, or None. Raises ValueError for a prediction other than `PREDICTIONS`.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(f"the U-Net predicts {kind!r}; only {', '.join(PREDICTIONS)} can be made into noise")
    passes = [conditions] if without is None else [without, conditions]

    @torch.no_grad()
    def network(x: Tensor, t: Tensor) -> Tensor:
        given = _joined([_for_pictures(each, len(x)) for each in passes])
        latents = x.to(unet.dtype).repeat(len(passes), 1, 1, 1)
        told = unet(latents, t.repeat(len(passes)), **given, return_dict=False)[0].to(x.dtype)
        if without is not None:
            away, towards = told.chunk(2)
            told = away + guidance_scale * (towards - away)
        if kind == "epsilon":
            return told
        abar = _abar_at(scheduler, t[:1].double().cpu()).item()
        signal, spread = math.sqrt(abar), math.sqrt(1 - abar)
        return signal * told + spread * x if kind == "v_prediction" else (x - signal * told) / spread

    return network


def _for_pictures(conditions: Conditions, count: int) -> dict[str, Any]:
    def rows(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: rows(inner) for name, inner in value.items()}
        if len(value) not in (1, count):
            raise ValueError(f"{len(value)} prompts for {count} pictures; give one for all or one each")
        return value.expand(count, *value.shape[1:])

    return {name: rows(value) for name, value in conditions.items()}


def _joined(parts: Sequence[Conditions]) -> dict[str, Any]:
    return {
        name: _joined([part[name] for part in parts])
        if isinstance(value, Mapping)
        else torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
    }


def _prompts(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(each, str) for each in prompts):
        raise ValueError(f"a prompt is text, one for all pictures or one each, not {prompt!r}")
    return prompts


def _check_unet(pipeline: LatentPipeline) -> None:
    config, latents = pipeline.unet.config, pipeline.vae.config.latent_channels
    if config.in_channels == 2 * latents + 1:
        raise ValueError(
            f"this U-Net of {config.in_channels} channels was trained for inpainting and is given the masked picture: "
            f"run diffusers' StableDiffusionInpaintPipeline with it, or take a U-Net of {latents} channels here"
        )
    if config.in_channels != latents:
        raise ValueError(f"the U-Net takes {config.in_channels} channels, and the latents have {latents}")
    for name in ("addition_embed_type", "time_cond_proj_dim", "class_embed_type"):
        if config.get(name) is not None:
            raise ValueError(
                f"the U-Net is told more than text ({name} is {config[name]!r}); make its network with guided_network"
            )


def _device(pipeline: LatentPipeline) -> torch.device:
    # Where the networks are moved in and out of a GPU, they do not lie where they run.
    return getattr(pipeline, "_execution_device", None) or pipeline.unet.device


# -- the autoencoder ---------------------------------------------------------------------------------------------------


def downsampling(vae: Any) -> int:
    """How many pixels a latent pixel is wide; 8 for Stable Diffusion."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


@torch.no_grad()
def encode(pipeline: LatentPipeline, pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] to latents (N, C, H / 8, W / 8) float32, scaled as the U-Net takes them.

    They are the mean of the autoencoder's distribution, so that nothing is drawn; diffusers' img2img draws one, which
    is near. Raises ValueError for pictures of another kind, size or range, and where the autoencoder overflows.
    """
    vae = pipeline.vae
    _check_pictures(pictures, vae)
    x = (2 * pictures.float() - 1).to(_device(pipeline), vae.dtype)
    latents = vae.encode(x).latent_dist.mode().float()
    return _finite((latents - _shift(vae)) * vae.config.scaling_factor, vae)


@torch.no_grad()
def decode(pipeline: LatentPipeline, latents: Tensor) -> Tensor:
    """Latents (N, C, H, W) to pictures (N, 3, 8 H, 8 W) float32, cut to [0, 1].

    Raises ValueError where the autoencoder overflows.
    """
    vae = pipeline.vae
    x = latents.float() / vae.config.scaling_factor + _shift(vae)
    return _finite(vae.decode(x.to(_device(pipeline), vae.dtype)).sample.float() / 2 + 0.5, vae).clamp(0, 1)


def round_trip(pipeline: LatentPipeline, pictures: Tensor) -> Tensor:
    """Pictures through the autoencoder and back, on their device: how far off they come is the least L2 of any edit.

    (N, 3, H, W) in [0, 1] to the same, float32. Raises ValueError as `encode` does.
    """
    return decode(pipeline, encode(pipeline, pictures)).to(pictures.device)


def latent_mask(editable: Tensor, factor: int = 8) -> Tensor:
    """A mask bool (..., H, W) in latents (..., H / factor, W / factor): editable where any of its pixels is.

    So everything that was to change can; of the pixels to be kept, those that share a latent pixel with an editable one
    change too. Raises ValueError for a mask that is not bool or whose size is no multiple of the factor.
    """
    if editable.dtype != torch.bool:
        raise ValueError(f"the mask is {editable.dtype}; it must be bool, True where the picture may change")
    if editable.ndim < 2 or editable.shape[-2] % factor or editable.shape[-1] % factor:
        raise ValueError(f"the mask is {tuple(editable.shape)}; its height and width must be multiples of {factor}")
    height, width = editable.shape[-2:]
    blocks = F.max_pool2d(editable.float().reshape(-1, 1, height, width), factor)
    return blocks.reshape(*editable.shape[:-2], height // factor, width // factor) > 0


def _shift(vae: Any) -> float:
    return vae.config.get("shift_factor") or 0.0


def _finite(values: Tensor, vae: Any) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(f"the autoencoder gives values that are no finite numbers in {vae.dtype}; keep it in float32")
    return values


def _check_pictures(pictures: Tensor, vae: Any) -> None:
    factor, channels = downsampling(vae), vae.config.in_channels
    if pictures.ndim != 4 or not pictures.is_floating_point() or not pictures.numel() or pictures.shape[1] != channels:
        raise ValueError(
            f"pictures are (N, {channels}, H, W) of floats in [0, 1], not {pictures.dtype} {tuple(pictures.shape)}"
        )
    height, width = pictures.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"pictures of {height} x {width}: height and width must be multiples of {factor}")
    low, high = pictures.min().item(), pictures.max().item()
    if not (low >= 0 and high <= 1):  # of NaN neither holds
        raise ValueError(f"the pictures have values from {low:.3g} to {high:.3g}; bring them to [0, 1]")


# -- editing -----------------------------------------------------------------------------------------------------------


def edit_latent(
    pipeline: LatentPipeline,
    guide: Tensor,
    prompt: str | Sequence[str] = "",
    *,
    t0: float | None = None,
    strength: float | None = None,
    steps: int | None = None,
    guidance_scale: float = 7.5,
    negative_prompt: str | Sequence[str] | None = None,
    editable: Tensor | None = None,
    keep_pixels: bool = False,
    repeats: int = 1,
    behaviour: Behaviour = PUBLISHED,
    noises: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Edits guides (N, 3, H, W) in [0, 1] with a text-to-image model: the same size, float32, on the guide's device.

    Give one of `t0`, a time of the pipeline's own schedule, of which all steps are taken or `steps` evenly spread, and
    `strength`, which takes the timesteps of a diffusers img2img of `steps` steps, by default 50. The scheduler gives
    the levels only: the sampler is SDEdit's, stochastic, in float32, and cuts or thresholds nothing. For DDPMScheduler
    with `clip_sample` False its steps are the scheduler's own. `prompt`, `guidance_scale` and `negative_prompt` are
    those of `noise_network`.

    `editable` is bool (H, W) or (1 or N, 1, H, W), True where the picture may change; see `latent_mask`. Latents to be
    kept are put back at the end without noise, which in a few coarse steps would be much. The autoencoder changes
    their pixels still: `keep_pixels` puts the guide's own back.

    `repeats`, `behaviour`, `noises` and `generator` are those of `edit`, the noises as the latents; the callback is
    given latents. Raises ValueError for guides, masks, times and prompts of the wrong kind, as above; for a pipeline
    that this cannot be done with; and for a behaviour that cuts the latents, which know no bounds.
    """
    levels = _chosen_levels(pipeline.scheduler, t0, strength, steps)
    if behaviour.clamp:
        raise ValueError("latents are not bounded by [-1, 1]: take a behaviour without clamp")
    _check_unet(pipeline)
    _check_pictures(guide, pipeline.vae)
    _check_mask(editable, guide)
    network = noise_network(pipeline, prompt, guidance_scale=guidance_scale, negative_prompt=negative_prompt)
    latents = encode(pipeline, guide)
    mask = None
    if editable is not None:
        mask = latent_mask(editable, downsampling(pipeline.vae)).to(latents.device)
    edited = edit(
        from_noise(network, levels, behaviour),
        latents,
        levels,
        mask,
        repeats=repeats,
        behaviour=behaviour,
        noises=noises,
        generator=generator,
        callback=callback,
    )
    pictures = decode(pipeline, paste(latents, edited, mask)).to(guide.device)
    if keep_pixels and editable is not None:
        return paste(guide.float(), pictures, editable.to(guide.device))
    return pictures


def _chosen_levels(scheduler: Any, t0: float | None, strength: float | None, steps: int | None) -> Levels:
    if t0 is not None and strength is None:
        return scheduler_levels(scheduler, t0, steps)
    if strength is not None and t0 is None:
        return img2img_levels(scheduler, strength, 50 if steps is None else steps)
    raise ValueError("give either t0 or strength")


def _check_mask(editable: Tensor | None, guide: Tensor) -> None:
    if editable is None:
        return
    count, _, *size = guide.shape
    allowed = [tuple(size), (1, 1, *size), (count, 1, *size)]
    if editable.dtype != torch.bool or tuple(editable.shape) not in allowed:
        raise ValueError(
            f"the mask is {editable.dtype} {tuple(editable.shape)}; for these guides it must be bool "
            f"{allowed[0]} or {allowed[-1]}, True where the picture may change"
        )
