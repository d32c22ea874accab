"""GANgealing's networks from the files that its training writes, the released ones among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gengauge.benchmarks.from_weights import Network, filled
from gengauge.datasets import weights
from gengauge.datasets.checkpoints import read_tensors
from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.latents import DirectionInterpolator
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.warps import BilinearDownsample, Padding
from gengauge.reference.nets.stylegan2.rosinality import Generator
from gengauge.reference.nets.translation_checkpoints import bare_state, from_published

SIZE = 256  # px of the pictures that the released networks are evaluated on
SMALLEST = 4  # px of the features that a similarity ends in, and of a generator's first layer
FULL = 32  # px up to which networks have all their channels
NEIGHBOURS = 9  # whose weights the flow's upsampling regresses
NETWORKS = ("t_ema", "classifier", "g_ema", "ll")
DELTA = 4  # numbers of a similarity
MOST = 16  # layers of one kind that a network has; a file with more is of none


@dataclass(frozen=True)
class Released:
    """How a released model is evaluated, and what of its networks no tensor of its file tells.

    Test settings are those that the published code takes by a model's name; the options in its file are those of the
    training, and are not looked at. `inject_index` is None where no recipe tells it.
    """

    iters: int = 3
    padding_mode: Padding = "border"
    num_heads: int = 1
    num_fp16_res: int = 0
    inject_index: int | None = 5


# Generators of bicycles and televisions were trained with ADA and need the normalised modulation.
RELEASED = {
    "bicycle": Released(padding_mode="reflection", num_fp16_res=4),
    "cat": Released(),
    "cat-ssl-mix6": Released(inject_index=6),
    "celeba": Released(iters=1, inject_index=6),
    "cub": Released(iters=1, inject_index=None),
    "dog": Released(),
    "tvmonitor": Released(padding_mode="reflection", num_fp16_res=4),
    "car": Released(padding_mode="reflection", num_heads=4, inject_index=6),
    "horse": Released(padding_mode="reflection", num_heads=4, inject_index=6),
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of a file by dotted name, of which networks are built, in float32 and evaluation mode.

    Depth, width and heads are read off the tensors. Every method raises ValueError naming `source` and what is missing,
    in excess, not finite or of another shape.
    """

    source: str
    tensors: Mapping[str, Tensor]

    def transformer(
        self, supersize: int = SIZE, num_heads: int | None = None, base_channels: int | None = None
    ) -> ComposedSTN:
        """The averaged transformer, for pictures of `supersize` px; of given heads and width where those are told.

        A bare state dict of a transformer is understood too.
        """
        state = self._part("t_ema") or {k: v for k, v in self.tensors.items() if "stns." in k}
        try:
            arguments = _transformer_arguments(bare_state(state)) if state else self._lacks("t_ema")
            for name, asked in (("num_heads", num_heads), ("base_channels", base_channels)):
                if asked is not None and arguments[name] != asked:
                    raise ValueError(
                        f"its transformer has {name} {arguments[name]:g}, not {asked}; give a checkpoint of that, or "
                        "other settings"
                    )
            flow = arguments["flow_size"]
            if supersize < flow or supersize % flow:
                raise ValueError(
                    f"its flow has {flow} px, which pictures of {supersize} px are no multiple of; give larger ones"
                )
            with torch.device("meta"):
                empty = ComposedSTN(supersize=supersize, **arguments)
            return _filled(empty, state)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from None

    def classifier(self, supersize: int = SIZE) -> ResnetClassifier | None:
        """The classifier of clusters and flips, where it was trained."""
        state = self._part("classifier")
        if not state:
            return None
        try:
            bare = bare_state(state)
            heads, wide = _shape(bare, "to_logits.weight", 2)
            base = wide // SMALLEST**2
            arguments = _trunk_arguments(bare, "", base)
            with torch.device("meta"):
                empty = ResnetClassifier(
                    arguments["flow_size"], arguments["channel_multiplier"], heads, supersize, base
                )
            return _filled(empty, state)
        except ValueError as error:
            raise ValueError(f"{self.source}: its classifier: {error}") from None

    def generator(self, num_fp16_res: int = 0) -> Generator:
        """The averaged generator; `num_fp16_res` stands in no tensor (see `RELEASED`)."""
        try:
            state = bare_state(self._part("g_ema") or self._lacks("g_ema"))
            style_dim, z_dim = _shape(state, "style.1.weight", 2)
            doublings = _count(state, "to_rgbs.{}.bias")
            names = ["conv1.conv.weight", *(f"convs.{2 * i + 1}.conv.weight" for i in range(doublings))]
            widths = [_shape(state, name, 5)[1] for name in names]
            with torch.device("meta"):
                empty = Generator(
                    SMALLEST << doublings,
                    style_dim,
                    _count(state, "style.{}.weight", 1),
                    num_fp16_res=num_fp16_res,
                    z_dim=z_dim,
                    widths=widths,
                )
            return _filled(empty, state)
        except ValueError as error:
            raise ValueError(f"{self.source}: its generator: {error}") from None

    def learner(self, inject_index: int, n_latent: int) -> DirectionInterpolator:
        """The learnt codes, for a generator of `n_latent` layers, of which they replace the first `inject_index`."""
        try:
            state = bare_state(self._part("ll") or self._lacks("ll"))
            (heads, ndirs), (_, width) = _shape(state, "coefficients", 2), _shape(state, "directions", 2)
            with torch.device("meta"):
                empty = DirectionInterpolator(
                    torch.empty(ndirs, width), torch.empty(1, width), n_latent, inject_index, heads
                )
            return _filled(empty, state)
        except ValueError as error:
            raise ValueError(f"{self.source}: its codes: {error}") from None

    def _part(self, name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}."): v for key, v in self.tensors.items() if key.startswith(f"{name}.")}

    def _lacks(self, name: str) -> dict[str, Tensor]:
        held = sorted({key.partition(".")[0] for key in self.tensors})
        raise ValueError(
            f"it holds no {name}, but {', '.join(held[:8]) or 'nothing'}; it is no checkpoint of GANgealing, fetch it "
            "again or give another"
        )


