"""`gengauge concept sample` and `score`: pictures of prompts as the paper's tables have them, and their alignment."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gengauge.benchmarks.concept_files import check_writable
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.custom_pipeline import apply_to_pipeline, text_parts
from gengauge.benchmarks.evaluate import Score, evaluate
from gengauge.benchmarks.features.clip import Encoder, picture_features, text_features
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.metrics.alignment import (
    CLIP_SCORE_WEIGHT,
    MODIFIER,
    image_alignment,
    text_alignment,
    without_modifiers,
)
from gengauge.benchmarks.pictures import write_png
from gengauge.benchmarks.training.loop import step_seed
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.concept_sets_files import read_json
from gengauge.datasets.deltas import Delta
from gengauge.datasets.folder import list_pictures
from gengauge.datasets.saving import write_text

SAMPLES, PROMPTS, ABOUT = "samples", "prompts.json", "about.json"
Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: DDIM with `steps`, `eta` and `guidance` as in the paper's tables, `size` px a side.

    Without a size it is the model's own. Raises ValueError for what no sampler takes.
    """

    steps: int = 200
    guidance: float = 6.0
    eta: float = 1.0
    seed: int = 42
    size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.steps <= 1000 or not 0 <= self.eta <= 1 or self.seed < 0 or not 0 <= self.guidance < 1000:
            raise ValueError("steps are 1 to 1000, eta is from 0 to 1, guidance from 0 to 1000, a seed 0 or more")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise ValueError(f"a size is a multiple of 8 px, not {self.size}")


