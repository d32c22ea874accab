"""Cross-attention whose first token of text learns nothing, and the names of what is trained.

The begin-of-text token is the same in each prompt, so its key and value carry no gradient (Kumari et al. 2023, released
code; the paper does not tell). Text enters a U-Net through keys and values only, which is why these alone are trained
(section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Which = Literal["kv", "crossattn", "all"]
# Parts of names that no other layer's names have; SD 1, SD 2 and SDXL call cross-attention alike.
_PARTS: dict[Which, tuple[str, ...]] = {
    "kv": (".attn2.to_k.", ".attn2.to_v."),
    "crossattn": (".attn2.",),
    "all": ("",),
}


def trained_names(names: Iterable[str], which: Which = "kv") -> list[str]:
    """Those of a U-Net's parameters that are trained, in order.

    `kv` are the keys' and values' matrices of cross-attention, `crossattn` all parameters of cross-attention, `all`
    the whole network (the paper's "fine-tune all"). Raises ValueError for another word, and where nothing is selected.
    """
    if which not in get_args(Which):
        raise ValueError(f"what is trained is {', '.join(get_args(Which))}, not {which!r}")
    found = [name for name in names if any(part in name for part in _PARTS[which])]
    if not found:
        raise ValueError(
            f"nothing to train by {which!r}: none of the names holds {' or '.join(_PARTS[which])}, as those of the "
            "cross-attention of diffusers' U-Nets do"
        )
    return found


def without_first_gradient(x: Tensor) -> Tensor:
    """The same values (N, L, C); no gradient passes through those of position 0."""
    return torch.cat([x[:, :1].detach(), x[:, 1:]], 1)


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of queries (N, H, P, C) to keys and values (N, H, L, C), in their type.

    On a processor bfloat16 is computed in float32: there the fused attention's backward pass is several times slower in
    bfloat16, and the plain form holds all scores.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    with torch.autocast("cpu", enabled=False):
        mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
        out = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, scale=scale)
    return out.to(query.dtype)


class FirstTokenStopped:
    """Processor of a diffusers `Attention`: what its own processor computes, but position 0 of the text learns nothing.

    Keys and values are made by the module's own `to_k` and `to_v`, which are trained in place. Without text, in
    self-attention, it stops nothing.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of states (N, P, C) to text (N, L, D); the mask is what diffusers hands to its processors.

        Raises ValueError for an attention over feature maps, which has norms of its own: no U-Net's cross-attention.
        """
        if hidden_states.ndim != 3 or attn.group_norm is not None or attn.spatial_norm is not None:
            raise ValueError(
                f"cross-attention is of states (N, P, C) without norms of groups or places, not {hidden_states.ndim} "
                "dimensions: leave this attention its own processor"
            )
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        if encoder_hidden_states is not None:
            key, value = without_first_gradient(key), without_first_gradient(value)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(text))
            attention_mask = attention_mask.unflatten(0, (len(text), attn.heads))
        out = attended(query, key, value, attention_mask, attn.scale)
        out = out.transpose(1, 2).flatten(2)
        for layer in attn.to_out:  # the projection and its dropout
            out = layer(out)
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor


def cross_attentions(unet: nn.Module) -> dict[str, Any]:
    """The cross-attention modules of a U-Net by name. Raises ValueError where there are none."""
    found = {name: module for name, module in unet.named_modules() if name.endswith(".attn2")}
    if not found:
        raise ValueError(
            "this network has no cross-attention named attn2: it is no text-conditional U-Net of diffusers"
        )
    return found


def stop_first_token(unet: nn.Module) -> None:
    """Gives all cross-attention the processor that stops the first token's gradient; outputs stay what they are."""
    for module in cross_attentions(unet).values():
        module.set_processor(FirstTokenStopped())


def quick_self_attention(unet: nn.Module) -> None:
    """Gives self-attention the same processor, which stops nothing there: for training in bfloat16 on a processor."""
    for name, module in unet.named_modules():
        if name.endswith(".attn1"):
            module.set_processor(FirstTokenStopped())
