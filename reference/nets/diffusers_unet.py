"""DDPM's U-Net under the names and settings of diffusers' UNet2DModel, both ways.

The networks are the same; diffusers keeps the attention's 1x1 kernels as matrices and counts the levels of the way up
from the lowest resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gengauge.reference.nets.published import some
from gengauge.reference.nets.unet import EPS, UNetConfig, plan

KINDS = ("weight", "bias")
MARK = "time_embedding.linear_1.weight"  # a name that only diffusers' layout has
OUTSIDE = {
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
BLOCK = {"norm1": "norm1", "conv1": "conv1", "temb_proj": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# What diffusers called these before its release 0.13.
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
MIDDLE = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_2": "mid_block.resnets.1",
}

# Settings of UNet2DModel that this network has one value of, with diffusers' own default where it is another.
FIXED: Mapping[str, Any] = {
    "time_embedding_type": "positional",
    "center_input_sample": False,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_padding": 0,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "norm_eps": EPS,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "act_fn": "silu",
}
DEFAULTS: Mapping[str, Any] = {
    **FIXED,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "norm_eps": 1e-5,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "dropout": 0.0,
    "time_embedding_dim": None,
    "num_train_timesteps": None,  # counts for learned embeddings only
}
# What no network of this kind has more of: a hostile file must not keep us building.
MOST = {"layers_per_block": 32, "norm_num_groups": 4096, "sample_size": 65536}
MOST |= dict.fromkeys(("block_out_channels", "in_channels", "out_channels", "time_embedding_dim"), 65536)
NEEDED = ("sample_size", "block_out_channels", "down_block_types", "up_block_types")
PLAIN, ATTENDING = ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D")


def to_diffusers(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The plain network's state dict under diffusers' names; tensors share memory.

    Raises ValueError naming what is missing or is not of the network.
    """
    names = _tensors(config)
    _same_names(state, names)
    return {theirs: _matrix(state[ours]) if matrix else state[ours] for ours, (theirs, matrix) in names.items()}


def from_diffusers(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """The plain network's state dict from diffusers', of either naming of the attention: the inverse of `to_diffusers`.

    Raises ValueError as it does.
    """
    current: dict[str, str] = {}
    for theirs, _ in _tensors(config).values():
        current[theirs] = theirs
        for new, old in OLD_ATTENTION.items():
            if f".{new}." in theirs:
                current[theirs.replace(f".{new}.", f".{old}.")] = theirs
    renamed = {current.get(name, name): value for name, value in state.items()}
    names = _tensors(config)
    _same_names(renamed, [theirs for theirs, _ in names.values()])
    return {ours: _kernel(renamed[theirs]) if matrix else renamed[theirs] for ours, (theirs, matrix) in names.items()}


def diffusers_config(config: UNetConfig) -> dict[str, Any]:
    """The content of `config.json` of diffusers' UNet2DModel for this network.

    Raises ValueError naming a setting that UNet2DModel cannot express.
    """
    if not config.resamp_with_conv:
        raise ValueError("resamp_with_conv is False; UNet2DModel always has convolutions where it resamples")
    if config.ch_mult[0] != 1:
        raise ValueError(f"ch_mult starts with {config.ch_mult[0]}; UNet2DModel's first level has as many as its input")
    levels = range(len(config.ch_mult))
    kinds = [ATTENDING if config.attends(level) else PLAIN for level in levels]
    usual = config.temb_ch == 4 * config.ch
    return {
        "_class_name": "UNet2DModel",
        **FIXED,
        "sample_size": config.resolution,
        "in_channels": config.in_channels,
        "out_channels": config.out_ch,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.num_res_blocks,
        "down_block_types": [down for down, _ in kinds],
        "up_block_types": [up for _, up in reversed(kinds)],
        "attention_head_dim": None,  # one head
        "norm_num_groups": config.num_groups,
        "attn_norm_num_groups": None,
        "dropout": config.dropout,
        # Left out where it is the usual one, for older releases of diffusers do not know it.
        **({} if usual else {"time_embedding_dim": config.temb_ch}),
    }


def unet_config(settings: Mapping[str, Any]) -> UNetConfig:
    """The network of a `config.json` of diffusers' UNet2DModel; what it leaves out has diffusers' default.

    Raises ValueError naming the setting that is missing, unknown or makes another network.
    """
    kind = settings.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise ValueError(f"_class_name is {kind!r}; this reads 'UNet2DModel'")
    missing = [name for name in NEEDED if settings.get(name) is None]
    if missing:
        raise ValueError(f"settings are missing: {', '.join(missing)}")
    given = {name: value for name, value in settings.items() if not name.startswith("_")}
    unknown = sorted(given.keys() - {*DEFAULTS, *NEEDED})
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}")
    full = {**DEFAULTS, **given}
    if full["act_fn"] == "swish":  # another name of the same
        full["act_fn"] = "silu"
    for name, value in FIXED.items():
        if full[name] != value:
            raise ValueError(f"{name} is {full[name]!r}; DDPM's network has {value!r}")

    down, up = _several(full["down_block_types"]), _several(full["up_block_types"])
    for name, types, known in (("down_block_types", down, 0), ("up_block_types", up, 1)):
        foreign = [kind for kind in types if kind not in (PLAIN[known], ATTENDING[known])]
        if foreign:
            raise ValueError(f"{name} has {foreign[0]!r}; it can have {PLAIN[known]!r} and {ATTENDING[known]!r}")
    attends = [kind == ATTENDING[0] for kind in down]
    if attends != [kind == ATTENDING[1] for kind in reversed(up)]:
        raise ValueError("up_block_types does not mirror down_block_types")

    widths = _counts(full, "block_out_channels")
    if len(widths) != len(down) or any(width % widths[0] for width in widths):
        raise ValueError(f"block_out_channels is {list(widths)}; each level has a multiple of the first's channels")
    sizes = _counts(full, "sample_size")
    if len(set(sizes)) != 1:
        raise ValueError(f"sample_size is {list(sizes)}; pictures must be square")
    groups = _count(full, "norm_num_groups")
    if full["attn_norm_num_groups"] not in (None, groups):
        raise ValueError(f"attn_norm_num_groups is {full['attn_norm_num_groups']!r}; it must be norm_num_groups")
    attended = {width for width, attending in zip(widths, attends, strict=True) if attending} | {widths[-1]}
    if full["attention_head_dim"] is not None and attended != {full["attention_head_dim"]}:
        raise ValueError(f"attention_head_dim is {full['attention_head_dim']!r}; DDPM's network has one head: null")
    return UNetConfig(
        resolution=sizes[0],
        ch=widths[0],
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=_count(full, "layers_per_block"),
        attn_resolutions=tuple(sizes[0] >> level for level, attending in enumerate(attends) if attending),
        temb_ch=4 * widths[0] if full["time_embedding_dim"] is None else _count(full, "time_embedding_dim"),
        in_channels=_count(full, "in_channels"),
        out_ch=_count(full, "out_channels"),
        dropout=_share(full, "dropout"),
        num_groups=groups,
    )


