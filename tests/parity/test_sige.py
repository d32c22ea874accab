"""SIGE against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes, settings, under
from torch import Tensor, nn

from gengauge.benchmarks.metrics import segmentation
from gengauge.benchmarks.metrics.psnr import psnr
from gengauge.kernels import available
from gengauge.kernels.definition import Activation
from gengauge.kernels.tile_conv import ConvWay
from gengauge.kernels.tiles import (
    gather,
    scatter,
    scatter_gather,
    scatter_map,
    scatter_with_block_residual,
    tile_indices,
)
from gengauge.kernels.ways import Way
from gengauge.reference.nets import ddpm_unet, pd_unet, spade
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.pd_unet import PDConfig, PDUNet
from gengauge.reference.nets.spade import SPADEConfig, SPADEGenerator, one_hot_with_edges
from gengauge.reference.nets.unet import UNetConfig
from gengauge.reference.sige import masks, policy, samplers
from gengauge.reference.sige.count import dense_macs, parameters
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.program import ConvStep
from gengauge.reference.sige.run import Run
from gengauge.reference.sige.tape import record

PAPER = "sige"
NETWORKS = ("ddpm_", "pd_", "gaugan_", "gancomp_")
KERNEL = 1e-6  # of kernels' outputs
OUTPUT: dict[str, float] = {"torch": 1e-4, "direct": 1e-4, "fast": 3e-4}  # of networks' outputs; fast is Winograd's
AGREEMENT = 2e-5  # dense, fused and full outputs among themselves
SCORE = 1e-9
READ: set[Path] = set()  # the files that gave a test item


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """A way that this machine has."""
    wanted = str(request.param)
    native = available()["torch" if wanted == "torch" else "native"]
    if not native.startswith("yes"):
        pytest.skip(native)
    return wanted


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[Any]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    READ.update(path for path, _ in found)
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def matching(pattern: str) -> Callable[[dict[str, Tensor]], list[str]]:
    """Names of tensors with a pattern in them."""
    return lambda tensors: [key for key in tensors if re.search(pattern, key)]


def times(items: list[Any], *choices: str) -> list[Any]:
    """Each item with each choice."""
    return [pytest.param(*item.values, choice, id=f"{item.id}-{choice}") for item in items for choice in choices]


def beside(name: str) -> str:
    """What stands before the last part of a tensor's name, with its dot."""
    return name[: name.rfind(".") + 1]


def sizes(tensors: dict[str, Tensor], prefix: str) -> dict[tuple[int, int], Tensor]:
    """Tensors whose names end in `HxW`, by size."""
    found = {tuple(map(int, key.split("x"))): value for key, value in under(tensors, prefix).items()}
    return cast("dict[tuple[int, int], Tensor]", found)


def test_every_golden_file_gives_a_test_item() -> None:
    there = {path for path in folder(PAPER).iterdir() if path.name not in ("MANIFEST.md", "settings.json")}
    unknown = sorted(path.name for path in there - READ)
    assert not unknown, f"no test reads {unknown}"


# ----------------------------------------------------------------------------------------------------------------------
# ddpm_*, pd_*, gaugan_*, gancomp_*: networks


def setting(metadata: dict[str, str], name: str) -> Any:
    """A number, a list as a tuple, or None, from a golden's metadata."""
    value = ast.literal_eval(metadata[name])
    return tuple(value) if isinstance(value, list) else value


