"""A convolution computed on tiles of a picture only.

One call gathers the tiles' windows from up to three maps side by side (each may have half the size: nearest
up-sampling), applies a per-channel affine, a per-pixel modulation and an activation, convolves, adds bias and residual,
and writes the tiles. Pixels outside the picture are zero after the activation, as zero padding makes them. The maps of
the original are only read: what an edit changes lies beside them, and every call reads through both.

Three ways: `fast` and `direct` are native (on the CPU, maps in channels_last), in float32 the first by Winograd's
minimal filtering where that is quicker, in bfloat16 both by the processor's matrix unit where it has one; `torch` is
the definition and runs everywhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.kernels import tiles
from gengauge.kernels.definition import Activation, activate
from gengauge.kernels.native import library

ConvWay = Literal["fast", "direct", "torch"]
Kind = Literal[1, 2, 4]  # edge of Winograd's output tile; 1 is the direct way

WINOGRAD: tuple[Kind, ...] = (2, 4)
MOST_SOURCES = 3
_ACTIVATIONS: dict[str, int] = {"identity": 0, "swish": 1, "leaky_relu": 2, "relu": 3}


class Touched:
    """The pixels of a map of `size` (H, W) that lie in tiles: `corners` (n, 2) int32 (y, x), `tile` pixels wide.

    Tiles do not overlap; those that begin outside the map are left out. `where` (H * W) int32 numbers the pixels tile
    by tile, row by row, and is -1 for the others.
    """

    def __init__(self, corners: Tensor, tile: int, size: tuple[int, int]) -> None:
        height, width = size
        inside = (corners[:, 0] < height) & (corners[:, 1] < width)
        self.corners, self.tile, self.size = corners[inside].contiguous(), tile, size
        self.listed = len(corners)  # with those outside, which the published code computes and drops
        steps = torch.arange(tile, device=corners.device)
        rows = (self.corners[:, 0, None] + steps)[:, :, None].expand(-1, -1, tile)
        columns = (self.corners[:, 1, None] + steps)[:, None, :].expand(-1, tile, -1)
        numbers = torch.arange(rows.numel(), device=corners.device).view_as(rows)
        inside = (rows < height) & (columns < width)
        self.pixels = (rows * width + columns)[inside]  # of the map, in the order of
        self.numbers = numbers[inside]
        self.everything = len(self.pixels) == height * width
        self.where = torch.full((height * width,), -1, dtype=torch.int32, device=corners.device)
        self.where[self.pixels] = self.numbers.to(torch.int32)
        self._places: dict[tuple[int, int], Tensor] = {}

    def places(self, edge: int, images: int) -> Tensor:
        """(image, y, x) int32 of the tiles, cut into tiles of `edge` x `edge`, in every image."""
        if (edge, images) not in self._places:
            steps = torch.arange(0, self.tile, edge, dtype=torch.int32)
            inner = torch.cartesian_prod(steps, steps).reshape(-1, 2)
            cut = (self.corners[:, None] + inner).reshape(-1, 2)
            image = torch.arange(images, dtype=torch.int32).repeat_interleave(len(cut))
            self._places[edge, images] = torch.cat([image[:, None], cut.repeat(images, 1)], 1).contiguous()
        return self._places[edge, images]

    @property
    def count(self) -> int:
        """Pixels of all tiles, those beyond the map's edge among them."""
        return len(self.corners) * self.tile**2


@dataclass(frozen=True)
class EditedMap:
    """A map `base` (N, C, H, W) in which the touched pixels are replaced by `news` (N, touched.count, C)."""

    base: Tensor
    news: Tensor
    touched: Touched

    def whole(self) -> Tensor:
        """The map (N, C, H, W) of its own, in channels_last; made once, when all touched pixels are there."""
        return self._whole

    @cached_property
    def _whole(self) -> Tensor:
        out = self.base.clone(memory_format=torch.channels_last)
        rows = out.permute(0, 2, 3, 1).flatten(1, 2)  # a view: (N, H * W, C)
        rows[:, self.touched.pixels] = self.news[:, self.touched.numbers]
        return out


