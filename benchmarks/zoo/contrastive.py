"""Contrastive training of text and image encoders (Radford et al., ICML 2021), and how well they find each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.benchmarks.zoo import captions_tokenizer
from gengauge.benchmarks.zoo.captioned_animals import animals, caption, pictures
from gengauge.benchmarks.zoo.captioned_pairs import bfloat16, scaled, set_rate
from gengauge.benchmarks.zoo.entries import FRESH_SEED

LR, DECAY, WARM_UP = 1.5e-3, 0.05, 60
MAX_SCALE = 100.0
LENGTH = 40  # tokens of a caption in training; none of ours has more


class TwoTowers(Protocol):
    """A CLIP as open_clip has it: pictures (N, 3, H, W), ids (N, L) to features (N, D), and the log of a scale."""

    logit_scale: nn.Parameter

    def encode_image(self, image: Tensor) -> Tensor: ...

    def encode_text(self, text: Tensor) -> Tensor: ...


class Training:
    """A CLIP in training; captions that are equal within a batch count as right for each other's pictures."""

    def __init__(self, clip: nn.Module, iterations: int, device: str = "cpu") -> None:
        self.iteration, self.iterations = 0, iterations
        self.clip: Any = clip.to(device)
        self.networks: Mapping[str, nn.Module] = {"CLIP": self.clip}
        decayed = [p for p in clip.parameters() if p.ndim > 1]
        others = [p for p in clip.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimisers = {"CLIP": torch.optim.AdamW(groups, LR, (0.9, 0.98))}

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        average: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None,
    ) -> dict[str, Tensor]:
        """One iteration on pictures (N, 3, H, W) in [-1, 1] and the ids (N, L) of their captions."""
        optimiser = self.optimisers["CLIP"]
        set_rate(optimiser, LR, self.iteration, self.iterations, WARM_UP)
        self.clip.train()
        with bfloat16(reals.device.type):
            found, read = self.clip.encode_image(reals), self.clip.encode_text(labels)
        scale = self.clip.logit_scale.exp().clamp(max=MAX_SCALE)
        logits = scale * F.normalize(found.float(), dim=1) @ F.normalize(read.float(), dim=1).T
        same = (labels[:, None] == labels[None]).all(2).float()
        wanted = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
        optimiser.zero_grad()
        loss.backward()
        average(self.clip.parameters())
        optimiser.step()
        self.iteration += 1
        with torch.no_grad():
            right = same[torch.arange(len(same), device=same.device), logits.argmax(1)].mean()
        return {"loss": loss.detach(), "right": right, "scale": scale.detach()}


@torch.inference_mode()
def retrieval(clip: TwoTowers, count: int, unusual: bool, length: int, device: str) -> dict[str, float]:
    """Shares of fresh pictures whose caption is found among those of `count`, and of captions whose picture is.

    Captions tell a part of what is seen, so that several pictures may fit one; chance is 1 / `count`.
    """
    shown = animals(FRESH_SEED, range(count), unusual=unusual)
    random = np.random.default_rng(0)
    texts = [caption(each, random) for each in shown]
    ids = captions_tokenizer.ids(captions_tokenizer.tokenizer(), texts, length)
    x = torch.cat([clip.encode_image(part.to(device)) for part in scaled(pictures(shown)).split(100)])
    y = torch.cat([clip.encode_text(part.to(device)) for part in ids.split(100)])
    cosine = F.normalize(x.float(), dim=1) @ F.normalize(y.float(), dim=1).T
    same = (ids[:, None] == ids[None]).all(2).to(device)
    out: dict[str, float] = {"pairs": count}
    for name, found in (("caption_of_a_picture", cosine), ("picture_of_a_caption", cosine.T)):
        for k in (1, 5):
            hit = same.gather(1, found.topk(k, 1).indices).any(1)
            out[f"{name}_in_{k}"] = round(float(hit.float().mean()), 4)
    return out
