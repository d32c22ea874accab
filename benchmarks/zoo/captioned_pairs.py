"""Batches of pictures, or latents, with captions for the text-to-image model's trainings; their rates and precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gengauge.benchmarks.zoo import captions_tokenizer
from gengauge.benchmarks.zoo.captioned_animals import Animal, caption


class Pairs:
    """Inputs (N, ...) of the animals with captions phrased anew each time, as token ids (batch, length) int64.

    Drawn with replacement; batch k depends on the seed and k only. A share of captions is `empty`, for classifier-free
    guidance. Pictures uint8 come as float32 in [-1, 1], all else as float32.
    """

    def __init__(
        self, inputs: Tensor, shown: Sequence[Animal], batch: int, seed: int, length: int, empty: float = 0.0
    ) -> None:
        if len(inputs) != len(shown):
            raise ValueError(f"{len(inputs)} pictures cannot be those of {len(shown)} animals")
        self.inputs, self.shown, self.batch, self.seed, self.length = inputs, shown, batch, seed, length
        self.empty, self.tokenizer = empty, captions_tokenizer.tokenizer()

    def start(self, iteration: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            random = np.random.default_rng((self.seed, iteration))
            chosen = random.integers(len(self.shown), size=self.batch)
            texts = ["" if random.random() < self.empty else caption(self.shown[i], random) for i in chosen]
            inputs = self.inputs[torch.from_numpy(chosen)]
            inputs = scaled(inputs) if inputs.dtype == torch.uint8 else inputs.float()
            iteration += 1
            yield inputs.to(device), captions_tokenizer.ids(self.tokenizer, texts, self.length).to(device)


def scaled(pictures: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def set_rate(optimiser: torch.optim.Optimizer, peak: float, iteration: int, iterations: int, warm_up: int) -> None:
    """A rate that rises evenly over `warm_up` iterations and falls to 0 along half a cosine."""
    rate = peak * min(1.0, (iteration + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
    for group in optimiser.param_groups:
        group["lr"] = rate


@contextmanager
def bfloat16(device: str) -> Iterator[None]:
    """Autocast to bfloat16; on a processor without the fused attention, whose backward pass is slower than plain."""
    with ExitStack() as stack:
        if torch.device(device).type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(torch.device(device).type, torch.bfloat16))
        yield
