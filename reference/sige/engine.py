"""Runs a network's program: once on the original, keeping maps and statistics, then on edits, where they touch.

Every convolution that the policy names is computed on the tiles that the edit's mask touches and written into the kept
map; everything else runs on whole maps, of which the untouched pixels are the original's (Li et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.kernels.moments import channel_moments, edited_moments
from gengauge.kernels.tile_conv import AnyMap, ConvWay, EditedMap, Prologue, Source, TileConv, Touched, Workspace, whole
from gengauge.reference.sige.count import Macs, sparse_macs
from gengauge.reference.sige.norms import ChannelMoments, norm_affine, uses_input_statistics
from gengauge.reference.sige.policy import FOLLOW, Policy
from gengauge.reference.sige.program import NORMS, ChannelOp, ConvStep, Part, Program, plan
from gengauge.reference.sige.tape import Call, Ref, Tape, record, replace_tensors, replay, tensors_in
from gengauge.reference.sige.tiling import Tiling, grid
from gengauge.reference.sige.tokens import Rows, TokenPlan

Size = tuple[int, int]
DENSE_TILE = 4  # outputs of a tile, along an edge, where a whole map is computed


@dataclass(frozen=True)
class Affine:
    """(x - centre) * scale + shift, each (1 or N, C); no centre is 0."""

    scale: Tensor
    shift: Tensor
    centre: Tensor | None = None

    def sides(self) -> list[Tensor]:
        """The tensors."""
        return [side for side in (self.scale, self.shift, self.centre) if side is not None]


@dataclass
class Cache:
    """What is kept of an original at one step; values are named by their place on the tape."""

    maps: dict[int, Tensor] = field(default_factory=dict)
    affines: dict[str, Affine] = field(default_factory=dict)
    unchanging: dict[int, Tensor] = field(default_factory=dict)
    moments: dict[int, ChannelMoments] = field(default_factory=dict)  # of kept maps, where they were needed
    tokens: dict[int, Tensor] = field(default_factory=dict)  # values of transformers that are read as a whole

    @property
    def bytes(self) -> int:
        """Memory of the maps and statistics."""
        kept = [
            *self.maps.values(),
            *self.tokens.values(),
            *(side for affine in self.affines.values() for side in affine.sides()),
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


class Engine:
    """A network whose edits are computed on tiles.

    `full` runs the original and keeps what edits need, under an id; `set_masks` says what an edit touches; `sparse`
    runs the edit. Networks are recorded for the shapes of the first `full`. The network must be in evaluation mode; it
    is not changed, and weights changed after the first run are not seen.
    """

    def __init__(self, network: nn.Module, policy: Policy, way: ConvWay = "fast") -> None:
        self.network, self.policy, self.way = network, policy, way
        self.program: Program | None = None
        self.caches: dict[int, Cache] = {}
        self.touched: dict[str, Touched] = {}  # what is computed of each sparse convolution's output
        self._grids: dict[tuple[Size, int], Touched] = {}  # whole maps
        self._kinds: Any = None
        self._device = torch.device("cpu")
        self._convs: dict[str, TileConv] = {}
        self._tilings: dict[str, Tiling | None] = {}
        self._token_plan: TokenPlan | None = None
        self._token_tiles: dict[Size, Touched] = {}
        self._parameters: dict[int, Tensor] = {}
        self._buffers: dict[int, Tensor] = {}  # maps that are made anew in every run
        self._workspace = Workspace()

    # -- the three modes -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def full(self, picture: Tensor, *inputs: Any, cache_id: int = 0, **kwargs: Any) -> Tensor:
        """The network's output for the original; its maps and statistics are kept under `cache_id`.

        `inputs` and `kwargs` are the network's other arguments; an edit has the same.
        """
        program = self.prepare(picture, *inputs, **kwargs)
        given = dict(zip(program.tape.inputs, tensors_in((picture, *inputs), kwargs), strict=True))
        others = {index: value for index, value in given.items() if index != program.tape.inputs[0]}
        cache = Cache(unchanging={**self._parameters, **others})
        run = _Run(self, cache, given, sparse=False, cache_id=cache_id)
        out = run.all()
        self.caches[cache_id] = cache
        return out

    @torch.no_grad()
    def sparse(self, picture: Tensor, cache_id: int = 0, update: bool = False) -> Tensor:
        """The output for an edited picture, computed where the masks lie and else taken from the cache.

        With `update` the new maps take the place of the kept ones, for an edit of the edit; statistics stay those of
        the original. Raises ValueError without a cache or masks, and for a picture of another shape.
        """
        cache, given = self._kept(picture, cache_id)
        if len(self.touched) != sum(tiling is not None for tiling in self._tilings.values()):
            raise ValueError("no masks are set; call set_masks with the edit's masks first")
        run = _Run(self, cache, given, sparse=True, cache_id=cache_id)
        out = run.all()
        if update:
            run.keep()
        return out

    @torch.no_grad()
    def whole(self, picture: Tensor, cache_id: int = 0, update: bool = False) -> Tensor:
        """The output for a picture, computed everywhere and with its own statistics: what the network would give.

        It has the original's other arguments; with `update` it takes the original's place. Raises ValueError as
        `sparse` does.
        """
        kept, given = self._kept(picture, cache_id)
        cache = Cache(unchanging=kept.unchanging)
        out = _Run(self, cache, given, sparse=False, cache_id=cache_id).all()
        if update:
            self.caches[cache_id] = cache
        return out

    def _kept(self, picture: Tensor, cache_id: int) -> tuple[Cache, dict[int, Tensor]]:
        """The cache of an id, and the picture by its place on the tape."""
        program = self.program
        if program is None or cache_id not in self.caches:
            known = ", ".join(map(str, self.caches)) or "none"
            raise ValueError(f"nothing is kept under cache id {cache_id} (kept: {known}); call full first")
        shape = program.tape.shapes[program.tape.inputs[0]]
        if picture.shape != shape:
            raise ValueError(
                f"the edit has the shape {tuple(picture.shape)}, the original {tuple(shape)}; they must agree"
            )
        return self.caches[cache_id], {program.tape.inputs[0]: picture}

    def set_masks(self, masks: Mapping[Size, Tensor]) -> None:
        """What an edit touches: bool (h, w) by size, for every size at which the policy computes tiles.

        Raises ValueError before the first `full` (sizes are known then), and where a size is missing.
        """
        if self.program is None:
            raise ValueError("the sizes of the network's maps are known after the first full run; call full first")
        made: dict[tuple[Size, Tiling, Size], Touched] = {}
        touched: dict[str, Touched] = {}
        for step in self.program.steps:
            tiling = self._tilings[step.name]
            if tiling is None:
                continue
            if self.policy.block(step) == FOLLOW:
                before = self.program.step_making(step.parts[0].value)
                assert before is not None
                touched[step.name] = touched[before.name]
                continue
            if step.size_in not in masks:
                raise ValueError(
                    f"{step.name} works at {step.size_in[0]} x {step.size_in[1]}, for which there is no mask "
                    f"(there are {', '.join(f'{h} x {w}' for h, w in masks)})"
                )
            mask = masks[step.size_in].to(self._device)
            if tuple(mask.shape) != step.size_in:
                raise ValueError(f"the mask for {step.size_in} has the shape {tuple(mask.shape)}")
            key = step.size_in, tiling, step.size_out
            if key not in made:
                made[key] = Touched(tiling.corners(mask), tiling.tile, step.size_out)
            touched[step.name] = made[key]
        assert self._token_plan is not None
        token_tiles: dict[Size, Touched] = {}
        for size, block in self._token_plan.sizes().items():
            tiling = Tiling(block, 1, 1, 0)
            if (size, tiling, size) not in made:
                if size not in masks:
                    raise ValueError(f"a transformer works at {size[0]} x {size[1]}, for which there is no mask")
                made[size, tiling, size] = Touched(tiling.corners(masks[size].to(self._device)), block, size)
            token_tiles[size] = made[size, tiling, size]
        self._token_tiles = token_tiles
        self.touched = touched

    def grid(self, size: Size, stride: int) -> Touched:
        """All tiles of a map."""
        key = size, DENSE_TILE // stride or 1
        if key not in self._grids:
            self._grids[key] = Touched(grid(size, key[1], self._device), key[1], size)
        return self._grids[key]

    def prepare(self, picture: Tensor, *inputs: Any, **kwargs: Any) -> Program:
        """Records the network for these shapes (and other values than tensors), once; others start anew."""
        kinds = replace_tensors(lambda value: (value.shape, value.dtype, value.device), ((picture, *inputs), kwargs))
        if self.program is not None and kinds == self._kinds:
            return self.program
        if self.network.training:
            raise ValueError("the network is in training mode; call network.eval() first")
        tape = record(self.network, picture, *inputs, **kwargs)
        self.program, self._kinds = plan(tape), kinds
        # Without memory a network can still be counted; where the tiles lie is real then too.
        self._device = picture.device if picture.device.type != "meta" else torch.device("cpu")
        self.caches, self.touched, self._buffers, self._grids = {}, {}, {}, {}
        real = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        self._parameters = {index: real[name].detach() for name, index in tape.parameters.items()}
        self._tilings = {step.name: self._tiling(step) for step in self.program.steps}
        self._token_plan = TokenPlan(self.program, self.policy)
        self._convs = {step.name: self._conv(step) for step in self.program.steps}
        return self.program

    def tiling(self, step: ConvStep) -> Tiling | None:
        """The tiles of a convolution; None where it is computed everywhere."""
        return self._tilings[step.name]

    # -- accounts ------------------------------------------------------------------------------------------------------

    def macs(self, swish_is_product: bool = True) -> Macs:
        """Operations of a sparse pass with the masks that are set, counted as the paper does."""
        assert self.program is not None
        assert self._token_plan is not None
        tokens = {size: touched.listed * touched.tile**2 for size, touched in self._token_tiles.items()}
        return sparse_macs(
            self.network,
            self.program,
            self.policy,
            self._tilings,
            self.touched,
            rows=(self._token_plan.row_calls(), self._token_plan.layouts, tokens),
            swish_is_product=swish_is_product,
        )

    def products(self, sparse: bool = True) -> int:
        """Multiplications that the convolutions of a pass really take in this way: Winograd's are fewer than direct."""
        assert self.program is not None
        total = 0
        for step in self.program.steps:
            touched = self.touched.get(step.name) if sparse else None
            if touched is None:
                touched = self.grid(step.size_out, step.stride)
            images = self.program.tape.shapes[step.raw][0]
            total += self._convs[step.name].products(self.way, len(touched.corners) * images, touched.tile)
        return total

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as they are laid out for the native ways, beside the network's own."""
        return sum(conv.packed_bytes for conv in self._convs.values())

    @property
    def cache_bytes(self) -> int:
        """Memory of all caches."""
        return sum(cache.bytes for cache in self.caches.values())

    def clear(self) -> None:
        """Forgets all caches."""
        self.caches = {}

    # -- building blocks -----------------------------------------------------------------------------------------------

    def _tiling(self, step: ConvStep) -> Tiling | None:
        block = self.policy.block(step)
        if block is None:
            return None
        if block == FOLLOW:
            return Tiling(1, step.kernel, step.stride, step.padding)
        return Tiling(block, step.kernel, step.stride, step.padding)

    def _conv(self, step: ConvStep) -> TileConv:
        return TileConv(
            self._parameters[step.weight],
            None if step.bias is None else self._parameters[step.bias],
            stride=step.stride,
            padding=step.padding,
            groups=step.groups,
        )

    def buffer(self, value: int, like: Tensor) -> Tensor:
        """The map of a value that is made anew in every run."""
        if value not in self._buffers:
            self._buffers[value] = self.empty(value, like)
        return self._buffers[value]

    def empty(self, value: int, like: Tensor) -> Tensor:
        """A new map for a value."""
        assert self.program is not None
        return torch.empty(
            self.program.tape.shapes[value], dtype=like.dtype, device=like.device, memory_format=torch.channels_last
        )