AnyMap = Tensor | EditedMap


def whole(map_: AnyMap) -> Tensor:
    """A map as a tensor (N, C, H, W)."""
    return map_.whole() if isinstance(map_, EditedMap) else map_


@dataclass(frozen=True)
class Source:
    """Channels of a map (N, C, H, W): `channels` from `start`; with `doubled`, each pixel stands for two by two."""

    map: AnyMap
    start: int
    channels: int
    doubled: bool = False

    @property
    def base(self) -> Tensor:
        """The map that was there before the edit."""
        return self.map.base if isinstance(self.map, EditedMap) else self.map

    def read(self) -> Tensor:
        """The channels as a map of their own, up-sampled."""
        part = whole(self.map)[:, self.start : self.start + self.channels]
        return F.interpolate(part, scale_factor=2, mode="nearest") if self.doubled else part


@dataclass(frozen=True)
class Prologue:
    """What is done to the input: (value - centre) * scale + shift, then * (1 + gamma) + beta, then the activation.

    `scale`, `shift` and `centre`: (1 or N, C) contiguous, all of one shape, or None; a centre matters where values are
    close together and the scale is large. `gamma` and `beta`: maps of C channels at the input's size, or
    None.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    centre: Tensor | None = None
    gamma: Source | None = None
    beta: Source | None = None
    activation: Activation = "identity"
    negative_slope: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether nothing is done."""
        return self.scale is None and self.gamma is None and self.activation == "identity"


class Workspace:
    """Memory that calls share: scratch of the native functions, grown as needed."""

    def __init__(self) -> None:
        self._scratch = torch.empty(0)

    def scratch(self, floats: int) -> int:
        """The address of that many floats, aligned to a cache line."""
        if self._scratch.numel() < floats + 16:
            self._scratch = torch.empty(floats + 16)
        return (self._scratch.data_ptr() + 63) // 64 * 64

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self._scratch.numel() * 4


