"""External negatives: PatchNCE against features of other pictures, from a bank that a slow copy of the encoder fills.

For CUT's ablation. No code of it was published; this follows the paper's description, which refers to MoCo (He et al.,
CVPR 2020) for the rest: the number of rows and the momentum are choices of this project.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gengauge.reference.cut.patches import PatchSampleF
from gengauge.reference.nets.stylegan2.translation import StyleTranslator
from gengauge.reference.nets.translation_resnet import ResnetGenerator

Encoder = ResnetGenerator | StyleTranslator
MOMENTUM = 0.999
ROWS = 4096  # 16 pictures of 256 places


class ExternalBank(nn.Module):
    """The newest `rows` features of each tap, (rows, nc) of length 1, of the pictures of one side that came before.

    They are made by copies of G and F whose weights follow theirs by a share of 1 - `momentum` a step. Copies and
    features are saved with a training.
    """

    held: Tensor
    at: Tensor

    def __init__(
        self,
        g: Encoder,
        f: PatchSampleF,
        taps: Sequence[int],
        rows: int = ROWS,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__()
        if rows < 1 or not 0 <= momentum < 1:
            raise ValueError(f"a bank has at least one row and a momentum in [0, 1), not {rows} and {momentum}")
        self.taps, self.rows, self.momentum = tuple(taps), rows, momentum
        self.g = copy.deepcopy(g).requires_grad_(False)
        self.f = copy.deepcopy(f).requires_grad_(False)
        for i, channels in enumerate(f.channels):
            width = f.nc if f.use_mlp else channels
            self.register_buffer(f"bank_{i}", torch.zeros(rows, width))
        self.register_buffer("held", torch.zeros(len(self.taps), dtype=torch.long))
        self.register_buffer("at", torch.zeros(len(self.taps), dtype=torch.long))

    def negatives(self, count: int, generator: torch.Generator | None = None) -> list[Tensor]:
        """Up to `count` rows of each tap, drawn without replacement; none before the first pictures have come."""
        device = self.held.device
        return [
            self.get_buffer(f"bank_{i}")[torch.randperm(held, generator=generator, device=device)[:count]]
            for i, held in enumerate(self.held.tolist())
        ]

    @torch.no_grad()
    def add(self, pictures: Tensor, places: Sequence[Tensor]) -> None:
        """Takes up the features of pictures (N, 3, H, W) at flat places (P,) of each tap in the place of the oldest."""
        for i, made in enumerate(self.f(self.g.encode(pictures, self.taps), places)):
            made = made[-self.rows :]
            at = (self.at[i] + torch.arange(len(made), device=made.device)) % self.rows
            self.get_buffer(f"bank_{i}")[at] = made
            self.at[i] = (self.at[i] + len(made)) % self.rows
            self.held[i] = (self.held[i] + len(made)).clamp(max=self.rows)

    @torch.no_grad()
    def follow(self, g: Encoder, f: PatchSampleF) -> None:
        """Moves the copies one step towards G and F."""
        for mine, theirs in ((self.g, g), (self.f, f)):
            for slow, fast in zip(mine.parameters(), theirs.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.momentum)
