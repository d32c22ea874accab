"""Captions of a training of concepts as its labels: ids while tokens are learnt, else features that are made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gengauge.reference.custom_diffusion.conditioning import SIZES, features, with_sizes
from gengauge.reference.custom_diffusion.models import Models

Sizes = tuple[int, int, int, int, int, int]  # as of `conditioning.with_sizes`


def tokenizers_of(tokenizer: Any) -> list[Any]:
    """The tokenizers of a model, which are handed over alone, or two in a list for SDXL."""
    return list(tokenizer) if isinstance(tokenizer, list | tuple) else [tokenizer]


class Captions:
    """Makes labels of captions for `Training.step`; `tokens` are the ids of those that learn, none for none.

    Without a token to learn the text encoder sees a caption once. SDXL's are not asked beforehand: what its U-Net is
    told differs with each picture's sizes.
    """

    def __init__(
        self,
        models: Models,
        tokenizer: Any,
        tokens: Mapping[str, int],
        device: str | torch.device = "cpu",
        bfloat16: bool = False,
    ) -> None:
        """Raises ValueError for another number of tokenizers than text encoders."""
        self.tokenizers, self.encoders = tokenizers_of(tokenizer), list(models.text_encoders.values())
        if len(self.tokenizers) != len(self.encoders):
            raise ValueError(f"{len(self.encoders)} text encoders with {len(self.tokenizers)} tokenizers")
        self.tokens, self.device, self.bfloat16 = dict(tokens), torch.device(device), bfloat16
        self.length = min(
            *(int(each.model_max_length) for each in self.tokenizers),
            *(int(encoder.config.max_position_embeddings) for encoder in self.encoders),
        )
        if len(self.encoders) > 1 and self.length < SIZES:
            raise ValueError(f"text encoders of {self.length} tokens are none of SDXL")
        self._features: dict[str, Tensor] = {}

    @torch.no_grad()
    def labels(self, captions: Sequence[str], sizes: Sequence[Sizes]) -> Tensor:
        """Ids (N, L) int64, features (N, L, D) where no token learns, or for SDXL ids with sizes (N, 3, L) int64."""
        if len(self.encoders) > 1:
            both = torch.stack([self.ids(captions, number) for number in range(2)], 1)
            return with_sizes(both, torch.tensor(sizes)).to(self.device)
        if self.tokens:
            return self.ids(captions).to(self.device)
        for caption in captions:
            if caption not in self._features:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                    found = features(self.encoders, [self.ids([caption]).to(self.device)])[0][0]
                self._features[caption] = found.float()
        return torch.stack([self._features[caption] for caption in captions])

    def ids(self, captions: Sequence[str], number: int = 0) -> Tensor:
        """Padded ids (N, L) int64 of the tokenizer of a number."""
        return self.tokenizers[number](
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).input_ids

    def lost(self, token: str, captions: Sequence[str], words: Sequence[str]) -> str | None:
        """A caption that has not the token among its ids with one of the words before it, or None."""
        for number in range(len(self.tokenizers)):
            ids = self.ids([word + caption for caption in captions for word in words], number)
            held = (ids == self.tokens[token]).any(1)
            if not bool(held.all()):
                return captions[int((~held).nonzero()[0]) // len(words)]
        return None
