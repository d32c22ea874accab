"""Which convolutions of a network are computed on tiles, and on which: the released policies, by published names.

(Li et al. 2022, section 4 and the released code: 6x6 tiles before 3x3 convolutions, 4x4 before 1x1, from 64 px up.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from gengauge.reference.sige.program import ConvStep

FOLLOW: Literal["follow"] = "follow"  # computed where the convolution before it was
Block = int | Literal["follow"] | None  # edge of an input tile; None: computed everywhere


@dataclass(frozen=True)
class Policy:
    """How an edit is computed.

    `block` gives a convolution's input tile. A norm whose weights are named in `fresh_norms` is given the statistics of
    the edited map; all others keep those of the original. `attention_norms` matters for a fault of the published code
    only (see `published_attention_fault`).
    """

    name: str
    block: Callable[[ConvStep], Block]
    fresh_norms: Callable[[str], bool] = lambda name: False
    # Input tile of transformers, by module name and size of the map; None: on all tokens.
    tokens: Callable[[str, tuple[int, int]], int | None] = lambda name, size: None
    # The released DDPM code of May 2023 and later reads the statistics of attention's norm wrongly: all channels are
    # scaled and shifted as the channel with the number of the cache is (0 in all published runs). Off by default.
    published_attention_fault: bool = False
    # Keys and values of attention are kept and made anew where tokens are touched; else they are made of all tokens.
    # The results are the same, the number of products is not.
    keeps_keys: bool = False
    # How often the network doubles the size of its picture, as a decoder of latents does: masks are then of the size
    # of what it makes.
    doublings: int = 0

    def norm_is_fresh(self, name: str) -> bool:
        """Whether the norm of that name is given new statistics."""
        return self.fresh_norms(name)

    def norm_is_faulty(self, name: str) -> bool:
        """Whether the norm of that name is read as the published fault does."""
        return self.published_attention_fault and re.search(r"(^|\.)attn(\.|_)", name) is not None


def ddpm(threshold: int = 64, main: int = 6, shortcut: int = 4, published_attention_fault: bool = False) -> Policy:
    """DDPM's U-Net: what works at `threshold` px or more but the middle, and every convolution after an up-sampling."""

    def block(step: ConvStep) -> Block:
        if step.name in ("conv_in", "conv_out") or step.name.startswith("mid."):
            return None
        if step.name.endswith(".upsample.conv"):
            return main
        return _by_kernel(step, main, shortcut) if min(step.size_in) >= threshold else None

    name = f"ddpm from {threshold} px"
    return Policy(name, block, _is_last_norm, published_attention_fault=published_attention_fault)


def progressive_distillation(threshold: int = 64, main: int = 6, shortcut: int = 4) -> Policy:
    """Progressive Distillation's U-Net but attention; a block that resamples is judged by the size before it does."""

    def block(step: ConvStep) -> Block:
        if step.name in ("conv_in", "conv_out") or ".attn" in step.name:
            return None
        size = min(step.size_in)
        if ".downsample." in step.name:
            size *= 2
        elif ".upsample." in step.name:
            size //= 2
        return _by_kernel(step, main, shortcut) if size >= threshold else None

    return Policy(f"progressive distillation from {threshold} px", block, _is_last_norm)


SPADE_BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")


def spade(sparse_layers: int = 5, main: int = 6, shortcut: int = 4) -> Policy:
    """SPADE's generator and its small form: the last `sparse_layers` blocks. Raises ValueError for more than 7."""
    if not 0 <= sparse_layers <= len(SPADE_BLOCKS):
        raise ValueError(f"sparse_layers is {sparse_layers}; the generator has {len(SPADE_BLOCKS)} blocks")
    sparse = SPADE_BLOCKS[len(SPADE_BLOCKS) - sparse_layers :]

    def block(step: ConvStep) -> Block:
        first = step.name.split(".")[0]
        if first not in sparse:
            return None
        if step.name.endswith((".mlp_gamma.conv.2", ".mlp_beta.conv.2")):
            return FOLLOW
        return _by_kernel(step, main, shortcut)

    # Instance norms of blocks that are not sparse see the edit, as everything in these blocks does.
    return Policy(f"spade, {sparse_layers} layers", block, lambda name: name.split(".")[0] not in sparse)


def by_size(threshold: int = 64, main: int = 6, shortcut: int = 4, first_and_last: bool = False) -> Policy:
    """Any network: every convolution at `threshold` px or more, but for those at the picture's ends."""

    def block(step: ConvStep) -> Block:
        at_an_end = step.name in ("conv_in", "conv_out")
        if at_an_end and not first_and_last:
            return None
        return _by_kernel(step, main, shortcut) if min(step.size_in) >= threshold else None

    return Policy(
        f"by size, from {threshold} px",
        block,
        _is_last_norm,
        lambda name, size: shortcut if min(size) >= threshold else None,
    )


def beyond_published(threshold: int = 1, main: int = 6, shortcut: int = 4) -> Policy:
    """Any network: all that can be computed on tiles is, at `threshold` px or more. No paper has measured this.

    The published policies leave the picture's ends and the small maps dense. Here the last norm keeps the statistics of
    the original as all others do: with new ones every pixel would change, and not those of the tiles alone.
    """
    everything = by_size(threshold, main, shortcut, first_and_last=True)
    name = f"beyond the published ones, from {threshold} px"
    return replace(everything, name=name, fresh_norms=lambda name: False, keeps_keys=True)


def stable_diffusion(main: int = 6, shortcut: int = 4) -> Policy:
    """Stable Diffusion's U-Net (diffusers' names): everything but the middle block and the picture's ends.

    The residual blocks of the middle are the dense network's own, norms included.
    """

    def block(step: ConvStep) -> Block:
        if step.name in ("conv_in", "conv_out") or step.name.startswith("mid_block."):
            return None
        return _by_kernel(step, main, shortcut)

    return Policy(
        "stable diffusion",
        block,
        lambda name: _is_last_norm(name) or name.startswith("mid_block.resnets."),
        lambda name, size: None if name.startswith("mid_block") else shortcut,
    )


def stable_diffusion_autoencoder(main: int = 6, shortcut: int = 4) -> Policy:
    """Stable Diffusion's encoder or decoder (diffusers' names, each by itself): everything but the picture's ends.

    The middle's attention is on tiles too, keys and values included. The decoder's picture is the latent.
    """

    def block(step: ConvStep) -> Block:
        return None if step.name in ("conv_in", "conv_out") else _by_kernel(step, main, shortcut)

    return Policy(
        "stable diffusion's autoencoder",
        block,
        _is_last_norm,
        lambda name, size: shortcut,
        keeps_keys=True,
        doublings=3,
    )


def everywhere() -> Policy:
    """No tiles: every convolution is computed on the whole map."""
    return Policy("everywhere", lambda step: None, lambda name: True)


def _by_kernel(step: ConvStep, main: int, shortcut: int) -> Block:
    return shortcut if step.kernel == 1 else main


def _is_last_norm(name: str) -> bool:
    return name in ("norm_out", "conv_norm_out")