def _share(settings: Mapping[str, Any], name: str) -> float:
    value = settings[name]
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must lie in 0..1")
    return float(value)


def _count(settings: Mapping[str, Any], name: str) -> int:
    value = settings[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST[name]:
        raise ValueError(f"{name} is {value!r}; it must be a number from 1 to {MOST[name]}")
    return value


def _counts(settings: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return tuple(_count({name: entry}, name) for entry in _several(settings[name]))


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) and value else [value]


def _tensors(config: UNetConfig) -> dict[str, tuple[str, bool]]:
    """Our name of each tensor: diffusers' name, and whether there it is a matrix and here a 1x1 kernel."""
    out: dict[str, tuple[str, bool]] = {}

    def add(ours: str, theirs: str, matrix: bool = False) -> None:
        for kind in KINDS:
            out[f"{ours}.{kind}"] = (f"{theirs}.{kind}", matrix and kind == "weight")

    for ours, theirs in OUTSIDE.items():
        add(ours, theirs)
    for block in plan(config):
        place = _place(block.name, config)
        for ours, theirs in BLOCK.items():
            add(f"{block.name}.{ours}", f"{place}.{theirs}")
        if block.inputs != block.outputs:
            add(f"{block.name}.nin_shortcut", f"{place}.conv_shortcut")
        if block.attention:
            for ours, theirs in ATTENTION.items():
                add(f"{block.attention}.{ours}", f"{_place(block.attention, config)}.{theirs}", ours != "norm")
    for level in range(len(config.ch_mult) - 1):
        add(f"down.{level}.downsample.conv", f"down_blocks.{level}.downsamplers.0.conv")
        add(f"up.{level + 1}.upsample.conv", f"up_blocks.{len(config.ch_mult) - 2 - level}.upsamplers.0.conv")
    return out


def _place(name: str, config: UNetConfig) -> str:
    """Where diffusers keeps a block or an attention, such as `down.0.block.1` or `mid.attn_1`."""
    if name in MIDDLE:
        return MIDDLE[name]
    side, level, kind, index = name.split(".")
    number = int(level) if side == "down" else len(config.ch_mult) - 1 - int(level)
    return f"{side}_blocks.{number}.{'resnets' if kind == 'block' else 'attentions'}.{index}"


def _same_names(state: Mapping[str, Tensor], expected: Mapping[str, Any] | list[str]) -> None:
    missing = [name for name in expected if name not in state]
    extra = sorted(state.keys() - set(expected))
    if missing or extra:
        parts = (some("missing", missing), some("not of this network", extra))
        raise ValueError("this is no U-Net as configured: " + "; ".join(part for part in parts if part))


def _matrix(kernel: Tensor) -> Tensor:
    return kernel[:, :, 0, 0]


def _kernel(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None] if matrix.ndim == 2 else matrix
