"""From what a published checkpoint holds to the state dict of a network: entries, averaged weights, prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MODEL, EMA, PARALLEL = "model", "ema", "module."
SHADOW = f"{EMA}.shadow_params"  # where the trainer of score networks keeps the list of averaged weights
LISTED, LISTED_EMA = "0", "4"  # places in the list that DDIM's trainer saves
STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"


def published_state(container: Mapping[str, Any], network: nn.Module, ema: bool | None = False) -> dict[str, Tensor]:
    """The state dict of `network` in a published file's content, by the network's own names.

    The content, nested or flattened to dotted names, is one of
    - a bare state dict,
    - {"model": state dict, "ema": averaged weights} (SIGE),
    - {"model": state dict, "ema": {"shadow_params": averaged weights, ...}, ...} (score networks of Song et al.),
    - [state dict, optimiser, epoch, step, averaged weights] (DDIM).

    `module.` before names (of a parallel wrapper) is dropped. With `ema` the averaged weights take the place of the
    model's, with None only where the file holds some: {name: tensor}, or a list in the order of the network's trained
    parameters. Tensors are shared with the container. Only names are compared: shapes are for `load_state_dict`.

    Raises ValueError naming what is missing or does not belong to the network.
    """
    expected = list(network.state_dict())
    state, averaged = _parts(dict(_flat(container)), expected)
    if ema or (ema is None and averaged):
        state.update(_averaged(averaged, network))
    for name in expected:  # files older than the counter of batches, which nothing reads in evaluation
        if name.endswith(f".{COUNTER}"):
            state.setdefault(name, torch.tensor(0))
    missing, extra = [k for k in expected if k not in state], sorted(state.keys() - set(expected))
    if missing or extra:
        raise ValueError(
            f"this is no checkpoint of {type(network).__name__} as configured: "
            + "; ".join(part for part in (some("missing", missing), some("not of this network", extra)) if part)
        )
    return {name: state[name] for name in expected}


def checkpoint_of_ddim(
    state: Mapping[str, Tensor],
    averaged: Mapping[str, Tensor] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    epoch: int = 0,
    step: int = 0,
) -> list[Any]:
    """What DDIM's trainer saves: [model, optimiser, epoch, step] and, where there are some, averaged weights."""
    model = {f"{PARALLEL}{name}": value for name, value in state.items()}
    kept = [dict(averaged)] if averaged is not None else []
    return [model, dict(optimizer or {}), epoch, step, *kept]


def checkpoint_of_score_network(
    network: nn.Module,
    averaged: Mapping[str, Tensor],
    decay: float,
    optimizer: Mapping[str, Any] | None = None,
    step: int = 0,
) -> dict[str, Any]:
    """What the trainer of score networks (Song et al.) saves; `averaged` must name every trained parameter.

    Raises ValueError naming the parameters that it lacks.
    """
    trained = trained_parameters(network)
    missing = [name for name in trained if name not in averaged]
    if missing:
        raise ValueError(f"the averaged weights are not complete: {some('missing', missing)}")
    return {
        "optimizer": dict(optimizer or {}),
        MODEL: {f"{PARALLEL}{name}": value for name, value in network.state_dict().items()},
        EMA: {"decay": decay, "num_updates": step, "shadow_params": [averaged[name] for name in trained]},
        "step": step,
    }


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name without those that are never trained; all of them where the whole network is frozen."""
    parameters = dict(network.named_parameters())
    return {name: value for name, value in parameters.items() if value.requires_grad} or parameters


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
        raise ValueError(f"cannot fuse to {name}: {some('missing', missing)}")
    state[name] = torch.cat([state.pop(part) for part in names])


def parted(state: dict[str, Tensor], name: str, names: Sequence[str], sizes: Sequence[int]) -> None:
    """Replaces a tensor by its parts of given sizes along the first axis, each with memory of its own.

    Raises ValueError where it is missing or has another length.
    """
    if name not in state:
        raise ValueError(f"cannot unfuse: {some('missing', [name])}")
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


def _parts(tensors: Mapping[str, Tensor], expected: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's state dict, without wrappers, and the averaged weights as they stand, empty where there are none."""
    if all(name.split(".")[0].isdecimal() for name in tensors) and not set(tensors).intersection(expected):
        return _bare(_entry(tensors, LISTED)), _entry(tensors, LISTED_EMA)
    averaged = _entry(tensors, SHADOW) or _entry(tensors, EMA)
    rest = {name: value for name, value in tensors.items() if not name.startswith(f"{EMA}.")}
    # CUT's names begin with "model." themselves: a bare state dict of theirs has no entry of that name.
    bare = not set(_bare(rest)).isdisjoint(expected)
    model = rest if bare else _entry(tensors, MODEL) or rest
    return _bare(model), averaged


def _entry(tensors: Mapping[str, Tensor], entry: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{entry}."): v for k, v in tensors.items() if k.startswith(f"{entry}.")}


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PARALLEL): value for name, value in state.items()}


def _averaged(entry: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Averaged weights by name. All of them or none: a mixture with the model's own would go unnoticed."""
    parameters = trained_parameters(network)
    if not entry:
        raise ValueError(f"the checkpoint has no averaged weights: it has no entry {EMA!r}")
    if all(key.isdecimal() for key in entry):
        if len(entry) != len(parameters):
            raise ValueError(f"the list of averaged weights has {len(entry)} entries, the network {len(parameters)}")
        named = {name: entry[str(i)] for i, name in enumerate(parameters)}
        wrong = [name for name, value in named.items() if value.shape != parameters[name].shape]
        if wrong:
            raise ValueError(f"the list of averaged weights is in another order: {some('of other shape', wrong)}")
        return named
    named = _bare(entry)
    missing = [name for name in parameters if name not in named]
    if missing:
        raise ValueError(f"the averaged weights are not complete: {some('missing', missing)}")
    return named


def some(what: str, names: Sequence[str], most: int = 5) -> str:
    """What is the matter with some names: "missing: a, b and 3 more"; empty for none."""
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"
