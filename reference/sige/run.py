"""One pass of a network over a picture: everything, or what an edit touches with the rest from a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gengauge.kernels.moments import channel_moments, edited_moments
from gengauge.kernels.tile_conv import AnyMap, ConvWay, EditedMap, Prologue, Source, Touched, whole
from gengauge.reference.sige.norms import ChannelMoments, norm_affine, uses_input_statistics
from gengauge.reference.sige.prepared import Marks, Prepared
from gengauge.reference.sige.program import NORMS, ChannelOp, ConvStep, Part
from gengauge.reference.sige.tape import Call, Ref, replay
from gengauge.reference.sige.tokens import Rows


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


class Run:
    """One pass over a picture: the values made so far.

    Without `marks` everything is computed and kept in `cache`; with them only what they mark, and the rest is read from
    it. `spare` are maps that a pass without marks may write into instead of new ones.
    """

    def __init__(
        self,
        prepared: Prepared,
        way: ConvWay,
        cache: Cache,
        picture: Tensor,
        *,
        marks: Marks | None = None,
        cache_id: int = 0,
        spare: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.prepared, self.way, self.cache, self.marks, self.cache_id = prepared, way, cache, marks, cache_id
        self.spare = spare or {}
        self.policy, self.program, self.tokens = prepared.policy, prepared.program, prepared.tokens
        self.tape = self.program.tape
        self.picture = picture
        kept = picture.contiguous(memory_format=torch.channels_last) if picture.ndim == 4 else picture
        self.values: dict[int, AnyMap] = {self.tape.inputs[0]: kept}
        self.moments: dict[int, ChannelMoments] = {}
        self.rows = Rows(self.tokens, self.value, self._edited, self._kept_norm)

    def all(self) -> Tensor:
        """The network's output."""
        for step in self.program.steps:
            self.values[step.output] = self._convolve(step)
        out = self.value(self.tape.output).clone()
        if self.marks is None:
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
        if self.marks is not None and index in self.tokens.kept:
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
        prepared, tiling = self.prepared, self.prepared.tilings[step.name]
        marked = self.marks.touched[step.name] if self.marks is not None and tiling is not None else None
        alone = marked if step.kernel == 1 and step.stride == 1 else None
        parts = [self._source(part, None if part.doubled else alone) for part in step.parts]
        like = parts[0].base
        out: AnyMap
        touched = marked or prepared.grid(step.size_out, step.stride)
        if marked is not None:
            base = self.cache.maps[step.output]
            out = EditedMap(base, prepared.news(step.output, base, marked), marked)
        elif tiling is None:
            out = prepared.buffer(step.output, like)
        else:
            spare = self.spare.get(step.output)
            out = self.cache.maps[step.output] = prepared.empty(step.output, like) if spare is None else spare
        prepared.convs[step.name](
            parts,
            self._prologue(step),
            touched,
            out,
            residual=None if step.residual is None else self._source(step.residual),
            way=self.way,
            workspace=prepared.workspace,
        )
        return out

    def _map(self, value: int) -> AnyMap:
        value = self.program.resolve(value)
        if self.marks is not None and value in self.tokens.kept and self.tokens.kept[value].axes == "NCHW":
            return self._token_sum(value)
        if value in self.values and isinstance(self.values[value], EditedMap):
            return self.values[value]
        return self.value(value).contiguous(memory_format=torch.channels_last)

    def _source(self, part: Part, rows_of: Touched | None = None) -> Source:
        """A part of a map; with `rows_of`, only these pixels will be read."""
        value = self.program.resolve(part.value)
        if rows_of is not None and value not in self.values and self.tokens.rowwise(value):
            base = self.prepared.buffer(value, self.picture)
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
            assert self.marks is not None
            touched = self.marks.tokens[layout.size]
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
        fresh = any(self.policy.norm_is_fresh(name) for name in names)
        if self.marks is None or fresh:
            affine = self._compose(step.channel_ops, step.parts)
            if self.marks is None:
                self.cache.affines[step.name] = affine
            return affine
        return self._as_published(self.cache.affines[step.name], names)

    def _as_published(self, affine: Affine, names: Sequence[str]) -> Affine:
        if any(self.policy.norm_is_faulty(name) for name in names):
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
            if self.marks is None:
                self.cache.moments[value] = self.moments[value]
        return self.moments[value].part(part.start, part.channels)

    def _normalise(self, call: Call) -> Tensor:
        """A norm that no convolution takes in, with the original's statistics where the policy keeps them."""
        source = self.program.resolve(call.args[0].index)
        name = call.module
        key = f"{name}#{call.outputs[0]}"
        x = self.value(source)
        if self.marks is not None and not self.policy.norm_is_fresh(name):
            scale, shift = self._kept_norm(call)
            affine = Affine(scale, shift)
        else:
            factor, offset = norm_affine(call, self.value, ChannelMoments(*channel_moments(x.flatten(2)[..., None])))
            affine = Affine(factor.to(x.dtype), offset.to(x.dtype))
            if self.marks is None:
                self.cache.affines[key] = affine
        ones = (1,) * (x.ndim - 2)
        return x * affine.scale.unflatten(1, (-1, *ones)) + affine.shift.unflatten(1, (-1, *ones))