def sample(
    pipeline: Any,
    prompts: Sequence[str],
    out: Path,
    how: Sampling,
    *,
    count: int = 1,
    delta: Delta | None = None,
    strength: float = 1.0,
    any_base: bool = False,
    batch: int = 4,
    device: str = "cpu",
    tell: Told = lambda what, done, total: None,
    processes: Processes | None = None,
) -> int:
    """Writes `count` pictures a prompt into `out/samples`, their prompts into `prompts.json`; how many this one made.

    A picture's noise depends on the seed and its number only, not on the batch. Pictures that are there already stay:
    the same call goes on where it was stopped. Several processes, each with a pipeline of its own, share the pictures,
    and end together. The pipeline has the delta afterwards. Raises ValueError for an `out` of
    another call, a prompt with a token that the delta lacks, and as `apply_to_pipeline`.
    """
    check_writable(out)
    _check_tokens(prompts, delta)
    texts = {f"{i:06d}": prompts[i // count] for i in range(len(prompts) * count)}
    tokens = [] if delta is None else list(delta.tokens)
    if delta is not None:
        apply_to_pipeline(pipeline, delta, strength=strength, any_base=any_base)
    pipeline.to(device)
    group, settings = processes or Processes(), {"sampling": repr(how), "strength": strength, "tokens": tokens}
    if not group.main:
        group.wait()  # the first begins the folder, the others check what it holds
    _begin(out, texts, {**settings, "weights": _digest(pipeline)})
    if group.main:
        group.wait()
    left = [name for name in texts if not (out / SAMPLES / f"{name}.png").is_file()]
    group.wait()  # all look before one writes
    mine = group.share([left[start : start + batch] for start in range(0, len(left), batch)])
    done, total = 0, sum(map(len, mine))
    for part in mine:

        def stepped(
            _: Any, step: int, time: Any, kept: dict[str, Any], done: int = done, part: Sequence[str] = part
        ) -> dict[str, Any]:
            tell("network steps", done * how.steps + (step + 1) * len(part), total * how.steps)
            return kept

        found = pipeline(
            [texts[name] for name in part],
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            eta=how.eta,
            generator=[torch.Generator().manual_seed(step_seed(how.seed, 0, int(name))) for name in part],
            height=how.size,
            width=how.size,
            output_type="np",
            callback_on_step_end=stepped,
        ).images
        for name, picture in zip(part, torch.from_numpy(found), strict=True):
            if not bool(torch.isfinite(picture).all()):
                raise ValueError(f"picture {name} holds no finite numbers; sample in float32")
            # Cut, not rounded, as the published sampler saves.
            write_png(out / SAMPLES / f"{name}.png", (picture * 255).to(torch.uint8).numpy(), texts[name])
        done += len(part)
    group.wait()
    return total


def _check_tokens(prompts: Sequence[str], delta: Delta | None) -> None:
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("give one prompt or more, none of them empty")
    known = set() if delta is None else set(delta.tokens)
    for prompt in prompts:
        if unknown := [token for token in re.findall(MODIFIER, prompt) if token not in known]:
            raise ValueError(
                f"the prompt {prompt!r} says {unknown[0]}, which "
                + (f"the delta does not have; it has {', '.join(known) or 'none'}" if delta else "is in no delta")
            )


def _begin(out: Path, texts: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Notes what is to be made in a folder. Raises ValueError where it holds something else."""
    content = json.loads(json.dumps({**settings, "prompts": texts}))
    about = out / ABOUT
    if about.is_file():
        if read_json(about) != content:
            raise ValueError(f"{out} holds samples of other prompts, settings or weights; choose another folder")
        return
    if (out / SAMPLES).is_dir() and any((out / SAMPLES).iterdir()):
        raise ValueError(f"{out / SAMPLES} holds files already; choose another folder")
    write_text(out / PROMPTS, json.dumps(dict(texts), indent=1))
    write_text(about, json.dumps(content))


def _digest(pipeline: Any) -> str:
    """A name of what is sampled: sums of all weights, which a change of any shows."""
    parts = (pipeline.unet, *text_parts(pipeline)[0], pipeline.vae)
    sums = [float(tensor.detach().cpu().double().sum()) for part in parts for tensor in part.parameters()]
    return f"{len(sums)} {sum(sums):.10g} {sum(i * each for i, each in enumerate(sums)):.10g}"


# -- scores ------------------------------------------------------------------------------------------------------------


def score(
    samples: Path,
    targets: Sequence[Path],
    clip: Encoder,
    *,
    dino: Encoder | None = None,
    real: Path | None = None,
    network: FeatureNetwork | None = None,
    device: str = "cpu",
    tell: Told = lambda what, done, total: None,
) -> list[Score]:
    """Alignment of samples with their prompts and with concepts' pictures, and their KID to real pictures.

    `samples` is a folder that `sample` wrote, or one of the published layout: pictures in `samples` and `prompts.json`,
    texts by a picture's name. Prompts are taken without modifier tokens. `targets` are a folder a concept; of several
    the mean is told too. `real` are pictures of the class, which samples of prompts without the concept should stay
    near: features are those of `network`. Intervals are Student's t over prompts, or over pictures where there is one
    prompt. Raises ValueError for samples without a prompt or prompts without a sample, OSError, and what readers raise.
    """
    pictures, texts, tokens = _samples(samples)
    plain = [without_modifiers(text, tokens) for text in texts]
    own = picture_features(pictures, clip, progress=_side(tell, f"samples, {clip.name}"))
    cosines = text_alignment(own, text_features(plain, clip, progress=_side(tell, "prompts")))
    out = [
        _mean(f"text alignment ({CLIP_SCORE_WEIGHT:g} max(cos, 0))", cosines.scores.tolist(), texts, clip.name),
        _mean("text alignment (cosine)", cosines.cosines.tolist(), texts, clip.name),
    ]
    for kind, encoder in (("CLIP", clip), ("DINO", dino)):
        if encoder is None:
            continue
        if encoder is not clip:
            own = picture_features(pictures, encoder, progress=_side(tell, f"samples, {encoder.name}"))
        found = []
        for folder in targets:
            theirs = picture_features(list_pictures(folder), encoder, progress=_side(tell, f"{folder.name}, {kind}"))
            found.append([image_alignment(each[None], theirs) for each in own])
            name = f"image alignment ({kind})" if len(targets) == 1 else f"image alignment ({kind}, {folder.name})"
            out.append(_mean(name, found[-1], texts, encoder.name))
        if len(targets) > 1:
            out.append(_mean(f"image alignment ({kind})", np.mean(found, 0).tolist(), texts, "mean of the concepts"))
    if real is not None:
        place = pictures[0].parent
        out += evaluate(real, place, ["kid"], "clean", network, device, progress=tell)
    return out


def _samples(folder: Path) -> tuple[list[Path], list[str], list[str] | None]:
    """Pictures with their prompts, and the modifier tokens where the folder tells them."""
    place = folder / SAMPLES if (folder / SAMPLES).is_dir() else folder
    pictures, texts = list_pictures(place), read_json(folder / PROMPTS)
    stems = [path.stem for path in pictures]
    if len(set(stems)) < len(stems):
        raise ValueError(f"{place} holds two pictures of one name")
    if odd := sorted(set(stems) ^ set(texts)):
        raise ValueError(
            f"{folder}: {odd[0]} is {'a picture without a prompt' if odd[0] in stems else 'a prompt without a picture'}"
            f" in {PROMPTS}; is the sampling finished?"
        )
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{folder / PROMPTS} holds something else than texts by pictures' names")
    about = folder / ABOUT
    tokens = read_json(about).get("tokens") if about.is_file() else None
    if tokens is not None and not (isinstance(tokens, list) and all(isinstance(each, str) for each in tokens)):
        raise ValueError(f"{about} holds no list of tokens")
    return pictures, [texts[stem] for stem in stems], tokens


def _mean(name: str, values: Sequence[float], texts: Sequence[str], note: str) -> Score:
    by_text: dict[str, list[float]] = {}
    for text, value in zip(texts, values, strict=True):
        by_text.setdefault(text, []).append(value)
    several = len(by_text) > 1
    over = [float(np.mean(each)) for each in by_text.values()] if several else list(values)
    interval = t_interval(over)
    middle = float(np.mean(values))  # of pictures, as published, should prompts have differing numbers of them
    if len(over) < 2:
        return Score(name, middle, direction="higher", note=note)
    half = interval.high - interval.mean
    kind = f"95 % t over {len(over)} {'prompts' if several else 'pictures'}"
    return Score(name, middle, middle - half, middle + half, kind, "higher", note)


def _side(tell: Told, what: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(what, done, total)
