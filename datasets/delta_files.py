"""The files of customised models: those of Custom Diffusion's two codes, of diffusers' training, and our own.

| layout | what is in it |
| --- | --- |
| `delta` | `delta.bin`: {"unet": {name: tensor}, "modifier_token": {token: vector or vectors}, "text_encoder": ...} |
| `compvis` | `delta_epoch=N.ckpt`: {"state_dict": {latent diffusion's name: tensor, "embed": (tokens, width)}} |
| `diffusers` | `pytorch_custom_diffusion_weights.bin` or `.safetensors`, and `<token>` with the same ending beside it |
| `gengauge` | safetensors of the groups of `delta`, with the order of the tokens and samples of the base's weights |

In `delta` and `compvis` a weight's change may stand as factors, {"u": (out, r), "v": (r, in)}: the published codes then
call the file `compressed_delta...`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor

from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.delta_names import (
    LATENT_DIFFUSION,
    LAYERS,
    from_latent_diffusion,
    from_processor,
    to_latent_diffusion,
    to_processor,
)
from gengauge.datasets.deltas import Delta, check_numbers
from gengauge.datasets.saving import write_checkpoint, write_tensors
from gengauge.datasets.unpickling import DamagedCheckpoint, reading

Layout = Literal["delta", "compvis", "diffusers", "gengauge"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
FORMAT, VERSION = "gengauge delta", "1"
DIFFUSERS = "pytorch_custom_diffusion_weights"
FILES = ("delta.safetensors", "delta.bin", f"{DIFFUSERS}.safetensors", f"{DIFFUSERS}.bin")  # of a folder
UNET, TOKEN, BASE, ENCODERS = "unet.", "modifier_token.", "base.", ("text_encoder", "text_encoder_2")
STATE, EMBED, PROCESSOR = "state_dict.", "embed", ".attn2.processor."
U, V = ".u", ".v"


def read_delta(path: Path, tokens: Sequence[str] | None = None, layers: int = LAYERS) -> Delta:
    """The delta of a file of any layout, or of a folder that holds one; all tensors in float32. Nothing else is run.

    `tokens` are the names of the rows of `embed`, which `compvis` does not store; without them they are <new1>, <new2>,
    and so on. For `diffusers` they name the token files, by default all of names in angle brackets. `layers` is the
    number of residual blocks a level of the U-Net, by which `compvis` names blocks.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint naming the file.
    """
    file = _file(path)
    tensors = read_tensors(file)
    with reading(file):
        told = _metadata(file)
        if told.get("format") == FORMAT:
            return _from_gengauge(tensors, told)
        if any(PROCESSOR in name for name in tensors):
            return _from_diffusers(file, tensors, tokens)
        if any(name.startswith((STATE, LATENT_DIFFUSION)) for name in tensors):
            return _from_compvis(tensors, tokens, layers)
        return _from_groups(tensors)


def layout_of(path: Path) -> Layout:
    """The layout that a file's name asks for: diffusers' own, or by its ending.

    Raises ValueError for other endings.
    """
    if path.stem == DIFFUSERS and path.suffix in (".bin", ".safetensors"):
        return "diffusers"
    by_ending: dict[str, Layout] = {".ckpt": "compvis", ".bin": "delta", ".safetensors": "gengauge"}
    if path.suffix not in by_ending:
        raise ValueError(f"{path}: a delta's name ends with {', '.join(by_ending)}; or say which layout it is to have")
    return by_ending[path.suffix]


def write_delta(
    path: Path,
    delta: Delta,
    layout: Layout | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    layers: int = LAYERS,
) -> None:
    """Writes a delta in a layout, by default that of the file's name; `path` changes at the end only.

    What a layout cannot hold is refused, not left out; samples of the base are kept by `gengauge` only. Raises
    ValueError naming it, or a tensor that `dtype` cannot hold, and OSError where the file cannot be made.
    """
    layout = layout or layout_of(path)
    if layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if layout == "gengauge":
        _write_gengauge(path, delta, dtype)
    elif layout == "delta":
        write_checkpoint(path, _delta_content(delta, dtype))
    elif layout == "compvis":
        write_checkpoint(path, _compvis_content(delta, dtype, layers))
    else:
        _write_diffusers(path, delta, dtype)


# -- reading -----------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds no delta: there is none of {', '.join(FILES)} in it")


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as stream:
        if stream.read(9)[8:] != b"{":
            return {}
    with safe_open(path, "pt") as archive:
        return dict(archive.metadata() or {})


def _from_gengauge(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> Delta:
    if told.get("version") != VERSION:
        raise DamagedCheckpoint(f"its version is {told.get('version')!r}, and this gengauge reads {VERSION}")
    try:
        order = json.loads(told.get("tokens", ""))
    except RecursionError:
        order = None
    found = _from_groups(tensors)
    if not isinstance(order, list) or not all(isinstance(each, str) for each in order):
        raise DamagedCheckpoint("it does not tell the order of its tokens")
    if sorted(order) != sorted(found.tokens):
        raise DamagedCheckpoint(f"it says tokens {order} and holds {sorted(found.tokens)}")
    return Delta(
        found.weights, {token: found.tokens[token] for token in order}, found.factors, found.text_encoders, found.base
    )


def _from_groups(tensors: Mapping[str, Tensor]) -> Delta:
    groups: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in (UNET, TOKEN, BASE, *(f"{e}." for e in ENCODERS))}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in groups if name.startswith(prefix)), None)
        if prefix is None:
            raise DamagedCheckpoint(f"it holds {name or 'a tensor without a name'}, which is no part of a delta")
        groups[prefix][name.removeprefix(prefix)] = tensor
    weights, factors = _weights(groups[UNET])
    encoders = {encoder: _floats(groups[f"{encoder}."]) for encoder in ENCODERS if groups[f"{encoder}."]}
    return Delta(weights, _tokens(groups[TOKEN]), factors, encoders, groups[BASE])


def _weights(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Whole weights, and pairs of factors by the name of the weight."""
    check_numbers(tensors)
    halves = [{name.removesuffix(end) for name in tensors if name.endswith(end)} for end in (U, V)]
    if odd := halves[0] ^ halves[1]:
        raise DamagedCheckpoint(f"it holds one of the two factors of {min(odd)}")
    single = {name: tensor.float() for name, tensor in tensors.items()}
    paired = [name.removesuffix(U) for name in single if name.endswith(U)]
    factors = {name: (single.pop(name + U), single.pop(name + V)) for name in paired}
    return single, factors