def weights(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, which are stored in half precision, as float32."""
    found = under(tensors, prefix)
    return {key: value.float() if value.is_floating_point() else value for key, value in found.items()}


def unet_settings(state: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """What the metadata and the shapes of the weights tell of a U-Net."""
    named = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions")
    return {
        "resolution": setting(metadata, "image_size"),
        **{name: setting(metadata, name) for name in named},
        "temb_ch": len(state["temb.dense.0.bias"]),
        "in_channels": state["conv_in.weight"].shape[1],
        "out_ch": len(state["conv_out.bias"]),
    }


def spade_config(state: dict[str, Tensor], metadata: dict[str, str]) -> SPADEConfig:
    """What the metadata and the shapes of the weights tell of a SPADE generator."""
    channels = setting(metadata, "channels")
    return SPADEConfig(
        crop_size=setting(metadata, "crop_size"),
        aspect_ratio=setting(metadata, "aspect_ratio"),
        labels=state["fc.weight"].shape[1] - 1,
        channels=channels or (setting(metadata, "ngf"),) * 8,
        separable=channels is not None,
    )


@dataclass(frozen=True)
class Golden:
    """A file of a network's kind."""

    kind: str
    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    state: dict[str, Tensor]  # weights of the plain network
    fused: dict[str, Tensor] | None  # of the fused one, where the network has such a form
    make: Callable[[bool], nn.Module]  # the network, plain or fused

    @staticmethod
    def read(path: Path, kind: str) -> Golden:
        tensors, metadata = load(path)
        state = weights(tensors, "w.")
        make: Callable[[bool], nn.Module]
        fused: dict[str, Tensor] | None
        if kind == "pd_":
            pd = PDConfig(**unet_settings(state, metadata), head_dim=setting(metadata, "head_dim"))
            make, fused = (lambda fused: PDUNet(pd)), None
        elif kind == "ddpm_":
            ddpm = UNetConfig(**unet_settings(state, metadata))
            make, fused = (lambda fused: DDPMUNet(ddpm, fused)), ddpm_unet.fuse(state, ddpm)
        else:
            config = spade_config(state, metadata)
            make, fused = (lambda fused: SPADEGenerator(config, fused)), spade.fuse(state, config)
        return Golden(kind, path, tensors, metadata, state, fused, make)

    @property
    def is_unet(self) -> bool:
        return self.kind in ("ddpm_", "pd_")

    def given(self, name: str, default: Any) -> Any:
        """A setting that stands in the MANIFEST's prose only."""
        return settings(self.path).get(name, default)

    def pictures(self) -> dict[str, Tensor]:
        """The network's first argument by name: `original`, `edited`, and further edits."""
        if self.is_unet:
            return under(self.tensors, "x_")
        labels = self.state["fc.weight"].shape[1] - 1
        both = one_hot_with_edges(self.tensors["label"], self.tensors["instance"], labels)
        return {"original": both[:1], "edited": both[1:]}

    def times(self, cache_id: int = 0) -> tuple[Tensor, ...]:
        """The network's further arguments."""
        return (self.tensors[f"t_cache{cache_id}" if cache_id else "t"],) if self.is_unet else ()

    def network(self, fused: bool) -> nn.Module:
        """The network in evaluation, with weights that must be all of its own."""
        state = self.fused if fused else self.state
        assert state is not None
        network = self.make(fused)
        network.load_state_dict(state)
        return network.eval()

    @torch.no_grad()
    def output(self, fused: bool, picture: str) -> Tensor:
        """The network's output for a picture."""
        return self.network(fused)(self.pictures()[picture], *self.times())

    # -- of the engine -------------------------------------------------------------------------------------------------

    def policy(self, attention_fault: bool = False) -> Policy:
        main, shortcut = self.given("blocks", (6, 4))
        if self.kind == "ddpm_":
            threshold = setting(self.metadata, "sparse_resolution_threshold")
            return policy.ddpm(threshold, main, shortcut, published_attention_fault=attention_fault)
        if self.kind == "pd_":
            threshold = setting(self.metadata, "sparse_resolution_threshold")
            return policy.progressive_distillation(threshold, main, shortcut)
        return policy.spade(setting(self.metadata, "num_sparse_layers"), main, shortcut)

    def levels(self, mask: str) -> dict[tuple[int, int], Tensor]:
        """The masks of all levels from the one of that name, down to the smallest level that the file has."""
        dilation = self.given("dilation", 1 if self.is_unet else 2)
        smallest = min(sizes(self.tensors, "mask."))
        return masks.downsample(self.tensors[mask], smallest, dilation, self.given("threshold", 0.3))

    def engine(self, way: str, attention_fault: bool = False) -> Engine:
        """The engine after its run on the original, with the masks of the first edit."""
        fused = self.fused is not None
        engine = Engine(self.network(fused), self.policy(attention_fault), cast(ConvWay, way))
        engine.full(self.pictures()["original"], *self.times())
        engine.set_masks(self.levels("difference_mask"))
        return engine


def networks(*kinds: str, ways: bool = False, having: str = "") -> list[Any]:
    """A test item a file of the kinds that has a tensor whose name starts so; with `ways`, one a way to compute."""
    paths = [(path, kind) for kind in kinds or NETWORKS for path in files(PAPER, kind)]
    if not having:
        READ.update(path for path, _ in paths)
    found = [(path, kind) for path, kind in paths if under(load(path)[0], having)]
    plain = [pytest.param(path, kind, id=path.stem) for path, kind in found]
    return times(plain, *OUTPUT) if ways else plain


@pytest.mark.parametrize(("path", "kind"), networks())
def test_dense_outputs(path: Path, kind: str) -> None:
    golden = Golden.read(path, kind)
    plain = golden.output(False, "edited")
    assert_close(golden.output(False, "original"), golden.tensors["out.dense_original"], OUTPUT["torch"])
    assert_close(plain, golden.tensors["out.dense_edited"], OUTPUT["torch"])
    if "out.fused_edited" in golden.tensors:
        ours = golden.output(True, "edited")
        assert_close(ours, golden.tensors["out.fused_edited"], OUTPUT["torch"])
        assert_close(ours, plain, AGREEMENT)


@pytest.mark.parametrize(("path", "kind"), networks())
def test_fused_weights(path: Path, kind: str) -> None:
    golden = Golden.read(path, kind)
    published = weights(golden.tensors, "wfused.")
    for name, value in published.items():
        assert golden.fused is not None
        assert_close(golden.fused[name], value, 0.0)
    if published and golden.fused is not None:
        assert published.keys() == golden.fused.keys() - golden.state.keys()


@pytest.mark.parametrize(("path", "kind"), networks("gaugan_", "gancomp_"))
def test_one_hot_with_edges(path: Path, kind: str) -> None:
    tensors, metadata = load(path)
    labels = setting(metadata, "input_nc")
    ours = one_hot_with_edges(tensors["label"], tensors["instance"], labels)
    assert ours.shape[1] == labels + 1 == tensors["w.fc.weight"].shape[1]
    assert torch.equal(ours[:, :-1].argmax(1), tensors["label"][:, 0].long())
    assert torch.equal(ours[:, :-1].sum(1), torch.ones_like(ours[:, 0]))
    assert torch.equal(ours[:, -1:], tensors["edge"].float())


# ----------------------------------------------------------------------------------------------------------------------
# The same files: the engine


@pytest.mark.parametrize(("path", "kind"), networks(having="difference_mask"))
def test_masks_of_the_edit(path: Path, kind: str) -> None:
    golden = Golden.read(path, kind)
    pictures = golden.pictures()
    eps = golden.given("eps", 0.01 if golden.is_unet else 1e-3)
    said = golden.given("dilation_before", None)
    radii = range(6) if said is None else [said]  # where nothing is said, one of those in use
    edits = sorted(pictures, key=lambda name: (name != "original", name))
    for number, (before, after) in enumerate(pairwise(edits), 1):
        mask = golden.tensors["difference_mask" if number == 1 else f"difference_mask{number}"]
        raw = masks.difference_mask(pictures[before], pictures[after], eps)
        assert any(torch.equal(masks.dilate(raw, radius), mask) for radius in radii), after
    ours, published = golden.levels("difference_mask"), sizes(golden.tensors, "mask.")
    assert ours.keys() == published.keys()
    for size, mask in published.items():
        assert torch.equal(ours[size], mask), size


@pytest.mark.parametrize(("path", "kind", "way"), networks(ways=True), indirect=["way"])
def test_full_and_sparse_outputs(path: Path, kind: str, way: str) -> None:
    golden = Golden.read(path, kind)
    tensors, pictures = golden.tensors, golden.pictures()
    engine = golden.engine(way)
    full = engine.full(pictures["original"], *golden.times())
    if "out.sige_full_original" in tensors:
        assert_close(full, tensors["out.sige_full_original"], OUTPUT[way])
    assert_close(full, golden.output(False, "original"), OUTPUT[way] if way == "fast" else AGREEMENT)
    # Of DDPM's the plain name is the run with the published fault.
    target = "out.sige_sparse_edited_attnfix" if kind == "ddpm_" else "out.sige_sparse_edited"
    if target in tensors:
        assert_close(engine.sparse(pictures["edited"]), tensors[target], OUTPUT[way])


@pytest.mark.parametrize(
    ("path", "kind", "way"), networks("ddpm_", ways=True, having="out.sige_sparse_edited"), indirect=["way"]
)
def test_outputs_as_published_with_the_attention_fault(path: Path, kind: str, way: str) -> None:
    golden = Golden.read(path, kind)
    ours = golden.engine(way, attention_fault=True).sparse(golden.pictures()["edited"])
    assert_close(ours, golden.tensors["out.sige_sparse_edited"], OUTPUT[way])


@pytest.mark.parametrize(("path", "kind", "way"), networks(ways=True, having="inter.sparse."), indirect=["way"])
def test_outputs_of_modules_within(path: Path, kind: str, way: str) -> None:
    golden = Golden.read(path, kind)
    engine = golden.engine(way, attention_fault=kind == "ddpm_")  # they are of the run with the published fault
    assert engine.program is not None
    tape = engine.program.tape
    assert engine.prepared is not None
    run = Run(engine.prepared, engine.way, engine.caches[0], golden.pictures()["edited"], marks=engine.marks)
    with torch.no_grad():
        run.all()
        for name, published in under(golden.tensors, "inter.sparse.").items():
            calls = [call for call in tape.calls if f"{call.module}.".startswith(f"{name}.")]
            assert_close(run.value(calls[-1].outputs[0]), published, OUTPUT[way])


@pytest.mark.parametrize(("path", "kind", "way"), networks(ways=True, having="out.seq"), indirect=["way"])
def test_successive_edits(path: Path, kind: str, way: str) -> None:
    golden = Golden.read(path, kind)
    engine, pictures = golden.engine(way), golden.pictures()
    for number in sorted(int(key) for key in under(golden.tensors, "out.seq")):
        suffix = "" if number == 1 else str(number)
        engine.set_masks(golden.levels(f"difference_mask{suffix}"))
        ours = engine.sparse(pictures[f"edited{suffix}"], update=True)
        assert_close(ours, golden.tensors[f"out.seq{number}"], OUTPUT[way])


@pytest.mark.parametrize(("path", "kind", "way"), networks(ways=True, having="out.cache"), indirect=["way"])
def test_several_caches(path: Path, kind: str, way: str) -> None:
    golden = Golden.read(path, kind)
    engine, pictures = golden.engine(way), golden.pictures()
    named = {key: re.fullmatch(r"out\.cache(\d+)(?:_on_([\d.]+)x)?", key) for key in golden.tensors}
    found = {key: (int(match[1]), float(match[2] or 1)) for key, match in named.items() if match}
    assert len(found) == len(under(golden.tensors, "out.cache"))
    for cache_id, factor in found.values():
        engine.full(factor * pictures["original"], *golden.times(cache_id), cache_id=cache_id)
    for key, (cache_id, factor) in found.items():
        ours = engine.sparse(factor * pictures["edited"], cache_id)
        assert_close(ours, golden.tensors[key], OUTPUT[way])


# The convolutions before which a published gather stands, by the gather's name within its block.
GATHERS = {
    "main_gather": ("conv1", "conv_0"),
    "shortcut_gather": ("nin_shortcut", "conv_s"),
    "seg_gather": ("mlp_shared.0",),
    "gather": ("conv",),
    "gather1": ("qkv",),
    "gather2": ("proj_out",),
    "norm_s.gather": ("conv_s",),
    "norm_s.gather_gamma": ("conv_s",),
    "norm_s.gather_beta": ("conv_s",),
}


@pytest.mark.parametrize(("path", "kind"), networks(having="tiles."))
def test_tiles(path: Path, kind: str) -> None:
    golden = Golden.read(path, kind)
    engine, levels = golden.engine("torch"), golden.levels("difference_mask")
    assert engine.program is not None
    steps: dict[str, ConvStep] = {step.name: step for step in engine.program.steps}
    blocks = set()
    for name, published in under(golden.tensors, "tiles.").items():
        gather = next(end for end in sorted(GATHERS, key=len, reverse=True) if name.endswith(f".{end}"))
        block = name.removesuffix(f".{gather}")
        blocks.add(block)
        (step,) = (steps[conv] for last in GATHERS[gather] if (conv := f"{block}.{last}") in steps)
        tiling = engine.tiling(step)
        assert tiling is not None, step.name
        count = len(tiling.corners(levels[step.size_in]))
        assert [tiling.window, tiling.step, tiling.padding, count] == published.tolist(), name
    for step in engine.program.steps:
        with_gather = any(step.name.startswith(f"{block}.") for block in blocks)
        assert (engine.tiling(step) is not None) == with_gather, step.name


# ----------------------------------------------------------------------------------------------------------------------
# masks*: difference, dilations, levels, tiles

REDUCE = re.compile(r"reduce\.b(?P<block>\d+)\.s(?P<stride>\d+)\.p(?P<padding>\d+)")


@pytest.mark.parametrize(
    ("path", "name"),
    items("masks", lambda tensors: [f"{case}difference_mask" for case in prefixes(tensors, "tensor1")]),
)
def test_difference_mask(path: Path, name: str) -> None:
    tensors, _ = load(path)
    eps = settings(path).get("eps", 0.02)
    ours = masks.difference_mask(tensors[f"{beside(name)}tensor1"], tensors[f"{beside(name)}tensor2"], eps)
    assert torch.equal(ours, tensors[name])


@pytest.mark.parametrize(("path", "name"), items("masks", matching(r"(^|\.)dilate")))
def test_dilation(path: Path, name: str) -> None:
    tensors, _ = load(path)
    radius: int | tuple[int, int]
    both = re.search(r"dilate_h(\d+)_w(\d+)$", name)
    radius = (int(both[1]), int(both[2])) if both else int(name.rpartition("dilate")[2])
    ours = masks.dilate(tensors[f"{beside(name)}difference_mask"], radius)
    assert torch.equal(ours, tensors[name])


@pytest.mark.parametrize(
    ("path", "name"), items("masks", lambda tensors: [f"{case}down" for case in prefixes(tensors, "params")])
)
def test_levels(path: Path, name: str) -> None:
    tensors, _ = load(path)
    case = beside(name)
    height, width, min_height, min_width, dilation = tensors[f"{case}params"].tolist()
    first = settings(path).get("dilation_before", 1)
    mask = masks.dilate(tensors[f"{case}difference_mask"], first)
    ours = masks.downsample(mask, (min_height, min_width), dilation, tensors[f"{case}threshold"].item())
    published = sizes(tensors, f"{name}.")
    assert next(iter(ours)) == (height, width)
    assert ours.keys() == published.keys()
    for size, level in ours.items():
        assert torch.equal(level, published[size]), size


@pytest.mark.parametrize(("path", "name"), items("masks", lambda tensors: prefixes(tensors, ".params")))
def test_reduce(path: Path, name: str) -> None:
    tensors, _ = load(path)
    height, width = tensors[f"{name}.params"].tolist()[:2]
    mask = tensors[f"{name}.down.{height}x{width}"]
    for key in (key for key in under(tensors, f"{name}.") if key.startswith("reduce.")):
        form = REDUCE.fullmatch(key)
        assert form, key
        ours = tile_indices(mask, int(form["block"]), int(form["stride"]), int(form["padding"]))
        assert ours.dtype == torch.int32
        assert torch.equal(ours, tensors[f"{name}.{key}"])


# ----------------------------------------------------------------------------------------------------------------------
# macs_fullsize*.json with masks_shipped_edits*: the pixels of published edits

# What a model is called there, and its recipe.
RECIPES = (
    (re.compile("ddim|ddpm"), masks.DDPM),
    (re.compile("pd|distill"), masks.PROGRESSIVE_DISTILLATION),
    (re.compile("gau|gan|spade"), masks.GAUGAN),
)


def published_edits() -> list[Any]:
    """A test item an edit of a model."""
    found = []
    for path in sorted(folder(PAPER).glob("macs_fullsize*.json")):
        for model, entry in json.loads(path.read_text()).items():
            found += [(path, model, edit) for edit in entry if "edit_pixels_raw" in entry[edit]]
    READ.update(path for path, _, _ in found)
    if any(not edit.startswith("sq") for _, _, edit in found):
        READ.update(files(PAPER, "masks_shipped_edits"))
    return [pytest.param(*edit, id=f"{edit[1]}-{edit[2]}") for edit in found]


def raw_mask(edit: str, size: tuple[int, int], eps: float) -> Tensor:
    """A centred square `sq<fraction>`, or the shipped example of this size, by its eps where there are several."""
    if edit.startswith("sq"):
        return masks.centred_square(float(edit.removeprefix("sq")), *size)
    shipped = {key: mask for path in files(PAPER, "masks_shipped_edits") for key, mask in load(path)[0].items()}
    fitting = {key: mask for key, mask in shipped.items() if tuple(mask.shape) == size}
    by_eps = [mask for key, mask in fitting.items() if key.endswith(f"eps{eps:g}")]
    (found,) = by_eps or fitting.values()
    return found


@pytest.mark.parametrize(("path", "model", "edit"), published_edits())
def test_pixels_of_published_edits(path: Path, model: str, edit: str) -> None:
    golden: dict[str, Any] = json.loads(path.read_text())[model][edit]
    recipe = next(recipe for name, recipe in RECIPES if name.search(model))
    pixels = {ast.literal_eval(size): count for size, count in golden["active_pixels_per_resolution"].items()}
    size = max(pixels)
    ours = recipe.from_mask(raw_mask(edit, size, recipe.eps))
    assert int(ours.raw.sum()) == golden["edit_pixels_raw"]
    assert int(ours.dilated.sum()) == golden["edit_pixels_dilated"]
    assert ours.ratio == golden["edit_pixels_dilated"] / (size[0] * size[1])
    assert {level: int(mask.sum()) for level, mask in ours.levels.items()} == pixels


# ----------------------------------------------------------------------------------------------------------------------
# kernels*: the moves of tiles

GEOMETRY = "kernel_stride_offset_block_blockstride"
GATHER = re.compile(r"gather\.(?P<form>\w+)\.(?P<activation>\w+)\.act(?P<order>first|last)")


class Case:
    """One geometry of a file: tensors without its prefix, floating ones in a memory format."""

    def __init__(self, path: Path, name: str, layout: str) -> None:
        tensors, _ = load(path)
        self.tensors = {**{key: tensors[key] for key in ("mask",) if key in tensors}, **under(tensors, f"{name}.")}
        self.kernel, self.stride, self.offset, self.block, self.block_stride = (
            int(n) for n in self.tensors[GEOMETRY].tolist()
        )
        self.out = max(self.block - self.kernel, 0) // self.stride + 1
        self.layout = torch.channels_last if layout == "channels_last" else torch.contiguous_format

    def __getitem__(self, key: str) -> Tensor:
        value = self.tensors[key]
        if value.ndim == 4 and value.is_floating_point():
            return value.contiguous(memory_format=self.layout)
        return value


def geometries() -> list[Any]:
    """A test item a geometry of a file."""
    return items("kernels", lambda tensors: prefixes(tensors, f".{GEOMETRY}"))


def cases() -> list[Any]:
    """A test item a geometry of a file, memory format and way."""
    return times(times(geometries(), "contiguous", "channels_last"), "torch", "native")


@pytest.mark.parametrize(("path", "name", "layout", "way"), cases(), indirect=["way"])
def test_gather(path: Path, name: str, layout: str, way: Way) -> None:
    case = Case(path, name, layout)
    found = [form for key in case.tensors if (form := GATHER.fullmatch(key))]
    assert found
    for form in found:
        named = {key: f"{key}_{form['form']}" for key in ("scale", "shift")}
        affine = {key: case[name] for key, name in named.items() if name in case.tensors}
        assert affine or form["form"] == "none"
        ours = gather(
            case["x"],
            case["active_indices"],
            case.block,
            **affine,
            activation=cast(Activation, form["activation"]),
            activation_first=form["order"] == "first",
            way=way,
        )
        assert_close(ours, case[form[0]], KERNEL)


@pytest.mark.parametrize(("path", "name", "layout", "way"), cases(), indirect=["way"])
def test_scatter(path: Path, name: str, layout: str, way: Way) -> None:
    case = Case(path, name, layout)
    blocks, base, indices = case["blocks"], case["orig_out"], case["active_indices"]
    step = {"offset": case.offset, "stride": case.stride}
    assert_close(scatter(blocks, base, indices, **step, way=way), case["scatter"], 0.0)
    ours = scatter(blocks, base, indices, **step, residual=case["residual"], way=way)
    assert_close(ours, case["scatter_residual"], KERNEL)
    if "scatter_with_block_residual" in case.tensors:
        ours = scatter_with_block_residual(
            blocks,
            base,
            indices,
            case["shortcut_blocks"],
            case["shortcut_orig"],
            case["shortcut_indices"],
            **step,
            way=way,
        )
        assert_close(ours, case["scatter_with_block_residual"], KERNEL)


@pytest.mark.parametrize(("path", "name", "layout", "way"), cases(), indirect=["way"])
def test_scatter_gather(path: Path, name: str, layout: str, way: Way) -> None:
    case = Case(path, name, layout)
    indices, base = case["active_indices"], case["orig_out"]
    size = (base.shape[2], base.shape[3])
    tile_map = scatter_map(indices, size, case.out, offset=case.offset, stride=case.stride)
    if "scatter_map" in case.tensors:
        assert torch.equal(tile_map, case["scatter_map"])
    common = (case["blocks"], base, tile_map, indices, case.block)
    for form, published in under(case.tensors, "scatter_gather.").items():
        if form == "plain":
            ours = scatter_gather(*common, way=way)
        else:
            activation = cast(Activation, form)
            ours = scatter_gather(
                *common, scale=case["sg_scale"], shift=case["sg_shift"], activation=activation, way=way
            )
        assert_close(ours, published, KERNEL)


@pytest.mark.parametrize(("path", "name"), geometries())
def test_active_indices_come_from_the_mask(path: Path, name: str) -> None:
    case = Case(path, name, "contiguous")
    ours = tile_indices(case["mask"], case.block, case.block_stride, case.offset)
    assert torch.equal(ours, case["active_indices"])


# ----------------------------------------------------------------------------------------------------------------------
# samplers*: outputs of a small function in the network's place


def toy_eps(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(0.7 * x) + 0.01 * torch.cos(t).view(-1, 1, 1, 1)


def toy_clean_and_eps(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([toy_eps(x, t), torch.sin(x)], 1)


@pytest.mark.parametrize(
    ("path", "name"), items("samplers", lambda tensors: [f"{name}.out" for name in prefixes(tensors, ".out")])
)
def test_sampler(path: Path, name: str) -> None:
    tensors, _ = load(path)
    case = beside(name)
    found = under(tensors, case)
    given = settings(path).get(case[:-1], {})
    edit = samplers.Edit(found["gt_x0"], found["e"], found["mask"])
    steps = found["seq"].tolist()
    if case.startswith("pd"):
        total = given.get("total_steps", 8)
        start = samplers.diffuse_distilled(found["x0"], steps[-1], found["e"], total)
        ours = samplers.sample_distilled(toy_clean_and_eps, found["xt"], steps, total, edit)
    else:
        betas, noises = found["betas"], found.get("noises")
        start = samplers.diffuse(found["x0"], steps[-1], found["e"], betas)
        if case.startswith("ddim"):
            eta = given.get("eta", 0.0)
            ours = samplers.sample_ddim(toy_eps, found["xt"], steps, betas, edit, eta=eta, noises=noises)
        elif case.startswith("ddpm"):
            ours = samplers.sample_ddpm(toy_eps, found["xt"], steps, betas, edit, noises=noises)
        else:
            assert case.startswith("dpm_solver"), f"no sampler of this name: {case}"
            ours = samplers.sample_dpm_solver(toy_eps, found["xt"], steps, betas, edit)
    assert_close(start, found["xt"], OUTPUT["torch"])
    assert_close(ours, found["out"], OUTPUT["torch"])


@pytest.mark.parametrize(("path", "name"), items("samplers", matching(r"\.betas$")))
def test_betas(path: Path, name: str) -> None:
    betas = load(path)[0][name]
    first, last = settings(path).get("betas", (1e-4, 0.02))
    assert torch.equal(samplers.linear_betas(len(betas), first, last), betas)


# ----------------------------------------------------------------------------------------------------------------------
# metrics*: PSNR, confusion matrix, mean IoU


@pytest.mark.parametrize(("path", "name"), items("metrics", matching(r"(^|\.)(psnr|hist|miou)")))
def test_score(path: Path, name: str) -> None:
    tensors = {key: value.numpy() for key, value in load(path)[0].items()}
    case, score = beside(name), name[len(beside(name)) :]
    masked = score.endswith("_masked")
    if score.startswith("psnr"):
        first, second = tensors[f"{case}img1"], tensors[f"{case}img2"]
        if score == "psnr_identical_rule":
            ours = psnr(first, first, identical="one-level")
        else:
            ours = psnr(first, second, tensors[f"{case}mask"] if masked else None)
        assert abs(ours - tensors[name].item()) <= SCORE
        return
    classes = len(tensors[f"{case}hist"])
    mask = tensors[f"{case}mask_miou"] if masked else None
    matrix = segmentation.confusion(tensors[f"{case}pred"], tensors[f"{case}label"], classes, mask)
    if score.startswith("hist"):
        assert np.array_equal(matrix, tensors[name])
    else:
        assert abs(segmentation.mean_iou(matrix) - tensors[name].item()) <= SCORE


# ----------------------------------------------------------------------------------------------------------------------
# MACs: `macs.*` of the networks' files, and macs_fullsize*.json

# Full-size models by name: the plain network, the one whose edits are counted, the policy, and the further arguments.
FULL_SIZE: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Policy, int]] = {
    "church_ddim256": (DDPMUNet, lambda: DDPMUNet(fused=True), policy.ddpm(), 1),
    "church_pd128": (PDUNet, PDUNet, policy.progressive_distillation(), 1),
    "church_pd256": (
        lambda: PDUNet(pd_unet.CHURCH_256),
        lambda: PDUNet(pd_unet.CHURCH_256),
        policy.progressive_distillation(),
        1,
    ),
    "gaugan": (SPADEGenerator, lambda: SPADEGenerator(fused=True), policy.spade(5), 0),
    "gancomp": (
        lambda: SPADEGenerator(spade.CITYSCAPES_MOBILE),
        lambda: SPADEGenerator(spade.CITYSCAPES_MOBILE, fused=True),
        policy.spade(4),
        0,
    ),
}


@pytest.mark.parametrize(("path", "kind"), networks(having="macs."))
def test_macs_of_a_small_network(path: Path, kind: str) -> None:
    golden = Golden.read(path, kind)
    given = golden.pictures()["original"], *golden.times()
    plain = golden.network(False)
    assert dense_macs(plain, record(plain, *given)).total() == golden.tensors["macs.dense"].item()
    engine = Engine(golden.network(golden.fused is not None), golden.policy())
    engine.prepare(*given)
    engine.set_masks(golden.levels("difference_mask"))
    assert engine.macs().total() == golden.tensors["macs.sparse"].item()


def on_meta(make: Callable[[], nn.Module], inputs: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network without memory and arguments for it, of its own size."""
    with torch.device("meta"):
        network = make().eval()
        config: Any = network.config
        if isinstance(network, SPADEGenerator):
            return network, (torch.empty(1, config.inputs, *config.size),)
        picture = torch.empty(1, config.in_channels, config.resolution, config.resolution)
        return network, (picture, *(torch.empty(1) for _ in range(inputs)))


def full_size() -> list[Any]:
    """A test item a model of each file; one that is not known here fails."""
    found = [
        (path, model)
        for path in sorted(folder(PAPER).glob("macs_fullsize*.json"))
        for model in json.loads(path.read_text())
    ]
    return [pytest.param(*item, id=item[1]) for item in found]


@pytest.mark.parametrize(("path", "model"), full_size())
def test_macs_of_a_full_size_network(path: Path, model: str) -> None:
    golden: dict[str, Any] = json.loads(path.read_text())[model]
    make, sparse, rules, inputs = FULL_SIZE[model]
    network, given = on_meta(make, inputs)
    dense = dense_macs(network, record(network, *given))
    assert dense.total() == golden["dense"]["total"]
    assert dense == golden["dense"]["ops"]
    assert parameters(network) == golden["dense"]["params"]
    network, given = on_meta(sparse, inputs)
    engine = Engine(network, rules)
    engine.prepare(*given)
    recipe = next(recipe for name, recipe in RECIPES if name.search(model))
    for edit, expected in golden.items():
        if edit == "dense":
            continue
        size = max(map(ast.literal_eval, expected["active_pixels_per_resolution"]))
        engine.set_masks(recipe.from_mask(raw_mask(edit, size, recipe.eps)).levels)
        macs = engine.macs()
        assert macs.total() == expected["macs_total"], edit
        assert macs == expected["macs_by_op"], edit
