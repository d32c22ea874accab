"""What a U-Net is told of captions: of one text encoder the last features, of SDXL's two more than that.

Stable Diffusion XL (Podell et al. 2023, section 2) is told the last states but one of both encoders side by side, the
second one's pooled text, and of each picture the size that it had, where it was cut and the size that it has now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SIZES = 6  # original height and width, top and left of the cut, height and width in px


def with_sizes(ids: Tensor, sizes: Tensor) -> Tensor:
    """Captions and pictures' sizes as one batch of labels (N, 3, L) int64: two rows of ids, and one that begins so.

    `ids` are (N, 2, L), of both tokenizers, `sizes` (N, 6) whole numbers. Raises ValueError for other shapes.
    """
    if ids.ndim != 3 or ids.shape[1] != 2 or ids.shape[2] < SIZES or sizes.shape != (len(ids), SIZES):
        raise ValueError(
            f"ids are (N, 2, L) and sizes (N, {SIZES}), L at least {SIZES}, not {tuple(ids.shape)} and "
            f"{tuple(sizes.shape)}"
        )
    row = torch.zeros_like(ids[:, :1])
    row[:, 0, :SIZES] = sizes
    return torch.cat([ids, row], 1)


def features(encoders: Sequence[Any], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """What cross-attention gets (N, L, D), and the pooled text (N, P), None of a single encoder.

    `ids` are (N, L), one for each encoder of transformers. A single encoder gives its last states after the final norm.
    """
    if len(encoders) == 1:
        return encoders[0](ids[0])[0], None
    found = [encoder(each, output_hidden_states=True) for encoder, each in zip(encoders, ids, strict=True)]
    return torch.cat([each.hidden_states[-2] for each in found], -1), found[-1].text_embeds


def conditions(encoders: Sequence[Any], labels: Tensor) -> dict[str, Any]:
    """The U-Net's keyword arguments: for one encoder of ids (N, L), for two of labels (N, 3, L) as of `with_sizes`.

    A caption that comes several times is encoded once. Raises ValueError for labels of the other kind.
    """
    if len(encoders) == 1:
        if labels.ndim != 2:
            raise ValueError(f"captions' ids are (N, L) for one text encoder, not {tuple(labels.shape)}")
        ids, places = labels.unique(dim=0, return_inverse=True)
        return {"encoder_hidden_states": features(encoders, [ids])[0][places]}
    if labels.ndim != 3 or labels.shape[1] != 3:
        raise ValueError(f"two text encoders need ids and sizes (N, 3, L), see `with_sizes`, not {tuple(labels.shape)}")
    ids, places = labels[:, :2].unique(dim=0, return_inverse=True)
    states, pooled = features(encoders, [ids[:, 0], ids[:, 1]])
    assert pooled is not None
    told = {"text_embeds": pooled[places], "time_ids": labels[:, 2, :SIZES].float()}
    return {"encoder_hidden_states": states[places], "added_cond_kwargs": told}