def _tokens(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """Embeddings by token: NAME, or NAME.0, NAME.1, ... where there are several text encoders."""
    out: dict[str, tuple[Tensor, ...]] = {}
    for name, tensor in tensors.items():
        token, _, number = name.rpartition(".")
        if token and number.isdigit() and f"{token}.0" in tensors:
            if int(number) != len(out.get(token, ())):
                raise DamagedCheckpoint(f"the embeddings of {token} are not numbered from 0")
            out[token] = (*out.get(token, ()), tensor.float())
        else:
            out[name] = (tensor.float(),)
    return out


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Old files of text encoders hold their positions, which are counts.
    return {name: tensor.float() for name, tensor in tensors.items() if not name.endswith("position_ids")}


def _from_compvis(tensors: Mapping[str, Tensor], tokens: Sequence[str] | None, layers: int) -> Delta:
    bare = {name.removeprefix(STATE): tensor for name, tensor in tensors.items()}
    embed = bare.pop(EMBED, None)
    weights, factors = _weights(bare)
    rows = 0 if embed is None else len(embed)
    names = [f"<new{i + 1}>" for i in range(rows)] if tokens is None else list(tokens)
    if len(names) != rows or len({*names}) != rows:
        raise DamagedCheckpoint(f"it holds {rows} tokens, which are to be called {', '.join(names)}")
    vectors = {} if embed is None else {token: (row.float(),) for token, row in zip(names, embed, strict=True)}
    return Delta(
        {from_latent_diffusion(name, layers): tensor for name, tensor in weights.items()},
        vectors,
        {from_latent_diffusion(name, layers): pair for name, pair in factors.items()},
    )


def _from_diffusers(path: Path, tensors: Mapping[str, Tensor], tokens: Sequence[str] | None) -> Delta:
    check_numbers(tensors)
    weights = {from_processor(name): tensor.float() for name, tensor in tensors.items()}
    vectors: dict[str, tuple[Tensor, ...]] = {}
    for token, file in _token_files(path, tokens).items():
        read = read_tensors(file)
        if [*read] != [token]:
            raise DamagedCheckpoint(f"{file.name} beside it holds {', '.join(read) or 'nothing'}, not {token}")
        vectors[token] = (read[token].float(),)
    return Delta(weights, vectors)


def _token_files(path: Path, tokens: Sequence[str] | None) -> dict[str, Path]:
    endings = (path.suffix, ".safetensors", ".bin")
    if tokens is None:
        tokens = sorted({file.stem for file in path.parent.glob("<*>.*") if file.suffix in endings})
    found = {}
    for token in tokens:
        places = [path.with_name(token + ending) for ending in endings]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DamagedCheckpoint(f"there is no file of the token {token} beside it")
        found[token] = file
    return found


# -- writing -----------------------------------------------------------------------------------------------------------


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    check_numbers({f"in {dtype} {name}": cast})
    return cast


def _delta_content(delta: Delta, dtype: torch.dtype) -> dict[str, Any]:
    content: dict[str, Any] = {"unet": _entries(delta, dtype), "modifier_token": {}}
    for token, vectors in delta.tokens.items():
        cast = [_cast(token, vector, dtype) for vector in vectors]
        content["modifier_token"][token] = cast[0] if len(cast) == 1 else cast
    for encoder, state in delta.text_encoders.items():
        content[encoder] = {name: _cast(name, tensor, dtype) for name, tensor in state.items()}
    return content


def _entries(delta: Delta, dtype: torch.dtype) -> dict[str, Any]:
    entries: dict[str, Any] = {name: _cast(name, tensor, dtype) for name, tensor in delta.weights.items()}
    for name, (u, v) in delta.factors.items():
        entries[name] = {"u": _cast(name, u, dtype), "v": _cast(name, v, dtype)}
    return entries


def _compvis_content(delta: Delta, dtype: torch.dtype, layers: int) -> dict[str, Any]:
    _refuse(delta, "the latent diffusion code's layout")
    state = {to_latent_diffusion(name, layers): entry for name, entry in _entries(delta, dtype).items()}
    if delta.tokens:
        state[EMBED] = torch.stack([_cast(token, vectors[0], dtype) for token, vectors in delta.tokens.items()])
    return {"state_dict": state}


def _write_diffusers(path: Path, delta: Delta, dtype: torch.dtype) -> None:
    _refuse(delta, "diffusers' layout")
    if delta.factors:
        raise ValueError("diffusers' layout holds whole weights only; make them of the factors by deltas.whole")
    if path.suffix not in (".bin", ".safetensors"):
        raise ValueError(f"{path}: a file of diffusers' layout ends with .bin or .safetensors")
    weights: dict[str, Any] = {to_processor(name): _cast(name, each, dtype) for name, each in delta.weights.items()}
    for token, vectors in delta.tokens.items():
        _write_by_ending(path.with_name(token + path.suffix), {token: _cast(token, vectors[0], dtype)})
    if path.suffix == ".bin":
        # diffusers counts processors when it loads these, those without weights too.
        selves = {name.split(PROCESSOR)[0] + ".attn1.processor" for name in weights}
        weights |= {name: {} for name in sorted(selves)}
    _write_by_ending(path, weights)


def _write_by_ending(path: Path, content: dict[str, Any]) -> None:
    if path.suffix == ".bin":
        write_checkpoint(path, content)
    else:
        write_tensors(path, content, {"format": "pt"})


def _refuse(delta: Delta, what: str) -> None:
    if delta.text_encoders:
        raise ValueError(f"{what} has no place for a text encoder's weights; write the layout delta or gengauge")
    if any(len(vectors) > 1 for vectors in delta.tokens.values()):
        raise ValueError(f"{what} has no place for tokens of several text encoders; write the layout delta or gengauge")


def _write_gengauge(path: Path, delta: Delta, dtype: torch.dtype) -> None:
    tensors = {UNET + name: _cast(name, tensor, dtype) for name, tensor in delta.weights.items()}
    for name, (u, v) in delta.factors.items():
        tensors |= {UNET + name + U: _cast(name, u, dtype), UNET + name + V: _cast(name, v, dtype)}
    for token, vectors in delta.tokens.items():
        tensors |= {f"{TOKEN}{token}.{i}": _cast(token, vector, dtype) for i, vector in enumerate(vectors)}
    for encoder, state in delta.text_encoders.items():
        tensors |= {f"{encoder}.{name}": _cast(name, tensor, dtype) for name, tensor in state.items()}
    tensors |= {BASE + name: tensor for name, tensor in delta.base.items()}
    write_tensors(path, tensors, {"format": FORMAT, "version": VERSION, "tokens": json.dumps([*delta.tokens])})