class TileConv:
    """A convolution's weights (O, I / groups, k, k) and bias, laid out for every way that is asked for.

    `padding` zeros lie on the left and top; how many on the right and bottom follows from the size of the output.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise ValueError(f"weights must be (O, I, k, k), not {tuple(weight.shape)}")
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.stride, self.padding, self.groups = stride, padding, groups
        self._packed: Tensor | None = None
        self._bias: Tensor | None = None

    @property
    def kernel(self) -> int:
        """Edge of the kernel."""
        return self.weight.shape[2]

    @property
    def packed_bytes(self) -> int:
        """Memory of weights laid out for the native ways."""
        return 0 if self._packed is None else self._packed.numel() * self._packed.element_size()

    def native(self, tile: int) -> bool:
        """Whether the native ways can do tiles of that many outputs, on maps of float32 on the CPU in channels_last."""
        native = library()
        return (
            native is not None
            and (self.weight.dtype == torch.float32 or (self._bf16 and bool(native.gg_conv_bf16_ready())))
            and self.weight.device.type in ("cpu", "meta")
            and self.groups == 1
            and self.kernel <= 7
            and (tile - 1) * self.stride + self.kernel <= 11
        )

    @property
    def _bf16(self) -> bool:
        return self.weight.dtype == torch.bfloat16

    def products(self, way: ConvWay, count: int, tile: int) -> int:
        """Multiplications that `count` tiles of `tile` x `tile` outputs take, transforms not counted."""
        kind = self.kind(way, count, tile) if self.native(tile) else 1
        points = self.kernel**2 if kind == 1 else (kind + 2) ** 2 / kind**2
        return round(points * count * tile**2 * self.weight[:, :, 0, 0].numel())

    def kind(self, way: ConvWay, count: int, tile: int) -> Kind:
        """How the native way multiplies `count` tiles of `tile` x `tile` outputs."""
        if way == "direct" or self.kernel != 3 or self.stride != 1 or self._bf16:
            return 1
        out, depth = self.weight.shape[:2]
        kinds: tuple[Kind, ...] = (1, *(kind for kind in WINOGRAD if tile % kind == 0))
        return min(kinds, key=partial(_cost, outputs=count * tile * tile, depth=depth, channels=out))

    def __call__(
        self,
        sources: Sequence[Source],
        prologue: Prologue,
        touched: Touched,
        out: AnyMap,
        *,
        residual: Source | None = None,
        way: ConvWay = "fast",
        workspace: Workspace | None = None,
    ) -> None:
        """Computes the touched pixels of `out`: its `news`, or in a tensor (N, O, H, W) these pixels of it.

        `residual` is added to the result; it has the size of the output.
        """
        maps = [*sources, *(side for side in (prologue.gamma, prologue.beta, residual) if side is not None)]
        native = way != "torch" and self.native(touched.tile) and prologue.activation in _ACTIVATIONS
        if native and len(sources) <= MOST_SOURCES and _fit(maps, out, self.weight.dtype):
            self._native(sources, prologue, touched, out, residual, way, workspace or Workspace())
        else:
            self._torch(sources, prologue, touched, out, residual)

    def _torch(
        self, sources: Sequence[Source], prologue: Prologue, touched: Touched, out: AnyMap, residual: Source | None
    ) -> None:
        if touched.everything and isinstance(out, Tensor):
            out.copy_(self._whole(sources, prologue, touched.size, residual))
            return
        block = (touched.tile - 1) * self.stride + self.kernel
        windows = touched.corners * self.stride - self.padding
        parts, start = [], 0
        alone = prologue.gamma is None  # then affine and activation can be done while gathering
        for source in sources:
            channels = slice(start, start + source.channels)
            read = source.read()
            if prologue.centre is not None:
                read = read - prologue.centre[:, channels, None, None]
            parts.append(
                tiles.gather(
                    read,
                    windows,
                    block,
                    scale=None if prologue.scale is None else prologue.scale[:, channels, None, None],
                    shift=None if prologue.shift is None else prologue.shift[:, channels, None, None],
                    activation=prologue.activation if alone else "identity",
                    negative_slope=prologue.negative_slope,
                )
            )
            start += source.channels
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if prologue.gamma is not None and prologue.beta is not None:
            gamma, beta = (tiles.gather(side.read(), windows, block) for side in (prologue.gamma, prologue.beta))
            x = _activated(x * (1 + gamma) + beta, prologue)
        result = F.conv2d(x.to(self.weight.dtype), self.weight, self.bias, self.stride, groups=self.groups)
        if isinstance(out, Tensor):
            tiles.scatter(result, out, touched.corners, residual=None if residual is None else residual.read(), out=out)
            return
        if residual is not None:
            result = result + tiles.gather(residual.read(), touched.corners, touched.tile)
        out.news.copy_(result.unflatten(0, (len(out.news), -1)).permute(0, 1, 3, 4, 2).flatten(1, 3))

    def _whole(
        self, sources: Sequence[Source], prologue: Prologue, size: tuple[int, int], residual: Source | None
    ) -> Tensor:
        """The convolution of whole maps."""
        x = torch.cat([source.read() for source in sources], 1) if len(sources) > 1 else sources[0].read()
        if prologue.centre is not None:
            x = x - prologue.centre[:, :, None, None]
        if prologue.scale is not None and prologue.shift is not None:
            x = torch.addcmul(
                prologue.shift[:, :, None, None], x.to(prologue.shift.dtype), prologue.scale[:, :, None, None]
            )
        if prologue.gamma is not None and prologue.beta is not None:
            x = x * (1 + prologue.gamma.read()) + prologue.beta.read()
        before = self.padding
        after = [(n - 1) * self.stride + self.kernel - before - m for n, m in zip(size, x.shape[2:], strict=True)]
        x = F.pad(_activated(x, prologue), (before, after[1], before, after[0])).to(self.weight.dtype)
        result = F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return result if residual is None else result + residual.read()

    def _native(
        self,
        sources: Sequence[Source],
        prologue: Prologue,
        touched: Touched,
        out: AnyMap,
        residual: Source | None,
        way: ConvWay,
        workspace: Workspace,
    ) -> None:
        base = out.base if isinstance(out, EditedMap) else out
        images, channels_out = base.shape[:2]
        kind = self.kind(way, len(touched.corners) * images, touched.tile)
        places = touched.places(touched.tile if kind == 1 else kind, images)
        conv = _Conv(kind=kind, sources=len(sources), kernel=self.kernel, stride=self.stride, pad=self.padding)
        for i, source in enumerate(sources):
            conv.source[i] = _map(source)
        conv.height, conv.width = (n << sources[0].doubled for n in sources[0].base.shape[2:])
        conv.channels_in, conv.channels_out = self.weight.shape[1], channels_out
        conv.tile = touched.tile
        conv.activation = _ACTIVATIONS[prologue.activation]
        conv.slope = prologue.negative_slope if prologue.activation == "leaky_relu" else 0.0
        if prologue.scale is not None and prologue.shift is not None:
            conv.scale, conv.shift = prologue.scale.data_ptr(), prologue.shift.data_ptr()
            conv.centre = None if prologue.centre is None else prologue.centre.data_ptr()
            conv.affine_image = prologue.scale.shape[1] if len(prologue.scale) > 1 else 0
        if prologue.gamma is not None and prologue.beta is not None:
            conv.gamma, conv.beta = _map(prologue.gamma), _map(prologue.beta)
        if residual is not None:
            conv.residual = _map(residual)
        conv.weights = self.pack().data_ptr()
        conv.bias = None if self.bias is None else self._float_bias().data_ptr()
        conv.out_height, conv.out_width = touched.size
        conv.out_row = channels_out
        if isinstance(out, EditedMap):
            conv.out, conv.out_where = out.news.data_ptr(), touched.where.data_ptr()
            conv.out_image = touched.count * channels_out
        else:
            conv.out, conv.out_image = out.data_ptr(), out[0].numel()
        native, threads = _library(), torch.get_num_threads()
        needs, run = native.gg_conv_scratch, native.gg_conv
        if self._bf16:
            needs, run = native.gg_conv_bf16_scratch, native.gg_conv_bf16
        size = needs(ctypes.byref(conv), len(places), threads)  # floats, or bytes
        scratch = workspace.scratch(-(-size // 4) if self._bf16 else size)
        run(ctypes.byref(conv), places.data_ptr(), len(places), scratch, threads)

    def pack(self) -> Tensor:
        """The weights as the native ways read them, made once."""
        if self._packed is None:
            self._packed = _pack_bf16(self.weight) if self._bf16 else _pack(self.weight)
        return self._packed

    def _float_bias(self) -> Tensor:
        if self._bias is None:
            assert self.bias is not None
            self._bias = self.bias.float().contiguous()
        return self._bias


# ----------------------------------------------------------------------------------------------------------------------
# Weights


def _pack(weight: Tensor) -> Tensor:
    """(panels, taps, I, columns)."""
    out, depth, kernel, _ = weight.shape
    columns = _library().gg_conv_panel(out)
    taps = F.pad(weight.permute(2, 3, 1, 0).reshape(kernel * kernel, depth, out), (0, -out % columns))
    return taps.unflatten(2, (-1, columns)).permute(2, 0, 1, 3).contiguous()


def _pack_bf16(weight: Tensor) -> Tensor:
    """(panels of 32 columns, depth / 32, 2, 16 pairs of depths, 16 columns, 2), as the matrix unit takes them."""
    out = len(weight)
    flat = weight.permute(2, 3, 1, 0).reshape(-1, out)  # depth: kernel row, kernel column, channel
    flat = F.pad(flat, (0, -out % 32, 0, -len(flat) % 32))
    blocks = flat.unflatten(0, (-1, 16, 2)).unflatten(3, (-1, 2, 16))  # (depths, pair, of two, panels, half, column)
    return blocks.permute(3, 0, 4, 1, 5, 2).contiguous()


# One thread of a server processor: products a nanosecond, bytes a nanosecond, and nanoseconds to transform one vector
# of 16 channels of one tile, there and back, and one of 16 weights.
PRODUCTS, BYTES = 80.0, 10.0
TRANSFORM: dict[Kind, float] = {1: 0.0, 2: 90.0, 4: 220.0}
OF_WEIGHTS: dict[Kind, float] = {1: 0.0, 2: 12.0, 4: 28.0}
HIDDEN = 0.7  # of the shorter of products and reading weights, which go on at once


def _cost(kind: Kind, outputs: int, depth: int, channels: int) -> float:
    """Nanoseconds that a 3x3 convolution of so many outputs takes, about: products, reading weights, transforms."""
    points = 9 if kind == 1 else (kind + 2) ** 2
    rows = outputs / kind**2
    channels = -(-channels // 16) * 16  # the vectors are filled up with zeros
    products = points * rows * depth * channels / PRODUCTS
    reading = 4 * 9 * depth * channels / BYTES
    longer, shorter = max(products, reading), min(products, reading)
    transforms = rows * (depth + channels) / 16 * TRANSFORM[kind] / 2 + depth * channels / 16 * OF_WEIGHTS[kind]
    return longer + (1 - HIDDEN) * shorter + transforms


# ----------------------------------------------------------------------------------------------------------------------
# The native functions' arguments, as in native/conv.cpp

_pointer, _i32, _i64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", _pointer),
        ("row", _i64),
        ("image", _i64),
        ("where", _pointer),
        ("news", _pointer),
        ("news_image", _i64),
        ("channels", _i32),
        ("halved", _i32),
    )


class _Conv(ctypes.Structure):
    _fields_ = (
        ("kind", _i32),
        ("sources", _i32),
        ("source", _Map * MOST_SOURCES),
        *((name, _i32) for name in ("height", "width", "channels_in", "channels_out")),
        *((name, _i32) for name in ("kernel", "stride", "pad", "tile", "activation")),
        ("slope", ctypes.c_float),
        *((name, _pointer) for name in ("centre", "scale", "shift")),
        ("affine_image", _i64),
        *((name, _Map) for name in ("gamma", "beta", "residual")),
        *((name, _pointer) for name in ("weights", "bias")),
        *((name, _i32) for name in ("out_height", "out_width")),
        *((name, _pointer) for name in ("out", "out_where")),
        *((name, _i64) for name in ("out_row", "out_image")),
    )


def _library() -> ctypes.CDLL:
    native = library()
    if native is None:
        raise RuntimeError("the native library is not loaded")
    native.gg_conv_scratch.restype = native.gg_conv_bf16_scratch.restype = _i64
    native.gg_conv.argtypes = (_pointer, _pointer, _i64, _pointer, _i32)
    native.gg_conv_scratch.argtypes = (_pointer, _i64, _i32)
    native.gg_conv_bf16.argtypes, native.gg_conv_bf16_scratch.argtypes = (
        native.gg_conv.argtypes,
        native.gg_conv_scratch.argtypes,
    )
    return native


def _map(source: Source) -> _Map:
    base, start = source.base, source.base.element_size() * source.start
    out = _Map(data=base.data_ptr() + start, row=base.shape[1], channels=source.channels, halved=source.doubled)
    out.image = base[0].numel() if len(base) > 1 else 0
    if isinstance(source.map, EditedMap):
        out.where, out.news = source.map.touched.where.data_ptr(), source.map.news.data_ptr() + start
        out.news_image = source.map.news[0].numel()
    return out


def _fit(sources: Sequence[Source], out: AnyMap, kind: torch.dtype) -> bool:
    """Whether the native ways can read and write these maps."""
    maps = [out.base if isinstance(out, EditedMap) else out, *(source.base for source in sources)]
    return all(
        m.dtype == kind and m.device.type == "cpu" and m.is_contiguous(memory_format=torch.channels_last) for m in maps
    )


def _activated(x: Tensor, prologue: Prologue) -> Tensor:
    return activate(x, prologue.activation, prologue.negative_slope)
