"""A convolution on tiles: every way equals an ordinary convolution of the whole map, and touches nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.kernels import native
from gengauge.kernels.tile_conv import (
    ConvWay,
    EditedMap,
    Kind,
    Prologue,
    Source,
    TileConv,
    Touched,
    Workspace,
    whole,
)

CASES = 72
CHANNELS = (1, 3, 7, 16, 40, 70)
# Largest error, as a share of the sum of the products' sizes. `winograd 2` and `winograd 4` are the fast way where it
# would choose that tile, whatever it costs.
CLOSE = {"torch": 1e-6, "direct": 2e-6, "fast": 2e-5, "winograd 2": 4e-6, "winograd 4": 2e-5}
NATIVE = ("direct", "fast", "winograd 2", "winograd 4")
GUARD = 64  # floats around a map that nothing may read or write

needs_native = pytest.mark.skipif(not native.reason().startswith("yes"), reason=native.reason())


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


class GuardedWorkspace(Workspace):
    """Scratch that is NaN at first, with a guard behind it."""

    def scratch(self, floats: int) -> int:
        self._scratch = torch.full((floats + 2 * GUARD,), torch.nan)
        address = super().scratch(floats)
        used = (address - self._scratch.data_ptr()) // 4 + floats
        self.guard = self._scratch[used:]
        self.guard.fill_(7.0)
        return address

    @property
    def whole(self) -> bool:
        """Whether nothing was written behind the scratch."""
        return not hasattr(self, "guard") or bool((self.guard == 7.0).all())


class Chosen(TileConv):
    """A convolution whose fast way multiplies as it is told, where that can be."""

    forced: Kind | None = None

    def kind(self, way: ConvWay, count: int, tile: int) -> Kind:
        can = self.kernel == 3 and self.stride == 1 and count > 0
        if self.forced and can and tile % self.forced == 0:
            return self.forced
        return super().kind(way, count, tile)


@dataclass(frozen=True)
class Case:
    """One call."""

    conv: Chosen
    sources: list[Source]
    prologue: Prologue
    residual: Source | None
    touched: Touched
    images: int
    size_in: tuple[int, int]

    @property
    def channels_out(self) -> int:
        return self.conv.weight.shape[0]

    def input(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The convolution's input, of the whole map."""
        x = torch.cat([source.read() for source in self.sources], 1).to(dtype)
        then = self.prologue
        if then.centre is not None:
            x = x - then.centre[:, :, None, None]
        if then.scale is not None and then.shift is not None:
            x = x * then.scale[:, :, None, None] + then.shift[:, :, None, None]
        if then.gamma is not None and then.beta is not None:
            x = x * (1 + then.gamma.read().to(dtype)) + then.beta.read().to(dtype)
        activations = {"swish": F.silu, "relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, then.negative_slope)}
        return activations.get(then.activation, lambda x: x)(x)

    def expected(self, x: Tensor | None = None, size: bool = False) -> Tensor:
        """The whole output by an ordinary convolution; with `size`, of the absolute values."""
        x = self.input() if x is None else x
        (height, width), conv = self.touched.size, self.conv
        end = [(n - 1) * conv.stride + conv.kernel - conv.padding for n in (height, width)]
        sides = (conv.padding, end[1] - x.shape[3], conv.padding, end[0] - x.shape[2])
        weight, bias = conv.weight.double(), None if conv.bias is None else conv.bias.double()
        residual = None if self.residual is None else self.residual.read().double()
        if size:
            x, weight = x.abs(), weight.abs()
            bias, residual = (None if t is None else t.abs() for t in (bias, residual))
        out = F.conv2d(F.pad(x, sides), weight, bias, conv.stride, groups=conv.groups)
        return out if residual is None else out + residual

    def using(self, way: str) -> ConvWay:
        """Tells the convolution how to multiply; returns what it is called with."""
        self.conv.forced = {"winograd 2": 2, "winograd 4": 4}.get(way)  # type: ignore[assignment]
        return "fast" if way.startswith("winograd") else way  # type: ignore[return-value]

    def kind(self, way: str, touched: Touched) -> Kind:
        """How the native ways multiply for so many tiles."""
        return self.conv.kind(self.using(way), len(touched.corners) * self.images, touched.tile)

    def compute(self, way: str, out: Tensor | EditedMap, touched: Touched | None = None) -> None:
        workspace = GuardedWorkspace()
        touched = touched or self.touched
        way = self.using(way)
        self.conv(self.sources, self.prologue, touched, out, residual=self.residual, way=way, workspace=workspace)
        assert workspace.whole, "written beyond the scratch"

    def computed(self, way: str, touched: Touched | None = None) -> Tensor:
        """The output (N, O, H, W), zero where nothing is computed."""
        out = guarded(torch.zeros(self.images, self.channels_out, *self.touched.size))
        self.compute(way, out, touched)
        return out


class Draw:
    """Random tensors and settings of one case."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def maybe(self, share: float = 0.5) -> bool:
        return self.choice.random() < share

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def corners(self, size: tuple[int, int], tile: int, share: float) -> Tensor:
        """Some tiles of a grid, and some beyond the map."""
        found = [(y, x) for y in range(0, size[0] + tile, tile) for x in range(0, size[1] + tile, tile)]
        chosen = [corner for corner in found if self.maybe(share)]
        return torch.tensor(chosen, dtype=torch.int32).reshape(-1, 2)

    def source(self, images: int, channels: int, size: tuple[int, int]) -> Source:
        """Channels of a map: perhaps of half the size, perhaps a slice, perhaps edited."""
        doubled = size[0] % 2 == size[1] % 2 == 0 and self.maybe(0.3)
        size = (size[0] // 2, size[1] // 2) if doubled else size
        before, after = (self.choice.choice([0, 2, 9]), self.choice.choice([0, 1])) if self.maybe(0.3) else (0, 0)
        total = before + channels + after
        base = guarded(self.normal(images, total, *size))
        if not self.maybe(0.4):
            return Source(base, before, channels, doubled)
        tile = self.choice.choice([1, 2, 4])
        touched = Touched(self.corners(size, tile, self.choice.choice([0.0, 0.5, 1.0])), tile, size)
        news = guarded_flat(self.normal(images, touched.count, total))
        return Source(EditedMap(base, news, touched), before, channels, doubled)

    def case(self, **fixed: Any) -> Case:
        """Any call; `fixed` settles some of its settings."""
        images = fixed.get("images", self.choice.choice([1, 1, 2, 3]))
        kernel = fixed.get("kernel", self.choice.choice([3, 3, 3, 1, 5]))
        stride = fixed.get("stride", self.choice.choice([1, 1, 1, 2]))
        most = fixed.get("most", 19)
        size = (self.choice.randint(kernel, most), self.choice.randint(kernel, most))
        if self.maybe():
            size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        form = self.choice.choice(["valid", "same", "right and bottom"])
        padding = kernel // 2 if form == "same" else 0
        if form == "right and bottom":
            out = (-(-size[0] // stride), -(-size[1] // stride))
        else:
            out = ((size[0] + 2 * padding - kernel) // stride + 1, (size[1] + 2 * padding - kernel) // stride + 1)
        parts = [self.choice.choice(CHANNELS) for _ in range(self.choice.choice([1, 1, 2, 3]))]
        depth, channels = sum(parts), self.choice.choice(CHANNELS)
        rows = self.choice.choice([1, images])
        side = lambda: self.normal(rows, depth)  # noqa: E731
        affine, modulated = self.maybe(0.6), self.maybe(0.25)
        prologue = Prologue(
            side() if affine else None,
            side() if affine else None,
            side() if affine and self.maybe(0.3) else None,
            self.source(images, depth, size) if modulated else None,
            self.source(images, depth, size) if modulated else None,
            fixed.get("activation", self.choice.choice(["identity", "swish", "relu", "leaky_relu"])),
            0.2,
        )
        tile = fixed.get("tile", self.choice.choice([1, 2, 4, 6]))
        touched = Touched(self.corners(out, tile, self.choice.choice([0.1, 0.6, 1.0])), tile, out)
        weight = self.normal(channels, depth, kernel, kernel)
        return Case(
            Chosen(weight, self.normal(channels) if self.maybe(0.7) else None, stride=stride, padding=padding),
            [self.source(images, part, size) for part in parts],
            prologue,
            self.source(images, channels, out) if self.maybe(0.4) else None,
            touched,
            images,
            size,
        )


def guarded(value: Tensor) -> Tensor:
    """A map (N, C, H, W) in channels_last with NaN around it in memory."""
    n, c, h, w = value.shape
    around = guarded_flat(value.permute(0, 2, 3, 1).reshape(n, h * w, c))
    return around.view(n, h, w, c).permute(0, 3, 1, 2)


def guarded_flat(value: Tensor) -> Tensor:
    """A tensor with NaN around it in memory."""
    around = torch.full((value.numel() + 2 * GUARD,), torch.nan)
    inner = around[GUARD : GUARD + value.numel()].view(value.shape)
    return inner.copy_(value)


def guards(inner: Tensor) -> Tensor:
    """What lies around a guarded tensor."""
    around = torch.empty(0).set_(inner.untyped_storage())
    return torch.cat([around[:GUARD], around[GUARD + inner.numel() :]])


def written(touched: Touched) -> Tensor:
    """Which pixels (H, W) are computed."""
    return (touched.where >= 0).view(touched.size)


def assert_equal(ours: Tensor, case: Case, way: str, touched: Touched | None = None) -> None:
    """Computed pixels are those of the ordinary convolution, to the way's rounding."""
    mask = written(touched or case.touched)
    if not mask.any():
        return
    expected, size = case.expected()[:, :, mask], case.expected(size=True)
    error = (ours[:, :, mask].double() - expected).abs().max().item()
    assert error <= CLOSE[way] * max(1.0, size.max().item()), f"largest error {error:.3g} of {size.max():.3g}"


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("seed", range(CASES))
def test_every_way_equals_a_convolution_of_the_whole_map(seed: int) -> None:
    draw = Draw(seed)
    case = draw.case()
    before = guarded(draw.normal(case.images, case.channels_out, *case.touched.size))
    for way in CLOSE:
        out = guarded(before)
        case.compute(way, out)
        mask = written(case.touched)
        assert torch.equal(out[:, :, ~mask], before[:, :, ~mask]), "an untouched pixel was written"
        assert guards(out).isnan().all(), "written beside the map"
        assert_equal(out, case, way)


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("seed", range(CASES, CASES + CASES // 2))
def test_edits_are_written_beside_the_map(seed: int) -> None:
    draw = Draw(seed)
    case = draw.case()
    before = guarded(draw.normal(case.images, case.channels_out, *case.touched.size))
    for way in CLOSE:
        base = guarded(before)
        news = guarded_flat(torch.zeros(case.images, case.touched.count, case.channels_out))
        out = EditedMap(base, news, case.touched)
        case.compute(way, out)
        assert torch.equal(base, before)
        assert guards(news).isnan().all(), "written beside the new pixels"
        assert_equal(whole(out), case, way)
        mask = written(case.touched)
        assert torch.equal(whole(out)[:, :, ~mask], before[:, :, ~mask])


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", [(1, 1), (16, 16), (33, 130), (300, 70), (256, 256)])
def test_many_tiles_and_channels(kernel: int, channels: tuple[int, int]) -> None:
    draw = Draw(kernel)
    depth, out = channels
    touched = Touched(draw.corners((40, 36), 4, 0.9), 4, (40, 36))
    conv = Chosen(draw.normal(out, depth, kernel, kernel), draw.normal(out), padding=kernel // 2)
    sources = [Source(guarded(draw.normal(1, depth, 40, 36)), 0, depth)]
    affine = Prologue(draw.normal(1, depth), draw.normal(1, depth), activation="swish")
    for prologue in (Prologue(), affine):
        case = Case(conv, sources, prologue, None, touched, 1, (40, 36))
        for way in NATIVE:
            assert_equal(case.computed(way), case, way)


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("depth", [192, 239])
@pytest.mark.parametrize("count", [57, 113, 225])
def test_the_last_of_several_chunks(depth: int, count: int) -> None:
    """It has fewer tiles than the others, which must not change how much memory its weights take."""
    draw = Draw(count)
    size = (60, 60)
    corners = torch.cartesian_prod(torch.arange(0, 60, 4), torch.arange(0, 60, 4)).int()
    touched = Touched(corners[torch.randperm(len(corners), generator=draw.generator)[:count]], 4, size)
    conv = Chosen(draw.normal(40, depth, 3, 3), draw.normal(40), padding=1)
    sources = [Source(guarded(draw.normal(1, depth, *size)), 0, depth)]
    case = Case(conv, sources, Prologue(), None, touched, 1, size)
    for way in ("winograd 2", "winograd 4"):
        assert_equal(case.computed(way), case, way)


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("seed", range(16))
def test_a_pixel_does_not_depend_on_which_others_are_computed(seed: int) -> None:
    draw = Draw(1000 + seed)
    case = draw.case(most=26)
    size, tile = case.touched.size, case.touched.tile
    everything = Touched(draw.corners(size, tile, 1.0), tile, size)
    for way in CLOSE:
        alone, together = case.computed(way), case.computed(way, everything)
        kinds = {case.kind(way, touched) for touched in (case.touched, everything)}
        mask = written(case.touched)
        if way != "torch" and case.conv.native(tile) and len(kinds) == 1:
            assert torch.equal(alone[:, :, mask], together[:, :, mask])
        assert_equal(together, case, way, everything)


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_comes_through(seed: int, value: float) -> None:
    draw = Draw(2000 + seed)
    case = draw.case(activation=draw.choice.choice(["identity", "swish", "leaky_relu"]))
    source = case.sources[0]
    pixel = draw.choice.randrange(source.base.shape[2]), draw.choice.randrange(source.base.shape[3])
    source.base[0, source.start, pixel[0], pixel[1]] = value
    expected, mask = case.expected(), written(case.touched)
    reached = ~expected.isfinite() & mask
    for way in CLOSE:
        ours = case.computed(way)
        # SiLU of minus infinity is NaN in torch and may be 0 here; of NaN it is NaN.
        if value != value or case.prologue.activation != "swish":
            assert not ours[reached].isfinite().any(), "a value that is not finite was lost"
        lost = ~ours.isfinite() & mask
        if case.kind(way, case.touched) == 1:  # Winograd's sums mix the pixels of a tile
            assert torch.equal(lost, reached) or value == value
        size = case.expected(torch.nan_to_num(case.input(), 0, 0, 0), size=True).max().item()
        finite = mask & expected.isfinite() & ours.isfinite()
        error = (ours[finite].double() - expected[finite]).abs()
        assert not error.numel() or error.max().item() <= CLOSE[way] * max(1.0, size)


@needs_native
@pytest.mark.parametrize("seed", range(12))
def test_images_of_a_batch_do_not_meet(seed: int) -> None:
    draw = Draw(3000 + seed)
    case = draw.case(images=3)
    for way in NATIVE:
        together = case.computed(way)
        for image in range(3):
            own = image_of(case, image)
            alone = own.computed(way)
            same = own.kind(way, case.touched) == case.kind(way, case.touched)
            if same and case.conv.native(case.touched.tile):
                assert torch.equal(alone[0], together[image])


def image_of(case: Case, image: int) -> Case:
    """The call for one image of a batch."""

    def of(source: Source | None) -> Source | None:
        if source is None:
            return None
        if isinstance(source.map, EditedMap):
            news = source.map.news[image : image + 1].clone()
            return replace(source, map=EditedMap(guarded(source.base[image : image + 1]), news, source.map.touched))
        return replace(source, map=guarded(source.map[image : image + 1]))

    def row(side: Tensor | None) -> Tensor | None:
        return None if side is None else side[image % len(side)][None].clone()

    then = case.prologue
    sides = {name: row(getattr(then, name)) for name in ("scale", "shift", "centre")}
    prologue = replace(then, **sides, gamma=of(then.gamma), beta=of(then.beta))
    sources = [found for source in case.sources if (found := of(source))]
    return Case(case.conv, sources, prologue, of(case.residual), case.touched, 1, case.size_in)


@needs_native
def test_what_the_native_ways_cannot_take_is_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the native way was taken")

    monkeypatch.setattr(TileConv, "_native", refuse)
    draw = Draw(0)

    def case(conv: Chosen, tile: int, x: Tensor) -> Case:
        size = tuple((n + 2 * conv.padding - conv.kernel) // conv.stride + 1 for n in x.shape[2:])
        touched = Touched(draw.corners((size[0], size[1]), tile, 0.7), tile, (size[0], size[1]))
        return Case(conv, [Source(x, 0, x.shape[1])], Prologue(), None, touched, len(x), (x.shape[2], x.shape[3]))

    last = torch.channels_last
    x = draw.normal(1, 4, 20, 20).contiguous(memory_format=last)
    cases = {
        "kernel": case(Chosen(draw.normal(3, 4, 9, 9), None, padding=4), 2, x),
        "window": case(Chosen(draw.normal(3, 4, 5, 5), None, padding=2, stride=2), 6, x),
        "groups": case(Chosen(draw.normal(4, 1, 3, 3), None, padding=1, groups=4), 4, x),
        "layout": case(Chosen(draw.normal(3, 4, 3, 3), None, padding=1), 4, x.contiguous()),
        "double": case(Chosen(draw.normal(3, 4, 3, 3).double(), None, padding=1), 4, x.double()),
    }
    for name, found in cases.items():
        out = torch.zeros(1, found.channels_out, *found.touched.size, dtype=x.dtype).contiguous(memory_format=last)
        out = out.double() if name == "double" else out
        for way in NATIVE:
            found.compute(way, out.zero_())
            assert_equal(out, found, "torch")
    with pytest.raises(AssertionError, match="native way was taken"):
        case(Chosen(draw.normal(3, 4, 3, 3), None, padding=1), 4, x).computed("fast")


def in_bf16(case: Case) -> Case:
    """The same call on maps and weights rounded to bfloat16; affines stay float."""

    def half(value: Tensor) -> Tensor:
        return value.to(torch.bfloat16, memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format)

    def source(of: Source | None) -> Source | None:
        if of is None:
            return None
        if isinstance(of.map, EditedMap):
            return replace(of, map=EditedMap(half(of.map.base), half(of.map.news), of.map.touched))
        return replace(of, map=half(of.map))

    conv = case.conv
    bias = None if conv.bias is None else half(conv.bias)
    rounded = Chosen(half(conv.weight), bias, stride=conv.stride, padding=conv.padding, groups=conv.groups)
    then = replace(case.prologue, gamma=source(case.prologue.gamma), beta=source(case.prologue.beta))
    sources = [found for found in map(source, case.sources) if found is not None]
    return replace(case, conv=rounded, sources=sources, prologue=then, residual=source(case.residual))


@needs_native
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("seed", range(CASES))
def test_bfloat16(seed: int) -> None:
    case = in_bf16(Draw(seed).case())
    mask = written(case.touched)
    expected, size = case.expected(), case.expected(size=True)
    for way in ("torch", "fast"):  # where the processor has no matrix unit both are torch's
        out = torch.full_like(expected, 7.0, dtype=torch.bfloat16, memory_format=torch.channels_last)
        case.compute(way, out)
        assert (out[:, :, ~mask] == 7.0).all()
        if mask.any():  # input, modulated and activated, and output are rounded to 8 bits
            error = (out.double() - expected)[:, :, mask].abs().max().item()
            assert error <= 2.0**-7 * max(1.0, size[:, :, mask].max().item()), way


@pytest.mark.parametrize("seed", range(0, CASES, 6))
def test_torchs_way_needs_no_native_library(seed: int) -> None:
    case = Draw(seed).case()
    assert_equal(case.computed("torch"), case, "torch")


def test_tiles_that_begin_outside_are_left_out() -> None:
    touched = Touched(torch.tensor([[0, 0], [4, 4], [8, 0], [0, 8]], dtype=torch.int32), 4, (7, 8))
    assert touched.corners.tolist() == [[0, 0], [4, 4]]
    assert touched.count == 32
    assert int(written(touched).sum()) == 16 + 12
    assert touched.where.view(7, 8)[6, 7] == 16 + 11


@needs_native
def test_nothing_to_compute_is_no_error() -> None:
    draw = Draw(5)
    case = draw.case()
    nothing = Touched(torch.empty(0, 2, dtype=torch.int32), 4, case.touched.size)
    for way in CLOSE:
        assert not case.computed(way, nothing).any()


def test_weights_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(O, I, k, k\)"):
        TileConv(torch.zeros(3, 4, 1, 3), None)