class _Run:
    """One pass: values made so far, and what must be put back afterwards."""

    def __init__(self, engine: Engine, cache: Cache, given: dict[int, Tensor], sparse: bool, cache_id: int) -> None:
        assert engine.program is not None
        self.engine, self.cache, self.sparse, self.cache_id = engine, cache, sparse, cache_id
        self.program = engine.program
        self.tape: Tape = engine.program.tape
        self.picture = given[self.tape.inputs[0]]
        self.values: dict[int, AnyMap] = dict(given)
        picture = self.picture
        if picture.ndim == 4:
            self.values[self.tape.inputs[0]] = picture.contiguous(memory_format=torch.channels_last)
        self.moments: dict[int, ChannelMoments] = {}
        assert engine._token_plan is not None
        self.tokens = engine._token_plan
        self.rows = Rows(self.tokens, self.value, self._edited, self._kept_norm)

    def all(self) -> Tensor:
        for step in self.program.steps:
            self.values[step.output] = self._convolve(step)
        out = self.value(self.tape.output).clone()
        if not self.sparse:
            for index, layout in self.tokens.kept.items():
                value = self.value(index)
                maps = layout.axes == "NCHW"
                self.cache.tokens[index] = value.contiguous(
                    memory_format=torch.channels_last if maps else torch.contiguous_format
                )
        return out

    def keep(self) -> None:
        """Makes the edit's maps the kept ones."""
        for index, edited in self.values.items():
            if isinstance(edited, EditedMap):
                kept = self.cache.tokens if index in self.cache.tokens else self.cache.maps
                kept[index] = edited.whole()
                self.cache.moments.pop(index, None)
            elif index in self.cache.tokens:
                self.cache.tokens[index] = edited

    def value(self, index: int) -> Tensor:
        """A value of this pass as a tensor; what is not there yet is made by torch."""
        index = self.program.resolve(index)
        if index in self.values:
            return whole(self.values[index])
        if index in self.cache.unchanging:
            return self.cache.unchanging[index]
        if self.sparse and index in self.tokens.kept:
            return whole(self._token_sum(index))
        call = self.tape.calls[self.program.producers[index]]
        changing = index in self.tape.changing
        made: Sequence[Tensor]
        if call.op in NORMS and changing:
            made = [self._normalise(call)]
        else:
            made = replay(call, self.value, self.picture.device)
        results = dict(zip(call.outputs, made, strict=True))
        (self.values if changing else self.cache.unchanging).update(results)
        return results[index]

    # -- convolutions --------------------------------------------------------------------------------------------------

    def _convolve(self, step: ConvStep) -> AnyMap:
        engine, tiling = self.engine, self.engine.tiling(step)
        alone = self.sparse and tiling is not None and step.kernel == 1 and step.stride == 1
        parts = [
            self._source(part, engine.touched[step.name] if alone and not part.doubled else None) for part in step.parts
        ]
        like = parts[0].base
        out: AnyMap
        if tiling is None:
            out, touched = engine.buffer(step.output, like), engine.grid(step.size_out, step.stride)
        elif self.sparse:
            base, touched = self.cache.maps[step.output], engine.touched[step.name]
            news = torch.empty(len(base), touched.count, base.shape[1], dtype=base.dtype, device=base.device)
            out = EditedMap(base, news, touched)
        else:
            out = self.cache.maps[step.output] = engine.empty(step.output, like)
            touched = engine.grid(step.size_out, step.stride)
        engine._convs[step.name](
            parts,
            self._prologue(step),
            touched,
            out,
            residual=None if step.residual is None else self._source(step.residual),
            way=engine.way,
            workspace=engine._workspace,
        )
        return out

    def _map(self, value: int) -> AnyMap:
        value = self.program.resolve(value)
        if self.sparse and value in self.tokens.kept and self.tokens.kept[value].axes == "NCHW":
            return self._token_sum(value)
        if value in self.values and isinstance(self.values[value], EditedMap):
            return self.values[value]
        return self.value(value).contiguous(memory_format=torch.channels_last)

    def _source(self, part: Part, rows_of: Touched | None = None) -> Source:
        """A part of a map; with `rows_of`, only these pixels will be read."""
        value = self.program.resolve(part.value)
        if rows_of is not None and value not in self.values and self.tokens.rowwise(value):
            base = self.engine.buffer(value, self.picture)
            return Source(EditedMap(base, self.rows.of(value, rows_of), rows_of), part.start, part.channels)
        return Source(self._map(value), part.start, part.channels, part.doubled)

    # -- transformers --------------------------------------------------------------------------------------------------

    def _edited(self, value: int) -> EditedMap | None:
        """A value as an edited map, where it is one."""
        known = self.values.get(value)
        return known if isinstance(known, EditedMap) else None

    def _token_sum(self, value: int) -> AnyMap:
        """A kept value of a transformer with its touched rows made anew."""
        if value not in self.values:
            base, layout = self.cache.tokens[value], self.tokens.kept[value]
            touched = self.engine._token_tiles[layout.size]
            rows = self.rows.of(value, touched)
            if layout.axes == "NCHW":
                self.values[value] = EditedMap(base, rows.contiguous(), touched)
            else:
                out = base.clone()
                out[:, touched.pixels] = rows[:, touched.numbers]
                self.values[value] = out
        return self.values[value]

    def _kept_norm(self, call: Call) -> tuple[Tensor, Tensor]:
        """Scale and shift (1 or N, C) of a norm that stands by itself."""
        affine = self._as_published(self.cache.affines[f"{call.module}#{call.outputs[0]}"], [call.module])
        return affine.scale, affine.shift

    def _prologue(self, step: ConvStep) -> Prologue:
        affine = self._affine(step) if step.channel_ops else None
        return Prologue(
            None if affine is None else affine.scale,
            None if affine is None else affine.shift,
            None if affine is None else affine.centre,
            None if step.gamma is None else self._source(step.gamma),
            None if step.beta is None else self._source(step.beta),
            step.activation,  # type: ignore[arg-type]
            step.negative_slope,
        )

    # -- affines and norms ---------------------------------------------------------------------------------------------

    def _affine(self, step: ConvStep) -> Affine:
        """Scale and shift before a convolution, kept from the original but where a norm is to be fresh."""
        names = [op.operand.module for op in step.channel_ops if isinstance(op.operand, Call)]
        fresh = any(self.engine.policy.norm_is_fresh(name) for name in names)
        if not self.sparse or fresh:
            affine = self._compose(step.channel_ops, step.parts)
            if not self.sparse:
                self.cache.affines[step.name] = affine
            return affine
        return self._as_published(self.cache.affines[step.name], names)

    def _as_published(self, affine: Affine, names: Sequence[str]) -> Affine:
        if any(self.engine.policy.norm_is_faulty(name) for name in names):
            channel = slice(self.cache_id, self.cache_id + 1)
            return Affine(*(side[:, channel].expand_as(side).contiguous() for side in affine.sides()))
        return affine

    def _compose(self, ops: Sequence[ChannelOp], parts: Sequence[Part]) -> Affine:
        """Per-channel operations on concatenated parts as one affine."""
        kind = torch.float64 if self.picture.dtype == torch.float64 else torch.float32
        channels = sum(part.channels for part in parts)
        scale = torch.ones(1, channels, dtype=torch.float64, device=self.picture.device)
        shift, centre = torch.zeros_like(scale), None
        for op in ops:
            if isinstance(op.operand, Call):
                moments = ChannelMoments.joined([self._moments(part) for part in parts])
                if uses_input_statistics(op.operand) and centre is None and bool((scale == 1).all()):
                    # A channel may be all but constant: x * scale + shift would lose what little there is.
                    centre = moments.mean.to(kind)
                    moments = ChannelMoments(moments.mean - centre.double(), moments.variance)
                factor, offset = norm_affine(op.operand, self.value, moments.after(scale, shift))
                scale, shift = scale * factor, shift * factor + offset
                continue
            number = op.operand
            by: Tensor | float = self.value(number.index).double().flatten(1) if isinstance(number, Ref) else number
            if op.kind == "multiply":
                scale, shift = scale * by, shift * by
            else:
                shift = shift + by
        sides = (scale, shift) if centre is None else (scale, shift, centre)
        rows = max(map(len, sides))
        return Affine(*(side.expand(rows, -1).to(kind).contiguous() for side in sides))

    def _moments(self, part: Part) -> ChannelMoments:
        value = self.program.resolve(part.value)
        if value not in self.moments:
            map_, kept = self._map(value), self.cache.moments.get(value)
            if isinstance(map_, EditedMap) and kept is not None:
                self.moments[value] = ChannelMoments(*edited_moments(map_, (kept.mean, kept.variance)))
            else:
                self.moments[value] = ChannelMoments(*channel_moments(whole(map_)))
            if not self.sparse:
                self.cache.moments[value] = self.moments[value]
        return self.moments[value].part(part.start, part.channels)

    def _normalise(self, call: Call) -> Tensor:
        """A norm that no convolution takes in, with the original's statistics where the policy keeps them."""
        source = self.program.resolve(call.args[0].index)
        name = call.module
        key = f"{name}#{call.outputs[0]}"
        x = self.value(source)
        if self.sparse and not self.engine.policy.norm_is_fresh(name):
            scale, shift = self._kept_norm(call)
            affine = Affine(scale, shift)
        else:
            factor, offset = norm_affine(call, self.value, ChannelMoments(*channel_moments(x.flatten(2)[..., None])))
            affine = Affine(factor.to(x.dtype), offset.to(x.dtype))
            if not self.sparse:
                self.cache.affines[key] = affine
        ones = (1,) * (x.ndim - 2)
        return x * affine.scale.unflatten(1, (-1, *ones)) + affine.shift.unflatten(1, (-1, *ones))
