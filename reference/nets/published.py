"""From what a published checkpoint holds to the state dict of a network: entries, averaged weights, prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MODEL, EMA, PARALLEL = "model", "ema", "module."
STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"


def published_state(container: Mapping[str, Any], network: nn.Module, ema: bool = False) -> dict[str, Tensor]:
    """The state dict of `network` in a published file's content, by the network's own names.

    The content is a bare state dict, or {"model": state dict, "ema": averaged weights}, nested or flattened to dotted
    names; `module.` before names (of a parallel wrapper) is dropped. With `ema` the averaged weights take the place of
    the model's where there are some: {name: tensor}, or a list in the order of the network's parameters. Tensors are
    shared with the container. Only names are compared: shapes are for `load_state_dict`.

    Raises ValueError naming what is missing or does not belong to the network.
    """
    tensors = dict(_flat(container))
    state = _entry(tensors, MODEL) or {k: v for k, v in tensors.items() if not k.startswith(f"{EMA}.")}
    state = _bare(state)
    if ema:
        state.update(_averaged(_entry(tensors, EMA), network))
    expected = list(network.state_dict())
    for name in expected:  # files older than the counter of batches, which nothing reads in evaluation
        if name.endswith(f".{COUNTER}"):
            state.setdefault(name, torch.tensor(0))
    missing, extra = [k for k in expected if k not in state], sorted(state.keys() - set(expected))
    if missing or extra:
        raise ValueError(
            f"this is no checkpoint of {type(network).__name__} as configured: "
            + "; ".join(part for part in (_some("missing", missing), _some("not of this network", extra)) if part)
        )
    return {name: state[name] for name in expected}


def fit_running_statistics(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Cuts running means and variances (C',) that are longer than the network's (C,) to their first C entries.

    Published compressed networks keep the statistics of the larger network that they were cut out of. Raises ValueError
    where they are shorter.
    """
    own = network.state_dict()
    out = dict(state)
    for name, value in state.items():
        if not name.endswith(STATISTICS) or name not in own:
            continue
        wanted = len(own[name])
        if len(value) < wanted:
            raise ValueError(f"{name} has {len(value)} entries, the network needs {wanted}")
        out[name] = value[:wanted]
    return out


def joined(state: dict[str, Tensor], names: Sequence[str], name: str) -> None:
    """Replaces tensors by one, concatenated along the first axis. Raises ValueError where one of them is missing."""
    missing = [part for part in names if part not in state]
    if missing:
        raise ValueError(f"cannot fuse to {name}: {_some('missing', missing)}")
    state[name] = torch.cat([state.pop(part) for part in names])


def parted(state: dict[str, Tensor], name: str, names: Sequence[str], sizes: Sequence[int]) -> None:
    """Replaces a tensor by its parts of given sizes along the first axis, each with memory of its own.

    Raises ValueError where it is missing or has another length.
    """
    if name not in state:
        raise ValueError(f"cannot unfuse: {_some('missing', [name])}")
    if len(state[name]) != sum(sizes):
        raise ValueError(
            f"cannot unfuse: {name} has {len(state[name])} rows, not {sum(sizes)}; is its network another?"
        )
    whole = state.pop(name)
    state.update({part: rows.clone() for part, rows in zip(names, whole.split(list(sizes)), strict=True)})


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    for key, value in items:
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _entry(tensors: Mapping[str, Tensor], entry: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{entry}."): v for k, v in tensors.items() if k.startswith(f"{entry}.")}


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PARALLEL): value for name, value in state.items()}


def _averaged(entry: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Averaged weights by name. All of them or none: a mixture with the model's own would go unnoticed."""
    parameters = dict(network.named_parameters())
    if not entry:
        raise ValueError(f"the checkpoint has no averaged weights: it has no entry {EMA!r}")
    if all(key.isdecimal() for key in entry):
        if len(entry) != len(parameters):
            raise ValueError(f"the list of averaged weights has {len(entry)} entries, the network {len(parameters)}")
        named = {name: entry[str(i)] for i, name in enumerate(parameters)}
        wrong = [name for name, value in named.items() if value.shape != parameters[name].shape]
        if wrong:
            raise ValueError(f"the list of averaged weights is in another order: {_some('of other shape', wrong)}")
        return named
    named = _bare(entry)
    missing = [name for name in parameters if name not in named]
    if missing:
        raise ValueError(f"the averaged weights are not complete: {_some('missing', missing)}")
    return named


def _some(what: str, names: Sequence[str], most: int = 5) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"