def load_published(name: str) -> Checkpoint:
    """A released checkpoint by a name of `RELEASED`.

    Raises KeyError for another, WeightsNotFound, UnsafeCheckpoint or DamagedCheckpoint.
    """
    if name not in RELEASED:
        raise KeyError(f"there is no released model {name!r}; there are {', '.join(RELEASED)}")
    key = weights_key(name)
    tensors = weights.load(key)
    return _checkpoint(tensors, f"{key} ({weights.find(key)})")


def load_file(path: Path) -> Checkpoint:
    """A checkpoint of the published layout in a file: {"t_ema": state dict, "g_ema": ..., "ll": ..., ...}.

    Raises FileNotFoundError, UnsafeCheckpoint or DamagedCheckpoint for a bad file.
    """
    return _checkpoint(read_tensors(path), str(path))


def weights_key(name: str) -> str:
    """The key of a released model in the catalogue of weights."""
    return f"gangealing-{name}"


def _checkpoint(tensors: Mapping[str, Tensor], source: str) -> Checkpoint:
    """Without what only a training needs, which is most of a file."""
    kept = {k: v for k, v in tensors.items() if k.startswith(tuple(f"{name}." for name in NETWORKS))}
    return Checkpoint(source, kept or tensors)


def _filled(empty: Network, state: Mapping[str, Tensor]) -> Network:
    """The network with its weights. The filters that make pictures smaller are its own: they depend on `supersize`."""
    own = {
        f"{name}.{part}": value
        for name, module in empty.named_modules()
        if isinstance(module, BilinearDownsample)
        for part, value in BilinearDownsample(module.stride, module.channels).state_dict().items()
    }
    theirs = {name: value for name, value in bare_state(state).items() if ".input_downsample." not in f".{name}"}
    return filled(empty, from_published({**theirs, **own}, empty))


def _transformer_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a composed transformer was built with. Raises ValueError where its tensors do not tell."""
    base, _ = _shape(state, "stns.0.final_linear.weight", 2)
    numbers, _ = _shape(state, "stns.0.warp_head.linear.weight", 2)
    heads, rest = divmod(numbers, DELTA)
    masks = _shape(state, "stns.1.warp_head.mask_out.2.weight", 4)[0]
    factor = math.isqrt(masks // (NEIGHBOURS * max(heads, 1)))
    if rest or not heads or factor**2 * NEIGHBOURS * heads != masks:
        raise ValueError(f"{numbers} numbers of similarities and {masks} masks are of no number of heads")
    return {**_trunk_arguments(state, "stns.0.", base), "num_heads": heads, "flow_downsample": factor}


def _trunk_arguments(state: Mapping[str, Tensor], prefix: str, base: int) -> dict[str, Any]:
    """A trunk's size from how often it halves, and its multiplier from its first layer."""
    size = SMALLEST << _count(state, f"{prefix}convs.{{}}.conv1.0.weight", 1)
    first = _shape(state, f"{prefix}convs.0.0.weight", 4)[0]
    if base < 1:
        raise ValueError("its last layer has too few inputs for a picture")
    multiplier = first * size / (FULL * base) if size > FULL else 0.5
    return {"flow_size": size, "channel_multiplier": multiplier, "base_channels": base}


def _count(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """How many tensors there are of consecutive numbers. Raises ValueError for none and for too many."""
    found = 0
    while pattern.format(first + found) in state:
        found += 1
    if not 0 < found <= MOST:
        raise ValueError(f"{pattern.format(first)} is missing" if not found else f"it has {found} layers of a kind")
    return found


def _shape(state: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"{name} is missing")
    if state[name].ndim != ndim:
        raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, which is no network's")
    return tuple(state[name].shape)
