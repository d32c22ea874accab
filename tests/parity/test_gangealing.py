"""GANgealing's networks and warps against tensors of the published code; tolerances as in the goldens' MANIFEST."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gangealing_files import WIDEST, fill, generator_of, told, transformer_for, transformer_of, trunk_of
from goldens import assert_close, files, folder, load, prefixes, settings, under
from torch import Tensor, nn

from gengauge.reference.gangealing.classifier import ResnetClassifier
from gengauge.reference.gangealing.flips import forward_with_flip, mirror
from gengauge.reference.gangealing.heads import FlowHead, SimilarityHead, similarity_matrices
from gengauge.reference.gangealing.points import (
    congeal_points,
    convert,
    match_flows,
    normalise,
    transfer_points,
    uncongeal_places,
    unnormalise,
    unravel_index,
)
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN, SpatialTransformer, published_state
from gengauge.reference.gangealing.warps import (
    BilinearDownsample,
    MipmapWarp,
    affine_grid,
    identity_grid,
    mip_levels,
    mipmap,
    out_of_bounds,
    warp,
)
from gengauge.reference.nets.stylegan2.layers import FullyConnectedLayer
from gengauge.reference.nets.stylegan2.ops import bias_act, normalise_2nd_moment, upfirdn2d
from gengauge.reference.nets.stylegan2.rosinality import EqualConv2d, Generator, ModulatedConv2d, StyledConv, ToRGB
from gengauge.reference.nets.stylegan2.translation import ConvLayer, ResBlock

PAPER = "gangealing"
OPERATION = 1e-5
GENERATOR = 2e-4  # of the largest value
FLOW_IMAGE = 5e-5
TRANSFORMER = 1e-4
POINTS = 2e-3  # px
LOGITS = 1e-4
FULL, FULL_GENERATOR, FULL_LOGITS = 2e-4, 1e-3, 1e-4  # the second and third relative
FULL_POINTS, FLIPPED_INDEX = 0.02, 2.0  # px; the second for at most one point, whose nearest neighbour is another

# What `test_gangealing_learning.py` reads.
ELSEWHERE = ("03_", "03b_", "10_", "11_", "12_", "13_", "14_", "15b_", "15c_", "17", "18_", "19d_", "spair_fake")
READ: set[Path] = set()  # the files that gave a test item


pytestmark = pytest.mark.usefixtures("one_thread")


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[Any]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    READ.update(path for path, _ in found)
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def whole(prefix: str) -> list[Any]:
    """A test item a file of a kind."""
    paths = files(PAPER, prefix)
    READ.update(paths)
    return [pytest.param(path, id=path.stem) for path in paths]


def test_every_golden_file_gives_a_test_item() -> None:
    known = ("MANIFEST.md", "settings.json", "state_dict_shapes.json")
    there = {path for path in folder(PAPER).iterdir() if path.name not in known}
    unknown = sorted(path.name for path in there - READ if not path.name.startswith(ELSEWHERE))
    assert not unknown, f"no test reads {unknown}"


def picture(u8: Tensor) -> Tensor:
    """Bytes as numbers in [-1, 1]."""
    return (u8.float() / 255 - 0.5) / 0.5


def thinned(x: Tensor, step: int, channels_last: bool = False) -> Tensor:
    """Every so-manieth pixel in both directions."""
    return x[..., ::step, ::step, :] if channels_last else x[..., ::step, ::step]


def check(found: dict[str, Tensor], golden: dict[str, Tensor], tolerance: float) -> None:
    """Compares all that a golden has; `_sN` and `_first` in its names say what of an output is stored."""
    for key, value in golden.items():
        said = re.fullmatch(r"(.+?)((?:_s\d+|_first)*)", key)
        assert said
        assert said[1] in found, f"nothing computes {key}"
        step = re.search(r"_s(\d+)", said[2])
        ours = found[said[1]]
        ours = thinned(ours, int(step[1]) if step else 1, channels_last=ours.shape[-1] == 2)
        assert_close(ours[:1] if "_first" in said[2] else ours, value, tolerance)


# ----------------------------------------------------------------------------------------------------------------------
# 01_*: the layers of StyleGAN2


@pytest.mark.parametrize(
    ("path", "name"), items("01_", lambda tensors: [key for key in tensors if key.startswith("upf/y_")])
)
def test_upfirdn2d(path: Path, name: str) -> None:
    tensors, _ = load(path)
    said = re.fullmatch(r"upf/y_up(\d+)_down(\d+)_pad(-?\d+)_(-?\d+)", name)
    assert said
    up, down, before, after = map(int, said.groups())
    ours = upfirdn2d(tensors["upf/x"], tensors["upf/kernel"], up, down, (before, after) * 2)
    assert_close(ours, tensors[name], OPERATION)


@pytest.mark.parametrize("path", whole("01_"))
def test_activation(path: Path) -> None:
    golden = under(load(path)[0], "flrelu/")
    assert_close(bias_act(golden["x"], golden["bias"], "lrelu"), golden["y"], OPERATION)


LR_MULTIPLIER = 0.01  # of a linear layer whose name says that it has one


def layer(name: str, state: dict[str, Tensor], given: list[Tensor], out: Tensor) -> Callable[..., Tensor]:
    """The layer that a golden's group has the weights and the inputs of."""
    kernel = state.get("kernel")
    if kernel is not None:
        # Padding keeps the size, twice or half of it; a blur alone is told by its output.
        ratio = out.shape[-1] / given[0].shape[-1]
        if ratio == 2:
            return lambda x: upfirdn2d(x, kernel, up=2, padding=(2, 1, 2, 1))
        if ratio == 0.5:
            return lambda x: upfirdn2d(x, kernel, down=2, padding=1)
        return lambda x: upfirdn2d(x, kernel, padding=1)
    words = name.split("_")
    built: nn.Module
    if name == "pixelnorm":
        return normalise_2nd_moment
    if name.startswith("equal_linear"):
        activation = "lrelu" if "act" in words else "linear"
        multiplier = LR_MULTIPLIER if "lrmul" in words else 1.0
        built = FullyConnectedLayer(given[0].shape[1], out.shape[1], activation, multiplier)
    elif name.startswith("equal_conv"):
        outputs, inputs, size = state["weight"].shape[:3]
        stride = given[0].shape[-1] // out.shape[-1]
        built = EqualConv2d(inputs, outputs, size, stride=stride, padding=size // 2)
    elif name.startswith("modconv"):
        outputs, inputs, size = state["weight"].shape[1:4]
        resample = {2: "up", 1: None, 0: "down"}[int(2 * out.shape[-1] / given[0].shape[-1]) // 2]
        built = ModulatedConv2d(
            inputs,
            outputs,
            size,
            style_dim=given[1].shape[1],
            demodulate="nodemod1x1" not in words,
            resample=resample,  # type: ignore[arg-type]
            normalize="normalize" in words,
        )
    elif name.startswith("convlayer"):
        key = next(key for key in state if key.endswith("weight"))
        outputs, inputs, size = state[key].shape[:3]
        activated = any(key.endswith("bias") for key in state)
        built = ConvLayer(inputs, outputs, size, down="0.kernel" in state, activate=activated, flat=True)
        if "act" in words:
            built.load_state_dict(state)
            return lambda x: bias_act(built(x), None, "lrelu")
    elif name.startswith("resblock"):
        weights = [value for key, value in state.items() if key.startswith("conv2.") and value.ndim == 4]
        outputs, inputs = weights[0].shape[:2]
        built = ResBlock(inputs, outputs, down="conv2.0.kernel" in state, flat=True)
    elif name.startswith("torgb"):
        built = ToRGB(state["conv.weight"].shape[2], given[1].shape[1], upsample="upsample.kernel" in state)
    else:
        assert name.startswith("styledconv")
        outputs, inputs = state["conv.weight"].shape[1:3]
        built = StyledConv(inputs, outputs, given[1].shape[1], up="conv.blur.kernel" in state)
    built.load_state_dict(state)
    return built


@pytest.mark.parametrize(("path", "name"), items("01_", lambda tensors: prefixes(tensors, "/out")))
def test_layers(path: Path, name: str) -> None:
    golden = under(load(path)[0], f"{name}/")
    given = [golden[f"in{i}"] for i in range(len(under(golden, "in")))]
    with torch.no_grad():
        assert_close(layer(name, under(golden, "w."), given, golden["out"])(*given), golden["out"], OPERATION)


# ----------------------------------------------------------------------------------------------------------------------
# 02_*: the generator


@pytest.mark.parametrize("path", whole("02_"))
def test_generator(path: Path) -> None:
    tensors, _ = load(path)
    state = under(tensors, "g_ema/")
    network = generator_of(state)
    noise = [tensors[f"noise_in/{i}"] for i in range(len(under(tensors, "noise_in/")))]
    z, z2, mean = tensors["z"], tensors["z2"], tensors["w_mean"]
    found: dict[str, Tensor] = {"w": network.style(z), "latents_wplus": network.latents([network.style(z)])}
    found["out_from_z"] = network([z], noise=noise)
    found["out_fixed_noise_buffers"] = network([z], randomize_noise=False)
    found["out_from_wplus"] = network([tensors["wplus_in"]], input_is_latent=True, noise=noise)
    for key in tensors:
        if mixed := re.fullmatch(r"out_mix_inject(\d+)", key):
            found[key] = network([z, z2], noise=noise, inject_index=int(mixed[1]))
        if cut := re.fullmatch(r"out_trunc_([\d.]+)(_all)?", key):
            index = network.n_latent if cut[2] else int(told(path).get("inject_index", 4))
            found[key] = network([z], noise=noise, truncation=float(cut[1]), truncation_latent=mean, inject_index=index)
        if half := re.fullmatch(r"out_num_fp16_res(\d+)_run_fp32", key):
            found[key] = generator_of(state, num_fp16_res=int(half[1]))([z], noise=noise)
    goldens = {key: value for key, value in tensors.items() if key.startswith(("out_", "latents_")) or key == "w"}
    assert goldens.keys() == found.keys()
    for key, golden in goldens.items():
        assert_close(found[key].detach(), golden, 0.0, GENERATOR)


# ----------------------------------------------------------------------------------------------------------------------
# 04_*: warps


@pytest.mark.parametrize("path", whole("04_"))
def test_mipmaps_and_downsampling(path: Path) -> None:
    tensors, _ = load(path)
    blur = MipmapWarp().blur_filter
    for key, golden in tensors.items():
        if said := re.fullmatch(r"stack(\d+)_(\d+)levels(?:_s(\d+))?", key):
            ours = mipmap(tensors[f"img{said[1]}"], int(said[2]), blur)
            assert_close(thinned(ours, int(said[3] or 1)), golden, OPERATION)
        elif said := re.fullmatch(r"bilinear_down_stride(\d+)", key):
            source = tensors[f"img{int(said[1]) * golden.shape[-1]}"]
            assert_close(BilinearDownsample(int(said[1]), source.shape[1])(source), golden, OPERATION)


@pytest.mark.parametrize(("path", "name"), items("04_", lambda tensors: prefixes(tensors, "/grid")))
def test_warps(path: Path, name: str) -> None:
    tensors, _ = load(path)
    golden = under(tensors, f"{name}/")
    grid = golden.pop("grid")
    for key, value in golden.items():
        if key == "levels":
            size = max(int(key[3:]) for key in tensors if re.fullmatch(r"img\d+", key))
            assert_close(mip_levels(grid, size, 3.5), value, TRANSFORMER)
            continue
        said = re.fullmatch(r"(y|plain)(\d+)_(?:(border|zeros|reflection)|minlevel(\d+)_maxlevels(\d+))", key)
        assert said, f"no test reads {name}/{key}"
        source, padding = tensors[f"img{said[2]}"], said[3] or "border"
        if said[1] == "plain":
            ours = warp(source, grid, padding)  # type: ignore[arg-type]
        else:
            warper = MipmapWarp(float(said[5] or 3.5), float(said[4] or 0))
            ours = warper(source, grid, padding)  # type: ignore[arg-type]
        # The weight of a level is as exact as its logarithm is.
        assert_close(ours, value, OPERATION)


# ----------------------------------------------------------------------------------------------------------------------
# 05_*, 06_*: heads


@pytest.mark.parametrize("path", whole("05_"))
def test_similarity_head(path: Path) -> None:
    tensors, _ = load(path)
    image, features, policy = picture(tensors["img_u8"]), tensors["features"], tensors["policy"]
    head = SimilarityHead(features.shape[1], policy.shape[1])
    head.load_state_dict(under(tensors, "similarity_head/"))
    assert_close(similarity_matrices(tensors["raw_params"]), tensors["affine_from_raw"], OPERATION)

    def run(key: str, padding: Any = "border", heads: int = 1, **how: Any) -> dict[str, Tensor]:
        matrix = head(features, **how)
        golden = next(value for name, value in tensors.items() if name.startswith(f"{key}/out"))
        step = re.search(r"_s(\d+)", "".join(name for name in tensors if name.startswith(f"{key}/out")))
        size = golden.shape[-1] * (int(step[1]) if step else 1)
        out = head.warper(image.repeat_interleave(heads, 0), affine_grid(matrix, size), padding)
        return {"out": out, "matrix": matrix}

    with torch.no_grad():
        heads = policy.shape[1]
        check(run("cart", heads=heads), under(tensors, "cart/"), OPERATION)
        unfolded = run("unfold_reflection", "reflection", heads)
        check({"out": unfolded["out"].unflatten(0, (-1, heads))}, under(tensors, "unfold_reflection/"), OPERATION)
        check(run("assign", policy=policy), under(tensors, "assign/"), OPERATION)
        padding = {"base_alpha": "zeros", **settings(path).get("padding", {})}["base_alpha"]
        changed = run("base_alpha", padding, policy=policy, base=tensors["base_warp"], alpha=tensors["alpha"])
        check(changed, under(tensors, "base_alpha/"), OPERATION)
        grid = affine_grid(head(features, policy), image.shape[-1])
        assert torch.equal(out_of_bounds(grid, image.shape[-1]), tensors["oob_none"])
        bounded = out_of_bounds(grid, image.shape[-1], tensors["image_bounds"])
        assert torch.equal(bounded, tensors["oob_bounds_batch1"])


@pytest.mark.parametrize("path", whole("06_"))
def test_flow_head(path: Path) -> None:
    tensors, _ = load(path)
    image, features, policy = picture(tensors["img_u8"]), tensors["features"], tensors["policy"]
    heads, size = policy.shape[1], tensors["cart/delta"].shape[1]
    head = FlowHead(features.shape[1], heads, size // features.shape[-1])
    head.load_state_dict(under(tensors, "flow_head/"))
    with torch.no_grad():
        assert_close(head.coarse_flow(features), tensors["low_res_flow"], OPERATION)
        (key,) = (key for key in tensors if key.startswith("identity_flow"))
        step = int(key.rpartition("_s")[2]) if "_s" in key else 1
        assert_close(thinned(identity_grid(size), step, True), tensors[key], OPERATION)
        grid, delta = head(features)
        out = head.warper(image.repeat_interleave(heads, 0), grid)
        golden = under(tensors, "cart/")
        check({"delta": delta}, {"delta": golden.pop("delta")}, OPERATION)
        check({"out": out}, golden, FLOW_IMAGE)
        golden = under(tensors, "assign/")
        resolution = golden["flow"].shape[1]
        grid, delta = head(features, policy, tensors["base_warp"], tensors["alpha"], resolution)
        padding = {"assign": "reflection", **settings(path).get("padding", {})}["assign"]
        check({"out": head.warper(image, grid, padding)}, {"out": golden.pop("out")}, FLOW_IMAGE)
        check({"flow": grid, "delta": delta}, golden, OPERATION)


# ----------------------------------------------------------------------------------------------------------------------
# stn_tiny*, 07_*, 08_*: the transformers


@pytest.mark.parametrize("path", whole("stn_"))
def test_weights_load(path: Path) -> None:
    state = under(load(path)[0], "t/")
    network = transformer_of(state)
    network.load_state_dict(state)
    # A transformer for larger pictures has longer filters of its own, and takes all else.
    other = ComposedSTN(**{**trunk_of(under(state, "stns.0.")), "supersize": 4 * network.flow_size})
    other.load_state_dict(published_state(other, state))
    found = other.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items() if "input_downsample" not in key)


def resolution_of(key: str, golden: Tensor) -> int:
    """The sides of the output of which a golden holds every N-th pixel."""
    step = re.search(r"_s(\d+)$", key)
    return golden.shape[-1] * (int(step[1]) if step else 1)


@pytest.mark.parametrize("path", whole("07_"))
def test_similarity_transformer(path: Path) -> None:
    tensors, _ = load(path)
    network, x = transformer_for(path).similarity, picture(tensors["img_u8"])
    with torch.no_grad():
        for key in (key for key in tensors if key.startswith("sampled_from_")):
            found = network(x, picture(tensors["img_for_sampling_u8"]), output_resolution=tensors[key].shape[-1])
            check({key: found.image}, {key: tensors[key]}, TRANSFORMER)
        for name in {key.partition("/")[0] for key in tensors if key.startswith("iters")}:
            golden = under(tensors, f"{name}/")
            iters = int(name.removeprefix("iters"))
            warped = network(x, iters=iters)
            found_all = {"out": warped.image, "matrix": warped.matrix}
            for i, matrix in enumerate(warped.iterates):
                found_all[f"matrix{i}"] = matrix
                found_all[f"intermediate{i}"] = network.warp_head.warper(x, affine_grid(matrix, network.flow_size))
            for key in golden:
                if said := re.fullmatch(r"out(\d+)_(\w+?)(_s\d+)?", key):
                    size, padding = int(said[1]), said[2]
                    again = network(x, iters=iters, padding_mode=padding, output_resolution=size)
                    found_all[f"out{size}_{padding}"] = again.image
            check(found_all, golden, TRANSFORMER)


def composed(key: str, network: ComposedSTN, x: Tensor, **more: Any) -> dict[str, Tensor]:
    """What the name of a golden asks of a transformer: iterations, padding, resolution."""
    iters, padding = re.search(r"iters(\d+)", key), re.search(r"border|zeros|reflection", key)
    size = re.search(r"res(\d+)", key)
    how: dict[str, Any] = {
        "iters": int(iters[1]) if iters else 1,
        "padding_mode": padding[0] if padding else "border",
        "output_resolution": int(size[1]) if size else None,
        **more,
    }
    warped = network(x, **how)
    alone = network.similarity(x, iters=how["iters"], padding_mode=how["padding_mode"])
    return {"out": warped.image, "grid": warped.grid, "delta": warped.delta, "sim_out": alone.image}


@pytest.mark.parametrize(
    ("path", "name"),
    items("08_", lambda tensors: sorted({key.partition("/")[0] for key in tensors if "/" in key} - {"t"})),
)
def test_composed_transformer(path: Path, name: str) -> None:
    tensors, _ = load(path)
    network, x, golden = transformer_for(path), picture(tensors["img_u8"]), under(tensors, f"{name}/")
    with torch.no_grad():
        if not name.startswith("flip"):
            more = {"alpha": tensors["alpha"]} if name.startswith("alpha") else {}
            check(composed(name, network, x, **more), golden, TRANSFORMER)
            return
        found = forward_with_flip(network, x, iters=settings(path).get("flip_iters", 2))
    assert torch.equal(found.mirrored.view(-1, 1, 1, 1), golden.pop("indices"))
    warped = found.warped
    ours = {"out": warped.image, "warp": warped.grid, "flow": warped.delta}
    ours |= {"tv": found.smoothness[:, 0], "tv_mirrored": found.smoothness[:, 1]}
    check(ours, {key: value for key, value in golden.items() if not key.startswith("tv")}, TRANSFORMER)
    for key in (key for key in golden if key.startswith("tv")):
        assert_close(ours[key], golden[key], TRANSFORMER)


# ----------------------------------------------------------------------------------------------------------------------
# 09_*: points

# How the published code was called where a golden does not tell.
CALLED = {"transfer_padding": "reflection", "uncongeal_iters": 2, "similarity_iters": 1, "match_iters": 1}


@pytest.mark.parametrize("path", whole("09_"))
def test_conversions_of_points(path: Path) -> None:
    tensors, _ = load(path)
    points = tensors["conv/points"]
    names = [
        re.fullmatch(r"conv/(normalize|unnormalize|convert)_(?:res)?(\d+)_(?:out|to_)(\d+)", key) for key in tensors
    ]
    called = [name for name in names if name]
    # `unnormalize` was given what `normalize` gives for a square of one size.
    square = next(int(name[2]) for name in called if name[1] == "normalize" and name[2] == name[3])
    for name in called:
        a, b = int(name[2]), int(name[3])
        ours = {
            "normalize": lambda a=a, b=b: normalise(points, a, b),
            "unnormalize": lambda a=a, b=b: unnormalise(normalise(points, square), a, b),
            "convert": lambda a=a, b=b: convert(points, a, b),
        }[name[1]]()
        assert_close(ours, tensors[name[0]], POINTS)
    assert_close(unnormalise(normalise(points, square), square), points, POINTS)
    flat, xy = tensors["unravel/flat"], tensors["unravel/xy"]
    # The width is what the last place tells, wherever it is not in the first row.
    width = next(((f - x) // y for f, (x, y) in zip(flat.flatten(), xy.flatten(0, -2), strict=True) if y > 0))
    assert torch.equal(unravel_index(flat, int(width)), xy)


@pytest.mark.parametrize("path", whole("09_"))
def test_points(path: Path) -> None:
    tensors, _ = load(path)
    called = CALLED | settings(path)
    network = transformer_for(path)
    a, b, points = picture(tensors["imgA_u8"]), picture(tensors["imgB_u8"]), tensors["pointsA"]
    size = a.shape[-1]
    with torch.no_grad():
        for name in sorted({key.partition("/")[0] for key in tensors if key.startswith("iters")}):
            iters = int(name.removeprefix("iters"))
            index = congeal_points(network(a, iters=iters), points, size)
            assert torch.equal(index, tensors[f"{name}/congealed_xy_index"])
            ours = transfer_points(network, a, b, points, iters, padding_mode=called["transfer_padding"])
            assert_close(ours, tensors[f"{name}/transferred"], POINTS)
        places = tensors["congealed_normalized"]
        warped = network(b, iters=called["uncongeal_iters"])
        assert_close(uncongeal_places(warped, places, size), tensors["uncongealed_from_normalized"], POINTS)
        for key in (key for key in tensors if key.startswith("uncongealed_res")):
            warped = network(b, output_resolution=int(key.removeprefix("uncongealed_res")))
            assert_close(uncongeal_places(warped, places, size), tensors[key], POINTS)
        alone, iters = network.similarity, called["similarity_iters"]
        golden = under(tensors, "similarity_only/")
        assert_close(congeal_points(alone(a, iters=iters), points, size), golden["congealed_unnormalized"], POINTS)
        assert_close(transfer_points(alone, a, b, points, iters), golden["transferred"], POINTS)


@pytest.mark.parametrize("path", whole("09_"))
def test_matching_of_mirror_images(path: Path) -> None:
    tensors, _ = load(path)
    a, b = picture(tensors["imgA_u8"]), picture(tensors["imgB_u8"])
    points, of_b, permutation = tensors["pointsA"], tensors["pointsB"], tensors["permutation"]
    iters = (CALLED | settings(path))["match_iters"]
    found = match_flows(transformer_for(path), a, b, points, of_b, permutation, iters)
    golden = under(tensors, "match/")
    assert torch.equal(found.pick.view(-1, 1, 1, 1), golden["pick"])
    assert_close(found.points_a, golden["pointsA"], POINTS)
    assert_close(found.points_b, golden["pointsB"], POINTS)
    assert torch.equal(found.a, torch.where(found.pick.view(-1, 1, 1, 1) % 2 == 1, mirror(a), a))


# ----------------------------------------------------------------------------------------------------------------------
# 16_*: the classifier


@pytest.mark.parametrize("path", whole("16_"))
def test_classifier(path: Path) -> None:
    tensors, _ = load(path)
    state, x = under(tensors, "classifier/"), picture(tensors["img_u8"])
    given = trunk_of(state)
    network = ResnetClassifier(given.pop("flow_size"), num_heads=len(state["to_logits.bias"]), **given)
    network.load_state_dict(state)
    with torch.no_grad():
        assert_close(network(x), tensors["logits"], LOGITS)
    assert torch.equal(network.assign(x), tensors["assign"])
    assert torch.equal(network.assign(x, ignore_flips=True), tensors["assign_ignore_flips"])
    for key in (key for key in tensors if re.fullmatch(r"run\d+/keep", key)):
        cluster = network.select(x, int(re.findall(r"\d+", key)[0]))
        assert torch.equal(cluster.index, tensors[key])
        golden = tensors[key.replace("keep", "flip")]
        assert torch.equal(cluster.mirrored, golden.flatten())
        assert torch.equal(cluster.images, mirror(x[cluster.index], golden.flatten()))
    for key in (key for key in tensors if re.fullmatch(r"run_flip_target\d+/flip", key)):
        images, mirrored = network.upright_as(x, int(re.findall(r"\d+", key)[0]))
        assert torch.equal(mirrored, tensors[key])
        assert torch.equal(images, mirror(x, tensors[key]))
    images, classes, mirrored = network.upright(x)
    assert torch.equal(classes, tensors["run_flip/classes"])
    assert torch.equal(mirrored, tensors["run_flip/flip"])
    assert torch.equal(images, mirror(x, mirrored))
    images, policy, flips = network.upright_as_each(x)
    assert torch.equal(policy, tensors["run_flip_cartesian/policy"])
    assert torch.equal(flips, tensors["run_flip_cartesian/is_flipped"])
    assert len(images) == len(policy)


# ----------------------------------------------------------------------------------------------------------------------
# 19a_*, 19b_*, 19c_*, state_dict_shapes.json: full size


@pytest.mark.parametrize("path", whole("19a_"))
def test_full_transformer(path: Path) -> None:
    tensors, _ = load(path)
    network, x = transformer_for(path), picture(tensors["img_u8"])
    with torch.no_grad():
        for name in sorted({key.partition("/")[0] for key in tensors if "/" in key}):
            check(composed(name, network, x), under(tensors, f"{name}/"), FULL)
        for key in (key for key in tensors if key.startswith("sim_matrix_iters")):
            matrix = network.similarity(x, iters=int(key.removeprefix("sim_matrix_iters"))).matrix
            assert matrix is not None
            assert_close(matrix, tensors[key], FULL)
    iters = settings(path).get("transfer_iters", 3)
    ours = transfer_points(network, x, x.transpose(2, 3), tensors["points"], iters)
    errors = (ours - tensors["transferred"]).abs().amax(-1)
    assert (errors > FULL_POINTS).sum() <= 1
    assert errors.max() <= FLIPPED_INDEX


@pytest.mark.parametrize("path", whole("19b_"))
def test_full_generator(path: Path) -> None:
    tensors, _ = load(path)
    about = told(path)
    w_dim = {"style_dim": tensors["w"].shape[1]} | about.get("generator", {})
    z = tensors["z"]
    for key in (key for key in tensors if re.match(r"out(_fp16res\d+)?_s\d+$", key)):
        half = re.search(r"fp16res(\d+)", key)
        network = Generator(
            **{"size": resolution_of(key, tensors[key]), **w_dim},
            base_channels=about.get("base_channels", WIDEST),
            num_fp16_res=int(half[1]) if half else 0,
        )
        fill(network, about["salt"])
        with torch.no_grad():
            out = network([z], randomize_noise=False)
            step = resolution_of(key, tensors[key]) // tensors[key].shape[-1]
            assert_close(thinned(out, step), tensors[key], 0.0, FULL_GENERATOR)
            if not half:
                assert_close(network.style(z), tensors["w"], 0.0, FULL_GENERATOR)
                assert_close(torch.stack([out.mean(), out.std()]), tensors["out_mean_std"], 0.0, FULL_GENERATOR)


@pytest.mark.parametrize("path", whole("19c_"))
def test_full_classifier(path: Path) -> None:
    tensors, _ = load(path)
    about = told(path)
    # The picture is the full transformer's.
    source = tensors if "img_u8" in tensors else load(next(iter(files(PAPER, "19a_"))))[0]
    network = ResnetClassifier(
        **{
            "num_heads": tensors["logits"].shape[1],
            "supersize": source["img_u8"].shape[-1],
            **about.get("classifier", {}),
        },
        base_channels=about.get("base_channels", WIDEST),
    )
    fill(network, about["salt"])
    with torch.no_grad():
        assert_close(network(picture(source["img_u8"])), tensors["logits"], 0.0, FULL_LOGITS)


SHAPES = folder(PAPER) / "state_dict_shapes.json"
PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "generator_256_config_f": lambda: Generator(256),
    "generator_128_celeba": lambda: Generator(128),
    "stn_similarity_flow_K1_supersize256": lambda: ComposedSTN(128, 256),
    "stn_similarity_flow_K4_supersize256": lambda: ComposedSTN(128, 256, num_heads=4),
    "stn_similarity_only": lambda: SpatialTransformer("similarity", 128, 256),
    "stn_flow_only": lambda: SpatialTransformer("flow", 128, 256),
    "cluster_classifier_K4_flips": lambda: ResnetClassifier(128, num_heads=8, supersize=256),
}
OF_LEARNING = ("ll_", "lpips", "vgg")  # `test_gangealing_learning.py`


def listed_networks() -> list[str]:
    """The networks whose names and shapes are stored."""
    shapes = json.loads(SHAPES.read_text())["state_dicts"] if SHAPES.exists() else {}
    return [name for name in shapes if not name.startswith(OF_LEARNING)]


@pytest.mark.parametrize("name", listed_networks())
def test_names_and_shapes(name: str) -> None:
    about = json.loads(SHAPES.read_text())
    with torch.device("meta"):
        network = PUBLISHED[name]()
    state = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert state == about["state_dicts"][name]
    counts = about["parameter_counts"][name]
    assert sum(p.numel() for p in network.parameters()) == counts["parameters"]
    assert sum(value.numel() for value in network.state_dict().values()) == counts["state_dict_elements"]
    assert len(state) == counts["n_tensors"]
