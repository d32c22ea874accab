"""Names of a U-Net's attention weights: diffusers', the latent diffusion code's, and those of diffusers' processors.

The latent diffusion code numbers the blocks of all levels on; diffusers counts levels, and layers within one. What
follows the block's name, from `transformer_blocks`, is the same in both. diffusers' training of Custom Diffusion keeps
trained weights under the attention's processor (`attn2.processor.to_k_custom_diffusion.weight`).
"""

from __future__ import annotations

import re

LATENT_DIFFUSION = "model.diffusion_model."
LAYERS = 2  # residual blocks a level of the way down, of Stable Diffusion in all its versions

_TAIL = r"(?P<tail>transformer_blocks\.\d+\.attn[12]\.(?:to_q|to_k|to_v|to_out\.0)\.(?:weight|bias))"
_THEIRS = re.compile(
    rf"(?:{re.escape(LATENT_DIFFUSION)})?(?P<side>input|middle|output)_block(?:s\.(?P<block>\d+))?\.1\.{_TAIL}"
)
_OURS = re.compile(rf"(?P<side>down|mid|up)_block(?:s\.(?P<level>\d+))?\.attentions\.(?P<layer>\d+)\.{_TAIL}")
_WEIGHT = re.compile(
    r"(?P<attention>.+\.attn2)\.(?P<kind>to_q|to_k|to_v|to_out)(?P<number>\.0)?\.(?P<part>weight|bias)"
)
_PROCESSOR = re.compile(
    r"(?P<attention>.+\.attn2)\.processor\.(?P<kind>to_q|to_k|to_v|to_out)_custom_diffusion(?P<number>\.0)?"
    r"\.(?P<part>weight|bias)"
)


def is_key_or_value(name: str) -> bool:
    """Whether a weight turns text into keys or values: what Custom Diffusion trains."""
    return name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))


def from_latent_diffusion(name: str, layers: int = LAYERS) -> str:
    """diffusers' name of an attention weight, of a U-Net with so many layers a level. Raises ValueError for others."""
    found = _THEIRS.fullmatch(name)
    if found is None or (found["block"] is None) != (found["side"] == "middle"):
        raise ValueError(f"{name} is no attention weight of the latent diffusion code's U-Net")
    if found["side"] == "middle":
        return f"mid_block.attentions.0.{found['tail']}"
    # The way down begins with a convolution and ends each level with a change of size; the way up has a layer more.
    block = int(found["block"]) - (found["side"] == "input")
    level, layer = divmod(block, layers + 1)
    if block < 0 or (found["side"] == "input" and layer == layers):
        raise ValueError(f"{name}: block {found['block']} has no attention where a level has {layers} layers")
    return f"{'down' if found['side'] == 'input' else 'up'}_blocks.{level}.attentions.{layer}.{found['tail']}"


def to_latent_diffusion(name: str, layers: int = LAYERS) -> str:
    """The latent diffusion code's name of diffusers' attention weight: the inverse of `from_latent_diffusion`.

    Raises ValueError for other names, and for a layer that a level does not have.
    """
    found = _OURS.fullmatch(name)
    if found is None or (found["level"] is None) != (found["side"] == "mid"):
        raise ValueError(f"{name} is no attention weight of a U-Net of diffusers")
    down, layer = found["side"] == "down", int(found["layer"])
    if layer >= (1 if found["side"] == "mid" else layers if down else layers + 1):
        raise ValueError(f"{name}: there is no attention {layer} where a level has {layers} layers")
    if found["side"] == "mid":
        return f"{LATENT_DIFFUSION}middle_block.1.{found['tail']}"
    block = int(found["level"]) * (layers + 1) + layer + down
    return f"{LATENT_DIFFUSION}{'input' if down else 'output'}_blocks.{block}.1.{found['tail']}"


def from_processor(name: str) -> str:
    """The U-Net's own name of a weight that diffusers kept under a processor. Raises ValueError for others."""
    return _renamed(name, _PROCESSOR, "{attention}.{kind}{number}.{part}", "weight of diffusers' Custom Diffusion")


def to_processor(name: str) -> str:
    """The inverse of `from_processor`: for weights of the cross-attention only. Raises ValueError for others."""
    form = "{attention}.processor.{kind}_custom_diffusion{number}.{part}"
    return _renamed(name, _WEIGHT, form, "weight of a cross-attention")


def _renamed(name: str, pattern: re.Pattern[str], form: str, what: str) -> str:
    found = pattern.fullmatch(name)
    # Only the projection at the end is one of a list.
    if found is None or (found["number"] is None) != (found["kind"] != "to_out"):
        raise ValueError(f"{name} is no {what}")
    return form.format(**{part: text or "" for part, text in found.groupdict().items()})
